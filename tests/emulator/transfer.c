/* The stand-in driver: launches, copies, sets. */
#include <stdlib.h>
#include <string.h>

#include "driver_int.h"

static void *host(CUdeviceptr p)
{
    return (void *)(uintptr_t)p;
}

/* Launches. */

static bool launch_fits(const struct CUfunc_st *f, const struct emulator_launch *l)
{
    const uint64_t threads = (uint64_t)l->block.x * l->block.y * l->block.z;
    return l->grid.x && l->grid.y && l->grid.z && l->grid.x <= INT32_MAX &&
           l->grid.y <= UINT16_MAX && l->grid.z <= UINT16_MAX && threads &&
           threads <= f->kernel->max_threads && threads <= EMULATOR_MAX_THREADS &&
           l->block.z <= 64 && l->shared_bytes <= f->max_shared_bytes;
}

/* The arguments as they are now. */
static struct work *kernel_work(const struct emulator_launch *l, void **params)
{
    const struct emulator_kernel *k = l->kernel;
    struct work *w = work_new(WORK_KERNEL);
    size_t bytes = 0, at = 0;
    for (int i = 0; i < k->n_params; i++)
        bytes += (k->param_bytes[i] + 15) / 16 * 16;
    if (!w || !(w->kernel.bytes = aligned_alloc(16, bytes + 16))) {
        free(w);
        return NULL;
    }
    w->kernel.launch = *l;
    w->kernel.launch.params = w->kernel.params;
    for (int i = 0; i < k->n_params; at += (k->param_bytes[i++] + 15) / 16 * 16) {
        w->kernel.params[i] = w->kernel.bytes + at;
        memcpy(w->kernel.params[i], params[i], k->param_bytes[i]);
    }
    return w;
}

static CUresult launch(CUfunction f, struct emulator_launch *l, CUstream stream, void **params)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    l->kernel = f->kernel;
    size_t bytes = 0;
    for (int i = 0; i < f->kernel->n_params; i++)
        bytes += f->kernel->param_bytes[i];
    if (!launch_fits(f, l) || (f->kernel->n_params && !params) || bytes > MAX_PARAM_BYTES)
        return CUDA_ERROR_INVALID_VALUE;
    if (l->cooperative && (uint64_t)l->grid.x * l->grid.y * l->grid.z > EMULATOR_MAX_BLOCKS)
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    if (!stream_captures(stream)) {
        pthread_mutex_lock(&driver.lock);
        if (driver_fault(&driver.fail_launch))
            atomic_store(&driver.sticky, r = CUDA_ERROR_LAUNCH_FAILED);
        pthread_mutex_unlock(&driver.lock);
    }
    return r == CUDA_SUCCESS ? stream_submit(stream, kernel_work(l, params)) : r;
}

CUresult CUDAAPI cuLaunchKernel(CUfunction f, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                                unsigned block_x, unsigned block_y, unsigned block_z,
                                unsigned shared_bytes, CUstream stream, void **params, void **extra)
{
    struct emulator_launch l = {.grid = {grid_x, grid_y, grid_z},
                                .block = {block_x, block_y, block_z},
                                .shared_bytes = shared_bytes};
    return extra ? CUDA_ERROR_NOT_SUPPORTED : launch(f, &l, stream, params);
}

