/* Exact counts: traces small enough for the head, and policies written down a second time, slowly.
 */
#include "check.h"

#include <math.h>

#include "support_routing.h"

/* Steps of one layer: experts as digits, a space between steps. */
static void trace_of(struct trace *t, int n_experts, const char *text)
{
    *t = (struct trace){.n_layers = 1, .n_experts = n_experts};
    for (; *text; text++) {
        if (*text == ' ')
            trace_end_step(t);
        else
            trace_use(t, 0, *text - '0', 1);
    }
    trace_end_step(t);
}

static void expect_misses(const struct trace *t, const char *policy, int slots, uint64_t misses,
                          uint64_t evictions)
{
    struct replay_counts c;
    replay_policy(t, policy_find(policy), slots, 0, &c);
    if (c.misses != misses || c.evictions != evictions)
        fail_msg("%s, %d slots: %llu misses and %llu evictions, wanted %llu and %llu", policy,
                 slots, (unsigned long long)c.misses, (unsigned long long)c.evictions,
                 (unsigned long long)misses, (unsigned long long)evictions);
    assert_int_equal(c.uses, c.hits + c.misses);
    assert_int_equal(c.misses, c.admissions + c.bypasses);
}

static void by_hand(void **state)
{
    struct trace t;
    struct replay_counts c;
    /* LRU, 2 slots: 0 1 come; 2 for 0; 0 for 1; 1 for 2: five misses, three evictions.
     * Belady: 0 1 come; 2 is bypassed; 0 1 hit: three misses. */
    trace_of(&t, 4, "0 1 2 0 1");
    expect_misses(&t, "lru", 2, 5, 3);
    replay_belady(&t, 2, 0, &c);
    assert_int_equal(c.misses, 3);
    assert_int_equal(c.evictions, 0);
    trace_fini(&t);

    /* 0 is used four times, then 1 and 2 take turns. LFU: 1 has the free slot; 2 comes once (weight
     * 2^-1/16 at the next step) and does not outrank 1 (as recent or more), nor 0, until it has:
     * step 5: 1 comes. 6: 2 against 1 (2^(-1/16) < 1): takes its place. 7: 1 has 2^(-2/16) + 1
     * against 2's 2^(-1/16): takes it back. 8: 2 has 2^(-2/16) + 1 against 1's 2^(-3/16) +
     * 2^(-1/16), 1.917 against 1.836: takes it. LRU in step 6 drops 0 for 2, then 1 and 2 hit. */
    trace_of(&t, 4, "0 0 0 0 1 2 1 2");
    expect_misses(&t, "lfu", 2, 5, 3);
    expect_misses(&t, "lru", 2, 3, 1);
    trace_fini(&t);

    /* One slot, a step that uses two: what the step used stays, the other is bypassed. 0 and 1
     * miss, 1 misses, 1 misses and comes, 0 misses. */
    trace_of(&t, 4, "01 01 1 01");
    expect_misses(&t, "lru", 1, 5, 1);
    trace_fini(&t);

    /* Nothing fits: all miss. Everything fits: each misses once. */
    trace_of(&t, 4, "01 23 01 23 3210");
    for (int k = 0; k < 4; k++) {
        static const char *const names[] = {"lru", "lfu", "lfru", "steady"};
        expect_misses(&t, names[k], 0, 12, 0);
        expect_misses(&t, names[k], 4, 4, 0);
        expect_misses(&t, names[k], 100, 4, 0);
    }
    trace_fini(&t);
}

/* What one use by `rows` rows, `age` steps ago, adds to LFRU's worth of a key. */
static double lfru_single(int age, double rows)
{
    double many = rows < 32 ? rows : 32;
    return 0.5 * exp2(-age) + many * (1 - exp2(-1.0 / 16)) * exp2(-age / 16.0) +
           4 * many * (1 - exp2(-1.0 / 64)) * exp2(-age / 64.0);
}

static double steady_single(int age, double rows)
{
    return (rows < 64 ? rows : 64) * (1 - exp2(-1.0 / 32)) * exp2(-age / 32.0);
}

/* A policy by its definition: all keys looked at for each victim, worth from the whole history. */
struct slow {
    const struct trace *t;
    const char *name;
    uint8_t *resident, *used;
    double *history; /* [n_keys] LRU: number of the last use; otherwise per key: see steps */
    int32_t *steps;  /* [n_keys * n_steps] */
    double *rows;    /* [n_keys * n_steps] of these uses */
    int32_t *n_uses; /* [n_keys] */
};

