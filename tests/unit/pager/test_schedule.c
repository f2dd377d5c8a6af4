/*
 * Random and adversarial schedules of lease, evict, load, advice, cancel and fault against the
 * pager thread. After every acquire and before every release the bytes must be the right expert's;
 * the table must not change within a step; the counters must add up.
 */
#include "check.h"

#include <unistd.h>

#include "support_fake.h"

#define LAYERS  4
#define EXPERTS 16
#define KEYS    (LAYERS * EXPERTS)
#define RECORD  ((size_t)1024)
#define HELD    64

struct run {
    struct fake_dev dev;
    struct fake_records records;
    struct pager *pager;
    uint32_t seed;
    struct pager_lease held[HELD];
    int n_held;
    uint64_t activations, uses, prefetches;
    uint8_t used[KEYS];
    int hot; /* where the working set is now */
};

static uint32_t draw(struct run *r, uint32_t n)
{
    r->seed ^= r->seed << 13;
    r->seed ^= r->seed >> 17;
    r->seed ^= r->seed << 5;
    return (r->seed >> 7) % n;
}

static void check_lease(struct run *r, const struct pager_lease *l)
{
    if (!fake_records_holds(&r->records, l->record, l->layer, l->expert))
        fail_msg("layer %d expert %d: lease of kind %d holds other bytes", l->layer, l->expert,
                 l->kind);
}

static void release_some(struct run *r, int keep)
{
    while (r->n_held > keep) {
        int n = 1 + (int)draw(r, (uint32_t)(r->n_held - keep));
        /* Any n neighbours, so that order and grouping vary. */
        int at = (int)draw(r, (uint32_t)(r->n_held - n + 1));
        for (int i = 0; i < n; i++)
            check_lease(r, &r->held[at + i]);
        pager_release(r->pager, r->held + at, (size_t)n);
        r->n_held -= n;
        memmove(r->held + at, r->held + at + n, (size_t)(r->n_held - at) * sizeof r->held[0]);
    }
}

static void acquire(struct run *r, int layer)
{
    struct moed_error err = {0};
    struct pager_need needs[EXPERTS];
    bool chosen[EXPERTS] = {false};
    int n = draw(r, 8) == 0 ? EXPERTS : 1 + (int)draw(r, 4), got = 0;
    if (r->n_held + n > HELD)
        release_some(r, HELD - EXPERTS);
    while (got < n) {
        int spread = draw(r, 4) == 0 ? EXPERTS : 5;
        int e = n == EXPERTS ? got : (r->hot + (int)draw(r, (uint32_t)spread)) % EXPERTS;
        if (chosen[e]) {
            n--;
            continue;
        }
        chosen[e] = true;
        needs[got++] = (struct pager_need){.expert = e, .rows = 1 + (int)draw(r, 6)};
        r->activations += (uint64_t)needs[got - 1].rows;
        r->uses += !r->used[layer * EXPERTS + e];
        r->used[layer * EXPERTS + e] = 1;
    }
    struct pager_lease *leases = r->held + r->n_held;
    assert_ok(pager_acquire(r->pager, layer, needs, (size_t)got, leases, &err), &err);
    for (int i = 0; i < got; i++) {
        assert_int_equal(leases[i].layer, layer);
        assert_int_equal(leases[i].expert, needs[i].expert);
        check_lease(r, &leases[i]);
    }
    r->n_held += got;
}

static void one_step(struct run *r)
{
    uint8_t before[KEYS], after[KEYS];
    struct pager_info a, b;
    if (draw(r, 200) == 0)
        r->hot = (int)draw(r, EXPERTS);
    memset(r->used, 0, sizeof r->used);
    pager_step_begin(r->pager);
    pager_residency(r->pager, before);
    pager_info(r->pager, &a);
    int events = (int)draw(r, 8);
    for (int i = 0; i < events; i++) {
        acquire(r, (int)draw(r, LAYERS));
        if (draw(r, 3) == 0)
            r->prefetches +=
                (uint64_t)pager_prefetch(r->pager, (int)draw(r, LAYERS), (int)draw(r, EXPERTS));
        if (draw(r, 2))
            release_some(r, (int)draw(r, (uint32_t)r->n_held + 1));
        if (draw(r, 40) == 0)
            pager_prefetch_cancel(r->pager);
    }
    pager_residency(r->pager, after);
    pager_info(r->pager, &b);
    assert_memory_equal(before, after, KEYS);
    assert_int_equal(a.epoch, b.epoch);
    assert_int_equal(b.leases_out, r->n_held);
    release_some(r, 0);
    pager_step_end(r->pager);
    if (draw(r, 50) == 0)
        pager_prefetch_cancel(r->pager);
    if (draw(r, 4) == 0)
        usleep(draw(r, 100));
}

