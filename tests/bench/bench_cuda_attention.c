/*
 * Attention of decode steps on CUDA: bf16 KV, contexts of 128 to 32K tokens, some rows at once. K
 * and V come from device memory, not from a cache: every launch and every replay reads blocks that
 * 256 MiB of others were read after, where the pool has so many. The first row's bits are compared
 * with the CPU's. Prints JSON lines, a table to standard error.
 *
 *   bench_cuda_attention [rows, as 1,8,32 [contexts, as 512,8192 [heads,kv heads,width [GiB]]]]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/device.h"

#define LAUNCHES   16 /* in the long recording; the short one has one */
#define RUNS       15
#define MAX_ROWS   64
#define FILL_BYTES ((size_t)64 << 20)

/* Plan memory: what launch l reads begins at pos[l * rows], table row l * rows. */
struct plan {
    int32_t live, pos[LAUNCHES * MAX_ROWS], seq[LAUNCHES * MAX_ROWS], table[];
};

struct bench {
    struct dev *dev;
    int heads, kv_heads, dim;
    size_t block_bytes, blocks, cursor; /* of the pool */
    uint8_t *pool;
    float *q, *out, *host_q;
    size_t q_bytes;
};

static int fail(const char *what)
{
    fprintf(stderr, "%s failed\n", what);
    return -1;
}

/* Other blocks for every launch. */
static int deal(struct bench *b, struct plan *p, size_t bytes, int rows, int context)
{
    size_t each = (size_t)context / KV_BLOCK_TOKENS;
    p->live = rows;
    for (size_t i = 0; i < (size_t)LAUNCHES * (size_t)rows; i++) {
        p->pos[i] = context - 1;
        p->seq[i] = (int32_t)i;
        for (size_t k = 0; k < each; k++, b->cursor++)
            p->table[i * each + k] = (int32_t)(b->cursor * 31 % b->blocks);
    }
    return b->dev->step->plan_send(b->dev, p, bytes) < 0 || b->dev->kern->sync(b->dev) < 0
               ? fail("sending the plan")
               : 0;
}

static struct kern_attention launch_of(const struct bench *b, const struct plan *p,
                                       const int32_t **table, int l, int rows, int context)
{
    size_t width = (size_t)b->heads * (size_t)b->dim;
    *table = p->table;
    return (struct kern_attention){.kv = {b->pool, b->block_bytes, DTYPE_BF16, b->kv_heads, b->dim},
                                   .q = b->q,
                                   .out = b->out,
                                   .q_stride = width,
                                   .out_stride = width,
                                   .pos = p->pos + (size_t)l * (size_t)rows,
                                   .seq = p->seq + (size_t)l * (size_t)rows,
                                   .block_table = table,
                                   .table_stride = (size_t)context / KV_BLOCK_TOKENS,
                                   .n = rows,
                                   .heads = b->heads,
                                   .scale = (float)(1 / sqrt((double)b->dim)),
                                   .max_context = context};
}

static struct dev_recorded *record(struct bench *b, const struct plan *p, int launches, int rows,
                                   int context)
{
    const struct dev_step *step = b->dev->step;
    struct dev_recorded *r = NULL;
    struct moed_error err = {0};
    if (step->record_begin(b->dev) < 0)
        return NULL;
    step->live(b->dev, &p->live);
    int rc = 0;
    for (int l = 0; l < launches; l++) {
        const int32_t *table;
        struct kern_attention a = launch_of(b, p, &table, l, rows, context);
        rc |= b->dev->kern->attention(b->dev, &a);
    }
    if (step->record_end(b->dev, &r, &err) < 0 || rc < 0)
        fprintf(stderr, "recording: %s\n", err.text);
    return r;
}

static double replay_us(struct bench *b, const struct dev_recorded *r)
{
    double begin = clock_seconds();
    int rc = b->dev->step->replay(b->dev, r);
    rc |= b->dev->kern->sync(b->dev);
    return rc ? NAN : (clock_seconds() - begin) * 1e6;
}

