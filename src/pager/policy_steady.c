/*
 * The steady part of what is used: uses per step, with a half-life of a sentence or two, and a
 * margin that pays for the copy. For loads that take link time from misses and arrive two steps
 * after they were asked for.
 *
 * What was used just now says little about two steps later, and a policy that follows it copies
 * three to eight times as much for the same hits. A copy costs about what a miss costs, so a
 * newcomer has to promise one use more than the victim within the time that it will be likely to
 * stay: MARGIN uses per step.
 *
 * Rows count up to a cap, because what a prompt's many tokens chose is what its answer will choose;
 * the rows of a long prompt are scaled down first, so that they still tell experts apart.
 */
#include "pager/policy_int.h"

/* Found by search over the synthetic routings of tests/sim/pager with a link of 8 and 26 records in
 * a step; the optimum is flat (docs/pager.md). */
#define MARGIN    0.03
#define MEAN_ROWS 24
static const struct rate_span spans[] = {{32, 64, 1}};

static struct policy *steady_open(int32_t n_keys, int32_t n_slots)
{
    return rates_open(n_keys, &(struct rates){.spans = spans,
                                              .n_spans = sizeof spans / sizeof spans[0],
                                              .margin = MARGIN,
                                              .mean_rows = MEAN_ROWS});
}

const struct policy_ops policy_steady = {.name = "steady", .open = steady_open, RATES_OPS};
