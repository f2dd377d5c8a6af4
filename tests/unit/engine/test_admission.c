/* The rule of admission, as arithmetic: steps of rates that the test sets. What it comes to in
 * traffic is in tests/sim/sched/test_admission.c. */
#include "check.h"

#include <math.h>

#include "engine/admission.h"

enum { MAX_SEQS = 64 };

struct rig {
    struct admission a;
    int64_t now_us;
    double rate[MAX_SEQS + 1]; /* tokens/s at so many rows */
    int32_t running, demand;
};

static void open_rig(struct rig *g, int64_t max_wait_us)
{
    *g = (struct rig){.demand = 1};
    admission_init(&g->a, MAX_SEQS, max_wait_us);
}

static void rates(struct rig *g, double one, double two, double four, double eight)
{
    const double rate[] = {one, two, four, eight, eight, eight, eight};
    for (int n = 1; n <= MAX_SEQS; n++)
        g->rate[n] = rate[(int)round(log2(n))];
}

/* So many seconds with `demand` sequences that want to run; each step one of them may end, so that
 * the batch shrinks as soon as it may. Returns the limit at the end. */
static int32_t run(struct rig *g, int32_t demand, double seconds)
{
    int64_t end = g->now_us + (int64_t)(seconds * 1e6);
    int32_t limit = 0;
    g->demand = demand;
    while (g->now_us < end) {
        limit = admission_limit(&g->a, g->now_us, g->running, demand - g->running);
        assert_in_range(limit, 1, MAX_SEQS);
        if (g->running > limit || g->running > demand)
            g->running--;
        while (g->running < limit && g->running < demand)
            g->running++;
        int64_t begin = g->now_us;
        g->now_us += (int64_t)(g->running / g->rate[g->running] * 1e6);
        admission_step(&g->a, g->running, true, begin, g->now_us);
    }
    return limit;
}

static double known(const struct rig *g, int size)
{
    return g->a.size[size].rate;
}

static void one_client_is_never_held_back(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 50, 40, 30);
    assert_int_equal(run(&g, 1, 10), MAX_SEQS);
    assert_true(fabs(known(&g, 0) - 100) < 1);
    assert_int_equal(admission_limit(&g.a, g.now_us, 0, 0), MAX_SEQS);
}

static void a_batch_that_loses_is_tried_once_and_left(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 50, 40, 30);
    assert_int_equal(run(&g, 2, 1.5), 1);      /* not known yet: with one it begins */
    assert_int_equal(run(&g, 2, 1), MAX_SEQS); /* two are all */
    assert_int_equal(run(&g, 2, 3), 1);
    assert_true(known(&g, 1) > 0);
    assert_int_equal(run(&g, 2, 200), 1);
    assert_int_equal(g.running, 1);
}

static void a_batch_that_gains_is_climbed(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 180, 300, 500);
    assert_int_equal(run(&g, 8, 12), MAX_SEQS);
    assert_true(g.a.chosen == 3 && g.running == 8);
    /* Fewer that want to run are all admitted, and more than are known are tried. */
    assert_int_equal(run(&g, 3, 3), MAX_SEQS);
    run(&g, 32, 200);
    assert_true(known(&g, 4) > 0 && known(&g, 5) > 0);
}

static void a_size_that_becomes_a_little_worse_stays(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 101, 60, 50);
    assert_int_equal(run(&g, 4, 90), 2); /* what all together cost is earned back first */
    rates(&g, 100, 99, 60, 50);
    assert_int_equal(run(&g, 4, 20), 2);
    rates(&g, 100, 96, 60, 50);
    assert_int_equal(run(&g, 4, 20), 1);
}

static void all_together_is_tried_at_once(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 80, 70, 150);
    run(&g, 8, 4.5);
    assert_true(g.a.chosen == 3 && known(&g, 1) == 0 && known(&g, 2) == 0);
}

