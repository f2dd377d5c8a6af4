/*
 * The pager: which experts are resident on the device, what a miss does, what is admitted and
 * evicted.
 *
 * Records (kernels/record.h) lie in host memory and never change. The device holds slots, each as
 * large as a record.
 *   hit    the record is in a slot that this step's epoch shows
 *   miss   it is not: used from the host record in place, or copied to a staging slot first when
 *          many rows want it
 * Admission copies run between and beside steps on the pager thread; what they bring is visible
 * from a later epoch on.
 *
 * Threads: the engine thread calls everything here except where noted; it owns residency table and
 * policy. The pager thread (own libuv loop) owns loads in flight and talks to the engine thread
 * through two message queues, no lock. src/pager/README.md says who may do what.
 *
 * Rules (design.md 3.2)
 * - a step sees one epoch: step_begin publishes finished loads, nothing changes until step_end;
 * - a victim leaves the table between two steps, and its slot is refilled only then: step_end is
 *   called when the device has done the step; a lease keeps its slot;
 * - what a step used is not evicted before the next step has ended;
 * - a lease is released exactly once; step_end and pager_close assert that none is out;
 * - any failure of a load is silent for the caller: the expert stays a miss, the counter
 *   load_errors grows.
 */
#ifndef MOED_PAGER_H
#define MOED_PAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "device/device.h"
#include "moed/error.h"
#include "record.h"

struct pager;

/* Where the records of a model lie in host memory. Filled by the loader, immutable while a pager
 * uses it. */
struct expert_map {
    int n_layers, n_experts; /* n_layers counts all layers of the model; a dense layer has host_of
                                NULL throughout */
    const struct record_class *cls;
    const void **host_of; /* [n_layers * n_experts]; NULL: not here */
};

enum pager_mode {
    PAGER_IN_PLACE, /* CPU device without --expert-cache: the record is the slot; everything is
                       resident */
    PAGER_CACHED,
};

/* Slots of the staging ring where there is one: enough for loads to run ahead of compute. */
#define PAGER_STAGING_SLOTS 8

struct pager_config {
    enum pager_mode mode;
    uint64_t cache_bytes; /* slots = cache_bytes / record bytes, at most one per record; 0 and less
                             than one record are allowed: no slots */
    const char *policy;   /* "steady", "lfru", "lfu", "lru"; NULL: steady */
    int staging_slots;  /* ring for streams and many-row misses, at most PAGER_MAX_STAGING; 0: none
                         */
    int stage_min_rows; /* rows from which on a miss goes through staging; 0: never */
    int max_loads;      /* slots without a record for admissions to come, at most; fewer where the
                           link brings fewer in a step; 0: 64, and an eighth of the slots */
    size_t chunk_bytes; /* of one admission copy; 0: 2 MiB */
    int min_share_percent;   /* of the link's time for admissions while a miss is open; 0: 25, -1:
                                none */
    int stream_ahead_rows;   /* rows from which on a stream copies ahead of the router; 0: 512 */
    size_t bulk_chunk_bytes; /* of one copy of a stream; 0: 16 MiB */
    bool fill;               /* at open, all slots get records, layer by layer in turn */
    bool synchronous; /* admissions end inside step_end, all that the policy wants: exact counts
                         for tests and replay */
    /*
     * Nonzero while a miss is read over the link outside of leases: written by any thread, read by
     * the pager thread, whose admission copies yield to it. A miss that the CPU computes from host
     * memory does not need the link and need not count. Outlives the pager; NULL: there is none.
     */
    const _Atomic uint32_t *demand_open;
};

#define PAGER_MAX_STAGING  DEV_MAX_MARKS
#define PAGER_MAX_PREFETCH 16 /* pieces of advice not yet resident */

int pager_open(struct pager **out, const struct pager_config *cfg, const struct expert_map *map,
               struct dev *dev, struct moed_error *err);
void pager_close(struct pager **p);

/* Starts a step: takes in finished loads, frees evicted slots, starts epoch n+1. */
void pager_step_begin(struct pager *p);
/* Ends it: all leases are back; asks the policy for admissions and hands them to the pager thread.
 */
void pager_step_end(struct pager *p);

/* What a layer needs in this step: distinct experts, each with the number of rows that chose it. */
struct pager_need {
    int32_t expert;
    int32_t rows;
};

enum lease_kind { LEASE_NONE, LEASE_SLOT, LEASE_HOST, LEASE_STAGED, LEASE_STREAMED };

struct pager_lease {
    enum lease_kind kind;
    int32_t layer, expert;
    const void *record;  /* readable by the device until release */
    int32_t slot;        /* of the kind's pool; -1 for LEASE_HOST and in place */
    uint32_t generation; /* of the slot, to catch a late release */
};

/*
 * Resolves all experts of one layer as one event; leases[i] belongs to needs[i]. Never fails for
 * lack of slots. May wait for staging copies (counted as stall time). 0 or MOED_ENOTFOUND when a
 * record is not in memory (then nothing is leased or counted). Called again for the same layer in a
 * step, it counts as use only what is new.
 */
int pager_acquire(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                  struct pager_lease *leases, struct moed_error *err);
/* Gives leases back, each once; in any grouping and order. They become LEASE_NONE. Ops that read a
 * staging slot may still be queued: its next copy waits for them. */
void pager_release(struct pager *p, struct pager_lease *leases, size_t n);

