/* A synchronous pager counts exactly what the replay of the same trace counts. */
#include "check.h"

#include <unistd.h>

#include "pager/replay.h"
#include "support_fake.h"

#define LAYERS  4
#define EXPERTS 32
#define RECORD  ((size_t)256)

/* A few experts per layer and step out of a working set that drifts. */
static void make_trace(struct trace *t, size_t n_steps)
{
    uint32_t s = 12345;
    *t = (struct trace){.n_layers = LAYERS, .n_experts = EXPERTS};
    for (size_t i = 0; i < n_steps; i++) {
        for (int layer = 0; layer < LAYERS; layer++) {
            bool used[EXPERTS] = {false};
            for (int k = 0; k < 4; k++) {
                s = s * 1664525 + 1013904223;
                uint32_t near = (s >> 24) * (s >> 16 & 0xFF) >> 11; /* small numbers are likelier */
                used[(near + i / 40 + (size_t)layer * 5) % EXPERTS] = true;
            }
            for (int e = 0; e < EXPERTS; e++)
                if (used[e])
                    trace_use(t, layer, e, 1 + e % 3);
        }
        trace_end_step(t);
    }
}

/* pace: each step waits until what was sent before it has been copied. */
static void run_pager(struct pager *p, const struct trace *t, struct fake_dev *pace)
{
    struct moed_error err = {0};
    for (size_t s = 0; s < t->n_steps; s++) {
        pager_step_begin(p);
        if (pace) {
            struct pager_counters c;
            pager_counters(p, &c);
            FAKE_WAIT(atomic_load(&pace->ended) == c.misses - c.bypasses - c.underway);
        }
        for (size_t i = s ? t->step_end[s - 1] : 0, next; i < t->step_end[s]; i = next) {
            struct pager_need needs[EXPERTS];
            struct pager_lease leases[EXPERTS];
            size_t n = 0;
            int layer = t->keys[i] / EXPERTS;
            for (next = i; next < t->step_end[s] && t->keys[next] / EXPERTS == layer; next++)
                needs[n++] = (struct pager_need){t->keys[next] % EXPERTS, t->rows[next]};
            assert_ok(pager_acquire(p, layer, needs, n, leases, &err), &err);
            pager_release(p, leases, n);
        }
        pager_step_end(p);
    }
}

static void a_synchronous_pager_counts_like_the_replay(void **state)
{
    static const char *const policies[] = {"lru", "lfu", "lfru", "steady"};
    struct trace t;
    make_trace(&t, 1500);
    for (int k = 0; k < 4; k++)
        for (int slots = 1; slots <= LAYERS * EXPERTS; slots += slots < 8 ? 1 : 24) {
            struct fake_dev dev;
            struct fake_records records;
            struct pager *p;
            struct pager_counters c;
            struct replay_counts expected;
            struct moed_error err = {0};
            fake_open(&dev);
            fake_records_make(&records, LAYERS, EXPERTS, RECORD, -1);
            struct pager_config cfg = {.mode = PAGER_CACHED,
                                       .cache_bytes = (uint64_t)slots * RECORD,
                                       .policy = policies[k],
                                       .synchronous = true};
            assert_ok(pager_open(&p, &cfg, &records.map, &dev.dev, &err), &err);
            run_pager(p, &t, NULL);
            pager_counters(p, &c);
            replay_policy(&t, policy_find(policies[k]), slots, 0, &expected);
            assert_int_equal(c.uses, expected.uses);
            assert_int_equal(c.hits, expected.hits);
            assert_int_equal(c.misses, expected.misses);
            assert_int_equal(c.admissions, expected.admissions);
            assert_int_equal(c.evictions, expected.evictions);
            assert_int_equal(c.bypasses, expected.bypasses);
            pager_close(&p);
            fake_records_free(&records);
            fake_close(&dev);
        }
    trace_fini(&t);
}

/* Loads take until the next step but one in an ordinary pager, so it misses more than the replay.
 */
static void an_ordinary_pager_misses_a_little_more(void **state)
{
    struct trace t;
    struct fake_dev dev;
    struct fake_records records;
    struct pager *p;
    struct pager_counters c;
    struct replay_counts expected;
    struct moed_error err = {0};
    make_trace(&t, 1500);
    fake_open(&dev);
    fake_records_make(&records, LAYERS, EXPERTS, RECORD, -1);
    struct pager_config cfg = {.mode = PAGER_CACHED, .cache_bytes = 64 * RECORD, .policy = "lfru"};
    assert_ok(pager_open(&p, &cfg, &records.map, &dev.dev, &err), &err);
    run_pager(p, &t, &dev);
    pager_counters(p, &c);
    replay_policy(&t, policy_find("lfru"), 64, 0, &expected);
    print_message("misses: pager %llu, replay %llu\n", (unsigned long long)c.misses,
                  (unsigned long long)expected.misses);
    assert_int_equal(c.uses, expected.uses);
    assert_int_equal(c.hits + c.misses, c.uses);
    assert_true(c.misses >= expected.misses && c.misses < expected.misses * 3 / 2);
    pager_close(&p);
    fake_records_free(&records);
    fake_close(&dev);
    trace_fini(&t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_synchronous_pager_counts_like_the_replay),
    cmocka_unit_test(an_ordinary_pager_misses_a_little_more),
};
CHECK_MAIN(tests)
