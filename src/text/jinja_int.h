/* One rendering, as the parts of the Jinja engine see it. Private to src/text/jinja_*.c. */
#ifndef MOED_TEXT_JINJA_INT_H
#define MOED_TEXT_JINJA_INT_H

#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "moed/error.h"
#include "text/jinja_arena.h"
#include "text/jinja_ast.h"
#include "text/jinja_value.h"
#include "text/template.h"

/* Variables of a block that has a scope of its own. Names are ids of the compiled template. */
struct jinja_scope {
    struct jinja_scope *parent; /* NULL: the root scope, whose variables are J->slots */
    struct jinja_binding {
        uint32_t name;
        struct jv value;
    } * bindings;
    uint32_t n, cap;
    struct jinja_binding first[4];
};

struct jinja {
    struct jinja_arena arena;
    const struct jinja_program *program;
    const struct template_limits *limits;
    json_t *vars;
    int64_t now_unix;

    struct jv *slots; /* [program->n_names]: root scope; missing: not looked up yet */
    struct jinja_scope *scope;

    struct buf *out;    /* where output goes: the caller's, or `capture` */
    struct buf capture; /* nested captures lie behind one another */
    size_t out_start;   /* length of the caller's buffer before the rendering */
    size_t steps;
    unsigned depth; /* calls and loops */
    unsigned nest;  /* C recursion, so that no template overruns the stack */
    uint32_t line;

    struct moed_error *err;
    int code;
    jmp_buf unwind;
};

/* Arguments of a call, in the arena. */
struct jinja_args {
    struct jv *pos;
    uint32_t n_pos;
    struct jinja_kw {
        struct jv name;
        struct jv value;
    } * kw;
    uint32_t n_kw;
};

struct jinja_function {
    const char *name;
    struct jv (*call)(struct jinja *J, const struct jinja_args *args);
};

/* A method bound to its object: "a,b".split */
struct jinja_method {
    struct jv self;
    const char *name;
    struct jv (*call)(struct jinja *J, struct jv self, const struct jinja_args *args);
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* where it was defined */
};

struct jinja_loop {
    const struct jinja_node *node;
    struct jinja_scope *scope; /* around the loop */
    struct jinja_cursor cursor;
    int64_t index0;
    int64_t length; /* -1: not known yet */
    uint32_t depth0;
    struct jv before, current, after; /* missing where there is none */
    int exhausted;
    struct jv changed; /* the last arguments of changed(), or missing */
};

struct jinja_cycle { /* cycler and joiner */
    struct jv *items;
    uint32_t n, pos;
};

