/* The pager thread: copies loads chunk by chunk. See load.h for the picture. */
#include "pager/load.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include <uv.h>

#include "base/mem.h"

/* Two, so that the copy engine has the next chunk when one ends, and no more, so that a miss waits
 * for little. */
#define CHUNKS_IN_FLIGHT 2

/* How often a thread that has something to copy looks whether others' misses have closed: nobody
 * wakes it for those. A miss takes 50 us and more. */
#define DEMAND_LOOK_NS 20000

/* A ring of pointers between exactly two threads. It is never full: its size is the number of loads
 * that may be under way. */
struct ring {
    struct load **at;
    size_t mask;
    _Atomic size_t head; /* next to read: the reader's */
    _Atomic size_t tail; /* next to write: the writer's */
};

struct queue {
    struct load *first, **end;
};

struct chunk {
    struct dev_event event;
    uint64_t begin_ns;
    struct load *load; /* NULL: free */
};

struct loader {
    struct dev *dev;
    struct loader_config cfg;
    struct ring to_do, done;
    uv_sem_t came_back; /* one post for each load in done */
    _Atomic int misses_open;
    _Atomic bool sleeps_for_miss; /* the pager thread waits for misses_open to fall to 0 */
    _Atomic bool stop;
    bool sent; /* the engine thread's: since the last kick */
    uv_async_t wake;
    uv_thread_t thread;
    /* The pager thread's. */
    uv_loop_t loop;
    uv_timer_t share_due; /* wakes a thread that sleeps while a miss is open */
    uint64_t
        yields_until_ns; /* while a miss is open: the promised share has been used up so long */
    struct queue queue[LOAD_CLASSES];
    struct chunk chunk[CHUNKS_IN_FLIGHT];
    unsigned oldest, n_chunks; /* chunk[(oldest + i) % CHUNKS_IN_FLIGHT], i < n_chunks */
};

static void ring_init(struct ring *r, size_t n)
{
    size_t size = 2;
    while (size < n)
        size *= 2;
    r->at = mem_new(size, sizeof r->at[0]);
    r->mask = size - 1;
}

static void ring_put(struct ring *r, struct load *load)
{
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    assert(tail - atomic_load_explicit(&r->head, memory_order_acquire) <= r->mask);
    r->at[tail & r->mask] = load;
    atomic_store_explicit(&r->tail, tail + 1, memory_order_release);
}

static struct load *ring_get(struct ring *r)
{
    size_t head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&r->tail, memory_order_acquire))
        return NULL;
    struct load *load = r->at[head & r->mask];
    atomic_store_explicit(&r->head, head + 1, memory_order_release);
    return load;
}

static void queue_put(struct queue *q, struct load *load)
{
    load->next = NULL;
    *q->end = load;
    q->end = &load->next;
}

static struct load *queue_pop(struct queue *q)
{
    struct load *load = q->first;
    q->first = load->next;
    if (!q->first)
        q->end = &q->first;
    return load;
}

static void come_back(struct loader *l, struct load *load, enum load_outcome outcome)
{
    load->outcome = outcome;
    ring_put(&l->done, load);
    uv_sem_post(&l->came_back);
}

/* A load whose last chunk was sent or that failed has left its queue; it comes back when no chunk
 * of it is in flight. */
static void settle(struct loader *l, struct load *load)
{
    if (load->chunks_out == 0)
        come_back(l, load, load->failed ? LOAD_FAILED : LOAD_DONE);
}

static void take_messages(struct loader *l)
{
    struct load *load;
    while ((load = ring_get(&l->to_do)))
        queue_put(&l->queue[load->class], load);
}

static bool others_open(const struct loader *l)
{
    const _Atomic uint32_t *open = l->cfg.demand_open;
    return open && atomic_load_explicit(open, memory_order_relaxed) > 0;
}

static bool miss_is_open(const struct loader *l)
{
    return atomic_load(&l->misses_open) > 0 || others_open(l);
}

/* Whether what yields may send its next chunk. */
static bool may_send(const struct loader *l)
{
    if (!miss_is_open(l))
        return true;
    return l->cfg.min_share_percent > 0 && l->n_chunks == 0 && uv_hrtime() >= l->yields_until_ns;
}

/* BEGUN, now or before; false: the engine thread holds it. */
static bool begin(struct load *load)
{
    int expected = LOAD_WAITS;
    return atomic_compare_exchange_strong_explicit(&load->claim, &expected, LOAD_BEGUN,
                                                   memory_order_acquire, memory_order_relaxed) ||
           expected == LOAD_BEGUN;
}

