/*
 * The engine thread: takes messages, looks after deadlines and gone clients, plans, steps, runs
 * layers of a long pass, and sleeps in the inbox when nothing is in flight.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine_int.h"

static void link_request(struct moed_engine *e, struct request *r)
{
    r->prev = e->last;
    if (e->last)
        e->last->next = r;
    else
        e->first = r;
    e->last = r;
}

static void unlink_request(struct moed_engine *e, struct request *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        e->first = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        e->last = r->prev;
}

void request_free(struct request *r)
{
    if (r->spec)
        moed_request_free(&r->spec);
    if (r->outbox)
        outbox_unref(r->outbox);
    free(r->choices);
    free(r->prompt);
    free(r->prompt_top);
    free(r);
}

/* No longer in the queue, for whatever reason. */
static void leave_queue(struct moed_engine *e, struct request *r)
{
    if (r->queued)
        atomic_fetch_sub(&e->queued, 1);
    r->queued = false;
}

void request_admitted(struct moed_engine *e, struct request *r)
{
    if (!r->queued)
        return;
    leave_queue(e, r);
    e->stats.prompt_tokens += r->spec->n_prompt;
    histogram_add(&e->stats.queue_time, clock_us() - r->submitted_us);
}

static void count_end(struct moed_engine *e, const struct request *r,
                      const struct moed_error *error)
{
    if (!error)
        e->stats.requests_ok++;
    else if (error->code == MOED_ECANCELED)
        e->stats.requests_canceled++;
    else
        e->stats.requests_failed++;
    e->stats.cached_tokens += request_usage(r).cached_tokens;
    histogram_add(&e->stats.request_time, clock_us() - r->submitted_us);
}

void request_end(struct moed_engine *e, struct request *r, const struct moed_error *error)
{
    struct moed_error lost;
    if (r->lost && !error) {
        moed_fail(&lost, MOED_ENOMEM, "no memory for an event of the request");
        error = &lost;
    }
    count_end(e, r, error);
    stats_show(e); /* who reads the end finds it counted */
    request_push(r, &(struct event_parts){.kind = error ? MOED_EVENT_ERROR : MOED_EVENT_DONE,
                                          .stop_token = -1,
                                          .usage = request_usage(r),
                                          .error = error});
    for (int32_t i = 0; r->choices && i < r->spec->n; i++) {
        if (r->choices[i].seq) {
            sched_end(e->sched, r->choices[i].seq);
            admission_ended(&e->admission, r->choices[i].generated);
        }
        choice_close(e, &r->choices[i]);
    }
    if (r->sched)
        sched_remove(e->sched, &r->sched);
    leave_queue(e, r);
    unlink_request(e, r);
    request_free(r);
}

void engine_fail_all(struct moed_engine *e, const struct moed_error *error)
{
    while (e->first)
        request_end(e, e->first, error);
}

static bool wants_computing(const struct request *r)
{
    return r->spec->sampling.max_tokens > 0 || r->spec->sampling.prompt_logprobs >= 0;
}

static int start(struct moed_engine *e, struct request *r, struct moed_error *err)
{
    const struct moed_request *q = r->spec;
    const struct moed_sampling *s = &q->sampling;
    r->alive = q->n;
    r->choices = mem_new((size_t)q->n, sizeof *r->choices);
    r->penalties =
        s->presence_penalty != 0 || s->frequency_penalty != 0 || s->repetition_penalty != 1;
    if (wants_computing(r)) {
        struct sched_new n = {.prompt = q->prompt,
                              .n_prompt = (int32_t)q->n_prompt,
                              .n = s->max_tokens > 0 ? q->n : 1,
                              .max_tokens = s->max_tokens,
                              .salt = q->cache_salt,
                              .no_reuse = s->prompt_logprobs >= 0};
        int rc = sched_add(e->sched, &r->sched, &n, err);
        if (rc < 0)
            return rc;
    }
    for (int32_t i = 0; i < q->n; i++) {
        struct choice *c = &r->choices[i];
        c->request = r;
        c->index = i;
        if (r->sched && i < r->sched->n) {
            c->seq = &r->sched->seqs[i];
            c->seq->user = c;
        }
        choice_open(e, c);
    }
    return 0;
}

