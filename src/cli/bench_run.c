/*
 * Runs of moed bench. Prompts are random token ids. Where routing is synthetic the choices of a
 * whole run are drawn before it begins, so that a run is timed without gaps: a gap between steps
 * would give the copies of admissions time that a server's steps do not give them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"

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
    return blocks_for(b->context + b->decode_steps);
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
        rows = bench_prompt_rows(b, done, n);
        double start = clock_seconds();
        int rc = bench_prompt_begin(b, seq, done, rows, err);
        if (rc < 0)
            return rc;
        rc = model_pass_run(b->model, MODEL_LONG, b->config.n_layers, err);
        if (rc >= 0 && done + rows == n)
            rc = model_pass_logits(b->model, MODEL_LONG, &(int32_t){rows - 1}, 1, b->logits, err);
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
        rc = model_pass_logits(b->model, MODEL_STEP, rows, batch, b->logits, err);
    model_pass_end(b->model, MODEL_STEP);
    return rc;
}

/* Decodes b->decode_steps tokens of each of `batch` sequences. Returns the number of steps. */
static int decode(struct bench *b, int32_t batch, struct bench_case *c, struct moed_error *err)
{
    for (int32_t step = 0; step < b->decode_steps; step++) {
        double start = clock_seconds();
        int rc = bench_step(b, step, batch, err);
        if (rc < 0)
            return rc;
        bench_sample(c, clock_seconds() - start);
    }
    return b->decode_steps;
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

static int draw_steps(struct bench *b, int32_t batch, struct moed_error *err)
{
    size_t top_k = (size_t)b->config.top_k, stride = (size_t)batch * top_k;
    int rc = want_choices(b, MODEL_STEP, (size_t)b->decode_steps * (size_t)batch, err);
    for (int32_t step = 0; rc == 0 && step < b->decode_steps; step++) {
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
    if (b->routing && c->kind != BENCH_PREFILL && rc == 0)
        rc = draw_steps(b, c->batch, err);
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
        return decode(b, what->batch, c, err);
    default:
        return bench_mixed_run(b, what, c, err);
    }
}

int bench_fill_contexts(struct bench *b, struct moed_error *err)
{
    int rc = 0;
    bool wanted = !b->routing && !b->contexts_filled;
    for (int32_t s = 0; rc >= 0 && wanted && s < b->max_batch; s++)
        rc = prefill(b, s, b->context, NULL, err);
    b->contexts_filled = rc >= 0;
    return rc < 0 ? rc : 0;
}

static int32_t missing(const struct bench *b)
{
    struct pager_info info = {0};
    if (model_pager(b->model))
        pager_info(model_pager(b->model), &info);
    return info.slots - info.resident;
}

int bench_fill_cache(struct bench *b, struct moed_error *err)
{
    const struct bench_case one = {.kind = BENCH_DECODE, .batch = 1};
    int rc = 0;
    /* Some slots stay free for admissions. */
    for (int32_t left = missing(b), idle = 0; rc >= 0 && left > 8 && idle < 4;) {
        if ((rc = draw(b, &one, err)) < 0 || (rc = decode(b, 1, NULL, err)) < 0)
            break;
        int32_t now = missing(b);
        idle = now < left ? 0 : idle + 1;
        left = now;
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

static void snapshot(struct bench *b, struct model_stats *stats, struct pager_counters *counters)
{
    model_stats(b->model, stats);
    memset(counters, 0, sizeof *counters);
    if (model_pager(b->model))
        pager_counters(model_pager(b->model), counters);
}

/* At least one run, so that caches of every kind have seen one; of decode as many as bring each
 * stream warmup_tokens on. Mixed cases follow cases of decode. */
static int warm_up(struct bench *b, const struct bench_case *c, struct moed_error *err)
{
    int32_t runs = 1;
    if (c->kind == BENCH_DECODE && b->warmup_tokens > b->decode_steps)
        runs = (b->warmup_tokens + b->decode_steps - 1) / b->decode_steps;
    int rc = 0;
    for (int32_t run = 0; run < runs && rc >= 0; run++) {
        rc = draw(b, c, err);
        rc = rc < 0 ? rc : run_once(b, c, NULL, err);
    }
    return rc < 0 ? rc : 0;
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
    struct model_stats stages[BENCH_MAX_RUNS], before, after;
    struct pager_counters experts[BENCH_MAX_RUNS], count_before, count_after;
    c->steps = c->kind == BENCH_DECODE ? b->decode_steps
                                       : (int32_t)((c->tokens + b->pass_rows - 1) / b->pass_rows);
    c->step_seconds = mem_new((size_t)b->runs * (size_t)c->steps, sizeof *c->step_seconds);
    int rc = warm_up(b, c, err);
    for (int run = 0; run < b->runs && rc >= 0; run++) {
        if ((rc = draw(b, c, err)) < 0)
            break;
        snapshot(b, &before, &count_before);
        double start = clock_seconds();
        rc = run_once(b, c, c, err);
        c->seconds[run] = clock_seconds() - start;
        snapshot(b, &after, &count_after);
        c->read_gb_per_s[run] = bench_yardstick_reads(b->yardstick);
        stages[run] = after;
        subtract_stats(&stages[run], &before);
        experts[run] = count_after;
        subtract_counters(&experts[run], &count_before);
    }
    if (rc < 0)
        return rc;
    c->n_runs = b->runs;
    c->stages = stages[median_run(c)];
    c->experts = experts[median_run(c)];
    return 0;
}
