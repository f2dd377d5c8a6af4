/*
 * For tests that talk to an engine: what came back for each request, gathered from its events.
 */
#ifndef MOED_TESTS_ANSWERS_H
#define MOED_TESTS_ANSWERS_H

#include "check.h"

#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "moed/engine.h"

/* Everything that came for one request, until DONE or ERROR. */
struct answer {
    int32_t tokens[8][512];
    struct moed_token info[8][512];
    int32_t n[8];
    char text[8][4096];
    size_t text_bytes[8];
    enum moed_finish finish[8];
    char stop_reason[8][64];
    int32_t stop_token[8];
    struct moed_usage usage;
    struct moed_error error; /* code 0: DONE */
    size_t n_prompt;         /* of the PROMPT event */
    struct moed_token prompt[512];
    struct moed_top prompt_top[512][MOED_MAX_TOP_LOGPROBS];
    int ended, events;
};

/* A greedy request whose events go to *answer. */
static inline struct moed_request *request_of(const int32_t *prompt, size_t n, int32_t max_tokens,
                                              struct answer *answer)
{
    struct moed_request *r = moed_request_new();
    r->prompt = mem_new(n, sizeof *r->prompt);
    memcpy(r->prompt, prompt, n * sizeof *prompt);
    r->n_prompt = n;
    r->sampling.max_tokens = max_tokens;
    r->sampling.temperature = 0;
    r->user = answer;
    return r;
}

/* Takes one event into the answer that is its user. */
static inline void answer_take(struct moed_event *e)
{
    struct answer *a = e->user;
    assert_int_equal(a->ended, 0);
    a->events++;
    a->usage = e->usage;
    int32_t c = e->choice;
    switch (e->kind) {
    case MOED_EVENT_PROMPT:
        a->n_prompt = e->n_tokens;
        for (size_t i = 0; i < e->n_tokens; i++) {
            a->prompt[i] = e->tokens[i];
            memcpy(a->prompt_top[i], e->tokens[i].top,
                   (size_t)e->tokens[i].n_top * sizeof(struct moed_top));
        }
        break;
    case MOED_EVENT_TOKENS:
        assert_int_equal(a->finish[c], MOED_FINISH_NONE);
        for (size_t i = 0; i < e->n_tokens; i++) {
            a->info[c][a->n[c]] = e->tokens[i];
            a->tokens[c][a->n[c]++] = e->tokens[i].id;
        }
        assert_true(a->text_bytes[c] + e->text_bytes < sizeof a->text[c]);
        memcpy(a->text[c] + a->text_bytes[c], e->text, e->text_bytes);
        a->text_bytes[c] += e->text_bytes;
        a->finish[c] = e->finish;
        a->stop_token[c] = e->stop_token;
        if (e->stop_reason)
            snprintf(a->stop_reason[c], sizeof a->stop_reason[c], "%s", e->stop_reason);
        break;
    case MOED_EVENT_ERROR:
        a->error = e->error;
        a->ended = 1;
        break;
    case MOED_EVENT_DONE:
        a->ended = 1;
        break;
    }
}

/* Reads events until n answers have ended; false after two minutes. */
static inline bool answers_wait(struct moed_outbox *box, int n)
{
    int64_t until = clock_us() + 120000000;
    while (n > 0 && clock_us() < until) {
        struct moed_event *e = moed_outbox_next(box);
        if (!e) {
            struct pollfd p = {.fd = moed_outbox_fd(box), .events = POLLIN};
            poll(&p, 1, 100);
            continue;
        }
        answer_take(e);
        n -= ((struct answer *)e->user)->ended;
        moed_event_free(e);
    }
    return n == 0;
}

/* Submits and waits for the end. */
static inline void ask(struct moed_engine *e, struct moed_request *r)
{
    struct moed_error err;
    struct moed_outbox *box;
    uint64_t handle = 0;
    assert_ok(moed_outbox_open(&box, &err), &err);
    assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
    assert_null(r);
    assert_true(handle != 0);
    assert_true(answers_wait(box, 1));
    assert_null(moed_outbox_next(box));
    moed_outbox_close(&box);
}

/* The numbers once every request has been counted out; they are shown at the end of a step. */
static inline void settled(struct moed_engine *e, struct moed_engine_stats *st)
{
    int64_t until = clock_us() + 120000000;
    do {
        usleep(500);
        moed_engine_stats(e, st);
    } while ((st->running || st->waiting || st->kv_blocks_used ||
              st->requests != st->requests_ok + st->requests_failed + st->requests_canceled) &&
             clock_us() < until);
    assert_int_equal(st->running, 0);
    assert_int_equal(st->waiting, 0);
    assert_int_equal(st->kv_blocks_used, 0);
}

#endif
