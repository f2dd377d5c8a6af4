/* One rendering: failing, memory, limits, variables. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_int.h"

/* C recursion of one rendering. Each level costs a few hundred bytes of stack, with sanitizers
 * about a kilobyte; threads have 8 MiB. */
#define MAX_RECURSION 2500

/* Cuts an unfinished character off the end of a message. */
static void trim_utf8(char *text)
{
    text[utf8_valid_prefix(text, strlen(text))] = 0;
}

_Noreturn static void unwind(struct jinja *J, int code)
{
    J->code = code;
    longjmp(J->unwind, 1);
}

void jinja_fail(struct jinja *J, const char *fmt, ...)
{
    char text[sizeof J->err->text - 32];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    trim_utf8(text);
    unwind(J, moed_fail(J->err, MOED_EINVAL, "template line %u: %s", J->line, text));
}

void jinja_fail_limit(struct jinja *J, const char *what)
{
    unwind(J, moed_fail(J->err, MOED_ELIMIT, "template line %u: the limit of %s is reached",
                        J->line, what));
}

void jinja_raise(struct jinja *J, struct jv message)
{
    char text[sizeof J->err->text];
    snprintf(text, sizeof text, "%.*s", (int)(message.len < 4096 ? message.len : 4096),
             message.str);
    trim_utf8(text);
    unwind(J, moed_fail(J->err, MOED_EINVAL, "%s", text));
}

static const char *bounded(struct jinja *J, struct jv text)
{
    size_t n = text.len < 300 ? text.len : 300;
    char *out = jinja_text(J, n + 1);
    if (n)
        memcpy(out, text.str, n);
    out[n] = 0;
    trim_utf8(out);
    return out;
}

const char *jinja_show(struct jinja *J, struct jv v)
{
    return bounded(J, jinja_str(J, v));
}

const char *jinja_show_repr(struct jinja *J, struct jv v)
{
    return bounded(J, jinja_repr(J, v));
}

void *jinja_alloc(struct jinja *J, size_t bytes)
{
    void *p = jinja_arena_alloc(&J->arena, bytes);
    if (!p)
        jinja_fail_limit(J, "memory");
    return p;
}

void jinja_charge(struct jinja *J, size_t n)
{
    J->steps += n;
    if (J->steps > J->limits->steps)
        jinja_fail_limit(J, "steps");
}

void jinja_enter(struct jinja *J)
{
    if (++J->nest > MAX_RECURSION)
        jinja_fail_limit(J, "nesting");
}

void jinja_leave(struct jinja *J)
{
    J->nest--;
}

/* Undefined values. */

static struct jv new_undefined(struct jinja *J, struct jinja_undefined u)
{
    struct jinja_undefined *p = jinja_alloc(J, sizeof *p);
    *p = u;
    return (struct jv){.kind = JV_UNDEFINED, .undefined = p};
}

struct jv jinja_undefined_name(struct jinja *J, struct jv name)
{
    return new_undefined(J, (struct jinja_undefined){.name = name});
}

struct jv jinja_undefined_member(struct jinja *J, struct jv owner, struct jv name)
{
    return new_undefined(J, (struct jinja_undefined){.owner = owner, .name = name});
}

struct jv jinja_undefined_hint(struct jinja *J, const char *hint)
{
    return new_undefined(J, (struct jinja_undefined){.hint = hint});
}

/* "dict object", "None" */
static const char *object_words(struct jinja *J, struct jv v)
{
    if (v.kind == JV_NONE)
        return "None";
    const char *module = "";
    if (v.kind == JV_NAMESPACE || v.kind == JV_CYCLER || v.kind == JV_JOINER)
        module = "jinja2.utils.";
    else if (v.kind == JV_LOOP || v.kind == JV_MACRO || v.kind == JV_UNDEFINED)
        module = "jinja2.runtime.";
    else if (v.kind == JV_STR && v.flags & JV_MARKUP)
        module = "markupsafe.";
    char *out = jinja_text(J, 96);
    snprintf(out, 96, "%s%s object", module, jv_type_name(v));
    return out;
}