static void a_valley_is_crossed_when_its_cost_is_earned(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 80, 70, 150);
    for (int n = 12; n <= MAX_SEQS; n++)
        g.rate[n] = 60;
    admission_ended(&g.a, 100);
    run(&g, 16, 20);
    assert_true(known(&g, 4) > 0 && known(&g, 3) == 0);
    assert_int_equal(run(&g, 16, 600), 8);
    assert_int_equal(g.running, 8);
}

/* A size that looks best for a few windows whenever it is tried, and then is not. */
static void what_soon_disappoints_is_chosen_less_and_less(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 90, 90, 120);
    run(&g, 8, 60);
    int32_t changes[2] = {0, 0}, last = g.a.chosen;
    int64_t one_us = 0;
    for (int second = 0; second < 7200; second++) {
        one_us = g.running == 1 ? one_us + 1000000 : 0;
        g.rate[1] = one_us < 6000000 ? 140 : 100;
        run(&g, 8, 1);
        changes[second >= 3600] += g.a.chosen != last;
        last = g.a.chosen;
    }
    assert_in_range(changes[0], 2, 20);
    assert_in_range(changes[1], 0, changes[0] / 2);
}

static void waits_that_are_not_borne_open_the_batch(void **state)
{
    struct rig g;
    open_rig(&g, 10000000);
    rates(&g, 100, 50, 40, 30);
    admission_ended(&g.a, 200);
    assert_int_equal(run(&g, 6, 20), 1);        /* the last waits for five of two seconds */
    assert_int_equal(run(&g, 8, 20), MAX_SEQS); /* for seven */
    assert_int_equal(run(&g, 6, 20), MAX_SEQS); /* who is admitted stays so */
    assert_int_equal(run(&g, 4, 20), 1);
}

static void what_is_not_pure_or_not_settled_is_not_learned(void **state)
{
    struct admission a;
    admission_init(&a, 8, 0);
    int64_t now = 0;
    for (int i = 0; i < 1000; i++, now += 10000)
        admission_step(&a, 4, false, now, now + 10000);
    assert_true(a.size[2].rate == 0);
    /* Ten seconds of one size and another in turns, each too short to settle. */
    for (int i = 0; i < 1000; i++, now += 10000)
        admission_step(&a, i / 50 % 2 ? 4 : 1, true, now, now + 10000);
    assert_true(a.size[2].rate == 0 && a.size[0].rate == 0);
    /* A step of another size now and then changes nothing, and is not counted. */
    for (int i = 0; i < 400; i++, now += 10000)
        admission_step(&a, i % 50 ? 4 : 1, true, now, now + 10000);
    assert_true(fabs(a.size[2].rate - 400) < 1 && a.size[0].rate == 0);
    /* A clock that stands still, and steps without decode rows. */
    admission_step(&a, 4, true, now, now);
    admission_step(&a, 0, true, now, now + 1);
}

static void a_rate_that_moves_puts_the_others_in_doubt(void **state)
{
    struct rig g;
    open_rig(&g, 0);
    rates(&g, 100, 50, 40, 30);
    run(&g, 2, 30);
    assert_true(g.a.size[1].retry_us > g.now_us + 100000000);
    /* The traffic is another: one gets more, and two more than that. */
    rates(&g, 200, 350, 40, 30);
    assert_int_equal(run(&g, 2, 120), MAX_SEQS);
    assert_int_equal(g.running, 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(one_client_is_never_held_back),
    cmocka_unit_test(a_batch_that_loses_is_tried_once_and_left),
    cmocka_unit_test(a_batch_that_gains_is_climbed),
    cmocka_unit_test(a_size_that_becomes_a_little_worse_stays),
    cmocka_unit_test(all_together_is_tried_at_once),
    cmocka_unit_test(a_valley_is_crossed_when_its_cost_is_earned),
    cmocka_unit_test(what_soon_disappoints_is_chosen_less_and_less),
    cmocka_unit_test(waits_that_are_not_borne_open_the_batch),
    cmocka_unit_test(what_is_not_pure_or_not_settled_is_not_learned),
    cmocka_unit_test(a_rate_that_moves_puts_the_others_in_doubt),
};
CHECK_MAIN(tests)
