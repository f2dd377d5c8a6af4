/*
 * What each op of a recorded step takes, in a graph of its own: the shapes of Qwen3-30B-A3B, one
 * layer after the other, weights that no cache holds. Before them the hand-off of a miss: a graph
 * of 48 layers with an all but empty job for the CPU in each, less the same graph without. Prints
 * JSON lines, a table to standard error.
 *
 *   bench_cuda_step [packed] [rows, as 1,8 [GiB of weights]]
 *   bench_cuda_step [packed] handoff [replays [GiB of weights]]     the hand-off alone
 *
 * packed: experts lie in packed records.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "device/device.h"
#include "device/misses.h"

#define LAYERS  48
#define HIDDEN  2048
#define INNER   768
#define EXPERTS 128
#define TOP_K   8
#define HEADS   32
#define KV      4
#define DIM     128
#define BLOCKS  4096
#define REPLAYS 20
#define RUNS    7
/* Where experts are missed: a layer takes ten times as long. */
#define MISSED_REPLAYS 4
/* Both sides of an expert of the hand-off: one grain of a mailbox, so that all the CPU does is
 * meet. */
#define EMPTY        MAILBOX_GRAIN
#define HANDOFFS     400
#define HANDOFFS_MAX 10000
#define WARM_UP_PART 20 /* one in so many before they are timed */

struct plan {
    int32_t live, forced_on, share[MAILBOX_SHARE_CLASSES];
    int32_t pos[STEP_MAX_ROWS], seq[STEP_MAX_ROWS], table[STEP_MAX_ROWS * 64];
    int64_t slot[STEP_MAX_ROWS];
    int32_t slot_of[EXPERTS], forced[LAYERS * STEP_MAX_ROWS * TOP_K];
};

struct bench {
    struct dev *dev;
    struct plan *plan;
    uint8_t *weights;
    size_t weight_bytes, at;
    float *x, *h, *q, *k, *v, *logit, *weight, *hidden, *y;
    int32_t *id;
    uint8_t *kv;
    struct record_class cls;
    bool packed;
    uint8_t *arena; /* records on the host */
    size_t arena_bytes;
    struct misses *misses;
    struct misses_stats before;
    const void **host_of; /* device */
    int n;
    int failed;
};

typedef void op_fn(struct bench *b, int layer);

static const void *take(struct bench *b, size_t bytes)
{
    bytes = (bytes + 4095) / 4096 * 4096;
    if (b->at + bytes > b->weight_bytes)
        b->at = 0;
    b->at += bytes;
    return b->weights + b->at - bytes;
}

static void note(struct bench *b, int rc)
{
    b->failed |= rc < 0;
}

static void op_qkv(struct bench *b, int layer)
{
    const uint16_t *w = take(b, (size_t)(HEADS + 2 * KV) * DIM * HIDDEN * 2);
    struct kern_norm_linear a = {
        .x = b->x,
        .norm = take(b, HIDDEN * 2),
        .norm_dtype = DTYPE_BF16,
        .eps = 1e-6f,
        .h = b->h,
        .matrix = {{w, NULL, DTYPE_BF16, DTYPE_BF16, b->q, HEADS * DIM},
                   {w + (size_t)HEADS * DIM * HIDDEN, NULL, DTYPE_BF16, DTYPE_BF16, b->k, KV * DIM},
                   {w + (size_t)(HEADS + KV) * DIM * HIDDEN, NULL, DTYPE_BF16, DTYPE_BF16, b->v,
                    KV * DIM}},
        .n_matrices = 3,
        .n = b->n,
        .in = HIDDEN};
    note(b, b->dev->step->norm_linear(b->dev, &a));
}

static struct kern_kv kv_of(struct bench *b)
{
    return (struct kern_kv){.blocks = b->kv,
                            .block_bytes = (size_t)2 * KV * 16 * DIM * 2,
                            .dtype = DTYPE_BF16,
                            .kv_heads = KV,
                            .head_dim = DIM};
}

