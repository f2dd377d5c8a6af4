/* The fused step: all layers of one row in one launch. What it asks of the shapes, how shared
 * memory is cut, the launch. */
#include <stdlib.h>
#include <string.h>

#include "cuda_int.h"

struct dev_fused {
    struct cu_fused args;
    CUfunction function;
    unsigned blocks; /* one for each multiprocessor */
    size_t shared_bytes;
    uint8_t *memory; /* device: layers, grid, cycles */
    uint64_t *cycles;
    size_t cycles_bytes;
    double cycles_per_us;
};

static bool is_bf16(const struct kern_norm_linear *a)
{
    return a->n == 1 && a->matrix[0].w_dtype == DTYPE_BF16 && cuda_alike(a) &&
           (!a->norm || cuda_aligned(a->norm));
}

/* Why a layer cannot be part of it, or NULL. */
static const char *obstacle(const struct kern_layer *l)
{
    const struct record_class *cls = l->experts.cls;
    if (!is_bf16(&l->project) || !is_bf16(&l->out) || !is_bf16(&l->router) ||
        cls->dtype != DTYPE_BF16)
        return "weights are not bf16, or rows no multiples of 8";
    if (l->experts.top_k > CU_FUSED_TOP_K)
        return "a row has more than 32 experts";
    if (l->attention.kv.dtype != DTYPE_BF16)
        return "the KV cache is not bf16";
    if (l->attention.kv.head_dim != CU_FUSED_DIM)
        return "the width of a head is not 128";
    return NULL;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static int32_t cut(size_t *used, size_t bytes)
{
    size_t at = *used;
    *used += (bytes + 127) / 128 * 128;
    return (int32_t)at;
}

static struct cu_near near_from(size_t at, size_t end)
{
    return (struct cu_near){(int32_t)at, (int32_t)((end - at) / 16 * 16)};
}

/* Of a vector as the kernel lays it. */
static size_t vector_bytes(size_t n)
{
    return (n + 255) / 256 * 256 * sizeof(float);
}

/* Cuts shared memory; what is left is for weights on their way. False where it is too little. */
static bool lay_out(struct dev_fused *f, const struct kern_layer *l, size_t attention_bytes,
                    size_t most)
{
    struct cu_fused *a = &f->args;
    size_t used = 0, experts = (size_t)l->experts.experts * sizeof(float);
    size_t width = (size_t)l->experts.cls->hidden, inner = (size_t)l->experts.cls->intermediate;
    size_t rows = vector_bytes(larger((size_t)l->project.in, (size_t)l->out.in));
    size_t work = larger(rows, (size_t)l->experts.top_k * vector_bytes(inner));
    a->outs = (int32_t)cuda_blocks(width, f->blocks);
    cut(&used, sizeof(struct cu_fused_control));
    a->logit_at = cut(&used, experts);
    a->exponential_at = cut(&used, experts);
    a->slot_at = cut(&used, experts);
    a->y_at = cut(&used, (size_t)l->experts.top_k * (size_t)a->outs * sizeof(float));
    size_t attending = used + (attention_bytes + 127) / 128 * 128;
    a->work_at = cut(&used, work);
    attending = larger(attending, used);
    if (attending >= most)
        return false;
    /* Of the router each block has a row or none. */
    size_t router = cuda_blocks((size_t)l->experts.experts, f->blocks) * width * sizeof(uint16_t);
    size_t end = router < (most - used) / 4 ? (most - router) / 128 * 128 : most;
    a->near_project = near_from(used, end);
    a->near_out = near_from(attending, most);
    a->near_router = near_from(end, most);
    f->shared_bytes = most;
    return true;
}

/* The device's side; *shared is what a block may have. */
static const char *device_obstacle(struct dev_cuda *d, struct dev_fused *f, int *shared)
{
    int together = 0, khz = 0, ptx = 0;
    CUresult r = cuDeviceGetAttribute(&together, CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, d->device);
    if (r == CUDA_SUCCESS)
        r = cuDeviceGetAttribute(&khz, CU_DEVICE_ATTRIBUTE_CLOCK_RATE, d->device);
    if (r == CUDA_SUCCESS)
        r = cuDeviceGetAttribute(shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                                 d->device);
    if (r == CUDA_SUCCESS)
        r = cuFuncSetAttribute(f->function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                               *shared);
    if (r == CUDA_SUCCESS)
        r = cuFuncGetAttribute(&ptx, CU_FUNC_ATTRIBUTE_PTX_VERSION, f->function);
    if (r == CUDA_SUCCESS && ptx < 90)
        return "the device, or the kernel that it has, knows no bulk copies (compute capability "
               "9.0)";
    f->blocks = (unsigned)d->processors;
    f->cycles_per_us = (double)khz * 1e-3;
    return r != CUDA_SUCCESS || !together ? "the device cannot run the blocks of a grid together"
                                          : NULL;
}

/* The layers as the kernel sees them. */
static const char *fill_layers(struct dev_cuda *d, struct dev_fused *f,
                               const struct kern_layer *layers, int n, struct cu_layer *to,
                               size_t *attention_bytes)
{
    for (int i = 0; i < n; i++) {
        const struct kern_layer *l = &layers[i];
        size_t shared_bytes = 0;
        const char *why = obstacle(l);
        if (why)
            return why;
        to[i].project = cuda_norm_linear_args(&l->project);
        to[i].out = cuda_norm_linear_args(&l->out);
        to[i].router = cuda_norm_linear_args(&l->router);
        to[i].experts = cuda_paged_args(d, &l->experts, 1);
        if (cuda_turn_args(d, &l->turn, &to[i].turn) < 0 ||
            !cuda_attention_units(d, &l->attention, (int)f->blocks, &to[i].attention, &to[i].units,
                                  &shared_bytes))
            return "the shapes of attention are not those of its fast kernels";
        *attention_bytes = larger(*attention_bytes, shared_bytes);
    }
    return NULL;
}

static int send(struct dev_cuda *d, struct dev_fused *f, const struct cu_layer *layers, int n,
                struct moed_error *err)
{
    struct dev *dev = &d->dev;
    struct dev_event event = {0};
    size_t bytes = (size_t)n * sizeof *layers, grid = (bytes + 255) / 256 * 256;
    f->cycles_bytes = (size_t)n * (CU_FUSED_PARTS + 1) * sizeof *f->cycles;
    size_t all = grid + 256 + f->cycles_bytes;
    uint8_t *host = calloc(1, all);
    f->memory = cuda_alloc(dev, all);
    if (!host || !f->memory) {
        free(host);
        return moed_fail(err, MOED_ENOMEM, "no memory for the layers of a fused step");
    }
    memcpy(host, layers, bytes);
    f->args.layer = (const struct cu_layer *)f->memory;
    f->args.grid = (struct cu_grid *)(f->memory + grid);
    f->args.n_layers = n;
    f->cycles = (uint64_t *)(f->memory + grid + 256);
    int rc = cuda_copy_in(dev, f->memory, host, all, &event);
    if (rc >= 0)
        rc = cuda_event_wait(dev, &event);
    free(host);
    return rc < 0 ? moed_fail(err, rc, "the device failed in a copy") : 0;
}

int cuda_fused_open(struct dev *dev, const struct kern_layer *layers, int n_layers,
                    struct dev_fused **out, const char **why, struct moed_error *err)
{
    struct dev_cuda *d = cuda_of(dev);
    struct dev_fused *f = calloc(1, sizeof *f);
    struct cu_layer *to = calloc((size_t)n_layers, sizeof *to);
    size_t attention_bytes = 0;
    int shared = 0, rc = cuda_enter(d), blocks = 0;
    _Static_assert(sizeof *to + CU_FUSED_PARTS * 16 <= STEP_FUSED_LAYER_BYTES, "as planned");
    *out = NULL;
    if (rc < 0 || !f || !to) {
        rc = rc < 0 ? moed_fail(err, rc, "the device has failed")
                    : moed_fail(err, MOED_ENOMEM, "no memory for a fused step");
        goto out;
    }
    f->function = d->function[layers->experts.cls->packed ? FN_fused_packed : FN_fused_bf16];
    if ((*why = device_obstacle(d, f, &shared)) ||
        (*why = fill_layers(d, f, layers, n_layers, to, &attention_bytes)))
        goto out;
    *why = "a block has too little shared memory";
    if (!lay_out(f, layers, attention_bytes, (size_t)shared) ||
        cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f->function, CU_FUSED_THREADS,
                                                    f->shared_bytes) != CUDA_SUCCESS ||
        blocks < 1)
        goto out;
    rc = send(d, f, to, n_layers, err);
    *out = f;
    f = NULL;
    if (rc < 0)
        cuda_fused_close(dev, *out);
    if (rc < 0)
        *out = NULL;
out:
    free(to);
    free(f);
    return rc;
}

