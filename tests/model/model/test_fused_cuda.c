/*
 * Steps of one row in one launch: the same bits as the CPU's portable kernels, whatever is
 * resident, whoever computes the rest, at contexts of one chunk and of several, with a window and
 * without.
 */
#include "check.h"

#include <stdatomic.h>
#include <unistd.h>

#include "device/misses.h"
#include "gpu.h"
#include "support_model.h"

#define VOCAB   101
#define TOKENS  140
#define FEW     5 /* of a model with long rows */
#define ALONE   3 /* the last tokens of a sequence, each a step of one row */
#define EXPERTS 12

/* Two groups of three heads with norms of their own; rows of odd multiples of 8, more than a block
 * of the emulator holds at once. */
static const struct model_config grouped = {.family = MODEL_QWEN3_MOE,
                                            .architecture = "Qwen3MoeForCausalLM",
                                            .vocab_size = VOCAB,
                                            .hidden = 264,
                                            .n_layers = 2,
                                            .n_heads = 6,
                                            .n_kv_heads = 2,
                                            .head_dim = 128,
                                            .max_position = 256,
                                            .rms_eps = 1e-6f,
                                            .rope_theta = 1e4,
                                            .qk_norm = true,
                                            .n_experts = EXPERTS,
                                            .top_k = 3,
                                            .moe_intermediate = 72,
                                            .norm_topk = true,
                                            .moe_layer = {true, true},
                                            .dtype = DTYPE_BF16,
                                            .bos = -1};

/* A window that ends within a chunk; as many KV heads as heads; experts wider than rows, and
 * longer than the turns of down that are asked for together. */
static const struct model_config windowed = {.family = MODEL_MIXTRAL,
                                             .architecture = "MixtralForCausalLM",
                                             .vocab_size = VOCAB,
                                             .hidden = 128,
                                             .n_layers = 2,
                                             .n_heads = 2,
                                             .n_kv_heads = 2,
                                             .head_dim = 128,
                                             .max_position = 256,
                                             .rms_eps = 1e-5f,
                                             .rope_theta = 1e4,
                                             .window = {0, 70},
                                             .n_experts = EXPERTS,
                                             .top_k = 2,
                                             .moe_intermediate = 776,
                                             .norm_topk = true,
                                             .moe_layer = {true, true},
                                             .dtype = DTYPE_BF16,
                                             .bos = -1};

static int32_t token[TOKENS];

static void add_sequences(struct rig *r, int tokens)
{
    rig_add(r, token, tokens);
    if (tokens == TOKENS)
        rig_add(r, token + 60, ALONE + 1);
}

static uint64_t hash_on_cpu(const struct model_config *c, bool odd, int tokens)
{
    struct rig r;
    rig_open(
        &r,
        &(struct rig_options){
            .dummy = c, .odd = odd, .kv_dtype = DTYPE_BF16, .threads = 1, .isa = KERN_ISA_SCALAR});
    add_sequences(&r, tokens);
    rig_run_alone(&r, 64);
    uint64_t hash = rig_hash(&r);
    rig_close(&r);
    return hash;
}

/* All but the last tokens in passes of many rows, then one row at a time, sequences by turns. */
static void run(struct rig *r)
{
    for (int s = 0; s < r->n_seqs; s++)
        while (r->seq[s].n - r->seq[s].done > ALONE) {
            int32_t count[RIG_MAX_SEQS] = {0}, left = r->seq[s].n - r->seq[s].done - ALONE;
            count[s] = left > 64 ? 64 : left;
            rig_pass(r, count);
        }
    for (int i = 0; i < ALONE; i++)
        for (int s = 0; s < r->n_seqs; s++) {
            int32_t count[RIG_MAX_SEQS] = {0};
            count[s] = 1;
            rig_pass(r, count);
        }
}

static struct rig_options options(const struct model_config *c, uint64_t cache_bytes, int turn)
{
    static const int shares[] = {0, MAILBOX_SHARE_ONE, MAILBOX_SHARE_ONE / 3,
                                 MISSES_SHARE_ADAPTIVE};
    return (struct rig_options){.dummy = c,
                                .kv_dtype = DTYPE_BF16,
                                .cuda = true,
                                .fused = true,
                                .pager = {.mode = PAGER_CACHED,
                                          .cache_bytes = cache_bytes,
                                          .policy = "steady",
                                          .synchronous = turn % 2 == 0},
                                .miss_threads = 1 + turn % 2,
                                .link_share = shares[turn % 4]};
}

static void same_bits_of(const struct model_config *c, bool packed, int tokens)
{
    const int records = c->n_layers * c->n_experts, slots[] = {0, 2, records / 2, records};
    struct dev_choice choice;
    struct model_memory memory;
    cuda_or_skip(&choice);
    model_memory(c, c->dtype,
                 &(struct model_options){.kv_blocks = 1, .max_rows = 1, .packed_experts = packed},
                 &memory);
    for (int i = 0; i < TOKENS; i++)
        token[i] = (i * 37 + 5) % VOCAB;
    uint64_t hash = hash_on_cpu(c, packed, tokens);
    for (int s = 0, turn = 0; s < 4; s++)
        for (int share = 0; share < 4; share++, turn++) {
            struct rig r;
            struct rig_options o = options(c, slots[s] * memory.expert_record_bytes, turn);
            if (cuda_emulated(&choice) && share != (s + 1) % 4)
                continue;
            o.packed = o.odd = packed;
            rig_open(&r, &o);
            assert_true(model_fused_context(r.m) >= tokens);
            for (int round = 0; round < (cuda_emulated(&choice) ? 1 : 2); round++) {
                rig_reset(&r);
                add_sequences(&r, tokens);
                run(&r);
                if (rig_hash(&r) != hash)
                    fail_msg("%d wide, %d inner, packed %d: %d slots, share of the link %d, round "
                             "%d: other bits",
                             c->hidden, c->moe_intermediate, packed, slots[s], o.link_share, round);
            }
            rig_close(&r);
        }
}

