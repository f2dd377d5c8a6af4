/* A temporary folder with model files made by hand. */
#ifndef MOED_TESTS_SUPPORT_FOLDER_H
#define MOED_TESTS_SUPPORT_FOLDER_H

#include <stddef.h>
#include <stdint.h>

struct folder {
    char path[256];
};

void folder_make(struct folder *f);
/* Removes it with all that is in it. */
void folder_remove(struct folder *f);
void folder_write(const struct folder *f, const char *name, const void *bytes, size_t n);
void folder_text(const struct folder *f, const char *name, const char *text);
/* A safetensors file: length, header, then data_bytes bytes 0, 1, 2, ... */
void folder_tensors(const struct folder *f, const char *name, const char *header,
                    size_t data_bytes);
/* The same with a length of our choice in front. */
void folder_tensors_length(const struct folder *f, const char *name, uint64_t length,
                           const char *header, size_t data_bytes);

#endif
