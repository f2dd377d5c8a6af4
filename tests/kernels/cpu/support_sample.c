#include "support_sample.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

void sample_logits(struct rng *r, uint64_t kind, float *logits, int vocab)
{
    static const float spreads[] = {0.01f, 0.3f, 1, 3, 3, 3, 8, 30};
    float spread = spreads[rng_next(r) % 8], middle = rng_float(r) * 10;
    for (int i = 0; i < vocab; i++) {
        float v = middle + rng_float(r) * spread;
        switch (kind % 8) {
        case 1: /* few numbers, many ties */
            v = (float)rng_int(r, -3, 3) * 0.5f;
            break;
        case 2: /* all equal, but for some */
            v = rng_int(r, 0, 99) ? 2.5f : 1.5f;
            break;
        case 3: /* zeros of both signs at the top */
            v = rng_int(r, 0, 3) ? -fabsf(v) : rng_int(r, 0, 1) ? 0.0f : -0.0f;
            break;
        case 4: /* holes */
            v = rng_int(r, 0, 2) ? v : rng_int(r, 0, 1) ? NAN : -INFINITY;
            break;
        case 5: /* a few that stand out */
            v += rng_int(r, 0, 499) ? 0 : 8 * spread;
            break;
        case 6: /* two heaps */
            v = rng_int(r, 0, 4) ? 1.5f : 2.5f;
            break;
        default:
            break;
        }
        logits[i] = v;
    }
    /* No token can be told. */
    for (int i = 0; i < vocab && kind % 40 == 39; i++)
        logits[i] = kind % 80 == 39 ? NAN : -INFINITY;
    if (kind % 40 == 38)
        logits[rng_int(r, 0, vocab - 1)] = INFINITY;
}

struct kern_sample_row sample_row(struct rng *r, int vocab)
{
    static const float temperatures[] = {0, 1e-30f, 1e-3f, 0.3f, 0.7f, 1, 1, 1, 1.7f, 100};
    static const float top_ps[] = {1, 1, 1, 0, 1e-9f, 0.1f, 0.5f, 0.9f, 0.95f, 0.99f, 0.99999f};
    static const float min_ps[] = {0, 0, 0, 0, 0.02f, 0.3f, 1};
    const int top_ks[] = {0, 0, 0, -1, 1, 2, 20, 50, 1000, 5000, vocab - 1, vocab, vocab + 7};
    return (struct kern_sample_row){.seed = rng_next(r),
                                    .position = rng_next(r) >> rng_int(r, 0, 63),
                                    .choice = (uint32_t)rng_int(r, 0, 3),
                                    .temperature = temperatures[rng_next(r) % 10],
                                    .top_p = top_ps[rng_next(r) % 11],
                                    .min_p = min_ps[rng_next(r) % 7],
                                    .top_k = top_ks[rng_next(r) % 13]};
}

int sample_vocab(struct rng *r, int most)
{
    const int sizes[] = {1,    2,   7, 100, SAMPLE_CHUNK - 1, SAMPLE_CHUNK, SAMPLE_CHUNK + 1,
                         8188, most};
    int vocab = rng_int(r, 0, 2) ? sizes[rng_next(r) % 9] : rng_int(r, 1, most);
    return vocab < most ? vocab : most;
}

struct entry {
    float logit;
    int32_t id;
    uint64_t weight;
};

static int in_order(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return x->logit > y->logit ? -1 : x->logit < y->logit ? 1 : x->id - y->id;
}

static int by_id(const void *a, const void *b)
{
    return ((const struct entry *)a)->id - ((const struct entry *)b)->id;
}

static int32_t draw(struct entry *e, int kept, const struct kern_sample_row *o)
{
    unsigned __int128 sum = 0, passed = 0;
    uint64_t random = sample_random(o->seed, o->choice, o->position);
    for (int i = 0; i < kept; i++)
        sum += e[i].weight;
    qsort(e, (size_t)kept, sizeof *e, by_id);
    for (int i = 0; i < kept; i++) {
        passed += e[i].weight;
        if (passed > (sum * random >> 53))
            return e[i].id;
    }
    return -2;
}

int32_t sample_reference(const float *logits, int vocab, const struct kern_sample_row *o)
{
    struct entry *e = malloc((size_t)vocab * sizeof *e);
    float best = -INFINITY;
    int32_t first = -1, token = -1;
    for (int i = 0; i < vocab; i++)
        if (logits[i] > best) {
            best = logits[i];
            first = i;
        }
    if (!isfinite(best))
        goto out;
    token = first;
    if (o->temperature == 0 || o->top_k == 1)
        goto out;
    int kept = 0;
    uint64_t sum = 0, passed = 0;
    for (int i = 0; i < vocab; i++) {
        float share = sample_exp((logits[i] - best) / o->temperature);
        double weight = rint((double)share * 0x1p40);
        if (share >= o->min_p && weight > 0)
            e[kept++] = (struct entry){logits[i], i, (uint64_t)weight};
    }
    qsort(e, (size_t)kept, sizeof *e, in_order);
    if (o->top_k > 0 && kept > o->top_k)
        kept = o->top_k;
    for (int i = 0; i < kept; i++)
        sum += e[i].weight;
    double need = floor((double)o->top_p * (double)sum);
    for (int i = 0; i < kept && o->top_p < 1; i++) {
        passed += e[i].weight;
        if ((double)passed >= need && passed >= (uint64_t)need) {
            kept = i + 1;
            break;
        }
    }
    token = draw(e, kept, o);
out:
    free(e);
    return token;
}