static void op_turn(struct bench *b, int layer)
{
    struct kern_turn a = {.q = b->q,
                          .k = b->k,
                          .v = b->v,
                          .q_norm = take(b, DIM * 2),
                          .k_norm = take(b, DIM * 2),
                          .norm_dtype = DTYPE_BF16,
                          .eps = 1e-6f,
                          .cos = b->y,
                          .sin = b->y,
                          .pos = b->plan->pos,
                          .slot = b->plan->slot,
                          .kv = kv_of(b),
                          .n = b->n,
                          .heads = HEADS};
    note(b, b->dev->step->turn(b->dev, &a));
}

static void op_attention(struct bench *b, int layer)
{
    const int32_t *tables = b->plan->table;
    struct kern_attention a = {.kv = kv_of(b),
                               .q = b->q,
                               .out = b->h,
                               .q_stride = HEADS * DIM,
                               .out_stride = HEADS * DIM,
                               .pos = b->plan->pos,
                               .seq = b->plan->seq,
                               .block_table = &tables,
                               .table_stride = 64,
                               .n = b->n,
                               .heads = HEADS,
                               .scale = 0.1f,
                               .max_context = 1024};
    note(b, b->dev->kern->attention(b->dev, &a));
}

static void op_out(struct bench *b, int layer)
{
    struct kern_norm_linear a = {.x = b->q,
                                 .residual = b->x,
                                 .matrix = {{take(b, (size_t)HEADS * DIM * HIDDEN * 2), NULL,
                                             DTYPE_BF16, DTYPE_BF16, b->x, HIDDEN}},
                                 .n_matrices = 1,
                                 .n = b->n,
                                 .in = HEADS * DIM};
    note(b, b->dev->step->norm_linear(b->dev, &a));
}

static void op_router(struct bench *b, int layer)
{
    struct kern_norm_linear a = {.x = b->x,
                                 .norm = take(b, HIDDEN * 2),
                                 .norm_dtype = DTYPE_BF16,
                                 .eps = 1e-6f,
                                 .h = b->h,
                                 .matrix = {{take(b, (size_t)EXPERTS * HIDDEN * 2), NULL,
                                             DTYPE_BF16, DTYPE_BF16, b->logit, EXPERTS}},
                                 .n_matrices = 1,
                                 .n = b->n,
                                 .in = HIDDEN};
    note(b, b->dev->step->norm_linear(b->dev, &a));
}

static void op_experts(struct bench *b, int layer)
{
    struct kern_paged_experts a = {.cls = &b->cls,
                                   .logit = b->logit,
                                   .h = b->h,
                                   .slot_of = b->plan->slot_of,
                                   .slots = take(b, EXPERTS * b->cls.bytes),
                                   .slot_bytes = b->cls.bytes,
                                   .host_of = b->host_of,
                                   .link_share = b->plan->share,
                                   .forced = b->plan->forced,
                                   .forced_on = &b->plan->forced_on,
                                   .id = b->id,
                                   .weight = b->weight,
                                   .hidden = b->hidden,
                                   .y = b->y,
                                   .x = b->x,
                                   .n = b->n,
                                   .experts = EXPERTS,
                                   .top_k = TOP_K,
                                   .layer = layer,
                                   .renormalize = 1};
    note(b, b->dev->step->paged_experts(b->dev, &a));
}

static void op_attend(struct bench *b, int layer)
{
    op_qkv(b, layer);
    op_turn(b, layer);
    op_attention(b, layer);
    op_out(b, layer);
}

static void op_layer(struct bench *b, int layer)
{
    op_attend(b, layer);
    op_router(b, layer);
    op_experts(b, layer);
}

