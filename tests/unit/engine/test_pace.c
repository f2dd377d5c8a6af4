/* The pace of long passes, as arithmetic. */
#include "check.h"

#include <math.h>

#include "engine/pace.h"

static void layers_fill_what_a_step_leaves_of_the_target(void **state)
{
    struct pace p = {.target_us = 100000};
    pace_new_pass(&p);
    pace_step(&p, 1000000, 1010000);
    /* Nothing is known of the layers: one shows. */
    assert_int_equal(pace_layers(&p, 1010000, 48, true), 1);
    assert_int_equal(pace_layers(&p, 1010000, 48, false), 0);
    pace_layers_ran(&p, 1, 20000);
    /* Nine tenths of 100 ms, less 10 for the step, less 20 gone: three more of 20. */
    assert_int_equal(pace_layers(&p, 1030000, 47, false), 3);
    assert_int_equal(pace_layers(&p, 1041000, 47, false), 2);
    assert_int_equal(pace_layers(&p, 1030000, 2, false), 2);
    assert_int_equal(pace_layers(&p, 1100000, 47, false), 0);
    assert_int_equal(pace_layers(&p, 1100000, 47, true), 1);
    assert_int_equal(pace_layers(&p, 1100000, 0, true), 0);
}

static void slow_layers_and_slow_steps_still_advance(void **state)
{
    struct pace p = {.target_us = 1000};
    pace_step(&p, 0, 5000);
    pace_layers_ran(&p, 1, 30000);
    assert_int_equal(pace_layers(&p, 5000, 48, true), 1);
    assert_int_equal(pace_layers(&p, 35000, 47, false), 0);
}

static void expectations_are_a_mean_and_its_deviations(void **state)
{
    struct pace p = {.target_us = 100000};
    pace_layers_ran(&p, 2, 20000);
    assert_true(p.layer.mean_us == 10000 && p.layer.deviation_us == 0);
    pace_layers_ran(&p, 1, 26000);
    assert_true(p.layer.mean_us == 11000 && p.layer.deviation_us == 1000);
    /* Steps of 20 and 40 ms in turns: 30, and a deviation of 10. */
    int64_t now = 0;
    for (int i = 0; i < 400; i++) {
        int64_t us = i % 2 ? 40000 : 20000;
        pace_step(&p, now, now + us);
        now += us;
    }
    assert_true(fabs(p.step.mean_us - 30000) < 1000 && fabs(p.step.deviation_us - 10000) < 500);
    /* A clock that stands still divides nothing by zero. */
    pace_new_pass(&p);
    pace_layers_ran(&p, 4, 0);
    assert_true(p.layer.mean_us == 1);
    pace_no_streams(&p, 7);
    assert_int_equal(pace_layers(&p, 7, 48, true), 48);
}

/* Streams as they were seen beside long passes on an H200: steps of so many milliseconds with a
 * normal spread, and some of a long tail; layers of so many. */
struct seen {
    const char *name;
    double step_ms, spread_ms, most_ms, tail, layer_ms, layer_spread_ms;
    int64_t target_us;
};

static uint64_t draws;

static double even(void)
{
    draws = draws * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(draws >> 11) * 0x1p-53;
}

static double normal(void)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += even();
    return sum;
}

static int64_t draw_step(const struct seen *s)
{
    double ms = s->step_ms + s->spread_ms * normal();
    if (even() < s->tail)
        ms = s->most_ms - (s->most_ms - s->step_ms) * 0.4 * even();
    return (int64_t)(fmin(ms, s->most_ms) * 1e3);
}

struct kept {
    double p50_ms, p99_ms, layers; /* between two tokens; in a turn */
};

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* limit: so many layers in each turn, whatever the pace says; 0: the pace. */
static struct kept turns(const struct seen *s, int limit)
{
    enum { TURNS = 20000, WARM = 50, LAYERS = 48 };
    static double gap_ms[TURNS];
    struct pace p = {.target_us = s->target_us};
    int64_t now = 0, layers = 0;
    int32_t left = LAYERS;
    draws = 1;
    for (int i = 0; i < TURNS + WARM; i++) {
        int64_t token = now;
        int32_t n = 0;
        for (bool first = true; i >= WARM; first = false) {
            n = limit ? first * limit : pace_layers(&p, now, left, first);
            n = n < left ? n : left;
            if (n == 0)
                break;
            int64_t us = 0;
            for (int k = 0; k < n; k++)
                us += (int64_t)((s->layer_ms + s->layer_spread_ms * normal()) * 1e3);
            pace_layers_ran(&p, n, us);
            now += us;
            layers += n;
            left -= n;
            if (left == 0) {
                left = LAYERS;
                pace_new_pass(&p);
                break;
            }
        }
        int64_t us = draw_step(s);
        pace_step(&p, now, now + us);
        now += us;
        if (i >= WARM)
            gap_ms[i - WARM] = (double)(now - token) * 1e-3;
    }
    qsort(gap_ms, TURNS, sizeof *gap_ms, compare);
    return (struct kept){gap_ms[TURNS / 2], gap_ms[TURNS * 99 / 100], (double)layers / TURNS};
}

static void one_token_in_a_hundred_is_late_at_most(void **state)
{
    const struct seen seen[] = {
        {"8 streams, 200 ms", 110, 12, 165, 0.06, 20, 2, 200000},
        {"4 streams, 100 ms", 53, 4, 70, 0.02, 20, 1.5, 100000},
        {"1 stream, 100 ms", 7.8, 0.8, 10.6, 0.01, 18, 1, 100000},
    };
    for (size_t i = 0; i < sizeof seen / sizeof seen[0]; i++) {
        const struct seen *s = &seen[i];
        struct kept k = turns(s, 0);
        double target_ms = (double)s->target_us * 1e-3;
        /* A fixed number of layers that is one more than what the pace takes on average is late. */
        struct kept more = turns(s, (int)ceil(k.layers + 0.5));
        print_message("%s: p50 %.1f ms, p99 %.1f ms, %.2f layers a turn; with %.2f p99 %.1f ms\n",
                      s->name, k.p50_ms, k.p99_ms, k.layers, more.layers, more.p99_ms);
        assert_true(k.p99_ms <= target_ms);
        assert_true(k.layers >= 1 && more.p99_ms > target_ms);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(layers_fill_what_a_step_leaves_of_the_target),
    cmocka_unit_test(slow_layers_and_slow_steps_still_advance),
    cmocka_unit_test(expectations_are_a_mean_and_its_deviations),
    cmocka_unit_test(one_token_in_a_hundred_is_late_at_most),
};
CHECK_MAIN(tests)
