/*
 * What the benches of CPU reads share: pinned threads, a pool of records on pages of a given size,
 * plain reads of it as a yardstick, and a line on the machine. Main thread only.
 */
#ifndef MOED_TESTS_BENCH_POOL_H
#define MOED_TESTS_BENCH_POOL_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../pack_record.h"
#include "base/clock.h"
#include "base/mem.h"
#include "device/cores.h"
#include "kernels.h"

#define POOL_THREADS_MAX 256

typedef void pool_fn(void *arg, int index, int threads);

struct pool_thread {
    pthread_t thread;
    pool_fn *fn;
    void *arg;
    int cpu, index, threads;
};

static inline void pool_pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu % CPU_SETSIZE, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static inline void *pool_thread_main(void *arg)
{
    struct pool_thread *t = arg;
    pool_pin(t->cpu);
    t->fn(t->arg, t->index, t->threads);
    return NULL;
}

/* Runs fn on each of n CPUs at once. */
static inline void pool_run_on(const int *cpu, int n, pool_fn *fn, void *arg)
{
    static struct pool_thread thread[POOL_THREADS_MAX];
    for (int i = 0; i < n; i++) {
        thread[i] =
            (struct pool_thread){.fn = fn, .arg = arg, .cpu = cpu[i], .index = i, .threads = n};
        if (pthread_create(&thread[i].thread, NULL, pool_thread_main, &thread[i]))
            abort();
    }
    for (int i = 0; i < n; i++)
        pthread_join(thread[i].thread, NULL);
}

/* The CPUs that n workers of misses would get. */
static inline void pool_run(int n, pool_fn *fn, void *arg)
{
    int cpu[POOL_THREADS_MAX], cpus = cores_allowed(cpu, POOL_THREADS_MAX);
    n = n < cpus ? n : cpus;
    cores_spread(cpu, cpus, n, "/sys/devices/system/cpu");
    pool_run_on(cpu, n, fn, arg);
}

/* Of the calling thread's own time: whoever takes its core away does not count. */
static inline double pool_thread_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

struct pool {
    uint8_t *p;
    size_t bytes;
};

/* Random bf16 of magnitudes 2^-6 to 2^-5. */
static inline void pool_fill_part(void *arg, int index, int threads)
{
    const struct pool *pool = arg;
    size_t words = pool->bytes / 8, lo = words / (size_t)threads * (size_t)index;
    size_t hi = index + 1 == threads ? words : lo + words / (size_t)threads;
    uint64_t r = (uint64_t)index * 0x9e3779b97f4a7c15u + 1, *at = (uint64_t *)(void *)pool->p;
    for (size_t i = lo; i < hi; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        at[i] = ((r ^ r >> 29) & 0x807f807f807f807fu) | 0x3c803c803c803c80u;
    }
}

/* Mapped and filled by all cores; false where there is not so much memory. */
static inline bool pool_open(struct pool *pool, size_t bytes, bool huge)
{
    *pool = (struct pool){mem_map(bytes), bytes};
    if (!pool->p)
        return false;
    if (!huge)
        madvise(pool->p, bytes, MADV_NOHUGEPAGE);
    double begin = clock_seconds();
    pool_run(POOL_THREADS_MAX, pool_fill_part, pool);
    double seconds = clock_seconds() - begin;
    fprintf(stderr, "pool of %.1f GiB, %.1f GiB of it on huge pages, filled in %.1f s\n",
            (double)bytes / 0x1p30, (double)mem_huge_bytes(pool->p, bytes) / 0x1p30, seconds);
    return true;
}

/* Packed records in their turn: some, over and over. A weight in 2,048 is far smaller than the
 * others, as in trained ones. */
#define POOL_PACKED 16

struct pool_packing {
    const struct pool *pool;
    struct record_class cls;
};

static inline void pool_repeat_part(void *arg, int index, int threads)
{
    const struct pool_packing *p = arg;
    size_t records = p->pool->bytes / p->cls.bytes;
    for (size_t i = POOL_PACKED + (size_t)index; i < records; i += (size_t)threads)
        memcpy(p->pool->p + i * p->cls.bytes, p->pool->p + i % POOL_PACKED * p->cls.bytes,
               p->cls.bytes);
}

