/*
 * The engine: one model, one scheduler, one thread. Everything that serves or runs a model goes
 * through here. Functions may be called from any thread unless noted.
 */
#ifndef MOED_ENGINE_H
#define MOED_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"
#include "moed/request.h"

struct moed_engine;
struct tokenizer;

/* Zero or NULL means: the default. Strings are copied. */
struct moed_engine_config {
    const char *model_dir;
    const char *device;          /* "auto", "cpu", "cuda", "cuda:N" */
    double device_memory_ratio;  /* share of a GPU's free memory that may be used; 0: 0.75 */
    const char *load_format;     /* "auto", "safetensors", "dummy" */
    const char *isa;             /* "auto", "scalar", "avx2", "avx512" */
    const char *kv_dtype;        /* "auto" (bf16), "bf16", "fp32" */
    const char *expert_policy;   /* "steady", "lfru", "lfu", "lru" */
    const char *expert_records;  /* "auto", "plain", "packed" (how experts lie); NULL: "auto" */
    int64_t expert_cache_bytes;  /* -1: in place on the CPU, what fits on a GPU; 0: no slots */
    double expert_cache_share;   /* of all experts, in place of expert_cache_bytes where that is not
                                    negative; 0: bytes count */
    uint64_t link_bytes_per_s;   /* 0: no limit */
    int32_t stage_min_rows;      /* 0: never */
    int32_t miss_threads;        /* on a GPU: threads that compute missed experts; 0: a default */
    const char *miss_link_share; /* of a missed expert so many percent come over the link: "0" to
                                    "100", or "auto" */
    const char *one_row_step;    /* on a GPU: "ops" or "fused"; NULL: "fused" */
    int32_t threads;             /* 0: what cgroup and affinity leave */
    int32_t max_model_len;       /* tokens; 0: the model's own, or what fits */
    int32_t max_num_seqs;        /* 0: 64 */
    int32_t max_batched_tokens;  /* 0: 512, or 64 and at least max_num_seqs with long passes */
    /* Prompt tokens of a pass that pauses for steps; -1: by the memory plan, on a GPU; 0: no such
     * pass, prompts are cut into the steps. */
    int32_t long_prefill_tokens;
    double target_itl_ms;     /* between two tokens of a stream beside such a pass; 0: 100 */
    const char *admission;    /* which streams decode together. "all"; "measured": only as many as
                                 do not lower the tokens a second of all; NULL: "measured" */
    double admission_wait_ms; /* measured: an answer goes on so long after it was asked for all the
                                 same; 0: no such limit */
    int32_t max_queue;        /* waiting requests; 0: 256 */
    uint64_t kv_cache_bytes;  /* 0: planned from memory */
    bool no_prefix_cache;
    bool no_generation_config; /* do not take sampling defaults from generation_config.json */
    /* Called while loading, on one thread, not once moed_engine_open has returned; may be NULL. */
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes, double seconds);
    void *user;
};

/* Plans memory, loads, starts the engine thread. Refuses before loading what does not fit, with the
 * numbers. */
int moed_engine_open(struct moed_engine **out, const struct moed_engine_config *cfg,
                     struct moed_error *err);
/* Cancels what is in flight (each request gets its ERROR event), joins the thread, frees. No other
 * call may run or follow; outboxes stay usable. */
void moed_engine_close(struct moed_engine **e);

struct moed_engine_info {
    char architecture[64];
    int32_t vocab_size, max_model_len, max_num_seqs, max_batched_tokens, max_queue;
    int32_t n_layers, n_experts, top_k;
    int32_t kv_blocks;
    uint64_t parameters, active_parameters;
    int64_t loaded_unix;
};
void moed_engine_info(const struct moed_engine *e, struct moed_engine_info *out);
/* Sampling defaults of this model (generation_config.json applied). */
void moed_engine_sampling(const struct moed_engine *e, struct moed_sampling *out);
/* The model's tokenizer, owned by the engine; its const functions may be used from any thread. NULL
 * for a folder without one: token ids only, events without text. */
const struct tokenizer *moed_engine_tokenizer(const struct moed_engine *e);

/*
 * Hands a request over. On success *request is NULL and *handle (never 0) names it; its events
 * arrive in outbox, the last one being DONE or ERROR. On failure the request stays the caller's:
 * MOED_EINVAL (param named as in the API; also what can never fit, with the numbers), MOED_EBUSY
 * (queue full), MOED_ECLOSED (draining), MOED_EDEVICE, MOED_ENOMEM.
 */
int moed_submit(struct moed_engine *e, struct moed_request **request, struct moed_outbox *outbox,
                uint64_t *handle, struct moed_error *err);
/* Ends a request within one step; its last event is ERROR with MOED_ECANCELED. Unknown or ended
 * handles are ignored. */
void moed_cancel(struct moed_engine *e, uint64_t handle);

/* Stops taking requests (MOED_ECLOSED); those in flight go on. */
void moed_drain(struct moed_engine *e);

/* Numbers for /metrics, /health and people, as of the end of the last step; waiting and failed are
 * of this moment. A request whose last event can be read is counted. */
#define MOED_HISTOGRAM_BUCKETS 24
struct moed_histogram {
    uint64_t bucket[MOED_HISTOGRAM_BUCKETS +
                    1]; /* counts; upper bounds in moed_histogram_bound, the last is infinity */
    uint64_t count;
    double sum; /* seconds */
};
extern const double moed_histogram_bound[MOED_HISTOGRAM_BUCKETS];

struct moed_engine_stats {
    int32_t running, waiting; /* sequences in the batch; requests never admitted so far */
    /* With measured admission: how many decode together, who waits with a first token to be among
     * them, and who has joined them past that number, having waited long enough. */
    int32_t batch_limit, held;
    uint64_t exempted;
    bool failed; /* a sticky error: the process should be restarted */
    uint64_t requests, requests_ok, requests_failed, requests_canceled;
    uint64_t prompt_tokens, generated_tokens,
        cached_tokens; /* cached: prompt tokens reused from the prefix cache */
    uint64_t steps, preemptions;
    /* What the CPU computed because a GPU did not hold it: jobs (a layer of a step each), experts
     * in them, bytes of weights read, microseconds; jobs that were given up. */
    uint64_t miss_jobs, miss_experts, miss_bytes, miss_us, miss_failures;
    uint64_t sampled_device, sampled_cpu; /* tokens, by where they were chosen */
    uint64_t long_passes, long_layers, long_pauses;
    uint64_t pass_timeouts, pass_retries;
    int32_t kv_blocks, kv_blocks_used, kv_blocks_cached;
    uint64_t prefix_queries, prefix_hits; /* tokens asked for, tokens found */
    struct moed_histogram ttft, inter_token, queue_time, step_time, request_time;
};
void moed_engine_stats(const struct moed_engine *e, struct moed_engine_stats *out);

/* The pager's numbers as rows, so that /metrics and bench need not know them: name, help, value
 * (total or of one layer). */
typedef void (*moed_counter_fn)(void *user, const char *name, const char *help, uint64_t value);
/* layer -1: totals. Returns 0, or MOED_ENOTFOUND for a model without experts or no such layer. */
int moed_engine_pager_counters(const struct moed_engine *e, int32_t layer, moed_counter_fn fn,
                               void *user);

struct moed_pager_info {
    char policy[16];
    bool in_place;
    int32_t slots, resident;
    uint64_t record_bytes, cache_bytes;
};
int moed_engine_pager_info(const struct moed_engine *e, struct moed_pager_info *out);

#endif
