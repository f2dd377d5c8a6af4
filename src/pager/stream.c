/*
 * Streams: the experts of a pass of many rows on their way through the staging slots.
 *
 * Free staging slots go first to what the running layer needs and then, where the stream copies
 * ahead, to the next keys in order that are not resident. A layer's router tells what it needs:
 * what was copied for nothing is given up, what is missing is asked for, before all that is ahead.
 * Residency may change between two layers, so what was copied ahead may have become resident, and
 * what was resident may be missing; both are settled when the layer begins.
 */
#include <assert.h>
#include <string.h>

#include <uv.h>

#include "pager/pager_int.h"

static int32_t expert_of(const struct pager *p, int32_t key)
{
    return key % p->map->n_experts;
}

static bool of_running_layer(const struct pager *p, int32_t key)
{
    return key / p->map->n_experts == p->stream.layer;
}

int pager_stream_open(struct pager *p, int first, int end, int rows)
{
    struct stream *s = &p->stream;
    assert(first >= 0 && first <= end && end <= p->map->n_layers);
    if (p->n_staging == 0 || s->open)
        return 0;
    s->open = true;
    s->ahead = rows >= p->cfg.stream_ahead_rows;
    s->layer = first - 1;
    s->end = end;
    s->next_key = (int32_t)(first * p->map->n_experts);
    s->n_needed = s->n_resident = s->n_wanted = s->n_failed = 0;
    s->n_resident_given = s->n_wanted_sent = 0;
    pager_stream_feed(p);
    return 1;
}

static void count_unused(struct pager *p, int32_t key)
{
    counter_add(&counters_of(p, key)->staged_unused, 1);
}

/* Gives up what a staging slot holds or awaits. */
static void give_up(struct pager *p, struct slot *slot)
{
    struct stream *s = &p->stream;
    s->staged_of[slot->key] = -1;
    if (slot->state == SLOT_LOADING) { /* free when it comes back */
        atomic_store_explicit(&slot->load.cancel, true, memory_order_relaxed);
        slot->key = -1;
        return;
    }
    count_unused(p, slot->key);
    int32_t index = (int32_t)(slot - p->staging), n = 0;
    for (int32_t i = 0; i < s->n_ready; i++)
        if (s->ready[i] != index)
            s->ready[n++] = s->ready[i];
    s->n_ready = n;
    pager_free_staging(p, slot);
}

void pager_stream_came_back(struct pager *p, struct load *load)
{
    struct stream *s = &p->stream;
    struct slot *slot = &p->staging[load->slot];
    bool done = load->outcome == LOAD_DONE;
    s->n_loading--;
    slot->guarded = slot->guarded && load->after;
    counter_add(&counters_of(p, load->key)->bytes_copied, done ? p->record_bytes : 0);
    counter_add(&counters_of(p, load->key)->bytes_staged, done ? p->record_bytes : 0);
    if (slot->key >= 0 && done) {
        slot->state = SLOT_RESIDENT;
        s->ready[s->n_ready++] = load->slot;
        return;
    }
    if (done)
        count_unused(p, load->key);
    if (load->outcome == LOAD_FAILED)
        counter_add(&counters_of(p, load->key)->load_errors, 1);
    if (slot->key >= 0) {
        s->staged_of[slot->key] = -1;
        if (of_running_layer(p, slot->key) && s->needed[expert_of(p, slot->key)])
            s->failed[s->n_failed++] = slot->key;
    }
    pager_free_staging(p, slot);
}

/* The next key that is worth copying ahead, or -1. */
static int32_t next_ahead(struct pager *p)
{
    struct stream *s = &p->stream;
    int32_t end = s->ahead ? (int32_t)(s->end * p->map->n_experts) : 0;
    while (s->next_key < end) {
        int32_t key = s->next_key++;
        if (p->map->host_of[key] && p->slot_of[key] < 0 && s->staged_of[key] < 0)
            return key;
    }
    return -1;
}

/* A staging slot with the farthest of what was copied ahead, given up for the running layer. What
 * is on its way is left alone. */
static void take_from_ahead(struct pager *p)
{
    struct slot *farthest = NULL;
    for (int32_t i = 0; i < p->n_staging; i++) {
        struct slot *slot = &p->staging[i];
        if (slot->state == SLOT_RESIDENT && slot->leases == 0 &&
            slot->key / p->map->n_experts > p->stream.layer &&
            (!farthest || slot->key > farthest->key))
            farthest = slot;
    }
    if (farthest)
        give_up(p, farthest);
}

void pager_stream_feed(struct pager *p)
{
    struct stream *s = &p->stream;
    while (s->open) {
        bool wanted = s->n_wanted_sent < s->n_wanted;
        if (wanted && p->n_free_staging == 0)
            take_from_ahead(p);
        if (p->n_free_staging == 0)
            break;
        int32_t key = wanted ? s->wanted[s->n_wanted_sent++] : next_ahead(p);
        if (key < 0)
            break;
        int32_t index = p->free_staging[--p->n_free_staging];
        s->staged_of[key] = index;
        s->n_loading++;
        pager_stage(p, &p->staging[index], key, LOAD_STREAM);
    }
    if (p->loader)
        loader_kick(p->loader);
}

