/*
 * Speed of the CPU kernels on the shapes of Qwen3-30B-A3B, weights cold, beside plain reads and
 * fused multiply-adds measured in the same run. Before an op is timed, a small instance of it is
 * compared with the scalar kernels bit by bit.
 *
 *   bench_kernels [threads [isa [seconds per figure]]]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../pack_record.h"
#include "base/mem.h"
#include "device/device.h"

#define HIDDEN      2048
#define WIDE        768
#define VOCAB       151936
#define EXPERTS     128
#define TOP_K       8
#define HEADS       32
#define KV_HEADS    4
#define HEAD_DIM    128
#define ROWS_MAX    128
#define MIB         ((size_t)1 << 20)
#define PLAIN_BYTES (512 * MIB)

struct bench {
    struct dev *dev;
    const char *isa;
    double seconds; /* of each figure */
    double peak_gflop_per_s;
    uint64_t random;
    float *x, *y, *hidden; /* activations, large enough for every op here */
    const struct kern_cpu *k;
    uint8_t *plain; /* [PLAIN_BYTES] memory for plain reads, taken piece by piece */
    size_t plain_at, plain_bytes;
    _Atomic uint32_t sum;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint32_t next_random(struct bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(b->random >> 33);
}

static void *map(size_t bytes)
{
    void *p = mem_map(bytes);
    if (!p) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return p;
}

/* bf16 numbers of magnitude 1/64 to 1/32 with random signs; one in 2,048 is far smaller, as in
 * trained weights. */
static void *random_bf16(struct bench *b, size_t n)
{
    uint16_t *p = map(n * sizeof *p);
    for (size_t i = 0; i < n; i++) {
        uint32_t random = next_random(b);
        p[i] = (uint16_t)((random >> 16 & 0x7ff ? 0x3c80 : 0x3080) | (random & 0x807f));
    }
    return p;
}

struct peak {
    const struct kern_cpu *k;
    double flop[1024]; /* of each part */
    float sink[1024];
};

static void peak_part(void *arg, int part, int parts)
{
    struct peak *p = arg;
    p->flop[part] = p->k->multiply_add(200000, &p->sink[part]);
}

