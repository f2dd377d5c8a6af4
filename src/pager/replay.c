#include "pager/replay.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "pager/policy_int.h"

void trace_fini(struct trace *t)
{
    free(t->keys);
    free(t->rows);
    free(t->step_end);
    *t = (struct trace){0};
}

void trace_use(struct trace *t, int layer, int expert, int rows)
{
    assert(layer >= 0 && layer < t->n_layers && expert >= 0 && expert < t->n_experts);
    if (t->n_uses == t->cap_uses) {
        t->cap_uses = t->cap_uses ? t->cap_uses * 2 : 1024;
        t->keys = mem_grow(t->keys, t->cap_uses, sizeof t->keys[0]);
        t->rows = mem_grow(t->rows, t->cap_uses, sizeof t->rows[0]);
    }
    t->keys[t->n_uses] = (int32_t)(layer * t->n_experts + expert);
    t->rows[t->n_uses++] = rows;
}

void trace_end_step(struct trace *t)
{
    t->step_end = mem_reserve(t->step_end, &t->cap_steps, t->n_steps + 1, sizeof t->step_end[0]);
    t->step_end[t->n_steps++] = t->n_uses;
}

struct replay {
    const struct trace *trace;
    const struct policy_ops *ops;
    struct policy *policy;
    uint64_t *used_step; /* [n_keys], steps count from 1 */
    uint8_t *resident;   /* [n_keys] */
    int32_t *came;       /* keys admitted in this step */
    uint64_t step;
    int32_t n_slots, n_resident;
    struct replay_counts count;
};

static bool unused_now(void *user, int32_t key)
{
    const struct replay *r = user;
    return r->used_step[key] != r->step;
}

/* One touch for each layer. */
static void touch_step(struct replay *r, size_t begin, size_t end)
{
    const struct trace *t = r->trace;
    for (size_t i = begin, next; i < end; i = next) {
        for (next = i; next < end && t->keys[next] / t->n_experts == t->keys[i] / t->n_experts;)
            next++;
        for (size_t k = i; k < next; k++) {
            r->used_step[t->keys[k]] = r->step;
            r->count.hits += r->resident[t->keys[k]];
        }
        r->ops->touch(r->policy, r->step, t->keys + i, t->rows + i, next - i);
    }
    r->count.uses += end - begin;
}

static void admit_step(struct replay *r, size_t begin, size_t end)
{
    int32_t n_came = 0;
    for (size_t i = begin; i < end; i++) {
        int32_t key = r->trace->keys[i], victim = -1;
        if (r->resident[key])
            continue;
        bool full = r->n_resident == r->n_slots;
        if (full)
            victim = r->ops->victim(r->policy, unused_now, r);
        if ((full && victim < 0) || !r->ops->admit(r->policy, key, victim)) {
            r->count.bypasses++;
            continue;
        }
        if (victim >= 0) {
            r->ops->remove(r->policy, victim);
            r->resident[victim] = 0;
            r->n_resident--;
            r->count.evictions++;
        }
        r->came[n_came++] = key;
        r->n_resident++;
        r->count.admissions++;
    }
    for (int32_t i = 0; i < n_came; i++) {
        r->ops->insert(r->policy, r->came[i]);
        r->resident[r->came[i]] = 1;
    }
}

void replay_policy(const struct trace *t, const struct policy_ops *ops, int32_t n_slots,
                   size_t first_counted, struct replay_counts *out)
{
    int32_t n_keys = (int32_t)(t->n_layers * t->n_experts);
    struct replay r = {.trace = t,
                       .ops = ops,
                       .policy = ops->open(n_keys, n_slots),
                       .used_step = mem_new((size_t)n_keys, sizeof r.used_step[0]),
                       .resident = mem_new((size_t)n_keys, sizeof r.resident[0]),
                       .came = mem_new((size_t)n_keys, sizeof r.came[0]),
                       .n_slots = n_slots < n_keys ? n_slots : n_keys};
    for (size_t s = 0; s < t->n_steps; s++) {
        size_t begin = s ? t->step_end[s - 1] : 0;
        if (s == first_counted)
            r.count = (struct replay_counts){0};
        r.step = s + 1;
        touch_step(&r, begin, t->step_end[s]);
        if (r.n_slots > 0)
            admit_step(&r, begin, t->step_end[s]);
        else
            r.count.bypasses += t->step_end[s] - begin;
    }
    r.count.misses = r.count.uses - r.count.hits;
    *out = r.count;
    ops->close(r.policy);
    free(r.used_step);
    free(r.resident);
    free(r.came);
}

