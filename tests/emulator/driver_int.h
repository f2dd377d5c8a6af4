/*
 * The stand-in for the CUDA driver, inside.
 *
 * One device, one context. A stream is a thread that does what it is given, in order; kernels run
 * one at a time (fibers.h), copies of another stream run beside them. `lock` guards all that is not
 * said to be otherwise; no stream works while holding it.
 */
#ifndef MOED_TESTS_EMULATOR_DRIVER_INT_H
#define MOED_TESTS_EMULATOR_DRIVER_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda.h>

#include "fibers.h"

#define MAX_PARAM_BYTES 32764 /* of a kernel's arguments */

/* Memory that kernels and copies may use. */
struct range {
    struct range *next;
    uint8_t *base;
    size_t bytes;
    enum range_kind { RANGE_DEVICE, RANGE_HOST_ALLOC, RANGE_HOST_REGISTERED } kind;
};

/* A thing to do in a stream's order. */
struct work {
    struct work *next;
    enum work_kind {
        WORK_KERNEL,
        WORK_COPY,
        WORK_SET,
        WORK_RECORD,
        WORK_WAIT,
        WORK_HOST,
        WORK_WRITE_WORD,
        WORK_WAIT_WORD,
        WORK_GRAPH
    } kind;
    union {
        struct {
            struct emulator_launch launch;
            void *params[EMULATOR_MAX_PARAMS];
            uint8_t *bytes; /* of the arguments; owned */
        } kernel;
        struct {
            void *to;
            const void *from;
            size_t bytes;
            uint8_t *staged; /* owned: of pageable memory, as it was at the call */
        } copy;
        struct {
            void *to;
            uint32_t value;
            size_t n;
            unsigned each; /* bytes: 1, 2, 4 */
        } set;
        struct {
            struct CUevent_st *event;
            uint64_t number; /* of the event's records */
        } event;
        struct {
            CUhostFn fn;
            void *arg;
        } host;
        struct {
            uint32_t *p;
            uint32_t value;
            unsigned how; /* CU_STREAM_WAIT_VALUE_* */
        } word;
        struct CUgraphExec_st *graph;
    };
};

struct work_list {
    struct work *first, **end; /* end NULL: empty */
    size_t n;
};

struct CUgraph_st {
    struct work_list nodes; /* in an order that the captured streams allow */
    uint64_t id;            /* of its capture, never 0 */
};

struct CUgraphExec_st {
    struct work_list nodes;
    unsigned in_flight;
    bool destroyed; /* freed when it is no longer in flight */
};

struct CUevent_st {
    uint64_t recorded, reached; /* records asked for, the last one that has happened */
    double seconds;             /* of that one */
    bool timed;
    unsigned looks;   /* of cuEventQuery in a row that found it under way */
    uint64_t capture; /* id of the graph that was captured when it was recorded, or 0 */
};

struct CUstream_st {
    struct CUstream_st *next;
    pthread_t thread;
    struct work_list queue;
    bool busy, stop;
    unsigned looks; /* of cuStreamQuery in a row that found it busy */
    struct CUgraph_st *capture;
    bool capture_origin, capture_broken;
    CUstreamCaptureMode capture_mode;
    pthread_t capture_thread; /* that began it */
};

struct CUfunc_st {
    const struct emulator_kernel *kernel;
    size_t max_shared_bytes; /* dynamic */
};

struct CUmod_st {
    struct CUfunc_st *function[512];
    size_t n;
};

struct CUctx_st {
    int unused;
};

struct driver {
    pthread_mutex_t lock;
    pthread_cond_t change; /* of a queue, a stream, an event */
    _Atomic bool initialised;
    unsigned holders; /* of the primary context */
    struct CUctx_st context;
    _Atomic CUresult sticky;
    struct range *ranges;
    size_t device_bytes; /* allocated */
    struct CUstream_st *streams;
    struct CUstream_st *legacy; /* for stream NULL, made on first need */
    /* Faults to come: 1 is the next call. 0: none. */
    unsigned fail_launch, fail_copy, fail_alloc;
    uint64_t captures; /* begun so far */
};
extern struct driver driver;

/* driver.c */
CUresult driver_begin(void); /* the sticky error, or that nothing is initialised */
/* Counts down; true at its end. With the lock. */
bool driver_fault(unsigned *countdown);
/* The range that holds p, or NULL. With the lock. */
const struct range *driver_find(const void *p);
/* Whether copies of so many bytes may begin at p. With the lock. */
bool driver_covers(const void *p, size_t bytes, bool *pinned);

/* work.c */
struct work *work_new(enum work_kind kind);
void work_free(struct work *w);
void work_list_free(struct work_list *list);
void work_list_add(struct work_list *list, struct work *w);
/* A copy of each; false: no memory. */
bool work_list_clone(struct work_list *out, const struct work_list *from);
/* Does it, on the stream's thread, without the lock. */
void work_run(const struct work *w);

/* stream.c */
/* Gives w to the stream or to the graph that it captures; owns w. */
CUresult stream_submit(CUstream stream, struct work *w);
bool stream_captures(CUstream stream);
/* Waits until all streams have nothing left. With the lock, which it lets go meanwhile. */
void streams_drain(void);
CUresult stream_wait(CUstream stream);
/* Something that no capture may see: breaks those that forbid it. With the lock. */
CUresult stream_unsafe(void);

#endif