static double slow_worth(const struct slow *s, int32_t key, int32_t now)
{
    if (strcmp(s->name, "lru") == 0)
        return s->history[key];
    long double sum = 0;
    double lfu = 0;
    const int32_t *steps = s->steps + (size_t)key * s->t->n_steps;
    for (int32_t i = 0; i < s->n_uses[key]; i++) {
        double rows = s->rows[steps - s->steps + i];
        sum += strcmp(s->name, "steady") == 0 ? steady_single(now - steps[i], rows)
                                              : lfru_single(now - steps[i], rows);
        /* Relative to a fixed step, in the order of use, so that rounding is the policy's. */
        lfu += ldexp(exp2((steps[i] % 16) / 16.0), steps[i] / 16 - 600);
    }
    return strcmp(s->name, "lfu") == 0 ? lfu : (double)sum;
}

/* steady: the rows of a layer's use have a mean of 24 at most, and are one at least. */
static double slow_rows(const struct slow *s, size_t use, size_t begin, size_t end)
{
    double total = 0, n = 0, rows = s->t->rows[use];
    for (size_t i = begin; i < end; i++)
        if (s->t->keys[i] / s->t->n_experts == s->t->keys[use] / s->t->n_experts) {
            total += s->t->rows[i];
            n++;
        }
    if (strcmp(s->name, "steady") != 0 || total <= 24 * n)
        return rows;
    return rows * 24 * n / total > 1 ? rows * 24 * n / total : 1;
}

static void slow_step(struct slow *s, int32_t now, size_t begin, size_t end, int slots, int *n,
                      uint64_t *misses)
{
    int32_t n_keys = (int32_t)(s->t->n_layers * s->t->n_experts);
    memset(s->used, 0, (size_t)n_keys);
    for (size_t i = begin; i < end; i++) {
        int32_t key = s->t->keys[i];
        s->used[key] = s->resident[key] ? 1 : 2;
        s->history[key] = (double)(i + 1);
        s->rows[(size_t)key * s->t->n_steps + (size_t)s->n_uses[key]] = slow_rows(s, i, begin, end);
        s->steps[(size_t)key * s->t->n_steps + (size_t)s->n_uses[key]++] = now;
        *misses += !s->resident[key];
    }
    for (size_t i = begin; i < end; i++) {
        int32_t key = s->t->keys[i], victim = -1;
        if (s->used[key] == 1)
            continue;
        double least = INFINITY;
        if (*n == slots) {
            for (int32_t k = 0; k < n_keys; k++)
                if (s->resident[k] && !s->used[k] && slow_worth(s, k, now) < least) {
                    least = slow_worth(s, k, now);
                    victim = k;
                }
            double margin = strcmp(s->name, "steady") == 0 ? 0.03 * (1 - exp2(-now / 32.0)) : 0;
            if (victim < 0 ||
                (strcmp(s->name, "lru") != 0 && slow_worth(s, key, now) < least + margin))
                continue;
            s->resident[victim] = 0;
            (*n)--;
        }
        s->resident[key] = 1;
        (*n)++;
    }
}

static uint64_t slow_misses(const struct trace *t, const char *name, int slots)
{
    size_t n_keys = (size_t)(t->n_layers * t->n_experts);
    struct slow s = {.t = t,
                     .name = name,
                     .resident = calloc(n_keys, 1),
                     .used = calloc(n_keys, 1),
                     .history = calloc(n_keys, sizeof(double)),
                     .steps = calloc(n_keys * t->n_steps, sizeof(int32_t)),
                     .rows = calloc(n_keys * t->n_steps, sizeof(double)),
                     .n_uses = calloc(n_keys, sizeof(int32_t))};
    uint64_t misses = 0;
    int n = 0;
    for (size_t i = 0; i < t->n_steps; i++)
        slow_step(&s, (int32_t)i + 1, i ? t->step_end[i - 1] : 0, t->step_end[i], slots, &n,
                  &misses);
    free(s.resident);
    free(s.used);
    free(s.history);
    free(s.steps);
    free(s.rows);
    free(s.n_uses);
    return misses;
}