/* Errors: "template line N: " is put in front. Do not return. */
_Noreturn void jinja_fail(struct jinja *J, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void jinja_fail_limit(struct jinja *J, const char *what);
/* raise_exception: exactly the message. */
_Noreturn void jinja_raise(struct jinja *J, struct jv message);
/* Fails with the words of an undefined value. */
_Noreturn void jinja_fail_undefined(struct jinja *J, struct jv v);
/* v's text for a message, zero-terminated and of bounded length. */
const char *jinja_show(struct jinja *J, struct jv v);
const char *jinja_show_repr(struct jinja *J, struct jv v);

void *jinja_alloc(struct jinja *J, size_t bytes);
/* Counts work that is not a node: n bytes or elements touched. */
void jinja_charge(struct jinja *J, size_t n);
void jinja_enter(struct jinja *J); /* around every C recursion */
void jinja_leave(struct jinja *J);

/*
 * Output (jinja_output.c). Text that becomes a value is written between jinja_capture_begin and
 * jinja_capture_end; captures nest.
 */
void jinja_write(struct jinja *J, const char *s, size_t n);
void jinja_puts(struct jinja *J, const char *s);
void jinja_putc(struct jinja *J, char c);
void jinja_put_cp(struct jinja *J, unsigned cp);
void jinja_fill(struct jinja *J, struct jv text, int64_t times); /* the text `times` times */
void jinja_write_value(struct jinja *J, struct jv v);            /* str(v) */
struct jinja_capture {
    struct buf *out;
    size_t start;
};
struct jinja_capture jinja_capture_begin(struct jinja *J);
struct jv jinja_capture_end(struct jinja *J, struct jinja_capture c);

/* Printing (jinja_print.c). */
void jinja_print_repr(struct jinja *J, struct jv v); /* to the output */
size_t jinja_print_float(char out[40], double f);    /* repr(f) */
struct jv jinja_str(struct jinja *J, struct jv v);   /* str(v); strings as they are */
struct jv jinja_repr(struct jinja *J, struct jv v);
/* HTML-escapes str(v), unless v is Markup; the result is Markup. */
struct jv jinja_escape(struct jinja *J, struct jv v);

/* Scopes (jinja_scope.c). */
void jinja_scope_init(struct jinja_scope *s, struct jinja_scope *parent);
struct jinja_scope *jinja_scope_new(struct jinja *J, struct jinja_scope *parent);
void jinja_scope_set(struct jinja *J, struct jinja_scope *s, uint32_t name, struct jv v);
struct jv jinja_scope_get(struct jinja *J, uint32_t name);
struct jv jinja_undefined_name(struct jinja *J, struct jv name);
struct jv jinja_undefined_member(struct jinja *J, struct jv owner, struct jv name);
struct jv jinja_undefined_hint(struct jinja *J, const char *hint);

/* Evaluation (jinja_eval.c, jinja_exec.c, jinja_call.c, jinja_loop.c). */
struct jv jinja_eval(struct jinja *J, const struct jinja_node *e);
enum jinja_flow { JINJA_NEXT, JINJA_BREAK, JINJA_CONTINUE };
enum jinja_flow jinja_exec(struct jinja *J, const struct jinja_node *body);
void jinja_assign(struct jinja *J, const struct jinja_node *target, struct jv v);
enum jinja_flow jinja_exec_for(struct jinja *J, const struct jinja_node *n);
struct jv jinja_loop_recurse(struct jinja *J, struct jinja_loop *loop,
                             const struct jinja_args *args);
struct jv jinja_loop_attr(struct jinja *J, struct jinja_loop *loop, struct jv name);
void jinja_eval_args(struct jinja *J, const struct jinja_call_args *a, struct jinja_args *out,
                     unsigned spare_kw);
struct jv jinja_call(struct jinja *J, struct jv callee, const struct jinja_args *args);
struct jv jinja_call_macro(struct jinja *J, const struct jinja_macro *m,
                           const struct jinja_args *args);

/* Attributes and items (jinja_attr.c). */
struct jv jinja_getattr(struct jinja *J, struct jv obj, struct jv name);
/* A method or property of the object itself, or missing. */
struct jv jinja_own_attr(struct jinja *J, struct jv obj, struct jv name);
struct jv jinja_getitem(struct jinja *J, struct jv obj, struct jv key);
struct jv jinja_slice(struct jinja *J, struct jv obj, struct jv start, struct jv stop,
                      struct jv step);
/* The path of map(attribute=...): "a.b.0". */
struct jv jinja_getpath(struct jinja *J, struct jv obj, struct jv path);

/* Sorts items by keys, stably; both have the same length. */
void jinja_sort(struct jinja *J, struct jinja_list *items, struct jinja_list *keys, int reverse);

/* Operators (jinja_ops.c); op is an enum jinja_op. */
struct jv jinja_binary(struct jinja *J, int op, struct jv a, struct jv b);
struct jv jinja_negate(struct jinja *J, struct jv v);
struct jv jinja_positive(struct jinja *J, struct jv v);
int jinja_test_op(struct jinja *J, int op, struct jv a, struct jv b); /* a < b, a in b ... */
/* v as an index or count, or a failure that names what is wanted. */
int64_t jinja_need_int(struct jinja *J, struct jv v);
struct jv jinja_need_str(struct jinja *J, struct jv v, const char *what);

/*
 * Binds arguments to parameters, as Python does: `names` is a list of parameter names, the first
 * n_needed of which must be given. out[i] is missing where an argument is absent.
 */
void jinja_bind(struct jinja *J, const char *function, const struct jinja_args *args,
                const char *const *names, unsigned n_names, unsigned n_needed, struct jv *out);

/* Tables. */
typedef struct jv (*jinja_filter_fn)(struct jinja *J, struct jv v, const struct jinja_args *args);
typedef int (*jinja_test_fn)(struct jinja *J, struct jv v, const struct jinja_args *args);
struct jinja_filter {
    const char *name;
    jinja_filter_fn call;
};
struct jinja_test {
    const char *name;
    jinja_test_fn call;
};
const struct jinja_filter *jinja_filter_find(const char *name, size_t n);
const struct jinja_test *jinja_test_find(const char *name, size_t n);
const struct jinja_function *jinja_global_find(const char *name, size_t n);
/* The filters by file; each ends with a NULL name. */
extern const struct jinja_filter jinja_filters_text[], jinja_filters_list[], jinja_filters_select[],
    jinja_filters_number[];

/* A method or property of a built-in type; missing where there is none. */
struct jv jinja_str_method(struct jinja *J, struct jv self, struct jv name);
struct jv jinja_container_method(struct jinja *J, struct jv self, struct jv name);
struct jv jinja_number_method(struct jinja *J, struct jv self, struct jv name);
struct jinja_method_row {
    const char *name;
    struct jv (*call)(struct jinja *J, struct jv self, const struct jinja_args *args);
};
/* The row of that name bound to self, or missing; rows end with a NULL name. */
struct jv jinja_method_bind(struct jinja *J, const struct jinja_method_row *rows, struct jv self,
                            struct jv name);

/* Text (jinja_text.c), as Python's methods of the same names. */
struct jv jinja_upper(struct jinja *J, struct jv s);
struct jv jinja_lower(struct jinja *J, struct jv s);
struct jv jinja_capitalize(struct jinja *J, struct jv s);
struct jv jinja_title(struct jinja *J,
                      struct jv s); /* the filter: words begin at spaces, - ( { [ < */
enum { JINJA_STRIP_LEFT = 1, JINJA_STRIP_RIGHT = 2 };
/* chars: a string, or missing or none for white space. */
struct jv jinja_strip(struct jinja *J, struct jv s, struct jv chars, int sides);
/* count < 0: all */
struct jv jinja_replace(struct jinja *J, struct jv s, struct jv old, struct jv with, int64_t count);
struct jinja_list *jinja_splitlines(struct jinja *J, struct jv s, int keep_ends);
struct jv jinja_pad(struct jinja *J, struct jv s, int64_t width, struct jv fill, char align);
struct jv jinja_join(struct jinja *J, struct jv separator, struct jv items, struct jv attribute,
                     int only_str);

/* dict.update(): a mapping or pairs, then keywords. */
void jinja_dict_update(struct jinja *J, struct jinja_dict *d, const char *name,
                       const struct jinja_args *args);

/* Formatting (jinja_format.c, jinja_percent.c). */
struct jv jinja_str_format(struct jinja *J, struct jv self, const struct jinja_args *args);
struct jv jinja_percent(struct jinja *J, struct jv format, struct jv arg);
/* format(v, spec) to the output. */
void jinja_format_value(struct jinja *J, struct jv v, struct jv spec);

struct jv jinja_tojson(struct jinja *J, struct jv v, const struct jinja_args *args);
struct jv jinja_strftime(struct jinja *J, struct jv format);
/* int(text, base); returns 0 where the text is no integer. */
int jinja_parse_int(struct jinja *J, struct jv s, int base, int64_t *out);
int jinja_parse_float(struct jinja *J, struct jv s, double *out);
/* round(f, digits) */
double jinja_round(double f, int digits);
struct jv jinja_float_to_int(struct jinja *J, double f);

#endif
