/*
 * How fast threads read the weights of missed experts, by how far ahead and into which cache they
 * prefetch: what the distance of the CPU kernels (ROW_AHEAD_BYTES) is to be chosen by. Pinned
 * threads share jobs of JOB_BYTES of cold bf16 weights evenly and multiply them with a row of x in
 * a cache, as the kernels do. Prints a line per case: threads, level, distance, GB/s.
 *
 *   bench_rows [GiB of weights [thread counts, as 8,12,14 [seconds per case]]]
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cores.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#define JOB_BYTES   ((size_t)6 << 20) /* gate and up of an expert of Qwen3-30B-A3B */
#define ROW_BYTES   ((size_t)4096)
#define THREADS_MAX 256
#define JOBS_MAX    4000

enum level { LEVEL_NONE, LEVEL_L1, LEVEL_L2, LEVEL_NTA, LEVELS };
static const char *const level_names[] = {"none", "L1", "L2", "nta"};

struct bench {
    _Alignas(128) _Atomic uint32_t job;
    const uint8_t *weights;
    size_t at;
    enum level level;
    size_t ahead;
    int threads;
    _Atomic int stop;
    struct {
        _Alignas(128) _Atomic uint32_t done;
        float sum;
    } line[THREADS_MAX];
    float x[ROW_BYTES / 2];
};

struct reader {
    struct bench *b;
    int index, cpu;
};

#define ROW_LOOP(prefetch)                                                                         \
    for (size_t j = 0; j < ROW_BYTES / 2; j += 256) {                                              \
        _Pragma("GCC unroll 16") for (size_t i = 0; i < 512; i += 64)                              \
        {                                                                                          \
            const char *p = (const char *)(w + j) + i + ahead;                                     \
            (void)p;                                                                               \
            prefetch;                                                                              \
        }                                                                                          \
        _Pragma("GCC unroll 16") for (size_t i = 0; i < 16; i++)                                   \
        {                                                                                          \
            __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)(w + j + i * 16));    \
            __m512 v = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));    \
            acc[i] = _mm512_fmadd_ps(v, _mm512_loadu_ps(x + j + i * 16), acc[i]);                  \
        }                                                                                          \
    }

__attribute__((target("avx512f,avx512bw,avx512vl"))) static float
read_row(const uint16_t *w, const float *x, enum level level, size_t ahead)
{
    __m512 acc[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++)
        acc[i] = _mm512_setzero_ps();
    switch (level) {
    case LEVEL_L1:
        ROW_LOOP(_mm_prefetch(p, _MM_HINT_T0))
        break;
    case LEVEL_L2:
        ROW_LOOP(_mm_prefetch(p, _MM_HINT_T1))
        break;
    case LEVEL_NTA:
        ROW_LOOP(_mm_prefetch(p, _MM_HINT_NTA))
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

static void read_part(struct bench *b, int index)
{
    size_t rows = JOB_BYTES / ROW_BYTES, n = (size_t)b->threads, i = (size_t)index;
    float sum = 0;
    for (size_t r = rows * i / n; r < rows * (i + 1) / n; r++)
        sum += read_row((const uint16_t *)(const void *)(b->weights + b->at + r * ROW_BYTES), b->x,
                        b->level, b->ahead);
    b->line[index].sum = sum;
}

static void pin_to(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu % CPU_SETSIZE, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static void *reader_main(void *arg)
{
    struct reader *self = arg;
    struct bench *b = self->b;
    pin_to(self->cpu);
    for (uint32_t seen = 0;;) {
        uint32_t job;
        while ((job = atomic_load_explicit(&b->job, memory_order_acquire)) == seen) {
            if (atomic_load_explicit(&b->stop, memory_order_relaxed))
                return NULL;
            _mm_pause();
        }
        seen = job;
        read_part(b, self->index);
        atomic_store_explicit(&b->line[self->index].done, job, memory_order_release);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct bench *b, size_t bytes, double seconds)
{
    static double us[JOBS_MAX];
    int n = 0;
    double end = clock_seconds() + seconds;
    while (n < JOBS_MAX && (n < 20 || clock_seconds() < end)) {
        b->at = b->at + 2 * JOB_BYTES > bytes ? 0 : b->at + JOB_BYTES;
        double begin = clock_seconds();
        uint32_t job = atomic_fetch_add_explicit(&b->job, 1, memory_order_release) + 1;
        for (int i = 0; i < b->threads; i++)
            while (atomic_load_explicit(&b->line[i].done, memory_order_acquire) != job)
                _mm_pause();
        us[n++] = (clock_seconds() - begin) * 1e6;
    }
    qsort(us, (size_t)n, sizeof *us, by_value);
    printf("threads %d, prefetch to %s, %5zu bytes ahead: median %.2f us, %.1f GB/s\n", b->threads,
           level_names[b->level], b->ahead, us[n / 2], (double)JOB_BYTES / us[n / 2] * 1e-3);
}

static void run_threads(struct bench *b, size_t bytes, int threads, double seconds)
{
    static const size_t ahead[] = {1024, 2048, 4096, 8192, 16384};
    static struct reader reader[THREADS_MAX];
    pthread_t thread[THREADS_MAX];
    int cpu[THREADS_MAX], cpus = cores_allowed(cpu, THREADS_MAX), started = 0;
    if (threads < 1 || threads > cpus)
        return;
    cores_spread(cpu, cpus, threads, "/sys/devices/system/cpu");
    memset(b->line, 0, sizeof b->line);
    b->threads = threads;
    b->job = 0;
    b->stop = 0;
    for (; started < threads; started++) {
        reader[started] = (struct reader){b, started, cpu[started]};
        if (pthread_create(&thread[started], NULL, reader_main, &reader[started]))
            break;
    }
    for (int level = LEVEL_NONE; level < LEVELS && started == threads; level++)
        for (size_t i = 0; i < sizeof ahead / sizeof *ahead && (level || !i); i++) {
            b->level = (enum level)level;
            b->ahead = level ? ahead[i] : 0;
            measure(b, bytes, seconds);
        }
    b->stop = 1;
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
}

int main(int argc, char **argv)
{
    static struct bench b;
    size_t bytes = (size_t)((argc > 1 ? atof(argv[1]) : 8) * (double)((size_t)1 << 30));
    char counts[128];
    snprintf(counts, sizeof counts, "%s", argc > 2 ? argv[2] : "8,12,14");
    uint8_t *weights = mem_map(bytes);
    if (!weights || bytes < 4 * JOB_BYTES || !__builtin_cpu_supports("avx512bw")) {
        fprintf(stderr, "bench_rows: needs AVX-512 and memory: [GiB [threads,... [seconds]]]\n");
        return 1;
    }
    memset(weights, 0x3c, bytes);
    b.weights = weights;
    for (size_t i = 0; i < sizeof b.x / sizeof *b.x; i++)
        b.x[i] = 0.01f * (float)(i % 7);
    for (char *p = strtok(counts, ","); p; p = strtok(NULL, ","))
        run_threads(&b, bytes, atoi(p), argc > 3 ? atof(argv[3]) : 0.15);
    mem_unmap(weights, bytes);
    return 0;
}
#else
int main(void)
{
    fprintf(stderr, "bench_rows: for x86-64 only\n");
    return 1;
}
#endif
