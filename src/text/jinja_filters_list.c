/* Filters of sequences and mappings: order, grouping, ends, joining. */
#include <string.h>

#include "text/jinja_int.h"

typedef const struct jinja_args args_t;

static int given(struct jv v)
{
    return v.kind != JV_MISSING && v.kind != JV_NONE;
}

static int flag(struct jinja *J, struct jv v)
{
    return v.kind != JV_MISSING && jv_truth(J, v);
}

/* Merge sort of [from, to): stable, n log n comparisons, each counted. */
static void merge(struct jinja *J, struct jv *items, struct jv *keys, struct jv *spare, size_t from,
                  size_t to, int reverse)
{
    if (to - from < 2)
        return;
    size_t mid = from + (to - from) / 2, i = from, j = mid, n = to - from;
    merge(J, items, keys, spare, from, mid, reverse);
    merge(J, items, keys, spare, mid, to, reverse);
    for (size_t k = 0; k < n; k++) {
        int right;
        jinja_charge(J, 1);
        if (i == mid || j == to)
            right = i == mid;
        else if (reverse)
            right = jv_compare(J, keys[i], keys[j], "<") == -1;
        else
            right = jv_compare(J, keys[j], keys[i], "<") == -1;
        size_t take = right ? j++ : i++;
        spare[k] = items[take];
        spare[n + k] = keys[take];
    }
    memcpy(items + from, spare, n * sizeof *items);
    memcpy(keys + from, spare + n, n * sizeof *keys);
}

void jinja_sort(struct jinja *J, struct jinja_list *items, struct jinja_list *keys, int reverse)
{
    struct jv *spare = jinja_alloc(J, (size_t)items->n * 2 * sizeof *spare);
    merge(J, items->items, keys->items, spare, 0, items->n, reverse);
}

static struct jv ignore_case(struct jinja *J, struct jv v, int case_sensitive)
{
    return v.kind == JV_STR && !case_sensitive ? jinja_lower(J, v) : v;
}

/* The value an attribute path leads to, with a default for what is undefined. */
static struct jv attribute_of(struct jinja *J, struct jv item, struct jv path, struct jv fallback)
{
    if (!given(path))
        return item;
    item = jinja_getpath(J, item, path);
    return item.kind == JV_UNDEFINED && given(fallback) ? fallback : item;
}

/* sort compares lists of attributes ("a,b"), so that equal ones of any type need no order. */
static struct jv sort_key(struct jinja *J, struct jv item, struct jv path, int case_sensitive)
{
    struct jinja_list *key = jinja_list_new(J, 1);
    if (path.kind != JV_STR) {
        jinja_list_add(J, key,
                       ignore_case(J, attribute_of(J, item, path, jv_none()), case_sensitive));
        return jv_list(key);
    }
    for (size_t from = 0; from <= path.len;) {
        const char *comma = path.len > from ? memchr(path.str + from, ',', path.len - from) : NULL;
        size_t to = comma ? (size_t)(comma - path.str) : path.len;
        struct jv v = jinja_getpath(J, item, jv_str_part(path, from, to));
        jinja_list_add(J, key, ignore_case(J, v, case_sensitive));
        from = to + 1;
    }
    return jv_list(key);
}

static struct jv f_sort(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"reverse", "case_sensitive", "attribute"};
    struct jv a[3];
    jinja_bind(J, "do_sort", args, names, 3, 0, a);
    struct jinja_list *items = jv_to_list(J, v), *keys = jinja_list_new(J, items->n);
    for (uint32_t i = 0; i < items->n; i++)
        jinja_list_add(J, keys, sort_key(J, items->items[i], a[2], flag(J, a[1])));
    jinja_sort(J, items, keys, flag(J, a[0]));
    return jv_list(items);
}

static struct jv f_dictsort(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"case_sensitive", "by", "reverse"};
    struct jv a[3], key, value;
    jinja_bind(J, "do_dictsort", args, names, 3, 0, a);
    int by_value = jv_str_is(a[1], "value");
    if (a[1].kind != JV_MISSING && !by_value && !jv_str_is(a[1], "key"))
        jinja_fail(J, "You can only sort by either \"key\" or \"value\"");
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    if (!jv_is_mapping(v))
        jinja_fail(J, "'%s' object has no attribute 'items'", jv_type_name(v));
    struct jinja_list *items = jinja_list_new(J, 0), *keys = jinja_list_new(J, 0);
    struct jinja_walk w = {0};
    while (jv_walk(v, &w, &key, &value)) {
        jinja_charge(J, 1);
        jinja_list_add(J, items, jinja_pair(J, key, value));
        jinja_list_add(J, keys, ignore_case(J, by_value ? value : key, flag(J, a[0])));
    }
    jinja_sort(J, items, keys, flag(J, a[2]));
    return jv_list(items);
}

static struct jv min_max(struct jinja *J, struct jv v, args_t *args, const char *op)
{
    static const char *const names[] = {"case_sensitive", "attribute"};
    struct jv a[2], item, best = {0}, best_key = {0};
    jinja_bind(J, *op == '<' ? "do_min" : "do_max", args, names, 2, 0, a);
    for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        struct jv key = ignore_case(J, attribute_of(J, item, a[1], jv_none()), flag(J, a[0]));
        if (best.kind == JV_MISSING || jv_compare(J, key, best_key, op) == (*op == '<' ? -1 : 1)) {
            best = item;
            best_key = key;
        }
    }
    return best.kind == JV_MISSING
               ? jinja_undefined_hint(J, "No aggregated item, sequence was empty.")
               : best;
}

