/* The functions that every template finds: range, dict, namespace, raise_exception ... */
#include <string.h>

#include "text/jinja_int.h"

typedef const struct jinja_args args_t;

/* As the sandbox of Jinja has it. */
#define MAX_RANGE 100000

static struct jv g_range(struct jinja *J, args_t *args)
{
    int64_t start = 0, stop, step = 1;
    if (args->n_kw)
        jinja_fail(J, "range() takes no keyword arguments");
    if (args->n_pos < 1 || args->n_pos > 3)
        jinja_fail(J, "range expected at %s %d argument%s, got %u", args->n_pos ? "most" : "least",
                   args->n_pos ? 3 : 1, args->n_pos ? "s" : "", args->n_pos);
    stop = jinja_need_int(J, args->pos[args->n_pos > 1]);
    if (args->n_pos > 1)
        start = jinja_need_int(J, args->pos[0]);
    if (args->n_pos > 2)
        step = jinja_need_int(J, args->pos[2]);
    if (step == 0)
        jinja_fail(J, "range() arg 3 must not be zero");
    uint64_t n = 0;
    if (step > 0 && stop > start)
        n = ((uint64_t)stop - (uint64_t)start - 1) / (uint64_t)step + 1;
    else if (step < 0 && start > stop)
        n = ((uint64_t)start - (uint64_t)stop - 1) / (0 - (uint64_t)step) + 1;
    if (n > MAX_RANGE)
        jinja_fail(J, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                   MAX_RANGE);
    struct jinja_range *r = jinja_alloc(J, sizeof *r);
    *r = (struct jinja_range){start, stop, step, (int64_t)n};
    return (struct jv){.kind = JV_RANGE, .range = r};
}

static struct jv g_dict(struct jinja *J, args_t *args)
{
    struct jinja_dict *d = jinja_dict_new(J);
    jinja_dict_update(J, d, "dict", args);
    return jv_dict(d);
}

static struct jv g_namespace(struct jinja *J, args_t *args)
{
    struct jv v = g_dict(J, args);
    v.kind = JV_NAMESPACE;
    return v;
}

static struct jv g_raise_exception(struct jinja *J, args_t *args)
{
    static const char *const names[] = {"message"};
    struct jv message;
    jinja_bind(J, "raise_exception", args, names, 1, 1, &message);
    jinja_raise(J, jinja_str(J, message));
}

static struct jv g_strftime_now(struct jinja *J, args_t *args)
{
    static const char *const names[] = {"format"};
    struct jv format;
    jinja_bind(J, "strftime_now", args, names, 1, 1, &format);
    return jinja_strftime(J, jinja_need_str(J, format, "strftime() argument 1"));
}

static struct jinja_cycle *new_cycle(struct jinja *J, const struct jv *items, uint32_t n)
{
    struct jinja_cycle *c = jinja_alloc(J, sizeof *c);
    *c = (struct jinja_cycle){.n = n, .items = jinja_alloc(J, n * sizeof *items)};
    memcpy(c->items, items, n * sizeof *items);
    return c;
}

static struct jv g_cycler(struct jinja *J, args_t *args)
{
    if (!args->n_pos)
        jinja_fail(J, "at least one item has to be provided");
    struct jinja_cycle *c = new_cycle(J, args->pos, args->n_pos);
    return (struct jv){.kind = JV_CYCLER, .cycle = c};
}

static struct jv g_joiner(struct jinja *J, args_t *args)
{
    static const char *const names[] = {"sep"};
    struct jv sep;
    jinja_bind(J, "joiner", args, names, 1, 0, &sep);
    if (sep.kind == JV_MISSING)
        sep = jv_text(", ");
    return (struct jv){.kind = JV_JOINER, .cycle = new_cycle(J, &sep, 1)};
}

static const struct jinja_function globals[] = {
    {"range", g_range},
    {"dict", g_dict},
    {"namespace", g_namespace},
    {"raise_exception", g_raise_exception},
    {"strftime_now", g_strftime_now},
    {"cycler", g_cycler},
    {"joiner", g_joiner},
};

const struct jinja_function *jinja_global_find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof globals / sizeof globals[0]; i++)
        if (strlen(globals[i].name) == n && memcmp(globals[i].name, name, n) == 0)
            return &globals[i];
    return NULL;
}
