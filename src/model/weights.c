#include "model/weights.h"

#include <stdlib.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/weights_int.h"

uint8_t *weights_place(const struct weights *w, const struct weight_piece *p)
{
    return (p->in_arena ? w->arena : w->dense) + p->place_bytes;
}

/* Pointers into the blocks, in the order in which the plan placed the tensors. */
struct bind {
    struct weights *w;
    const struct weight_plan *plan;
    size_t next;
};

static int bind_dense(void *arg, const struct weight_spec *s)
{
    struct bind *b = arg;
    s->into->data = weights_place(b->w, &b->plan->piece[b->next++]);
    return 0;
}

void weights_bind(struct weights *w, const struct weight_plan *plan, const struct model_config *c)
{
    struct bind b = {.w = w, .plan = plan};
    weights_each_dense(c, false, w, bind_dense, &b);
    if (c->tied_embeddings)
        w->head = w->embed;
    uint64_t record = 0;
    for (int l = 0; l < c->n_layers; l++)
        for (int e = 0; c->moe_layer[l] && e < c->n_experts; e++) {
            w->host_of[(size_t)l * (size_t)c->n_experts + (size_t)e] = w->arena + record;
            record += w->cls.bytes;
        }
}

/* Workers that compute experts read them half as fast from small pages. */
void weights_report_pages(const struct weights *w)
{
    long long huge;
    if (w->arena_bytes < HUGE_MATTERS_BYTES)
        return;
    huge = mem_huge_bytes(w->arena, w->arena_bytes);
    double all_gb = (double)w->arena_bytes * 1e-9;
    if (huge >= 0 && (double)huge < HUGE_ENOUGH * (double)w->arena_bytes)
        log_warn("%.2f of %.2f GB of experts lie on small pages, which makes reading them on the "
                 "CPU slower: see /sys/kernel/mm/transparent_hugepage/enabled",
                 all_gb - (double)huge * 1e-9, all_gb);
    else if (huge >= 0)
        log_info("%.2f of %.2f GB of experts lie on huge pages", (double)huge * 1e-9, all_gb);
}

struct move {
    uint8_t *from, *to;
};

static int move_one(void *arg, const struct weight_spec *s)
{
    const struct move *m = arg;
    s->into->data = m->to + ((const uint8_t *)s->into->data - m->from);
    return 0;
}

void weights_move_dense(struct weights *w, const struct model_config *c, void *to)
{
    struct move m = {w->dense, to};
    weights_each_dense(c, false, w, move_one, &m);
    if (c->tied_embeddings)
        w->head = w->embed;
    mem_unmap(w->dense, w->dense_bytes);
    w->dense = NULL;
    w->dense_bytes = 0;
}

void weights_fini(struct weights *w)
{
    mem_unmap(w->dense, w->dense_bytes);
    mem_unmap(w->arena, w->arena_bytes);
    free(w->layer);
    free(w->host_of);
    *w = (struct weights){0};
}
