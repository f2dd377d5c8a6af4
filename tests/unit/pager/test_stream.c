/*
 * Streams: order, overlap, and what happens when needs, residency or the pass change under way. By
 * counts on a fake device, and on the CPU device with its link.
 */
#include "check.h"

#include <unistd.h>

#include "support_fake.h"

#define RECORD ((size_t)16384)
#define CHUNK  ((size_t)4096)
#define CHUNKS (RECORD / CHUNK)
#define MOST   64

struct rig {
    struct fake_dev dev;
    struct fake_records records;
    struct pager *pager;
};

/* faults: chances in 256 that a copy fails, and that it is refused. */
static void rig_open_faulty(struct rig *r, int n_layers, int n_experts,
                            const struct pager_config *cfg, unsigned faults, unsigned late_us)
{
    struct moed_error err = {0};
    struct pager_config c = *cfg;
    c.mode = PAGER_CACHED;
    c.chunk_bytes = c.bulk_chunk_bytes = CHUNK;
    fake_open(&r->dev);
    r->dev.fail_in_256 = r->dev.refuse_in_256 = faults;
    r->dev.late_us = late_us;
    fake_records_make(&r->records, n_layers, n_experts, RECORD, n_layers > 2 ? 1 : -1);
    assert_ok(pager_open(&r->pager, &c, &r->records.map, &r->dev.dev, &err), &err);
}

static void rig_open(struct rig *r, int n_layers, int n_experts, const struct pager_config *cfg)
{
    rig_open_faulty(r, n_layers, n_experts, cfg, 0, 0);
}

static void rig_close(struct rig *r)
{
    fake_permit(&r->dev, -1);
    pager_close(&r->pager);
    fake_records_free(&r->records);
    fake_close(&r->dev);
}

static struct pager_counters counters(const struct rig *r)
{
    struct pager_counters c;
    pager_counters(r->pager, &c);
    assert_int_equal(c.uses, c.hits + c.misses);
    assert_int_equal(c.bytes_copied, (c.admissions + c.staged + c.staged_unused) * RECORD);
    assert_int_equal(c.bytes_staged, (c.staged + c.staged_unused) * RECORD);
    return c;
}

/* Makes experts [0, n) of a layer resident. */
static void warm(struct rig *r, int layer, int n)
{
    struct pager_need needs[MOST];
    for (int e = 0; e < n; e++)
        needs[e] = (struct pager_need){e, 1};
    pager_step_begin(r->pager);
    pager_account(r->pager, layer, needs, (size_t)n);
    pager_step_end(r->pager);
    for (struct pager_info i = {.loading = 1}; i.loading > 0; usleep(100)) {
        pager_step_begin(r->pager);
        pager_step_end(r->pager);
        pager_info(r->pager, &i);
    }
}

/* Waits, between two steps, until so many records have come to staging slots and the pager knows.
 */
static void wait_staged(struct pager *p, uint64_t records)
{
    struct pager_counters c;
    FAKE_WAIT((pager_step_begin(p), pager_step_end(p), pager_counters(p, &c),
               c.bytes_staged >= records * RECORD));
    assert_int_equal(c.bytes_staged, records * RECORD);
}

static void layer_begin(struct rig *r, int layer, int first, int end)
{
    struct moed_error err = {0};
    struct pager_need needs[MOST];
    for (int e = first; e < end; e++)
        needs[e - first] = (struct pager_need){e, 3};
    assert_ok(pager_stream_layer(r->pager, layer, needs, (size_t)(end - first), &err), &err);
}

static void check(struct rig *r, const struct pager_lease *leases, int n)
{
    for (int i = 0; i < n; i++)
        assert_true(
            fake_records_holds(&r->records, leases[i].record, leases[i].layer, leases[i].expert));
}

/* Takes all that is left of the layer, as it comes, and counts the kinds. */
static int drain(struct rig *r, int *streamed)
{
    struct pager_lease leases[MOST];
    int total = 0, n;
    *streamed = 0;
    while ((n = pager_stream_next(r->pager, leases, MOST)) > 0) {
        check(r, leases, n);
        for (int i = 0; i < n; i++)
            *streamed += leases[i].kind == LEASE_STREAMED;
        total += n;
        pager_release(r->pager, leases, (size_t)n);
    }
    return total;
}

