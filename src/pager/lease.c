/* Acquire and release: what a layer of a running step may read, and where. */
#include <assert.h>

#include <uv.h>

#include "pager/pager_int.h"

static const void *host_of(const struct pager *p, int layer, int32_t expert)
{
    return p->map->host_of[(size_t)layer * (size_t)p->map->n_experts + (size_t)expert];
}

int pager_check_needs(const struct pager *p, int layer, const struct pager_need *needs, size_t n,
                      struct moed_error *err)
{
    assert(p->in_step);
    assert(layer >= 0 && layer < p->map->n_layers && n <= (size_t)p->map->n_experts);
    for (size_t i = 0; i < n; i++) {
        assert(needs[i].expert >= 0 && needs[i].expert < p->map->n_experts && needs[i].rows > 0);
        if (!host_of(p, layer, needs[i].expert))
            return moed_fail(err, MOED_ENOTFOUND, "layer %d expert %d is not in memory", layer,
                             needs[i].expert);
    }
    return 0;
}

void pager_count_uses(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                      bool admit)
{
    struct layer_counters *c = &p->counters[layer];
    uint64_t epoch = pager_epoch(p), activations = 0, hits = 0;
    size_t fresh = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t key = layer * p->map->n_experts + needs[i].expert;
        activations += (uint64_t)needs[i].rows;
        if (p->used_epoch[key] == epoch)
            continue;
        p->used_epoch[key] = epoch;
        p->touch_keys[fresh] = key;
        p->touch_rows[fresh++] = needs[i].rows;
        if (p->cfg.mode == PAGER_IN_PLACE || p->slot_of[key] >= 0)
            hits++;
        else if (p->coming[key])
            counter_add(&c->underway, 1);
        else if (!admit || !p->map->host_of[key]) /* the device alone may have seen it missing */
            counter_add(&c->bypasses, 1);
        else
            p->missed[p->n_missed++] = key;
    }
    counter_add(&c->activations, activations);
    counter_add(&c->uses, fresh);
    counter_add(&c->hits, hits);
    counter_add(&c->misses, fresh - hits);
    if (p->policy && fresh > 0)
        p->ops->touch(p->policy, epoch, p->touch_keys, p->touch_rows, fresh);
}

void pager_lease_host(struct pager *p, struct pager_lease *lease)
{
    lease->kind = LEASE_HOST;
    lease->record = host_of(p, lease->layer, lease->expert);
    lease->slot = -1;
    counter_add(&p->counters[lease->layer].bytes_in_place, p->record_bytes);
}

static void first_use(struct pager *p, struct slot *s)
{
    if (s->prefetched) {
        s->prefetched = false;
        counter_add(&counters_of(p, s->key)->prefetches_used, 1);
    }
}

void pager_lease_slot(struct pager *p, struct pager_lease *lease, int32_t index)
{
    struct slot *s = &p->slots[index];
    first_use(p, s);
    s->leases++;
    lease->kind = LEASE_SLOT;
    lease->record = s->memory;
    lease->slot = index;
    lease->generation = s->generation;
}

void pager_stage(struct pager *p, struct slot *s, int32_t key, enum load_class class)
{
    assert(s->state == SLOT_FREE && s->leases == 0);
    s->state = SLOT_LOADING;
    s->key = key;
    s->load.src = p->map->host_of[key];
    s->load.dst = s->memory;
    s->load.bytes = p->record_bytes;
    s->load.key = key;
    s->load.slot = (int32_t)(s - p->staging);
    s->load.class = class;
    s->load.after = s->guarded ? &s->ops_done : NULL;
    loader_send(p->loader, &s->load);
}

void pager_free_staging(struct pager *p, struct slot *s)
{
    s->state = SLOT_FREE;
    s->key = -1;
    s->leases = 0;
    s->generation++;
    p->free_staging[p->n_free_staging++] = (int32_t)(s - p->staging);
}

/* Begins a copy to a staging slot; the lease is good when settle_staged has seen it back. */
static void lease_staged(struct pager *p, struct pager_lease *lease, int32_t key)
{
    int32_t index = p->free_staging[--p->n_free_staging];
    struct slot *s = &p->staging[index];
    pager_stage(p, s, key, LOAD_DEMAND);
    p->n_demand++;
    s->leases = 1;
    lease->kind = LEASE_STAGED;
    lease->record = s->memory;
    lease->slot = index;
    lease->generation = s->generation;
}

static void demand_came_back(struct pager *p, struct load *load)
{
    struct slot *s = &p->staging[load->slot];
    s->guarded = s->guarded && load->after;
    if (load->outcome == LOAD_DONE)
        s->state = SLOT_RESIDENT;
    p->n_demand--;
}

void pager_came_back(struct pager *p, struct load *load)
{
    if (load->class == LOAD_DEMAND)
        demand_came_back(p, load);
    else if (load->class == LOAD_STREAM)
        pager_stream_came_back(p, load);
    else
        p->finished[p->n_finished++] = load;
}

