/* Operators: arithmetic, repetition, tests of order and membership. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "text/jinja_int.h"

static const char *const op_text[] = {
    [JOP_ADD] = "+",       [JOP_SUB] = "-", [JOP_MUL] = "*",           [JOP_DIV] = "/",
    [JOP_FLOORDIV] = "//", [JOP_MOD] = "%", [JOP_POW] = "** or pow()",
};

_Noreturn static void fail_overflow(struct jinja *J)
{
    jinja_fail(J, "the result is too large for a 64-bit integer");
}

int64_t jinja_need_int(struct jinja *J, struct jv v)
{
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    if (v.kind != JV_INT && v.kind != JV_BOOL)
        jinja_fail(J, "'%s' object cannot be interpreted as an integer", jv_type_name(v));
    return v.i;
}

struct jv jinja_need_str(struct jinja *J, struct jv v, const char *what)
{
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    if (v.kind != JV_STR)
        jinja_fail(J, "%s must be str, not %s", what, jv_type_name(v));
    return v;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0)
        return (b < 0) != (m < 0) ? m + b : m;
    return copysign(0, b);
}

static double float_floor_div(double a, double b)
{
    double m = fmod(a, b), q = (a - m) / b;
    if (m != 0 && (b < 0) != (m < 0))
        q -= 1;
    if (q == 0)
        return copysign(0, a / b);
    double f = floor(q);
    return q - f > 0.5 ? f + 1 : f;
}

static struct jv int_pow(struct jinja *J, int64_t a, int64_t b)
{
    if (b < 0) {
        if (a == 0)
            jinja_fail(J, "0.0 cannot be raised to a negative power");
        return jv_float(pow((double)a, (double)b));
    }
    int64_t result = 1, base = a;
    while (b) {
        if (b & 1 && __builtin_mul_overflow(result, base, &result))
            fail_overflow(J);
        b >>= 1;
        if (b && __builtin_mul_overflow(base, base, &base))
            fail_overflow(J);
    }
    return jv_int(result);
}

static struct jv int_op(struct jinja *J, int op, int64_t a, int64_t b)
{
    int64_t r = 0;
    int overflow = 0;
    switch (op) {
    case JOP_ADD:
        overflow = __builtin_add_overflow(a, b, &r);
        break;
    case JOP_SUB:
        overflow = __builtin_sub_overflow(a, b, &r);
        break;
    case JOP_MUL:
        overflow = __builtin_mul_overflow(a, b, &r);
        break;
    case JOP_DIV:
        if (b == 0)
            jinja_fail(J, "division by zero");
        return jv_float((double)((long double)a / (long double)b));
    case JOP_FLOORDIV:
        if (b == 0)
            jinja_fail(J, "integer division or modulo by zero");
        overflow = a == INT64_MIN && b == -1;
        r = overflow ? 0 : floor_div(a, b);
        break;
    case JOP_MOD:
        if (b == 0)
            jinja_fail(J, "integer modulo by zero");
        r = b == -1 ? 0 : a - floor_div(a, b) * b;
        break;
    default:
        return int_pow(J, a, b);
    }
    if (overflow)
        fail_overflow(J);
    return jv_int(r);
}

static struct jv float_pow(struct jinja *J, double a, double b)
{
    if (a == 0 && b < 0)
        jinja_fail(J, "0.0 cannot be raised to a negative power");
    if (a < 0 && isfinite(a) && isfinite(b) && b != floor(b))
        jinja_fail(J, "complex numbers are not supported");
    double r = pow(a, b);
    if (isinf(r) && isfinite(a) && isfinite(b))
        jinja_fail(J, "(34, 'Numerical result out of range')");
    return jv_float(r);
}

static struct jv float_op(struct jinja *J, int op, double a, double b)
{
    switch (op) {
    case JOP_ADD:
        return jv_float(a + b);
    case JOP_SUB:
        return jv_float(a - b);
    case JOP_MUL:
        return jv_float(a * b);
    case JOP_DIV:
        if (b == 0)
            jinja_fail(J, "float division by zero");
        return jv_float(a / b);
    case JOP_FLOORDIV:
        if (b == 0)
            jinja_fail(J, "float floor division by zero");
        return jv_float(float_floor_div(a, b));
    case JOP_MOD:
        if (b == 0)
            jinja_fail(J, "float modulo");
        return jv_float(float_mod(a, b));
    default:
        return float_pow(J, a, b);
    }
}

static struct jv add_sequence(struct jinja *J, struct jv a, struct jv b)
{
    const char *type = jv_type_name(a);
    if (!jv_is_listlike(b) || (a.kind == JV_TUPLE) != (b.kind == JV_TUPLE))
        jinja_fail(J, "can only concatenate %s (not \"%s\") to %s", type, jv_type_name(b), type);
    int64_t n = jv_len(J, a), m = jv_len(J, b);
    struct jinja_list *l = jinja_list_new(J, (size_t)(n + m));
    jinja_charge(J, (size_t)(n + m));
    for (int64_t i = 0; i < n; i++)
        l->items[l->n++] = jv_at(a, i);
    for (int64_t i = 0; i < m; i++)
        l->items[l->n++] = jv_at(b, i);
    return a.kind == JV_TUPLE ? jv_tuple(l) : jv_list(l);
}

static struct jv add_str(struct jinja *J, struct jv a, struct jv b)
{
    if (a.kind != JV_STR || b.kind != JV_STR)
        return (struct jv){0};
    if (!((a.flags | b.flags) & JV_MARKUP))
        return jinja_concat(J, a, b);
    struct jv v = jinja_concat(J, jinja_escape(J, a), jinja_escape(J, b));
    v.flags |= JV_MARKUP;
    return v;
}

static struct jv repeat(struct jinja *J, struct jv v, struct jv times)
{
    if (times.kind != JV_INT && times.kind != JV_BOOL)
        jinja_fail(J, "can't multiply sequence by non-int of type '%s'", jv_type_name(times));
    int64_t n = times.i < 0 ? 0 : times.i;
    if (v.kind == JV_STR) {
        struct jinja_capture c = jinja_capture_begin(J);
        jinja_fill(J, v, n);
        struct jv out = jinja_capture_end(J, c);
        out.flags |= v.flags & JV_MARKUP;
        return out;
    }
    int64_t len = jv_len(J, v), total;
    if (__builtin_mul_overflow(len, n, &total))
        jinja_fail_limit(J, "memory");
    jinja_charge(J, (size_t)total);
    struct jinja_list *l = jinja_list_new(J, (size_t)total);
    for (int64_t i = 0; i < total; i++)
        l->items[l->n++] = jv_at(v, i % len);
    return v.kind == JV_TUPLE ? jv_tuple(l) : jv_list(l);
}

static int is_sequence(struct jv v)
{
    return v.kind == JV_STR || jv_is_listlike(v);
}

/* Views of dicts have set operations in Python; templates have no sets. */
struct jv jinja_binary(struct jinja *J, int op, struct jv a, struct jv b)
{
    if (jv_is_number(a) && jv_is_number(b)) {
        if (a.kind == JV_FLOAT || b.kind == JV_FLOAT)
            return float_op(J, op, jv_number(a), jv_number(b));
        return int_op(J, op, a.i, b.i);
    }
    if (op == JOP_MOD && a.kind == JV_STR)
        return jinja_percent(J, a, b);
    if (a.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, a);
    if (b.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, b);
    if (op == JOP_ADD) {
        struct jv text = add_str(J, a, b);
        if (text.kind != JV_MISSING)
            return text;
        if (a.kind == JV_STR)
            jinja_fail(J, "can only concatenate str (not \"%s\") to str", jv_type_name(b));
        if (jv_is_listlike(a))
            return add_sequence(J, a, b);
    }
    if (op == JOP_MUL && is_sequence(a))
        return repeat(J, a, b);
    if (op == JOP_MUL && is_sequence(b))
        return repeat(J, b, a);
    jinja_fail(J, "unsupported operand type(s) for %s: '%s' and '%s'", op_text[op], jv_type_name(a),
               jv_type_name(b));
}

