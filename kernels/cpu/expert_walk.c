#include "cpu_int.h"

static size_t grain_of(const struct kern_expert_group *g)
{
    return g->n == 1 ? 1 : EXPERT_GRAIN;
}

static size_t units_of(const struct kern_expert_group *g, size_t outs)
{
    return (outs + grain_of(g) - 1) / grain_of(g);
}

static size_t unit_cost(const struct kern_expert_group *g)
{
    return g->n ? ((size_t)g->n + EXPERT_BYTES_COST_ROWS) * grain_of(g) : 0;
}

struct expert_walk expert_walk_begin(const struct kern_experts *call, enum expert_half half,
                                     struct kern_part part)
{
    int all = half == EXPERT_GATE_UP ? call->cls->intermediate : call->cls->hidden;
    int end = half == EXPERT_GATE_UP ? call->inner_end : call->width_end;
    struct expert_walk w = {.call = call, .outs = (size_t)(end > 0 && end < all ? end : all)};
    size_t total = 0;
    for (int g = 0; g < call->n_groups; g++)
        total += units_of(&call->group[g], w.outs) * unit_cost(&call->group[g]);
    size_t index = (size_t)part.index, count = (size_t)part.count;
    size_t behind = index + (size_t)(call->run ? call->run : 1);
    w.lo = total * index / count;
    w.hi = total * behind / count;
    w.more = total * (behind + (size_t)call->more) / count;
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
    while (w->group < w->call->n_groups && w->before < w->more) {
        const struct kern_expert_group *g = &w->call->group[w->group++];
        size_t each = unit_cost(g), before = w->before, units = units_of(g, w->outs);
        if (!each)
            continue;
        w->before += units * each;
        size_t lo = units_below(w->lo, before, each, units) * grain_of(g);
        size_t hi = units_below(w->hi, before, each, units) * grain_of(g);
        size_t more = units_below(w->more, before, each, units) * grain_of(g);
        hi = hi < w->outs ? hi : w->outs;
        more = more < w->outs ? more : w->outs;
        if (lo < more) {
            *share = (struct expert_share){g, {lo, hi > lo ? hi : lo}, more};
            return 1;
        }
    }
    return 0;
}

void kern_experts_fetch_down(const struct kern_experts *a, struct kern_part part, size_t from,
                             size_t end)
{
    const struct record_class *c = a->cls;
    size_t row_bytes = c->down_row_bytes, before = 0;
    struct expert_walk walk = expert_walk_begin(a, EXPERT_DOWN, part);
    struct expert_share s;
    while (before < end && expert_walk_next(&walk, &s)) {
        const char *at = (const char *)s.group->record + c->down_off + s.outs.lo * row_bytes;
        size_t bytes = (s.outs.hi - s.outs.lo) * row_bytes;
        size_t hi = bytes < end - before ? bytes : end - before;
        for (size_t i = from > before ? from - before : 0; i < hi; i += 64)
            __builtin_prefetch(at + i, 0, 2);
        before += bytes;
    }
}
