/* A folder of safetensors files, or a dummy: opening, finding, expecting. */
#include "store/store.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/io.h"
#include "store/store_int.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME  "model.safetensors.index.json"
/* Each may hold the largest header that there may be, and what parsing makes of it. */
#define HEADER_THREADS 8

struct store {
    bool dummy;
    char *dir;
    char **paths;
    struct safetensors_header *headers; /* [n_files] */
    int n_files;
    const struct tensor_ref **all; /* [n] */
    size_t n, cap;
    struct name_table names;
};

const char *store_shape_text(char text[SHAPE_TEXT_BYTES], int n_dims, const int64_t *shape)
{
    int at = snprintf(text, SHAPE_TEXT_BYTES, "[");
    for (int i = 0; i < n_dims; i++)
        at += snprintf(text + at, SHAPE_TEXT_BYTES - (size_t)at, "%s%lld", i ? ", " : "",
                       (long long)shape[i]);
    snprintf(text + at, SHAPE_TEXT_BYTES - (size_t)at, "]");
    return text;
}

int store_shape_elements(uint64_t *out, int n_dims, const int64_t *shape)
{
    int64_t n = 1;
    bool empty = false;
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 0)
            return MOED_ELIMIT;
        if (shape[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(n, shape[i], &n))
            return MOED_ELIMIT;
    }
    *out = empty ? 0 : (uint64_t)n;
    return 0;
}

/* Appends a tensor that lives elsewhere; its name must be new. */
static int add_tensor(struct store *s, const struct tensor_ref *t, struct moed_error *err)
{
    if (s->n >= STORE_MAX_TENSORS)
        return moed_fail(err, MOED_ELIMIT, "tensor %s: more than %zu tensors", t->name,
                         STORE_MAX_TENSORS);
    const struct tensor_ref *there = name_table_add(&s->names, t);
    if (there)
        return moed_fail(err, MOED_EFORMAT, "tensor %s is in both %s and %s", t->name,
                         store_file_path(s, there->file), store_file_path(s, t->file));
    s->all = mem_reserve(s->all, &s->cap, s->n + 1, sizeof s->all[0]);
    s->all[s->n++] = t;
    return 0;
}

/* Reads the header of one file. Any thread. */
static int read_header(const struct store *s, int file, struct moed_error *err)
{
    const char *path = s->paths[file];
    int fd = -1;
    uint64_t file_bytes = 0, json_bytes = 0;
    uint8_t first[8];
    char *json = NULL;
    int rc = store_open_file(&fd, &file_bytes, path, err);
    if (rc < 0)
        return rc;
    if (file_bytes < sizeof first) {
        rc = moed_fail(err, MOED_EFORMAT, "%s: %llu bytes are no safetensors file (truncated?)",
                       path, (unsigned long long)file_bytes);
        goto out;
    }
    rc = store_read_exactly(fd, 0, first, sizeof first, path, err);
    if (rc == 0)
        rc = safetensors_header_bytes(&json_bytes, first, file_bytes, path, err);
    if (rc < 0)
        goto out;
    json = mem_try((size_t)json_bytes, 1);
    if (!json) {
        rc = moed_fail(err, MOED_ENOMEM, "%s: no memory for a header of %llu bytes", path,
                       (unsigned long long)json_bytes);
        goto out;
    }
    rc = store_read_exactly(fd, sizeof first, json, (size_t)json_bytes, path, err);
    if (rc == 0)
        rc = safetensors_parse(&s->headers[file], json, (size_t)json_bytes, file_bytes, path, file,
                               err);
out:
    free(json);
    close(fd);
    return rc;
}

/* The headers of all files, read by threads. */
struct reading {
    const struct store *s;
    pthread_mutex_t lock;
    int failed; /* under lock: the first file in their order that failed, n_files where none did */
    struct moed_error err; /* under lock: of that file */
};

static void read_header_job(void *arg, size_t file)
{
    struct reading *r = arg;
    struct moed_error err;
    if (read_header(r->s, (int)file, &err) == 0)
        return;
    pthread_mutex_lock(&r->lock);
    if ((int)file < r->failed) {
        r->failed = (int)file;
        r->err = err;
    }
    pthread_mutex_unlock(&r->lock);
}

/* Takes n paths over; their headers become the store's. */
static int add_files(struct store *s, char **paths, size_t n, struct moed_error *err)
{
    const struct io_config io = {.threads = HEADER_THREADS};
    struct reading r = {.s = s, .failed = (int)n};
    s->paths = paths;
    s->n_files = (int)n;
    s->headers = mem_new(n, sizeof s->headers[0]);
    pthread_mutex_init(&r.lock, NULL);
    int rc = io_for_each(n, read_header_job, &r, &io, err);
    pthread_mutex_destroy(&r.lock);
    if (rc == 0 && r.failed < (int)n) {
        rc = r.err.code;
        if (err)
            *err = r.err;
    }
    return rc;
}

