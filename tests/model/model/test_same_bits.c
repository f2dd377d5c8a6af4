/*
 * design.md, "Same bits": the logits of a token depend only on the tokens before it. One reference
 * run, then everything that must not matter is changed, alone and together.
 */
#include "check.h"

#include "base/mem.h"
#include "support_model.h"

static const char *const moe_models[] = {"mixtral_window", "qwen3_moe_64e", "qwen3_moe_mixed"};
#define MOE_COUNT (sizeof moe_models / sizeof moe_models[0])

static const char *model_dir(const char *name)
{
    static _Thread_local char dir[1100];
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), name);
    return dir;
}

/* The reference: one thread, scalar kernels, in place, each sequence in one pass. */
static uint64_t reference_hash(const char *dir, const struct vectors *v, enum dtype kv_dtype)
{
    struct rig r;
    rig_open(&r, &(struct rig_options){
                     .dir = dir, .kv_dtype = kv_dtype, .threads = 1, .isa = KERN_ISA_SCALAR});
    rig_add_vectors(&r, v);
    rig_run_alone(&r, 64);
    uint64_t hash = rig_hash(&r);
    rig_close(&r);
    return hash;
}

/* The counters must tell of the path that the options ask for, or the sweep would show nothing. */
static void check_counters(const struct rig *r, const struct rig_options *o,
                           const struct vectors *v)
{
    struct pager_counters n;
    struct pager_info info;
    if (!r->c.n_experts)
        return;
    uint64_t rows = 0;
    for (int s = 0; s < v->n_seqs; s++)
        rows += (uint64_t)v->n[s];
    pager_counters(model_pager(r->m), &n);
    pager_info(model_pager(r->m), &info);
    assert_int_equal(n.activations,
                     2 * rows * (uint64_t)r->c.top_k * (uint64_t)model_config_moe_layers(&r->c));
    assert_int_equal(n.hits + n.misses, n.uses);
    assert_int_equal(n.load_errors, 0);
    assert_int_equal(info.leases_out, 0);
    if (o->pager.mode == PAGER_IN_PLACE) {
        assert_int_equal(n.hits, n.uses);
        return;
    }
    if (!info.slots)
        assert_int_equal(n.hits, 0);
    if (o->pager.synchronous && info.slots == model_config_moe_layers(&r->c) * r->c.n_experts)
        assert_true(n.hits > 0);
    assert_true(n.misses > 0);
    assert_true((n.staged > 0) >= (o->pager.stage_min_rows == 1));
    if (!o->pager.stage_min_rows)
        assert_int_equal(n.staged, 0);
}

static void expect_hash(const struct rig_options *o, const struct vectors *v, int32_t chunk,
                        int together, uint64_t hash)
{
    struct rig r;
    rig_open(&r, o);
    /* Twice with one model: a cache that has learnt must not show either. */
    for (int round = 0; round < 2; round++) {
        rig_reset(&r);
        rig_add_vectors(&r, v);
        if (together)
            rig_run_together(&r, chunk);
        else
            rig_run_alone(&r, chunk);
        if (rig_hash(&r) != hash)
            fail_msg("%s: isa %s, %d threads, chunk %d, pager mode %d, policy %s, %llu cache "
                     "bytes, staging from %d rows: other bits",
                     o->dir, kern_isa_name(o->isa), o->threads, chunk, o->pager.mode,
                     o->pager.policy ? o->pager.policy : "-",
                     (unsigned long long)o->pager.cache_bytes, o->pager.stage_min_rows);
    }
    check_counters(&r, o, v);
    rig_close(&r);
}

static void threads_and_instruction_sets(void **state)
{
    static const char *const names[] = {"llama_linear_wide", "mixtral_window", "qwen3_moe_64e"};
    for (size_t i = 0; i < 3; i++) {
        const char *dir = model_dir(names[i]);
        struct vectors v;
        vectors_open(&v, dir);
        for (int kv = DTYPE_F32; kv <= DTYPE_BF16; kv++) {
            uint64_t hash = reference_hash(dir, &v, (enum dtype)kv);
            for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
                if (!kern_cpu((enum kern_isa)isa)) {
                    print_message("no %s here\n", kern_isa_name((enum kern_isa)isa));
                    continue;
                }
                for (int threads = 1; threads <= 3; threads++) {
                    struct rig_options o = {.dir = dir,
                                            .kv_dtype = (enum dtype)kv,
                                            .isa = (enum kern_isa)isa,
                                            .threads = threads};
                    expect_hash(&o, &v, 1 + 4 * threads, threads & 1, hash);
                }
            }
        }
        vectors_close(&v);
    }
}

/* Widths above 256, where the partial sums of a dot product wrap around, and not multiples of any
 * vector; random weights. */
static void wide_shapes(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    int32_t token[40];
    for (int i = 0; i < 40; i++)
        token[i] = (i * 37 + 5) % 301;
    for (size_t d = 0; d < 3; d++) {
        struct model_config c = {.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = 301,
                                 .hidden = 549,
                                 .n_layers = 2,
                                 .n_heads = 6,
                                 .n_kv_heads = 2,
                                 .head_dim = 74,
                                 .intermediate = 333,
                                 .max_position = 64,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = 5,
                                 .top_k = 3,
                                 .moe_intermediate = 270,
                                 .norm_topk = true,
                                 .moe_layer = {true, false},
                                 .dtype = dtypes[d],
                                 .bos = -1};
        uint64_t hash = 0;
        for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3 && kern_cpu((enum kern_isa)isa); threads += 2) {
                struct rig r;
                rig_open(&r, &(struct rig_options){.dummy = &c,
                                                   .kv_dtype = DTYPE_BF16,
                                                   .isa = (enum kern_isa)isa,
                                                   .threads = threads});
                rig_add(&r, token, 20);
                rig_add(&r, token + 7, 11);
                rig_run_together(&r, 14 - 4 * threads);
                uint64_t got = rig_hash(&r);
                hash = hash ? hash : got;
                if (got != hash)
                    fail_msg("%s, %s, %d threads: other bits", dtype_name(dtypes[d]),
                             kern_isa_name((enum kern_isa)isa), threads);
                rig_close(&r);
            }
        assert_true(hash != 0);
    }
}

