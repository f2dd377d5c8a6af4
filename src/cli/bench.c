/*
 * moed bench: the model below the engine, timed by stage. Prompts are random token ids, so the
 * routing is what the weights make of noise; with dummy weights it is close to uniform, and caches
 * look worse than on text.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "device/device.h"
#include "engine/plan.h"
#include "store/store.h"

/* Several times the last-level cache of current machines, so that plain reads come from memory. */
#define READ_PROBE_BYTES ((size_t)512 << 20)

struct bench {
    struct model *model;
    struct dev_choice choice;
    struct dev *dev, *cpu; /* cpu: for the yardstick of reads; dev itself on the CPU */
    struct model_config config;
    int32_t context, steps, runs, prompt_tokens, max_batch, max_rows;
    int32_t blocks_per_seq;
    int32_t *block_table;       /* [max_batch * blocks_per_seq] */
    struct model_seq *seqs;     /* [max_batch] */
    int32_t *token, *pos, *seq; /* [max_rows] */
    float *logits;              /* [max_batch][vocab] */
    uint64_t random;
};

static int32_t random_token(struct bench *b)
{
    b->random = b->random * 6364136223846793005ull + 1442695040888963407ull;
    return (int32_t)((b->random >> 33) % (uint64_t)b->config.vocab_size);
}

/* One pass over n_rows rows that stand in token, pos, seq; logits of the last n_logits rows. */
static int pass(struct bench *b, int32_t n_rows, int32_t n_seqs, int32_t n_logits,
                struct moed_error *err)
{
    struct model_batch batch = {n_rows, b->token, b->pos, b->seq, n_seqs, b->seqs};
    int32_t rows[256];
    int rc = model_pass_begin(b->model, MODEL_STEP, &batch, err);
    if (rc < 0)
        return rc;
    rc = model_pass_run(b->model, MODEL_STEP, b->config.n_layers, err);
    for (int32_t i = 0; i < n_logits; i++)
        rows[i] = n_rows - n_logits + i;
    if (rc == 0 && n_logits > 0)
        rc = model_pass_logits(b->model, MODEL_STEP, rows, n_logits, b->logits, err);
    model_pass_end(b->model, MODEL_STEP);
    return rc;
}

/* Computes positions [0, n) of sequence s in passes of at most max_rows. Returns the number of
 * passes. */
static int prefill(struct bench *b, int32_t s, int32_t n, struct moed_error *err)
{
    int passes = 0;
    for (int32_t done = 0; done < n;) {
        int32_t rows = n - done < b->max_rows ? n - done : b->max_rows;
        for (int32_t i = 0; i < rows; i++) {
            b->token[i] = random_token(b);
            b->pos[i] = done + i;
            b->seq[i] = s;
        }
        done += rows;
        int rc = pass(b, rows, b->max_batch, done == n ? 1 : 0, err);
        if (rc < 0)
            return rc;
        passes++;
    }
    return passes;
}

static int decode(struct bench *b, int32_t batch, struct moed_error *err)
{
    for (int32_t step = 0; step < b->steps; step++) {
        for (int32_t i = 0; i < batch; i++) {
            b->token[i] = random_token(b);
            b->pos[i] = b->context + step;
            b->seq[i] = i;
        }
        int rc = pass(b, batch, batch, batch, err);
        if (rc < 0)
            return rc;
    }
    return b->steps;
}

static void subtract_stats(struct model_stats *a, const struct model_stats *b)
{
    a->passes -= b->passes;
    a->rows -= b->rows;
    a->seconds_attention -= b->seconds_attention;
    a->seconds_experts -= b->seconds_experts;
    a->seconds_dense -= b->seconds_dense;
    a->seconds_logits -= b->seconds_logits;
    a->seconds_other -= b->seconds_other;
    a->bytes_experts -= b->bytes_experts;
    a->bytes_attention -= b->bytes_attention;
    a->bytes_dense -= b->bytes_dense;
    a->bytes_logits -= b->bytes_logits;
    a->bytes_kv -= b->bytes_kv;
}

static void subtract_counters(struct pager_counters *a, const struct pager_counters *b)
{
#define X(name, help) a->name -= b->name;
    PAGER_COUNTERS(X)
#undef X
}

static void snapshot(struct bench *b, struct model_stats *stats, struct pager_counters *counters)
{
    model_stats(b->model, stats);
    memset(counters, 0, sizeof *counters);
    if (model_pager(b->model))
        pager_counters(model_pager(b->model), counters);
}

/* Runs a case once to warm up, then `runs` times; keeps the stages of the run nearest the median.
 */
