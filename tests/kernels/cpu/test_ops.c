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
        struct outcome base = run(seed, kern_cpu(KERN_ISA_SCALAR), 1);
        check_values(op, seed, &base);
        for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
            const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
            if (!k)
                continue;
            int n_parts = parts[(seed + (uint64_t)isa) % 5];
            struct outcome o = run(seed, k, n_parts);
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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(embed),    cmocka_unit_test(rmsnorm),  cmocka_unit_test(linear),
    cmocka_unit_test(rope),     cmocka_unit_test(kv_store), cmocka_unit_test(attention),
    cmocka_unit_test(silu_mul), cmocka_unit_test(router),   cmocka_unit_test(experts),
    cmocka_unit_test(combine),
};
CHECK_MAIN(tests)
