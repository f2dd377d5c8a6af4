/*
 * Random cases of every op. A case is a function of a seed: it builds the op's arguments (odd
 * shapes, exact-size buffers, all dtypes), runs a kernel table over them in `parts` parts, and
 * computes the result in double from the contract alone, with a tolerance for each number.
 */
#ifndef MOED_TESTS_SUPPORT_CASES_H
#define MOED_TESTS_SUPPORT_CASES_H

#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

struct rng {
    uint64_t state;
};
uint64_t rng_next(struct rng *r);
int rng_int(struct rng *r, int lo, int hi); /* lo..hi */
float rng_float(struct rng *r);             /* about normal, mean 0, deviation 1 */

struct outcome {
    size_t n;     /* numbers of the result */
    float *got;   /* [n] */
    double *want; /* [n] */
    double *tol;  /* [n] absolute */
};
void outcome_free(struct outcome *o);

/* check 0: want and tol are not needed (and may be left out where they take long). */
typedef struct outcome op_case(uint64_t seed, const struct kern_cpu *k, int parts, int check);

op_case case_embed, case_rmsnorm, case_linear, case_rope, case_kv_store, case_attention,
    case_silu_mul, case_router, case_experts, case_combine;

/* Random weights of a dtype in a buffer of exactly that size; element i as a number. */
void *weights_new(struct rng *r, enum dtype dtype, size_t n, float scale);
double weight_at(const void *w, enum dtype dtype, size_t i);
float *floats_new(struct rng *r, size_t n, float scale);

#endif
