/*
 * What a template compiles to: a tree of nodes in an arena, never changed after compiling, with
 * names as small numbers and filters, tests and constants resolved.
 */
#ifndef MOED_TEXT_JINJA_AST_H
#define MOED_TEXT_JINJA_AST_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"
#include "text/jinja_arena.h"
#include "text/jinja_value.h"

enum jinja_node_type {
    /* expressions */
    JN_CONST,   /* value */
    JN_NAME,    /* name */
    JN_LIST,    /* kids */
    JN_TUPLE,   /* kids */
    JN_DICT,    /* kids: key, value, key, value ... */
    JN_ATTR,    /* a.value */
    JN_ITEM,    /* a[b] */
    JN_SLICE,   /* a[b:c:d] */
    JN_CALL,    /* a(args) */
    JN_FILTER,  /* a|filter(args); a is NULL in filter blocks: the block's text */
    JN_TEST,    /* a is test(args) */
    JN_NOT,     /* not a */
    JN_AND,     /* a and b */
    JN_OR,      /* a or b */
    JN_NEG,     /* -a */
    JN_POS,     /* +a */
    JN_BINARY,  /* a op b */
    JN_CONCAT,  /* kids joined as text (~) */
    JN_COMPARE, /* a, then kids: each JN_OPERAND with op and a */
    JN_OPERAND,
    JN_COND,  /* a if b else c; c may be NULL */
    JN_NSREF, /* name.value, only as the target of set */
    /* statements */
    JN_BODY,         /* kids */
    JN_TEXT,         /* value */
    JN_OUTPUT,       /* a */
    JN_IF,           /* if a: b, else c (NULL, body or another if) */
    JN_FOR,          /* for a in b if c: d, else e; op: 1 recursive */
    JN_SET,          /* a = b */
    JN_SET_BLOCK,    /* a = text of b, through filters c (NULL: none) */
    JN_MACRO,        /* name, params, body b */
    JN_CALL_BLOCK,   /* call a with caller(params): body b */
    JN_FILTER_BLOCK, /* body b through filters c */
    JN_WITH,         /* kids: target, value, target, value ...; body b */
    JN_SCOPE,        /* body b in a scope of its own */
    JN_BLOCK,        /* body b; op: 1 sees the variables around it */
    JN_BREAK,
    JN_CONTINUE,
    JN_NO_LOADER, /* include, import, extends: fails when it is reached */
};

enum jinja_op {
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
    JOP_POW,
    JOP_EQ,
    JOP_NE,
    JOP_LT,
    JOP_LE,
    JOP_GT,
    JOP_GE,
    JOP_IN,
    JOP_NOT_IN,
};

struct jinja_node;

struct jinja_call_args {
    struct jinja_node **pos;
    struct jinja_kwarg {
        struct jv name;
        struct jinja_node *value;
    } * kw;
    uint32_t n_pos, n_kw;
    struct jinja_node *star, *star_star; /* *args, **kwargs, or NULL */
};

/* Parameters of a macro or of a call block's caller. */
struct jinja_params {
    struct jinja_param {
        uint32_t name;
        struct jinja_node *value; /* default, or NULL */
    } * list;
    uint32_t n;
    uint8_t uses_caller, uses_kwargs, uses_varargs, explicit_caller;
};

struct jinja_node {
    uint8_t type; /* enum jinja_node_type */
    uint8_t op;
    uint32_t line;
    uint32_t name; /* of a variable */
    uint32_t n;    /* kids */
    struct jv value;
    struct jinja_node *a, *b, *c, *d, *e;
    struct jinja_node **kids;
    union {
        struct jinja_call_args *args;
        struct jinja_params *params;
    };
    union {
        const struct jinja_filter *filter;
        const struct jinja_test *test; /* NULL: unknown, fails when it is reached */
    };
};

/* Ids of names that the engine itself asks for; the interning table starts with them. */
enum jinja_known_name {
    JINJA_NAME_LOOP,
    JINJA_NAME_CALLER,
    JINJA_NAME_VARARGS,
    JINJA_NAME_KWARGS,
    JINJA_NAMES_KNOWN,
};

struct jinja_program {
    struct jinja_arena arena;
    struct jinja_node *body;
    struct jv *names; /* [n_names] strings, zero-terminated */
    uint32_t n_names;
};

/* Limits of what is compiled. The depth bounds the recursion of parser and evaluator. */
#define JINJA_MAX_SOURCE_BYTES  ((size_t)1 << 20)
#define JINJA_MAX_NESTING       100
#define JINJA_MAX_PROGRAM_BYTES ((size_t)256 << 20)

/* Fills an empty program; on failure it is freed again. */
int jinja_parse(struct jinja_program *p, const char *source, size_t n, struct moed_error *err);
void jinja_program_fini(struct jinja_program *p);

#endif
