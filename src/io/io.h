/*
 * Reads of extents from disk, in parallel, through libuv's pool; O_DIRECT where the file system
 * takes it and the bytes are not cached, buffered otherwise. One reader belongs to one thread;
 * reads run on pool threads.
 */
#ifndef MOED_IO_H
#define MOED_IO_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

struct io_extent {
    int file;        /* index into paths */
    uint64_t offset; /* bytes; any alignment */
    size_t bytes;
    void *dst; /* where they go; any alignment */
};

struct io_progress {
    uint64_t done_bytes, total_bytes;
    double seconds;
};

struct io_config {
    int threads;        /* reads in flight; 0: 8 */
    size_t chunk_bytes; /* of one read; 0: 4 MiB */
    int direct;         /* 0 buffered, 1 O_DIRECT where possible, -1 decide by what is cached */
    /* Called on the caller's thread about ten times a second and once at the end; may be NULL. */
    void (*progress)(void *user, const struct io_progress *p);
    void *user;
    /* Called on pool threads for each finished extent; for tests that make reads fail; may be NULL.
     */
    int (*fault)(void *user, const struct io_extent *e);
};

/* Reads all extents; returns when all are there or one failed (MOED_EIO names file, offset and
 * reason). */
int io_read_all(const char *const *paths, size_t n_paths, const struct io_extent *extents,
                size_t n_extents, const struct io_config *cfg, struct moed_error *err);

/*
 * Runs fn(arg, i) for i in 0..n-1 on the pool and waits: for filling memory without a disk.
 * Progress counts items.
 */
int io_for_each(size_t n, void (*fn)(void *arg, size_t i), void *arg, const struct io_config *cfg,
                struct moed_error *err);

#endif
