/*
 * The CPU as a device: memory is host memory, copies go over the link thread (link.h), ops run over
 * the compute threads (workers.h). The engine thread calls the ops and works along; an op has ended
 * when its call returns, so sync has nothing to do.
 */
#include "device/device.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "device/link.h"
#include "device/workers.h"

#define THREADS_MAX 1024

/* Parts per thread: enough that a thread which loses its core for a while delays little. */
#define PARTS_PER_THREAD 4

/*
 * Cost of work in bytes read from memory, at about 10 bytes per nanosecond and thread. An op below
 * PART_BYTES runs on the caller: waking others costs more than it saves.
 */
#define PART_BYTES          ((size_t)32 << 10)
#define FMA_PER_BYTE        4 /* fused multiply-adds in the time of one byte */
#define SCALAR_FMA_PER_BYTE 1

/* What the kernels want for packed panels, beside attention's scores. */
#define SCRATCH_MIN_BYTES ((size_t)2 << 20)

/* An idle thread looks for work this long before it parks: the gaps between ops of a step are
 * shorter. Where every core has a compute thread, others need the cores too. */
#define SPIN_US        60
#define SPIN_SCARCE_US 15

struct dev_cpu {
    struct dev dev;
    const struct kern_cpu *k;
    struct workers *workers;
    struct link *link;
    int threads;
    uint8_t *scratch; /* [threads][scratch_bytes]; engine thread only */
    size_t scratch_bytes;
    float *logits; /* [logits_floats] of routers whose rows are too few to split; engine thread */
    size_t logits_floats;
};

static struct dev_cpu *self_of(const struct dev *dev)
{
    return (struct dev_cpu *)dev; /* dev is its first member */
}

/* Memory and copies. */

static void *cpu_alloc(struct dev *dev, size_t bytes)
{
    return mem_map(bytes);
}

static void cpu_free(struct dev *dev, void *p, size_t bytes)
{
    mem_unmap(p, bytes);
}

static int cpu_host_register(struct dev *dev, void *p, size_t bytes, size_t edge_bytes,
                             struct moed_error *err)
{
    return 0;
}

static void cpu_host_unregister(struct dev *dev, void *p)
{
}

static int cpu_copy_in(struct dev *dev, void *dst, const void *src, size_t bytes,
                       struct dev_event *ev)
{
    return link_copy(self_of(dev)->link, dst, src, bytes, ev);
}

static int cpu_event_wait(struct dev *dev, struct dev_event *ev)
{
    return link_wait(self_of(dev)->link, ev);
}

/* Ops are done when they return. */
static int cpu_event_mark(struct dev *dev, struct dev_event *ev)
{
    atomic_store(&ev->state, 2);
    return 0;
}

static int cpu_copies_wait(struct dev *dev, struct dev_event *ev)
{
    return 0;
}

static int cpu_copy_out(struct dev *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return 0;
}

static int cpu_copy_within(struct dev *dev, void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return 0;
}

static void cpu_close(struct dev *dev)
{
    struct dev_cpu *d = self_of(dev);
    link_close(&d->link);
    workers_close(&d->workers);
    mem_unmap(d->scratch, d->scratch_bytes * (size_t)d->threads);
    free(d->logits);
    free(d);
}

/* Compute. */

/* Makes sure that each worker has so much scratch. */
static int want_scratch(struct dev_cpu *d, size_t bytes)
{
    if (bytes <= d->scratch_bytes)
        return 0;
    bytes = (bytes + 4095) / 4096 * 4096;
    uint8_t *scratch = mem_map(bytes * (size_t)d->threads);
    if (!scratch)
        return MOED_EDEVICE;
    mem_unmap(d->scratch, d->scratch_bytes * (size_t)d->threads);
    d->scratch = scratch;
    d->scratch_bytes = bytes;
    return 0;
}

enum op_kind {
    OP_EMBED,
    OP_RMSNORM,
    OP_LINEAR,
    OP_ROPE,
    OP_KV_STORE,
    OP_ATTENTION,
    OP_SILU_MUL,
    OP_ROUTER,
    OP_EXPERTS_GATE_UP,
    OP_EXPERTS_DOWN,
    OP_COMBINE,
};

