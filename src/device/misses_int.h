/* What misses.c, misses_serve.c and misses_share.c share. */
#ifndef MOED_DEVICE_MISSES_INT_H
#define MOED_DEVICE_MISSES_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "device/misses.h"

/* Words of the mailbox belong to two kinds of processors: plain integers there, atomic here. */
static inline uint32_t mail_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void mail_store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static inline int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

enum { GATE_UP, DOWN, HALVES };

/*
 * Words of a half of a job: a seq and a number of pieces. A piece is a fraction of a worker's part;
 * a word of an older job counts as 0 pieces of this one.
 */
static inline uint64_t miss_word(uint32_t seq, uint32_t pieces)
{
    return (uint64_t)seq << 32 | pieces;
}

static inline uint32_t miss_pieces(uint64_t word, uint32_t seq)
{
    return (uint32_t)(word >> 32) == seq ? (uint32_t)word : 0;
}

struct miss_worker {
    /* Pieces of its part that someone has claimed, in order. Written by this worker and by those
     * who have no more pieces of their own. */
    _Alignas(MAILBOX_LINE_BYTES) _Atomic uint64_t claimed[HALVES];
    /* Pieces that this worker has done, of whoever's part. Written by this worker, read by worker
     * 0. `broken` is written first. */
    _Alignas(MAILBOX_LINE_BYTES) _Atomic uint64_t done[HALVES];
    _Atomic uint32_t broken; /* seq of the job that it could not serve */
    /* Written by this worker: time in kernels, pieces taken from others, jobs it had a part in. */
    _Atomic uint64_t busy_ns, taken, jobs;
    /* This worker's own. */
    _Alignas(MAILBOX_LINE_BYTES) struct misses *m;
    pthread_t thread;
    int index, cpu; /* cpu: to pin to, or -1 */
    void *scratch;
    struct kern_expert_group *group; /* [max_groups] */
};

/* What jobs both sides worked on told of their speeds. */
enum miss_sum { SUM_CPU_NS, SUM_LINK_NS, SUM_CPU_BYTES, SUM_LINK_BYTES, SUMS };

/* What a class of jobs may do: the CPU alone, or both at the share found so far. */
enum miss_way { WAY_CPU, WAY_BOTH, WAYS };

/* One class of the table of shares. */
struct miss_share {
    _Atomic uint64_t way_ns[WAYS], way_groups[WAYS]; /* whole jobs, since open; worker 0 writes */
    uint64_t way_ns_seen[WAYS], way_groups_seen[WAYS];
    double cost[WAYS];          /* nanoseconds per group, smoothed; 0: not known. Engine thread */
    enum miss_way way;          /* of the step to come */
    enum miss_way better;       /* by what they cost; way is the other one now and then */
    _Atomic uint64_t sum[SUMS]; /* since open; worker 0 writes */
    uint64_t seen[SUMS];        /* what the share was adapted to; engine thread */
    double share;               /* in 1/MAILBOX_SHARE_ONE; engine thread */
};

/* What is kept of a job until the GPU has told when its parts ended. */
struct miss_job {
    int groups, link_groups; /* of the CPU, of the link alone */
    uint64_t cpu_bytes;      /* of records, that the CPU read */
    enum miss_way way;
    uint64_t posted_ns; /* of the GPU's clock; 0: not told */
    int64_t cpu_ns;     /* from when it was seen to its end */
};

/* Written by worker 0 alone, read by any thread: each number is whole, together they may be of
 * neighbouring moments. */
struct miss_counters {
    _Atomic uint64_t jobs, groups, pairs, failed, abandoned, bytes;
    _Atomic uint64_t gate_up_ns, wait_ns, down_ns, total_ns, link_late;
    _Atomic uint64_t histogram[MISSES_HISTOGRAM];
};

struct misses {
    struct misses_config cfg;
    int threads, started; /* workers wanted; running */
    uint32_t pieces;      /* of each worker's part */
    bool yields;          /* in waits: at most one core is left to all others */
    bool pinned;
    uint32_t first_seq; /* what `posted` held at open */
    size_t scratch_bytes;
    struct miss_worker *worker; /* [threads] */
    uint8_t *scratch;           /* [threads][scratch_bytes] */

    /* Grows by one at each begin and end of a step: odd while one runs. Parked workers sleep on
     * it. */
    _Alignas(MAILBOX_LINE_BYTES) _Atomic uint32_t steps;
    _Atomic uint32_t parked;
    _Atomic uint32_t stop;
    _Atomic uint64_t wakes; /* engine thread writes */

    /* Written by worker 0: seq of the last job whose hidden stands, and that is over or off. */
    _Alignas(MAILBOX_LINE_BYTES) _Atomic uint32_t released;
    _Atomic uint32_t over;

    _Alignas(MAILBOX_LINE_BYTES) struct miss_counters n;
    struct miss_share share[MAILBOX_SHARE_CLASSES];
    uint32_t adapted;     /* how often; engine thread */
    struct miss_job last; /* the job before; worker 0's */
};

/* misses_serve.c: a worker's life. */
void *miss_worker_main(void *worker);
void miss_wake_all(struct misses *m);

/* misses_share.c */
void misses_share_init(struct misses *m);
void misses_share_adapt(struct misses *m);
/* What each side did of a job both worked on: bytes of records, all or those of gate/up. */
struct miss_parts {
    int64_t cpu_ns, link_ns;
    uint64_t cpu_bytes, link_bytes;
};
/* Worker 0 tells of a job of so many missed experts. */
void misses_share_note(struct misses *m, int missed, const struct miss_parts *parts);
/* Worker 0, after each job: how long the one before took until the GPU had all of it, and the link,
 * if it had experts of its own (before_link_ns, as it stood when this job began). */
void misses_share_ended(struct misses *m, const struct miss_job *now, uint64_t before_link_ns);

static inline void miss_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

#endif
