/* What values are: kinds, truth, equality, order, strings. Lists and dicts: jinja_container.c. */
#include "text/jinja_value.h"

#include <math.h>
#include <string.h>

#include "text/jinja_int.h"

struct jv jv_text(const char *s)
{
    return jv_str(s, strlen(s));
}

struct jv jv_json(json_t *j)
{
    switch (j ? json_typeof(j) : JSON_NULL) {
    case JSON_OBJECT:
        return (struct jv){.kind = JV_JSON_OBJECT, .json = j};
    case JSON_ARRAY:
        return (struct jv){.kind = JV_JSON_ARRAY, .json = j};
    case JSON_STRING:
        return jv_str(json_string_value(j), json_string_length(j));
    case JSON_INTEGER:
        return jv_int(json_integer_value(j));
    case JSON_REAL:
        return jv_float(json_real_value(j));
    case JSON_TRUE:
        return jv_bool(1);
    case JSON_FALSE:
        return jv_bool(0);
    default:
        return jv_none();
    }
}

int jv_str_is(struct jv v, const char *text)
{
    return v.kind == JV_STR && v.len == strlen(text) && memcmp(v.str, text, v.len) == 0;
}

const char *jv_type_name(struct jv v)
{
    static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};
    switch ((enum jv_kind)v.kind) {
    case JV_MISSING:
    case JV_UNDEFINED:
        return "Undefined";
    case JV_NONE:
        return "NoneType";
    case JV_BOOL:
        return "bool";
    case JV_INT:
        return "int";
    case JV_FLOAT:
        return "float";
    case JV_STR:
        return v.flags & JV_MARKUP ? "Markup" : "str";
    case JV_LIST:
    case JV_JSON_ARRAY:
        return "list";
    case JV_TUPLE:
        return "tuple";
    case JV_DICT:
    case JV_JSON_OBJECT:
        return "dict";
    case JV_RANGE:
        return "range";
    case JV_VIEW:
        return views[v.flags & JV_VIEW_KIND];
    case JV_ITER:
        return v.iter->type;
    case JV_NAMESPACE:
        return "Namespace";
    case JV_LOOP:
        return "LoopContext";
    case JV_MACRO:
        return "Macro";
    case JV_METHOD:
        return "builtin_function_or_method";
    case JV_FUNCTION:
        return "function";
    case JV_CYCLER:
        return "Cycler";
    case JV_JOINER:
        return "Joiner";
    }
    return "object";
}

int jv_truth(struct jinja *J, struct jv v)
{
    switch ((enum jv_kind)v.kind) {
    case JV_MISSING:
    case JV_UNDEFINED:
    case JV_NONE:
        return 0;
    case JV_BOOL:
    case JV_INT:
        return v.i != 0;
    case JV_FLOAT:
        return v.f != 0;
    case JV_STR:
        return v.len != 0;
    default: {
        int64_t n = jv_len(J, v);
        return n != 0;
    }
    }
}

static int equal_number(struct jv a, struct jv b)
{
    if (a.kind != JV_FLOAT && b.kind != JV_FLOAT)
        return a.i == b.i;
    if (a.kind == JV_FLOAT && b.kind == JV_FLOAT)
        return a.f == b.f;
    /* Exact, also where the integer has no double. */
    double f = a.kind == JV_FLOAT ? a.f : b.f;
    int64_t i = a.kind == JV_FLOAT ? b.i : a.i;
    return f >= -0x1p63 && f < 0x1p63 && f == floor(f) && (int64_t)f == i;
}

static int equal_list(struct jinja *J, struct jv a, struct jv b)
{
    int64_t n = jv_len(J, a);
    if (n != jv_len(J, b))
        return 0;
    for (int64_t i = 0; i < n; i++) {
        jinja_charge(J, 1);
        if (!jv_equal(J, jv_at(a, i), jv_at(b, i)))
            return 0;
    }
    return 1;
}

static int equal_mapping(struct jinja *J, struct jv a, struct jv b)
{
    struct jinja_walk w = {0};
    struct jv key, value;
    if (jv_len(J, a) != jv_len(J, b))
        return 0;
    while (jv_walk(a, &w, &key, &value)) {
        jinja_charge(J, 1);
        struct jv other = jv_lookup(J, b, key);
        if (other.kind == JV_MISSING || !jv_equal(J, value, other))
            return 0;
    }
    return 1;
}

