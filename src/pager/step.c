/*
 * Between steps: loads, evictions, advice. Nothing here runs while a step does, except that advice
 * may start a load into a free slot, which no table shows.
 *
 *   step_end n      the device has done the step: what was missed gets free slots and the places of
 *                   victims, which leave the table (admit.c); loads start
 *   step_begin n+1  loads that came back are shown; the epoch begins
 */
#include <assert.h>

#include "pager/pager_int.h"

/* Epochs that a prefetched record may wait for its first use; it was asked for one of the next. */
#define PREFETCH_GRACE 4

static void push_free(struct pager *p, struct slot *s)
{
    s->state = SLOT_FREE;
    s->key = -1;
    p->free_slot[p->n_free++] = (int32_t)(s - p->slots);
}

void pager_start_load(struct pager *p, struct slot *s, int32_t key, enum load_class class)
{
    assert(s->state == SLOT_FREE && s->leases == 0 && p->slot_of[key] < 0 && !p->coming[key]);
    s->state = SLOT_LOADING;
    s->key = key;
    s->prefetched = class == LOAD_PREFETCH;
    s->load.src = p->map->host_of[key];
    s->load.dst = s->memory;
    s->load.bytes = p->record_bytes;
    s->load.key = key;
    s->load.slot = (int32_t)(s - p->slots);
    s->load.class = class;
    p->coming[key] = 1;
    number_add(&p->n_loading, 1);
    s->load.number = ++p->loads_sent;
    if (class == LOAD_ADMISSION)
        p->waiting[p->n_waiting++] =
            (struct waiting){.slot = s->load.slot, .number = s->load.number};
    loader_send(p->loader, &s->load);
}

void pager_start_in_free_slot(struct pager *p, int32_t key, enum load_class class)
{
    pager_start_load(p, &p->slots[p->free_slot[--p->n_free]], key, class);
}

/* Takes a load that came back in: LOADING -> RESIDENT or FREE. Between steps only. */
static void settle(struct pager *p, struct load *load)
{
    struct slot *s = &p->slots[load->slot];
    struct layer_counters *c = counters_of(p, load->key);
    assert(s->state == SLOT_LOADING && s->key == load->key);
    number_add(&p->n_loading, -1);
    p->n_prefetch_loads -= load->class == LOAD_PREFETCH;
    p->coming[load->key] = 0;
    if (load->outcome != LOAD_DONE) {
        counter_add(load->outcome == LOAD_FAILED ? &c->load_errors : &c->prefetches_canceled, 1);
        s->prefetched = false;
        push_free(p, s);
        return;
    }
    s->state = SLOT_RESIDENT;
    s->keep_until = pager_epoch(p) + PREFETCH_GRACE;
    p->slot_of[load->key] = load->slot;
    atomic_store_explicit(&p->table_version, pager_version(p) + 1, memory_order_relaxed);
    p->ops->insert(p->policy, load->key);
    p->arrived += load->class == LOAD_ADMISSION;
    number_add(&p->n_resident, 1);
    counter_add(&c->admissions, 1);
    counter_add(&c->bytes_copied, p->record_bytes);
}

static void settle_all(struct pager *p)
{
    struct load *load;
    while ((load = loader_take(p->loader)))
        pager_came_back(p, load);
    for (int32_t i = 0; i < p->n_finished; i++)
        settle(p, p->finished[i]);
    p->n_finished = 0;
}

/* RESIDENT -> FREE, off the table, not yet on the free stack. */
static void evict(struct pager *p, struct slot *s)
{
    assert(s->state == SLOT_RESIDENT && s->leases == 0);
    p->ops->remove(p->policy, s->key);
    p->slot_of[s->key] = -1;
    atomic_store_explicit(&p->table_version, pager_version(p) + 1, memory_order_relaxed);
    number_add(&p->n_resident, -1);
    counter_add(&counters_of(p, s->key)->evictions, 1);
    s->state = SLOT_FREE;
    s->key = -1;
    s->prefetched = false;
    s->generation++;
}