static void same_bits(const struct model_config *c, bool packed)
{
    same_bits_of(c, packed, TOKENS);
}

static void one_row_has_the_same_bits_cuda(void **state)
{
    same_bits(&grouped, false);
}

static void one_row_in_a_window_has_the_same_bits_cuda(void **state)
{
    same_bits(&windowed, false);
}

/* Packed records have the bits that the portable kernels get of plain ones. */
static void packed_experts_have_the_same_bits_cuda(void **state)
{
    same_bits(&grouped, true);
}

static void wide_packed_experts_have_the_same_bits_cuda(void **state)
{
    same_bits(&windowed, true);
}

/* Rows of each length that the kernel has code of its own for, and behind them rests: 2048 + 1024 +
 * 512 + 256 + 24, 2048 and 768 without any, 1024 + 256 + 8, 512 + 8. */
static void long_rows_have_the_same_bits_cuda(void **state)
{
    static const int widths[][2] = {{3864, 72}, {2048, 768}, {520, 1288}};
    for (int i = 0; i < 3; i++)
        for (int packed = 0; packed < 2; packed++) {
            struct model_config c = windowed;
            c.hidden = widths[i][0];
            c.moe_intermediate = widths[i][1];
            c.n_layers = 1;
            c.n_experts = 4;
            same_bits_of(&c, packed, FEW);
        }
}

/* So many choices that, where few are resident, CPU and link have experts of their own, and the
 * link some of the CPU's outputs besides. */
static void each_side_has_experts_of_its_own_cuda(void **state)
{
    struct model_config c = grouped;
    c.top_k = 8;
    struct mailbox_cut cut =
        mailbox_cut_of(c.top_k, MAILBOX_SHARE_ONE / 3, c.moe_intermediate, c.hidden, true);
    assert_true(cut.link_groups > 0 && cut.cpu_width < c.hidden);
    for (int packed = 0; packed < 2; packed++)
        same_bits_of(&c, packed, FEW);
}

/* The other worker's part of down, held back until worker 0 has none left. */
struct late {
    _Atomic uint32_t job; /* the last that it holds something of */
    _Atomic int times;
};

static void come_late(void *arg, int worker, uint32_t job, bool down)
{
    struct late *late = arg;
    if (!down)
        return;
    if (worker == 0) { /* does not take all there is */
        for (int i = 0; i < 500 && atomic_load(&late->job) != job; i++)
            usleep(100);
        return;
    }
    atomic_store(&late->job, job);
    atomic_fetch_add(&late->times, 1);
    usleep(20000);
}

/* The device looks at results before all workers are done: what is not there yet is awaited. */
static void late_results_are_awaited_cuda(void **state)
{
    struct dev_choice choice;
    struct late late = {0};
    struct rig r;
    cuda_or_skip(&choice);
    uint64_t hash = hash_on_cpu(&grouped, false, TOKENS);
    struct rig_options o = options(&grouped, 0, 0);
    o.miss_threads = 2;
    o.on_miss = come_late;
    o.on_miss_arg = &late;
    rig_open(&r, &o);
    add_sequences(&r, TOKENS);
    run(&r);
    assert_true(rig_hash(&r) == hash);
    assert_true(atomic_load(&late.times) > 0);
    rig_close(&r);
}

/* What it cannot do is done op by op. */
static void shapes_it_cannot_take_run_op_by_op_cuda(void **state)
{
    struct model_config c = grouped;
    struct dev_choice choice;
    struct rig r;
    cuda_or_skip(&choice);
    c.moe_layer[1] = false;
    c.intermediate = 64;
    uint64_t hash = hash_on_cpu(&c, false, TOKENS);
    struct rig_options o = options(&c, 1 << 20, 0);
    rig_open(&r, &o);
    assert_int_equal(model_fused_context(r.m), 0);
    add_sequences(&r, TOKENS);
    run(&r);
    assert_true(rig_hash(&r) == hash);
    rig_close(&r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(one_row_has_the_same_bits_cuda),
    cmocka_unit_test(one_row_in_a_window_has_the_same_bits_cuda),
    cmocka_unit_test(packed_experts_have_the_same_bits_cuda),
    cmocka_unit_test(wide_packed_experts_have_the_same_bits_cuda),
    cmocka_unit_test(long_rows_have_the_same_bits_cuda),
    cmocka_unit_test(each_side_has_experts_of_its_own_cuda),
    cmocka_unit_test(late_results_are_awaited_cuda),
    cmocka_unit_test(shapes_it_cannot_take_run_op_by_op_cuda),
};
CHECK_MAIN(tests)
