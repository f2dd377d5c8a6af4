#include "check.h"

#include <math.h>
#include <poll.h>

#include "base/mem.h"
#include "engine/outbox.h"
#include "engine/request.h"

static void events_carry_copies_of_their_parts(void **state)
{
    struct moed_error err;
    struct moed_outbox *box;
    assert_ok(moed_outbox_open(&box, &err), &err);
    char text[] = "h\xC3\xA9", reason[] = "END";
    struct moed_top top[2] = {{5, -0.5f}, {7, -1.5f}};
    struct moed_token tokens[2] = {{.id = 5, .logprob = -0.5f, .rank = 1, .n_top = 2, .top = top},
                                   {.id = 9, .logprob = -3, .rank = 4, .n_top = 1, .top = top + 1}};
    outbox_push(box, outbox_event_new(&(struct event_parts){.kind = MOED_EVENT_TOKENS,
                                                            .user = &top,
                                                            .choice = 3,
                                                            .text = text,
                                                            .text_bytes = 3,
                                                            .tokens = tokens,
                                                            .n_tokens = 2,
                                                            .finish = MOED_FINISH_STOP,
                                                            .stop_reason = reason,
                                                            .stop_token = -1}));
    memset(text, 0, sizeof text);
    memset(reason, 0, sizeof reason);
    memset(top, 0, sizeof top);
    struct pollfd p = {.fd = moed_outbox_fd(box), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 0), 1);
    struct moed_event *e = moed_outbox_next(box);
    assert_int_equal(e->choice, 3);
    assert_int_equal(e->text_bytes, 3);
    assert_string_equal(e->text, "h\xC3\xA9");
    assert_string_equal(e->stop_reason, "END");
    assert_int_equal(e->tokens[0].top[1].token, 7);
    assert_int_equal(e->tokens[1].top[0].token, 7);
    assert_ptr_equal(e->user, &top);
    moed_event_free(e);
    assert_null(moed_outbox_next(box));
    assert_int_equal(poll(&p, 1, 0), 0);
    moed_outbox_close(&box);
    assert_null(box);
}

static void a_closed_outbox_swallows_events(void **state)
{
    struct moed_error err;
    struct moed_outbox *box;
    assert_ok(moed_outbox_open(&box, &err), &err);
    struct moed_outbox *engine_side = box;
    outbox_ref(engine_side);
    outbox_push(box, outbox_event_new(&(struct event_parts){.kind = MOED_EVENT_DONE}));
    moed_outbox_close(&box);
    assert_true(outbox_closed(engine_side));
    outbox_push(engine_side, outbox_event_new(&(struct event_parts){.kind = MOED_EVENT_DONE}));
    outbox_unref(engine_side);
}

static void refuses(struct moed_request *r, const char *param)
{
    struct moed_error err = {0};
    assert_int_equal(request_check(r, 100, 64, &err), MOED_EINVAL);
    assert_string_equal(err.param, param);
}

static void what_is_out_of_range_is_refused_by_name(void **state)
{
    struct moed_error err;
    struct moed_request *r = moed_request_new();
    struct moed_sampling *s = &r->sampling;
    refuses(r, "prompt");
    r->prompt = mem_new(40, sizeof *r->prompt);
    r->n_prompt = 40;
    assert_ok(request_check(r, 100, 64, &err), &err);
#define BAD(field, bad, good, param)                                                               \
    do {                                                                                           \
        (field) = (bad);                                                                           \
        refuses(r, param);                                                                         \
        (field) = (good);                                                                          \
    } while (0)
    BAD(s->temperature, -0.1f, 1, "temperature");
    BAD(s->temperature, NAN, 1, "temperature");
    BAD(s->top_p, 0, 1, "top_p");
    BAD(s->top_p, NAN, 1, "top_p");
    BAD(s->min_p, 1.1f, 0, "min_p");
    BAD(s->top_k, -2, 0, "top_k");
    BAD(s->presence_penalty, 2.5f, 0, "presence_penalty");
    BAD(s->frequency_penalty, -2.5f, 0, "frequency_penalty");
    BAD(s->repetition_penalty, 0, 1, "repetition_penalty");
    BAD(s->max_tokens, -1, 16, "max_tokens");
    BAD(s->max_tokens, 25, 16, "max_tokens");
    BAD(s->max_tokens, INT32_MAX, 16, "max_tokens");
    BAD(s->min_tokens, 17, 0, "min_tokens");
    BAD(s->logprobs, 21, -1, "logprobs");
    BAD(s->prompt_logprobs, 21, -1, "prompt_logprobs");
    BAD(r->n, 0, 1, "n");
    BAD(r->n, 65, 1, "n");
    BAD(r->prompt[7], 100, 0, "prompt");
    BAD(r->prompt[7], -1, 0, "prompt");
    BAD(s->n_stop_id, 17, 0, "stop_token_ids");
    s->bias = mem_new(1, sizeof *s->bias);
    s->n_bias = 1;
    BAD(s->bias[0].token, 100, 0, "logit_bias");
    BAD(s->bias[0].bias, NAN, 0, "logit_bias");
    s->stop[0] = mem_strdup("");
    s->n_stop = 1;
    refuses(r, "stop");
    free(s->stop[0]);
    s->stop[0] = mem_strdup("\xC3");
    refuses(r, "stop");
    s->max_tokens = 24;
    free(s->stop[0]);
    s->stop[0] = mem_strdup("\xC3\xA9");
    assert_ok(request_check(r, 100, 64, &err), &err);
    moed_request_free(&r);
    assert_null(r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(events_carry_copies_of_their_parts),
    cmocka_unit_test(a_closed_outbox_swallows_events),
    cmocka_unit_test(what_is_out_of_range_is_refused_by_name),
};
CHECK_MAIN(tests)
