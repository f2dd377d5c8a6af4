/* Opening, closing, and what can be asked of a pager. */
#include "pager/pager.h"

#include <assert.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/pager_int.h"

#define DEFAULT_CHUNK_BYTES       ((size_t)2 << 20)
#define DEFAULT_MAX_LOADS         64
#define MAX_LOADS_SHARE           8 /* of the slots, one in */
#define DEFAULT_BULK_CHUNK_BYTES  ((size_t)16 << 20)
#define DEFAULT_STREAM_AHEAD_ROWS 512
#define DEFAULT_MIN_SHARE_PERCENT 25

static int check_config(const struct pager_config *cfg, const struct expert_map *map,
                        struct moed_error *err)
{
    if (map->n_layers < 1 || map->n_experts < 1 || map->n_layers > INT32_MAX / map->n_experts)
        return moed_fail(err, MOED_EINVAL, "%d layers of %d experts", map->n_layers,
                         map->n_experts);
    if (cfg->staging_slots < 0 || cfg->staging_slots > PAGER_MAX_STAGING)
        return moed_fail_param(err, MOED_EINVAL, "staging_slots", "%d staging slots, at most %d",
                               cfg->staging_slots, PAGER_MAX_STAGING);
    if (cfg->stage_min_rows < 0 || cfg->max_loads < 0)
        return moed_fail(err, MOED_EINVAL, "stage_min_rows %d, max_loads %d: negative",
                         cfg->stage_min_rows, cfg->max_loads);
    if (cfg->policy && !policy_find(cfg->policy))
        return moed_fail_param(err, MOED_EINVAL, "expert_policy",
                               "unknown expert policy \"%.32s\": there are %s", cfg->policy,
                               policy_names());
    return 0;
}

static void apply_defaults(struct pager *p)
{
    struct pager_config *c = &p->cfg;
    if (!c->policy)
        c->policy = "steady";
    if (c->chunk_bytes == 0)
        c->chunk_bytes = DEFAULT_CHUNK_BYTES;
    if (c->max_loads == 0)
        c->max_loads = DEFAULT_MAX_LOADS;
    if (c->max_loads > p->n_slots / MAX_LOADS_SHARE)
        c->max_loads = p->n_slots / MAX_LOADS_SHARE > 0 ? p->n_slots / MAX_LOADS_SHARE : 1;
    if (c->stream_ahead_rows == 0)
        c->stream_ahead_rows = DEFAULT_STREAM_AHEAD_ROWS;
    if (c->bulk_chunk_bytes == 0)
        c->bulk_chunk_bytes = DEFAULT_BULK_CHUNK_BYTES;
    if (c->min_share_percent == 0)
        c->min_share_percent = DEFAULT_MIN_SHARE_PERCENT;
    if (c->min_share_percent < 0)
        c->min_share_percent = 0;
    c->policy = policy_find(c->policy)->name; /* static, unlike the caller's */
}

/* Slots side by side in one block of device memory. */
static int make_slots(struct pager *p, struct slot **slots, uint8_t **arena, int32_t **stack,
                      int32_t n, const char *what, struct moed_error *err)
{
    if (n == 0)
        return 0;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)n, p->record_bytes, &bytes) ||
        !(*arena = p->dev->ops->alloc(p->dev, bytes)))
        return moed_fail(err, MOED_ENOMEM, "no device memory for %d %s of %zu bytes", n, what,
                         p->record_bytes);
    *slots = mem_try((size_t)n, sizeof **slots);
    *stack = mem_try((size_t)n, sizeof **stack);
    if (!*slots || !*stack)
        return moed_fail(err, MOED_ENOMEM, "no memory for %d %s", n, what);
    for (int32_t i = 0; i < n; i++) {
        (*slots)[i] = (struct slot){.memory = *arena + (size_t)i * p->record_bytes, .key = -1};
        (*stack)[i] = n - 1 - i;
    }
    return 0;
}