static void compare_with_slow(const char *name, uint64_t tolerance_ppm)
{
    static const struct routing small = {"small", 3, 12, 3, 0.5, 1.0, 1.0, 4.0, 60};
    for (int streams = 1; streams <= 3; streams += 2) {
        struct trace t;
        routing_make(&t, &small, 0, streams, 1 + 40 * (streams - 1), 300, 5);
        for (int slots = 1; slots <= 36; slots += 5) {
            struct replay_counts c;
            replay_policy(&t, policy_find(name), slots, 0, &c);
            uint64_t slow = slow_misses(&t, name, slots);
            uint64_t apart = c.misses > slow ? c.misses - slow : slow - c.misses;
            if (apart * 1000000 > tolerance_ppm * slow)
                fail_msg("%s, %d slots: %llu misses, by definition %llu", name, slots,
                         (unsigned long long)c.misses, (unsigned long long)slow);
        }
        trace_fini(&t);
    }
}

static void lru_is_its_definition(void **state)
{
    compare_with_slow("lru", 0);
}

static void lfu_is_its_definition(void **state)
{
    compare_with_slow("lfu", 0);
}

/* The sums are rounded in another order, so that near ties may fall otherwise. */
static void lfru_is_its_definition(void **state)
{
    compare_with_slow("lfru", 3000);
}

static void steady_is_its_definition(void **state)
{
    compare_with_slow("steady", 3000);
}

/* The fewest misses over all ways to keep at most `slots` keys, tried exhaustively: after a step
 * any subset of what was resident or used may stay. */
static int fewest(const struct trace *t, size_t step, unsigned resident, int slots, int8_t *memo)
{
    if (step == t->n_steps)
        return 0;
    int8_t *known = &memo[step << t->n_experts | resident];
    if (*known >= 0)
        return *known;
    unsigned used = 0;
    for (size_t i = step ? t->step_end[step - 1] : 0; i < t->step_end[step]; i++)
        used |= 1u << t->keys[i];
    unsigned there = resident | used;
    int best = 1000;
    for (unsigned keep = there;; keep = (keep - 1) & there) {
        if (__builtin_popcount(keep) <= slots) {
            int n = fewest(t, step + 1, keep, slots, memo);
            best = n < best ? n : best;
        }
        if (keep == 0)
            break;
    }
    return *known = (int8_t)(best + __builtin_popcount(used & ~resident));
}

static void belady_is_the_fewest_possible(void **state)
{
    static const struct routing tiny = {"tiny", 1, 7, 2, 0.3, 0.5, 1.0, 3.0, 20};
    for (uint32_t seed = 1; seed <= 20; seed++) {
        struct trace t;
        routing_make(&t, &tiny, 0, 1 + (int)(seed % 2), 1, 14, seed);
        for (int slots = 0; slots <= 6; slots++) {
            struct replay_counts c;
            static int8_t memo[14 << 7];
            memset(memo, -1, sizeof memo);
            replay_belady(&t, slots, 0, &c);
            assert_int_equal(c.misses, fewest(&t, 0, 0, slots, memo));
        }
        trace_fini(&t);
    }
}

/* All of its experts have more rows than the cap, and yet they are not worth the same. */
static void a_long_prompt_tells_experts_apart(void **state)
{
    const struct policy_ops *steady = policy_find("steady");
    struct policy *p = steady->open(4, 2);
    steady->touch(p, 1, (const int32_t[]){0, 1, 2, 3}, (const int32_t[]){900, 4000, 300, 700}, 4);
    assert_true(steady->worth(p, 1) > steady->worth(p, 0));
    assert_true(steady->worth(p, 0) > steady->worth(p, 3));
    assert_true(steady->worth(p, 3) > steady->worth(p, 2));
    steady->close(p);
}

/* These move when a policy or the generator changes, and only then. */
static void counts_of_a_fixed_trace(void **state)
{
    struct trace t;
    struct replay_counts c;
    routing_make(&t, routing_find("Qwen3-30B-A3B"), 6, 1, 1, 1200, 42);
    static const struct {
        const char *policy;
        uint64_t misses;
    } expected[] = {{"lru", 9577}, {"lfu", 7850}, {"lfru", 7061}, {"steady", 8151}};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        replay_policy(&t, policy_find(expected[i].policy), 192, 100, &c);
        assert_int_equal(c.uses, 6 * 8 * 1100);
        assert_int_equal(c.misses, expected[i].misses);
    }
    trace_fini(&t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(by_hand),
    cmocka_unit_test(lru_is_its_definition),
    cmocka_unit_test(lfu_is_its_definition),
    cmocka_unit_test(lfru_is_its_definition),
    cmocka_unit_test(steady_is_its_definition),
    cmocka_unit_test(belady_is_the_fewest_possible),
    cmocka_unit_test(a_long_prompt_tells_experts_apart),
    cmocka_unit_test(counts_of_a_fixed_trace),
};
CHECK_MAIN(tests)
