/* The methods of lists, tuples, dicts, cyclers and numbers. What the template made itself may be
 * changed; the caller's JSON may not. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_int.h"

typedef const struct jinja_args args_t;

static void bind(struct jinja *J, const char *name, args_t *args, unsigned n, unsigned needed,
                 struct jv *out)
{
    static const char *const none[] = {"", "", ""}; /* positional only: "" is no keyword */
    jinja_bind(J, name, args, none, n, needed, out);
}

/* Lists. */

static struct jv list_append(struct jinja *J, struct jv self, args_t *args)
{
    struct jv v;
    bind(J, "append", args, 1, 1, &v);
    jinja_list_add(J, self.list, v);
    return jv_none();
}

static struct jv list_extend(struct jinja *J, struct jv self, args_t *args)
{
    struct jv v;
    bind(J, "extend", args, 1, 1, &v);
    const struct jinja_list *more = jv_to_list(J, v);
    for (uint32_t i = 0; i < more->n; i++)
        jinja_list_add(J, self.list, more->items[i]);
    return jv_none();
}

static void remove_at(struct jinja *J, struct jinja_list *l, uint32_t i)
{
    jinja_charge(J, (l->n - i) / 16);
    memmove(&l->items[i], &l->items[i + 1], (l->n - i - 1) * sizeof *l->items);
    l->n--;
}

static struct jv list_pop(struct jinja *J, struct jv self, args_t *args)
{
    struct jv at;
    bind(J, "pop", args, 1, 0, &at);
    struct jinja_list *l = self.list;
    int64_t i = at.kind == JV_MISSING ? -1 : jinja_need_int(J, at);
    if (!l->n)
        jinja_fail(J, "pop from empty list");
    if (i < 0)
        i += l->n;
    if (i < 0 || i >= l->n)
        jinja_fail(J, "pop index out of range");
    struct jv v = l->items[i];
    remove_at(J, l, (uint32_t)i);
    return v;
}

static struct jv list_insert(struct jinja *J, struct jv self, args_t *args)
{
    struct jv a[2];
    bind(J, "insert", args, 2, 2, a);
    struct jinja_list *l = self.list;
    int64_t i = jinja_need_int(J, a[0]);
    if (i < 0)
        i = i < -(int64_t)l->n ? 0 : i + l->n;
    if (i > l->n)
        i = l->n;
    jinja_list_add(J, l, jv_none());
    jinja_charge(J, (l->n - (size_t)i) / 16);
    memmove(&l->items[i + 1], &l->items[i], (l->n - 1 - (size_t)i) * sizeof *l->items);
    l->items[i] = a[1];
    return jv_none();
}

static int64_t position(struct jinja *J, struct jv self, struct jv v)
{
    for (int64_t i = 0; i < jv_len(J, self); i++) {
        jinja_charge(J, 1);
        if (jv_equal(J, jv_at(self, i), v))
            return i;
    }
    return -1;
}

static struct jv list_remove(struct jinja *J, struct jv self, args_t *args)
{
    struct jv v;
    bind(J, "remove", args, 1, 1, &v);
    int64_t i = position(J, self, v);
    if (i < 0)
        jinja_fail(J, "list.remove(x): x not in list");
    remove_at(J, self.list, (uint32_t)i);
    return jv_none();
}

static struct jv list_reverse(struct jinja *J, struct jv self, args_t *args)
{
    struct jinja_list *l = self.list;
    bind(J, "reverse", args, 0, 0, NULL);
    jinja_charge(J, l->n);
    for (uint32_t i = 0; i < l->n / 2; i++) {
        struct jv t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
    return jv_none();
}

static struct jv list_clear(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "clear", args, 0, 0, NULL);
    self.list->n = 0;
    return jv_none();
}

static struct jv list_index(struct jinja *J, struct jv self, args_t *args)
{
    struct jv v;
    bind(J, "index", args, 1, 1, &v);
    int64_t i = position(J, self, v);
    if (i < 0 && self.kind == JV_TUPLE)
        jinja_fail(J, "tuple.index(x): x not in tuple");
    if (i < 0)
        jinja_fail(J, "%s is not in %s", jinja_show_repr(J, v), jv_type_name(self));
    return jv_int(i);
}

static struct jv list_count(struct jinja *J, struct jv self, args_t *args)
{
    struct jv v;
    int64_t count = 0;
    bind(J, "count", args, 1, 1, &v);
    for (int64_t i = 0; i < jv_len(J, self); i++) {
        jinja_charge(J, 1);
        count += jv_equal(J, jv_at(self, i), v);
    }
    return jv_int(count);
}