static void make_stream(struct pager *p)
{
    size_t experts = (size_t)p->map->n_experts;
    struct stream *s = &p->stream;
    s->staged_of = mem_new((size_t)p->n_keys, sizeof s->staged_of[0]);
    s->needed = mem_new(experts, sizeof s->needed[0]);
    s->resident = mem_new(experts, sizeof s->resident[0]);
    s->wanted = mem_new(experts, sizeof s->wanted[0]);
    s->failed = mem_new(experts, sizeof s->failed[0]);
    s->ready = mem_new((size_t)p->n_staging, sizeof s->ready[0]);
    for (int32_t k = 0; k < p->n_keys; k++)
        s->staged_of[k] = -1;
}

static int make_cache(struct pager *p, struct moed_error *err)
{
    uint64_t slots = p->cfg.cache_bytes / p->record_bytes;
    p->n_slots = slots < (uint64_t)p->n_records ? (int32_t)slots : p->n_records;
    p->n_staging = p->n_free_staging = p->cfg.staging_slots;
    p->n_free = p->n_slots;
    apply_defaults(p);
    int rc = make_slots(p, &p->slots, &p->arena, &p->free_slot, p->n_slots, "expert slots", err);
    if (rc == 0)
        rc = make_slots(p, &p->staging, &p->staging_arena, &p->free_staging, p->n_staging,
                        "staging slots", err);
    if (rc < 0)
        return rc;
    p->finished = mem_new((size_t)p->n_slots, sizeof p->finished[0]);
    make_stream(p);
    p->waiting = mem_new((size_t)p->n_slots, sizeof p->waiting[0]);
    p->ops = policy_find(p->cfg.policy);
    p->policy = p->ops->open(p->n_keys, p->n_slots);
    if (p->n_slots + p->n_staging > 0)
        rc = loader_open(
            &p->loader, p->dev,
            &(struct loader_config){.chunk_bytes = p->cfg.chunk_bytes,
                                    .bulk_chunk_bytes = p->cfg.bulk_chunk_bytes,
                                    .max_loads = (size_t)p->n_slots + (size_t)p->n_staging,
                                    .min_share_percent = p->cfg.min_share_percent,
                                    .demand_open = p->cfg.demand_open},
            err);
    if (rc == 0 && p->cfg.fill && !p->cfg.synchronous)
        pager_fill(p);
    return rc;
}

int pager_open(struct pager **out, const struct pager_config *cfg, const struct expert_map *map,
               struct dev *dev, struct moed_error *err)
{
    *out = NULL;
    int rc = check_config(cfg, map, err);
    if (rc < 0)
        return rc;
    struct pager *p = mem_new(1, sizeof *p);
    p->cfg = *cfg;
    p->map = map;
    p->dev = dev;
    atomic_store(&p->table_version, 1);
    p->record_bytes = map->cls->bytes;
    p->n_keys = (int32_t)(map->n_layers * map->n_experts);
    for (int32_t k = 0; k < p->n_keys; k++)
        p->n_records += map->host_of[k] != NULL;
    p->slot_of = mem_new((size_t)p->n_keys, sizeof p->slot_of[0]);
    p->coming = mem_new((size_t)p->n_keys, sizeof p->coming[0]);
    p->used_epoch = mem_new((size_t)p->n_keys, sizeof p->used_epoch[0]);
    p->missed = mem_new((size_t)p->n_keys, sizeof p->missed[0]);
    p->candidates = mem_new((size_t)p->n_keys, sizeof p->candidates[0]);
    p->touch_keys = mem_new((size_t)map->n_experts, sizeof p->touch_keys[0]);
    p->touch_rows = mem_new((size_t)map->n_experts, sizeof p->touch_rows[0]);
    p->counters = mem_new((size_t)map->n_layers, sizeof p->counters[0]);
    for (int32_t k = 0; k < p->n_keys; k++)
        p->slot_of[k] = -1;
    if (cfg->mode == PAGER_CACHED)
        rc = make_cache(p, err);
    else
        atomic_store(&p->n_resident, p->n_records);
    if (rc < 0)
        pager_close(&p);
    *out = p;
    return rc;
}