/* An op on its way through the workers. */
struct op {
    struct dev_cpu *d;
    enum op_kind kind;
    const void *args; /* struct kern_<kind> */
};

static void op_part(void *arg, int index, int count, int worker)
{
    const struct op *op = arg;
    const struct kern_cpu *k = op->d->k;
    size_t bytes = op->d->scratch_bytes;
    struct kern_part part = {index, count, op->d->scratch + (size_t)worker * bytes, bytes};
    switch (op->kind) {
    case OP_EMBED:
        k->embed(op->args, part);
        break;
    case OP_RMSNORM:
        k->rmsnorm(op->args, part);
        break;
    case OP_LINEAR:
        k->linear(op->args, part);
        break;
    case OP_ROPE:
        k->rope(op->args, part);
        break;
    case OP_KV_STORE:
        k->kv_store(op->args, part);
        break;
    case OP_ATTENTION:
        k->attention(op->args, part);
        break;
    case OP_SILU_MUL:
        k->silu_mul(op->args, part);
        break;
    case OP_ROUTER:
        k->router(op->args, part);
        break;
    case OP_EXPERTS_GATE_UP:
        k->experts_gate_up(op->args, part);
        break;
    case OP_EXPERTS_DOWN:
        k->experts_down(op->args, part);
        break;
    case OP_COMBINE:
        k->combine(op->args, part);
        break;
    }
}

static int run_op(struct dev *dev, enum op_kind kind, const void *args, size_t cost_bytes)
{
    struct dev_cpu *d = self_of(dev);
    struct op op = {d, kind, args};
    size_t parts = cost_bytes / PART_BYTES, most = (size_t)d->threads * PARTS_PER_THREAD;
    parts = parts < 1 || d->threads == 1 ? 1 : parts > most ? most : parts;
    workers_run(d->workers, op_part, &op, (int)parts);
    return 0;
}

/* Cost of n rows times so many weights: their way from memory, and the arithmetic. */
static size_t weights_cost(const struct dev *dev, size_t weights, size_t bytes, size_t n)
{
    size_t per_byte =
        self_of(dev)->k == kern_cpu(KERN_ISA_SCALAR) ? SCALAR_FMA_PER_BYTE : FMA_PER_BYTE;
    return bytes + weights * n / per_byte;
}

static size_t matrix_cost(const struct dev *dev, size_t weights, enum dtype dtype, size_t n)
{
    return weights_cost(dev, weights, weights * dtype_bytes(dtype), n);
}

static int cpu_embed(struct dev *dev, const struct kern_embed *a)
{
    return run_op(dev, OP_EMBED, a, (size_t)a->n * (size_t)a->dim * 4);
}

static int cpu_rmsnorm(struct dev *dev, const struct kern_rmsnorm *a)
{
    return run_op(dev, OP_RMSNORM, a, (size_t)a->n * (size_t)a->dim * 4);
}

static int cpu_linear(struct dev *dev, const struct kern_linear *a)
{
    size_t weights = (size_t)a->in * (size_t)a->out;
    return run_op(dev, OP_LINEAR, a, matrix_cost(dev, weights, a->w_dtype, (size_t)a->n));
}

static int cpu_rope(struct dev *dev, const struct kern_rope *a)
{
    return run_op(dev, OP_ROPE, a, (size_t)a->n * (size_t)a->heads * (size_t)a->head_dim * 4);
}

static int cpu_kv_store(struct dev *dev, const struct kern_kv_store *a)
{
    return run_op(dev, OP_KV_STORE, a, (size_t)a->n * (a->kv.block_bytes / KV_BLOCK_TOKENS) * 2);
}

static int cpu_attention(struct dev *dev, const struct kern_attention *a)
{
    size_t group = (size_t)(a->heads / a->kv.kv_heads);
    int rc = want_scratch(self_of(dev), kern_attention_scratch_bytes(a->kv.head_dim, (int)group));
    if (rc)
        return rc;
    size_t tokens = 0;
    for (int i = 0; i < a->n; i++)
        tokens += (size_t)(a->window && a->pos[i] >= a->window ? a->window : a->pos[i] + 1);
    size_t elems = tokens * (size_t)a->kv.kv_heads * (size_t)a->kv.head_dim * 2;
    return run_op(dev, OP_ATTENTION, a, matrix_cost(dev, elems, a->kv.dtype, group));
}

