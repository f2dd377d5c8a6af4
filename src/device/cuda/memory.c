/* Memory of the CUDA device, copies, and plan arrays on their way to it. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda/fetch_args.h"
#include "cuda_int.h"

#define REGISTER_PIECE_BYTES       ((size_t)1 << 30)
#define REGISTER_SMALL_PIECE_BYTES ((size_t)64 << 20)
#define BOUNCE_BYTES               ((size_t)4 << 20)
#define MIRROR_MIN_BYTES           ((size_t)64 << 10)
#define OFTEN_NS                   1000000 /* so long a wait looks as often as it can */

/* dev_event.state */
enum { EV_IDLE, EV_IN_FLIGHT, EV_DONE, EV_FAILED };

static CUdeviceptr address(const void *p)
{
    return (CUdeviceptr)(uintptr_t)p;
}

static void *pointer(CUdeviceptr p)
{
    return (void *)(uintptr_t)p;
}

void *cuda_alloc(struct dev *dev, size_t bytes)
{
    struct dev_cuda *d = cuda_of(dev);
    CUdeviceptr p = 0;
    if (cuda_enter(d) < 0 || cuMemAlloc(&p, bytes ? bytes : 1) != CUDA_SUCCESS)
        return NULL;
    if (cuMemsetD8Async(p, 0, bytes, d->compute) != CUDA_SUCCESS || cuda_wait_compute(d) < 0) {
        cuMemFree(p);
        return NULL;
    }
    return pointer(p);
}

void cuda_free(struct dev *dev, void *p, size_t bytes)
{
    if (p && cuCtxSetCurrent(cuda_of(dev)->context) == CUDA_SUCCESS)
        cuMemFree(address(p));
}

void *cuda_alloc_shared(struct dev *dev, size_t bytes)
{
    void *p = NULL;
    unsigned flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
    if (cuda_enter(cuda_of(dev)) < 0 ||
        cuMemHostAlloc(&p, bytes ? bytes : 1, flags) != CUDA_SUCCESS)
        return NULL;
    memset(p, 0, bytes);
    return p;
}

void cuda_free_shared(struct dev *dev, void *p, size_t bytes)
{
    if (p && cuCtxSetCurrent(cuda_of(dev)->context) == CUDA_SUCCESS)
        cuMemFreeHost(p);
}

static CUresult register_piece(struct dev_cuda *d, void *range, uint8_t *p, size_t bytes)
{
    unsigned flags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
    struct registered *entry = malloc(sizeof *entry);
    CUresult r = entry ? cuMemHostRegister(p, bytes, flags) : CUDA_ERROR_OUT_OF_MEMORY;
    if (r != CUDA_SUCCESS) {
        free(entry);
        return r;
    }
    *entry = (struct registered){d->registered, range, p};
    d->registered = entry;
    return CUDA_SUCCESS;
}

int cuda_host_register(struct dev *dev, void *p, size_t bytes, size_t edge_bytes,
                       struct moed_error *err)
{
    struct dev_cuda *d = cuda_of(dev);
    size_t edge = edge_bytes ? edge_bytes : 4096;
    size_t large = REGISTER_PIECE_BYTES / edge * edge;
    size_t small = REGISTER_SMALL_PIECE_BYTES / edge * edge;
    int rc = cuda_enter(d);
    if (rc < 0)
        return moed_fail(err, rc, "the CUDA device has failed");
    large = large ? large : edge;
    small = small ? small : edge;
    for (size_t at = 0; at < bytes;) {
        size_t most = d->small_pieces ? small : large;
        size_t n = bytes - at < most ? bytes - at : most;
        CUresult r = register_piece(d, p, (uint8_t *)p + at, n);
        if (r == CUDA_SUCCESS) {
            at += n;
        } else if (n > small) {
            d->warn("host memory cannot be page-locked in large pieces: small ones are tried");
            d->small_pieces = true;
        } else {
            cuda_host_unregister(dev, p);
            return moed_fail(err, MOED_ENOMEM,
                             "cannot page-lock %.1f MiB of host memory for the CUDA device (%s at "
                             "%.1f MiB); is there a limit on locked memory?",
                             (double)bytes / 0x1p20, cuda_words(r), (double)at / 0x1p20);
        }
    }
    return 0;
}

void cuda_host_unregister(struct dev *dev, void *p)
{
    struct dev_cuda *d = cuda_of(dev);
    if (cuCtxSetCurrent(d->context) != CUDA_SUCCESS)
        return;
    for (struct registered **at = &d->registered; *at;) {
        struct registered *entry = *at;
        if (entry->range != p) {
            at = &entry->next;
            continue;
        }
        cuMemHostUnregister(entry->piece);
        *at = entry->next;
        free(entry);
    }
}

