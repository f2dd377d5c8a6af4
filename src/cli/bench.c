/*
 * moed bench: the model below the engine, timed by stage. Routing is the model's own (on dummy
 * weights close to even, so that caches look worse than on text) or drawn as on a real model.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "device/misses.h"
#include "engine/plan.h"
#include "store/store.h"

#define SYNTHETIC    "synthetic:"
#define ROUTING_SEED 20260101
#define WARMUP_TOKENS                                                                              \
    256 /* fills a quarter of Qwen3-30B-A3B at 32 admissions a step, five times                    \
         */
/* Of prefill, unless asked otherwise: what the engine would take. */
#define PASS_ROWS      512
#define LONG_PASS_ROWS 16384

/* A size of the expert cache as the command line gives it. */
struct cache_size {
    bool given;
    uint64_t bytes;
    double share; /* negative: bytes count */
};

/* What was asked for. */
struct plan {
    struct moed_engine_config cfg;
    const struct routing_model *routing; /* NULL: the model's own router */
    bool kinds[BENCH_KINDS];
    int32_t batch[BENCH_MAX_LIST], prompt[BENCH_MAX_LIST];
    struct cache_size cache[BENCH_MAX_LIST];
    int n_batch, n_prompt, n_cache;
    struct dev_choice choice;
    struct dev *dev, *cpu; /* cpu: for the yardstick of reads; dev itself on the CPU */
    struct model_options options;
    struct model_memory memory; /* without a cache */
};

/* The next item of a list, its end in *p; NULL after the last. An item longer than the limit is
 * cut, which makes it wrong. */
static const char *next_item(const char **p, char *item, size_t size)
{
    if (!**p)
        return NULL;
    size_t n = strcspn(*p, ",");
    snprintf(item, size, "%.*s", (int)n, *p);
    *p += n;
    *p += **p == ',';
    return item;
}

static int list_too_long(const char *name, struct moed_error *err)
{
    return moed_fail_param(err, MOED_EINVAL, name, "--%s takes 1 to %d values", name,
                           BENCH_MAX_LIST);
}

static int parse_numbers(const struct options *o, const char *name, int32_t max, int32_t *out,
                         struct moed_error *err)
{
    const char *p = options_string(o, name);
    char item[32];
    int n = 0;
    while (next_item(&p, item, sizeof item)) {
        char *end;
        long value = strtol(item, &end, 10);
        if (end == item || *end || value < 1 || value > max)
            return moed_fail_param(err, MOED_EINVAL, name,
                                   "--%s takes numbers from 1 to %d such as 1,2,4, not '%s'", name,
                                   max, options_string(o, name));
        if (n == BENCH_MAX_LIST)
            return list_too_long(name, err);
        out[n++] = (int32_t)value;
    }
    return n ? n : list_too_long(name, err);
}

static int parse_caches(struct plan *p, const struct options *o, struct moed_error *err)
{
    const char *text = options_string(o, "expert-cache");
    char item[32];
    if (!text) {
        p->n_cache = 1;
        return 0;
    }
    for (const char *at = text; next_item(&at, item, sizeof item); p->n_cache++) {
        if (p->n_cache == BENCH_MAX_LIST)
            return list_too_long("expert-cache", err);
        struct cache_size *c = &p->cache[p->n_cache];
        c->given = true;
        if (options_parse_size(item, &c->bytes, &c->share) < 0)
            return moed_fail_param(err, MOED_EINVAL, "expert-cache",
                                   "--expert-cache takes sizes such as 0,12GiB,25%%, not '%s'",
                                   text);
    }
    return p->n_cache ? 0 : list_too_long("expert-cache", err);
}

static int parse_kinds(struct plan *p, const struct options *o, struct moed_error *err)
{
    const char *text = options_string(o, "cases");
    char item[32];
    for (const char *at = text; next_item(&at, item, sizeof item);) {
        int kind = 0;
        while (kind < BENCH_KINDS && strcmp(bench_kind_names[kind], item) != 0)
            kind++;
        if (kind == BENCH_KINDS)
            return moed_fail_param(err, MOED_EINVAL, "cases",
                                   "--cases takes prefill, decode and mixed, not '%s'", text);
        p->kinds[kind] = true;
    }
    return *text ? 0 : list_too_long("cases", err);
}

