/* The pace of long passes, as arithmetic. */
#include "check.h"

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
    /* 90 ms less 10 for the step less 20 gone: three more of 20. */
    assert_int_equal(pace_layers(&p, 1030000, 47, false), 3);
    assert_int_equal(pace_layers(&p, 1031000, 47, false), 2);
    assert_int_equal(pace_layers(&p, 1030000, 2, false), 2);
    assert_int_equal(pace_layers(&p, 1090000, 47, false), 0);
    assert_int_equal(pace_layers(&p, 1090000, 47, true), 1);
    assert_int_equal(pace_layers(&p, 1090000, 0, true), 0);
}

static void slow_layers_and_slow_steps_still_advance(void **state)
{
    struct pace p = {.target_us = 1000};
    pace_step(&p, 0, 5000);
    pace_layers_ran(&p, 1, 30000);
    assert_int_equal(pace_layers(&p, 5000, 48, true), 1);
    assert_int_equal(pace_layers(&p, 35000, 47, false), 0);
}

static void expectations_rise_at_once_and_fall_slowly(void **state)
{
    struct pace p = {.target_us = 100000};
    pace_layers_ran(&p, 2, 20000);
    assert_int_equal(p.layer_us, 10000);
    pace_layers_ran(&p, 1, 30000);
    assert_int_equal(p.layer_us, 30000);
    pace_layers_ran(&p, 1, 10000);
    assert_int_equal(p.layer_us, 20000);
    /* A clock that stands still divides nothing by zero. */
    pace_new_pass(&p);
    pace_layers_ran(&p, 4, 0);
    assert_int_equal(p.layer_us, 1);
    pace_no_streams(&p, 7);
    assert_int_equal(pace_layers(&p, 7, 48, true), 48);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(layers_fill_what_a_step_leaves_of_the_target),
    cmocka_unit_test(slow_layers_and_slow_steps_still_advance),
    cmocka_unit_test(expectations_rise_at_once_and_fall_slowly),
};
CHECK_MAIN(tests)
