/*
 * Policies where the link takes fewer records in a step than are missed. Printed for people: hits
 * in % and records admitted in a step, by the records that the link brings in a step of the whole
 * model. Asserted: the default policy beats LRU, and needs fewer copies than LFRU.
 */
#include "check.h"

#include <math.h>

#include "support_routing.h"

static const double budgets[] = {4, 8, 16, 26, 52, 1e9};
static const char *const policies[] = {"lru", "lfu", "lfru", "steady"};
static const double shares[] = {0.25, 0.375, 0.5};
#define N_BUDGETS  ((int)(sizeof budgets / sizeof budgets[0]))
#define N_POLICIES ((int)(sizeof policies / sizeof policies[0]))

struct sums {
    double log_misses[N_POLICIES], admissions[N_POLICIES]; /* at budgets other than the last */
    int n;
};

/* part: share of the model's layers in the trace; records: of one expert in those of Qwen3-30B. */
static void share_of_cache(const struct trace *t, double part, double records, double share,
                           struct sums *sums)
{
    int32_t slots = (int32_t)(share * t->n_layers * t->n_experts);
    for (int k = 0; k < N_POLICIES; k++) {
        print_message("| %4.1f %% | %-6s |", 100 * share, policies[k]);
        for (int b = 0; b < N_BUDGETS; b++) {
            struct replay_counts c;
            size_t warm = t->n_steps / 5;
            replay_link(t, policy_find(policies[k]), slots, budgets[b] * part / records, warm, &c);
            double a_step = (double)c.admissions / (double)(t->n_steps - warm) / part;
            print_message(" %.1f (%.*f) |", 100.0 * (double)c.hits / (double)c.uses, a_step < 9.95,
                          a_step);
            assert_int_equal(c.uses, c.hits + c.misses);
            if (b == N_BUDGETS - 1)
                continue;
            sums->log_misses[k] += log((double)c.misses);
            sums->admissions[k] += a_step;
            sums->n += k == 0;
        }
        print_message("\n");
    }
}

static void model(const char *name, int n_layers, double records, size_t n_steps, int n_shares,
                  struct sums *sums)
{
    struct trace t;
    const struct routing *r = routing_find(name);
    routing_make(&t, r, n_layers, 1, 1, n_steps, 9);
    print_message("%s\n", name);
    for (int i = 0; i < n_shares; i++)
        share_of_cache(&t, (double)t.n_layers / r->n_layers, records, shares[i], sums);
    trace_fini(&t);
}

static void judge(const struct sums *s)
{
    for (int k = 0; k < N_POLICIES; k++)
        print_message("%-6s: misses %.3f of lru's, %.1f records a step\n", policies[k],
                      exp((s->log_misses[k] - s->log_misses[0]) / s->n), s->admissions[k] / s->n);
    assert_true(s->log_misses[3] < s->log_misses[0] + s->n * log(0.92));
    assert_true(s->log_misses[3] < s->log_misses[2] + s->n * log(1.01));
    assert_true(s->admissions[3] < s->admissions[2] / 2);
}

static void a_narrow_link(void **state)
{
    struct sums s = {0};
    model("Qwen3-30B-A3B", 3, 1, 1000, 1, &s);
    model("DeepSeek-V2-Lite", 3, 1, 1000, 1, &s);
    judge(&s);
}

static void a_narrow_link_deep(void **state)
{
    struct sums s = {0};
    model("Qwen3-30B-A3B", 12, 1, 3000, 3, &s);
    model("OLMoE", 8, 1, 3000, 3, &s);
    model("DeepSeek-V2-Lite", 13, 1, 3000, 3, &s);
    model("Mixtral-8x7B", 32, 8, 3000, 3, &s);
    judge(&s);
}

static void recorded(void **state)
{
    static const char *const files[] = {"traces/flame-moe-290m.tsv.xz",
                                        "traces/qwen1.5-moe-a2.7b-chat.gsm8k25.tsv.xz"};
    struct sums s = {0};
    for (int i = 0; i < 2; i++) {
        struct trace t;
        if (trace_read(&t, data_path(files[i])) != 0)
            skip();
        print_message("%s, %d layers of %d, %zu steps\n", files[i] + 7, t.n_layers, t.n_experts,
                      t.n_steps);
        for (int k = 0; k < 3; k++)
            share_of_cache(&t, 1, 1, shares[k], &s);
        trace_fini(&t);
    }
}

/* With a link that takes all, the steps between asking and having are what is left of the cost. */
static void a_wide_link_is_the_replay_two_steps_late(void **state)
{
    struct trace t = {.n_layers = 1, .n_experts = 4};
    struct replay_counts c;
    for (int i = 0; i < 8; i++) { /* missed in 1, copied while 2 runs, there in 3 */
        trace_use(&t, 0, 2, 1);
        trace_end_step(&t);
    }
    replay_link(&t, policy_find("steady"), 2, 100, 0, &c);
    assert_int_equal(c.misses, 2);
    assert_int_equal(c.admissions, 1);
    replay_link(&t, policy_find("steady"), 2, 0.25, 0, &c); /* a copy takes four steps */
    assert_int_equal(c.misses, 5);
    replay_link(&t, policy_find("steady"), 2, 0, 0, &c);
    assert_int_equal(c.misses, 8);
    trace_fini(&t);
}

/* These move when a policy, the generator or the rule of admission changes, and only then. */
static void counts_of_a_fixed_trace(void **state)
{
    static const uint64_t expected[][2] = {{10494, 2200}, {9099, 2200}, {8251, 2200}, {8367, 831}};
    struct trace t;
    routing_make(&t, routing_find("Qwen3-30B-A3B"), 6, 1, 1, 1200, 42);
    for (int k = 0; k < N_POLICIES; k++) {
        struct replay_counts c;
        replay_link(&t, policy_find(policies[k]), 192, 2, 100, &c);
        print_message("%s %llu %llu\n", policies[k], (unsigned long long)c.misses,
                      (unsigned long long)c.admissions);
        assert_int_equal(c.misses, expected[k][0]);
        assert_int_equal(c.admissions, expected[k][1]);
    }
    trace_fini(&t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_narrow_link),
    cmocka_unit_test(a_narrow_link_deep),
    cmocka_unit_test(recorded),
    cmocka_unit_test(a_wide_link_is_the_replay_two_steps_late),
    cmocka_unit_test(counts_of_a_fixed_trace),
};
CHECK_MAIN(tests)
