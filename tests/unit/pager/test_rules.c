/* What the pager promises, one rule at a time, on a fake device. */
#include "check.h"

#include <unistd.h>

#include "support_fake.h"

#define RECORD ((size_t)16384)
#define CHUNK  ((size_t)4096)

struct rig {
    struct fake_dev dev;
    struct fake_records records;
    struct pager *pager;
};

static void rig_open_held(struct rig *r, int n_layers, int n_experts,
                          const struct pager_config *cfg, bool held)
{
    struct moed_error err = {0};
    struct pager_config c = *cfg;
    fake_open(&r->dev);
    if (held)
        fake_hold(&r->dev);
    fake_records_make(&r->records, n_layers, n_experts, RECORD, -1);
    if (c.chunk_bytes == 0)
        c.chunk_bytes = c.bulk_chunk_bytes = CHUNK;
    assert_ok(pager_open(&r->pager, &c, &r->records.map, &r->dev.dev, &err), &err);
}

static void rig_open(struct rig *r, int n_layers, int n_experts, const struct pager_config *cfg)
{
    rig_open_held(r, n_layers, n_experts, cfg, false);
}

static void rig_close(struct rig *r)
{
    fake_permit(&r->dev, -1);
    pager_close(&r->pager);
    assert_null(r->pager);
    fake_records_free(&r->records);
    fake_close(&r->dev);
}

/* Uses one expert in the running step: the kind of its lease, with its bytes checked. */
static enum lease_kind use(struct rig *r, int layer, int expert, int rows)
{
    struct moed_error err = {0};
    struct pager_need need = {.expert = expert, .rows = rows};
    struct pager_lease lease;
    assert_ok(pager_acquire(r->pager, layer, &need, 1, &lease, &err), &err);
    enum lease_kind kind = lease.kind;
    assert_true(fake_records_holds(&r->records, lease.record, layer, expert));
    pager_release(r->pager, &lease, 1);
    assert_int_equal(lease.kind, LEASE_NONE);
    return kind;
}

/* A step that uses these experts of layer 0, ended by -1. */
static void step(struct rig *r, const int *experts)
{
    pager_step_begin(r->pager);
    for (; *experts >= 0; experts++)
        use(r, 0, *experts, 1);
    pager_step_end(r->pager);
}

#define STEP(r, ...) step(r, (const int[]){__VA_ARGS__, -1})

static bool resident(struct rig *r, int layer, int expert)
{
    uint8_t table[1024];
    assert_true(r->records.map.n_layers * r->records.map.n_experts <= (int)sizeof table);
    pager_residency(r->pager, table);
    return table[layer * r->records.map.n_experts + expert];
}

static struct pager_counters counters(const struct rig *r)
{
    struct pager_counters c;
    pager_counters(r->pager, &c);
    assert_int_equal(c.uses, c.hits + c.misses);
    return c;
}

static struct pager_info info(const struct rig *r)
{
    struct pager_info i;
    pager_info(r->pager, &i);
    return i;
}

static void in_place_everything_is_resident(void **state)
{
    struct rig r;
    rig_open(&r, 2, 4, &(struct pager_config){.mode = PAGER_IN_PLACE});
    struct moed_error err = {0};
    struct pager_need needs[] = {{2, 3}, {1, 1}};
    struct pager_lease leases[2];
    pager_step_begin(r.pager);
    assert_ok(pager_acquire(r.pager, 1, needs, 2, leases, &err), &err);
    assert_int_equal(leases[0].kind, LEASE_SLOT);
    assert_ptr_equal(leases[0].record, r.records.map.host_of[4 + 2]);
    assert_ptr_equal(leases[1].record, r.records.map.host_of[4 + 1]);
    assert_int_equal(info(&r).leases_out, 2);
    pager_release(r.pager, leases, 2);
    pager_step_end(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.activations, 4);
    assert_int_equal(c.uses, 2);
    assert_int_equal(c.hits, 2);
    assert_int_equal(c.bytes_in_place, 2 * RECORD);
    assert_int_equal(c.admissions + c.evictions + c.bytes_copied, 0);
    assert_int_equal(info(&r).slots, 8);
    assert_int_equal(info(&r).resident, 8);
    assert_true(resident(&r, 0, 0));
    assert_int_equal(pager_prefetch(r.pager, 0, 0), 0);
    pager_prefetch_cancel(r.pager);
    rig_close(&r);
}

