/*
 * Weights on their way into memory. One thread reads them, or makes them up, with a crew of its
 * own; meanwhile the caller opens a device, then takes the parts that are whole, registers or sends
 * them. So reading and what the device does beside it take the longer of both, not the sum.
 *
 *   loading thread   mapping -> reads end -> a part has all its bytes -> ready[]
 *   caller           ready[] -> huge pages -> weights_load_next() -> device
 */
#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "io/io.h"
#include "model/weights_int.h"

/* Elements of one job of random filling: long enough to hide its hand-out, short enough to share
 * evenly. A multiple of 1024, which is fastest for store_dummy_fill. */
#define FILL_ELEMENTS ((uint64_t)1 << 18)
/* Moved to huge pages by one thread at a time. */
#define HUGE_PIECE_BYTES ((size_t)64 << 20)
/* The device's work on the last part waits for the last byte: small beside a model, large beside
 * what a call of the driver costs. */
#define DEFAULT_PART_BYTES ((size_t)512 << 20)
#define PAGE_BYTES         ((size_t)4096)

/* Parts of the dense block or of the arena. */
struct parts {
    uint8_t *block;
    size_t bytes, each;           /* of the block; of a part but the last */
    size_t first, n;              /* in the numbers of both blocks */
    _Atomic uint64_t *left_bytes; /* [n] still to come */
};

struct weights_loading {
    struct weights *w;
    const struct model_config *c;
    const struct store *store;
    struct weights_load_options o;
    struct weight_plan plan;
    struct parts dense, arena;
    struct weights_packer packer;    /* where the records are packed */
    const struct io_extent *extents; /* [plan.n] while files are read */
    uint64_t total_bytes;            /* of the files */
    size_t seen_bytes, look_bytes;   /* of the arena: given out; when to look at its pages again */
    bool small_pages;
    int64_t begin_us;
    pthread_t thread;
    bool started;
    _Atomic bool stop;
    _Atomic(const struct weight_piece *) unpackable; /* the first one that was */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* Under lock. */
    size_t *ready; /* [parts] numbers of parts, in the order in which they filled */
    size_t n_ready, n_given;
    bool ended;
    int rc;
    struct moed_error err;
    int64_t end_us;
};

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

/* Parts. */

static int cut_parts(struct parts *p, uint8_t *block, uint64_t bytes, size_t each, size_t edge,
                     size_t first, struct moed_error *err)
{
    each = each / edge * edge;
    p->block = block;
    p->bytes = bytes;
    p->each = each ? each : edge;
    p->first = first;
    p->n = (p->bytes + p->each - 1) / p->each;
    p->left_bytes = mem_try(p->n, sizeof *p->left_bytes);
    return p->left_bytes ? 0 : moed_fail(err, MOED_ENOMEM, "no memory for the list of parts");
}

