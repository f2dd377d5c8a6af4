/*
 * The header of a safetensors file: {"name": {"dtype": "BF16", "shape": [2, 3], "data_offsets":
 * [begin, end]}, ..., "__metadata__": {"key": "text"}}. Offsets count from the end of the header.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "store/store_int.h"

#define PREFIX_BYTES 8
#define MAX_DEPTH    4
/* dtype, shape and offsets of a tensor with all its dimensions, and its metadata, with room. */
#define MAX_VALUES (STORE_MAX_FILE_TENSORS * 20)

struct format {
    const char *name;
    unsigned bits;
    enum dtype dtype;
};

/* All formats that the safetensors library writes, so that a buffer nobody needs does not stop a
 * model from loading. */
static const struct format formats[] = {
    {"F32", 32, DTYPE_F32},      {"BF16", 16, DTYPE_BF16},    {"F16", 16, DTYPE_F16},
    {"BOOL", 8, DTYPE_COUNT},    {"U8", 8, DTYPE_COUNT},      {"I8", 8, DTYPE_COUNT},
    {"U16", 16, DTYPE_COUNT},    {"I16", 16, DTYPE_COUNT},    {"U32", 32, DTYPE_COUNT},
    {"I32", 32, DTYPE_COUNT},    {"U64", 64, DTYPE_COUNT},    {"I64", 64, DTYPE_COUNT},
    {"F64", 64, DTYPE_COUNT},    {"C64", 64, DTYPE_COUNT},    {"F8_E5M2", 8, DTYPE_COUNT},
    {"F8_E4M3", 8, DTYPE_COUNT}, {"F8_E8M0", 8, DTYPE_COUNT}, {"F6_E2M3", 6, DTYPE_COUNT},
    {"F6_E3M2", 6, DTYPE_COUNT}, {"F4", 4, DTYPE_COUNT},
};

static const struct format *format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

int safetensors_header_bytes(uint64_t *out, const uint8_t first[8], uint64_t file_bytes,
                             const char *file, struct moed_error *err)
{
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | first[i];
    if (n > SAFETENSORS_MAX_HEADER_BYTES)
        return moed_fail(err, MOED_ELIMIT,
                         "%s: header of %llu bytes, the limit is %llu (is it a safetensors file?)",
                         file, (unsigned long long)n,
                         (unsigned long long)SAFETENSORS_MAX_HEADER_BYTES);
    if (n < 2 || file_bytes < PREFIX_BYTES || n > file_bytes - PREFIX_BYTES)
        return moed_fail(err, MOED_EFORMAT,
                         "%s: header of %llu bytes in a file of %llu (truncated?)", file,
                         (unsigned long long)n, (unsigned long long)file_bytes);
    *out = n;
    return 0;
}

static int parse_shape(struct tensor_ref *t, const json_t *shape, const char *file,
                       struct moed_error *err)
{
    if (!json_is_array(shape))
        return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: shape is not an array", file, t->name);
    size_t n = json_array_size(shape);
    if (n > TENSOR_MAX_DIMS)
        return moed_fail(err, MOED_ELIMIT, "%s: tensor %s: %zu dimensions, the limit is %d", file,
                         t->name, n, TENSOR_MAX_DIMS);
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return moed_fail(err, MOED_EFORMAT,
                             "%s: tensor %s: dimension %zu is not a number of elements", file,
                             t->name, i);
        t->shape[i] = json_integer_value(d);
    }
    t->n_dims = (int)n;
    return 0;
}

static int check_bytes(const struct tensor_ref *t, const struct format *f, const char *file,
                       struct moed_error *err)
{
    char text[SHAPE_TEXT_BYTES];
    uint64_t elements, bits;
    if (store_shape_elements(&elements, t->n_dims, t->shape) < 0 ||
        __builtin_mul_overflow(elements, (uint64_t)f->bits, &bits))
        return moed_fail(err, MOED_ELIMIT, "%s: tensor %s: shape %s is too large", file, t->name,
                         store_shape_text(text, t->n_dims, t->shape));
    if (bits % 8 != 0 || bits / 8 != t->bytes)
        return moed_fail(err, MOED_EFORMAT,
                         "%s: tensor %s: %s of shape %s takes %llu bytes, its offsets give %llu",
                         file, t->name, f->name, store_shape_text(text, t->n_dims, t->shape),
                         (unsigned long long)(bits / 8), (unsigned long long)t->bytes);
    return 0;
}

