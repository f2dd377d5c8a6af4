/* Every small model of tests/data/models against transformers, and against itself. */
#include "check.h"

#include "support_model.h"

/* design.md, "Numbers", allows 2e-3 with an fp32 cache; models this small stay far below it, and a
 * wrong constant would not. */
#define TOLERANCE_F32_KV  5e-5
#define TOLERANCE_BF16_KV 0.03

static void check_kv(const char *dir, const struct vectors *v, enum dtype kv_dtype,
                     double tolerance)
{
    static const int32_t chunks[] = {1, 3, 16, 17, 25};
    struct rig r;
    rig_open(&r, &(struct rig_options){.dir = dir, .kv_dtype = kv_dtype});
    rig_add_vectors(&r, v);
    rig_run_alone(&r, 64);
    double worst = rig_worst_delta(&r, v);
    uint64_t hash = rig_hash(&r);
    print_message("%s: KV %s: largest delta of a log probability %.2g\n", strrchr(dir, '/') + 1,
                  dtype_name(kv_dtype), worst);
    assert_true(worst <= tolerance);

    /* In chunks and in decode, alone and beside others: the same bits. */
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++)
        for (int together = 0; together < 2; together++) {
            rig_reset(&r);
            rig_add_vectors(&r, v);
            r.layers_per_run = (int32_t)(i % 3);
            if (together)
                rig_run_together(&r, chunks[i]);
            else
                rig_run_alone(&r, chunks[i]);
            assert_int_equal(rig_hash(&r), hash);
        }
    rig_close(&r);
}

static void check_model(const char *name)
{
    char dir[1100];
    struct vectors v;
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), name);
    vectors_open(&v, dir);
    check_kv(dir, &v, DTYPE_F32, TOLERANCE_F32_KV);
    check_kv(dir, &v, DTYPE_BF16, TOLERANCE_BF16_KV);
    vectors_close(&v);
}

#define ORACLE(name)                                                                               \
    static void name(void **state)                                                                 \
    {                                                                                              \
        check_model(#name);                                                                        \
    }

ORACLE(llama_mha_tied)
ORACLE(llama_rope3_bias)
ORACLE(llama_linear_wide)
ORACLE(mistral_window)
ORACLE(mistral_odd)
ORACLE(mixtral_top1)
ORACLE(mixtral_window)
ORACLE(mixtral_fused)
ORACLE(qwen3_tied)
ORACLE(qwen3_window_mix)
ORACLE(qwen3_moe_top2)
ORACLE(qwen3_moe_64e)
ORACLE(qwen3_moe_mixed)
ORACLE(qwen3_moe_tied)

/* One a line: the build reads the names. */
/* clang-format off */
static const struct CMUnitTest tests[] = {
    cmocka_unit_test(llama_mha_tied),
    cmocka_unit_test(llama_rope3_bias),
    cmocka_unit_test(llama_linear_wide),
    cmocka_unit_test(mistral_window),
    cmocka_unit_test(mistral_odd),
    cmocka_unit_test(mixtral_top1),
    cmocka_unit_test(mixtral_window),
    cmocka_unit_test(mixtral_fused),
    cmocka_unit_test(qwen3_tied),
    cmocka_unit_test(qwen3_window_mix),
    cmocka_unit_test(qwen3_moe_top2),
    cmocka_unit_test(qwen3_moe_64e),
    cmocka_unit_test(qwen3_moe_mixed),
    cmocka_unit_test(qwen3_moe_tied),
};
/* clang-format on */
CHECK_MAIN(tests)
