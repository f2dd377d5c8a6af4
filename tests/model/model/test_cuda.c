/*
 * The CUDA device: against transformers, and the same bits as the CPU's portable kernels, whatever
 * is resident, whatever the policy, however the sequences are cut.
 */
#include "check.h"

#include "gpu.h"
#include "support_model.h"

#define TOLERANCE_F32_KV  5e-5
#define TOLERANCE_BF16_KV 0.03

static const char *model_dir(const char *name)
{
    static _Thread_local char dir[1100];
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), name);
    return dir;
}

/* The emulator gets one of so many cases. */
static int one_of(int n)
{
    struct dev_choice choice;
    cuda_or_skip(&choice);
    return cuda_emulated(&choice) ? n : 1;
}

static uint64_t cpu_hash(const char *dir, const struct vectors *v, enum dtype kv_dtype)
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

/* Experts in place: every record over the link. */
static void against_transformers_cuda(void **state)
{
    static const char *const names[] = {"llama_mha_tied", "llama_rope3_bias", "llama_linear_wide",
                                        "mistral_window", "mixtral_window",   "qwen3_moe_64e",
                                        "qwen3_moe_mixed"};
    int bad = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        for (int kv = DTYPE_F32; kv <= DTYPE_BF16; kv++) {
            struct vectors v;
            struct rig r;
            const char *dir = model_dir(names[i]);
            rig_open(&r,
                     &(struct rig_options){.dir = dir, .kv_dtype = (enum dtype)kv, .cuda = true});
            vectors_open(&v, dir);
            rig_add_vectors(&r, &v);
            rig_run_alone(&r, 64);
            double worst = rig_worst_delta(&r, &v);
            uint64_t hash = rig_hash(&r);
            rig_close(&r);
            bool same = hash == cpu_hash(dir, &v, (enum dtype)kv);
            vectors_close(&v);
            print_message("%s: KV %s: largest delta of a log probability %.2g, %s bits as the "
                          "CPU's\n",
                          names[i], dtype_name((enum dtype)kv), worst, same ? "the same" : "OTHER");
            bad += !same || !(worst <= (kv == DTYPE_F32 ? TOLERANCE_F32_KV : TOLERANCE_BF16_KV));
        }
    assert_int_equal(bad, 0);
}

static void run_rounds(const struct rig_options *o, const struct vectors *v, int turn,
                       uint64_t hash)
{
    struct rig r;
    struct pager_counters n;
    rig_open(&r, o);
    for (int round = 0; round < 2; round++) {
        rig_reset(&r);
        rig_add_vectors(&r, v);
        r.layers_per_run = turn % 3;
        if (turn & 1)
            rig_run_together(&r, 1 + turn % 9);
        else
            rig_run_alone(&r, 1 + turn % 9);
        if (rig_hash(&r) != hash)
            fail_msg("%s: policy %s, %llu cache bytes, staging from %d rows, round %d: other bits",
                     o->dir, o->pager.policy, (unsigned long long)o->pager.cache_bytes,
                     o->pager.stage_min_rows, round);
    }
    pager_counters(model_pager(r.m), &n);
    assert_int_equal(n.load_errors, 0);
    assert_true(n.misses > 0);
    assert_true(o->pager.cache_bytes > 0 || n.hits == 0);
    rig_close(&r);
}

/* No slots, one, a few, half, all; every policy; with staging and without. */
static void every_cache_size_cuda(void **state)
{
    static const char *const names[] = {"mixtral_window", "qwen3_moe_64e", "qwen3_moe_mixed"};
    static const char *const policies[] = {"lru", "lfu", "lfru"};
    const int some = one_of(4);
    int turn = 0;
    for (size_t m = 0; m < 3; m++) {
        const char *dir = model_dir(names[m]);
        struct model_memory memory;
        struct vectors v;
        struct rig r;
        rig_open(&r, &(struct rig_options){.dir = dir, .cuda = true});
        model_memory(&r.c, DTYPE_BF16, &(struct model_options){.kv_blocks = 1}, &memory);
        rig_close(&r);
        vectors_open(&v, dir);
        uint64_t hash = cpu_hash(dir, &v, DTYPE_F32);
        const uint64_t slots[] = {0, 1, 5, memory.expert_records / 2, memory.expert_records};
        for (size_t s = 0; s < 5; s++)
            for (size_t p = 0; p < 3; p++, turn++) {
                if (turn % some)
                    continue;
                struct rig_options o = {
                    .dir = dir,
                    .cuda = true,
                    .pager = {.mode = PAGER_CACHED,
                              .cache_bytes = slots[s] * memory.expert_record_bytes,
                              .policy = policies[p],
                              .staging_slots = turn % 2 ? 3 : 0,
                              .stage_min_rows = turn % 2 ? 1 + turn % 4 : 0,
                              .chunk_bytes = turn % 4 ? 0 : 4096,
                              .synchronous = turn % 3 == 0},
                };
                run_rounds(&o, &v, turn, hash);
            }
        vectors_close(&v);
    }
}

/* Widths above 256 that are multiples of nothing, and ones that take the wide loads. */
static void wide_shapes_cuda(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    int32_t token[40];
    for (int i = 0; i < 40; i++)
        token[i] = (i * 37 + 5) % 301;
    const int some = one_of(5);
    for (int shape = 0; shape < 6; shape += some) {
        bool odd = shape & 1;
        struct model_config c = {.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = 301,
                                 .hidden = odd ? 549 : 768,
                                 .n_layers = 2,
                                 .n_heads = 6,
                                 .n_kv_heads = 2,
                                 .head_dim = odd ? 74 : 128,
                                 .intermediate = odd ? 333 : 1032,
                                 .max_position = 64,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = 5,
                                 .top_k = 3,
                                 .moe_intermediate = odd ? 270 : 520,
                                 .norm_topk = true,
                                 .moe_layer = {true, false},
                                 .dtype = dtypes[shape / 2],
                                 .bos = -1};
        uint64_t hash[2];
        for (int cuda = 1; cuda >= 0; cuda--) {
            struct rig r;
            rig_open(&r,
                     &(struct rig_options){.dummy = &c, .kv_dtype = DTYPE_BF16, .cuda = cuda == 1});
            rig_add(&r, token, 20);
            rig_add(&r, token + 7, 11);
            rig_run_together(&r, 6);
            hash[cuda] = rig_hash(&r);
            rig_close(&r);
        }
        if (hash[0] != hash[1])
            fail_msg("%s, %s shapes: other bits", dtype_name(dtypes[shape / 2]),
                     odd ? "odd" : "even");
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(against_transformers_cuda),
    cmocka_unit_test(every_cache_size_cuda),
    cmocka_unit_test(wide_shapes_cuda),
};
CHECK_MAIN(tests)