/* The queue whose first load may be copied now. */
static struct queue *next_queue(struct loader *l)
{
    for (int c = 0; c < LOAD_CLASSES; c++) {
        struct queue *q = &l->queue[c];
        if (c > LOAD_DEMAND && !may_send(l))
            return NULL;
        while (q->first && q->first->sent_bytes == 0 &&
               atomic_load_explicit(&q->first->cancel, memory_order_relaxed))
            come_back(l, queue_pop(q), LOAD_CANCELED);
        if (q->first)
            return begin(q->first) ? q : NULL;
    }
    return NULL;
}

static size_t chunk_bytes(const struct loader *l, enum load_class class)
{
    bool bulk = class == LOAD_DEMAND || (class == LOAD_STREAM && !miss_is_open(l));
    return bulk ? l->cfg.bulk_chunk_bytes : l->cfg.chunk_bytes;
}

static int copy_chunk(struct loader *l, struct load *load, size_t n, struct dev_event *event)
{
    int rc = load->after ? l->dev->ops->copies_wait(l->dev, load->after) : 0;
    if (rc < 0)
        return rc;
    load->after = NULL;
    return l->dev->ops->copy_in(l->dev, load->dst + load->sent_bytes, load->src + load->sent_bytes,
                                n, event);
}

static bool send_chunk(struct loader *l, struct queue *q)
{
    struct load *load = q->first;
    struct chunk *c = &l->chunk[(l->oldest + l->n_chunks) % CHUNKS_IN_FLIGHT];
    size_t n = load->bytes - load->sent_bytes, most = chunk_bytes(l, load->class);
    if (n > most)
        n = most;
    atomic_store(&c->event.state, 0);
    c->begin_ns = uv_hrtime();
    int rc = copy_chunk(l, load, n, &c->event);
    if (rc < 0 && l->n_chunks > 0)
        return false; /* the device's queue is full: there is room when a chunk of ours ends */
    if (rc < 0) {
        load->failed = true;
        settle(l, queue_pop(q));
        return true;
    }
    c->load = load;
    l->n_chunks++;
    load->chunks_out++;
    load->sent_bytes += n;
    if (load->sent_bytes == load->bytes)
        queue_pop(q);
    return true;
}

/* A load with chunks still to send is the first of its queue. */
static void drop_rest(struct loader *l, struct load *load)
{
    if (load->sent_bytes < load->bytes) {
        struct load *first = queue_pop(&l->queue[load->class]);
        assert(first == load);
        load->sent_bytes = load->bytes;
    }
}

/* After a chunk that took so long, misses have the link until the share is kept. */
static void account_share(struct loader *l, uint64_t begin_ns, uint64_t end_ns)
{
    uint64_t share = (uint64_t)l->cfg.min_share_percent;
    if (share > 0)
        l->yields_until_ns = end_ns + (end_ns - begin_ns) * (100 - share) / share;
}

static void end_oldest_chunk(struct loader *l)
{
    struct chunk *c = &l->chunk[l->oldest];
    struct load *load = c->load;
    int rc = l->dev->ops->event_wait(l->dev, &c->event);
    uint64_t end_ns = uv_hrtime();
    if (load->class != LOAD_DEMAND)
        account_share(l, c->begin_ns, end_ns);
    /* The next one has had the link to itself from here on. */
    l->chunk[(l->oldest + 1) % CHUNKS_IN_FLIGHT].begin_ns = end_ns;
    c->load = NULL;
    l->oldest = (l->oldest + 1) % CHUNKS_IN_FLIGHT;
    l->n_chunks--;
    load->chunks_out--;
    if (rc < 0) {
        load->failed = true;
        drop_rest(l, load);
    }
    if (load->sent_bytes == load->bytes)
        settle(l, load);
}

/* Timers that are due before the loop blocks run first, and then it would block all the same. */
static void on_share_due(uv_timer_t *timer)
{
    struct loader *l = timer->data;
    uv_async_send(&l->wake);
}

/*
 * Says that the engine's last release must wake this thread, unless that release has been already;
 * its promised share wakes it too. Nobody wakes it when others' misses have closed, so it naps.
 */
static bool may_sleep(struct loader *l)
{
    bool waiting = false;
    for (int c = LOAD_DEMAND + 1; c < LOAD_CLASSES; c++)
        waiting = waiting || l->queue[c].first;
    atomic_store(&l->sleeps_for_miss, waiting);
    if (!waiting)
        return true;
    if (others_open(l)) {
        nanosleep(&(struct timespec){0, DEMAND_LOOK_NS}, NULL);
        return false;
    }
    if (atomic_load(&l->misses_open) == 0)
        return false;
    uint64_t now_ns = uv_hrtime();
    if (l->cfg.min_share_percent > 0) {
        uint64_t left_ns = l->yields_until_ns > now_ns ? l->yields_until_ns - now_ns : 0;
        uv_update_time(&l->loop);
        uv_timer_start(&l->share_due, on_share_due, left_ns / 1000000 + 1, 0);
    }
    return true;
}

