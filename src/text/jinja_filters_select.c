/* Filters that are generators: their work is done when the first item is asked for. */
#include <string.h>

#include "text/jinja_int.h"

typedef const struct jinja_args args_t;

struct lazy {
    struct jv value;
    struct jinja_args args;
    int by_attribute, reject;
    struct jv a[2];
};

static struct jv lazy_iter(struct jinja *J, struct jv v, args_t *args, struct lazy set,
                           struct jinja_list *(*fill)(struct jinja *, void *))
{
    struct lazy *state = jinja_alloc(J, sizeof *state);
    *state = set;
    state->value = v;
    state->args = *args;
    return jinja_iter_new(J, "generator", fill, state);
}

static struct jv attribute_default(struct jinja *J, struct jv item, struct jv path,
                                   struct jv fallback)
{
    item = jinja_getpath(J, item, path);
    return item.kind == JV_UNDEFINED && fallback.kind != JV_MISSING && fallback.kind != JV_NONE
               ? fallback
               : item;
}

static struct jv kwarg(args_t *args, const char *name)
{
    for (uint32_t i = 0; i < args->n_kw; i++)
        if (jv_str_is(args->kw[i].name, name))
            return args->kw[i].value;
    return (struct jv){0};
}

static struct jinja_list *fill_map(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0);
    struct jinja_args rest = s->args;
    struct jv path = kwarg(&s->args, "attribute"), fallback = kwarg(&s->args, "default"), item;
    const struct jinja_filter *filter = NULL;
    if (!jv_truth(J, s->value))
        return out;
    if (rest.n_pos) {
        struct jv name = rest.pos[0];
        rest.pos++;
        rest.n_pos--;
        filter = name.kind == JV_STR ? jinja_filter_find(name.str, name.len) : NULL;
        if (!filter)
            jinja_fail(J, "No filter named %s.", jinja_show_repr(J, name));
    } else if (path.kind == JV_MISSING) {
        jinja_fail(J, "map requires a filter argument");
    } else if (rest.n_kw > 1u + (fallback.kind != JV_MISSING)) {
        for (uint32_t i = 0; i < rest.n_kw; i++)
            if (!jv_str_is(rest.kw[i].name, "attribute") && !jv_str_is(rest.kw[i].name, "default"))
                jinja_fail(J, "Unexpected keyword argument %s",
                           jinja_show_repr(J, rest.kw[i].name));
    }
    for (struct jinja_cursor c = jv_iterate(J, s->value); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        item = filter ? filter->call(J, item, &rest) : attribute_default(J, item, path, fallback);
        jinja_list_add(J, out, item);
    }
    return out;
}

static struct jv f_map(struct jinja *J, struct jv v, args_t *args)
{
    return lazy_iter(J, v, args, (struct lazy){0}, fill_map);
}

static struct jinja_list *fill_select(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0);
    struct jinja_args rest = s->args;
    struct jv path = {0}, item;
    const struct jinja_test *test = NULL;
    if (!jv_truth(J, s->value))
        return out;
    if (s->by_attribute) {
        if (!rest.n_pos)
            jinja_fail(J, "Missing parameter for attribute name");
        path = *rest.pos++;
        rest.n_pos--;
    }
    if (rest.n_pos) {
        struct jv name = *rest.pos++;
        rest.n_pos--;
        test = name.kind == JV_STR ? jinja_test_find(name.str, name.len) : NULL;
        if (!test)
            jinja_fail(J, "No test named %s.", jinja_show_repr(J, name));
    }
    for (struct jinja_cursor c = jv_iterate(J, s->value); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        struct jv tested = s->by_attribute ? jinja_getpath(J, item, path) : item;
        int pass = test ? test->call(J, tested, &rest) : jv_truth(J, tested);
        if (pass != s->reject)
            jinja_list_add(J, out, item);
    }
    return out;
}

static struct jv f_select(struct jinja *J, struct jv v, args_t *args)
{
    return lazy_iter(J, v, args, (struct lazy){0}, fill_select);
}

static struct jv f_reject(struct jinja *J, struct jv v, args_t *args)
{
    return lazy_iter(J, v, args, (struct lazy){.reject = 1}, fill_select);
}

static struct jv f_selectattr(struct jinja *J, struct jv v, args_t *args)
{
    return lazy_iter(J, v, args, (struct lazy){.by_attribute = 1}, fill_select);
}

static struct jv f_rejectattr(struct jinja *J, struct jv v, args_t *args)
{
    return lazy_iter(J, v, args, (struct lazy){.by_attribute = 1, .reject = 1}, fill_select);
}

