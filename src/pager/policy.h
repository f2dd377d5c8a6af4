/*
 * An eviction and admission policy: one file each behind this table. A policy sees keys (layer *
 * n_experts + expert), never memory, threads or time other than the step clock; the engine thread
 * alone calls it.
 *
 * The order of calls within a step: touch for each layer, then any number of victim, admit, remove,
 * insert. What was touched in a step is not evictable until the next step begins, so a policy may
 * ask for each key once per step and set aside what was refused.
 */
#ifndef MOED_PAGER_POLICY_H
#define MOED_PAGER_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct policy;

struct policy_ops {
    const char *name;
    /* State for n_keys keys and n_slots slots. Never NULL. */
    struct policy *(*open)(int32_t n_keys, int32_t n_slots);
    void (*close)(struct policy *);
    /* One event: the distinct experts of one layer in one step, with rows that chose each. step
     * never falls. */
    void (*touch)(struct policy *, uint64_t step, const int32_t *keys, const int32_t *rows,
                  size_t n);
    /* The key became resident / left. */
    void (*insert)(struct policy *, int32_t key);
    void (*remove)(struct policy *, int32_t key);
    /* The resident key to evict next among those for which evictable(user, key) holds; -1 if none.
     * Does not remove it. */
    int32_t (*victim)(struct policy *, bool (*evictable)(void *user, int32_t key), void *user);
    /* How likely a key's next use is near, resident or not: larger is sooner. Comparable within a
     * step, after its touches. */
    double (*worth)(const struct policy *, int32_t key);
    /* Is a missed key worth the place of `victim` (-1: a free slot)? */
    bool (*admit)(struct policy *, int32_t key, int32_t victim);
};

/* The table for a name, NULL if unknown. policy_names: for help and errors, "steady, lfru, ...". */
const struct policy_ops *policy_find(const char *name);
const char *policy_names(void);

#endif
