/*
 * How many sequences decode together, by what was measured: streams of different conversations
 * evict each other's experts, so that a larger batch may give fewer tokens a second in all. Pure:
 * the caller brings the clock. Rules and figures: src/sched/README.md, "Admission".
 *
 * Sizes of the batch are powers of two; a step counts for the nearest. Their rates are learned from
 * steps of decode rows alone, in windows of a second after a second in which the cache settles. The
 * best of the sizes that what runs and waits can fill is chosen. All together are tried soon; any
 * other size that is not known, or was bad long ago, is tried once the time that it may cost is
 * earned: trials may cost a fiftieth of the time of steps. What a trial lets in pauses after it.
 */
#ifndef MOED_ENGINE_ADMISSION_H
#define MOED_ENGINE_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

#define ADMISSION_SIZES 13 /* 1 to 4096 */

struct admission_size {
    double rate;       /* tokens/s of all rows, smoothed; 0: not known */
    double known_rate; /* as it was when the other sizes were last in doubt; 0: not steady yet */
    int64_t retry_us;  /* no trial before */
    int64_t backoff_us;
};

/* The last steps, as long as they were of one size. */
struct admission_spell {
    int32_t size;                  /* index; -1: none yet */
    int32_t away_steps;            /* the latest, of another size: so many and so long */
    int64_t away_us;               /* are not taken for a change yet */
    int32_t settle_steps, n_steps; /* not counted; of the window */
    int64_t settle_us, window_us;
    int64_t window_tokens;
    int32_t n_windows;
};

struct admission {
    int32_t max_seqs;
    int64_t max_wait_us; /* 0: any wait is borne */
    struct admission_size size[ADMISSION_SIZES];
    struct admission_spell spell;
    int32_t chosen;
    int64_t chosen_us; /* since when */
    int32_t trial;     /* -1: none */
    int64_t trial_end_us;
    bool owing;         /* the cache is not yet what it was before a trial: that is charged, too */
    double earned_us;   /* what trials may cost; negative: to be earned back first */
    int32_t demand[2];  /* the most that ran and waited in this period and in the one before */
    int64_t period_us;  /* when it began */
    double mean_tokens; /* of a sequence; 0: not known */
};

void admission_init(struct admission *a, int32_t max_seqs, int64_t max_wait_us);
/* Before a plan: how many may decode together, 1 to max_seqs, with so many sequences in the batch
 * and in the queue. */
int32_t admission_limit(struct admission *a, int64_t now_us, int32_t running, int32_t queued);
/* A step of so many decode rows has run. pure: it had no prompt rows, and no long pass ran since
 * the step before. */
void admission_step(struct admission *a, int32_t rows, bool pure, int64_t begin_us, int64_t end_us);
/* A sequence has ended after so many new tokens. */
void admission_ended(struct admission *a, int32_t tokens);

#endif
