/* The threads of one call, and io_for_each on top of them. */
#include <stdatomic.h>
#include <stdbool.h>

#include <uv.h>

#include "io/io_int.h"

#define TICK_NS ((uint64_t)100 * 1000 * 1000)

struct crew {
    void (*body)(void *arg);
    void *arg;
    uv_mutex_t lock;
    uv_cond_t ended;
    int running; /* under lock */
};

static void crew_main(void *arg)
{
    struct crew *c = arg;
    c->body(c->arg);
    uv_mutex_lock(&c->lock);
    if (--c->running == 0)
        uv_cond_signal(&c->ended);
    uv_mutex_unlock(&c->lock);
}

/* Waits for the last thread; ticks on time however often the condition wakes for nothing. */
static void crew_wait(struct crew *c, void (*tick)(void *arg))
{
    uint64_t next = uv_hrtime() + TICK_NS;
    uv_mutex_lock(&c->lock);
    while (c->running > 0) {
        uint64_t now = uv_hrtime();
        if (now < next) {
            uv_cond_timedwait(&c->ended, &c->lock, next - now);
            continue;
        }
        next = now + TICK_NS;
        if (tick) {
            uv_mutex_unlock(&c->lock);
            tick(c->arg);
            uv_mutex_lock(&c->lock);
        }
    }
    uv_mutex_unlock(&c->lock);
}

int io_crew_run(int threads, void (*body)(void *arg), void (*tick)(void *arg), void *arg,
                struct moed_error *err)
{
    struct crew c = {.body = body, .arg = arg, .running = 1};
    uv_thread_t ids[IO_MAX_THREADS];
    if (uv_mutex_init(&c.lock) != 0)
        return moed_fail(err, MOED_EIO, "cannot make a mutex");
    if (uv_cond_init(&c.ended) != 0) {
        uv_mutex_destroy(&c.lock);
        return moed_fail(err, MOED_EIO, "cannot make a condition variable");
    }
    int n = 0, rc = 0;
    while (n < threads && n < IO_MAX_THREADS) {
        uv_mutex_lock(&c.lock);
        c.running++;
        uv_mutex_unlock(&c.lock);
        rc = uv_thread_create(&ids[n], crew_main, &c);
        if (rc != 0)
            break;
        n++;
    }
    /* One count was held so that the crew could not end while it was being built. */
    uv_mutex_lock(&c.lock);
    c.running -= rc != 0 ? 2 : 1;
    uv_mutex_unlock(&c.lock);
    crew_wait(&c, tick);
    for (int i = 0; i < n; i++)
        uv_thread_join(&ids[i]);
    uv_cond_destroy(&c.ended);
    uv_mutex_destroy(&c.lock);
    if (n == 0)
        return moed_fail(err, MOED_EIO, "cannot start a thread: %s", uv_strerror(rc));
    if (tick)
        tick(arg);
    return 0;
}

int io_crew_threads(const struct io_config *cfg, size_t n)
{
    int threads = cfg && cfg->threads > 0 ? cfg->threads : IO_DEFAULT_THREADS;
    if (threads > IO_MAX_THREADS)
        threads = IO_MAX_THREADS;
    if ((size_t)threads > n)
        threads = n > 0 ? (int)n : 1;
    return threads;
}

struct each {
    void (*fn)(void *arg, size_t i);
    void *arg;
    size_t n;
    _Atomic size_t next, done;
    const struct io_config *cfg;
    uint64_t start_ns;
};

static void each_body(void *arg)
{
    struct each *e = arg;
    size_t i;
    while ((i = atomic_fetch_add_explicit(&e->next, 1, memory_order_relaxed)) < e->n) {
        e->fn(e->arg, i);
        atomic_fetch_add_explicit(&e->done, 1, memory_order_relaxed);
    }
}

static void each_tick(void *arg)
{
    struct each *e = arg;
    struct io_progress p = {.done_bytes = atomic_load_explicit(&e->done, memory_order_relaxed),
                            .total_bytes = e->n,
                            .seconds = (double)(uv_hrtime() - e->start_ns) * 1e-9};
    e->cfg->progress(e->cfg->user, &p);
}

int io_for_each(size_t n, void (*fn)(void *arg, size_t i), void *arg, const struct io_config *cfg,
                struct moed_error *err)
{
    struct each e = {.fn = fn, .arg = arg, .n = n, .cfg = cfg, .start_ns = uv_hrtime()};
    bool ticks = cfg && cfg->progress;
    return io_crew_run(io_crew_threads(cfg, n), each_body, ticks ? each_tick : NULL, &e, err);
}
