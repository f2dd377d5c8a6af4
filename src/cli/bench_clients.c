/*
 * Clients in a closed loop: each asks for a conversation, and for the next when it has ended. The
 * engine itself serves them, over the model that is open, with its scheduler and its rule of
 * admission. One engine serves all cases of a kind, so that what it has learned with few clients is
 * there with more, as in a server.
 *
 * A conversation begins with a prompt of one token, the number of its client, and so do all of its
 * tokens: by that a row tells whose routing it takes. What the model makes of them is computed and
 * forgotten.
 *
 * Threads: the caller's plays the clients; the engine's calls the table below. The part of struct
 * bench_clients that is the engine thread's is read by the other only while `phase` is STOPPED.
 */
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/bench.h"
#include "engine/backend.h"

#define POLL_MS      50
#define WARM_UP_PART 0.4
#define RUNS_PART    1.0

/* The caller asks with START and STOP, the engine thread answers at its next pass. */
enum phase { IDLE, START, RUNNING, STOP, STOPPED };

struct client {
    uint64_t handle;
    int32_t index, tokens; /* of the conversation, that it asked for */
    bool asked;
    int64_t came; /* tokens of it */
    int64_t asked_us;
};

struct samples {
    double *s; /* [n] */
    size_t n, room;
};

struct bench_clients {
    struct bench *b;
    struct moed_engine *engine;
    struct moed_outbox *outbox;
    bool measured;
    atomic_int phase;
    /* The engine thread's. */
    const int32_t *token; /* of the open pass */
    int32_t *forced;      /* [max_batch] rows' choices */
    int32_t rows;
    int64_t pass_us, begin_us, end_us;
    struct bench_case *c;
    struct bench_counts before, after;
    int64_t n_tokens;
    int32_t n_steps;
    /* The caller's, of a case. */
    struct client client[BENCH_MAX_BATCH];
    int32_t n, alive;
    bool asking;
    int64_t came;                 /* tokens since its begin */
    struct samples first, second; /* tokens */
    double completions_s;
    int32_t ended, whole; /* conversations since START; of those not cut short */
    struct moed_error error;
};

/* Once per pass: the window begins or ends here. */
static void turn(struct bench_clients *k)
{
    int64_t now = clock_us();
    int phase = atomic_load(&k->phase);
    if (phase == START) {
        k->n_tokens = k->n_steps = 0;
        k->begin_us = now;
        bench_counts(k->b, &k->before);
        atomic_store(&k->phase, RUNNING);
    } else if (phase == STOP) {
        k->end_us = now;
        bench_counts(k->b, &k->after);
        atomic_store(&k->phase, STOPPED);
    }
    k->pass_us = now;
}

/* Choices lie [n_layers][rows][top_k]. A row at position 0 is a conversation's first. */
static void draw(struct bench_clients *k, const struct model_batch *batch)
{
    size_t top_k = (size_t)k->b->config.top_k, stride = (size_t)batch->n_rows * top_k;
    for (int32_t i = 0; i < batch->n_rows; i++) {
        if (batch->pos[i] == 0)
            routing_next_conversation(k->b->routing, batch->token[i]);
        routing_draw(k->b->routing, batch->token[i], 1, k->forced + (size_t)i * top_k, stride);
    }
}

static int begin(void *self, enum model_lane lane, const struct model_batch *batch,
                 struct moed_error *err)
{
    struct bench_clients *k = self;
    struct model_batch with = *batch;
    turn(k);
    k->token = batch->token;
    k->rows = batch->n_rows;
    if (k->b->routing) {
        draw(k, batch);
        with.forced = k->forced;
    }
    return model_pass_begin(k->b->model, lane, &with, err);
}

static int run(void *self, enum model_lane lane, int32_t layer_end, struct moed_error *err)
{
    struct bench_clients *k = self;
    return model_pass_run(k->b->model, lane, layer_end, err);
}

static int logits(void *self, enum model_lane lane, const int32_t *rows, int32_t n, float *out,
                  struct moed_error *err)
{
    struct bench_clients *k = self;
    int rc = model_pass_logits(k->b->model, lane, rows, n, out, err);
    for (int32_t i = 0; rc >= 0 && i < n; i++)
        out[(size_t)i * (size_t)k->b->config.vocab_size + (size_t)k->token[rows[i]]] = 1e30f;
    return rc;
}

static int sample(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                  const struct kern_sample_row *params, int32_t *token, struct moed_error *err)
{
    struct bench_clients *k = self;
    int rc = model_pass_sample(k->b->model, lane, rows, n, params, token, err);
    for (int32_t i = 0; rc >= 0 && i < n; i++)
        token[i] = k->token[rows[i]];
    return rc;
}

