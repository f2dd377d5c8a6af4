/* Experts in both record classes, with the same weights. */
#ifndef MOED_TESTS_SUPPORT_PACKED_H
#define MOED_TESTS_SUPPORT_PACKED_H

#include "packed.h"
#include "record.h"
#include "support_cases.h"

/* n weights in rows of `in`. Rows differ at random: about normal, with many zeros of both signs,
 * subnormal, with as many numbers far from the others as a head has room for, with many of them. */
void packed_weights_fill(struct rng *r, uint16_t *w, size_t n, int in, float scale);

/* A record of the plain class, bf16, filled so, and the same expert packed. */
uint16_t *plain_record_new(struct rng *r, const struct record_class *cls, float scale);
void *packed_record_new(const uint16_t *plain, const struct record_class *of,
                        const struct record_class *cls);
/* The packed class with lists that hold whatever comes. */
struct record_class packed_class_roomy(int hidden, int intermediate);

#endif
