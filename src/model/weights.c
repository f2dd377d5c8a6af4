#include "model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/io.h"
#include "model/weights_int.h"

/* Elements of one job of random filling: long enough to hide its hand-out, short enough to share
 * evenly. A multiple of 1024, which is fastest for store_dummy_fill. */
#define FILL_ELEMENTS ((uint64_t)1 << 18)

/* Part of the experts on huge pages below which a warning is due: less than the whole, since a
 * block's last page may be small. */
#define HUGE_ENOUGH 0.95
/* Fewer bytes of experts are not worth a word. */
#define HUGE_MATTERS_BYTES ((size_t)64 << 20)
/* Moved to huge pages by one thread at a time. */
#define HUGE_PIECE_BYTES ((size_t)64 << 20)

static uint8_t *place(const struct weights *w, const struct weight_piece *p)
{
    return (p->in_arena ? w->arena : w->dense) + p->place_bytes;
}

static int map_blocks(struct weights *w, const struct weight_plan *plan, struct moed_error *err)
{
    w->dense = mem_map(plan->dense_bytes);
    if (!w->dense)
        return moed_fail(err, MOED_ENOMEM, "no memory for %llu bytes of weights",
                         (unsigned long long)plan->dense_bytes);
    w->dense_bytes = plan->dense_bytes;
    if (!plan->arena_bytes)
        return 0;
    w->arena = mem_map(plan->arena_bytes);
    if (!w->arena)
        return moed_fail(err, MOED_ENOMEM, "no memory for %llu bytes of experts",
                         (unsigned long long)plan->arena_bytes);
    w->arena_bytes = plan->arena_bytes;
    return 0;
}

struct progress {
    const struct weights_load_options *o;
    uint64_t total_bytes;
};

static void report(void *user, const struct io_progress *p)
{
    const struct progress *g = user;
    uint64_t done = p->done_bytes;
    /* Filling counts jobs. */
    if (p->total_bytes != g->total_bytes)
        done = p->total_bytes
                   ? (uint64_t)((double)g->total_bytes * (double)done / (double)p->total_bytes)
                   : 0;
    g->o->progress(g->o->user, done, g->total_bytes, p->seconds);
}

static int read_files(struct weights *w, const struct weight_plan *plan, const struct store *store,
                      const struct io_config *io, struct moed_error *err)
{
    size_t n_files = (size_t)store_file_count(store);
    const char **paths = mem_new(n_files, sizeof *paths);
    struct io_extent *extents = mem_try(plan->n, sizeof *extents);
    int rc = MOED_ENOMEM;
    if (!extents) {
        moed_fail(err, rc, "no memory for the list of %zu tensors", plan->n);
        goto out;
    }
    for (size_t i = 0; i < n_files; i++)
        paths[i] = store_file_path(store, (int)i);
    for (size_t i = 0; i < plan->n; i++) {
        const struct weight_piece *p = &plan->piece[i];
        extents[i] = (struct io_extent){.file = p->ref->file,
                                        .offset = p->ref->offset + p->first_bytes,
                                        .bytes = p->bytes,
                                        .dst = place(w, p)};
    }
    rc = io_read_all(paths, n_files, extents, plan->n, io, err);
out:
    free(extents);
    free(paths);
    return rc;
}

struct fill {
    const struct weights *w;
    const struct weight_plan *plan;
    uint64_t *first_job; /* [pieces + 1] */
};

static void fill_job(void *arg, size_t job)
{
    const struct fill *f = arg;
    size_t lo = 0, hi = f->plan->n;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (f->first_job[mid] <= job)
            lo = mid;
        else
            hi = mid;
    }
    const struct weight_piece *p = &f->plan->piece[lo];
    uint64_t size = dtype_bytes(p->ref->dtype), n = p->bytes / size;
    uint64_t first = (job - f->first_job[lo]) * FILL_ELEMENTS;
    uint64_t count = n - first < FILL_ELEMENTS ? n - first : FILL_ELEMENTS;
    /* Uniform in +-sqrt(3 / fan_in) has variance 1 / fan_in: activations keep their size. */
    float center = p->kind == WEIGHT_NORM ? 1 : 0, scale = 0;
    if (p->kind == WEIGHT_EMBED)
        scale = sqrtf(3);
    if (p->kind == WEIGHT_MATRIX)
        scale = sqrtf(3 / (float)p->ref->shape[1]);
    store_dummy_fill(p->ref, first, count, center, scale, place(f->w, p) + first * size);
}

