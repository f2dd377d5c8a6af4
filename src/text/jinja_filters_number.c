/* Filters of numbers: abs, int, float, round, sum, filesizeformat. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_int.h"

typedef const struct jinja_args args_t;

static struct jv f_abs(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "abs", args, NULL, 0, 0, NULL);
    if (v.kind == JV_FLOAT)
        return jv_float(fabs(v.f));
    if (v.kind == JV_INT || v.kind == JV_BOOL)
        return v.i < 0 ? jinja_negate(J, v) : jv_int(v.i);
    jinja_fail(J, "bad operand type for abs(): '%s'", jv_type_name(v));
}

static struct jv f_int(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"default", "base"};
    struct jv a[2];
    int64_t i;
    double f;
    jinja_bind(J, "do_int", args, names, 2, 0, a);
    if (a[0].kind == JV_MISSING)
        a[0] = jv_int(0);
    int64_t base = a[1].kind == JV_MISSING ? 10 : jinja_need_int(J, a[1]);
    switch (v.kind) {
    case JV_UNDEFINED:
        jinja_fail_undefined(J, v);
    case JV_INT:
    case JV_BOOL:
        return jv_int(v.i);
    case JV_FLOAT:
        return isnan(v.f) ? a[0] : jinja_float_to_int(J, v.f);
    case JV_STR:
        if ((base == 0 || (base >= 2 && base <= 36)) && jinja_parse_int(J, v, (int)base, &i))
            return jv_int(i);
        if (jinja_parse_float(J, v, &f) && isfinite(f))
            return jinja_float_to_int(J, f);
        return a[0];
    default:
        return a[0];
    }
}

static struct jv f_float(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"default"};
    struct jv fallback;
    double f;
    jinja_bind(J, "do_float", args, names, 1, 0, &fallback);
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    if (jv_is_number(v))
        return jv_float(jv_number(v));
    if (v.kind == JV_STR && jinja_parse_float(J, v, &f))
        return jv_float(f);
    return fallback.kind == JV_MISSING ? jv_float(0) : fallback;
}

/* round(i, -digits): half to even. */
static struct jv round_int(struct jinja *J, int64_t i, int64_t digits)
{
    int64_t scale = 1;
    if (digits >= 0)
        return jv_int(i);
    if (digits < -18)
        return jv_int(0);
    for (int64_t k = 0; k > digits; k--)
        scale *= 10;
    int64_t rest = i % scale, low = i - rest;
    if (rest < 0) {
        rest += scale;
        if (__builtin_sub_overflow(low, scale, &low))
            return jv_int(0);
    }
    int up = rest > scale / 2 || (rest == scale / 2 && (low / scale) % 2 != 0);
    return up ? jinja_binary(J, JOP_ADD, jv_int(low), jv_int(scale)) : jv_int(low);
}

static struct jv f_round(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"precision", "method"};
    struct jv a[2];
    jinja_bind(J, "do_round", args, names, 2, 0, a);
    int64_t digits = a[0].kind == JV_MISSING ? 0 : jinja_need_int(J, a[0]);
    int common = a[1].kind == JV_MISSING || jv_str_is(a[1], "common");
    if (!common && !jv_str_is(a[1], "ceil") && !jv_str_is(a[1], "floor"))
        jinja_fail(J, "method must be common, ceil or floor");
    if (v.kind == JV_UNDEFINED && !common)
        jinja_fail_undefined(J, v);
    if (!jv_is_number(v))
        jinja_fail(J, "type %s doesn't define __round__ method", jv_type_name(v));
    if (common && v.kind != JV_FLOAT)
        return round_int(J, v.i, digits);
    if (common)
        return jv_float(jinja_round(v.f, digits > 400 ? 400 : digits < -400 ? -400 : (int)digits));
    struct jv scale = jinja_binary(J, JOP_POW, jv_int(10), jv_int(digits));
    struct jv scaled = jinja_binary(J, JOP_MUL, v, scale);
    if (scaled.kind == JV_FLOAT && fabs(scaled.f) < 0x1p53) /* beyond, every float is whole */
        scaled = jv_int((int64_t)(jv_str_is(a[1], "ceil") ? ceil(scaled.f) : floor(scaled.f)));
    else if (scaled.kind == JV_FLOAT && !isfinite(scaled.f))
        jinja_float_to_int(J, scaled.f); /* fails, with Python's words */
    return jinja_binary(J, JOP_DIV, scaled, scale);
}

static struct jv f_sum(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"attribute", "start"};
    struct jv a[2], item;
    jinja_bind(J, "do_sum", args, names, 2, 0, a);
    struct jv total = a[1].kind == JV_MISSING ? jv_int(0) : a[1];
    if (total.kind == JV_STR)
        jinja_fail(J, "sum() can't sum strings [use ''.join(seq) instead]");
    for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        if (a[0].kind != JV_MISSING && a[0].kind != JV_NONE)
            item = jinja_getpath(J, item, a[0]);
        total = jinja_binary(J, JOP_ADD, total, item);
    }
    return total;
}

static struct jv f_filesizeformat(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"binary"};
    static const char units[] = "kMGTPEZY";
    struct jv binary;
    char text[64];
    jinja_bind(J, "do_filesizeformat", args, names, 1, 0, &binary);
    struct jinja_args none = {0};
    double bytes = f_float(J, v, &none).f;
    int is_binary = binary.kind != JV_MISSING && jv_truth(J, binary);
    double base = is_binary ? 1024 : 1000, unit = base;
    if (bytes == 1)
        return jv_text("1 Byte");
    if (bytes < base) {
        snprintf(text, sizeof text, "%lld Bytes", (long long)bytes);
        return jinja_str_copy(J, text, strlen(text));
    }
    size_t i = 0;
    while (i + 1 < sizeof units - 1 && bytes >= unit * base) {
        unit *= base;
        i++;
    }
    char prefix = is_binary && units[i] == 'k' ? 'K' : units[i];
    int n = snprintf(text, sizeof text, "%.1f %c%sB", bytes / unit, prefix, is_binary ? "i" : "");
    return jinja_str_copy(J, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

const struct jinja_filter jinja_filters_number[] = {
    {"abs", f_abs},     {"int", f_int}, {"float", f_float},
    {"round", f_round}, {"sum", f_sum}, {"filesizeformat", f_filesizeformat},
    {NULL, NULL},
};
