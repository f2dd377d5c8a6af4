/*
 * A pass of either lane: spans become a batch and jobs, logits come in slices of max_logits rows,
 * sampling is spread over the compute threads, and the results are applied in order of the rows.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_int.h"

/* Logits to look at from which on more threads are worth their hand-off (a few microseconds against
 * some 10 us). */
#define PARALLEL_LOGITS 65536

static int lane_init(struct pass *p, enum model_lane lane, size_t rows, struct moed_error *err)
{
    p->lane = lane;
    p->token = mem_try(rows, sizeof *p->token);
    p->pos = mem_try(rows, sizeof *p->pos);
    p->seq = mem_try(rows, sizeof *p->seq);
    p->seqs = mem_try(rows, sizeof *p->seqs);
    p->owner = mem_try(rows, sizeof *p->owner);
    p->jobs = mem_try(rows, sizeof *p->jobs);
    p->top = mem_try(rows, sizeof *p->top * MOED_MAX_TOP_LOGPROBS);
    if (!p->token || !p->pos || !p->seq || !p->seqs || !p->owner || !p->jobs || !p->top)
        return moed_fail(err, MOED_ENOMEM, "no memory for passes of %zu rows", rows);
    return 0;
}

int pass_init(struct moed_engine *e, struct moed_error *err)
{
    size_t n = (size_t)e->setup.max_logits, vocab = (size_t)e->setup.info.vocab_size;
    const struct sched_config *c = &e->setup.sched;
    int rc;
    if ((rc = lane_init(&e->step, MODEL_STEP, (size_t)c->max_batched_tokens, err)) < 0 ||
        (rc = lane_init(&e->long_pass.pass, MODEL_LONG, (size_t)c->long_prefill_tokens, err)) < 0)
        return rc;
    e->rows = mem_try(n, sizeof *e->rows);
    e->logits = mem_try(n * vocab, sizeof *e->logits);
    e->sampled = mem_try(n, sizeof *e->sampled);
    if (!e->rows || !e->logits || !e->sampled)
        return moed_fail(err, MOED_ENOMEM, "no memory for %zu logits of %zu", n, vocab);
    e->parts =
        e->setup.backend.parallel && e->setup.backend.threads > 1 ? e->setup.backend.threads : 1;
    e->scratch = mem_new((size_t)e->parts, sizeof *e->scratch);
    for (int i = 0; i < e->parts; i++)
        if ((rc = sampler_scratch_init(&e->scratch[i], e->setup.info.vocab_size, err)) < 0)
            return rc;
    return device_sampling_init(e, err);
}

static void lane_fini(struct pass *p)
{
    free(p->token);
    free(p->pos);
    free(p->seq);
    free(p->seqs);
    free(p->owner);
    free(p->jobs);
    free(p->top);
}

void pass_fini(struct moed_engine *e)
{
    lane_fini(&e->step);
    lane_fini(&e->long_pass.pass);
    free(e->rows);
    free(e->logits);
    free(e->sampled);
    for (int i = 0; e->scratch && i < e->parts; i++)
        sampler_scratch_fini(&e->scratch[i]);
    free(e->scratch);
    device_sampling_fini(e);
}

static void add_job(struct pass *p, enum job_kind kind, struct choice *c, int32_t row,
                    int32_t position)
{
    p->jobs[p->n_jobs] = (struct job){.kind = kind,
                                      .choice = c,
                                      .row = row,
                                      .position = position,
                                      .top = p->top + (size_t)p->n_jobs * MOED_MAX_TOP_LOGPROBS};
    p->n_jobs++;
}

void pass_clear(struct pass *p)
{
    p->n_rows = p->n_seqs = p->n_jobs = 0;
}

