/* Engines over the small models of tests/data/models, and their logits as hashes. */
#ifndef MOED_TESTS_REAL_H
#define MOED_TESTS_REAL_H

#include "answers.h"

#define REAL_CONTEXT 128

/* Hash of the logits of each sampled position, by request and choice. */
struct seen {
    struct answer answer; /* first: the request's user is both */
    uint64_t hash[8][REAL_CONTEXT];
    int32_t n_hashes;
    bool any_position; /* longer than REAL_CONTEXT: not hashed */
};

/* The engine must open; the users of its requests are struct seen. */
struct moed_engine *real_open(const struct moed_engine_config *cfg);

#endif
