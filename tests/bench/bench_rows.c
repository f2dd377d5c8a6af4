/*
 * How fast threads read the weights of missed experts, by how far ahead and into which cache they
 * prefetch: what the CPU kernels' distance (AHEAD_BYTES) and enum kern_ahead are chosen by. Each
 * pinned thread works on its own, without jobs: on a fourteenth of a random expert of
 * Qwen3-30B-A3B, gate and up row by row in turns, or down; cold bf16 weights times a vector in a
 * cache. Beside it the kernels themselves, as they are and both ways, on packed records too (GB/s
 * of what those take), and plain reads of the same rows. Rates are by the threads' own CPU time, so
 * that a thread that lost its core does not count as slow. About fifteen seconds.
 *
 *   bench_rows [GiB of weights, and as many packed [thread counts, as 1,8,14 [milliseconds a case
 * and round]]]
 */
#include "pool.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDTH  2048
#define INNER  768
#define PARTS  14
#define ROUNDS 3

enum level {
    PLAIN,
    KERNEL,
    KERNEL_L1,
    KERNEL_L2,
    PACKED,
    PACKED_L1,
    PACKED_L2,
    NONE,
    L1,
    L2,
    BOTH
};
static const char *const level_names[] = {"plain reads",
                                          "kernel",
                                          "kernel, L1",
                                          "kernel, L2 and L1",
                                          "kernel, packed",
                                          "kernel, packed, L1",
                                          "kernel, packed, L2 and L1",
                                          "none",
                                          "L1",
                                          "L2",
                                          "L2, L1 512 bytes ahead"};

static const struct variant {
    enum level level;
    size_t ahead_bytes; /* in the same matrix */
} variants[] = {{PLAIN, 0},     {KERNEL, 0},    {KERNEL_L1, 0}, {KERNEL_L2, 0}, {PACKED, 0},
                {PACKED_L1, 0}, {PACKED_L2, 0}, {NONE, 0},      {L1, 4096},     {L2, 4096},
                {L2, 8192},     {BOTH, 4096},   {BOTH, 8192}};
enum { VARIANTS = sizeof variants / sizeof *variants, THREADS = 8 };

struct bench {
    struct pool pool, packed_pool;
    struct record_class cls, packed;
    const struct kern_cpu *k;
    float x[WIDTH], hidden[INNER];
    double seconds;
    /* Of the case at hand. */
    struct variant variant;
    bool down;
    uint64_t turn;
    struct {
        _Alignas(128) double gb_per_s;
        float sum;
    } line[POOL_THREADS_MAX];
    double rate[2][THREADS][VARIANTS][ROUNDS];
};

/* As the kernels do it: 256 partial sums, a row after the other. */
#define ROW_LOOP(prefetch)                                                                         \
    for (size_t j = 0; j < k; j += 256) {                                                          \
        _Pragma("GCC unroll 16") for (size_t i = 0; i < 512; i += 64)                              \
        {                                                                                          \
            const char *p = (const char *)(w + j) + i;                                             \
            (void)p;                                                                               \
            prefetch;                                                                              \
        }                                                                                          \
        _Pragma("GCC unroll 16") for (size_t i = 0; i < 16; i++)                                   \
        {                                                                                          \
            __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(w + j + i * 16));    \
            __m512 wide = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); \
            acc[i] = _mm512_fmadd_ps(wide, _mm512_loadu_ps(x + j + i * 16), acc[i]);               \
        }                                                                                          \
    }