static int add_tensors(struct store *s, struct moed_error *err)
{
    for (int f = 0; f < s->n_files; f++)
        for (size_t i = 0; i < s->headers[f].n; i++) {
            int rc = add_tensor(s, &s->headers[f].tensors[i], err);
            if (rc < 0)
                return rc;
        }
    return 0;
}

/* A shard's name comes from a file: only a plain name in the same folder is taken. */
static bool plain_name(const char *name)
{
    size_t n = strlen(name);
    static const char suffix[] = ".safetensors";
    return n > sizeof suffix - 1 && n < 256 && !strchr(name, '/') && name[0] != '.' &&
           strcmp(name + n - (sizeof suffix - 1), suffix) == 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct shard names of a weight map, sorted; borrowed from it. */
static int shard_names(const char ***out, size_t *n_out, json_t *map, const char *index_path,
                       struct moed_error *err)
{
    size_t n = 0, kept = 0;
    const char **names = mem_try(json_object_size(map), sizeof names[0]);
    if (!names)
        return moed_fail(err, MOED_ENOMEM, "%s: no memory for its tensor names", index_path);
    const char *tensor;
    json_t *v;
    json_object_foreach(map, tensor, v)
    {
        if (!json_is_string(v) || !plain_name(json_string_value(v))) {
            free(names);
            return moed_fail(err, MOED_EFORMAT,
                             "%s: tensor %.256s: \"%.64s\" is not the name of a .safetensors file",
                             index_path, tensor,
                             json_is_string(v) ? json_string_value(v) : "(not a string)");
        }
        names[n++] = json_string_value(v);
    }
    qsort(names, n, sizeof names[0], by_text);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0)
            names[kept++] = names[i];
    if (kept == 0 || kept > STORE_MAX_FILES) {
        free(names);
        return moed_fail(err, kept ? MOED_ELIMIT : MOED_EFORMAT,
                         "%s: weight_map names %zu files, allowed are 1 to %d", index_path, kept,
                         STORE_MAX_FILES);
    }
    *out = names;
    *n_out = kept;
    return 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Index and shards must say the same, in both directions. */
static int check_index(const struct store *s, json_t *map, const char *index_path,
                       struct moed_error *err)
{
    const char *tensor;
    json_t *v;
    for (size_t i = 0; i < s->n; i++) {
        const char *shard = base_name(s->paths[s->all[i]->file]);
        v = json_object_get(map, s->all[i]->name);
        if (!v)
            return moed_fail(err, MOED_EFORMAT, "%s: tensor %s of %s is not in the index",
                             index_path, s->all[i]->name, shard);
        if (strcmp(json_string_value(v), shard) != 0)
            return moed_fail(err, MOED_EFORMAT, "%s: tensor %s is in %s, the index says %s",
                             index_path, s->all[i]->name, shard, json_string_value(v));
    }
    json_object_foreach(map, tensor, v) if (!name_table_find(&s->names, tensor)) return moed_fail(
        err, MOED_EFORMAT, "%s: tensor %.256s is not in %s", index_path, tensor,
        json_string_value(v));
    return 0;
}

static int open_sharded(struct store *s, struct moed_error *err)
{
    json_t *index = NULL;
    const char **names = NULL;
    size_t n = 0;
    char *index_path = mem_printf("%s/" INDEX_NAME, s->dir);
    int rc = store_read_json(&index, s->dir, INDEX_NAME, err);
    if (rc < 0)
        goto out;
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map)) {
        rc = moed_fail(err, MOED_EFORMAT, "%s: no weight_map", index_path);
        goto out;
    }
    rc = shard_names(&names, &n, map, index_path, err);
    if (rc < 0)
        goto out;
    char **paths = mem_new(n, sizeof paths[0]);
    for (size_t i = 0; i < n; i++)
        paths[i] = mem_printf("%s/%s", s->dir, names[i]);
    rc = add_files(s, paths, n, err);
    if (rc == 0)
        rc = add_tensors(s, err);
    if (rc == 0)
        rc = check_index(s, map, index_path, err);
out:
    free(names);
    json_decref(index);
    free(index_path);
    return rc;
}

