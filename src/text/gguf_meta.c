#include "text/gguf_meta.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct reader {
    const char *begin, *at, *end;
    int damaged;
};

static uint64_t read_uint(struct reader *r, size_t n)
{
    uint64_t value = 0;
    if ((size_t)(r->end - r->at) < n) {
        r->damaged = 1;
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)(uint8_t)r->at[i] << 8 * i;
    r->at += n;
    return value;
}

static const char *read_bytes(struct reader *r, uint64_t n)
{
    const char *at = r->at;
    if ((uint64_t)(r->end - r->at) < n) {
        r->damaged = 1;
        return NULL;
    }
    r->at += n;
    return at;
}

/* 0 for strings and arrays, which have no fixed size. */
static size_t size_of(enum gguf_type type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[type];
}

static enum gguf_type read_type(struct reader *r)
{
    uint64_t type = read_uint(r, 4);
    if (type > GGUF_FLOAT64)
        r->damaged = 1;
    return r->damaged ? GGUF_UINT8 : (enum gguf_type)type;
}

static void read_value(struct reader *r, struct gguf_value *v)
{
    v->n_key = (size_t)read_uint(r, 8);
    v->key = read_bytes(r, v->n_key);
    v->type = read_type(r);
    v->n = 1;
    if (v->type == GGUF_ARRAY) {
        v->is_array = 1;
        v->type = read_type(r);
        v->n = read_uint(r, 8);
        if (v->type == GGUF_ARRAY) /* arrays of arrays: nothing writes them */
            r->damaged = 1;
    }
    v->bytes = r->at;
    size_t size = size_of(v->type);
    if (size > 0 && v->n > (uint64_t)(r->end - r->at) / size)
        r->damaged = 1;
    else if (size > 0)
        read_bytes(r, v->n * size);
    for (uint64_t i = 0; size == 0 && i < v->n && !r->damaged; i++)
        read_bytes(r, read_uint(r, 8));
    v->n_bytes = (size_t)(r->at - v->bytes);
}

int gguf_meta_open(struct gguf_meta *m, const char *bytes, size_t n, struct moed_error *err)
{
    struct reader r = {bytes, bytes, bytes + n, 0};
    *m = (struct gguf_meta){0};
    if (n < 4 || memcmp(bytes, "GGUF", 4) != 0)
        return moed_fail(err, MOED_EFORMAT, "not a GGUF file");
    r.at += 4;
    uint64_t version = read_uint(&r, 4);
    if (version != 2 && version != 3)
        return moed_fail(err, MOED_EUNSUPPORTED, "GGUF version %u is not supported",
                         (unsigned)version);
    m->n_tensors = read_uint(&r, 8);
    uint64_t n_keys = read_uint(&r, 8);
    if (n_keys > GGUF_MAX_KEYS)
        return moed_fail(err, MOED_ELIMIT, "a GGUF file with more than %d keys", GGUF_MAX_KEYS);
    size_t cap = 0;
    while (m->n < n_keys && !r.damaged) {
        m->values = mem_reserve(m->values, &cap, m->n + 1, sizeof *m->values);
        m->values[m->n] = (struct gguf_value){0};
        read_value(&r, &m->values[m->n++]);
    }
    m->end = (size_t)(r.at - bytes);
    if (!r.damaged)
        return 0;
    gguf_meta_fini(m);
    return moed_fail(err, MOED_EFORMAT, "the GGUF metadata is damaged at byte %zu",
                     (size_t)(r.at - bytes));
}

void gguf_meta_fini(struct gguf_meta *m)
{
    free(m->values);
    *m = (struct gguf_meta){0};
}

const struct gguf_value *gguf_find(const struct gguf_meta *m, const char *key)
{
    for (size_t i = 0; i < m->n; i++)
        if (m->values[i].n_key == strlen(key) &&
            memcmp(m->values[i].key, key, m->values[i].n_key) == 0)
            return &m->values[i];
    return NULL;
}

static uint64_t element(const struct gguf_value *v, uint64_t i)
{
    size_t size = size_of(v->type);
    uint64_t bits = 0;
    for (size_t k = 0; k < size; k++)
        bits |= (uint64_t)(uint8_t)v->bytes[i * size + k] << 8 * k;
    return bits;
}

int64_t gguf_int(const struct gguf_meta *m, const char *key, int64_t missing)
{
    const struct gguf_value *v = gguf_find(m, key);
    if (!v || v->is_array)
        return missing;
    uint64_t bits = element(v, 0);
    switch (v->type) {
    case GGUF_UINT8:
    case GGUF_UINT16:
    case GGUF_UINT32:
    case GGUF_UINT64:
    case GGUF_INT64:
        return (int64_t)bits;
    case GGUF_BOOL:
        return bits != 0;
    case GGUF_INT8:
        return (int8_t)bits;
    case GGUF_INT16:
        return (int16_t)bits;
    case GGUF_INT32:
        return (int32_t)bits;
    default:
        return missing;
    }
}

char *gguf_string(const struct gguf_meta *m, const char *key)
{
    const struct gguf_value *v = gguf_find(m, key);
    const char *s;
    size_t at = 0, n;
    if (!v || v->is_array || v->type != GGUF_STRING || !gguf_next_string(v, &at, &s, &n))
        return NULL;
    return mem_strndup(s, n);
}

double gguf_number_at(const struct gguf_value *v, uint64_t i)
{
    uint64_t bits = element(v, i);
    if (v->type == GGUF_FLOAT32) {
        uint32_t low = (uint32_t)bits;
        float f;
        memcpy(&f, &low, sizeof f);
        return (double)f;
    }
    if (v->type == GGUF_FLOAT64) {
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    if (v->type == GGUF_INT8)
        return (int8_t)bits;
    if (v->type == GGUF_INT16)
        return (int16_t)bits;
    if (v->type == GGUF_INT32)
        return (int32_t)bits;
    return v->type == GGUF_INT64 ? (double)(int64_t)bits : (double)bits;
}

int gguf_next_string(const struct gguf_value *v, size_t *at, const char **s, size_t *n)
{
    if (v->type != GGUF_STRING || *at >= v->n_bytes)
        return 0;
    uint64_t len = 0;
    for (size_t k = 0; k < 8; k++)
        len |= (uint64_t)(uint8_t)v->bytes[*at + k] << 8 * k;
    *s = v->bytes + *at + 8;
    *n = (size_t)len;
    *at += 8 + (size_t)len;
    return 1;
}
