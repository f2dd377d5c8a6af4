/* A safetensors file taken apart and written again with changes. */
#ifndef MOED_TESTS_SUPPORT_EDIT_H
#define MOED_TESTS_SUPPORT_EDIT_H

#include <stddef.h>
#include <stdint.h>

#define EDIT_MAX_TENSORS 512

struct edit_tensor {
    char name[160], dtype[8];
    int n_dims;
    int64_t shape[4];
    const uint8_t *data; /* NULL: zeros */
};

struct edit {
    uint8_t *file;
    struct edit_tensor tensor[EDIT_MAX_TENSORS];
    size_t n;
    size_t pad; /* spaces behind the header: they move all tensors */
};

void edit_open(struct edit *e, const char *path);
void edit_close(struct edit *e);
/* The tensor of this name; the test fails without it. */
struct edit_tensor *edit_find(struct edit *e, const char *name);
void edit_drop(struct edit *e, const char *name);
/* A new tensor of zeros; columns 0: one dimension. */
void edit_add(struct edit *e, const char *name, const char *dtype, int64_t rows, int64_t columns);
void edit_write(const struct edit *e, const char *path);

#endif