__attribute__((target("avx512f,avx512bw,avx512vl"))) static float
read_row(const uint16_t *w, const float *x, size_t k, const struct variant *v)
{
    __m512 acc[16];
    size_t ahead = v->ahead_bytes;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        acc[i] = _mm512_setzero_ps();
    switch (v->level) {
    case L1:
        ROW_LOOP(_mm_prefetch(p + ahead, _MM_HINT_T0))
        break;
    case L2:
        ROW_LOOP(_mm_prefetch(p + ahead, _MM_HINT_T1))
        break;
    case BOTH:
        ROW_LOOP(_mm_prefetch(p + ahead, _MM_HINT_T1); _mm_prefetch(p + 512, _MM_HINT_T0))
        break;
    default:
        ROW_LOOP((void)0)
        break;
    }
#pragma GCC unroll 16
    for (int i = 1; i < 16; i++)
        acc[0] = _mm512_add_ps(acc[0], acc[i]);
    return _mm512_reduce_add_ps(acc[0]);
}

static size_t rows_of(const struct bench *b, int part)
{
    return (size_t)(b->down ? WIDTH : INNER) * (size_t)part / PARTS;
}

static size_t compute_part(struct bench *b, const struct record_class *cls, const uint8_t *record,
                           int part, enum kern_ahead ahead)
{
    static const int32_t zero;
    static _Thread_local float hidden[INNER], y[WIDTH];
    _Alignas(64) char scratch[64 << 10];
    struct kern_expert_group group = {record, &zero, &zero, 1};
    struct kern_experts call = {cls, &group, 1, b->x, b->down ? b->hidden : hidden, y};
    call.ahead = ahead;
    (b->down ? b->k->experts_down : b->k->experts_gate_up)(
        &call, (struct kern_part){part, PARTS, scratch, sizeof scratch});
    size_t rows = rows_of(b, part + 1) - rows_of(b, part);
    return rows * (b->down ? cls->down_row_bytes : 2 * cls->in_row_bytes);
}

/* A part of one record; its bytes. */
static size_t read_part(struct bench *b, const struct record_class *cls, const uint8_t *record,
                        int part, float *sum)
{
    static const enum kern_ahead ahead[] = {KERN_AHEAD_AUTO, KERN_AHEAD_L1, KERN_AHEAD_L2};
    enum level level = b->variant.level;
    if (level >= KERNEL && level <= PACKED_L2)
        return compute_part(b, cls, record, part, ahead[(level - KERNEL) % 3]);
    size_t k = b->down ? INNER : WIDTH, row_bytes = k * 2, lo = rows_of(b, part);
    size_t rows = rows_of(b, part + 1) - lo, bytes = rows * row_bytes * (b->down ? 1 : 2);
    const uint8_t *at[2] = {record + (b->down ? b->cls.down_off : b->cls.gate_off) + lo * row_bytes,
                            b->down ? NULL : record + b->cls.up_off + lo * row_bytes};
    for (int m = 0; m < 2 && at[m] && level == PLAIN; m++)
        *sum += (float)b->k->read(at[m], rows * row_bytes);
    for (size_t r = 0; r < rows && level != PLAIN; r++)
        for (int m = 0; m < 2 && at[m]; m++)
            *sum += read_row((const uint16_t *)(const void *)(at[m] + r * row_bytes),
                             b->down ? b->hidden : b->x, k, &b->variant);
    return bytes;
}

static void run_thread(void *arg, int index, int threads)
{
    struct bench *b = arg;
    uint64_t random = (b->turn * POOL_THREADS_MAX + (uint64_t)index + 1) * 0x9e3779b97f4a7c15u;
    bool packed = b->variant.level >= PACKED && b->variant.level <= PACKED_L2;
    const struct record_class *cls = packed ? &b->packed : &b->cls;
    const struct pool *pool = packed ? &b->packed_pool : &b->pool;
    size_t records = pool->bytes / cls->bytes, bytes = 0;
    float sum = 0;
    double begin_us = pool_thread_us(), us = 0;
    for (; us < b->seconds * 1e6; us = pool_thread_us() - begin_us) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        /* Not the last one: prefetches go beyond it. */
        const uint8_t *record = pool->p + (random >> 33) % (records - 1) * cls->bytes;
        bytes += read_part(b, cls, record, (int)((random >> 20) % PARTS), &sum);
    }
    b->line[index].sum = sum;
    b->line[index].gb_per_s = (double)bytes / us * 1e-3;
    (void)threads;
}