void pager_close(struct pager **pager)
{
    struct pager *p = *pager;
    if (!p)
        return;
    *pager = NULL;
    assert(atomic_load(&p->leases_out) == 0);
    pager_stream_close(p);
    loader_close(&p->loader);
    for (int32_t i = 0; i < p->n_staging && p->staging; i++)
        if (p->staging[i].guarded)
            p->dev->ops->event_wait(p->dev, &p->staging[i].ops_done);
    if (p->policy)
        p->ops->close(p->policy);
    if (p->arena)
        p->dev->ops->free(p->dev, p->arena, (size_t)p->n_slots * p->record_bytes);
    if (p->staging_arena)
        p->dev->ops->free(p->dev, p->staging_arena, (size_t)p->n_staging * p->record_bytes);
    free(p->slots);
    free(p->staging);
    free(p->free_slot);
    free(p->free_staging);
    free(p->waiting);
    free(p->stream.staged_of);
    free(p->stream.needed);
    free(p->stream.resident);
    free(p->stream.wanted);
    free(p->stream.failed);
    free(p->stream.ready);
    free(p->candidates);
    free(p->finished);
    free(p->slot_of);
    free(p->coming);
    free(p->used_epoch);
    free(p->missed);
    free(p->touch_keys);
    free(p->touch_rows);
    free(p->counters);
    free(p);
}

static void add_layer(const struct pager *p, int layer, struct pager_counters *out)
{
    const struct layer_counters *c = &p->counters[layer];
#define X(name, help) out->name += atomic_load_explicit(&c->name, memory_order_relaxed);
    PAGER_COUNTERS(X)
#undef X
}

void pager_counters(const struct pager *p, struct pager_counters *total)
{
    *total = (struct pager_counters){0};
    for (int layer = 0; layer < p->map->n_layers; layer++)
        add_layer(p, layer, total);
}

void pager_counters_layer(const struct pager *p, int layer, struct pager_counters *out)
{
    *out = (struct pager_counters){0};
    if (layer >= 0 && layer < p->map->n_layers)
        add_layer(p, layer, out);
}

void pager_info(const struct pager *p, struct pager_info *out)
{
    bool in_place = p->cfg.mode == PAGER_IN_PLACE;
    *out = (struct pager_info){
        .mode = p->cfg.mode,
        .policy = in_place ? "none" : p->cfg.policy,
        .slots = in_place ? p->n_records : p->n_slots,
        .resident = atomic_load_explicit(&p->n_resident, memory_order_relaxed),
        .loading = atomic_load_explicit(&p->n_loading, memory_order_relaxed),
        .slot_bytes = p->record_bytes,
        .cache_bytes = (uint64_t)p->n_slots * p->record_bytes,
        .staging_bytes = (uint64_t)p->n_staging * p->record_bytes,
        .epoch = pager_epoch(p),
        .table_version = pager_version(p),
        .leases_out = atomic_load_explicit(&p->leases_out, memory_order_relaxed),
    };
}

const int32_t *pager_table(const struct pager *p, uint64_t *version)
{
    assert(p->cfg.mode == PAGER_CACHED);
    *version = pager_version(p);
    return p->slot_of;
}

const void *pager_slots(const struct pager *p, size_t *slot_bytes)
{
    *slot_bytes = p->record_bytes;
    return p->arena;
}

void pager_residency(const struct pager *p, uint8_t *out)
{
    for (int32_t k = 0; k < p->n_keys; k++)
        out[k] = p->cfg.mode == PAGER_IN_PLACE ? p->map->host_of[k] != NULL : p->slot_of[k] >= 0;
}
