/* Inside io/: the threads of one call. */
#ifndef MOED_IO_INT_H
#define MOED_IO_INT_H

#include <stdint.h>

#include "io/io.h"

/* A core copies from the page cache at 5 GB/s or so; a fast disk wants as many requests. */
#define IO_DEFAULT_THREADS 16

/*
 * Runs body(arg) on `threads` threads and waits for all of them; tick(arg) is called on the
 * caller's thread about ten times a second meanwhile and once at the end. Fewer threads than asked
 * for are enough; none is MOED_EIO.
 */
int io_crew_run(int threads, void (*body)(void *arg), void (*tick)(void *arg), void *arg,
                struct moed_error *err);

/* The thread count of cfg for n pieces of work: at least 1. */
int io_crew_threads(const struct io_config *cfg, size_t n);

#endif
