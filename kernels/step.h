/*
 * Ops of a step that a device records once and replays (device.h, struct dev_step): what a layer
 * does, in as few launches as there can be. The arithmetic is that of kernels.h, op by op, so the
 * bits are those of the ops they stand for.
 *
 * A plan array is an array in plan memory: the caller writes the host's twin before each replay.
 * Rows from *live on (dev_step.live) take no part.
 */
#ifndef MOED_KERNELS_STEP_H
#define MOED_KERNELS_STEP_H

#include "kernels.h"
#include "mailbox.h"

/* Rows of a recorded step at most. */
#define STEP_MAX_ROWS 64

/* Items of a list of paged experts at most: an item holds two rows or more of one expert, but for
 * one of each expert that is not full. */
static inline size_t kern_paged_items(const struct mailbox_layout *l)
{
    return (size_t)l->max_groups + (size_t)l->max_pairs / 2;
}

/* Device memory that paged experts take beside the mailbox of l, at most: two lists of items and
 * those of pairs, and the rows that 16 blocks bring over the link for. */
static inline size_t kern_paged_bytes(const struct mailbox_layout *l)
{
    return 4096 + kern_paged_items(l) * 2 * 16 + (size_t)l->max_pairs * 13 +
           (size_t)16 * 8 * (size_t)l->inner * sizeof(float);
}

/* Device memory of a fused step beside that, at most, per layer. */
#define STEP_FUSED_LAYER_BYTES 2048

/* A weight matrix [out][in] with its bias [out] or NULL. */
struct kern_matrix {
    const void *w, *bias;
    enum dtype w_dtype, bias_dtype;
    float *y; /* [n][out] */
    int out;
};

#define STEP_MAX_MATRICES 3

/* h = rmsnorm(x) (kern_rmsnorm), or h = x without a norm; then y = w h + bias + residual for each
 * matrix (kern_linear). All matrices have one dtype. */
struct kern_norm_linear {
    const float *x;        /* [n][in] */
    const float *residual; /* as y of the only matrix, or NULL */
    const void *norm;      /* or NULL */
    enum dtype norm_dtype;
    float eps;
    float *h; /* [n][in] written too, if not NULL */
    struct kern_matrix matrix[STEP_MAX_MATRICES];
    int n_matrices, n, in;
};

/* On the heads of q and k: kern_rmsnorm with weights q_norm and k_norm (NULL: none), kern_rope;
 * then kern_kv_store of k and v. */
struct kern_turn {
    float *q, *k; /* [n][heads][head_dim], [n][kv.kv_heads][head_dim], in place */
    const float *v;
    const void *q_norm, *k_norm;
    enum dtype norm_dtype;
    float eps;
    const float *cos, *sin; /* [positions][head_dim/2] */
    const int32_t *pos;     /* [n] plan arrays in a recorded step, else host memory of any kind */
    const int64_t *slot;    /* [n] alike */
    struct kern_kv kv;
    int n, heads;
};

/*
 * The second half of a layer with experts, resolved by the device: the router's choice and weights
 * (kern_router, from its logits on), then each chosen expert from its slot where slot_of says that
 * it is resident, else from its record in host memory: of each matrix the first outputs by the miss
 * workers behind the mailbox, the rest by the device over the link; then kern_combine into x.
 * Whoever computes an output, its bits are the same.
 */
struct kern_paged_experts {
    const struct record_class *cls;
    const float *logit;     /* [n][experts] */
    const float *h;         /* [n][hidden] what the experts work on */
    const int32_t *slot_of; /* plan array [experts]: slot, -1: not resident */
    const void *slots;      /* device memory: slot i at i * slot_bytes; NULL: no slots */
    size_t slot_bytes;
    const void *const *host_of; /* device memory [experts]: records in registered host memory */
    /* Plan array [MAILBOX_SHARE_CLASSES]: of MAILBOX_SHARE_ONE outputs so many come over the link.
     */
    const int32_t *link_share;
    /* Where *forced_on is not 0 the choice is forced (kern_router): plan arrays, the first one of
     * all layers, [layers][live rows][top_k]. */
    const int32_t *forced, *forced_on;
    int32_t *id;   /* [n][top_k] shared memory: the choice, for the host to read after sync */
    float *weight; /* [n][top_k] */
    float *hidden; /* [n * top_k][intermediate] */
    float *y;      /* [n * top_k][hidden] */
    float *x;      /* [n][hidden] residual, in place */
    int n, experts, top_k, layer;
    int renormalize;
};

/* All ops of a layer with experts, in their order. */
struct kern_layer {
    struct kern_norm_linear project;
    struct kern_turn turn;
    struct kern_attention attention;
    struct kern_norm_linear out, router;
    struct kern_paged_experts experts;
};

#endif