/* Row 0 of the last launch that ran (launch 0 of the short recording) with the CPU's kernel. */
static int check(struct bench *b, const struct plan *p, int context)
{
    size_t n = (size_t)context / KV_BLOCK_TOKENS, floats = (size_t)b->heads * (size_t)b->dim;
    size_t scratch_bytes = (size_t)4 << 20;
    uint8_t *blocks = mem_map(n * b->block_bytes);
    float *want = mem_new(floats, sizeof *want), *got = mem_new(floats, sizeof *got);
    int32_t *table = mem_new(n, sizeof *table);
    void *scratch = mem_map(scratch_bytes);
    int rc = 0;
    for (size_t i = 0; i < n && rc == 0; i++) {
        table[i] = (int32_t)i;
        rc = b->dev->ops->copy_out(b->dev, blocks + i * b->block_bytes,
                                   b->pool + (size_t)p->table[i] * b->block_bytes, b->block_bytes);
    }
    const int32_t *tables[] = {table}, pos[] = {context - 1}, seq[] = {0};
    const int32_t *unused;
    struct kern_attention a = launch_of(b, p, &unused, 0, 1, context);
    a.kv.blocks = blocks;
    a.q = b->host_q;
    a.out = want;
    a.pos = pos;
    a.seq = seq;
    a.block_table = tables;
    a.table_stride = 0;
    kern_cpu(KERN_ISA_AUTO)->attention(&a, (struct kern_part){0, 1, scratch, scratch_bytes});
    rc |= b->dev->ops->copy_out(b->dev, got, b->out, floats * sizeof *got);
    if (rc == 0 && memcmp(got, want, floats * sizeof *got) != 0)
        rc = fail("comparing with the CPU");
    mem_unmap(blocks, n * b->block_bytes);
    mem_unmap(scratch, scratch_bytes);
    free(want);
    free(got);
    free(table);
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void say(const struct bench *b, int rows, int context, const double *one, const double *many)
{
    double sorted[RUNS], us[RUNS];
    memcpy(sorted, one, sizeof sorted);
    qsort(sorted, RUNS, sizeof sorted[0], by_value);
    for (int i = 0; i < RUNS; i++)
        us[i] = (many[i] - sorted[RUNS / 2]) / (LAUNCHES - 1);
    memcpy(sorted, us, sizeof sorted);
    qsort(sorted, RUNS, sizeof sorted[0], by_value);
    double gb = (double)b->block_bytes / KV_BLOCK_TOKENS * context * rows * 1e-9;
    double median = sorted[RUNS / 2], rate = gb / (median * 1e-6);
    fprintf(stderr, "rows %2d context %6d: %8.2f us %8.1f GB/s\n", rows, context, median, rate);
    printf("{\"bench\": \"cuda_attention\", \"heads\": %d, \"kv_heads\": %d, \"width\": %d, "
           "\"rows\": %d, \"context\": %d, \"us\": %.3f, \"gb_per_s\": %.1f, \"samples_us\": [",
           b->heads, b->kv_heads, b->dim, rows, context, median, rate);
    for (int i = 0; i < RUNS; i++)
        printf("%s%.3f", i ? ", " : "", us[i]);
    printf("]}\n");
}

static int measure(struct bench *b, int rows, int context)
{
    size_t each = (size_t)context / KV_BLOCK_TOKENS;
    size_t bytes = sizeof(struct plan) + LAUNCHES * (size_t)rows * each * sizeof(int32_t);
    struct plan *p = b->dev->step->plan_alloc(b->dev, bytes);
    if (!p)
        return fail("plan memory");
    int rc = deal(b, p, bytes, rows, context);
    struct dev_recorded *one = record(b, p, 1, rows, context);
    struct dev_recorded *many = record(b, p, LAUNCHES, rows, context);
    double one_us[RUNS], many_us[RUNS];
    if (!one || !many)
        rc = fail("recording");
    for (int run = -2; run < RUNS && rc == 0; run++) {
        rc = deal(b, p, bytes, rows, context);
        double us = replay_us(b, many);
        if (rc == 0)
            rc = deal(b, p, bytes, rows, context);
        if (run >= 0)
            many_us[run] = us;
        us = replay_us(b, one);
        if (run >= 0)
            one_us[run] = us;
    }
    if (rc == 0)
        rc = check(b, p, context);
    if (rc == 0)
        say(b, rows, context, one_us, many_us);
    b->dev->step->forget(b->dev, one);
    b->dev->step->forget(b->dev, many);
    b->dev->step->plan_free(b->dev, p);
    return rc;
}

/* Numbers of about -2 to 2, as bf16 pairs or floats. */
static int fill(struct bench *b, double gib)
{
    uint64_t state = 1;
    size_t pool_bytes = (size_t)(gib * 0x1p30) / b->block_bytes * b->block_bytes;
    b->blocks = pool_bytes / b->block_bytes;
    b->pool = b->dev->ops->alloc(b->dev, pool_bytes);
    b->q = b->dev->ops->alloc(b->dev, b->q_bytes);
    b->out = b->dev->ops->alloc(b->dev, b->q_bytes);
    uint16_t *random = mem_map(FILL_BYTES);
    b->host_q = mem_new(1, b->q_bytes);
    if (!b->pool || !b->q || !b->out || !random || !b->host_q)
        return fail("memory");
    for (size_t i = 0; i < FILL_BYTES / 2; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        random[i] = (uint16_t)((state >> 33 & 0x81ff) | 0x3e00);
    }
    for (size_t i = 0; i < b->q_bytes / 4; i++)
        b->host_q[i] = kern_from_bf16(random[i]);
    struct dev_event event = {0};
    int rc = b->dev->ops->copy_in(b->dev, b->q, b->host_q, b->q_bytes, &event);
    rc |= b->dev->ops->event_wait(b->dev, &event);
    for (size_t at = 0; at < pool_bytes && rc == 0; at += FILL_BYTES) {
        size_t n = pool_bytes - at < FILL_BYTES ? pool_bytes - at : FILL_BYTES;
        event = (struct dev_event){0};
        rc = b->dev->ops->copy_in(b->dev, b->pool + at, random, n, &event);
        rc |= b->dev->ops->event_wait(b->dev, &event);
    }
    mem_unmap(random, FILL_BYTES);
    return rc;
}

int main(int argc, char **argv)
{
    struct bench b = {.heads = 32, .kv_heads = 4, .dim = 128};
    const char *contexts = argc > 2 ? argv[2] : "128,256,512,1024,2048,4096,8192,16384,32768";
    struct moed_error err = {0};
    struct dev_choice choice;
    if (argc > 3 && sscanf(argv[3], "%d,%d,%d", &b.heads, &b.kv_heads, &b.dim) != 3) {
        fprintf(stderr, "the third argument is heads,kv heads,width\n");
        return 2;
    }
    if (dev_choose(&choice, "cuda", &err) < 0 || dev_open(&b.dev, &choice, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.block_bytes = (size_t)2 * (size_t)b.kv_heads * KV_BLOCK_TOKENS * (size_t)b.dim * 2;
    b.q_bytes = (size_t)MAX_ROWS * (size_t)b.heads * (size_t)b.dim * sizeof(float);
    int rc = fill(&b, argc > 4 ? atof(argv[4]) : 8);
    for (const char *p = argc > 1 ? argv[1] : "1,8,32"; *p && rc == 0; p += *p == ',') {
        int rows = (int)strtol(p, (char **)&p, 10);
        for (const char *c = contexts; *c && rc == 0; c += *c == ',') {
            int context = (int)strtol(c, (char **)&c, 10);
            if (rows < 1 || rows > MAX_ROWS || context < 16 || context % 16)
                rc = fail("reading the arguments");
            else
                rc = measure(&b, rows, context);
        }
    }
    b.dev->ops->free(b.dev, b.pool, b.blocks * b.block_bytes);
    b.dev->ops->free(b.dev, b.q, b.q_bytes);
    b.dev->ops->free(b.dev, b.out, b.q_bytes);
    free(b.host_q);
    dev_close(&b.dev);
    return rc != 0;
}
