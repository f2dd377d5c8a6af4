/*
 * The sampler of the CUDA device against the rule on the CPU: the same tokens. Without a GPU the
 * tests are skipped.
 */
#include "gpu.h"

#include "support_sample.h"

#define UNTOUCHED (-77)
#define MOST_ROWS 128

/* Buffers of one vocabulary, for any number of calls: scratch carries from call to call. */
struct bed {
    struct dev *dev;
    int rows, vocab;
    float *logits, *device_logits; /* [rows][vocab] */
    void *scratch;
    int32_t *token; /* [rows], shared */
    struct plan {
        int32_t live;
        struct kern_sample_row row[MOST_ROWS];
    } * plan; /* of recorded calls; NULL where the device records nothing */
};

static size_t logits_bytes(const struct bed *b)
{
    return (size_t)b->rows * (size_t)b->vocab * sizeof(float);
}

static void bed_open(struct bed *b, struct dev *dev, int rows, int vocab)
{
    *b = (struct bed){.dev = dev, .rows = rows, .vocab = vocab};
    b->logits = malloc(logits_bytes(b));
    b->device_logits = dev->ops->alloc(dev, logits_bytes(b));
    b->scratch = dev->ops->alloc(dev, kern_sample_scratch_bytes(rows, vocab));
    b->token = dev->ops->alloc_shared(dev, (size_t)rows * sizeof *b->token);
    b->plan = dev->step ? dev->step->plan_alloc(dev, sizeof *b->plan) : NULL;
    assert_true(b->logits && b->device_logits && b->scratch && b->token);
    assert_true(rows <= MOST_ROWS && (b->plan || !dev->step));
}

static void bed_close(struct bed *b)
{
    b->dev->ops->free(b->dev, b->device_logits, logits_bytes(b));
    b->dev->ops->free(b->dev, b->scratch, kern_sample_scratch_bytes(b->rows, b->vocab));
    b->dev->ops->free_shared(b->dev, b->token, (size_t)b->rows * sizeof *b->token);
    if (b->plan)
        b->dev->step->plan_free(b->dev, b->plan);
    free(b->logits);
}

static void bed_send(struct bed *b)
{
    struct dev_event event = {0};
    assert_int_equal(
        b->dev->ops->copy_in(b->dev, b->device_logits, b->logits, logits_bytes(b), &event), 0);
    assert_int_equal(b->dev->ops->event_wait(b->dev, &event), 0);
}

static struct kern_sample call_of(const struct bed *b, const struct kern_sample_row *row, int n)
{
    return (struct kern_sample){.logits = b->device_logits,
                                .row = row,
                                .token = b->token,
                                .scratch = b->scratch,
                                .n = n,
                                .vocab = b->vocab,
                                .general = 1};
}

/* As a recorded step, of which rows from `live` on take no part. */
static int run_recorded(struct bed *b, struct kern_sample *a, int live)
{
    const struct dev_step *step = b->dev->step;
    struct dev_recorded *r;
    struct moed_error err;
    memcpy(b->plan->row, a->row, (size_t)a->n * sizeof *a->row);
    a->row = b->plan->row;
    b->plan->live = live;
    assert_int_equal(step->record_begin(b->dev), 0);
    step->live(b->dev, &b->plan->live);
    int rc = b->dev->kern->sample(b->dev, a);
    assert_ok(step->record_end(b->dev, &r, &err), &err);
    assert_int_equal(step->plan_send(b->dev, b->plan, sizeof *b->plan), 0);
    assert_int_equal(step->replay(b->dev, r), 0);
    assert_int_equal(b->dev->kern->sync(b->dev), 0);
    step->forget(b->dev, r);
    return rc;
}

/* live < 0: not recorded. Counts rows whose token is not the CPU's. */
static int check_call(struct bed *b, const struct kern_sample_row *row, int n, int live,
                      int general)
{
    struct kern_sample a = call_of(b, row, n);
    void *scratch = malloc(kern_sample_cpu_scratch_bytes(b->vocab));
    int bad = 0;
    a.general = general;
    live = b->plan ? live : -1;
    for (int i = 0; i < b->rows; i++)
        b->token[i] = UNTOUCHED;
    assert_int_equal(live < 0 ? b->dev->kern->sample(b->dev, &a) : run_recorded(b, &a, live), 0);
    assert_int_equal(b->dev->kern->sync(b->dev), 0);
    for (int i = 0; i < b->rows; i++) {
        bool counts = i < n && (live < 0 || i < live);
        const float *l = b->logits + (size_t)i * (size_t)b->vocab;
        int32_t want = counts ? kern_sample_cpu(l, b->vocab, &row[i], scratch) : UNTOUCHED;
        if (b->token[i] != want && bad++ < 4)
            print_message("row %d of %d (%d live), %d logits, temperature %g, top_k %d, top_p %g, "
                          "min_p %g: token %d, on the CPU %d\n",
                          i, n, live, b->vocab, (double)row[i].temperature, row[i].top_k,
                          (double)row[i].top_p, (double)row[i].min_p, b->token[i], want);
    }
    free(scratch);
    return bad;
}

