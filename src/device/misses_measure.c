/*
 * What the workers do alone: jobs posted by this thread into a mailbox of its own, before the
 * device's is open. A GPU that reads records at the same time shows what both do together.
 */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/misses_int.h"

/* Jobs that are not counted: workers wake up, pages are met for the first time. */
#define WARM_JOBS 3
#define JOBS_MAX  400
#define JOB_US    10000000

struct measure {
    struct mailbox *box;
    struct mailbox_layout layout;
    const void **record; /* [n]: those that are here, one layer of them to the workers */
    int n, next;
    uint32_t seq;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One job of `groups` records not used for long. Microseconds; negative when it was not done. */
static double one_job(struct measure *e, int groups)
{
    struct mailbox *box = e->box;
    char *base = (char *)box;
    struct mailbox_group *group = (void *)(base + e->layout.group_off);
    int32_t *row = (void *)(base + e->layout.row_off), *pair = (void *)(base + e->layout.pair_off);
    for (int g = 0; g < groups; g++) {
        group[g] = (struct mailbox_group){e->next, g, 1, 0};
        e->next = (e->next + 1) % e->n;
        row[g] = 0, pair[g] = g;
    }
    box->n_rows = 1, box->n_groups = box->n_pairs = groups;
    box->cpu_inner = e->layout.inner, box->cpu_width = e->layout.width;
    int64_t begin = clock_ns();
    mail_store(&box->posted, ++e->seq);
    for (unsigned n = 1; mail_load(&box->done) != e->seq; n++) {
        cpu_relax();
        if (n % 64 == 0)
            sched_yield();
        if (n % 1024 == 0 && clock_ns() - begin > (int64_t)JOB_US * 1000)
            return -1;
    }
    return (double)(clock_ns() - begin) * 1e-3;
}

static int measure_class(struct measure *e, struct misses *m, int groups, int64_t budget_us,
                         double *median_us)
{
    double us[JOBS_MAX];
    int n = 0;
    misses_step_begin(m);
    for (int64_t end_us = 0; n < JOBS_MAX && (n < 3 || clock_us() < end_us);) {
        double t = 0;
        for (int i = 0; !n && i < WARM_JOBS && t >= 0; i++)
            t = one_job(e, groups);
        end_us = end_us ? end_us : clock_us() + budget_us;
        t = t < 0 ? t : one_job(e, groups);
        if (t < 0)
            break;
        us[n++] = t;
    }
    misses_step_end(m);
    if (n < 3)
        return MOED_EDEADLINE;
    qsort(us, (size_t)n, sizeof *us, by_value);
    *median_us = us[n / 2];
    return 0;
}

/* The line through the classes' times over their bytes: start and rate. */
static void fit(struct misses_speed *out)
{
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    for (int c = 0; c < MISSES_SPEED_CLASSES; c++) {
        /* Relative errors count alike. */
        double x = out->bytes[c] * 1e-3, y = out->job_us[c], w = 1 / (y * y);
        if (y <= 0)
            continue;
        n += w, sx += w * x, sy += w * y, sxx += w * x * x, sxy += w * x * y;
    }
    double det = n * sxx - sx * sx, slope = det > 0 ? (n * sxy - sx * sy) / det : 0;
    double start = n > 0 ? (sy - slope * sx) / n : 0;
    if (slope <= 0 || start < 0) {
        slope = sxx > 0 ? sxy / sxx : 0;
        start = 0;
    }
    out->gb_per_s = slope > 0 ? 1 / slope : 0;
    out->start_us = start;
}

int misses_measure(struct misses_speed *out, const struct misses_config *cfg, int64_t budget_us,
                   struct moed_error *err)
{
    struct measure e = {0};
    struct misses_config own = *cfg;
    struct misses *m = NULL;
    size_t keys = (size_t)cfg->layers * (size_t)cfg->experts;
    int rc = MOED_ENOMEM, groups_max = 1 << (MISSES_SPEED_CLASSES - 1);
    *out = (struct misses_speed){0};
    e.record = mem_try(keys, sizeof *e.record);
    for (size_t i = 0; e.record && i < keys; i++)
        if (cfg->host_of[i])
            e.record[e.n++] = cfg->host_of[i];
    e.layout =
        mailbox_layout(1, groups_max, e.n > 0 ? e.n : 1, cfg->cls->hidden, cfg->cls->intermediate);
    e.box = mem_map(e.layout.bytes);
    if (!e.record || !e.box) {
        moed_fail(err, rc, "no memory to measure the workers of misses");
        goto out;
    }
    own.host_of = e.record, own.layers = 1, own.experts = e.n;
    own.mailbox = e.box, own.layout = e.layout, own.link_share = 0;
    if ((rc = misses_open(&m, &own, err)) < 0)
        goto out;
    for (int c = 0; c < MISSES_SPEED_CLASSES && 1 << c <= e.layout.max_groups; c++) {
        if ((rc = measure_class(&e, m, 1 << c, budget_us, &out->job_us[c])) < 0) {
            moed_fail(err, rc, "the workers of misses do not end a job of %d experts", 1 << c);
            goto out;
        }
        out->bytes[c] = (double)(1 << c) * (double)cfg->cls->bytes;
    }
    fit(out);
out:
    misses_close(&m);
    mem_unmap(e.box, e.layout.bytes);
    free(e.record);
    return rc < 0 ? rc : 0;
}