int cuda_copy_in(struct dev *dev, void *dst, const void *src, size_t bytes, struct dev_event *ev)
{
    struct dev_cuda *d = cuda_of(dev);
    struct copies *c = &d->copies;
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->lock);
    struct copy *copy = &c->copy[c->next % COPIES];
    if (copy->owner) {
        pthread_mutex_unlock(&c->lock);
        return MOED_EBUSY;
    }
    CUresult r = cuMemcpyHtoDAsync(address(dst), src, bytes, d->copy);
    if (r == CUDA_SUCCESS)
        r = cuEventRecord(copy->event, d->copy);
    if (r == CUDA_SUCCESS) {
        copy->owner = ev;
        c->next++;
        atomic_store(&ev->state, EV_IN_FLIGHT);
    }
    pthread_mutex_unlock(&c->lock);
    return cuda_check(d, r, "a copy to the device");
}

/* Under the lock. ev NULL: a mark that is free. */
static struct copy *mark_of(struct copies *c, const struct dev_event *ev)
{
    for (unsigned i = 0; i < DEV_MAX_MARKS; i++)
        if (c->mark[i].owner == ev)
            return &c->mark[i];
    return NULL;
}

static struct copy *copy_of(struct copies *c, const struct dev_event *ev)
{
    pthread_mutex_lock(&c->lock);
    struct copy *found = mark_of(c, ev);
    for (unsigned i = 0; i < COPIES; i++)
        if (c->copy[i].owner == ev)
            found = &c->copy[i];
    pthread_mutex_unlock(&c->lock);
    return found;
}

int cuda_event_mark(struct dev *dev, struct dev_event *ev)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&d->copies.lock);
    struct copy *mark = mark_of(&d->copies, ev);
    mark = mark ? mark : mark_of(&d->copies, NULL);
    CUresult r = mark ? cuEventRecord(mark->event, d->compute) : CUDA_ERROR_OUT_OF_MEMORY;
    if (r == CUDA_SUCCESS) {
        mark->owner = ev;
        atomic_store(&ev->state, EV_IN_FLIGHT);
    }
    pthread_mutex_unlock(&d->copies.lock);
    return cuda_check(d, r, "a mark in the queue of ops");
}

/* Later marks with the same event do not move what the stream waits for. */
int cuda_copies_wait(struct dev *dev, struct dev_event *ev)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&d->copies.lock);
    struct copy *mark = mark_of(&d->copies, ev);
    CUresult r = mark ? cuStreamWaitEvent(d->copy, mark->event, 0) : CUDA_SUCCESS;
    if (mark && r == CUDA_SUCCESS) {
        mark->owner = NULL;
        atomic_store(&ev->state, EV_IDLE);
    }
    pthread_mutex_unlock(&d->copies.lock);
    return cuda_check(d, r, "letting copies wait for ops");
}

/* Looks often at first, then lets others have the core: a chunk takes tens of microseconds, unless
 * it waits for ops. */
static CUresult wait_event(CUevent event)
{
    struct timespec begin, now, pause = {0, 20000};
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (;;) {
        CUresult r = cuEventQuery(event);
        if (r != CUDA_ERROR_NOT_READY)
            return r;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - begin.tv_sec > WAIT_SECONDS)
            return CUDA_ERROR_LAUNCH_TIMEOUT;
        if ((now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec > OFTEN_NS)
            nanosleep(&pause, NULL);
        else
            sched_yield();
    }
}

int cuda_event_wait(struct dev *dev, struct dev_event *ev)
{
    struct dev_cuda *d = cuda_of(dev);
    int state = atomic_load(&ev->state);
    if (state != EV_IN_FLIGHT)
        return state == EV_FAILED ? MOED_EDEVICE : 0;
    struct copy *copy = copy_of(&d->copies, ev);
    int rc = cuda_enter(d);
    if (rc == 0)
        rc = copy ? cuda_check(d, wait_event(copy->event), "a copy to the device") : MOED_EDEVICE;
    pthread_mutex_lock(&d->copies.lock);
    if (copy)
        copy->owner = NULL;
    pthread_mutex_unlock(&d->copies.lock);
    atomic_store(&ev->state, rc < 0 ? EV_FAILED : EV_DONE);
    return rc;
}

int cuda_copy_out(struct dev *dev, void *dst, const void *src, size_t bytes)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    for (size_t at = 0; rc == 0 && at < bytes; at += BOUNCE_BYTES) {
        size_t n = bytes - at < BOUNCE_BYTES ? bytes - at : BOUNCE_BYTES;
        CUresult r = cuMemcpyDtoHAsync(d->bounce, address(src) + at, n, d->compute);
        if ((rc = cuda_check(d, r, "a copy from the device")) == 0 &&
            (rc = cuda_wait_compute(d)) == 0)
            memcpy((uint8_t *)dst + at, d->bounce, n);
    }
    return rc;
}

