/* The engine loop over the fake model: what comes back, in every way to run it. */
#include "check.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "support_fake.h"

static struct moed_engine *open_fake(const struct fake_config *cfg, struct fake **f)
{
    struct engine_setup setup;
    struct moed_engine *e;
    struct moed_error err;
    struct fake *fake = fake_setup(&setup, cfg);
    if (f)
        *f = fake;
    assert_ok(engine_start(&e, &setup, &err), &err);
    return e;
}

static void prompt_of(int32_t *prompt, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++)
        prompt[i] = (int32_t)((seed * 7919u + i * (i + 3) * 31u) % (FAKE_VOCAB - 1));
}

/* Tokens, text and finish of greedy decoding. */
static void check_greedy(const struct answer *a, const int32_t *prompt, size_t n_prompt,
                         int32_t max_tokens, bool no_eos)
{
    int32_t want[512];
    char text[4096] = "";
    size_t n = fake_greedy(prompt, n_prompt, (size_t)max_tokens, no_eos, want);
    assert_int_equal(a->error.code, 0);
    assert_int_equal(a->n[0], n);
    assert_memory_equal(a->tokens[0], want, n * sizeof *want);
    for (size_t i = 0; i < n; i++)
        if (want[i] != FAKE_EOS)
            strcat(text, fake_text(want[i]));
    assert_string_equal(a->text[0], text);
    assert_int_equal(a->finish[0], want[n - 1] == FAKE_EOS ? MOED_FINISH_STOP : MOED_FINISH_LENGTH);
    assert_int_equal(a->usage.prompt_tokens, n_prompt);
    assert_int_equal(a->usage.completion_tokens, n);
}

static void a_prompt_is_continued(void **state)
{
    struct moed_engine *e = open_fake(&(struct fake_config){0}, NULL);
    bool by_eos = false, by_length = false;
    for (uint32_t seed = 0; seed < 40; seed++) {
        int32_t prompt[100];
        size_t n = 1 + seed * 2;
        prompt_of(prompt, n, seed);
        struct answer *a = mem_new(1, sizeof *a);
        ask(e, request_of(prompt, n, 20, a));
        check_greedy(a, prompt, n, 20, false);
        by_eos |= a->finish[0] == MOED_FINISH_STOP;
        by_length |= a->finish[0] == MOED_FINISH_LENGTH;
        free(a);
    }
    assert_true(by_eos && by_length);
    struct moed_engine_stats st;
    settled(e, &st);
    assert_int_equal(st.requests, 40);
    assert_int_equal(st.requests_ok, 40);
    assert_int_equal(st.ttft.count, 40);
    assert_int_equal(st.queue_time.count, 40);
    assert_int_equal(st.request_time.count, 40);
    assert_int_equal(st.inter_token.count + 40, st.generated_tokens);
    moed_engine_close(&e);
}

/* Many at once, with shared prefixes, under one set of limits; every answer as if alone. */
static void crowd(const struct fake_config *cfg, struct moed_engine_stats *st)
{
    enum { N = 40 };
    struct moed_error err;
    struct moed_engine *e = open_fake(cfg, NULL);
    struct moed_outbox *box;
    assert_ok(moed_outbox_open(&box, &err), &err);
    struct answer *answers = mem_new(N, sizeof *answers);
    int32_t prompt[N][160];
    size_t n[N];
    for (uint32_t i = 0; i < N; i++) {
        n[i] = 3 + (i * 37) % 100;
        prompt_of(prompt[i], n[i], i % 3);
        prompt[i][n[i] - 1] = (int32_t)i;
        struct moed_request *r = request_of(prompt[i], n[i], 60, &answers[i]);
        uint64_t handle;
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
    }
    assert_true(answers_wait(box, N));
    for (int i = 0; i < N; i++)
        check_greedy(&answers[i], prompt[i], n[i], 60, cfg->no_eos);
    moed_outbox_close(&box);
    settled(e, st);
    moed_engine_close(&e);
    free(answers);
}

static void batch_chunks_reuse_and_preemption_change_nothing(void **state)
{
    struct moed_engine_stats st;
    crowd(&(struct fake_config){.no_eos = true}, &st);
    assert_true(st.prefix_hits > 0 && st.cached_tokens > 0);
    crowd(&(struct fake_config){.no_eos = true, .max_batched_tokens = 9, .max_logits = 1}, &st);
    crowd(&(struct fake_config){.no_eos = true, .no_prefix_cache = true, .max_seqs = 16}, &st);
    assert_int_equal(st.cached_tokens, 0);
    crowd(&(struct fake_config){.no_eos = true, .kv_blocks = 12, .max_model_len = 180}, &st);
    assert_true(st.preemptions > 0);
    crowd(&(struct fake_config){.threads = 3, .max_logits = 64}, &st);
}

