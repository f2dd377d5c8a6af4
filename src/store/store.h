/*
 * A model's tensors, wherever they lie: safetensors files of a folder, or none at all (dummy). The
 * store is read-only after open and may be used from any thread. It never trusts a file: sizes,
 * offsets, overlaps, JSON depth are checked on open.
 */
#ifndef MOED_STORE_H
#define MOED_STORE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/dtype.h"
#include "moed/error.h"

#define TENSOR_MAX_DIMS 4

struct tensor_ref {
    const char *name; /* owned by the store */
    int file;         /* index for store_file_path; -1: dummy */
    uint64_t offset;  /* bytes from the file's start */
    uint64_t bytes;
    enum dtype dtype;
    int n_dims;
    int64_t shape[TENSOR_MAX_DIMS];
};

struct store;

/* Opens model.safetensors, or model.safetensors.index.json with its shards, in a folder (symlinks
 * are followed). */
int store_open(struct store **out, const char *dir, struct moed_error *err);
/* A store without files: any name that is asked for exists with the asked shape (see
 * store_dummy_add). */
int store_open_dummy(struct store **out, struct moed_error *err);
void store_close(struct store **s);

int store_is_dummy(const struct store *s);
/* NULL where there is no such tensor. */
const struct tensor_ref *store_find(const struct store *s, const char *name);
size_t store_count(const struct store *s);
const struct tensor_ref *store_at(const struct store *s, size_t i);
int store_file_count(const struct store *s);
const char *store_file_path(const struct store *s, int file);

/*
 * The tensor `name` with exactly this shape, or an error that names the tensor and both shapes
 * (MOED_ENOTFOUND, MOED_EFORMAT). On a dummy store the tensor is made on the spot with
 * `dummy_dtype`.
 */
int store_expect(struct store *s, const char *name, int n_dims, const int64_t *shape,
                 enum dtype dummy_dtype, const struct tensor_ref **out, struct moed_error *err);

/* Seeded random weights of a dummy tensor: elements [first, first + n), uniform in +-scale, a
 * function of name and index only. */
void store_dummy_fill(const struct tensor_ref *t, uint64_t first, size_t n, float scale, void *dst);

/* Reads a JSON file of a model folder with limits (64 MiB, depth 64); duplicates of keys are
 * errors. Decref the result. */
int store_read_json(json_t **out, const char *dir, const char *file, struct moed_error *err);

#endif
