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
#include "model/weights.h"
#include "store/store.h"

#define ROUTING_SEED 20260101
/* Of prefill, unless asked otherwise: what the engine would take. */
#define PASS_ROWS      512
#define LONG_PASS_ROWS 16384

/* What was asked for. */
struct plan {
    struct moed_engine_config cfg;
    struct bench_set set[BENCH_MAX_SETS];
    int n_sets;
    struct routing *routing[BENCH_MAX_SETS]; /* of each set, the first one's where they are alike */
    uint64_t cache_bytes;                    /* of the cache that is open */
    struct dev_choice choice;
    struct dev *dev, *cpu; /* cpu: for the yardstick of reads; dev itself on the CPU */
    struct model_options options;
    struct model_memory memory; /* without a cache */
};

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* The sets, and limits that hold all of them. */
static int parse(struct plan *p, struct bench *b, const struct options *o, struct moed_error *err)
{
    int rc = p->n_sets = bench_parse_sets(p->set, o, p->choice.cuda, err);
    if (rc < 0)
        return rc;
    b->context = (int32_t)options_int(o, "context");
    b->max_batch = b->max_prompt = b->max_steps = 1;
    for (int i = 0; i < p->n_sets; i++) {
        const struct bench_set *s = &p->set[i];
        b->max_batch = larger(b->max_batch, bench_set_batch(s));
        b->max_prompt = larger(b->max_prompt, bench_set_prompt(s));
        b->max_steps = larger(b->max_steps, s->decode_steps);
    }
    b->pass_rows = options_int(o, "long-prefill-tokens") > 0
                       ? (int32_t)options_int(o, "long-prefill-tokens")
                   : p->choice.cuda ? LONG_PASS_ROWS
                                    : PASS_ROWS;
    int32_t longest = larger(1, larger(b->context, b->max_prompt));
    b->pass_rows = b->pass_rows < longest ? b->pass_rows : longest;
    bench_watch_begin(&b->watch, (int64_t)(options_real(o, "total-seconds") * 1e6),
                      (int64_t)(options_real(o, "case-seconds") * 1e6));
    return 0;
}

