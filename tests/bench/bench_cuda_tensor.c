/*
 * Speed of the tensor class on CUDA, for the shapes of Qwen3-30B-A3B and Mixtral-8x7B: TFLOP/s of
 * products, experts with uneven numbers of rows, causal attention. Beside each product stands
 * cuBLAS where libcublas can be opened, and experts beside it one after the other. Experts come in
 * packed records too, which are unpacked each time.
 *
 *   bench_cuda_tensor [seconds per figure [filter]]
 *
 * One JSON line per figure, with all samples; a filter leaves out what does not have it in its
 * name. Weights and activations are random bits of moderate size: a tensor core that multiplies
 * zeros draws less power and runs faster than it ever will.
 */
#include <dlfcn.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../pack_record.h"
#include "device/device.h"

#define SAMPLES     7
#define MAX_EXPERTS 128
#define UNPACKED    16 /* experts that there is room for */

struct shape {
    const char *name;
    int hidden, inner, experts, top_k, heads, kv_heads, head_dim;
};

static const struct shape models[] = {
    {"qwen3-30b", 2048, 768, 128, 8, 32, 4, 128},
    {"mixtral-8x7b", 4096, 14336, 8, 2, 32, 8, 128},
};

struct cublas {
    void *handle;
    int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *,
                int, int, const void *, void *, int, int, int, int);
    int (*synchronize)(void);
};

struct bench {
    struct dev *dev;
    double seconds; /* of each figure */
    const char *filter;
    uint64_t random;
    struct cublas cublas;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void need(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "%s failed\n", what);
    exit(1);
}

static uint32_t next_random(struct bench *b)
{
    b->random = b->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(b->random >> 33);
}

/* About normal, deviation 1. */
static double next_normal(struct bench *b)
{
    double sum = 0;
    for (int i = 0; i < 12; i++)
        sum += next_random(b) * 0x1p-31;
    return sum - 6;
}

/* Two bf16 of magnitude 2^-5 to 2^-4. */
static uint32_t next_pair(struct bench *b)
{
    uint32_t r = next_random(b);
    return 0x3d003d00 | (r & 0x00ff00ff) | (r & 0x02000000) << 6 | (r & 0x04000000) >> 11;
}

/* Device memory filled with copies of one random piece, of such pairs or of fp32. */
static void *filled(struct bench *b, size_t bytes, bool fp32)
{
    enum { PIECE = 8 << 20 };
    static uint8_t piece[PIECE];
    for (size_t i = 0; i < PIECE / 4; i++) {
        uint32_t word = next_pair(b);
        if (fp32)
            word = 0x3d000000 | (word & 0x7fffff) | word >> 31 << 31;
        memcpy(piece + i * 4, &word, 4);
    }
    uint8_t *p = b->dev->ops->alloc(b->dev, bytes);
    need(p != NULL, "device memory");
    for (size_t at = 0; at < bytes; at += PIECE) {
        struct dev_event event = {0};
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        need(b->dev->ops->copy_in(b->dev, p + at, piece, n, &event) == 0 &&
                 b->dev->ops->event_wait(b->dev, &event) == 0,
             "a copy");
    }
    return p;
}

static void drop(struct bench *b, void *p)
{
    b->dev->ops->free(b->dev, p, 0);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef void work(struct bench *b, void *arg);

static double time_of(struct bench *b, work *fn, void *arg, int turns, bool cublas)
{
    double t0 = now_s();
    for (int i = 0; i < turns; i++)
        fn(b, arg);
    need(cublas ? b->cublas.synchronize() == 0 : b->dev->kern->sync(b->dev) == 0, "waiting");
    return (now_s() - t0) / turns;
}

/* Queues the op so often that a sample takes its share of the time of a figure. */
static void measure(struct bench *b, const char *name, const char *by, double flop, double bytes,
                    work *fn, void *arg)
{
    bool cublas = strncmp(by, "cublas", 6) == 0;
    double sample[SAMPLES], sorted[SAMPLES];
    time_of(b, fn, arg, 2, cublas);
    double once = time_of(b, fn, arg, 3, cublas);
    int turns = (int)(b->seconds / SAMPLES / once) + 1;
    for (int i = 0; i < SAMPLES; i++)
        sorted[i] = sample[i] = time_of(b, fn, arg, turns, cublas);
    qsort(sorted, SAMPLES, sizeof *sorted, by_value);
    double median = sorted[SAMPLES / 2];
    printf("{\"bench\": \"cuda_tensor\", \"op\": \"%s\", \"by\": \"%s\", \"us\": %.1f", name, by,
           median * 1e6);
    if (flop > 0)
        printf(", \"tflop_per_s\": %.1f", flop / median * 1e-12);
    if (bytes > 0)
        printf(", \"gb_per_s\": %.0f", bytes / median * 1e-9);
    printf(", \"turns\": %d, \"samples_us\": [", turns);
    for (int i = 0; i < SAMPLES; i++)
        printf("%s%.1f", i ? ", " : "", sample[i] * 1e6);
    printf("]}\n");
    fflush(stdout);
}

static bool wanted(const struct bench *b, const char *name)
{
    return !b->filter || strstr(name, b->filter);
}

/* cuBLAS on bf16, without linking it. Its stream is the default one; nothing else runs. */
static void cublas_open(struct cublas *c)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so",
                                        "/usr/local/cuda/lib64/libcublas.so"};
    void *library = NULL, *driver = dlopen("libcuda.so.1", RTLD_NOW);
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !library; i++)
        library = dlopen(names[i], RTLD_NOW);
    int (*create)(void **) = NULL;
    if (library && driver) {
        *(void **)&create = dlsym(library, "cublasCreate_v2");
        *(void **)&c->gemm = dlsym(library, "cublasGemmEx");
        *(void **)&c->synchronize = dlsym(driver, "cuCtxSynchronize");
    }
    if (!create || !c->gemm || !c->synchronize || create(&c->handle) != 0) {
        c->gemm = NULL;
        printf("{\"bench\": \"cuda_tensor\", \"cublas\": null}\n");
    }
}

