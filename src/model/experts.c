/*
 * The second half of a layer with experts: norm, router, then for each expert the rows that chose
 * it, and the sum of each row's experts in the router's order. Experts come from the pager, all of
 * a layer in one acquire, and go back when the sum is done.
 */
#include <assert.h>
#include <string.h>

#include "model/model_int.h"

int32_t experts_group(struct model *m, const struct pass *p)
{
    struct expert_groups *g = &m->groups;
    const int32_t experts = m->c.n_experts, top_k = m->c.top_k;
    const int32_t rows = p->batch.n_rows, pairs = rows * top_k;
    const int32_t *id = p->id;
    int32_t n = 0;
    memset(g->first, 0, ((size_t)experts + 1) * sizeof *g->first);
    for (int32_t i = 0; i < pairs; i++) {
        assert(id[i] >= 0 && id[i] < experts);
        g->first[id[i] + 1]++;
    }
    for (int32_t e = 0; e < experts; e++) {
        int32_t count = g->first[e + 1];
        if (count)
            g->need[n++] = (struct pager_need){.expert = e, .rows = count};
        g->first[e + 1] += g->first[e];
    }
    for (int32_t row = 0, pair = 0; row < rows; row++)
        for (int32_t k = 0; k < top_k; k++, pair++) {
            int32_t at = g->first[id[pair]]++;
            g->row[at] = row;
            g->pair[at] = pair;
        }
    return n;
}

struct kern_expert_group expert_group(const struct expert_groups *g,
                                      const struct pager_lease *lease)
{
    int32_t e = lease->expert, at = e > 0 ? g->first[e - 1] : 0;
    return (struct kern_expert_group){
        .record = lease->record, .row = g->row + at, .pair = g->pair + at, .n = g->first[e] - at};
}

/* The layer's part of the batch's forced choices, if it has any. */
static const int32_t *forced_of(const struct model *m, const struct pass *p, int32_t layer)
{
    size_t each = (size_t)p->batch.n_rows * (size_t)m->c.top_k;
    return p->batch.forced ? p->batch.forced + (size_t)layer * each : NULL;
}

int experts_route(struct model *m, const struct pass *p, int32_t layer)
{
    const struct model_config *c = &m->c;
    const struct layer_weights *l = &m->w.layer[layer];
    const struct activations *a = p->a;
    struct kern_router router = {.w = l->router.data,
                                 .w_dtype = l->router.dtype,
                                 .x = a->h,
                                 .n = p->batch.n_rows,
                                 .in = c->hidden,
                                 .experts = c->n_experts,
                                 .top_k = c->top_k,
                                 .renormalize = c->norm_topk,
                                 .id = p->id,
                                 .weight = a->weight,
                                 .forced = forced_of(m, p, layer)};
    int rc = norm_run(m, &l->ffn_norm, router.n, c->hidden, a->x, a->h);
    return rc < 0 ? rc : m->dev->kern->router(m->dev, &router);
}

/* Slots that a lease holds are refilled after the pass at the earliest, but staging slots at once.
 */
static bool reused_at_once(const struct expert_groups *g, int32_t n_groups)
{
    for (int32_t i = 0; i < n_groups; i++)
        if (g->lease[i].kind == LEASE_STAGED)
            return true;
    return false;
}

static int compute(struct model *m, const struct pass *p, int32_t n_groups)
{
    const struct model_config *c = &m->c;
    const struct dev_kern *kern = m->dev->kern;
    const struct activations *a = p->a;
    struct expert_groups *g = &m->groups;
    for (int32_t i = 0; i < n_groups; i++)
        g->group[i] = expert_group(g, &g->lease[i]);
    struct kern_experts experts = {.cls = &m->w.cls,
                                   .group = g->group,
                                   .n_groups = n_groups,
                                   .x = a->h,
                                   .hidden = a->hidden,
                                   .y = a->y};
    struct kern_combine combine = {.y = a->y,
                                   .weight = a->weight,
                                   .x = a->x,
                                   .n = p->batch.n_rows,
                                   .top_k = c->top_k,
                                   .dim = c->hidden};
    int rc;
    if ((rc = kern->experts_gate_up(m->dev, &experts)) < 0 ||
        (rc = kern->experts_down(m->dev, &experts)) < 0 ||
        (rc = kern->combine(m->dev, &combine)) < 0)
        return rc;
    return reused_at_once(g, n_groups) ? kern->sync(m->dev) : 0;
}

void experts_count(struct model *m, int32_t layer, int32_t n)
{
    m->stats.bytes_experts +=
        (uint64_t)n * record_matrix_bytes(&m->w.cls) + m->w.layer[layer].ffn_bytes;
    stage_end(m, &m->stats.seconds_experts);
}

int experts_run(struct model *m, const struct pass *p, int32_t layer, struct moed_error *err)
{
    struct expert_groups *g = &m->groups;
    if (experts_route(m, p, layer) < 0 || m->dev->kern->sync(m->dev) < 0)
        return device_failed("the router", layer, err);
    int32_t n = experts_group(m, p);
    int rc = pager_acquire(m->pager, layer, g->need, (size_t)n, g->lease, err);
    if (rc < 0)
        return rc;
    rc = compute(m, p, n);
    pager_release(m->pager, g->lease, (size_t)n);
    if (rc < 0)
        return device_failed("the experts", layer, err);
    experts_count(m, layer, n);
    return 0;
}
