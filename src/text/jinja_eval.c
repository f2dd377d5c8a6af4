/* Expressions. */
#include <string.h>

#include "text/jinja_int.h"

typedef struct jinja_node node;

static struct jv eval_list(struct jinja *J, const node *e)
{
    struct jinja_list *l = jinja_list_new(J, e->n);
    for (uint32_t i = 0; i < e->n; i++)
        l->items[l->n++] = jinja_eval(J, e->kids[i]);
    return e->type == JN_TUPLE ? jv_tuple(l) : jv_list(l);
}

static struct jv eval_dict(struct jinja *J, const node *e)
{
    struct jinja_dict *d = jinja_dict_new(J);
    for (uint32_t i = 0; i < e->n; i += 2) {
        struct jv key = jinja_eval(J, e->kids[i]);
        struct jv value = jinja_eval(J, e->kids[i + 1]);
        jinja_dict_set(J, d, key, value);
    }
    return jv_dict(d);
}

static struct jv eval_slice(struct jinja *J, const node *e)
{
    struct jv obj = jinja_eval(J, e->a), part[3] = {0};
    if (e->b)
        part[0] = jinja_eval(J, e->b);
    if (e->c)
        part[1] = jinja_eval(J, e->c);
    if (e->d)
        part[2] = jinja_eval(J, e->d);
    return jinja_slice(J, obj, part[0], part[1], part[2]);
}

static struct jv eval_concat(struct jinja *J, const node *e)
{
    struct jv text = jinja_str(J, jinja_eval(J, e->kids[0]));
    for (uint32_t i = 1; i < e->n; i++)
        text = jinja_concat(J, text, jinja_str(J, jinja_eval(J, e->kids[i])));
    text.flags = 0;
    return text;
}

static struct jv eval_compare(struct jinja *J, const node *e)
{
    struct jv left = jinja_eval(J, e->a);
    for (uint32_t i = 0; i < e->n; i++) {
        struct jv right = jinja_eval(J, e->kids[i]->a);
        J->line = e->line;
        if (!jinja_test_op(J, e->kids[i]->op, left, right))
            return jv_bool(0);
        left = right;
    }
    return jv_bool(1);
}

static struct jv eval_cond(struct jinja *J, const node *e)
{
    if (jv_truth(J, jinja_eval(J, e->b)))
        return jinja_eval(J, e->a);
    if (e->c)
        return jinja_eval(J, e->c);
    return jinja_undefined_hint(J, "the inline if-expression evaluated to false and no else "
                                   "section was defined.");
}

static struct jv eval_binary(struct jinja *J, const node *e)
{
    struct jv a = jinja_eval(J, e->a), b = jinja_eval(J, e->b);
    J->line = e->line;
    return jinja_binary(J, e->op, a, b);
}

static void add_arg(struct jinja *J, struct jinja_args *out, uint32_t *cap, struct jv v)
{
    if (out->n_pos == *cap) {
        *cap = *cap ? *cap * 2 : 4;
        struct jv *grown = jinja_alloc(J, *cap * sizeof *grown);
        if (out->n_pos)
            memcpy(grown, out->pos, out->n_pos * sizeof *grown);
        out->pos = grown;
    }
    out->pos[out->n_pos++] = v;
}

static void add_star_star(struct jinja *J, struct jinja_args *out, struct jv mapping,
                          unsigned spare_kw)
{
    struct jinja_walk w = {0};
    struct jv key, value;
    if (!jv_is_mapping(mapping))
        jinja_fail(J, "argument after ** must be a mapping, not %s", jv_type_name(mapping));
    struct jinja_kw *grown =
        jinja_alloc(J, (out->n_kw + (size_t)jv_len(J, mapping) + spare_kw) * sizeof *grown);
    if (out->n_kw)
        memcpy(grown, out->kw, out->n_kw * sizeof *grown);
    out->kw = grown;
    while (jv_walk(mapping, &w, &key, &value)) {
        if (key.kind != JV_STR)
            jinja_fail(J, "keywords must be strings");
        jinja_charge(J, 1 + out->n_kw);
        for (uint32_t i = 0; i < out->n_kw; i++)
            if (jv_equal(J, out->kw[i].name, key))
                jinja_fail(J, "got multiple values for keyword argument '%s'", jinja_show(J, key));
        out->kw[out->n_kw++] = (struct jinja_kw){key, value};
    }
}

