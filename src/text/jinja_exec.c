/* Statements, but for loops (jinja_loop.c). */
#include "text/jinja_int.h"

typedef struct jinja_node node;

static void unpack(struct jinja *J, const node *target, struct jv v)
{
    struct jv item;
    uint32_t n = 0;
    if (!jv_is_iterable(v))
        jinja_fail(J, "cannot unpack non-iterable %s object", jv_type_name(v));
    struct jinja_list *items = jinja_list_new(J, target->n);
    for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item); n++) {
        if (n == target->n)
            jinja_fail(J, "too many values to unpack (expected %u)", target->n);
        jinja_list_add(J, items, item);
    }
    if (n < target->n)
        jinja_fail(J, "not enough values to unpack (expected %u, got %u)", target->n, n);
    for (uint32_t i = 0; i < n; i++)
        jinja_assign(J, target->kids[i], items->items[i]);
}

void jinja_assign(struct jinja *J, const struct jinja_node *target, struct jv v)
{
    if (target->type == JN_TUPLE) {
        jinja_enter(J);
        unpack(J, target, v);
        jinja_leave(J);
    } else if (target->type == JN_NSREF) {
        struct jv ns = jinja_scope_get(J, target->name);
        if (ns.kind != JV_NAMESPACE)
            jinja_fail(J, "cannot assign attribute on non-namespace object");
        jinja_dict_set(J, ns.dict, target->value, v);
    } else {
        jinja_scope_set(J, J->scope, target->name, v);
    }
}

/* The text of a block through the filters of {% set %} and {% filter %}. */
static struct jv apply_filters(struct jinja *J, const node *filter, struct jv text)
{
    struct jinja_args args;
    if (!filter)
        return text;
    jinja_enter(J);
    struct jv v = apply_filters(J, filter->a, text);
    jinja_leave(J);
    jinja_eval_args(J, filter->args, &args, 0);
    J->line = filter->line;
    if (!filter->filter)
        jinja_fail(J, "No filter named '%.60s' found.", filter->value.str);
    return filter->filter->call(J, v, &args);
}

/* Runs a body in a scope of its own whose parent is `parent`. */
static enum jinja_flow exec_scoped(struct jinja *J, const node *body, struct jinja_scope *parent)
{
    struct jinja_scope *outer = J->scope;
    J->scope = jinja_scope_new(J, parent);
    enum jinja_flow flow = jinja_exec(J, body);
    J->scope = outer;
    return flow;
}

static enum jinja_flow exec_set_block(struct jinja *J, const node *n)
{
    struct jinja_scope *outer = J->scope;
    struct jinja_capture c = jinja_capture_begin(J);
    J->scope = jinja_scope_new(J, outer);
    enum jinja_flow flow = jinja_exec(J, n->b);
    struct jv text = jinja_capture_end(J, c);
    if (flow == JINJA_NEXT)
        text = apply_filters(J, n->c, text);
    J->scope = outer;
    if (flow == JINJA_NEXT)
        jinja_assign(J, n->a, text);
    return flow;
}

static enum jinja_flow exec_filter_block(struct jinja *J, const node *n)
{
    struct jinja_scope *outer = J->scope;
    struct jinja_capture c = jinja_capture_begin(J);
    J->scope = jinja_scope_new(J, outer);
    enum jinja_flow flow = jinja_exec(J, n->b);
    struct jv text = jinja_capture_end(J, c);
    if (flow == JINJA_NEXT)
        jinja_write_value(J, apply_filters(J, n->c, text));
    J->scope = outer;
    return flow;
}

static enum jinja_flow exec_with(struct jinja *J, const node *n)
{
    struct jinja_scope *outer = J->scope, *inner = jinja_scope_new(J, outer);
    for (uint32_t i = 0; i < n->n; i += 2) {
        struct jv v = jinja_eval(J, n->kids[i + 1]);
        J->scope = inner;
        jinja_assign(J, n->kids[i], v);
        J->scope = outer;
    }
    J->scope = inner;
    enum jinja_flow flow = jinja_exec(J, n->b);
    J->scope = outer;
    return flow;
}

static struct jv new_macro(struct jinja *J, const node *n)
{
    struct jinja_macro *m = jinja_alloc(J, sizeof *m);
    *m = (struct jinja_macro){n, J->scope};
    return (struct jv){.kind = JV_MACRO, .macro = m};
}

static void exec_call_block(struct jinja *J, const node *n)
{
    struct jinja_args args;
    struct jv callee = jinja_eval(J, n->a->a);
    jinja_eval_args(J, n->a->args, &args, 1);
    args.kw[args.n_kw++] = (struct jinja_kw){jv_text("caller"), new_macro(J, n)};
    J->line = n->line;
    jinja_write_value(J, jinja_call(J, callee, &args));
}

static enum jinja_flow exec_if(struct jinja *J, const node *n)
{
    while (n && n->type == JN_IF) {
        if (jv_truth(J, jinja_eval(J, n->a)))
            return jinja_exec(J, n->b);
        n = n->c;
    }
    return n ? jinja_exec(J, n) : JINJA_NEXT;
}

static enum jinja_flow exec_node(struct jinja *J, const node *n)
{
    switch ((enum jinja_node_type)n->type) {
    case JN_TEXT:
        jinja_write(J, n->value.str, n->value.len);
        return JINJA_NEXT;
    case JN_OUTPUT:
        jinja_write_value(J, jinja_eval(J, n->a));
        return JINJA_NEXT;
    case JN_IF:
        return exec_if(J, n);
    case JN_FOR:
        return jinja_exec_for(J, n);
    case JN_SET:
        jinja_assign(J, n->a, jinja_eval(J, n->b));
        return JINJA_NEXT;
    case JN_SET_BLOCK:
        return exec_set_block(J, n);
    case JN_MACRO:
        jinja_scope_set(J, J->scope, n->name, new_macro(J, n));
        return JINJA_NEXT;
    case JN_CALL_BLOCK:
        exec_call_block(J, n);
        return JINJA_NEXT;
    case JN_FILTER_BLOCK:
        return exec_filter_block(J, n);
    case JN_WITH:
        return exec_with(J, n);
    case JN_SCOPE:
        return exec_scoped(J, n->b, J->scope);
    case JN_BLOCK:
        return exec_scoped(J, n->b, n->op ? J->scope : NULL);
    case JN_BREAK:
        return JINJA_BREAK;
    case JN_CONTINUE:
        return JINJA_CONTINUE;
    case JN_NO_LOADER:
        jinja_fail(J, "no loader for this environment specified");
    default:
        return jinja_exec(J, n);
    }
}

enum jinja_flow jinja_exec(struct jinja *J, const struct jinja_node *body)
{
    enum jinja_flow flow = JINJA_NEXT;
    jinja_enter(J);
    for (uint32_t i = 0; i < body->n && flow == JINJA_NEXT; i++) {
        J->line = body->kids[i]->line;
        jinja_charge(J, 1);
        flow = exec_node(J, body->kids[i]);
    }
    jinja_leave(J);
    return flow;
}
