/* Lists, dicts and iteration. */
#include <math.h>
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_value.h"

int64_t jv_len(struct jinja *J, struct jv v)
{
    switch (v.kind) {
    case JV_STR:
        return jv_str_len(J, v);
    case JV_LIST:
    case JV_TUPLE:
        return v.list->n;
    case JV_DICT:
        return v.dict->n;
    case JV_JSON_ARRAY:
        return (int64_t)json_array_size(v.json);
    case JV_JSON_OBJECT:
        return (int64_t)json_object_size(v.json);
    case JV_RANGE:
        return v.range->n;
    case JV_VIEW:
        return v.flags & JV_VIEW_JSON ? (int64_t)json_object_size(v.json) : v.dict->n;
    case JV_UNDEFINED:
        return 0;
    case JV_LOOP: {
        struct jv n = jinja_loop_attr(J, v.loop, jv_text("length"));
        return n.i;
    }
    default:
        return -1;
    }
}

struct jinja_list *jinja_list_new(struct jinja *J, size_t cap)
{
    struct jinja_list *l = jinja_alloc(J, sizeof *l);
    if (cap > UINT32_MAX)
        jinja_fail_limit(J, "memory");
    *l = (struct jinja_list){.cap = (uint32_t)cap};
    l->items = cap ? jinja_alloc(J, cap * sizeof *l->items) : NULL;
    return l;
}

void jinja_list_add(struct jinja *J, struct jinja_list *l, struct jv v)
{
    if (l->n == l->cap) {
        if (l->cap > UINT32_MAX / 2)
            jinja_fail_limit(J, "memory");
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        struct jv *grown = jinja_alloc(J, cap * sizeof *grown);
        if (l->n)
            memcpy(grown, l->items, l->n * sizeof *grown);
        l->items = grown;
        l->cap = cap;
    }
    l->items[l->n++] = v;
}

struct jv jv_at(struct jv v, int64_t i)
{
    if (v.kind == JV_JSON_ARRAY)
        return jv_json(json_array_get(v.json, (size_t)i));
    if (v.kind == JV_RANGE)
        return jv_int(v.range->start + i * v.range->step);
    return v.list->items[i];
}

struct jinja_list *jv_to_list(struct jinja *J, struct jv v)
{
    struct jinja_list *l = jinja_list_new(J, 0);
    struct jv item;
    for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item);) {
        jinja_charge(J, 1);
        jinja_list_add(J, l, item);
    }
    return l;
}

struct jv jinja_pair(struct jinja *J, struct jv a, struct jv b)
{
    struct jinja_list *l = jinja_list_new(J, 2);
    l->items[0] = a;
    l->items[1] = b;
    l->n = 2;
    return jv_tuple(l);
}

/* Dicts. */

#define SMALL_DICT 8

static uint64_t mix(uint64_t h)
{
    h ^= h >> 32;
    h *= 0x9E3779B97F4A7C15u;
    return h ^ h >> 29;
}

static uint64_t hash_bytes(struct jinja *J, const char *s, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    jinja_charge(J, n / 64);
    return mix(h);
}

static uint64_t hash_key(struct jinja *J, struct jv key)
{
    switch (key.kind) {
    case JV_STR:
        return hash_bytes(J, key.str, key.len);
    case JV_INT:
    case JV_BOOL:
        return mix((uint64_t)key.i + 1);
    case JV_FLOAT: {
        if (key.f >= -0x1p63 && key.f < 0x1p63 && key.f == floor(key.f))
            return mix((uint64_t)(int64_t)key.f + 1);
        uint64_t bits;
        memcpy(&bits, &key.f, sizeof bits);
        return mix(bits);
    }
    case JV_TUPLE: {
        uint64_t h = 7;
        jinja_enter(J);
        for (uint32_t i = 0; i < key.list->n; i++)
            h = mix(h * 31 + hash_key(J, key.list->items[i]));
        jinja_charge(J, key.list->n);
        jinja_leave(J);
        return h;
    }
    case JV_LIST:
    case JV_DICT:
    case JV_JSON_ARRAY:
    case JV_JSON_OBJECT:
        jinja_fail(J, "unhashable type: '%s'", jv_type_name(key));
    case JV_NONE:
    case JV_UNDEFINED:
        return key.kind;
    default:
        return mix((uint64_t)(uintptr_t)key.dict);
    }
}

