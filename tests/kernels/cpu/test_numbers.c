#include "check.h"

#include <math.h>

#include "kernels.h"

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float of_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void bf16_of_all_16_bits(void **state)
{
    for (uint32_t v = 0; v < 65536; v++) {
        float f = kern_from_bf16((uint16_t)v);
        assert_int_equal(bits(f), v << 16);
        uint16_t back = kern_to_bf16(f);
        if (isnan(f))
            assert_int_equal(back, v | 0x40);
        else
            assert_int_equal(back, v);
    }
}

static void f16_of_all_16_bits(void **state)
{
    for (uint32_t v = 0; v < 65536; v++) {
        int exponent = (int)(v >> 10 & 31), mantissa = (int)(v & 1023);
        float f = kern_from_f16((uint16_t)v);
        assert_int_equal(bits(f) >> 31, v >> 15);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(f));
        } else {
            double want = exponent == 31 ? INFINITY
                          : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                         : ldexp(mantissa, -24);
            assert_true((double)fabsf(f) == want);
        }
    }
}

/* Nearest with ties to even, against a search for the nearer neighbour in double. */
static void bf16_rounds_to_nearest_even(void **state)
{
    for (uint64_t u = 0; u < 0x7f800000u; u += 4099) {
        float f = of_bits((uint32_t)u);
        uint16_t low = (uint16_t)(u >> 16);
        double below = (double)f - (double)kern_from_bf16(low), above;
        above = low == 0x7f7f ? ldexp(1, 128) - (double)f
                              : (double)kern_from_bf16((uint16_t)(low + 1)) - (double)f;
        uint16_t want = below < above || (below == above && !(low & 1)) ? low : (uint16_t)(low + 1);
        assert_int_equal(kern_to_bf16(f), want);
        assert_int_equal(kern_to_bf16(-f), want | 0x8000);
    }
    assert_int_equal(kern_to_bf16(of_bits(0x3f808000)), 0x3f80);
    assert_int_equal(kern_to_bf16(of_bits(0x3f818000)), 0x3f82);
    assert_int_equal(kern_to_bf16(INFINITY), 0x7f80);
    assert_int_equal(kern_to_bf16(of_bits(0x7f800001)), 0x7fc0);
}

/* Below 2 ulp of the exact value, subnormal results too. */
static void exp_is_exact_to_2_ulp(void **state)
{
    double worst = 0;
    for (uint64_t u = 0; u < 0x100000000u; u += 977) {
        float x = of_bits((uint32_t)u), got = kern_exp(x);
        if (isnan(x)) {
            assert_true(isnan(got));
            continue;
        }
        double want = exp((double)x);
        if (want >= ldexp(1, 128)) {
            /* within 2 ulp of the largest number either is right */
            assert_true(isinf(got) || (double)x < 88.7229);
            continue;
        }
        int exponent;
        frexp(want, &exponent);
        double ulp = ldexp(1, exponent - 24 < -149 ? -149 : exponent - 24);
        double error = fabs((double)got - want) / ulp;
        worst = error > worst ? error : worst;
    }
    print_message("largest error %.3f ulp\n", worst);
    assert_true(worst < 2);
    assert_true(kern_exp(0) == 1);
    assert_true(kern_exp(-INFINITY) == 0);
    assert_true(isinf(kern_exp(INFINITY)));
}

/* The vector forms give the scalar one's bits for one float in 241 of all there are. */
static void exp_has_the_same_bits_everywhere(void **state)
{
    enum { N = 4096 - 3 };
    static float x[N], want[N], got[N];
    uint64_t u = 0;
    while (u < 0x100000000u) {
        for (int i = 0; i < N; i++, u += 241)
            x[i] = of_bits((uint32_t)u);
        kern_cpu(KERN_ISA_SCALAR)->exp(x, want, N);
        for (int isa = KERN_ISA_AVX2; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
            if (!k)
                continue;
            k->exp(x, got, N);
            if (memcmp(got, want, sizeof got) != 0)
                for (int i = 0; i < N; i++)
                    if (bits(got[i]) != bits(want[i]))
                        fail_msg("%s: exp(%a) = %a, scalar %a", k->name, (double)x[i],
                                 (double)got[i], (double)want[i]);
        }
    }
}

static void record_class_lays_out_three_matrices(void **state)
{
    struct record_class c = record_class_swiglu(DTYPE_BF16, 2048, 768);
    assert_int_equal(c.gate_off, 0);
    assert_int_equal(c.up_off, 2048 * 768 * 2);
    assert_int_equal(c.down_off, 2048 * 768 * 4);
    assert_int_equal(c.bytes, 9437184);
    for (int hidden = 1; hidden < 70; hidden += 4)
        for (int wide = 1; wide < 70; wide += 3)
            for (enum dtype t = 0; t < DTYPE_COUNT; t++) {
                c = record_class_swiglu(t, hidden, wide);
                size_t matrix = (size_t)hidden * (size_t)wide * dtype_bytes(t);
                assert_int_equal(c.up_off % 64, 0);
                assert_int_equal(c.down_off % 64, 0);
                assert_int_equal(c.bytes % RECORD_ALIGN_BYTES, 0);
                assert_in_range(c.up_off, c.gate_off + matrix, c.gate_off + matrix + 63);
                assert_in_range(c.down_off, c.up_off + matrix, c.up_off + matrix + 63);
                assert_in_range(c.bytes, c.down_off + matrix, c.down_off + matrix + 4095);
                assert_int_equal(c.dtype, t);
                assert_int_equal(c.hidden, hidden);
                assert_int_equal(c.intermediate, wide);
            }
}

static void isa_names_parse_back(void **state)
{
    for (int i = 0; i < KERN_ISA_COUNT; i++)
        assert_int_equal(kern_isa_parse(kern_isa_name((enum kern_isa)i)), i);
    assert_int_equal(kern_isa_parse("sse"), -1);
    assert_null(kern_isa_name(KERN_ISA_COUNT));
    assert_non_null(kern_cpu(KERN_ISA_AUTO));
    assert_non_null(kern_cpu(KERN_ISA_SCALAR));
    for (int i = KERN_ISA_SCALAR; i < KERN_ISA_COUNT; i++)
        if (kern_cpu((enum kern_isa)i))
            assert_string_equal(kern_cpu((enum kern_isa)i)->name, kern_isa_name((enum kern_isa)i));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(bf16_of_all_16_bits),
    cmocka_unit_test(f16_of_all_16_bits),
    cmocka_unit_test(bf16_rounds_to_nearest_even),
    cmocka_unit_test(exp_is_exact_to_2_ulp),
    cmocka_unit_test(exp_has_the_same_bits_everywhere),
    cmocka_unit_test(record_class_lays_out_three_matrices),
    cmocka_unit_test(isa_names_parse_back),
};
CHECK_MAIN(tests)
