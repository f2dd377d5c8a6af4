/*
 * Random requests under random limits, with cancels in between: each that is not canceled gets
 * exactly what it gets alone in a roomy engine.
 */
#include "check.h"

#include "base/mem.h"
#include "support_fake.h"

enum { N = 14 };

static uint64_t state_of;

static int32_t pick(int32_t low, int32_t high)
{
    state_of = state_of * 6364136223846793005u + 1442695040888963407u;
    return low + (int32_t)((state_of >> 33) % (uint64_t)(high - low + 1));
}

/* A request drawn from its seed alone. */
static struct moed_request *draw(uint64_t seed, struct answer *a)
{
    int32_t prompt[120];
    state_of = seed;
    int32_t n = pick(1, 110), common = pick(0, n);
    for (int32_t i = 0; i < n; i++)
        prompt[i] = i < common ? (i * 5) % 40 : pick(0, 40);
    struct moed_request *r = request_of(prompt, (size_t)n, pick(0, 5) ? pick(1, 50) : 0, a);
    struct moed_sampling *s = &r->sampling;
    r->n = pick(0, 2) ? 1 : pick(1, 4);
    r->cache_salt = (uint64_t)pick(0, 1);
    s->temperature = pick(0, 1) ? 0 : 1;
    s->seed = seed;
    s->has_seed = true;
    s->top_k = pick(0, 2) ? 0 : 5;
    s->top_p = pick(0, 2) ? 1 : 0.8f;
    s->frequency_penalty = pick(0, 2) ? 0 : 0.5f;
    s->repetition_penalty = pick(0, 2) ? 1 : 1.2f;
    s->logprobs = pick(0, 1) ? -1 : 2;
    s->prompt_logprobs = pick(0, 3) ? -1 : 1;
    s->ignore_eos = pick(0, 1);
    s->min_tokens = s->max_tokens > 5 && pick(0, 3) == 0 ? 5 : 0;
    if (pick(0, 2) == 0) {
        s->stop_id[0] = pick(0, 40);
        s->n_stop_id = 1;
    }
    if (pick(0, 2) == 0) {
        s->stop[0] = mem_strdup(pick(0, 1) ? "abab" : "ec");
        s->n_stop = 1;
    }
    return r;
}

static struct moed_engine *open_fake(const struct fake_config *cfg, struct fake **fake)
{
    struct engine_setup setup;
    struct moed_engine *e;
    struct moed_error err;
    struct fake *f = fake_setup(&setup, cfg);
    if (fake)
        *fake = f;
    assert_ok(engine_start(&e, &setup, &err), &err);
    return e;
}

static void same(const struct answer *want, const struct answer *got)
{
    assert_int_equal(got->error.code, 0);
    assert_int_equal(got->n_prompt, want->n_prompt);
    for (size_t i = 1; i < want->n_prompt; i++) {
        assert_true(got->prompt[i].logprob == want->prompt[i].logprob);
        assert_int_equal(got->prompt[i].rank, want->prompt[i].rank);
    }
    for (int c = 0; c < 8; c++) {
        assert_int_equal(got->n[c], want->n[c]);
        assert_memory_equal(got->tokens[c], want->tokens[c], (size_t)want->n[c] * sizeof(int32_t));
        assert_string_equal(got->text[c], want->text[c]);
        assert_int_equal(got->finish[c], want->finish[c]);
        assert_int_equal(got->stop_token[c], want->stop_token[c]);
        assert_string_equal(got->stop_reason[c], want->stop_reason[c]);
        for (int32_t i = 0; i < want->n[c]; i++)
            assert_int_equal(got->info[c][i].rank, want->info[c][i].rank);
    }
    assert_int_equal(got->usage.prompt_tokens, want->usage.prompt_tokens);
    assert_int_equal(got->usage.completion_tokens, want->usage.completion_tokens);
}

/* A request that is canceled when a long pass pauses next, if it comes to that. */
struct doomed {
    struct moed_engine *e;
    atomic_uint_fast64_t handle;
};

static void cancel_doomed(void *user)
{
    struct doomed *d = user;
    uint64_t handle = atomic_exchange(&d->handle, 0);
    if (handle)
        moed_cancel(d->e, handle);
}

/* What all rounds together must have met. */
struct met {
    uint64_t preemptions, long_passes, pauses, dropped;
};

static void crowd(uint64_t round, struct answer *want, struct answer *got, struct met *met)
{
    struct fake_config roomy = {.max_seqs = 8, .kv_blocks = 200, .max_batched_tokens = 200};
    struct moed_engine *e = open_fake(&roomy, NULL);
    memset(want, 0, N * sizeof *want);
    for (uint64_t i = 0; i < N; i++)
        ask(e, draw(round * 1000 + i, &want[i]));
    moed_engine_close(&e);

    state_of = round;
    int32_t seqs = pick(1, 8);
    struct fake_config tight = {.max_seqs = seqs,
                                .max_batched_tokens = seqs + pick(0, 30),
                                .max_model_len = 170,
                                .kv_blocks = pick(11, 18),
                                .max_logits = pick(1, 9),
                                .long_prefill_tokens = pick(0, 1) ? pick(1, 200) : 0,
                                .n_layers = pick(1, 5),
                                .target_itl_us = pick(0, 1) ? 1 : 0,
                                .no_prefix_cache = pick(0, 3) == 0,
                                .admission_measured = pick(0, 1),
                                .admission_wait_us = pick(0, 1) ? 1000 : 0,
                                .threads = pick(0, 2)};
    struct fake *fake;
    e = open_fake(&tight, &fake);
    struct doomed doomed = {.e = e};
    fake->user = &doomed;
    fake->on_pause = cancel_doomed;
    memset(got, 0, N * sizeof *got);
    struct moed_error err;
    struct moed_outbox *box;
    assert_ok(moed_outbox_open(&box, &err), &err);
    for (uint64_t i = 0; i < N; i++) {
        struct moed_request *r = draw(round * 1000 + i, &got[i]);
        uint64_t handle;
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
        if ((i + round) % 5 == 0 && i % 2)
            moed_cancel(e, handle);
        else if ((i + round) % 5 == 0)
            atomic_store(&doomed.handle, handle);
    }
    assert_true(answers_wait(box, N));
    for (int i = 0; i < N; i++)
        if (got[i].error.code != MOED_ECANCELED)
            same(&want[i], &got[i]);
    struct moed_engine_stats st;
    settled(e, &st);
    moed_outbox_close(&box);
    met->preemptions += st.preemptions;
    met->long_passes += st.long_passes;
    met->pauses += st.long_pauses;
    for (int i = 0; i < fake->n_log; i++)
        met->dropped += fake->log[i].kind == FAKE_LONG_DROP;
    moed_engine_close(&e);
}

static void crowds(uint64_t first, uint64_t n)
{
    struct answer *want = mem_new(N, sizeof *want), *got = mem_new(N, sizeof *got);
    struct met met = {0};
    for (uint64_t round = first; round < first + n; round++)
        crowd(round, want, got, &met);
    assert_true(met.preemptions > n / 8 && met.long_passes > n && met.pauses > n);
    /* Seldom by chance; test_long_pass.c does it on purpose. */
    assert_true(n < 1000 || met.dropped > 0);
    free(want);
    free(got);
}

static void limits_and_neighbours_change_nothing(void **state)
{
    crowds(1, 40);
}

static void limits_and_neighbours_change_nothing_deep(void **state)
{
    crowds(41, 3000);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(limits_and_neighbours_change_nothing),
    cmocka_unit_test(limits_and_neighbours_change_nothing_deep),
};
CHECK_MAIN(tests)
