/*
 * Faults of a CUDA device and of the threads beside it: a worker of misses that stalls costs a step
 * and no bit; a launch that fails is the end of the device, said by every call that follows. The
 * same at the engine: a request outlives the first, and hears of the second once.
 */
#include <stdatomic.h>
#include <unistd.h>

#include "answers.h"
#include "device/misses_int.h"
#include "engine/backend.h"
#include "gpu.h"
#include "support_model.h"

/* The emulator's clock takes 16 times as long (tests/emulator/emulator.h). */
#define PATIENCE_US(emulated) ((emulated) ? 3000000 / 16 : 3000000)
/* What a stalled worker stays away for after the device has given its job up. */
#define LATE_US   100000
#define LONG_ROWS 96
#define VOCAB     101

static struct model_config config(void)
{
    return (struct model_config){.family = MODEL_QWEN3_MOE,
                                 .architecture = "Qwen3MoeForCausalLM",
                                 .vocab_size = VOCAB,
                                 .hidden = 96,
                                 .n_layers = 3,
                                 .n_heads = 4,
                                 .n_kv_heads = 2,
                                 .head_dim = 64,
                                 .intermediate = 72,
                                 .max_position = 256,
                                 .rms_eps = 1e-6f,
                                 .rope_theta = 1e4,
                                 .qk_norm = true,
                                 .n_experts = 8,
                                 .top_k = 2,
                                 .moe_intermediate = 40,
                                 .norm_topk = true,
                                 .moe_layer = {true, false, true},
                                 .dtype = DTYPE_BF16,
                                 .bos = -1};
}

/* The next jobs stall until the device gives them up, one for each that is ordered. */
struct stalls {
    _Atomic int ordered, done;
    const struct mailbox *mailbox;
};

static void stall(void *arg, int thread, uint32_t job, bool down)
{
    struct stalls *s = arg;
    int left = down ? 0 : atomic_load(&s->ordered);
    while (left > 0 && !atomic_compare_exchange_weak(&s->ordered, &left, left - 1))
        ;
    if (left <= 0)
        return;
    while (__atomic_load_n(&s->mailbox->abandon, __ATOMIC_ACQUIRE) != job)
        usleep(1000);
    usleep(LATE_US);
    atomic_fetch_add(&s->done, 1);
}

/* stalls NULL: nobody stalls, and the device waits as long as it does elsewhere. Steps of one row
 * are fused where all layers have experts. */
static void open_rig(struct rig *r, struct model_config *c, struct stalls *stalls)
{
    struct dev_choice choice;
    cuda_or_skip(&choice);
    int64_t patience_us = PATIENCE_US(cuda_emulated(&choice));
    rig_open(r, &(struct rig_options){.dummy = c,
                                      .kv_dtype = DTYPE_BF16,
                                      .cuda = true,
                                      .fused = c->moe_layer[1],
                                      .max_rows = LONG_ROWS,
                                      .long_rows = LONG_ROWS,
                                      .pager = {.mode = PAGER_CACHED, .staging_slots = 3},
                                      .miss_threads = 1,
                                      .miss_patience_us = stalls ? patience_us : 0,
                                      .on_miss = stalls ? stall : NULL,
                                      .on_miss_arg = stalls});
    if (stalls)
        stalls->mailbox = model_misses(r->m)->cfg.mailbox;
    assert_true(!c->moe_layer[1] || model_fused_context(r->m) > 0);
}

/* No launch of a real device fails when it is told to: skipped there. */
static void fail_launch(unsigned n)
{
    void (*order)(unsigned);
    void *symbol = emulator_symbol_or_skip("emulator_fail_launch");
    memcpy(&order, &symbol, sizeof order);
    order(n);
}

static void skip_without_faults(void)
{
    struct dev_choice choice;
    cuda_or_skip(&choice);
    fail_launch(0);
}

/* A pass over rows [0, n) of a sequence. */
struct pass {
    int32_t token[LONG_ROWS], pos[LONG_ROWS], seq[LONG_ROWS], block[8], row[1];
    struct model_seq seqs[1];
    struct model_batch batch;
    float logits[VOCAB];
};