void pass_add(struct moed_engine *e, struct pass *p, const struct sched_span *span)
{
    const struct sched_seq *q = span->seq;
    struct choice *c = q->user;
    const struct request *r = c->request;
    bool prompt = r->prompt && c->index == 0;
    p->seqs[p->n_seqs].block_table = q->blocks;
    for (int32_t i = 0; i < span->n; i++) {
        int32_t row = p->n_rows++, pos = span->first + i;
        p->token[row] = q->tokens[pos];
        p->pos[row] = pos;
        p->seq[row] = p->n_seqs;
        /* The logits of a position are about the next token. */
        if (prompt && pos + 1 > r->prompt_done && pos + 1 < q->n_prompt)
            add_job(p, JOB_PROMPT, c, row, pos + 1);
        else if (span->last && i == span->n - 1)
            add_job(p, r->spec->sampling.max_tokens > 0 ? JOB_SAMPLE : JOB_END, c, row, pos + 1);
    }
    p->owner[p->n_seqs++] = c;
    request_admitted(e, c->request);
}

void pass_drop(struct moed_engine *e, struct pass *p, int32_t seq)
{
    int32_t kept = 0;
    for (int32_t i = 0; i < p->n_jobs; i++)
        if (p->seq[p->jobs[i].row] != seq)
            p->jobs[kept++] = p->jobs[i];
    p->n_jobs = kept;
    p->owner[seq] = NULL;
    e->setup.backend.drop(e->setup.backend.self, p->lane, seq);
}

/* Pure: reads the request, writes the job; any compute thread. */
static void run_job(struct moed_engine *e, struct sampler_scratch *scratch, const float *logits,
                    struct job *j)
{
    const struct moed_request *q = j->choice->request->spec;
    const struct moed_sampling *s = &q->sampling;
    int32_t vocab = e->setup.info.vocab_size;
    if (j->kind == JOB_PROMPT) {
        sampler_logprobs(logits, vocab, q->prompt[j->position], s->prompt_logprobs, j->top,
                         &j->info);
        return;
    }
    int32_t mask[JOB_MAX_MASK];
    struct sample_params p = job_params(e, j, mask);
    j->token = sampler_pick(scratch, logits, &p);
    j->info = (struct moed_token){.id = j->token, .logprob = NAN};
    if (j->token >= 0 && s->logprobs >= 0)
        sampler_logprobs(logits, vocab, j->token, s->logprobs, j->top, &j->info);
}

struct sampling_work {
    struct moed_engine *e;
    struct job **jobs; /* [n], their logits in order */
    int32_t n;
};

static void sample_part(void *arg, int part, int parts)
{
    struct sampling_work *w = arg;
    size_t vocab = (size_t)w->e->setup.info.vocab_size;
    for (int32_t i = part; i < w->n; i += parts)
        run_job(w->e, &w->e->scratch[part], w->e->logits + (size_t)i * vocab, w->jobs[i]);
}

static void show_logits(struct moed_engine *e, const struct job *j, const float *logits)
{
    if (e->setup.hook && j->kind == JOB_SAMPLE)
        e->setup.hook(e->setup.hook_user, j->choice->request->spec->user, j->choice->index,
                      j->position, logits, e->setup.info.vocab_size);
}

/* Logits for jobs [first, ...) up to max_logits of them; returns how many jobs are done. */
static int32_t logits_slice(struct moed_engine *e, const struct pass *p, int32_t first, int *rc,
                            struct moed_error *err)
{
    int32_t n = 0, i = first;
    for (; i < p->n_jobs && n < e->setup.max_logits; i++) {
        if (p->jobs[i].kind == JOB_END || p->jobs[i].done)
            continue;
        e->rows[n] = p->jobs[i].row;
        e->sampled[n++] = &p->jobs[i];
    }
    if (n == 0)
        return i - first;
    *rc = e->setup.backend.logits(e->setup.backend.self, p->lane, e->rows, n, e->logits, err);
    if (*rc < 0)
        return i - first;
    for (int32_t k = 0; k < n; k++)
        show_logits(e, e->sampled[k], e->logits + (size_t)k * (size_t)e->setup.info.vocab_size);
    struct sampling_work w = {e, e->sampled, n};
    int parts = n < e->parts ? n : e->parts;
    if (parts > 1 && (int64_t)n * e->setup.info.vocab_size >= PARALLEL_LOGITS)
        e->setup.backend.parallel(e->setup.backend.self, sample_part, &w, parts);
    else
        sample_part(&w, 0, 1);
    return i - first;
}

