/*
 * The CUDA device, inside. Over the driver API alone; compiled into libmoed_cuda.so.
 *
 * Threads: the engine thread owns everything here but `copies` (guarded by its lock) and `failed`.
 * Each entry point makes the context current on its thread.
 */
#ifndef MOED_DEVICE_CUDA_INT_H
#define MOED_DEVICE_CUDA_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <cuda.h>

#include "cuda/args.h"
#include "cuda/fused_args.h"
#include "device/device.h"

/* Every wait ends after this: what has not come by then never will. */
#define WAIT_SECONDS 120

/* Copies in flight at most; the pager keeps two. */
#define COPIES 16

/* The kernels: name, and the image that holds it. */
/* clang-format off */
#define DTYPED(X, image, name)                                                             \
    X(image, name##_f32_1) X(image, name##_f32_4) X(image, name##_f32_any)                 \
    X(image, name##_bf16_1) X(image, name##_bf16_2) X(image, name##_bf16_4)                \
    X(image, name##_bf16_8) X(image, name##_bf16_any)                                      \
    X(image, name##_f16_1) X(image, name##_f16_4) X(image, name##_f16_any)
#define FUNCTIONS(X)                                                                       \
    X(elementwise, fetch) X(elementwise, embed) X(elementwise, rmsnorm) X(elementwise, rope)                     \
    X(elementwise, kv_store) X(elementwise, silu_mul) X(elementwise, combine)              \
    X(elementwise, router_select)                                                          \
    X(attention, attention_f32_4) X(attention, attention_f32_any)                          \
    X(attention, attention_bf16_1) X(attention, attention_bf16_2)                          \
    X(attention, attention_bf16_4) X(attention, attention_bf16_8)                          \
    X(attention, attention_bf16_any)                                                       \
    DTYPED(X, linear, linear) X(linear, linear_bf16_many_4)                                \
    X(linear, linear_bf16_many_8) X(linear, linear_bf16_many_16)                           \
    DTYPED(X, experts, gate_up) DTYPED(X, experts, down)                                   \
    PACKED(X, experts, gate_up) X(experts, gate_up_packed_8)                               \
    PACKED(X, experts, down) X(experts, down_packed_8) X(experts, unpack)                  \
    X(sample, sample_best) X(sample, sample_weigh) X(sample, sample_select)                \
    X(sample, sample_draw)                                                                 \
    TENSOR_FUNCTIONS(X)                                                                    \
    X(step, turn) STEPPED(X, step, norm_linear)                                            \
    X(paged, resolve) X(paged, paged_combine)                                              \
    STEPPED(X, paged, paged_gate_up) STEPPED(X, paged, paged_down)                         \
    X(paged, paged_gate_up_bf16_rows) X(paged, paged_down_bf16_rows)                       \
    X(paged, paged_gate_up_packed_rows) X(paged, paged_down_packed_rows)                   \
    PACKED(X, paged, paged_gate_up) PACKED(X, paged, paged_down)                           \
    X(fused, fused_bf16) X(fused_packed, fused_packed)
#define PACKED(X, image, name)                                                             \
    X(image, name##_packed_1) X(image, name##_packed_2) X(image, name##_packed_4)
#define STEPPED(X, image, name)                                                            \
    X(image, name##_bf16_1) X(image, name##_bf16_2) X(image, name##_bf16_4)                \
    X(image, name##_f16_1) X(image, name##_f16_4)                                          \
    X(image, name##_f32_1) X(image, name##_f32_4)
#define TENSOR_FUNCTIONS(X)                                                                \
    X(tensor, round_bf16) X(tensor, round_f16)                                             \
    X(tensor, product_bf16_128) X(tensor, product_gated_bf16_128)                          \
    X(tensor, product_bf16_256) X(tensor, product_gated_bf16_256)                          \
    X(tensor, product_bf16_groups) X(tensor, product_gated_bf16_groups)                    \
    X(tensor, product_bf16_any) X(tensor, product_gated_bf16_any)                          \
    X(tensor, product_f16_128) X(tensor, product_gated_f16_128)                            \
    X(tensor, product_f16_any) X(tensor, product_gated_f16_any)                            \
    X(flash, flash_64) X(flash, flash_128) X(flash, flash_128_groups)
#define IMAGES(X)                                                                          \
    X(elementwise) X(attention) X(linear) X(experts) X(tensor) X(flash) X(step) X(paged) \
    X(sample) X(fused) X(fused_packed)
/* clang-format on */

enum function {
#define X(image, name) FN_##name,
    FUNCTIONS(X)
#undef X
        FN_COUNT
};

enum image {
#define X(name) IMAGE_##name,
    IMAGES(X)
#undef X
        IMAGE_COUNT
};

/* The embedded fat binaries (images.c). */
#define X(name) extern const unsigned char moed_image_##name[];
IMAGES(X)
#undef X

/*
 * A plan array as the device last saw it: a pinned copy on the host, compared before each use, and
 * one on the device. Within a pass most are sent once and used by every layer.
 */
struct mirror {
    uint8_t *host; /* pinned, capacity bytes */
    CUdeviceptr device;
    size_t bytes, capacity;
    bool under_way; /* the copy from host may not be over: cleared by a wait for the stream */
};

enum mirror_kind {
    MIRROR_TOKEN,
    MIRROR_POS,
    MIRROR_SEQ,
    MIRROR_SLOT,
    MIRROR_TABLE,
    MIRROR_LIST,
    MIRROR_SAMPLE,
    MIRROR_FORCED,
    MIRROR_TILES,
    MIRROR_COUNT
};

struct copy {
    CUevent event;
    struct dev_event *owner; /* NULL: free */
};

struct copies {
    pthread_mutex_t lock; /* guards owner of each, next */
    struct copy copy[COPIES];
    unsigned next;
    struct copy mark[DEV_MAX_MARKS]; /* in the queue of ops */
};

/* A piece of registered host memory. */
struct registered {
    struct registered *next;
    uint8_t *range, *piece; /* the range as the caller gave it; this piece of it */
};

struct grown {
    void *p;
    size_t bytes;
};

/* Plan memory: the host's twin, pinned, and the device's. */
struct plan_memory {
    uint8_t *host;
    CUdeviceptr device;
    size_t bytes;
};

/* What the kernels of paged experts share, for all layers; in device memory but the mailbox. */
struct paged {
    struct mailbox_layout layout;
    struct mailbox *box;
    CUdeviceptr memory;
    struct cu_paged args; /* what is the same in all layers */
    uint32_t abandoned;   /* the mailbox's word, as last seen */
};

/* What attention's blocks tell each other; device memory, of one size for all calls, so that
 * recordings may point to it. */
struct attention_memory {
    CUdeviceptr node;  /* pieces of contexts */
    CUdeviceptr ended; /* [blocks] words, 0 between launches */
    size_t node_bytes;
    int blocks; /* that share contexts between them, at most, in one launch */
};

struct dev_recorded {
    CUgraph graph;
    CUgraphExec exec;
};

struct dev_cuda {
    struct dev dev;
    CUdevice device;
    CUcontext context; /* the primary one */
    CUstream compute, copy;
    CUmodule module[IMAGE_COUNT];
    CUfunction function[FN_COUNT];
    struct mirror mirror[MIRROR_COUNT];
    struct copies copies;
    struct registered *registered;
    bool small_pieces;  /* the driver refused to register a large one: not tried again */
    CUdeviceptr logits; /* of the router */
    size_t logits_bytes;
    struct grown table, list; /* flat block tables; lists of expert calls: host memory */
    uint8_t *bounce;          /* pinned, for copy_out */
    struct attention_memory attention;
    struct plan_memory plan;
    struct paged paged;
    bool overlaps;       /* while recording: launches may begin before the one ahead has ended */
    const int32_t *live; /* on the device */
    int max_shared_bytes, overlap_capable, processors;
    struct cuda_tensor *tensor;
    _Atomic bool failed; /* sticky */
    void (*warn)(const char *text);
};

static inline struct dev_cuda *cuda_of(struct dev *dev)
{
    return (struct dev_cuda *)dev; /* dev is its first member */
}

/* The driver's words for a result. */
const char *cuda_words(CUresult r);
/* 0, or MOED_EDEVICE once anything has failed: the first failure is said aloud and sticks. */
int cuda_check(struct dev_cuda *d, CUresult r, const char *what);
/* Makes the context current; 0 or MOED_EDEVICE when the device has failed before. */
int cuda_enter(struct dev_cuda *d);
/* Waits for all ops so far, bounded. */
int cuda_wait_compute(struct dev_cuda *d);

#define CUDA_WORDS_ALIGN 16 /* of the loads of the wide kernels */

static inline const void *cuda_at(CUdeviceptr p)
{
    return (const void *)(uintptr_t)p;
}

static inline bool cuda_aligned(const void *p)
{
    return (uintptr_t)p % CUDA_WORDS_ALIGN == 0;
}

static inline size_t cuda_blocks(size_t n, size_t each)
{
    return (n + each - 1) / each;
}

static inline struct cu_kv cuda_kv_args(const struct kern_kv *kv)
{
    return (struct cu_kv){kv->blocks, (int64_t)kv->block_bytes, (int32_t)kv->dtype, kv->kv_heads,
                          kv->head_dim};
}

/* Launches, or records, one kernel; args is the struct it takes. Nothing where x or y is 0. */
int cuda_launch(struct dev_cuda *d, enum function f, size_t x, size_t y, unsigned threads,
                size_t shared_bytes, const void *args);
/* A plan array as the device sees it: its twin in plan memory, or its mirror. */
int cuda_plan_array(struct dev_cuda *d, enum mirror_kind kind, const void *p, size_t bytes,
                    const void **out);
/* NULL where p is not in plan memory. */
const void *cuda_plan_twin(const struct dev_cuda *d, const void *p);

/* Brings a plan array to the device, if it is not there already. 0 or MOED_EDEVICE. */
int cuda_mirror(struct dev_cuda *d, enum mirror_kind kind, const void *p, size_t bytes,
                CUdeviceptr *out);
/* Queues a copy of pinned host memory to the device, both on 4-byte edges, by a kernel: the engines
 * that copy would do it after the megabytes of experts that they have before them. */
int cuda_fetch(struct dev_cuda *d, CUdeviceptr to, const void *from, size_t bytes);
/* Makes *g hold at least so many bytes. */
int cuda_grow(struct dev_cuda *d, struct grown *g, size_t bytes);

/* The verbs of dev_ops (memory.c) and of dev_kern (ops.c). */
void *cuda_alloc(struct dev *dev, size_t bytes);
void cuda_free(struct dev *dev, void *p, size_t bytes);
void *cuda_alloc_shared(struct dev *dev, size_t bytes);
void cuda_free_shared(struct dev *dev, void *p, size_t bytes);
int cuda_host_register(struct dev *dev, void *p, size_t bytes, size_t edge_bytes,
                       struct moed_error *err);
void cuda_host_unregister(struct dev *dev, void *p);
int cuda_copy_in(struct dev *dev, void *dst, const void *src, size_t bytes, struct dev_event *ev);
int cuda_event_wait(struct dev *dev, struct dev_event *ev);
int cuda_event_mark(struct dev *dev, struct dev_event *ev);
int cuda_copies_wait(struct dev *dev, struct dev_event *ev);
int cuda_copy_out(struct dev *dev, void *dst, const void *src, size_t bytes);
int cuda_copy_within(struct dev *dev, void *dst, const void *src, size_t bytes);

int cuda_embed(struct dev *dev, const struct kern_embed *a);
int cuda_rmsnorm(struct dev *dev, const struct kern_rmsnorm *a);
/* A vector of n floats as kernels keep it in shared memory: vector_floats of common.cuh. */
static inline size_t cuda_vector_bytes(int n)
{
    return ((size_t)n + 255) / 256 * 256 * sizeof(float);
}

int cuda_linear(struct dev *dev, const struct kern_linear *a);
/* Whether that is by the kernel that keeps so many rows in shared memory: faster than any that
 * reads them again and again. */
bool cuda_linear_is_many(const struct dev_cuda *d, enum dtype w_dtype, int n, int in);
int cuda_rope(struct dev *dev, const struct kern_rope *a);
int cuda_kv_store(struct dev *dev, const struct kern_kv_store *a);
int cuda_attention(struct dev *dev, const struct kern_attention *a);
int cuda_silu_mul(struct dev *dev, const struct kern_silu_mul *a);
int cuda_router(struct dev *dev, const struct kern_router *a);
int cuda_experts_gate_up(struct dev *dev, const struct kern_experts *a);
int cuda_experts_down(struct dev *dev, const struct kern_experts *a);
int cuda_combine(struct dev *dev, const struct kern_combine *a);
int cuda_sample(struct dev *dev, const struct kern_sample *a);

/* The verbs of dev_step (graph.c, ops_step.c). */
int cuda_norm_linear(struct dev *dev, const struct kern_norm_linear *a);
int cuda_turn(struct dev *dev, const struct kern_turn *a);
int cuda_paged_experts(struct dev *dev, const struct kern_paged_experts *a);
/* What these ops hand to their kernels. */
struct cu_norm_linear cuda_norm_linear_args(const struct kern_norm_linear *a);
int cuda_turn_args(struct dev_cuda *d, const struct kern_turn *a, struct cu_turn *out);
struct cu_paged cuda_paged_args(const struct dev_cuda *d, const struct kern_paged_experts *a,
                                int rows_per_item);
/* Attention of CU_FUSED_HEADS heads a unit, cut into about `units`; *out_units of them, with so
 * much shared memory each. False where they do not fit. */
bool cuda_attention_units(struct dev_cuda *d, const struct kern_attention *a, int units,
                          struct cu_attention *out, int *out_units, size_t *shared_bytes);
/* Whether all matrices have one dtype, and rows for loads of 16 bytes. */
bool cuda_alike(const struct kern_norm_linear *a);
/* The fused step (ops_fused.c). */
int cuda_fused_open(struct dev *dev, const struct kern_layer *layers, int n_layers,
                    struct dev_fused **out, const char **why, struct moed_error *err);
void cuda_fused_close(struct dev *dev, struct dev_fused *);
int cuda_fused(struct dev *dev, const struct dev_fused *);
int cuda_fused_times(struct dev *dev, const struct dev_fused *, double *us);
bool cuda_can_page(struct dev *dev, const struct record_class *cls, int experts, int top_k);
int cuda_mailbox_open(struct dev *dev, const struct mailbox_layout *l, int64_t patience_us,
                      struct mailbox **out, struct moed_error *err);
extern const struct dev_step cuda_step;
void cuda_mailbox_close(struct dev *dev);
/* After a wait for the stream: MOED_ETIMEDOUT when the device has given up waiting for a miss. */
int cuda_step_outcome(struct dev_cuda *d);
/* The tensor class (ops_tensor.c). */
extern const struct dev_tensor cuda_tensor_ops;
int cuda_tensor_open(struct dev_cuda *d, struct moed_error *err);
void cuda_tensor_close(struct dev_cuda *d);

/* Attention's memory and kernels (ops_attention.c), after the functions are loaded. */
int cuda_attention_open(struct dev_cuda *d, struct moed_error *err);
void cuda_attention_close(struct dev_cuda *d);

int cuda_memory_open(struct dev_cuda *d, struct moed_error *err);
void cuda_memory_close(struct dev_cuda *d);

#endif
