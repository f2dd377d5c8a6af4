/* The stand-in driver: streams, events, capture, graphs. */
#include <stdlib.h>
#include <time.h>

#include "driver_int.h"

/* A query of something busy returns at once so many times in a row; then it waits a little, since
 * on a small machine the caller's spin would take the core from the stream. */
#define QUICK_LOOKS   64
#define QUERY_WAIT_US 200

static void *stream_main(void *arg)
{
    struct CUstream_st *s = arg;
    pthread_mutex_lock(&driver.lock);
    for (;;) {
        while (!s->queue.first && !s->stop)
            pthread_cond_wait(&driver.change, &driver.lock);
        struct work *w = s->queue.first;
        if (!w)
            break;
        s->queue.first = w->next;
        if (!w->next)
            s->queue.end = NULL;
        s->queue.n--;
        s->busy = true;
        pthread_mutex_unlock(&driver.lock);
        work_run(w);
        work_free(w);
        pthread_mutex_lock(&driver.lock);
        s->busy = false;
        pthread_cond_broadcast(&driver.change);
    }
    pthread_mutex_unlock(&driver.lock);
    return NULL;
}

/* With the lock. */
static struct CUstream_st *stream_new(void)
{
    struct CUstream_st *s = calloc(1, sizeof *s);
    if (!s || pthread_create(&s->thread, NULL, stream_main, s) != 0) {
        free(s);
        return NULL;
    }
    s->next = driver.streams;
    driver.streams = s;
    return s;
}

/* With the lock. NULL: no memory for the legacy stream. */
static struct CUstream_st *stream_of(CUstream stream)
{
    if (stream && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD)
        return stream;
    if (!driver.legacy)
        driver.legacy = stream_new();
    return driver.legacy;
}

static bool idle(const struct CUstream_st *s)
{
    return !s->busy && !s->queue.first;
}

void streams_drain(void)
{
    for (struct CUstream_st *s = driver.streams; s;) {
        if (idle(s)) {
            s = s->next;
            continue;
        }
        pthread_cond_wait(&driver.change, &driver.lock);
        s = driver.streams;
    }
}

static void short_wait(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += QUERY_WAIT_US * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&driver.change, &driver.lock, &t);
}

