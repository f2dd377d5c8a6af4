/* The tests of "is". */
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

typedef const struct jinja_args args_t;

static struct jv one_arg(struct jinja *J, args_t *args)
{
    if (args->n_pos != 1 || args->n_kw)
        jinja_fail(J, "the test takes one argument (%u given)", args->n_pos + args->n_kw);
    return args->pos[0];
}

static int t_defined(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind != JV_UNDEFINED;
}
static int t_undefined(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_UNDEFINED;
}
static int t_none(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_NONE;
}
static int t_boolean(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_BOOL;
}
static int t_true(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_BOOL && v.i;
}
static int t_false(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_BOOL && !v.i;
}
static int t_integer(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_INT;
}
static int t_float(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_FLOAT;
}
static int t_number(struct jinja *J, struct jv v, args_t *args)
{
    return jv_is_number(v);
}
static int t_string(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_STR;
}
static int t_mapping(struct jinja *J, struct jv v, args_t *args)
{
    return jv_is_mapping(v);
}
static int t_iterable(struct jinja *J, struct jv v, args_t *args)
{
    return jv_is_iterable(v);
}
static int t_sequence(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_STR || v.kind == JV_RANGE || v.kind == JV_UNDEFINED || jv_is_listlike(v) ||
           jv_is_mapping(v);
}
static int t_callable(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_METHOD || v.kind == JV_FUNCTION || v.kind == JV_MACRO ||
           v.kind == JV_LOOP || v.kind == JV_JOINER || v.kind == JV_UNDEFINED;
}
static int t_escaped(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_STR && v.flags & JV_MARKUP;
}

/* v % by == rest */
static int modulo(struct jinja *J, struct jv v, struct jv by, int64_t rest)
{
    return jv_equal(J, jinja_binary(J, JOP_MOD, v, by), jv_int(rest));
}

static int t_odd(struct jinja *J, struct jv v, args_t *args)
{
    return modulo(J, v, jv_int(2), 1);
}
static int t_even(struct jinja *J, struct jv v, args_t *args)
{
    return modulo(J, v, jv_int(2), 0);
}
static int t_divisibleby(struct jinja *J, struct jv v, args_t *args)
{
    return modulo(J, v, one_arg(J, args), 0);
}

static int t_sameas(struct jinja *J, struct jv v, args_t *args)
{
    struct jv other = one_arg(J, args);
    if (v.kind != other.kind)
        return 0;
    if (v.kind <= JV_STR)
        return v.kind != JV_FLOAT && jv_equal(J, v, other);
    return v.dict == other.dict;
}

static int t_in(struct jinja *J, struct jv v, args_t *args)
{
    return jv_contains(J, one_arg(J, args), v);
}
static int t_eq(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_EQ, v, one_arg(J, args));
}
static int t_ne(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_NE, v, one_arg(J, args));
}
static int t_lt(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_LT, v, one_arg(J, args));
}
static int t_le(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_LE, v, one_arg(J, args));
}
static int t_gt(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_GT, v, one_arg(J, args));
}
static int t_ge(struct jinja *J, struct jv v, args_t *args)
{
    return jinja_test_op(J, JOP_GE, v, one_arg(J, args));
}

static int method_true(struct jinja *J, struct jv v, const char *method)
{
    struct jinja_args none = {0};
    struct jv m = jinja_str_method(J, jinja_str(J, v), jv_text(method));
    return jv_truth(J, jinja_call(J, m, &none));
}

static int t_lower(struct jinja *J, struct jv v, args_t *args)
{
    return method_true(J, v, "islower");
}
static int t_upper(struct jinja *J, struct jv v, args_t *args)
{
    return method_true(J, v, "isupper");
}
static int t_filter(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_STR && jinja_filter_find(v.str, v.len) != NULL;
}
static int t_test(struct jinja *J, struct jv v, args_t *args)
{
    return v.kind == JV_STR && jinja_test_find(v.str, v.len) != NULL;
}

static const struct jinja_test tests[] = {
    {"defined", t_defined},
    {"undefined", t_undefined},
    {"none", t_none},
    {"boolean", t_boolean},
    {"true", t_true},
    {"false", t_false},
    {"integer", t_integer},
    {"float", t_float},
    {"number", t_number},
    {"string", t_string},
    {"mapping", t_mapping},
    {"iterable", t_iterable},
    {"sequence", t_sequence},
    {"callable", t_callable},
    {"escaped", t_escaped},
    {"odd", t_odd},
    {"even", t_even},
    {"divisibleby", t_divisibleby},
    {"sameas", t_sameas},
    {"in", t_in},
    {"eq", t_eq},
    {"equalto", t_eq},
    {"==", t_eq},
    {"ne", t_ne},
    {"!=", t_ne},
    {"lt", t_lt},
    {"lessthan", t_lt},
    {"<", t_lt},
    {"le", t_le},
    {"<=", t_le},
    {"gt", t_gt},
    {"greaterthan", t_gt},
    {">", t_gt},
    {"ge", t_ge},
    {">=", t_ge},
    {"lower", t_lower},
    {"upper", t_upper},
    {"filter", t_filter},
    {"test", t_test},
};

const struct jinja_test *jinja_test_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        if (strlen(tests[i].name) == n && memcmp(tests[i].name, name, n) == 0)
            return &tests[i];
    return NULL;
}
