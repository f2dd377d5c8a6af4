/*
 * The compute threads of the CPU device. The caller's thread is worker 0 and takes parts like the
 * others; the rest are started once, spin a little after each job and then park.
 *
 * Parts are claimed one by one, so a thread that the system does not schedule delays at most the
 * part it holds. One job at a time, always from the same thread.
 */
#ifndef MOED_DEVICE_WORKERS_H
#define MOED_DEVICE_WORKERS_H

#include "moed/error.h"

struct workers;

/* Does part `part` of `parts` on worker `worker` (0 is the caller). */
typedef void workers_fn(void *arg, int part, int parts, int worker);

/* threads counts the caller: threads - 1 are started. spin_us: how long an idle one looks for work
 * before it parks. */
int workers_open(struct workers **out, int threads, int spin_us, struct moed_error *err);
void workers_close(struct workers **w);

/* Runs all parts and returns when the last one has ended. */
void workers_run(struct workers *w, workers_fn *fn, void *arg, int parts);

#endif