static void without_slots_every_use_is_a_miss(void **state)
{
    for (int bytes = 0; bytes < 2; bytes++) {
        struct rig r;
        rig_open(
            &r, 1, 4,
            &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = bytes ? RECORD - 1 : 0});
        for (int i = 0; i < 5; i++)
            STEP(&r, 0, 1);
        struct pager_counters c = counters(&r);
        assert_int_equal(c.misses, 10);
        assert_int_equal(c.bypasses, 10);
        assert_int_equal(c.bytes_in_place, 10 * RECORD);
        assert_int_equal(info(&r).slots, 0);
        assert_int_equal(pager_prefetch(r.pager, 0, 0), 0);
        assert_int_equal(r.dev.copies, 0);
        rig_close(&r);
    }
}

static void a_miss_is_admitted_and_shown_in_a_later_epoch(void **state)
{
    struct rig r;
    rig_open(&r, 1, 8,
             &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 4 * RECORD + 100});
    assert_int_equal(info(&r).slots, 4);
    fake_hold(&r.dev);
    pager_step_begin(r.pager);
    assert_int_equal(info(&r).epoch, 1);
    assert_int_equal(use(&r, 0, 5, 1), LEASE_HOST);
    assert_int_equal(r.dev.copies, 0); /* nothing is admitted while the step runs */
    pager_step_end(r.pager);
    pager_step_begin(r.pager);
    assert_int_equal(use(&r, 0, 5, 1), LEASE_HOST);
    fake_permit(&r.dev, -1);
    FAKE_WAIT(atomic_load(&r.dev.ended) == RECORD / CHUNK);
    usleep(1000);
    assert_false(resident(&r, 0, 5)); /* it is there, but this step has begun before */
    assert_int_equal(use(&r, 0, 5, 1), LEASE_HOST);
    pager_step_end(r.pager);
    assert_false(resident(&r, 0, 5));
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), resident(&r, 0, 5)));
    pager_step_begin(r.pager);
    assert_int_equal(use(&r, 0, 5, 1), LEASE_SLOT);
    pager_step_end(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.misses, 2); /* twice in one step is one use */
    assert_int_equal(c.underway, 1);
    assert_int_equal(c.admissions, 1);
    assert_int_equal(c.bytes_copied, RECORD);
    assert_int_equal(c.activations, 4);
    rig_close(&r);
}

static void a_victim_leaves_between_steps_and_its_slot_is_refilled_after_that(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 8,
        &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 2 * RECORD, .policy = "lru"});
    STEP(&r, 0, 1);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).resident == 2));
    uint64_t copies = r.dev.copies;
    pager_step_begin(r.pager);
    use(&r, 0, 1, 1);
    use(&r, 0, 2, 1);
    usleep(2000);
    assert_true(resident(&r, 0, 0)); /* the victim, until the step ends */
    assert_int_equal(r.dev.copies, copies);
    pager_step_end(r.pager);
    assert_false(resident(&r, 0, 0));
    pager_step_begin(r.pager);
    assert_int_equal(use(&r, 0, 0, 1), LEASE_HOST);
    assert_int_equal(use(&r, 0, 1, 1), LEASE_SLOT);
    FAKE_WAIT(atomic_load(&r.dev.ended) == copies + RECORD / CHUNK);
    assert_false(resident(&r, 0, 2));
    pager_step_end(r.pager);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), resident(&r, 0, 2)));
    assert_int_equal(counters(&r).evictions, 1);
    rig_close(&r);
}

static void what_a_step_uses_is_not_evicted_for_it(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 8,
        &(struct pager_config){
            .mode = PAGER_CACHED, .cache_bytes = 2 * RECORD, .policy = "lru", .synchronous = true});
    STEP(&r, 0, 1);
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 1));
    STEP(&r, 0, 1, 2, 3);
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 1));
    assert_int_equal(counters(&r).bypasses, 2);
    STEP(&r, 2, 3, 1);
    assert_true(resident(&r, 0, 2) && resident(&r, 0, 1));
    assert_int_equal(counters(&r).bypasses, 3);
    rig_close(&r);
}

