/*
 * From a model folder to a running engine: reads what describes the model, plans memory, loads, and
 * joins model, tokenizer and loop. The one place where all modules meet.
 *
 *   describing  config, headers of files |
 *   caller      device chosen            | plan, reading begins, device opened | rest of loading
 *   tokenizer   read and built                                                 |
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/backend.h"
#include "engine/plan.h"
#include "pager/policy.h"
#include "text/tokenizer.h"

/* Work on a thread of its own while the caller does other work. */
struct beside {
    pthread_t thread;
    bool running;
};

/* Where no thread can be had the work is done before this returns. */
static void beside_begin(struct beside *b, void *(*work)(void *arg), void *arg)
{
    b->running = pthread_create(&b->thread, NULL, work, arg) == 0;
    if (!b->running)
        work(arg);
}

static void beside_end(struct beside *b)
{
    if (b->running)
        pthread_join(b->thread, NULL);
    b->running = false;
}

/* What a running engine stands on; the backend's self. */
struct loaded {
    struct dev_choice choice;
    struct dev *dev; /* computes the model */
    struct dev *cpu; /* samples; dev itself on the CPU */
    struct model *model;
    struct beside tokenizing; /* while it runs, the thread's: */
    struct tokenizer *tokenizer;
    const char *model_dir;
    int tokenizer_rc;
    struct moed_error tokenizer_err;
};

/* What a folder says about a model. */
struct described {
    struct model_config config;
    struct model_generation generation;
    struct store *store;
    enum dtype weight_dtype;
};

static int pass_begin(void *self, enum model_lane lane, const struct model_batch *batch,
                      struct moed_error *err)
{
    return model_pass_begin(((struct loaded *)self)->model, lane, batch, err);
}

static int pass_run(void *self, enum model_lane lane, int32_t layer_end, struct moed_error *err)
{
    return model_pass_run(((struct loaded *)self)->model, lane, layer_end, err);
}

static int pass_logits(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                       float *logits, struct moed_error *err)
{
    return model_pass_logits(((struct loaded *)self)->model, lane, rows, n, logits, err);
}

static int pass_sample(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                       const struct kern_sample_row *params, int32_t *token, struct moed_error *err)
{
    return model_pass_sample(((struct loaded *)self)->model, lane, rows, n, params, token, err);
}

static void pass_drop(void *self, enum model_lane lane, int32_t seq)
{
    model_pass_drop(((struct loaded *)self)->model, lane, seq);
}

static int pass_end(void *self, enum model_lane lane)
{
    return model_pass_end(((struct loaded *)self)->model, lane);
}

static void parallel(void *self, void (*fn)(void *arg, int part, int parts), void *arg, int parts)
{
    dev_cpu_parallel(((struct loaded *)self)->cpu, fn, arg, parts);
}

static void loaded_close(void *self)
{
    struct loaded *l = self;
    beside_end(&l->tokenizing);
    model_close(&l->model);
    if (l->cpu != l->dev)
        dev_close(&l->cpu);
    dev_close(&l->dev);
    dev_choice_end(&l->choice);
    tokenizer_close(&l->tokenizer);
    free(l);
}

static void *text_open(const void *tokenizer, bool skip_special)
{
    struct detokenizer *d;
    detokenizer_open(&d, tokenizer, skip_special ? DETOKENIZER_SKIP_SPECIAL : 0);
    return d;
}

static void text_push(void *d, int32_t id, const char **text, size_t *n)
{
    detokenizer_push(d, id, text, n);
}

static void text_finish(void *d, const char **text, size_t *n)
{
    detokenizer_finish(d, text, n);
}

static void text_close(void *detokenizer)
{
    struct detokenizer *d = detokenizer;
    detokenizer_close(&d);
}

static bool is(const char *value, const char *name)
{
    return value && strcmp(value, name) == 0;
}