/* Six streams of 400 tokens, whose steps take `row_us` more for each row but the first. Returns the
 * part of the model's time in which one ran alone. */
static double six_streams(int64_t row_us, int64_t wait_us, struct moed_engine_stats *st)
{
    enum { N = 6, TOKENS = 400, STEP_US = 5000 };
    const struct fake_config cfg = {.no_eos = true,
                                    .max_model_len = 500,
                                    .kv_blocks = 200,
                                    .max_seqs = 8,
                                    .step_us = STEP_US,
                                    .row_us = row_us,
                                    .admission_measured = true,
                                    .admission_wait_us = wait_us};
    struct moed_error err;
    struct fake *fake;
    struct moed_engine *e = open_fake(&cfg, &fake);
    struct moed_outbox *box;
    struct answer *answers = mem_new(N, sizeof *answers);
    int32_t prompt[N][4];
    assert_ok(moed_outbox_open(&box, &err), &err);
    fake->hold_at = 1;
    for (uint32_t i = 0; i < N; i++) {
        uint64_t handle;
        prompt_of(prompt[i], 4, i);
        struct moed_request *r = request_of(prompt[i], 4, TOKENS, &answers[i]);
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
    }
    usleep(2000); /* all are in the queue, and have waited */
    fake->hold_at = 0;
    assert_true(answers_wait(box, N));
    for (int i = 0; i < N; i++)
        check_greedy(&answers[i], prompt[i], 4, TOKENS, true);
    settled(e, st);
    /* Whoever waits to go on has its prompt read at once, and its first token. */
    int first = 0;
    while (fake->log[first].kind != FAKE_STEP)
        first++;
    const int rows = fake->log[first].rows, next = fake->log[first + 1].rows;
    assert_true(rows == 4 * N || rows + next > 4 * N);
    int64_t alone_us = 0;
    for (int i = 0; i < fake->n_log; i++)
        if (fake->log[i].kind == FAKE_STEP && fake->log[i].rows == 1)
            alone_us += STEP_US;
    double part = (double)alone_us / (double)fake->clock_us;
    moed_outbox_close(&box);
    moed_engine_close(&e);
    free(answers);
    return part;
}

static void a_batch_that_does_not_pay_is_not_made(void **state)
{
    struct moed_engine_stats st;
    /* Two rows take three times as long as one: there are trials. */
    double alone = six_streams(10000, 0, &st);
    print_message("alone %.2f of the time\n", alone);
    assert_true(alone > 0.6 && alone < 1 && st.exempted == 0);
    /* Rows cost nothing: soon all run together. */
    assert_true(six_streams(0, 0, &st) < 0.8);
    /* All have waited long enough. */
    assert_true(six_streams(10000, 1000, &st) < 0.05);
    assert_true(st.exempted >= 4 && st.held == 0);
}

static char *copy(const char *s)
{
    return mem_strdup(s);
}

/* Runs one prompt greedily with changes made by the caller. */
static struct answer *one(struct moed_engine *e, struct moed_request *r)
{
    struct answer *a = r->user;
    ask(e, r);
    return a;
}

static struct moed_request *standard(struct answer **a, int32_t max_tokens)
{
    int32_t prompt[10];
    prompt_of(prompt, 10, 5);
    *a = mem_new(1, sizeof **a);
    return request_of(prompt, 10, max_tokens, *a);
}

