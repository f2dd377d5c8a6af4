/*
 * A loaded model: weights, KV blocks, and the forward pass over a batch of rows, written once over
 * a device's ops. The engine thread owns it.
 */
#ifndef MOED_MODEL_H
#define MOED_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "device/device.h"
#include "model/config.h"
#include "moed/error.h"
#include "pager/pager.h"
#include "store/store.h"

struct misses;
struct model;

struct model_options {
    int32_t max_rows;    /* rows of a pass on the step lane, 1 to MODEL_MAX_ROWS */
    int32_t long_rows;   /* rows of a pass on the long lane; 0: there is no such lane */
    int32_t max_context; /* tokens of one sequence, 1 to the config's max_position */
    int32_t max_logits;  /* rows of one model_pass_logits call, 1 to max_rows */
    int32_t kv_blocks;   /* blocks of 16 tokens, all sequences together, at least 1 */
    enum dtype kv_dtype; /* F32 or BF16 */
    bool device_logits; /* logits are made in device memory and copied out: model_open sets it where
                           the device does not use host memory; planners do beforehand */
    /* Experts lie in packed records (record.h), else as in the files; only where weights_can_pack.
     */
    bool packed_experts;
    struct pager_config pager;
    /* On a device that resolves experts itself: threads that compute what it does not hold (0: a
     * default), the share of it that comes over the link (0 to MAILBOX_SHARE_ONE, or
     * MISSES_SHARE_ADAPTIVE), how long each of their waits may last (0: a default), and their
     * instruction set. */
    int32_t miss_threads, link_share;
    int64_t miss_wait_us;
    /* Where the device can: a step of one row runs all layers in one launch. */
    bool fused_step;
    enum kern_isa miss_isa;
    /* For tests: how long the device waits for these threads (0: a default), and what each of them
     * calls as it begins a job and its second half (device/misses.h). */
    int64_t miss_patience_us;
    void (*on_miss)(void *arg, int thread, uint32_t job, bool down);
    void *on_miss_arg;
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes,
                     double seconds); /* loading, on a thread of its own; may be NULL */
    void *user;
    int io_threads;         /* 0: default */
    size_t load_part_bytes; /* for tests: of what is registered at once (0: a default) */
};

#define MODEL_MAX_ROWS (1 << 20)

/* Bytes of every kind that a model with these options takes, before anything is allocated. A sum
 * beyond 64 bits is UINT64_MAX. */
struct model_memory {
    uint64_t dense_bytes;       /* weights outside experts */
    uint64_t expert_host_bytes; /* records, in host memory */
    uint64_t expert_record_bytes;
    uint64_t expert_matrix_bytes; /* of a record, what computing it reads */
    uint64_t expert_records;
    uint64_t cache_bytes;              /* slots and staging on the device; 0 in place */
    uint64_t staging_bytes;            /* the staging slots' part of cache_bytes */
    uint64_t kv_bytes, kv_block_bytes; /* kv_block_bytes: one block in all layers */
    uint64_t activation_bytes;         /* of both lanes, logits, RoPE tables */
    uint64_t long_bytes;               /* the long lane's part of activation_bytes */
    uint64_t step_bytes; /* on a device apart: recorded steps, and the router's logits of others */
    uint64_t total_bytes;
};
/* weight_dtype: of all weights; see model_weight_dtype. */
void model_memory(const struct model_config *c, enum dtype weight_dtype,
                  const struct model_options *o, struct model_memory *out);
/* The dtype of most bytes in a checkpoint, by its first layer; the config's own for a dummy store
 * or where the tensor is not there. */
enum dtype model_weight_dtype(const struct model_config *c, const struct store *store);

/*
 * Checks all tensors of the store against the config (missing, surplus, wrong shape, experts of
 * several formats: named), then allocates, then loads. store is needed during the call only. dev
 * stays the caller's and must outlive the model.
 */
int model_open(struct model **out, const struct model_config *c, const struct model_options *o,
               struct store *store, struct dev *dev, struct moed_error *err);
/*
 * The same in two: model_begin checks and begins to read, on threads of its own, so that opening a
 * device costs no time besides; model_finish waits. A model that is not finished, or failed to,
 * takes nothing but model_close. store is needed until model_finish or model_close has returned.
 */
int model_begin(struct model **out, const struct model_config *c, const struct model_options *o,
                struct store *store, struct moed_error *err);
int model_finish(struct model *m, struct dev *dev, struct moed_error *err);
void model_close(struct model **m);

struct pager *model_pager(struct model *m); /* NULL for a model without experts */
/* The workers that compute what a device does not hold; NULL where there are none. Their statistics
 * are for any thread. */
const struct misses *model_misses(const struct model *m);
/* Steps of one row with at most so many positions run in one launch; 0: none do. */
int32_t model_fused_context(const struct model *m);
/* Between passes, after a step of one row: runs the launch of that step once more and tells the
 * microseconds of the parts of a layer (device.h) [DEV_FUSED_PARTS]. For benches. */