/*
 * For a step that the device runs as a whole, resolving experts itself: the residency table and the
 * slots before it, the account after it. Cached pagers only. Engine thread.
 */

/* [n_layers * n_experts] slot index, or -1 where not resident: what the running step may see.
 * Fixed from step_begin to step_end, in one place while the pager lives. version grows whenever it
 * has changed; it is never 0. */
const int32_t *pager_table(const struct pager *p, uint64_t *version);
/* The memory of the slots, on the device: slot i lies at base + i * slot_bytes. NULL: no slots. */
const void *pager_slots(const struct pager *p, size_t *slot_bytes);
/*
 * In the running step, after the device has done the layer: counts, tells the policy and remembers
 * misses as pager_acquire does, as one event, without leases. Misses count as read in place.
 */
void pager_account(struct pager *p, int layer, const struct pager_need *needs, size_t n);

/*
 * Streams: for passes of many rows, which use most experts of each layer once. What is not resident
 * comes through the staging slots at the link's full speed, the next layers' experts behind those
 * of the running one, and compute begins with what is there. What a stream brings stays in no slot,
 * and its misses ask for no admission.
 *
 *     pager_stream_open(p, first, end, rows)      copies begin, where rows are many
 *     for each layer with experts, in a step, after its router:
 *         pager_stream_layer(p, layer, needs, n, &err)
 *         while ((k = pager_stream_next(p, leases, max)) > 0)
 *             compute these k experts; pager_release(p, leases, k)
 *     pager_stream_close(p)                       at the end, or whenever the pass is given up
 *
 * Steps may end and begin between two layers: copies go on. One stream at a time; others use
 * pager_acquire meanwhile. Engine thread.
 */

/* A pass of so many rows over layers [first, end). 1 when it is open; 0: no staging slots, or
 * another stream is open. */
int pager_stream_open(struct pager *p, int first, int end, int rows);
/* What the layer needs; layers ascend, and each is drained by pager_stream_next before the next.
 * Counts like pager_acquire; 0 or MOED_ENOTFOUND (then nothing is counted). */
int pager_stream_layer(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                       struct moed_error *err);
/*
 * The next experts of the layer that can be computed, at most max: those that have come, then
 * resident ones; waits until there is one. 0: all have been given. Leases that are held while it
 * waits keep their slots from being refilled; with all of them held, what is left is read in place.
 */
int pager_stream_next(struct pager *p, struct pager_lease *leases, int max);
void pager_stream_close(struct pager *p);

/*
 * Advice: bounded, de-duplicated, behind every demand, silent. Returns 1 when taken, 0 when not.
 * Between two steps as well as within one. Without a free slot it waits for the next step_end,
 * where it may take the place of an expert that the step did not use.
 */
int pager_prefetch(struct pager *p, int layer, int expert);
/* Takes all advice back that has not begun to load. */
void pager_prefetch_cancel(struct pager *p);

/* Counters, one row each: name and help. Any thread: values are atomic and may be of slightly
 * different moments. */
#define PAGER_COUNTERS(X)                                                                          \
    X(activations, "Expert activations: (token, layer, chosen expert) triples.")                   \
    X(uses, "Distinct (step, layer, expert) uses.")                                                \
    X(hits, "Uses of a resident expert.")                                                          \
    X(misses, "Uses of an expert that was not resident.")                                          \
    X(bytes_copied, "Bytes copied into slots and staging slots.")                                  \
    X(bytes_staged, "Bytes copied into staging slots alone.")                                      \
    X(bytes_in_place, "Bytes of records read from host memory in place.")                          \
    X(admissions, "Experts brought into a slot.")                                                  \
    X(evictions, "Experts that left a slot.")                                                      \
    X(bypasses, "Misses that were not admitted: not worth a place, or more than the link takes.")  \
    X(underway, "Misses of experts that were already being loaded.")                               \
    X(staged, "Misses that went through a staging slot.")                                          \
    X(staged_unused, "Experts copied ahead to a staging slot and not needed there.")               \
    X(prefetches, "Pieces of prefetch advice that were taken.")                                    \
    X(prefetches_canceled, "Pieces of prefetch advice taken back or given up before loading.")     \
    X(prefetches_used, "Prefetched experts that were used before they left.")                      \
    X(fills, "Experts asked for to fill free slots, without a miss.")                              \
    X(dropped, "Admissions given up for better ones before they began.")                           \
    X(load_errors, "Loads that failed.")                                                           \
    X(stall_us, "Microseconds a step waited for a copy.")

struct pager_counters {
#define X(name, help) uint64_t name;
    PAGER_COUNTERS(X)
#undef X
};

void pager_counters(const struct pager *p, struct pager_counters *total);
/* All zero for a layer out of range. */
void pager_counters_layer(const struct pager *p, int layer, struct pager_counters *out);

struct pager_info {
    enum pager_mode mode;
    const char *policy;
    int32_t slots, resident; /* records; in place: all of them */
    int32_t loading;         /* slots whose next record is on its way */
    uint64_t slot_bytes, cache_bytes, staging_bytes, epoch;
    uint64_t table_version;
    int32_t leases_out;
};
/* Any thread. */
void pager_info(const struct pager *p, struct pager_info *out);
/* A copy of the residency table: out[layer * n_experts + expert] is 1 where resident. Engine
 * thread. */
void pager_residency(const struct pager *p, uint8_t *out);

#endif
