/*
 * Least frequently and recently used: the chance that an expert is used in the next step, as a
 * blend of recency (a use rate with a half-life of one step) and frequency (rates with the
 * half-lives of a sentence and of a paragraph). For loads that take no time and cost nothing.
 *
 * Rows count for frequency, because what a prompt's many tokens chose is what its answer will
 * choose; up to a cap, so that one long prompt does not outweigh all streams beside it.
 *
 * Any one span alone is worse than the blend (docs/pager.md has the table).
 */
#include "pager/policy_int.h"

/* Found by search over the traces and synthetic routings of tests/sim/pager; the optimum is flat.
 */
static const struct rate_span spans[] = {{1, 1, 1}, {16, 32, 1}, {64, 32, 4}};

static struct policy *lfru_open(int32_t n_keys, int32_t n_slots)
{
    return rates_open(n_keys,
                      &(struct rates){.spans = spans, .n_spans = sizeof spans / sizeof spans[0]});
}

const struct policy_ops policy_lfru = {.name = "lfru", .open = lfru_open, RATES_OPS};