int pass_begin(struct moed_engine *e, const struct pass *p, struct moed_error *err)
{
    struct model_batch batch = {.n_rows = p->n_rows,
                                .token = p->token,
                                .pos = p->pos,
                                .seq = p->seq,
                                .n_seqs = p->n_seqs,
                                .seqs = p->seqs};
    return e->setup.backend.begin(e->setup.backend.self, p->lane, &batch, err);
}

int pass_sample(struct moed_engine *e, const struct pass *p, struct moed_error *err)
{
    int rc = sample_on_device(e, p->lane, p->jobs, p->n_jobs, err);
    for (int32_t i = 0; rc >= 0 && i < p->n_jobs;)
        i += logits_slice(e, p, i, &rc, err);
    return rc < 0 ? rc : 0;
}

static void keep_prompt_logprobs(struct request *r, const struct job *j)
{
    int32_t n_top = r->spec->sampling.prompt_logprobs;
    struct moed_top *top = r->prompt_top + (size_t)j->position * (size_t)n_top;
    for (int32_t k = 0; k < j->info.n_top; k++)
        top[k] = j->top[k];
    r->prompt[j->position] = j->info;
    r->prompt[j->position].top = top;
    r->prompt_done = j->position;
}

/*
 * Results in order of the rows. A choice that ends may end its request, which frees it: jobs of a
 * request come one after another within a span, and its other choices have ended before.
 */
void pass_apply(struct moed_engine *e, struct pass *p)
{
    for (int32_t i = 0; i < p->n_jobs; i++) {
        struct job *j = &p->jobs[i];
        struct choice *c = j->choice;
        if (!c)
            continue;
        struct request *r = c->request;
        if (j->kind == JOB_PROMPT) {
            keep_prompt_logprobs(r, j);
            continue;
        }
        r->prompt_done = (int32_t)r->spec->n_prompt;
        if (j->kind == JOB_END) {
            choice_no_tokens(e, c);
        } else if (j->token >= 0) {
            choice_token(e, c, j);
        } else {
            struct moed_error err;
            moed_fail(&err, MOED_EINTERNAL, "the model gave no finite logit at position %d",
                      j->position);
            for (int32_t k = i + 1; k < p->n_jobs; k++)
                if (p->jobs[k].choice && p->jobs[k].choice->request == r)
                    p->jobs[k].choice = NULL;
            request_end(e, r, &err);
        }
    }
}

void pass_failed(struct moed_engine *e, struct pass *p, const struct moed_error *err)
{
    log_error("a pass of %d rows failed: %s", p->n_rows, err->text);
    if (err->code == MOED_EDEVICE) {
        atomic_store(&e->failed, true);
        engine_fail_all(e, err);
        return;
    }
    for (int32_t i = 0; i < p->n_seqs; i++)
        if (p->owner[i])
            p->owner[i]->request->hit = true;
    for (struct request *r = e->first, *next; r; r = next) {
        next = r->next;
        if (r->hit)
            request_end(e, r, err);
    }
}

/* A part that did not answer may answer the next time; another failure of a step may have come of
 * what ran beside it. */
#define TIMEOUT_RETRIES 2
#define STEP_RETRIES    1

bool pass_again(struct moed_engine *e, struct pass *p, int rc, struct moed_error *err)
{
    int allowed = 0;
    if (!err->code)
        moed_fail(err, rc, "the model pass failed: %s", moed_code_name(rc));
    if (err->code == MOED_ETIMEDOUT) {
        allowed = TIMEOUT_RETRIES;
        e->stats.pass_timeouts++;
    } else if (err->code != MOED_EDEVICE && p->lane == MODEL_STEP) {
        allowed = STEP_RETRIES;
    }
    if (p->failures >= allowed) {
        p->failures = 0;
        return false;
    }
    p->failures++;
    e->stats.pass_retries++;
    log_warn("a pass of %d rows failed and is tried again: %s", p->n_rows, err->text);
    return true;
}