static void make_pass(struct pass *p, int32_t n)
{
    *p = (struct pass){.row = {n - 1}};
    for (int32_t i = 0; i < LONG_ROWS; i++) {
        p->token[i] = (i * 37 + 5) % VOCAB;
        p->pos[i] = i;
    }
    for (int32_t i = 0; i < 8; i++)
        p->block[i] = 20 - 2 * i;
    p->seqs[0].block_table = p->block;
    p->batch = (struct model_batch){n, p->token, p->pos, p->seq, 1, p->seqs, NULL};
}

static int run_pass(struct rig *r, struct pass *p, enum model_lane lane, bool samples,
                    struct moed_error *err)
{
    const struct kern_sample_row params = {.temperature = 1, .top_p = 1, .seed = 7};
    int32_t token;
    int rc = model_pass_begin(r->m, lane, &p->batch, err);
    if (rc < 0)
        return rc;
    rc = model_pass_run(r->m, lane, r->c.n_layers, err);
    if (rc == 0 && samples)
        rc = model_pass_sample(r->m, lane, p->row, 1, &params, &token, err);
    else if (rc == 0)
        rc = model_pass_logits(r->m, lane, p->row, 1, p->logits, err);
    int end = model_pass_end(r->m, lane);
    struct pager_info info;
    pager_info(model_pager(r->m), &info);
    assert_int_equal(info.leases_out, 0);
    return rc < 0 ? rc : end;
}

static void stalled_worker(struct model_config *c, int32_t rows)
{
    struct stalls stalls = {0};
    struct moed_error err = {0};
    struct pass want, got;
    struct rig r;
    make_pass(&want, rows);
    open_rig(&r, c, NULL);
    assert_ok(run_pass(&r, &want, MODEL_STEP, false, &err), &err);
    rig_close(&r);
    make_pass(&got, rows);
    open_rig(&r, c, &stalls);
    for (int round = 0; round < 2; round++) {
        atomic_store(&stalls.ordered, 1);
        assert_int_equal(run_pass(&r, &got, MODEL_STEP, false, &err), MOED_ETIMEDOUT);
        assert_int_equal(err.code, MOED_ETIMEDOUT);
        assert_int_equal(atomic_load(&stalls.done), round + 1);
        int rc = MOED_ETIMEDOUT;
        /* A machine with more to do may be late once more, of itself. */
        for (int again = 0; again < 5 && rc == MOED_ETIMEDOUT; again++)
            rc = run_pass(&r, &got, MODEL_STEP, false, &err);
        assert_ok(rc, &err);
        assert_memory_equal(got.logits, want.logits, sizeof want.logits);
    }
    rig_close(&r);
}

static void a_stalled_worker_costs_a_step_and_no_bit_cuda(void **state)
{
    struct model_config c = config();
    stalled_worker(&c, 1);
    stalled_worker(&c, 5);
}

static void a_stalled_worker_costs_a_fused_step_and_no_bit_cuda(void **state)
{
    struct model_config c = config();
    c.head_dim = 128;
    c.moe_layer[1] = true;
    stalled_worker(&c, 1);
}

/* What every later call of a device that has failed must say. */
static void says_so(struct rig *r, struct pass *p)
{
    struct moed_error err = {0};
    struct dev_event event = {0};
    struct dev *dev = r->dev;
    for (int i = 0; i < 2; i++) {
        err.text[0] = 0;
        assert_int_equal(run_pass(r, p, i ? MODEL_LONG : MODEL_STEP, false, &err), MOED_EDEVICE);
        assert_int_equal(err.code, MOED_EDEVICE);
        assert_non_null(strstr(err.text, "the device failed in"));
    }
    assert_null(dev->ops->alloc(dev, 64));
    assert_int_equal(dev->kern->sync(dev), MOED_EDEVICE);
    assert_int_equal(dev->ops->copy_in(dev, dev, dev, 4, &event), MOED_EDEVICE);
    assert_int_equal(dev->ops->event_mark(dev, &event), MOED_EDEVICE);
}

