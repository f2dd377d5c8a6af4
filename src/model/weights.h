/*
 * The weights of a model: which tensors its config asks for, where each lies in memory, and how it
 * gets there. Filled once by a loading, then immutable; the model owns them.
 */
#ifndef MOED_MODEL_WEIGHTS_H
#define MOED_MODEL_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "model/config.h"
#include "moed/error.h"
#include "pager/pager.h"
#include "record.h"
#include "store/store.h"

/* A matrix [out][in] or a vector, as the file has it. data NULL: the model has none. */
struct weight {
    const void *data;
    enum dtype dtype;
};

struct layer_weights {
    struct weight attn_norm, ffn_norm;          /* [hidden] */
    struct weight q, k, v;                      /* [heads * head_dim][hidden] */
    struct weight q_bias, k_bias, v_bias;       /* [heads * head_dim] */
    struct weight q_norm, k_norm;               /* [head_dim] */
    struct weight o, o_bias;                    /* [hidden][n_heads * head_dim], [hidden] */
    struct weight gate, up, gate_bias, up_bias; /* [intermediate][hidden], [intermediate] */
    struct weight down, down_bias;              /* [hidden][intermediate], [hidden] */
    struct weight router;                       /* [n_experts][hidden] */
    uint64_t attention_bytes, ffn_bytes;        /* of the above; ffn: norm, dense MLP, router */
};

struct weights {
    struct weight embed, norm, head; /* [vocab][hidden], [hidden], [vocab][hidden] */
    struct layer_weights *layer;     /* [n_layers] */
    uint8_t *dense, *arena;          /* mapped: all but experts; records */
    uint64_t dense_bytes, arena_bytes;
    struct record_class cls; /* of the experts */
    const void **host_of;    /* [n_layers * n_experts] */
};

/* Bytes that weights_load maps when every tensor has this dtype. */
uint64_t weights_dense_bytes(const struct model_config *c, enum dtype dtype);
/* Whether experts of this dtype can lie in packed records. */
bool weights_can_pack(const struct model_config *c, enum dtype dtype);
/* The layout of the experts; all 0 for a dense model. packed: where weights_can_pack. */
struct record_class weights_record_class(const struct model_config *c, enum dtype dtype,
                                         bool packed);

struct weights_load_options {
    int io_threads;    /* 0: default */
    size_t part_bytes; /* of struct weights_part, about; 0: 512 MiB */
    bool packed;       /* experts go into packed records */
    /* On a thread of the loading; may be NULL. */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds);
    void *user;
};

/* The param of the error (MOED_EUNSUPPORTED) where the experts cannot lie in packed records; in
 * plain ones they can. */
#define WEIGHTS_UNPACKABLE "expert-records"

/* Weights on their way into memory. The caller's thread owns it; threads of its own read. */
struct weights_loading;

/* A run of w->dense or of w->arena that is whole in memory. It begins on a page of 4 KiB, in the
 * arena on the edge of a record, where it ends as well. */
struct weights_part {
    uint8_t *data;
    size_t bytes;
    bool in_arena;
};

/* Checks every tensor of the store against the config, maps memory, begins to read. *w is zero on
 * entry; on failure it holds nothing. w, c and store stay until weights_load_end. Errors name the
 * tensor. */
int weights_load_begin(struct weights_loading **out, struct weights *w,
                       const struct model_config *c, struct store *store,
                       const struct weights_load_options *o, struct moed_error *err);
/* Waits for the next part that is whole, in the order in which they fill: 1. 0 after the last: *w
 * is filled. Negative: loading failed. */
int weights_load_next(struct weights_loading *l, struct weights_part *part, struct moed_error *err);
/* When the last byte was there, by clock_us; after weights_load_next has returned 0. */
int64_t weights_load_ended_us(const struct weights_loading *l);
/* Stops reading what is left and frees *l; what *w holds stays for weights_fini. */
void weights_load_end(struct weights_loading **l);
/* All of it at once; on failure *w holds nothing. */
int weights_load(struct weights *w, const struct model_config *c, struct store *store,
                 const struct weights_load_options *o, struct moed_error *err);
/* Logs how much of the experts lies on huge pages: after they were registered with a device, which
 * may move them. */
void weights_report_pages(const struct weights *w);
/* Dense weights now lie at `to`, a copy of w->dense, which goes. `to` stays the caller's. */
void weights_move_dense(struct weights *w, const struct model_config *c, void *to);
void weights_fini(struct weights *w);

#endif
