/* Long passes over the fake model: the order of what runs, the target between tokens, and all that
 * may happen while a pass is paused. */
#include "check.h"

#include <unistd.h>

#include "support_fake.h"

enum { LAYERS = 24, STREAM = 400, STEP_US = 5000, LAYER_US = 7000, TARGET_US = 50000 };

struct rig {
    struct fake *fake;
    struct moed_engine *e;
    struct moed_outbox *box;
    struct answer *a;
    uint64_t handle[8];
    int pauses, act_at; /* the pause at which the test acts */
    int32_t cancel[8], n_cancel;
};

/* A stream decodes long enough to be there for all of the test; passes pause. */
static const struct fake_config paced = {.no_eos = true,
                                         .max_seqs = 8,
                                         .max_batched_tokens = 16,
                                         .max_model_len = 1000,
                                         .kv_blocks = 200,
                                         .long_prefill_tokens = 400,
                                         .n_layers = LAYERS,
                                         .target_itl_us = TARGET_US,
                                         .step_us = STEP_US,
                                         .layer_us = LAYER_US};

static void open_rig(struct rig *g, const struct fake_config *cfg)
{
    struct engine_setup setup;
    struct moed_error err;
    *g = (struct rig){.fake = fake_setup(&setup, cfg), .a = mem_new(8, sizeof(struct answer))};
    assert_ok(engine_start(&g->e, &setup, &err), &err);
    assert_ok(moed_outbox_open(&g->box, &err), &err);
}

static void close_rig(struct rig *g)
{
    moed_outbox_close(&g->box);
    moed_engine_close(&g->e);
    free(g->a);
}

static void prompt_of(int32_t *prompt, int32_t n, int32_t which)
{
    for (int32_t i = 0; i < n; i++)
        prompt[i] = (i * (which + 3) + which) % (FAKE_VOCAB - 1);
}

static void ask_for(struct rig *g, int which, int32_t n_prompt, int32_t max_tokens)
{
    int32_t prompt[512];
    struct moed_error err;
    prompt_of(prompt, n_prompt, which);
    struct moed_request *r = request_of(prompt, (size_t)n_prompt, max_tokens, &g->a[which]);
    assert_ok(moed_submit(g->e, &r, g->box, &g->handle[which], &err), &err);
}

static void expect(const struct rig *g, int which, int32_t n_prompt, int32_t max_tokens)
{
    int32_t prompt[512], want[512];
    prompt_of(prompt, n_prompt, which);
    size_t n = fake_greedy(prompt, (size_t)n_prompt, (size_t)max_tokens, true, want);
    const struct answer *a = &g->a[which];
    assert_int_equal(a->error.code, 0);
    assert_int_equal(a->n[0], n);
    assert_memory_equal(a->tokens[0], want, n * sizeof *want);
}

/* A stream has its first token and stands still until let_go, so that what is asked for meanwhile
 * meets it. */
static void start_stream(struct rig *g)
{
    g->fake->hold_at = 2;
    ask_for(g, 0, 4, STREAM);
    while (g->a[0].n[0] == 0) {
        struct moed_event *e = moed_outbox_next(g->box);
        if (e)
            answer_take(e);
        else
            usleep(200);
        moed_event_free(e);
    }
}

static void let_go(struct rig *g)
{
    g->fake->hold_at = 0;
}

static int count(const struct fake *f, int kind)
{
    int n = 0;
    for (int i = 0; i < f->n_log; i++)
        n += (int)f->log[i].kind == kind;
    return n;
}

