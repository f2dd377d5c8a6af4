/* Opening and closing the CUDA device; errors; waiting. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cuda_int.h"
#include "device/plugin.h"

/* Room for the static shared memory of a kernel that takes all the rest. */
#define STATIC_SHARED_BYTES 8192
/* Who comes for less wakes, does little and sleeps again. */
#define KEPT_SECONDS 500e-6

const char *cuda_words(CUresult r)
{
    const char *text = NULL;
    return cuGetErrorString(r, &text) == CUDA_SUCCESS && text ? text : "unknown error";
}

int cuda_check(struct dev_cuda *d, CUresult r, const char *what)
{
    if (r == CUDA_SUCCESS)
        return 0;
    if (!atomic_exchange(&d->failed, true)) {
        char text[256];
        snprintf(text, sizeof text, "%s failed: %s (%d)", what, cuda_words(r), (int)r);
        d->warn(text);
    }
    return MOED_EDEVICE;
}

int cuda_enter(struct dev_cuda *d)
{
    if (atomic_load_explicit(&d->failed, memory_order_relaxed))
        return MOED_EDEVICE;
    return cuda_check(d, cuCtxSetCurrent(d->context), "making the context current");
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Looks all the time, but yields: miss workers may hold all other cores, and threads that wake up
 * meanwhile go on here. Where somebody keeps the core instead it is shared as any other. */
int cuda_wait_compute(struct dev_cuda *d)
{
    CUresult r;
    bool yields = true;
    double begin = seconds_now(), last = begin;
    while ((r = cuStreamQuery(d->compute)) == CUDA_ERROR_NOT_READY) {
        if (yields)
            sched_yield();
        double now = seconds_now();
        if (now - last > KEPT_SECONDS)
            yields = false;
        if (now - begin > WAIT_SECONDS)
            return cuda_check(d, CUDA_ERROR_LAUNCH_TIMEOUT, "waiting for the compute stream");
        last = now;
    }
    if (r != CUDA_SUCCESS)
        return cuda_check(d, r, "waiting for the compute stream");
    for (int k = 0; k < MIRROR_COUNT; k++)
        d->mirror[k].under_way = false;
    return 0;
}

static int fail_driver(struct moed_error *err, CUresult r, const char *what)
{
    return moed_fail(err, MOED_EUNSUPPORTED, "%s: %s (CUDA error %d)", what, cuda_words(r), (int)r);
}

/* The device and whether it can do what the code relies on. */
static int find_device(CUdevice *out, int ordinal, struct moed_error *err)
{
    static const struct {
        CUdevice_attribute attribute;
        const char *name;
    } needs[] = {
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, "unified addressing"},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
         "registered host memory at its own address"},
    };
    int count = 0, value = 0;
    CUresult r = cuInit(0);
    if (r == CUDA_SUCCESS)
        r = cuDeviceGetCount(&count);
    if (r != CUDA_SUCCESS)
        return fail_driver(err, r, "no CUDA driver at work");
    if (ordinal >= count)
        return moed_fail(err, MOED_EUNSUPPORTED, "there is no CUDA device %d, of %d", ordinal,
                         count);
    if ((r = cuDeviceGet(out, ordinal)) != CUDA_SUCCESS)
        return fail_driver(err, r, "cannot get the device");
    for (size_t i = 0; i < sizeof needs / sizeof needs[0]; i++) {
        r = cuDeviceGetAttribute(&value, needs[i].attribute, *out);
        if (r != CUDA_SUCCESS || !value)
            return moed_fail(err, MOED_EUNSUPPORTED, "CUDA device %d has no %s", ordinal,
                             needs[i].name);
    }
    return 0;
}

static CUresult retain_context(CUcontext *out, CUdevice device)
{
    /* Older drivers refuse while another part of the process holds the context: then its flags do.
     */
    cuDevicePrimaryCtxSetFlags(device, CU_CTX_SCHED_SPIN);
    return cuDevicePrimaryCtxRetain(out, device);
}

static void plugin_drop(int ordinal)
{
    CUdevice device;
    if (cuDeviceGet(&device, ordinal) == CUDA_SUCCESS)
        cuDevicePrimaryCtxRelease(device);
}