/* Experts so small that a job has nothing to do. */
static void op_handoff(struct bench *b, int layer)
{
    op_attend(b, layer);
    op_experts(b, layer);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The op in all layers; NULL when that failed. */
static struct dev_recorded *record(struct bench *b, const char *name, op_fn *op)
{
    const struct dev_step *step = b->dev->step;
    struct dev_recorded *r = NULL;
    struct moed_error err = {0};
    b->at = 0;
    note(b, step->record_begin(b->dev));
    step->live(b->dev, &b->plan->live);
    for (int layer = 0; layer < LAYERS; layer++)
        op(b, layer);
    note(b, step->record_end(b->dev, &r, &err));
    if (b->failed)
        fprintf(stderr, "%s: failed: %s\n", name, err.text);
    return b->failed ? NULL : r;
}

static void print_json(const struct bench *b, const char *name, const double *us, int n,
                       double median)
{
    printf("{\"bench\": \"cuda_step\", \"op\": \"%s\", \"records\": \"%s\", \"rows\": %d, "
           "\"us\": %.3f, \"samples_us\": [",
           name, b->packed ? "packed" : "plain", b->n, median);
    for (int i = 0; i < n; i++)
        printf("%s%.3f", i ? ", " : "", us[i]);
    printf("]}\n");
}

static void measure(struct bench *b, const char *name, op_fn *op, int replays)
{
    const struct dev_step *step = b->dev->step;
    struct dev_recorded *r = record(b, name, op);
    double us[RUNS];
    if (!r)
        return;
    for (int run = -1; run < RUNS; run++) {
        double begin = now_us();
        if (b->misses)
            misses_step_begin(b->misses);
        for (int i = 0; i < replays; i++)
            note(b, step->replay(b->dev, r));
        note(b, b->dev->kern->sync(b->dev));
        if (b->misses)
            misses_step_end(b->misses);
        if (run >= 0)
            us[run] = (now_us() - begin) / replays / LAYERS;
    }
    struct misses_stats m;
    misses_stats(b->misses, &m);
    double jobs = (double)(m.jobs - b->before.jobs);
    if (jobs > 0)
        fprintf(stderr, "    jobs of %.1f us: gate/up %.1f, waiting for the link %.1f, down %.1f\n",
                (double)(m.total_ns - b->before.total_ns) / jobs * 1e-3,
                (double)(m.gate_up_ns - b->before.gate_up_ns) / jobs * 1e-3,
                (double)(m.wait_ns - b->before.wait_ns) / jobs * 1e-3,
                (double)(m.down_ns - b->before.down_ns) / jobs * 1e-3);
    b->before = m;
    step->forget(b->dev, r);
    qsort(us, RUNS, sizeof us[0], by_value);
    fprintf(stderr, "%-34s rows %2d: %7.2f us\n", name, b->n, us[RUNS / 2]);
    print_json(b, name, us, RUNS, us[RUNS / 2]);
}

/* resident: of TOP_K choices of each row so many have a slot. */
static void set_plan(struct bench *b, int resident, int share)
{
    struct plan *p = b->plan;
    memset(p, 0, sizeof *p);
    p->live = b->n;
    p->forced_on = 1;
    for (int i = 0; i < MAILBOX_SHARE_CLASSES; i++)
        p->share[i] = share;
    for (int e = 0; e < EXPERTS; e++)
        p->slot_of[e] = e % TOP_K < resident ? e : -1;
    for (int i = 0; i < b->n; i++) {
        p->pos[i] = 127;
        p->seq[i] = i;
        p->slot[i] = 64 * 16 * i + 127;
        for (int t = 0; t < 64; t++)
            p->table[i * 64 + t] = (i * 64 + t) % BLOCKS;
    }
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < b->n; i++)
            for (int k = 0; k < TOP_K; k++)
                p->forced[(l * b->n + i) * TOP_K + k] =
                    (i * 37 + l * 11) % (EXPERTS / TOP_K) * TOP_K + k;
    note(b, b->dev->step->plan_send(b->dev, p, sizeof *p));
    note(b, b->dev->kern->sync(b->dev));
}

/* One replay, waited for; microseconds. */
static double replay_us(struct bench *b, const struct dev_recorded *r)
{
    double begin = now_us();
    misses_step_begin(b->misses);
    note(b, b->dev->step->replay(b->dev, r));
    note(b, b->dev->kern->sync(b->dev));
    misses_step_end(b->misses);
    return now_us() - begin;
}

