/*
 * An engine without a model, for tests of the server: deterministic text, a token per step and
 * sequence, and faults that prompts ask for.
 *
 * A prompt may hold words that steer it: @fail_at=N (an error before new token N), @device_error
 * (the same, and the engine counts as failed from then on), @slow=MS (each token takes so long),
 * @stop_at=N (ends after N tokens).
 */
#ifndef MOED_TESTS_FAKE_ENGINE_H
#define MOED_TESTS_FAKE_ENGINE_H

#include <stdint.h>

#include "moed/engine.h"

struct tokenizer;

struct fake_config {
    int32_t max_model_len, max_num_seqs, max_queue, n_layers;
    int64_t step_us;                   /* time of a step */
    const struct tokenizer *tokenizer; /* borrowed */
};
struct moed_engine *fake_engine_open(const struct fake_config *cfg);

/* The text that every choice is a piece of. */
extern const char fake_text[];

#endif