/* What was copied for this layer or one before, and is not needed from a staging slot. */
static void give_up_unneeded(struct pager *p)
{
    for (int32_t i = 0; i < p->n_staging; i++) {
        struct slot *slot = &p->staging[i];
        int32_t key = slot->state == SLOT_FREE || slot->leases > 0 ? -1 : slot->key;
        if (key < 0 || p->stream.staged_of[key] != i || key / p->map->n_experts > p->stream.layer)
            continue;
        if (!of_running_layer(p, key) || !p->stream.needed[expert_of(p, key)] ||
            p->slot_of[key] >= 0)
            give_up(p, slot);
    }
}

int pager_stream_layer(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                       struct moed_error *err)
{
    struct stream *s = &p->stream;
    assert(s->open && s->n_needed == 0 && layer > s->layer && layer < s->end);
    int rc = pager_check_needs(p, layer, needs, n, err);
    if (rc < 0)
        return rc;
    pager_count_uses(p, layer, needs, n, false);
    s->layer = layer;
    s->n_needed = (int32_t)n;
    s->n_resident = s->n_wanted = s->n_failed = 0;
    s->n_resident_given = s->n_wanted_sent = 0;
    memset(s->needed, 0, (size_t)p->map->n_experts);
    for (size_t i = 0; i < n; i++) {
        int32_t key = layer * p->map->n_experts + needs[i].expert;
        s->needed[needs[i].expert] = 1;
        if (p->slot_of[key] >= 0)
            s->resident[s->n_resident++] = key;
        else if (s->staged_of[key] < 0)
            s->wanted[s->n_wanted++] = key;
    }
    int32_t next_layer = (int32_t)((layer + 1) * p->map->n_experts);
    if (s->next_key < next_layer)
        s->next_key = next_layer;
    give_up_unneeded(p);
    pager_stream_feed(p);
    return 0;
}

static struct pager_lease *give(struct pager *p, struct pager_lease *lease, int32_t key)
{
    *lease = (struct pager_lease){.layer = key / p->map->n_experts, .expert = expert_of(p, key)};
    p->stream.needed[lease->expert] = 0;
    p->stream.n_needed--;
    return lease;
}

static void give_host(struct pager *p, struct pager_lease *lease, int32_t key)
{
    loader_miss_open(p->loader, 1);
    pager_lease_host(p, give(p, lease, key));
}

static void give_staged(struct pager *p, struct pager_lease *lease, int32_t index)
{
    struct slot *slot = &p->staging[index];
    give(p, lease, slot->key);
    slot->leases = 1;
    lease->kind = LEASE_STREAMED;
    lease->record = slot->memory;
    lease->slot = index;
    lease->generation = slot->generation;
    counter_add(&counters_of(p, slot->key)->staged, 1);
}

/* Gives what is there. What lies in staging slots goes before what is resident: copies wait for
 * those slots, and residents fill the time until more has come. */
static int give_ready(struct pager *p, struct pager_lease *leases, int max)
{
    struct stream *s = &p->stream;
    int got = 0;
    for (; got < max && s->n_failed > 0; got++)
        give_host(p, &leases[got], s->failed[--s->n_failed]);
    int32_t kept = 0;
    for (int32_t i = 0; i < s->n_ready; i++) {
        int32_t index = s->ready[i];
        if (got < max && of_running_layer(p, p->staging[index].key))
            give_staged(p, &leases[got++], index);
        else
            s->ready[kept++] = index;
    }
    s->n_ready = kept;
    for (; got < max && s->n_resident_given < s->n_resident; got++) {
        int32_t key = s->resident[s->n_resident_given++];
        pager_lease_slot(p, give(p, &leases[got], key), p->slot_of[key]);
    }
    return got;
}

int pager_stream_next(struct pager *p, struct pager_lease *leases, int max)
{
    struct stream *s = &p->stream;
    struct load *load;
    assert(s->open && p->in_step && max > 0);
    while ((load = loader_take(p->loader)))
        pager_came_back(p, load);
    pager_stream_feed(p);
    int got;
    while ((got = give_ready(p, leases, max)) == 0 && s->n_needed > 0) {
        if (s->n_loading == 0) { /* the caller holds all staging slots */
            give_host(p, &leases[got++], s->wanted[s->n_wanted_sent++]);
            break;
        }
        uint64_t begin_ns = uv_hrtime();
        pager_came_back(p, loader_wait(p->loader));
        counter_add(&p->counters[s->layer].stall_us, (uv_hrtime() - begin_ns) / 1000);
        pager_stream_feed(p);
    }
    number_add(&p->leases_out, got);
    return got;
}

void pager_stream_close(struct pager *p)
{
    struct stream *s = &p->stream;
    if (!s->open)
        return;
    s->open = false;
    s->n_needed = 0;
    for (int32_t i = 0; i < p->n_staging; i++) {
        struct slot *slot = &p->staging[i];
        int32_t key = slot->state == SLOT_FREE || slot->leases > 0 ? -1 : slot->key;
        if (key >= 0 && s->staged_of[key] == i)
            give_up(p, slot);
    }
}