static void take_request(struct moed_engine *e, struct request *r)
{
    e->stats.requests++;
    link_request(e, r);
    struct moed_error err = {0};
    if (atomic_load(&e->failed))
        moed_fail(&err, MOED_EDEVICE, "the engine has failed and must be restarted");
    else if (e->closing)
        moed_fail(&err, MOED_ECANCELED, "the engine is shutting down");
    else if (start(e, r, &err) == 0) {
        if (!r->sched)
            choice_no_tokens(e, &r->choices[0]);
        return;
    }
    request_end(e, r, &err);
}

static void cancel(struct moed_engine *e, uint64_t handle)
{
    struct moed_error err;
    moed_fail(&err, MOED_ECANCELED, "the request was canceled");
    for (struct request *r = e->first; r; r = r->next) {
        if (r->handle == handle) {
            request_end(e, r, &err);
            return;
        }
    }
}

static void take_messages(struct moed_engine *e)
{
    struct message *m;
    while ((m = (struct message *)inbox_next(&e->inbox))) {
        switch (m->kind) {
        case MESSAGE_SUBMIT:
            take_request(e, m->request);
            break;
        case MESSAGE_CANCEL:
            cancel(e, m->handle);
            break;
        case MESSAGE_CLOSE:
            e->closing = true;
            break;
        }
        free(m);
    }
}

static bool waits_too_long(const struct moed_engine *e, const struct request *r, int64_t now_us)
{
    int64_t most = e->setup.admission_wait_us;
    return e->setup.admission_measured && most && r->sched && !r->exempt &&
           now_us - r->submitted_us >= most;
}

/* Its choices need not wait for others to end. */
static void exempt(struct moed_engine *e, struct request *r)
{
    r->exempt = true;
    for (int32_t i = 0; i < r->sched->n; i++)
        sched_exempt(e->sched, &r->sched->seqs[i]);
}

/* Deadlines that have passed, clients that have gone, answers that have a hole. */
static void look_after(struct moed_engine *e)
{
    int64_t now = clock_us();
    struct moed_error late, gone, lost;
    moed_fail(&late, MOED_EDEADLINE, "the request's time limit has passed");
    moed_fail(&gone, MOED_ECANCELED, "the client has gone");
    moed_fail(&lost, MOED_ENOMEM, "no memory for an event of the request");
    for (struct request *r = e->first, *next; r; r = next) {
        next = r->next;
        if (outbox_closed(r->outbox))
            request_end(e, r, &gone);
        else if (r->lost)
            request_end(e, r, &lost);
        else if (r->spec->deadline_us && now >= r->spec->deadline_us)
            request_end(e, r, &late);
        else if (waits_too_long(e, r, now))
            exempt(e, r);
    }
}

static void log_limit(const struct moed_engine *e, int32_t n)
{
    char rates[ADMISSION_SIZES * 12];
    size_t at = 0;
    for (int32_t i = 0; i < ADMISSION_SIZES && 1 << i <= e->setup.sched.max_seqs; i++)
        at += (size_t)snprintf(rates + at, sizeof rates - at, " %.4g", e->admission.size[i].rate);
    log_debug("%d may decode together%s; tokens/s of 1, 2, 4, ...:%s", n,
              e->admission.trial >= 0 ? ", a trial" : "", rates);
}

static void limit_decodes(struct moed_engine *e)
{
    struct sched_stats s;
    if (!e->setup.admission_measured)
        return;
    sched_stats(e->sched, &s);
    int32_t n = admission_limit(&e->admission, engine_now_us(e), s.running, s.queued);
    sched_limit_decodes(e->sched, n);
    if (n != e->stats.batch_limit)
        log_limit(e, n);
    e->stats.batch_limit = n;
}

void *engine_main(void *arg)
{
    struct moed_engine *e = arg;
    for (;;) {
        take_messages(e);
        if (e->closing)
            break;
        look_after(e);
        limit_decodes(e);
        const struct sched_plan *plan = sched_plan(e->sched);
        bool stepped = plan->n_rows > 0;
        if (stepped)
            engine_step(e, plan);
        if (engine_long_pass(e, stepped) || stepped) {
            stats_show(e);
        } else {
            assert(!e->first);
            stats_show(e);
            inbox_wait(&e->inbox, -1);
        }
    }
    struct moed_error err;
    moed_fail(&err, MOED_ECANCELED, "the engine is shutting down");
    engine_fail_all(e, &err);
    engine_long_pass_close(e);
    stats_show(e);
    return NULL;
}