static double run_case(struct bench *b, int threads, bool down, const struct variant *v)
{
    double all = 0;
    b->variant = *v;
    b->down = down;
    b->turn++;
    pool_run(threads, run_thread, b);
    for (int i = 0; i < threads; i++)
        all += b->line[i].gb_per_s;
    return all;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_case(struct bench *b, int threads, bool down, int v, double *rate, bool *first)
{
    const char *half = down ? "down" : "gate, up", *level = level_names[variants[v].level];
    printf("%s\n {\"half\": \"%s\", \"threads\": %d, \"prefetch\": \"%s\", \"ahead_bytes\": %zu, "
           "\"gb_per_s\": [",
           *first ? "" : ",", half, threads, level, variants[v].ahead_bytes);
    *first = false;
    for (int i = 0; i < ROUNDS; i++)
        printf("%s%.2f", i ? ", " : "", rate[i]);
    printf("]}");
    qsort(rate, ROUNDS, sizeof *rate, by_value);
    fprintf(stderr, "%s, %d threads, prefetch: %s, %zu bytes ahead: %.1f GB/s (%.1f to %.1f)\n",
            half, threads, level, variants[v].ahead_bytes, rate[ROUNDS / 2], rate[0],
            rate[ROUNDS - 1]);
}

int main(int argc, char **argv)
{
    static struct bench b = {.cls.bytes = 0};
    double gib = argc > 1 ? atof(argv[1]) : 12;
    int threads[THREADS], n_threads = 0, cpu[POOL_THREADS_MAX];
    int cpus = cores_allowed(cpu, POOL_THREADS_MAX);
    char counts[128];
    bool first = true;
    snprintf(counts, sizeof counts, "%s", argc > 2 ? argv[2] : "1,8,14");
    b.seconds = (argc > 3 ? atof(argv[3]) : 25) * 1e-3;
    b.cls = record_class_swiglu(DTYPE_BF16, WIDTH, INNER);
    b.packed = record_class_packed(WIDTH, INNER);
    b.k = kern_cpu(KERN_ISA_AVX512);
    for (char *p = strtok(counts, ","); p && n_threads < THREADS; p = strtok(NULL, ","))
        if (atoi(p) > 0 && atoi(p) <= cpus)
            threads[n_threads++] = atoi(p);
    if (!b.k || gib < 0.25 || !pool_open(&b.pool, (size_t)(gib * 0x1p30), true) ||
        !pool_open(&b.packed_pool, (size_t)(gib * 0x1p30), true) ||
        !pool_pack(&b.packed_pool, b.k, WIDTH, INNER)) {
        fprintf(stderr, "bench_rows: needs AVX-512 and memory: [GiB [threads,... [ms]]]\n");
        return 1;
    }
    for (int i = 0; i < WIDTH; i++)
        b.x[i] = b.hidden[i % INNER] = 0.01f * (float)(i % 7);
    pool_describe_machine(stderr);
    for (int round = 0; round < ROUNDS; round++)
        for (int down = 0; down < 2; down++)
            for (int t = 0; t < n_threads; t++)
                for (int v = 0; v < VARIANTS; v++)
                    b.rate[down][t][v][round] = run_case(&b, threads[t], down, &variants[v]);
    printf("{\"bench\": \"rows\", \"pool_bytes\": %zu, \"rates\": [", b.pool.bytes);
    for (int down = 0; down < 2; down++)
        for (int t = 0; t < n_threads; t++)
            for (int v = 0; v < VARIANTS; v++)
                print_case(&b, threads[t], down, v, b.rate[down][t][v], &first);
    printf("]}\n");
    mem_unmap(b.pool.p, b.pool.bytes);
    mem_unmap(b.packed_pool.p, b.packed_pool.bytes);
    return 0;
}
#else
int main(void)
{
    fprintf(stderr, "bench_rows: for x86-64 only\n");
    return 1;
}
#endif