static struct jinja_list *fill_items(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0);
    struct jinja_walk w = {0};
    struct jv key, value;
    if (s->value.kind == JV_UNDEFINED)
        return out;
    if (!jv_is_mapping(s->value))
        jinja_fail(J, "Can only get item pairs from a mapping.");
    while (jv_walk(s->value, &w, &key, &value)) {
        jinja_charge(J, 1);
        jinja_list_add(J, out, jinja_pair(J, key, value));
    }
    return out;
}

static struct jv f_items(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "do_items", args, NULL, 0, 0, NULL);
    return lazy_iter(J, v, args, (struct lazy){0}, fill_items);
}

static struct jinja_list *fill_unique(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0);
    struct jinja_dict *seen = jinja_dict_new(J);
    int case_sensitive = s->a[0].kind != JV_MISSING && jv_truth(J, s->a[0]);
    struct jv item;
    for (struct jinja_cursor c = jv_iterate(J, s->value); jv_next(J, &c, &item);) {
        struct jv key = item;
        jinja_charge(J, 1);
        if (s->a[1].kind != JV_MISSING)
            key = jinja_getpath(J, item, s->a[1]);
        if (key.kind == JV_STR && !case_sensitive)
            key = jinja_lower(J, key);
        if (jinja_dict_get(J, seen, key).kind != JV_MISSING)
            continue;
        jinja_dict_set(J, seen, key, jv_none());
        jinja_list_add(J, out, item);
    }
    return out;
}

static struct jv f_unique(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct lazy set = {0};
    jinja_bind(J, "do_unique", args, names, 2, 0, set.a);
    return lazy_iter(J, v, args, set, fill_unique);
}

static struct jinja_list *fill_batch(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0), *batch = jinja_list_new(J, 0);
    /* What is no number never equals a length: one batch of all. */
    int64_t size = jv_is_number(s->a[0]) ? jinja_need_int(J, s->a[0]) : INT64_MAX;
    int filled = s->a[1].kind != JV_MISSING && s->a[1].kind != JV_NONE;
    struct jv item;
    for (struct jinja_cursor c = jv_iterate(J, s->value); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        if (batch->n == size) {
            jinja_list_add(J, out, jv_list(batch));
            batch = jinja_list_new(J, 0);
        }
        jinja_list_add(J, batch, item);
    }
    if (!batch->n)
        return out;
    if (filled)
        size = jinja_need_int(J, s->a[0]);
    while (filled && batch->n < size) {
        jinja_charge(J, 1);
        jinja_list_add(J, batch, s->a[1]);
    }
    jinja_list_add(J, out, jv_list(batch));
    return out;
}

static struct jv f_batch(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"linecount", "fill_with"};
    struct lazy set = {0};
    jinja_bind(J, "do_batch", args, names, 2, 1, set.a);
    return lazy_iter(J, v, args, set, fill_batch);
}

static struct jinja_list *fill_slice(struct jinja *J, void *p)
{
    const struct lazy *s = p;
    struct jinja_list *out = jinja_list_new(J, 0), *seq = jv_to_list(J, s->value);
    int64_t slices = jinja_need_int(J, s->a[0]);
    if (slices == 0)
        jinja_fail(J, "integer division or modulo by zero");
    if (slices < 0)
        return out;
    int64_t each = seq->n / slices, extra = seq->n % slices, at = 0;
    for (int64_t i = 0; i < slices; i++) {
        int64_t n = each + (i < extra);
        struct jinja_list *part = jinja_list_new(J, (size_t)n + 1);
        jinja_charge(J, 1);
        for (int64_t k = 0; k < n; k++)
            part->items[part->n++] = seq->items[at++];
        if (s->a[1].kind != JV_MISSING && s->a[1].kind != JV_NONE && i >= extra)
            part->items[part->n++] = s->a[1];
        jinja_list_add(J, out, jv_list(part));
    }
    return out;
}

static struct jv f_slice(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"slices", "fill_with"};
    struct lazy set = {0};
    jinja_bind(J, "do_slice", args, names, 2, 1, set.a);
    return lazy_iter(J, v, args, set, fill_slice);
}

const struct jinja_filter jinja_filters_select[] = {
    {"map", f_map},
    {"select", f_select},
    {"reject", f_reject},
    {"selectattr", f_selectattr},
    {"rejectattr", f_rejectattr},
    {"items", f_items},
    {"unique", f_unique},
    {"batch", f_batch},
    {"slice", f_slice},
    {NULL, NULL},
};
