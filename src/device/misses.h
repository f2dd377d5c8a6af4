/*
 * The CPU's half of a miss: persistent workers that serve a mailbox (kernels/mailbox.h) in memory
 * that a GPU maps, so that missed experts cost no call of the driver and no lock.
 *
 * Each worker watches the mailbox itself and has a part of each job, by output rows across all
 * groups. It does its part piece by piece, then pieces of those who are behind: a core that is slow
 * or busy elsewhere holds nobody up for longer than a piece. Worker 0 collects what is done and
 * writes the mailbox's words. Workers spin while a step runs and
 * shortly after it, then park; a step that goes on without a job makes them doze.
 *
 * Threads: open, close, step_begin, step_end, settle, link shares: one thread, the engine's.
 * stats, busy: any thread.
 */
#ifndef MOED_DEVICE_MISSES_H
#define MOED_DEVICE_MISSES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "mailbox.h"
#include "moed/error.h"

#define MISSES_THREADS_MAX 256
/* link_share of a config: learned while running. */
#define MISSES_SHARE_ADAPTIVE (-1)

struct misses;

struct misses_config {
    int threads; /* 0: misses_default_threads() */
    /* Each worker on a core of its own; AUTO: where affinity and quota leave more cores than there
     * are workers. */
    enum { MISSES_PIN_AUTO, MISSES_PIN_NO, MISSES_PIN_YES } pin;
    const struct kern_cpu *kern;
    const struct record_class *cls;
    /* [layers * experts], entries may be NULL: not here. Changed between steps only. */
    const void *const *host_of;
    int layers, experts;
    /* Zeroed memory of layout.bytes, mapped by the GPU; the caller's, outlives the workers. */
    struct mailbox *mailbox;
    struct mailbox_layout layout;
    int link_share;        /* 0..MAILBOX_SHARE_ONE, or MISSES_SHARE_ADAPTIVE */
    int64_t wait_limit_us; /* of each wait inside a job; 0: 2 s */
    int park_us; /* workers spin so long after a step; 0: 2,000, or 200 with one on every core */
    int doze_us; /* and so long after a job of a running step; 0: 20,000 */
    int pieces;  /* of a worker's part, which others may take when they have none left; 0: 32 */
    /* For tests: called by each worker that has a part in a job, when it begins, and before its
     * first piece of down. May sleep. */
    void (*on_job)(void *arg, int worker, uint32_t seq, bool down);
    void *on_job_arg;
};

/* One less than the cores that affinity leaves, two less than a cgroup's quota below them; at least
 * 1. */
int misses_default_threads(void);

/* Errors: MOED_EINVAL for a config that cannot be, MOED_ENOMEM, MOED_EIO where a thread does not
 * start. */
int misses_open(struct misses **out, const struct misses_config *cfg, struct moed_error *err);
/* Ends waits of both sides (the mailbox's stop) and joins the workers; a job that is open is left
 * as it is. */
void misses_close(struct misses **m);

/* Around each step that may post jobs. begin wakes parked workers, which takes them some tens of
 * microseconds, and costs the caller a wake-up of two; it also adapts the shares to the jobs of the
 * steps before. A second begin, or end, in a row changes nothing. */
void misses_step_begin(struct misses *m);
void misses_step_end(struct misses *m);

/* After a step that failed or was abandoned, and before the next: waits until no worker is in the
 * job that was posted last. MOED_EDEADLINE when one still is after limit_us. */
int misses_settle(struct misses *m, int64_t limit_us, struct moed_error *err);

/* A job is being served right now: admissions should yield. */
bool misses_busy(const struct misses *m);

/*
 * The link's share of a job in 1/MAILBOX_SHARE_ONE, by the number of its groups: a table of
 * MAILBOX_SHARE_CLASSES entries (mailbox_share_class). Bits never depend on it. The step's copy is
 * taken after step_begin.
 */
int misses_link_share(const struct misses *m, int n_groups);
void misses_link_shares(const struct misses *m, int32_t share[MAILBOX_SHARE_CLASSES]);

/* Speeds measured at start: of each side alone, and of both at jobs that they share (0: not known).
 * They make the first shares of an adaptive table, and say whether jobs are shared at all until
 * such jobs were timed. Start times are what a job costs beside its bytes: hand-off, meeting, first
 * loads. */
struct misses_rates {
    double cpu_gb_per_s, link_gb_per_s, both_gb_per_s;
    double cpu_start_us, link_start_us;
};
void misses_set_rates(struct misses *m, const struct misses_rates *rates);

/* What happened since open. Times are worker 0's, in nanoseconds, summed over jobs that were done.
 */
#define MISSES_HISTOGRAM 16
struct misses_stats {
    uint64_t jobs, groups, pairs;
    uint64_t failed;     /* given up by the CPU: a wait that expired, a job beyond its limits */
    uint64_t abandoned;  /* given up by the GPU */
    uint64_t wakes;      /* steps that found workers parked */
    uint64_t bytes;      /* of weights that the CPU read */
    uint64_t gate_up_ns; /* posted seen until all parts of hidden stand */
    uint64_t wait_ns;    /* waiting for the link's part of hidden */
    uint64_t down_ns;
    uint64_t total_ns;
    uint64_t busy_ns;      /* in kernels, of all workers together */
    uint64_t pieces_taken; /* by a worker from another one's part */
    uint64_t parts_missed; /* workers that came too late for any piece, over all jobs */
    uint64_t link_late;    /* jobs in which the CPU waited for the link's part of hidden */
    /* Jobs by total time: entry i counts those below 2^i microseconds that entry i - 1 does not;
     * the last one all others. */
    uint64_t histogram[MISSES_HISTOGRAM];
    /* By class (mailbox_share_class) and by whether the link had a share: time from the posting to
     * the end as the GPU saw it, where it told, and missed experts. */
    struct {
        uint64_t ns, groups;
    } seen[MAILBOX_SHARE_CLASSES][2];
    int threads;
    bool pinned;
};
void misses_stats(const struct misses *m, struct misses_stats *out);

#endif
