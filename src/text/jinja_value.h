/*
 * Values of a template: Python's, as far as a template can see them.
 *
 * A value is 16 bytes and is passed by value. What it points to lives in the rendering's arena, in
 * the compiled template or in the caller's JSON, which is never copied or changed: JSON arrays and
 * objects are kinds of their own that read like lists and dicts.
 *
 * Functions that take a struct jinja (one rendering) do not return on failure: jinja_fail unwinds
 * to template_render, which frees the arena. So no call needs a check, and none leaks.
 */
#ifndef MOED_TEXT_JINJA_VALUE_H
#define MOED_TEXT_JINJA_VALUE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

struct jinja;
struct jinja_list;
struct jinja_dict;
struct jinja_iter;
struct jinja_undefined;
struct jinja_range;
struct jinja_loop;
struct jinja_macro;
struct jinja_method;
struct jinja_function;
struct jinja_cycle;

enum jv_kind {
    JV_MISSING, /* no value: an absent argument, an unset slot; templates never see it */
    JV_UNDEFINED,
    JV_NONE,
    JV_BOOL,
    JV_INT,
    JV_FLOAT,
    JV_STR,
    JV_LIST,
    JV_TUPLE,
    JV_DICT,
    JV_JSON_ARRAY,  /* reads as a list */
    JV_JSON_OBJECT, /* reads as a dict */
    JV_RANGE,
    JV_VIEW, /* keys(), values() or items() of a dict: flags say which */
    JV_ITER, /* a generator or another one-pass iterator */
    JV_NAMESPACE,
    JV_LOOP,
    JV_MACRO,
    JV_METHOD,
    JV_FUNCTION,
    JV_CYCLER,
    JV_JOINER,
};

enum jv_flags {
    JV_ASCII = 1,  /* string: known to be ASCII, so bytes are code points */
    JV_MARKUP = 2, /* string: marked safe (Markup); + and % escape what is joined to it */
    JV_GROUP = 1,  /* tuple: of groupby, with the attributes grouper and list */
    JV_KEYS = 0,   /* view */
    JV_VALUES = 1,
    JV_ITEMS = 2,
    JV_VIEW_KIND = 3,
    JV_VIEW_JSON = 4, /* view of a JSON object */
};

struct jv {
    uint8_t kind;
    uint8_t flags;
    uint32_t len; /* string: bytes */
    union {
        int64_t i; /* int and bool */
        double f;
        const char *str;         /* not zero-terminated */
        struct jinja_list *list; /* list and tuple */
        struct jinja_dict *dict; /* dict, namespace, view */
        json_t *json;
        struct jinja_range *range;
        struct jinja_iter *iter;
        struct jinja_undefined *undefined; /* NULL: "the value" */
        struct jinja_loop *loop;
        struct jinja_macro *macro;
        struct jinja_method *method;
        const struct jinja_function *function;
        struct jinja_cycle *cycle;
    };
};

struct jinja_list {
    struct jv *items;
    uint32_t n, cap;
};

struct jinja_dict {
    struct jinja_entry {
        struct jv key, value;
        uint64_t hash;
    } * entries; /* in the order of insertion */
    uint32_t n, cap;
    uint32_t *index; /* open addressing, 1 + entry; NULL for small dicts */
    uint32_t n_index;
};

struct jinja_range {
    int64_t start, stop, step, n;
};

/* Why a value is undefined: the words of the error that using it raises. */
struct jinja_undefined {
    const char *hint; /* NULL: made from name and owner */
    struct jv owner;  /* missing: a variable; otherwise the object that lacks the name */
    struct jv name;
};

static inline struct jv jv_none(void)
{
    return (struct jv){.kind = JV_NONE};
}
static inline struct jv jv_bool(int b)
{
    return (struct jv){.kind = JV_BOOL, .i = b != 0};
}
static inline struct jv jv_int(int64_t i)
{
    return (struct jv){.kind = JV_INT, .i = i};
}
static inline struct jv jv_float(double f)
{
    return (struct jv){.kind = JV_FLOAT, .f = f};
}
static inline struct jv jv_str(const char *s, size_t n)
{
    return (struct jv){.kind = JV_STR, .len = (uint32_t)n, .str = s};
}
static inline struct jv jv_list(struct jinja_list *l)
{
    return (struct jv){.kind = JV_LIST, .list = l};
}
static inline struct jv jv_tuple(struct jinja_list *l)
{
    return (struct jv){.kind = JV_TUPLE, .list = l};
}
static inline struct jv jv_dict(struct jinja_dict *d)
{
    return (struct jv){.kind = JV_DICT, .dict = d};
}

/* A zero-terminated constant as a string value. */
struct jv jv_text(const char *s);
/* The value of JSON; strings, arrays and objects are borrowed. */
struct jv jv_json(json_t *j);

