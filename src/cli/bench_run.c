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

int bench_buffers(struct bench *b, struct moed_error *err)
{
    int32_t blocks = bench_kv_blocks(b), most = b->max_batch, each = decode_blocks(b);
    size_t rows = (size_t)(b->pass_rows > most ? b->pass_rows : most);
    b->block_table = mem_try((size_t)blocks, sizeof *b->block_table);
    b->seqs = mem_try((size_t)most + 1, sizeof *b->seqs);
    b->token = mem_try(rows, sizeof *b->token);
    b->pos = mem_try(rows, sizeof *b->pos);
    b->seq = mem_try(rows, sizeof *b->seq);
    b->logits = mem_try((size_t)most * (size_t)b->config.vocab_size, sizeof *b->logits);
    if (!b->block_table || !b->seqs || !b->token || !b->pos || !b->seq || !b->logits)
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
    free(b->token);
    free(b->pos);
    free(b->seq);
    free(b->forced);
    free(b->logits);
}

/* Numbers of choices of one token in all layers. */
static size_t token_choices(const struct bench *b)
{
    return (size_t)b->config.n_layers * (size_t)b->config.top_k;
}

/* One pass over n_rows rows that stand in token, pos, seq; logits of the last n_logits rows. */
static int pass(struct bench *b, enum model_lane lane, int32_t n_rows, int32_t n_seqs,
                const struct model_seq *seqs, const int32_t *forced, int32_t n_logits,
                struct moed_error *err)
{
    struct model_batch batch = {n_rows, b->token, b->pos, b->seq, n_seqs, seqs, forced};
    int32_t rows[256];
    int rc = model_pass_begin(b->model, lane, &batch, err);
    if (rc < 0)
        return rc;
    rc = model_pass_run(b->model, lane, b->config.n_layers, err);
    for (int32_t i = 0; i < n_logits; i++)
        rows[i] = n_rows - n_logits + i;
    if (rc == 0 && n_logits > 0)
        rc = model_pass_logits(b->model, lane, rows, n_logits, b->logits, err);
    model_pass_end(b->model, lane);
    return rc;
}

/* Computes positions [0, n) of a sequence in passes of at most pass_rows; choices as draw_prompt
 * left them. Returns the number of passes. */
static int prefill(struct bench *b, int32_t s, int32_t n, double *step_seconds,
                   struct moed_error *err)
{
    int passes = 0;
    for (int32_t done = 0, rows; done < n; done += rows) {
        rows = n - done < b->pass_rows ? n - done : b->pass_rows;
        for (int32_t i = 0; i < rows; i++) {
            b->token[i] = random_token(b);
            b->pos[i] = done + i;
            b->seq[i] = 0;
        }
        const int32_t *forced = b->routing ? b->forced + (size_t)done * token_choices(b) : NULL;
        double start = clock_seconds();
        int rc = pass(b, MODEL_LONG, rows, 1, b->seqs + s, forced, done + rows == n, err);
        if (rc < 0)
            return rc;
        if (step_seconds)
            step_seconds[passes] = clock_seconds() - start;
        passes++;
    }
    return passes;
}

/* Decodes b->decode_steps tokens of each of `batch` sequences. Returns the number of steps. */
static int decode(struct bench *b, int32_t batch, double *step_seconds, struct moed_error *err)
{
    for (int32_t step = 0; step < b->decode_steps; step++) {
        for (int32_t i = 0; i < batch; i++) {
            b->token[i] = random_token(b);
            b->pos[i] = b->context + step;
            b->seq[i] = i;
        }
        size_t at = (size_t)step * (size_t)batch * token_choices(b);
        double start = clock_seconds();
        int rc = pass(b, MODEL_STEP, batch, batch, b->seqs, b->routing ? b->forced + at : NULL,
                      batch, err);
        if (rc < 0)
            return rc;
        if (step_seconds)
            step_seconds[step] = clock_seconds() - start;
    }
    return b->decode_steps;
}

static int want_choices(struct bench *b, size_t tokens, struct moed_error *err)
{
    size_t need = tokens * token_choices(b);
    if (need <= b->forced_room)
        return 0;
    free(b->forced);
    b->forced = mem_try(need, sizeof *b->forced);
    b->forced_room = b->forced ? need : 0;
    return b->forced ? 0 : moed_fail(err, MOED_ENOMEM, "no memory for the routing of a run");
}

/* The choices of a run, pass by pass: [n_layers][rows of the pass][top_k] each. Prompts are a
 * stream of their own. */
static int draw(struct bench *b, const struct bench_case *c, struct moed_error *err)
{
    int32_t n = (int32_t)c->tokens, top_k = b->config.top_k;
    int rc = b->routing ? want_choices(b, (size_t)n, err) : 0;
    if (!b->routing || rc < 0)
        return rc;
    if (c->kind == BENCH_PREFILL) {
        for (int32_t done = 0, rows; done < n; done += rows) {
            rows = n - done < b->pass_rows ? n - done : b->pass_rows;
            routing_draw(b->routing, b->max_batch, rows,
                         b->forced + (size_t)done * token_choices(b), (size_t)rows * (size_t)top_k);
        }
        return 0;
    }
    for (int32_t step = 0; step < b->decode_steps; step++) {
        int32_t *to = b->forced + (size_t)step * (size_t)c->batch * token_choices(b);
        for (int32_t i = 0; i < c->batch; i++)
            routing_draw(b->routing, i, 1, to + (size_t)i * (size_t)top_k,
                         (size_t)c->batch * (size_t)top_k);
    }
    return 0;
}

static int run_once(struct bench *b, const struct bench_case *c, double *step_seconds,
                    struct moed_error *err)
{
    return c->kind == BENCH_PREFILL
               ? prefill(b, b->max_batch, (int32_t)c->tokens, step_seconds, err)
               : decode(b, c->batch, step_seconds, err);
}

int bench_fill_contexts(struct bench *b, struct moed_error *err)
{
    int rc = 0;
    for (int32_t s = 0; rc >= 0 && !b->routing && s < b->max_batch; s++)
        rc = prefill(b, s, b->context, NULL, err);
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
 * stream warmup_tokens on. */
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
        rc = run_once(b, c, c->step_seconds + (size_t)run * (size_t)c->steps, err);
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