/* Bytes of a cache of so many slots. */
static uint64_t cache_bytes(const char *dir, uint64_t slots, uint64_t *records)
{
    struct rig r;
    struct model_memory memory;
    rig_open(&r, &(struct rig_options){.dir = dir});
    model_memory(&r.c, DTYPE_BF16, &(struct model_options){.kv_blocks = 1}, &memory);
    rig_close(&r);
    *records = memory.expert_records;
    return slots * memory.expert_record_bytes;
}

static void sweep_pager(const char *name)
{
    static const char *const policies[] = {"steady", "lfu", "lfru"};
    static const int stage_from[] = {0, 1, 4};
    const char *dir = model_dir(name);
    struct vectors v;
    uint64_t records, record_bytes = cache_bytes(dir, 1, &records);
    vectors_open(&v, dir);
    uint64_t hash = reference_hash(dir, &v, DTYPE_F32);
    const uint64_t slots[] = {0, 1, 5, records / 2, records};
    int turn = 0;
    for (size_t s = 0; s < sizeof slots / sizeof slots[0]; s++)
        for (size_t p = 0; p < 3; p++)
            for (size_t g = 0; g < 3; g++, turn++) {
                enum kern_isa isa = (enum kern_isa)(turn % KERN_ISA_COUNT);
                struct rig_options o = {
                    .dir = dir,
                    .threads = 1 + turn % 3,
                    .isa = kern_cpu(isa) ? isa : KERN_ISA_AUTO,
                    .pager = {.mode = PAGER_CACHED,
                              .cache_bytes = slots[s] * record_bytes,
                              .policy = policies[p],
                              .staging_slots = stage_from[g] ? 3 : 0,
                              .stage_min_rows = stage_from[g],
                              .chunk_bytes = turn % 2 ? 4096 : 0,
                              .synchronous = turn % 4 == 0},
                };
                expect_hash(&o, &v, 1 + turn % 7, turn & 1, hash);
            }
    vectors_close(&v);
}

static void pager_sizes_policies_staging_mixtral(void **state)
{
    sweep_pager("mixtral_window");
}

static void pager_sizes_policies_staging_64_experts(void **state)
{
    sweep_pager("qwen3_moe_64e");
}

static void pager_sizes_policies_staging_mixed_layers(void **state)
{
    sweep_pager("qwen3_moe_mixed");
}

/* Preemption by recompute and reuse of a prefix: a sequence begins again in other blocks, or goes
 * on from blocks that another one filled. */
static void check_reuse(const struct pager_config *pager)
{
    for (size_t i = 0; i < MOE_COUNT; i++) {
        const char *dir = model_dir(moe_models[i]);
        struct vectors v;
        struct rig r;
        vectors_open(&v, dir);
        rig_open(&r, &(struct rig_options){.dir = dir, .kv_dtype = DTYPE_BF16, .pager = *pager});
        size_t bytes = (size_t)v.n[0] * (size_t)v.vocab * sizeof(float);
        float *want = mem_new(bytes, 1);
        rig_add(&r, v.token[0], v.n[0]);
        rig_run_alone(&r, 64);
        memcpy(want, r.seq[0].logits, bytes);

        /* Preempted at 20, recomputed from the start in other blocks. */
        rig_reset(&r);
        rig_add(&r, v.token[1], v.n[1]);
        rig_add(&r, v.token[0], v.n[0]);
        rig_pass(&r, (const int32_t[]){3, 20});
        r.seq[1].done = 0;
        for (int k = 0; k < 64; k++)
            r.seq[1].block[k] ^= 1;
        rig_run_alone(&r, 13);
        assert_memory_equal(r.seq[1].logits, want, bytes);

        /* A third sequence takes the first two blocks over and computes only what follows. */
        int32_t from = 2 * KV_BLOCK_TOKENS;
        rig_add(&r, v.token[0], v.n[0]);
        memcpy(r.seq[2].block, r.seq[1].block, 2 * sizeof(int32_t));
        r.seq[2].done = from;
        rig_run_together(&r, 5);
        size_t skip_bytes = (size_t)from * (size_t)v.vocab * sizeof(float);
        assert_memory_equal((uint8_t *)r.seq[2].logits + skip_bytes, (uint8_t *)want + skip_bytes,
                            bytes - skip_bytes);
        free(want);
        rig_close(&r);
        vectors_close(&v);
    }
}

static void recompute_and_prefix_reuse(void **state)
{
    check_reuse(&(struct pager_config){.mode = PAGER_IN_PLACE});
}

static void recompute_and_prefix_reuse_with_a_cache(void **state)
{
    check_reuse(&(struct pager_config){.mode = PAGER_CACHED,
                                       .cache_bytes = 6 * RECORD_ALIGN_BYTES,
                                       .staging_slots = 2,
                                       .stage_min_rows = 3});
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(threads_and_instruction_sets),
    cmocka_unit_test(wide_shapes),
    cmocka_unit_test(pager_sizes_policies_staging_mixtral),
    cmocka_unit_test(pager_sizes_policies_staging_64_experts),
    cmocka_unit_test(pager_sizes_policies_staging_mixed_layers),
    cmocka_unit_test(recompute_and_prefix_reuse),
    cmocka_unit_test(recompute_and_prefix_reuse_with_a_cache),
};
CHECK_MAIN(tests)