static void stop_strings_end_the_text_before_them(void **state)
{
    struct moed_engine *e = open_fake(&(struct fake_config){.no_eos = true}, NULL);
    struct answer *a, *b, *c;
    one(e, standard(&a, 60));
    /* Any two neighbouring characters somewhere inside, across token borders too. */
    char word[3] = {a->text[0][20], a->text[0][21], 0};
    while ((word[0] & 0x80) || (word[1] & 0x80)) {
        memmove(a->text[0], a->text[0] + 1, strlen(a->text[0]));
        word[0] = a->text[0][20];
        word[1] = a->text[0][21];
    }
    free(a);
    one(e, standard(&a, 60));
    const char *at = strstr(a->text[0], word);
    struct moed_request *r = standard(&b, 60);
    r->sampling.stop[0] = copy("never");
    r->sampling.stop[1] = copy(word);
    r->sampling.n_stop = 2;
    one(e, r);
    assert_int_equal(b->finish[0], MOED_FINISH_STOP);
    assert_string_equal(b->stop_reason[0], word);
    assert_int_equal(strlen(b->text[0]), at - a->text[0]);
    assert_memory_equal(b->text[0], a->text[0], strlen(b->text[0]));
    assert_true(b->n[0] < 60);
    r = standard(&c, 60);
    r->sampling.stop[0] = copy(word);
    r->sampling.n_stop = 1;
    r->sampling.include_stop = true;
    one(e, r);
    assert_int_equal(strlen(c->text[0]), at - a->text[0] + 2);
    assert_int_equal(c->n[0], b->n[0]);
    free(a);
    free(b);
    free(c);
    moed_engine_close(&e);
}

static void stop_ids_eos_and_min_tokens_are_kept(void **state)
{
    struct moed_engine *e = open_fake(&(struct fake_config){.no_eos = true}, NULL);
    struct answer *a, *b;
    one(e, standard(&a, 30));
    int32_t stop = a->tokens[0][12], first = 0;
    while (a->tokens[0][first] != stop)
        first++;
    struct moed_request *r = standard(&b, 30);
    r->sampling.stop_id[0] = stop;
    r->sampling.n_stop_id = 1;
    one(e, r);
    assert_int_equal(b->n[0], first + 1);
    assert_int_equal(b->finish[0], MOED_FINISH_STOP);
    assert_int_equal(b->stop_token[0], stop);
    free(b);
    r = standard(&b, 30);
    r->sampling.stop_id[0] = stop;
    r->sampling.n_stop_id = 1;
    r->sampling.min_tokens = 20;
    one(e, r);
    assert_true(b->n[0] >= 20);
    for (int i = 0; i < 20; i++)
        assert_int_not_equal(b->tokens[0][i], stop);
    free(b);
    free(a);
    /* A bias makes eos win at once; ignore_eos goes on, min_tokens masks it. */
    for (int mode = 0; mode < 3; mode++) {
        r = standard(&a, 10);
        r->sampling.bias = mem_new(1, sizeof *r->sampling.bias);
        r->sampling.bias[0] = (struct moed_logit_bias){FAKE_EOS, 100};
        r->sampling.bias[0].bias = 100;
        r->sampling.n_bias = 1;
        r->sampling.ignore_eos = mode == 1;
        r->sampling.min_tokens = mode == 2 ? 4 : 0;
        one(e, r);
        if (mode == 2)
            for (int i = 0; i < 4; i++)
                assert_int_not_equal(a->tokens[0][i], FAKE_EOS);
        free(a);
    }
    moed_engine_close(&e);
}

static void choices_differ_by_their_own_random_numbers(void **state)
{
    struct answer *first = NULL, *a;
    for (int round = 0; round < 3; round++) {
        /* The same seed gives the same tokens whatever else goes on. */
        struct fake_config cfg = {.no_eos = true,
                                  .max_batched_tokens = round == 1 ? 11 : 64,
                                  .kv_blocks = round == 2 ? 9 : 100,
                                  .max_model_len = 100};
        struct moed_engine *e = open_fake(&cfg, NULL);
        struct moed_request *r = standard(&a, 40);
        r->n = 5;
        r->sampling.temperature = 1;
        r->sampling.seed = 99;
        r->sampling.has_seed = true;
        one(e, r);
        for (int c = 0; c < 5; c++) {
            assert_int_equal(a->n[c], 40);
            assert_int_equal(a->finish[c], MOED_FINISH_LENGTH);
            if (first)
                assert_memory_equal(a->tokens[c], first->tokens[c], 40 * sizeof(int32_t));
            for (int d = 0; d < c; d++)
                assert_memory_not_equal(a->tokens[c], a->tokens[d], 40 * sizeof(int32_t));
        }
        assert_int_equal(a->usage.completion_tokens, 200);
        assert_int_equal(a->usage.prompt_tokens, 10);
        if (first)
            free(a);
        else
            first = a;
        moed_engine_close(&e);
    }
    free(first);
}