static void loader_main(void *arg)
{
    struct loader *l = arg;
    bool idle = false;
    while (!atomic_load(&l->stop)) {
        uv_run(&l->loop, idle ? UV_RUN_ONCE : UV_RUN_NOWAIT);
        take_messages(l);
        struct queue *q;
        while (l->n_chunks < CHUNKS_IN_FLIGHT && (q = next_queue(l)) && send_chunk(l, q)) {
        }
        if (l->n_chunks > 0)
            end_oldest_chunk(l);
        idle = l->n_chunks == 0 && !l->queue[LOAD_DEMAND].first && may_sleep(l);
    }
    while (l->n_chunks > 0)
        end_oldest_chunk(l);
}

static void on_wake(uv_async_t *wake)
{
}

int loader_open(struct loader **out, struct dev *dev, const struct loader_config *cfg,
                struct moed_error *err)
{
    struct loader *l = mem_new(1, sizeof *l);
    int rc;
    *out = NULL;
    l->dev = dev;
    l->cfg = *cfg;
    ring_init(&l->to_do, cfg->max_loads);
    ring_init(&l->done, cfg->max_loads);
    for (int c = 0; c < LOAD_CLASSES; c++)
        l->queue[c].end = &l->queue[c].first;
    if ((rc = uv_sem_init(&l->came_back, 0)) != 0)
        goto no_sem;
    if ((rc = uv_loop_init(&l->loop)) != 0)
        goto no_loop;
    if ((rc = uv_async_init(&l->loop, &l->wake, on_wake)) != 0)
        goto no_wake;
    uv_timer_init(&l->loop, &l->share_due);
    l->share_due.data = l;
    if ((rc = uv_thread_create(&l->thread, loader_main, l)) != 0)
        goto no_thread;
    *out = l;
    return 0;

no_thread:
    uv_close((uv_handle_t *)&l->share_due, NULL);
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_run(&l->loop, UV_RUN_DEFAULT);
no_wake:
    uv_loop_close(&l->loop);
no_loop:
    uv_sem_destroy(&l->came_back);
no_sem:
    free(l->to_do.at);
    free(l->done.at);
    free(l);
    return moed_fail(err, MOED_EIO, "cannot start the pager thread: %s", uv_strerror(rc));
}

void loader_close(struct loader **loader)
{
    struct loader *l = *loader;
    if (!l)
        return;
    *loader = NULL;
    atomic_store(&l->stop, true);
    uv_async_send(&l->wake);
    uv_thread_join(&l->thread);
    uv_close((uv_handle_t *)&l->share_due, NULL);
    uv_close((uv_handle_t *)&l->wake, NULL);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&l->loop);
    assert(rc == 0);
    uv_sem_destroy(&l->came_back);
    free(l->to_do.at);
    free(l->done.at);
    free(l);
}

void loader_send(struct loader *l, struct load *load)
{
    load->outcome = LOAD_UNDERWAY;
    load->sent_bytes = 0;
    load->chunks_out = 0;
    load->failed = false;
    atomic_store_explicit(&load->claim, LOAD_WAITS, memory_order_relaxed);
    atomic_store_explicit(&load->cancel, false, memory_order_relaxed);
    l->sent = true;
    ring_put(&l->to_do, load);
}

bool load_hold(struct load *load)
{
    int expected = LOAD_WAITS;
    return atomic_compare_exchange_strong_explicit(&load->claim, &expected, LOAD_HELD,
                                                   memory_order_acquire, memory_order_relaxed);
}

void load_let_go(struct load *load)
{
    atomic_store_explicit(&load->claim, LOAD_WAITS, memory_order_release);
}

void loader_kick(struct loader *l)
{
    if (l->sent)
        uv_async_send(&l->wake);
    l->sent = false;
}

struct load *loader_take(struct loader *l)
{
    return uv_sem_trywait(&l->came_back) == 0 ? ring_get(&l->done) : NULL;
}

struct load *loader_wait(struct loader *l)
{
    uv_sem_wait(&l->came_back);
    return ring_get(&l->done);
}

void loader_miss_open(struct loader *l, int n)
{
    atomic_fetch_add(&l->misses_open, n);
}

void loader_miss_closed(struct loader *l, int n)
{
    if (atomic_fetch_sub(&l->misses_open, n) == n && atomic_load(&l->sleeps_for_miss))
        uv_async_send(&l->wake);
}