struct wish {
    int32_t key;
    uint32_t order; /* among equals: what waits, then in turn, as in the pager */
    double worth;
};

static int by_worth(const void *a, const void *b)
{
    const struct wish *x = a, *y = b;
    if (x->worth != y->worth)
        return x->worth > y->worth ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

struct link_replay {
    struct replay r;
    struct wish *wish; /* [n_waiting] loads that have not begun, and room for what was missed */
    uint8_t *waits;    /* [n_keys] */
    int32_t n_waiting;
    double loads_per_step, credit;
};

/* What the link has brought by the end of this step. */
static void arrive(struct link_replay *l)
{
    l->credit += l->loads_per_step;
    int32_t n = l->credit < l->n_waiting ? (int32_t)l->credit : l->n_waiting;
    l->credit = n < l->n_waiting ? l->credit - n : 0; /* an idle link saves nothing */
    for (int32_t i = 0; i < n; i++) {
        l->r.resident[l->wish[i].key] = 1;
        l->waits[l->wish[i].key] = 0;
        l->r.ops->insert(l->r.policy, l->wish[i].key);
        l->r.n_resident++;
        l->r.count.admissions++;
    }
    for (int32_t i = n; i < l->n_waiting; i++)
        l->wish[i - n] = l->wish[i];
    l->n_waiting -= n;
}

/* A free slot, or a victim's while there is room on the link. */
static bool find_place(struct link_replay *l, int32_t key, int32_t most_waiting)
{
    struct replay *r = &l->r;
    if (r->n_resident + l->n_waiting < r->n_slots)
        return r->ops->admit(r->policy, key, -1);
    int32_t victim = l->n_waiting < most_waiting ? r->ops->victim(r->policy, unused_now, r) : -1;
    if (victim < 0 || !r->ops->admit(r->policy, key, victim))
        return false;
    r->ops->remove(r->policy, victim);
    r->resident[victim] = 0;
    r->n_resident--;
    r->count.evictions++;
    return true;
}

static void admit_ranked(struct link_replay *l, const uint8_t *missed_now, size_t begin, size_t end)
{
    struct replay *r = &l->r;
    int32_t held = l->n_waiting, n = held;
    for (size_t i = begin; i < end; i++)
        if (missed_now[i - begin] && !l->waits[r->trace->keys[i]])
            l->wish[n++].key = r->trace->keys[i];
    for (int32_t i = 0; i < n; i++) {
        struct wish *w = &l->wish[i];
        uint32_t turn = (uint32_t)w->key * 0x85EBCA6Bu ^ (uint32_t)r->step * 0x9E3779B9u;
        w->order = i < held ? (uint32_t)i : 1u << 31 | turn;
        w->worth = r->ops->worth(r->policy, w->key);
    }
    qsort(l->wish, (size_t)n, sizeof l->wish[0], by_worth);
    for (int32_t i = held; i < n; i++) {
        int32_t key = l->wish[i].key;
        if (find_place(l, key, (int32_t)(2 + 1.5 * l->loads_per_step)))
            l->wish[l->n_waiting++] = l->wish[i];
        else if (l->waits[key])
            r->count.dropped++;
        else
            r->count.bypasses++;
        l->waits[key] = 0;
    }
    for (int32_t i = 0; i < l->n_waiting; i++)
        l->waits[l->wish[i].key] = 1;
}

void replay_link(const struct trace *t, const struct policy_ops *ops, int32_t n_slots,
                 double loads_per_step, size_t first_counted, struct replay_counts *out)
{
    int32_t n_keys = (int32_t)(t->n_layers * t->n_experts);
    struct link_replay l = {.r = {.trace = t,
                                  .ops = ops,
                                  .policy = ops->open(n_keys, n_slots),
                                  .used_step = mem_new((size_t)n_keys, sizeof l.r.used_step[0]),
                                  .resident = mem_new((size_t)n_keys, sizeof l.r.resident[0]),
                                  .n_slots = n_slots < n_keys ? n_slots : n_keys},
                            .wish = mem_new(2 * (size_t)n_keys, sizeof l.wish[0]),
                            .waits = mem_new((size_t)n_keys, sizeof l.waits[0]),
                            .loads_per_step = loads_per_step};
    uint8_t *missed = mem_new((size_t)n_keys, sizeof missed[0]);
    for (size_t s = 0; s < t->n_steps; s++) {
        size_t begin = s ? t->step_end[s - 1] : 0;
        if (s == first_counted)
            l.r.count = (struct replay_counts){0};
        l.r.step = s + 1;
        for (size_t i = begin; i < t->step_end[s]; i++)
            missed[i - begin] = !l.r.resident[t->keys[i]];
        touch_step(&l.r, begin, t->step_end[s]);
        arrive(&l);
        for (size_t i = begin; i < t->step_end[s]; i++)
            missed[i - begin] = missed[i - begin] && !l.r.resident[t->keys[i]];
        admit_ranked(&l, missed, begin, t->step_end[s]);
    }
    l.r.count.misses = l.r.count.uses - l.r.count.hits;
    *out = l.r.count;
    ops->close(l.r.policy);
    free(l.r.used_step);
    free(l.r.resident);
    free(l.wish);
    free(l.waits);
    free(missed);
}

/* For each use the step of the key's next one, from 1; infinity for the last. */
static double *next_uses(const struct trace *t)
{
    int32_t n_keys = (int32_t)(t->n_layers * t->n_experts);
    double *next = mem_new(t->n_uses, sizeof next[0]);
    double *seen = mem_new((size_t)n_keys, sizeof seen[0]);
    for (int32_t k = 0; k < n_keys; k++)
        seen[k] = INFINITY;
    for (size_t s = t->n_steps; s-- > 0;)
        for (size_t i = t->step_end[s]; i-- > (s ? t->step_end[s - 1] : 0);) {
            next[i] = seen[t->keys[i]];
            seen[t->keys[i]] = (double)(s + 1);
        }
    free(seen);
    return next;
}

void replay_belady(const struct trace *t, int32_t n_slots, size_t first_counted,
                   struct replay_counts *out)
{
    size_t n_keys = (size_t)(t->n_layers * t->n_experts);
    struct key_heap heap; /* rank: the farthest next use first */
    struct replay_counts c = {0};
    double *next = next_uses(t);
    uint64_t *came = mem_new(n_keys, sizeof came[0]); /* the step of the last miss, from 1 */
    key_heap_init(&heap, (int32_t)n_keys);
    for (size_t s = 0; s < t->n_steps; s++) {
        if (s == first_counted)
            c = (struct replay_counts){0};
        for (size_t i = s ? t->step_end[s - 1] : 0; i < t->step_end[s]; i++) {
            int32_t key = t->keys[i];
            bool hit = heap.place[key] != KEY_ABSENT;
            c.uses++;
            c.hits += hit;
            key_heap_set(&heap, key, -next[i]);
            if (hit)
                continue;
            came[key] = s + 1;
            c.admissions++;
            key_heap_add(&heap, key);
        }
        while (heap.n > n_slots) {
            bool bypassed = came[heap.heap[0]] == s + 1;
            c.bypasses += bypassed;
            c.admissions -= bypassed;
            c.evictions += !bypassed;
            key_heap_remove(&heap, heap.heap[0]);
        }
    }
    c.misses = c.uses - c.hits;
    *out = c;
    key_heap_fini(&heap);
    free(came);
    free(next);
}