CUresult stream_unsafe(void)
{
    CUresult r = CUDA_SUCCESS;
    for (struct CUstream_st *s = driver.streams; s; s = s->next) {
        bool forbids = s->capture_mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
                       (s->capture_mode == CU_STREAM_CAPTURE_MODE_THREAD_LOCAL &&
                        pthread_equal(s->capture_thread, pthread_self()));
        if (!s->capture || !forbids)
            continue;
        s->capture_broken = true;
        r = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return r;
}

bool stream_captures(CUstream stream)
{
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    bool captures = s && s->capture;
    pthread_mutex_unlock(&driver.lock);
    return captures;
}

/* Into the graph. With the lock; owns w. */
static CUresult capture(struct CUstream_st *s, struct work *w)
{
    if (s->capture_broken) {
        work_free(w);
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    switch (w->kind) {
    case WORK_RECORD:
        w->event.event->capture = s->capture->id;
        work_free(w);
        return CUDA_SUCCESS;
    case WORK_WAIT: {
        bool inside = w->event.event->capture == s->capture->id;
        work_free(w);
        s->capture_broken = !inside;
        return inside ? CUDA_SUCCESS : CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    }
    case WORK_GRAPH:
        work_free(w);
        s->capture_broken = true;
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        work_list_add(&s->capture->nodes, w);
        return CUDA_SUCCESS;
    }
}

CUresult stream_submit(CUstream stream, struct work *w)
{
    if (!w)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    CUresult r = s ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
    if (!s) {
        work_free(w);
    } else if (s->capture) {
        r = capture(s, w);
    } else {
        if (w->kind == WORK_GRAPH)
            w->graph->in_flight++;
        if (w->kind == WORK_RECORD) {
            w->event.event->capture = 0;
            w->event.number = ++w->event.event->recorded;
        }
        work_list_add(&s->queue, w);
        pthread_cond_broadcast(&driver.change);
    }
    pthread_mutex_unlock(&driver.lock);
    return r;
}

/* A look at a stream from outside, which a capture does not allow. With the lock. */
static CUresult look_at(struct CUstream_st *s)
{
    if (!s)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!s->capture)
        return CUDA_SUCCESS;
    s->capture_broken = true;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult stream_wait(CUstream stream)
{
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    CUresult r = look_at(s);
    while (r == CUDA_SUCCESS && !idle(s))
        pthread_cond_wait(&driver.change, &driver.lock);
    pthread_mutex_unlock(&driver.lock);
    return r != CUDA_SUCCESS ? r : atomic_load(&driver.sticky);
}

CUresult CUDAAPI cuStreamCreate(CUstream *out, unsigned flags)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    *out = stream_new();
    pthread_mutex_unlock(&driver.lock);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult CUDAAPI cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    return cuStreamCreate(out, flags);
}

CUresult CUDAAPI cuStreamDestroy(CUstream s)
{
    if (!s)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&driver.lock);
    while (!idle(s))
        pthread_cond_wait(&driver.change, &driver.lock);
    s->stop = true;
    pthread_cond_broadcast(&driver.change);
    for (struct CUstream_st **at = &driver.streams; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    pthread_mutex_unlock(&driver.lock);
    pthread_join(s->thread, NULL);
    if (s->capture && s->capture_origin) {
        work_list_free(&s->capture->nodes);
        free(s->capture);
    }
    free(s);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamQuery(CUstream stream)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    r = look_at(s);
    if (r == CUDA_SUCCESS && !idle(s) && ++s->looks > QUICK_LOOKS)
        short_wait();
    if (r == CUDA_SUCCESS && !idle(s))
        r = CUDA_ERROR_NOT_READY;
    else if (s)
        s->looks = 0;
    pthread_mutex_unlock(&driver.lock);
    return r != CUDA_SUCCESS ? r : atomic_load(&driver.sticky);
}

CUresult CUDAAPI cuStreamSynchronize(CUstream stream)
{
    CUresult r = driver_begin();
    return r == CUDA_SUCCESS ? stream_wait(stream) : r;
}

/* Events. */

CUresult CUDAAPI cuEventCreate(CUevent *out, unsigned flags)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct CUevent_st *e = calloc(1, sizeof *e);
    if (!e)
        return CUDA_ERROR_OUT_OF_MEMORY;
    e->timed = !(flags & CU_EVENT_DISABLE_TIMING);
    *out = e;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent e)
{
    if (!e)
        return CUDA_ERROR_INVALID_HANDLE;
    pthread_mutex_lock(&driver.lock);
    streams_drain();
    pthread_mutex_unlock(&driver.lock);
    free(e);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecord(CUevent e, CUstream stream)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct work *w = work_new(WORK_RECORD);
    if (w)
        w->event.event = e;
    return stream_submit(stream, w);
}

CUresult CUDAAPI cuEventQuery(CUevent e)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    if (e->capture)
        r = CUDA_ERROR_CAPTURED_EVENT;
    else if (e->reached < e->recorded && ++e->looks > QUICK_LOOKS)
        short_wait();
    if (r == CUDA_SUCCESS && e->reached < e->recorded)
        r = CUDA_ERROR_NOT_READY;
    else
        e->looks = 0;
    pthread_mutex_unlock(&driver.lock);
    return r != CUDA_SUCCESS ? r : atomic_load(&driver.sticky);
}

CUresult CUDAAPI cuEventSynchronize(CUevent e)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    if (e->capture)
        r = CUDA_ERROR_CAPTURED_EVENT;
    for (uint64_t number = e->recorded; r == CUDA_SUCCESS && e->reached < number;)
        pthread_cond_wait(&driver.change, &driver.lock);
    pthread_mutex_unlock(&driver.lock);
    return r != CUDA_SUCCESS ? r : atomic_load(&driver.sticky);
}

CUresult CUDAAPI cuEventElapsedTime(float *ms, CUevent begin, CUevent end)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    if (!begin->timed || !end->timed || !begin->recorded || !end->recorded)
        r = CUDA_ERROR_INVALID_HANDLE;
    else if (begin->reached < begin->recorded || end->reached < end->recorded)
        r = CUDA_ERROR_NOT_READY;
    else
        *ms = (float)((end->seconds - begin->seconds) * 1e3);
    pthread_mutex_unlock(&driver.lock);
    return r;
}

