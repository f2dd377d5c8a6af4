/*
 * The sampler of the CUDA device against the rule on the CPU: the same tokens. Without a GPU the
 * tests are skipped.
 */
#include "gpu.h"

#include <math.h>
#include <time.h>

#include "support_sample.h"

#define UNTOUCHED (-77)

/* Buffers of one vocabulary, for any number of calls: scratch carries from call to call. */
struct bed {
    struct dev *dev;
    int rows, vocab;
    float *logits, *device_logits; /* [rows][vocab] */
    void *scratch;
    int32_t *token, *live; /* [rows] and one word, shared */
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
    b->live = dev->ops->alloc_shared(dev, sizeof *b->live);
    assert_true(b->logits && b->device_logits && b->scratch && b->token && b->live);
}

static void bed_close(struct bed *b)
{
    b->dev->ops->free(b->dev, b->device_logits, logits_bytes(b));
    b->dev->ops->free(b->dev, b->scratch, kern_sample_scratch_bytes(b->rows, b->vocab));
    b->dev->ops->free_shared(b->dev, b->token, (size_t)b->rows * sizeof *b->token);
    b->dev->ops->free_shared(b->dev, b->live, sizeof *b->live);
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

/* live < 0: no such word. Counts rows whose token is not the CPU's. */
static int check_call(struct bed *b, const struct kern_sample_row *row, int n, int live,
                      int general)
{
    struct kern_sample a = call_of(b, row, n);
    void *scratch = malloc(kern_sample_cpu_scratch_bytes(b->vocab));
    int bad = 0;
    a.general = general;
    a.live = live >= 0 ? b->live : NULL;
    *b->live = live;
    for (int i = 0; i < b->rows; i++)
        b->token[i] = UNTOUCHED;
    assert_int_equal(b->dev->kern->sample(b->dev, &a), 0);
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
        struct kern_sample_row row[64];
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
    compare(40, 6, 9, 9000, true);
}

static void tokens_of_large_vocabularies_are_the_cpus_cuda(void **state)
{
    compare(2, 2, 3, 151936, false);
}

static void tokens_are_the_cpus_in_many_cases_cuda_deep(void **state)
{
    compare(300, 20, 64, 9000, true);
    compare(20, 10, 16, 262144, false);
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

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Says how long a call takes, launches included: no test, but seen in every run on a GPU. */
static void time_of_sampling_cuda(void **state)
{
    static const struct {
        const char *what;
        float temperature, top_p;
        int top_k;
        float spread;
    } kinds[] = {{"greedy", 0, 1, 0, 3},
                 {"temperature", 1, 1, 0, 3},
                 {"top_p 0.95", 1, 0.95f, 0, 3},
                 {"top_k 20, top_p 0.8", 0.7f, 0.8f, 20, 3},
                 {"top_p 0.9, flat", 1, 0.9f, 0, 0.01f},
                 {"top_k 5000", 1, 1, 5000, 3}};
    enum { VOCAB = 151936, ROWS = 32, CALLS = 20 };
    struct kern_sample_row row[ROWS];
    struct dev *dev = cuda_open_or_skip();
    struct rng r = {8};
    struct bed b;
    bed_open(&b, dev, ROWS, VOCAB);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (int i = 0; i < ROWS * VOCAB; i++)
            b.logits[i] = rng_float(&r) * kinds[k].spread;
        bed_send(&b);
        for (int i = 0; i < ROWS; i++)
            row[i] = (struct kern_sample_row){.seed = (uint64_t)i,
                                              .top_k = kinds[k].top_k,
                                              .temperature = kinds[k].temperature,
                                              .top_p = kinds[k].top_p};
        for (int n = 1; n <= ROWS; n *= 8) {
            struct kern_sample a = call_of(&b, row, n);
            a.general = kinds[k].temperature > 0;
            double took[2] = {1, 1};
            /* One call, and many without waiting: what a call costs behind others. */
            for (int turn = 0; turn < 5; turn++)
                for (int many = 0; many < 2; many++) {
                    double start = seconds();
                    for (int c = 0; c < (many ? CALLS : 1); c++)
                        assert_int_equal(dev->kern->sample(dev, &a), 0);
                    assert_int_equal(dev->kern->sync(dev), 0);
                    double t = (seconds() - start) / (many ? CALLS : 1);
                    took[many] = t < took[many] ? t : took[many];
                }
            print_message("%-20s %2d rows of %d: %6.1f us, in a queue %6.1f us\n", kinds[k].what, n,
                          VOCAB, took[0] * 1e6, took[1] * 1e6);
        }
        assert_int_equal(check_call(&b, row, 2, -1, 1), 0);
    }
    bed_close(&b);
    dev_close(&dev);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(tokens_are_the_cpus_cuda),
    cmocka_unit_test(tokens_of_large_vocabularies_are_the_cpus_cuda),
    cmocka_unit_test(tokens_are_the_cpus_in_many_cases_cuda_deep),
    cmocka_unit_test(combinations_cuda),
    cmocka_unit_test(crowds_of_equal_logits_cuda),
    cmocka_unit_test(time_of_sampling_cuda),
};
CHECK_MAIN(tests)
