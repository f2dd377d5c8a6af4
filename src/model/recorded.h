/*
 * Passes of the step lane that a device runs as a whole: each size is recorded once (device.h,
 * struct dev_step) and replayed. The device resolves the experts itself; what it does not hold is
 * computed by the miss workers and over the link. Engine thread.
 */
#ifndef MOED_MODEL_RECORDED_H
#define MOED_MODEL_RECORDED_H

#include "model/model_int.h"

struct recorded;

/* Device memory of recorded steps on a device apart, before anything is allocated: plan, lists,
 * tables, and about what the driver takes for the graphs. */
uint64_t recorded_bytes(const struct model_config *c, const struct model_options *o);

/* What steps share: plan, mailbox, miss workers. Before the pager is opened. *out stays NULL where
 * the device or the model's shapes do not allow it, which is said in the log. */
int recorded_open(struct recorded **out, struct model *m, struct moed_error *err);
/* Records all sizes, over the pager's slots as they are now. r may be NULL. */
int recorded_record(struct recorded *r, struct model *m, struct moed_error *err);
/* Before the pager is opened, whose first loads would take part of the link: times misses of whole
 * layers with the CPU alone, the link alone and both at once, says so, and
 * gives the miss workers their first shares. Once, and not while every expert is to get a slot.
 * Nothing where r is NULL or there are no experts. */
int recorded_measure(struct recorded *r, struct model *m, struct moed_error *err);
/* Not zero while a miss of a step is being computed; NULL where there are none. */
const _Atomic uint32_t *recorded_demand_open(const struct recorded *r);
void recorded_close(struct recorded **r, struct model *m);

/* NULL where there are none. */
const struct misses *recorded_misses(const struct recorded *r);

/* Whether this pass can be a replay. */
bool recorded_fits(const struct recorded *r, const struct model *m, const struct pass *p);
/* Sends the plan and queues the step. */
int recorded_run(struct recorded *r, struct model *m, const struct pass *p, struct moed_error *err);
/* Queues the logits of rows of the pass that was run last, into the model's buffer; n that fit.
 * What the device gave up waiting for is MOED_ETIMEDOUT, and said by recorded_timed_out. */
bool recorded_head_fits(const struct recorded *r, int32_t n);
int recorded_head(struct recorded *r, struct model *m, const int32_t *rows, int32_t n);
int recorded_timed_out(struct moed_error *err);
/* When the device has ended the step, rc being what its sync said: accounts to the pager, or lets
 * the miss workers come to rest. Returns rc. */
int recorded_settle(struct recorded *r, struct model *m, int rc);
/* Bytes of experts that the miss workers read since open. r may be NULL. */
uint64_t recorded_cpu_bytes(const struct recorded *r);
/* Positions up to which a step of one row is one launch; 0: none. r may be NULL. */
int32_t recorded_fused_context(const struct recorded *r);
int recorded_fused_times(struct recorded *r, struct model *m, double *us);
/* A step was queued that is not settled. */
bool recorded_pending(const struct recorded *r);

#endif
