/* A store without files. */
#include "check.h"

#include <math.h>

#include "store/store.h"

static float bf16(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

/* The value of an IEEE 754 half, by its definition. */
static float f16(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float x = e == 0 ? ldexpf((float)m, -24) : ldexpf((float)(m + 1024), e - 25);
    return h & 0x8000 ? -x : x;
}

static struct store *open_dummy(void)
{
    struct store *s;
    struct moed_error err = {0};
    assert_ok(store_open_dummy(&s, &err), &err);
    assert_true(store_is_dummy(s));
    return s;
}

static const struct tensor_ref *expect(struct store *s, const char *name, int64_t rows,
                                       int64_t columns, enum dtype dtype)
{
    struct moed_error err = {0};
    const struct tensor_ref *t;
    assert_ok(store_expect(s, name, 2, (const int64_t[]){rows, columns}, dtype, &t, &err), &err);
    return t;
}

static void tensors_exist_with_the_shape_asked_for(void **state)
{
    struct store *s = open_dummy();
    struct moed_error err = {0};
    const struct tensor_ref *t = expect(s, "w", 3, 5, DTYPE_BF16), *again;
    assert_int_equal(t->bytes, 30);
    assert_int_equal(t->file, -1);
    for (int i = 0; i < 2000; i++) {
        char name[32];
        snprintf(name, sizeof name, "layer.%d", i);
        expect(s, name, 1, 1, DTYPE_F32);
    }
    assert_ptr_equal(expect(s, "w", 3, 5, DTYPE_BF16), t);
    assert_ptr_equal(store_find(s, "w"), t);
    assert_int_equal(store_count(s), 2001);
    assert_string_equal(store_at(s, 2000)->name, "layer.1999");
    assert_int_equal(store_expect(s, "w", 2, (const int64_t[]){5, 3}, DTYPE_BF16, &again, &err),
                     MOED_EFORMAT);
    assert_int_equal(
        store_expect(s, "x", 2, (const int64_t[]){INT64_MAX, 2}, DTYPE_BF16, &again, &err),
        MOED_ELIMIT);
    assert_int_equal(store_expect(s, "x", 1, (const int64_t[]){-1}, DTYPE_BF16, &again, &err),
                     MOED_ELIMIT);
    assert_int_equal(store_expect(s, "x", 9, (const int64_t[9]){1}, DTYPE_BF16, &again, &err),
                     MOED_EINVAL);
    store_close(&s);
}

static void any_part_is_the_same_as_the_whole(void **state)
{
    enum { N = 10000 };
    struct store *s = open_dummy();
    static float whole[N], part[N];
    const struct tensor_ref *t = expect(s, "w", 100, 100, DTYPE_F32);
    store_dummy_fill(t, 0, N, 0, 1, whole);
    for (size_t first = 0; first < N; first += 777) {
        size_t n = N - first < 1500 ? N - first : 1500;
        store_dummy_fill(t, first, n, 0, 1, part);
        assert_memory_equal(part, whole + first, n * sizeof part[0]);
    }
    store_dummy_fill(expect(s, "v", 100, 100, DTYPE_F32), 0, N, 0, 1, part);
    int same = 0;
    for (int i = 0; i < N; i++)
        same += part[i] == whole[i];
    assert_true(same < 10);
    store_close(&s);
}

static void values_are_uniform_around_the_center(void **state)
{
    enum { N = 1 << 20, BINS = 64 };
    struct store *s = open_dummy();
    const struct tensor_ref *t = expect(s, "w", 1024, 1024, DTYPE_F32);
    float *x = malloc(N * sizeof *x);
    assert_non_null(x);
    store_dummy_fill(t, 0, N, 1, 0.25f, x);
    double sum = 0, squares = 0, next = 0;
    int count[BINS] = {0};
    for (int i = 0; i < N; i++) {
        assert_true(x[i] >= 0.75f && x[i] <= 1.25f);
        double d = x[i] - 1;
        sum += d;
        squares += d * d;
        next += i ? d * (x[i - 1] - 1) : 0;
        int bin = (int)((d + 0.25) * 2 * BINS);
        count[bin < BINS ? bin : BINS - 1]++;
    }
    double variance = 0.0625 / 3;
    assert_true(fabs(sum / N) < 5 * sqrt(variance / N));
    assert_true(fabs(squares / N - variance) < 0.01 * variance);
    assert_true(fabs(next / N) < 5 * variance / sqrt(N));
    double chi = 0;
    for (int i = 0; i < BINS; i++)
        chi += pow(count[i] - (double)N / BINS, 2) / ((double)N / BINS);
    assert_true(chi < 120); /* 63 degrees of freedom: beyond once in 10^5 */
    free(x);
    store_close(&s);
}

static void halves_are_the_floats_rounded(void **state)
{
    enum { N = 5000 };
    struct store *s = open_dummy();
    static float exact[N];
    static uint16_t half[N];
    struct tensor_ref a = *expect(s, "w", 50, 100, DTYPE_F32), b = a, h = a;
    b.dtype = DTYPE_BF16;
    h.dtype = DTYPE_F16;
    /* The small scale reaches the subnormal halves. */
    for (int k = 0; k < 2; k++) {
        float scale = k ? 1e-4f : 0.7f;
        store_dummy_fill(&a, 0, N, 0, scale, exact);
        store_dummy_fill(&b, 0, N, 0, scale, half);
        for (int i = 0; i < N; i++)
            assert_true(fabsf(bf16(half[i]) - exact[i]) <= fabsf(exact[i]) / 256);
        store_dummy_fill(&h, 0, N, 0, scale, half);
        for (int i = 0; i < N; i++) {
            float e = fabsf(f16(half[i]) - exact[i]);
            assert_true(e <= fmaxf(fabsf(exact[i]) / 2048, 0x1p-25f));
        }
    }
    store_close(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tensors_exist_with_the_shape_asked_for),
    cmocka_unit_test(any_part_is_the_same_as_the_whole),
    cmocka_unit_test(values_are_uniform_around_the_center),
    cmocka_unit_test(halves_are_the_floats_rounded),
};
CHECK_MAIN(tests)
