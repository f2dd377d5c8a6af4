/*
 * Would streams that evict each other's experts do better in turns? k of n streams decode a burst
 * of B tokens, then the next k, so that the cache serves few conversations at a time. Tokens per
 * second of all streams, and the longest gap between two tokens of one, with the cache of
 * Qwen3-30B-A3B, a quarter of its experts resident, and the costs of a machine with an H200.
 *
 * Asserted: the replay has the hits that were measured in lock step, so it may be believed; short
 * bursts are worse than lock step with the default policy; with one that knows whose turn it is
 * they are better than lock step, and still far from what one stream alone gets.
 */
#include "check.h"

#include <math.h>

#include "base/mem.h"
#include "cli/routing.h"
#include "pager/replay.h"

#define LAYERS       12 /* of MODEL_LAYERS; costs are those of all */
#define MODEL_LAYERS 48
#define EXPERTS      128
#define TOP_K        8
#define KEYS         (LAYERS * EXPERTS)
#define SLOTS        (KEYS / 4)
#define MAX_STREAMS  32

/* A step: what does not depend on misses, which grows little with rows, and misses at what CPU and
 * link read together, of which the link has a quarter; what the link has left brings admissions.
 * The first and the third are fitted to the measured steps of 1 and 8 rows. */
#define GPU_MS        3.9
#define GPU_MS_ROW    0.03
#define MISS_BYTES_S  117e9
#define LINK_BYTES_S  45e9
#define MISSES_LINK   0.25
#define RECORD_BYTES  9437184.0
#define MODEL_RECORDS ((double)MODEL_LAYERS / LAYERS) /* for one of the trace */

struct turns {
    int n, k, burst;
    int tokens; /* of each stream at least, run first, and as many that count */
};

/* The first stream of the k that step (from 0) computes. */
static int first_of(const struct turns *s, size_t step)
{
    int groups = (s->n + s->k - 1) / s->k;
    return (int)(step / (size_t)s->burst % (size_t)groups) * s->k;
}

static int rows_of(const struct turns *s, int first)
{
    return first + s->k < s->n ? s->k : s->n - first;
}

static void make_trace(struct trace *out, const struct turns *s, size_t n_steps)
{
    struct moed_error err = {0};
    struct routing *r;
    bool has_experts[LAYERS];
    int32_t id[LAYERS * TOP_K];
    int(*rows)[EXPERTS] = mem_new(LAYERS, sizeof rows[0]);
    memset(has_experts, true, sizeof has_experts);
    const struct routing_shape shape = {LAYERS, EXPERTS, TOP_K, has_experts};
    assert_ok(routing_open(&r, routing_find("qwen3-30b-a3b"), &shape, s->n, 20260101, &err), &err);
    *out = (struct trace){.n_layers = LAYERS, .n_experts = EXPERTS};
    for (size_t step = 0; step < n_steps; step++) {
        int first = first_of(s, step);
        memset(rows, 0, LAYERS * sizeof rows[0]);
        for (int i = first; i < first + rows_of(s, first); i++) {
            routing_draw(r, i, 1, id, TOP_K);
            for (int c = 0; c < LAYERS * TOP_K; c++)
                rows[c / TOP_K][id[c]]++;
        }
        for (int layer = 0; layer < LAYERS; layer++)
            for (int e = 0; e < EXPERTS; e++)
                if (rows[layer][e])
                    trace_use(out, layer, e, rows[layer][e]);
        trace_end_step(out);
    }
    routing_close(&r);
    free(rows);
}

/*
 * A policy that knows whose turn it is: worth is the use rate of each stream, over its own tokens,
 * weighted by its part of the steps to come, which count half after AHEAD steps. For k = 1.
 */
#define HALF_LIFE 32
#define AHEAD     5
#define MARGIN    0.03

static struct turns turns_now; /* of the policy that is open: its table has no place for it */

struct policy {
    struct turns turns;
    uint64_t step;
    float rate[MAX_STREAMS][KEYS];
    double worth[KEYS];
    bool resident[KEYS], refused[KEYS]; /* refused: as a victim, in this step */
};

