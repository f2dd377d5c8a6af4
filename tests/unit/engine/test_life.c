/* How requests and engines end: cancel, deadline, gone client, full queue, failure, drain, close.
 */
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "support_fake.h"

struct rig {
    struct fake *fake;
    struct moed_engine *e;
    struct moed_outbox *box;
};

static struct rig rig_open(const struct fake_config *cfg, int pass_us)
{
    struct rig g;
    struct engine_setup setup;
    struct moed_error err;
    g.fake = fake_setup(&setup, cfg);
    g.fake->pass_us = pass_us;
    assert_ok(engine_start(&g.e, &setup, &err), &err);
    assert_ok(moed_outbox_open(&g.box, &err), &err);
    return g;
}

static void rig_close(struct rig *g)
{
    moed_outbox_close(&g->box);
    moed_engine_close(&g->e);
    assert_null(g->e);
}

static int submit(struct rig *g, struct answer *a, int32_t max_tokens, int64_t deadline_us,
                  uint64_t *handle)
{
    static const int32_t prompt[4] = {1, 2, 3, 4};
    struct moed_request *r = request_of(prompt, 4, max_tokens, a);
    struct moed_error err;
    uint64_t h = 0;
    r->deadline_us = deadline_us;
    int rc = moed_submit(g->e, &r, g->box, handle ? handle : &h, &err);
    assert_true((rc < 0) == (r != NULL));
    if (r)
        moed_request_free(&r);
    return rc;
}

static struct answer *answers(size_t n)
{
    return mem_new(n, sizeof(struct answer));
}

/* Waits until a token of the answer has come. */
static void first_token(struct rig *g, struct answer *a)
{
    int64_t until = clock_us() + 120000000;
    while (a->n[0] == 0 && clock_us() < until) {
        struct moed_event *e = moed_outbox_next(g->box);
        if (e)
            answer_take(e);
        else
            usleep(500);
        moed_event_free(e);
    }
    assert_true(a->n[0] > 0);
}

static void a_canceled_request_ends_within_a_step(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true}, 0);
    struct answer *a = answers(2);
    uint64_t handle;
    g.fake->hold_at = 2;
    assert_int_equal(submit(&g, &a[0], 300, 0, &handle), 0);
    assert_int_equal(submit(&g, &a[1], 30, 0, NULL), 0);
    first_token(&g, &a[0]);
    moed_cancel(g.e, handle);
    moed_cancel(g.e, handle);
    moed_cancel(g.e, 12345);
    g.fake->hold_at = 0;
    assert_true(answers_wait(g.box, 2));
    assert_int_equal(a[0].error.code, MOED_ECANCELED);
    assert_true(a[0].n[0] <= 2);
    assert_int_equal(a[1].error.code, 0);
    assert_int_equal(a[1].n[0], 30);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_int_equal(st.requests_canceled, 1);
    rig_close(&g);
    free(a);
}

static void a_deadline_ends_what_runs_and_what_waits(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true, .max_seqs = 1}, 0);
    struct answer *a = answers(3);
    /* One runs and stands still until its time is over; a machine with more to do gets more. */
    for (int64_t time_us = 60000; a[0].n[0] == 0; time_us *= 2) {
        int64_t deadline = clock_us() + time_us;
        memset(a, 0, 2 * sizeof *a);
        g.fake->hold_at = g.fake->passes + 2;
        assert_int_equal(submit(&g, &a[0], 300, deadline, NULL), 0);
        assert_int_equal(submit(&g, &a[1], 300, deadline, NULL), 0);
        while (clock_us() <= deadline)
            usleep(1000);
        g.fake->hold_at = 0;
        assert_true(answers_wait(g.box, 2));
        assert_int_equal(a[0].error.code, MOED_EDEADLINE);
        assert_int_equal(a[1].error.code, MOED_EDEADLINE);
        assert_true(a[0].n[0] <= 2 && a[1].n[0] == 0);
    }
    assert_int_equal(submit(&g, &a[2], 5, 0, NULL), 0);
    assert_true(answers_wait(g.box, 1));
    assert_int_equal(a[2].n[0], 5);
    rig_close(&g);
    free(a);
}

