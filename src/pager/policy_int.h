/* Inside the policies: a heap of keys by rank, and weights that decay by half-lives. */
#ifndef MOED_PAGER_POLICY_INT_H
#define MOED_PAGER_POLICY_INT_H

#include "pager/policy.h"

extern const struct policy_ops policy_lru, policy_lfu, policy_lfru, policy_steady;

/*
 * A binary heap of keys, smallest rank first, equal ranks by key. Keys that a victim search refused
 * stay members but lie aside until key_heap_restore.
 */
struct key_heap {
    double *rank;   /* [n_keys] */
    int32_t *place; /* [n_keys] index into heap, or one of the marks below */
    int32_t *heap;  /* [n] */
    int32_t *aside; /* [n_aside] */
    int32_t n, n_aside;
};
#define KEY_ABSENT (-1)
#define KEY_ASIDE  (-2)

void key_heap_init(struct key_heap *h, int32_t n_keys);
void key_heap_fini(struct key_heap *h);
/* The key must not be a member; its rank is what rank[key] says. */
void key_heap_add(struct key_heap *h, int32_t key);
void key_heap_remove(struct key_heap *h, int32_t key);
/* Sets the rank of a key, member or not. */
void key_heap_set(struct key_heap *h, int32_t key, double rank);
/* Takes what lies aside back. */
void key_heap_restore(struct key_heap *h);
/* Makes it a heap again after the ranks of many members were changed in place. */
void key_heap_rebuild(struct key_heap *h);
int32_t key_heap_victim(struct key_heap *h, bool (*evictable)(void *user, int32_t key), void *user);

/*
 * Decayed frequency without decaying anything: a use in step t adds 2^(t / half_life), which ranks
 * keys as the sum of 2^(-(now - t) / half_life) does. Weights are relative to a base that moves by
 * whole half-lives, so that moving it scales by a power of two and rounds nothing.
 */
#define DECAY_MAX_HALF_LIFE 1024
struct decay {
    uint32_t half_life; /* steps */
    uint64_t base;      /* half-lives */
    double fraction[DECAY_MAX_HALF_LIFE];
};
void decay_init(struct decay *d, uint32_t half_life);
/* The weight of a use in this step. When it grows out of range, the n sums are scaled first. */
double decay_weight(struct decay *d, uint64_t step, double *sums, int32_t n);

/* Policies by use rates (policy_rates.c). */
#define RATES_MAX_SPANS 8
struct rate_span {
    uint32_t half_life; /* steps, at most DECAY_MAX_HALF_LIFE */
    int32_t cap;        /* rows that one use may count */
    double weight;
};
struct rates {
    const struct rate_span *spans; /* read by open alone */
    int n_spans;
    double margin;     /* that a newcomer is worth more than a victim; less in the first steps */
    int32_t mean_rows; /* rows of an event are scaled to this mean where it is larger; 0: never */
};
struct policy *rates_open(int32_t n_keys, const struct rates *r);
void rates_close(struct policy *p);
void rates_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                 size_t n);
double rates_worth(const struct policy *p, int32_t key);
void rates_insert(struct policy *p, int32_t key);
void rates_remove(struct policy *p, int32_t key);
int32_t rates_victim(struct policy *p, bool (*evictable)(void *user, int32_t key), void *user);
bool rates_admit(struct policy *p, int32_t key, int32_t victim);
/* All entries of such a policy but its name and open. */
#define RATES_OPS                                                                                  \
    .close = rates_close, .touch = rates_touch, .insert = rates_insert, .remove = rates_remove,    \
    .victim = rates_victim, .worth = rates_worth, .admit = rates_admit

#endif