static int open_store(struct described *d, const struct moed_engine_config *cfg,
                      struct moed_error *err)
{
    const char *format = cfg->load_format;
    if (is(format, "dummy"))
        return store_open_dummy(&d->store, err);
    if (format && *format && !is(format, "auto") && !is(format, "safetensors"))
        return moed_fail_param(err, MOED_EINVAL, "load-format",
                               "load-format must be auto, safetensors or dummy, not \"%s\"",
                               format);
    return store_open(&d->store, cfg->model_dir, err);
}

static int describe(struct described *d, const struct moed_engine_config *cfg,
                    struct moed_error *err)
{
    json_t *json = NULL;
    *d = (struct described){0};
    if (!cfg->model_dir || !*cfg->model_dir)
        return moed_fail_param(err, MOED_EINVAL, "model", "no model folder is given");
    int rc = store_read_json(&json, cfg->model_dir, "config.json", err);
    if (rc < 0)
        return rc;
    rc = model_config_parse(&d->config, json, err);
    json_decref(json);
    if (rc < 0)
        return moed_fail_in(err, rc, "%s", cfg->model_dir);
    json = NULL;
    rc = store_read_json(&json, cfg->model_dir, "generation_config.json", err);
    if (rc < 0 && rc != MOED_ENOTFOUND)
        return rc;
    rc = model_generation_parse(&d->generation, json, err);
    json_decref(json);
    if (rc < 0)
        return moed_fail_in(err, rc, "%s", cfg->model_dir);
    if ((rc = open_store(d, cfg, err)) < 0)
        return rc;
    d->weight_dtype = model_weight_dtype(&d->config, d->store);
    return 0;
}

struct describing {
    struct described *d;
    const struct moed_engine_config *cfg;
    int rc;
    struct moed_error err;
    int64_t took_us;
};

static void *describe_beside(void *arg)
{
    struct describing *w = arg;
    int64_t start_us = clock_us();
    w->rc = describe(w->d, w->cfg, &w->err);
    w->took_us = clock_us() - start_us;
    return NULL;
}

/* What the folder says is parsed while a driver comes up. The folder's fault is told first. */
static int describe_and_choose(struct described *d, struct dev_choice *choice,
                               const struct moed_engine_config *cfg, struct moed_error *err)
{
    struct describing w = {.d = d, .cfg = cfg};
    struct beside describing;
    int64_t start_us = clock_us();
    beside_begin(&describing, describe_beside, &w);
    int rc = dev_choose_to_open(choice, cfg->device, err);
    int64_t chosen_us = clock_us() - start_us;
    beside_end(&describing);
    if (w.rc < 0) {
        if (err)
            *err = w.err;
        return w.rc;
    }
    if (rc >= 0)
        log_info("model described in %.3f s, device chosen beside it in %.3f s",
                 (double)w.took_us * 1e-6, (double)chosen_us * 1e-6);
    return rc;
}

/* The choice is made already. */
static int plan_described(struct engine_plan *p, const struct dev_choice *choice,
                          const struct described *d, const struct moed_engine_config *cfg,
                          struct moed_error *err)
{
    struct memory_limits limits;
    memory_limits_read(&limits);
    limits.device_bytes = choice->cuda ? choice->memory.free_bytes : 0;
    if (cfg->admission && strcmp(cfg->admission, "all") != 0 &&
        strcmp(cfg->admission, "measured") != 0)
        return moed_fail_param(err, MOED_EINVAL, "admission",
                               "admission must be all or measured, not \"%.64s\"", cfg->admission);
    if (cfg->expert_policy && *cfg->expert_policy && !policy_find(cfg->expert_policy))
        return moed_fail_param(err, MOED_EINVAL, "expert-policy",
                               "expert-policy must be one of %s, not \"%s\"", policy_names(),
                               cfg->expert_policy);
    return engine_plan(p, cfg, &d->config, d->weight_dtype, dev_usable_cores(), &limits, err);
}

