#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Independent running sums: the loops over the vocabulary become vector code, and the order of
 * additions is the same on every machine. */
#define LANES 8

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
    *s = (struct sampler_scratch){.vocab = vocab,
                                  .logits = mem_try((size_t)vocab, sizeof *s->logits),
                                  .draw = mem_try(kern_sample_cpu_scratch_bytes(vocab), 1)};
    if (s->logits && s->draw)
        return 0;
    sampler_scratch_fini(s);
    return moed_fail(err, MOED_ENOMEM, "no memory to sample from %d logits", vocab);
}

void sampler_scratch_fini(struct sampler_scratch *s)
{
    free(s->logits);
    free(s->draw);
    *s = (struct sampler_scratch){0};
}

bool sampler_raw(const struct moed_sampling *o, size_t n_mask)
{
    return o->presence_penalty == 0 && o->frequency_penalty == 0 && o->repetition_penalty == 1 &&
           o->n_bias == 0 && n_mask == 0;
}

struct kern_sample_row sampler_row(const struct sample_params *p)
{
    return (struct kern_sample_row){.seed = p->seed,
                                    .position = p->position,
                                    .choice = p->choice,
                                    .top_k = p->sampling->top_k,
                                    .temperature = p->sampling->temperature,
                                    .top_p = p->sampling->top_p,
                                    .min_p = p->sampling->min_p};
}

/* Penalties, biases and masks; the raw logits themselves where there are none. */
static const float *adjust(struct sampler_scratch *s, const float *raw,
                           const struct sample_params *p)
{
    const struct moed_sampling *o = p->sampling;
    if (sampler_raw(o, p->n_mask))
        return raw;
    float *l = s->logits;
    memcpy(l, raw, (size_t)s->vocab * sizeof *l);
    for (size_t i = 0; p->counts && i < p->counts->cap; i++) {
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

int32_t sampler_pick(struct sampler_scratch *s, const float *raw, const struct sample_params *p)
{
    struct kern_sample_row row = sampler_row(p);
    return kern_sample_cpu(adjust(s, raw, p), s->vocab, &row, s->draw);
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
    float max = kern_largest(l, vocab);
    double s[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= vocab; i += LANES)
        for (int k = 0; k < LANES; k++)
            s[k] += (double)sample_exp(l[i + k] - max);
    for (; i < vocab; i++)
        s[0] += (double)sample_exp(l[i] - max);
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
