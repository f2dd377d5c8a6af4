/* moed bench, in two halves: bench.c measures, bench_report.c prints. */
#ifndef MOED_CLI_BENCH_H
#define MOED_CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "model/model.h"

#define BENCH_MAX_RUNS  100
#define BENCH_MAX_CASES 16

/* One case (prefill, or decode at one batch size), with the raw seconds of each run and the stages
 * of the median run. */
struct bench_case {
    bool prefill;
    int32_t batch;  /* sequences */
    int32_t steps;  /* passes in a run */
    int64_t tokens; /* computed in a run */
    int n_runs;
    double seconds[BENCH_MAX_RUNS]; /* in the order measured */
    /* Plain reads by the same threads right after each run, GB/s: machines change their speed, so a
     * ratio needs both at the same time. */
    double read_gb_per_s[BENCH_MAX_RUNS];
    struct model_stats stages; /* of the median run: differences, not totals */
    struct pager_counters experts;
};

struct bench_result {
    const char *architecture, *isa, *policy;
    const char *device; /* "cpu", or the name of a GPU */
    int threads;
    bool in_place;
    uint64_t parameters, active_parameters, cache_bytes;
    int32_t slots, records;
    int32_t context, prompt_tokens;
    struct bench_case cases[BENCH_MAX_CASES];
    int n_cases;
};

double bench_median(const double *values, int n);
void bench_print_table(const struct bench_result *r, FILE *out);
void bench_print_json(const struct bench_result *r, FILE *out);

#endif
