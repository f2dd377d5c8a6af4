/*
 * What a launch hands to a CUDA kernel: one struct by value, the same for the C host code and the
 * kernels. All pointers are addresses that the device can read; the host part has replaced the
 * caller's plan arrays by copies on the device.
 */
#ifndef MOED_KERNELS_CUDA_ARGS_H
#define MOED_KERNELS_CUDA_ARGS_H

#include <stdint.h>

#define CU_THREADS     256 /* of every block but the router's choice */
#define CU_WARPS       (CU_THREADS / 32)
#define CU_OUTS        2                    /* outputs of a weight matrix per warp */
#define CU_BLOCK_OUTS  (CU_WARPS * CU_OUTS) /* and per block */
#define CU_MAX_ROWS    8                    /* rows that share one reading of the weights */
#define CU_MAX_DIM     1024                 /* head_dim of attention */
#define CU_SCORES      8192                 /* positions whose scores one block holds at a time */
#define CU_MAX_TOP_K   256
#define CU_MAX_EXPERTS 2048
#define CU_ROUTER_ROWS 4 /* rows per block of the router's choice, one warp each */

struct cu_embed {
    const void *table;
    const int32_t *token;
    float *x;
    int32_t n, dim, dtype;
};

struct cu_rmsnorm {
    const float *x;
    float *y;
    const void *w;
    int64_t x_stride, y_stride;
    int32_t dim, w_dtype;
    float eps;
};

struct cu_linear {
    const void *w, *bias;
    const float *x, *residual;
    float *y;
    int64_t x_stride, y_stride;
    int32_t n, in, out, bias_dtype;
};

struct cu_rope {
    float *x;
    int64_t x_stride;
    const int32_t *pos;
    const float *cos, *sin;
    int32_t n, heads, half;
};

struct cu_kv {
    uint8_t *blocks;
    int64_t block_bytes;
    int32_t dtype, kv_heads, head_dim;
};

struct cu_kv_store {
    struct cu_kv kv;
    const float *k, *v;
    int64_t k_stride, v_stride;
    const int64_t *slot;
    int32_t n;
};

struct cu_attention {
    struct cu_kv kv;
    const float *q;
    float *out;
    int64_t q_stride, out_stride;
    const int32_t *pos, *seq;
    const int32_t *table; /* [sequences][table_stride] */
    int64_t table_stride;
    int32_t heads, window, scores; /* scores: positions per round, a multiple of 32 */
    float scale;
};

struct cu_silu_mul {
    const float *gate, *up;
    float *y;
    int64_t n;
};

struct cu_select {
    float *logit; /* [n][experts], overwritten */
    int32_t *id;
    float *weight;
    const int32_t *forced; /* [n][top_k], or NULL */
    int32_t n, experts, top_k, renormalize;
};

/* Up to CU_MAX_ROWS rows of one expert: entries [first, first + count) of the lists. */
struct cu_expert_item {
    const uint8_t *record;
    int32_t first, count;
};

/* Lists of so many bytes travel with the launch itself. */
#define CU_INLINE_BYTES 1024

/* The list: items [n_items], then row [pairs], then pair [pairs]. */
struct cu_experts {
    const float *x;
    float *hidden, *y;
    int64_t gate_off, up_off, down_off;
    const uint8_t *list; /* NULL: it is inline_list */
    int32_t n_items, pairs, width,
        inner; /* width: hidden of the record class; inner: intermediate */
    uint8_t inline_list[CU_INLINE_BYTES];
};

struct cu_combine {
    const float *y, *weight;
    float *x;
    int32_t n, top_k, dim;
};

#endif