static struct jv list_copy(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "copy", args, 0, 0, NULL);
    return jv_list(jv_to_list(J, self));
}

/* Dicts. */

static struct jv view(struct jinja *J, const char *name, struct jv self, args_t *args,
                      unsigned kind)
{
    bind(J, name, args, 0, 0, NULL);
    unsigned json = self.kind == JV_JSON_OBJECT ? JV_VIEW_JSON : 0;
    return (struct jv){.kind = JV_VIEW, .flags = (uint8_t)(kind | json), .dict = self.dict};
}

static struct jv dict_keys(struct jinja *J, struct jv self, args_t *args)
{
    return view(J, "keys", self, args, JV_KEYS);
}

static struct jv dict_values(struct jinja *J, struct jv self, args_t *args)
{
    return view(J, "values", self, args, JV_VALUES);
}

static struct jv dict_items(struct jinja *J, struct jv self, args_t *args)
{
    return view(J, "items", self, args, JV_ITEMS);
}

static struct jv dict_get(struct jinja *J, struct jv self, args_t *args)
{
    struct jv a[2];
    bind(J, "get", args, 2, 1, a);
    struct jv v = jv_lookup(J, self, a[0]);
    if (v.kind != JV_MISSING)
        return v;
    return a[1].kind == JV_MISSING ? jv_none() : a[1];
}

static struct jv dict_copy(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "copy", args, 0, 0, NULL);
    return jv_dict(jv_to_dict(J, self));
}

static void add_pair(struct jinja *J, struct jinja_dict *d, struct jv pair)
{
    struct jv part[2], item;
    int n = 0;
    for (struct jinja_cursor c = jv_iterate(J, pair); jv_next(J, &c, &item); n++)
        if (n < 2)
            part[n] = item;
    if (n != 2)
        jinja_fail(J, "dictionary update sequence element has length %d; 2 is required", n);
    jinja_dict_set(J, d, part[0], part[1]);
}

/* dict.update(), dict() and namespace(): a mapping or pairs, then keywords. */
void jinja_dict_update(struct jinja *J, struct jinja_dict *d, const char *name, args_t *args)
{
    if (args->n_pos > 1)
        jinja_fail(J, "%s expected at most 1 argument, got %u", name, args->n_pos);
    struct jv from = args->n_pos ? args->pos[0] : jv_none(), key, value;
    if (jv_is_mapping(from)) {
        struct jinja_walk w = {0};
        while (jv_walk(from, &w, &key, &value)) {
            jinja_charge(J, 1);
            jinja_dict_set(J, d, key, value);
        }
    } else if (args->n_pos) {
        for (struct jinja_cursor c = jv_iterate(J, from); jv_next(J, &c, &value);) {
            jinja_charge(J, 1);
            add_pair(J, d, value);
        }
    }
    for (uint32_t i = 0; i < args->n_kw; i++)
        jinja_dict_set(J, d, args->kw[i].name, args->kw[i].value);
}

static struct jv dict_update(struct jinja *J, struct jv self, args_t *args)
{
    jinja_dict_update(J, self.dict, "update", args);
    return jv_none();
}

static struct jv dict_pop(struct jinja *J, struct jv self, args_t *args)
{
    struct jv a[2];
    bind(J, "pop", args, 2, 1, a);
    struct jv v = jinja_dict_get(J, self.dict, a[0]);
    if (v.kind == JV_MISSING) {
        if (a[1].kind == JV_MISSING)
            jinja_fail(J, "%s", jinja_show_repr(J, a[0]));
        return a[1];
    }
    jinja_dict_remove(J, self.dict, a[0]);
    return v;
}

static struct jv dict_popitem(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "popitem", args, 0, 0, NULL);
    if (!self.dict->n)
        jinja_fail(J, "'popitem(): dictionary is empty'");
    struct jinja_entry e = self.dict->entries[self.dict->n - 1];
    jinja_dict_remove(J, self.dict, e.key);
    return jinja_pair(J, e.key, e.value);
}

static struct jv dict_setdefault(struct jinja *J, struct jv self, args_t *args)
{
    struct jv a[2];
    bind(J, "setdefault", args, 2, 1, a);
    struct jv v = jinja_dict_get(J, self.dict, a[0]);
    if (v.kind != JV_MISSING)
        return v;
    v = a[1].kind == JV_MISSING ? jv_none() : a[1];
    jinja_dict_set(J, self.dict, a[0], v);
    return v;
}

