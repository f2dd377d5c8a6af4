/*
 * Time of sampling on the CUDA device, logits of 151,936 tokens: one call with the wait for it, and
 * what a call costs in a queue of them. Tokens are first compared with the CPU's.
 *
 *   bench_cuda_sample
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "device/device.h"

enum { VOCAB = 151936, ROWS = 64, CALLS = 50, TURNS = 7 };

struct kind {
    const char *what;
    float temperature, top_p;
    int top_k;
    float spread;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "the device failed\n");
        exit(1);
    }
}

/* About normal, of deviation 1. */
static float normal(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 33) * 0x1p-31 - 0.5;
    }
    return (float)sum;
}

static void fill(struct dev *dev, const struct kind *k, float *logits, float *device)
{
    struct dev_event event = {0};
    uint64_t state = 1;
    for (size_t i = 0; i < (size_t)ROWS * VOCAB; i++)
        logits[i] = normal(&state) * k->spread;
    check(dev->ops->copy_in(dev, device, logits, (size_t)ROWS * VOCAB * sizeof *logits, &event));
    check(dev->ops->event_wait(dev, &event));
}

static void compare(struct dev *dev, struct kern_sample a, const float *logits)
{
    void *scratch = mem_new(kern_sample_cpu_scratch_bytes(VOCAB), 1);
    check(dev->kern->sample(dev, &a));
    check(dev->kern->sync(dev));
    for (int i = 0; i < a.n; i++)
        if (a.token[i] != kern_sample_cpu(logits + (size_t)i * VOCAB, VOCAB, &a.row[i], scratch)) {
            fprintf(stderr, "row %d: another token than the CPU's\n", i);
            exit(1);
        }
    free(scratch);
}

static int ascending(const void *x, const void *y)
{
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* The median over turns of the time of one call among `calls`, in microseconds. */
static double time_us(struct dev *dev, const struct kern_sample *a, int calls)
{
    double took[TURNS];
    for (int t = 0; t < TURNS; t++) {
        double start = seconds();
        for (int c = 0; c < calls; c++)
            check(dev->kern->sample(dev, a));
        check(dev->kern->sync(dev));
        took[t] = (seconds() - start) / calls * 1e6;
    }
    qsort(took, TURNS, sizeof *took, ascending);
    return took[TURNS / 2];
}

int main(void)
{
    static const struct kind kinds[] = {{"greedy", 0, 1, 0, 3},
                                        {"temperature 1", 1, 1, 0, 3},
                                        {"top_p 0.95", 1, 0.95f, 0, 3},
                                        {"top_k 20, top_p 0.8", 0.7f, 0.8f, 20, 3},
                                        {"top_p 0.9, nearly flat", 1, 0.9f, 0, 0.01f},
                                        {"top_k 5000", 1, 1, 5000, 3}};
    struct dev_choice choice;
    struct dev *dev;
    struct moed_error err;
    if (dev_choose(&choice, "cuda", &err) < 0 || dev_open(&dev, &choice, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    float *logits = mem_new((size_t)ROWS * VOCAB, sizeof *logits);
    float *device = dev->ops->alloc(dev, (size_t)ROWS * VOCAB * sizeof *logits);
    void *scratch = dev->ops->alloc(dev, kern_sample_scratch_bytes(ROWS, VOCAB));
    int32_t *token = dev->ops->alloc_shared(dev, ROWS * sizeof *token);
    check(device && scratch && token ? 0 : MOED_ENOMEM);
    printf("%-24s %4s %12s %12s\n", "", "rows", "alone, us", "in queue, us");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct kern_sample_row row[ROWS];
        fill(dev, &kinds[k], logits, device);
        for (int i = 0; i < ROWS; i++)
            row[i] = (struct kern_sample_row){.seed = (uint64_t)i,
                                              .top_k = kinds[k].top_k,
                                              .temperature = kinds[k].temperature,
                                              .top_p = kinds[k].top_p};
        for (int n = 1; n <= ROWS; n *= 8) {
            struct kern_sample a = {.logits = device,
                                    .row = row,
                                    .token = token,
                                    .scratch = scratch,
                                    .n = n,
                                    .vocab = VOCAB,
                                    .general = kinds[k].temperature > 0};
            compare(dev, a, logits);
            printf("%-24s %4d %12.1f %12.1f\n", kinds[k].what, n, time_us(dev, &a, 1),
                   time_us(dev, &a, CALLS));
        }
    }
    dev->ops->free(dev, device, (size_t)ROWS * VOCAB * sizeof *logits);
    dev->ops->free(dev, scratch, kern_sample_scratch_bytes(ROWS, VOCAB));
    dev->ops->free_shared(dev, token, ROWS * sizeof *token);
    dev_close(&dev);
    free(logits);
    return 0;
}