struct jv jinja_negate(struct jinja *J, struct jv v)
{
    if (v.kind == JV_FLOAT)
        return jv_float(-v.f);
    if (v.kind == JV_INT || v.kind == JV_BOOL) {
        if (v.i == INT64_MIN)
            fail_overflow(J);
        return jv_int(-v.i);
    }
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    jinja_fail(J, "bad operand type for unary -: '%s'", jv_type_name(v));
}

struct jv jinja_positive(struct jinja *J, struct jv v)
{
    if (v.kind == JV_FLOAT)
        return v;
    if (v.kind == JV_INT || v.kind == JV_BOOL)
        return jv_int(v.i);
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    jinja_fail(J, "bad operand type for unary +: '%s'", jv_type_name(v));
}

int jinja_test_op(struct jinja *J, int op, struct jv a, struct jv b)
{
    int order;
    switch (op) {
    case JOP_EQ:
        return jv_equal(J, a, b);
    case JOP_NE:
        return !jv_equal(J, a, b);
    case JOP_IN:
        return jv_contains(J, b, a);
    case JOP_NOT_IN:
        return !jv_contains(J, b, a);
    case JOP_LT:
        return jv_compare(J, a, b, "<") == -1;
    case JOP_LE:
        order = jv_compare(J, a, b, "<=");
        return order == -1 || order == 0;
    case JOP_GT:
        return jv_compare(J, a, b, ">") == 1;
    default:
        order = jv_compare(J, a, b, ">=");
        return order == 1 || order == 0;
    }
}
