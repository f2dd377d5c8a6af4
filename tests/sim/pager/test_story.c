/*
 * The routing of the shipped model's stories through the real pager, on the CPU device: exact
 * counts against LRU written down a second time, and against the replay for every policy.
 */
#include "check.h"

#include <stdbool.h>

#include "pager/pager.h"
#include "support_routing.h"

#define RECORD ((size_t)64)

static const char *const policies[] = {"lru", "lfu", "lfru"};
static const int shares[] = {5, 10, 25, 50};

/* Each record is its key, over and over. */
static uint32_t *make_records(const struct trace *t, const void **host_of)
{
    int n_keys = t->n_layers * t->n_experts;
    uint32_t *records = calloc((size_t)n_keys, RECORD);
    for (int k = 0; k < n_keys; k++) {
        uint32_t *record = records + (size_t)k * (RECORD / 4);
        for (size_t i = 0; i < RECORD / 4; i++)
            record[i] = (uint32_t)k;
        host_of[k] = record;
    }
    return records;
}

static void run_step(struct pager *p, const struct trace *t, size_t begin, size_t end)
{
    struct moed_error err = {0};
    pager_step_begin(p);
    for (size_t i = begin, next; i < end; i = next) {
        struct pager_need needs[256];
        struct pager_lease leases[256];
        size_t n = 0;
        int layer = t->keys[i] / t->n_experts;
        for (next = i; next < end && t->keys[next] / t->n_experts == layer; next++)
            needs[n++] = (struct pager_need){t->keys[next] % t->n_experts, t->rows[next]};
        assert_ok(pager_acquire(p, layer, needs, n, leases, &err), &err);
        for (size_t j = 0; j < n; j++) {
            const uint32_t *record = leases[j].record;
            assert_int_equal(record[0], t->keys[i + j]);
            assert_int_equal(record[RECORD / 4 - 1], t->keys[i + j]);
        }
        pager_release(p, leases, n);
    }
    pager_step_end(p);
}

static void run_pager(const struct trace *t, const char *policy, int slots,
                      struct pager_counters *counters)
{
    struct moed_error err = {0};
    struct dev *dev;
    struct pager *p;
    struct dev_cpu_config dev_cfg = {.threads = 1, .max_context = 16};
    struct record_class cls = {.bytes = RECORD};
    const void **host_of = calloc((size_t)(t->n_layers * t->n_experts), sizeof host_of[0]);
    uint32_t *records = make_records(t, host_of);
    struct expert_map map = {
        .n_layers = t->n_layers, .n_experts = t->n_experts, .cls = &cls, .host_of = host_of};
    struct pager_config cfg = {.mode = PAGER_CACHED,
                               .cache_bytes = (uint64_t)slots * RECORD,
                               .policy = policy,
                               .synchronous = true};
    assert_ok(dev_cpu_open(&dev, &dev_cfg, &err), &err);
    assert_ok(pager_open(&p, &cfg, &map, dev, &err), &err);
    for (size_t s = 0; s < t->n_steps; s++)
        run_step(p, t, s ? t->step_end[s - 1] : 0, t->step_end[s]);
    pager_counters(p, counters);
    pager_close(&p);
    dev_close(&dev);
    free(records);
    free(host_of);
}

/* LRU by its words: what was used longest ago leaves, unless this step used it. */
static void slow_lru(const struct trace *t, int slots, struct replay_counts *out)
{
    int n_keys = t->n_layers * t->n_experts, resident = 0;
    bool *here = calloc((size_t)n_keys, sizeof here[0]);
    size_t *last = calloc((size_t)n_keys, sizeof last[0]);
    size_t *missed = calloc((size_t)n_keys, sizeof missed[0]);
    *out = (struct replay_counts){0};
    for (size_t s = 0, begin = 0; s < t->n_steps; begin = t->step_end[s++]) {
        size_t n_missed = 0;
        for (size_t i = begin; i < t->step_end[s]; i++) {
            out->uses++;
            last[t->keys[i]] = i + 1;
            if (!here[t->keys[i]])
                missed[n_missed++] = (size_t)t->keys[i];
        }
        out->misses += n_missed;
        for (size_t m = 0; m < n_missed; m++) {
            int oldest = -1;
            for (int k = 0; k < n_keys && resident == slots; k++)
                if (here[k] && last[k] <= begin && (oldest < 0 || last[k] < last[oldest]))
                    oldest = k;
            if (resident == slots && oldest < 0) {
                out->bypasses++;
                continue;
            }
            if (oldest >= 0) {
                here[oldest] = false;
                resident--;
                out->evictions++;
            }
            here[missed[m]] = true;
            resident++;
            out->admissions++;
        }
    }
    out->hits = out->uses - out->misses;
    free(here);
    free(last);
    free(missed);
}

static void expect_equal(const struct pager_counters *c, const struct replay_counts *e)
{
    assert_int_equal(c->uses, e->uses);
    assert_int_equal(c->hits, e->hits);
    assert_int_equal(c->misses, e->misses);
    assert_int_equal(c->admissions, e->admissions);
    assert_int_equal(c->evictions, e->evictions);
    assert_int_equal(c->bypasses, e->bypasses);
    assert_int_equal(c->bytes_copied, e->admissions * RECORD);
    assert_int_equal(c->load_errors, 0);
}

/* The first steps through the real pager; all of them through the replay, which is much faster. */
static void run_table(int streams, uint64_t expected_uses)
{
    struct trace t;
    assert_int_equal(trace_read_sequences(&t, repo_path("tests/data/story/routing.trace"), streams),
                     0);
    assert_int_equal(t.n_uses, expected_uses);
    struct trace head = t;
    head.n_steps = 800;
    head.n_uses = head.step_end[head.n_steps - 1];
    for (size_t s = 0; s < sizeof shares / sizeof shares[0]; s++) {
        int slots = t.n_layers * t.n_experts * shares[s] / 100;
        struct replay_counts bound, all, slow;
        char line[80];
        int at =
            snprintf(line, sizeof line, "streams: %d, experts cached: %2d %%:", streams, shares[s]);
        replay_belady(&t, slots, 0, &bound);
        for (int k = 0; k < 3; k++) {
            struct pager_counters c;
            run_pager(&head, policies[k], slots, &c);
            replay_policy(&head, policy_find(policies[k]), slots, 0, &all);
            expect_equal(&c, &all);
            if (k == 0) {
                slow_lru(&head, slots, &slow);
                expect_equal(&c, &slow);
            }
            replay_policy(&t, policy_find(policies[k]), slots, 0, &all);
            assert_true(all.misses >= bound.misses);
            at += snprintf(line + at, sizeof line - (size_t)at, " %s %.1f", policies[k],
                           100.0 * (double)all.hits / (double)all.uses);
        }
        print_message("%s Belady %.1f\n", line, 100.0 * (double)bound.hits / (double)bound.uses);
    }
    trace_fini(&t);
}

static void one_story_at_a_time(void **state)
{
    run_table(1, 288443);
}

static void eight_stories_side_by_side(void **state)
{
    run_table(8, 188032);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(one_story_at_a_time),
    cmocka_unit_test(eight_stories_side_by_side),
};
CHECK_MAIN(tests)