/* y [n][out] = x [n][in] w [out][in]^T; columns first, as cuBLAS sees it. */
static void cublas_product(struct bench *b, const void *w, const void *x, void *y, int n, int in,
                           int out)
{
    enum { TRANSPOSED = 1, PLAIN = 0, F32 = 0, BF16 = 14, COMPUTE_F32 = 68, ANY = -1 };
    const float one = 1, zero = 0;
    need(b->cublas.gemm(b->cublas.handle, TRANSPOSED, PLAIN, out, n, in, &one, w, BF16, in, x, BF16,
                        in, &zero, y, F32, out, COMPUTE_F32, ANY) == 0,
         "cublasGemmEx");
}

static void run_linear(struct bench *b, void *arg)
{
    need(b->dev->tensor->linear(b->dev, arg) == 0, "linear");
}

static void run_linear_cublas(struct bench *b, void *arg)
{
    struct kern_tensor_linear *a = arg;
    cublas_product(b, a->w, a->x, a->y, a->n, a->in, a->out);
}

static void bench_linear(struct bench *b, const struct shape *m, const char *what, int n, int in,
                         int out)
{
    char name[128];
    snprintf(name, sizeof name, "linear %s %s %d rows %d to %d", m->name, what, n, in, out);
    if (!wanted(b, name))
        return;
    size_t rows = (size_t)n;
    struct kern_tensor_linear a = {.w = filled(b, (size_t)in * (size_t)out * 2, false),
                                   .dtype = DTYPE_BF16,
                                   .x = filled(b, rows * (size_t)in * 2, false),
                                   .y = filled(b, rows * (size_t)out * 4, true),
                                   .x_stride = (size_t)in,
                                   .y_stride = (size_t)out,
                                   .n = n,
                                   .in = in,
                                   .out = out};
    double flop = 2.0 * n * in * out;
    measure(b, name, "moed", flop, 0, run_linear, &a);
    if (b->cublas.gemm)
        measure(b, name, "cublas", flop, 0, run_linear_cublas, &a);
    drop(b, (void *)a.w);
    drop(b, (void *)a.x);
    drop(b, a.y);
}

struct experts {
    struct kern_tensor_experts a;
    struct record_class cls;
    struct kern_expert_group group[MAX_EXPERTS];
    int32_t *row, *pair;
};

static void run_experts(struct bench *b, void *arg)
{
    struct experts *e = arg;
    need(b->dev->tensor->experts(b->dev, &e->a) == 0, "experts");
}

/* Gate, up and down of each expert over rows that lie together, without SiLU: less than is needed.
 */
static void run_experts_cublas(struct bench *b, void *arg)
{
    struct experts *e = arg;
    const struct record_class *c = &e->cls;
    for (int g = 0; g < e->a.n_groups; g++) {
        const uint8_t *record = e->group[g].record;
        int n = e->group[g].n;
        if (n == 0)
            continue;
        cublas_product(b, record + c->gate_off, e->a.x, e->a.y, n, c->hidden, c->intermediate);
        cublas_product(b, record + c->up_off, e->a.x, e->a.y, n, c->hidden, c->intermediate);
        cublas_product(b, record + c->down_off, (uint8_t *)e->a.hidden, e->a.y, n, c->intermediate,
                       c->hidden);
    }
}

