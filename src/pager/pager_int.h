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

    int32_t *slot_of; /* [n_keys] the residency table; -1: not resident */
    uint64_t table_version;
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
    _Atomic uint64_t epoch;
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

/* admit.c: what this step missed, and what was asked for before and has not begun, by worth. */
void pager_admit(struct pager *p);
/* Free slots take records that nobody has asked for yet. */
void pager_fill(struct pager *p);

#endif
