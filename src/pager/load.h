/*
 * Loads: one record on its way from host memory into a slot. A load is a message: whoever holds it
 * owns it. The engine thread fills and sends it, the pager thread copies it in chunks and sends it
 * back with the outcome.
 *
 *     engine thread                                     pager thread (own libuv loop)
 *     loader_send ------ ring `to_do` + uv_async ----->  queues, by class
 *                                                        chunk by chunk, at most two in flight
 *     loader_take <----- ring `done` ------------------  outcome set
 *
 * Demand goes first, then streams, then admissions, then prefetches. All but demand yield: while a
 * miss is open (loader_miss_open ... loader_miss_closed, or others' demand_open) one chunk of
 * theirs goes at a time, and only so often that they have the share of the link's time that they
 * are promised.
 */
#ifndef MOED_PAGER_LOAD_H
#define MOED_PAGER_LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/device.h"
#include "moed/error.h"

enum load_class { LOAD_DEMAND, LOAD_STREAM, LOAD_ADMISSION, LOAD_PREFETCH, LOAD_CLASSES };

/* Who may change a load that is under way and has not begun. */
enum load_claim {
    LOAD_WAITS, /* either thread may claim it */
    LOAD_HELD,  /* the engine thread, for a moment: it may set another src and key */
    LOAD_BEGUN, /* the pager thread, to the end */
};

enum load_outcome { LOAD_UNDERWAY, LOAD_DONE, LOAD_FAILED, LOAD_CANCELED };

struct load {
    /* Set by the sender, fixed while under way. */
    const uint8_t *src;
    uint8_t *dst;
    size_t bytes;
    uint64_t number; /* the sender's */
    int32_t key, slot;
    enum load_class class;
    struct dev_event *after; /* a mark that the first copy waits for; NULL: none */
    _Atomic int claim;       /* enum load_claim */
    /* Set by the engine thread at any time; a load that has not begun comes back LOAD_CANCELED. */
    _Atomic bool cancel;
    /* The pager thread's, until it comes back. */
    struct load *next;
    size_t sent_bytes;
    int chunks_out;
    bool failed;
    enum load_outcome outcome;
};

struct loader;

struct loader_config {
    size_t chunk_bytes;
    size_t bulk_chunk_bytes; /* of demand, and of streams while no miss is open */
    size_t max_loads;        /* under way at once; a promise of the sender */
    int min_share_percent;   /* of the link's time while a miss is open: 0 to 100 */
    const _Atomic uint32_t
        *demand_open; /* a miss of others is open while it is not 0; may be NULL */
};

int loader_open(struct loader **out, struct dev *dev, const struct loader_config *cfg,
                struct moed_error *err);
/* Ends the thread after the chunks in flight; loads under way are dropped where they are. */
void loader_close(struct loader **l);

/* Engine thread. Holds a load that was sent, if it has not begun; then src and key may be changed
 * until it is let go. */
bool load_hold(struct load *load);
void load_let_go(struct load *load);

/* Engine thread. Several sends, then one kick, which does nothing where nothing was sent. */
void loader_send(struct loader *l, struct load *load);
void loader_kick(struct loader *l);
/* The next load that came back, or NULL. */
struct load *loader_take(struct loader *l);
/* Waits for the next one. There must be one under way. */
struct load *loader_wait(struct loader *l);

/* Engine thread: while any of n misses is open, demand has the link but for the promised share. */
void loader_miss_open(struct loader *l, int n);
void loader_miss_closed(struct loader *l, int n);

#endif