static void drop(void *self, enum model_lane lane, int32_t seq)
{
    struct bench_clients *k = self;
    model_pass_drop(k->b->model, lane, seq);
}

static int end(void *self, enum model_lane lane)
{
    struct bench_clients *k = self;
    int rc = model_pass_end(k->b->model, lane), phase = atomic_load(&k->phase);
    /* A window that shall end does so at the next pass. */
    if (phase == RUNNING || phase == STOP) {
        k->n_tokens += k->rows;
        k->n_steps++;
        bench_sample(k->c, (double)(clock_us() - k->pass_us) * 1e-6);
    }
    return rc;
}

int bench_clients_open(struct bench_clients **out, struct bench *b, const struct bench_set *s,
                       struct moed_error *err)
{
    const struct model_config *c = &b->config;
    struct bench_clients *k = mem_new(1, sizeof *k);
    k->b = b;
    k->measured = s->measured;
    k->forced = mem_new((size_t)b->max_batch * (size_t)c->n_layers * (size_t)c->top_k + 1,
                        sizeof *k->forced);
    struct engine_setup setup = {
        .backend = {.self = k,
                    .begin = begin,
                    .run = run,
                    .logits = logits,
                    .sample = model_can_sample(b->model) ? sample : NULL,
                    .drop = drop,
                    .end = end},
        .sched = {.max_seqs = b->max_batch,
                  .max_batched_tokens = b->max_batch,
                  .max_queue = BENCH_MAX_BATCH,
                  .max_model_len = b->max_context,
                  .kv_blocks = bench_kv_blocks(b),
                  .no_prefix_cache = true},
        .max_logits = b->max_batch,
        .admission_measured = s->measured,
        .admission_wait_us = s->admission_wait_us,
        .info = {.vocab_size = c->vocab_size,
                 .n_layers = c->n_layers,
                 .max_model_len = b->max_context,
                 .max_num_seqs = b->max_batch},
    };
    *out = k;
    if (b->max_batch > c->vocab_size)
        return moed_fail_param(err, MOED_EINVAL, "batch",
                               "%d clients are more than the model has tokens (%d)", b->max_batch,
                               c->vocab_size);
    int rc = moed_outbox_open(&k->outbox, err);
    return rc < 0 ? rc : engine_start(&k->engine, &setup, err);
}

void bench_clients_close(struct bench_clients **clients)
{
    struct bench_clients *k = *clients;
    if (!k)
        return;
    moed_engine_close(&k->engine);
    if (k->outbox)
        moed_outbox_close(&k->outbox);
    free(k->forced);
    free(k->first.s);
    free(k->second.s);
    free(k);
    *clients = NULL;
}

static void ask(struct bench_clients *k, struct client *c, int32_t tokens)
{
    struct moed_request *r = moed_request_new();
    r->prompt = mem_new(1, sizeof *r->prompt);
    r->prompt[0] = c->index;
    r->n_prompt = 1;
    r->sampling.temperature = 0;
    r->sampling.max_tokens = c->tokens = tokens;
    r->user = c;
    c->came = 0;
    c->asked_us = clock_us();
    c->asked = moed_submit(k->engine, &r, k->outbox, &c->handle, &k->error) == 0;
    if (r)
        moed_request_free(&r);
    k->alive += c->asked;
}

static void note(struct samples *p, double seconds)
{
    p->s = mem_reserve(p->s, &p->room, p->n + 1, sizeof *p->s);
    p->s[p->n++] = seconds;
}

static void take(struct bench_clients *k, const struct moed_event *e)
{
    struct client *c = e->user;
    double seconds = (double)(clock_us() - c->asked_us) * 1e-6;
    bool counts = atomic_load(&k->phase) == RUNNING;
    int64_t before = c->came;
    c->came += (int64_t)e->n_tokens;
    k->came += (int64_t)e->n_tokens;
    if (counts && before < 1 && c->came >= 1)
        note(&k->first, seconds);
    if (counts && before < 2 && c->came >= 2)
        note(&k->second, seconds);
    if (e->kind == MOED_EVENT_TOKENS)
        return;
    c->asked = false;
    k->alive--;
    if (e->kind == MOED_EVENT_ERROR && k->asking && k->error.code == 0)
        k->error = e->error;
    if (!k->asking)
        return;
    k->ended += counts;
    if (counts && c->tokens == k->b->decode_steps) {
        k->whole++;
        k->completions_s += seconds;
    }
    ask(k, c, k->b->decode_steps);
}

