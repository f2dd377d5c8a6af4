/*
 * Replaying recorded or synthetic routing against a policy, without device, threads or records: the
 * same counts as a synchronous pager, at millions of uses per second. One thread.
 */
#ifndef MOED_PAGER_REPLAY_H
#define MOED_PAGER_REPLAY_H

#include <stddef.h>
#include <stdint.h>

#include "pager/policy.h"

/* Which experts each step used. Starts as {0} with n_layers and n_experts set. */
struct trace {
    int n_layers, n_experts;
    int32_t *keys; /* [n_uses] layer * n_experts + expert, distinct within a step, by layer */
    int32_t *rows; /* [n_uses] rows that chose it */
    size_t n_uses;
    size_t *step_end; /* [n_steps] index into keys */
    size_t n_steps;
    size_t cap_uses, cap_steps;
};

void trace_fini(struct trace *t);
/* Adds a use to the step that is being recorded. Layers must not fall within a step. */
void trace_use(struct trace *t, int layer, int expert, int rows);
void trace_end_step(struct trace *t);

struct replay_counts {
    uint64_t uses, hits, misses, admissions, evictions, bypasses;
    uint64_t dropped; /* asked for and given up for better ones */
};

/*
 * Runs the trace through a policy with n_slots slots, empty at first. Steps before first_counted
 * are run and not counted. As in the pager: a layer's uses are one event; what a step missed
 * becomes resident at its end, in the place of what the step did not use.
 */
void replay_policy(const struct trace *t, const struct policy_ops *ops, int32_t n_slots,
                   size_t first_counted, struct replay_counts *out);

/*
 * The same with a link that brings loads_per_step records in a step (a fraction adds up), as an
 * ordinary pager admits: what a step missed and what waits is ranked by worth; what is copied while
 * the next step runs is shown to the one after; a slot is empty from the victim's leaving to the
 * newcomer's arrival.
 */
void replay_link(const struct trace *t, const struct policy_ops *ops, int32_t n_slots,
                 double loads_per_step, size_t first_counted, struct replay_counts *out);

/*
 * The fewest misses that any policy could have, knowing the future (Belady's MIN, with the right to
 * bypass): after each step those stay whose next use comes first.
 */
void replay_belady(const struct trace *t, int32_t n_slots, size_t first_counted,
                   struct replay_counts *out);

#endif
