/*
 * Long passes of the tensor class: near transformers and the CPU, and bits that depend on the plan
 * alone: not on what is resident, on staging, on pauses or on the steps that run in them.
 */
#include <math.h>

#include "check.h"

#include "base/mem.h"
#include "gpu.h"
#include "support_model.h"

/*
 * Largest difference of a log probability. In these models of random weights and widths of 20 to 96
 * little averages out when activations are rounded: to BF16 (8 bits) on top of a BF16 cache, whose
 * own part is up to 0.02; to F16 (11 bits) there is little more than that part.
 */
#define TOLERANCE_BF16 0.05
#define TOLERANCE_F16  0.03

#define LONG_ROWS      96

static const char *model_dir(const char *name)
{
    static _Thread_local char dir[1100];
    snprintf(dir, sizeof dir, "%s/%s", repo_path("tests/data/models"), name);
    return dir;
}

/* The sequences twice, so that a pass has more rows than the FMA class takes. */
static void near_transformers_cuda(void **state)
{
    static const char *const names[] = {"llama_rope3_bias", "llama_linear_wide", "mistral_window",
                                        "mistral_odd",      "mixtral_window",    "qwen3_moe_64e",
                                        "qwen3_moe_tied",   "qwen3_moe_top2"};
    int bad = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct vectors v;
        struct rig r;
        const char *dir = model_dir(names[i]);
        vectors_open(&v, dir);
        rig_open(&r, &(struct rig_options){.dir = dir,
                                           .kv_dtype = DTYPE_BF16,
                                           .cuda = true,
                                           .max_rows = 128,
                                           .long_rows = 128,
                                           .pager = {.mode = PAGER_CACHED, .staging_slots = 4}});
        r.lane = MODEL_LONG;
        rig_add_vectors(&r, &v);
        rig_add_vectors(&r, &v);
        rig_run_together(&r, 128);
        double worst = rig_worst_delta(&r, &v);
        bool f16 = r.c.dtype == DTYPE_F16;
        rig_close(&r);
        vectors_close(&v);
        print_message("%s: largest delta of a log probability %.2g\n", names[i], worst);
        bad += !(worst <= (f16 ? TOLERANCE_F16 : TOLERANCE_BF16));
    }
    assert_int_equal(bad, 0);
}

/* Experts, one of which every row chooses of few and some that few rows do; a dense layer between.
 */
static struct model_config config(enum dtype dtype)
{
    return (struct model_config){.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = 101,
                                 .hidden = 96,
                                 .n_layers = 4,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 64,
                                 .intermediate = 72,
                                 .max_position = 256,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = 16,
                                 .top_k = 3,
                                 .moe_intermediate = 40,
                                 .norm_topk = true,
                                 .moe_layer = {true, false, true, true},
                                 .dtype = dtype,
                                 .bos = -1};
}

#define RECORDS (3 * 16)

/* Two sequences on the long lane in one pass, one token of another in a step at each pause. */
struct run {
    int32_t token[LONG_ROWS], pos[LONG_ROWS], seq[LONG_ROWS];
    struct model_seq seqs[2];
    int32_t layers_per_run; /* 0: all at once */
    bool steps;
    const int32_t *forced; /* [layers][LONG_ROWS][top_k], or NULL */
    float *logits;         /* [LONG_ROWS][vocab] of the long pass */
    uint64_t hash;         /* of them */
    struct pager_counters counters;
};

static uint64_t hash_floats(const float *x, size_t n)
{
    uint64_t h = 0xCBF29CE484222325;
    const uint8_t *p = (const uint8_t *)x;
    for (size_t i = 0; i < n * sizeof *x; i++)
        h = (h ^ p[i]) * 0x100000001B3;
    return h;
}

static int32_t token_at(int i)
{
    return (i * 37 + 5) % 101;
}

static void run_pass(struct run *run, struct rig *r, enum model_lane lane)
{
    static int32_t other[16];
    struct moed_error err;
    int32_t rows[LONG_ROWS], first = 60;
    for (int i = 0; i < LONG_ROWS; i++) {
        rows[i] = i;
        run->token[i] = token_at(i);
        run->seq[i] = i >= first;
        run->pos[i] = i < first ? i : i - first;
    }
    for (int i = 0; i < 16; i++)
        other[i] = token_at(i + 50);
    rig_reset(r);
    for (int s = 0; s < 3; s++)
        rig_add(r, other, 16);
    for (int s = 0; s < 2; s++)
        run->seqs[s].block_table = r->seq[s].block;
    struct model_batch batch = {LONG_ROWS, run->token, run->pos,   run->seq,
                                2,         run->seqs,  run->forced};
    assert_ok(model_pass_begin(r->m, lane, &batch, &err), &err);
    int32_t step = run->layers_per_run ? run->layers_per_run : r->c.n_layers;
    for (int32_t layer = 0; layer < r->c.n_layers;) {
        layer = layer + step < r->c.n_layers ? layer + step : r->c.n_layers;
        assert_ok(model_pass_run(r->m, lane, layer, &err), &err);
        if (run->steps && layer < r->c.n_layers) {
            int32_t count[RIG_MAX_SEQS] = {0, 0, 1};
            rig_pass(r, count);
        }
    }
    size_t floats = (size_t)LONG_ROWS * (size_t)r->c.vocab_size;
    run->logits = mem_new(floats, sizeof *run->logits);
    assert_ok(model_pass_logits(r->m, lane, rows, LONG_ROWS, run->logits, &err), &err);
    model_pass_end(r->m, lane);
    run->hash = hash_floats(run->logits, floats);
}

