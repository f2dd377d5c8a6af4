/* What misses cost on this machine, measured before the first step. */
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "model/recorded_int.h"

/* Layers of one measurement, some ten milliseconds over the link. It is repeated until the best
 * time stands: the first turns may find workers asleep and pages that no core has looked up yet. */
#define MEASURE_LAYERS 8
#define MEASURE_TURNS  4
/* A turn that takes more than so much of the best before it is the last. */
#define MEASURE_GAIN 0.97

/* One replay; 0 or a negative code. */
static int measure_turn(struct recorded *r, struct model *m, const struct dev_recorded *step,
                        int64_t *us)
{
    int64_t begin_us = clock_us();
    misses_step_begin(r->misses);
    int rc = m->dev->step->plan_send(m->dev, &r->plan->n_rows,
                                     PLAN_FIRST_BYTES + recorded_keys(m) * sizeof *r->slot_of);
    if (rc == 0)
        rc = m->dev->step->replay(m->dev, step);
    if (rc == 0)
        rc = m->dev->kern->sync(m->dev);
    misses_step_end(r->misses);
    *us = clock_us() - begin_us;
    return rc;
}

/* The best time of a replay in which of all experts so much comes over the link; GB/s. */
static double measure_share(struct recorded *r, struct model *m, const struct dev_recorded *step,
                            int32_t share, uint64_t bytes, int *rc)
{
    int64_t best_us = 0, us;
    bool stands = false;
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        r->plan->link_share[c] = share;
    for (int turn = 0; turn < MEASURE_TURNS && !stands && *rc == 0; turn++) {
        *rc = measure_turn(r, m, step, &us);
        stands = turn > 0 && (double)us > MEASURE_GAIN * (double)best_us;
        best_us = turn == 0 || us < best_us ? us : best_us;
    }
    return best_us > 0 ? (double)bytes / (double)best_us * 1e-3 : 0;
}

/* Every expert gets a slot, so that only the first steps miss. */
static bool soon_all_resident(const struct model *m)
{
    const struct pager_config *pager = &m->o.pager;
    return pager->fill && pager->cache_bytes >= m->w.arena_bytes;
}

int recorded_measure(struct recorded *r, struct model *m, struct moed_error *err)
{
    struct dev_recorded *step = NULL;
    int32_t layers;
    if (!r || !r->misses || r->measured || m->o.link_share != MISSES_SHARE_ADAPTIVE)
        return 0;
    if (soon_all_resident(m)) {
        log_info("misses are not measured, since every expert gets a slot");
        return 0;
    }
    r->measured = true;
    int rc = record_misses(r, m, MEASURE_LAYERS, &step, &layers, err);
    if (rc < 0)
        return rc;
    memset(r->plan, 0, sizeof *r->plan);
    r->plan->n_rows = r->plan->forced_on = 1;
    memset(r->slot_of, 0xff, recorded_keys(m) * sizeof *r->slot_of);
    for (int32_t i = 0; i < m->c.n_layers * m->c.top_k; i++)
        r->forced[i] = i % m->c.top_k;
    rc = m->dev->step->plan_send(m->dev, r->forced,
                                 (size_t)m->c.n_layers * (size_t)m->c.top_k * sizeof *r->forced);
    uint64_t bytes = (uint64_t)layers * (uint64_t)m->c.top_k * m->w.cls.bytes;
    double cpu = measure_share(r, m, step, 0, bytes, &rc);
    double link = measure_share(r, m, step, MAILBOX_SHARE_ONE, bytes, &rc);
    double share = cpu + link > 0 ? link / (cpu + link) : 0;
    double both = measure_share(r, m, step, (int32_t)(share * MAILBOX_SHARE_ONE), bytes, &rc);
    m->dev->step->forget(m->dev, step);
    if (rc < 0 && misses_settle(r->misses, SETTLE_US, err) == 0 && rc == MOED_ETIMEDOUT) {
        log_warn("misses: the workers did not answer in time when measured; shares are learned "
                 "while running");
        return 0;
    }
    if (rc < 0)
        return moed_fail(err, rc, "the device failed in measuring misses");
    misses_set_rates(
        r->misses,
        &(struct misses_rates){.cpu_gb_per_s = cpu, .link_gb_per_s = link, .both_gb_per_s = both});
    log_info("misses, %d experts of a layer at a time: by the CPU %.1f GB/s, over the link %.1f, "
             "by both %.1f with %.0f %% over the link",
             m->c.top_k, cpu, link, both, share * 100);
    return 0;
}
