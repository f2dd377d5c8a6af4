/* Inside model/: the model and its passes. Everything belongs to the engine thread. */
#ifndef MOED_MODEL_INT_H
#define MOED_MODEL_INT_H

#include <time.h>

#include "model/model.h"
#include "model/weights.h"

/* Buffers of a lane. rows are the lane's; q_dim = n_heads * head_dim, kv_dim = n_kv_heads *
 * head_dim, pairs = rows * top_k. */
struct activations {
    float *x;       /* [rows][hidden] residual stream */
    float *h;       /* [rows][hidden] normalised */
    float *q;       /* [rows][q_dim] */
    float *k, *v;   /* [rows][kv_dim] */
    float *att;     /* [rows][q_dim] */
    float *gate;    /* [rows][intermediate]; NULL without dense layers */
    float *up;      /* [rows][intermediate] */
    float *weight;  /* [rows][top_k]; NULL without experts */
    float *hidden;  /* [pairs][moe_intermediate] */
    float *y;       /* [pairs][hidden] */
    void *x16;      /* [rows][hidden] of 16 bits, for the tensor class; or NULL */
    void *unpacked; /* packed experts for the tensor class; or NULL */
    size_t unpacked_bytes;
};

/* What passes write on the device, and tables, cut from one block of memory. */
struct device_buffers {
    struct activations lane[MODEL_LANES];
    float *last;      /* [max_logits][hidden] rows whose logits are wanted */
    float *logits;    /* [max_logits][vocab]; NULL where ops write host memory */
    void *sampler;    /* scratch of kern_sample for max_logits rows; NULL as logits */
    float *cos, *sin; /* [max_context][head_dim / 2] */
};

int32_t lane_rows(const struct model_options *o, enum model_lane lane);
/* Cuts the buffers from base (NULL: only counts) and returns the bytes of the whole. long_bytes
 * (may be NULL): what the long lane takes of it. */
uint64_t buffers_layout(struct device_buffers *b, uint8_t *base, const struct model_config *c,
                        const struct model_options *o, uint64_t *long_bytes);

/* Host side of an expert layer: which rows go to which expert. */
struct expert_groups {
    struct pager_need *need;         /* [n_experts] */
    struct pager_lease *lease;       /* [n_experts] */
    struct kern_expert_group *group; /* [n_experts] */
    int32_t *first;                  /* [n_experts + 1]; after sorting, the end of each expert's */
    int32_t *row, *pair;             /* [pairs] of the longer lane */
};

/* A lane and the pass that is open on it. */
struct pass {
    /* The lane's, as long as the model lives. */
    int32_t max_rows; /* 0: there is no such lane */
    const struct activations *a;
    int32_t *id; /* [max_rows][top_k] chosen experts, in shared memory, or NULL */
    size_t id_bytes;
    int64_t *slot;               /* [max_rows] place in the KV cache; -1: not written; host */
    const int32_t **block_table; /* [max_rows] of the pass's sequences; host */

    bool open, failed;
    bool replayed; /* a recorded step */
    bool tensor;   /* of the tensor class (long.c) */
    bool streams;  /* a stream of the pager is open */
    struct model_batch batch;
    int32_t layer;         /* the next to run */
    int32_t max_context;   /* highest position + 1 */
    uint64_t kv_positions; /* sum over sequences of tokens that full attention reads */
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
    uint8_t *buffer_block;
    uint64_t buffer_bytes;
    struct device_buffers b;
    struct expert_groups groups;
    struct weights_loading *loading; /* from model_begin to model_finish */
    void **registered;               /* [n_registered] parts of the arena */
    size_t n_registered, registered_cap;
    uint8_t *dense; /* the dense weights on a device that does not use host memory, or NULL */
    uint64_t dense_bytes;
    int32_t *no_blocks; /* [max_context / 16] the block table of dropped sequences: block 0 */
    int32_t *sampled;   /* [max_logits] shared memory; NULL where the device cannot sample */
    struct pass lane[MODEL_LANES];
    bool has_tensor;           /* device and weights have the tensor class */
    struct recorded *recorded; /* passes that the device runs as a whole, or NULL */
    bool in_step;              /* a step of the pager is open */
    struct timespec mark;      /* start of the current stage */
    struct model_stats stats;
};

/* cos and sin tables for positions 0..max_context-1, made by threads of its own: millions of sines.
 */
int rope_tables(const struct model_config *c, int32_t max_context, float *cos, float *sin,
                struct moed_error *err);

/* Bytes of one KV block of one layer. */
uint64_t kv_layer_block_bytes(const struct model_config *c, enum dtype kv_dtype);

/* The stages of a layer, on an open pass. */
int attention_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err);
uint64_t attention_kv_bytes(const struct model *m, const struct pass *p, int32_t layer);
int dense_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err);
int experts_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err);

/* Parts of the stages, for passes of every kind. */
struct kern_kv layer_kv(const struct model *m, int32_t layer);
/* Queues norm and router; the choice is there after sync. */
int experts_route(struct model *m, const struct pass *p, int32_t layer);
/* Sorts the pairs (row, choice) by expert, rows ascending within one. Returns the number of
 * experts, listed in m->groups.need. */
int32_t experts_group(struct model *m, const struct pass *p);
/* After experts_group: the rows of a leased expert. */
struct kern_expert_group expert_group(const struct expert_groups *g,
                                      const struct pager_lease *lease);
/* Ends the stage: counts n experts and the router. */
void experts_count(struct model *m, int32_t layer, int32_t n);

/* Passes of the tensor class. Whether the device and the weights' formats allow them; whether this
 * pass, by its plan alone, is one. A stream of experts from long_begin to long_end. */
bool long_possible(const struct model *m);
bool long_fits(const struct model *m, const struct pass *p);
void long_begin(struct model *m, struct pass *p);
int long_layer(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err);
void long_end(struct model *m, struct pass *p);

/* Queues the logits y [n][vocab] of rows of a pass that has gone through all layers. */
int head_run(struct model *m, const struct pass *p, const int32_t *rows, int32_t n, float *y,
             struct moed_error *err);
/* Waits for the device, after head_run and what was queued behind it. */
int head_wait(struct model *m, struct moed_error *err);
/* Adds the time to the stage it belongs to. */
void head_end(struct model *m, const struct pass *p);

/* What sampling on the device needs beside buffers. */
int sampler_open(struct model *m, struct moed_error *err);
void sampler_close(struct model *m);

/* Adds the time since the last mark to *seconds. */
void stage_end(struct model *m, double *seconds);
int device_failed(const char *stage, int32_t layer, struct moed_error *err);

/* y [rows of the pass][out] = w x (+ bias) (+ residual), rows contiguous. */
int linear_run(struct model *m, const struct pass *p, const struct weight *w,
               const struct weight *bias, int in, int out, const float *x, const float *residual,
               float *y);
int norm_run(struct model *m, const struct weight *w, int rows, int dim, const float *x, float *y);

#endif
