/*
 * The same tokens and the same bits of logits for a request, however it runs: alone, in a crowd,
 * chunked, preempted, on a known prefix, with other threads, instruction sets and expert caches.
 */
#include "support_real.h"

#include "engine/plan.h"

enum { N = 6, NEW = 40 };

struct way {
    const char *name;
    struct moed_engine_config cfg;
    bool alone;    /* one request at a time */
    bool again;    /* everything twice: the second time on known prefixes */
    bool preempts; /* must have preempted */
    bool pauses;   /* must have paused long passes */
};

static void prompt_of(int32_t *prompt, int32_t n, int32_t which)
{
    for (int32_t i = 0; i < n; i++)
        prompt[i] = i < 24 ? (i * 7 + 3) % 48 : (i * i + which * 5 + 1) % 48;
    prompt[n - 1] = which;
}

static struct moed_request *request(int32_t which, struct seen *s)
{
    int32_t prompt[REAL_CONTEXT], n = 20 + which * 8;
    prompt_of(prompt, n, which);
    struct moed_request *r = request_of(prompt, (size_t)n, NEW, &s->answer);
    r->sampling.ignore_eos = true;
    r->n = which == 2 ? 3 : 1;
    if (which % 2 == 0) {
        r->sampling.temperature = 0.9f;
        r->sampling.top_p = 0.95f;
        r->sampling.seed = (uint64_t)which;
        r->sampling.has_seed = true;
    }
    return r;
}

static void submit_all(struct moed_engine *e, struct seen *s, bool alone)
{
    struct moed_error err;
    struct moed_outbox *box;
    assert_ok(moed_outbox_open(&box, &err), &err);
    for (int32_t i = 0; i < N; i++) {
        struct moed_request *r = request(i, &s[i]);
        uint64_t handle;
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
        if (alone)
            assert_true(answers_wait(box, 1));
    }
    assert_true(alone || answers_wait(box, N));
    moed_outbox_close(&box);
}

static void check_same(const struct way *w, const struct seen *want, const struct seen *got)
{
    for (int32_t i = 0; i < N; i++) {
        int32_t choices = i == 2 ? 3 : 1;
        assert_int_equal(got[i].answer.error.code, 0);
        assert_int_equal(got[i].n_hashes, choices * NEW);
        for (int32_t c = 0; c < choices; c++) {
            assert_int_equal(got[i].answer.n[c], NEW);
            if (memcmp(got[i].answer.tokens[c], want[i].answer.tokens[c], NEW * sizeof(int32_t)))
                fail_msg("%s: other tokens in request %d", w->name, i);
            if (memcmp(got[i].hash[c], want[i].hash[c], sizeof want[i].hash[c]))
                fail_msg("%s: other logits in request %d", w->name, i);
        }
    }
}

static void run_way(const char *dir, const struct way *w, const struct seen *want, struct seen *got)
{
    struct moed_engine_config cfg = w->cfg;
    struct moed_engine_stats st;
    cfg.model_dir = dir;
    struct moed_engine *e = real_open(&cfg);
    for (int round = 0; round <= (int)w->again; round++) {
        memset(got, 0, N * sizeof *got);
        submit_all(e, got, w->alone);
        if (want)
            check_same(w, want, got);
    }
    settled(e, &st);
    assert_true(!w->pauses || st.long_pauses > 0);
    assert_true(!w->preempts || st.preemptions > 0);
    assert_true(!w->again || st.cached_tokens > 100);
    assert_true(!cfg.no_prefix_cache || st.cached_tokens == 0);
    moed_engine_close(&e);
}

/* Each way with records of this class; the reference has plain ones. */
static void every_way(const char *model, const char *records)
{
    char dir[1024], path[128];
    snprintf(path, sizeof path, "tests/data/models/%s", model);
    snprintf(dir, sizeof dir, "%s", repo_path(path));
    /* In place, one request at a time, nothing reused, one thread, plain code: the reference. */
    const struct way reference = {.name = "alone",
                                  .cfg = {.expert_cache_bytes = -1,
                                          .threads = 1,
                                          .isa = "scalar",
                                          .no_prefix_cache = true,
                                          .expert_records = "plain"},
                                  .alone = true};
    const struct way ways[] = {
        {.name = "crowd", .cfg = {.expert_cache_bytes = -1, .threads = 2}},
        {.name = "alone on known prefixes",
         .cfg = {.expert_cache_bytes = -1, .threads = 3},
         .alone = true,
         .again = true},
        {.name = "small chunks",
         .cfg =
             {.expert_cache_bytes = -1, .threads = 2, .max_num_seqs = 3, .max_batched_tokens = 7}},
        {.name = "few blocks",
         .cfg = {.expert_cache_bytes = -1, .threads = 2, .kv_cache_bytes = 1},
         .again = true,
         .preempts = true},
        {.name = "no slots", .cfg = {.expert_cache_bytes = 0, .threads = 2}},
        {.name = "some slots", .cfg = {.expert_cache_bytes = 20480, .threads = 2}, .again = true},
        {.name = "staging",
         .cfg = {.expert_cache_bytes = 40960, .threads = 2, .stage_min_rows = 2},
         .again = true},
        {.name = "long passes that pause at each layer",
         .cfg = {.expert_cache_bytes = -1,
                 .threads = 2,
                 .max_num_seqs = 16,
                 .max_batched_tokens = 16,
                 .long_prefill_tokens = 40,
                 .target_itl_ms = 0.001},
         .again = true,
         .pauses = true},
        {.name = "long passes over few slots and blocks",
         .cfg = {.expert_cache_bytes = 20480,
                 .threads = 2,
                 .max_num_seqs = 3,
                 .max_batched_tokens = 5,
                 .long_prefill_tokens = 100,
                 .target_itl_ms = 0.001,
                 .kv_cache_bytes = 1},
         .again = true,
         .pauses = true},
        {.name = "lru", .cfg = {.expert_cache_bytes = 20480, .threads = 2, .expert_policy = "lru"}},
    };
    struct seen *want = mem_new(N, sizeof *want), *got = mem_new(N, sizeof *got);
    run_way(dir, &reference, NULL, want);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct way w = ways[i];
        w.cfg.expert_records = records;
        if (w.cfg.kv_cache_bytes) {
            /* Room for one sequence of full length and a little more. */
            struct engine_plan plan;
            struct moed_error err;
            struct moed_engine_config cfg = {.model_dir = dir, .expert_cache_bytes = -1};
            assert_ok(engine_plan_model(&plan, NULL, &cfg, &err), &err);
            w.cfg.kv_cache_bytes = plan.memory.kv_block_bytes * 10;
        }
        run_way(dir, &w, want, got);
    }
    free(want);
    free(got);
}

static void qwen3_moe_with_dense_layers(void **state)
{
    every_way("qwen3_moe_mixed", "auto");
}

static void mixtral_with_sliding_window(void **state)
{
    every_way("mixtral_window", "auto");
}

static void qwen3_moe_with_64_experts(void **state)
{
    every_way("qwen3_moe_64e", "auto");
}

static void mixtral_in_packed_records(void **state)
{
    every_way("mixtral_top1", "packed");
}

static void llama_without_experts(void **state)
{
    every_way("llama_rope3_bias", "auto");
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(qwen3_moe_with_dense_layers), cmocka_unit_test(mixtral_with_sliding_window),
    cmocka_unit_test(qwen3_moe_with_64_experts),   cmocka_unit_test(mixtral_in_packed_records),
    cmocka_unit_test(llama_without_experts),
};
CHECK_MAIN(tests)