int cuda_copy_within(struct dev *dev, void *dst, const void *src, size_t bytes)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    return rc < 0 ? rc
                  : cuda_check(d, cuMemcpyDtoDAsync(address(dst), address(src), bytes, d->compute),
                               "a copy within the device");
}

/* Larger buffers; nothing on the device may still use the old ones. */
static int grow_mirror(struct dev_cuda *d, struct mirror *m, size_t bytes)
{
    size_t capacity = m->capacity ? m->capacity : MIRROR_MIN_BYTES;
    while (capacity < bytes)
        capacity *= 2;
    int rc = cuda_wait_compute(d);
    if (rc < 0)
        return rc;
    if (m->host)
        cuMemFreeHost(m->host);
    if (m->device)
        cuMemFree(m->device);
    *m = (struct mirror){0};
    void *host = NULL;
    CUresult r = cuMemHostAlloc(&host, capacity, CU_MEMHOSTALLOC_PORTABLE);
    m->host = host;
    if (r == CUDA_SUCCESS)
        r = cuMemAlloc(&m->device, capacity);
    m->capacity = r == CUDA_SUCCESS ? capacity : 0;
    return cuda_check(d, r, "making room for a step's plan");
}

int cuda_fetch(struct dev_cuda *d, CUdeviceptr to, const void *from, size_t bytes)
{
    size_t words = bytes / sizeof(uint32_t);
    struct cu_fetch args = {from, (uint32_t *)pointer(to), (int64_t)words};
    return cuda_launch(d, FN_fetch, cuda_blocks(words, CU_THREADS), 1, CU_THREADS, 0, &args);
}

int cuda_mirror(struct dev_cuda *d, enum mirror_kind kind, const void *p, size_t bytes,
                CUdeviceptr *out)
{
    struct mirror *m = &d->mirror[kind];
    int rc = bytes > m->capacity ? grow_mirror(d, m, bytes) : 0;
    *out = m->device;
    if (rc == 0 && m->bytes == bytes && memcmp(m->host, p, bytes) == 0)
        return 0;
    if (rc == 0 && m->under_way)
        rc = cuda_wait_compute(d);
    if (rc < 0)
        return rc;
    memcpy(m->host, p, bytes);
    m->bytes = bytes;
    m->under_way = true;
    return cuda_fetch(d, m->device, m->host, bytes);
}

int cuda_grow(struct dev_cuda *d, struct grown *g, size_t bytes)
{
    if (bytes <= g->bytes)
        return 0;
    void *p = realloc(g->p, bytes * 2);
    if (!p)
        return cuda_check(d, CUDA_ERROR_OUT_OF_MEMORY, "making room for a step's plan");
    *g = (struct grown){p, bytes * 2};
    return 0;
}

int cuda_memory_open(struct dev_cuda *d, struct moed_error *err)
{
    pthread_mutex_init(&d->copies.lock, NULL);
    d->bounce = cuda_alloc_shared(&d->dev, BOUNCE_BYTES);
    bool ok = d->bounce != NULL;
    for (int i = 0; i < COPIES && ok; i++)
        ok = cuEventCreate(&d->copies.copy[i].event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS;
    for (int i = 0; i < DEV_MAX_MARKS && ok; i++)
        ok = cuEventCreate(&d->copies.mark[i].event, CU_EVENT_DISABLE_TIMING) == CUDA_SUCCESS;
    for (int k = 0; k < MIRROR_COUNT && ok; k++)
        ok = grow_mirror(d, &d->mirror[k], MIRROR_MIN_BYTES) == 0;
    return ok ? 0 : moed_fail(err, MOED_ENOMEM, "no memory for the buffers of the CUDA device");
}

void cuda_memory_close(struct dev_cuda *d)
{
    for (int i = 0; i < COPIES; i++)
        if (d->copies.copy[i].event)
            cuEventDestroy(d->copies.copy[i].event);
    for (int i = 0; i < DEV_MAX_MARKS; i++)
        if (d->copies.mark[i].event)
            cuEventDestroy(d->copies.mark[i].event);
    for (int k = 0; k < MIRROR_COUNT; k++) {
        if (d->mirror[k].host)
            cuMemFreeHost(d->mirror[k].host);
        if (d->mirror[k].device)
            cuMemFree(d->mirror[k].device);
    }
    while (d->registered)
        cuda_host_unregister(&d->dev, d->registered->range);
    if (d->logits)
        cuMemFree(d->logits);
    if (d->bounce)
        cuMemFreeHost(d->bounce);
    free(d->table.p);
    free(d->list.p);
}