/* Experts as a router of a real model takes them: top k of fixed biases plus noise per row. */
static void route(struct bench *b, const struct shape *m, int rows, struct experts *e)
{
    static int32_t chosen[1 << 20];
    double bias[MAX_EXPERTS], score[MAX_EXPERTS];
    int count[MAX_EXPERTS + 1] = {0}, pairs = rows * m->top_k;
    need((size_t)pairs <= sizeof chosen / sizeof chosen[0], "so many pairs");
    for (int i = 0; i < m->experts; i++)
        bias[i] = next_normal(b) * 0.8;
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < m->experts; i++)
            score[i] = bias[i] + next_normal(b);
        for (int k = 0; k < m->top_k; k++) {
            int best = 0;
            for (int i = 1; i < m->experts; i++)
                best = score[i] > score[best] ? i : best;
            score[best] = -1e9;
            chosen[r * m->top_k + k] = best;
            count[best + 1]++;
        }
    }
    for (int i = 0; i < m->experts; i++)
        count[i + 1] += count[i];
    for (int i = 0; i < m->experts; i++) {
        e->group[i].row = e->row + count[i];
        e->group[i].pair = e->pair + count[i];
        e->group[i].n = count[i + 1] - count[i];
    }
    for (int p = 0; p < pairs; p++) {
        int at = count[chosen[p]]++;
        e->row[at] = p / m->top_k;
        e->pair[at] = p;
    }
}

/* The same call on packed records; all experts have the same weights. */
static void bench_packed(struct bench *b, const struct shape *m, struct experts *e,
                         const char *name, double flop)
{
    struct record_class plain = e->cls;
    e->cls = record_class_packed(m->hidden, m->inner);
    uint32_t *record = malloc(plain.bytes), *packed = aligned_alloc(4096, e->cls.bytes);
    for (size_t i = 0; i < plain.bytes / 4; i++)
        record[i] = next_pair(b);
    need(pack_record(kern_cpu(KERN_ISA_AUTO), &plain, record, &e->cls, packed), "packing");
    uint8_t *records = b->dev->ops->alloc(b->dev, e->cls.bytes * (size_t)m->experts);
    e->a.unpacked_bytes = UNPACKED * kern_unpacked_bytes(m->hidden, m->inner);
    e->a.unpacked = b->dev->ops->alloc(b->dev, e->a.unpacked_bytes);
    need(records && e->a.unpacked, "device memory");
    for (int i = 0; i < m->experts; i++) {
        struct dev_event event = {0};
        uint8_t *at = records + (size_t)i * e->cls.bytes;
        need(b->dev->ops->copy_in(b->dev, at, packed, e->cls.bytes, &event) == 0 &&
                 b->dev->ops->event_wait(b->dev, &event) == 0,
             "a copy");
        e->group[i].record = at;
    }
    measure(b, name, "moed, packed records", flop, (double)e->cls.bytes * m->experts, run_experts,
            e);
    drop(b, records);
    drop(b, e->a.unpacked);
    free(record);
    free(packed);
}

static void bench_experts(struct bench *b, const struct shape *m, int rows)
{
    char name[128];
    snprintf(name, sizeof name, "experts %s %d rows", m->name, rows);
    if (!wanted(b, name))
        return;
    size_t pairs = (size_t)rows * (size_t)m->top_k;
    static struct experts e;
    e = (struct experts){.cls = record_class_swiglu(DTYPE_BF16, m->hidden, m->inner),
                         .row = calloc(pairs, sizeof(int32_t)),
                         .pair = calloc(pairs, sizeof(int32_t))};
    uint8_t *records = filled(b, e.cls.bytes * (size_t)m->experts, false);
    route(b, m, rows, &e);
    int least = rows, most = 0;
    for (int i = 0; i < m->experts; i++) {
        e.group[i].record = records + (size_t)i * e.cls.bytes;
        least = e.group[i].n < least ? e.group[i].n : least;
        most = e.group[i].n > most ? e.group[i].n : most;
    }
    e.a = (struct kern_tensor_experts){
        .cls = &e.cls,
        .group = e.group,
        .n_groups = m->experts,
        .x = filled(b, (size_t)rows * (size_t)m->hidden * 2, false),
        .hidden = filled(b, pairs * (size_t)m->inner * 2, false),
        .y = filled(b, pairs * (size_t)(m->hidden > m->inner ? m->hidden : m->inner) * 4, true)};
    double flop = 6.0 * (double)pairs * m->hidden * m->inner;
    double bytes = (double)e.cls.bytes * m->experts;
    printf("{\"bench\": \"cuda_tensor\", \"op\": \"%s\", \"rows_of_an_expert\": [%d, %d]}\n", name,
           least, most);
    measure(b, name, "moed", flop, bytes, run_experts, &e);
    if (b->cublas.gemm)
        measure(b, name, "cublas, one by one", flop, bytes, run_experts_cublas, &e);
    bench_packed(b, m, &e, name, flop);
    drop(b, records);
    drop(b, (void *)e.a.x);
    drop(b, e.a.hidden);
    drop(b, e.a.y);
    free(e.row);
    free(e.pair);
}

