/*
 * The hit table: what each policy serves from a cache of 5, 10, 25 and 50 % of the experts, beside
 * Belady's bound. Printed for people; and asserted: LFRU misses less than LRU.
 */
#include "check.h"

#include "support_routing.h"

static const int shares[] = {5, 10, 25, 50};
#define N_SHARES ((int)(sizeof shares / sizeof shares[0]))

static double percent(const struct replay_counts *c)
{
    return 100.0 * (double)c->hits / (double)c->uses;
}

static void row(const struct trace *t, const char *name, size_t warm, double *misses_of_lru,
                double *misses_of_lfru)
{
    static const char *const names[] = {"lru", "lfu", "lfru"};
    int32_t keys = t->n_layers * t->n_experts;
    char line[256];
    int at = snprintf(line, sizeof line, "%-26s", name);
    for (int s = 0; s < N_SHARES; s++) {
        struct replay_counts c[4];
        for (int k = 0; k < 3; k++)
            replay_policy(t, policy_find(names[k]), keys * shares[s] / 100, warm, &c[k]);
        replay_belady(t, keys * shares[s] / 100, warm, &c[3]);
        for (int k = 0; k < 3; k++)
            assert_true(c[k].misses >= c[3].misses);
        *misses_of_lru += (double)c[0].misses / (double)c[0].uses;
        *misses_of_lfru += (double)c[2].misses / (double)c[2].uses;
        at += snprintf(line + at, sizeof line - (size_t)at, " | %4.1f %4.1f %4.1f %4.1f",
                       percent(&c[0]), percent(&c[1]), percent(&c[2]), percent(&c[3]));
    }
    print_message("%s\n", line);
}

static void head(void)
{
    print_message(
        "hits in %%, lru lfu lfru Belady%29s | 5 %% of the experts   | 10 %%                "
        "| 25 %%                | 50 %%\n",
        "");
}

static void synthetic_routing(void **state)
{
    double lru = 0, lfru = 0;
    head();
    for (size_t i = 0; i < n_routings; i++) {
        struct trace t;
        routing_make(&t, &routings[i], 8, 1, 1, 3000, 1);
        row(&t, routings[i].name, 300, &lru, &lfru);
        trace_fini(&t);
    }
    print_message("misses of lfru / lru, mean of all: %.3f\n", lfru / lru);
    assert_true(lfru < lru);
}

static void synthetic_routing_of_eight_streams(void **state)
{
    double lru = 0, lfru = 0;
    head();
    for (size_t i = 0; i < n_routings; i++) {
        struct trace t;
        routing_make(&t, &routings[i], 4, 8, 1, 1500, 2);
        row(&t, routings[i].name, 300, &lru, &lfru);
        trace_fini(&t);
    }
    print_message("misses of lfru / lru, mean of all: %.3f\n", lfru / lru);
    assert_true(lfru < lru);
}

/* A chat: prompts of 200 tokens, answers of about as many. */
static void synthetic_routing_with_prompts(void **state)
{
    double lru = 0, lfru = 0;
    head();
    for (size_t i = 0; i < n_routings; i++) {
        struct trace t;
        struct routing r = routings[i];
        r.conversation = 200;
        routing_make(&t, &r, 3, 1, 200, 2000, 3);
        row(&t, r.name, 300, &lru, &lfru);
        trace_fini(&t);
    }
    print_message("misses of lfru / lru, mean of all: %.3f\n", lfru / lru);
    assert_true(lfru < lru);
}

static void recorded_routing(void **state)
{
    static const char *const files[] = {"traces/flame-moe-290m.tsv.xz",
                                        "traces/qwen1.5-moe-a2.7b-chat.gsm8k25.tsv.xz"};
    double lru = 0, lfru = 0;
    for (int i = 0; i < 2; i++) {
        struct trace t;
        if (trace_read(&t, data_path(files[i])) != 0)
            skip();
        if (i == 0)
            head();
        row(&t, files[i] + 7, t.n_steps / 10, &lru, &lfru);
        trace_fini(&t);
    }
    assert_true(lfru < lru);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(synthetic_routing),
    cmocka_unit_test(synthetic_routing_of_eight_streams),
    cmocka_unit_test(synthetic_routing_with_prompts),
    cmocka_unit_test(recorded_routing),
};
CHECK_MAIN(tests)
