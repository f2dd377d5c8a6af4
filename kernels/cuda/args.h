/*
 * What a launch hands to a CUDA kernel: one struct by value, the same for the C host code and the
 * kernels. All pointers are addresses that the device can read; the host part has replaced the
 * caller's plan arrays by copies on the device.
 */
#ifndef MOED_KERNELS_CUDA_ARGS_H
#define MOED_KERNELS_CUDA_ARGS_H

#include <stdint.h>

#include "mailbox.h"

#define CU_THREADS     256 /* of every block but the router's choice */
#define CU_WARPS       (CU_THREADS / 32)
#define CU_OUTS        2                    /* outputs of a weight matrix per warp */
#define CU_BLOCK_OUTS  (CU_WARPS * CU_OUTS) /* and per block */
#define CU_MAX_ROWS    8                    /* rows that share one reading of the weights */
#define CU_RING_BYTES  8192 /* of weights under way, for each warp of row_stream.cuh */
#define CU_MANY_OUTS   4    /* outputs of a warp of linear_bf16_many, times as many rows */
#define CU_MANY_ROWS   4
#define CU_ITEM_ROWS   4 /* rows of an item of paged_rows.cuh, at most */
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

#define CU_ATTENTION_THREADS 128 /* a warp for each block of a chunk */
#define CU_ATTENTION_SLICE   128 /* elements of a head per block of the kernel for any shape */
#define CU_TURN_DIM          256 /* the widest head that attention turns itself */

/*
 * Grid: x over rows, y over (kv head, its head blocks, splits). A block takes the heads of one head
 * block through one piece of the row's chunks; a piece is 2^l chunks of one node of the tree, the
 * smallest l at which the row has no more than `splits` pieces. The last block of a (row, head
 * block) to end joins the pieces, if they are several.
 */
struct cu_attention {
    struct cu_kv kv;
    const float *q;
    float *out;
    int64_t q_stride, out_stride;
    const int32_t *pos, *seq;
    const int32_t *table; /* [sequences][table_stride] */
    const int32_t *live;  /* rows from here on take no part; NULL: all do */
    int64_t table_stride;
    float *node;     /* [n][head blocks][splits][node_floats]: pieces */
    uint32_t *ended; /* [n][head blocks], 0 between launches */
    int32_t node_floats;
    int32_t heads, window;
    int32_t splits, head_blocks; /* head_blocks: of one kv head */
    int32_t block_heads;         /* of a head block; the last may have fewer */
    float scale;
    /* Shared memory: where things begin, in floats; k_stride in bytes. */
    int32_t k_stride, k, v, part, q_at, score, weight, head_sums, wait, wait_sums, join_sums;
    int32_t team_floats; /* all of it, of one team of threads */
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
    int64_t gate_off, up_off, down_off, in_row_bytes, down_row_bytes;
    const uint8_t *list; /* NULL: it is inline_list */
    int32_t n_items, pairs, width,
        inner; /* width: hidden of the record class; inner: intermediate */
    uint8_t inline_list[CU_INLINE_BYTES];
};

/* y = w h + bias for up to three matrices, h = rmsnorm(x) where norm is there and x otherwise. */
struct cu_matrix {
    const uint8_t *w;
    const void *bias;
    float *y;
    int32_t out, first; /* first: of the outputs of all matrices together */
};

struct cu_norm_linear {
    const float *x, *residual;
    const void *norm; /* of one row; NULL: none */
    float *h;         /* written where not NULL */
    struct cu_matrix matrix[3];
    int32_t n_matrices, n, in, outs, norm_dtype, bias_dtype;
    float eps;
};

struct cu_turn {
    struct cu_kv kv;
    float *q, *k;
    const float *v, *cos, *sin;
    const void *q_norm, *k_norm;
    const int32_t *pos, *live;
    const int64_t *slot;
    int32_t n, heads, norm_dtype;
    float eps;
};

#define CU_LINK_BLOCKS  16   /* that read missed experts over the link */
#define CU_RESOLVE_ROWS 32   /* warps of the block that resolves */
#define CU_STEP_EXPERTS 1024 /* of one layer, at most */

/* What the kernels of a recorded step tell each other, in device memory. */
struct cu_paged_state {
    uint32_t seq;                 /* of the last job in the mailbox */
    uint32_t job;                 /* this layer's, 0: none */
    uint32_t gave_up;             /* the miss workers did not answer: nothing waits any more */
    uint32_t arrived;             /* blocks whose part over the link is done */
    int32_t n_hits, n_misses;     /* items */
    int32_t cpu_inner, cpu_width; /* outputs of missed experts that the CPU computes */
    int32_t link_groups;          /* missed experts among the hits: the link's alone */
};

struct cu_paged {
    struct cu_paged_state *state;
    struct cu_expert_item *hit, *miss;
    int32_t *row, *pair; /* of the items */
    int32_t *chosen;     /* [n][top_k] */
    uint8_t *missed;     /* [n * top_k]: of an expert that the CPU has a part in */
    float *link_x;       /* [CU_LINK_BLOCKS][CU_MAX_ROWS][inner] */
    const float *logit, *h;
    const int32_t *live, *slot_of, *link_share, *forced, *forced_on;
    const uint8_t *slots;
    const uint8_t *const *host_of;
    int64_t slot_bytes, gate_off, up_off, down_off, in_row_bytes, down_row_bytes;
    int32_t *id;
    float *weight, *hidden, *y, *x;
    struct mailbox *box;
    struct mailbox_group *box_group;
    int32_t *box_row, *box_pair;
    float *box_x, *box_hidden, *box_y;
    uint64_t patience_ns; /* of a wait for the miss workers */
    int32_t n, experts, top_k, renormalize, layer, width, inner, rows_per_item;
    int32_t groups_per_warp; /* of paged_rows.cuh */
};

struct cu_combine {
    const float *y, *weight;
    float *x;
    int32_t n, top_k, dim;
};

#endif