static struct jv f_min(struct jinja *J, struct jv v, args_t *args)
{
    return min_max(J, v, args, "<");
}

static struct jv f_max(struct jinja *J, struct jv v, args_t *args)
{
    return min_max(J, v, args, ">");
}

static struct jv f_groupby(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"attribute", "default", "case_sensitive"};
    struct jv a[3];
    jinja_bind(J, "do_groupby", args, names, 3, 1, a);
    struct jinja_list *items = jv_to_list(J, v), *keys = jinja_list_new(J, items->n);
    for (uint32_t i = 0; i < items->n; i++)
        jinja_list_add(J, keys,
                       ignore_case(J, attribute_of(J, items->items[i], a[0], a[1]), flag(J, a[2])));
    jinja_sort(J, items, keys, 0);
    struct jinja_list *groups = jinja_list_new(J, 0), *group = NULL;
    for (uint32_t i = 0; i < items->n; i++) {
        if (!i || !jv_equal(J, keys->items[i], keys->items[i - 1])) {
            group = jinja_list_new(J, 0);
            struct jv name = attribute_of(J, items->items[i], a[0], a[1]);
            struct jv pair = jinja_pair(J, name, jv_list(group));
            pair.flags |= JV_GROUP;
            jinja_list_add(J, groups, pair);
        }
        jinja_list_add(J, group, items->items[i]);
    }
    return jv_list(groups);
}

static struct jv f_length(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "len", args, NULL, 0, 0, NULL);
    int64_t n = jv_len(J, v);
    if (n < 0)
        jinja_fail(J, "object of type '%s' has no len()", jv_type_name(v));
    return jv_int(n);
}

static struct jv f_list(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "do_list", args, NULL, 0, 0, NULL);
    return jv_list(jv_to_list(J, v));
}

static struct jv f_first(struct jinja *J, struct jv v, args_t *args)
{
    struct jv item;
    jinja_bind(J, "do_first", args, NULL, 0, 0, NULL);
    struct jinja_cursor c = jv_iterate(J, v);
    return jv_next(J, &c, &item) ? item
                                 : jinja_undefined_hint(J, "No first item, sequence was empty.");
}

static struct jv f_last(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "do_last", args, NULL, 0, 0, NULL);
    if (v.kind == JV_ITER || !jv_is_iterable(v))
        jinja_fail(J, "'%s' object is not reversible", jv_type_name(v));
    int64_t n = jv_len(J, v);
    if (n == 0)
        return jinja_undefined_hint(J, "No last item, sequence was empty.");
    if (v.kind == JV_STR || v.kind == JV_RANGE || jv_is_listlike(v))
        return jinja_getitem(J, v, jv_int(-1));
    const struct jinja_list *l = jv_to_list(J, v);
    return l->items[l->n - 1];
}

static struct jinja_list *fill_reversed(struct jinja *J, void *state)
{
    const struct jv *v = state;
    struct jinja_list *l = jv_to_list(J, *v);
    for (uint32_t i = 0; i < l->n / 2; i++) {
        struct jv t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
    return l;
}

static struct jv f_reverse(struct jinja *J, struct jv v, args_t *args)
{
    jinja_bind(J, "do_reverse", args, NULL, 0, 0, NULL);
    if (v.kind == JV_STR) {
        struct jv out = jinja_slice(J, v, jv_none(), jv_none(), jv_int(-1));
        return out;
    }
    if (!jv_is_iterable(v))
        jinja_fail(J, "argument must be iterable");
    struct jv *state = jinja_alloc(J, sizeof *state);
    *state = v;
    if (v.kind == JV_ITER)
        return jv_list(fill_reversed(J, state));
    const char *type = v.kind == JV_LIST || v.kind == JV_JSON_ARRAY ? "list_reverseiterator"
                       : v.kind == JV_RANGE                         ? "range_iterator"
                       : jv_is_mapping(v)                           ? "dict_reversekeyiterator"
                                                                    : "reversed";
    return jinja_iter_new(J, type, fill_reversed, state);
}

static struct jv f_join(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"d", "attribute"};
    struct jv a[2];
    jinja_bind(J, "do_join", args, names, 2, 0, a);
    struct jv separator = a[0].kind == JV_MISSING ? jv_str("", 0) : jinja_str(J, a[0]);
    return jinja_join(J, separator, v, given(a[1]) ? a[1] : (struct jv){0}, 0);
}

static struct jv f_default(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"default_value", "boolean"};
    struct jv a[2];
    jinja_bind(J, "do_default", args, names, 2, 0, a);
    if (v.kind == JV_UNDEFINED || (flag(J, a[1]) && !jv_truth(J, v)))
        return a[0].kind == JV_MISSING ? jv_str("", 0) : a[0];
    return v;
}

static struct jv f_attr(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"name"};
    struct jv name;
    jinja_bind(J, "do_attr", args, names, 1, 1, &name);
    name = jinja_need_str(J, name, "attribute name");
    if (v.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, v);
    struct jv found = jinja_own_attr(J, v, name);
    return found.kind == JV_MISSING ? jinja_undefined_member(J, v, name) : found;
}

const struct jinja_filter jinja_filters_list[] = {
    {"sort", f_sort},       {"dictsort", f_dictsort}, {"min", f_min},         {"max", f_max},
    {"groupby", f_groupby}, {"length", f_length},     {"count", f_length},    {"list", f_list},
    {"first", f_first},     {"last", f_last},         {"reverse", f_reverse}, {"join", f_join},
    {"default", f_default}, {"d", f_default},         {"attr", f_attr},       {NULL, NULL},
};