static void chunks_yield_to_open_misses(void **state)
{
    struct rig r;
    rig_open(&r, 1, 8,
             &(struct pager_config){
                 .mode = PAGER_CACHED, .cache_bytes = 4 * RECORD, .min_share_percent = -1});
    fake_hold(&r.dev);
    STEP(&r, 0);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    struct moed_error err = {0};
    struct pager_need need = {.expert = 1, .rows = 1};
    struct pager_lease a, b;
    pager_step_begin(r.pager);
    assert_ok(pager_acquire(r.pager, 0, &need, 1, &a, &err), &err);
    need.expert = 2;
    assert_ok(pager_acquire(r.pager, 0, &need, 1, &b, &err), &err);
    fake_permit(&r.dev, -1);
    FAKE_WAIT(atomic_load(&r.dev.ended) == 2);
    usleep(20000);
    assert_int_equal(r.dev.copies, 2);
    pager_release(r.pager, &b, 1);
    usleep(5000);
    assert_int_equal(r.dev.copies, 2); /* one is still open */
    pager_release(r.pager, &a, 1);
    FAKE_WAIT(atomic_load(&r.dev.copies) == RECORD / CHUNK);
    pager_step_end(r.pager);
    assert_int_equal(r.dev.in_flight_most, 2);
    rig_close(&r);
}

static void many_rows_go_through_staging(void **state)
{
    struct rig r;
    rig_open(&r, 1, 8,
             &(struct pager_config){.mode = PAGER_CACHED, .staging_slots = 2, .stage_min_rows = 4});
    assert_int_equal(info(&r).staging_bytes, 2 * RECORD);
    struct moed_error err = {0};
    struct pager_need needs[] = {{0, 4}, {1, 3}, {2, 9}, {3, 9}};
    struct pager_lease leases[4];
    pager_step_begin(r.pager);
    for (int round = 0; round < 3; round++) {
        assert_ok(pager_acquire(r.pager, 0, needs, 4, leases, &err), &err);
        assert_int_equal(leases[0].kind, LEASE_STAGED);
        assert_int_equal(leases[1].kind, LEASE_HOST); /* few rows */
        assert_int_equal(leases[2].kind, LEASE_STAGED);
        assert_int_equal(leases[3].kind, LEASE_HOST); /* the ring is empty */
        for (int i = 0; i < 4; i++) {
            assert_true(fake_records_holds(&r.records, leases[i].record, 0, i));
            assert_int_equal(leases[i].record == r.records.map.host_of[i],
                             leases[i].kind == LEASE_HOST);
        }
        pager_release(r.pager, leases, 4);
    }
    pager_step_end(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.staged, 6);
    assert_int_equal(c.bytes_copied, 6 * RECORD);
    assert_int_equal(c.misses, 4);
    rig_close(&r);
}

static void demand_overtakes_admissions(void **state)
{
    struct rig r;
    rig_open(&r, 1, 16,
             &(struct pager_config){.mode = PAGER_CACHED,
                                    .cache_bytes = 8 * RECORD,
                                    .staging_slots = 1,
                                    .stage_min_rows = 4,
                                    .min_share_percent = -1});
    fake_hold(&r.dev);
    STEP(&r, 0, 1, 2, 3, 4, 5);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    /* Six admissions of four chunks are queued, two chunks of them in flight. With a miss open,
     * these two and the four of the demand are all that ends before the staged lease is good. */
    struct moed_error err = {0};
    struct pager_need need = {.expert = 8, .rows = 1};
    struct pager_lease open;
    pager_step_begin(r.pager);
    assert_ok(pager_acquire(r.pager, 0, &need, 1, &open, &err), &err);
    fake_permit(&r.dev, 6);
    assert_int_equal(use(&r, 0, 9, 4), LEASE_STAGED);
    assert_int_equal(r.dev.ended, 6);
    pager_release(r.pager, &open, 1);
    fake_permit(&r.dev, -1);
    pager_step_end(r.pager);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).loading == 0));
    assert_int_equal(counters(&r).admissions, 8);
    rig_close(&r);
}