/* small: of all sizes up to most_vocab, or of about that. */
static void compare(int beds, int calls, int most_rows, int most_vocab, bool small)
{
    struct dev *dev = cuda_open_or_skip();
    int bad = 0;
    for (int i = 0; i < beds; i++) {
        struct rng r = {(uint64_t)i + 1};
        struct bed b;
        struct kern_sample_row row[MOST_ROWS];
        int rows = rng_int(&r, 1, most_rows);
        bed_open(&b, dev, rows, small ? sample_vocab(&r, most_vocab) : most_vocab - i % 4);
        for (int c = 0; c < calls; c++) {
            int n = rng_int(&r, 1, b.rows), live = rng_int(&r, 0, 2) ? -1 : rng_int(&r, 0, n);
            bool general = rng_int(&r, 0, 4) > 0;
            for (int k = 0; k < b.rows; k++) {
                sample_logits(&r, rng_next(&r) >> 8, b.logits + (size_t)k * (size_t)b.vocab,
                              b.vocab);
                row[k] = sample_row(&r, b.vocab);
                if (!general && row[k].top_k != 1)
                    row[k].temperature = 0;
            }
            bed_send(&b);
            bad += check_call(&b, row, n, live, general);
        }
        bed_close(&b);
    }
    dev_close(&dev);
    if (bad)
        fail_msg("%d tokens differ", bad);
}

static void tokens_are_the_cpus_cuda(void **state)
{
    compare(60, 8, 9, 9000, true);
}

static void tokens_of_large_vocabularies_are_the_cpus_cuda(void **state)
{
    compare(2, 2, 3, 151936, false);
}

/* Every combination on one row of a real size. */
static void combinations_cuda(void **state)
{
    static const float temperature[] = {0, 0.5f, 1, 3}, top_p[] = {1, 0.95f, 0.3f};
    static const float min_p[] = {0, 0.05f};
    static const int top_k[] = {0, 1, 2, 40, 4000};
    struct kern_sample_row row[4 * 3 * 2 * 5];
    int n = 0, bad = 0;
    struct dev *dev = cuda_open_or_skip();
    struct rng r = {5};
    struct bed b;
    bed_open(&b, dev, 4 * 3 * 2 * 5, 5003);
    for (int t = 0; t < 4; t++)
        for (int p = 0; p < 3; p++)
            for (int m = 0; m < 2; m++)
                for (int k = 0; k < 5; k++, n++) {
                    row[n] = (struct kern_sample_row){.seed = 7,
                                                      .position = (uint64_t)n,
                                                      .top_k = top_k[k],
                                                      .temperature = temperature[t],
                                                      .top_p = top_p[p],
                                                      .min_p = min_p[m]};
                    for (int i = 0; i < b.vocab; i++)
                        b.logits[n * b.vocab + i] = rng_float(&r) * 3;
                }
    bed_send(&b);
    for (int again = 0; again < 3; again++) {
        for (int i = 0; i < n; i++)
            row[i].seed = rng_next(&r);
        bad += check_call(&b, row, n, -1, 1);
    }
    bed_close(&b);
    dev_close(&dev);
    assert_int_equal(bad, 0);
}

/* Equal logits by the thousand: more candidates than a list holds, above or below others. */
static void crowds_of_equal_logits_cuda(void **state)
{
    static const float top_p[] = {1, 0.5f, 0.9f, 0.99f};
    static const int top_k[] = {0, 100, 3000, 7000};
    static const uint64_t kinds[] = {1, 2, 6};
    enum { ROWS = 16 };
    struct kern_sample_row row[ROWS];
    struct dev *dev = cuda_open_or_skip();
    struct rng r = {6};
    struct bed b;
    int bad = 0;
    bed_open(&b, dev, ROWS, 9000);
    for (int turn = 0; turn < 6; turn++) {
        for (int i = 0; i < ROWS; i++) {
            sample_logits(&r, kinds[turn % 3], b.logits + i * b.vocab, b.vocab);
            row[i] = (struct kern_sample_row){.seed = rng_next(&r),
                                              .top_k = top_k[i / 4],
                                              .temperature = turn < 3 ? 1 : 0.5f,
                                              .top_p = top_p[i % 4]};
        }
        bed_send(&b);
        bad += check_call(&b, row, ROWS, -1, 1);
    }
    bed_close(&b);
    dev_close(&dev);
    assert_int_equal(bad, 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_are_the_cpus_cuda),
    cmocka_unit_test(tokens_of_large_vocabularies_are_the_cpus_cuda),
    cmocka_unit_test(combinations_cuda),
    cmocka_unit_test(crowds_of_equal_logits_cuda),
};
CHECK_MAIN(tests)