/* Not what the running (or just ended) epoch used, and not what was fetched for the next. */
static bool evictable(void *user, int32_t key)
{
    const struct pager *p = user;
    const struct slot *s = &p->slots[p->slot_of[key]];
    uint64_t epoch = pager_epoch(p);
    return p->used_epoch[key] != epoch && s->leases == 0 &&
           !(s->prefetched && s->keep_until > epoch);
}

int32_t pager_victim(struct pager *p)
{
    return p->ops->victim(p->policy, evictable, p);
}

void pager_replace(struct pager *p, int32_t victim, int32_t key, enum load_class class)
{
    struct slot *s = &p->slots[p->slot_of[victim]];
    evict(p, s);
    pager_start_load(p, s, key, class);
}

/* Advice that waited for a slot gets one now or is given up. */
static void place_advice(struct pager *p)
{
    for (int32_t i = 0; i < p->n_advice; i++) {
        int32_t key = p->advice[i];
        bool spare = p->n_free > 0;
        int32_t victim = spare ? -1 : pager_victim(p);
        p->coming[key] = 0;
        if (!spare && victim < 0) {
            counter_add(&counters_of(p, key)->prefetches_canceled, 1);
            continue;
        }
        p->n_prefetch_loads++;
        if (spare)
            pager_start_in_free_slot(p, key, LOAD_PREFETCH);
        else
            pager_replace(p, victim, key, LOAD_PREFETCH);
    }
    p->n_advice = 0;
}

void pager_step_end(struct pager *p)
{
    assert(p->in_step && atomic_load(&p->leases_out) == 0);
    p->in_step = false;
    pager_admit(p);
    p->n_missed = 0;
    if (!p->loader)
        return;
    place_advice(p);
    loader_kick(p->loader);
    while (p->cfg.synchronous &&
           atomic_load_explicit(&p->n_loading, memory_order_relaxed) > p->n_finished)
        pager_came_back(p, loader_wait(p->loader));
    if (p->cfg.synchronous)
        settle_all(p);
}

void pager_step_begin(struct pager *p)
{
    assert(!p->in_step);
    p->in_step = true;
    if (p->loader)
        settle_all(p);
    atomic_store_explicit(&p->epoch, pager_epoch(p) + 1, memory_order_relaxed);
}

int pager_prefetch(struct pager *p, int layer, int expert)
{
    if (p->n_slots == 0 || layer < 0 || layer >= p->map->n_layers || expert < 0 ||
        expert >= p->map->n_experts)
        return 0;
    int32_t key = layer * p->map->n_experts + expert;
    /* What this step missed already is a candidate of step_end. */
    bool missed = p->in_step && p->used_epoch[key] == pager_epoch(p);
    if (!p->map->host_of[key] || p->slot_of[key] >= 0 || p->coming[key] || missed ||
        p->n_advice + p->n_prefetch_loads >= PAGER_MAX_PREFETCH)
        return 0;
    counter_add(&p->counters[layer].prefetches, 1);
    if (p->n_free > 0) {
        pager_start_in_free_slot(p, key, LOAD_PREFETCH);
        p->n_prefetch_loads++;
        loader_kick(p->loader);
    } else {
        p->coming[key] = 1;
        p->advice[p->n_advice++] = key;
    }
    return 1;
}

void pager_prefetch_cancel(struct pager *p)
{
    for (int32_t i = 0; i < p->n_advice; i++) {
        p->coming[p->advice[i]] = 0;
        counter_add(&counters_of(p, p->advice[i])->prefetches_canceled, 1);
    }
    p->n_advice = 0;
    for (int32_t i = 0; i < p->n_slots && p->n_prefetch_loads > 0; i++) {
        struct slot *s = &p->slots[i];
        if (s->state == SLOT_LOADING && s->load.class == LOAD_PREFETCH)
            atomic_store_explicit(&s->load.cancel, true, memory_order_relaxed);
    }
}
