/* Inside model/: the model and its open pass. Everything belongs to the engine thread. */
#ifndef MOED_MODEL_INT_H
#define MOED_MODEL_INT_H

#include <time.h>

#include "model/model.h"
#include "model/weights.h"

/* Buffers of one pass, cut from one block of device memory. Row counts are those of the options;
 * q_dim = n_heads * head_dim, kv_dim = n_kv_heads * head_dim, pairs = max_rows * top_k. */
struct activations {
    float *x;         /* [max_rows][hidden] residual stream */
    float *h;         /* [max_rows][hidden] normalised */
    float *q;         /* [max_rows][q_dim] */
    float *k, *v;     /* [max_rows][kv_dim] */
    float *att;       /* [max_rows][q_dim] */
    float *gate;      /* [max_rows][intermediate]; NULL without dense layers */
    float *up;        /* [max_rows][intermediate] */
    float *weight;    /* [max_rows][top_k]; NULL without experts */
    float *hidden;    /* [pairs][moe_intermediate] */
    float *y;         /* [pairs][hidden] */
    float *last;      /* [max_logits][hidden] rows whose logits are wanted */
    float *logits;    /* [max_logits][vocab]; NULL where ops write host memory */
    float *cos, *sin; /* [max_context][head_dim / 2] */
};

/* Cuts the buffers from base (NULL: only counts) and returns the bytes of the whole. */
uint64_t activations_layout(struct activations *a, uint8_t *base, const struct model_config *c,
                            const struct model_options *o);

/* Host side of an expert layer: which rows go to which expert. */
struct expert_groups {
    struct pager_need *need;         /* [n_experts] */
    struct pager_lease *lease;       /* [n_experts] */
    struct kern_expert_group *group; /* [n_experts] */
    int32_t *first;                  /* [n_experts + 1] */
    int32_t *row, *pair;             /* [pairs] */
};

struct pass {
    bool open, failed;
    struct model_batch batch;
    int32_t layer;         /* the next to run */
    int32_t max_context;   /* highest position + 1 */
    uint64_t kv_positions; /* sum over sequences of tokens that full attention reads */
    struct timespec mark;  /* start of the current stage */
};

struct model {
    struct model_config c;
    struct model_options o;
    struct dev *dev;
    struct weights w;
    struct expert_map map; /* what the pager sees of w */
    struct pager *pager;   /* NULL without experts */
    uint8_t *kv;           /* [n_layers][kv_blocks][layer_block_bytes] */
    uint64_t kv_bytes;
    size_t layer_block_bytes;
    uint8_t *activation_block;
    uint64_t activation_bytes;
    struct activations a;
    struct expert_groups groups;
    uint8_t *dense; /* the dense weights on a device that does not use host memory, or NULL */
    uint64_t dense_bytes;
    int32_t *id; /* [max_rows][top_k] chosen experts, in shared memory; NULL without experts */
    size_t id_bytes;
    int64_t *slot;               /* [max_rows] place in the KV cache; host */
    const int32_t **block_table; /* [max_rows] of the pass's sequences; host */
    bool registered_arena;
    struct pass pass;
    struct model_stats stats;
};

/* cos and sin tables for positions 0..max_context-1. */
void rope_tables(const struct model_config *c, int32_t max_context, float *cos, float *sin);

/* Bytes of one KV block of one layer. */
uint64_t kv_layer_block_bytes(const struct model_config *c, enum dtype kv_dtype);

/* The stages of a layer, on the open pass. */
int attention_run(struct model *m, int32_t layer, struct moed_error *err);
int dense_run(struct model *m, int32_t layer, struct moed_error *err);
int experts_run(struct model *m, int32_t layer, struct moed_error *err);

/* Adds the time since the last mark to *seconds. */
void stage_end(struct model *m, double *seconds);
int device_failed(const char *stage, int32_t layer, struct moed_error *err);

/* y [n][out] = w x (+ bias) (+ residual), rows contiguous. */
int linear_run(struct model *m, const struct weight *w, const struct weight *bias, int in, int out,
               const float *x, const float *residual, float *y);
int norm_run(struct model *m, const struct weight *w, int rows, int dim, const float *x, float *y);

#endif
