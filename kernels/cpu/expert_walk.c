#include "cpu_int.h"

static size_t unit_cost(const struct kern_expert_group *g)
{
    return g->n ? (size_t)g->n + EXPERT_BYTES_COST_ROWS : 0;
}

struct expert_walk expert_walk_begin(const struct kern_experts *call, size_t outs,
                                     struct kern_part part)
{
    size_t units = (outs + EXPERT_GRAIN - 1) / EXPERT_GRAIN, total = 0;
    for (int g = 0; g < call->n_groups; g++)
        total += units * unit_cost(&call->group[g]);
    struct expert_walk w = {.call = call, .outs = outs};
    w.lo = total * (size_t)part.index / (size_t)part.count;
    w.hi = total * ((size_t)part.index + 1) / (size_t)part.count;
    return w;
}

/* A unit belongs to the part in whose range its first point of cost lies. */
static size_t units_below(size_t cost, size_t before, size_t each, size_t units)
{
    if (cost <= before)
        return 0;
    size_t n = (cost - before + each - 1) / each;
    return n < units ? n : units;
}

int expert_walk_next(struct expert_walk *w, struct expert_share *share)
{
    size_t units = (w->outs + EXPERT_GRAIN - 1) / EXPERT_GRAIN;
    while (w->group < w->call->n_groups && w->before < w->hi) {
        const struct kern_expert_group *g = &w->call->group[w->group++];
        size_t each = unit_cost(g), before = w->before;
        if (!each)
            continue;
        w->before += units * each;
        size_t lo = units_below(w->lo, before, each, units) * EXPERT_GRAIN;
        size_t hi = units_below(w->hi, before, each, units) * EXPERT_GRAIN;
        hi = hi < w->outs ? hi : w->outs;
        if (lo < hi) {
            *share = (struct expert_share){g, {lo, hi}};
            return 1;
        }
    }
    return 0;
}
