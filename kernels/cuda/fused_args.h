/*
 * All layers of a step of one row in one launch (fused_step.cuh): a block for each multiprocessor,
 * all of them at once, with barriers of the grid between the parts of a layer. The same for the C
 * host code and the kernel.
 */
#ifndef MOED_KERNELS_CUDA_FUSED_ARGS_H
#define MOED_KERNELS_CUDA_FUSED_ARGS_H

#include "args.h"

#define CU_FUSED_THREADS 512
#define CU_FUSED_WARPS   (CU_FUSED_THREADS / 32)
#define CU_FUSED_TOP_K   32
#define CU_FUSED_HEADS   2 /* of a unit of attention */
#define CU_FUSED_TEAMS   1 /* of a block, that share a unit of attention; two are slower */
#define CU_FUSED_DIM     128
/* Warps of the grid that read down of missed experts over the link. A round trip takes 4 to 5 us
 * beside the CPU's reading and brings each of them 3 KiB. */
#define CU_FUSED_LINK_WARPS 128
/* Rows that are brought together, so many bytes at most or one row, and how many such at most. */
#define CU_FUSED_BUNDLE_BYTES 16384
#define CU_FUSED_BUNDLES      16

/* A layer, as the ops of a recorded step would get it for one row. All matrices are bf16. */
struct cu_layer {
    struct cu_norm_linear project, out, router;
    struct cu_turn turn;
    struct cu_attention attention;
    struct cu_paged experts;
    int32_t units; /* of attention: (head block, split) */
};

/* Parts of a layer, for times. */
enum cu_fused_part {
    CU_FUSED_PROJECT,
    CU_FUSED_ATTENTION,
    CU_FUSED_OUT,
    CU_FUSED_ROUTER,
    CU_FUSED_GATE_UP,
    CU_FUSED_DOWN,
    CU_FUSED_PARTS
};

/* A block's rows of a matrix: first of `count`, of which `placed` come to shared memory, in bundles
 * of 2^shift. */
struct cu_rows {
    int32_t first, count, placed, shift;
};

/* Of a block, at the beginning of its shared memory. */
struct cu_fused_control {
    struct cu_layer layer[2]; /* this one and the next, by turns */
    struct cu_rows rows[2][3];
    float sums[32];
    float weight[CU_FUSED_TOP_K];
    int32_t chosen[CU_FUSED_TOP_K];
    int32_t forced, given_up, link_share[MAILBOX_SHARE_CLASSES];
    int32_t best; /* of the warp that makes the weights */
    /* Chosen experts that are resident and that are not: record, place in the row's choice. */
    const uint8_t *hit[CU_FUSED_TOP_K], *miss[CU_FUSED_TOP_K];
    int32_t hit_at[CU_FUSED_TOP_K], miss_at[CU_FUSED_TOP_K];
    int32_t n_hits, n_misses;
    int32_t cpu_inner, cpu_width; /* outputs of the missed ones that the CPU computes */
    int32_t link_groups; /* missed ones among the hits, the last of them: the link's alone */
    uint32_t seq;        /* of the last job in the mailbox */
    uint32_t job;        /* this layer's, 0: none */
    int32_t paged_layer; /* the last with experts that are not resident */
    /* Barriers (stream.cuh): a bundle of a matrix's rows has been brought; Q, K, V, output, router.
     */
    uint64_t brought[3][CU_FUSED_BUNDLES];
    uint64_t known; /* the choice is */
};

/* Of the grid, in device memory; zeroed once. */
struct cu_grid {
    uint32_t arrived; /* blocks at barriers, of all launches together */
    uint32_t base;    /* what `arrived` was when the launch began */
    /* The last jobs of which block 0 has brought the CPU's part of hidden, and of y: the others
     * look here, since a look over the link takes long and disturbs the CPU. */
    uint32_t cpu_hidden, done;
    uint32_t posted; /* the job is in the mailbox */
};

/* Shared memory for weights on their way, bytes. */
struct cu_near {
    int32_t at, bytes;
};

struct cu_fused {
    const struct cu_layer *layer; /* [n_layers] */
    struct cu_grid *grid;
    /* Cycles of block 0's multiprocessor at the beginning of each part and at the end of each
     * layer, with what barriers take: [n_layers][CU_FUSED_PARTS + 1]; or NULL. */
    uint64_t *cycles;
    int32_t n_layers;
    /* Shared memory, bytes from its start: logits, their exponentials and slots of all experts;
     * outputs of the chosen experts [top_k][outs]; what a part works on; weights on their way:
     * of attention's output behind what attention works on, of the router behind those of Q, K, V.
     */
    int32_t logit_at, exponential_at, slot_at, y_at, work_at;
    struct cu_near near_project, near_out, near_router;
    int32_t outs; /* outputs of a block's down at most */
};

#endif