static void a_closed_outbox_frees_its_requests(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true}, 0);
    struct answer *a = answers(2);
    g.fake->hold_at = 2;
    for (int i = 0; i < 2; i++)
        assert_int_equal(submit(&g, &a[i], 390, 0, NULL), 0);
    first_token(&g, &a[0]);
    moed_outbox_close(&g.box);
    g.fake->hold_at = 0;
    struct moed_engine_stats st = {0};
    for (int tries = 0; st.requests_canceled < 2 && tries < 120; tries++) {
        settled(g.e, &st);
        usleep(tries * 1000);
    }
    assert_int_equal(st.requests_canceled, 2);
    assert_true(g.fake->passes < 5);
    rig_close(&g);
    free(a);
}

static void a_full_queue_says_so(void **state)
{
    struct rig g =
        rig_open(&(struct fake_config){.no_eos = true, .max_seqs = 1, .max_queue = 3}, 0);
    struct answer *a = answers(12);
    g.fake->hold_at = 1;
    int taken = 0, busy = 0;
    for (int i = 0; i < 12; i++) {
        int rc = submit(&g, &a[i], 10, 0, NULL);
        assert_true(rc == 0 || rc == MOED_EBUSY);
        taken += rc == 0;
        busy += rc == MOED_EBUSY;
    }
    assert_true(taken >= 3 && busy >= 6);
    struct moed_engine_stats st;
    moed_engine_stats(g.e, &st);
    assert_true(st.waiting >= 2);
    g.fake->hold_at = 0;
    assert_true(answers_wait(g.box, taken));
    memset(a, 0, 12 * sizeof *a);
    assert_int_equal(submit(&g, &a[0], 10, 0, NULL), 0);
    assert_true(answers_wait(g.box, 1));
    rig_close(&g);
    free(a);
}

static void a_failed_device_ends_everything(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true, .max_seqs = 2}, 1000);
    struct answer *a = answers(5);
    g.fake->fail_code = MOED_EDEVICE;
    g.fake->fail_at = 6;
    int taken = 0;
    for (int i = 0; i < 4; i++)
        taken += submit(&g, &a[i], 100, 0, NULL) == 0;
    assert_true(answers_wait(g.box, taken));
    for (int i = 0; i < taken; i++)
        assert_int_equal(a[i].error.code, MOED_EDEVICE);
    struct moed_engine_stats st;
    moed_engine_stats(g.e, &st);
    assert_true(st.failed);
    assert_int_equal(submit(&g, &a[4], 10, 0, NULL), MOED_EDEVICE);
    rig_close(&g);
    free(a);
}

static void another_failure_ends_only_its_pass(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true, .max_seqs = 2}, 1000);
    struct answer *a = answers(4);
    g.fake->fail_code = MOED_ENOTFOUND;
    g.fake->fail_at = 6;
    g.fake->fail_times = 2;
    for (int i = 0; i < 4; i++)
        assert_int_equal(submit(&g, &a[i], 40, 0, NULL), 0);
    assert_true(answers_wait(g.box, 4));
    int failed = 0;
    for (int i = 0; i < 4; i++) {
        failed += a[i].error.code == MOED_ENOTFOUND;
        assert_true(a[i].error.code == MOED_ENOTFOUND || a[i].n[0] == 40);
    }
    assert_true(failed >= 1 && failed <= 2);
    g.fake->nan_logits = true;
    struct answer *b = answers(1);
    assert_int_equal(submit(&g, b, 4, 0, NULL), 0);
    assert_true(answers_wait(g.box, 1));
    assert_int_equal(b->error.code, MOED_EINTERNAL);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_false(st.failed);
    rig_close(&g);
    free(a);
    free(b);
}

static void draining_refuses_and_finishes(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true}, 1000);
    struct answer *a = answers(2);
    assert_int_equal(submit(&g, &a[0], 30, 0, NULL), 0);
    moed_drain(g.e);
    assert_int_equal(submit(&g, &a[1], 30, 0, NULL), MOED_ECLOSED);
    assert_true(answers_wait(g.box, 1));
    assert_int_equal(a[0].n[0], 30);
    rig_close(&g);
    free(a);
}