void jinja_eval_args(struct jinja *J, const struct jinja_call_args *a, struct jinja_args *out,
                     unsigned spare_kw)
{
    *out = (struct jinja_args){0};
    uint32_t cap = a->n_pos;
    if (cap)
        out->pos = jinja_alloc(J, cap * sizeof *out->pos);
    for (uint32_t i = 0; i < a->n_pos; i++)
        out->pos[out->n_pos++] = jinja_eval(J, a->pos[i]);
    if (a->n_kw + spare_kw)
        out->kw = jinja_alloc(J, (a->n_kw + spare_kw) * sizeof *out->kw);
    if (a->star) {
        struct jv item;
        for (struct jinja_cursor c = jv_iterate(J, jinja_eval(J, a->star));
             jv_next(J, &c, &item);) {
            jinja_charge(J, 1);
            add_arg(J, out, &cap, item);
        }
    }
    for (uint32_t i = 0; i < a->n_kw; i++) {
        struct jv v = jinja_eval(J, a->kw[i].value);
        out->kw[out->n_kw++] = (struct jinja_kw){a->kw[i].name, v};
    }
    if (a->star_star)
        add_star_star(J, out, jinja_eval(J, a->star_star), spare_kw);
}

static struct jv eval_call(struct jinja *J, const node *e)
{
    struct jinja_args args;
    struct jv callee = jinja_eval(J, e->a);
    jinja_eval_args(J, e->args, &args, 0);
    J->line = e->line;
    struct jv v = jinja_call(J, callee, &args);
    J->line = e->line;
    return v;
}

static struct jv eval_filter(struct jinja *J, const node *e)
{
    struct jinja_args args;
    struct jv v = jinja_eval(J, e->a);
    jinja_eval_args(J, e->args, &args, 0);
    J->line = e->line;
    if (!e->filter)
        jinja_fail(J, "No filter named '%.60s' found.", e->value.str);
    return e->filter->call(J, v, &args);
}

static struct jv eval_test(struct jinja *J, const node *e)
{
    struct jinja_args args;
    struct jv v = jinja_eval(J, e->a);
    jinja_eval_args(J, e->args, &args, 0);
    J->line = e->line;
    if (!e->test)
        jinja_fail(J, "No test named '%.60s' found.", e->value.str);
    return jv_bool(e->test->call(J, v, &args));
}

static struct jv eval_logic(struct jinja *J, const node *e)
{
    struct jv a = jinja_eval(J, e->a);
    if (e->type == JN_NOT)
        return jv_bool(!jv_truth(J, a));
    return jv_truth(J, a) == (e->type == JN_OR) ? a : jinja_eval(J, e->b);
}

static struct jv eval_unary(struct jinja *J, const node *e)
{
    struct jv v = jinja_eval(J, e->a);
    J->line = e->line;
    return e->type == JN_NEG ? jinja_negate(J, v) : jinja_positive(J, v);
}

static struct jv eval_member(struct jinja *J, const node *e)
{
    struct jv obj = jinja_eval(J, e->a);
    if (e->type == JN_ATTR) {
        J->line = e->line;
        return jinja_getattr(J, obj, e->value);
    }
    struct jv key = jinja_eval(J, e->b);
    J->line = e->line;
    return jinja_getitem(J, obj, key);
}

static struct jv eval_node(struct jinja *J, const node *e)
{
    switch ((enum jinja_node_type)e->type) {
    case JN_CONST:
        return e->value;
    case JN_NAME:
        return jinja_scope_get(J, e->name);
    case JN_LIST:
    case JN_TUPLE:
        return eval_list(J, e);
    case JN_DICT:
        return eval_dict(J, e);
    case JN_ATTR:
    case JN_ITEM:
        return eval_member(J, e);
    case JN_SLICE:
        return eval_slice(J, e);
    case JN_CALL:
        return eval_call(J, e);
    case JN_FILTER:
        return eval_filter(J, e);
    case JN_TEST:
        return eval_test(J, e);
    case JN_NOT:
    case JN_AND:
    case JN_OR:
        return eval_logic(J, e);
    case JN_NEG:
    case JN_POS:
        return eval_unary(J, e);
    case JN_BINARY:
        return eval_binary(J, e);
    case JN_CONCAT:
        return eval_concat(J, e);
    case JN_COMPARE:
        return eval_compare(J, e);
    case JN_COND:
        return eval_cond(J, e);
    default:
        jinja_fail(J, "cannot evaluate this node");
    }
}

struct jv jinja_eval(struct jinja *J, const struct jinja_node *e)
{
    J->line = e->line;
    jinja_charge(J, 1);
    if (e->type == JN_CONST)
        return e->value;
    jinja_enter(J);
    struct jv v = eval_node(J, e);
    jinja_leave(J);
    return v;
}