int model_fused_times(struct model *m, double *us);
/* Between passes: another pager over the same records, with nothing resident; for measuring several
 * cache sizes without loading again. After a failure the model takes nothing but model_close. Does
 * nothing to a model without experts. */
int model_set_cache(struct model *m, const struct pager_config *cfg, struct moed_error *err);

/* A sequence as a pass sees it. */
struct model_seq {
    const int32_t *block_table; /* blocks of positions 0..; must cover all rows of this pass */
};

/* Rows of one pass, grouped by sequence, positions ascending within each. */
struct model_batch {
    int32_t n_rows;
    const int32_t *token;         /* [n_rows] */
    const int32_t *pos;           /* [n_rows] */
    const int32_t *seq;           /* [n_rows] index into seqs */
    int32_t n_seqs;               /* 1 to max_rows; one may have no row */
    const struct model_seq *seqs; /* [n_seqs] */
    /* [n_layers][n_rows][top_k] experts that rows go to in place of the router's choice (struct
     * kern_router), -1 in layers without experts; NULL: the router chooses. */
    const int32_t *forced;
};

/*
 * Two passes may be open at once, one on each lane; a lane has activations of its own, KV and
 * weights are shared. One lane runs at any moment: calls come from one thread.
 *   STEP  decode rows and what rides along with them, up to max_rows; runs through all layers
 *   LONG  prompts, up to long_rows rows; runs to some layer, pauses while steps run, goes on
 */
enum model_lane { MODEL_STEP, MODEL_LONG, MODEL_LANES };

/*
 * One pass = begin, then run up to some layer (n_layers for all) any number of times, then logits
 * of chosen rows, then end. Activations stay with the pass between runs, so that it may pause at
 * any layer; a run that stops before the last layer returns when its layers are computed. The
 * batch's arrays and block tables must live until end. Rows' K and V are written to their blocks
 * layer by layer.
 *
 * Each run is a step of the pager: nothing is leased while a pass is paused, and experts may move.
 *
 * A row's logits depend only on the tokens up to it: not on what else is in the batch, how its
 * sequence was cut into passes, where its blocks lie, threads, instruction set, or the pager.
 *
 * begin refuses with MOED_EINVAL, and opens no pass, when the batch breaks a rule above. After
 * begin succeeded, end must follow, also when run or logits failed; after a failure of run the
 * pass takes nothing but end.
 */
int model_pass_begin(struct model *m, enum model_lane lane, const struct model_batch *batch,
                     struct moed_error *err);
int model_pass_run(struct model *m, enum model_lane lane, int32_t layer_end,
                   struct moed_error *err);
/* Raw logits of rows[0..n) of the pass after its last layer, n <= max_logits; logits
 * [n][vocab_size]; may be called more than once. */
int model_pass_logits(struct model *m, enum model_lane lane, const int32_t *rows, int32_t n,
                      float *logits, struct moed_error *err);
/* As logits, but samples on the device and hands out the tokens: token[i] of rows[i] by params[i],
 * as kern_sample says. Only where model_can_sample. */
int model_pass_sample(struct model *m, enum model_lane lane, const int32_t *rows, int32_t n,
                      const struct kern_sample_row *params, int32_t *token, struct moed_error *err);
bool model_can_sample(const struct model *m);
/*
 * Between runs: takes a sequence (index into the batch's seqs) out of the pass. From now on its
 * blocks are neither written nor read and its block table is not looked at, so that they may be
 * given away; its rows go on as noise, other rows do not see them.
 */
void model_pass_drop(struct model *m, enum model_lane lane, int32_t seq);
/* 0, or what the last wait of the pass told where no logits had asked for it (MOED_ETIMEDOUT,
 * MOED_EDEVICE): then nothing of the pass counts. */
int model_pass_end(struct model *m, enum model_lane lane);

/* Where time and bytes of passes went, summed since open; for bench and metrics. Engine thread. */
struct model_stats {
    uint64_t passes, rows;
    double seconds_attention; /* projections, norms, RoPE, cache, attention */
    double seconds_experts;   /* router, pager, experts */
    double seconds_dense;     /* MLP of layers without experts */
    double seconds_logits;
    double seconds_recorded; /* passes that the device ran as a whole, logits included */
    double seconds_other;    /* embedding, waiting at the end of a run */
    /* Weights and KV touched, each once per pass. */
    uint64_t bytes_attention, bytes_kv; /* belong to seconds_attention */
    uint64_t bytes_experts;             /* matrices of the experts used, and the router */
    uint64_t bytes_experts_cpu; /* those of them that the CPU read, where the device is another */
    uint64_t bytes_dense, bytes_logits;
};
void model_stats(const struct model *m, struct model_stats *out);

#endif
