/* Tokens that the device samples against those of the CPU's sampler from the same pass's logits. */
#include "check.h"

#include "base/mem.h"
#include "support_model.h"

enum { TOKENS = 24, ROWS = 16 };

static bool sampling_fails;

/* kern_sample on memory that the host can read. */
static int sample_on_host(struct dev *dev, const struct kern_sample *a)
{
    void *scratch = mem_new(kern_sample_cpu_scratch_bytes(a->vocab), 1);
    bool greedy = true;
    for (int i = 0; i < a->n; i++) {
        greedy &= a->row[i].temperature == 0 || a->row[i].top_k == 1;
        a->token[i] = kern_sample_cpu(a->logits + (size_t)i * (size_t)a->vocab, a->vocab,
                                      &a->row[i], scratch);
    }
    free(scratch);
    assert_int_equal(a->general, !greedy);
    assert_non_null(a->scratch);
    return sampling_fails ? MOED_EDEVICE : 0;
}

/* The CPU as a device with memory of its own that can sample. */
static void apart(struct dev *dev)
{
    static struct dev_ops ops;
    static struct dev_kern kern;
    ops = *dev->ops;
    kern = *dev->kern;
    ops.uses_host_memory = false;
    kern.sample = sample_on_host;
    dev->ops = &ops;
    dev->kern = &kern;
}

static struct kern_sample_row params_of(int i)
{
    static const float temperature[] = {0, 0.7f, 1, 5}, top_p[] = {1, 0.9f, 0.4f};
    static const int32_t top_k[] = {0, 1, 5, 1000};
    return (struct kern_sample_row){.seed = 11,
                                    .position = (uint64_t)i,
                                    .top_k = top_k[i / 4 % 4],
                                    .temperature = temperature[i % 4],
                                    .top_p = top_p[i % 3],
                                    .min_p = i % 5 ? 0 : 0.02f};
}

static void begin(struct rig *r)
{
    static int32_t token[TOKENS], pos[TOKENS], seq[TOKENS];
    static struct model_seq seqs[1];
    struct moed_error err;
    for (int32_t i = 0; i < TOKENS; i++) {
        token[i] = (i * 7 + 1) % r->c.vocab_size;
        pos[i] = i;
    }
    rig_add(r, token, TOKENS);
    seqs[0].block_table = r->seq[0].block;
    struct model_batch batch = {
        .n_rows = TOKENS, .token = token, .pos = pos, .seq = seq, .n_seqs = 1, .seqs = seqs};
    assert_ok(model_pass_begin(r->m, MODEL_STEP, &batch, &err), &err);
    assert_ok(model_pass_run(r->m, MODEL_STEP, r->c.n_layers, &err), &err);
}

/* recorded: the pass must be a replay, its logits too. */
static void compare(const struct rig_options *o, bool recorded)
{
    struct rig r;
    struct moed_error err;
    int32_t rows[ROWS], token[ROWS];
    struct kern_sample_row params[ROWS];
    rig_open(&r, o);
    assert_true(model_can_sample(r.m));
    begin(&r);
    size_t vocab = (size_t)r.c.vocab_size;
    float *logits = mem_new(ROWS * vocab, sizeof *logits);
    void *scratch = mem_new(kern_sample_cpu_scratch_bytes(r.c.vocab_size), 1);
    for (int turn = 0; turn < 12; turn++) {
        int32_t n = 1 + turn * 5 % ROWS;
        for (int32_t i = 0; i < n; i++) {
            rows[i] = (turn + i * 5) % TOKENS;
            params[i] = params_of(turn % 3 ? turn * ROWS + i : 0);
        }
        assert_ok(model_pass_sample(r.m, MODEL_STEP, rows, n, params, token, &err), &err);
        assert_ok(model_pass_logits(r.m, MODEL_STEP, rows, n, logits, &err), &err);
        for (int32_t i = 0; i < n; i++)
            assert_int_equal(token[i], kern_sample_cpu(logits + (size_t)i * vocab, r.c.vocab_size,
                                                       &params[i], scratch));
    }
    model_pass_end(r.m, MODEL_STEP);
    struct model_stats st;
    model_stats(r.m, &st);
    assert_true(recorded ? st.seconds_recorded > 0 : st.seconds_recorded == 0);
    free(logits);
    free(scratch);
    rig_close(&r);
}

static struct rig_options options(void)
{
    return (struct rig_options){.dir = repo_path("tests/data/models/qwen3_moe_mixed")};
}

static void tokens_are_those_of_the_logits(void **state)
{
    struct rig_options o = options();
    o.alter = apart;
    compare(&o, false);
}

static void tokens_are_those_of_the_logits_cuda(void **state)
{
    struct rig_options o = options();
    o.cuda = true;
    compare(&o, false);
    o.dir = repo_path("tests/data/models/mixtral_top1");
    o.pager = (struct pager_config){.mode = PAGER_CACHED, .cache_bytes = 40960};
    compare(&o, true);
}

static void wrong_rows_and_a_failing_device_are_told(void **state)
{
    struct rig r;
    struct moed_error err;
    struct rig_options o = options();
    int32_t rows[65] = {0}, token[65];
    struct kern_sample_row params[65] = {{0}};
    o.alter = apart;
    rig_open(&r, &o);
    begin(&r);
    assert_int_equal(model_pass_sample(r.m, MODEL_STEP, rows, 0, params, token, &err), MOED_EINVAL);
    assert_int_equal(model_pass_sample(r.m, MODEL_STEP, rows, 65, params, token, &err),
                     MOED_EINVAL);
    rows[1] = TOKENS;
    assert_int_equal(model_pass_sample(r.m, MODEL_STEP, rows, 2, params, token, &err), MOED_EINVAL);
    sampling_fails = true;
    int rc = model_pass_sample(r.m, MODEL_STEP, rows, 1, params, token, &err);
    sampling_fails = false;
    assert_int_equal(rc, MOED_EDEVICE);
    assert_non_null(strstr(err.text, "sampling"));
    model_pass_end(r.m, MODEL_STEP);
    rig_close(&r);
}

static void the_cpu_samples_elsewhere(void **state)
{
    struct rig r;
    struct rig_options o = options();
    rig_open(&r, &o);
    assert_false(model_can_sample(r.m));
    rig_close(&r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_are_those_of_the_logits),
    cmocka_unit_test(tokens_are_those_of_the_logits_cuda),
    cmocka_unit_test(wrong_rows_and_a_failing_device_are_told),
    cmocka_unit_test(the_cpu_samples_elsewhere),
};
CHECK_MAIN(tests)