static bool exists(const char *dir, const char *name)
{
    char *path = mem_printf("%s/%s", dir, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

int store_open(struct store **out, const char *dir, struct moed_error *err)
{
    struct store *s = mem_new(1, sizeof *s);
    int rc;
    *out = NULL;
    s->dir = mem_strdup(dir);
    if (exists(dir, SINGLE_NAME)) {
        char **path = mem_new(1, sizeof path[0]);
        path[0] = mem_printf("%s/" SINGLE_NAME, dir);
        rc = add_files(s, path, 1, err);
        if (rc == 0)
            rc = add_tensors(s, err);
    } else if (exists(dir, INDEX_NAME)) {
        rc = open_sharded(s, err);
    } else {
        rc = moed_fail(err, MOED_ENOTFOUND,
                       "%s: neither " SINGLE_NAME " nor " INDEX_NAME " is there", dir);
    }
    if (rc < 0)
        store_close(&s);
    else
        *out = s;
    return rc;
}

int store_open_dummy(struct store **out, struct moed_error *err)
{
    struct store *s = mem_new(1, sizeof *s);
    s->dummy = true;
    *out = s;
    return 0;
}

void store_close(struct store **store)
{
    struct store *s = *store;
    if (!s)
        return;
    *store = NULL;
    if (s->dummy)
        for (size_t i = 0; i < s->n; i++) {
            free((char *)(uintptr_t)s->all[i]->name);
            free((struct tensor_ref *)(uintptr_t)s->all[i]);
        }
    for (int i = 0; i < s->n_files; i++) {
        safetensors_header_fini(&s->headers[i]);
        free(s->paths[i]);
    }
    name_table_fini(&s->names);
    free(s->headers);
    free(s->paths);
    free(s->all);
    free(s->dir);
    free(s);
}

int store_is_dummy(const struct store *s)
{
    return s->dummy;
}

const struct tensor_ref *store_find(const struct store *s, const char *name)
{
    return name_table_find(&s->names, name);
}

size_t store_count(const struct store *s)
{
    return s->n;
}

const struct tensor_ref *store_at(const struct store *s, size_t i)
{
    return i < s->n ? s->all[i] : NULL;
}

int store_file_count(const struct store *s)
{
    return s->n_files;
}

const char *store_file_path(const struct store *s, int file)
{
    return file >= 0 && file < s->n_files ? s->paths[file] : "(dummy)";
}

static int make_dummy(struct store *s, const char *name, int n_dims, const int64_t *shape,
                      enum dtype dtype, const struct tensor_ref **out, struct moed_error *err)
{
    uint64_t elements;
    char text[SHAPE_TEXT_BYTES];
    if (store_shape_elements(&elements, n_dims, shape) < 0 || elements > INT64_MAX / 8)
        return moed_fail(err, MOED_ELIMIT, "tensor %s: shape %s is too large", name,
                         store_shape_text(text, n_dims, shape));
    struct tensor_ref *t = mem_new(1, sizeof *t);
    *t = (struct tensor_ref){.name = mem_strdup(name),
                             .file = -1,
                             .bytes = elements * dtype_bytes(dtype),
                             .dtype = dtype,
                             .dtype_text = dtype_name(dtype),
                             .n_dims = n_dims};
    memcpy(t->shape, shape, (size_t)n_dims * sizeof shape[0]);
    int rc = add_tensor(s, t, err);
    if (rc < 0) {
        free((char *)(uintptr_t)t->name);
        free(t);
        return rc;
    }
    *out = t;
    return 0;
}

int store_expect(struct store *s, const char *name, int n_dims, const int64_t *shape,
                 enum dtype dummy_dtype, const struct tensor_ref **out, struct moed_error *err)
{
    char has[SHAPE_TEXT_BYTES], wants[SHAPE_TEXT_BYTES];
    *out = NULL;
    if (n_dims < 0 || n_dims > TENSOR_MAX_DIMS)
        return moed_fail(err, MOED_EINVAL, "tensor %s: %d dimensions", name, n_dims);
    const struct tensor_ref *t = store_find(s, name);
    if (!t && s->dummy)
        return make_dummy(s, name, n_dims, shape, dummy_dtype, out, err);
    if (!t)
        return moed_fail_param(err, MOED_ENOTFOUND, name, "%s: tensor %s (shape %s) is missing",
                               s->dir, name, store_shape_text(wants, n_dims, shape));
    if (t->n_dims != n_dims || memcmp(t->shape, shape, (size_t)n_dims * sizeof shape[0]) != 0)
        return moed_fail_param(
            err, MOED_EFORMAT, name, "%s: tensor %s has shape %s, the config asks for %s",
            store_file_path(s, t->file), name, store_shape_text(has, t->n_dims, t->shape),
            store_shape_text(wants, n_dims, shape));
    if (t->dtype == DTYPE_COUNT)
        return moed_fail_param(err, MOED_EUNSUPPORTED, name,
                               "%s: tensor %s is %s; F32, BF16 and F16 are supported",
                               store_file_path(s, t->file), name, t->dtype_text);
    *out = t;
    return 0;
}