static void streams_keep_their_target(void **state)
{
    struct rig g;
    open_rig(&g, &paced);
    start_stream(&g);
    ask_for(&g, 1, 300, 5);
    let_go(&g);
    assert_true(answers_wait(g.box, 2));
    expect(&g, 0, 4, STREAM);
    expect(&g, 1, 300, 5);
    struct moed_engine_stats st;
    settled(g.e, &st);
    const struct fake *f = g.fake;
    int64_t last_us = 0, longest_us = 0;
    int32_t layers = 0, most = 0, between = 0;
    bool open = false;
    for (int i = 0; i < f->n_log; i++) {
        const struct fake_call *c = &f->log[i];
        if (c->kind == FAKE_LONG_BEGIN)
            open = true;
        if (c->kind == FAKE_LONG_END)
            open = false;
        if (c->kind == FAKE_LONG_RUN) {
            layers += c->layers;
            between += c->layers;
            most = c->layers > most ? c->layers : most;
        }
        if (c->kind != FAKE_STEP)
            continue;
        assert_true(!open || last_us == 0 || between > 0 || i < 2 ||
                    f->log[i - 1].kind == FAKE_LONG_BEGIN);
        if (last_us && c->end_us - last_us > longest_us)
            longest_us = c->end_us - last_us;
        last_us = c->end_us;
        between = 0;
    }
    assert_int_equal(count(f, FAKE_LONG_BEGIN), 1);
    assert_int_equal(count(f, FAKE_LONG_END), 1);
    assert_int_equal(layers, LAYERS);
    /* Nine tenths of 50 ms hold a step and five layers of 7 ms. */
    const int32_t aim_us = TARGET_US - TARGET_US / 10, turn = (aim_us - STEP_US) / LAYER_US;
    assert_int_equal(most, turn);
    assert_true(longest_us <= aim_us);
    assert_true(longest_us > aim_us - LAYER_US);
    assert_int_equal(st.long_passes, 1);
    assert_int_equal(st.long_layers, LAYERS);
    assert_int_equal(st.long_pauses, (LAYERS + turn - 1) / turn - 1);
    close_rig(&g);
}

static void a_layer_beyond_the_target_runs_alone(void **state)
{
    struct rig g;
    struct fake_config cfg = paced;
    cfg.layer_us = 2 * TARGET_US;
    open_rig(&g, &cfg);
    start_stream(&g);
    ask_for(&g, 1, 300, 5);
    let_go(&g);
    assert_true(answers_wait(g.box, 2));
    expect(&g, 1, 300, 5);
    struct moed_engine_stats st;
    settled(g.e, &st);
    for (int i = 0; i < g.fake->n_log; i++)
        if (g.fake->log[i].kind == FAKE_LONG_RUN)
            assert_int_equal(g.fake->log[i].layers, 1);
    assert_int_equal(st.long_pauses, LAYERS - 1);
    close_rig(&g);
}

static void without_streams_layers_run_one_after_the_other(void **state)
{
    struct rig g;
    open_rig(&g, &paced);
    ask_for(&g, 1, 300, 5);
    assert_true(answers_wait(g.box, 1));
    expect(&g, 1, 300, 5);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_int_equal(st.long_pauses, 0);
    assert_int_equal(st.long_layers, LAYERS);
    /* Messages are still looked at once in the target time. */
    int runs = count(g.fake, FAKE_LONG_RUN);
    assert_in_range(runs, LAYERS * LAYER_US / TARGET_US, 2 + LAYERS * LAYER_US / TARGET_US * 2);
    close_rig(&g);
}

/* Cancels from inside a run: the engine sees it before the next. */
static void act(void *user)
{
    struct rig *g = user;
    if (++g->pauses != g->act_at)
        return;
    for (int i = 0; i < g->n_cancel; i++)
        moed_cancel(g->e, g->handle[g->cancel[i]]);
}

static void what_is_canceled_in_a_pause_leaves_the_pass(void **state)
{
    for (int at = 1; at < 4; at++) {
        struct rig g;
        open_rig(&g, &paced);
        g.fake->on_pause = act;
        g.fake->user = &g;
        g.act_at = at;
        g.cancel[g.n_cancel++] = 1;
        start_stream(&g);
        /* Both wait for the same pass while the stream's step runs. */
        ask_for(&g, 1, 150, 5);
        ask_for(&g, 2, 200, 30);
        let_go(&g);
        assert_true(answers_wait(g.box, 3));
        assert_int_equal(g.a[1].error.code, MOED_ECANCELED);
        expect(&g, 0, 4, STREAM);
        expect(&g, 2, 200, 30);
        /* What takes its blocks next finds them as it should. */
        g.fake->on_pause = NULL;
        ask_for(&g, 3, 300, 20);
        ask_for(&g, 4, 200, 20);
        assert_true(answers_wait(g.box, 2));
        expect(&g, 3, 300, 20);
        expect(&g, 4, 200, 20);
        struct moed_engine_stats st;
        settled(g.e, &st);
        assert_int_equal(count(g.fake, FAKE_LONG_DROP), 1);
        assert_int_equal(count(g.fake, FAKE_LONG_BEGIN), count(g.fake, FAKE_LONG_END));
        close_rig(&g);
    }
}