/* Replays of the same graph by turns, with a job in each layer and without. */
static void measure_handoff(struct bench *b, int turns)
{
    static double without[HANDOFFS_MAX], with[HANDOFFS_MAX];
    struct dev_recorded *r = record(b, "hand-off", op_handoff);
    if (!r)
        return;
    int warm_up = turns / WARM_UP_PART;
    for (int i = -warm_up; i < turns && !b->failed; i++)
        for (int missed = 0; missed < 2; missed++) {
            set_plan(b, TOP_K - missed, 0);
            double us = replay_us(b, r);
            if (i >= 0)
                (missed ? with : without)[i] = us;
        }
    struct misses_stats m;
    misses_stats(b->misses, &m);
    b->dev->step->forget(b->dev, r);
    if (b->failed || m.jobs != (uint64_t)(turns + warm_up) * LAYERS) {
        fprintf(stderr, "hand-off: failed: %llu jobs, %llu given up\n", (unsigned long long)m.jobs,
                (unsigned long long)(m.failed + m.abandoned));
        b->failed = 1;
        return;
    }
    qsort(without, (size_t)turns, sizeof without[0], by_value);
    for (int i = 0; i < turns; i++)
        with[i] = (with[i] - without[turns / 2]) / LAYERS;
    qsort(with, (size_t)turns, sizeof with[0], by_value);
    double median = with[turns / 2], p99 = with[turns * 99 / 100];
    fprintf(stderr,
            "hand-off in a graph of %d layers: median %.2f us, p99 %.2f (of %d replays); a layer "
            "without: %.2f us; %d threads, jobs of %.2f us as the CPU sees them\n",
            LAYERS, median, p99, turns, without[turns / 2] / LAYERS, m.threads,
            (double)m.total_ns / (double)m.jobs * 1e-3);
    print_json(b, "hand-off", with, turns, median);
    printf("{\"bench\": \"cuda_step\", \"op\": \"hand-off, p99\", \"rows\": %d, \"us\": %.3f}\n",
           b->n, p99);
    print_json(b, "a layer without a job", without, turns, without[turns / 2]);
}

/* Buffers that all ops share, large enough for either class of experts. */
static int open_device(struct bench *b, double gib, struct moed_error *err)
{
    struct dev_choice choice;
    int rc;
    if ((rc = dev_choose(&choice, "cuda", err)) < 0 ||
        (rc = dev_open(&b->dev, &choice, NULL, err)) < 0)
        return rc;
    assert(b->dev);
    const struct dev_ops *ops = b->dev->ops;
    size_t rows = STEP_MAX_ROWS, f = sizeof(float);
    b->weight_bytes = (size_t)(gib * 0x1p30);
    b->weights = ops->alloc(b->dev, b->weight_bytes);
    b->plan = b->dev->step->plan_alloc(b->dev, sizeof *b->plan);
    b->x = ops->alloc(b->dev, rows * HIDDEN * f);
    b->h = ops->alloc(b->dev, rows * HEADS * DIM * f);
    b->q = ops->alloc(b->dev, rows * HEADS * DIM * f);
    b->k = ops->alloc(b->dev, rows * KV * DIM * f);
    b->v = ops->alloc(b->dev, rows * KV * DIM * f);
    b->logit = ops->alloc(b->dev, rows * EXPERTS * f);
    b->weight = ops->alloc(b->dev, rows * TOP_K * f);
    b->hidden = ops->alloc(b->dev, rows * TOP_K * INNER * f);
    b->y = ops->alloc(b->dev, rows * TOP_K * HIDDEN * f);
    b->id = ops->alloc_shared(b->dev, rows * TOP_K * 4);
    b->kv = ops->alloc(b->dev, (size_t)BLOCKS * 2 * KV * 16 * DIM * 2);
    b->host_of = ops->alloc(b->dev, LAYERS * EXPERTS * sizeof(void *));
    if (!b->weights || !b->plan || !b->kv || !b->host_of || !b->y || !b->id)
        return moed_fail(err, MOED_ENOMEM, "no memory");
    return 0;
}

