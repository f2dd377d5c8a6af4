/*
 * moed bench: bench_sets.c reads what is asked for, bench.c opens and chooses, bench_run.c,
 * bench_mixed.c and bench_clients.c run and time, bench_watch.c says where it is and keeps to the
 * time, bench_peaks.c measures the machine beside it, bench_numbers.c works out what the samples
 * say, bench_report.c prints.
 */
#ifndef MOED_CLI_BENCH_H
#define MOED_CLI_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/options.h"
#include "cli/routing.h"
#include "device/device.h"
#include "model/model.h"

#define BENCH_MAX_RUNS  100
#define BENCH_MAX_BATCH 256
#define BENCH_MAX_LIST  16 /* values of one list option */
#define BENCH_MAX_SETS  16

/* MIXED: a prompt's passes pause at layers for the steps of decoding streams, as the engine's do.
 * CLIENTS: conversations of clients in a closed loop, served by the engine. */
enum bench_kind { BENCH_PREFILL, BENCH_DECODE, BENCH_MIXED, BENCH_CLIENTS, BENCH_KINDS };
extern const char *const bench_kind_names[BENCH_KINDS];
/* A case for each batch size; else one for each prompt length. */
static inline bool bench_by_batch(enum bench_kind kind)
{
    return kind == BENCH_DECODE || kind == BENCH_CLIENTS;
}

/* A size of the expert cache as the command line gives it. */
struct bench_cache_size {
    bool given;
    uint64_t bytes;
    double share; /* negative: bytes count */
};

/* A set of cases: what is measured with the same settings. */
struct bench_set {
    bool kinds[BENCH_KINDS];
    int32_t batch[BENCH_MAX_LIST], prompt[BENCH_MAX_LIST];
    struct bench_cache_size cache[BENCH_MAX_LIST];
    int n_batch, n_prompt, n_cache;
    const struct routing_model *routing; /* NULL: the model's own router */
    int32_t decode_steps, warmup_tokens, runs;
    int64_t target_itl_us;
    bool measured; /* admission, of clients */
    int64_t admission_wait_us;
};

/* The sets of --cases, each with what the other options say where it says nothing itself. Returns
 * how many, at most BENCH_MAX_SETS. */
int bench_parse_sets(struct bench_set *sets, const struct options *o, bool cuda,
                     struct moed_error *err);
/* The most streams and the longest prompt of its cases, at least 1. */
int32_t bench_set_batch(const struct bench_set *s);
int32_t bench_set_prompt(const struct bench_set *s);
int bench_set_cases(const struct bench_set *s);

/* What the machine gives when asked for nothing else, GB/s; 0: not measured, there is none. */
struct bench_peaks {
    double link;      /* plain copies to the device */
    double device;    /* a copy within the device, read and write counted */
    double host_cpu;  /* plain reads by the CPU's threads ... */
    double host_link; /* ... and plain copies to the device, both at once */
};

/* Missed experts that the CPU's threads computed beside a device. */
struct bench_misses {
    uint64_t bytes, ns; /* that they read; from seeing a job to its end, all jobs together */
};

/* What clients saw of a case. */
struct bench_clients_result {
    bool measured;       /* admission */
    int32_t tokens;      /* of a conversation */
    int32_t ended;       /* conversations */
    int32_t waiting;     /* clients without a second token at its end */
    int32_t batch_limit; /* then; 0: all decode together */
    /* From asking to the first token and to the second one, which comes when the answer goes on, of
     * those that came; the longest counts those that still wait, too. */
    double first_p50_s, first_p99_s, first_max_s;
    double second_p50_s, second_p99_s, second_max_s;
    double completion_s; /* mean, from asking to the last token; 0: none ended */
};

/* One case: a prefill of one prompt, or decode at one batch size, or both, with one expert cache.
 */
struct bench_case {
    enum bench_kind kind;
    char routing[64]; /* as --routing takes it */
    bool in_place;
    int32_t slots;
    uint64_t cache_bytes;
    int32_t batch;                  /* sequences */
    int32_t context;                /* tokens in the cache when it starts */
    int32_t steps;                  /* passes in a run; of the prompt where it is mixed */
    int32_t warmup_steps;           /* decoded before it */
    double target_itl_ms;           /* where it is mixed */
    int64_t tokens;                 /* computed in a run; of the prompt where it is mixed */
    int n_runs;                     /* 0: not measured, the time was over */
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
    struct bench_misses misses;
    struct bench_clients_result clients;
    /* Where steps were fused: microseconds of the parts of a layer, of one launch after the runs.
     */
    bool fused;
    double fused_us[DEV_FUSED_PARTS];
};

struct bench_result {
    const char *architecture, *isa, *policy, *routing;
    const char *device; /* "cpu", or the name of a GPU */
    bool apart;         /* the device has memory of its own */
    int threads;
    const char *record_class; /* "plain", "packed"; NULL without experts */
    uint64_t parameters, active_parameters;
    uint64_t record_bytes, matrix_bytes; /* of an expert, and what computing it reads of that */
    int32_t records, max_context;
    struct bench_peaks peaks;
    struct bench_case *cases;
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
    double misses_gb_per_s;          /* by the CPU's threads while they computed misses */
    double first_token_ms;           /* of prefill: prompt in to logits out; else 0 */
    double floor_ms, floor_part;     /* floor_part: floor_ms / step_ms, 1 is the floor reached */
};
void bench_numbers(struct bench_numbers *out, const struct bench_result *r,
                   const struct bench_case *c);