static void a_failed_load_is_silent(void **state)
{
    struct rig r;
    rig_open(&r, 1, 8,
             &(struct pager_config){.mode = PAGER_CACHED,
                                    .cache_bytes = 2 * RECORD,
                                    .staging_slots = 1,
                                    .stage_min_rows = 4,
                                    .synchronous = true});
    r.dev.fail_in_256 = 256;
    STEP(&r, 0, 1);
    assert_false(resident(&r, 0, 0) || resident(&r, 0, 1));
    assert_int_equal(counters(&r).load_errors, 2);
    assert_int_equal(info(&r).loading, 0);
    pager_step_begin(r.pager);
    assert_int_equal(use(&r, 0, 0, 8), LEASE_HOST); /* the staged copy failed too */
    pager_step_end(r.pager);
    assert_int_equal(counters(&r).load_errors, 4);
    r.dev.fail_in_256 = 0;
    r.dev.refuse_in_256 = 256; /* the device takes no copy at all */
    STEP(&r, 0);
    assert_int_equal(counters(&r).load_errors, 5);
    r.dev.refuse_in_256 = 0;
    STEP(&r, 0);
    assert_true(resident(&r, 0, 0));
    rig_close(&r);
}

static void a_record_that_is_not_in_memory_is_an_error(void **state)
{
    struct rig r;
    rig_open(&r, 2, 4,
             &(struct pager_config){
                 .mode = PAGER_CACHED, .cache_bytes = 100 * RECORD, .synchronous = true});
    r.records.map.host_of[4 + 3] = NULL;
    struct moed_error err = {0};
    struct pager_need needs[] = {{0, 1}, {3, 1}};
    struct pager_lease leases[2];
    pager_step_begin(r.pager);
    assert_int_equal(pager_acquire(r.pager, 1, needs, 2, leases, &err), MOED_ENOTFOUND);
    assert_string_equal(err.text, "layer 1 expert 3 is not in memory");
    assert_int_equal(info(&r).leases_out, 0);
    assert_int_equal(counters(&r).uses, 0);
    pager_step_end(r.pager);
    assert_int_equal(pager_prefetch(r.pager, 1, 3), 0);
    rig_close(&r);
}

/* Free slots take all that was missed; places of others only as many as arrive. */
static void places_given_up_are_bounded(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 256,
        &(struct pager_config){
            .mode = PAGER_CACHED, .cache_bytes = 64 * RECORD, .max_loads = 5, .policy = "lru"});
    fake_hold(&r.dev);
    pager_step_begin(r.pager);
    for (int e = 0; e < 64; e++)
        use(&r, 0, e, 1);
    pager_step_end(r.pager);
    assert_int_equal(info(&r).loading, 64);
    assert_int_equal(counters(&r).bypasses, 0);
    fake_permit(&r.dev, -1);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).resident == 64));
    fake_hold(&r.dev);
    for (int i = 0; i < 10; i++) {
        pager_step_begin(r.pager);
        for (int e = 64; e < 84; e++)
            use(&r, 0, e + i * 20 % 160, 1);
        pager_step_end(r.pager);
        assert_true(info(&r).loading >= 2 && info(&r).loading <= 5 + 1); /* and what has begun */
    }
    rig_close(&r);
}

static void admissions_obey_the_policy(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 64,
        &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 6 * RECORD, .policy = "lfu"});
    for (int i = 0; i < 20; i++) {
        STEP(&r, 0, 1, 2, 3, 4, 5);
        FAKE_WAIT(info(&r).resident == 6 ||
                  (pager_step_begin(r.pager), pager_step_end(r.pager), 0));
    }
    for (int i = 0; i < 12; i++) { /* the favourites take turns, and a passer-by each time */
        int a = i % 6;
        STEP(&r, a, (a + 1) % 6, (a + 2) % 6, 10 + i);
    }
    assert_int_equal(counters(&r).admissions, 6);
    assert_int_equal(counters(&r).bypasses, 12);
    assert_int_equal(info(&r).loading, 0);
    rig_close(&r);
}

/* While nothing is copied, what waits is ranked anew after each step. */
static void the_most_valuable_come_first_and_the_stale_are_dropped(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 64,
        &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 4 * RECORD, .policy = "lfu"});
    fake_hold(&r.dev);
    STEP(&r, 0); /* begins */
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    STEP(&r, 1, 2, 3); /* wait in the other three slots */
    STEP(&r, 3, 4);    /* 3 is ahead now; 4 is as good as 1 and 2 were, and newer */
    STEP(&r, 3, 4, 5);
    assert_int_equal(counters(&r).dropped, 2);
    assert_int_equal(counters(&r).underway, 3);
    assert_int_equal(info(&r).loading, 4);
    fake_permit(&r.dev, 2 * RECORD / CHUNK + 1); /* 0 to its end, and the first that waits */
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).loading == 2));
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 3));
    fake_permit(&r.dev, -1);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).loading == 0));
    assert_true(resident(&r, 0, 4) && resident(&r, 0, 5));
    struct pager_counters c = counters(&r);
    assert_int_equal(c.misses, 9);
    assert_int_equal(c.misses - c.bypasses - c.underway - c.dropped, c.admissions);
    rig_close(&r);
}