static void resident_experts_come_first_and_the_others_as_they_arrive(void **state)
{
    struct rig r;
    struct pager_lease leases[MOST];
    rig_open(
        &r, 2, 16,
        &(struct pager_config){.cache_bytes = 6 * RECORD, .staging_slots = 4, .synchronous = true});
    warm(&r, 0, 6);
    fake_hold(&r.dev);
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 8), 1);
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 8), 0);
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 4, 12);
    assert_int_equal(pager_stream_next(r.pager, leases, 1), 1);
    assert_int_equal(pager_stream_next(r.pager, leases + 1, MOST), 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(leases[i].kind, LEASE_SLOT);
        assert_int_equal(leases[i].expert, 4 + i);
    }
    pager_release(r.pager, leases, 2);
    bool seen[16] = {false};
    for (int i = 0; i < 6; i++) { /* a record's chunks end, and it is given */
        fake_permit(&r.dev, (int64_t)CHUNKS);
        int n = pager_stream_next(r.pager, leases, MOST);
        check(&r, leases, n);
        for (int k = 0; k < n; k++) {
            assert_int_equal(leases[k].kind, LEASE_STREAMED);
            assert_false(seen[leases[k].expert]);
            seen[leases[k].expert] = true;
        }
        pager_release(r.pager, leases, (size_t)n);
        i += n - 1;
        fake_permit(&r.dev, 1);
    }
    assert_int_equal(pager_stream_next(r.pager, leases, MOST), 0);
    pager_step_end(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.hits, 2);
    assert_int_equal(c.staged, 6);
    assert_int_equal(c.staged_unused, 0); /* 8 rows: nothing is copied ahead */
    assert_int_equal(r.dev.waits, 2);     /* four slots, six records */
    pager_stream_close(r.pager);
    rig_close(&r);
}

static void what_has_come_goes_before_residents(void **state)
{
    struct rig r;
    struct pager_lease leases[MOST];
    rig_open(
        &r, 2, 8,
        &(struct pager_config){.cache_bytes = 2 * RECORD, .staging_slots = 3, .synchronous = true});
    warm(&r, 0, 2);
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 512), 1);
    wait_staged(r.pager, 3);
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 0, 5);
    int n = 0, streamed = 0;
    while (n < 5) {
        int got = pager_stream_next(r.pager, leases + n, 1);
        streamed += leases[n].kind == LEASE_STREAMED;
        n += got;
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal(leases[i].kind, i < streamed ? LEASE_STREAMED : LEASE_SLOT);
    assert_int_equal(streamed, 3);
    pager_release(r.pager, leases, 5);
    pager_step_end(r.pager);
    pager_stream_close(r.pager);
    rig_close(&r);
}

static void copies_run_ahead_and_leave_leased_slots_alone(void **state)
{
    struct rig r;
    struct pager_lease leases[MOST];
    rig_open(&r, 4, 4, &(struct pager_config){.staging_slots = 6});
    assert_int_equal(pager_stream_open(r.pager, 0, 4, 512), 1);
    wait_staged(r.pager, 6); /* before anything was asked for */
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 0, 4);
    assert_int_equal(pager_stream_next(r.pager, leases, 3), 3);
    usleep(3000);
    assert_int_equal(r.dev.copies, 6 * CHUNKS); /* four of this layer, two of the next but one */
    check(&r, leases, 3);
    pager_release(r.pager, leases, 1);
    FAKE_WAIT(atomic_load(&r.dev.ended) == 7 * CHUNKS);
    check(&r, leases + 1, 2);
    usleep(1000);
    assert_int_equal(r.dev.copies, 7 * CHUNKS);
    pager_release(r.pager, leases + 1, 2);
    FAKE_WAIT(atomic_load(&r.dev.ended) == 9 * CHUNKS);
    int streamed;
    assert_int_equal(drain(&r, &streamed), 1);
    pager_step_end(r.pager);
    /* All of the next layer (1 is dense) is there before its router. */
    wait_staged(r.pager, 10);
    fake_hold(&r.dev);
    pager_step_begin(r.pager);
    layer_begin(&r, 2, 0, 4);
    assert_int_equal(pager_stream_next(r.pager, leases, MOST), 4);
    check(&r, leases, 4);
    pager_release(r.pager, leases, 4);
    fake_permit(&r.dev, -1);
    layer_begin(&r, 3, 0, 4);
    assert_int_equal(drain(&r, &streamed), 4);
    pager_step_end(r.pager);
    pager_stream_close(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.staged, 12);
    assert_int_equal(c.staged_unused, 0);
    assert_int_equal(r.dev.copies, 12 * CHUNKS);
    assert_int_equal(r.dev.waits, 6); /* as often as a slot was refilled */
    assert_true(r.dev.in_flight_most <= 2);
    rig_close(&r);
}

static void what_the_router_does_not_choose_is_given_up(void **state)
{
    struct rig r;
    rig_open(&r, 2, 8, &(struct pager_config){.staging_slots = 3});
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 512), 1);
    wait_staged(r.pager, 3);
    int streamed;
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 2, 7); /* 0 and 1 are there for nothing */
    assert_int_equal(drain(&r, &streamed), 5);
    assert_int_equal(streamed, 5);
    layer_begin(&r, 1, 0, 8);
    assert_int_equal(drain(&r, &streamed), 8);
    assert_int_equal(streamed, 8);
    pager_step_end(r.pager);
    pager_stream_close(r.pager);
    struct pager_counters c = counters(&r);
    assert_int_equal(c.staged, 13);
    assert_int_equal(c.staged_unused, 2);
    assert_int_equal(c.bypasses, 13); /* a stream's misses ask for no admission */
    rig_close(&r);
}