/* The n-th launch of a pass fails, for all n until the pass has fewer. */
static void every_launch_may_fail(int32_t rows, enum model_lane lane, bool samples, unsigned step,
                                  unsigned least)
{
    struct model_config c = config();
    struct moed_error err = {0};
    unsigned n = 1;
    skip_without_faults();
    for (;; n += step) {
        struct pass p;
        struct rig r;
        make_pass(&p, rows);
        open_rig(&r, &c, NULL);
        fail_launch(n);
        int rc = run_pass(&r, &p, lane, samples, &err);
        fail_launch(0);
        if (rc == 0) {
            rig_close(&r);
            break;
        }
        assert_int_equal(rc, MOED_EDEVICE);
        assert_int_equal(err.code, MOED_EDEVICE);
        says_so(&r, &p);
        rig_close(&r);
    }
    if (n <= least)
        fail_msg("launch %u of a pass did not fail it", n);
}

/* Layers, logits; the plan is sent by copies or launches. */
static void a_launch_fails_in_a_recorded_step_cuda(void **state)
{
    every_launch_may_fail(3, MODEL_STEP, false, 1, 2);
}

static void a_launch_fails_in_a_long_pass_cuda(void **state)
{
    every_launch_may_fail(LONG_ROWS, MODEL_LONG, false, 9, 30);
}

static void a_launch_fails_in_sampling_cuda(void **state)
{
    every_launch_may_fail(3, MODEL_STEP, true, 1, 4);
}

/* An engine over the rig's model. */

static int b_begin(void *self, enum model_lane lane, const struct model_batch *batch,
                   struct moed_error *err)
{
    return model_pass_begin(((struct rig *)self)->m, lane, batch, err);
}

static int b_run(void *self, enum model_lane lane, int32_t layer_end, struct moed_error *err)
{
    return model_pass_run(((struct rig *)self)->m, lane, layer_end, err);
}

static int b_logits(void *self, enum model_lane lane, const int32_t *rows, int32_t n, float *logits,
                    struct moed_error *err)
{
    return model_pass_logits(((struct rig *)self)->m, lane, rows, n, logits, err);
}

static int b_sample(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                    const struct kern_sample_row *params, int32_t *token, struct moed_error *err)
{
    return model_pass_sample(((struct rig *)self)->m, lane, rows, n, params, token, err);
}

static void b_drop(void *self, enum model_lane lane, int32_t seq)
{
    model_pass_drop(((struct rig *)self)->m, lane, seq);
}

static int b_end(void *self, enum model_lane lane)
{
    return model_pass_end(((struct rig *)self)->m, lane);
}

static struct moed_engine *start(struct rig *r)
{
    struct moed_engine *e;
    struct moed_error err;
    struct engine_setup setup = {
        .backend = {.self = r,
                    .begin = b_begin,
                    .run = b_run,
                    .logits = b_logits,
                    .sample = b_sample,
                    .drop = b_drop,
                    .end = b_end,
                    .pager = model_pager(r->m),
                    .misses = model_misses(r->m)},
        .sched = {.max_seqs = 4,
                  .max_batched_tokens = 32,
                  .long_prefill_tokens = LONG_ROWS,
                  .max_queue = 16,
                  .max_model_len = 200,
                  .kv_blocks = 100},
        .max_logits = 8,
        .info = {.vocab_size = VOCAB, .n_layers = r->c.n_layers, .max_model_len = 200},
    };
    assert_ok(engine_start(&e, &setup, &err), &err);
    return e;
}

enum { REQUESTS = 3, NEW_TOKENS = 6 };

/* One prompt is long enough for a pass of its own. */
static void submit(struct moed_engine *e, struct moed_outbox *box, struct answer *answer,
                   int32_t new_tokens)
{
    static const int32_t sizes[REQUESTS] = {4, 90, 9};
    struct moed_error err;
    for (int i = 0; i < REQUESTS; i++) {
        int32_t prompt[LONG_ROWS];
        uint64_t handle;
        for (int k = 0; k < sizes[i]; k++)
            prompt[k] = (k * 13 + i * 29 + 3) % VOCAB;
        struct moed_request *r = request_of(prompt, (size_t)sizes[i], new_tokens, &answer[i]);
        r->sampling.ignore_eos = true;
        assert_ok(moed_submit(e, &r, box, &handle, &err), &err);
    }
}

