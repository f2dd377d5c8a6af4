/* The pager on the real CPU device, whose link copies on a thread of its own, at a set speed. */
#include "check.h"

#include <time.h>
#include <unistd.h>

#include "support_fake.h"

#define EXPERTS 24
#define RECORD  ((size_t)65536)

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

struct rig {
    struct dev *dev;
    struct fake_records records;
    struct pager *pager;
};

static void rig_open(struct rig *r, uint64_t link_bytes_per_s, const struct pager_config *cfg)
{
    struct moed_error err = {0};
    struct dev_cpu_config dev = {
        .threads = 1, .link_bytes_per_s = link_bytes_per_s, .max_context = 16};
    assert_ok(dev_cpu_open(&r->dev, &dev, &err), &err);
    fake_records_make(&r->records, 2, EXPERTS, RECORD, 0);
    assert_ok(pager_open(&r->pager, cfg, &r->records.map, r->dev, &err), &err);
}

static void rig_close(struct rig *r)
{
    pager_close(&r->pager);
    fake_records_free(&r->records);
    dev_close(&r->dev);
}

/* A step that uses three experts of layer 1, their bytes checked while leased. */
static void step(struct rig *r, int first, int rows)
{
    struct moed_error err = {0};
    struct pager_need needs[3];
    struct pager_lease leases[3];
    for (int i = 0; i < 3; i++)
        needs[i] = (struct pager_need){(first + i * 5) % EXPERTS, rows};
    pager_step_begin(r->pager);
    assert_ok(pager_acquire(r->pager, 1, needs, 3, leases, &err), &err);
    for (int i = 0; i < 3; i++)
        assert_true(fake_records_holds(&r->records, leases[i].record, 1, needs[i].expert));
    pager_release(r->pager, leases, 3);
    pager_step_end(r->pager);
}

static void a_slow_link_brings_experts_in_time(void **state)
{
    struct rig r;
    struct pager_counters c;
    struct pager_info info;
    /* 64 KiB at 16 MiB/s: 4 ms a record. */
    rig_open(&r, (uint64_t)16 << 20,
             &(struct pager_config){
                 .mode = PAGER_CACHED, .cache_bytes = 12 * RECORD, .chunk_bytes = RECORD / 4});
    double begin = seconds();
    uint64_t steps = 0;
    do { /* what comes in time is for the machine to say */
        step(&r, (int)(steps / 50), 1);
        usleep(500);
        pager_counters(r.pager, &c);
    } while (++steps < 600 || c.hits <= 300);
    double took = seconds() - begin;
    pager_info(r.pager, &info);
    assert_int_equal(c.uses, 3 * steps);
    assert_int_equal(c.uses, c.hits + c.misses);
    assert_int_equal(c.admissions - c.evictions, info.resident);
    assert_int_equal(c.load_errors, 0);
    /* The limit holds: no more than a record or two beyond the rate. */
    assert_true((double)c.bytes_copied <= took * (16 << 20) + 2 * (double)RECORD);
    rig_close(&r);
}

static void staging_copies_what_many_rows_want(void **state)
{
    struct rig r;
    struct pager_counters c;
    rig_open(&r, 0,
             &(struct pager_config){.mode = PAGER_CACHED,
                                    .cache_bytes = 6 * RECORD,
                                    .staging_slots = 2,
                                    .stage_min_rows = 4});
    for (int i = 0; i < 300; i++)
        step(&r, i / 10, i % 2 ? 8 : 1);
    pager_counters(r.pager, &c);
    assert_int_equal(c.uses, c.hits + c.misses);
    assert_true(c.staged > 0);
    assert_int_equal(c.bytes_copied, (c.admissions + c.staged) * RECORD);
    assert_int_equal(c.load_errors, 0);
    rig_close(&r);
}

static void closing_with_copies_on_the_link_is_clean(void **state)
{
    struct rig r;
    rig_open(&r, (uint64_t)4 << 20,
             &(struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 24 * RECORD});
    for (int i = 0; i < 8; i++)
        step(&r, i, 1);
    rig_close(&r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_slow_link_brings_experts_in_time),
    cmocka_unit_test(staging_copies_what_many_rows_want),
    cmocka_unit_test(closing_with_copies_on_the_link_is_clean),
};
CHECK_MAIN(tests)