static void push_ready(struct weights_loading *l, size_t number)
{
    pthread_mutex_lock(&l->lock);
    l->ready[l->n_ready++] = number;
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

/* Bytes [at, at + bytes) of the block are to come, or have come. */
static void expect_bytes(struct parts *p, size_t at, size_t bytes)
{
    while (bytes > 0) {
        size_t n = p->each - at % p->each;
        n = n < bytes ? n : bytes;
        atomic_fetch_add_explicit(&p->left_bytes[at / p->each], n, memory_order_relaxed);
        at += n;
        bytes -= n;
    }
}

static void bytes_came(struct weights_loading *l, const uint8_t *from, size_t bytes)
{
    bool in_arena = l->arena.n && from >= l->arena.block && from < l->arena.block + l->arena.bytes;
    struct parts *p = in_arena ? &l->arena : &l->dense;
    size_t at = (size_t)(from - p->block);
    while (bytes > 0) {
        size_t part = at / p->each, n = p->each - at % p->each;
        n = n < bytes ? n : bytes;
        if (atomic_fetch_sub_explicit(&p->left_bytes[part], n, memory_order_acq_rel) == n)
            push_ready(l, p->first + part);
        at += n;
        bytes -= n;
    }
}

static int make_parts(struct weights_loading *l, struct moed_error *err)
{
    size_t each = l->o.part_bytes ? l->o.part_bytes : DEFAULT_PART_BYTES;
    const struct weights *w = l->w;
    int rc = cut_parts(&l->dense, w->dense, w->dense_bytes, each, PAGE_BYTES, 0, err);
    if (rc == 0)
        rc = cut_parts(&l->arena, w->arena, w->arena_bytes, each,
                       w->arena ? w->cls.bytes : PAGE_BYTES, l->dense.n, err);
    if (rc < 0)
        return rc;
    size_t n = l->dense.n + l->arena.n;
    if (!(l->ready = mem_try(n, sizeof *l->ready)))
        return moed_fail(err, MOED_ENOMEM, "no memory for the list of parts");
    for (size_t i = 0; i < l->plan.n; i++) {
        const struct weight_piece *p = &l->plan.piece[i];
        expect_bytes(p->in_arena ? &l->arena : &l->dense, p->place_bytes, p->taken_bytes);
        l->total_bytes += p->bytes;
    }
    /* Where only padding lies, nothing is waited for. */
    for (size_t i = 0; i < n; i++)
        if ((i < l->dense.n ? l->dense.left_bytes[i] : l->arena.left_bytes[i - l->dense.n]) == 0)
            push_ready(l, i);
    return 0;
}

/* The loading thread. */

static void report(void *user, const struct io_progress *p)
{
    const struct weights_loading *l = user;
    uint64_t done = p->done_bytes;
    /* Filling counts jobs. */
    if (p->total_bytes != l->total_bytes)
        done = p->total_bytes
                   ? (uint64_t)((double)l->total_bytes * (double)done / (double)p->total_bytes)
                   : 0;
    l->o.progress(l->o.user, done, l->total_bytes, p->seconds);
}

static bool stopped(const struct weights_loading *l)
{
    return atomic_load_explicit(&l->stop, memory_order_relaxed) ||
           atomic_load_explicit(&l->unpackable, memory_order_relaxed);
}

/* A piece that was packed has come; or could not be. */
static bool piece_packed(struct weights_loading *l, const struct weight_piece *p, bool packed)
{
    const struct weight_piece *none = NULL;
    if (packed)
        bytes_came(l, weights_place(l->w, p), p->taken_bytes);
    else
        atomic_compare_exchange_strong(&l->unpackable, &none, p);
    return packed;
}

static int extent_came(void *user, const struct io_extent *e, const void *data)
{
    struct weights_loading *l = user;
    const struct weight_piece *p = &l->plan.piece[e - l->extents];
    if (stopped(l))
        return -1;
    if (p->columns)
        return piece_packed(l, p, weights_pack(&l->packer, p, data)) ? 0 : -1;
    bytes_came(l, e->dst, e->bytes);
    return 0;
}

static int read_files(struct weights_loading *l, const struct io_config *io, struct moed_error *err)
{
    const struct weight_plan *plan = &l->plan;
    size_t n_files = (size_t)store_file_count(l->store);
    const char **paths = mem_new(n_files, sizeof *paths);
    struct io_extent *extents = mem_try(plan->n, sizeof *extents);
    int rc = MOED_ENOMEM;
    if (!extents) {
        moed_fail(err, rc, "no memory for the list of %zu tensors", plan->n);
        goto out;
    }
    for (size_t i = 0; i < n_files; i++)
        paths[i] = store_file_path(l->store, (int)i);
    for (size_t i = 0; i < plan->n; i++) {
        const struct weight_piece *p = &plan->piece[i];
        extents[i] = (struct io_extent){.file = p->ref->file,
                                        .offset = p->ref->offset + p->first_bytes,
                                        .bytes = p->bytes,
                                        .dst = p->columns ? NULL : weights_place(l->w, p)};
    }
    l->extents = extents;
    rc = io_read_all(paths, n_files, extents, plan->n, io, err);
out:
    free(extents);
    free(paths);
    return rc;
}

struct fill {
    struct weights_loading *l;
    uint64_t *first_job; /* [pieces + 1] */
};

static void fill_job(void *arg, size_t job)
{
    const struct fill *f = arg;
    const struct weight_plan *plan = &f->l->plan;
    size_t lo = 0, hi = plan->n;
    if (stopped(f->l))
        return;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (f->first_job[mid] <= job)
            lo = mid;
        else
            hi = mid;
    }
    const struct weight_piece *p = &plan->piece[lo];
    uint64_t size = dtype_bytes(p->ref->dtype), n = p->bytes / size;
    /* Uniform in +-sqrt(3 / fan_in) has variance 1 / fan_in: activations keep their size. */
    float center = p->kind == WEIGHT_NORM ? 1 : 0, scale = 0;
    if (p->kind == WEIGHT_EMBED)
        scale = sqrtf(3);
    if (p->kind == WEIGHT_MATRIX)
        scale = sqrtf(3 / (float)p->ref->shape[1]);
    if (p->columns) {
        piece_packed(f->l, p, weights_pack_dummy(&f->l->packer, p, scale));
        return;
    }
    uint64_t first = (job - f->first_job[lo]) * FILL_ELEMENTS;
    uint64_t count = n - first < FILL_ELEMENTS ? n - first : FILL_ELEMENTS;
    uint8_t *to = weights_place(f->l->w, p) + first * size;
    store_dummy_fill(p->ref, first, count, center, scale, to);
    bytes_came(f->l, to, (size_t)(count * size));
}

