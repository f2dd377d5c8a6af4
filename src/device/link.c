#include "device/link.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

enum { EV_IDLE, EV_IN_FLIGHT, EV_DONE, EV_FAILED };

/* A link that lags behind its rate may catch up by this much: it hides the clock's late wake-ups.
 */
#define CATCH_UP_NS 1000000

struct copy {
    void *dst;
    const void *src;
    size_t bytes;
    struct dev_event *ev;
};

struct link {
    uint64_t bytes_per_s;
    pthread_t thread;
    pthread_mutex_t lock;    /* guards everything below */
    pthread_cond_t posted;   /* a copy came, or stop */
    pthread_cond_t finished; /* an event left EV_IN_FLIGHT */
    struct copy queue[LINK_QUEUE_COPIES];
    unsigned head, count; /* the running copy stays at head */
    bool stop;
    int64_t ready_ns; /* when the link has carried all copies so far; link thread only */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Sleeps until a link of that speed has carried the bytes. */
static void pace(struct link *l, int64_t begin_ns, size_t bytes)
{
    int64_t from = begin_ns - CATCH_UP_NS;
    if (from < l->ready_ns)
        from = l->ready_ns;
    l->ready_ns = from + (int64_t)((double)bytes * 1e9 / (double)l->bytes_per_s);
    struct timespec until = {l->ready_ns / 1000000000, l->ready_ns % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0)
        ;
}

static void finish_head(struct link *l, int state)
{
    struct dev_event *ev = l->queue[l->head].ev;
    l->head = (l->head + 1) % LINK_QUEUE_COPIES;
    l->count--;
    /* The last touch: from here on the event is its owner's again. */
    atomic_store_explicit(&ev->state, state, memory_order_release);
    pthread_cond_broadcast(&l->finished);
}

static void *link_main(void *arg)
{
    struct link *l = arg;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->count && !l->stop)
            pthread_cond_wait(&l->posted, &l->lock);
        if (l->stop)
            break;
        struct copy c = l->queue[l->head];
        pthread_mutex_unlock(&l->lock);
        int64_t begin_ns = now_ns();
        memcpy(c.dst, c.src, c.bytes);
        if (l->bytes_per_s)
            pace(l, begin_ns, c.bytes);
        pthread_mutex_lock(&l->lock);
        finish_head(l, EV_DONE);
    }
    while (l->count)
        finish_head(l, EV_FAILED);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int link_open(struct link **out, uint64_t bytes_per_s, struct moed_error *err)
{
    struct link *l = mem_new(1, sizeof *l);
    l->bytes_per_s = bytes_per_s;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->posted, NULL);
    pthread_cond_init(&l->finished, NULL);
    int rc = pthread_create(&l->thread, NULL, link_main, l);
    if (rc) {
        free(l);
        return moed_fail(err, MOED_EIO, "the copy thread does not start: %s", strerror(rc));
    }
    *out = l;
    return 0;
}

void link_close(struct link **lp)
{
    struct link *l = *lp;
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->posted);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->posted);
    pthread_cond_destroy(&l->finished);
    free(l);
    *lp = NULL;
}

int link_copy(struct link *l, void *dst, const void *src, size_t bytes, struct dev_event *ev)
{
    int rc = 0;
    pthread_mutex_lock(&l->lock);
    if (l->count == LINK_QUEUE_COPIES) {
        rc = MOED_EBUSY;
    } else {
        atomic_store_explicit(&ev->state, EV_IN_FLIGHT, memory_order_relaxed);
        l->queue[(l->head + l->count++) % LINK_QUEUE_COPIES] = (struct copy){dst, src, bytes, ev};
        pthread_cond_signal(&l->posted);
    }
    pthread_mutex_unlock(&l->lock);
    return rc;
}

int link_wait(struct link *l, struct dev_event *ev)
{
    int state = atomic_load_explicit(&ev->state, memory_order_acquire);
    if (state == EV_IN_FLIGHT) {
        pthread_mutex_lock(&l->lock);
        while ((state = atomic_load_explicit(&ev->state, memory_order_acquire)) == EV_IN_FLIGHT)
            pthread_cond_wait(&l->finished, &l->lock);
        pthread_mutex_unlock(&l->lock);
    }
    return state == EV_FAILED ? MOED_EDEVICE : 0;
}
