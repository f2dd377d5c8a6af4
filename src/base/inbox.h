/*
 * A queue between threads: any thread pushes, one thread takes. No lock. A file descriptor is
 * readable while the queue may hold something, so that the taker can sleep in poll or in an event
 * loop.
 *
 * Order: what one thread pushes comes out in that thread's order.
 */
#ifndef MOED_BASE_INBOX_H
#define MOED_BASE_INBOX_H

#include <stdatomic.h>

#include "moed/error.h"

/* Embedded by what is queued; in the queue from push until next hands it back. */
struct inbox_node {
    struct inbox_node *next;
};

struct inbox {
    _Atomic(struct inbox_node *) pushed; /* newest first; any thread */
    struct inbox_node *taken;            /* oldest first; the taker's */
    int fd;                              /* eventfd */
};

int inbox_init(struct inbox *q, struct moed_error *err);
/* The queue must be empty: whoever owns the nodes has taken them all. */
void inbox_fini(struct inbox *q);
void inbox_push(struct inbox *q, struct inbox_node *node);
/* The oldest node, or NULL; only then is the descriptor no longer readable. */
struct inbox_node *inbox_next(struct inbox *q);
/* Sleeps until the queue holds something or timeout_us has passed (negative: for ever). */
void inbox_wait(struct inbox *q, long long timeout_us);

#endif
