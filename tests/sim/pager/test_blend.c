/*
 * Why LFRU's worth is what it is: its misses relative to LRU with other spans, geometric means over
 * ten synthetic routings at 10, 25 and 50 % of the experts. Printed for people; and asserted: the
 * spans chosen are as good as any tried here, within a percent.
 */
#include "check.h"

#include <math.h>

#include "pager/policy_int.h"
#include "support_routing.h"

struct blend {
    const char *name;
    struct rate_span spans[RATES_MAX_SPANS]; /* up to weight 0; none: LFRU's own */
    bool admit_all;
};

static const struct blend blends[] = {
    {"own spans: 1, 16 and 64, rows up to 32"},
    {"rate 1", {{1, 1, 1}}},
    {"rate 4", {{4, 1, 1}}},
    {"rate 16", {{16, 1, 1}}},
    {"rate 64", {{64, 1, 1}}},
    {"rate 256", {{256, 1, 1}}},
    {"1 and 64", {{1, 1, 1}, {64, 1, 4}}},
    {"1, 16 and 64", {{1, 1, 1}, {16, 1, 1}, {64, 1, 4}}},
    {"1, 16 and 64, all rows", {{1, 1, 1}, {16, 1 << 30, 1}, {64, 1 << 30, 4}}},
    {"1, 4, 16, 64 and 256, equal", {{1, 1, 1}, {4, 1, 1}, {16, 1, 1}, {64, 1, 1}, {256, 1, 1}}},
    {"own spans, every miss admitted", .admit_all = true},
};
#define N_BLENDS ((int)(sizeof blends / sizeof blends[0]))

/* policy_ops.open has no room for a choice. */
static const struct blend *chosen;

static struct policy *open_blend(int32_t n_keys, int32_t n_slots)
{
    int n = 0;
    while (n < RATES_MAX_SPANS && chosen->spans[n].weight > 0)
        n++;
    return n ? rates_open(n_keys, &(struct rates){.spans = chosen->spans, .n_spans = n})
             : policy_lfru.open(n_keys, n_slots);
}

static bool admit_all(struct policy *p, int32_t key, int32_t victim)
{
    return true;
}

static double log_ratio(const struct trace *t, const struct blend *b, int share, uint64_t lru)
{
    struct policy_ops ops = policy_lfru;
    struct replay_counts c;
    ops.open = open_blend;
    ops.admit = b->admit_all ? admit_all : ops.admit;
    chosen = b;
    replay_policy(t, &ops, t->n_layers * t->n_experts * share / 100, t->n_steps / 10, &c);
    return log((double)c.misses / (double)lru);
}

static void add_ratios(double sum[N_BLENDS], const struct trace *t)
{
    static const int shares[] = {10, 25, 50};
    for (int s = 0; s < 3; s++) {
        struct replay_counts lru;
        replay_policy(t, &policy_lru, t->n_layers * t->n_experts * shares[s] / 100, t->n_steps / 10,
                      &lru);
        for (int b = 0; b < N_BLENDS; b++)
            sum[b] += log_ratio(t, &blends[b], shares[s], lru.misses);
    }
}

static void the_blend_is_as_good_as_any_tried(void **state)
{
    double one[N_BLENDS] = {0}, eight[N_BLENDS] = {0}, chat[N_BLENDS] = {0};
    for (size_t i = 0; i < n_routings; i++) {
        struct trace t;
        struct routing r = routings[i];
        routing_make(&t, &r, 2, 1, 1, 1500, 11);
        add_ratios(one, &t);
        trace_fini(&t);
        routing_make(&t, &r, 2, 8, 1, 600, 12);
        add_ratios(eight, &t);
        trace_fini(&t);
        r.conversation = 200;
        routing_make(&t, &r, 2, 1, 200, 1000, 13);
        add_ratios(chat, &t);
        trace_fini(&t);
    }
    double cells = 3.0 * (double)n_routings;
    print_message("misses / LRU                           | one stream | eight  | prompts\n");
    for (int b = 0; b < N_BLENDS; b++)
        print_message("%-38s | %.3f      | %.3f  | %.3f\n", blends[b].name, exp(one[b] / cells),
                      exp(eight[b] / cells), exp(chat[b] / cells));
    for (int b = 1; b < N_BLENDS; b++)
        assert_true((one[0] + eight[0] + chat[0]) / cells / 3 <
                    (one[b] + eight[b] + chat[b]) / cells / 3 + 0.01);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_blend_is_as_good_as_any_tried),
};
CHECK_MAIN(tests)
