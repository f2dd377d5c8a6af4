/*
 * A device: memory, copies, events and compute. device_cpu.c is the CPU; a CUDA device comes as a
 * shared object with the same tables (cuda/, plugin.h). A device is opened once and used by two
 * threads: compute by the engine thread only, copies by the pager thread only; memory and events by
 * both. Before the pager thread runs, the opening thread may copy as well.
 *
 * What the arguments of an op may point to: weights, activations, the KV cache and RoPE tables lie
 * in memory of alloc (or, records of experts, in registered host memory); a router's id and sampled
 * tokens in memory of alloc_shared; the plan of a step (token, pos, seq, slot, block tables,
 * groups, rows, pairs, forced choices, parameters of sampling) in host memory of any kind, which
 * the op has read when it returns.
 */
#ifndef MOED_DEVICE_H
#define MOED_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"
#include "mailbox.h"
#include "moed/error.h"
#include "sample.h"
#include "step.h"
#include "tensor.h"

struct dev;
struct dev_recorded;

/* A copy in flight, or a mark in the queue of ops. Embedded by its owner, who keeps it in place
 * until it is done. */
struct dev_event {
    _Atomic int state; /* 0 idle, 1 in flight, 2 done, 3 failed: written by the device, read by any
                          thread */
};

/* Marks that may be out at once. */
#define DEV_MAX_MARKS 128

/* Memory and copies: all the pager needs. */
struct dev_ops {
    const char *name; /* "cpu", "cuda" */
    /* Memory of alloc is host memory and ops take host pointers everywhere: nothing has to move. */
    bool uses_host_memory;
    /* Device memory, zeroed, at least 256-byte aligned; NULL when it cannot be had. */
    void *(*alloc)(struct dev *, size_t bytes);
    void (*free)(struct dev *, void *p, size_t bytes);
    /* Host memory, zeroed, that ops may write: the host reads it after sync. NULL as above. */
    void *(*alloc_shared)(struct dev *, size_t bytes);
    void (*free_shared)(struct dev *, void *p, size_t bytes);
    /* Makes host memory readable for ops and the copy engine, at the same address (page-locks and
     * maps it on CUDA, in pieces that end on multiples of edge_bytes from p: nothing that is read
     * as one crosses such an edge). p and edge_bytes are multiples of 4 KiB. 0 or negative code. */
    int (*host_register)(struct dev *, void *p, size_t bytes, size_t edge_bytes,
                         struct moed_error *err);
    void (*host_unregister)(struct dev *, void *p);
    /* Starts copying host to device; copies run in order; ev tells the end. 0, or negative when the
     * queue is full. */
    int (*copy_in)(struct dev *, void *dst, const void *src, size_t bytes, struct dev_event *ev);
    /* Waits until ev is done or failed; returns 0 or MOED_EDEVICE. */
    int (*event_wait)(struct dev *, struct dev_event *ev);
    /*
     * Memory that ops use and copies refill, without a wait of the host. Engine thread: ev marks
     * the end of all ops so far, and is out until event_wait or copies_wait has had it; marked
     * again while out, it stands for the later moment. Pager thread: copies begun from now on wait
     * for a mark, on the device. 0 or negative code.
     */
    int (*event_mark)(struct dev *, struct dev_event *ev);
    int (*copies_wait)(struct dev *, struct dev_event *ev);
    /* Engine thread: waits for all ops so far, then copies device to host. 0 or MOED_EDEVICE. */
    int (*copy_out)(struct dev *, void *dst, const void *src, size_t bytes);
    /* Engine thread: queues a copy within device memory, in order with the ops: the yardstick of
     * that memory. 0 or MOED_EDEVICE. */
    int (*copy_within)(struct dev *, void *dst, const void *src, size_t bytes);
    void (*close)(struct dev *);
};

/* Compute, under the contracts of kernels.h. Each returns 0 or MOED_EDEVICE; results are there when
 * sync returns. */
struct dev_kern {
    int (*embed)(struct dev *, const struct kern_embed *);
    int (*rmsnorm)(struct dev *, const struct kern_rmsnorm *);
    int (*linear)(struct dev *, const struct kern_linear *);
    int (*rope)(struct dev *, const struct kern_rope *);
    int (*kv_store)(struct dev *, const struct kern_kv_store *);
    int (*attention)(struct dev *, const struct kern_attention *);
    int (*silu_mul)(struct dev *, const struct kern_silu_mul *);
    int (*router)(struct dev *, const struct kern_router *);
    int (*experts_gate_up)(struct dev *, const struct kern_experts *);
    int (*experts_down)(struct dev *, const struct kern_experts *);
    int (*combine)(struct dev *, const struct kern_combine *);
    int (*sample)(struct dev *, const struct kern_sample *); /* NULL where it is not there */
    int (*sync)(struct dev *);
};

struct dev_fused;
/* Norm and Q, K, V; attention; its output; norm and router; gate and up; down. */
#define DEV_FUSED_PARTS 6

/*
 * Steps recorded once and replayed: a CUDA graph each. Engine thread. Between record_begin and
 * record_end the ops of dev_kern and of this table are recorded, not run; memory they use must stay
 * where it is as long as the recording is replayed. NULL where a device has no such thing.
 */