static void run_attention(struct bench *b, void *arg)
{
    need(b->dev->tensor->attention(b->dev, arg) == 0, "attention");
}

/* `seqs` sequences of rows / seqs positions each, from position `from` on. */
static void bench_attention(struct bench *b, const struct shape *m, int rows, int seqs, int from)
{
    char name[128];
    snprintf(name, sizeof name, "attention %s %d rows, %d sequences from %d", m->name, rows, seqs,
             from);
    if (!wanted(b, name))
        return;
    int each = rows / seqs, context = from + each;
    size_t width = (size_t)m->heads * (size_t)m->head_dim, per_seq = (size_t)context / 16 + 1;
    int32_t *pos = calloc((size_t)rows, sizeof *pos), *seq = calloc((size_t)rows, sizeof *seq);
    int32_t *table = calloc(per_seq * (size_t)seqs, sizeof *table);
    const int32_t **tables = calloc((size_t)seqs, sizeof *tables);
    for (int i = 0; i < rows; i++) {
        seq[i] = i / each;
        pos[i] = from + i % each;
    }
    for (size_t i = 0; i < per_seq * (size_t)seqs; i++)
        table[i] = (int32_t)((i * 7919) % (per_seq * (size_t)seqs));
    for (int s = 0; s < seqs; s++)
        tables[s] = table + (size_t)s * per_seq;
    struct kern_tensor_attention a = {
        .kv = {.block_bytes = (size_t)(2 * m->kv_heads * 16 * m->head_dim * 2),
               .dtype = DTYPE_BF16,
               .kv_heads = m->kv_heads,
               .head_dim = m->head_dim},
        .q = filled(b, (size_t)rows * width * 4, true),
        .out = filled(b, (size_t)rows * width * 2, false),
        .out_dtype = DTYPE_BF16,
        .q_stride = width,
        .out_stride = width,
        .pos = pos,
        .seq = seq,
        .block_table = tables,
        .n = rows,
        .heads = m->heads,
        .scale = 1 / sqrtf((float)m->head_dim)};
    a.kv.blocks = filled(b, per_seq * (size_t)seqs * a.kv.block_bytes, false);
    double pairs = seqs * ((double)each * from + (double)each * (each + 1) / 2);
    measure(b, name, "moed", pairs * m->heads * m->head_dim * 4, 0, run_attention, &a);
    drop(b, (void *)a.q);
    drop(b, a.out);
    drop(b, a.kv.blocks);
    free(pos);
    free(seq);
    free(table);
    free(tables);
}

static void run_round(struct bench *b, void *arg)
{
    need(b->dev->tensor->round(b->dev, arg) == 0, "round");
}

static void bench_round(struct bench *b, int rows, int dim)
{
    char name[128];
    snprintf(name, sizeof name, "round %d rows of %d", rows, dim);
    if (!wanted(b, name))
        return;
    size_t n = (size_t)rows * (size_t)dim;
    struct kern_round a = {.x = filled(b, n * 4, true),
                           .y = filled(b, n * 2, false),
                           .dtype = DTYPE_BF16,
                           .x_stride = (size_t)dim,
                           .y_stride = (size_t)dim,
                           .n = rows,
                           .dim = dim};
    measure(b, name, "moed", 0, (double)n * 6, run_round, &a);
    drop(b, (void *)a.x);
    drop(b, a.y);
}

static void bench_model(struct bench *b, const struct shape *m)
{
    static const int rows[] = {512, 4096, 16384};
    int q_dim = m->heads * m->head_dim, kv_dim = m->kv_heads * m->head_dim;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        bench_linear(b, m, "q", rows[i], m->hidden, q_dim);
        bench_linear(b, m, "k", rows[i], m->hidden, kv_dim);
        bench_linear(b, m, "o", rows[i], q_dim, m->hidden);
        bench_experts(b, m, rows[i]);
        bench_attention(b, m, rows[i], 1, 0);
    }
    bench_attention(b, m, 4096, 8, 0);
    bench_attention(b, m, 4096, 1, 12288);
}

int main(int argc, char **argv)
{
    struct moed_error err = {0};
    struct dev_choice choice;
    struct bench b = {.seconds = argc > 1 ? atof(argv[1]) : 0.4,
                      .filter = argc > 2 ? argv[2] : NULL,
                      .random = 88172645463325252u};
    if (dev_choose(&choice, "cuda", &err) < 0 || dev_open(&b.dev, &choice, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    need(b.dev->tensor != NULL, "opening the tensor class");
    printf("{\"bench\": \"cuda_tensor\", \"device\": \"%s\"}\n", choice.memory.name);
    cublas_open(&b.cublas);
    bench_round(&b, 16384, 2048);
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        bench_model(&b, &models[i]);
    dev_close(&b.dev);
    return 0;
}
