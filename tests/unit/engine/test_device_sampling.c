/* What of sampling goes to the device, and that nobody can tell by the tokens. */
#include "check.h"

#include <math.h>

#include "support_fake.h"

enum { N_PROMPT = 12, TOKENS = 40 };

static struct moed_engine *open_fake(const struct fake_config *cfg, struct fake **f)
{
    struct engine_setup setup;
    struct moed_engine *e;
    struct moed_error err;
    *f = fake_setup(&setup, cfg);
    assert_ok(engine_start(&e, &setup, &err), &err);
    return e;
}

/* Requests of all kinds; on_device: whether a device can sample all of its tokens. */
static struct moed_request *request_number(int i, struct answer *a, bool *on_device)
{
    static const float temperature[] = {0, 0.6f, 1, 2}, top_p[] = {1, 0.9f, 0.3f};
    static const float min_p[] = {0, 0.1f};
    static const int32_t top_k[] = {0, 1, 3, 20, 100};
    int32_t prompt[N_PROMPT];
    for (int k = 0; k < N_PROMPT; k++)
        prompt[k] = (i * 5 + k * 3) % (FAKE_VOCAB - 1);
    struct moed_request *r = request_of(prompt, N_PROMPT, TOKENS, a);
    struct moed_sampling *s = &r->sampling;
    s->temperature = temperature[i % 4];
    s->top_p = top_p[i / 4 % 3];
    s->top_k = top_k[i / 12 % 5];
    s->min_p = min_p[i / 60 % 2];
    s->seed = (uint64_t)i;
    s->has_seed = true;
    r->n = i % 3 == 0 ? 3 : 1;
    *on_device = i % 5 != 4;
    if (*on_device)
        return r;
    switch (i / 5 % 6) {
    case 0:
        s->presence_penalty = 0.5f;
        break;
    case 1:
        s->frequency_penalty = 0.5f;
        break;
    case 2:
        s->repetition_penalty = 1.2f;
        break;
    case 3:
        s->bias = mem_new(1, sizeof *s->bias);
        s->bias[0] = (struct moed_logit_bias){7, 2.5f};
        s->n_bias = 1;
        break;
    case 4:
        s->logprobs = 2;
        break;
    default:
        s->min_tokens = TOKENS;
        break;
    }
    return r;
}

#define KINDS 120

/* All kinds at once; how many of their tokens a device can sample, and of all. */
static struct answer *run_all(const struct fake_config *cfg, uint64_t *device, uint64_t *all,
                              struct moed_engine_stats *st)
{
    struct fake *f;
    struct moed_error err;
    struct moed_engine *e = open_fake(cfg, &f);
    struct moed_outbox *box;
    struct answer *a = mem_new(KINDS, sizeof *a);
    static bool on_device[KINDS];
    assert_ok(moed_outbox_open(&box, &err), &err);
    for (int i = 0; i < KINDS; i++) {
        uint64_t handle;
        struct moed_request *r = request_number(i, &a[i], &on_device[i]);
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
    }
    assert_true(answers_wait(box, KINDS));
    moed_outbox_close(&box);
    settled(e, st);
    *device = *all = 0;
    for (int i = 0; i < KINDS; i++) {
        assert_int_equal(a[i].error.code, 0);
        for (int c = 0; c < 8; c++) {
            *all += (uint64_t)a[i].n[c];
            *device += on_device[i] ? (uint64_t)a[i].n[c] : 0;
        }
    }
    if (cfg->samples)
        assert_int_equal(f->sampled, st->sampled_device);
    moed_engine_close(&e);
    return a;
}

