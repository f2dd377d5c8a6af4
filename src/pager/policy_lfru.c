/*
 * Least frequently and recently used: the chance that an expert is used in the next step, estimated
 * as a blend of recency (a use rate with a half-life of one step) and frequency (rates with the
 * half-lives of a sentence and of a paragraph):
 *
 *   worth(key, now) = sum over spans of
 *                     WEIGHT * (1 - 2^(-1/H)) * sum over uses of min(rows, CAP) * 2^(-(now -
 * use)/H)
 *
 * Rows count for frequency, because what a prompt's many tokens chose is what its answer will
 * choose; up to a cap, so that one long prompt does not outweigh all streams beside it.
 *
 * Any one span alone is worse than the blend (docs/pager.md has the table). The order of such sums
 * changes as time goes by, so no heap can be kept; they are computed anew for the resident keys in
 * the first victim search of a step, which is a few multiplications each, and made a heap then.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

/* Found by search over the traces and synthetic routings of tests/sim/pager; the optimum is flat.
 */
static const struct lfru_span own_spans[] = {{1, 1, 1}, {16, 32, 1}, {64, 32, 4}};

struct span {
    struct lfru_span is;
    struct decay decay;
    double *sums;  /* [n_keys] */
    double scale;  /* from sums to worth, in this step */
    double weight; /* of a row's use in this step */
};

struct policy {
    struct key_heap heap; /* rank: worth, as of ranked_step for members */
    struct span spans[LFRU_MAX_SPANS];
    int n_spans;
    int32_t n_keys;
    uint64_t step, ranked_step;
};

struct policy *lfru_open_spans(int32_t n_keys, const struct lfru_span *spans, int n_spans)
{
    struct policy *p = mem_new(1, sizeof *p);
    key_heap_init(&p->heap, n_keys);
    p->n_keys = n_keys;
    p->n_spans = n_spans;
    for (int j = 0; j < n_spans; j++) {
        p->spans[j].is = spans[j];
        p->spans[j].sums = mem_new((size_t)n_keys, sizeof(double));
        decay_init(&p->spans[j].decay, spans[j].half_life);
    }
    return p;
}

static struct policy *lfru_open(int32_t n_keys, int32_t n_slots)
{
    return lfru_open_spans(n_keys, own_spans, sizeof own_spans / sizeof own_spans[0]);
}

static void lfru_close(struct policy *p)
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
    for (int j = 0; j < p->n_spans; j++) {
        struct span *s = &p->spans[j];
        s->weight = decay_weight(&s->decay, step, s->sums, p->n_keys);
        s->scale = s->is.weight * (1 - exp2(-1.0 / s->is.half_life)) / s->weight;
    }
}

static void lfru_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                       size_t n)
{
    if (step != p->step)
        begin_step(p, step);
    for (int j = 0; j < p->n_spans; j++) {
        struct span *s = &p->spans[j];
        for (size_t i = 0; i < n; i++)
            s->sums[keys[i]] += (rows[i] < s->is.cap ? rows[i] : s->is.cap) * s->weight;
    }
}

static double lfru_worth(const struct policy *p, int32_t key)
{
    double w = 0;
    for (int j = 0; j < p->n_spans; j++)
        w += p->spans[j].scale * p->spans[j].sums[key];
    return w;
}

static void lfru_insert(struct policy *p, int32_t key)
{
    p->heap.rank[key] = lfru_worth(p, key);
    key_heap_add(&p->heap, key);
}

static void lfru_remove(struct policy *p, int32_t key)
{
    key_heap_remove(&p->heap, key);
}

static int32_t lfru_victim(struct policy *p, bool (*evictable)(void *user, int32_t key), void *user)
{
    if (p->ranked_step != p->step) {
        p->ranked_step = p->step;
        for (int32_t i = 0; i < p->heap.n; i++)
            p->heap.rank[p->heap.heap[i]] = lfru_worth(p, p->heap.heap[i]);
        for (int32_t i = 0; i < p->heap.n_aside; i++)
            p->heap.rank[p->heap.aside[i]] = lfru_worth(p, p->heap.aside[i]);
        key_heap_rebuild(&p->heap);
    }
    return key_heap_victim(&p->heap, evictable, user);
}

static bool lfru_admit(struct policy *p, int32_t key, int32_t victim)
{
    return victim < 0 || lfru_worth(p, key) >= lfru_worth(p, victim);
}

const struct policy_ops policy_lfru = {
    .name = "lfru",
    .open = lfru_open,
    .close = lfru_close,
    .touch = lfru_touch,
    .insert = lfru_insert,
    .remove = lfru_remove,
    .victim = lfru_victim,
    .worth = lfru_worth,
    .admit = lfru_admit,
};
