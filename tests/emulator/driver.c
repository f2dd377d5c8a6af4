/* The stand-in driver: device, context, memory, modules, faults to order. */
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "driver_int.h"

#define DEVICE_BYTES     ((size_t)16 << 30)
#define DEVICE_NAME      "moed emulated GPU"
#define SHARED_BYTES     (48 << 10)
#define SHARED_MAX_BYTES (227 << 10)
/* Fresh device memory holds this, in its first bytes at least: NaN as floats, and no small number.
 */
#define GARBAGE       0xff
#define GARBAGE_BYTES ((size_t)4 << 20)

struct driver driver = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
static _Thread_local CUcontext current; /* of this thread */

CUresult driver_begin(void)
{
    if (!atomic_load(&driver.initialised))
        return CUDA_ERROR_NOT_INITIALIZED;
    if (current != &driver.context)
        return CUDA_ERROR_INVALID_CONTEXT;
    return atomic_load(&driver.sticky);
}

bool driver_fault(unsigned *countdown)
{
    return *countdown && --*countdown == 0;
}

/* Faults to order. */

static void order(unsigned *countdown, unsigned n)
{
    pthread_mutex_lock(&driver.lock);
    *countdown = n;
    pthread_mutex_unlock(&driver.lock);
}

void emulator_fail_launch(unsigned n)
{
    order(&driver.fail_launch, n);
}

void emulator_fail_copy(unsigned n)
{
    order(&driver.fail_copy, n);
}

void emulator_fail_alloc(unsigned n)
{
    order(&driver.fail_alloc, n);
}

/* Device and context. */

CUresult CUDAAPI cuInit(unsigned flags)
{
    atomic_store(&driver.initialised, true);
    return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult CUDAAPI cuDriverGetVersion(int *version)
{
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int *count)
{
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = 0;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult CUDAAPI cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    size_t n = sizeof DEVICE_NAME < (size_t)bytes ? sizeof DEVICE_NAME : (size_t)bytes;
    memcpy(name, DEVICE_NAME, n);
    name[n - 1] = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice device)
{
    *bytes = DEVICE_BYTES;
    return CUDA_SUCCESS;
}

/* Multiprocessors that hold one block each: a cooperative grid that fills the device has several,
 * and runs them at the same time. */
CUresult CUDAAPI cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device)
{
    static const struct {
        CUdevice_attribute attribute;
        int value;
    } known[] = {
        {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 1},
        {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, EMULATOR_MAX_BLOCKS},
        {CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH, 1},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, EMULATOR_MAX_THREADS},
        {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, EMULATOR_MAX_THREADS},
        {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 1},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, SHARED_BYTES},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, SHARED_MAX_BYTES},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, SHARED_MAX_BYTES + 1024},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1 << 20},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1000000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1000000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 64},
        {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 1},
        {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 0},
        {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0},
    };
    *value = 0;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].attribute == attribute)
            *value = known[i].value;
    return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult CUDAAPI cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned flags)
{
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    pthread_mutex_lock(&driver.lock);
    driver.holders++;
    pthread_mutex_unlock(&driver.lock);
    *context = &driver.context;
    return CUDA_SUCCESS;
}

/* The last holder takes the sticky error along. Memory that is left then is a leak of the caller,
 * which the address sanitizer reports. */
CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice device)
{
    CUresult r = CUDA_SUCCESS;
    pthread_mutex_lock(&driver.lock);
    if (driver.holders == 0)
        r = CUDA_ERROR_INVALID_CONTEXT;
    else if (--driver.holders == 0)
        atomic_store(&driver.sticky, CUDA_SUCCESS);
    pthread_mutex_unlock(&driver.lock);
    return r;
}

CUresult CUDAAPI cuCtxSetCurrent(CUcontext context)
{
    current = context;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetCurrent(CUcontext *context)
{
    *context = current;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice *device)
{
    *device = 0;
    return current ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxSynchronize(void)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    if ((r = stream_unsafe()) == CUDA_SUCCESS)
        streams_drain();
    pthread_mutex_unlock(&driver.lock);
    return r != CUDA_SUCCESS ? r : atomic_load(&driver.sticky);
}

/* Words. */

static const struct {
    CUresult result;
    const char *name, *text;
} words[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_LAUNCH_TIMEOUT, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the memory is already registered"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "the memory is not registered"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
     "capturing stream has unjoined work"},
    {CUDA_ERROR_ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "illegal state"},
};