static inline int jv_is_number(struct jv v)
{
    return v.kind == JV_INT || v.kind == JV_FLOAT || v.kind == JV_BOOL;
}
static inline int jv_is_mapping(struct jv v)
{
    return v.kind == JV_DICT || v.kind == JV_JSON_OBJECT;
}
static inline int jv_is_listlike(struct jv v)
{
    return v.kind == JV_LIST || v.kind == JV_TUPLE || v.kind == JV_JSON_ARRAY;
}
static inline double jv_number(struct jv v)
{
    return v.kind == JV_FLOAT ? v.f : (double)v.i;
}
int jv_str_is(struct jv v, const char *text);

/* What Python calls the type, for messages: "str", "list", "NoneType". */
const char *jv_type_name(struct jv v);

int jv_truth(struct jinja *J, struct jv v);
/* ==, never fails but by depth. */
int jv_equal(struct jinja *J, struct jv a, struct jv b);
/* a < b, <= ...: -1, 0, 1, or 2 where a float is not a number; fails where Python has no order.
 * op is for the message. */
int jv_compare(struct jinja *J, struct jv a, struct jv b, const char *op);
/* item in container */
int jv_contains(struct jinja *J, struct jv container, struct jv item);
/* len(), or -1 where Python has none. */
int64_t jv_len(struct jinja *J, struct jv v);

/* Lists. */
struct jinja_list *jinja_list_new(struct jinja *J, size_t cap);
void jinja_list_add(struct jinja *J, struct jinja_list *l, struct jv v);
/* Element i < jv_len of a list, tuple, JSON array or range. */
struct jv jv_at(struct jv v, int64_t i);
/* list(v): a new list of what v iterates over. */
struct jinja_list *jv_to_list(struct jinja *J, struct jv v);
struct jv jinja_pair(struct jinja *J, struct jv a, struct jv b);

/* Dicts. Keys compare as Python's: 1, 1.0 and true are one key. */
struct jinja_dict *jinja_dict_new(struct jinja *J);
void jinja_dict_set(struct jinja *J, struct jinja_dict *d, struct jv key, struct jv value);
/* The entry's value, or a missing value. */
struct jv jinja_dict_get(struct jinja *J, const struct jinja_dict *d, struct jv key);
void jinja_dict_remove(struct jinja *J, struct jinja_dict *d, struct jv key);
/* Lookup in a dict or JSON object; missing where the key is not there. */
struct jv jv_lookup(struct jinja *J, struct jv mapping, struct jv key);

/* Walks a dict or a JSON object in order. Start with {0}. */
struct jinja_walk {
    uint32_t i;
    void *json;
    int begun;
};
int jv_walk(struct jv mapping, struct jinja_walk *w, struct jv *key, struct jv *value);
/* A new dict with the entries of a mapping. */
struct jinja_dict *jv_to_dict(struct jinja *J, struct jv mapping);

/* Iteration: for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item);) */
struct jinja_cursor {
    struct jv v;
    int64_t i;
    struct jinja_walk walk;
};
struct jinja_cursor jv_iterate(struct jinja *J, struct jv v);
int jv_is_iterable(struct jv v);
int jv_next(struct jinja *J, struct jinja_cursor *c, struct jv *item);

/*
 * One-pass iterators. `fill` makes all items when the first is asked for, so that errors and side
 * effects come where Python's generators have them, or not at all.
 */
struct jinja_iter {
    const char *type; /* "generator", "list_reverseiterator" */
    struct jinja_list *(*fill)(struct jinja *J, void *state);
    void *state;
    struct jinja_list *items; /* NULL until filled */
    uint32_t pos;
};
struct jv jinja_iter_new(struct jinja *J, const char *type,
                         struct jinja_list *(*fill)(struct jinja *, void *), void *state);

/* Strings: lengths and indexes count code points. */
struct jv jinja_str_copy(struct jinja *J, const char *s, size_t n);
char *jinja_text(struct jinja *J, size_t n); /* room for n bytes of text */
struct jv jinja_concat(struct jinja *J, struct jv a, struct jv b);
int64_t jv_str_len(struct jinja *J, struct jv s);
/* Byte offset of code point i (0..length). */
size_t jv_str_offset(struct jinja *J, struct jv s, int64_t i);
/* Bytes [from, to) of s as a string with its flags. */
struct jv jv_str_part(struct jv s, size_t from, size_t to);
/* Writes cp as UTF-8; returns its length. */
size_t jinja_encode(unsigned cp, char out[4]);
/* Decodes at most n bytes of trusted UTF-8; returns the length, at least 1. */
size_t jinja_cp(const char *s, size_t n, unsigned *cp);

#endif