static void free_slots_fill_by_themselves(void **state)
{
    struct rig r;
    rig_open(&r, 3, 16,
             &(struct pager_config){
                 .mode = PAGER_CACHED, .cache_bytes = 20 * RECORD, .policy = "lru", .fill = true});
    assert_int_equal(counters(&r).fills, 20);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).resident == 20));
    pager_step_begin(r.pager);
    for (int layer = 0; layer < 3; layer++)
        for (int e = 0; e < 16; e++)
            assert_int_equal(resident(&r, layer, e), e * 3 + layer < 20);
    assert_int_equal(use(&r, 2, 5, 1), LEASE_SLOT);
    assert_int_equal(use(&r, 2, 6, 1), LEASE_HOST);
    pager_step_end(r.pager);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), resident(&r, 2, 6)));
    assert_true(resident(&r, 2, 5));
    rig_close(&r);

    /* What is missed overtakes what only fills. */
    rig_open_held(
        &r, 3, 16,
        &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 20 * RECORD, .fill = true},
        true);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    pager_step_begin(r.pager);
    use(&r, 1, 13, 1);
    use(&r, 2, 14, 1);
    pager_step_end(r.pager);
    assert_int_equal(counters(&r).dropped, 2);
    fake_permit(&r.dev, 3 * RECORD / CHUNK + 1); /* neighbours end in any order */
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).resident == 3));
    assert_true(resident(&r, 0, 0) && resident(&r, 1, 13) && resident(&r, 2, 14));
    rig_close(&r);
}

static void advice_is_bounded_deduplicated_and_counted(void **state)
{
    struct rig r;
    rig_open(&r, 1, 64, &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 32 * RECORD});
    fake_hold(&r.dev);
    assert_int_equal(pager_prefetch(r.pager, 0, 7), 1);
    assert_int_equal(pager_prefetch(r.pager, 0, 7), 0);
    assert_int_equal(pager_prefetch(r.pager, 0, 64), 0);
    assert_int_equal(pager_prefetch(r.pager, -1, 0), 0);
    assert_int_equal(pager_prefetch(r.pager, 1, 0), 0);
    int taken = 1;
    for (int e = 8; e < 64; e++)
        taken += pager_prefetch(r.pager, 0, e);
    assert_int_equal(taken, PAGER_MAX_PREFETCH);
    assert_int_equal(counters(&r).prefetches, PAGER_MAX_PREFETCH);
    fake_permit(&r.dev, -1);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager),
               info(&r).resident == PAGER_MAX_PREFETCH));
    pager_step_begin(r.pager);
    assert_int_equal(use(&r, 0, 7, 1), LEASE_SLOT);
    assert_int_equal(use(&r, 0, 7, 1), LEASE_SLOT);
    pager_step_end(r.pager);
    assert_int_equal(counters(&r).prefetches_used, 1);
    assert_int_equal(pager_prefetch(r.pager, 0, 7), 0); /* resident */
    rig_close(&r);
}

static void advice_waits_for_a_victim_that_the_step_did_not_use(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 8,
        &(struct pager_config){
            .mode = PAGER_CACHED, .cache_bytes = 2 * RECORD, .policy = "lru", .synchronous = true});
    STEP(&r, 0, 1);
    pager_step_begin(r.pager);
    use(&r, 0, 0, 1);
    assert_int_equal(pager_prefetch(r.pager, 0, 5), 1);
    assert_true(resident(&r, 0, 1)); /* nothing moves in a step */
    pager_step_end(r.pager);
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 5));
    assert_false(resident(&r, 0, 1));
    pager_step_begin(r.pager);
    use(&r, 0, 0, 1);
    use(&r, 0, 5, 1);
    assert_int_equal(pager_prefetch(r.pager, 0, 6), 1);
    pager_step_end(r.pager); /* both were used: the advice is given up */
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 5));
    assert_int_equal(counters(&r).prefetches_canceled, 1);
    assert_int_equal(pager_prefetch(r.pager, 0, 6), 1); /* and may be given again */
    rig_close(&r);
}