void cuda_fused_close(struct dev *dev, struct dev_fused *f)
{
    if (!f)
        return;
    cuda_free(dev, f->memory, 0);
    free(f);
}

static int launch(struct dev_cuda *d, const struct dev_fused *f, const struct cu_fused *args)
{
    struct cu_fused copy = *args;
    void *params[] = {&copy};
    CUlaunchAttribute together = {.id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE, .value.cooperative = 1};
    CUlaunchConfig config = {.gridDimX = f->blocks,
                             .gridDimY = 1,
                             .gridDimZ = 1,
                             .blockDimX = CU_FUSED_THREADS,
                             .blockDimY = 1,
                             .blockDimZ = 1,
                             .sharedMemBytes = (unsigned)f->shared_bytes,
                             .hStream = d->compute,
                             .attrs = &together,
                             .numAttrs = 1};
    return cuda_check(d, cuLaunchKernelEx(&config, f->function, params, NULL),
                      "launching a fused step");
}

int cuda_fused(struct dev *dev, const struct dev_fused *f)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    return rc < 0 ? rc : launch(d, f, &f->args);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int cuda_fused_times(struct dev *dev, const struct dev_fused *f, double *us)
{
    struct dev_cuda *d = cuda_of(dev);
    struct cu_fused args = f->args;
    size_t n = (size_t)args.n_layers;
    uint64_t *cycles = malloc(f->cycles_bytes);
    double *part = malloc(n * sizeof *part);
    int rc = cycles && part ? cuda_enter(d) : MOED_ENOMEM;
    args.cycles = f->cycles;
    if (rc == 0 && (rc = launch(d, f, &args)) == 0 && (rc = cuda_wait_compute(d)) == 0)
        rc = cuda_copy_out(dev, cycles, f->cycles, f->cycles_bytes);
    for (int p = 0; p < CU_FUSED_PARTS && rc == 0; p++) {
        for (size_t i = 0; i < n; i++) {
            const uint64_t *at = cycles + i * (CU_FUSED_PARTS + 1) + p;
            part[i] = (double)(at[1] - at[0]) / f->cycles_per_us;
        }
        qsort(part, n, sizeof *part, by_value);
        us[p] = part[n / 2];
    }
    free(cycles);
    free(part);
    return rc;
}
