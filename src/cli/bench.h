/*
 * moed bench: bench.c opens and chooses, bench_run.c and bench_mixed.c run and time, bench_peaks.c
 * measures the machine beside it, bench_numbers.c works out what the samples say, bench_report.c
 * prints.
 */
#ifndef MOED_CLI_BENCH_H
#define MOED_CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/routing.h"
#include "device/device.h"
#include "model/model.h"

#define BENCH_MAX_RUNS  100
#define BENCH_MAX_BATCH 256
#define BENCH_MAX_LIST  16 /* values of one list option */
#define BENCH_MAX_CASES (BENCH_KINDS * BENCH_MAX_LIST * BENCH_MAX_LIST)

/* MIXED: a prompt's passes pause at layers for the steps of decoding streams, as the engine's do.
 */
enum bench_kind { BENCH_PREFILL, BENCH_DECODE, BENCH_MIXED, BENCH_KINDS };
extern const char *const bench_kind_names[BENCH_KINDS];

/* What the machine gives when asked for nothing else, GB/s; 0: not measured, there is none. */
struct bench_peaks {
    double link;      /* plain copies to the device */
    double device;    /* a copy within the device, read and write counted */
    double host_cpu;  /* plain reads by the CPU's threads ... */
    double host_link; /* ... and plain copies to the device, both at once */
};

/* One case: a prefill of one prompt, or decode at one batch size, or both, with one expert cache.
 */
struct bench_case {
    enum bench_kind kind;
    bool in_place;
    int32_t slots;
    uint64_t cache_bytes;
    int32_t batch;   /* sequences */
    int32_t context; /* tokens in the cache when it starts */
    int32_t steps;   /* passes in a run; of the prompt where it is mixed */
    int64_t tokens;  /* computed in a run; of the prompt where it is mixed */
    int n_runs;
    double seconds[BENCH_MAX_RUNS]; /* in the order measured */
    /* Plain reads by the CPU's threads right after each run, GB/s: machines change their speed, so
     * a ratio needs both at the same time. */
    double read_gb_per_s[BENCH_MAX_RUNS];
    /* Of each step in the order measured; where it is mixed, from one token of the streams to the
     * next. The case's own. */
    double *step_seconds;
    size_t n_step_seconds, step_room;
    /* Of the median run: differences, not totals. */
    struct model_stats stages;
    struct pager_counters experts;
};

struct bench_result {
    const char *architecture, *isa, *policy, *routing;
    const char *device; /* "cpu", or the name of a GPU */
    bool apart;         /* the device has memory of its own */
    int threads;
    uint64_t parameters, active_parameters, record_bytes;
    int32_t records, warmup_tokens;
    double target_itl_ms; /* of mixed cases */
    struct bench_peaks peaks;
    struct bench_case cases[BENCH_MAX_CASES];
    int n_cases;
};

/*
 * What a case's samples say. Bytes and times are those of the median run.
 *
 * The floor is the least time for the bytes of a step at the speeds of this run: on a device with
 * memory of its own
 *     resident / device + max(hits / device, misses / host)
 * where resident are the bytes of everything but experts, hits and misses those of the distinct
 * experts used, device a copy's speed, and host what CPU and link reach together (prefill: the
 * link alone, since tensor cores compute there); elsewhere all bytes / plain reads. Arithmetic,
 * launches and hand-offs are not in it. Mixed cases have none.
 */
struct bench_numbers {
    double tokens_per_s, step_ms;  /* medians of the runs */
    double p50_ms, p99_ms, max_ms; /* of the steps of all runs */
    double hit_percent;            /* of distinct (step, layer, expert) uses */
    double host_bytes_per_token;   /* of records: read in place or copied to the device */
    double admissions_per_token;
    double link_gb_per_s, link_part; /* over the link; part of its peak */
    double host_gb_per_s, host_part; /* read from host memory by CPU and link; part of both peaks */
    double first_token_ms;           /* of prefill: prompt in to logits out; else 0 */
    double floor_ms, floor_part;     /* floor_part: floor_ms / step_ms, 1 is the floor reached */
};
void bench_numbers(struct bench_numbers *out, const struct bench_result *r,
                   const struct bench_case *c);
double bench_median(const double *values, int n);
/* The least value that `part` (0 to 1] of the n values do not exceed. */
double bench_percentile(const double *values, int n, double part);

void bench_print_table(const struct bench_result *r, FILE *out);
void bench_print_json(const struct bench_result *r, FILE *out);

/* Bandwidths of the machine. One thread, which is the device's engine thread. */
struct bench_yardstick;
int bench_yardstick_open(struct bench_yardstick **out, struct dev *cpu, struct moed_error *err);
void bench_yardstick_close(struct bench_yardstick **y);
/* The best of several passes of plain reads, GB/s. */
double bench_yardstick_reads(struct bench_yardstick *y);
/* Before a pager is open on dev: the thread that copies is here for a while. */
int bench_yardstick_peaks(struct bench_yardstick *y, struct dev *dev, struct bench_peaks *out,
                          struct moed_error *err);

/* Rows of a pass on a lane; they must live until its end. */
struct bench_rows {
    int32_t *token, *pos, *seq;
};

/* A run: the model with its buffers, and what is measured. Strings are the caller's. */
struct bench {
    struct model *model;
    struct model_config config;
    struct bench_yardstick *yardstick;
    struct routing *routing; /* NULL: the model's router chooses */
    int32_t context, decode_steps, runs, warmup_tokens, max_batch, max_prompt, pass_rows;
    int64_t target_itl_us;
    bool contexts_filled;
    int32_t *block_table;                /* a context for each of max_batch, then the prompt's */
    struct model_seq *seqs;              /* [max_batch + 1]: the last one is of prompts */
    struct bench_rows rows[MODEL_LANES]; /* [max_batch], [pass_rows] */
    int32_t *forced[MODEL_LANES];        /* choices of a whole run */
    size_t forced_room[MODEL_LANES];
    float *logits; /* [max_batch][vocab] */
    uint64_t random;
};

/* Allocates buffers for the limits set in b. */
int bench_buffers(struct bench *b, struct moed_error *err);
void bench_buffers_free(struct bench *b);
/* KV blocks that bench_buffers will use. */
int32_t bench_kv_blocks(const struct bench *b);
/* Fills the KV cache of all decode sequences, once, where the model's own router shall choose. */
int bench_fill_contexts(struct bench *b, struct moed_error *err);
/* Decodes until a cache that was just opened is filled, or grows no more. */
int bench_fill_cache(struct bench *b, struct moed_error *err);
/* Warms up and measures; c has its kind, batch and tokens. */
int bench_measure(struct bench *b, struct bench_case *c, struct moed_error *err);

/* What the runs are made of. */

/* Rows of the prompt from position `done` on, at most pass_rows; returns how many. */
int32_t bench_prompt_rows(struct bench *b, int32_t done, int32_t tokens);
/* Begins the pass over those rows on the long lane; seq: index into seqs. */
int bench_prompt_begin(struct bench *b, int32_t seq, int32_t done, int32_t rows,
                       struct moed_error *err);
/* A whole step of `batch` streams; step counts from 0 to decode_steps. */
int bench_step(struct bench *b, int32_t step, int32_t batch, struct moed_error *err);
/* Adds a sample; counts nothing where c is NULL. */
void bench_sample(struct bench_case *c, double seconds);
/* One run of a mixed case; samples go to c unless it is NULL. */
int bench_mixed_run(struct bench *b, const struct bench_case *what, struct bench_case *c,
                    struct moed_error *err);

#endif