/* With all staging slots held, the rest is read in place; nothing waits for ever. */
static void holding_all_leases_does_not_hang(void **state)
{
    struct rig r;
    struct pager_lease leases[MOST];
    rig_open(&r, 2, 8, &(struct pager_config){.staging_slots = 2});
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 512), 1);
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 0, 8);
    int n = 0, got, host = 0;
    while ((got = pager_stream_next(r.pager, leases + n, MOST - n)) > 0)
        n += got;
    assert_int_equal(n, 8);
    check(&r, leases, n);
    for (int i = 0; i < n; i++)
        host += leases[i].kind == LEASE_HOST;
    assert_int_equal(host, 6);
    pager_release(r.pager, leases, (size_t)n);
    pager_step_end(r.pager);
    rig_close(&r); /* with the stream open */
}

static void a_failed_copy_is_read_in_place(void **state)
{
    struct rig r;
    int streamed;
    rig_open(&r, 2, 8, &(struct pager_config){.staging_slots = 3});
    r.dev.fail_in_256 = 256;
    assert_int_equal(pager_stream_open(r.pager, 0, 2, 8), 1);
    pager_step_begin(r.pager);
    layer_begin(&r, 0, 0, 8);
    assert_int_equal(drain(&r, &streamed), 8);
    assert_int_equal(streamed, 0);
    pager_step_end(r.pager);
    assert_int_equal(counters(&r).load_errors, 8);
    pager_stream_close(r.pager);
    rig_close(&r);
}

/* Admissions come behind the stream, and are not starved by one that is not read. */
static void a_stream_goes_before_admissions(void **state)
{
    struct rig r;
    rig_open(&r, 2, 8, &(struct pager_config){.cache_bytes = 4 * RECORD, .staging_slots = 3});
    fake_hold(&r.dev);
    pager_step_begin(r.pager);
    pager_account(r.pager, 0, (struct pager_need[]){{0, 1}, {1, 1}}, 2);
    pager_step_end(r.pager);
    FAKE_WAIT(atomic_load(&r.dev.copies) == 2); /* of the first admission */
    assert_int_equal(pager_stream_open(r.pager, 1, 2, 512), 1);
    fake_permit(&r.dev, (int64_t)(2 + 3 * CHUNKS + 1));
    FAKE_WAIT(atomic_load(&r.dev.ended) == 2 + 3 * CHUNKS + 1);
    wait_staged(r.pager, 3);
    pager_step_begin(r.pager);
    struct pager_counters c;
    pager_counters(r.pager, &c);
    assert_int_equal(c.admissions, 0);
    fake_permit(&r.dev, -1);
    pager_step_end(r.pager);
    FAKE_WAIT((pager_step_begin(r.pager), pager_step_end(r.pager), pager_counters(r.pager, &c),
               c.admissions == 2));
    pager_stream_close(r.pager);
    assert_int_equal(counters(&r).staged_unused, 3);
    rig_close(&r);
}

static uint32_t draw(uint32_t *seed, uint32_t n)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return (*seed >> 7) % n;
}

/* A decode step between two layers: misses, admissions, evictions, staging. */
static void other_step(struct rig *r, uint32_t *seed)
{
    struct moed_error err = {0};
    struct pager_need needs[4];
    struct pager_lease leases[4];
    pager_step_begin(r->pager);
    for (int layer = 0; layer < 5; layer += 2) {
        int first = (int)draw(seed, 12);
        for (int i = 0; i < 4; i++)
            needs[i] = (struct pager_need){first + i, 1 + (int)draw(seed, 6)};
        assert_ok(pager_acquire(r->pager, layer, needs, 4, leases, &err), &err);
        check(r, leases, 4);
        pager_release(r->pager, leases, 4);
    }
    pager_step_end(r->pager);
}