static int equal_deep(struct jinja *J, struct jv a, struct jv b)
{
    if (jv_is_mapping(a) && jv_is_mapping(b))
        return equal_mapping(J, a, b);
    if (jv_is_listlike(a) && jv_is_listlike(b))
        return (a.kind == JV_TUPLE) == (b.kind == JV_TUPLE) && equal_list(J, a, b);
    if (a.kind == JV_RANGE && b.kind == JV_RANGE)
        return equal_list(J, a, b);
    if (a.kind == JV_VIEW && b.kind == JV_VIEW && (a.flags & JV_VIEW_KIND) != JV_VALUES &&
        (a.flags & JV_VIEW_KIND) == (b.flags & JV_VIEW_KIND)) {
        struct jv x = {.kind = a.flags & JV_VIEW_JSON ? JV_JSON_OBJECT : JV_DICT, .dict = a.dict};
        struct jv y = {.kind = b.flags & JV_VIEW_JSON ? JV_JSON_OBJECT : JV_DICT, .dict = b.dict};
        return jv_len(J, x) == jv_len(J, y) &&
               equal_list(J, jv_list(jv_to_list(J, a)), jv_list(jv_to_list(J, b)));
    }
    return a.kind == b.kind && a.dict == b.dict;
}

int jv_equal(struct jinja *J, struct jv a, struct jv b)
{
    if (jv_is_number(a) && jv_is_number(b))
        return equal_number(a, b);
    if (a.kind == JV_STR && b.kind == JV_STR) {
        if (a.len != b.len)
            return 0;
        jinja_charge(J, a.len / 64);
        return memcmp(a.str, b.str, a.len) == 0;
    }
    if (a.kind <= JV_STR || b.kind <= JV_STR)
        return a.kind == b.kind && a.kind <= JV_NONE;
    jinja_enter(J);
    int equal = equal_deep(J, a, b);
    jinja_leave(J);
    return equal;
}

static int sign(int64_t a, int64_t b)
{
    return (a > b) - (a < b);
}

static int compare_number(struct jv a, struct jv b)
{
    if (a.kind != JV_FLOAT && b.kind != JV_FLOAT)
        return sign(a.i, b.i);
    double x = jv_number(a), y = jv_number(b);
    if (isnan(x) || isnan(y))
        return 2;
    if (x != y || (a.kind == JV_FLOAT && b.kind == JV_FLOAT))
        return (x > y) - (x < y);
    /* Equal as doubles: the integer may still be off by what a double cannot hold. */
    int64_t i = a.kind == JV_FLOAT ? b.i : a.i;
    double f = a.kind == JV_FLOAT ? x : y;
    int order = f >= 0x1p63 ? -1 : sign(i, (int64_t)f);
    return a.kind == JV_FLOAT ? -order : order;
}

static int compare_str(struct jinja *J, struct jv a, struct jv b)
{
    uint32_t n = a.len < b.len ? a.len : b.len;
    jinja_charge(J, n / 64);
    /* UTF-8 sorts as its code points do. */
    int order = n ? memcmp(a.str, b.str, n) : 0;
    return order ? sign(order, 0) : sign(a.len, b.len);
}

static int compare_list(struct jinja *J, struct jv a, struct jv b, const char *op)
{
    int64_t n = jv_len(J, a), m = jv_len(J, b);
    for (int64_t i = 0; i < n && i < m; i++) {
        jinja_charge(J, 1);
        if (!jv_equal(J, jv_at(a, i), jv_at(b, i)))
            return jv_compare(J, jv_at(a, i), jv_at(b, i), op);
    }
    return sign(n, m);
}

int jv_compare(struct jinja *J, struct jv a, struct jv b, const char *op)
{
    if (jv_is_number(a) && jv_is_number(b))
        return compare_number(a, b);
    if (a.kind == JV_STR && b.kind == JV_STR)
        return compare_str(J, a, b);
    if (a.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, a);
    if (b.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, b);
    if (jv_is_listlike(a) && jv_is_listlike(b) && (a.kind == JV_TUPLE) == (b.kind == JV_TUPLE)) {
        jinja_enter(J);
        int order = compare_list(J, a, b, op);
        jinja_leave(J);
        return order;
    }
    jinja_fail(J, "'%s' not supported between instances of '%s' and '%s'", op, jv_type_name(a),
               jv_type_name(b));
}

