/*
 * Every op of every instruction set: against a reference in double within a stated tolerance, and
 * with equal bits for all instruction sets and part counts.
 */
#include "check.h"

#include <math.h>

#include "support_cases.h"

#define SEEDS 60

static void check_values(const char *op, uint64_t seed, const struct outcome *o)
{
    for (size_t i = 0; i < o->n; i++)
        if (!(fabs((double)o->got[i] - o->want[i]) <= o->tol[i]))
            fail_msg("%s, seed %d, number %zu: %.9g, should be %.9g within %.3g", op, (int)seed, i,
                     (double)o->got[i], o->want[i], o->tol[i]);
}

static void check_op(const char *op, op_case *run)
{
    static const int parts[] = {1, 2, 3, 7, 40};
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct outcome base = run(seed, kern_cpu(KERN_ISA_SCALAR), 1, 1);
        check_values(op, seed, &base);
        for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
            if (!k)
                continue;
            int n_parts = parts[(seed + (uint64_t)isa) % 5];
            struct outcome o = run(seed, k, n_parts, 0);
            assert_int_equal(o.n, base.n);
            for (size_t i = 0; i < o.n; i++)
                if (memcmp(&o.got[i], &base.got[i], sizeof(float)) != 0)
                    fail_msg("%s, seed %d, %s in %d parts, number %zu of %zu: %a, scalar %a", op,
                             (int)seed, k->name, n_parts, i, o.n, (double)o.got[i],
                             (double)base.got[i]);
            outcome_free(&o);
        }
        outcome_free(&base);
    }
}

#define OP_TEST(op)                                                                                \
    static void op(void **state)                                                                   \
    {                                                                                              \
        check_op(#op, case_##op);                                                                  \
    }

OP_TEST(embed)
OP_TEST(rmsnorm)
OP_TEST(linear)
OP_TEST(rope)
OP_TEST(kv_store)
OP_TEST(attention)
OP_TEST(silu_mul)
OP_TEST(router)
OP_TEST(experts)
OP_TEST(combine)

/* One head of DIM over one sequence in blocks 0..3; what is not seen is NaN. */
enum { DIM = 20, TOKENS = 64 };

static void run_attention(const struct kern_cpu *k, float *kv, int pos, int window, float *out)
{
    static const int32_t table[] = {0, 1, 2, 3};
    const int32_t *tables[] = {table};
    const int32_t seq[] = {0}, positions[] = {pos};
    float q[DIM];
    _Alignas(64) static float scratch[8192];
    for (int d = 0; d < DIM; d++)
        q[d] = 0.1f * (float)d;
    struct kern_attention a = {.kv = {kv, sizeof(float) * 2 * 16 * DIM, DTYPE_F32, 1, DIM},
                               .q = q,
                               .out = out,
                               .q_stride = DIM,
                               .out_stride = DIM,
                               .pos = positions,
                               .seq = seq,
                               .block_table = tables,
                               .n = 1,
                               .heads = 1,
                               .window = window,
                               .scale = 1,
                               .max_context = pos + 1};
    k->attention(&a, (struct kern_part){0, 1, scratch, sizeof scratch});
}

static float *kv_elem(float *kv, int t, int v, int d)
{
    return kv + ((size_t)(t / 16 * 2 + v) * 16 + (size_t)(t % 16)) * DIM + d;
}

static void attention_sees_only_its_window(void **state)
{
    static float kv[TOKENS * 2 * DIM];
    for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
        const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
        for (int pos = 0; k && pos < TOKENS; pos++)
            for (int window = 0; window <= 40; window += 13) {
                float out[DIM];
                int first = window && pos >= window ? pos - window + 1 : 0;
                for (int t = 0; t < TOKENS; t++)
                    for (int d = 0; d < DIM; d++) {
                        int seen = t >= first && t <= pos;
                        *kv_elem(kv, t, 0, d) = seen ? 0.01f * (float)(t + d) : NAN;
                        *kv_elem(kv, t, 1, d) = seen ? 2 : NAN;
                    }
                run_attention(k, kv, pos, window, out);
                for (int d = 0; d < DIM; d++)
                    assert_float_equal(out[d], 2, 1e-4);
                *kv_elem(kv, first, 0, 3) = NAN; /* a NaN that is seen is not hidden */
                run_attention(k, kv, pos, window, out);
                for (int d = 0; d < DIM; d++)
                    assert_true(isnan(out[d]));
                *kv_elem(kv, first, 0, 3) = -INFINITY; /* weight 0, or all there is */
                run_attention(k, kv, pos, window, out);
                assert_true(first == pos ? isnan(out[0]) : fabsf(out[0] - 2) < 1e-4f);
            }
    }
}

static void router_with_nan_still_chooses(void **state)
{
    enum { IN = 20, EXPERTS = 6 };
    _Alignas(64) static float scratch[1024];
    float w[EXPERTS * IN], x[IN], weight[4];
    int32_t id[4];
    for (int i = 0; i < EXPERTS * IN; i++)
        w[i] = (float)(i / IN);
    for (int i = 0; i < IN; i++)
        x[i] = 1;
    w[5 * IN] = NAN;
    struct kern_router a = {w, DTYPE_F32, x, 1, IN, EXPERTS, 4, 1, id, weight};
    for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
        const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
        if (!k)
            continue;
        k->router(&a, (struct kern_part){0, 1, scratch, sizeof scratch});
        static const int32_t want[] = {4, 3, 2, 1};
        assert_memory_equal(id, want, sizeof want);
    }
    for (int i = 0; i < EXPERTS * IN; i++)
        w[i] = 1; /* ties: the lower ids */
    for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
        const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
        if (!k)
            continue;
        k->router(&a, (struct kern_part){0, 1, scratch, sizeof scratch});
        for (int i = 0; i < 4; i++) {
            assert_int_equal(id[i], i);
            assert_true(weight[i] == 0.25f);
        }
    }
}