struct dev_step {
    /* Plan memory, zeroed, one block: the host's twin. An op that gets a pointer into it reads the
     * device's twin, as it is when the recording is replayed. */
    void *(*plan_alloc)(struct dev *, size_t bytes);
    void (*plan_free)(struct dev *, void *plan);
    /* Queues the copy of a part of plan memory, whole words, to the device; the part may not be
     * written again before sync. */
    int (*plan_send)(struct dev *, const void *part, size_t bytes);
    /* Makes the mailbox of l, zeroed, in memory of alloc_shared, and what paged_experts needs
     * beside it. Once, before anything is recorded that has experts. patience_us: of each wait of
     * the device for the workers; 0: 2 s. */
    int (*mailbox_open)(struct dev *, const struct mailbox_layout *l, int64_t patience_us,
                        struct mailbox **out, struct moed_error *err);
    void (*mailbox_close)(struct dev *);

    int (*record_begin)(struct dev *);
    /* The ops that follow leave rows from *live on alone; a word of plan memory. */
    void (*live)(struct dev *, const int32_t *live);
    int (*record_end)(struct dev *, struct dev_recorded **out, struct moed_error *err);
    void (*forget)(struct dev *, struct dev_recorded *);
    /* Queues a replay. What the device gave up waiting for is told by sync: MOED_ETIMEDOUT. */
    int (*replay)(struct dev *, const struct dev_recorded *);

    int (*norm_linear)(struct dev *, const struct kern_norm_linear *);
    int (*turn)(struct dev *, const struct kern_turn *); /* also outside of recordings */
    int (*paged_experts)(struct dev *, const struct kern_paged_experts *);
    /* One row through all layers in one launch, with the bits of the ops in turn. Not while
     * recording; what the layers point to stays in place, as for a recording. *out is NULL and *why
     * says why where the device or the shapes do not allow it. The plan's one row is live. */
    int (*fused_open)(struct dev *, const struct kern_layer *layers, int n_layers,
                      struct dev_fused **out, const char **why, struct moed_error *err);
    void (*fused_close)(struct dev *, struct dev_fused *);
    int (*fused)(struct dev *, const struct dev_fused *);
    /* Runs it once by itself and waits: microseconds that the parts of a layer take with the wait
     * for the slowest block, medians over layers [DEV_FUSED_PARTS]. */
    int (*fused_times)(struct dev *, const struct dev_fused *, double *us);
    /* Whether paged_experts can work on records of this class. */
    bool (*can_page)(struct dev *, const struct record_class *cls, int experts, int top_k);
};

/* The tensor class, under the contracts of tensor.h: compute for passes of many rows, queued as the
 * ops of dev_kern are. NULL on devices without it. */
struct dev_tensor {
    int (*round)(struct dev *, const struct kern_round *);
    int (*linear)(struct dev *, const struct kern_tensor_linear *);
    int (*experts)(struct dev *, const struct kern_tensor_experts *);
    int (*attention)(struct dev *, const struct kern_tensor_attention *);
};

struct dev {
    const struct dev_ops *ops;
    const struct dev_kern *kern;
    const struct dev_step *step;     /* or NULL */
    const struct dev_tensor *tensor; /* or NULL */
};

struct dev_cpu_config {
    int threads; /* compute threads; 0: the cores that cgroup and affinity leave */
    enum kern_isa isa;
    uint64_t link_bytes_per_s; /* speed limit of copy_in, the stand-in for a PCIe link; 0: none */
    int max_context;           /* tokens of a sequence, at most; 0: not said */
};

int dev_cpu_open(struct dev **out, const struct dev_cpu_config *cfg, struct moed_error *err);

/* Memory of a device apart from the host's. */
struct dev_memory {
    char name[64]; /* of the product */
    uint64_t total_bytes, free_bytes;
};

/* Where to compute, settled once: then plan, then open. */
struct dev_choice {
    bool cuda;
    int ordinal;              /* of the CUDA device */
    struct dev_memory memory; /* cuda only */
    bool kept;                /* see dev_choose_to_open */
    char why[256];            /* for people: what was chosen and why */
};

/*
 * name: "auto", "cpu", "cuda", "cuda:N"; NULL and "" mean auto, which takes CUDA where the plugin
 * opens and a GPU is there, and otherwise the CPU. Errors: MOED_EINVAL for other names,
 * MOED_EUNSUPPORTED where CUDA was asked for and cannot be had.
 */
int dev_choose(struct dev_choice *out, const char *name, struct moed_error *err);
/* The same for who opens it next: a context of the driver takes tenths of a second to make, so the
 * one made for asking is kept until dev_choice_end. */
int dev_choose_to_open(struct dev_choice *out, const char *name, struct moed_error *err);
/* After dev_open, or when nothing is going to be opened; again does nothing. */
void dev_choice_end(struct dev_choice *);
/* Opens what was chosen; cpu is read for the CPU only. */
int dev_open(struct dev **out, const struct dev_choice *choice, const struct dev_cpu_config *cpu,
             struct moed_error *err);
void dev_close(struct dev **dev);

/* Cores this process may use: affinity and the cgroup's cpu quota, rounded up, at least 1. */
int dev_usable_cores(void);

/* What a CPU device is: for logs and bench. This and what follows take CPU devices only. */
struct dev_cpu_info {
    int threads;
    const char *isa;
};
struct dev_cpu_info dev_cpu_info(const struct dev *dev);

/*
 * Runs fn(arg, part, parts) for each part on the compute threads and waits: for bandwidth probes
 * and for samplers. Engine thread only. Scratch is not passed.
 */
void dev_cpu_parallel(struct dev *dev, void (*fn)(void *arg, int part, int parts), void *arg,
                      int parts);

/* Best plain read bandwidth of the compute threads over `bytes` of memory, GB/s; several passes,
 * the best one. */
double dev_cpu_read_gb_per_s(struct dev *dev, size_t bytes);

#endif