static int cpu_silu_mul(struct dev *dev, const struct kern_silu_mul *a)
{
    return run_op(dev, OP_SILU_MUL, a, a->n * 12);
}

/* Few rows: the logits are split over experts instead, with the same bits, and chosen from here. */
static int route_few(struct dev *dev, const struct kern_router *a)
{
    struct dev_cpu *d = self_of(dev);
    size_t floats = (size_t)a->n * (size_t)a->experts;
    if (floats > d->logits_floats) {
        free(d->logits);
        d->logits = mem_try(floats, sizeof *d->logits);
        d->logits_floats = d->logits ? floats : 0;
        if (!d->logits)
            return MOED_EDEVICE;
    }
    struct kern_linear logits = {.w = a->w,
                                 .w_dtype = a->w_dtype,
                                 .x = a->x,
                                 .y = d->logits,
                                 .x_stride = (size_t)a->in,
                                 .y_stride = (size_t)a->experts,
                                 .n = a->n,
                                 .in = a->in,
                                 .out = a->experts};
    int rc = cpu_linear(dev, &logits);
    for (int i = 0; i < a->n; i++)
        kern_router_select(a, (size_t)i, d->logits + (size_t)i * (size_t)a->experts);
    return rc;
}

static int cpu_router(struct dev *dev, const struct kern_router *a)
{
    if (a->n < self_of(dev)->threads * PARTS_PER_THREAD)
        return route_few(dev, a);
    int rc = want_scratch(self_of(dev), (size_t)a->experts * sizeof(float));
    if (rc)
        return rc;
    size_t weights = (size_t)a->in * (size_t)a->experts;
    return run_op(dev, OP_ROUTER, a, matrix_cost(dev, weights, a->w_dtype, (size_t)a->n));
}

/* bytes: of the weights of one expert that the op reads. */
static int run_experts(struct dev *dev, enum op_kind kind, const struct kern_experts *a,
                       size_t matrices, size_t bytes)
{
    size_t weights = matrices * (size_t)a->cls->hidden * (size_t)a->cls->intermediate, cost = 0;
    for (int g = 0; g < a->n_groups; g++)
        if (a->group[g].n)
            cost += weights_cost(dev, weights, bytes, (size_t)a->group[g].n);
    return run_op(dev, kind, a, cost);
}

static int cpu_experts_gate_up(struct dev *dev, const struct kern_experts *a)
{
    size_t bytes = 2 * (size_t)a->cls->intermediate * a->cls->in_row_bytes;
    return run_experts(dev, OP_EXPERTS_GATE_UP, a, 2, bytes);
}

static int cpu_experts_down(struct dev *dev, const struct kern_experts *a)
{
    size_t bytes = (size_t)a->cls->hidden * a->cls->down_row_bytes;
    return run_experts(dev, OP_EXPERTS_DOWN, a, 1, bytes);
}

static int cpu_combine(struct dev *dev, const struct kern_combine *a)
{
    return run_op(dev, OP_COMBINE, a, (size_t)a->n * (size_t)a->top_k * (size_t)a->dim * 4);
}

static int cpu_sync(struct dev *dev)
{
    return 0;
}

static const struct dev_ops cpu_ops = {
    .name = "cpu",
    .uses_host_memory = true,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .alloc_shared = cpu_alloc,
    .free_shared = cpu_free,
    .host_register = cpu_host_register,
    .host_unregister = cpu_host_unregister,
    .copy_in = cpu_copy_in,
    .event_wait = cpu_event_wait,
    .event_mark = cpu_event_mark,
    .copies_wait = cpu_copies_wait,
    .copy_out = cpu_copy_out,
    .copy_within = cpu_copy_within,
    .close = cpu_close,
};

static const struct dev_kern cpu_kern = {
    .embed = cpu_embed,
    .rmsnorm = cpu_rmsnorm,
    .linear = cpu_linear,
    .rope = cpu_rope,
    .kv_store = cpu_kv_store,
    .attention = cpu_attention,
    .silu_mul = cpu_silu_mul,
    .router = cpu_router,
    .experts_gate_up = cpu_experts_gate_up,
    .experts_down = cpu_experts_down,
    .combine = cpu_combine,
    .sync = cpu_sync,
};