static int measure(struct bench *b, struct bench_case *c, struct moed_error *err)
{
    struct model_stats stages[BENCH_MAX_RUNS], before, after;
    struct pager_counters experts[BENCH_MAX_RUNS], count_before, count_after;
    for (int run = -1; run < b->runs; run++) {
        snapshot(b, &before, &count_before);
        double start = clock_seconds();
        int steps = c->prefill ? prefill(b, 0, b->prompt_tokens, err) : decode(b, c->batch, err);
        double seconds = clock_seconds() - start;
        if (steps < 0)
            return steps;
        snapshot(b, &after, &count_after);
        c->steps = steps;
        if (run < 0)
            continue;
        c->seconds[run] = seconds;
        c->read_gb_per_s[run] = dev_cpu_read_gb_per_s(b->cpu, READ_PROBE_BYTES);
        stages[run] = after;
        subtract_stats(&stages[run], &before);
        experts[run] = count_after;
        subtract_counters(&experts[run], &count_before);
    }
    c->n_runs = b->runs;
    double median = bench_median(c->seconds, c->n_runs);
    for (int run = 0; run < b->runs; run++) {
        if (c->seconds[run] == median) {
            c->stages = stages[run];
            c->experts = experts[run];
        }
    }
    return 0;
}

static int parse_batches(const char *text, int32_t *batches, int max, struct moed_error *err)
{
    int n = 0;
    for (const char *p = text; *p;) {
        char *end;
        long value = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || value < 1 || value > 256)
            return moed_fail_param(err, MOED_EINVAL, "batch",
                                   "--batch takes sizes from 1 to 256 such as 1,2,4, not '%s'",
                                   text);
        if (n == max)
            return moed_fail_param(err, MOED_EINVAL, "batch", "--batch takes at most %d sizes",
                                   max);
        batches[n++] = (int32_t)value;
        p = *end ? end + 1 : end;
    }
    if (n == 0)
        return moed_fail_param(err, MOED_EINVAL, "batch", "--batch needs at least one size");
    return n;
}

static void allocate(struct bench *b)
{
    b->block_table =
        mem_new((size_t)b->max_batch * (size_t)b->blocks_per_seq, sizeof *b->block_table);
    b->seqs = mem_new((size_t)b->max_batch, sizeof *b->seqs);
    for (int32_t i = 0; i < b->max_batch * b->blocks_per_seq; i++)
        b->block_table[i] = i;
    for (int32_t s = 0; s < b->max_batch; s++)
        b->seqs[s].block_table = b->block_table + (size_t)s * (size_t)b->blocks_per_seq;
    b->token = mem_new((size_t)b->max_rows, sizeof *b->token);
    b->pos = mem_new((size_t)b->max_rows, sizeof *b->pos);
    b->seq = mem_new((size_t)b->max_rows, sizeof *b->seq);
    b->logits = mem_new((size_t)b->max_batch * (size_t)b->config.vocab_size, sizeof *b->logits);
}

static void release(struct bench *b)
{
    model_close(&b->model);
    if (b->cpu != b->dev)
        dev_close(&b->cpu);
    dev_close(&b->dev);
    free(b->block_table);
    free(b->seqs);
    free(b->token);
    free(b->pos);
    free(b->seq);
    free(b->logits);
}

static int open_devices(struct bench *b, const struct moed_engine_config *cfg,
                        const struct dev_cpu_config *cpu, struct moed_error *err)
{
    int rc = dev_choose(&b->choice, cfg->device, err);
    if (rc < 0 || (rc = dev_open(&b->dev, &b->choice, cpu, err)) < 0)
        return rc;
    log_info("device: %s", b->choice.why);
    if (b->choice.cuda)
        return dev_cpu_open(&b->cpu, cpu, err);
    b->cpu = b->dev;
    return 0;
}

/* As many expert slots as the device's memory leaves. */
static void plan_slots(struct bench *b, const struct moed_engine_config *cfg,
                       const struct store *store, struct model_options *mo)
{
    struct model_memory memory;
    mo->device_logits = true;
    mo->pager.mode = PAGER_CACHED;
    model_memory(&b->config, model_weight_dtype(&b->config, store), mo, &memory);
    mo->pager.cache_bytes = engine_cache_bytes(
        engine_device_budget(b->choice.memory.free_bytes, cfg->device_memory_ratio), &memory);
}

/* Opens device and model as the engine would, with KV for the largest case. */
static int open_model(struct bench *b, const struct options *o, const char *dir,
                      struct moed_error *err)
{
    struct store *store = NULL;
    json_t *json = NULL;
    struct cli_progress progress;
    struct moed_engine_config cfg = cli_engine_config(o, dir);
    int rc = store_read_json(&json, dir, "config.json", err);
    if (rc == 0)
        rc = model_config_parse(&b->config, json, err);
    if (rc < 0)
        goto out;

