/*
 * A model without arithmetic: the "K and V" of a position is a hash of all tokens up to it, read
 * from the block of the position before; logits are numbers drawn from that hash. So a token
 * depends on the whole prefix, and a block that is wrong changes what comes.
 */
#ifndef MOED_TESTS_FAKE_H
#define MOED_TESTS_FAKE_H

#include <pthread.h>
#include <stdatomic.h>

#include "answers.h"
#include "engine/backend.h"

#define FAKE_VOCAB  48
#define FAKE_EOS    47

#define FAKE_LAYERS 3
#define FAKE_LOG    8192

/* What a pass holds between its calls. */
struct fake_lane {
    bool open;
    struct model_batch batch;
    const int32_t **table; /* [rows] of each sequence; NULL once it is dropped */
    uint64_t *row;         /* [rows] prefix hash, once the last layer has run */
    int32_t layer, max_rows;
};

/* Something that the engine did; for tests of order and time. */
struct fake_call {
    enum { FAKE_STEP, FAKE_LONG_BEGIN, FAKE_LONG_RUN, FAKE_LONG_DROP, FAKE_LONG_END } kind;
    int32_t rows;   /* STEP, BEGIN */
    int32_t layers; /* RUN: how many */
    int64_t end_us; /* of the fake's clock */
};

struct fake {
    uint64_t (*kv)[SCHED_BLOCK_TOKENS]; /* [blocks] */
    struct fake_lane lane[MODEL_LANES];
    int32_t max_logits, n_layers;
    atomic_int passes, fail_at;          /* the pass of the step lane that fails; 0: none */
    atomic_int fail_times;               /* so many in a row; 0: one */
    atomic_int long_fail_at, long_fails; /* runs of the long lane: the first that fails, how many */
    atomic_int end_fail_at;              /* as fail_at, but told at the end of the pass, once */
    int fail_code;
    atomic_int pass_us; /* each pass takes this long */
    atomic_int hold_at; /* this pass of the step lane and later ones wait for 0; 0: none does */
    atomic_bool nan_logits;
    atomic_int sampled; /* rows that it has sampled itself; from the fail_sampled-th on it fails */
    atomic_int fail_sampled;
    /* With step_us the clock is the fake's own: a step and a layer of the long lane take so long,
     * and a step row_us more for each row but the first. */
    int64_t clock_us, step_us, layer_us, row_us;
    /* Called by the engine thread after each run of the long lane that leaves layers. */
    void (*on_pause)(void *user);
    void *user;
    struct fake_call log[FAKE_LOG]; /* the engine thread's, until it is closed or idle */
    atomic_int n_log, long_runs;
    bool no_eos; /* the end token never wins by itself */
};

struct fake_config {
    int32_t max_seqs, max_batched_tokens, max_queue, max_model_len, kv_blocks, max_logits;
    int32_t long_prefill_tokens, n_layers;
    int64_t target_itl_us, step_us, layer_us;
    int64_t row_us; /* a step takes so much longer for each row but the first */
    bool admission_measured;
    int64_t admission_wait_us;
    bool no_prefix_cache, no_text, no_eos;
    bool samples; /* as a device does that can */
    int threads;
};

/* Fills setup; zero fields get small defaults. f lives as long as the engine and is freed by its
 * close. */
struct fake *fake_setup(struct engine_setup *setup, const struct fake_config *cfg);
/* Logits after a prefix, from the definition. */
void fake_logits(const int32_t *tokens, size_t n, bool no_eos, float *logits);
/* What greedy decoding gives, eos included; returns how many tokens. */
size_t fake_greedy(const int32_t *prompt, size_t n_prompt, size_t max_tokens, bool no_eos,
                   int32_t *out);
/* The text of a token. */
const char *fake_text(int32_t id);

#endif