static double logprob_of(const int32_t *tokens, size_t n, int32_t next)
{
    float l[FAKE_VOCAB];
    fake_logits(tokens, n, true, l);
    double sum = 0;
    for (int i = 0; i < FAKE_VOCAB; i++)
        sum += exp((double)l[i]);
    return (double)l[next] - log(sum);
}

static void logprobs_of_prompt_and_tokens_are_those_of_the_raw_logits(void **state)
{
    struct fake_config cfg = {
        .no_eos = true, .max_batched_tokens = 13, .max_logits = 3, .max_seqs = 4};
    struct moed_engine *e = open_fake(&cfg, NULL);
    int32_t tokens[300];
    prompt_of(tokens, 70, 3);
    for (int round = 0; round < 3; round++) {
        /* The second round would find the prompt in the cache; the third wants no tokens. */
        struct answer *a = mem_new(1, sizeof *a);
        int32_t max_tokens = round == 2 ? 0 : 12;
        struct moed_request *r = request_of(tokens, 70, max_tokens, a);
        r->sampling.prompt_logprobs = 2;
        r->sampling.logprobs = 3;
        r->sampling.temperature = 1;
        r->n = 2;
        one(e, r);
        assert_int_equal(a->error.code, 0);
        assert_int_equal(a->n_prompt, 70);
        assert_true(isnan(a->prompt[0].logprob));
        for (size_t i = 1; i < 70; i++) {
            assert_int_equal(a->prompt[i].id, tokens[i]);
            assert_true(fabs((double)a->prompt[i].logprob - logprob_of(tokens, i, tokens[i])) <
                        1e-5);
            assert_int_equal(a->prompt[i].n_top, 2);
            const struct moed_top *t = a->prompt_top[i];
            assert_true(t[0].logprob >= t[1].logprob);
            assert_true(a->prompt[i].rank > 2 || a->prompt[i].rank < 1 ||
                        t[a->prompt[i].rank - 1].token == tokens[i]);
        }
        for (int c = 0; c < 2; c++) {
            assert_int_equal(a->n[c], max_tokens);
            assert_int_equal(a->finish[c], MOED_FINISH_LENGTH);
            for (int32_t i = 0; i < a->n[c]; i++) {
                tokens[70 + i] = a->tokens[c][i];
                double want = logprob_of(tokens, 70 + (size_t)i, a->tokens[c][i]);
                assert_true(fabs((double)a->info[c][i].logprob - want) < 1e-5);
                assert_int_equal(a->info[c][i].n_top, 3);
            }
        }
        free(a);
    }
    moed_engine_close(&e);
}

static void no_tokens_and_no_text_are_fine(void **state)
{
    struct moed_engine *e = open_fake(&(struct fake_config){.no_text = true}, NULL);
    struct answer *a;
    struct moed_request *r = standard(&a, 0);
    r->n = 3;
    one(e, r);
    assert_int_equal(a->finish[2], MOED_FINISH_LENGTH);
    assert_int_equal(a->usage.prompt_tokens, 10);
    assert_int_equal(a->events, 4);
    free(a);
    one(e, standard(&a, 5));
    assert_string_equal(a->text[0], "");
    assert_true(a->n[0] > 0);
    free(a);
    r = standard(&a, 5);
    r->sampling.stop[0] = copy("x");
    r->sampling.n_stop = 1;
    struct moed_error err;
    struct moed_outbox *box;
    uint64_t handle;
    assert_ok(moed_outbox_open(&box, &err), &err);
    assert_int_equal(moed_submit(e, &r, box, &handle, &err), MOED_EINVAL);
    assert_string_equal(err.param, "stop");
    moed_request_free(&r);
    moed_outbox_close(&box);
    free(a);
    assert_null(moed_engine_tokenizer(e));
    moed_engine_close(&e);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_prompt_is_continued),
    cmocka_unit_test(a_batch_that_does_not_pay_is_not_made),
    cmocka_unit_test(batch_chunks_reuse_and_preemption_change_nothing),
    cmocka_unit_test(stop_strings_end_the_text_before_them),
    cmocka_unit_test(stop_ids_eos_and_min_tokens_are_kept),
    cmocka_unit_test(choices_differ_by_their_own_random_numbers),
    cmocka_unit_test(logprobs_of_prompt_and_tokens_are_those_of_the_raw_logits),
    cmocka_unit_test(no_tokens_and_no_text_are_fine),
};
CHECK_MAIN(tests)
