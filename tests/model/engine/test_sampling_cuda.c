/* A whole engine on a CUDA device: the same tokens whether the device samples or the CPU does. */
#include "answers.h"
#include "gpu.h"

#include "base/log.h"
#include "engine/backend.h"

enum { N = 16, PROMPT = 6, NEW = 4 };

static struct moed_request *request(int i, struct answer *a)
{
    static const float temperature[] = {0, 0.7f, 1, 3}, top_p[] = {1, 0.9f, 0.5f};
    static const int32_t top_k[] = {0, 1, 4, 30};
    int32_t prompt[PROMPT];
    for (int k = 0; k < PROMPT; k++)
        prompt[k] = (i * 5 + k * 7 + 1) % 48;
    struct moed_request *r = request_of(prompt, PROMPT, NEW, a);
    struct moed_sampling *s = &r->sampling;
    s->ignore_eos = true;
    s->temperature = temperature[i % 4];
    s->top_k = top_k[i * 3 / 4 % 4];
    s->top_p = top_p[i % 3];
    s->min_p = i % 7 == 3 ? 0.05f : 0;
    s->logprobs = i % 11 == 5 ? 1 : -1;
    s->presence_penalty = i % 13 == 6 ? 0.5f : 0;
    s->seed = (uint64_t)i;
    s->has_seed = true;
    r->n = i % 6 == 1 ? 3 : 1;
    return r;
}

static void look_away(void *user, void *request_user, int32_t choice, int32_t position,
                      const float *logits, int32_t vocab)
{
}

static struct answer *run(const char *model, engine_logits_hook hook, struct moed_engine_stats *st)
{
    struct moed_error err;
    struct moed_outbox *box;
    struct moed_engine *e;
    char path[128], dir[1024];
    snprintf(path, sizeof path, "tests/data/models/%s", model);
    snprintf(dir, sizeof dir, "%s", repo_path(path));
    struct moed_engine_config cfg = {
        .model_dir = dir, .device = "cuda", .expert_cache_bytes = 40960, .max_num_seqs = 16};
    struct answer *a = mem_new(N, sizeof *a);
    log_setup(LOG_ERROR_LEVEL, LOG_FORMAT_TEXT);
    assert_ok(engine_open_hooked(&e, &cfg, hook, NULL, &err), &err);
    assert_ok(moed_outbox_open(&box, &err), &err);
    for (int i = 0; i < N; i++) {
        uint64_t handle;
        struct moed_request *r = request(i, &a[i]);
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
        if (i % 4 == 3)
            assert_true(answers_wait(box, 4));
    }
    moed_outbox_close(&box);
    settled(e, st);
    moed_engine_close(&e);
    return a;
}

static void tokens_do_not_tell_who_sampled_them_cuda(void **state)
{
    static const char *const models[] = {"mixtral_top1"};
    struct dev_choice choice;
    cuda_or_skip(&choice);
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        struct moed_engine_stats cpu, device;
        struct answer *want = run(models[m], look_away, &cpu), *got = run(models[m], NULL, &device);
        assert_int_equal(cpu.sampled_device, 0);
        assert_true(device.sampled_device > device.sampled_cpu && device.sampled_cpu > 0);
        assert_int_equal(device.sampled_device + device.sampled_cpu, cpu.sampled_cpu);
        for (int i = 0; i < N; i++) {
            assert_int_equal(got[i].error.code, 0);
            assert_memory_equal(got[i].n, want[i].n, sizeof got[i].n);
            if (memcmp(got[i].tokens, want[i].tokens, sizeof got[i].tokens))
                fail_msg("%s: other tokens in request %d", models[m], i);
        }
        free(want);
        free(got);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_do_not_tell_who_sampled_them_cuda),
};
CHECK_MAIN(tests)
