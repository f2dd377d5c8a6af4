/* Least recently used. The experts of an event count as used one after the other, in its order. */
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

struct policy {
    struct key_heap heap; /* rank: number of the last touch */
    uint64_t step;
    double touches; /* counts exactly up to 2^53 */
    double *used;   /* [n_keys] step of the last touch */
};

static struct policy *lru_open(int32_t n_keys, int32_t n_slots)
{
    struct policy *p = mem_new(1, sizeof *p);
    key_heap_init(&p->heap, n_keys);
    p->used = mem_new((size_t)n_keys, sizeof p->used[0]);
    return p;
}

static void lru_close(struct policy *p)
{
    key_heap_fini(&p->heap);
    free(p->used);
    free(p);
}

static void lru_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                      size_t n)
{
    if (step != p->step)
        key_heap_restore(&p->heap);
    p->step = step;
    for (size_t i = 0; i < n; i++) {
        key_heap_set(&p->heap, keys[i], ++p->touches);
        p->used[keys[i]] = (double)step;
    }
}

static void lru_insert(struct policy *p, int32_t key)
{
    key_heap_add(&p->heap, key);
}

static void lru_remove(struct policy *p, int32_t key)
{
    key_heap_remove(&p->heap, key);
}

static int32_t lru_victim(struct policy *p, bool (*evictable)(void *user, int32_t key), void *user)
{
    return key_heap_victim(&p->heap, evictable, user);
}

/* What one step used is worth the same, whichever layer came first. */
static double lru_worth(const struct policy *p, int32_t key)
{
    return p->used[key];
}

static bool lru_admit(struct policy *p, int32_t key, int32_t victim)
{
    return true;
}

const struct policy_ops policy_lru = {
    .name = "lru",
    .open = lru_open,
    .close = lru_close,
    .touch = lru_touch,
    .insert = lru_insert,
    .remove = lru_remove,
    .victim = lru_victim,
    .worth = lru_worth,
    .admit = lru_admit,
};
