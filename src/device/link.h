/*
 * The copy engine of the CPU device: one thread that copies in order from a bounded queue, at most
 * at a set rate, as a PCIe link would.
 */
#ifndef MOED_DEVICE_LINK_H
#define MOED_DEVICE_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "device/device.h"

/* Copies waiting or running; more are refused with MOED_EBUSY. */
#define LINK_QUEUE_COPIES 64

struct link;

/* bytes_per_s 0: no limit. */
int link_open(struct link **out, uint64_t bytes_per_s, struct moed_error *err);
/* Copies that have not begun fail. */
void link_close(struct link **l);

/* Any thread. */
int link_copy(struct link *l, void *dst, const void *src, size_t bytes, struct dev_event *ev);
int link_wait(struct link *l, struct dev_event *ev);

#endif
