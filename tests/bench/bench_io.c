/*
 * How much of what plain O_DIRECT reads reach does io_read_all reach, on the same files, in the
 * same run? And how fast are dummy weights made?
 *
 *     bench_io FOLDER [MiB]      makes two files there, reads them, removes them
 *
 * The plain reader: as many threads, each taking the next aligned 4 MiB, into a buffer of its own.
 * io_read_all gets what a loader gives it: tensors of odd sizes at odd offsets, to records
 * elsewhere.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/io.h"
#include "store/store.h"

#define FILES       2
#define ROUNDS      3
#define THREADS     8
#define CHUNK_BYTES ((size_t)4 << 20)
/* A matrix of a Qwen3-30B-A3B expert, and a header's odd length before the first. */
#define TENSOR_BYTES ((size_t)768 * 2048 * 2)
#define HEADER_BYTES ((size_t)12345 * 8)

static double read_clock(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

struct files {
    char path[FILES][1024];
    const char *paths[FILES];
    size_t bytes; /* of each */
};

static int make_files(struct files *f, const char *folder)
{
    uint8_t *chunk = aligned_alloc(4096, CHUNK_BYTES);
    for (size_t i = 0; i < CHUNK_BYTES; i++)
        chunk[i] = (uint8_t)(i * 2654435761u >> 16);
    for (int k = 0; k < FILES; k++) {
        snprintf(f->path[k], sizeof f->path[k], "%s/bench_io.%d.tmp", folder, k);
        f->paths[k] = f->path[k];
        int fd = open(f->path[k], O_CREAT | O_TRUNC | O_WRONLY, 0600);
        if (fd < 0) {
            perror(f->path[k]);
            free(chunk);
            return -1;
        }
        for (size_t at = 0; at < f->bytes; at += CHUNK_BYTES)
            if (write(fd, chunk, CHUNK_BYTES) != (ssize_t)CHUNK_BYTES)
                perror(f->path[k]);
        fsync(fd);
        close(fd);
    }
    free(chunk);
    return 0;
}

static void drop_caches(const struct files *f)
{
    for (int k = 0; k < FILES; k++) {
        int fd = open(f->path[k], O_RDONLY);
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

struct plain {
    const struct files *files;
    int fd[FILES];
    _Atomic size_t next;
    _Atomic int failed;
};

static void *plain_body(void *arg)
{
    struct plain *p = arg;
    size_t each = p->files->bytes / CHUNK_BYTES, i;
    void *buffer = aligned_alloc(4096, CHUNK_BYTES);
    while ((i = atomic_fetch_add(&p->next, 1)) < each * FILES)
        if (pread(p->fd[i / each], buffer, CHUNK_BYTES, (off_t)(i % each * CHUNK_BYTES)) !=
            (ssize_t)CHUNK_BYTES)
            atomic_store(&p->failed, 1);
    free(buffer);
    return NULL;
}

/* GB/s, 0 where O_DIRECT is refused. */
static double read_plain(const struct files *f)
{
    struct plain p = {.files = f};
    pthread_t threads[THREADS];
    double begin = seconds();
    for (int k = 0; k < FILES; k++)
        if ((p.fd[k] = open(f->path[k], O_RDONLY | O_DIRECT)) < 0)
            return 0;
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, plain_body, &p);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    double took = seconds() - begin;
    for (int k = 0; k < FILES; k++)
        close(p.fd[k]);
    return atomic_load(&p.failed) ? 0 : (double)(f->bytes * FILES) / took * 1e-9;
}

static double read_ours(const struct files *f, const struct io_extent *extents, size_t n,
                        int direct)
{
    struct moed_error err = {0};
    struct io_config cfg = {.threads = THREADS, .direct = direct};
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += extents[i].bytes;
    double begin = seconds();
    if (io_read_all(f->paths, FILES, extents, n, &cfg, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 0;
    }
    return (double)bytes / (seconds() - begin) * 1e-9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x)
{
    qsort(x, ROUNDS, sizeof x[0], by_value);
    return x[ROUNDS / 2];
}

static void bench_reads(const struct files *f)
{
    size_t each = (f->bytes - HEADER_BYTES) / TENSOR_BYTES, n = each * FILES;
    struct io_extent *extents = mem_new(n, sizeof extents[0]);
    size_t arena_bytes = n * (TENSOR_BYTES + 64);
    uint8_t *arena = mem_map(arena_bytes);
    if (!arena) {
        fprintf(stderr, "no memory for %zu bytes\n", arena_bytes);
        free(extents);
        return;
    }
    memset(arena, 1, arena_bytes); /* pages are there before the clock runs, for both */
    for (size_t i = 0; i < n; i++)
        extents[i] = (struct io_extent){.file = (int)(i / each),
                                        .offset = HEADER_BYTES + i % each * TENSOR_BYTES,
                                        .bytes = TENSOR_BYTES,
                                        .dst = arena + i * (TENSOR_BYTES + 64)};
    double plain[ROUNDS], ours[ROUNDS], ratio[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        drop_caches(f);
        plain[r] = read_plain(f);
        drop_caches(f);
        ours[r] = read_ours(f, extents, n, IO_DIRECT_AUTO);
        ratio[r] = plain[r] > 0 ? ours[r] / plain[r] : 0;
        printf("  round %d: plain O_DIRECT %.3f GB/s, io_read_all %.3f GB/s\n", r, plain[r],
               ours[r]);
    }
    printf("median: plain %.3f GB/s, io_read_all %.3f GB/s, median of ratios %.2f\n", median(plain),
           median(ours), median(ratio));
    double cached[ROUNDS];
    for (int r = 0; r < ROUNDS; r++)
        cached[r] = read_ours(f, extents, n, IO_BUFFERED);
    printf("median of buffered reads, cached from the first on: %.3f GB/s\n", median(cached));
    mem_unmap(arena, arena_bytes);
    free(extents);
}

static void bench_dummy(void)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    size_t n = (size_t)8 << 20;
    void *out = mem_map(n * 4);
    memset(out, 1, n * 4);
    for (int k = 0; k < 3; k++) {
        struct tensor_ref t = {.name = "bench", .dtype = dtypes[k]};
        double rate[ROUNDS];
        for (int r = 0; r < ROUNDS; r++) {
            double begin = read_clock(CLOCK_THREAD_CPUTIME_ID);
            store_dummy_fill(&t, 0, n, 0, 1, out);
            double took = read_clock(CLOCK_THREAD_CPUTIME_ID) - begin;
            rate[r] = (double)(n * dtype_bytes(t.dtype)) / took * 1e-9;
        }
        printf("store_dummy_fill, %s: %.2f GB in a second of one core\n", dtype_name(t.dtype),
               median(rate));
    }
    mem_unmap(out, n * 4);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_io FOLDER [MiB]\n");
        return 2;
    }
    struct files f = {.bytes = ((size_t)(argc > 2 ? atoi(argv[2]) : 1024) << 20) / FILES};
    f.bytes = f.bytes / CHUNK_BYTES * CHUNK_BYTES;
    log_setup(LOG_WARN_LEVEL, LOG_FORMAT_TEXT);
    if (make_files(&f, argv[1]) == 0)
        bench_reads(&f);
    for (int k = 0; k < FILES; k++)
        unlink(f.path[k]);
    bench_dummy();
    return 0;
}