/* GFLOP/s of all compute threads. */
static double measure_peak(struct bench *b)
{
    static struct peak p;
    p.k = b->k;
    int threads = dev_cpu_info(b->dev).threads;
    double best = 0;
    for (int pass = 0; pass < 5; pass++) {
        double t0 = now_s();
        dev_cpu_parallel(b->dev, peak_part, &p, threads);
        double rate = p.flop[0] * threads / (now_s() - t0) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void plain_part(void *arg, int part, int parts)
{
    struct bench *b = arg;
    size_t lines = b->plain_bytes / 64, lo = lines * (size_t)part / (size_t)parts;
    size_t hi = lines * ((size_t)part + 1) / (size_t)parts;
    b->sum += b->k->read(b->plain + b->plain_at + lo * 64, (hi - lo) * 64);
}

/* Plain reads of as many bytes as an op has, of the next cold piece, in seconds. */
static double plain_read(struct bench *b, double bytes)
{
    b->plain_bytes = bytes > (double)PLAIN_BYTES ? PLAIN_BYTES
                     : bytes < MIB               ? MIB
                                                 : (size_t)bytes / 64 * 64;
    if (b->plain_at + b->plain_bytes > PLAIN_BYTES)
        b->plain_at = 0;
    double t0 = now_s();
    dev_cpu_parallel(b->dev, plain_part, b, 4 * dev_cpu_info(b->dev).threads);
    double seconds = now_s() - t0;
    b->plain_at += b->plain_bytes;
    return seconds;
}

/*
 * Times step(arg, i) until the time is used up and prints the median. bytes and flop are of one.
 * Plain reads take turns with the op, so that both see the machine alike.
 */
static void report(struct bench *b, const char *op, int rows, double bytes, double flop,
                   void (*step)(struct bench *, void *, int), void *arg)
{
    enum { SAMPLES_MAX = 2000, SAMPLES_MIN = 5 };
    double sample[SAMPLES_MAX], plain[SAMPLES_MAX], begin = now_s();
    int n = 0;
    step(b, arg, 0);
    while (n < SAMPLES_MAX && (n < SAMPLES_MIN || now_s() - begin < b->seconds)) {
        double t0 = now_s();
        step(b, arg, n + 1);
        sample[n] = now_s() - t0;
        plain[n++] = plain_read(b, bytes);
    }
    qsort(sample, (size_t)n, sizeof *sample, by_value);
    qsort(plain, (size_t)n, sizeof *plain, by_value);
    double median = sample[n / 2], gb = bytes / median * 1e-9, gflop = flop / median * 1e-9;
    double read_gb = (double)b->plain_bytes / plain[n / 2] * 1e-9;
    printf("%-16s %5d %10.1f %10.1f %8.2f %8.2f %6.0f%% %9.1f %6.0f%%\n", op, rows, median * 1e6,
           sample[0] * 1e6, gb, read_gb, 100 * gb / read_gb, gflop,
           100 * gflop / b->peak_gflop_per_s);
    fflush(stdout);
}

static void must_equal(const char *op, const float *got, const float *want, size_t n)
{
    if (memcmp(got, want, n * sizeof *got) != 0) {
        fprintf(stderr, "%s differs from the scalar kernels\n", op);
        exit(1);
    }
}

/* One part on the scalar kernels. */
static struct kern_part whole(void *scratch, size_t bytes)
{
    return (struct kern_part){0, 1, scratch, bytes};
}

static void step_linear(struct bench *b, void *arg, int i)
{
    b->dev->kern->linear(b->dev, arg);
}

static void bench_linear(struct bench *b, const char *name, int in, int out)
{
    void *w = random_bf16(b, (size_t)in * (size_t)out);
    void *scratch = map(MIB);
    static const int rows[] = {1, 2, 4, 8, 16, 32, 128};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        struct kern_linear a = {.w = w,
                                .w_dtype = DTYPE_BF16,
                                .x = b->x,
                                .y = b->y,
                                .x_stride = (size_t)in,
                                .n = rows[r],
                                .in = in};
        a.out = 40;
        a.y_stride = 40;
        b->dev->kern->linear(b->dev, &a);
        a.y = b->hidden;
        kern_cpu(KERN_ISA_SCALAR)->linear(&a, whole(scratch, MIB));
        must_equal(name, b->y, b->hidden, (size_t)rows[r] * 40);
        a.y = b->y;
        a.out = out;
        a.y_stride = (size_t)out;
        double weights = (double)in * out;
        report(b, name, rows[r], weights * 2, weights * 2 * rows[r], step_linear, &a);
    }
    mem_unmap(w, (size_t)in * (size_t)out * 2);
    mem_unmap(scratch, MIB);
}

/* Experts: each row chooses TOP_K different ones, new ones in each step. */
struct expert_bench {
    struct record_class cls;
    char *records;
    int rows;
    struct kern_expert_group group[EXPERTS];
    int32_t row[EXPERTS][ROWS_MAX], pair[EXPERTS][ROWS_MAX];
    struct kern_experts call;
};

static int choose(struct bench *b, struct expert_bench *e, int step)
{
    int distinct = 0;
    for (int x = 0; x < EXPERTS; x++)
        e->group[x] = (struct kern_expert_group){e->records + (size_t)x * e->cls.bytes, e->row[x],
                                                 e->pair[x], 0};
    for (int r = 0; r < e->rows; r++)
        for (int k = 0; k < TOP_K; k++) {
            /* One row walks through all experts, so that none is still in a cache. */
            int x = e->rows == 1 ? (step * TOP_K + k) % EXPERTS : (int)(next_random(b) % EXPERTS);
            while (e->group[x].n && e->row[x][e->group[x].n - 1] == r)
                x = (x + 1) % EXPERTS;
            distinct += !e->group[x].n;
            e->row[x][e->group[x].n] = r;
            e->pair[x][e->group[x].n++] = r * TOP_K + k;
        }
    return distinct;
}

static void step_experts(struct bench *b, void *arg, int i)
{
    struct expert_bench *e = arg;
    choose(b, e, i);
    b->dev->kern->experts_gate_up(b->dev, &e->call);
    b->dev->kern->experts_down(b->dev, &e->call);
}

static void bench_rows_of_experts(struct bench *b, struct expert_bench *e, const char *name)
{
    void *scratch = map(MIB);
    float *want = map((size_t)8 * TOP_K * HIDDEN * 4);
    static const int rows[] = {1, 2, 4, 8, 16, 32, 128};
    e->call = (struct kern_experts){&e->cls, e->group, EXPERTS, b->x, b->hidden, b->y};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        e->rows = rows[r];
        if (rows[r] <= 2) {
            step_experts(b, e, 0);
            struct kern_experts ref = e->call;
            ref.y = want;
            kern_cpu(KERN_ISA_SCALAR)->experts_gate_up(&ref, whole(scratch, MIB));
            kern_cpu(KERN_ISA_SCALAR)->experts_down(&ref, whole(scratch, MIB));
            must_equal(name, b->y, want, (size_t)rows[r] * TOP_K * HIDDEN);
        }
        double distinct = 0;
        for (int i = 0; i < 20; i++)
            distinct += choose(b, e, i) / 20.0;
        report(b, name, rows[r], distinct * (double)e->cls.bytes,
               6.0 * HIDDEN * WIDE * TOP_K * rows[r], step_experts, e);
    }
    mem_unmap(scratch, MIB);
    mem_unmap(want, (size_t)8 * TOP_K * HIDDEN * 4);
}