static void a_prefetched_record_stays_for_its_first_use(void **state)
{
    struct rig r;
    rig_open(
        &r, 1, 16,
        &(struct pager_config){
            .mode = PAGER_CACHED, .cache_bytes = 2 * RECORD, .policy = "lru", .synchronous = true});
    STEP(&r, 0, 1);
    pager_prefetch(r.pager, 0, 9);
    STEP(&r, 0);
    assert_true(resident(&r, 0, 9));
    STEP(&r, 2);
    assert_true(resident(&r, 0, 9)); /* never used, and yet not the victim */
    for (int i = 0; i < 6; i++)
        STEP(&r, 3 + i);
    assert_false(resident(&r, 0, 9));
    rig_close(&r);
}

static void advice_can_be_taken_back(void **state)
{
    struct rig r;
    rig_open(&r, 1, 64, &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 8 * RECORD});
    fake_hold(&r.dev);
    for (int e = 0; e < 12; e++)
        assert_int_equal(pager_prefetch(r.pager, 0, e), 1);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    pager_prefetch_cancel(r.pager); /* 4 waited for a slot, 7 for the link, 1 is loading */
    fake_permit(&r.dev, -1);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).loading == 0));
    assert_int_equal(counters(&r).prefetches_canceled, 11);
    assert_int_equal(info(&r).resident, 1);
    assert_true(resident(&r, 0, 0));
    assert_int_equal(pager_prefetch(r.pager, 0, 1), 1);
    rig_close(&r);
}

static void prefetch_waits_behind_admissions(void **state)
{
    struct rig r;
    rig_open(&r, 1, 64, &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 8 * RECORD});
    fake_hold(&r.dev);
    STEP(&r, 0);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2);
    assert_int_equal(pager_prefetch(r.pager, 0, 9), 1);
    STEP(&r, 1); /* admitted after the advice was given, and yet before it */
    fake_permit(&r.dev, 2 * RECORD / CHUNK);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), info(&r).loading == 1));
    assert_true(resident(&r, 0, 0) && resident(&r, 0, 1));
    assert_false(resident(&r, 0, 9));
    rig_close(&r);
}

static void closing_with_loads_under_way_is_clean(void **state)
{
    struct rig r;
    rig_open(&r, 1, 64, &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 32 * RECORD});
    r.dev.late_us = 100;
    pager_step_begin(r.pager);
    for (int e = 0; e < 30; e++)
        use(&r, 0, e, 1);
    pager_step_end(r.pager);
    pager_prefetch(r.pager, 0, 40);
    rig_close(&r);
}

static void what_cannot_be_opened_is_refused(void **state)
{
    struct fake_dev dev;
    struct fake_records records;
    struct pager *p = NULL;
    struct moed_error err = {0};
    fake_open(&dev);
    fake_records_make(&records, 1, 4, RECORD, -1);
    struct pager_config cfg = {.mode = PAGER_CACHED, .cache_bytes = 2 * RECORD, .policy = "fifo"};
    assert_int_equal(pager_open(&p, &cfg, &records.map, &dev.dev, &err), MOED_EINVAL);
    assert_non_null(strstr(err.text, "\"fifo\": there are steady, lfru, lfu, lru"));
    assert_string_equal(err.param, "expert_policy");
    cfg.policy = NULL;
    cfg.staging_slots = PAGER_MAX_STAGING + 1;
    assert_int_equal(pager_open(&p, &cfg, &records.map, &dev.dev, &err), MOED_EINVAL);
    cfg.staging_slots = 0;
    dev.no_memory = true;
    assert_int_equal(pager_open(&p, &cfg, &records.map, &dev.dev, &err), MOED_ENOMEM);
    assert_non_null(strstr(err.text, "2 expert slots of 16384 bytes"));
    assert_null(p);
    dev.no_memory = false;
    assert_ok(pager_open(&p, &cfg, &records.map, &dev.dev, &err), &err);
    struct pager_info i;
    pager_info(p, &i);
    assert_string_equal(i.policy, "steady");
    pager_close(&p);
    fake_records_free(&records);
    fake_close(&dev);
}