/* All of an op in 5 parts, or in runs of several of 11, whoever goes on behind them. */
static void in_parts(void (*op)(const struct kern_experts *, struct kern_part),
                     struct kern_experts *call, int longest, void *scratch, size_t scratch_bytes)
{
    int parts = longest ? 11 : 5;
    for (int p = 0, i = 0; p < parts; p += call->run ? call->run : 1, i++) {
        call->run = longest ? 1 + i % longest : 0;
        call->run = call->run < parts - p ? call->run : parts - p;
        call->ahead = longest ? (enum kern_ahead)((i + longest) % 3) : KERN_AHEAD_AUTO;
        call->more = i % 3 ? parts - p - (call->run ? call->run : 1) : 0;
        op(call, (struct kern_part){p, parts, scratch, scratch_bytes});
    }
}

/* Outputs behind the ends are left alone, those before them have the bits of the whole call. */
static void up_to_an_end(int width, int inner)
{
    enum { ROWS = 11, GROUPS = 3, PAIRS = 14 };
    static const int32_t row[PAIRS] = {4, 0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 0, 5, 8};
    static const int32_t pair[PAIRS] = {13, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const int hiddens = PAIRS * inner, ys = PAIRS * width;
    struct record_class cls = record_class_swiglu(DTYPE_BF16, width, inner);
    uint16_t *records = malloc(GROUPS * cls.bytes);
    float *x = malloc(sizeof(float) * (size_t)(ROWS * width)), *hidden[2], *y[2];
    for (int i = 0; i < 2; i++) {
        hidden[i] = malloc(sizeof(float) * (size_t)hiddens);
        y[i] = malloc(sizeof(float) * (size_t)ys);
    }
    uint32_t random = 7;
    for (size_t i = 0; i < GROUPS * cls.bytes / 2; i++)
        records[i] =
            kern_to_bf16((float)((random = random * 1664525 + 1013904223) >> 16) / 65536 - 0.5f);
    for (int i = 0; i < ROWS * width; i++)
        x[i] = (float)((random = random * 1664525 + 1013904223) >> 16) / 65536 - 0.5f;
    struct kern_expert_group group[GROUPS] = {
        {records, row, pair, 1},
        {(char *)records + cls.bytes, row + 1, pair + 1, 10},
        {(char *)records + 2 * cls.bytes, row + 11, pair + 11, 3}};
    _Alignas(64) static char scratch[1 << 18];
    struct kern_experts all = {&cls, group, GROUPS, x, hidden[0], y[0], 0, 0};
    kern_cpu(KERN_ISA_SCALAR)->experts_gate_up(&all, (struct kern_part){0, 1, scratch, 1});
    kern_cpu(KERN_ISA_SCALAR)->experts_down(&all, (struct kern_part){0, 1, scratch, 1});
    const int inner_end[] = {1, inner / 3 + 2, inner - 1, inner};
    const int width_end[] = {1, 7, width / 2 + 10, width};
    for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++)
        for (int n = 0; kern_cpu((enum kern_isa)isa) && n < 16; n++) {
            const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
            struct kern_experts some = {&cls, group, GROUPS, x, hidden[1], y[1]};
            some.inner_end = inner_end[n / 4], some.width_end = width_end[n % 4];
            memset(hidden[1], 0xee, sizeof(float) * (size_t)hiddens);
            memset(y[1], 0xee, sizeof(float) * (size_t)ys);
            in_parts(k->experts_gate_up, &some, n % 5, scratch, sizeof scratch);
            for (int at = 0; at < hiddens; at++)
                if (at % inner < some.inner_end)
                    assert_memory_equal(&hidden[1][at], &hidden[0][at], 4);
                else
                    assert_memory_equal(&hidden[1][at], "\xee\xee\xee\xee", 4);
            some.hidden = hidden[0];
            in_parts(k->experts_down, &some, n % 5, scratch, sizeof scratch);
            for (int at = 0; at < ys; at++)
                if (at % width < some.width_end)
                    assert_memory_equal(&y[1][at], &y[0][at], 4);
                else
                    assert_memory_equal(&y[1][at], "\xee\xee\xee\xee", 4);
        }
    for (int i = 0; i < 2; i++) {
        free(hidden[i]);
        free(y[i]);
    }
    free(x);
    free(records);
}

static void experts_up_to_an_end(void **state)
{
    up_to_an_end(300, 90);
}

/* Longer than weights are asked for ahead, in one of the caches or in both. */
static void experts_of_long_rows_up_to_an_end(void **state)
{
    up_to_an_end(3000, 34);
    up_to_an_end(4360, 34);
    up_to_an_end(40, 4360);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(embed),
    cmocka_unit_test(rmsnorm),
    cmocka_unit_test(linear),
    cmocka_unit_test(rope),
    cmocka_unit_test(kv_store),
    cmocka_unit_test(attention),
    cmocka_unit_test(silu_mul),
    cmocka_unit_test(router),
    cmocka_unit_test(experts),
    cmocka_unit_test(experts_up_to_an_end),
    cmocka_unit_test(experts_of_long_rows_up_to_an_end),
    cmocka_unit_test(combine),
    cmocka_unit_test(attention_sees_only_its_window),
    cmocka_unit_test(router_with_nan_still_chooses),
};
CHECK_MAIN(tests)
