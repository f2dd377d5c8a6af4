/* Inside recorded steps: their state, and what its files share. Engine thread. */
#ifndef MOED_MODEL_RECORDED_INT_H
#define MOED_MODEL_RECORDED_INT_H

#include "device/misses.h"
#include "model/recorded.h"

/* How long workers may take to come to rest after a step that failed. */
#define SETTLE_US ((int64_t)10 * 1000 * 1000)

/* Rows of the recordings. */
#define RECORDED_SIZES 7
extern const int32_t recorded_sizes[RECORDED_SIZES];

/* The plan's fixed part; the rest of plan memory follows: residency, forced choices, tables. */
struct plan {
    int32_t logit_row[STEP_MAX_ROWS]; /* sent on its own, when the layers are under way */
    int32_t n_rows, n_logits, forced_on, reserved;
    int32_t link_share[MAILBOX_SHARE_CLASSES];
    int32_t token[STEP_MAX_ROWS], pos[STEP_MAX_ROWS], seq[STEP_MAX_ROWS];
    int64_t slot[STEP_MAX_ROWS];
};

/* What is sent before the layers: the plan from n_rows on, and what follows it. */
#define PLAN_FIRST_BYTES (sizeof(struct plan) - offsetof(struct plan, n_rows))

struct recorded {
    int32_t max_rows, max_logits; /* of the largest sizes */
    struct dev_recorded *layers[RECORDED_SIZES], *head[RECORDED_SIZES];
    /* Steps of one row with at most so many positions: all layers in one launch, or NULL. */
    struct dev_fused *fused;
    struct dev_recorded *one_row;
    int32_t one_row_context;
    struct plan *plan;
    int32_t *slot_of; /* [layers][experts]; plan memory, as all here */
    int32_t *forced;  /* [layers][live rows][top_k] */
    int32_t *table;   /* [max_rows][table_stride] */
    size_t table_stride;
    uint64_t version; /* of the residency that the device has */
    int32_t *id;      /* [layers][max_rows][top_k], shared memory */
    size_t id_bytes;
    const void **host_of; /* device memory [layers][experts] */
    float *logit;         /* device memory [max_rows][experts] */
    struct mailbox *box;
    struct misses *misses;
    bool measured; /* what misses cost */
    bool pending;
    int32_t pending_rows;
};

/* A layer's launches at most, and those of the logits. */
#define LAYER_NODES 12
#define HEAD_NODES  4
/* Of the driver, for a node of a graph that is ready to be launched. */
#define NODE_BYTES 4096

/* Experts of all layers. */
static inline size_t recorded_keys(const struct model *m)
{
    return (size_t)m->c.n_layers * (size_t)m->c.n_experts;
}

/* One row that misses its experts in at most so many layers. *n_layers: in how many. */
int record_misses(struct recorded *r, struct model *m, int32_t most, struct dev_recorded **out,
                  int32_t *n_layers, struct moed_error *err);
/* Lets go of all recordings. */
void recordings_forget(struct recorded *r, struct model *m);

#endif