/* False where there is no room for so many. */
static inline bool pool_pack(const struct pool *pool, const struct kern_cpu *k, int width,
                             int inner)
{
    struct record_class plain = record_class_swiglu(DTYPE_BF16, width, inner);
    struct pool_packing p = {pool, record_class_packed(width, inner)};
    struct pool weights = {mem_map(plain.bytes), plain.bytes};
    bool whole = weights.p && pool->bytes / p.cls.bytes > POOL_PACKED;
    for (size_t i = 0; whole && i < POOL_PACKED; i++) {
        uint16_t *w = (uint16_t *)(void *)weights.p;
        pool_fill_part(&weights, 0, 1);
        for (size_t j = i * 100; j < plain.bytes / 2; j += 1024 + (j * 40503 >> 4) % 2048)
            w[j] ^= 0x1000;
        whole = pack_record(k, &plain, w, &p.cls, pool->p + i * p.cls.bytes);
    }
    if (weights.p)
        mem_unmap(weights.p, weights.bytes);
    if (whole)
        pool_run(POOL_THREADS_MAX, pool_repeat_part, &p);
    return whole;
}

/* Reads of random blocks, each thread on its own for some time. */
#define POOL_BLOCK_BYTES ((size_t)1 << 20)

struct pool_reads {
    const struct pool *pool;
    const struct kern_cpu *k;
    size_t bytes; /* of the pool, from its start */
    double seconds;
    uint64_t turn;
    struct {
        _Alignas(128) double gb_per_s;
        uint32_t sum;
    } line[POOL_THREADS_MAX];
};

static inline void pool_read_part(void *arg, int index, int threads)
{
    struct pool_reads *r = arg;
    uint64_t random = (r->turn * POOL_THREADS_MAX + (uint64_t)index + 1) * 0x9e3779b97f4a7c15u;
    size_t blocks = r->bytes / POOL_BLOCK_BYTES, n = 0;
    double begin = clock_seconds(), now = begin;
    for (; now - begin < r->seconds; now = clock_seconds(), n++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const uint8_t *at = r->pool->p + (random >> 33) % blocks * POOL_BLOCK_BYTES;
        r->line[index].sum += r->k->read(at, POOL_BLOCK_BYTES);
    }
    r->line[index].gb_per_s = (double)(n * POOL_BLOCK_BYTES) / (now - begin) * 1e-9;
}

/* GB/s of n threads together over the first `bytes`; of the slowest and fastest where asked for. */
static inline double pool_reads(const struct pool *pool, size_t bytes, const struct kern_cpu *k,
                                int n, double seconds, double *slowest, double *fastest)
{
    static struct pool_reads r;
    uint64_t turn = r.turn + 1;
    double all = 0, least = 0, most = 0;
    r = (struct pool_reads){pool, k, bytes < pool->bytes ? bytes : pool->bytes, seconds, turn};
    pool_run(n, pool_read_part, &r);
    for (int i = 0; i < n; i++) {
        double rate = r.line[i].gb_per_s;
        all += rate;
        least = i == 0 || rate < least ? rate : least;
        most = rate > most ? rate : most;
    }
    if (slowest)
        *slowest = least;
    if (fastest)
        *fastest = most;
    return all;
}

static inline bool pool_line_of(const char *path, const char *key, char *line, int bytes)
{
    FILE *f = fopen(path, "re");
    bool found = false;
    while (f && !found && fgets(line, bytes, f))
        found = strncmp(line, key, strlen(key)) == 0;
    if (f)
        fclose(f);
    line[found ? strcspn(line, "\n") : 0] = '\0';
    return found;
}

/* Hundredths of a second that other machines of the host took from this one's CPUs, summed. */
static inline long long pool_steal(void)
{
    char line[512] = "";
    long long steal = 0;
    if (pool_line_of("/proc/stat", "cpu ", line, sizeof line))
        sscanf(line, "cpu %*s %*s %*s %*s %*s %*s %*s %lld", &steal);
    return steal;
}

static inline void pool_describe_machine(FILE *to)
{
    static const char *const file[][2] = {
        {"/proc/cpuinfo", "model name"},
        {"/proc/cpuinfo", "siblings"},
        {"/proc/cpuinfo", "cpu cores"},
        {"/proc/meminfo", "MemTotal"},
        {"/sys/devices/system/node/online", ""},
        {"/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", ""},
        {"/sys/devices/system/cpu/cpu0/cache/index2/size", ""},
        {"/sys/devices/system/cpu/cpu0/cache/index3/size", ""},
        {"/sys/devices/system/cpu/cpu0/cache/index3/shared_cpu_list", ""},
        {"/sys/kernel/mm/transparent_hugepage/enabled", ""},
        {"/sys/devices/system/clocksource/clocksource0/current_clocksource", ""}};
    char line[512];
    for (size_t i = 0; i < sizeof file / sizeof *file; i++)
        if (pool_line_of(file[i][0], file[i][1], line, sizeof line))
            fprintf(to, "%s: %s\n", file[i][0], line);
}

#endif