static void counters_are_kept_by_layer(void **state)
{
    struct rig r;
    rig_open(&r, 3, 4,
             &(struct pager_config){
                 .mode = PAGER_CACHED, .cache_bytes = 3 * RECORD, .synchronous = true});
    for (int i = 0; i < 4; i++) {
        pager_step_begin(r.pager);
        use(&r, 0, 0, 2);
        use(&r, 2, i, 1);
        pager_step_end(r.pager);
    }
    struct pager_counters l0, l1, l2, none, all = counters(&r);
    pager_counters_layer(r.pager, 0, &l0);
    pager_counters_layer(r.pager, 1, &l1);
    pager_counters_layer(r.pager, 2, &l2);
    pager_counters_layer(r.pager, 3, &none);
    assert_int_equal(l0.hits, 3);
    assert_int_equal(l0.misses, 1);
    assert_int_equal(l0.activations, 8);
    assert_int_equal(l1.uses, 0);
    assert_int_equal(l2.misses, 4);
    assert_int_equal(none.uses, 0);
    assert_int_equal(all.misses, 5);
    assert_int_equal(all.admissions - all.evictions, info(&r).resident);
    rig_close(&r);
}

/* A step run by the device: the table before it, the account after it, the same counts. */
static void an_account_counts_like_leases(void **state)
{
    struct rig a, b;
    struct pager_config cfg = {
        .mode = PAGER_CACHED, .cache_bytes = 6 * RECORD, .policy = "lru", .synchronous = true};
    rig_open(&a, 2, 8, &cfg);
    rig_open(&b, 2, 8, &cfg);
    uint32_t seed = 7;
    for (int i = 0; i < 300; i++) {
        struct moed_error err = {0};
        struct pager_need needs[8];
        struct pager_lease leases[8];
        uint64_t version;
        size_t slot_bytes, n = 0;
        pager_step_begin(a.pager);
        pager_step_begin(b.pager);
        for (int layer = 0; layer < 2; layer++, n = 0) {
            for (int e = 0; e < 8; e++)
                if ((seed = seed * 1664525 + 1013904223) >> 29 < (e == i / 50 ? 7 : 2))
                    needs[n++] = (struct pager_need){e, 1 + e % 3};
            const int32_t *table = pager_table(b.pager, &version);
            const uint8_t *base = pager_slots(b.pager, &slot_bytes);
            assert_int_equal(slot_bytes, RECORD);
            assert_ok(pager_acquire(a.pager, layer, needs, n, leases, &err), &err);
            for (size_t k = 0; k < n; k++) {
                int32_t slot = table[layer * 8 + needs[k].expert];
                assert_int_equal(leases[k].slot, slot);
                if (slot >= 0)
                    assert_true(fake_records_holds(&b.records, base + (size_t)slot * slot_bytes,
                                                   layer, needs[k].expert));
            }
            pager_release(a.pager, leases, n);
            pager_account(b.pager, layer, needs, n);
        }
        pager_step_end(a.pager);
        pager_step_end(b.pager);
    }
    struct pager_counters x = counters(&a), y = counters(&b);
    assert_memory_equal(&x, &y, sizeof x);
    assert_true(x.hits > 100 && x.evictions > 100);
    rig_close(&a);
    rig_close(&b);
}

static void the_table_has_a_version(void **state)
{
    struct rig r;
    uint64_t version, before;
    size_t slot_bytes;
    rig_open(&r, 1, 8, &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 2 * RECORD});
    const int32_t *table = pager_table(r.pager, &before);
    assert_true(before > 0);
    assert_int_equal(table[3], -1);
    fake_hold(&r.dev);
    STEP(&r, 3);
    pager_step_begin(r.pager);
    fake_permit(&r.dev, -1);
    FAKE_WAIT(atomic_load(&r.dev.ended) == RECORD / CHUNK);
    usleep(1000);
    assert_ptr_equal(pager_table(r.pager, &version), table);
    assert_int_equal(version, before); /* this step has begun before */
    assert_int_equal(table[3], -1);
    pager_step_end(r.pager);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), table[3] >= 0));
    pager_table(r.pager, &version);
    assert_int_equal(version, before + 1);
    for (int i = 0; i < 3; i++)
        STEP(&r, 3);
    pager_table(r.pager, &version);
    assert_int_equal(version, before + 1); /* nothing moved */
    rig_close(&r);
    rig_open(&r, 1, 8, &(struct pager_config){.mode = PAGER_CACHED});
    assert_null(pager_slots(r.pager, &slot_bytes));
    rig_close(&r);
}