void jinja_fail_undefined(struct jinja *J, struct jv v)
{
    const struct jinja_undefined *u = v.undefined;
    if (!u)
        jinja_fail(J, "the value is undefined");
    if (u->hint)
        jinja_fail(J, "%s", u->hint);
    if (u->owner.kind == JV_MISSING)
        jinja_fail(J, "%s is undefined", jinja_show_repr(J, u->name));
    if (u->name.kind != JV_STR)
        jinja_fail(J, "%s has no element %s", object_words(J, u->owner),
                   jinja_show_repr(J, u->name));
    jinja_fail(J, "'%s' has no attribute %s", object_words(J, u->owner),
               jinja_show_repr(J, u->name));
}

/* Variables. */

void jinja_scope_init(struct jinja_scope *s, struct jinja_scope *parent)
{
    s->parent = parent;
    s->bindings = s->first;
    s->n = 0;
    s->cap = sizeof s->first / sizeof s->first[0];
}

struct jinja_scope *jinja_scope_new(struct jinja *J, struct jinja_scope *parent)
{
    struct jinja_scope *s = jinja_alloc(J, sizeof *s);
    jinja_scope_init(s, parent);
    return s;
}

void jinja_scope_set(struct jinja *J, struct jinja_scope *s, uint32_t name, struct jv v)
{
    if (!s) {
        J->slots[name] = v;
        return;
    }
    jinja_charge(J, s->n / 16);
    for (uint32_t i = 0; i < s->n; i++)
        if (s->bindings[i].name == name) {
            s->bindings[i].value = v;
            return;
        }
    if (s->n == s->cap) {
        struct jinja_binding *grown = jinja_alloc(J, s->cap * 2 * sizeof *grown);
        memcpy(grown, s->bindings, s->n * sizeof *grown);
        s->bindings = grown;
        s->cap *= 2;
    }
    s->bindings[s->n++] = (struct jinja_binding){name, v};
}

struct jv jinja_scope_get(struct jinja *J, uint32_t name)
{
    for (const struct jinja_scope *s = J->scope; s; s = s->parent) {
        jinja_charge(J, s->n / 16);
        for (uint32_t i = 0; i < s->n; i++)
            if (s->bindings[i].name == name)
                return s->bindings[i].value;
    }
    struct jv *slot = &J->slots[name];
    if (slot->kind != JV_MISSING)
        return *slot;
    struct jv text = J->program->names[name];
    json_t *var = json_object_getn(J->vars, text.str, text.len);
    const struct jinja_function *global;
    if (var)
        *slot = jv_json(var);
    else if ((global = jinja_global_find(text.str, text.len)))
        *slot = (struct jv){.kind = JV_FUNCTION, .function = global};
    else
        *slot = jinja_undefined_name(J, text);
    return *slot;
}

/* Arguments. */

static unsigned param_index(struct jv name, const char *const *names, unsigned n)
{
    unsigned i = 0;
    while (i < n && !jv_str_is(name, names[i]))
        i++;
    return i;
}

void jinja_bind(struct jinja *J, const char *function, const struct jinja_args *args,
                const char *const *names, unsigned n_names, unsigned n_needed, struct jv *out)
{
    for (unsigned i = 0; i < n_names; i++)
        out[i] = i < args->n_pos ? args->pos[i] : (struct jv){0};
    if (args->n_pos > n_names)
        jinja_fail(J, "%s() takes at most %u arguments (%u given)", function, n_names, args->n_pos);
    for (uint32_t k = 0; k < args->n_kw; k++) {
        unsigned i = param_index(args->kw[k].name, names, n_names);
        if (i == n_names)
            jinja_fail(J, "%s() got an unexpected keyword argument '%s'", function,
                       jinja_show(J, args->kw[k].name));
        if (out[i].kind != JV_MISSING)
            jinja_fail(J, "%s() got multiple values for argument '%s'", function, names[i]);
        out[i] = args->kw[k].value;
    }
    for (unsigned i = 0; i < n_needed; i++)
        if (out[i].kind == JV_MISSING)
            jinja_fail(J, "%s() missing required argument '%s'", function, names[i]);
}