CUresult CUDAAPI cuStreamWaitEvent(CUstream stream, CUevent e, unsigned flags)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct work *w = work_new(WORK_WAIT);
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    /* A stream that waits for an event of a capture joins the capture. */
    for (struct CUstream_st *o = driver.streams; s && !s->capture && o; o = o->next)
        if (o->capture && o->capture_origin && o->capture->id == e->capture) {
            s->capture = o->capture;
            s->capture_origin = s->capture_broken = false;
            s->capture_mode = o->capture_mode;
            s->capture_thread = o->capture_thread;
        }
    if (w) {
        w->event.event = e;
        w->event.number = e->recorded;
    }
    pthread_mutex_unlock(&driver.lock);
    return stream_submit(stream, w);
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *arg)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct work *w = work_new(WORK_HOST);
    if (w) {
        w->host.fn = fn;
        w->host.arg = arg;
    }
    return stream_submit(stream, w);
}

/* Capture and graphs. */

CUresult CUDAAPI cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    if (!s || s == CU_STREAM_LEGACY)
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    struct CUgraph_st *g = calloc(1, sizeof *g);
    if (!g)
        return CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&driver.lock);
    if (s->capture) {
        r = CUDA_ERROR_ILLEGAL_STATE;
    } else {
        g->id = ++driver.captures;
        s->capture = g;
        s->capture_origin = true;
        s->capture_broken = false;
        s->capture_mode = mode;
        s->capture_thread = pthread_self();
    }
    pthread_mutex_unlock(&driver.lock);
    if (r != CUDA_SUCCESS)
        free(g);
    return r;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream s, CUgraph *out)
{
    pthread_mutex_lock(&driver.lock);
    struct CUgraph_st *g = s ? s->capture : NULL;
    bool broken = false;
    *out = NULL;
    if (!g || !s->capture_origin) {
        pthread_mutex_unlock(&driver.lock);
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    for (struct CUstream_st *o = driver.streams; o; o = o->next)
        if (o->capture == g) {
            broken = broken || o->capture_broken;
            o->capture = NULL;
        }
    pthread_mutex_unlock(&driver.lock);
    if (broken) {
        work_list_free(&g->nodes);
        free(g);
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    *out = g;
    return atomic_load(&driver.sticky);
}

CUresult CUDAAPI cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    pthread_mutex_lock(&driver.lock);
    struct CUstream_st *s = stream_of(stream);
    *status = !s || !s->capture   ? CU_STREAM_CAPTURE_STATUS_NONE
              : s->capture_broken ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                  : CU_STREAM_CAPTURE_STATUS_ACTIVE;
    pthread_mutex_unlock(&driver.lock);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiate(CUgraphExec *out, CUgraph g, unsigned long long flags)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    struct CUgraphExec_st *e = calloc(1, sizeof *e);
    if (!e || !work_list_clone(&e->nodes, &g->nodes)) {
        free(e);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *out = e;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphGetNodes(CUgraph g, CUgraphNode *nodes, size_t *n)
{
    if (nodes)
        return CUDA_ERROR_NOT_SUPPORTED;
    *n = g->nodes.n;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphUpload(CUgraphExec g, CUstream stream)
{
    return driver_begin();
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec g, CUstream stream)
{
    CUresult r = driver_begin();
    if (r != CUDA_SUCCESS)
        return r;
    pthread_mutex_lock(&driver.lock);
    if (driver_fault(&driver.fail_launch))
        atomic_store(&driver.sticky, r = CUDA_ERROR_LAUNCH_FAILED);
    pthread_mutex_unlock(&driver.lock);
    if (r != CUDA_SUCCESS)
        return r;
    struct work *w = work_new(WORK_GRAPH);
    if (w)
        w->graph = g;
    return stream_submit(stream, w);
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec g)
{
    pthread_mutex_lock(&driver.lock);
    g->destroyed = true;
    bool now = g->in_flight == 0;
    pthread_mutex_unlock(&driver.lock);
    if (now) {
        work_list_free(&g->nodes);
        free(g);
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphDestroy(CUgraph g)
{
    work_list_free(&g->nodes);
    free(g);
    return CUDA_SUCCESS;
}