    int32_t longest =
        b->context + b->steps > b->prompt_tokens ? b->context + b->steps : b->prompt_tokens;
    b->blocks_per_seq = (longest + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    b->max_rows = (int32_t)options_int(o, "max-num-batched-tokens");
    if (b->max_rows < b->max_batch)
        b->max_rows = b->max_batch;
    struct dev_cpu_config dev = {
        .threads = cfg.threads,
        .isa = (enum kern_isa)kern_isa_parse(cfg.isa),
        .link_bytes_per_s = cfg.link_bytes_per_s,
        .max_context = longest,
    };
    struct model_options mo = {
        .max_rows = b->max_rows,
        .max_context = longest,
        .max_logits = b->max_batch,
        .kv_blocks = b->blocks_per_seq * b->max_batch,
        .kv_dtype = strcmp(cfg.kv_dtype, "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .pager = {.mode = cfg.expert_cache_bytes < 0 ? PAGER_IN_PLACE : PAGER_CACHED,
                  .cache_bytes = cfg.expert_cache_bytes < 0 ? 0 : (uint64_t)cfg.expert_cache_bytes,
                  .policy = cfg.expert_policy,
                  .stage_min_rows = cfg.stage_min_rows,
                  .staging_slots = cfg.stage_min_rows > 0 ? PAGER_STAGING_SLOTS : 0},
        .progress = cli_progress_show,
        .user = &progress,
    };
    cli_progress_init(&progress);
    if ((rc = engine_plan_misses(&mo, &cfg, err)) < 0)
        goto out;
    rc = open_devices(b, &cfg, &dev, err);
    if (rc == 0)
        rc = strcmp(cfg.load_format, "dummy") == 0 ? store_open_dummy(&store, err)
                                                   : store_open(&store, dir, err);
    if (rc == 0 && b->choice.cuda && cfg.expert_cache_bytes < 0)
        plan_slots(b, &cfg, store, &mo);
    if (rc == 0)
        rc = model_open(&b->model, &b->config, &mo, store, b->dev, err);
    if (rc == 0)
        allocate(b);
out:
    store_close(&store);
    json_decref(json);
    return rc;
}

static void describe(struct bench *b, const struct options *o, struct bench_result *r)
{
    struct dev_cpu_info dev = dev_cpu_info(b->cpu);
    r->device = b->choice.cuda ? b->choice.memory.name : "cpu";
    r->architecture = b->config.architecture;
    r->isa = dev.isa;
    r->threads = dev.threads;
    r->policy = options_string(o, "expert-policy");
    r->context = b->context;
    r->prompt_tokens = b->prompt_tokens;
    model_config_parameters(&b->config, &r->parameters, &r->active_parameters);
    r->records = model_config_moe_layers(&b->config) * b->config.n_experts;
    if (model_pager(b->model)) {
        struct pager_info info;
        pager_info(model_pager(b->model), &info);
        r->in_place = info.mode == PAGER_IN_PLACE;
        r->slots = info.slots;
        r->cache_bytes = info.cache_bytes;
    }
}

static int run_cases(struct bench *b, struct bench_result *r, const int32_t *batches, int n_batches,
                     struct moed_error *err)
{
    struct bench_case *c = &r->cases[r->n_cases++];
    *c = (struct bench_case){.prefill = true, .batch = 1, .tokens = b->prompt_tokens};
    int rc = measure(b, c, err);
    for (int32_t s = 0; rc >= 0 && s < b->max_batch; s++)
        rc = prefill(b, s, b->context, err);
    for (int i = 0; rc >= 0 && i < n_batches; i++) {
        c = &r->cases[r->n_cases++];
        *c = (struct bench_case){.batch = batches[i], .tokens = (int64_t)batches[i] * b->steps};
        rc = measure(b, c, err);
    }
    return rc < 0 ? rc : 0;
}

int cli_bench(const struct options *o)
{
    struct moed_error err = {0};
    struct bench b = {.random = 20260101};
    struct bench_result *result = mem_new(1, sizeof *result);
    int32_t batches[BENCH_MAX_CASES - 1] = {0};
    int status = CLI_USAGE;
    const char *dir = cli_model(o);
    if (!dir)
        goto out;
    int n_batches = parse_batches(options_string(o, "batch"), batches, BENCH_MAX_CASES - 1, &err);
    if (n_batches < 0) {
        cli_report(&err);
        goto out;
    }
    for (int i = 0; i < n_batches; i++)
        b.max_batch = batches[i] > b.max_batch ? batches[i] : b.max_batch;
    b.context = (int32_t)options_int(o, "context");
    b.steps = (int32_t)options_int(o, "decode-tokens");
    b.runs = (int32_t)options_int(o, "runs");
    b.prompt_tokens = (int32_t)options_int(o, "prompt-tokens");
    int rc = open_model(&b, o, dir, &err);
    if (rc == 0) {
        describe(&b, o, result);
        rc = run_cases(&b, result, batches, n_batches, &err);
    }
    if (rc == 0)
        (options_flag(o, "json") ? bench_print_json : bench_print_table)(result, stdout);
    status = rc < 0 ? cli_report(&err) : CLI_OK;
out:
    release(&b);
    free(result);
    return status;
}
