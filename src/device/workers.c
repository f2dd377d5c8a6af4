#include "device/workers.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

struct worker {
    struct workers *pool;
    pthread_t thread;
    int index;
};

/*
 * A job is posted by writing fn, arg and parts, then unfinished, then claim, then epoch. A worker
 * may look at fn, arg and parts only after it has claimed a part: from then to the end of that part
 * the job cannot end, so the caller does not touch them.
 */
struct workers {
    /* High half: the job's epoch; low half: parts not yet claimed. */
    _Alignas(64) _Atomic uint64_t claim;
    workers_fn *fn;
    void *arg;
    int parts;
    _Alignas(64) _Atomic uint32_t unfinished; /* parts not yet ended; the caller sleeps on it */
    _Atomic int caller_sleeps;
    _Alignas(64) _Atomic uint32_t epoch; /* grows with each job; idle workers sleep on it */
    _Atomic int sleepers;
    _Atomic int stop;
    int threads, spin_us;
    struct worker *worker; /* [threads], 0 unused */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Waits up to spin_us for *word to differ from (or, with want_zero, to become) what is waited for.
 */
static int spin(_Atomic uint32_t *word, uint32_t seen, int want_zero, int spin_us)
{
    for (int64_t end = 0;;) {
        for (int i = 0; i < 32; i++) {
            uint32_t v = atomic_load_explicit(word, memory_order_acquire);
            if (want_zero ? v == 0 : v != seen)
                return 1;
            cpu_relax();
        }
        int64_t now = now_us();
        if (!end)
            end = now + spin_us;
        if (now >= end)
            return 0;
    }
}

/* Takes parts of job `epoch` until none is left. */
static void work(struct workers *w, uint32_t epoch, int worker)
{
    uint64_t seen = atomic_load_explicit(&w->claim, memory_order_acquire);
    while ((uint32_t)(seen >> 32) == epoch && (uint32_t)seen) {
        if (!atomic_compare_exchange_weak_explicit(&w->claim, &seen, seen - 1, memory_order_acquire,
                                                   memory_order_acquire))
            continue;
        int parts = w->parts;
        w->fn(w->arg, parts - (int)(uint32_t)seen, parts, worker);
        if (atomic_fetch_sub(&w->unfinished, 1) == 1 && atomic_load(&w->caller_sleeps))
            futex_wake(&w->unfinished, 1);
        seen = atomic_load_explicit(&w->claim, memory_order_acquire);
    }
}

static void *worker_main(void *arg)
{
    struct worker *self = arg;
    struct workers *w = self->pool;
    uint32_t seen = 0;
    for (;;) {
        if (!spin(&w->epoch, seen, 0, w->spin_us)) {
            atomic_fetch_add(&w->sleepers, 1);
            while (atomic_load(&w->epoch) == seen)
                futex_wait(&w->epoch, seen);
            atomic_fetch_sub(&w->sleepers, 1);
        }
        seen = atomic_load_explicit(&w->epoch, memory_order_acquire);
        if (atomic_load(&w->stop))
            return NULL;
        work(w, seen, self->index);
    }
}

static void next_epoch(struct workers *w)
{
    atomic_fetch_add(&w->epoch, 1);
    if (atomic_load(&w->sleepers))
        futex_wake(&w->epoch, w->threads);
}

void workers_run(struct workers *w, workers_fn *fn, void *arg, int parts)
{
    if (parts <= 1 || w->threads == 1) {
        for (int i = 0; i < parts; i++)
            fn(arg, i, parts, 0);
        return;
    }
    uint32_t epoch = atomic_load_explicit(&w->epoch, memory_order_relaxed) + 1;
    w->fn = fn;
    w->arg = arg;
    w->parts = parts;
    atomic_store_explicit(&w->unfinished, (uint32_t)parts, memory_order_relaxed);
    atomic_store_explicit(&w->claim, (uint64_t)epoch << 32 | (uint32_t)parts, memory_order_release);
    next_epoch(w);
    work(w, epoch, 0);
    if (spin(&w->unfinished, 0, 1, w->spin_us))
        return;
    atomic_store(&w->caller_sleeps, 1);
    for (uint32_t left; (left = atomic_load(&w->unfinished));)
        futex_wait(&w->unfinished, left);
    atomic_store(&w->caller_sleeps, 0);
}

int workers_open(struct workers **out, int threads, int spin_us, struct moed_error *err)
{
    struct workers *w = aligned_alloc(64, (sizeof *w + 63) / 64 * 64);
    if (!w)
        return moed_fail(err, MOED_ENOMEM, "no memory for the compute threads");
    memset(w, 0, sizeof *w);
    w->spin_us = spin_us;
    w->worker = mem_new((size_t)threads, sizeof *w->worker);
    w->threads = 1;
    for (int i = 1; i < threads; i++, w->threads++) {
        w->worker[i] = (struct worker){.pool = w, .index = i};
        int rc = pthread_create(&w->worker[i].thread, NULL, worker_main, &w->worker[i]);
        if (rc) {
            workers_close(&w);
            return moed_fail(err, MOED_EIO, "compute thread %d of %d does not start: %s", i,
                             threads, strerror(rc));
        }
    }
    *out = w;
    return 0;
}

void workers_close(struct workers **wp)
{
    struct workers *w = *wp;
    if (!w)
        return;
    atomic_store(&w->stop, 1);
    next_epoch(w);
    for (int i = 1; i < w->threads; i++)
        pthread_join(w->worker[i].thread, NULL);
    free(w->worker);
    free(w);
    *wp = NULL;
}