static int plugin_memory(struct dev_memory *out, int ordinal, bool keep, struct moed_error *err)
{
    CUdevice device = 0;
    CUcontext context = NULL;
    size_t free_bytes = 0, total_bytes = 0;
    *out = (struct dev_memory){0};
    int rc = find_device(&device, ordinal, err);
    if (rc < 0)
        return rc;
    CUresult r = cuDeviceGetName(out->name, (int)sizeof out->name, device);
    if (r == CUDA_SUCCESS)
        r = retain_context(&context, device);
    if (r != CUDA_SUCCESS)
        return fail_driver(err, r, "cannot open the device");
    r = cuCtxSetCurrent(context);
    if (r == CUDA_SUCCESS)
        r = cuMemGetInfo(&free_bytes, &total_bytes);
    cuCtxSetCurrent(NULL);
    if (r != CUDA_SUCCESS || !keep)
        cuDevicePrimaryCtxRelease(device);
    if (r != CUDA_SUCCESS)
        return fail_driver(err, r, "cannot ask for the device's memory");
    out->free_bytes = free_bytes;
    out->total_bytes = total_bytes;
    return 0;
}

/* Kernels that hold whole rows in shared memory may take all of it. */
static int prepare_functions(struct dev_cuda *d, struct moed_error *err)
{
    int major = 0;
    CUresult r = cuDeviceGetAttribute(
        &d->max_shared_bytes, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, d->device);
    if (r == CUDA_SUCCESS)
        r = cuDeviceGetAttribute(&d->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
                                 d->device);
    if (r == CUDA_SUCCESS)
        r = cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, d->device);
    d->overlap_capable = major >= 9;
    d->max_shared_bytes -= STATIC_SHARED_BYTES;
    static const enum function large[] = {FN_norm_linear_bf16_1,    FN_norm_linear_bf16_2,
                                          FN_norm_linear_bf16_4,    FN_norm_linear_f16_1,
                                          FN_norm_linear_f16_4,     FN_norm_linear_f32_1,
                                          FN_norm_linear_f32_4,     FN_resolve,
                                          FN_linear_bf16_many_4,    FN_linear_bf16_many_8,
                                          FN_linear_bf16_many_16,   FN_paged_gate_up_bf16_rows,
                                          FN_paged_down_bf16_rows,  FN_paged_gate_up_packed_rows,
                                          FN_paged_down_packed_rows};
    for (size_t i = 0; i < sizeof large / sizeof large[0] && r == CUDA_SUCCESS; i++)
        r = cuFuncSetAttribute(d->function[large[i]],
                               CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                               d->max_shared_bytes);
    return r == CUDA_SUCCESS ? 0 : fail_driver(err, r, "cannot set up the kernels");
}

/* All kernels, loaded now: one that loads at its first launch would wait for the whole device. */
static int load_functions(struct dev_cuda *d, struct moed_error *err)
{
    static const unsigned char *const images[IMAGE_COUNT] = {
#define X(name) [IMAGE_##name] = moed_image_##name,
        IMAGES(X)
#undef X
    };
    static const struct {
        const char *name;
        enum image image;
    } functions[FN_COUNT] = {
#define X(image, name) [FN_##name] = {#name, IMAGE_##image},
        FUNCTIONS(X)
#undef X
    };
    for (int i = 0; i < IMAGE_COUNT; i++) {
        CUresult r = cuModuleLoadData(&d->module[i], images[i]);
        if (r != CUDA_SUCCESS)
            return fail_driver(err, r, "cannot load the kernels");
    }
    for (int i = 0; i < FN_COUNT; i++) {
        int registers;
        CUresult r =
            cuModuleGetFunction(&d->function[i], d->module[functions[i].image], functions[i].name);
        /* Asking for an attribute loads a function that the driver would load lazily. */
        if (r == CUDA_SUCCESS)
            r = cuFuncGetAttribute(&registers, CU_FUNC_ATTRIBUTE_NUM_REGS, d->function[i]);
        if (r != CUDA_SUCCESS)
            return moed_fail(err, MOED_EUNSUPPORTED, "cannot load the kernel %s: %s",
                             functions[i].name, cuda_words(r));
    }
    return prepare_functions(d, err);
}

