/*
 * io_read_all: extents are cut along a grid of chunk_bytes in the file, neighbours within a cell
 * become one read, and threads take the reads in file order.
 *
 *   file    |........cell k........|.......cell k+1.......|
 *   extents    [a..][b....][c..............][d..]
 *   reads      [a + b + c' ]         [c'' + d ]       each widened to 4 KiB for O_DIRECT
 *
 * Because cells start on 4 KiB edges, no block is read twice where an extent spans cells. One that
 * has no place (dst NULL) is not cut: it joins a read that stays within chunk_bytes, across the
 * edge of a cell too, or begins one; then two reads may share a block of 4 KiB. Most tensors are
 * not aligned in the file the way their place in memory is; those go through a bounce buffer per
 * thread, whose copy costs little beside the disk. From the page cache, where it would cost as much
 * as the read, each goes straight to its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <uv.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/io_int.h"

#define BLOCK_BYTES         ((uint64_t)4096)
#define DEFAULT_CHUNK_BYTES ((size_t)4 << 20)
/* Bytes between two extents that one read may carry in vain: about what a second request costs. */
#define MAX_GAP_BYTES ((uint64_t)64 << 10)
#define CACHE_PROBES  16

struct file {
    const char *path;
    int fd;        /* buffered */
    int direct_fd; /* -1: none */
    _Atomic bool direct;
    uint64_t bytes;
};

/* A part of one extent within one cell; or a whole one that has no place. */
struct piece {
    uint64_t offset;
    size_t bytes;
    uint8_t *dst; /* NULL: none */
    uint32_t extent;
    int file;
};

/* One read: pieces[first, first + n), all within [begin, end), which has at most chunk_bytes. */
struct unit {
    size_t first, n;
    uint64_t begin, end;
};

struct reader {
    const struct io_config *cfg; /* never NULL */
    const struct io_extent *extents;
    struct file *files;
    size_t n_files;
    size_t chunk_bytes;
    struct piece *pieces;
    size_t n_pieces;
    struct unit *units;
    size_t n_units;
    _Atomic uint32_t *left; /* [n_extents] pieces not yet there */
    uint64_t total_bytes, start_ns;
    _Atomic size_t next_unit;
    _Atomic uint64_t done_bytes;
    _Atomic bool stop;
    uv_mutex_t lock; /* guards err */
    struct moed_error err;
};

/* The first failure is the one that is told. */
static void reader_fail(struct reader *r, const struct moed_error *why)
{
    uv_mutex_lock(&r->lock);
    if (r->err.code == 0)
        r->err = *why;
    uv_mutex_unlock(&r->lock);
    atomic_store(&r->stop, true);
}

static void use_buffered(struct file *f, const char *why)
{
    if (atomic_exchange(&f->direct, false))
        log_info("%s: O_DIRECT is refused (%s): reading through the page cache", f->path, why);
}

/*
 * Reads [lo, hi) into dst until at least [lo, need) is there. Returns 0, a negative code, or 1 when
 * O_DIRECT refused, which is for the caller to repeat buffered.
 */
static int read_range(struct file *f, bool direct, uint8_t *dst, uint64_t lo, uint64_t need,
                      uint64_t hi, struct moed_error *err)
{
    uint64_t got = 0;
    while (lo + got < need) {
        ssize_t n = pread(direct ? f->direct_fd : f->fd, dst + got, (size_t)(hi - lo - got),
                          (off_t)(lo + got));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && direct && (errno == EINVAL || errno == EOPNOTSUPP)) {
            use_buffered(f, strerror(errno));
            return 1;
        }
        if (n < 0)
            return moed_fail(err, MOED_EIO, "%s: reading at byte %llu: %s", f->path,
                             (unsigned long long)(lo + got), strerror(errno));
        if (n == 0)
            return moed_fail(err, MOED_EIO, "%s: the file ended at byte %llu while it was read",
                             f->path, (unsigned long long)(lo + got));
        uint64_t before = got;
        got += (uint64_t)n;
        /* After a short direct read the next one must begin on a block again. */
        if (direct && lo + got < need) {
            got -= got % BLOCK_BYTES;
            if (got == before)
                return 1;
        }
    }
    return 0;
}

static uint64_t block_floor(uint64_t x)
{
    return x - x % BLOCK_BYTES;
}