static void wait_all(struct moed_outbox *box, const struct answer *answer)
{
    int64_t until = clock_us() + 100000000;
    for (int ended = 0; ended < REQUESTS && clock_us() < until;) {
        answers_wait(box, 1);
        ended = 0;
        for (int i = 0; i < REQUESTS; i++)
            ended += answer[i].ended;
    }
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(answer[i].ended, 1);
}

static struct answer *run_engine(struct model_config *c, struct stalls *stalls,
                                 struct moed_engine_stats *st)
{
    struct answer *answer = mem_new(REQUESTS, sizeof *answer);
    struct moed_outbox *box;
    struct moed_error err;
    struct rig r;
    open_rig(&r, c, stalls);
    if (stalls)
        atomic_store(&stalls->ordered, 1);
    struct moed_engine *e = start(&r);
    assert_ok(moed_outbox_open(&box, &err), &err);
    submit(e, box, answer, NEW_TOKENS);
    wait_all(box, answer);
    moed_outbox_close(&box);
    settled(e, st);
    moed_engine_close(&e);
    rig_close(&r);
    return answer;
}

static void a_request_outlives_a_stalled_worker_cuda(void **state)
{
    struct model_config c = config();
    struct stalls stalls = {0};
    struct moed_engine_stats calm, st;
    struct answer *want = run_engine(&c, NULL, &calm), *got = run_engine(&c, &stalls, &st);
    assert_int_equal(calm.pass_timeouts, 0);
    assert_true(st.pass_timeouts > 0 && st.pass_retries > 0);
    assert_true(calm.miss_jobs > 0 && calm.miss_bytes > 0 && calm.miss_experts >= calm.miss_jobs);
    assert_true(calm.miss_failures == 0 && st.miss_failures > 0);
    assert_int_equal(atomic_load(&stalls.done), 1);
    assert_false(st.failed);
    for (int i = 0; i < REQUESTS; i++) {
        assert_int_equal(got[i].error.code, 0);
        assert_int_equal(got[i].n[0], NEW_TOKENS);
        assert_memory_equal(got[i].tokens[0], want[i].tokens[0], NEW_TOKENS * sizeof(int32_t));
    }
    free(want);
    free(got);
}

static void a_failed_device_is_told_to_every_request_once_cuda(void **state)
{
    struct model_config c = config();
    struct answer *answer = mem_new(REQUESTS, sizeof *answer), late = {0};
    struct moed_engine_stats st;
    struct moed_outbox *box;
    struct moed_error err;
    const int32_t prompt[] = {1, 2};
    uint64_t handle;
    struct rig r;
    skip_without_faults();
    open_rig(&r, &c, NULL);
    struct moed_engine *e = start(&r);
    assert_ok(moed_outbox_open(&box, &err), &err);
    submit(e, box, answer, 100);
    fail_launch(40);
    wait_all(box, answer);
    for (int i = 0; i < REQUESTS; i++)
        assert_int_equal(answer[i].error.code, MOED_EDEVICE);
    settled(e, &st);
    assert_true(st.failed);
    assert_int_equal(st.requests_failed, REQUESTS);
    struct moed_request *q = request_of(prompt, 2, 1, &late);
    assert_int_equal(moed_submit(e, &q, box, &handle, &err), MOED_EDEVICE);
    moed_request_free(&q);
    assert_null(moed_outbox_next(box));
    moed_outbox_close(&box);
    moed_engine_close(&e);
    rig_close(&r);
    free(answer);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_stalled_worker_costs_a_step_and_no_bit_cuda),
    cmocka_unit_test(a_stalled_worker_costs_a_fused_step_and_no_bit_cuda),
    cmocka_unit_test(a_launch_fails_in_a_recorded_step_cuda),
    cmocka_unit_test(a_launch_fails_in_a_long_pass_cuda),
    cmocka_unit_test(a_launch_fails_in_sampling_cuda),
    cmocka_unit_test(a_request_outlives_a_stalled_worker_cuda),
    cmocka_unit_test(a_failed_device_is_told_to_every_request_once_cuda),
};
CHECK_MAIN(tests)
