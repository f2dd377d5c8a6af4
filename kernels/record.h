/*
 * Record class: how one expert lies in memory. One contiguous block, 4 KiB aligned, that holds all
 * matrices of a SwiGLU expert in one layout, which loader, CPU kernel, GPU kernel and copy engine
 * all use as it is.
 *
 *   gate [intermediate][hidden]   up [intermediate][hidden]   down [hidden][intermediate]   lists
 *
 * Each matrix starts on a 64-byte edge; the record's size is a multiple of 4 KiB. Rows follow each
 * other in_row_bytes (gate, up) or down_row_bytes apart: in the file's dtype, element by element,
 * or packed (packed.h), which only bf16 is; then some rows point into the lists at the end.
 */
#ifndef MOED_KERNELS_RECORD_H
#define MOED_KERNELS_RECORD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/dtype.h"

#define RECORD_ALIGN_BYTES ((size_t)4096)

struct record_class {
    enum dtype dtype;
    int hidden;                          /* model width, multiple of 1 */
    int intermediate;                    /* width inside the expert */
    size_t gate_off, up_off, down_off;   /* bytes from the record's start */
    size_t bytes;                        /* of one record */
    size_t in_row_bytes, down_row_bytes; /* from row to row of gate and up, and of down */
    bool packed;                         /* bf16 in packed rows */
    size_t lists_off, lists_bytes;       /* packed: what all lists of a record may take */
};

/* The only places that compute the layout. hidden and intermediate are at least 1 and checked by
 * the caller; of packed records packed_takes both. */
struct record_class record_class_swiglu(enum dtype dtype, int hidden, int intermediate);
struct record_class record_class_packed(int hidden, int intermediate);

/* Of the matrices alone, without lists and what lies between: what computing an expert reads. */
static inline size_t record_matrix_bytes(const struct record_class *c)
{
    return 2 * (size_t)c->intermediate * c->in_row_bytes + (size_t)c->hidden * c->down_row_bytes;
}

#endif
