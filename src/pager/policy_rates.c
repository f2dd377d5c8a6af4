/*
 * Policies by use rates: what a key is worth is a sum of its use rates over spans of different
 * half-lives.
 *
 *   worth(key, now) = sum over spans of
 *                     WEIGHT * (1 - 2^(-1/H)) * sum over uses of min(rows, CAP) * 2^(-(now -
 * use)/H)
 *
 * With one span of weight 1 and single rows that is an estimate of uses per step.
 *
 * The order of such sums changes as time goes by where there is more than one span, so no heap can
 * be kept; they are computed anew for the resident keys in the first victim search of a step, which
 * is a few multiplications each, and made a heap then.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

struct span {
    struct rate_span is;
    struct decay decay;
    double *sums;  /* [n_keys] */
    double scale;  /* from sums to worth, in this step */
    double weight; /* of a row's use in this step */
};

struct policy {
    struct key_heap heap; /* rank: worth, as of ranked_step for members */
    struct span spans[RATES_MAX_SPANS];
    int n_spans;
    int32_t n_keys;
    uint64_t step, ranked_step;
    double margin, margin_now;
    int32_t mean_rows;
};

struct policy *rates_open(int32_t n_keys, const struct rates *r)
{
    struct policy *p = mem_new(1, sizeof *p);
    key_heap_init(&p->heap, n_keys);
    p->n_keys = n_keys;
    p->n_spans = r->n_spans;
    p->margin = r->margin;
    p->mean_rows = r->mean_rows;
    for (int j = 0; j < r->n_spans; j++) {
        p->spans[j].is = r->spans[j];
        p->spans[j].sums = mem_new((size_t)n_keys, sizeof(double));
        decay_init(&p->spans[j].decay, r->spans[j].half_life);
    }
    return p;
}

void rates_close(struct policy *p)
{
    for (int j = 0; j < p->n_spans; j++)
        free(p->spans[j].sums);
    key_heap_fini(&p->heap);
    free(p);
}

static void begin_step(struct policy *p, uint64_t step)
{
    key_heap_restore(&p->heap);
    p->step = step;
    /* Rates begin at zero and are too low at first; so is what they must differ by. */
    p->margin_now = p->margin * (1 - exp2(-(double)step / p->spans[0].is.half_life));
    for (int j = 0; j < p->n_spans; j++) {
        struct span *s = &p->spans[j];
        s->weight = decay_weight(&s->decay, step, s->sums, p->n_keys);
        s->scale = s->is.weight * (1 - exp2(-1.0 / s->is.half_life)) / s->weight;
    }
}

/* What rows are multiplied by, so that their mean is at most mean_rows. */
static double row_scale(const struct policy *p, const int32_t *rows, size_t n)
{
    int64_t total = 0, most = (int64_t)p->mean_rows * (int64_t)n;
    for (size_t i = 0; i < n; i++)
        total += rows[i];
    return p->mean_rows > 0 && total > most ? (double)most / (double)total : 1;
}

void rates_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                 size_t n)
{
    if (step != p->step)
        begin_step(p, step);
    double scale = row_scale(p, rows, n);
    for (size_t i = 0; i < n; i++) {
        double of_rows = rows[i] * scale;
        if (of_rows < 1)
            of_rows = 1;
        for (int j = 0; j < p->n_spans; j++) {
            struct span *s = &p->spans[j];
            s->sums[keys[i]] += (of_rows < s->is.cap ? of_rows : s->is.cap) * s->weight;
        }
    }
}

double rates_worth(const struct policy *p, int32_t key)
{
    double w = 0;
    for (int j = 0; j < p->n_spans; j++)
        w += p->spans[j].scale * p->spans[j].sums[key];
    return w;
}

void rates_insert(struct policy *p, int32_t key)
{
    p->heap.rank[key] = rates_worth(p, key);
    key_heap_add(&p->heap, key);
}

void rates_remove(struct policy *p, int32_t key)
{
    key_heap_remove(&p->heap, key);
}

int32_t rates_victim(struct policy *p, bool (*evictable)(void *user, int32_t key), void *user)
{
    if (p->ranked_step != p->step) {
        p->ranked_step = p->step;
        for (int32_t i = 0; i < p->heap.n; i++)
            p->heap.rank[p->heap.heap[i]] = rates_worth(p, p->heap.heap[i]);
        for (int32_t i = 0; i < p->heap.n_aside; i++)
            p->heap.rank[p->heap.aside[i]] = rates_worth(p, p->heap.aside[i]);
        key_heap_rebuild(&p->heap);
    }
    return key_heap_victim(&p->heap, evictable, user);
}

bool rates_admit(struct policy *p, int32_t key, int32_t victim)
{
    return victim < 0 || rates_worth(p, key) >= rates_worth(p, victim) + p->margin_now;
}