static double log_sum_exp(const float *x, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        sum += exp(x[i]);
    return log(sum);
}

static double worst_delta(const float *a, const float *b, int32_t vocab)
{
    double worst = 0;
    for (int i = 0; i < LONG_ROWS; i++, a += vocab, b += vocab) {
        double shift = log_sum_exp(a, vocab) - log_sum_exp(b, vocab);
        for (int32_t t = 0; t < vocab; t++) {
            double delta = fabs((double)a[t] - (double)b[t] - shift);
            if (!(delta <= worst))
                worst = delta;
        }
    }
    return worst;
}

static void run_on_cpu(struct run *run, const struct model_config *c)
{
    struct rig r;
    rig_open(
        &r, &(struct rig_options){
                .dummy = c, .kv_dtype = DTYPE_BF16, .max_rows = LONG_ROWS, .isa = KERN_ISA_SCALAR});
    run_pass(run, &r, MODEL_STEP);
    rig_close(&r);
}

static void run_on_cuda(struct run *run, const struct model_config *c, struct pager_config pager,
                        int times)
{
    struct rig r;
    struct model_memory memory;
    model_memory(c, c->dtype, &(struct model_options){.kv_blocks = 1, .max_rows = 1}, &memory);
    pager.mode = PAGER_CACHED;
    pager.cache_bytes *= memory.expert_record_bytes;
    rig_open(&r, &(struct rig_options){.dummy = c,
                                       .kv_dtype = DTYPE_BF16,
                                       .cuda = true,
                                       .max_rows = LONG_ROWS,
                                       .long_rows = LONG_ROWS,
                                       .pager = pager,
                                       .miss_threads = 1});
    for (int i = 0; i < times; i++) {
        uint64_t before = run->hash;
        free(run->logits);
        run_pass(run, &r, MODEL_LONG);
        assert_true(i == 0 || run->hash == before);
    }
    pager_counters(model_pager(r.m), &run->counters);
    rig_close(&r);
}

/* Forced choices, so that no rounding exchanges an expert for another: some for half of the rows,
 * some for so few that the FMA class computes them. */
static void near_the_cpu_cuda(void **state)
{
    static int32_t forced[4][LONG_ROWS][3];
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16};
    for (int layer = 0; layer < 4; layer++)
        for (int i = 0; i < LONG_ROWS; i++) {
            forced[layer][i][0] = i % 2;
            forced[layer][i][1] = 2 + i * 5 % 7;
            forced[layer][i][2] = 9 + (i / 8 + layer) % 7;
        }
    for (int d = 0; d < 2; d++) {
        struct model_config c = config(dtypes[d]);
        struct run cpu = {.forced = &forced[0][0][0]}, cuda = cpu;
        run_on_cuda(&cuda, &c,
                    (struct pager_config){.cache_bytes = 5, .staging_slots = 4, .fill = true}, 1);
        run_on_cpu(&cpu, &c);
        double worst = worst_delta(cuda.logits, cpu.logits, c.vocab_size);
        print_message("%s: largest delta of a log probability to the CPU's %.2g\n",
                      dtype_name(dtypes[d]), worst);
        free(cuda.logits);
        free(cpu.logits);
        assert_true(worst > 0 && worst <= (d == 0 ? TOLERANCE_BF16 : TOLERANCE_F16));
    }
}

/* cache_bytes count records here. */
static void bits_of_the_plan(enum dtype dtype)
{
    static const struct {
        struct pager_config pager;
        int32_t layers_per_run;
        bool steps;
        int times;
    } cases[] = {
        {{.cache_bytes = 0, .staging_slots = 3, .stream_ahead_rows = 1}, 0, false, 1},
        {{.cache_bytes = RECORDS / 4, .staging_slots = 8, .fill = true}, 0, false, 2},
        {{.cache_bytes = RECORDS / 4, .staging_slots = 5, .stream_ahead_rows = 1, .fill = true},
         1,
         true,
         1},
        {{.cache_bytes = RECORDS, .staging_slots = 2, .stream_ahead_rows = 1, .fill = true},
         3,
         true,
         2},
        {{.cache_bytes = RECORDS / 2, .fill = true, .synchronous = true}, 2, true, 1},
        {{.cache_bytes = 0}, 0, false, 1},
        {{.cache_bytes = 3, .staging_slots = 4, .stage_min_rows = 12}, 0, false, 1},
    };
    struct model_config c = config(dtype);
    struct run first = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct run run = {.layers_per_run = cases[i].layers_per_run, .steps = cases[i].steps};
        run_on_cuda(&run, &c, cases[i].pager, cases[i].times);
        assert_int_equal(run.counters.load_errors, 0);
        assert_true(cases[i].pager.staging_slots == 0 || cases[i].pager.cache_bytes == RECORDS ||
                    run.counters.staged > 0);
        if (i == 0) {
            first = run;
            continue;
        }
        if (run.hash != first.hash)
            fail_msg("%s, case %zu: other bits", dtype_name(dtype), i);
        free(run.logits);
    }
    free(first.logits);
}

static void bits_of_the_plan_bf16_cuda(void **state)
{
    bits_of_the_plan(DTYPE_BF16);
}

static void bits_of_the_plan_f16_cuda(void **state)
{
    bits_of_the_plan(DTYPE_F16);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(near_transformers_cuda),
    cmocka_unit_test(near_the_cpu_cuda),
    cmocka_unit_test(bits_of_the_plan_bf16_cuda),
    cmocka_unit_test(bits_of_the_plan_f16_cuda),
};
CHECK_MAIN(tests)