static void tokens_do_not_tell_who_sampled_them(void **state)
{
    static const struct fake_config with[] = {
        {.samples = true, .max_queue = KINDS, .max_seqs = 16},
        {.samples = true, .max_queue = KINDS, .max_seqs = 16, .max_logits = 3, .threads = 2},
        {.samples = true, .max_queue = KINDS, .max_logits = 1, .max_batched_tokens = 9},
    };
    uint64_t device, all;
    struct moed_engine_stats st;
    struct fake_config without = {.max_queue = KINDS, .max_seqs = 16};
    struct answer *want = run_all(&without, &device, &all, &st);
    assert_int_equal(st.sampled_device, 0);
    assert_int_equal(st.sampled_cpu, all);
    for (size_t k = 0; k < sizeof with / sizeof *with; k++) {
        struct answer *got = run_all(&with[k], &device, &all, &st);
        assert_int_equal(st.sampled_device, device);
        assert_int_equal(st.sampled_cpu, all - device);
        assert_true(device > 0 && device < all);
        for (int i = 0; i < KINDS; i++) {
            assert_memory_equal(got[i].n, want[i].n, sizeof got[i].n);
            assert_memory_equal(got[i].tokens, want[i].tokens, sizeof got[i].tokens);
            assert_memory_equal(got[i].finish, want[i].finish, sizeof got[i].finish);
        }
        free(got);
    }
    free(want);
}

/* min_tokens binds up to some token, after which the device takes over. */
static void a_request_may_change_sides(void **state)
{
    struct fake *f;
    struct answer *a = mem_new(1, sizeof *a);
    struct moed_engine_stats st;
    bool on_device;
    struct moed_engine *e = open_fake(&(struct fake_config){.samples = true, .no_eos = true}, &f);
    struct moed_request *r = request_number(1, a, &on_device);
    r->sampling.min_tokens = 15;
    ask(e, r);
    settled(e, &st);
    assert_int_equal(a->n[0], TOKENS);
    assert_int_equal(st.sampled_cpu, 15);
    assert_int_equal(st.sampled_device, TOKENS - 15);
    moed_engine_close(&e);
    free(a);
}

static void no_finite_logit_ends_the_request(void **state)
{
    struct fake *f;
    struct answer *a = mem_new(2, sizeof *a);
    struct moed_engine_stats st;
    bool on_device;
    struct moed_engine *e = open_fake(&(struct fake_config){.samples = true}, &f);
    f->nan_logits = true;
    ask(e, request_number(3, &a[0], &on_device)); /* three choices */
    assert_int_equal(a[0].error.code, MOED_EINTERNAL);
    assert_non_null(strstr(a[0].error.text, "no finite logit"));
    settled(e, &st);
    f->nan_logits = false;
    ask(e, request_number(1, &a[1], &on_device));
    assert_int_equal(a[1].error.code, 0);
    moed_engine_close(&e);
    free(a);
}

static void a_device_that_fails_in_sampling_is_told(void **state)
{
    struct fake *f;
    struct answer *a = mem_new(1, sizeof *a);
    struct moed_engine_stats st;
    bool on_device;
    struct moed_engine *e = open_fake(&(struct fake_config){.samples = true, .no_eos = true}, &f);
    f->fail_sampled = 5;
    ask(e, request_number(1, a, &on_device));
    assert_int_equal(a->error.code, MOED_EDEVICE);
    assert_int_equal(a->n[0], 4);
    moed_engine_stats(e, &st);
    assert_true(st.failed);
    moed_engine_close(&e);
    free(a);
}

static void count_calls(void *user, void *request_user, int32_t choice, int32_t position,
                        const float *logits, int32_t vocab)
{
    ++*(int *)user;
}

/* Who looks at logits gets them. */
static void a_hook_keeps_sampling_on_the_cpu(void **state)
{
    struct engine_setup setup;
    struct moed_engine *e;
    struct moed_error err;
    struct moed_engine_stats st;
    struct answer *a = mem_new(1, sizeof *a);
    bool on_device;
    int calls = 0;
    struct fake *f = fake_setup(&setup, &(struct fake_config){.samples = true, .no_eos = true});
    setup.hook = count_calls;
    setup.hook_user = &calls;
    assert_ok(engine_start(&e, &setup, &err), &err);
    ask(e, request_number(1, a, &on_device));
    settled(e, &st);
    assert_int_equal(f->sampled, 0);
    assert_int_equal(st.sampled_cpu, TOKENS);
    assert_int_equal(calls, TOKENS);
    moed_engine_close(&e);
    free(a);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_do_not_tell_who_sampled_them),
    cmocka_unit_test(a_request_may_change_sides),
    cmocka_unit_test(no_finite_logit_ends_the_request),
    cmocka_unit_test(a_device_that_fails_in_sampling_is_told),
    cmocka_unit_test(a_hook_keeps_sampling_on_the_cpu),
};
CHECK_MAIN(tests)
