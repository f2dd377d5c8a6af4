/* Calls: methods, globals, macros with their defaults, varargs, kwargs and caller. */
#include <string.h>

#include "text/jinja_int.h"

struct jv jinja_method_bind(struct jinja *J, const struct jinja_method_row *rows, struct jv self,
                            struct jv name)
{
    for (; rows->name; rows++)
        if (rows->name[0] == (name.len ? name.str[0] : 0) && jv_str_is(name, rows->name)) {
            struct jinja_method *m = jinja_alloc(J, sizeof *m);
            *m = (struct jinja_method){self, rows->name, rows->call};
            return (struct jv){.kind = JV_METHOD, .method = m};
        }
    return (struct jv){0};
}

/* Takes a keyword argument out; missing if it is not there. */
static struct jv pop_kw(struct jinja_args *args, struct jv name)
{
    for (uint32_t i = 0; i < args->n_kw; i++) {
        struct jinja_kw kw = args->kw[i];
        if (kw.name.len == name.len && memcmp(kw.name.str, name.str, name.len) == 0) {
            memmove(&args->kw[i], &args->kw[i + 1], (--args->n_kw - i) * sizeof kw);
            return kw.value;
        }
    }
    return (struct jv){0};
}

static const char *macro_name(struct jinja *J, const struct jinja_macro *m)
{
    return m->node->value.kind == JV_STR ? jinja_show_repr(J, m->node->value) : "None";
}

_Noreturn static void fail_kwargs(struct jinja *J, const struct jinja_macro *m,
                                  const struct jinja_args *args)
{
    for (uint32_t i = 0; i < args->n_kw; i++)
        if (jv_str_is(args->kw[i].name, "caller"))
            jinja_fail(J,
                       "macro %s was invoked with two values for the special caller argument. "
                       "This is most likely a bug.",
                       macro_name(J, m));
    jinja_fail(J, "macro %s takes no keyword argument %s", macro_name(J, m),
               jinja_show_repr(J, args->kw[0].name));
}

/* varargs, kwargs and caller, where the body uses them. */
static void bind_special(struct jinja *J, const struct jinja_macro *m, struct jinja_scope *scope,
                         struct jinja_args *args, int found_caller)
{
    const struct jinja_params *params = m->node->params;
    if (params->uses_caller && !found_caller) {
        struct jv caller = pop_kw(args, jv_text("caller"));
        if (caller.kind == JV_MISSING || caller.kind == JV_NONE)
            caller = jinja_undefined_hint(J, "No caller defined");
        jinja_scope_set(J, scope, JINJA_NAME_CALLER, caller);
    }
    if (params->uses_kwargs) {
        struct jinja_dict *d = jinja_dict_new(J);
        for (uint32_t i = 0; i < args->n_kw; i++)
            jinja_dict_set(J, d, args->kw[i].name, args->kw[i].value);
        jinja_scope_set(J, scope, JINJA_NAME_KWARGS, jv_dict(d));
    } else if (args->n_kw) {
        fail_kwargs(J, m, args);
    }
    if (params->uses_varargs) {
        struct jinja_list *l = jinja_list_new(J, 0);
        for (uint32_t i = params->n; i < args->n_pos; i++)
            jinja_list_add(J, l, args->pos[i]);
        jinja_scope_set(J, scope, JINJA_NAME_VARARGS, jv_tuple(l));
    } else if (args->n_pos > params->n) {
        jinja_fail(J, "macro %s takes not more than %u argument(s)", macro_name(J, m), params->n);
    }
}

static struct jv default_value(struct jinja *J, const struct jinja_param *param)
{
    if (param->value)
        return jinja_eval(J, param->value);
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_puts(J, "parameter ");
    jinja_print_repr(J, J->program->names[param->name]);
    jinja_puts(J, " was not provided");
    jinja_write(J, "", 1);
    return jinja_undefined_hint(J, jinja_capture_end(J, c).str);
}

struct jv jinja_call_macro(struct jinja *J, const struct jinja_macro *m,
                           const struct jinja_args *given)
{
    const struct jinja_params *params = m->node->params;
    struct jinja_args args = *given;
    struct jinja_scope *outer = J->scope, *scope = jinja_scope_new(J, m->scope);
    struct jv *values = jinja_alloc(J, (params->n + 1) * sizeof *values);
    int found_caller = args.n_pos >= params->n && params->explicit_caller;
    jinja_charge(J, params->n + (size_t)params->n * args.n_kw / 16);
    if (++J->depth > J->limits->depth)
        jinja_fail_limit(J, "depth");
    for (uint32_t i = 0; i < params->n; i++) {
        uint32_t name = params->list[i].name;
        if (i < args.n_pos) {
            values[i] = args.pos[i];
        } else {
            values[i] = pop_kw(&args, J->program->names[name]);
            found_caller |= name == JINJA_NAME_CALLER;
        }
    }
    bind_special(J, m, scope, &args, found_caller);
    J->scope = scope;
    for (uint32_t i = 0; i < params->n; i++)
        if (values[i].kind != JV_MISSING)
            jinja_scope_set(J, scope, params->list[i].name, values[i]);
    for (uint32_t i = 0; i < params->n; i++)
        if (values[i].kind == JV_MISSING)
            jinja_scope_set(J, scope, params->list[i].name, default_value(J, &params->list[i]));
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_exec(J, m->node->b);
    struct jv text = jinja_capture_end(J, c);
    J->scope = outer;
    J->depth--;
    return text;
}

static struct jv call_joiner(struct jinja *J, struct jinja_cycle *joiner)
{
    int used = joiner->pos != 0;
    joiner->pos = 1;
    return used ? joiner->items[0] : jv_str("", 0);
}

struct jv jinja_call(struct jinja *J, struct jv callee, const struct jinja_args *args)
{
    struct jv v;
    jinja_enter(J);
    switch (callee.kind) {
    case JV_METHOD:
        v = callee.method->call(J, callee.method->self, args);
        break;
    case JV_FUNCTION:
        v = callee.function->call(J, args);
        break;
    case JV_MACRO:
        v = jinja_call_macro(J, callee.macro, args);
        break;
    case JV_LOOP:
        v = jinja_loop_recurse(J, callee.loop, args);
        break;
    case JV_JOINER:
        v = call_joiner(J, callee.cycle);
        break;
    case JV_UNDEFINED:
        jinja_fail_undefined(J, callee);
    default:
        jinja_fail(J, "'%s' object is not callable", jv_type_name(callee));
    }
    jinja_leave(J);
    return v;
}