static bool cached(const struct plan *p)
{
    return p->set[0].cache[0].given || p->choice.cuda;
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
        .pager = {.mode = cached(p) ? PAGER_CACHED : PAGER_IN_PLACE,
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

static uint64_t cache_bytes(const struct plan *p, const struct bench_cache_size *size)
{
    if (size->given)
        return size->share >= 0 ? engine_share_bytes(size->share, &p->memory) : size->bytes;
    if (!p->choice.cuda)
        return 0;
    return engine_cache_bytes(device_budget(p), &p->memory);
}

static int check_cache(const struct plan *p, uint64_t bytes, struct moed_error *err)
{
    const struct model_memory *m = &p->memory;
    uint64_t rest = m->dense_bytes + m->kv_bytes + m->activation_bytes + m->cache_bytes;
    uint64_t most = m->expert_records * m->expert_record_bytes;
    bytes = bytes < most ? bytes : most;
    if (rest + bytes <= p->choice.memory.free_bytes)
        return 0;
    return moed_fail_param(err, MOED_ENOMEM, "expert-cache",
                           "%.2f GiB of expert slots and %.2f GiB besides are more than the %.2f "
                           "GiB that are free on the device",
                           (double)bytes / 0x1p30, (double)rest / 0x1p30,
                           (double)p->choice.memory.free_bytes / 0x1p30);
}

/* Refuses before loading what the device cannot hold. */
static int check_caches(const struct plan *p, struct moed_error *err)
{
    int rc = 0;
    for (int i = 0; i < p->n_sets && p->choice.cuda; i++)
        for (int k = 0; k < p->set[i].n_cache && rc == 0; k++)
            rc = check_cache(p, cache_bytes(p, &p->set[i].cache[k]), err);
    return rc;
}

static struct engine_class_bytes class_bytes(struct plan *p, const struct bench *b,
                                             enum dtype dtype, const struct bench_cache_size *size,
                                             bool packed)
{
    p->options.packed_experts = packed;
    plan_memory(p, b, dtype);
    return (struct engine_class_bytes){cache_bytes(p, size), p->memory.expert_host_bytes};
}

/* Weights are loaded once for all sizes of the cache. */
static int plan_records(struct plan *p, const struct bench *b, enum dtype dtype,
                        struct moed_error *err)
{
    bool plain_does = true, choice = p->choice.cuda && weights_can_pack(&b->config, dtype);
    for (int i = 0; i < p->n_sets && choice; i++)
        for (int k = 0; k < p->set[i].n_cache; k++) {
            const struct bench_cache_size *size = &p->set[i].cache[k];
            plain_does = plain_does && engine_plain_does(class_bytes(p, b, dtype, size, false),
                                                         class_bytes(p, b, dtype, size, true));
        }
    int rc = engine_plan_records(&p->options.packed_experts, &p->cfg, &b->config, dtype, plain_does,
                                 err);
    if (rc < 0)
        return rc;
    plan_memory(p, b, dtype);
    return check_caches(p, err);
}

/* As the engine: where experts do not go into packed records, once more with plain ones. */
static int open_model(struct bench *b, struct plan *p, struct store *store, enum dtype dtype,
                      struct moed_error *err)
{
    p->options.pager.cache_bytes = p->cache_bytes = cache_bytes(p, &p->set[0].cache[0]);
    int rc = model_open(&b->model, &b->config, &p->options, store, p->dev, err);
    if (rc == 0 || !engine_records_again(&p->cfg, err))
        return rc;
    log_warn("%s: opening again with plain records", err->text);
    p->cfg.expert_records = "plain";
    rc = plan_records(p, b, dtype, err);
    return rc < 0 ? rc : open_model(b, p, store, dtype, err);
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

/* Sets of the same routing share its streams, so that none of them meets again what a cache has
 * just seen. */
static int open_routings(struct bench *b, struct plan *p, struct moed_error *err)
{
    const struct model_config *c = &b->config;
    const struct routing_shape shape = {c->n_layers, c->n_experts, c->top_k, c->moe_layer};
    int rc = 0;
    for (int i = 0; i < p->n_sets && rc == 0; i++) {
        const struct routing_model *model = p->set[i].routing;
        for (int k = 0; k < i && model && !p->routing[i]; k++)
            if (p->set[k].routing == model)
                p->routing[i] = p->routing[k];
        if (!model || p->routing[i])
            continue;
        if (c->n_experts == 0)
            return moed_fail_param(err, MOED_EINVAL, "routing",
                                   "this model has no experts: --routing takes model alone");
        rc = routing_open(&p->routing[i], model, &shape, b->max_batch + 1, ROUTING_SEED, err);
    }
    return rc;
}

static void close_routings(struct plan *p)
{
    for (int i = 0; i < p->n_sets; i++) {
        bool shared = false;
        for (int k = 0; k < i; k++)
            shared = shared || p->set[k].routing == p->set[i].routing;
        if (!shared)
            routing_close(&p->routing[i]);
    }
}

/* Opens device and model as the engine would, with KV for the largest case, and measures the
 * machine in between. */
static int open_all(struct bench *b, struct plan *p, struct bench_peaks *peaks,
                    struct moed_error *err)
{
    const struct moed_engine_config *cfg = &p->cfg;
    struct store *store = NULL;
    struct cli_progress progress;
    b->max_context = larger(b->context + b->max_steps, b->max_prompt);
    int rc = open_devices(p, b->max_context, err);
    if (rc == 0)
        rc = strcmp(cfg->load_format, "dummy") == 0 ? store_open_dummy(&store, err)
                                                    : store_open(&store, cfg->model_dir, err);
    if (rc < 0 || (rc = set_options(p, b, b->max_context, err)) < 0)
        goto out;
    enum dtype dtype = model_weight_dtype(&b->config, store);
    if ((rc = plan_records(p, b, dtype, err)) < 0 || (rc = open_routings(b, p, err)) < 0 ||
        (rc = bench_buffers(b, err)) < 0 ||
        (rc = bench_yardstick_open(&b->yardstick, p->cpu, err)) < 0)
        goto out;
    bench_watch_case(&b->watch, "peaks of the machine");
    if (p->options.pager.mode == PAGER_CACHED)
        rc = bench_yardstick_peaks(b->yardstick, p->dev, peaks, err);
    cli_progress_init(&progress);
    p->options.progress = cli_progress_show;
    p->options.user = &progress;
    bench_watch_case(&b->watch, "opening the model");
    if (rc == 0)
        rc = open_model(b, p, store, dtype, err);
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
    close_routings(p);
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
    model_config_parameters(&b->config, &r->parameters, &r->active_parameters);
    r->max_context = b->max_context;
    r->records = model_config_moe_layers(&b->config) * b->config.n_experts;
    r->record_bytes = p->memory.expert_record_bytes;
    r->matrix_bytes = p->memory.expert_matrix_bytes;
    if (r->records)
        r->record_class = engine_records_name(p->options.packed_experts);
}

static int run_case(struct bench *b, struct bench_result *r, struct bench_case c,
                    struct moed_error *err)
{
    if (bench_watch_over(&b->watch))
        return 0;
    if (model_pager(b->model)) {
        struct pager_info info;
        pager_info(model_pager(b->model), &info);
        c.in_place = info.mode == PAGER_IN_PLACE;
        c.slots = info.slots;
        c.cache_bytes = info.cache_bytes;
    }
    struct bench_case *to = &r->cases[r->n_cases];
    *to = c;
    bench_watch_case(&b->watch, "%s, batch %d, prompt %lld, %d slots, %s", bench_kind_names[c.kind],
                     c.batch, bench_by_batch(c.kind) ? 0LL : (long long)c.tokens, c.slots,
                     c.routing);
    int rc = bench_measure(b, to, err);
    if (rc < 0) {
        free(to->step_seconds);
        return rc;
    }
    r->n_cases++;
    bench_say_case(r, to);
    return 0;
}

static struct bench_case case_of(const struct bench *b, const struct bench_set *s,
                                 enum bench_kind kind, int i)
{
    struct bench_case c = {.kind = kind, .batch = 1, .tokens = s->prompt[i]};
    snprintf(c.routing, sizeof c.routing, "%s%s", s->routing ? "synthetic:" : "",
             s->routing ? s->routing->name : "model");
    if (kind == BENCH_MIXED) {
        c.batch = bench_set_batch(s);
        c.target_itl_ms = (double)s->target_itl_us * 1e-3;
    }
    if (bench_by_batch(kind)) {
        c.batch = s->batch[i];
        c.tokens = (int64_t)s->batch[i] * b->decode_steps;
    }
    c.context = kind == BENCH_DECODE || kind == BENCH_MIXED ? b->context : 0;
    return c;
}

/* The cases of one kind: prompts, or batches, or prompts beside the largest batch. */
static int run_kind(struct bench *b, const struct bench_set *s, enum bench_kind kind,
                    struct bench_result *r, struct moed_error *err)
{
    int n = bench_by_batch(kind) ? s->n_batch : s->n_prompt, rc = 0;
    if (kind == BENCH_DECODE || kind == BENCH_MIXED)
        rc = bench_fill_contexts(b, err);
    if (kind == BENCH_CLIENTS)
        rc = bench_clients_open(&b->clients, b, s, err);
    for (int i = 0; i < n && rc == 0; i++)
        rc = run_case(b, r, case_of(b, s, kind, i), err);
    bench_clients_close(&b->clients);
    return rc;
}

/* All cases of a set at one size of the cache. */
static int run_cache(struct bench *b, struct plan *p, const struct bench_set *s,
                     const struct bench_cache_size *size, struct bench_result *r,
                     struct moed_error *err)
{
    uint64_t bytes = cache_bytes(p, size);
    int rc = 0;
    if (bytes != p->cache_bytes) {
        p->options.pager.cache_bytes = p->cache_bytes = bytes;
        rc = model_set_cache(b->model, &p->options.pager, err);
    }
    if (rc == 0)
        rc = bench_fill_cache(b, err);
    for (enum bench_kind kind = 0; kind < BENCH_KINDS && rc == 0; kind++)
        if (s->kinds[kind])
            rc = run_kind(b, s, kind, r, err);
    return rc;
}

static int run_sets(struct bench *b, struct plan *p, struct bench_result *r, struct moed_error *err)
{
    int rc = 0, cases = 0;
    for (int i = 0; i < p->n_sets; i++)
        cases += bench_set_cases(&p->set[i]);
    r->cases = mem_new((size_t)cases, sizeof *r->cases);
    for (int i = 0; i < p->n_sets && rc == 0; i++) {
        const struct bench_set *s = &p->set[i];
        b->routing = p->routing[i];
        b->decode_steps = s->decode_steps;
        b->warmup_tokens = s->warmup_tokens;
        b->runs = s->runs;
        b->target_itl_us = s->target_itl_us;
        for (int k = 0; k < s->n_cache && rc == 0 && !bench_watch_over(&b->watch); k++)
            rc = run_cache(b, p, s, &s->cache[k], r, err);
    }
    int measured = 0;
    for (int i = 0; i < r->n_cases; i++)
        measured += r->cases[i].n_runs > 0;
    if (rc == 0 && measured < cases)
        rc = moed_fail(err, MOED_EDEADLINE,
                       "%d of %d cases were not measured, the time being over (--case-seconds, "
                       "--total-seconds)",
                       cases - measured, cases);
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
        rc = run_sets(&b, p, result, &err);
    }
    /* What was measured is worth printing whatever came after it. */
    if (rc == 0 || result->n_cases > 0)
        (options_flag(o, "json") ? bench_print_json : bench_print_table)(result, stdout);
    status = rc < 0 ? cli_report(&err) : CLI_OK;
out:
    close_all(&b, p);
    for (int i = 0; i < result->n_cases; i++)
        free(result->cases[i].step_seconds);
    free(result->cases);
    free(result);
    free(p);
    return status;
}