static uint64_t block_ceil(uint64_t x)
{
    return block_floor(x + BLOCK_BYTES - 1);
}

/* Counts a piece that is there, at `at` if it has no place; tells of its extent if that is whole
 * now. */
static int finish_piece(struct reader *r, const struct piece *p, const uint8_t *at,
                        struct moed_error *err)
{
    atomic_fetch_add_explicit(&r->done_bytes, p->bytes, memory_order_relaxed);
    if (atomic_fetch_sub(&r->left[p->extent], 1) != 1 || !r->cfg->finished)
        return 0;
    const struct io_extent *e = &r->extents[p->extent];
    if (r->cfg->finished(r->cfg->user, e, e->dst ? e->dst : at) != 0)
        return moed_fail(err, MOED_EIO, "%s: reading at byte %llu: its reader gave up",
                         r->files[e->file].path, (unsigned long long)e->offset);
    return 0;
}

/* Hands out the pieces of a unit that lies in a buffer from byte lo of the file on. */
static int scatter(struct reader *r, const struct unit *u, const uint8_t *from, uint64_t lo,
                   struct moed_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < u->n && rc == 0; i++) {
        const struct piece *p = &r->pieces[u->first + i];
        const uint8_t *at = from + (p->offset - lo);
        if (p->dst)
            memcpy(p->dst, at, p->bytes);
        rc = finish_piece(r, p, at, err);
    }
    return rc;
}

static int read_direct(struct reader *r, struct file *f, const struct unit *u, uint8_t *bounce,
                       struct moed_error *err)
{
    const struct piece *p = &r->pieces[u->first];
    uint64_t lo = block_floor(u->begin), whole = block_floor(u->end);
    int rc;
    /* Straight to its place where file and memory are both on block edges; the rest, under one
     * block, bounces. */
    if (u->n == 1 && p->dst && lo == u->begin && (uintptr_t)p->dst % BLOCK_BYTES == 0 &&
        whole > lo) {
        rc = read_range(f, true, p->dst, lo, whole, whole, err);
        if (rc == 0 && whole < u->end) {
            rc = read_range(f, true, bounce, whole, u->end, block_ceil(u->end), err);
            if (rc == 0)
                memcpy(p->dst + (whole - lo), bounce, (size_t)(u->end - whole));
        }
        return rc == 0 ? finish_piece(r, p, NULL, err) : rc;
    }
    rc = read_range(f, true, bounce, lo, u->end, block_ceil(u->end), err);
    return rc == 0 ? scatter(r, u, bounce, lo, err) : rc;
}

static int read_buffered(struct reader *r, struct file *f, const struct unit *u, uint8_t *bounce,
                         struct moed_error *err)
{
    int rc = 0;
    for (size_t i = 0; i < u->n && rc == 0; i++) {
        const struct piece *p = &r->pieces[u->first + i];
        uint64_t end = p->offset + p->bytes;
        rc = read_range(f, false, p->dst ? p->dst : bounce, p->offset, end, end, err);
        if (rc == 0)
            rc = finish_piece(r, p, bounce, err);
    }
    return rc;
}

static void reader_body(void *arg)
{
    struct reader *r = arg;
    struct moed_error err = {0};
    /* A unit may begin and end within a block. */
    size_t bounce_bytes = r->chunk_bytes + 2 * BLOCK_BYTES;
    uint8_t *bounce = aligned_alloc(BLOCK_BYTES, bounce_bytes);
    if (!bounce) {
        moed_fail(&err, MOED_ENOMEM, "no memory for a read buffer of %zu bytes", bounce_bytes);
        reader_fail(r, &err);
        return;
    }
    size_t i;
    while (!atomic_load_explicit(&r->stop, memory_order_relaxed) &&
           (i = atomic_fetch_add_explicit(&r->next_unit, 1, memory_order_relaxed)) < r->n_units) {
        const struct unit *u = &r->units[i];
        struct file *f = &r->files[r->pieces[u->first].file];
        int rc = 1;
        if (atomic_load_explicit(&f->direct, memory_order_relaxed))
            rc = read_direct(r, f, u, bounce, &err);
        if (rc == 1)
            rc = read_buffered(r, f, u, bounce, &err);
        if (rc < 0) {
            reader_fail(r, &err);
            break;
        }
    }
    free(bounce);
}