static int open_context(struct dev_cuda *d, struct moed_error *err)
{
    CUcontext context = NULL;
    CUresult r = retain_context(&context, d->device);
    if (r != CUDA_SUCCESS)
        return fail_driver(err, r, "cannot open the device");
    d->context = context;
    if ((r = cuCtxSetCurrent(context)) != CUDA_SUCCESS ||
        (r = cuStreamCreate(&d->compute, CU_STREAM_NON_BLOCKING)) != CUDA_SUCCESS ||
        (r = cuStreamCreate(&d->copy, CU_STREAM_NON_BLOCKING)) != CUDA_SUCCESS)
        return fail_driver(err, r, "cannot make streams");
    return 0;
}

static void cuda_close(struct dev *dev)
{
    struct dev_cuda *d = cuda_of(dev);
    if (d->context) {
        cuCtxSetCurrent(d->context);
        if (d->compute && !atomic_load(&d->failed))
            cuda_wait_compute(d);
        cuda_mailbox_close(dev);
        cuda_attention_close(d);
        cuda_tensor_close(d);
        cuda_memory_close(d);
        for (int i = 0; i < IMAGE_COUNT; i++)
            if (d->module[i])
                cuModuleUnload(d->module[i]);
        if (d->compute)
            cuStreamDestroy(d->compute);
        if (d->copy)
            cuStreamDestroy(d->copy);
        cuCtxSetCurrent(NULL);
        cuDevicePrimaryCtxRelease(d->device);
    }
    free(d);
}

static int cuda_sync(struct dev *dev)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    if (rc < 0 || (rc = cuda_wait_compute(d)) < 0)
        return rc;
    return cuda_step_outcome(d);
}

static const struct dev_kern cuda_kern = {
    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .linear = cuda_linear,
    .rope = cuda_rope,
    .kv_store = cuda_kv_store,
    .attention = cuda_attention,
    .silu_mul = cuda_silu_mul,
    .router = cuda_router,
    .experts_gate_up = cuda_experts_gate_up,
    .experts_down = cuda_experts_down,
    .combine = cuda_combine,
    .sample = cuda_sample,
    .sync = cuda_sync,
};

static const struct dev_ops cuda_ops = {
    .name = "cuda",
    .alloc = cuda_alloc,
    .free = cuda_free,
    .alloc_shared = cuda_alloc_shared,
    .free_shared = cuda_free_shared,
    .host_register = cuda_host_register,
    .host_unregister = cuda_host_unregister,
    .copy_in = cuda_copy_in,
    .event_wait = cuda_event_wait,
    .event_mark = cuda_event_mark,
    .copies_wait = cuda_copies_wait,
    .copy_out = cuda_copy_out,
    .copy_within = cuda_copy_within,
    .close = cuda_close,
};

static int plugin_open(struct dev **out, int ordinal, void (*warn)(const char *text),
                       struct moed_error *err)
{
    struct dev_cuda *d = calloc(1, sizeof *d);
    if (!d)
        return moed_fail(err, MOED_ENOMEM, "no memory for a device");
    d->dev = (struct dev){
        .ops = &cuda_ops, .kern = &cuda_kern, .step = &cuda_step, .tensor = &cuda_tensor_ops};
    d->warn = warn;
    int rc;
    if ((rc = find_device(&d->device, ordinal, err)) < 0 || (rc = open_context(d, err)) < 0 ||
        (rc = load_functions(d, err)) < 0 || (rc = cuda_memory_open(d, err)) < 0 ||
        (rc = cuda_tensor_open(d, err)) < 0 || (rc = cuda_attention_open(d, err)) < 0) {
        cuda_close(&d->dev);
        return rc;
    }
    *out = &d->dev;
    return 0;
}

extern const struct dev_plugin moed_device_plugin;
const struct dev_plugin moed_device_plugin __attribute__((visibility("default"))) = {
    .tag = DEV_PLUGIN_TAG,
    .open = plugin_open,
    .memory = plugin_memory,
    .drop = plugin_drop,
};