static struct policy *turns_open(int32_t n_keys, int32_t n_slots)
{
    assert_int_equal(n_keys, KEYS);
    assert_int_equal(n_slots, SLOTS);
    struct policy *p = mem_new(1, sizeof *p);
    p->turns = turns_now;
    return p;
}

static void turns_close(struct policy *p)
{
    free(p);
}

/* What the last step used has been added; step is the next one. */
static void weigh(struct policy *p, size_t step)
{
    double weight[MAX_STREAMS] = {0}, f = 1 - exp2(-1.0 / AHEAD);
    for (int i = 0; i < 10 * AHEAD; i++, f *= exp2(-1.0 / AHEAD))
        weight[first_of(&p->turns, step + (size_t)i)] += f;
    memset(p->worth, 0, sizeof p->worth);
    for (int s = 0; s < p->turns.n; s++)
        for (int key = 0; key < KEYS && weight[s] > 0; key++)
            p->worth[key] += weight[s] * p->rate[s][key];
}

static void turns_touch(struct policy *p, uint64_t step, const int32_t *keys, const int32_t *rows,
                        size_t n)
{
    const float keep = (float)exp2(-1.0 / HALF_LIFE);
    float *rate = p->rate[first_of(&p->turns, step - 1)];
    if (step != p->step) {
        p->step = step;
        memset(p->refused, 0, sizeof p->refused);
        for (int key = 0; key < KEYS; key++)
            rate[key] *= keep;
    }
    for (size_t i = 0; i < n; i++)
        rate[keys[i]] += 1 - keep;
    if (keys[0] / EXPERTS == LAYERS - 1)
        weigh(p, step);
}

static void turns_insert(struct policy *p, int32_t key)
{
    p->resident[key] = true;
}

static void turns_remove(struct policy *p, int32_t key)
{
    p->resident[key] = false;
}

static int32_t turns_victim(struct policy *p, bool (*evictable)(void *user, int32_t key),
                            void *user)
{
    for (;;) {
        int32_t least = -1;
        for (int32_t key = 0; key < KEYS; key++)
            if (p->resident[key] && !p->refused[key] &&
                (least < 0 || p->worth[key] < p->worth[least]))
                least = key;
        if (least < 0 || evictable(user, least))
            return least;
        p->refused[least] = true;
    }
}

static double turns_worth(const struct policy *p, int32_t key)
{
    return p->worth[key];
}

static bool turns_admit(struct policy *p, int32_t key, int32_t victim)
{
    return victim < 0 || p->worth[key] >= p->worth[victim] + MARGIN;
}

static const struct policy_ops policy_turns = {
    .name = "turns",
    .open = turns_open,
    .close = turns_close,
    .touch = turns_touch,
    .insert = turns_insert,
    .remove = turns_remove,
    .victim = turns_victim,
    .worth = turns_worth,
    .admit = turns_admit,
};

struct outcome {
    double tokens_s, gap_s, hits; /* of all streams; the longest; percent */
};

/* Half of the steps, at least two rounds of turns, are run first and not counted. */
static struct outcome outcome(const struct turns *s, const struct policy_ops *ops)
{
    int groups = (s->n + s->k - 1) / s->k;
    size_t round = (size_t)(groups * s->burst), rounds = 1 + (size_t)(s->tokens * groups) / round;
    size_t warm = (rounds < 2 ? 2 : rounds) * round;
    struct trace t;
    struct replay_counts c = {0};
    double loads = 26, step_s = 0;
    make_trace(&t, s, 2 * warm);
    turns_now = *s;
    /* What the link brings depends on how long steps take, and that on what it brings. */
    for (int i = 0; i < 2; i++) {
        replay_link(&t, ops, SLOTS, loads / MODEL_RECORDS, warm, &c);
        double missed = (double)c.misses * MODEL_RECORDS * RECORD_BYTES / (double)warm;
        step_s = (GPU_MS + GPU_MS_ROW * (s->k - 1)) * 1e-3 + missed / MISS_BYTES_S;
        loads = (LINK_BYTES_S * step_s - MISSES_LINK * missed) / RECORD_BYTES;
    }
    trace_fini(&t);
    /* A burst takes about as long as any other. */
    return (struct outcome){.tokens_s = s->n / (groups * step_s),
                            .gap_s = ((groups - 1) * s->burst + 1) * step_s,
                            .hits = 100.0 * (double)c.hits / (double)c.uses};
}

