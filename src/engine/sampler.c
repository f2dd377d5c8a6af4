#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "engine/philox.h"

/* Independent running maxima and sums: the loops over the vocabulary become vector code, and the
 * order of additions is the same on every machine. */
#define LANES 8
/* Below this, a weight counts as 0: exp(-87) is the last normal number. */
#define EXP_LOW (-87.0f)

static size_t slot_of(const struct token_counts *c, int32_t token)
{
    size_t i = (uint32_t)token * 2654435769u & (c->cap - 1);
    while (c->entry[i].token != token && c->entry[i].token >= 0)
        i = (i + 1) & (c->cap - 1);
    return i;
}

static void counts_grow(struct token_counts *c)
{
    struct token_counts bigger = {.cap = c->cap ? c->cap * 2 : 64};
    bigger.entry = mem_new(bigger.cap, sizeof *bigger.entry);
    for (size_t i = 0; i < bigger.cap; i++)
        bigger.entry[i].token = -1;
    for (size_t i = 0; i < c->cap; i++)
        if (c->entry[i].token >= 0)
            bigger.entry[slot_of(&bigger, c->entry[i].token)] = c->entry[i];
    bigger.n = c->n;
    free(c->entry);
    *c = bigger;
}

void token_counts_add(struct token_counts *c, int32_t token, bool generated)
{
    if (c->n * 2 >= c->cap)
        counts_grow(c);
    struct token_count *e = &c->entry[slot_of(c, token)];
    c->n += e->token < 0;
    e->token = token;
    e->generated += generated;
}

void token_counts_fini(struct token_counts *c)
{
    free(c->entry);
    *c = (struct token_counts){0};
}

int sampler_scratch_init(struct sampler_scratch *s, int32_t vocab, struct moed_error *err)
{
    size_t n = (size_t)vocab;
    *s = (struct sampler_scratch){.vocab = vocab,
                                  .logits = mem_try(n, sizeof *s->logits),
                                  .weight = mem_try(n, sizeof *s->weight),
                                  .key = mem_try(n, sizeof *s->key),
                                  .spare = mem_try(n, sizeof *s->spare)};
    if (s->logits && s->weight && s->key && s->spare)
        return 0;
    sampler_scratch_fini(s);
    return moed_fail(err, MOED_ENOMEM, "no memory to sample from %d logits", vocab);
}

void sampler_scratch_fini(struct sampler_scratch *s)
{
    free(s->logits);
    free(s->weight);
    free(s->key);
    free(s->spare);
    *s = (struct sampler_scratch){0};
}

/* exp for x <= 0, relative error below 2e-7; 0 at EXP_LOW and below, and for NaN. Additions and
 * multiplications only. */
static inline float exp_weight(float x)
{
    float c = x > EXP_LOW ? x : EXP_LOW;
    float shifted = c * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
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
    uint32_t scale_bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &scale_bits, sizeof scale);
    return x > EXP_LOW ? p * scale : 0.0f;
}

/* The largest number; NaN never wins. -INFINITY where there is none. */
static float largest(const float *l, int32_t n)
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

static double sum_of(const float *w, int32_t n)
{
    double s[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            s[k] += (double)w[i + k];
    for (; i < n; i++)
        s[0] += (double)w[i];
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}

static bool has_penalty(const struct moed_sampling *p)
{
    return p->presence_penalty != 0 || p->frequency_penalty != 0 || p->repetition_penalty != 1;
}

/* Penalties, biases and masks; the raw logits themselves where there are none. */
static const float *adjust(struct sampler_scratch *s, const float *raw,
                           const struct sample_params *p)
{
    const struct moed_sampling *o = p->sampling;
    bool penalty = has_penalty(o) && p->counts;
    if (!penalty && o->n_bias == 0 && p->n_mask == 0)
        return raw;
    float *l = s->logits;
    memcpy(l, raw, (size_t)s->vocab * sizeof *l);
    for (size_t i = 0; penalty && i < p->counts->cap; i++) {
        const struct token_count *e = &p->counts->entry[i];
        if (e->token < 0)
            continue;
        float v = l[e->token];
        v = v > 0 ? v / o->repetition_penalty : v * o->repetition_penalty;
        if (e->generated > 0) {
            v = v - o->frequency_penalty * (float)e->generated;
            v = v - o->presence_penalty;
        }
        l[e->token] = v;
    }
    for (size_t i = 0; i < o->n_bias; i++)
        l[o->bias[i].token] += o->bias[i].bias;
    for (size_t i = 0; i < p->n_mask; i++)
        if (p->mask[i] >= 0 && p->mask[i] < s->vocab)
            l[p->mask[i]] = -INFINITY;
    return l;
}

/* A key that sorts by falling logit, then by rising id. */
static uint64_t key_of(float logit, int32_t id)
{
    uint32_t b;
    logit = logit + 0.0f; /* -0 and +0 are equal: make them one */
    memcpy(&b, &logit, sizeof b);
    b = b & 0x80000000u ? b : ~b & 0x7FFFFFFFu;
    return (uint64_t)b << 32 | (uint32_t)id;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts by bits [shift, shift + 32); equal ones keep their order, which is by id. Large sets by
 * counting, 11 bits at a time: a flat distribution makes the whole vocabulary a candidate. */
static void sort_keys(struct sampler_scratch *s, size_t n, int shift)
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

/* Candidates of at least `low` weight into key, in order of id; returns how many and their mass. */
static size_t gather(struct sampler_scratch *s, const float *l, float low, double *mass)
{
    const float *restrict weight = s->weight;
    uint64_t *restrict key = s->key;
    size_t n = 0;
    double sum = 0;
    for (int32_t i = 0, vocab = s->vocab; i < vocab; i++) {
        float w = weight[i];
        if (w >= low && w > 0) {
            key[n++] = key_of(l[i], i);
            sum += (double)w;
        }
    }
    *mass = sum;
    return n;
}

/*
 * top_k and top_p: leaves the ids that are kept in key, ascending, and returns how many. Gathers
 * from the top down in a few steps, because usually a handful of tokens holds all the mass.
 */
static size_t filter(struct sampler_scratch *s, const float *l, const struct moed_sampling *o,
                     double total)
{
    static const float steps[] = {0x1p-5f, 0x1p-10f, 0x1p-20f, 0};
    size_t top_k = o->top_k > 0 ? (size_t)o->top_k : SIZE_MAX;
    double mass = 0;
    size_t n = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        n = gather(s, l, steps[i], &mass);
        if (top_k != SIZE_MAX ? n >= top_k : mass >= (double)o->top_p * total)
            break;
    }
    sort_keys(s, n, 32);
    if (top_k < n) {
        n = top_k;
        total = 0;
        for (size_t i = 0; i < n; i++)
            total += (double)s->weight[(uint32_t)s->key[i]];
    } else if (top_k != SIZE_MAX) {
        total = mass;
    }
    if (o->top_p < 1) {
        double sum = 0;
        size_t keep = 0;
        while (keep < n && sum < (double)o->top_p * total)
            sum += (double)s->weight[(uint32_t)s->key[keep++]];
        n = keep ? keep : 1;
    }
    for (size_t i = 0; i < n; i++)
        s->key[i] &= UINT32_MAX;
    sort_keys(s, n, 0);
    return n;
}

static int32_t draw_filtered(const struct sampler_scratch *s, size_t n, double u)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += (double)s->weight[s->key[i]];
    for (size_t i = 0; i < n; i++) {
        sum += (double)s->weight[s->key[i]];
        if (sum > u * total)
            return (int32_t)s->key[i];
    }
    return (int32_t)s->key[n - 1];
}

