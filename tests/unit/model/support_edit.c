#include "support_edit.h"

#include <jansson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "check.h"

void edit_open(struct edit *e, const char *path)
{
    FILE *f = fopen(path, "rb");
    uint64_t header_bytes;
    *e = (struct edit){0};
    if (!f)
        fail_msg("%s is not there", path);
    fseek(f, 0, SEEK_END);
    size_t size = (size_t)ftell(f);
    rewind(f);
    e->file = mem_new(size, 1);
    assert_int_equal(fread(e->file, 1, size, f), size);
    fclose(f);
    memcpy(&header_bytes, e->file, sizeof header_bytes);
    json_t *header = json_loadb((const char *)e->file + 8, header_bytes, 0, NULL);
    assert_non_null(header);
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        assert_true(e->n < EDIT_MAX_TENSORS);
        struct edit_tensor *t = &e->tensor[e->n++];
        json_t *shape = json_object_get(value, "shape");
        snprintf(t->name, sizeof t->name, "%s", name);
        snprintf(t->dtype, sizeof t->dtype, "%s",
                 json_string_value(json_object_get(value, "dtype")));
        t->n_dims = (int)json_array_size(shape);
        for (int i = 0; i < t->n_dims; i++)
            t->shape[i] = json_integer_value(json_array_get(shape, (size_t)i));
        json_t *offsets = json_object_get(value, "data_offsets");
        t->data = e->file + 8 + header_bytes + json_integer_value(json_array_get(offsets, 0));
    }
    json_decref(header);
}

void edit_close(struct edit *e)
{
    free(e->file);
    *e = (struct edit){0};
}

struct edit_tensor *edit_find(struct edit *e, const char *name)
{
    for (size_t i = 0; i < e->n; i++)
        if (strcmp(e->tensor[i].name, name) == 0)
            return &e->tensor[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

void edit_drop(struct edit *e, const char *name)
{
    struct edit_tensor *t = edit_find(e, name);
    *t = e->tensor[--e->n];
}

void edit_add(struct edit *e, const char *name, const char *dtype, int64_t rows, int64_t columns)
{
    assert_true(e->n < EDIT_MAX_TENSORS);
    struct edit_tensor *t = &e->tensor[e->n++];
    *t = (struct edit_tensor){.n_dims = columns ? 2 : 1, .shape = {rows, columns}};
    snprintf(t->name, sizeof t->name, "%s", name);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
}

static size_t tensor_bytes(const struct edit_tensor *t)
{
    size_t n = strstr(t->dtype, "32") ? 4 : 2;
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->shape[i];
    return n;
}

void edit_write(const struct edit *e, const char *path)
{
    struct buf header = {0}, data = {0};
    for (size_t i = 0; i < e->n; i++) {
        const struct edit_tensor *t = &e->tensor[i];
        size_t bytes = tensor_bytes(t);
        buf_printf(&header, "%c\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? ',' : '{', t->name,
                   t->dtype);
        for (int d = 0; d < t->n_dims; d++)
            buf_printf(&header, "%s%lld", d ? "," : "", (long long)t->shape[d]);
        buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", data.len, data.len + bytes);
        if (t->data) {
            buf_add(&data, t->data, bytes);
        } else {
            for (size_t k = 0; k < bytes; k++)
                buf_putc(&data, 0);
        }
    }
    buf_putc(&header, '}');
    for (size_t i = 0; i < e->pad; i++)
        buf_putc(&header, ' ');
    uint64_t header_bytes = header.len;
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(&header_bytes, 1, sizeof header_bytes, f), sizeof header_bytes);
    assert_int_equal(fwrite(header.data, 1, header.len, f), header.len);
    assert_int_equal(fwrite(data.data, 1, data.len, f), data.len);
    assert_int_equal(fclose(f), 0);
    buf_fini(&header);
    buf_fini(&data);
}