int engine_plan_model(struct engine_plan *out, struct model_config *config,
                      const struct moed_engine_config *cfg, struct moed_error *err)
{
    struct described d;
    struct dev_choice choice;
    int rc = describe(&d, cfg, err);
    if (rc >= 0 && config)
        *config = d.config;
    if (rc >= 0 && (rc = dev_choose(&choice, cfg->device, err)) >= 0)
        rc = plan_described(out, &choice, &d, cfg, err);
    store_close(&d.store);
    return rc;
}

static void log_plan(const struct engine_plan *p)
{
    struct buf text = {0};
    engine_plan_text(p, &text);
    char *rest = text.data, *line;
    while ((line = strsep(&rest, "\n")))
        if (*line)
            log_info("plan: %s", line);
    buf_fini(&text);
}

static int open_device(struct loaded *l, const struct moed_engine_config *cfg,
                       const struct engine_plan *p, struct moed_error *err)
{
    int isa = cfg->isa && *cfg->isa ? kern_isa_parse(cfg->isa) : KERN_ISA_AUTO;
    if (isa < 0 || !kern_cpu((enum kern_isa)isa))
        return moed_fail_param(err, MOED_EINVAL, "isa",
                               "isa \"%s\" is not one that this program and machine have "
                               "(auto, scalar, avx2, avx512)",
                               cfg->isa);
    struct dev_cpu_config dev = {.threads = p->threads,
                                 .isa = (enum kern_isa)isa,
                                 .link_bytes_per_s = cfg->link_bytes_per_s,
                                 .max_context = p->max_model_len};
    int rc = dev_open(&l->dev, &l->choice, &dev, err);
    dev_choice_end(&l->choice);
    if (rc < 0)
        return rc;
    log_info("device: %s", l->choice.why);
    if (!l->choice.cuda)
        l->cpu = l->dev;
    else if ((rc = dev_cpu_open(&l->cpu, &dev, err)) < 0)
        return rc;
    struct dev_cpu_info cpu = dev_cpu_info(l->cpu);
    log_info("cpu: %d threads, %s", cpu.threads, cpu.isa);
    return 0;
}

static void *tokenize_beside(void *arg)
{
    struct loaded *l = arg;
    l->tokenizer_rc = tokenizer_open(&l->tokenizer, l->model_dir, &l->tokenizer_err);
    return NULL;
}

/* Waits for it. A folder without a tokenizer runs on token ids alone; one that is broken is an
 * error. */
static int end_tokenizer(struct loaded *l, const struct model_config *c, struct moed_error *err)
{
    beside_end(&l->tokenizing);
    if (l->tokenizer_rc == MOED_ENOTFOUND) {
        log_warn("%s has no tokenizer: token ids only, no text", l->model_dir);
        return 0;
    }
    if (l->tokenizer_rc < 0) {
        if (err)
            *err = l->tokenizer_err;
        return l->tokenizer_rc;
    }
    log_info("tokenizer: %s", tokenizer_describe(l->tokenizer));
    if (tokenizer_vocab_size(l->tokenizer) > c->vocab_size)
        log_warn("the tokenizer has %d ids and the model %d: prompts with higher ids are refused",
                 tokenizer_vocab_size(l->tokenizer), c->vocab_size);
    return 0;
}

static int begin_model(struct loaded *l, const struct described *d,
                       const struct moed_engine_config *cfg, const struct engine_plan *p,
                       struct moed_error *err)
{
    struct model_options o = p->options;
    o.progress = cfg->progress;
    o.user = cfg->user;
    return model_begin(&l->model, &d->config, &o, d->store, err);
}

static void say_loaded(const struct engine_plan *p, int64_t start_us)
{
    log_info("loaded %.1f MiB in %.2f s",
             (double)(p->memory.dense_bytes + p->memory.expert_host_bytes) / 1048576.0,
             (double)(clock_us() - start_us) * 1e-6);
}

/* The weights are read while the device opens, which takes longer than a tokenizer; a broken one
 * ends the reading. */