double bench_median(const double *values, int n);
/* The least value that `part` (0 to 1] of the n values do not exceed. */
double bench_percentile(const double *values, int n, double part);

/* A line on the log. */
void bench_say_case(const struct bench_result *r, const struct bench_case *c);
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

/* Where a bench is and how long it may take. */
struct bench_watch {
    int64_t begin_us, end_us; /* of all cases; end_us 0: no end */
    int64_t case_limit_us;
    char what[128]; /* the case */
    int64_t case_begin_us, said_us;
};
void bench_watch_begin(struct bench_watch *w, int64_t total_us, int64_t case_us);
/* The time of all cases is over. */
bool bench_watch_over(const struct bench_watch *w);
/* A case begins, or what comes before the cases of a cache. */
void bench_watch_case(struct bench_watch *w, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* Says now and then how far a phase of the case is. False: `part` (0 to 1] of the case's time is
 * over, or the time of all cases. */
bool bench_watch_goes_on(struct bench_watch *w, double part, const char *phase, int64_t done,
                         int64_t of);
/* What is left of that part, in microseconds, at least 0. */
int64_t bench_watch_left_us(const struct bench_watch *w, double part);

struct bench_counts {
    struct model_stats stages;
    struct pager_counters experts;
    struct bench_misses misses;
};

/* A run: the model with its buffers, and what is measured. Strings are the caller's. */
struct bench {
    struct model *model;
    struct model_config config;
    struct bench_yardstick *yardstick;
    struct bench_watch watch;
    int32_t context, max_batch, max_prompt, max_steps, pass_rows;
    int32_t max_context; /* that the model is opened for */
    /* Of the set under way. */
    struct routing *routing; /* NULL: the model's router chooses */
    int32_t decode_steps, runs, warmup_tokens;
    int64_t target_itl_us;
    struct bench_clients *clients; /* while cases of that kind run */
    bool late;                     /* a run was given up, its time being over */
    bool contexts_filled;
    int32_t *block_table;                /* a context for each of max_batch, then the prompt's */
    struct model_seq *seqs;              /* [max_batch + 1]: the last one is of prompts */
    struct bench_rows rows[MODEL_LANES]; /* [max_batch], [pass_rows] */
    int32_t *forced[MODEL_LANES];        /* choices of a whole run */
    size_t forced_room[MODEL_LANES];
    float *logits; /* [max_batch][vocab]; NULL: the device samples */
    uint64_t random;
};

/* Allocates buffers for the limits set in b. */
int bench_buffers(struct bench *b, struct moed_error *err);
void bench_buffers_free(struct bench *b);
/* KV blocks that bench_buffers will use. */
int32_t bench_kv_blocks(const struct bench *b);
/* Fills the KV cache of all decode sequences, once, where the model's own router shall choose. */
int bench_fill_contexts(struct bench *b, struct moed_error *err);
/* Decodes until each slot of a cache that was just opened has been loaded once, or for so long that
 * it will not be. */
int bench_fill_cache(struct bench *b, struct moed_error *err);
/* Warms up and measures; c has its kind, batch and tokens. Where the time does not suffice there
 * are fewer runs, shorter ones, or none. */
int bench_measure(struct bench *b, struct bench_case *c, struct moed_error *err);

/* What the runs are made of. */

/* Rows of the prompt from position `done` on, at most pass_rows; returns how many. */
int32_t bench_prompt_rows(struct bench *b, int32_t done, int32_t tokens);
/* Begins the pass over those rows on the long lane; seq: index into seqs. */
int bench_prompt_begin(struct bench *b, int32_t seq, int32_t done, int32_t rows,
                       struct moed_error *err);
/* The next tokens of n rows of a pass: greedy, by the device where it can, else their logits. */
int bench_tokens(struct bench *b, enum model_lane lane, const int32_t *rows, int32_t n,
                 struct moed_error *err);
/* A whole step of `batch` streams to its tokens; step counts from 0 to decode_steps. */
int bench_step(struct bench *b, int32_t step, int32_t batch, struct moed_error *err);
/* Adds a sample; counts nothing where c is NULL. */
void bench_sample(struct bench_case *c, double seconds);
/* What has been computed so far; on the thread that computes. */
void bench_counts(struct bench *b, struct bench_counts *out);
/* What came between the two becomes the case's. */
void bench_counts_between(struct bench_case *c, const struct bench_counts *before,
                          const struct bench_counts *after);
/* The engine for the cases of a set whose kind is CLIENTS; close it also after a failure. */
int bench_clients_open(struct bench_clients **out, struct bench *b, const struct bench_set *s,
                       struct moed_error *err);
void bench_clients_close(struct bench_clients **k);
int bench_clients_measure(struct bench_clients *k, struct bench_case *c, struct moed_error *err);
/* One run of a mixed case; samples go to c unless it is NULL. */
int bench_mixed_run(struct bench *b, const struct bench_case *what, struct bench_case *c,
                    struct moed_error *err);

#endif
