/*
 * Record class: how one expert lies in memory. One contiguous block, 4 KiB aligned, that holds all
 * matrices of a SwiGLU expert in one layout, which loader, CPU kernel, GPU kernel and copy engine
 * all use as it is.
 *
 *   gate [intermediate][hidden]   up [intermediate][hidden]   down [hidden][intermediate]
 *
 * Rows are contiguous in the file's dtype; each matrix starts on a 64-byte edge; the record's size
 * is a multiple of 4 KiB.
 */
#ifndef MOED_KERNELS_RECORD_H
#define MOED_KERNELS_RECORD_H

#include <stddef.h>

#include "base/dtype.h"

#define RECORD_ALIGN_BYTES ((size_t)4096)

struct record_class {
    enum dtype dtype;
    int hidden;                        /* model width, multiple of 1 */
    int intermediate;                  /* width inside the expert */
    size_t gate_off, up_off, down_off; /* bytes from the record's start */
    size_t bytes;                      /* of one record */
};

/* The only place that computes the layout. hidden and intermediate are at least 1 and checked by
 * the caller. */
struct record_class record_class_swiglu(enum dtype dtype, int hidden, int intermediate);

#endif