CUresult CUDAAPI cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **params,
                                  void **extra)
{
    struct emulator_launch l = {.grid = {c->gridDimX, c->gridDimY, c->gridDimZ},
                                .block = {c->blockDimX, c->blockDimY, c->blockDimZ},
                                .shared_bytes = c->sharedMemBytes};
    for (unsigned i = 0; i < c->numAttrs; i++) {
        const CUlaunchAttribute *a = &c->attrs[i];
        if (a->id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION)
            return CUDA_ERROR_NOT_SUPPORTED;
        if (a->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
            l.cooperative = a->value.cooperative != 0;
    }
    return extra ? CUDA_ERROR_NOT_SUPPORTED : launch(f, &l, c->hStream, params);
}

CUresult CUDAAPI cuLaunchCooperativeKernel(CUfunction f, unsigned grid_x, unsigned grid_y,
                                           unsigned grid_z, unsigned block_x, unsigned block_y,
                                           unsigned block_z, unsigned shared_bytes, CUstream stream,
                                           void **params)
{
    struct emulator_launch l = {.grid = {grid_x, grid_y, grid_z},
                                .block = {block_x, block_y, block_z},
                                .shared_bytes = shared_bytes,
                                .cooperative = 1};
    return launch(f, &l, stream, params);
}

/* Copies. An end in memory that the driver knows must lie there whole; the device's end must be
 * known. Pageable memory is read at the call and written before it returns, as the driver does. */
static CUresult copy(void *to, const void *from, size_t bytes, bool to_device, bool from_device,
                     CUstream stream, bool wait)
{
    CUresult r = driver_begin();
    bool to_known, from_known;
    if (r != CUDA_SUCCESS || !bytes)
        return r;
    pthread_mutex_lock(&driver.lock);
    bool fits = driver_covers(to, bytes, &to_known);
    fits = driver_covers(from, bytes, &from_known) && fits;
    pthread_mutex_unlock(&driver.lock);
    if (!fits || (to_device && !to_known) || (from_device && !from_known))
        return CUDA_ERROR_INVALID_VALUE;
    wait = wait || !to_known;
    /* Stricter than the driver, which takes such copies into a graph with their host address. */
    if ((wait || !from_known) && stream_captures(stream))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct work *w = work_new(WORK_COPY);
    if (!w)
        return CUDA_ERROR_OUT_OF_MEMORY;
    w->copy.to = to;
    w->copy.from = from;
    w->copy.bytes = bytes;
    if (!from_known && !wait) {
        w->copy.staged = malloc(bytes);
        if (!w->copy.staged) {
            work_free(w);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        memcpy(w->copy.staged, from, bytes);
    }
    r = stream_submit(stream, w);
    return r == CUDA_SUCCESS && wait ? stream_wait(stream) : r;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes)
{
    return copy(host(to), from, bytes, true, false, NULL, true);
}

CUresult CUDAAPI cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes)
{
    return copy(to, host(from), bytes, false, true, NULL, true);
}

CUresult CUDAAPI cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy(host(to), host(from), bytes, true, true, NULL, true);
}

CUresult CUDAAPI cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    return copy(host(to), host(from), bytes, false, false, NULL, true);
}

CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream s)
{
    return copy(host(to), from, bytes, true, false, s, false);
}

CUresult CUDAAPI cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream s)
{
    return copy(to, host(from), bytes, false, true, s, false);
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s)
{
    return copy(host(to), host(from), bytes, true, true, s, false);
}

CUresult CUDAAPI cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream s)
{
    return copy(host(to), host(from), bytes, false, false, s, false);
}

static CUresult set(CUdeviceptr to, uint32_t value, size_t n, unsigned each, CUstream stream,
                    bool wait)
{
    CUresult r = driver_begin();
    bool known;
    if (r != CUDA_SUCCESS || !n)
        return r;
    pthread_mutex_lock(&driver.lock);
    bool fits = driver_covers(host(to), n * each, &known);
    pthread_mutex_unlock(&driver.lock);
    if (!fits || !known || to % each)
        return CUDA_ERROR_INVALID_VALUE;
    struct work *w = work_new(WORK_SET);
    if (w) {
        w->set.to = host(to);
        w->set.value = value;
        w->set.n = n;
        w->set.each = each;
    }
    r = stream_submit(stream, w);
    return r == CUDA_SUCCESS && wait ? stream_wait(stream) : r;
}

CUresult CUDAAPI cuMemsetD8(CUdeviceptr to, unsigned char value, size_t n)
{
    return set(to, value, n, 1, NULL, true);
}

CUresult CUDAAPI cuMemsetD32(CUdeviceptr to, unsigned value, size_t n)
{
    return set(to, value, n, 4, NULL, true);
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream s)
{
    return set(to, value, n, 1, s, false);
}

CUresult CUDAAPI cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t n, CUstream s)
{
    return set(to, value, n, 2, s, false);
}

CUresult CUDAAPI cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream s)
{
    return set(to, value, n, 4, s, false);
}

static CUresult word(CUstream stream, CUdeviceptr p, uint32_t value, enum work_kind kind,
                     unsigned how)
{
    CUresult r = driver_begin();
    bool known;
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    bool fits = driver_covers(host(p), sizeof value, &known) && known && p % sizeof value == 0;
    pthread_mutex_unlock(&driver.lock);
    if (!fits)
        return CUDA_ERROR_INVALID_VALUE;
    struct work *w = work_new(kind);
    if (w) {
        w->word.p = host(p);
        w->word.value = value;
        w->word.how = how;
    }
    return stream_submit(stream, w);
}

CUresult CUDAAPI cuStreamWriteValue32(CUstream stream, CUdeviceptr p, cuuint32_t value,
                                      unsigned flags)
{
    return word(stream, p, value, WORK_WRITE_WORD, flags);
}

CUresult CUDAAPI cuStreamWaitValue32(CUstream stream, CUdeviceptr p, cuuint32_t value,
                                     unsigned flags)
{
    return word(stream, p, value, WORK_WAIT_WORD, flags);
}