static int parse_routing(struct plan *p, const struct options *o, struct moed_error *err)
{
    const char *text = options_string(o, "routing");
    size_t prefix = strlen(SYNTHETIC);
    if (strcmp(text, "model") == 0)
        return 0;
    if (strncmp(text, SYNTHETIC, prefix) == 0)
        p->routing = routing_find(text + prefix);
    if (p->routing)
        return 0;
    struct buf names = {0};
    routing_names(&names);
    moed_fail_param(err, MOED_EINVAL, "routing",
                    "--routing takes model or synthetic:NAME, not '%s'; the names are %s", text,
                    buf_str(&names));
    buf_fini(&names);
    return MOED_EINVAL;
}

static int32_t largest(const int32_t *values, int n)
{
    int32_t most = 1;
    for (int i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

static int parse(struct plan *p, struct bench *b, const struct options *o, struct moed_error *err)
{
    int rc;
    if ((rc = parse_routing(p, o, err)) < 0 || (rc = parse_kinds(p, o, err)) < 0 ||
        (rc = parse_caches(p, o, err)) < 0 ||
        (rc = p->n_batch = parse_numbers(o, "batch", BENCH_MAX_BATCH, p->batch, err)) < 0 ||
        (rc = p->n_prompt = parse_numbers(o, "prompt-tokens", 1 << 20, p->prompt, err)) < 0)
        return rc;
    b->context = (int32_t)options_int(o, "context");
    b->decode_steps = (int32_t)options_int(o, "decode-tokens");
    b->runs = (int32_t)options_int(o, "runs");
    b->target_itl_us = (int64_t)(options_real(o, "target-itl-ms") * 1e3);
    bool streams = p->kinds[BENCH_DECODE] || p->kinds[BENCH_MIXED];
    bool prompts = p->kinds[BENCH_PREFILL] || p->kinds[BENCH_MIXED];
    b->max_batch = streams ? largest(p->batch, p->n_batch) : 1;
    b->max_prompt = prompts ? largest(p->prompt, p->n_prompt) : 1;
    b->pass_rows = options_int(o, "long-prefill-tokens") > 0
                       ? (int32_t)options_int(o, "long-prefill-tokens")
                   : p->choice.cuda ? LONG_PASS_ROWS
                                    : PASS_ROWS;
    int32_t longest = b->context > b->max_prompt ? b->context : b->max_prompt;
    b->pass_rows = b->pass_rows < longest ? b->pass_rows : longest > 0 ? longest : 1;
    bool cached = p->cache[0].given || p->choice.cuda;
    b->warmup_tokens = options_has(o, "warmup-tokens") ? (int32_t)options_int(o, "warmup-tokens")
                       : p->routing && cached          ? WARMUP_TOKENS
                                                       : 0;
    return 0;
}

static int open_devices(struct plan *p, int32_t max_context, struct moed_error *err)
{
    const struct moed_engine_config *cfg = &p->cfg;
    /* Beside a GPU: as many as compute its misses. */
    int apart = cfg->miss_threads ? cfg->miss_threads : misses_default_threads();
    const struct dev_cpu_config cpu = {
        .threads = p->choice.cuda && !cfg->threads ? apart : cfg->threads,
        .isa = (enum kern_isa)kern_isa_parse(cfg->isa),
        .link_bytes_per_s = cfg->link_bytes_per_s,
        .max_context = max_context,
    };
    int rc = dev_open(&p->dev, &p->choice, &cpu, err);
    if (rc < 0)
        return rc;
    log_info("device: %s", p->choice.why);
    if (p->choice.cuda)
        return dev_cpu_open(&p->cpu, &cpu, err);
    p->cpu = p->dev;
    return 0;
}

static int set_options(struct plan *p, const struct bench *b, int32_t max_context,
                       struct moed_error *err)
{
    const struct moed_engine_config *cfg = &p->cfg;
    p->options = (struct model_options){
        .max_rows = b->max_batch,
        .long_rows = b->pass_rows,
        .max_context = max_context,
        .max_logits = b->max_batch,
        .kv_blocks = bench_kv_blocks(b),
        .kv_dtype = strcmp(cfg->kv_dtype, "fp32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .device_logits = p->choice.cuda,
        .pager = {.mode = p->cache[0].given || p->choice.cuda ? PAGER_CACHED : PAGER_IN_PLACE,
                  .policy = cfg->expert_policy,
                  .fill = true,
                  .stage_min_rows = cfg->stage_min_rows,
                  .staging_slots = cfg->stage_min_rows > 0 ? PAGER_STAGING_SLOTS : 0},
    };
    return engine_plan_misses(&p->options, cfg, err);
}

static uint64_t device_budget(const struct plan *p)
{
    return engine_device_budget(p->choice.memory.free_bytes, p->cfg.device_memory_ratio);
}

/* With the staging slots that the engine would give the long lane. */
static void plan_memory(struct plan *p, const struct bench *b, enum dtype dtype)
{
    model_memory(&b->config, dtype, &p->options, &p->memory);
    if (!p->choice.cuda || p->memory.expert_records == 0)
        return;
    p->options.pager.staging_slots = engine_staging_slots(device_budget(p), &p->memory);
    model_memory(&b->config, dtype, &p->options, &p->memory);
}

static uint64_t cache_bytes(const struct plan *p, const struct cache_size *size)
{
    if (size->given)
        return size->share >= 0 ? engine_share_bytes(size->share, &p->memory) : size->bytes;
    if (!p->choice.cuda)
        return 0;
    return engine_cache_bytes(device_budget(p), &p->memory);
}

/* Refuses before loading what the device cannot hold. */
static int check_caches(const struct plan *p, struct moed_error *err)
{
    const struct model_memory *m = &p->memory;
    uint64_t rest = m->dense_bytes + m->kv_bytes + m->activation_bytes + m->cache_bytes;
    uint64_t most = m->expert_records * m->expert_record_bytes;
    for (int i = 0; i < p->n_cache && p->choice.cuda; i++) {
        uint64_t bytes = cache_bytes(p, &p->cache[i]);
        bytes = bytes < most ? bytes : most;
        if (rest + bytes > p->choice.memory.free_bytes)
            return moed_fail_param(err, MOED_ENOMEM, "expert-cache",
                                   "%.2f GiB of expert slots and %.2f GiB besides are more than "
                                   "the %.2f GiB that are free on the device",
                                   (double)bytes / 0x1p30, (double)rest / 0x1p30,
                                   (double)p->choice.memory.free_bytes / 0x1p30);
    }
    return 0;
}

static int read_config(struct bench *b, const char *dir, struct moed_error *err)
{
    json_t *json = NULL;
    int rc = store_read_json(&json, dir, "config.json", err);
    if (rc == 0)
        rc = model_config_parse(&b->config, json, err);
    json_decref(json);
    return rc;
}

static int open_routing(struct bench *b, const struct plan *p, struct moed_error *err)
{
    const struct model_config *c = &b->config;
    const struct routing_shape shape = {c->n_layers, c->n_experts, c->top_k, c->moe_layer};
    if (!p->routing)
        return 0;
    if (c->n_experts == 0)
        return moed_fail_param(err, MOED_EINVAL, "routing",
                               "this model has no experts: --routing takes model alone");
    return routing_open(&b->routing, p->routing, &shape, b->max_batch + 1, ROUTING_SEED, err);
}

/* Opens device and model as the engine would, with KV for the largest case, and measures the
 * machine in between. */
static int open_all(struct bench *b, struct plan *p, struct bench_peaks *peaks,
                    struct moed_error *err)
{
    const struct moed_engine_config *cfg = &p->cfg;
    struct store *store = NULL;
    struct cli_progress progress;
    int32_t decoded = b->context + b->decode_steps;
    int32_t max_context = decoded > b->max_prompt ? decoded : b->max_prompt;
    int rc = open_devices(p, max_context, err);
    if (rc == 0)
        rc = strcmp(cfg->load_format, "dummy") == 0 ? store_open_dummy(&store, err)
                                                    : store_open(&store, cfg->model_dir, err);
    if (rc < 0 || (rc = set_options(p, b, max_context, err)) < 0)
        goto out;
    plan_memory(p, b, model_weight_dtype(&b->config, store));
    if ((rc = check_caches(p, err)) < 0 || (rc = open_routing(b, p, err)) < 0 ||
        (rc = bench_buffers(b, err)) < 0 ||
        (rc = bench_yardstick_open(&b->yardstick, p->cpu, err)) < 0)
        goto out;
    if (p->options.pager.mode == PAGER_CACHED)
        rc = bench_yardstick_peaks(b->yardstick, p->dev, peaks, err);
    cli_progress_init(&progress);
    p->options.progress = cli_progress_show;
    p->options.user = &progress;
    p->options.pager.cache_bytes = cache_bytes(p, &p->cache[0]);
    if (rc == 0)
        rc = model_open(&b->model, &b->config, &p->options, store, p->dev, err);
out:
    store_close(&store);
    return rc;
}

static void close_all(struct bench *b, struct plan *p)
{
    model_close(&b->model);
    bench_yardstick_close(&b->yardstick);
    if (p->cpu != p->dev)
        dev_close(&p->cpu);
    dev_close(&p->dev);
    routing_close(&b->routing);
    bench_buffers_free(b);
}

static void describe(const struct bench *b, const struct plan *p, const struct options *o,
                     struct bench_result *r)
{
    struct dev_cpu_info dev = dev_cpu_info(p->cpu);
    r->device = p->choice.cuda ? p->choice.memory.name : "cpu";
    r->apart = p->choice.cuda;
    r->architecture = b->config.architecture;
    r->isa = dev.isa;
    r->threads = dev.threads;
    r->policy = options_string(o, "expert-policy");
    r->routing = options_string(o, "routing");
    r->warmup_tokens = b->warmup_tokens;
    r->target_itl_ms = (double)b->target_itl_us * 1e-3;
    model_config_parameters(&b->config, &r->parameters, &r->active_parameters);
    r->records = model_config_moe_layers(&b->config) * b->config.n_experts;
    r->record_bytes = p->memory.expert_record_bytes;
}

static int run_case(struct bench *b, struct bench_result *r, struct bench_case c,
                    struct moed_error *err)
{
    if (model_pager(b->model)) {
        struct pager_info info;
        pager_info(model_pager(b->model), &info);
        c.in_place = info.mode == PAGER_IN_PLACE;
        c.slots = info.slots;
        c.cache_bytes = info.cache_bytes;
    }
    r->cases[r->n_cases] = c;
    return bench_measure(b, &r->cases[r->n_cases++], err);
}

/* The cases of one kind: prompts, or batches, or prompts beside the largest batch. */
static int run_kind(struct bench *b, const struct plan *p, enum bench_kind kind,
                    struct bench_result *r, struct moed_error *err)
{
    int n = kind == BENCH_DECODE ? p->n_batch : p->n_prompt, rc = 0;
    if (kind != BENCH_PREFILL)
        rc = bench_fill_contexts(b, err);
    for (int i = 0; i < n && rc == 0; i++) {
        struct bench_case c = {.kind = kind, .batch = 1, .tokens = p->prompt[i]};
        if (kind == BENCH_MIXED)
            c.batch = b->max_batch;
        if (kind == BENCH_DECODE) {
            c.batch = p->batch[i];
            c.tokens = (int64_t)p->batch[i] * b->decode_steps;
        }
        c.context = kind == BENCH_PREFILL ? 0 : b->context;
        rc = run_case(b, r, c, err);
    }
    return rc;
}

/* All cases at one size of the cache. */
static int run_cases(struct bench *b, const struct plan *p, struct bench_result *r,
                     struct moed_error *err)
{
    int rc = bench_fill_cache(b, err);
    for (enum bench_kind kind = 0; kind < BENCH_KINDS && rc == 0; kind++)
        if (p->kinds[kind])
            rc = run_kind(b, p, kind, r, err);
    return rc;
}

static int run_caches(struct bench *b, struct plan *p, struct bench_result *r,
                      struct moed_error *err)
{
    int rc = 0;
    for (int i = 0; i < p->n_cache && rc == 0; i++) {
        if (i > 0) {
            p->options.pager.cache_bytes = cache_bytes(p, &p->cache[i]);
            rc = model_set_cache(b->model, &p->options.pager, err);
        }
        if (rc == 0)
            rc = run_cases(b, p, r, err);
    }
    return rc;
}

int cli_bench(const struct options *o)
{
    struct moed_error err = {0};
    struct bench b = {.random = 20260101};
    struct plan *p = mem_new(1, sizeof *p);
    struct bench_result *result = mem_new(1, sizeof *result);
    int status = CLI_USAGE;
    const char *dir = cli_model(o);
    if (!dir)
        goto out;
    p->cfg = cli_engine_config(o, dir);
    int rc = dev_choose(&p->choice, p->cfg.device, &err);
    if (rc == 0 && (rc = parse(p, &b, o, &err)) < 0) {
        cli_report(&err);
        goto out;
    }
    if (rc == 0)
        rc = read_config(&b, dir, &err);
    if (rc == 0)
        rc = open_all(&b, p, &result->peaks, &err);
    if (rc == 0) {
        describe(&b, p, o, result);
        rc = run_caches(&b, p, result, &err);
    }
    if (rc == 0)
        (options_flag(o, "json") ? bench_print_json : bench_print_table)(result, stdout);
    status = rc < 0 ? cli_report(&err) : CLI_OK;
out:
    close_all(&b, p);
    for (int i = 0; i < result->n_cases; i++)
        free(result->cases[i].step_seconds);
    free(result);
    free(p);
    return status;
}