/* An expert in plain records to one in packed ones, and back from its rows of gate. */
struct pack_bench {
    const struct record_class *plain, *packed;
    char *records, *packed_records;
    uint16_t *w; /* [WIDE][HIDDEN] */
};

static void step_pack(struct bench *b, void *arg, int i)
{
    const struct pack_bench *p = arg;
    size_t x = (size_t)i % EXPERTS;
    if (!pack_record(b->k, p->plain, p->records + x * p->plain->bytes, p->packed,
                     p->packed_records + x * p->packed->bytes)) {
        fprintf(stderr, "an expert's lists are full\n");
        exit(1);
    }
}

static void step_unpack(struct bench *b, void *arg, int i)
{
    const struct pack_bench *p = arg;
    size_t x = (size_t)i % EXPERTS;
    b->k->unpack_rows(p->packed_records + x * p->packed->bytes, HIDDEN, WIDE, p->w);
}

static void bench_experts(struct bench *b)
{
    static struct expert_bench e;
    struct record_class plain = record_class_swiglu(DTYPE_BF16, HIDDEN, WIDE);
    struct record_class packed = record_class_packed(HIDDEN, WIDE);
    struct pack_bench p = {&plain, &packed, random_bf16(b, plain.bytes / 2 * EXPERTS),
                           map(packed.bytes * EXPERTS), map((size_t)WIDE * HIDDEN * 2)};
    e.cls = plain;
    e.records = p.records;
    bench_rows_of_experts(b, &e, "experts");
    for (int i = 0; i < EXPERTS; i++)
        step_pack(b, &p, i);
    e.cls = packed;
    e.records = p.packed_records;
    bench_rows_of_experts(b, &e, "packed experts");
    report(b, "pack, 1 thread", 1, (double)plain.bytes, 0, step_pack, &p);
    report(b, "unpack, 1 thread", 1, (double)WIDE * HIDDEN * 2, 0, step_unpack, &p);
    mem_unmap(p.records, plain.bytes * EXPERTS);
    mem_unmap(p.packed_records, packed.bytes * EXPERTS);
    mem_unmap(p.w, (size_t)WIDE * HIDDEN * 2);
}

static void step_attention(struct bench *b, void *arg, int i)
{
    b->dev->kern->attention(b->dev, arg);
}

static void bench_attention(struct bench *b, int context, int rows)
{
    int blocks = context / KV_BLOCK_TOKENS;
    size_t elems = (size_t)2 * KV_HEADS * KV_BLOCK_TOKENS * HEAD_DIM;
    struct kern_kv kv = {random_bf16(b, elems * (size_t)blocks), elems * 2, DTYPE_BF16, KV_HEADS,
                         HEAD_DIM};
    int32_t *table = map((size_t)blocks * sizeof *table), pos[ROWS_MAX], seq[ROWS_MAX];
    const int32_t *tables[1] = {table};
    for (int i = 0; i < blocks; i++)
        table[i] = (i * 7 + 3) % blocks;
    for (int i = 0; i < rows; i++) {
        pos[i] = context - rows + i;
        seq[i] = 0;
    }
    struct kern_attention a = {.kv = kv,
                               .q = b->x,
                               .out = b->y,
                               .q_stride = HEADS * HEAD_DIM,
                               .out_stride = HEADS * HEAD_DIM,
                               .pos = pos,
                               .seq = seq,
                               .block_table = tables,
                               .n = rows,
                               .heads = HEADS,
                               .scale = 0.088f,
                               .max_context = context};
    size_t scratch_bytes = kern_attention_scratch_bytes(HEAD_DIM, 1);
    void *scratch = map(scratch_bytes);
    struct kern_attention one = a;
    one.n = 1;
    one.out = b->hidden;
    b->dev->kern->attention(b->dev, &a);
    kern_cpu(KERN_ISA_SCALAR)->attention(&one, whole(scratch, scratch_bytes));
    must_equal("attention", b->y, b->hidden, HEADS * HEAD_DIM);
    char name[32];
    snprintf(name, sizeof name, "attention %d", context);
    report(b, name, rows, (double)elems * 2 * blocks, 4.0 * HEADS * HEAD_DIM * context * rows,
           step_attention, &a);
    mem_unmap(kv.blocks, elems * (size_t)blocks * 2);
    mem_unmap(table, (size_t)blocks * sizeof *table);
    mem_unmap(scratch, scratch_bytes);
}

