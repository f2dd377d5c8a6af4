/*
 * Admission: which missed experts come, and who goes for them, when the link takes fewer than are
 * missed.
 *
 * A load that was sent and has not begun is a place in the queue for a record, not yet for a
 * certain one. After each step all that was missed and all that waits are ranked by worth; the best
 * take the places there are, in that order, and what falls out is dropped rather than copied late.
 * Only then do victims give up theirs, and only so many that the link stays busy for a step: a slot
 * that waits for its record serves nobody.
 */
#include <assert.h>
#include <stdlib.h>

#include "pager/pager_int.h"

/* Places beyond what arrived in the last steps, so that the number can grow. */
#define PLACES_LEAST 2

static bool holds(struct pager *p, const struct waiting *w)
{
    struct load *load = &p->slots[w->slot].load;
    return p->slots[w->slot].state == SLOT_LOADING && load->number == w->number && load_hold(load);
}

/* Holds what waits and forgets what does not any more. */
static void hold_waiting(struct pager *p)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_waiting; i++)
        if (holds(p, &p->waiting[i]))
            p->waiting[n++] = p->waiting[i];
    p->n_waiting = n;
}

static void let_waiting_go(struct pager *p, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        load_let_go(&p->slots[p->waiting[i].slot].load);
}

static int by_worth(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->worth != y->worth)
        return x->worth > y->worth ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

static void add_candidate(struct pager *p, int32_t *n, int32_t key, uint32_t order)
{
    p->candidates[(*n)++] =
        (struct candidate){.key = key, .order = order, .worth = p->ops->worth(p->policy, key)};
}

/* Of equals those come first that wait, in their order; the others take turns from step to step, so
 * that no layer is last every time. */
#define ORDER_MISSED (1u << 31)

static int32_t rank_candidates(struct pager *p)
{
    uint32_t turn = (uint32_t)pager_epoch(p) * 0x9E3779B9u;
    int32_t n = 0;
    for (int32_t i = 0; i < p->n_missed; i++)
        add_candidate(p, &n, p->missed[i],
                      ORDER_MISSED | ((uint32_t)p->missed[i] * 0x85EBCA6Bu ^ turn));
    for (int32_t i = 0; i < p->n_waiting; i++)
        add_candidate(p, &n, p->slots[p->waiting[i].slot].key, (uint32_t)i);
    qsort(p->candidates, (size_t)n, sizeof p->candidates[0], by_worth);
    return n;
}

/* The best of n candidates take the places of those that wait. */
static void assign_waiting(struct pager *p)
{
    for (int32_t i = 0; i < p->n_waiting; i++)
        p->coming[p->slots[p->waiting[i].slot].key] = 0;
    for (int32_t i = 0; i < p->n_waiting; i++) {
        struct slot *s = &p->slots[p->waiting[i].slot];
        s->key = s->load.key = p->candidates[i].key;
        s->load.src = p->map->host_of[s->key];
        p->coming[s->key] = 1;
    }
}

/* Slots that may be without a record for the sake of admissions: what the link brings in a step,
 * and half of that again. */
static int32_t places(struct pager *p)
{
    if (p->n_waiting == 0 && p->arrived >= (int32_t)p->pace)
        p->pace = 2 * p->arrived; /* it could have brought more */
    else
        p->pace = p->arrived > p->pace ? p->arrived : 0.75 * p->pace + 0.25 * p->arrived;
    p->arrived = 0;
    double n = PLACES_LEAST + 1.5 * p->pace;
    return n < p->cfg.max_loads ? (int32_t)n : p->cfg.max_loads;
}

/* A free slot, or the place of a victim that is worth less. */
static bool place(struct pager *p, int32_t key, bool may_replace)
{
    if (p->n_slots == 0)
        return false;
    if (p->n_free > 0 && p->ops->admit(p->policy, key, -1)) {
        pager_start_in_free_slot(p, key, LOAD_ADMISSION);
        return true;
    }
    int32_t victim = p->n_free == 0 && may_replace ? pager_victim(p) : -1;
    if (victim < 0 || !p->ops->admit(p->policy, key, victim))
        return false;
    pager_replace(p, victim, key, LOAD_ADMISSION);
    return true;
}

static void admit_all(struct pager *p)
{
    for (int32_t i = 0; i < p->n_missed; i++)
        if (!place(p, p->missed[i], true))
            counter_add(&counters_of(p, p->missed[i])->bypasses, 1);
    p->n_waiting = 0;
}

void pager_admit(struct pager *p)
{
    if (p->cfg.synchronous || p->n_slots == 0) {
        admit_all(p);
        return;
    }
    hold_waiting(p);
    int32_t room = places(p) - p->n_waiting, held = p->n_waiting;
    if (p->n_missed > 0) {
        int32_t n = rank_candidates(p);
        assign_waiting(p);
        for (int32_t i = held; i < n; i++) {
            int32_t key = p->candidates[i].key;
            bool missed_now = p->candidates[i].order & ORDER_MISSED;
            bool free_slot = p->n_free > 0;
            if (place(p, key, room > 0))
                room -= !free_slot;
            else
                counter_add(
                    missed_now ? &counters_of(p, key)->bypasses : &counters_of(p, key)->dropped, 1);
        }
    }
    let_waiting_go(p, held);
}

void pager_fill(struct pager *p)
{
    for (int e = 0; e < p->map->n_experts; e++)
        for (int layer = 0; layer < p->map->n_layers && p->n_free > 0; layer++) {
            int32_t key = (int32_t)(layer * p->map->n_experts + e);
            if (!p->map->host_of[key])
                continue;
            counter_add(&p->counters[layer].fills, 1);
            pager_start_in_free_slot(p, key, LOAD_ADMISSION);
        }
    if (p->loader)
        loader_kick(p->loader);
}