static void closing_gives_each_request_its_end(void **state)
{
    struct rig g = rig_open(&(struct fake_config){.no_eos = true, .max_seqs = 2}, 0);
    struct answer *a = answers(6);
    g.fake->hold_at = 2;
    for (int i = 0; i < 6; i++)
        assert_int_equal(submit(&g, &a[i], 300, 0, NULL), 0);
    first_token(&g, &a[0]);
    g.fake->pass_us = 200000; /* all of it would take a minute */
    g.fake->hold_at = 0;
    moed_engine_close(&g.e);
    int left = 0;
    for (int i = 0; i < 6; i++)
        left += !a[i].ended;
    assert_true(answers_wait(g.box, left));
    for (int i = 0; i < 6; i++)
        assert_int_equal(a[i].error.code, MOED_ECANCELED);
    rig_close(&g);
    free(a);
}

static int64_t cpu_us(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 + u.ru_utime.tv_usec +
           u.ru_stime.tv_usec;
}

static void an_idle_engine_takes_no_cpu(void **state)
{
    struct rig g = rig_open(&(struct fake_config){0}, 0);
    struct answer *a = answers(1);
    assert_int_equal(submit(&g, a, 5, 0, NULL), 0);
    assert_true(answers_wait(g.box, 1));
    int passes = g.fake->passes;
    int64_t before = cpu_us();
    usleep(200000);
    assert_true(cpu_us() - before < 50000); /* looking all the time takes all of the time */
    assert_int_equal(g.fake->passes, passes);
    rig_close(&g);
    free(a);
}

struct client {
    struct moed_engine *e;
    int number, ended;
};

/* Each client has its own outbox; some requests are canceled, the last ones abandoned. */
static void *client_main(void *arg)
{
    struct client *c = arg;
    struct moed_error err;
    struct moed_outbox *box;
    if (moed_outbox_open(&box, &err) < 0)
        return NULL;
    enum { N = 40 };
    struct answer *a = answers(N);
    int taken = 0;
    for (int i = 0; i < N; i++) {
        int32_t prompt[30];
        for (int k = 0; k < 30; k++)
            prompt[k] = (k < 20 ? k : k * (i + c->number)) % FAKE_VOCAB;
        struct moed_request *r = request_of(prompt, 30, 10 + i % 20, &a[i]);
        uint64_t handle;
        r->n = 1 + i % 3;
        if (moed_submit(c->e, &r, box, &handle, &err) < 0) {
            moed_request_free(&r);
            usleep(200);
            continue;
        }
        taken++;
        if (i % 7 == 3)
            moed_cancel(c->e, handle);
        struct moed_engine_stats st;
        moed_engine_stats(c->e, &st);
        if (i < N - 5 && i % 4 == 0 && taken > c->ended && answers_wait(box, 1))
            c->ended++;
    }
    while (c->ended < taken - 3 && answers_wait(box, 1))
        c->ended++;
    moed_outbox_close(&box);
    free(a);
    return NULL;
}

static void many_clients_at_once(void **state)
{
    enum { CLIENTS = 4 };
    struct rig g = rig_open(&(struct fake_config){.kv_blocks = 20,
                                                  .max_model_len = 100,
                                                  .max_queue = 24,
                                                  .max_batched_tokens = 24,
                                                  .threads = 2},
                            0);
    pthread_t t[CLIENTS];
    struct client c[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        c[i] = (struct client){g.e, i, 0};
        assert_int_equal(pthread_create(&t[i], NULL, client_main, &c[i]), 0);
    }
    int ended = 0;
    for (int i = 0; i < CLIENTS; i++) {
        pthread_join(t[i], NULL);
        ended += c[i].ended;
    }
    assert_true(ended > CLIENTS * 10);
    struct moed_engine_stats st;
    settled(g.e, &st);
    assert_int_equal(st.requests, st.requests_ok + st.requests_canceled);
    rig_close(&g);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_canceled_request_ends_within_a_step),
    cmocka_unit_test(a_deadline_ends_what_runs_and_what_waits),
    cmocka_unit_test(a_closed_outbox_frees_its_requests),
    cmocka_unit_test(a_full_queue_says_so),
    cmocka_unit_test(a_failed_device_ends_everything),
    cmocka_unit_test(another_failure_ends_only_its_pass),
    cmocka_unit_test(draining_refuses_and_finishes),
    cmocka_unit_test(closing_gives_each_request_its_end),
    cmocka_unit_test(an_idle_engine_takes_no_cpu),
    cmocka_unit_test(many_clients_at_once),
};
CHECK_MAIN(tests)