/* Events of at most POLL_MS. */
static void listen(struct bench_clients *k)
{
    struct pollfd fd = {.fd = moed_outbox_fd(k->outbox), .events = POLLIN};
    struct moed_event *e;
    poll(&fd, 1, POLL_MS);
    while ((e = moed_outbox_next(k->outbox))) {
        take(k, e);
        moed_event_free(e);
    }
}

/* Begins with conversations of all ages, so that they do not end together. */
static void start(struct bench_clients *k, struct bench_case *c)
{
    k->c = c;
    k->n = c->batch;
    k->came = k->ended = k->whole = 0;
    k->first.n = k->second.n = 0;
    k->completions_s = 0;
    k->error = (struct moed_error){0};
    k->asking = true;
    atomic_store(&k->phase, IDLE);
    for (int32_t i = 0; i < k->n; i++) {
        k->client[i].index = i;
        ask(k, &k->client[i], 1 + (int32_t)((int64_t)(i + 1) * (k->b->decode_steps - 1) / k->n));
    }
}

/* Nothing is in flight any more when it returns. */
static void stop(struct bench_clients *k)
{
    k->asking = false;
    for (int32_t i = 0; i < k->n; i++)
        if (k->client[i].asked)
            moed_cancel(k->engine, k->client[i].handle);
    while (k->alive > 0)
        listen(k);
}

/* Warm-up and window; ends in phase STOPPED unless there was an error. */
static void loop(struct bench_clients *k)
{
    struct bench_watch *w = &k->b->watch;
    int32_t target = k->b->runs * k->n;
    while (atomic_load(&k->phase) != STOPPED && k->error.code == 0) {
        listen(k);
        int phase = atomic_load(&k->phase);
        if (phase == IDLE && (k->came >= k->b->warmup_tokens ||
                              !bench_watch_goes_on(w, WARM_UP_PART, "warm-up, tokens", k->came,
                                                   k->b->warmup_tokens)))
            atomic_store(&k->phase, START);
        else if (phase == RUNNING &&
                 (k->ended >= target ||
                  !bench_watch_goes_on(w, RUNS_PART, "conversations", k->ended, target)))
            atomic_store(&k->phase, STOP);
    }
}

static void result(struct bench_clients *k, struct bench_case *c)
{
    struct moed_engine_stats stats;
    struct bench_clients_result *r = &c->clients;
    const struct samples *f = &k->first, *g = &k->second;
    moed_engine_stats(k->engine, &stats);
    c->seconds[0] = (double)(k->end_us - k->begin_us) * 1e-6;
    c->n_runs = k->n_steps > 0;
    c->tokens = k->n_tokens;
    c->steps = k->n_steps;
    c->read_gb_per_s[0] = 0;
    bench_counts_between(c, &k->before, &k->after);
    *r = (struct bench_clients_result){
        .measured = k->measured,
        .tokens = k->b->decode_steps,
        .ended = k->ended,
        .batch_limit = stats.batch_limit,
        .first_p50_s = bench_percentile(f->s, (int)f->n, 0.5),
        .first_p99_s = bench_percentile(f->s, (int)f->n, 0.99),
        .first_max_s = bench_percentile(f->s, (int)f->n, 1),
        .second_p50_s = bench_percentile(g->s, (int)g->n, 0.5),
        .second_p99_s = bench_percentile(g->s, (int)g->n, 0.99),
        .second_max_s = bench_percentile(g->s, (int)g->n, 1),
        .completion_s = k->whole ? k->completions_s / k->whole : 0,
    };
    for (int32_t i = 0; i < k->n; i++) {
        const struct client *one = &k->client[i];
        double waits = (double)(clock_us() - one->asked_us) * 1e-6;
        if (!one->asked || one->came >= 2)
            continue;
        r->waiting++;
        r->second_max_s = fmax(waits, r->second_max_s);
        if (one->came == 0)
            r->first_max_s = fmax(waits, r->first_max_s);
    }
}

int bench_clients_measure(struct bench_clients *k, struct bench_case *c, struct moed_error *err)
{
    start(k, c);
    loop(k);
    bool whole = atomic_load(&k->phase) == STOPPED;
    if (whole)
        result(k, c);
    stop(k);
    if (!whole)
        *err = k->error;
    else
        c->read_gb_per_s[0] = bench_yardstick_reads(k->b->yardstick);
    return whole ? 0 : k->error.code;
}
