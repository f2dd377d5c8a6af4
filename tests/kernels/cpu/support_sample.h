/* Random rows for samplers, and the rule of sample.h written out the plain way. */
#ifndef MOED_TESTS_SUPPORT_SAMPLE_H
#define MOED_TESTS_SUPPORT_SAMPLE_H

#include "sample.h"
#include "support_cases.h"

/* Fills one row of logits: of some spread, with ties, NaN, infinities, all equal, ...; by `kind`,
 * which may be any number. */
void sample_logits(struct rng *r, uint64_t kind, float *logits, int vocab);
/* Random parameters, edges more often than not. */
struct kern_sample_row sample_row(struct rng *r, int vocab);
/* A vocabulary up to `most`: small ones and those around borders of chunks. */
int sample_vocab(struct rng *r, int most);

/* The rule by a full sort, with sums of 128 bits. */
int32_t sample_reference(const float *logits, int vocab, const struct kern_sample_row *row);

#endif
