/*
 * Reads of extents from disk, in parallel: O_DIRECT where the file system takes it and the bytes
 * are not cached, buffered otherwise. A call belongs to its caller's thread and returns when all is
 * done; the reads run on threads that live as long as the call.
 *
 * The threads are started through libuv (uv_thread_create) and are not those of its pool: the pool
 * is one per process and has four threads unless the environment says otherwise before its first
 * use. So the number of reads in flight is a parameter here, and nothing touches the environment.
 */
#ifndef MOED_IO_H
#define MOED_IO_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

#define IO_MAX_THREADS     128
#define IO_MIN_CHUNK_BYTES ((size_t)64 << 10)
#define IO_MAX_CHUNK_BYTES ((size_t)256 << 20)

struct io_extent {
    int file;        /* index into paths */
    uint64_t offset; /* bytes; any alignment */
    size_t bytes;    /* 0 is allowed */
    /* Where they go, any alignment; NULL: into a buffer of the reading thread, for `finished`
     * alone. Such an extent has at most chunk_bytes and is read whole. */
    void *dst;
};

struct io_progress {
    uint64_t done_bytes, total_bytes; /* of extents; io_for_each: items */
    double seconds;                   /* since the call began */
};

enum io_direct { IO_DIRECT_AUTO = -1, IO_BUFFERED = 0, IO_DIRECT = 1 };

/* All zero is a good configuration except for direct, where zero means buffered. */
struct io_config {
    int threads;        /* reads in flight, at most IO_MAX_THREADS; 0: 16 */
    size_t chunk_bytes; /* of one read, rounded to 4 KiB and to the limits above; 0: 4 MiB */
    int direct;         /* enum io_direct; AUTO: O_DIRECT unless most of the bytes are cached */
    /* Called on the caller's thread about ten times a second and once at the end; may be NULL. */
    void (*progress)(void *user, const struct io_progress *p);
    void *user;
    /* Called on a reading thread for each extent that is whole in memory and has bytes; not 0 makes
     * the read fail. May be NULL. e is the caller's; its bytes lie at data: e->dst, or where that
     * is NULL any alignment and only during the call. */
    int (*finished)(void *user, const struct io_extent *e, const void *data);
};

/*
 * Reads all extents; returns when all are there or one failed. Extents are checked against the
 * files' sizes before the first read. Errors name file and offset: MOED_EIO, MOED_ENOTFOUND (no
 * such file), MOED_EFORMAT (an extent ends behind the file), MOED_ENOMEM. cfg may be NULL.
 */
int io_read_all(const char *const *paths, size_t n_paths, const struct io_extent *extents,
                size_t n_extents, const struct io_config *cfg, struct moed_error *err);

/*
 * Runs fn(arg, i) for i in 0..n-1 on threads and waits: for filling memory without a disk.
 * Progress counts items. threads, progress and user of cfg count; cfg may be NULL.
 */
int io_for_each(size_t n, void (*fn)(void *arg, size_t i), void *arg, const struct io_config *cfg,
                struct moed_error *err);

#endif