struct jinja_dict *jinja_dict_new(struct jinja *J)
{
    struct jinja_dict *d = jinja_alloc(J, sizeof *d);
    *d = (struct jinja_dict){0};
    return d;
}

static int same_key(struct jinja *J, const struct jinja_entry *e, struct jv key, uint64_t hash)
{
    return e->hash == hash && jv_equal(J, e->key, key);
}

static struct jinja_entry *find(struct jinja *J, const struct jinja_dict *d, struct jv key,
                                uint64_t hash)
{
    if (!d->index) {
        for (uint32_t i = 0; i < d->n; i++)
            if (same_key(J, &d->entries[i], key, hash))
                return &d->entries[i];
        return NULL;
    }
    for (uint32_t i = (uint32_t)hash & (d->n_index - 1);; i = (i + 1) & (d->n_index - 1)) {
        if (!d->index[i])
            return NULL;
        jinja_charge(J, 1); /* keys that collide on purpose pay for it */
        struct jinja_entry *e = &d->entries[d->index[i] - 1];
        if (same_key(J, e, key, hash))
            return e;
    }
}

static void index_add(struct jinja_dict *d, uint32_t entry)
{
    uint32_t i = (uint32_t)d->entries[entry].hash & (d->n_index - 1);
    while (d->index[i])
        i = (i + 1) & (d->n_index - 1);
    d->index[i] = entry + 1;
}

static void reindex(struct jinja *J, struct jinja_dict *d)
{
    if (d->cap > d->n_index / 2) {
        d->n_index = d->cap * 2;
        d->index = jinja_alloc(J, d->n_index * sizeof *d->index);
    }
    memset(d->index, 0, d->n_index * sizeof *d->index);
    for (uint32_t i = 0; i < d->n; i++)
        index_add(d, i);
}

static void grow(struct jinja *J, struct jinja_dict *d)
{
    if (d->cap > UINT32_MAX / 8)
        jinja_fail_limit(J, "memory");
    uint32_t cap = d->cap ? d->cap * 2 : 4;
    struct jinja_entry *entries = jinja_alloc(J, cap * sizeof *entries);
    if (d->n)
        memcpy(entries, d->entries, d->n * sizeof *entries);
    d->entries = entries;
    d->cap = cap;
    if (cap > SMALL_DICT)
        reindex(J, d);
}

void jinja_dict_set(struct jinja *J, struct jinja_dict *d, struct jv key, struct jv value)
{
    uint64_t hash = hash_key(J, key);
    struct jinja_entry *e = find(J, d, key, hash);
    if (e) {
        e->value = value;
        return;
    }
    if (d->n == d->cap)
        grow(J, d);
    d->entries[d->n] = (struct jinja_entry){key, value, hash};
    if (d->index)
        index_add(d, d->n);
    d->n++;
}

struct jv jinja_dict_get(struct jinja *J, const struct jinja_dict *d, struct jv key)
{
    struct jinja_entry *e = find(J, d, key, hash_key(J, key));
    return e ? e->value : (struct jv){0};
}

void jinja_dict_remove(struct jinja *J, struct jinja_dict *d, struct jv key)
{
    struct jinja_entry *e = find(J, d, key, hash_key(J, key));
    if (!e)
        return;
    size_t behind = d->n - (size_t)(e - d->entries) - 1;
    jinja_charge(J, d->n);
    memmove(e, e + 1, behind * sizeof *e);
    d->n--;
    if (d->index)
        reindex(J, d);
}

struct jv jv_lookup(struct jinja *J, struct jv mapping, struct jv key)
{
    if (mapping.kind == JV_DICT)
        return jinja_dict_get(J, mapping.dict, key);
    if (key.kind != JV_STR) {
        hash_key(J, key); /* refuses what has no hash */
        return (struct jv){0};
    }
    jinja_charge(J, key.len / 64);
    json_t *j = json_object_getn(mapping.json, key.str, key.len);
    return j ? jv_json(j) : (struct jv){0};
}