static struct outcome in_turns(int n, int k, int burst, const struct policy_ops *ops)
{
    return outcome(&(struct turns){n, k, burst, 500}, ops);
}

static struct outcome in_lock_step(int n)
{
    return in_turns(n, n, 1, policy_find("steady"));
}

static void print_row(int n, int k, const struct policy_ops *ops)
{
    print_message("| %d | %d | %s |", n, k, ops->name);
    for (int burst = 1; burst <= 128; burst *= burst == 1 ? 4 : 2) {
        struct outcome o = outcome(&(struct turns){n, k, burst, 200}, ops);
        print_message(" %.0f (%.2f) |", o.tokens_s, o.gap_s);
    }
    print_message("\n");
}

/* On an H200, in the same routing. */
static void lock_step_is_as_measured(void **state)
{
    static const double hits[] = {84, 71, 56, 41, 33, 28};
    static const double tokens_s[] = {112, 95.6, 81, 69.9, 75.3, 100.9};
    for (int i = 0; i < 6; i++) {
        struct outcome o = in_lock_step(1 << i);
        print_message("%d: hits %.1f %%, measured %.0f %%; %.0f tokens/s, measured %.1f\n", 1 << i,
                      o.hits, hits[i], o.tokens_s, tokens_s[i]);
        assert_true(fabs(o.hits - hits[i]) < 3);
        assert_true(fabs(o.tokens_s / tokens_s[i] - 1) < 0.15);
    }
}

static void short_bursts_are_worse_than_lock_step(void **state)
{
    const struct policy_ops *steady = policy_find("steady");
    double lock_step = in_lock_step(8).tokens_s;
    for (int burst = 4; burst <= 32; burst *= 2) {
        struct outcome one = in_turns(8, 1, burst, steady), two = in_turns(8, 2, burst, steady);
        print_message("8 streams, bursts of %d: %.0f and %.0f tokens/s in turns of one and of two, "
                      "lock step %.0f\n",
                      burst, one.tokens_s, two.tokens_s, lock_step);
        assert_true(one.tokens_s < 0.9 * lock_step);
        assert_true(two.tokens_s < 0.9 * lock_step);
    }
}

static void a_policy_that_knows_the_turns_does_not_reach_one_stream(void **state)
{
    struct outcome alone = in_turns(1, 1, 1, &policy_turns);
    struct outcome bursts = in_turns(8, 1, 32, &policy_turns), together = in_lock_step(8);
    print_message("8 streams, bursts of 32: %.0f tokens/s, gaps of %.1f s; lock step %.0f, one "
                  "stream alone %.0f\n",
                  bursts.tokens_s, bursts.gap_s, together.tokens_s, alone.tokens_s);
    assert_true(fabs(alone.tokens_s / in_lock_step(1).tokens_s - 1) < 0.05);
    assert_true(bursts.tokens_s > 1.05 * together.tokens_s);
    assert_true(bursts.tokens_s < 0.75 * alone.tokens_s);
    assert_true(bursts.gap_s > 2);
}

static void table_deep(void **state)
{
    const struct policy_ops *steady = policy_find("steady");
    print_message("tokens/s of all (longest gap, s), bursts of 1, 4, 8, 16, 32, 64, 128 tokens\n");
    for (int n = 2; n <= MAX_STREAMS; n *= 2) {
        struct outcome o = in_lock_step(n);
        print_message("%d in lock step: %.0f (%.2f)\n", n, o.tokens_s, o.gap_s);
        for (int k = 1; k <= 4 && k < n; k *= 2)
            print_row(n, k, steady);
        print_row(n, 1, &policy_turns);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(lock_step_is_as_measured),
    cmocka_unit_test(short_bursts_are_worse_than_lock_step),
    cmocka_unit_test(a_policy_that_knows_the_turns_does_not_reach_one_stream),
    cmocka_unit_test(table_deep),
};
CHECK_MAIN(tests)
