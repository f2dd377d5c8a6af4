/*
 * Steps that the device runs as a whole: the same bits as the CPU's portable kernels, whatever is
 * resident, whoever computes the rest, in any batch.
 */
#include "check.h"

#include "device/misses.h"
#include "gpu.h"
#include "support_model.h"

static struct model_config config(enum dtype dtype)
{
    return (struct model_config){.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = 301,
                                 .hidden = 320,
                                 .n_layers = 4,
                                 .n_heads = 6,
                                 .n_kv_heads = 2,
                                 .head_dim = 64,
                                 .intermediate = 264,
                                 .max_position = 512,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = 12,
                                 .top_k = 3,
                                 .moe_intermediate = 200,
                                 .norm_topk = true,
                                 .moe_layer = {true, false, true, true},
                                 .dtype = dtype,
                                 .bos = -1};
}

static int32_t token[96];

/* The emulator takes its time: fewer tokens, fewer combinations. */
static int part = 1;

static void add_sequences(struct rig *r)
{
    rig_add(r, token, 40 / part);
    rig_add(r, token + 7, 23 / part);
    rig_add(r, token + 30, 61 / part);
    rig_add(r, token + 1, 9 / part);
}

static void run(struct rig *r, int turn)
{
    if (turn % 2)
        rig_run_together(r, 1 + turn % 11);
    else
        rig_run_alone(r, 1 + turn * 5 % 13);
}

static uint64_t hash_on_cpu(const struct model_config *c, bool odd)
{
    struct rig r;
    rig_open(
        &r,
        &(struct rig_options){
            .dummy = c, .odd = odd, .kv_dtype = DTYPE_BF16, .threads = 1, .isa = KERN_ISA_SCALAR});
    add_sequences(&r);
    rig_run_alone(&r, 64);
    uint64_t hash = rig_hash(&r);
    rig_close(&r);
    return hash;
}

/* Plain bf16 is what models have: on a GPU all ways, of the others every second. The emulator runs
 * every second of the former; of others, and with the address sanitizer, which looks at memory and
 * not at bits, each budget once, with each share and policy among them. */
static bool chosen(bool plain, size_t slots, size_t share)
{
#ifdef __SANITIZE_ADDRESS__
    const bool once = part > 1;
#else
    const bool once = part > 1 && !plain;
#endif
    if (once)
        return share == slots % 4;
    return (part == 1 && plain) || (slots + share) % 2 == 0;
}

/* Budgets, policies and shares of the link against one hash. */
static void same_bits_recorded(const struct model_config *c, bool packed)
{
    static const int shares[] = {0, MAILBOX_SHARE_ONE, MAILBOX_SHARE_ONE / 3,
                                 MISSES_SHARE_ADAPTIVE};
    static const char *const policies[] = {"lru", "lfu", "lfru"};
    struct dev_choice choice;
    cuda_or_skip(&choice);
    part = cuda_emulated(&choice) ? 8 : 1;
    const int records = model_config_moe_layers(c) * c->n_experts,
              slots[] = {0, 2, records / 4, records / 2, records};
    struct model_memory memory;
    model_memory(c, c->dtype,
                 &(struct model_options){.kv_blocks = 1, .max_rows = 1, .packed_experts = packed},
                 &memory);
    for (size_t i = 0; i < sizeof token / sizeof token[0]; i++)
        token[i] = (int32_t)(i * 37 + 5) % 301;
    uint64_t hash = hash_on_cpu(c, packed);
    int turn = 0;
    for (size_t s = 0; s < 5; s++)
        for (size_t share = 0; share < 4; share++, turn++) {
            if (!chosen(c->dtype == DTYPE_BF16 && !packed, s, share))
                continue;
            struct rig r;
            struct pager_counters n;
            rig_open(&r, &(struct rig_options){.dummy = c,
                                               .packed = packed,
                                               .odd = packed,
                                               .kv_dtype = DTYPE_BF16,
                                               .cuda = true,
                                               .pager = {.mode = PAGER_CACHED,
                                                         .cache_bytes = (uint64_t)slots[s] *
                                                                        memory.expert_record_bytes,
                                                         .policy = policies[turn % 3],
                                                         .synchronous = turn % 2 == 0},
                                               .miss_threads = 1 + turn % 3,
                                               .link_share = shares[share]});
            for (int round = 0; round < 2; round++) {
                rig_reset(&r);
                add_sequences(&r);
                run(&r, turn + round);
                if (rig_hash(&r) != hash)
                    fail_msg("%s, packed %d, %d wide, %d slots, share of the link %d, round %d: "
                             "other bits",
                             dtype_name(c->dtype), packed, c->hidden, slots[s], shares[share],
                             round);
            }
            pager_counters(model_pager(r.m), &n);
            assert_true(n.uses > 0);
            assert_true(slots[s] > 0 || n.hits == 0);
            assert_true(slots[s] < records || turn % 2 || n.hits > 0);
            rig_close(&r);
        }
}