static int load(struct loaded *l, const struct described *d, const struct moed_engine_config *cfg,
                const struct engine_plan *p, struct moed_error *err)
{
    int64_t start = clock_us();
    int rc = begin_model(l, d, cfg, p, err);
    int64_t device_start = clock_us();
    if (rc < 0 || (rc = open_device(l, cfg, p, err)) < 0)
        return rc;
    log_info("device opened in %.3f s", (double)(clock_us() - device_start) * 1e-6);
    if ((rc = end_tokenizer(l, &d->config, err)) < 0)
        return rc;
    if (d->config.n_experts == 0 && cfg->expert_cache_bytes >= 0)
        log_info("this model has no experts: --expert-cache has no effect");
    if ((rc = model_finish(l->model, l->dev, err)) < 0)
        return rc;
    say_loaded(p, start);
    return 0;
}

/* After all the experts did not go into packed records: once more, on the device that is open. */
static int load_plain(struct loaded *l, const struct described *d,
                      const struct moed_engine_config *cfg, struct engine_plan *p,
                      struct moed_error *err)
{
    struct moed_engine_config plain = *cfg;
    plain.expert_records = "plain";
    model_close(&l->model);
    int64_t start = clock_us();
    int rc = plan_described(p, &l->choice, d, &plain, err);
    if (rc < 0)
        return rc;
    log_plan(p);
    if ((rc = begin_model(l, d, cfg, p, err)) < 0 || (rc = model_finish(l->model, l->dev, err)) < 0)
        return rc;
    say_loaded(p, start);
    return 0;
}

static void add_eos(struct engine_setup *s, int32_t id)
{
    for (int32_t i = 0; i < s->n_eos; i++)
        if (s->eos[i] == id)
            return;
    if (id >= 0 && id < s->info.vocab_size && s->n_eos < ENGINE_MAX_EOS)
        s->eos[s->n_eos++] = id;
}

/* generation_config.json overrides config.json; the tokenizer's own eos always ends a text. */
static void set_eos(struct engine_setup *s, const struct described *d, const struct loaded *l)
{
    const struct model_generation *g = &d->generation;
    for (int32_t i = 0; i < g->n_eos; i++)
        add_eos(s, g->eos[i]);
    for (int32_t i = 0; g->n_eos == 0 && i < d->config.n_eos; i++)
        add_eos(s, d->config.eos[i]);
    if (l->tokenizer)
        add_eos(s, tokenizer_eos(l->tokenizer));
}

static void set_sampling(struct moed_sampling *s, const struct model_generation *g,
                         const struct moed_engine_config *cfg)
{
    moed_sampling_default(s);
    if (cfg->no_generation_config)
        return;
    if (g->temperature >= 0)
        s->temperature = g->temperature;
    if (g->top_p > 0 && g->top_p <= 1)
        s->top_p = g->top_p;
    if (g->min_p >= 0 && g->min_p <= 1)
        s->min_p = g->min_p;
    if (g->repetition_penalty > 0)
        s->repetition_penalty = g->repetition_penalty;
    if (g->top_k >= 0)
        s->top_k = g->top_k;
}

static void set_info(struct moed_engine_info *out, const struct model_config *c,
                     const struct engine_plan *p)
{
    *out = (struct moed_engine_info){.vocab_size = c->vocab_size,
                                     .max_model_len = p->max_model_len,
                                     .max_num_seqs = p->max_seqs,
                                     .max_batched_tokens = p->max_batched_tokens,
                                     .max_queue = p->max_queue,
                                     .n_layers = c->n_layers,
                                     .n_experts = c->n_experts,
                                     .top_k = c->top_k,
                                     .kv_blocks = p->options.kv_blocks,
                                     .loaded_unix = (int64_t)time(NULL)};
    snprintf(out->architecture, sizeof out->architecture, "%s", c->architecture);
    model_config_parameters(c, &out->parameters, &out->active_parameters);
}

