/*
 * What hostile text costs: bench_tokenizer_hostile TOKENIZER [TOKENIZER ...]
 * For texts that repeat one thing: CPU milliseconds for 1 MiB, and the largest ratio of the times
 * for 2n and n bytes (n from 256 KiB; best of several runs each). Linear is 2.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "text/tokenizer.h"

enum { LARGEST_BYTES = 1 << 20, RUNS = 7 };

static const struct {
    const char *name, *unit;
} units[] = {
    {"a letter", "a"},
    {"spaces", " "},
    {"newlines", "\n"},
    {"a combining mark", "\xCC\x81"},
    {"marks out of order", "\xCC\x81\xCC\xA7\xCC\x96"},
    {"an emoji", "\xF0\x9F\x99\x82"},
    {"unfinished special token", "<|im_en"},
    {"short start of one", "<s"},
    {"words", " a"},
};

static double seconds_of(const struct tokenizer *t, const char *text, size_t n)
{
    struct tokens ids = {0};
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    int rc = tokenizer_encode(t, text, n, TOKENIZER_PARSE_SPECIAL, 0, &ids, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    tokens_fini(&ids);
    return rc < 0 ? -1 : (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

static double best_of(const struct tokenizer *t, const char *text, size_t n)
{
    double best = seconds_of(t, text, n);
    for (int i = 1; i < RUNS; i++) {
        double s = seconds_of(t, text, n);
        best = s < best ? s : best;
    }
    return best;
}

static void bench_unit(const struct tokenizer *t, const char *name, const char *unit)
{
    size_t n_unit = strlen(unit), whole = LARGEST_BYTES / 4 / n_unit * n_unit;
    char *text = mem_new(4 * whole, 1);
    for (size_t n = 0; n < 4 * whole; n += n_unit)
        memcpy(text + n, unit, n_unit);
    double quarter = best_of(t, text, whole), half = best_of(t, text, 2 * whole);
    double all = best_of(t, text, 4 * whole);
    double ratio = half / quarter > all / half ? half / quarter : all / half;
    printf("  %-26s %8.1f ms  %.2f\n", name, 1e3 * all, ratio);
    free(text);
}

int main(int argc, char **argv)
{
    /* The heap keeps its pages: whether it gives them back depends on sizes near its thresholds,
     * which would blur the ratio. */
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
    for (int i = 1; i < argc; i++) {
        struct tokenizer *t;
        struct moed_error err;
        if (tokenizer_open(&t, argv[i], &err) < 0) {
            fprintf(stderr, "%s: %s\n", argv[i], err.text);
            return 1;
        }
        printf("%s\n", argv[i]);
        for (size_t k = 0; k < sizeof units / sizeof units[0]; k++)
            bench_unit(t, units[k].name, units[k].unit);
        tokenizer_close(&t);
    }
    return 0;
}
