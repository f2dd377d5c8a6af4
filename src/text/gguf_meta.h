/*
 * The metadata of a GGUF file (versions 2 and 3, little endian): keys with typed values, in front
 * of the tensors. Nothing is copied: the bytes must outlive what is read from them.
 * Never changes once opened; any thread.
 */
#ifndef MOED_TEXT_GGUF_META_H
#define MOED_TEXT_GGUF_META_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

enum gguf_type {
    GGUF_UINT8,
    GGUF_INT8,
    GGUF_UINT16,
    GGUF_INT16,
    GGUF_UINT32,
    GGUF_INT32,
    GGUF_FLOAT32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_UINT64,
    GGUF_INT64,
    GGUF_FLOAT64,
};

struct gguf_value {
    const char *key;
    size_t n_key;
    enum gguf_type type; /* of an array: of its elements */
    int is_array;
    uint64_t n; /* elements; 1 if it is no array */
    const char
        *bytes; /* the elements one behind the other; each string has its u64 length before */
    size_t n_bytes;
};

struct gguf_meta {
    struct gguf_value *values; /* [n] */
    size_t n;
    uint64_t n_tensors;
    size_t end; /* offset behind the metadata, where the tensors' list begins */
};

enum { GGUF_MAX_KEYS = 1 << 16 };

int gguf_meta_open(struct gguf_meta *m, const char *bytes, size_t n, struct moed_error *err);
void gguf_meta_fini(struct gguf_meta *m);

/* NULL where the key is absent. */
const struct gguf_value *gguf_find(const struct gguf_meta *m, const char *key);
/* A whole number or boolean that is no array; `missing` where the key is absent or something else.
 */
int64_t gguf_int(const struct gguf_meta *m, const char *key, int64_t missing);
/* A string, as a copy (free() it), or NULL. */
char *gguf_string(const struct gguf_meta *m, const char *key);

/* Element i of an array of numbers (i < n); 0 for other types. */
double gguf_number_at(const struct gguf_value *v, uint64_t i);
/* Walks over an array of strings: *at is 0 at first. 1, or 0 at the end. */
int gguf_next_string(const struct gguf_value *v, size_t *at, const char **s, size_t *n);

#endif