/* Misses that others compute hold admissions back as leases do. */
static void chunks_yield_to_the_misses_of_others(void **state)
{
    struct rig r;
    static _Atomic uint32_t open;
    atomic_store(&open, 1);
    rig_open(&r, 1, 8,
             &(struct pager_config){.mode = PAGER_CACHED,
                                    .cache_bytes = 4 * RECORD,
                                    .min_share_percent = -1,
                                    .demand_open = &open});
    STEP(&r, 0);
    usleep(20000);
    assert_int_equal(r.dev.copies, 0);
    atomic_store(&open, 0);
    FAKE_WAIT(atomic_load(&r.dev.ended) == RECORD / CHUNK);
    rig_close(&r);
}

/* Misses that never close, by lease or by others: admissions go on, one chunk at a time. */
static void admissions_have_a_share_of_the_link_while_misses_are_open(void **state)
{
    static _Atomic uint32_t open;
    for (int others = 0; others < 2; others++) {
        struct rig r;
        struct moed_error err = {0};
        struct pager_need need = {.expert = 5, .rows = 1};
        struct pager_lease lease;
        rig_open(&r, 1, 8,
                 &(struct pager_config){.mode = PAGER_CACHED,
                                        .cache_bytes = 4 * RECORD,
                                        .min_share_percent = 50,
                                        .demand_open = &open});
        fake_hold(&r.dev);
        atomic_store(&open, (uint32_t)others);
        STEP(&r, 0);
        FAKE_WAIT(atomic_load(&r.dev.copies) == (others ? 1 : 2));
        pager_step_begin(r.pager);
        assert_ok(pager_acquire(r.pager, 0, &need, 1, &lease, &err), &err);
        fake_permit(&r.dev, others ? 1 : 2);
        FAKE_WAIT(atomic_load(&r.dev.copies) == 3 - (uint64_t)others);
        usleep(3000);
        assert_int_equal(r.dev.copies, 3 - others); /* the next waits for this one */
        fake_permit(&r.dev, -1);
        FAKE_WAIT(atomic_load(&r.dev.ended) == RECORD / CHUNK);
        pager_release(r.pager, &lease, 1);
        pager_step_end(r.pager);
        rig_close(&r);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(in_place_everything_is_resident),
    cmocka_unit_test(without_slots_every_use_is_a_miss),
    cmocka_unit_test(a_miss_is_admitted_and_shown_in_a_later_epoch),
    cmocka_unit_test(a_victim_leaves_between_steps_and_its_slot_is_refilled_after_that),
    cmocka_unit_test(what_a_step_uses_is_not_evicted_for_it),
    cmocka_unit_test(chunks_yield_to_open_misses),
    cmocka_unit_test(many_rows_go_through_staging),
    cmocka_unit_test(demand_overtakes_admissions),
    cmocka_unit_test(a_failed_load_is_silent),
    cmocka_unit_test(a_record_that_is_not_in_memory_is_an_error),
    cmocka_unit_test(places_given_up_are_bounded),
    cmocka_unit_test(admissions_obey_the_policy),
    cmocka_unit_test(advice_is_bounded_deduplicated_and_counted),
    cmocka_unit_test(advice_waits_for_a_victim_that_the_step_did_not_use),
    cmocka_unit_test(a_prefetched_record_stays_for_its_first_use),
    cmocka_unit_test(advice_can_be_taken_back),
    cmocka_unit_test(prefetch_waits_behind_admissions),
    cmocka_unit_test(closing_with_loads_under_way_is_clean),
    cmocka_unit_test(what_cannot_be_opened_is_refused),
    cmocka_unit_test(counters_are_kept_by_layer),
    cmocka_unit_test(an_account_counts_like_leases),
    cmocka_unit_test(the_table_has_a_version),
    cmocka_unit_test(chunks_yield_to_the_misses_of_others),
    cmocka_unit_test(admissions_have_a_share_of_the_link_while_misses_are_open),
    cmocka_unit_test(the_most_valuable_come_first_and_the_stale_are_dropped),
    cmocka_unit_test(free_slots_fill_by_themselves),
};
CHECK_MAIN(tests)
