/* The table of policies, and what they share. */
#include "pager/policy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "pager/policy_int.h"

static const struct policy_ops *const policies[] = {&policy_steady, &policy_lfru, &policy_lfu,
                                                    &policy_lru};

const struct policy_ops *policy_find(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
        if (strcmp(policies[i]->name, name) == 0)
            return policies[i];
    return NULL;
}

const char *policy_names(void)
{
    return "steady, lfru, lfu, lru";
}

void key_heap_init(struct key_heap *h, int32_t n_keys)
{
    *h = (struct key_heap){.rank = mem_new((size_t)n_keys, sizeof h->rank[0]),
                           .place = mem_new((size_t)n_keys, sizeof h->place[0]),
                           .heap = mem_new((size_t)n_keys, sizeof h->heap[0]),
                           .aside = mem_new((size_t)n_keys, sizeof h->aside[0])};
    for (int32_t k = 0; k < n_keys; k++)
        h->place[k] = KEY_ABSENT;
}

void key_heap_fini(struct key_heap *h)
{
    free(h->rank);
    free(h->place);
    free(h->heap);
    free(h->aside);
}

static bool before(const struct key_heap *h, int32_t a, int32_t b)
{
    return h->rank[a] < h->rank[b] || (h->rank[a] == h->rank[b] && a < b);
}

static void put(struct key_heap *h, int32_t i, int32_t key)
{
    h->heap[i] = key;
    h->place[key] = i;
}

static void sift_up(struct key_heap *h, int32_t i)
{
    int32_t key = h->heap[i];
    for (; i > 0 && before(h, key, h->heap[(i - 1) / 2]); i = (i - 1) / 2)
        put(h, i, h->heap[(i - 1) / 2]);
    put(h, i, key);
}

static void sift_down(struct key_heap *h, int32_t i)
{
    int32_t key = h->heap[i];
    for (int32_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && before(h, h->heap[child + 1], h->heap[child]))
            child++;
        if (!before(h, h->heap[child], key))
            break;
        put(h, i, h->heap[child]);
    }
    put(h, i, key);
}

static void take_out(struct key_heap *h, int32_t i)
{
    int32_t last = h->heap[--h->n];
    if (i == h->n)
        return;
    put(h, i, last);
    sift_up(h, i);
    sift_down(h, h->place[last]);
}

void key_heap_add(struct key_heap *h, int32_t key)
{
    put(h, h->n++, key);
    sift_up(h, h->n - 1);
}

void key_heap_remove(struct key_heap *h, int32_t key)
{
    if (h->place[key] >= 0)
        take_out(h, h->place[key]);
    for (int32_t i = 0; h->place[key] == KEY_ASIDE && i < h->n_aside; i++)
        if (h->aside[i] == key) {
            h->aside[i] = h->aside[--h->n_aside];
            break;
        }
    h->place[key] = KEY_ABSENT;
}

void key_heap_set(struct key_heap *h, int32_t key, double rank)
{
    h->rank[key] = rank;
    if (h->place[key] < 0)
        return;
    sift_up(h, h->place[key]);
    sift_down(h, h->place[key]);
}

void key_heap_restore(struct key_heap *h)
{
    while (h->n_aside > 0)
        key_heap_add(h, h->aside[--h->n_aside]);
}

void key_heap_rebuild(struct key_heap *h)
{
    while (h->n_aside > 0)
        put(h, h->n++, h->aside[--h->n_aside]);
    for (int32_t i = h->n / 2; i-- > 0;)
        sift_down(h, i);
}

int32_t key_heap_victim(struct key_heap *h, bool (*evictable)(void *user, int32_t key), void *user)
{
    while (h->n > 0) {
        int32_t key = h->heap[0];
        if (evictable(user, key))
            return key;
        take_out(h, 0);
        h->place[key] = KEY_ASIDE;
        h->aside[h->n_aside++] = key;
    }
    return -1;
}

void decay_init(struct decay *d, uint32_t half_life)
{
    d->half_life = half_life;
    d->base = 0;
    for (uint32_t i = 0; i < half_life; i++)
        d->fraction[i] = exp2((double)i / half_life);
}

/* Half-lives after which sums are scaled; a sum of that age is far below any that matters. */
#define DECAY_SPAN 512

double decay_weight(struct decay *d, uint64_t step, double *sums, int32_t n)
{
    uint64_t whole = step / d->half_life;
    if (whole - d->base >= DECAY_SPAN) {
        uint64_t by = whole - d->base;
        for (int32_t i = 0; i < n; i++)
            sums[i] = by > 2000 ? 0 : ldexp(sums[i], -(int)by);
        d->base = whole;
    }
    return ldexp(d->fraction[step % d->half_life], (int)(whole - d->base));
}
