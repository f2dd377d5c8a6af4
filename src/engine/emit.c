/*
 * From a sampled token to the client: detokenizing, stop strings, events, the end of a choice.
 */
#include <math.h>

#include "base/clock.h"
#include "engine/engine_int.h"

void choice_open(struct moed_engine *e, struct choice *c)
{
    const struct moed_request *q = c->request->spec;
    const struct moed_sampling *s = &q->sampling;
    stop_init(&c->stop, s->stop, s->n_stop, s->include_stop);
    if (!c->seq || s->max_tokens == 0)
        return;
    if (e->setup.text.open)
        c->detokenizer = e->setup.text.open(e->setup.text.tokenizer, s->skip_special);
    for (size_t i = 0; c->request->penalties && i < q->n_prompt; i++)
        token_counts_add(&c->counts, q->prompt[i], false);
}

void choice_close(struct moed_engine *e, struct choice *c)
{
    if (c->detokenizer)
        e->setup.text.close(c->detokenizer);
    c->detokenizer = NULL;
    stop_fini(&c->stop);
    token_counts_fini(&c->counts);
}

struct moed_usage request_usage(const struct request *r)
{
    return (struct moed_usage){
        .prompt_tokens = (uint32_t)r->spec->n_prompt,
        .completion_tokens = r->generated,
        .cached_tokens = r->sched ? (uint32_t)r->sched->seqs[0].cached_tokens : 0,
    };
}

void request_push(struct request *r, const struct event_parts *parts)
{
    struct event_parts p = *parts;
    p.user = r->spec->user;
    struct moed_event *event = outbox_event_new(&p);
    if (event)
        outbox_push(r->outbox, event);
    else
        r->lost = true;
}

/* The first sign of life: the prompt is computed. */
static void request_started(struct moed_engine *e, struct request *r)
{
    if (!r->started)
        histogram_add(&e->stats.ttft, clock_us() - r->submitted_us);
    r->started = true;
}

static void prompt_event(struct moed_engine *e, struct request *r)
{
    size_t n = r->spec->n_prompt;
    if (!r->prompt || r->prompt_sent || r->prompt_done < (int32_t)n)
        return;
    r->prompt_sent = true;
    r->prompt[0] = (struct moed_token){.id = r->spec->prompt[0], .logprob = NAN};
    request_push(r, &(struct event_parts){.kind = MOED_EVENT_PROMPT,
                                          .tokens = r->prompt,
                                          .n_tokens = n,
                                          .stop_token = -1,
                                          .usage = request_usage(r)});
}

static void add_text(struct moed_engine *e, struct choice *c, const char *text, size_t n)
{
    if (n == 0)
        return;
    if (c->generated < c->request->spec->sampling.min_tokens) {
        buf_add(&e->text, text, n);
        return;
    }
    stop_push(&c->stop, text, n);
    buf_add(&e->text, c->stop.out.data, c->stop.out.len);
}

/* The detokenizer's rest and what was held back for a stop string. */
static void flush_text(struct moed_engine *e, struct choice *c)
{
    const char *text = NULL;
    size_t n = 0;
    if (!c->detokenizer || c->stop.found)
        return;
    e->setup.text.finish(c->detokenizer, &text, &n);
    add_text(e, c, text, n);
    if (c->stop.found)
        return;
    stop_finish(&c->stop);
    buf_add(&e->text, c->stop.out.data, c->stop.out.len);
}

static bool in_list(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Counts the end of a choice; the last one ends the request, which is gone then. */
static void choice_ended(struct moed_engine *e, struct choice *c)
{
    struct request *r = c->request;
    c->ended = true;
    if (c->seq)
        sched_end(e->sched, c->seq);
    if (--r->alive == 0)
        request_end(e, r, NULL);
}

void choice_no_tokens(struct moed_engine *e, struct choice *first)
{
    struct request *r = first->request;
    request_started(e, r);
    prompt_event(e, r);
    for (int32_t i = 0; i < r->spec->n; i++)
        request_push(r, &(struct event_parts){.kind = MOED_EVENT_TOKENS,
                                              .choice = i,
                                              .finish = MOED_FINISH_LENGTH,
                                              .stop_token = -1,
                                              .usage = request_usage(r)});
    r->alive = 1;
    choice_ended(e, first);
}

static void count_token(struct moed_engine *e, struct choice *c, int32_t token)
{
    struct request *r = c->request;
    int64_t now = clock_us();
    if (c->generated++ > 0)
        histogram_add(&e->stats.inter_token, now - c->last_us);
    c->last_us = now;
    r->generated++;
    e->stats.generated_tokens++;
    if (r->penalties)
        token_counts_add(&c->counts, token, true);
    request_started(e, r);
}

void choice_token(struct moed_engine *e, struct choice *c, const struct job *job)
{
    const struct moed_sampling *s = &c->request->spec->sampling;
    int32_t token = job->token;
    count_token(e, c, token);
    prompt_event(e, c->request);
    bool by_stop_id = in_list(s->stop_id, s->n_stop_id, token);
    bool by_eos =
        !by_stop_id && !s->ignore_eos && in_list(e->setup.eos, (size_t)e->setup.n_eos, token);
    bool by_id = by_stop_id || by_eos;
    buf_truncate(&e->text, 0);
    if (c->detokenizer && (!by_id || s->include_stop)) {
        const char *text;
        size_t n;
        e->setup.text.push(c->detokenizer, token, &text, &n);
        add_text(e, c, text, n);
    }
    enum moed_finish finish = by_id || c->stop.found          ? MOED_FINISH_STOP
                              : c->generated >= s->max_tokens ? MOED_FINISH_LENGTH
                                                              : MOED_FINISH_NONE;
    if (finish)
        flush_text(e, c);
    if (finish == MOED_FINISH_LENGTH && c->stop.found)
        finish = MOED_FINISH_STOP;
    request_push(c->request, &(struct event_parts){.kind = MOED_EVENT_TOKENS,
                                                   .choice = c->index,
                                                   .text = e->text.data,
                                                   .text_bytes = e->text.len,
                                                   .tokens = &job->info,
                                                   .n_tokens = 1,
                                                   .finish = finish,
                                                   .stop_reason = c->stop.found,
                                                   .stop_token = by_stop_id ? token : -1,
                                                   .usage = request_usage(c->request)});
    if (finish)
        choice_ended(e, c);
    else
        sched_append(e->sched, c->seq, token);
}