static void same_bits_recorded_bf16_cuda(void **state)
{
    struct model_config c = config(DTYPE_BF16);
    same_bits_recorded(&c, false);
}

static void same_bits_recorded_f16_cuda(void **state)
{
    struct model_config c = config(DTYPE_F16);
    same_bits_recorded(&c, false);
}

static void same_bits_recorded_f32_cuda(void **state)
{
    struct model_config c = config(DTYPE_F32);
    same_bits_recorded(&c, false);
}

/* Rows with every kind of escapes; with tails of less than 256 numbers, and of whole blocks of 512
 * with 256 behind them. */
static void same_bits_recorded_packed_cuda(void **state)
{
    struct model_config c = config(DTYPE_BF16);
    same_bits_recorded(&c, true);
    c.n_layers = 1;
    c.hidden = 768;
    c.moe_intermediate = 520;
    same_bits_recorded(&c, true);
}

/* As many rows, experts and choices as models have: what such a step takes beside its weights was
 * planned before it was opened. */
static void the_largest_step_cuda(void **state)
{
    struct model_config c = config(DTYPE_BF16);
    struct dev_choice choice;
    struct rig r;
    uint64_t hash[2];
    cuda_or_skip(&choice);
    c.hidden = 64;
    c.n_layers = 1;
    c.n_heads = 1;
    c.n_kv_heads = 1;
    c.n_experts = 128;
    c.top_k = 8;
    c.moe_intermediate = 32;
    for (size_t i = 0; i < sizeof token / sizeof token[0]; i++)
        token[i] = (int32_t)(i * 37 + 5) % 301;
    for (int cuda = 0; cuda < 2; cuda++) {
        rig_open(&r, &(struct rig_options){.dummy = &c,
                                           .kv_dtype = DTYPE_BF16,
                                           .cuda = cuda,
                                           .max_rows = STEP_MAX_ROWS,
                                           .threads = 1,
                                           .isa = KERN_ISA_SCALAR,
                                           .pager = {.mode = PAGER_CACHED}});
        rig_add(&r, token, STEP_MAX_ROWS);
        rig_run_alone(&r, STEP_MAX_ROWS);
        hash[cuda] = rig_hash(&r);
        rig_close(&r);
    }
    assert_int_equal(hash[0], hash[1]);
}

static uint64_t jobs_seen(const struct rig *r)
{
    struct misses_stats stats;
    misses_stats(model_misses(r->m), &stats);
    return stats.jobs;
}

/* Misses are measured before the first cache that leaves experts out, once; bits stay. */
static void misses_are_measured_where_experts_may_miss_cuda(void **state)
{
    struct model_config c = config(DTYPE_BF16);
    struct pager_config pager = {.mode = PAGER_CACHED, .fill = true, .cache_bytes = UINT64_MAX / 2};
    struct moed_error err;
    struct rig r;
    rig_open(&r, &(struct rig_options){.dummy = &c,
                                       .kv_dtype = DTYPE_BF16,
                                       .cuda = true,
                                       .pager = pager,
                                       .miss_threads = 2,
                                       .link_share = MISSES_SHARE_ADAPTIVE});
    assert_int_equal(jobs_seen(&r), 0);
    pager.cache_bytes = 0;
    assert_ok(model_set_cache(r.m, &pager, &err), &err);
    uint64_t jobs = jobs_seen(&r);
    assert_true(jobs > 0);
    assert_ok(model_set_cache(r.m, &pager, &err), &err);
    assert_int_equal(jobs_seen(&r), jobs);
    uint64_t hash[2];
    for (int i = 0; i < 2; i++) {
        rig_reset(&r);
        rig_add(&r, token, 5);
        rig_run_alone(&r, 2);
        hash[i] = rig_hash(&r);
        pager.cache_bytes = UINT64_MAX / 2;
        assert_ok(model_set_cache(r.m, &pager, &err), &err);
    }
    assert_true(jobs_seen(&r) > jobs);
    assert_int_equal(hash[0], hash[1]);
    rig_close(&r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(misses_are_measured_where_experts_may_miss_cuda),
    cmocka_unit_test(same_bits_recorded_bf16_cuda),
    cmocka_unit_test(same_bits_recorded_packed_cuda),
    cmocka_unit_test(same_bits_recorded_f16_cuda),
    cmocka_unit_test(same_bits_recorded_f32_cuda),
    cmocka_unit_test(the_largest_step_cuda),
};
CHECK_MAIN(tests)
