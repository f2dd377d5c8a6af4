/* Number formats of tensors in files, records and caches. */
#ifndef MOED_BASE_DTYPE_H
#define MOED_BASE_DTYPE_H

#include <stddef.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_COUNT };

static inline size_t dtype_bytes(enum dtype t)
{
    return t == DTYPE_F32 ? 4 : 2;
}

static inline const char *dtype_name(enum dtype t)
{
    static const char *const names[] = {"F32", "BF16", "F16"};
    return t < DTYPE_COUNT ? names[t] : "?";
}

#endif