/* Random weights; a dummy store has one tensor for each piece. */
static int fill_dummy(struct weights *w, const struct weight_plan *plan, const struct io_config *io,
                      struct moed_error *err)
{
    struct fill f = {.w = w, .plan = plan};
    f.first_job = mem_try(plan->n + 1, sizeof *f.first_job);
    if (!f.first_job)
        return moed_fail(err, MOED_ENOMEM, "no memory for the list of %zu tensors", plan->n);
    for (size_t i = 0; i < plan->n; i++) {
        uint64_t n = plan->piece[i].bytes / dtype_bytes(plan->piece[i].ref->dtype);
        f.first_job[i + 1] = f.first_job[i] + (n + FILL_ELEMENTS - 1) / FILL_ELEMENTS;
    }
    int rc = io_for_each(f.first_job[plan->n], fill_job, &f, io, err);
    free(f.first_job);
    return rc;
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
    s->into->data = place(b->w, &b->plan->piece[b->next++]);
    return 0;
}

static void bind_weights(struct weights *w, const struct weight_plan *plan,
                         const struct model_config *c)
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

static bool on_small_pages(const struct weights *w, long long *huge)
{
    *huge = mem_huge_bytes(w->arena, w->arena_bytes);
    return *huge >= 0 && (double)*huge < HUGE_ENOUGH * (double)w->arena_bytes;
}

static void make_huge_job(void *arg, size_t job)
{
    const struct weights *w = arg;
    size_t at = job * HUGE_PIECE_BYTES, left = w->arena_bytes - at;
    mem_make_huge(w->arena + at, left < HUGE_PIECE_BYTES ? left : HUGE_PIECE_BYTES);
}

/* Where the kernel gave no huge pages while the experts were read, it may when asked for each. */
static int want_huge_pages(struct weights *w, const struct io_config *io, struct moed_error *err)
{
    struct io_config quiet = {.threads = io->threads, .direct = io->direct};
    long long huge;
    if (w->arena_bytes < HUGE_MATTERS_BYTES || !on_small_pages(w, &huge))
        return 0;
    return io_for_each((w->arena_bytes + HUGE_PIECE_BYTES - 1) / HUGE_PIECE_BYTES, make_huge_job, w,
                       &quiet, err);
}

/* Workers that compute experts read them half as fast from small pages. */
void weights_report_pages(const struct weights *w)
{
    long long huge;
    if (w->arena_bytes < HUGE_MATTERS_BYTES)
        return;
    double all_gb = (double)w->arena_bytes * 1e-9;
    if (on_small_pages(w, &huge))
        log_warn("%.2f of %.2f GB of experts lie on small pages, which makes reading them on the "
                 "CPU slower: see /sys/kernel/mm/transparent_hugepage/enabled",
                 all_gb - (double)huge * 1e-9, all_gb);
    else if (huge >= 0)
        log_info("%.2f of %.2f GB of experts lie on huge pages", (double)huge * 1e-9, all_gb);
}

int weights_load(struct weights *out, const struct model_config *c, struct store *store,
                 const struct weights_load_options *o, struct moed_error *err)
{
    struct weight_plan plan = {0};
    struct progress progress = {.o = o};
    struct io_config io = {.threads = o->io_threads, .direct = IO_DIRECT_AUTO};
    int rc;
    out->layer = mem_new((size_t)c->n_layers, sizeof *out->layer);
    if ((rc = weights_plan(&plan, out, c, store, err)) < 0 ||
        (rc = map_blocks(out, &plan, err)) < 0)
        goto out;
    out->host_of = mem_try((size_t)c->n_layers * (size_t)c->n_experts, sizeof *out->host_of);
    if (!out->host_of) {
        rc = moed_fail(err, MOED_ENOMEM, "no memory for the map of experts");
        goto out;
    }
    for (size_t i = 0; i < plan.n; i++)
        progress.total_bytes += plan.piece[i].bytes;
    if (o->progress) {
        io.progress = report;
        io.user = &progress;
    }
    rc = store_is_dummy(store) ? fill_dummy(out, &plan, &io, err)
                               : read_files(out, &plan, store, &io, err);
    if (rc >= 0)
        rc = want_huge_pages(out, &io, err);
    if (rc >= 0)
        bind_weights(out, &plan, c);
out:
    weights_plan_fini(&plan);
    if (rc < 0)
        weights_fini(out);
    return rc;
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
