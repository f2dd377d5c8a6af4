/* Inside store/: what its files share. */
#ifndef MOED_STORE_INT_H
#define MOED_STORE_INT_H

#include "store/store.h"

/* The safetensors format says 100 MB. */
#define SAFETENSORS_MAX_HEADER_BYTES ((uint64_t)100 * 1000 * 1000)

/* The tensors of one file, in the order of their offsets. The names are on the heap. */
struct safetensors_header {
    struct tensor_ref *tensors;
    size_t n;
};

/* From the first 8 bytes of a file: the length of the JSON that follows them, checked. */
int safetensors_header_bytes(uint64_t *out, const uint8_t first[8], uint64_t file_bytes,
                             const char *file, struct moed_error *err);
/* Parses and checks the JSON header. file is for messages; the refs' file is set to file_index. On
 * failure *out is empty. */
int safetensors_parse(struct safetensors_header *out, const char *json, size_t json_bytes,
                      uint64_t file_bytes, const char *file, int file_index,
                      struct moed_error *err);
void safetensors_header_fini(struct safetensors_header *h);

/* An open regular file (symbolic links followed) and its size. */
int store_open_file(int *fd, uint64_t *bytes, const char *path, struct moed_error *err);
/* Reads exactly n bytes from the file's start + offset. */
int store_read_exactly(int fd, uint64_t offset, void *dst, size_t n, const char *path,
                       struct moed_error *err);

/*
 * Parses JSON from outside: an object, no key twice, nested at most max_depth, at most max_values
 * values (jansson needs about 50 bytes for each, however small it is in the text).
 */
int store_parse_json(json_t **out, const char *text, size_t n, size_t max_depth, size_t max_values,
                     const char *file, struct moed_error *err);

/* "[2, 3]" into text; returns text. */
#define SHAPE_TEXT_BYTES 200
const char *store_shape_text(char text[SHAPE_TEXT_BYTES], int n_dims, const int64_t *shape);

/* Elements of a shape; 0 or MOED_ELIMIT when it is negative or does not fit in 63 bits. */
int store_shape_elements(uint64_t *out, int n_dims, const int64_t *shape);

/*
 * Names to tensors: open addressing over pointers that the caller owns. Starts as {0}. A tensor of
 * the same name is not replaced: add returns the one that is there, NULL when it was new.
 */
struct name_table {
    const struct tensor_ref **slot;
    size_t n, cap; /* cap is a power of two */
};
const struct tensor_ref *name_table_add(struct name_table *t, const struct tensor_ref *ref);
const struct tensor_ref *name_table_find(const struct name_table *t, const char *name);
void name_table_fini(struct name_table *t);

#endif
