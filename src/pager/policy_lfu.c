/*
 * Least frequently used, aged: a use counts half after HALF_LIFE steps. A missed expert takes a
 * place only from one that was used less than it.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

/* Short enough to follow a conversation, long enough to tell its favourites from chance. */
#define HALF_LIFE 16

struct policy {
    struct key_heap heap; /* rank: decayed frequency */
    struct decay decay;
    int32_t n_keys;
    uint64_t step;
};

static struct policy *lfu_open(int32_t n_keys, int32_t n_slots)
{
    struct policy *p = mem_new(1, sizeof *p);
    key_heap_init(&p->heap, n_keys);
    decay_init(&p->decay, HALF_LIFE);
    p->n_keys = n_keys;
    return p;
}

static void lfu_close(struct policy *p)
{
    key_heap_fini(&p->heap);
    free(p);
}

static void lfu_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                      size_t n)
{
    if (step != p->step)
        key_heap_restore(&p->heap);
    p->step = step;
    uint64_t base = p->decay.base;
    double weight = decay_weight(&p->decay, step, p->heap.rank, p->n_keys);
    if (p->decay.base != base) /* what was tiny is zero now, and equal ranks go by key */
        key_heap_rebuild(&p->heap);
    for (size_t i = 0; i < n; i++)
        key_heap_set(&p->heap, keys[i], p->heap.rank[keys[i]] + weight);
}

static void lfu_insert(struct policy *p, int32_t key)
{
    key_heap_add(&p->heap, key);
}

static void lfu_remove(struct policy *p, int32_t key)
{
    key_heap_remove(&p->heap, key);
}

static int32_t lfu_victim(struct policy *p, bool (*evictable)(void *user, int32_t key), void *user)
{
    return key_heap_victim(&p->heap, evictable, user);
}

static double lfu_worth(const struct policy *p, int32_t key)
{
    return p->heap.rank[key];
}

static bool lfu_admit(struct policy *p, int32_t key, int32_t victim)
{
    return victim < 0 || p->heap.rank[key] >= p->heap.rank[victim];
}

const struct policy_ops policy_lfu = {
    .name = "lfu",
    .open = lfu_open,
    .close = lfu_close,
    .touch = lfu_touch,
    .insert = lfu_insert,
    .remove = lfu_remove,
    .victim = lfu_victim,
    .worth = lfu_worth,
    .admit = lfu_admit,
};