/* Random weights; a dummy store has one tensor for each piece, or each run of packed ones. */
static int fill_dummy(struct weights_loading *l, const struct io_config *io, struct moed_error *err)
{
    const struct weight_plan *plan = &l->plan;
    struct fill f = {.l = l};
    f.first_job = mem_try(plan->n + 1, sizeof *f.first_job);
    if (!f.first_job)
        return moed_fail(err, MOED_ENOMEM, "no memory for the list of %zu tensors", plan->n);
    for (size_t i = 0; i < plan->n; i++) {
        uint64_t n = plan->piece[i].bytes / dtype_bytes(plan->piece[i].ref->dtype);
        uint64_t jobs = plan->piece[i].columns ? 1 : (n + FILL_ELEMENTS - 1) / FILL_ELEMENTS;
        f.first_job[i + 1] = f.first_job[i] + jobs;
    }
    int rc = io_for_each(f.first_job[plan->n], fill_job, &f, io, err);
    free(f.first_job);
    return rc;
}

static void *loading_main(void *arg)
{
    struct weights_loading *l = arg;
    struct io_config io = {.threads = l->o.io_threads,
                           .direct = IO_DIRECT_AUTO,
                           .progress = l->o.progress ? report : NULL,
                           .finished = extent_came,
                           .user = l};
    struct moed_error err = {0};
    int rc = store_is_dummy(l->store) ? fill_dummy(l, &io, &err) : read_files(l, &io, &err);
    const struct weight_piece *unpackable = atomic_load(&l->unpackable);
    if (unpackable)
        rc = moed_fail_param(&err, MOED_EUNSUPPORTED, WEIGHTS_UNPACKABLE,
                             "tensor %s does not go into packed records: too many of its numbers "
                             "have exponents that are rare in their rows; expert-records plain "
                             "takes it",
                             unpackable->ref->name);
    pthread_mutex_lock(&l->lock);
    l->ended = true;
    l->rc = rc;
    l->err = err;
    l->end_us = clock_us();
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* The caller's thread. */

int weights_load_begin(struct weights_loading **out, struct weights *w,
                       const struct model_config *c, struct store *store,
                       const struct weights_load_options *o, struct moed_error *err)
{
    struct weights_loading *l = mem_new(1, sizeof *l);
    *l = (struct weights_loading){.w = w, .c = c, .store = store, .o = *o, .begin_us = clock_us()};
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    w->layer = mem_new((size_t)c->n_layers, sizeof *w->layer);
    int rc = weights_plan(&l->plan, w, c, store, o->packed, err);
    if (rc < 0 || (rc = map_blocks(w, &l->plan, err)) < 0)
        goto out;
    if (w->cls.packed && (rc = weights_packer_open(&l->packer, w, err)) < 0)
        goto out;
    w->host_of = mem_try((size_t)c->n_layers * (size_t)c->n_experts, sizeof *w->host_of);
    if (!w->host_of) {
        rc = moed_fail(err, MOED_ENOMEM, "no memory for the map of experts");
        goto out;
    }
    if ((rc = make_parts(l, err)) < 0)
        goto out;
    l->started = pthread_create(&l->thread, NULL, loading_main, l) == 0;
    if (!l->started)
        rc = moed_fail(err, MOED_EIO, "cannot start the thread that loads weights");
out:
    if (rc < 0) {
        weights_load_end(&l);
        weights_fini(w);
    }
    *out = l;
    return rc;
}

static void make_huge_job(void *arg, size_t job)
{
    const struct weights_part *part = arg;
    size_t at = job * HUGE_PIECE_BYTES, left = part->bytes - at;
    mem_make_huge(part->data + at, left < HUGE_PIECE_BYTES ? left : HUGE_PIECE_BYTES);
}

/* Where the kernel gave no huge pages while the experts were read, it may when asked for each: now,
 * since what a device has locked stays where it is. Looking takes milliseconds, so it is done
 * whenever twice as much has come. */
static int want_huge_pages(struct weights_loading *l, struct weights_part *part,
                           struct moed_error *err)
{
    const struct weights *w = l->w;
    l->seen_bytes += part->bytes;
    if (w->arena_bytes < HUGE_MATTERS_BYTES)
        return 0;
    if (!l->small_pages && l->seen_bytes >= l->look_bytes) {
        long long huge = mem_huge_bytes(w->arena, w->arena_bytes);
        l->small_pages = huge >= 0 && (double)huge < HUGE_ENOUGH * (double)l->seen_bytes;
        l->look_bytes = 2 * l->seen_bytes;
    }
    if (!l->small_pages)
        return 0;
    const struct io_config io = {.threads = l->o.io_threads};
    return io_for_each((part->bytes + HUGE_PIECE_BYTES - 1) / HUGE_PIECE_BYTES, make_huge_job, part,
                       &io, err);
}

static void say_speed(const struct weights_loading *l)
{
    double seconds = (double)(l->end_us - l->begin_us) * 1e-6;
    char packed[64] = "";
    if (l->w->cls.packed)
        snprintf(packed, sizeof packed, "; experts packed into %.2f GB",
                 (double)l->w->arena_bytes * 1e-9);
    log_info("weights: %.2f GB %s in %.3f s, %.1f GB/s%s", (double)l->total_bytes * 1e-9,
             store_is_dummy(l->store) ? "made" : "read", seconds,
             seconds > 0 ? (double)l->total_bytes * 1e-9 / seconds : 0, packed);
}

int weights_load_next(struct weights_loading *l, struct weights_part *part, struct moed_error *err)
{
    size_t number = 0;
    pthread_mutex_lock(&l->lock);
    while (l->n_given == l->n_ready && !l->ended)
        pthread_cond_wait(&l->changed, &l->lock);
    int rc = l->ended && l->rc < 0 ? l->rc : l->n_given < l->n_ready;
    if (rc < 0 && err)
        *err = l->err;
    if (rc > 0)
        number = l->ready[l->n_given++];
    pthread_mutex_unlock(&l->lock);
    if (rc == 0) {
        assert(l->n_given == l->dense.n + l->arena.n);
        say_speed(l);
        weights_bind(l->w, &l->plan, l->c);
    }
    if (rc <= 0)
        return rc;
    bool in_arena = number >= l->arena.first;
    const struct parts *p = in_arena ? &l->arena : &l->dense;
    size_t at = (number - p->first) * p->each;
    *part = (struct weights_part){p->block + at, p->bytes - at < p->each ? p->bytes - at : p->each,
                                  in_arena};
    rc = in_arena ? want_huge_pages(l, part, err) : 0;
    return rc < 0 ? rc : 1;
}

int64_t weights_load_ended_us(const struct weights_loading *l)
{
    return l->end_us;
}

void weights_load_end(struct weights_loading **loading)
{
    struct weights_loading *l = *loading;
    if (!l)
        return;
    *loading = NULL;
    atomic_store(&l->stop, true);
    if (l->started)
        pthread_join(l->thread, NULL);
    weights_plan_fini(&l->plan);
    weights_packer_close(&l->packer);
    free(l->dense.left_bytes);
    free(l->arena.left_bytes);
    free(l->ready);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

int weights_load(struct weights *w, const struct model_config *c, struct store *store,
                 const struct weights_load_options *o, struct moed_error *err)
{
    struct weights_loading *l;
    struct weights_part part;
    int rc = weights_load_begin(&l, w, c, store, o, err);
    if (rc < 0)
        return rc;
    while ((rc = weights_load_next(l, &part, err)) > 0)
        ;
    weights_load_end(&l);
    if (rc < 0)
        weights_fini(w);
    return rc;
}