CUresult CUDAAPI cuGetErrorString(CUresult result, const char **text)
{
    *text = NULL;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (words[i].result == result)
            *text = words[i].text;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuGetErrorName(CUresult result, const char **text)
{
    *text = NULL;
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (words[i].result == result)
            *text = words[i].name;
    return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Memory. */

const struct range *driver_find(const void *p)
{
    for (const struct range *r = driver.ranges; r; r = r->next)
        if ((const uint8_t *)p >= r->base && (size_t)((const uint8_t *)p - r->base) < r->bytes)
            return r;
    return NULL;
}

bool driver_covers(const void *p, size_t bytes, bool *pinned)
{
    const struct range *r = driver_find(p);
    *pinned = r != NULL;
    return !r || (size_t)((const uint8_t *)p - r->base) + bytes <= r->bytes;
}

static CUresult add_range(uint8_t *base, size_t bytes, enum range_kind kind)
{
    struct range *r = malloc(sizeof *r);
    if (!r)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *r = (struct range){driver.ranges, base, bytes, kind};
    driver.ranges = r;
    return CUDA_SUCCESS;
}

/* Takes the range that begins at base out of the list; 0 bytes: there is none of this kind. */
static size_t drop_range(const void *base, enum range_kind kind)
{
    for (struct range **at = &driver.ranges; *at; at = &(*at)->next) {
        struct range *r = *at;
        if (r->base != base || r->kind != kind)
            continue;
        size_t bytes = r->bytes;
        *at = r->next;
        free(r);
        return bytes;
    }
    return 0;
}

static CUresult allocate(void **out, size_t bytes, size_t align, enum range_kind kind)
{
    CUresult r = driver_begin();
    void *p = NULL;
    if (r != CUDA_SUCCESS)
        return r;
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    r = stream_unsafe();
    bool device = kind == RANGE_DEVICE;
    if (r == CUDA_SUCCESS && (driver_fault(&driver.fail_alloc) ||
                              (device && bytes > DEVICE_BYTES - driver.device_bytes) ||
                              posix_memalign(&p, align, bytes) != 0))
        r = CUDA_ERROR_OUT_OF_MEMORY;
    if (r == CUDA_SUCCESS && (r = add_range(p, bytes, kind)) == CUDA_SUCCESS && device)
        driver.device_bytes += bytes;
    pthread_mutex_unlock(&driver.lock);
    if (r != CUDA_SUCCESS) {
        free(p);
        return r;
    }
    memset(p, GARBAGE, bytes < GARBAGE_BYTES ? bytes : GARBAGE_BYTES);
    *out = p;
    return CUDA_SUCCESS;
}

/* Frees wait for everything in flight, as the driver does. */
static CUresult release(void *p, enum range_kind kind, bool owned)
{
    if (current != &driver.context)
        return CUDA_ERROR_INVALID_CONTEXT;
    pthread_mutex_lock(&driver.lock);
    CUresult r = stream_unsafe();
    size_t bytes = 0;
    if (r == CUDA_SUCCESS) {
        streams_drain();
        bytes = drop_range(p, kind);
        if (kind == RANGE_DEVICE)
            driver.device_bytes -= bytes;
    }
    pthread_mutex_unlock(&driver.lock);
    if (owned && bytes)
        free(p);
    return r != CUDA_SUCCESS ? r : bytes ? atomic_load(&driver.sticky) : CUDA_ERROR_INVALID_VALUE;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr *out, size_t bytes)
{
    void *p = NULL;
    CUresult r = allocate(&p, bytes, 256, RANGE_DEVICE);
    if (r == CUDA_SUCCESS)
        *out = (CUdeviceptr)(uintptr_t)p;
    return r;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr p)
{
    return p ? release((void *)(uintptr_t)p, RANGE_DEVICE, true) : CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    *total = DEVICE_BYTES;
    *free_bytes = DEVICE_BYTES - driver.device_bytes;
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    return allocate(out, bytes, 4096, RANGE_HOST_ALLOC);
}

CUresult CUDAAPI cuMemAllocHost(void **out, size_t bytes)
{
    return cuMemHostAlloc(out, bytes, 0);
}

CUresult CUDAAPI cuMemFreeHost(void *p)
{
    return release(p, RANGE_HOST_ALLOC, true);
}

CUresult CUDAAPI cuMemHostRegister(void *p, size_t bytes, unsigned flags)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    if (!p || !bytes)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&driver.lock);
    if (driver_fault(&driver.fail_alloc))
        r = CUDA_ERROR_OUT_OF_MEMORY;
    for (const struct range *at = driver.ranges; at && r == CUDA_SUCCESS; at = at->next)
        if (at->base < (uint8_t *)p + bytes && (uint8_t *)p < at->base + at->bytes)
            r = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    if (r == CUDA_SUCCESS)
        r = add_range(p, bytes, RANGE_HOST_REGISTERED);
    pthread_mutex_unlock(&driver.lock);
    return r;
}

CUresult CUDAAPI cuMemHostUnregister(void *p)
{
    CUresult r = release(p, RANGE_HOST_REGISTERED, false);
    return r == CUDA_ERROR_INVALID_VALUE ? CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED : r;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr *out, void *p, unsigned flags)
{
    pthread_mutex_lock(&driver.lock);
    const struct range *r = driver_find(p);
    bool host = r && r->kind != RANGE_DEVICE;
    pthread_mutex_unlock(&driver.lock);
    *out = (CUdeviceptr)(uintptr_t)p;
    return host ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* Modules: an image is the name of a kernel source; a function is found by name in any. */

CUresult CUDAAPI cuModuleLoadData(CUmodule *out, const void *image)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct CUmod_st *m = calloc(1, sizeof *m);
    if (!m)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *out = m;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleUnload(CUmodule m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->function[i]);
    free(m);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction *out, CUmodule m, const char *name)
{
    const struct emulator_kernel *k = emulator_find(name);
    if (!k || m->n == sizeof m->function / sizeof m->function[0])
        return k ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_NOT_FOUND;
    struct CUfunc_st *f = malloc(sizeof *f);
    if (!f)
        return CUDA_ERROR_OUT_OF_MEMORY;
    *f = (struct CUfunc_st){k, SHARED_BYTES};
    *out = m->function[m->n++] = f;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f)
{
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = (int)f->kernel->max_threads;
        break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
        *value = (int)f->max_shared_bytes;
        break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = 32;
        break;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
        *value = 90;
        break;
    default:
        *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value)
{
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)
        return CUDA_SUCCESS;
    if (value < 0 || value > SHARED_MAX_BYTES)
        return CUDA_ERROR_INVALID_VALUE;
    f->max_shared_bytes = (size_t)value;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction f, CUfunc_cache config)
{
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction f, int threads,
                                                             size_t shared_bytes)
{
    *blocks = threads <= (int)f->kernel->max_threads && shared_bytes <= f->max_shared_bytes;
    return CUDA_SUCCESS;
}