static void a_pass_whose_requests_are_gone_is_given_up(void **state)
{
    struct rig g;
    open_rig(&g, &paced);
    g.fake->on_pause = act;
    g.fake->user = &g;
    g.act_at = 2;
    g.cancel[g.n_cancel++] = 1;
    start_stream(&g);
    ask_for(&g, 1, 300, 5);
    let_go(&g);
    assert_true(answers_wait(g.box, 2));
    assert_int_equal(g.a[1].error.code, MOED_ECANCELED);
    expect(&g, 0, 4, STREAM);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_true(st.long_layers < LAYERS);
    assert_int_equal(count(g.fake, FAKE_LONG_END), 1);
    close_rig(&g);
}

/* From the third pause on the stream would take a minute. */
static void slow_down(void *user)
{
    struct fake *f = user;
    f->pass_us = f->long_runs < 3 ? 0 : 200000;
}

static void closing_ends_a_paused_pass(void **state)
{
    struct rig g;
    struct fake_config cfg = paced;
    cfg.layer_us = TARGET_US;
    open_rig(&g, &cfg);
    g.fake->on_pause = slow_down;
    g.fake->user = g.fake;
    start_stream(&g);
    ask_for(&g, 1, 300, 5);
    let_go(&g);
    while (g.fake->long_runs < 3)
        usleep(200);
    moed_engine_close(&g.e);
    assert_true(answers_wait(g.box, 2));
    assert_int_equal(g.a[0].error.code, MOED_ECANCELED);
    assert_int_equal(g.a[1].error.code, MOED_ECANCELED);
    close_rig(&g);
}

/* A long pass of request 1 fails `times` times in a row from its third run on. */
static void fail_long(struct rig *g, int code, int times)
{
    open_rig(g, &paced);
    g->fake->fail_code = code;
    g->fake->long_fails = times;
    g->fake->long_fail_at = 3;
    start_stream(g);
    ask_for(g, 1, 300, 5);
    let_go(g);
    assert_true(answers_wait(g->box, 2));
}

static void a_long_pass_that_fails_ends_only_its_requests(void **state)
{
    struct rig g;
    struct moed_engine_stats st;
    fail_long(&g, MOED_ENOTFOUND, 1);
    assert_int_equal(g.a[1].error.code, MOED_ENOTFOUND);
    expect(&g, 0, 4, STREAM);
    ask_for(&g, 2, 300, 5);
    assert_true(answers_wait(g.box, 1));
    expect(&g, 2, 300, 5);
    settled(g.e, &st);
    assert_int_equal(st.pass_retries, 0);
    assert_int_equal(st.pass_timeouts, 0);
    close_rig(&g);
}

static void a_long_pass_that_timed_out_is_tried_again(void **state)
{
    struct rig g;
    struct moed_engine_stats st;
    fail_long(&g, MOED_ETIMEDOUT, 2);
    expect(&g, 0, 4, STREAM);
    expect(&g, 1, 300, 5);
    settled(g.e, &st);
    assert_int_equal(st.pass_retries, 2);
    assert_int_equal(st.pass_timeouts, 2);
    assert_int_equal(st.long_passes, 3);
    close_rig(&g);
    fail_long(&g, MOED_ETIMEDOUT, 3);
    expect(&g, 0, 4, STREAM);
    assert_int_equal(g.a[1].error.code, MOED_ETIMEDOUT);
    settled(g.e, &st);
    assert_int_equal(st.pass_retries, 2);
    assert_int_equal(st.pass_timeouts, 3);
    assert_false(st.failed);
    close_rig(&g);
}