static struct jv dict_clear(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "clear", args, 0, 0, NULL);
    *self.dict = (struct jinja_dict){0};
    return jv_none();
}

static const struct jinja_method_row sequence_methods[] = {
    {"count", list_count}, {"index", list_index}, {NULL, NULL}};

static const struct jinja_method_row list_methods[] = {
    {"append", list_append},   {"clear", list_clear}, {"extend", list_extend},
    {"insert", list_insert},   {"pop", list_pop},     {"remove", list_remove},
    {"reverse", list_reverse}, {NULL, NULL},
};

static const struct jinja_method_row list_copy_method[] = {{"copy", list_copy}, {NULL, NULL}};

static const struct jinja_method_row mapping_methods[] = {
    {"copy", dict_copy}, {"get", dict_get},       {"items", dict_items},
    {"keys", dict_keys}, {"values", dict_values}, {NULL, NULL},
};

static const struct jinja_method_row dict_methods[] = {
    {"clear", dict_clear},           {"pop", dict_pop},       {"popitem", dict_popitem},
    {"setdefault", dict_setdefault}, {"update", dict_update}, {NULL, NULL},
};

/* Cyclers. */

static struct jv cycler_next(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "next", args, 0, 0, NULL);
    struct jv v = self.cycle->items[self.cycle->pos];
    self.cycle->pos = (self.cycle->pos + 1) % self.cycle->n;
    return v;
}

static struct jv cycler_reset(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "reset", args, 0, 0, NULL);
    self.cycle->pos = 0;
    return jv_none();
}

static const struct jinja_method_row cycler_methods[] = {
    {"next", cycler_next}, {"reset", cycler_reset}, {NULL, NULL}};

/* A method that would change the caller's JSON is undefined, with the sandbox's words. */
static struct jv refuse_change(struct jinja *J, const struct jinja_method_row *rows, struct jv self,
                               struct jv name)
{
    if (jinja_method_bind(J, rows, self, name).kind == JV_MISSING)
        return (struct jv){0};
    char *hint = jinja_text(J, 96);
    snprintf(hint, 96, "access to attribute '%.*s' of '%s' object is unsafe.", (int)name.len,
             name.str, jv_type_name(self));
    return jinja_undefined_hint(J, hint);
}

struct jv jinja_container_method(struct jinja *J, struct jv self, struct jv name)
{
    struct jv m;
    switch (self.kind) {
    case JV_DICT:
    case JV_JSON_OBJECT:
        m = jinja_method_bind(J, mapping_methods, self, name);
        if (m.kind != JV_MISSING)
            return m;
        return (self.kind == JV_DICT ? jinja_method_bind : refuse_change)(J, dict_methods, self,
                                                                          name);
    case JV_CYCLER:
        if (jv_str_is(name, "current"))
            return self.cycle->items[self.cycle->pos];
        return jinja_method_bind(J, cycler_methods, self, name);
    default:
        m = jinja_method_bind(J, sequence_methods, self, name);
        if (m.kind != JV_MISSING || self.kind == JV_TUPLE || self.kind == JV_RANGE)
            return m;
        m = jinja_method_bind(J, list_copy_method, self, name);
        if (m.kind != JV_MISSING)
            return m;
        return (self.kind == JV_LIST ? jinja_method_bind : refuse_change)(J, list_methods, self,
                                                                          name);
    }
}

/* Numbers. */

static struct jv number_is_integer(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "is_integer", args, 0, 0, NULL);
    return jv_bool(isfinite(self.f) && self.f == floor(self.f));
}

static struct jv number_bit_length(struct jinja *J, struct jv self, args_t *args)
{
    bind(J, "bit_length", args, 0, 0, NULL);
    uint64_t u = self.i < 0 ? 0 - (uint64_t)self.i : (uint64_t)self.i;
    return jv_int(u ? 64 - __builtin_clzll(u) : 0);
}

struct jv jinja_number_method(struct jinja *J, struct jv self, struct jv name)
{
    static const struct jinja_method_row float_methods[] = {{"is_integer", number_is_integer},
                                                            {NULL, NULL}};
    static const struct jinja_method_row int_methods[] = {{"bit_length", number_bit_length},
                                                          {NULL, NULL}};
    if (jv_str_is(name, "real"))
        return self.kind == JV_BOOL ? jv_int(self.i) : self;
    if (jv_str_is(name, "imag"))
        return self.kind == JV_FLOAT ? jv_float(0) : jv_int(0);
    return jinja_method_bind(J, self.kind == JV_FLOAT ? float_methods : int_methods, self, name);
}