static int32_t draw_all(const struct sampler_scratch *s, double total, double u)
{
    double sum = 0;
    int32_t last = -1;
    for (int32_t i = 0; i < s->vocab; i++) {
        if (s->weight[i] > 0) {
            sum += (double)s->weight[i];
            last = i;
            if (sum > u * total)
                return i;
        }
    }
    return last;
}

/* Unnormalised probabilities at the temperature; 0 below min_p. */
static void weigh(const float *restrict l, float *restrict w, int32_t n, float max,
                  const struct moed_sampling *o)
{
    const float temperature = o->temperature, min_p = o->min_p;
    for (int32_t i = 0; i < n; i++) {
        float e = exp_weight((l[i] - max) / temperature);
        w[i] = e >= min_p ? e : 0.0f;
    }
}

int32_t sampler_pick(struct sampler_scratch *s, const float *raw, const struct sample_params *p)
{
    const struct moed_sampling *o = p->sampling;
    const float *l = adjust(s, raw, p);
    float max = largest(l, s->vocab);
    if (!isfinite(max))
        return -1;
    if (o->temperature == 0 || o->top_k == 1)
        return first_equal(l, s->vocab, max);
    weigh(l, s->weight, s->vocab, max, o);
    double total = sum_of(s->weight, s->vocab);
    double u = philox_uniform(p->seed, p->choice, p->position);
    if ((o->top_k > 0 && o->top_k < s->vocab) || o->top_p < 1)
        return draw_filtered(s, filter(s, l, o, total), u);
    return draw_all(s, total, u);
}

static void insert_top(struct moed_top *top, int32_t n, int32_t *have, int32_t token, float value)
{
    int32_t at = *have < n ? (*have)++ : n - 1;
    while (at > 0 && top[at - 1].logprob < value) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = (struct moed_top){token, value};
}

void sampler_logprobs(const float *l, int32_t vocab, int32_t token, int32_t n_top,
                      struct moed_top *top, struct moed_token *out)
{
    assert(n_top >= 0 && n_top <= MOED_MAX_TOP_LOGPROBS);
    float max = largest(l, vocab);
    double s[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= vocab; i += LANES)
        for (int k = 0; k < LANES; k++)
            s[k] += (double)exp_weight(l[i + k] - max);
    for (; i < vocab; i++)
        s[0] += (double)exp_weight(l[i] - max);
    double log_sum =
        (double)max + log(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])));
    int32_t rank = 1, have = 0;
    for (i = 0; i < token; i++)
        rank += l[i] >= l[token];
    for (i = token + 1; i < vocab; i++)
        rank += l[i] > l[token];
    for (i = 0; n_top > 0 && i < vocab; i++)
        if (have < n_top || l[i] > top[n_top - 1].logprob)
            insert_top(top, n_top, &have, i, l[i]);
    for (i = 0; i < have; i++)
        top[i].logprob = (float)((double)top[i].logprob - log_sum);
    *out = (struct moed_token){.id = token,
                               .logprob = (float)((double)l[token] - log_sum),
                               .rank = rank,
                               .n_top = have,
                               .top = top};
}