static int contains_str(struct jinja *J, struct jv text, struct jv part)
{
    if (part.kind != JV_STR)
        jinja_fail(J, "'in <string>' requires string as left operand, not %s", jv_type_name(part));
    jinja_charge(J, text.len / 64);
    return part.len == 0 || (text.len && memmem(text.str, text.len, part.str, part.len));
}

int jv_contains(struct jinja *J, struct jv container, struct jv item)
{
    struct jv each;
    switch (container.kind) {
    case JV_STR:
        return contains_str(J, container, item);
    case JV_DICT:
    case JV_JSON_OBJECT:
        return jv_lookup(J, container, item).kind != JV_MISSING;
    case JV_UNDEFINED:
        return 0;
    case JV_VIEW:
        if ((container.flags & JV_VIEW_KIND) == JV_KEYS) {
            container.kind = container.flags & JV_VIEW_JSON ? JV_JSON_OBJECT : JV_DICT;
            return jv_lookup(J, container, item).kind != JV_MISSING;
        }
        break;
    default:
        break;
    }
    if (!jv_is_iterable(container))
        jinja_fail(J, "argument of type '%s' is not iterable", jv_type_name(container));
    for (struct jinja_cursor c = jv_iterate(J, container); jv_next(J, &c, &each);) {
        jinja_charge(J, 1);
        if (jv_equal(J, each, item))
            return 1;
    }
    return 0;
}

/* Strings. */

size_t jinja_encode(unsigned cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

size_t jinja_cp(const char *s, size_t n, unsigned *cp)
{
    unsigned char b = (unsigned char)s[0];
    size_t len = b < 0xC0 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
    if (len > n)
        len = n;
    unsigned value = len == 1 ? b : b & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++)
        value = value << 6 | ((unsigned char)s[i] & 0x3Fu);
    *cp = value;
    return len;
}

char *jinja_text(struct jinja *J, size_t n)
{
    char *p = n < UINT32_MAX ? jinja_arena_text(&J->arena, n) : NULL;
    if (!p)
        jinja_fail_limit(J, "memory");
    return p;
}

struct jv jinja_str_copy(struct jinja *J, const char *s, size_t n)
{
    char *p = jinja_text(J, n);
    if (n)
        memcpy(p, s, n);
    return jv_str(p, n);
}

/*
 * A template builds long texts by appending to one variable. Where the left text was made last and
 * the arena has room behind it, only the right one is copied; otherwise room is left for the next.
 */
struct jv jinja_concat(struct jinja *J, struct jv a, struct jv b)
{
    size_t n = (size_t)a.len + b.len;
    if (!a.len || !b.len)
        return jv_str(a.len ? a.str : b.str, n);
    if (n >= UINT32_MAX)
        jinja_fail_limit(J, "memory");
    char *to;
    if (jinja_arena_extend(&J->arena, a.str + a.len, b.len)) {
        to = (char *)(uintptr_t)a.str;
    } else {
        to = jinja_text(J, n);
        memcpy(to, a.str, a.len);
        jinja_charge(J, a.len / 64);
    }
    memcpy(to + a.len, b.str, b.len);
    jinja_charge(J, b.len / 64);
    return jv_str(to, n);
}

static int is_ascii(const char *s, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t w;
        memcpy(&w, s + i, 8);
        if (w & 0x8080808080808080u)
            return 0;
    }
    for (; i < n; i++)
        if ((unsigned char)s[i] >= 0x80)
            return 0;
    return 1;
}

int64_t jv_str_len(struct jinja *J, struct jv s)
{
    if (s.flags & JV_ASCII)
        return s.len;
    jinja_charge(J, s.len / 64);
    if (is_ascii(s.str, s.len))
        return s.len;
    int64_t n = 0;
    for (size_t i = 0; i < s.len; i++)
        n += ((unsigned char)s.str[i] & 0xC0) != 0x80;
    return n;
}

size_t jv_str_offset(struct jinja *J, struct jv s, int64_t i)
{
    size_t pos = 0;
    unsigned cp;
    if (s.flags & JV_ASCII)
        return (size_t)i;
    for (int64_t k = 0; k < i && pos < s.len; k++)
        pos += jinja_cp(s.str + pos, s.len - pos, &cp);
    jinja_charge(J, pos / 64);
    return pos;
}

struct jv jv_str_part(struct jv s, size_t from, size_t to)
{
    s.str += from;
    s.len = (uint32_t)(to - from);
    return s;
}