static void one_pass(struct rig *r, uint32_t *seed)
{
    struct moed_error err = {0};
    int rows = draw(seed, 3) ? 512 : 8, given = 0, wanted = 0;
    assert_int_equal(pager_stream_open(r->pager, 0, 5, rows), 1);
    int last = draw(seed, 8) ? 5 : (int)draw(seed, 5); /* some are given up */
    for (int layer = 0; layer < last; layer++) {
        if (layer == 1)
            continue; /* dense */
        struct pager_need needs[16];
        struct pager_lease leases[20];
        size_t n = 0;
        int held = 0, got;
        for (int e = 0; e < 16; e++)
            if (draw(seed, 8))
                needs[n++] = (struct pager_need){e, 1 + (int)draw(seed, 40)};
        pager_step_begin(r->pager);
        assert_ok(pager_stream_layer(r->pager, layer, needs, n, &err), &err);
        wanted += (int)n;
        while ((got = pager_stream_next(r->pager, leases + held, 1 + (int)draw(seed, 4))) > 0) {
            check(r, leases + held, got);
            given += got;
            held += got;
            int back = (int)draw(seed, (uint32_t)held + 1);
            check(r, leases + held - back, back);
            pager_release(r->pager, leases + held - back, (size_t)back);
            held -= back;
        }
        check(r, leases, held);
        pager_release(r->pager, leases, (size_t)held);
        pager_step_end(r->pager);
        while (draw(seed, 3) == 0)
            other_step(r, seed);
    }
    assert_int_equal(given, wanted);
    pager_stream_close(r->pager);
}

static bool enough_happened(const struct pager_counters *c)
{
    return c->staged > 1000 && c->staged_unused > 100 && c->hits > 1000 && c->evictions > 100;
}

/* What copies end before they are given up, and what is admitted in time, is for the scheduler of
 * the machine to say: passes go on until enough of all kinds has happened. */
static void passes_and_steps_in_any_order(void **state)
{
    for (int faults = 0; faults < 2; faults++) {
        struct rig r;
        struct pager_counters c = {0};
        uint32_t seed = 4711 + (uint32_t)faults;
        rig_open_faulty(
            &r, 5, 16,
            &(struct pager_config){
                .cache_bytes = 20 * RECORD, .staging_slots = 5, .stage_min_rows = 4, .fill = true},
            faults ? 8 : 0, 50);
        for (int i = 0; i < 400 || !enough_happened(&c); i++) {
            one_pass(&r, &seed);
            if (draw(&seed, 2))
                other_step(&r, &seed);
            c = counters(&r);
        }
        rig_close(&r);
    }
}

/* On the CPU device: while one layer is computed, the next one's records cross the link. */
static void copies_overlap_compute_on_the_cpu_device(void **state)
{
    struct dev *dev;
    struct pager *p;
    struct fake_records records;
    struct moed_error err = {0};
    struct dev_cpu_config dc = {
        .threads = 1, .link_bytes_per_s = (uint64_t)64 << 20, .max_context = 16};
    assert_ok(dev_cpu_open(&dev, &dc, &err), &err);
    fake_records_make(&records, 6, 8, RECORD, -1);
    struct pager_config cfg = {.mode = PAGER_CACHED, .staging_slots = 12};
    assert_ok(pager_open(&p, &cfg, &records.map, dev, &err), &err);
    assert_int_equal(pager_stream_open(p, 0, 6, 512), 1);
    for (int layer = 0; layer < 6; layer++) {
        struct pager_need needs[8];
        struct pager_lease leases[8];
        int n, given = 0;
        for (int e = 0; e < 8; e++)
            needs[e] = (struct pager_need){e, 100};
        pager_step_begin(p);
        assert_ok(pager_stream_layer(p, layer, needs, 8, &err), &err);
        for (bool first = true; (n = pager_stream_next(p, leases, 8)) > 0; first = false) {
            assert_true(!first || layer == 0 || n == 8);
            for (int i = 0; i < n; i++)
                assert_true(
                    fake_records_holds(&records, leases[i].record, layer, leases[i].expert));
            given += n;
            pager_release(p, leases, (size_t)n);
        }
        assert_int_equal(given, 8);
        pager_step_end(p);
        /* Attention of the next layer: its records come, and some of the layer behind it. */
        uint64_t there = 8 * (uint64_t)(layer + 2) + 4;
        wait_staged(p, there < 48 ? there : 48);
    }
    pager_stream_close(p);
    struct pager_counters c;
    pager_counters(p, &c);
    assert_int_equal(c.staged, 48);
    assert_int_equal(c.staged_unused, 0);
    pager_close(&p);
    fake_records_free(&records);
    dev_close(&dev);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(resident_experts_come_first_and_the_others_as_they_arrive),
    cmocka_unit_test(what_has_come_goes_before_residents),
    cmocka_unit_test(copies_run_ahead_and_leave_leased_slots_alone),
    cmocka_unit_test(what_the_router_does_not_choose_is_given_up),
    cmocka_unit_test(holding_all_leases_does_not_hang),
    cmocka_unit_test(a_failed_copy_is_read_in_place),
    cmocka_unit_test(a_stream_goes_before_admissions),
    cmocka_unit_test(passes_and_steps_in_any_order),
    cmocka_unit_test(copies_overlap_compute_on_the_cpu_device),
};
CHECK_MAIN(tests)
