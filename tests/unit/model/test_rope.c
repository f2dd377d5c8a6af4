#include "check.h"

#include <math.h>

#include "model/model_int.h"

/* Every position, in jobs of threads and behind the last whole one, has its own angle. */
static void tables_have_all_positions(void **state)
{
    const struct model_config c = {.head_dim = 12, .rope_theta = 10000};
    static const int32_t contexts[] = {1, 127, 128, 129, 1000};
    enum { HALF = 6, MOST = 1000 };
    static float cos_at[MOST * HALF + 1], sin_at[MOST * HALF + 1];
    struct moed_error err;
    for (size_t k = 0; k < sizeof contexts / sizeof contexts[0]; k++) {
        size_t n = (size_t)contexts[k] * HALF;
        memset(cos_at, 0xff, sizeof cos_at);
        memset(sin_at, 0xff, sizeof sin_at);
        assert_ok(rope_tables(&c, contexts[k], cos_at, sin_at, &err), &err);
        for (size_t i = 0; i < n; i++) {
            double angle = pow(10000, -2.0 * (double)(i % HALF) / 12) * (double)(i / HALF);
            assert_true(fabs(cos_at[i] - cos(angle)) < 1e-7);
            assert_true(fabs(sin_at[i] - sin(angle)) < 1e-7);
        }
        assert_true(isnan(cos_at[n]) && isnan(sin_at[n])); /* and nothing behind them */
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tables_have_all_positions),
};

CHECK_MAIN(tests)
