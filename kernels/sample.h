/*
 * Sampling: from the logits of a row to a token, by one rule that CPU and CUDA follow with equal
 * bits. Weights are whole numbers, so that their sums are exact: the order of additions means
 * nothing, and no sum over the vocabulary has to wait for another.
 *
 * 1. best is the largest logit; NaN never is. Where it is not a finite number the token is -1.
 * 2. temperature 0 or top_k 1: the lowest id with that logit.
 * 3. The weight of an id: e = sample_exp((logit - best) / temperature) in fp32, then e * 2^40
 *    rounded to a whole number (ties to even); 0 where e < min_p. Below, only ids with a weight
 *    above 0 count, and their order is by falling logit (-0 equals +0), then by rising id.
 * 4. top_k > 0 keeps the first top_k.
 * 5. top_p < 1 keeps the fewest of the first whose weights sum to need = max(1, trunc(top_p * sum
 *    of the weights kept so far)), the product in fp64.
 * 6. With `sum` of the weights kept in the end, and R the 53 random bits of (seed, choice,
 *    position): the token is the lowest kept id up to which the kept weights of all lower ids and
 *    its own sum to more than trunc(sum * R / 2^53).
 *
 * A weight of 2^40 stands for the probability of the likeliest token, so what is 2^41 times less
 * likely never comes; all others are off by less than exp itself, or by 2^-41 of the likeliest.
 */
#ifndef MOED_SAMPLE_H
#define MOED_SAMPLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef SAMPLE_FN
#define SAMPLE_FN static inline
#endif

#define SAMPLE_ONE       0x1p40f
#define SAMPLE_LEAST     0x1p-41f  /* weights of e up to here are 0 */
#define SAMPLE_MAX_VOCAB (1 << 22) /* sums stay below 2^63 */

/* One row's parameters. In an array that the op's contract calls a plan array. */
struct kern_sample_row {
    uint64_t seed, position; /* position of the new token, from the start of the prompt */
    uint32_t choice;
    int32_t top_k;                   /* 0 and less: all */
    float temperature, top_p, min_p; /* temperature >= 0; top_p 1 and more: all */
    uint32_t unused;
};

/*
 * token[i] = the token of logits[i], by row[i]. logits and scratch are device memory, row a plan
 * array, token shared memory. general: rows other than greedy ones (step 2) may come; without it
 * their tokens are not defined, and the op is shorter. scratch: kern_sample_scratch_bytes, zeroed
 * before its first use; one vocab for its whole life.
 */
struct kern_sample {
    const float *logits;               /* [n][vocab] */
    const struct kern_sample_row *row; /* [n] */
    int32_t *token;                    /* [n] */
    void *scratch;
    int n, vocab, general;
};

/* What a row needs while it is sampled on a device. */
#define SAMPLE_CHUNK       2048 /* ids that one block looks after */
#define SAMPLE_STATE_BYTES 57856

static inline size_t kern_sample_row_bytes(int vocab)
{
    size_t chunks = ((size_t)vocab + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK;
    return SAMPLE_STATE_BYTES + (chunks * sizeof(uint64_t) + 255) / 256 * 256;
}

static inline size_t kern_sample_scratch_bytes(int n, int vocab)
{
    return (size_t)n * kern_sample_row_bytes(vocab);
}

/* The rule on the CPU, for one row. scratch: kern_sample_cpu_scratch_bytes, 8-byte aligned. Any
 * thread. */
int32_t kern_sample_cpu(const float *logits, int32_t vocab, const struct kern_sample_row *row,
                        void *scratch);

static inline size_t kern_sample_cpu_scratch_bytes(int32_t vocab)
{
    return (size_t)vocab * (2 * sizeof(uint64_t) + sizeof(float));
}

/* Largest number in l[n], NaN aside; -INFINITY where there is none. */
float kern_largest(const float *l, int32_t n);

SAMPLE_FN uint32_t sample_bits(float v)
{
    uint32_t b;
    memcpy(&b, &v, sizeof b);
    return b;
}

SAMPLE_FN float sample_float(uint32_t b)
{
    float v;
    memcpy(&v, &b, sizeof v);
    return v;
}

/* exp for x <= 0, relative error below 2e-7; 0 at -87 and below, and for NaN. Additions and
 * multiplications only, none fused. */
SAMPLE_FN float sample_exp(float x)
{
    const float low = -87.0f; /* exp(-87) is the last normal number */
    float c = x > low ? x : low;
    float shifted = c * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
    float n = shifted - 12582912.0f;
    float r = c - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.3334519e-3f;
    p = p * r + 4.1665795e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5.0000001e-1f;
    p = p * r * r + r + 1.0f;
    float scale = sample_float((sample_bits(shifted) + 127u) << 23);
    return x > low ? p * scale : 0.0f;
}

/* e before it becomes a weight; 0 where the weight is 0. */
SAMPLE_FN float sample_share(float logit, float best, float temperature, float min_p)
{
    float e = sample_exp((logit - best) / temperature);
    e = e >= min_p ? e : 0.0f;
    return e > SAMPLE_LEAST ? e : 0.0f;
}

/* e * 2^40 as a whole number, for e in [0, 1]: what is added rounds it, and is taken off again. */
#define SAMPLE_MAGIC_BITS 0x4338000000000000u /* of 1.5 * 2^52 */
SAMPLE_FN uint64_t sample_weight_bits(float e)
{
    double shifted = (double)(e * SAMPLE_ONE) + 0x1.8p52;
    uint64_t b;
    memcpy(&b, &shifted, sizeof b);
    return b;
}

SAMPLE_FN uint64_t sample_weight(float e)
{
    return sample_weight_bits(e) - SAMPLE_MAGIC_BITS;
}

/* Larger for larger logits, one for both zeros, 0 for NaN alone. */
SAMPLE_FN uint32_t sample_key(float logit)
{
    uint32_t b = sample_bits(logit + 0.0f);
    b ^= (0u - (b >> 31)) | 0x80000000u;
    return logit == logit ? b : 0;
}

SAMPLE_FN float sample_logit(uint32_t key)
{
    return sample_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key);
}

/* The place in the order of step 3: larger comes first. No two ids have one. */
SAMPLE_FN uint64_t sample_order(float logit, uint32_t id)
{
    uint32_t key = sample_key(logit);
    return key ? (uint64_t)key << 32 | (0xFFFFFFFFu - id) : 0;
}

SAMPLE_FN uint64_t sample_need(float top_p, uint64_t sum)
{
    uint64_t need = (uint64_t)((double)top_p * (double)sum);
    return need ? need : 1;
}

/* trunc(sum * random / 2^53), exact. */
SAMPLE_FN uint64_t sample_target(uint64_t sum, uint64_t random)
{
    random <<= 11; /* the high half of the product with it is the result */
    uint64_t a = sum >> 32, b = sum & 0xFFFFFFFFu, c = random >> 32, d = random & 0xFFFFFFFFu;
    uint64_t middle = b * c + (b * d >> 32);
    uint64_t other = a * d + (middle & 0xFFFFFFFFu);
    return a * c + (middle >> 32) + (other >> 32);
}

/* Philox4x32-10, the counter-based random generator of Salmon, Moraes, Dror and Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3" (SC 2011). */
SAMPLE_FN void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* 53 random bits for one token: the only use of randomness in sampling. */
SAMPLE_FN uint64_t sample_random(uint64_t seed, uint32_t choice, uint64_t position)
{
    uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), choice, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, r[4];
    sample_philox(counter, key, r);
    return (uint64_t)(r[0] >> 5) << 26 | r[1] >> 6;
}

#endif
