/* What a launch hands to the kernels of the tensor class; see args.h. */
#ifndef MOED_KERNELS_CUDA_TENSOR_ARGS_H
#define MOED_KERNELS_CUDA_TENSOR_ARGS_H

#include "args.h"

#define CU_TILE_ROWS  128 /* rows of x per tile at most */
#define CU_TILE_DEPTH 64  /* elements of a row per stage */
#define CU_STAGES     3

/* Shared memory of a tile of `outs` (128 or 256) outputs. */
#define CU_TILE_BYTES(outs) (CU_STAGES * (CU_TILE_ROWS + (outs)) * CU_TILE_DEPTH * 2)

/* The same of tiles of warpgroups, 256 outputs. */
#define CU_GROUP_STAGES      4
#define CU_GROUP_STAGE_BYTES ((CU_TILE_ROWS + 256) * CU_TILE_DEPTH * 2)
#define CU_GROUP_BYTES       (CU_GROUP_STAGES * CU_GROUP_STAGE_BYTES)

/* Up to CU_TILE_ROWS rows that one matrix is multiplied with: entries [first, first + count) of the
 * lists, or rows themselves where there are none. */
struct cu_tile {
    const uint8_t *w; /* the matrix, or the record */
    int32_t first, count;
};

/* Products of matrices with rows, for linear, and for the halves of experts. */
struct cu_product {
    const struct cu_tile *tile; /* [tiles]; NULL: tiles of `rows` rows of one matrix at w */
    const uint8_t *w;
    const int32_t *x_row; /* row of x per entry; NULL: the entry's own number */
    const int32_t *y_row; /* row of y alike */
    const uint8_t *x;     /* 16-bit, x_stride elements between rows */
    void *y;              /* fp32, or 16-bit for gate and up; y_stride elements between rows */
    const float *residual;
    const void *bias;
    int64_t x_stride, y_stride;
    int64_t w_off, up_off; /* bytes to the matrix within the record; from gate to up */
    int32_t in, out, n, rows, out_tiles, bias_dtype;
};

#define CU_UNPACK_RECORDS 64 /* of one launch */

/* Packed records become gate, up and down in bf16, one behind the other; record i at to + i *
 * to_bytes. */
struct cu_unpack {
    uint8_t *to;
    int64_t to_bytes, gate_off, up_off, down_off, in_row_bytes, down_row_bytes;
    int32_t width, inner;
    const uint8_t *record[CU_UNPACK_RECORDS];
};

struct cu_round {
    const float *x;
    void *y;
    int64_t x_stride, y_stride;
    int32_t dim;
};

/* Rows [row, row + count) of the call: one sequence, consecutive positions from pos. */
struct cu_flash_tile {
    int32_t row, count, pos, seq;
};

#define CU_FLASH_ROWS    128 /* (row, head) pairs per tile */
#define CU_FLASH_KEYS    64
#define CU_FLASH_THREADS 128
/* Shared memory for heads of `dim`: Q, K, V. */
#define CU_FLASH_BYTES(dim) ((CU_FLASH_ROWS + 2 * CU_FLASH_KEYS) * (dim)*2)

/* The same by warpgroups: stages of K and V. */
#define CU_FLASH_GROUP_KEYS       128
#define CU_FLASH_GROUP_THREADS    256
#define CU_FLASH_STAGES           3
#define CU_FLASH_GROUP_BYTES(dim) (CU_FLASH_STAGES * 2 * CU_FLASH_GROUP_KEYS * (dim)*2)

struct cu_flash {
    struct cu_kv kv;
    const struct cu_flash_tile *tile;
    const int32_t *table; /* [sequences][table_stride] */
    const float *q;
    void *out;
    int64_t q_stride, out_stride, table_stride;
    int32_t heads, window, out_dtype;
    float scale_log2; /* scale * log2(e) */
};

#endif
