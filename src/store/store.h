/*
 * A model's tensors, wherever they lie: safetensors files of a folder, or none at all (dummy). A
 * store of files is read-only after open and may be used from any thread; a dummy store belongs to
 * the thread that asks it for tensors. It never trusts a file: sizes, offsets, overlaps, gaps, JSON
 * depth are checked on open, before anything is read.
 *
 * Errors name file and tensor: MOED_ENOTFOUND (file, tensor), MOED_EFORMAT, MOED_ELIMIT, MOED_EIO,
 * MOED_EUNSUPPORTED.
 */
#ifndef MOED_STORE_H
#define MOED_STORE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/dtype.h"
#include "moed/error.h"

#define TENSOR_MAX_DIMS        8
#define TENSOR_MAX_NAME_BYTES  256
#define STORE_MAX_FILES        4096
#define STORE_MAX_TENSORS      ((size_t)1 << 20)  /* in all files together */
#define STORE_MAX_FILE_TENSORS ((size_t)1 << 18)  /* in one file */
#define STORE_MAX_JSON_BYTES   ((size_t)64 << 20) /* of a file that store_read_json takes */
#define STORE_MAX_JSON_DEPTH   64

struct tensor_ref {
    const char *name; /* owned by the store */
    int file;         /* index for store_file_path; -1: dummy */
    uint64_t offset;  /* bytes from the file's start */
    uint64_t bytes;
    enum dtype dtype;       /* DTYPE_COUNT: a format that nothing here computes with */
    const char *dtype_text; /* as the file says, "BF16", "I64"; static */
    int n_dims;             /* 0 is a scalar */
    int64_t shape[TENSOR_MAX_DIMS];
};

struct store;

/*
 * Opens model.safetensors, or else model.safetensors.index.json with its shards, in a folder;
 * symbolic links are followed. Reads headers only, several at a time; where more than one file is
 * broken the first in their order is told. Format:
 * https://github.com/huggingface/safetensors ("Format" in its README): 8 bytes of header length,
 * the header as JSON, then the data, which the tensors cover without gap or overlap.
 */
int store_open(struct store **out, const char *dir, struct moed_error *err);
/* A store without files: any name that is asked for exists with the asked shape (store_expect). */
int store_open_dummy(struct store **out, struct moed_error *err);
void store_close(struct store **s);

int store_is_dummy(const struct store *s);
/* NULL where there is no such tensor. */
const struct tensor_ref *store_find(const struct store *s, const char *name);
size_t store_count(const struct store *s);
/* In the order of files and of offsets in them; a dummy store's in the order they were asked for.
 * Stays valid until store_close. */
const struct tensor_ref *store_at(const struct store *s, size_t i);
int store_file_count(const struct store *s);
const char *store_file_path(const struct store *s, int file);

/*
 * The tensor `name` with exactly this shape, or an error that names the tensor and both shapes
 * (MOED_ENOTFOUND, MOED_EFORMAT; MOED_EUNSUPPORTED for a dtype outside enum dtype). On a dummy
 * store the tensor is made on the spot with `dummy_dtype`; asked for again it must have the same
 * shape.
 */
int store_expect(struct store *s, const char *name, int n_dims, const int64_t *shape,
                 enum dtype dummy_dtype, const struct tensor_ref **out, struct moed_error *err);

/*
 * Seeded random weights of a dummy tensor: elements [first, first + n) in t->dtype, uniform in
 * [center - scale, center + scale), a function of name and index only. Any thread; n elements
 * beginning at a multiple of 1024 are the fastest.
 */
void store_dummy_fill(const struct tensor_ref *t, uint64_t first, size_t n, float center,
                      float scale, void *dst);

/* Reads a JSON object from a file of a model folder, within the limits above; duplicates of keys
 * are errors. Decref the result. */
int store_read_json(json_t **out, const char *dir, const char *file, struct moed_error *err);

#endif
