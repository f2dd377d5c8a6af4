#include "device/misses.h"
#include "engine/engine_int.h"

/* Seconds. Fine where streams live (1 to 100 ms), coarse for long prompts. */
const double moed_histogram_bound[MOED_HISTOGRAM_BUCKETS] = {
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2,
    0.3,    0.5,   0.75,  1,     1.5,  2.5,  5,    10,   20,    40,  80,   160};

void histogram_add(struct moed_histogram *h, int64_t us)
{
    double seconds = (double)us * 1e-6;
    int b = 0;
    while (b < MOED_HISTOGRAM_BUCKETS && seconds > moed_histogram_bound[b])
        b++;
    h->bucket[b]++;
    h->count++;
    h->sum += seconds;
}

static void show_misses(struct moed_engine *e)
{
    struct misses_stats m;
    if (!e->setup.backend.misses)
        return;
    misses_stats(e->setup.backend.misses, &m);
    e->stats.miss_jobs = m.jobs;
    e->stats.miss_experts = m.groups;
    e->stats.miss_bytes = m.bytes;
    e->stats.miss_us = m.total_ns / 1000;
    e->stats.miss_failures = m.failed + m.abandoned;
}

void stats_show(struct moed_engine *e)
{
    struct sched_stats s;
    sched_stats(e->sched, &s);
    e->stats.running = s.running;
    e->stats.held = s.held;
    e->stats.exempted = s.exempted;
    e->stats.preemptions = s.preemptions;
    e->stats.kv_blocks = e->setup.sched.kv_blocks;
    e->stats.kv_blocks_used = s.kv_used;
    e->stats.kv_blocks_cached = s.kv_cached;
    e->stats.prefix_queries = s.prefix_queries;
    e->stats.prefix_hits = s.prefix_hits;
    show_misses(e);
    pthread_mutex_lock(&e->shown_lock);
    e->shown = e->stats;
    pthread_mutex_unlock(&e->shown_lock);
}

void moed_engine_stats(const struct moed_engine *engine, struct moed_engine_stats *out)
{
    struct moed_engine *e = (struct moed_engine *)engine;
    pthread_mutex_lock(&e->shown_lock);
    *out = e->shown;
    pthread_mutex_unlock(&e->shown_lock);
    out->waiting = atomic_load(&e->queued);
    out->failed = atomic_load(&e->failed);
}