int jv_walk(struct jv mapping, struct jinja_walk *w, struct jv *key, struct jv *value)
{
    if (mapping.kind == JV_DICT) {
        if (w->i >= mapping.dict->n)
            return 0;
        *key = mapping.dict->entries[w->i].key;
        *value = mapping.dict->entries[w->i].value;
        w->i++;
        return 1;
    }
    w->json =
        w->begun ? json_object_iter_next(mapping.json, w->json) : json_object_iter(mapping.json);
    w->begun = 1;
    if (!w->json)
        return 0;
    *key = jv_str(json_object_iter_key(w->json), json_object_iter_key_len(w->json));
    *value = jv_json(json_object_iter_value(w->json));
    return 1;
}

struct jinja_dict *jv_to_dict(struct jinja *J, struct jv mapping)
{
    struct jinja_dict *d = jinja_dict_new(J);
    struct jinja_walk w = {0};
    struct jv key, value;
    while (jv_walk(mapping, &w, &key, &value)) {
        jinja_charge(J, 1);
        jinja_dict_set(J, d, key, value);
    }
    return d;
}

/* Iteration. */

struct jv jinja_iter_new(struct jinja *J, const char *type,
                         struct jinja_list *(*fill)(struct jinja *, void *), void *state)
{
    struct jinja_iter *it = jinja_alloc(J, sizeof *it);
    *it = (struct jinja_iter){.type = type, .fill = fill, .state = state};
    return (struct jv){.kind = JV_ITER, .iter = it};
}

int jv_is_iterable(struct jv v)
{
    switch (v.kind) {
    case JV_UNDEFINED:
    case JV_STR:
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
    case JV_JSON_ARRAY:
    case JV_JSON_OBJECT:
    case JV_RANGE:
    case JV_VIEW:
    case JV_ITER:
    case JV_LOOP:
        return 1;
    default:
        return 0;
    }
}

struct jinja_cursor jv_iterate(struct jinja *J, struct jv v)
{
    if (!jv_is_iterable(v) || v.kind == JV_LOOP)
        jinja_fail(J, "'%s' object is not iterable", jv_type_name(v));
    return (struct jinja_cursor){.v = v};
}

static int next_of_iter(struct jinja *J, struct jinja_iter *it, struct jv *item)
{
    if (!it->items) {
        it->items = jinja_list_new(J, 0); /* empty if filling asks for itself */
        it->items = it->fill(J, it->state);
    }
    if (it->pos >= it->items->n)
        return 0;
    *item = it->items->items[it->pos++];
    return 1;
}

static int next_of_mapping(struct jinja *J, struct jinja_cursor *c, struct jv mapping,
                           unsigned view, struct jv *item)
{
    struct jv key, value;
    if (!jv_walk(mapping, &c->walk, &key, &value))
        return 0;
    *item = view == JV_KEYS ? key : view == JV_VALUES ? value : jinja_pair(J, key, value);
    return 1;
}

int jv_next(struct jinja *J, struct jinja_cursor *c, struct jv *item)
{
    struct jv v = c->v;
    switch (v.kind) {
    case JV_STR: {
        unsigned cp;
        if ((size_t)c->i >= v.len)
            return 0;
        size_t len = jinja_cp(v.str + c->i, v.len - (size_t)c->i, &cp);
        *item = jv_str_part(v, (size_t)c->i, (size_t)c->i + len);
        item->flags &= (uint8_t)~JV_MARKUP;
        c->i += (int64_t)len;
        return 1;
    }
    case JV_LIST:
    case JV_TUPLE:
    case JV_JSON_ARRAY:
    case JV_RANGE:
        if (c->i >= jv_len(J, v))
            return 0;
        *item = jv_at(v, c->i++);
        return 1;
    case JV_DICT:
    case JV_JSON_OBJECT:
        return next_of_mapping(J, c, v, JV_KEYS, item);
    case JV_VIEW: {
        unsigned view = v.flags & JV_VIEW_KIND;
        v.kind = v.flags & JV_VIEW_JSON ? JV_JSON_OBJECT : JV_DICT;
        return next_of_mapping(J, c, v, view, item);
    }
    case JV_ITER:
        return next_of_iter(J, v.iter, item);
    default:
        return 0;
    }
}
