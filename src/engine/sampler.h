/*
 * From logits to a token (design.md 3.10). Order: penalties, logit_bias, masks, here; then
 * temperature, min_p, top_k, top_p and the draw, by the rule of sample.h, which a device follows as
 * well. So a token depends on logits, parameters and (seed, choice, position) alone. Pure but for
 * the state passed in; one thread per sampler_scratch.
 */
#ifndef MOED_ENGINE_SAMPLER_H
#define MOED_ENGINE_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed/request.h"
#include "sample.h"

/* Tokens that a sequence has seen, for penalties: open addressing by token id. */
struct token_counts {
    struct token_count {
        int32_t token;     /* -1: free */
        int32_t generated; /* times; 0: in the prompt only */
    } * entry;             /* [cap] */
    size_t n, cap;         /* cap is 0 or a power of two */
};
void token_counts_add(struct token_counts *c, int32_t token, bool generated);
void token_counts_fini(struct token_counts *c);

struct sampler_scratch {
    float *logits; /* [vocab] adjusted */
    void *draw;    /* of kern_sample_cpu */
    int32_t vocab;
};
/* 0 or MOED_ENOMEM. */
int sampler_scratch_init(struct sampler_scratch *s, int32_t vocab, struct moed_error *err);
void sampler_scratch_fini(struct sampler_scratch *s);

struct sample_params {
    const struct moed_sampling *sampling;
    const struct token_counts *counts; /* used where a penalty is set */
    const int32_t *mask;               /* [n_mask] tokens that may not come now */
    size_t n_mask;
    uint64_t seed;
    uint32_t choice;
    uint64_t position; /* of the new token, from the start of the prompt */
};

/* Whether the logits are taken as they are: no penalty, bias or mask. */
bool sampler_raw(const struct moed_sampling *o, size_t n_mask);
/* What comes after penalties, bias and masks. */
struct kern_sample_row sampler_row(const struct sample_params *p);

/* The token, or -1 where no logit is a finite number. logits [vocab] is not changed. */
int32_t sampler_pick(struct sampler_scratch *s, const float *logits, const struct sample_params *p);

/*
 * Fills id, logprob and rank of *out for `token` from the raw logits, and its n_top largest
 * alternatives (falling; ties to the lower id) into top[n_top], n_top <= MOED_MAX_TOP_LOGPROBS.
 */
void sampler_logprobs(const float *logits, int32_t vocab, int32_t token, int32_t n_top,
                      struct moed_top *top, struct moed_token *out);

#endif
