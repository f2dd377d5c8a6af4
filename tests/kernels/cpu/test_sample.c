#include "check.h"

#include <math.h>
#include <stdbool.h>

#include "support_sample.h"

static int32_t pick(const float *logits, int vocab, const struct kern_sample_row *row)
{
    void *scratch = malloc(kern_sample_cpu_scratch_bytes(vocab));
    int32_t token = kern_sample_cpu(logits, vocab, row, scratch);
    free(scratch);
    return token;
}

/* small: of all sizes up to `most`, or of about that. */
static void compare(int cases, int most, bool small)
{
    for (int i = 0; i < cases; i++) {
        struct rng r = {(uint64_t)i + 1};
        int vocab = small ? sample_vocab(&r, most) : most - i % 4;
        float *logits = malloc((size_t)vocab * sizeof *logits);
        sample_logits(&r, (uint64_t)i, logits, vocab);
        for (int k = 0; k < 12; k++) {
            struct kern_sample_row row = sample_row(&r, vocab);
            int32_t got = pick(logits, vocab, &row), want = sample_reference(logits, vocab, &row);
            if (got != want)
                fail_msg("case %d.%d, %d logits, temperature %g, top_k %d, top_p %g, min_p %g: "
                         "token %d, by the rule %d",
                         i, k, vocab, (double)row.temperature, row.top_k, (double)row.top_p,
                         (double)row.min_p, got, want);
        }
        free(logits);
    }
}

static void tokens_are_those_of_the_rule(void **state)
{
    compare(400, 6000, true);
}

static void tokens_of_large_vocabularies_are_those_of_the_rule(void **state)
{
    compare(9, 151936, false);
}

static void exp_of_the_rule_is_near_exp(void **state)
{
    double worst = 0;
    for (float x = 0; x > -87; x -= 0.00037f) {
        double want = exp((double)x), off = fabs((double)sample_exp(x) - want) / want;
        worst = off > worst ? off : worst;
    }
    assert_true(worst < 2e-7);
    assert_true(worst > 1e-8);
    assert_true(sample_exp(0) == 1 && sample_exp(-0.0f) == 1);
    assert_true(sample_exp(-87) == 0 && sample_exp(-INFINITY) == 0 && sample_exp(NAN) == 0);
}

static void weights_are_rounded_to_whole_numbers(void **state)
{
    static const struct {
        float share;
        uint64_t weight;
    } cases[] = {{0, 0},
                 {1, 1ull << 40},
                 {0.5f, 1ull << 39},
                 {0x1p-40f, 1},
                 {0x1p-41f, 0},
                 {0x1.8p-40f, 2},
                 {0x1.4p-39f, 2},
                 {0x1.cp-39f, 4},
                 {0x1.2p-41f, 1},
                 {0x1.fffffep-1f, 0xFFFFFF0000u}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(sample_weight(cases[i].share), cases[i].weight);
    /* Nothing has a weight but no share. */
    float edge = 0x1p-41f;
    assert_true(sample_weight(nextafterf(edge, 1)) == 1);
    assert_true(sample_share(-28.43f, 0, 1, 0) == 0);
    assert_true(sample_share(-28.4f, 0, 1, 0) > 0);
}

static void the_order_is_by_logit_then_by_id(void **state)
{
    static const float falling[] = {INFINITY, 3e38f,   2.5f,  1e-45f, 0,
                                    -1e-45f,  -1e-38f, -2.5f, -3e38f, -INFINITY};
    enum { N = sizeof falling / sizeof *falling };
    for (int i = 0; i < N; i++) {
        assert_true(sample_logit(sample_key(falling[i])) == falling[i]);
        if (i + 1 < N)
            assert_true(sample_order(falling[i], 9) > sample_order(falling[i + 1], 0));
        assert_true(sample_order(falling[i], 3) > sample_order(falling[i], 4));
        assert_true(sample_order(falling[i], 4000000) > sample_order(NAN, 0));
    }
    assert_true(sample_order(-0.0f, 0) > sample_order(0.0f, 1));
    assert_true(sample_order(0.0f, 0) > sample_order(-0.0f, 1));
    assert_int_equal(sample_order(NAN, 5), 0);
}

static void targets_are_exact(void **state)
{
    struct rng r = {3};
    for (int i = 0; i < 100000; i++) {
        uint64_t sum = (rng_next(&r) >> 1) >> rng_int(&r, 0, 62), random = rng_next(&r) >> 11;
        uint64_t want = (uint64_t)((unsigned __int128)sum * random >> 53);
        assert_int_equal(sample_target(sum, random), want);
    }
    uint64_t last = (1ull << 53) - 1, most = (1ull << 62);
    assert_int_equal(sample_target(most, last), most - (1ull << 9));
    assert_int_equal(sample_target(1, last), 0);
    assert_true(sample_need(0, most) == 1 && sample_need(0.5f, most) == most / 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_are_those_of_the_rule),
    cmocka_unit_test(tokens_of_large_vocabularies_are_those_of_the_rule),
    cmocka_unit_test(exp_of_the_rule_is_near_exp),
    cmocka_unit_test(weights_are_rounded_to_whole_numbers),
    cmocka_unit_test(the_order_is_by_logit_then_by_id),
    cmocka_unit_test(targets_are_exact),
};
CHECK_MAIN(tests)