/* The small ops of a layer, one row: what they cost beside the weights. */
static void step_norm(struct bench *b, void *arg, int i)
{
    b->dev->kern->rmsnorm(b->dev, arg);
}

static void step_router(struct bench *b, void *arg, int i)
{
    b->dev->kern->router(b->dev, arg);
}

static void step_combine(struct bench *b, void *arg, int i)
{
    b->dev->kern->combine(b->dev, arg);
}

static void step_silu(struct bench *b, void *arg, int i)
{
    b->dev->kern->silu_mul(b->dev, arg);
}

static void bench_small(struct bench *b)
{
    void *w = random_bf16(b, (size_t)HIDDEN * EXPERTS);
    int32_t id[32 * TOP_K];
    float weight[32 * TOP_K];
    for (int rows = 1; rows <= 32; rows *= 32) {
        struct kern_rmsnorm norm = {b->x, b->y, w, DTYPE_BF16, rows, HIDDEN, HIDDEN, HIDDEN, 1e-6f};
        report(b, "rmsnorm", rows, rows * HIDDEN * 8.0, rows * HIDDEN * 4.0, step_norm, &norm);
        struct kern_router router = {w,       DTYPE_BF16, b->x, rows, HIDDEN,
                                     EXPERTS, TOP_K,      1,    id,   weight};
        report(b, "router", rows, HIDDEN * EXPERTS * 2.0, rows * HIDDEN * EXPERTS * 2.0,
               step_router, &router);
        struct kern_combine combine = {b->x, weight, b->y, rows, TOP_K, HIDDEN};
        report(b, "combine", rows, rows * TOP_K * HIDDEN * 4.0, rows * TOP_K * HIDDEN * 2.0,
               step_combine, &combine);
        struct kern_silu_mul silu = {b->x, b->hidden, b->y, (size_t)rows * TOP_K * WIDE};
        report(b, "silu_mul", rows, rows * TOP_K * WIDE * 12.0, 0, step_silu, &silu);
    }
    mem_unmap(w, (size_t)HIDDEN * EXPERTS * 2);
}

int main(int argc, char **argv)
{
    struct moed_error err;
    struct dev_cpu_config cfg = {.threads = argc > 1 ? atoi(argv[1]) : 0, .max_context = 8192};
    int isa = argc > 2 ? kern_isa_parse(argv[2]) : KERN_ISA_AUTO;
    if (isa < 0) {
        fprintf(stderr, "unknown instruction set %s\n", argv[2]);
        return 2;
    }
    cfg.isa = (enum kern_isa)isa;
    struct bench b = {.seconds = argc > 3 ? atof(argv[3]) : 1, .random = 1};
    if (dev_cpu_open(&b.dev, &cfg, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    size_t floats = (size_t)ROWS_MAX * VOCAB;
    b.isa = dev_cpu_info(b.dev).isa;
    b.x = map(floats * sizeof(float));
    b.y = map(floats * sizeof(float));
    b.hidden = map(floats * sizeof(float));
    for (size_t i = 0; i < (size_t)ROWS_MAX * TOP_K * HIDDEN; i++)
        b.x[i] = (float)((int)(next_random(&b) % 2001) - 1000) * 1e-3f;
    b.k = kern_cpu((enum kern_isa)kern_isa_parse(b.isa));
    b.plain = map(PLAIN_BYTES);
    memset(b.plain, 1, PLAIN_BYTES);
    b.peak_gflop_per_s = measure_peak(&b);
    printf("%d threads, %s: plain reads %.2f GB/s, multiply-add peak %.0f GFLOP/s\n",
           dev_cpu_info(b.dev).threads, b.isa, dev_cpu_read_gb_per_s(b.dev, PLAIN_BYTES),
           b.peak_gflop_per_s);
    printf("%-16s %5s %10s %10s %8s %8s %7s %9s %7s\n", "op", "rows", "median us", "best us",
           "GB/s", "reads", "of it", "GFLOP/s", "of peak");
    bench_linear(&b, "qkv", HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM);
    bench_linear(&b, "lm_head", HIDDEN, VOCAB);
    bench_experts(&b);
    for (int context = 512; context <= 8192; context *= 4)
        bench_attention(&b, context, 1);
    bench_attention(&b, 4096, 32);
    bench_small(&b);
    mem_unmap(b.plain, PLAIN_BYTES);
    mem_unmap(b.x, floats * sizeof(float));
    mem_unmap(b.y, floats * sizeof(float));
    mem_unmap(b.hidden, floats * sizeof(float));
    dev_close(&b.dev);
    return 0;
}