static void a_step_is_tried_again(void **state)
{
    const struct {
        int code, times, retries, timeouts;
        bool ends;
    } cases[] = {
        {MOED_ETIMEDOUT, 2, 2, 2, false},
        {MOED_ETIMEDOUT, 3, 2, 3, true},
        {MOED_ENOTFOUND, 1, 1, 0, false},
        {MOED_ENOTFOUND, 2, 1, 0, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rig g;
        struct moed_engine_stats st;
        struct fake_config cfg = paced;
        cfg.layer_us = TARGET_US;
        open_rig(&g, &cfg);
        g.fake->fail_code = cases[i].code;
        g.fake->fail_times = cases[i].times;
        g.fake->fail_at = 12;
        start_stream(&g);
        ask_for(&g, 1, 300, 5);
        let_go(&g);
        assert_true(answers_wait(g.box, 2));
        /* The long pass that was open beside the step is not touched. */
        expect(&g, 1, 300, 5);
        if (cases[i].ends)
            assert_int_equal(g.a[0].error.code, cases[i].code);
        else
            expect(&g, 0, 4, STREAM);
        settled(g.e, &st);
        assert_int_equal(st.pass_retries, cases[i].retries);
        assert_int_equal(st.pass_timeouts, cases[i].timeouts);
        assert_int_equal(st.long_passes, 1);
        assert_false(st.failed);
        close_rig(&g);
    }
}

/* A pass without logits tells only at its end that it waited in vain. */
static void what_the_end_of_a_pass_tells_is_heard(void **state)
{
    for (int in_long = 0; in_long < 2; in_long++) {
        struct rig g;
        struct moed_engine_stats st;
        struct fake_config cfg = paced;
        cfg.long_prefill_tokens = in_long ? 100 : 0;
        open_rig(&g, &cfg);
        g.fake->fail_code = MOED_ETIMEDOUT;
        start_stream(&g);
        g.fake->end_fail_at = g.fake->passes + 5;
        ask_for(&g, 1, 300, 5);
        let_go(&g);
        assert_true(answers_wait(g.box, 2));
        expect(&g, 0, 4, STREAM);
        expect(&g, 1, 300, 5);
        settled(g.e, &st);
        assert_int_equal(st.pass_timeouts, 1);
        assert_int_equal(st.pass_retries, 1);
        close_rig(&g);
    }
}

static void a_failed_device_ends_a_paused_pass_too(void **state)
{
    struct rig g;
    struct fake_config cfg = paced;
    cfg.layer_us = TARGET_US;
    open_rig(&g, &cfg);
    g.fake->fail_code = MOED_EDEVICE;
    g.fake->fail_at = 14;
    start_stream(&g);
    ask_for(&g, 1, 300, 5);
    let_go(&g);
    assert_true(answers_wait(g.box, 2));
    assert_int_equal(g.a[0].error.code, MOED_EDEVICE);
    assert_int_equal(g.a[1].error.code, MOED_EDEVICE);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_true(st.failed);
    assert_int_equal(st.pass_retries, 0);
    close_rig(&g);
}

/* Blocks run short while a pass is paused: the stream takes those of the younger prompt. */
static void preemption_takes_blocks_from_a_paused_pass(void **state)
{
    struct rig g;
    struct fake_config cfg = paced;
    cfg.kv_blocks = 27;
    cfg.layer_us = TARGET_US;
    cfg.max_model_len = 420;
    cfg.n_layers = 100;
    open_rig(&g, &cfg);
    start_stream(&g);
    ask_for(&g, 1, 330, 5);
    let_go(&g);
    assert_true(answers_wait(g.box, 2));
    expect(&g, 0, 4, STREAM);
    expect(&g, 1, 330, 5);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_true(st.preemptions > 0);
    assert_int_equal(count(g.fake, FAKE_LONG_BEGIN), count(g.fake, FAKE_LONG_END));
    assert_true(count(g.fake, FAKE_LONG_DROP) > 0);
    close_rig(&g);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(streams_keep_their_target),
    cmocka_unit_test(a_layer_beyond_the_target_runs_alone),
    cmocka_unit_test(without_streams_layers_run_one_after_the_other),
    cmocka_unit_test(what_is_canceled_in_a_pause_leaves_the_pass),
    cmocka_unit_test(a_pass_whose_requests_are_gone_is_given_up),
    cmocka_unit_test(closing_ends_a_paused_pass),
    cmocka_unit_test(a_long_pass_that_fails_ends_only_its_requests),
    cmocka_unit_test(a_long_pass_that_timed_out_is_tried_again),
    cmocka_unit_test(a_step_is_tried_again),
    cmocka_unit_test(what_the_end_of_a_pass_tells_is_heard),
    cmocka_unit_test(a_failed_device_ends_a_paused_pass_too),
    cmocka_unit_test(preemption_takes_blocks_from_a_paused_pass),
};
CHECK_MAIN(tests)