static void check_counters(struct run *r)
{
    struct pager_counters c;
    struct pager_info i;
    uint8_t table[KEYS];
    int resident = 0;
    pager_counters(r->pager, &c);
    pager_info(r->pager, &i);
    pager_residency(r->pager, table);
    for (int k = 0; k < KEYS; k++)
        resident += table[k];
    assert_int_equal(c.activations, r->activations);
    assert_int_equal(c.uses, r->uses);
    assert_int_equal(c.uses, c.hits + c.misses);
    assert_int_equal(c.prefetches, r->prefetches);
    assert_int_equal(resident, i.resident);
    assert_int_equal(c.admissions - c.evictions, i.resident);
    assert_int_equal(c.bytes_copied, (c.admissions + c.staged) * RECORD);
    assert_true(i.resident + i.loading <= i.slots);
    assert_true(c.prefetches_used + c.prefetches_canceled <= c.prefetches);
    assert_true(c.bypasses + c.underway <= c.misses);
}

static bool enough_happened(const struct run *r)
{
    struct pager_counters k;
    pager_counters(r->pager, &k);
    return k.evictions > 100 && k.hits > 100;
}

/* What was missed and neither bypassed nor under way became a load; what was advised and not taken
 * back too; each load ended as an admission or an error. Holds when nothing is under way. */
static void check_balance(struct run *r, uint64_t staging_errors)
{
    struct pager_counters c;
    struct pager_info i;
    for (int tries = 0;; tries++) {
        assert_true(tries < 600000);
        pager_step_begin(r->pager);
        pager_step_end(r->pager);
        pager_info(r->pager, &i);
        if (i.loading == 0 && tries > 2)
            break;
        usleep(100);
    }
    pager_counters(r->pager, &c);
    assert_int_equal(c.misses - c.bypasses - c.underway + c.prefetches - c.prefetches_canceled +
                         c.fills - c.dropped,
                     c.admissions + c.load_errors - staging_errors);
}

static void run_schedule(const struct pager_config *cfg, int steps, uint32_t seed, bool faults)
{
    struct run r = {.seed = seed};
    struct moed_error err = {0};
    struct pager_config c = *cfg;
    c.mode = PAGER_CACHED;
    c.chunk_bytes = c.bulk_chunk_bytes = RECORD / 4;
    fake_open(&r.dev);
    fake_records_make(&r.records, LAYERS, EXPERTS, RECORD, -1);
    if (faults) {
        r.dev.fail_in_256 = 8;
        r.dev.refuse_in_256 = 8;
        r.dev.late_us = 100;
    }
    assert_ok(pager_open(&r.pager, &c, &r.records.map, &r.dev.dev, &err), &err);
    bool evicts = cfg->cache_bytes >= 8 * RECORD;
    for (int i = 0; i < steps || (evicts && !enough_happened(&r)); i++) {
        one_step(&r);
        if (i % 64 == 0)
            check_counters(&r);
    }
    check_counters(&r);
    if (!faults || c.staging_slots == 0)
        check_balance(&r, 0);

    assert_true(r.dev.in_flight_most <= 2);
    pager_close(&r.pager);
    fake_records_free(&r.records);
    fake_close(&r.dev);
}

static void lru_with_faults(void **state)
{
    run_schedule(&(struct pager_config){.cache_bytes = 20 * RECORD, .policy = "lru"}, 20000, 11,
                 true);
}

static void lfu_with_faults_and_staging(void **state)
{
    run_schedule(
        &(struct pager_config){
            .cache_bytes = 12 * RECORD, .policy = "lfu", .staging_slots = 3, .stage_min_rows = 4},
        20000, 22, true);
}

static void lfru_filled_and_few_loads(void **state)
{
    run_schedule(
        &(struct pager_config){
            .cache_bytes = 30 * RECORD, .policy = "lfru", .fill = true, .max_loads = 3},
        20000, 33, true);
}

static void lfru_without_faults(void **state)
{
    run_schedule(
        &(struct pager_config){.cache_bytes = 16 * RECORD, .staging_slots = 2, .stage_min_rows = 3},
        20000, 44, false);
}

static void synchronous_with_faults(void **state)
{
    run_schedule(&(struct pager_config){.cache_bytes = 9 * RECORD, .synchronous = true}, 5000, 55,
                 true);
}

static void one_slot_only(void **state)
{
    run_schedule(&(struct pager_config){.cache_bytes = RECORD}, 10000, 66, true);
}

static void staging_only(void **state)
{
    run_schedule(&(struct pager_config){.staging_slots = 1, .stage_min_rows = 1}, 5000, 77, true);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(lru_with_faults),
    cmocka_unit_test(lfu_with_faults_and_staging),
    cmocka_unit_test(lfru_filled_and_few_loads),
    cmocka_unit_test(lfru_without_faults),
    cmocka_unit_test(synchronous_with_faults),
    cmocka_unit_test(one_slot_only),
    cmocka_unit_test(staging_only),
};
CHECK_MAIN(tests)