/* Records of experts on the host, a mailbox, workers. */
static int open_experts(struct bench *b, int width, int inner, size_t records,
                        struct moed_error *err)
{
    const struct dev_ops *ops = b->dev->ops;
    int rc;
    b->cls = b->packed ? record_class_packed(width, inner)
                       : record_class_swiglu(DTYPE_BF16, width, inner);
    b->arena_bytes = records * b->cls.bytes;
    b->arena = mem_map(b->arena_bytes);
    if (!b->arena)
        return moed_fail(err, MOED_ENOMEM, "no memory");
    /* Zeros are rows of either class. */
    for (size_t i = 0; i < b->arena_bytes; i += 4096)
        b->arena[i] = 0;
    if ((rc = ops->host_register(b->dev, b->arena, b->arena_bytes, b->cls.bytes, err)) < 0)
        return rc;
    static const void *table[LAYERS * EXPERTS];
    /* No two layers' chosen experts lie at the same place: a cache would remember them. */
    for (size_t i = 0; i < LAYERS * EXPERTS; i++)
        table[i] = b->arena + (i / EXPERTS * 97 + i % EXPERTS) % records * b->cls.bytes;
    struct dev_event event = {0};
    if ((rc = ops->copy_in(b->dev, b->host_of, table, sizeof table, &event)) < 0 ||
        (rc = ops->event_wait(b->dev, &event)) < 0)
        return rc;
    struct misses_config cfg = {.kern = kern_cpu(KERN_ISA_AUTO),
                                .cls = &b->cls,
                                .host_of = table,
                                .layers = LAYERS,
                                .experts = EXPERTS,
                                .layout =
                                    mailbox_layout(STEP_MAX_ROWS, TOP_K, EXPERTS, width, inner)};
    if ((rc = b->dev->step->mailbox_open(b->dev, &cfg.layout, 0, &cfg.mailbox, err)) < 0)
        return rc;
    b->before = (struct misses_stats){0};
    return misses_open(&b->misses, &cfg, err);
}

static void close_experts(struct bench *b)
{
    misses_close(&b->misses);
    b->dev->step->mailbox_close(b->dev);
    b->dev->ops->host_unregister(b->dev, b->arena);
    mem_unmap(b->arena, b->arena_bytes);
}

static void measure_ops(struct bench *b)
{
    set_plan(b, TOP_K, 0);
    measure(b, "norm, q, k, v", op_qkv, REPLAYS);
    measure(b, "heads", op_turn, REPLAYS);
    measure(b, "attention, 128 positions", op_attention, REPLAYS);
    measure(b, "output", op_out, REPLAYS);
    measure(b, "norm, router", op_router, REPLAYS);
    measure(b, "experts, all resident", op_experts, REPLAYS);
    measure(b, "a layer, all resident", op_layer, REPLAYS);
    for (int resident = TOP_K - 1; resident >= 0 && b->n == 1; resident -= resident > 5 ? 1 : 2)
        for (int share = 0; share <= MAILBOX_SHARE_ONE; share += MAILBOX_SHARE_ONE / 4) {
            char name[64];
            set_plan(b, resident, share);
            snprintf(name, sizeof name, "experts, %d missed, link %d %%", TOP_K - resident,
                     share * 100 / MAILBOX_SHARE_ONE);
            measure(b, name, op_experts, MISSED_REPLAYS);
        }
}

int main(int argc, char **argv)
{
    static struct bench b = {.n = 1};
    struct moed_error err = {0};
    if (argc > 1 && strcmp(argv[1], "packed") == 0) {
        b.packed = true;
        argc--;
        argv++;
    }
    bool alone = argc > 1 && strcmp(argv[1], "handoff") == 0;
    int turns = alone && argc > 2 ? (int)strtol(argv[2], NULL, 10) : HANDOFFS;
    turns = turns < 1 ? 1 : turns > HANDOFFS_MAX ? HANDOFFS_MAX : turns;
    int arg = alone ? 3 : 2;
    int rc = open_device(&b, argc > arg ? strtod(argv[arg], NULL) : 16, &err);
    if (rc == 0)
        rc = open_experts(&b, EMPTY, EMPTY, EXPERTS, &err);
    if (rc == 0) {
        measure_handoff(&b, turns);
        close_experts(&b);
        rc = alone ? 0 : open_experts(&b, HIDDEN, INNER, 1024, &err);
    }
    if (rc < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (alone)
        return b.failed;
    for (const char *p = argc > 1 ? argv[1] : "1,8"; *p; p += *p == ',') {
        b.n = (int)strtol(p, (char **)&p, 10);
        measure_ops(&b);
    }
    close_experts(&b);
    return b.failed;
}
