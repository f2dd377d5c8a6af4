/*
 * Philox4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3" (SC 2011). A pure function: no state, any thread.
 */
#ifndef MOED_ENGINE_PHILOX_H
#define MOED_ENGINE_PHILOX_H

#include <stdint.h>

void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The number in [0, 1), 53 bits, for one token: the only use of randomness in sampling. position
 * counts tokens from the start of the prompt. */
double philox_uniform(uint64_t seed, uint32_t choice, uint64_t position);

#endif
