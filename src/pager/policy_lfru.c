/*
 * Least frequently and recently used: the chance that an expert is used in the next step, estimated
 * as a blend of recency (a use rate with a half-life of one step) and frequency (a rate with a
 * half-life of a paragraph):
 *
 *   worth(key, now) = sum over spans of WEIGHT * (1 - 2^(-1/H)) * sum over uses of 2^(-(now -
 * use)/H)
 *
 * Either span alone is worse than both (docs/pager.md has the table). The order of such sums
 * changes as time goes by, so no heap can be kept; they are computed anew for the resident keys in
 * the first victim search of a step, which is a few multiplications each, and made a heap then.
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

#define SPANS 2

/* Found by search over the traces and synthetic routings of tests/sim/pager; the optimum is flat.
 */
static const struct {
    uint32_t half_life; /* steps */
    double weight;
} spans[SPANS] = {{1, 1}, {64, 4}};

struct policy {
    struct key_heap heap; /* rank: worth, as of ranked_step for members */
    struct decay decay[SPANS];
    double *sums[SPANS];  /* [n_keys] */
    double scale[SPANS];  /* from sums to worth, in this step */
    double weight[SPANS]; /* of a use in this step */
    int32_t n_keys;
    uint64_t step, ranked_step;
};

static struct policy *lfru_open(int32_t n_keys, int32_t n_slots)
{
    struct policy *p = mem_new(1, sizeof *p);
    key_heap_init(&p->heap, n_keys);
    for (int j = 0; j < SPANS; j++) {
        decay_init(&p->decay[j], spans[j].half_life);
        p->sums[j] = mem_new((size_t)n_keys, sizeof p->sums[j][0]);
    }
    p->n_keys = n_keys;
    return p;
}

static void lfru_close(struct policy *p)
{
    for (int j = 0; j < SPANS; j++)
        free(p->sums[j]);
    key_heap_fini(&p->heap);
    free(p);
}

static void begin_step(struct policy *p, uint64_t step)
{
    key_heap_restore(&p->heap);
    p->step = step;
    for (int j = 0; j < SPANS; j++) {
        p->weight[j] = decay_weight(&p->decay[j], step, p->sums[j], p->n_keys);
        double share = 1 - exp2(-1.0 / spans[j].half_life);
        p->scale[j] = spans[j].weight * share / p->weight[j];
    }
}

static void lfru_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                       size_t n)
{
    if (step != p->step)
        begin_step(p, step);
    for (int j = 0; j < SPANS; j++)
        for (size_t i = 0; i < n; i++)
            p->sums[j][keys[i]] += p->weight[j];
}

static double worth(const struct policy *p, int32_t key)
{
    double w = 0;
    for (int j = 0; j < SPANS; j++)
        w += p->scale[j] * p->sums[j][key];
    return w;
}

static void lfru_insert(struct policy *p, int32_t key)
{
    p->heap.rank[key] = worth(p, key);
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
            p->heap.rank[p->heap.heap[i]] = worth(p, p->heap.heap[i]);
        for (int32_t i = 0; i < p->heap.n_aside; i++)
            p->heap.rank[p->heap.aside[i]] = worth(p, p->heap.aside[i]);
        key_heap_rebuild(&p->heap);
    }
    return key_heap_victim(&p->heap, evictable, user);
}

static bool lfru_admit(struct policy *p, int32_t key, int32_t victim)
{
    return victim < 0 || worth(p, key) >= worth(p, victim);
}

const struct policy_ops policy_lfru = {
    .name = "lfru",
    .open = lfru_open,
    .close = lfru_close,
    .touch = lfru_touch,
    .insert = lfru_insert,
    .remove = lfru_remove,
    .victim = lfru_victim,
    .admit = lfru_admit,
};
