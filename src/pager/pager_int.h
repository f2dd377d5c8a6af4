/* Inside the pager: its state. All of it belongs to the engine thread except where noted. */
#ifndef MOED_PAGER_INT_H
#define MOED_PAGER_INT_H

#include <stdatomic.h>

#include "pager/load.h"
#include "pager/pager.h"
#include "pager/policy.h"

enum slot_state {
    SLOT_FREE,     /* no record; on the free stack. From LOADING (the load failed or was canceled)
                      and RESIDENT (evicted) */
    SLOT_LOADING,  /* its load is under way. From FREE */
    SLOT_RESIDENT, /* in the table, known to the policy. From LOADING, between steps */
};

struct slot {
    enum slot_state state;
    uint8_t *memory; /* on the device */
    int32_t key;     /* the record in it or on its way; -1: free */
    int32_t leases;
    uint32_t generation; /* grows when a record leaves */
    bool prefetched;     /* came by advice and was not used yet */
    uint64_t keep_until; /* epoch up to which a prefetched record stays for its first use */
    struct load load;
    struct dev_event ops_done; /* staging: marks the ops that read the last record */
    bool guarded;              /* staging: the mark is out */
};

/* An admission that was sent and had not begun when last looked at. */
struct waiting {
    int32_t slot;
    uint64_t number; /* of its load; another number there: this one came back long ago */
};

/* Who could be admitted. */
struct candidate {
    int32_t key;
    uint32_t order; /* among equals */
    double worth;
};

struct layer_counters {
#define X(name, help) _Atomic uint64_t name;
    PAGER_COUNTERS(X)
#undef X
};

/* What a stream has under way and what its running layer still needs. A key's staging slot is
 * staged_of; a slot of key -1 that is LOADING was given up and is free when its load comes back. */
struct stream {
    bool open, ahead;
    int layer, end;     /* the running layer, or the one before the first; the end of the range */
    int32_t next_key;   /* to look at for copying ahead */
    int32_t *staged_of; /* [n_keys] staging slot that holds or awaits the record; -1 */
    uint8_t *needed;    /* [n_experts] of the running layer, and not given yet */
    int32_t n_needed;
    int32_t *resident; /* [n_resident] keys to give, and from n_resident_given on */
    int32_t n_resident, n_resident_given;
    int32_t *wanted; /* [n_wanted] keys without a staging slot, from n_wanted_sent on */
    int32_t n_wanted, n_wanted_sent;
    int32_t *failed; /* [n_failed] keys whose copy failed: to be read in place */
    int32_t n_failed;
    int32_t *ready; /* [n_ready] staging slots in the order in which their copies ended */
    int32_t n_ready;
    int32_t n_loading; /* loads under way, those given up too */
};

struct pager {
    struct pager_config cfg;
    const struct expert_map *map;
    struct dev *dev;
    const struct policy_ops *ops;
    struct policy *policy;
    struct loader *loader; /* NULL: nothing to load into */
    int32_t n_keys, n_records;
    size_t record_bytes;

    struct slot *slots; /* [n_slots] */
    int32_t n_slots;
    uint8_t *arena;     /* memory of all slots */
    int32_t *free_slot; /* stack [n_free] */
    int32_t n_free;
    struct load **finished; /* came back while a step ran [n_finished] */
    int32_t n_finished;
    struct waiting *waiting; /* [n_waiting] in the order of sending */
    int32_t n_waiting;
    uint64_t loads_sent;
    int32_t arrived; /* admissions since the last step_end */
    double pace;     /* admissions a step */

    struct slot *staging; /* [n_staging]; FREE, LOADING or RESIDENT */
    int32_t n_staging;
    uint8_t *staging_arena;
    int32_t *free_staging;
    int32_t n_free_staging;
    int32_t n_demand; /* staging copies of an acquire that are under way */
    struct stream stream;

    int32_t *slot_of;     /* [n_keys] the residency table; -1: not resident */
    uint8_t *coming;      /* [n_keys] 1: a load is under way, promised or advised */
    uint64_t *used_epoch; /* [n_keys] the last one; epochs begin at 1 */
    int32_t *missed;      /* [n_missed] keys of this step, in order of use */
    int32_t n_missed;
    struct candidate *candidates;       /* [n_keys] scratch of step_end */
    int32_t *touch_keys, *touch_rows;   /* [n_experts] scratch of acquire */
    int32_t advice[PAGER_MAX_PREFETCH]; /* keys that wait for a slot */
    int32_t n_advice, n_prefetch_loads;
    bool in_step;

    /* Written by the engine thread, read by any. */
    _Atomic uint64_t epoch, table_version;
    _Atomic int32_t n_resident, n_loading, leases_out;
    struct layer_counters *counters; /* [n_layers] */
};

/* One writer, so a plain addition does. */
static inline void counter_add(_Atomic uint64_t *c, uint64_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline void number_add(_Atomic int32_t *c, int32_t n)
{
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static inline uint64_t pager_epoch(const struct pager *p)
{
    return atomic_load_explicit(&p->epoch, memory_order_relaxed);
}

static inline uint64_t pager_version(const struct pager *p)
{
    return atomic_load_explicit(&p->table_version, memory_order_relaxed);
}

static inline struct layer_counters *counters_of(struct pager *p, int32_t key)
{
    return &p->counters[key / p->map->n_experts];
}

/* step.c, for admit.c. The slot is off the free stack; the record has no slot and is not coming. */
void pager_start_load(struct pager *p, struct slot *s, int32_t key, enum load_class class);
void pager_start_in_free_slot(struct pager *p, int32_t key, enum load_class class);
/* RESIDENT -> LOADING: between steps, for a key that is worth the place. */
void pager_replace(struct pager *p, int32_t victim, int32_t key, enum load_class class);
/* The resident key to go next, or -1. */
int32_t pager_victim(struct pager *p);

/* Takes a load that came back, in a step or between two; what is for a slot waits for step_begin.
 */
void pager_came_back(struct pager *p, struct load *load);

/* lease.c, for stream.c. */
int pager_check_needs(const struct pager *p, int layer, const struct pager_need *needs, size_t n,
                      struct moed_error *err);
/* Counts the event and tells the policy what is new in this step. Misses may be admitted. */
void pager_count_uses(struct pager *p, int layer, const struct pager_need *needs, size_t n,
                      bool admit);
void pager_lease_slot(struct pager *p, struct pager_lease *lease, int32_t index);
void pager_lease_host(struct pager *p, struct pager_lease *lease);
/* A staging slot begins to load. It is off the stack. */
void pager_stage(struct pager *p, struct slot *s, int32_t key, enum load_class class);
void pager_free_staging(struct pager *p, struct slot *s);

/* stream.c */
void pager_stream_came_back(struct pager *p, struct load *load);
/* Staging slots that are free get what the stream wants next. */
void pager_stream_feed(struct pager *p);

/* admit.c: what this step missed, and what was asked for before and has not begun, by worth. */
void pager_admit(struct pager *p);
/* Free slots take records that nobody has asked for yet. */
void pager_fill(struct pager *p);

#endif
