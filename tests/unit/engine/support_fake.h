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

#define FAKE_VOCAB 48
#define FAKE_EOS   47

struct fake {
    uint64_t (*kv)[SCHED_BLOCK_TOKENS]; /* [blocks] */
    const struct model_batch *batch;
    uint64_t *row; /* [rows] prefix hash of each row of the pass */
    int32_t max_rows, max_logits;
    atomic_int passes, fail_at; /* the pass number that fails; 0: none */
    int fail_code;
    atomic_int pass_us; /* each pass takes this long */
    atomic_bool nan_logits;
    atomic_int sampled; /* rows that it has sampled itself; from the fail_sampled-th on it fails */
    atomic_int fail_sampled;
    bool no_eos; /* the end token never wins by itself */
};

struct fake_config {
    int32_t max_seqs, max_batched_tokens, max_queue, max_model_len, kv_blocks, max_logits;
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
