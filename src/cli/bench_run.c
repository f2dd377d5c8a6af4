/*
 * Runs of moed bench. Prompts are random token ids. Where routing is synthetic the choices of a
 * whole run are drawn before it begins, so that a run is timed without gaps: a gap between steps
 * would give the copies of admissions time that a server's steps do not give them.
 *
 * All loops end: each has a count, and a part of the case's time (bench_watch).
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "device/misses.h"

/* Of a case's time: when filling and warming up end at the latest, and the runs. */
#define FILL_PART    0.3
#define WARM_UP_PART 0.6
#define RUNS_PART    1.0
/* Between two steps while a cache is filled: the link has it to itself. */
#define FILL_PAUSE_US 5000
/* A policy forgets by steps, whatever the batch, so some are always decoded. */
#define WARM_UP_STEPS 32
/* Where no warm-up is asked for. */
#define WARM_UP_LEAST 4
/* A run of decode that must be cut has so many steps at least. */
#define RUN_STEPS_LEAST 4

static int32_t random_token(struct bench *b)
{
    b->random = b->random * 6364136223846793005ull + 1442695040888963407ull;
    return (int32_t)((b->random >> 33) % (uint64_t)b->config.vocab_size);
}

static int32_t blocks_for(int32_t tokens)
{
    return (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

static int32_t decode_blocks(const struct bench *b)
{
    return blocks_for(b->context + b->max_steps);
}

int32_t bench_kv_blocks(const struct bench *b)
{
    return b->max_batch * decode_blocks(b) + blocks_for(b->max_prompt);
}

static int new_rows(struct bench_rows *r, int32_t n)
{
    r->token = mem_try((size_t)n, sizeof *r->token);
    r->pos = mem_try((size_t)n, sizeof *r->pos);
    r->seq = mem_try((size_t)n, sizeof *r->seq);
    return r->token && r->pos && r->seq ? 0 : MOED_ENOMEM;
}

int bench_buffers(struct bench *b, struct moed_error *err)
{
    int32_t blocks = bench_kv_blocks(b), most = b->max_batch, each = decode_blocks(b);
    b->block_table = mem_try((size_t)blocks, sizeof *b->block_table);
    b->seqs = mem_try((size_t)most + 1, sizeof *b->seqs);
    b->logits = mem_try((size_t)most * (size_t)b->config.vocab_size, sizeof *b->logits);
    if (new_rows(&b->rows[MODEL_STEP], most) < 0 ||
        new_rows(&b->rows[MODEL_LONG], b->pass_rows) < 0 || !b->block_table || !b->seqs ||
        !b->logits)
        return moed_fail(err, MOED_ENOMEM, "no memory for the buffers of the bench");
    for (int32_t i = 0; i < blocks; i++)
        b->block_table[i] = i;
    for (int32_t s = 0; s <= most; s++)
        b->seqs[s].block_table = b->block_table + (size_t)s * (size_t)each;
    return 0;
}

void bench_buffers_free(struct bench *b)
{
    free(b->block_table);
    free(b->seqs);
    free(b->logits);
    for (int lane = 0; lane < MODEL_LANES; lane++) {
        free(b->rows[lane].token);
        free(b->rows[lane].pos);
        free(b->rows[lane].seq);
        free(b->forced[lane]);
    }
}

/* Numbers of choices of one token in all layers. */
static size_t token_choices(const struct bench *b)
{
    return (size_t)b->config.n_layers * (size_t)b->config.top_k;
}

/* The batch of a lane's rows; its choices begin `tokens` tokens into the run's. */
static struct model_batch batch_of(const struct bench *b, enum model_lane lane, int32_t n_rows,
                                   int32_t n_seqs, const struct model_seq *seqs, int32_t tokens)
{
    const struct bench_rows *r = &b->rows[lane];
    return (struct model_batch){
        .n_rows = n_rows,
        .token = r->token,
        .pos = r->pos,
        .seq = r->seq,
        .n_seqs = n_seqs,
        .seqs = seqs,
        .forced = b->routing ? b->forced[lane] + (size_t)tokens * token_choices(b) : NULL,
    };
}

int32_t bench_prompt_rows(struct bench *b, int32_t done, int32_t tokens)
{
    const struct bench_rows *r = &b->rows[MODEL_LONG];
    int32_t rows = tokens - done < b->pass_rows ? tokens - done : b->pass_rows;
    for (int32_t i = 0; i < rows; i++) {
        r->token[i] = random_token(b);
        r->pos[i] = done + i;
        r->seq[i] = 0;
    }
    return rows;
}

int bench_tokens(struct bench *b, enum model_lane lane, const int32_t *rows, int32_t n,
                 struct moed_error *err)
{
    static const struct kern_sample_row greedy[BENCH_MAX_BATCH];
    int32_t token[BENCH_MAX_BATCH];
    if (model_can_sample(b->model))
        return model_pass_sample(b->model, lane, rows, n, greedy, token, err);
    return model_pass_logits(b->model, lane, rows, n, b->logits, err);
}

int bench_prompt_begin(struct bench *b, int32_t seq, int32_t done, int32_t rows,
                       struct moed_error *err)
{
    struct model_batch batch = batch_of(b, MODEL_LONG, rows, 1, b->seqs + seq, done);
    return model_pass_begin(b->model, MODEL_LONG, &batch, err);
}

/* Computes positions [0, n) of a sequence in passes. Returns the number of passes. */
static int prefill(struct bench *b, int32_t seq, int32_t n, struct bench_case *c,
                   struct moed_error *err)
{
    int passes = 0;
    for (int32_t done = 0, rows; done < n; done += rows, passes++) {
        if (!bench_watch_goes_on(&b->watch, RUNS_PART, "prompt", done, n)) {
            b->late = true;
            break;
        }
        rows = bench_prompt_rows(b, done, n);
        double start = clock_seconds();
        int rc = bench_prompt_begin(b, seq, done, rows, err);
        if (rc < 0)
            return rc;
        rc = model_pass_run(b->model, MODEL_LONG, b->config.n_layers, err);
        if (rc >= 0 && done + rows == n)
            rc = bench_tokens(b, MODEL_LONG, &(int32_t){rows - 1}, 1, err);
        model_pass_end(b->model, MODEL_LONG);
        if (rc < 0)
            return rc;
        bench_sample(c, clock_seconds() - start);
    }
    return passes;
}

int bench_step(struct bench *b, int32_t step, int32_t batch, struct moed_error *err)
{
    const struct bench_rows *r = &b->rows[MODEL_STEP];
    int32_t rows[BENCH_MAX_BATCH];
    for (int32_t i = 0; i < batch; i++) {
        r->token[i] = random_token(b);
        r->pos[i] = b->context + step;
        r->seq[i] = rows[i] = i;
    }
    struct model_batch all = batch_of(b, MODEL_STEP, batch, batch, b->seqs, step * batch);
    int rc = model_pass_begin(b->model, MODEL_STEP, &all, err);
    if (rc < 0)
        return rc;
    rc = model_pass_run(b->model, MODEL_STEP, b->config.n_layers, err);
    if (rc >= 0)
        rc = bench_tokens(b, MODEL_STEP, rows, batch, err);
    model_pass_end(b->model, MODEL_STEP);
    return rc;
}

/* Decodes `steps` tokens of each of `batch` sequences, whose choices are drawn. */
static int decode(struct bench *b, int32_t batch, int32_t steps, struct bench_case *c,
                  struct moed_error *err)
{
    int rc = 0;
    for (int32_t step = 0; step < steps && rc >= 0; step++) {
        if (!bench_watch_goes_on(&b->watch, RUNS_PART, "steps of a run", step, steps)) {
            b->late = true;
            break;
        }
        double start = clock_seconds();
        rc = bench_step(b, step, batch, err);
        bench_sample(c, clock_seconds() - start);
    }
    return rc;
}

void bench_sample(struct bench_case *c, double seconds)
{
    if (!c)
        return;
    c->step_seconds =
        mem_reserve(c->step_seconds, &c->step_room, c->n_step_seconds + 1, sizeof *c->step_seconds);
    c->step_seconds[c->n_step_seconds++] = seconds;
}

static int want_choices(struct bench *b, enum model_lane lane, size_t tokens,
                        struct moed_error *err)
{
    size_t need = tokens * token_choices(b);
    if (need <= b->forced_room[lane])
        return 0;
    free(b->forced[lane]);
    b->forced[lane] = mem_try(need, sizeof(int32_t));
    b->forced_room[lane] = b->forced[lane] ? need : 0;
    return b->forced[lane] ? 0 : moed_fail(err, MOED_ENOMEM, "no memory for the routing of a run");
}

/* Choices lie pass by pass: [n_layers][rows of the pass][top_k] each. Prompts are a stream of their
 * own. */
static int draw_prompt(struct bench *b, int32_t tokens, struct moed_error *err)
{
    int rc = want_choices(b, MODEL_LONG, (size_t)tokens, err);
    for (int32_t done = 0, rows; rc == 0 && done < tokens; done += rows) {
        rows = tokens - done < b->pass_rows ? tokens - done : b->pass_rows;
        routing_draw(b->routing, b->max_batch, rows,
                     b->forced[MODEL_LONG] + (size_t)done * token_choices(b),
                     (size_t)rows * (size_t)b->config.top_k);
    }
    return rc;
}

static int draw_steps(struct bench *b, int32_t batch, int32_t steps, struct moed_error *err)
{
    size_t top_k = (size_t)b->config.top_k, stride = (size_t)batch * top_k;
    if (!b->routing)
        return 0;
    int rc = want_choices(b, MODEL_STEP, (size_t)steps * (size_t)batch, err);
    for (int32_t step = 0; rc == 0 && step < steps; step++) {
        int32_t *to = b->forced[MODEL_STEP] + (size_t)step * (size_t)batch * token_choices(b);
        for (int32_t i = 0; i < batch; i++)
            routing_draw(b->routing, i, 1, to + (size_t)i * top_k, stride);
    }
    return rc;
}

/* The choices of a run. */
static int draw(struct bench *b, const struct bench_case *c, struct moed_error *err)
{
    int rc = 0;
    if (b->routing && c->kind != BENCH_DECODE)
        rc = draw_prompt(b, (int32_t)c->tokens, err);
    if (c->kind != BENCH_PREFILL && rc == 0)
        rc = draw_steps(b, c->batch, c->kind == BENCH_DECODE ? c->steps : b->decode_steps, err);
    return rc;
}

/* Samples go to c unless it is NULL. */
static int run_once(struct bench *b, const struct bench_case *what, struct bench_case *c,
                    struct moed_error *err)
{
    switch (what->kind) {
    case BENCH_PREFILL:
        return prefill(b, b->max_batch, (int32_t)what->tokens, c, err);
    case BENCH_DECODE:
        return decode(b, what->batch, what->steps, c, err);
    default:
        return bench_mixed_run(b, what, c, err);
    }
}

int bench_fill_contexts(struct bench *b, struct moed_error *err)
{
    int rc = 0;
    bool wanted = !b->routing && !b->contexts_filled;
    b->late = false;
    if (wanted)
        bench_watch_case(&b->watch, "contexts of %d streams", b->max_batch);
    for (int32_t s = 0; rc >= 0 && wanted && s < b->max_batch; s++)
        rc = prefill(b, s, b->context, NULL, err);
    if (wanted && b->late)
        log_warn("bench: contexts were not filled to their end, the time being over");
    b->contexts_filled = b->contexts_filled || (wanted && rc >= 0);
    return rc < 0 ? rc : 0;
}

/* Slots of the cache, and loads that came: each slot has had one when there are as many. */
static int32_t slots_loaded(const struct bench *b, int32_t *slots)
{
    struct pager_info info = {0};
    struct pager_counters n = {0};
    if (model_pager(b->model)) {
        pager_info(model_pager(b->model), &info);
        pager_counters(model_pager(b->model), &n);
    }
    *slots = info.mode == PAGER_CACHED ? info.slots : 0;
    return info.resident == *slots || n.admissions > (uint64_t)*slots ? *slots
                                                                      : (int32_t)n.admissions;
}

int bench_fill_cache(struct bench *b, struct moed_error *err)
{
    int32_t slots, loaded = slots_loaded(b, &slots);
    int rc = 0;
    if (loaded == slots)
        return 0;
    bench_watch_case(&b->watch, "filling %d slots", slots);
    while (rc >= 0 && loaded < slots) {
        if (!bench_watch_goes_on(&b->watch, FILL_PART, "slots loaded", loaded, slots)) {
            log_warn("bench: the cache is not full yet, %d of %d slots were loaded; cases begin "
                     "all the same",
                     loaded, slots);
            break;
        }
        if ((rc = draw_steps(b, 1, 1, err)) >= 0)
            rc = bench_step(b, 0, 1, err);
        nanosleep(&(struct timespec){0, FILL_PAUSE_US * 1000L}, NULL);
        loaded = slots_loaded(b, &slots);
    }
    return rc < 0 ? rc : 0;
}

static void subtract_stats(struct model_stats *a, const struct model_stats *b)
{
    a->passes -= b->passes;
    a->rows -= b->rows;
    a->seconds_attention -= b->seconds_attention;
    a->seconds_experts -= b->seconds_experts;
    a->seconds_dense -= b->seconds_dense;
    a->seconds_logits -= b->seconds_logits;
    a->seconds_recorded -= b->seconds_recorded;
    a->seconds_other -= b->seconds_other;
    a->bytes_experts -= b->bytes_experts;
    a->bytes_experts_cpu -= b->bytes_experts_cpu;
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

void bench_counts(struct bench *b, struct bench_counts *out)
{
    memset(out, 0, sizeof *out);
    model_stats(b->model, &out->stages);
    if (model_pager(b->model))
        pager_counters(model_pager(b->model), &out->experts);
    if (model_misses(b->model)) {
        struct misses_stats m;
        misses_stats(model_misses(b->model), &m);
        out->misses = (struct bench_misses){m.bytes, m.total_ns};
    }
}

void bench_counts_between(struct bench_case *c, const struct bench_counts *before,
                          const struct bench_counts *after)
{
    c->stages = after->stages;
    subtract_stats(&c->stages, &before->stages);
    c->experts = after->experts;
    subtract_counters(&c->experts, &before->experts);
    c->misses.bytes = after->misses.bytes - before->misses.bytes;
    c->misses.ns = after->misses.ns - before->misses.ns;
}

/* Steps of decode before a case: as many as bring all streams together warmup_tokens on. */
static int32_t warm_up_steps(const struct bench *b, const struct bench_case *c)
{
    int32_t steps = (b->warmup_tokens + c->batch - 1) / c->batch, slots = c->slots;
    int32_t least = b->warmup_tokens < WARM_UP_STEPS ? b->warmup_tokens : WARM_UP_STEPS;
    int32_t records = model_config_moe_layers(&b->config) * b->config.n_experts;
    /* Nothing comes and goes. */
    if (c->in_place || slots == 0 || slots == records || steps < least)
        steps = least;
    return steps > WARM_UP_LEAST ? steps : WARM_UP_LEAST;
}

static int warm_up_decode(struct bench *b, struct bench_case *c, struct moed_error *err)
{
    int32_t steps = warm_up_steps(b, c);
    int rc = 0;
    for (; c->warmup_steps < steps && rc >= 0; c->warmup_steps++) {
        int32_t at = c->warmup_steps % b->decode_steps, left = steps - c->warmup_steps;
        if (!bench_watch_goes_on(&b->watch, WARM_UP_PART, "warm-up, steps", c->warmup_steps,
                                 steps)) {
            log_warn("bench: %s: warm-up ended after %d of %d steps, its time being over",
                     b->watch.what, c->warmup_steps, steps);
            break;
        }
        if (at == 0)
            rc = draw_steps(b, c->batch, left < b->decode_steps ? left : b->decode_steps, err);
        if (rc >= 0)
            rc = bench_step(b, at, c->batch, err);
    }
    return rc;
}

/* At least one step or prompt, so that caches of every kind have seen one. */
static int warm_up(struct bench *b, struct bench_case *c, struct moed_error *err)
{
    int rc = c->kind == BENCH_PREFILL ? 0 : warm_up_decode(b, c, err);
    if (rc >= 0 && c->kind != BENCH_DECODE && (rc = draw(b, c, err)) >= 0)
        rc = run_once(b, c, NULL, err);
    return rc;
}

/* Fewer steps in a run of decode where they would not fit in the time. */
static void fit_steps(struct bench *b, struct bench_case *c, double warm_up_seconds)
{
    if (c->kind != BENCH_DECODE || c->warmup_steps == 0)
        return;
    double step = warm_up_seconds / c->warmup_steps;
    double room = (double)bench_watch_left_us(&b->watch, RUNS_PART) * 1e-6 / b->runs / step * 0.9;
    if (room >= c->steps)
        return;
    int32_t steps = room > RUN_STEPS_LEAST ? (int32_t)room : RUN_STEPS_LEAST;
    steps = steps < c->steps ? steps : c->steps;
    log_warn("bench: %s: runs of %d steps, not %d, to fit into the time", b->watch.what, steps,
             c->steps);
    c->tokens = c->tokens / c->steps * steps;
    c->steps = steps;
}

/* The run whose time is the median, or the next above it. */
static int median_run(const struct bench_case *c)
{
    double median = bench_median(c->seconds, c->n_runs);
    int found = 0;
    for (int run = 1; run < c->n_runs; run++)
        if (c->seconds[run] == median)
            found = run;
    return found;
}

int bench_measure(struct bench *b, struct bench_case *c, struct moed_error *err)
{
    struct bench_counts before[BENCH_MAX_RUNS] = {0}, after[BENCH_MAX_RUNS] = {0};
    if (c->kind == BENCH_CLIENTS)
        return bench_clients_measure(b->clients, c, err);
    c->steps = c->kind == BENCH_DECODE ? b->decode_steps
                                       : (int32_t)((c->tokens + b->pass_rows - 1) / b->pass_rows);
    c->step_room = (size_t)b->runs * (size_t)c->steps;
    c->step_seconds = mem_new(c->step_room, sizeof *c->step_seconds);
    b->late = false;
    double begin = clock_seconds();
    int rc = warm_up(b, c, err);
    fit_steps(b, c, clock_seconds() - begin);
    while (c->n_runs < b->runs && rc >= 0) {
        int run = c->n_runs;
        size_t n_steps = c->n_step_seconds;
        if ((rc = draw(b, c, err)) < 0)
            break;
        bench_counts(b, &before[run]);
        double start = clock_seconds();
        rc = run_once(b, c, c, err);
        c->seconds[run] = clock_seconds() - start;
        if (b->late) {
            c->n_step_seconds = n_steps;
            break;
        }
        bench_counts(b, &after[run]);
        c->read_gb_per_s[run] = bench_yardstick_reads(b->yardstick);
        c->n_runs++;
    }
    if (rc < 0)
        return rc;
    if (c->n_runs < b->runs)
        log_warn("bench: %s: %d of %d runs, the time being over", b->watch.what, c->n_runs,
                 b->runs);
    if (c->n_runs == 0)
        return 0;
    bench_counts_between(c, &before[median_run(c)], &after[median_run(c)]);
    c->fused = c->kind == BENCH_DECODE && c->batch == 1 &&
               c->context + c->steps <= model_fused_context(b->model);
    rc = c->fused ? model_fused_times(b->model, c->fused_us) : 0;
    return rc < 0 ? moed_fail(err, rc, "the device failed in timing a fused step") : 0;
}