/* Where every expert is resident streams evict nothing of each other. */
static void set_admission(struct engine_setup *s, const struct loaded *l, const struct described *d,
                          const struct moed_engine_config *cfg)
{
    struct pager_info info = {0};
    int32_t records = model_config_moe_layers(&d->config) * d->config.n_experts;
    if (cfg->admission && strcmp(cfg->admission, "measured") != 0)
        return;
    if (model_pager(l->model))
        pager_info(model_pager(l->model), &info);
    s->admission_measured = info.mode == PAGER_CACHED && info.slots < records;
    s->admission_wait_us = (int64_t)(cfg->admission_wait_ms * 1000);
    if (s->admission_measured)
        log_info("not all experts are resident: streams decode together as far as that does not "
                 "lower the tokens a second of all (--admission measured)");
}

static void set_up(struct engine_setup *s, struct loaded *l, const struct described *d,
                   const struct moed_engine_config *cfg, const struct engine_plan *p)
{
    s->backend = (struct engine_backend){.self = l,
                                         .begin = pass_begin,
                                         .run = pass_run,
                                         .logits = pass_logits,
                                         .sample = model_can_sample(l->model) ? pass_sample : NULL,
                                         .drop = pass_drop,
                                         .end = pass_end,
                                         .parallel = parallel,
                                         .threads = dev_cpu_info(l->cpu).threads,
                                         .pager = model_pager(l->model),
                                         .misses = model_misses(l->model),
                                         .close = loaded_close};
    if (l->tokenizer)
        s->text = (struct engine_text){l->tokenizer, text_open, text_push, text_finish, text_close};
    s->tokenizer = l->tokenizer;
    s->sched = (struct sched_config){.max_seqs = p->max_seqs,
                                     .max_batched_tokens = p->max_batched_tokens,
                                     .long_prefill_tokens = p->options.long_rows,
                                     .max_queue = p->max_queue,
                                     .max_model_len = p->max_model_len,
                                     .kv_blocks = p->options.kv_blocks,
                                     .no_prefix_cache = cfg->no_prefix_cache};
    s->max_logits = p->options.max_logits;
    s->target_itl_us = p->target_itl_us;
    set_admission(s, l, d, cfg);
    set_info(&s->info, &d->config, p);
    set_eos(s, d, l);
    set_sampling(&s->sampling, &d->generation, cfg);
}

int engine_open_hooked(struct moed_engine **out, const struct moed_engine_config *cfg,
                       engine_logits_hook hook, void *hook_user, struct moed_error *err)
{
    _Static_assert(SCHED_BLOCK_TOKENS == KV_BLOCK_TOKENS, "one block size in all rooms");
    struct described d;
    struct engine_plan plan = {0};
    struct loaded *l = mem_new(1, sizeof *l);
    *out = NULL;
    l->model_dir = cfg->model_dir;
    if (cfg->model_dir && *cfg->model_dir)
        beside_begin(&l->tokenizing, tokenize_beside, l);
    int rc = describe_and_choose(&d, &l->choice, cfg, err);
    if (rc < 0 || (rc = plan_described(&plan, &l->choice, &d, cfg, err)) < 0)
        goto out;
    log_plan(&plan);
    struct moed_error why = {0};
    rc = load(l, &d, cfg, &plan, &why);
    /* Without a device it was the plan of the weights, which plain records do not mend. */
    if (rc < 0 && l->dev && engine_records_again(cfg, &why)) {
        log_warn("%s: opening again with plain records", why.text);
        rc = load_plain(l, &d, cfg, &plan, &why);
    }
    if (rc < 0) {
        if (err)
            *err = why;
        goto out;
    }
    struct engine_setup setup = {.hook = hook, .hook_user = hook_user};
    set_up(&setup, l, &d, cfg, &plan);
    if ((rc = engine_start(out, &setup, err)) >= 0)
        l = NULL;
out:
    if (l)
        loaded_close(l); /* may still read from the store */
    store_close(&d.store);
    return rc;
}

int moed_engine_open(struct moed_engine **out, const struct moed_engine_config *cfg,
                     struct moed_error *err)
{
    return engine_open_hooked(out, cfg, NULL, NULL, err);
}
