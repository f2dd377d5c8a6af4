/* The rule of sample.h on the CPU. */
#include "sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

/* Independent running maxima: the loop becomes vector code. */
#define LANES 8

struct work {
    const float *l; /* [vocab] */
    float *share;   /* [vocab] */
    uint64_t *key;  /* [vocab] ids with what they are sorted by, and as much again for sorting */
    uint64_t *spare;
    int32_t vocab;
    float best;
};

float kern_largest(const float *l, int32_t n)
{
    float m[LANES];
    for (int k = 0; k < LANES; k++)
        m[k] = -INFINITY;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            m[k] = l[i + k] > m[k] ? l[i + k] : m[k];
    for (; i < n; i++)
        m[0] = l[i] > m[0] ? l[i] : m[0];
    float best = m[0];
    for (int k = 1; k < LANES; k++)
        best = m[k] > best ? m[k] : best;
    return best;
}

static int32_t first_equal(const float *l, int32_t n, float value)
{
    for (int32_t i = 0; i < n; i++)
        if (l[i] == value)
            return i;
    return -1;
}

/* Shares, and the sum of their weights. */
static uint64_t weigh(const float *restrict l, float *restrict share, int32_t n, float best,
                      const struct kern_sample_row *o)
{
    const float temperature = o->temperature, min_p = o->min_p;
    uint64_t sum = 0;
    for (int32_t i = 0; i < n; i++)
        share[i] = sample_share(l[i], best, temperature, min_p);
    for (int32_t i = 0; i < n; i++)
        sum += sample_weight_bits(share[i]);
    return sum - (uint64_t)n * SAMPLE_MAGIC_BITS;
}

/* A key that sorts in the rule's order. */
static uint64_t key_of(float logit, int32_t id)
{
    return (uint64_t)~sample_key(logit) << 32 | (uint32_t)id;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts by bits [shift, shift + 32); equal ones keep their order, which is by id. Large sets by
 * counting, 11 bits at a time: a flat distribution makes the whole vocabulary a candidate. */
static void sort_keys(struct work *s, size_t n, int shift)
{
    if (n < 512) {
        qsort(s->key, n, sizeof *s->key, compare_keys);
        return;
    }
    for (int pass = 0; pass < 3; pass++, shift += 11) {
        size_t start[2048] = {0};
        for (size_t i = 0; i < n; i++)
            start[s->key[i] >> shift & 2047]++;
        size_t at = 0;
        for (size_t b = 0; b < 2048; b++) {
            size_t count = start[b];
            start[b] = at;
            at += count;
        }
        for (size_t i = 0; i < n; i++)
            s->spare[start[s->key[i] >> shift & 2047]++] = s->key[i];
        uint64_t *t = s->key;
        s->key = s->spare;
        s->spare = t;
    }
}

/* Ids with a logit of at least `low` and a weight into key, ascending; how many, and their sum. A
 * cut by logit is a cut in the rule's order; one by weight may not be, as exp is rounded. */
static size_t gather(struct work *s, float low, uint64_t *sum)
{
    const float *restrict l = s->l, *restrict share = s->share;
    uint64_t *restrict key = s->key;
    size_t n = 0;
    uint64_t total = 0;
    for (int32_t i = 0, vocab = s->vocab; i < vocab; i++) {
        if ((l[i] >= low) & (share[i] > 0)) {
            key[n++] = key_of(l[i], i);
            total += sample_weight(share[i]);
        }
    }
    *sum = total;
    return n;
}

/*
 * top_k and top_p: leaves the ids that are kept in key, ascending; how many, and their sum. Gathers
 * from the top down in a few steps, because usually a handful of tokens holds all the mass.
 */
static size_t filter(struct work *s, const struct kern_sample_row *o, uint64_t all, uint64_t *kept)
{
    static const float depth[] = {3.5f, 7, 14,
                                  INFINITY}; /* exp falls to about 2^-5, 2^-10, 2^-20 */
    size_t top_k = o->top_k > 0 ? (size_t)o->top_k : SIZE_MAX;
    uint64_t sum = 0;
    size_t n = 0;
    for (size_t i = 0; i < sizeof depth / sizeof *depth; i++) {
        n = gather(s, s->best - o->temperature * depth[i], &sum);
        if (top_k != SIZE_MAX ? n >= top_k : sum >= sample_need(o->top_p, all))
            break;
    }
    sort_keys(s, n, 32);
    if (top_k < n) {
        n = top_k;
        sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += sample_weight(s->share[(uint32_t)s->key[i]]);
    }
    if (o->top_p < 1) {
        uint64_t need = sample_need(o->top_p, top_k != SIZE_MAX ? sum : all);
        size_t keep = 0;
        sum = 0;
        while (keep < n && sum < need)
            sum += sample_weight(s->share[(uint32_t)s->key[keep++]]);
        n = keep;
    }
    for (size_t i = 0; i < n; i++)
        s->key[i] &= UINT32_MAX;
    sort_keys(s, n, 0);
    *kept = sum;
    return n;
}

int32_t kern_sample_cpu(const float *logits, int32_t vocab, const struct kern_sample_row *row,
                        void *scratch)
{
    uint64_t *key = scratch;
    struct work s = {.l = logits,
                     .share = (float *)(key + 2 * (size_t)vocab),
                     .key = key,
                     .spare = key + vocab,
                     .vocab = vocab,
                     .best = kern_largest(logits, vocab)};
    if (!isfinite(s.best))
        return -1;
    if (row->temperature == 0 || row->top_k == 1)
        return first_equal(logits, vocab, s.best);
    uint64_t sum = weigh(logits, s.share, vocab, s.best, row);
    uint64_t random = sample_random(row->seed, row->choice, row->position);
    bool filtered = (row->top_k > 0 && row->top_k < vocab) || row->top_p < 1;
    size_t n = filtered ? filter(&s, row, sum, &sum) : (size_t)vocab;
    uint64_t target = sample_target(sum, random), passed = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t id = filtered ? (int32_t)s.key[i] : (int32_t)i;
        passed += sample_weight(s.share[id]);
        if (passed > target)
            return id;
    }
    return -1;
}