static void reader_tick(void *arg)
{
    struct reader *r = arg;
    struct io_progress p = {.done_bytes =
                                atomic_load_explicit(&r->done_bytes, memory_order_relaxed),
                            .total_bytes = r->total_bytes,
                            .seconds = (double)(uv_hrtime() - r->start_ns) * 1e-9};
    r->cfg->progress(r->cfg->user, &p);
}

static int piece_order(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return 0;
}

/* Checks the extents against the files and counts pieces. */
static int check_extents(struct reader *r, size_t n_extents, struct moed_error *err)
{
    for (size_t i = 0; i < n_extents; i++) {
        const struct io_extent *e = &r->extents[i];
        if (e->file < 0 || (size_t)e->file >= r->n_files)
            return moed_fail(err, MOED_EINVAL, "extent %zu names file %d of %zu", i, e->file,
                             r->n_files);
        const struct file *f = &r->files[e->file];
        if (e->offset > f->bytes || e->bytes > f->bytes - e->offset)
            return moed_fail(err, MOED_EFORMAT,
                             "%s: %zu bytes at byte %llu are wanted, the file has %llu", f->path,
                             e->bytes, (unsigned long long)e->offset, (unsigned long long)f->bytes);
        if (e->bytes == 0)
            continue;
        if (!e->dst && e->bytes > r->chunk_bytes)
            return moed_fail(err, MOED_EINVAL,
                             "extent %zu has no place and %zu bytes, more than %zu", i, e->bytes,
                             r->chunk_bytes);
        uint64_t first = e->offset / r->chunk_bytes;
        uint64_t last = (e->offset + e->bytes - 1) / r->chunk_bytes;
        uint32_t n = e->dst ? (uint32_t)(last - first + 1) : 1;
        atomic_init(&r->left[i], n);
        r->n_pieces += n;
        r->total_bytes += e->bytes;
    }
    return 0;
}

static void cut_pieces(struct reader *r, size_t n_extents)
{
    size_t k = 0;
    for (size_t i = 0; i < n_extents; i++) {
        const struct io_extent *e = &r->extents[i];
        for (size_t at = 0; at < e->bytes;) {
            uint64_t offset = e->offset + at;
            size_t n = r->chunk_bytes - (size_t)(offset % r->chunk_bytes);
            if (n > e->bytes - at || !e->dst)
                n = e->bytes - at;
            r->pieces[k++] = (struct piece){.offset = offset,
                                            .bytes = n,
                                            .dst = e->dst ? (uint8_t *)e->dst + at : NULL,
                                            .extent = (uint32_t)i,
                                            .file = e->file};
            at += n;
        }
    }
    qsort(r->pieces, r->n_pieces, sizeof r->pieces[0], piece_order);
}

/* A piece that has a place stays within its cell, so that reads begin and end on its edges. */
static bool joins(const struct reader *r, const struct unit *u, const struct piece *p)
{
    if (r->pieces[u->first].file != p->file || p->offset > u->end + MAX_GAP_BYTES)
        return false;
    if (p->dst)
        return u->begin / r->chunk_bytes == p->offset / r->chunk_bytes;
    return p->offset + p->bytes - u->begin <= r->chunk_bytes;
}

static void group_units(struct reader *r)
{
    struct unit *u = NULL;
    for (size_t i = 0; i < r->n_pieces; i++) {
        const struct piece *p = &r->pieces[i];
        uint64_t end = p->offset + p->bytes;
        if (u && joins(r, u, p)) {
            u->n++;
            if (end > u->end)
                u->end = end;
            continue;
        }
        u = &r->units[r->n_units++];
        *u = (struct unit){.first = i, .n = 1, .begin = p->offset, .end = end};
    }
}

/* Whether most of what is wanted of the file is in the page cache, by looking at a few places. */
static bool mostly_cached(const struct reader *r, size_t n_extents, int file)
{
    size_t mine = 0, probed = 0, cached = 0, seen = 0;
    for (size_t i = 0; i < n_extents; i++)
        mine += r->extents[i].file == file && r->extents[i].bytes > 0;
    size_t step = mine / CACHE_PROBES + 1;
    for (size_t i = 0; i < n_extents; i++) {
        const struct io_extent *e = &r->extents[i];
        if (e->file != file || e->bytes == 0 || seen++ % step != 0)
            continue;
        char byte;
        struct iovec v = {.iov_base = &byte, .iov_len = 1};
        probed++;
        cached +=
            preadv2(r->files[file].fd, &v, 1, (off_t)(e->offset + e->bytes / 2), RWF_NOWAIT) == 1;
    }
    return probed > 0 && cached * 2 > probed;
}

