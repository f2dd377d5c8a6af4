/*
 * The memory plan: what a model takes under a configuration, what is left for the KV cache, and
 * whether it fits. Decided before anything is loaded. engine_plan is a function of its arguments;
 * engine_plan_model also reads the model's folder and asks the system.
 */
#ifndef MOED_ENGINE_PLAN_H
#define MOED_ENGINE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "engine/limits.h"
#include "model/model.h"
#include "moed/engine.h"

struct engine_plan {
    struct model_options options; /* for model_open, but progress */
    struct model_memory memory;
    int32_t max_seqs, max_batched_tokens, max_queue, max_model_len; /* tokens */
    int64_t target_itl_us;
    int threads;
    uint64_t sampling_bytes; /* logits of a pass, scratch of the samplers */
    uint64_t other_bytes;    /* tables of blocks and sequences, text, streams */
    uint64_t total_bytes;
    uint64_t budget_bytes; /* what may be used: 95 % of what is available */
    /* With a device apart from the host total and budget are the host's, and these the device's:
     * dense weights, KV, activations, slots, recorded steps. What any model takes there, other, is
     * not of the budget. 0 without one. */
    uint64_t device_bytes, device_budget_bytes, device_other_bytes;
    struct memory_limits limits;
};

/*
 * Fills *out, also where it does not fit. MOED_ENOMEM: it does not, with the numbers; MOED_EINVAL:
 * an option is out of range, param names it as the command line does.
 */
int engine_plan(struct engine_plan *out, const struct moed_engine_config *cfg,
                const struct model_config *c, enum dtype weight_dtype, int cores,
                const struct memory_limits *limits, struct moed_error *err);

/*
 * Whether experts are to lie in packed records, from the option: the one place that decides it.
 * plain_does: plain ones fit, and are on the CPU or do on a GPU (engine_plain_does); then auto
 * takes them. MOED_EINVAL: they are to be packed and cannot.
 */
int engine_plan_records(bool *packed, const struct moed_engine_config *cfg,
                        const struct model_config *c, enum dtype weight_dtype, bool plain_does,
                        struct moed_error *err);
/* Bytes of all experts in a class of records, and of a GPU's slots for them. */
struct engine_class_bytes {
    uint64_t slots, all;
};
/* Plain records are as fast on a GPU: all have slots, or so many that unpacking, which its kernels
 * do for each use, costs more than the records bring that would have room as well, though not all.
 */
bool engine_plain_does(struct engine_class_bytes plain, struct engine_class_bytes packed);
/* err of a loading says that the experts do not go into packed records, and plain ones are allowed.
 */
bool engine_records_again(const struct moed_engine_config *cfg, const struct moed_error *err);
/* "packed" or "plain". */
const char *engine_records_name(bool packed);

/* What of `free_bytes` of a device a ratio (0: the default) leaves to us. */
uint64_t engine_device_budget(uint64_t free_bytes, double ratio);
/* Threads and shares of misses, from the options. MOED_EINVAL names one that cannot be. */
int engine_plan_misses(struct model_options *o, const struct moed_engine_config *cfg,
                       struct moed_error *err);
/* What a budget leaves for expert slots beside the rest of m, in whole records, at most all. */
uint64_t engine_cache_bytes(uint64_t device_budget_bytes, const struct model_memory *m);

/* Staging slots for the streams of a long lane: copies of records of m never wait while a layer's
 * attention runs. */
int engine_staging_slots(uint64_t device_budget_bytes, const struct model_memory *m);

/* Slots for a share (0 to 1) of m's experts, in bytes. */
uint64_t engine_share_bytes(double share, const struct model_memory *m);

/* The plan for a model folder, for `moed plan`. Reads headers only. config may be NULL. */
int engine_plan_model(struct engine_plan *out, struct model_config *config,
                      const struct moed_engine_config *cfg, struct moed_error *err);

/* The plan in lines for people. */
void engine_plan_text(const struct engine_plan *p, struct buf *out);

#endif