/* t->name is set; offset becomes relative to the data. */
static int parse_tensor(struct tensor_ref *t, const json_t *v, const char *file,
                        struct moed_error *err)
{
    if (!json_is_object(v))
        return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: not an object", file, t->name);
    const json_t *dtype = json_object_get(v, "dtype"),
                 *offsets = json_object_get(v, "data_offsets");
    if (!json_is_string(dtype))
        return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: no dtype", file, t->name);
    const struct format *f = format_find(json_string_value(dtype));
    if (!f)
        return moed_fail(err, MOED_EUNSUPPORTED, "%s: tensor %s: unknown dtype \"%.32s\"", file,
                         t->name, json_string_value(dtype));
    t->dtype = f->dtype;
    t->dtype_text = f->name;
    int rc = parse_shape(t, json_object_get(v, "shape"), file, err);
    if (rc < 0)
        return rc;
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: data_offsets is not [begin, end]", file,
                         t->name);
    json_int_t a = json_integer_value(begin), b = json_integer_value(end);
    if (a < 0 || b < a)
        return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: data_offsets [%lld, %lld]", file,
                         t->name, (long long)a, (long long)b);
    t->offset = (uint64_t)a;
    t->bytes = (uint64_t)(b - a);
    return check_bytes(t, f, file, err);
}

static int by_offset(const void *a, const void *b)
{
    const struct tensor_ref *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The tensors, in order, must cover the data exactly. */
static int check_cover(const struct safetensors_header *h, uint64_t data_bytes, const char *file,
                       struct moed_error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < h->n; i++) {
        const struct tensor_ref *t = &h->tensors[i];
        if (t->offset + t->bytes > data_bytes)
            return moed_fail(
                err, MOED_EFORMAT,
                "%s: tensor %s: ends at data byte %llu, the file has %llu (truncated?)", file,
                t->name, (unsigned long long)(t->offset + t->bytes),
                (unsigned long long)data_bytes);
        if (t->offset < at)
            return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: overlaps with tensor %s", file,
                             t->name, h->tensors[i - 1].name);
        if (t->offset > at)
            return moed_fail(err, MOED_EFORMAT, "%s: tensor %s: a gap of %llu bytes lies before it",
                             file, t->name, (unsigned long long)(t->offset - at));
        at = t->offset + t->bytes;
    }
    if (at != data_bytes)
        return moed_fail(err, MOED_EFORMAT, "%s: %llu bytes behind the last tensor (%s)", file,
                         (unsigned long long)(data_bytes - at),
                         h->n ? h->tensors[h->n - 1].name : "there is none");
    return 0;
}

static int parse_all(struct safetensors_header *h, json_t *json, const char *file, int file_index,
                     struct moed_error *err)
{
    size_t n = json_object_size(json);
    if (n > STORE_MAX_FILE_TENSORS)
        return moed_fail(err, MOED_ELIMIT, "%s: %zu tensors, the limit is %zu", file, n,
                         STORE_MAX_FILE_TENSORS);
    h->tensors = mem_try(n, sizeof h->tensors[0]);
    if (!h->tensors)
        return moed_fail(err, MOED_ENOMEM, "%s: no memory for %zu tensors", file, n);
    const char *name;
    json_t *v;
    json_object_foreach(json, name, v)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        size_t name_bytes = strlen(name);
        if (name_bytes == 0 || name_bytes > TENSOR_MAX_NAME_BYTES)
            return moed_fail(err, MOED_ELIMIT,
                             "%s: tensor %.64s...: a name of %zu bytes, allowed are 1 to %d", file,
                             name, name_bytes, TENSOR_MAX_NAME_BYTES);
        struct tensor_ref *t = &h->tensors[h->n++];
        t->name = mem_strdup(name);
        t->file = file_index;
        int rc = parse_tensor(t, v, file, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int safetensors_parse(struct safetensors_header *out, const char *json, size_t json_bytes,
                      uint64_t file_bytes, const char *file, int file_index, struct moed_error *err)
{
    struct safetensors_header h = {0};
    json_t *root = NULL;
    uint64_t data_at = PREFIX_BYTES + (uint64_t)json_bytes;
    *out = h;
    int rc = store_parse_json(&root, json, json_bytes, MAX_DEPTH, MAX_VALUES, file, err);
    if (rc == 0)
        rc = parse_all(&h, root, file, file_index, err);
    json_decref(root);
    if (rc == 0) {
        qsort(h.tensors, h.n, sizeof h.tensors[0], by_offset);
        rc = check_cover(&h, file_bytes - data_at, file, err);
    }
    if (rc < 0) {
        safetensors_header_fini(&h);
        return rc;
    }
    for (size_t i = 0; i < h.n; i++)
        h.tensors[i].offset += data_at;
    *out = h;
    return 0;
}

void safetensors_header_fini(struct safetensors_header *h)
{
    for (size_t i = 0; i < h->n; i++)
        free((char *)(uintptr_t)h->tensors[i].name);
    free(h->tensors);
    *h = (struct safetensors_header){0};
}