static int open_file(struct file *f, const char *path, struct moed_error *err)
{
    *f = (struct file){.path = path, .fd = -1, .direct_fd = -1};
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0)
        return moed_fail(err, errno == ENOENT ? MOED_ENOTFOUND : MOED_EIO, "%s: %s", path,
                         strerror(errno));
    struct stat st;
    if (fstat(f->fd, &st) != 0)
        return moed_fail(err, MOED_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return moed_fail(err, MOED_EIO, "%s: not a regular file", path);
    f->bytes = (uint64_t)st.st_size;
    return 0;
}

static void choose_direct(struct reader *r, size_t n_extents, int file)
{
    struct file *f = &r->files[file];
    if (r->cfg->direct == IO_BUFFERED ||
        (r->cfg->direct == IO_DIRECT_AUTO && mostly_cached(r, n_extents, file)))
        return;
    f->direct_fd = open(f->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    atomic_store(&f->direct, true);
    if (f->direct_fd < 0)
        use_buffered(f, strerror(errno));
}

static int reader_plan(struct reader *r, size_t n_extents, struct moed_error *err)
{
    int rc = check_extents(r, n_extents, err);
    if (rc < 0)
        return rc;
    r->pieces = mem_try(r->n_pieces, sizeof r->pieces[0]);
    r->units = mem_try(r->n_pieces, sizeof r->units[0]);
    if (!r->pieces || !r->units)
        return moed_fail(err, MOED_ENOMEM, "no memory to plan %zu reads", r->n_pieces);
    cut_pieces(r, n_extents);
    group_units(r);
    return 0;
}

static size_t chunk_of(const struct io_config *cfg)
{
    size_t n = cfg->chunk_bytes ? cfg->chunk_bytes : DEFAULT_CHUNK_BYTES;
    if (n < IO_MIN_CHUNK_BYTES)
        n = IO_MIN_CHUNK_BYTES;
    if (n > IO_MAX_CHUNK_BYTES)
        n = IO_MAX_CHUNK_BYTES;
    return (size_t)block_ceil(n);
}

int io_read_all(const char *const *paths, size_t n_paths, const struct io_extent *extents,
                size_t n_extents, const struct io_config *cfg, struct moed_error *err)
{
    static const struct io_config defaults = {.direct = IO_DIRECT_AUTO};
    struct reader r = {.cfg = cfg ? cfg : &defaults, .extents = extents, .start_ns = uv_hrtime()};
    int rc = 0;
    if (uv_mutex_init(&r.lock) != 0)
        return moed_fail(err, MOED_EIO, "cannot make a mutex");
    r.chunk_bytes = chunk_of(r.cfg);
    r.files = mem_new(n_paths, sizeof r.files[0]);
    r.left = mem_try(n_extents, sizeof r.left[0]);
    if (!r.left || n_extents > UINT32_MAX) {
        rc = moed_fail(err, MOED_ENOMEM, "no memory to plan %zu extents", n_extents);
        goto out;
    }
    for (; r.n_files < n_paths; r.n_files++)
        if ((rc = open_file(&r.files[r.n_files], paths[r.n_files], err)) < 0) {
            r.n_files++;
            goto out;
        }
    rc = reader_plan(&r, n_extents, err);
    if (rc < 0)
        goto out;
    for (size_t i = 0; i < n_paths; i++)
        choose_direct(&r, n_extents, (int)i);
    rc = io_crew_run(io_crew_threads(r.cfg, r.n_units), reader_body,
                     r.cfg->progress ? reader_tick : NULL, &r, err);
    if (rc == 0 && r.err.code != 0) {
        rc = r.err.code;
        if (err)
            *err = r.err;
    }
out:
    for (size_t i = 0; i < r.n_files; i++) {
        if (r.files[i].fd >= 0)
            close(r.files[i].fd);
        if (r.files[i].direct_fd >= 0)
            close(r.files[i].direct_fd);
    }
    free(r.files);
    free(r.left);
    free(r.pieces);
    free(r.units);
    uv_mutex_destroy(&r.lock);
    return rc;
}