/* Admissions that end meanwhile are put by: a step sees one epoch. */
static void wait_staged(struct pager *p, int layer)
{
    uint64_t begin_ns = uv_hrtime();
    while (p->n_demand > 0)
        pager_came_back(p, loader_wait(p->loader));
    counter_add(&p->counters[layer].stall_us, (uv_hrtime() - begin_ns) / 1000);
}

static void settle_staged(struct pager *p, struct pager_lease *leases, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (leases[i].kind != LEASE_STAGED)
            continue;
        struct layer_counters *c = &p->counters[leases[i].layer];
        if (p->staging[leases[i].slot].state == SLOT_RESIDENT) {
            counter_add(&c->staged, 1);
            counter_add(&c->bytes_copied, p->record_bytes);
            counter_add(&c->bytes_staged, p->record_bytes);
            continue;
        }
        counter_add(&c->load_errors, 1);
        pager_free_staging(p, &p->staging[leases[i].slot]);
        pager_lease_host(p, &leases[i]);
    }
}

static void lease_in_place(struct pager *p, struct pager_lease *lease)
{
    pager_lease_host(p, lease);
    lease->kind = LEASE_SLOT;
}

int pager_acquire(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                  struct pager_lease *leases, struct moed_error *err)
{
    int rc = pager_check_needs(p, layer, needs, n, err);
    if (rc < 0)
        return rc;
    pager_count_uses(p, layer, needs, n, true);
    int open = 0, staged = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t key = layer * p->map->n_experts + needs[i].expert;
        leases[i] = (struct pager_lease){.layer = layer, .expert = needs[i].expert};
        if (p->cfg.mode == PAGER_IN_PLACE) {
            lease_in_place(p, &leases[i]);
            continue;
        }
        if (p->slot_of[key] >= 0) {
            pager_lease_slot(p, &leases[i], p->slot_of[key]);
            continue;
        }
        /* Open before the first demand is sent, so that no admission's chunk slips in between. */
        if (open++ == 0 && p->loader)
            loader_miss_open(p->loader, 1);
        if (p->n_free_staging > 0 && p->cfg.stage_min_rows > 0 &&
            needs[i].rows >= p->cfg.stage_min_rows) {
            lease_staged(p, &leases[i], key);
            staged++;
        } else {
            pager_lease_host(p, &leases[i]);
        }
    }
    if (open > 1 && p->loader)
        loader_miss_open(p->loader, open - 1);
    if (staged > 0) {
        loader_kick(p->loader);
        wait_staged(p, layer);
        settle_staged(p, leases, n);
    }
    number_add(&p->leases_out, (int32_t)n);
    return 0;
}

void pager_account(struct pager *p, int layer, const struct pager_need *needs, size_t n)
{
    assert(p->in_step && p->cfg.mode == PAGER_CACHED);
    assert(layer >= 0 && layer < p->map->n_layers && n <= (size_t)p->map->n_experts);
    pager_count_uses(p, layer, needs, n, true);
    uint64_t misses = 0;
    for (size_t i = 0; i < n; i++) {
        assert(needs[i].expert >= 0 && needs[i].expert < p->map->n_experts && needs[i].rows > 0);
        int32_t index = p->slot_of[layer * p->map->n_experts + needs[i].expert];
        if (index >= 0)
            first_use(p, &p->slots[index]);
        misses += index < 0;
    }
    counter_add(&p->counters[layer].bytes_in_place, misses * p->record_bytes);
}

/* What is queued may still read the slot; where that cannot be marked, the device has failed and
 * its bytes do not matter. */
static void release_staged(struct pager *p, const struct pager_lease *lease)
{
    struct slot *s = &p->staging[lease->slot];
    assert(s->generation == lease->generation && s->leases == 1);
    s->guarded = p->dev->ops->event_mark(p->dev, &s->ops_done) == 0;
    if (lease->kind == LEASE_STREAMED)
        p->stream.staged_of[s->key] = -1;
    pager_free_staging(p, s);
}

void pager_release(struct pager *p, struct pager_lease *leases, size_t n)
{
    int closed = 0, streamed = 0;
    for (size_t i = 0; i < n; i++) {
        struct pager_lease *lease = &leases[i];
        assert(lease->kind != LEASE_NONE);
        if (lease->kind == LEASE_SLOT && lease->slot >= 0) {
            struct slot *s = &p->slots[lease->slot];
            assert(s->generation == lease->generation && s->leases > 0);
            s->leases--;
        }
        if (lease->kind == LEASE_STAGED || lease->kind == LEASE_STREAMED)
            release_staged(p, lease);
        closed += lease->kind == LEASE_HOST || lease->kind == LEASE_STAGED;
        streamed += lease->kind == LEASE_STREAMED;
        *lease = (struct pager_lease){.kind = LEASE_NONE, .slot = -1};
    }
    if (closed > 0 && p->loader)
        loader_miss_closed(p->loader, closed);
    if (streamed > 0)
        pager_stream_feed(p);
    number_add(&p->leases_out, -(int32_t)n);
    assert(atomic_load_explicit(&p->leases_out, memory_order_relaxed) >= 0);
}