int dev_cpu_open(struct dev **out, const struct dev_cpu_config *cfg, struct moed_error *err)
{
    if (cfg->threads < 0 || cfg->threads > THREADS_MAX)
        return moed_fail_param(err, MOED_EINVAL, "threads", "%d threads: 0 to %d are possible",
                               cfg->threads, THREADS_MAX);
    if (cfg->max_context < 0)
        return moed_fail_param(err, MOED_EINVAL, "max_context", "a context of %d tokens",
                               cfg->max_context);
    const struct kern_cpu *k = kern_cpu(cfg->isa);
    if (!k)
        return moed_fail_param(err, MOED_EUNSUPPORTED, "isa", "this CPU or build has no %s kernels",
                               kern_isa_name(cfg->isa) ? kern_isa_name(cfg->isa) : "such");
    int cores = dev_usable_cores(), rc;
    struct dev_cpu *d = mem_new(1, sizeof *d);
    d->dev = (struct dev){&cpu_ops, &cpu_kern};
    d->k = k;
    d->threads = cfg->threads ? cfg->threads : cores < THREADS_MAX ? cores : THREADS_MAX;
    rc = workers_open(&d->workers, d->threads, d->threads < cores ? SPIN_US : SPIN_SCARCE_US, err);
    if (rc)
        goto out;
    rc = link_open(&d->link, cfg->link_bytes_per_s, err);
    if (rc)
        goto out;
    if (want_scratch(d, SCRATCH_MIN_BYTES)) {
        rc = moed_fail(err, MOED_ENOMEM, "no memory for the scratch of %d compute threads",
                       d->threads);
        goto out;
    }
    *out = &d->dev;
    d = NULL;
out:
    if (d)
        cpu_close(&d->dev);
    return rc;
}

struct dev_cpu_info dev_cpu_info(const struct dev *dev)
{
    return (struct dev_cpu_info){self_of(dev)->threads, self_of(dev)->k->name};
}

/* Plain parts of the caller's own function. */
struct plain {
    void (*fn)(void *arg, int part, int parts);
    void *arg;
};

static void plain_part(void *arg, int part, int parts, int worker)
{
    const struct plain *p = arg;
    p->fn(p->arg, part, parts);
}

void dev_cpu_parallel(struct dev *dev, void (*fn)(void *arg, int part, int parts), void *arg,
                      int parts)
{
    struct plain p = {fn, arg};
    workers_run(self_of(dev)->workers, plain_part, &p, parts);
}

/* The bandwidth probe. */

struct probe {
    const struct kern_cpu *k;
    const uint8_t *data;
    size_t bytes;
    _Atomic uint32_t sum; /* keeps the reads alive */
};

static void probe_part(void *arg, int part, int parts)
{
    struct probe *p = arg;
    size_t lines = p->bytes / 64, lo = lines * (size_t)part / (size_t)parts;
    size_t hi = lines * ((size_t)part + 1) / (size_t)parts;
    p->sum += p->k->read(p->data + lo * 64, (hi - lo) * 64);
}

double dev_cpu_read_gb_per_s(struct dev *dev, size_t bytes)
{
    enum { PASSES = 5 };
    struct dev_cpu *d = self_of(dev);
    struct probe p = {.k = d->k, .data = mem_map(bytes), .bytes = bytes};
    if (!p.data)
        return 0;
    /* Touched first: pages not yet written are all the same zero page. */
    memset((void *)p.data, 1, bytes);
    double best = 0;
    for (int pass = 0; pass < PASSES; pass++) {
        struct timespec t0, t1;
        clock_gettime(CLOCK_MONOTONIC, &t0);
        dev_cpu_parallel(dev, probe_part, &p, d->threads * PARTS_PER_THREAD);
        clock_gettime(CLOCK_MONOTONIC, &t1);
        double seconds = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) * 1e-9;
        if ((double)bytes / seconds * 1e-9 > best)
            best = (double)bytes / seconds * 1e-9;
    }
    mem_unmap((void *)p.data, bytes);
    return best;
}
