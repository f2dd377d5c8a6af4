#include "device/misses.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "device/cores.h"
#include "device/device.h"
#include "device/misses_int.h"

#define WAIT_LIMIT_US 2000000
/* Between two steps of a busy server. Who parks is back after half a millisecond. */
#define PARK_US 2000
/* The same where there is a worker on every core, and none for the others. */
#define PARK_SCARCE_US 200
#define DOZE_US        20000
#define CPUS_MAX       4096
/* With 15 workers at a missed expert one is 13 KiB of gate and up, 1.5 us: half as many make the
 * end of a half late by as much more, and each claim costs some 0.2 us. */
#define PIECES     32
#define PIECES_MAX 1024

int misses_default_threads(void)
{
    int n = cores_to_spin_on_here();
    return n < MISSES_THREADS_MAX ? n : MISSES_THREADS_MAX;
}

static int check_config(const struct misses_config *c, struct moed_error *err)
{
    const struct mailbox_layout *l = &c->layout;
    if (c->threads < 0 || c->threads > MISSES_THREADS_MAX)
        return moed_fail_param(err, MOED_EINVAL, "miss-threads", "%d threads: 0 to %d are possible",
                               c->threads, MISSES_THREADS_MAX);
    if (c->link_share < MISSES_SHARE_ADAPTIVE || c->link_share > MAILBOX_SHARE_ONE)
        return moed_fail_param(err, MOED_EINVAL, "miss-link-share", "a share of %d / %d",
                               c->link_share, MAILBOX_SHARE_ONE);
    if (c->pieces < 0 || c->pieces > PIECES_MAX)
        return moed_fail(err, MOED_EINVAL, "%d pieces of a worker's part", c->pieces);
    if (!c->kern || !c->cls || !c->host_of || c->layers < 1 || c->experts < 1)
        return moed_fail(err, MOED_EINVAL, "misses without kernels or records");
    if (!c->mailbox || (uintptr_t)c->mailbox % MAILBOX_ALIGN_BYTES || l->width != c->cls->hidden ||
        l->inner != c->cls->intermediate || l->max_rows < 1 || l->top_k < 1)
        return moed_fail(err, MOED_EINVAL,
                         "a mailbox of width %d, inner width %d for records of %d, %d", l->width,
                         l->inner, c->cls->hidden, c->cls->intermediate);
    return 0;
}

/* Scratch for the rows that a kernel packs: 48 of the wider side, and room for 16 rows of bf16
 * weights and for sums. */
static size_t scratch_bytes_of(const struct record_class *c)
{
    size_t wide = (size_t)(c->hidden > c->intermediate ? c->hidden : c->intermediate);
    size_t column_bytes = 48 * sizeof(float) + 16 * sizeof(uint16_t);
    size_t bytes = (wide + 255) / 256 * 256 * column_bytes + ((size_t)512 << 10);
    return (bytes + ((size_t)2 << 20) - 1) >> 21 << 21;
}

/* CPUs for the workers, or -1 each. */
static void choose_cpus(struct misses *m, int *cpu, int usable)
{
    int allowed[CPUS_MAX], n = cores_allowed(allowed, CPUS_MAX);
    m->pinned = m->cfg.pin == MISSES_PIN_YES ? n >= m->threads
                                             : m->cfg.pin == MISSES_PIN_AUTO && usable > m->threads;
    if (m->pinned)
        cores_spread(allowed, n, m->threads, "/sys/devices/system/cpu");
    for (int i = 0; i < m->threads; i++)
        cpu[i] = m->pinned ? allowed[i] : -1;
}

static int start_workers(struct misses *m, int usable, struct moed_error *err)
{
    int cpu[MISSES_THREADS_MAX] = {0};
    choose_cpus(m, cpu, usable);
    for (int i = 0; i < m->threads; i++) {
        struct miss_worker *w = &m->worker[i];
        w->m = m;
        w->index = i;
        w->cpu = cpu[i];
        w->scratch = m->scratch + (size_t)i * m->scratch_bytes;
        w->group = mem_new((size_t)m->cfg.layout.max_groups, sizeof *w->group);
        for (int half = 0; half < HALVES; half++) {
            atomic_store(&w->claimed[half], miss_word(m->first_seq, m->pieces));
            atomic_store(&w->done[half], miss_word(m->first_seq, 0));
        }
    }
    for (; m->started < m->threads; m->started++) {
        struct miss_worker *w = &m->worker[m->started];
        int rc = pthread_create(&w->thread, NULL, miss_worker_main, w);
        if (rc)
            return moed_fail(err, MOED_EIO, "miss worker %d of %d does not start: %s", m->started,
                             m->threads, strerror(rc));
    }
    return 0;
}

int misses_open(struct misses **out, const struct misses_config *cfg, struct moed_error *err)
{
    int rc = check_config(cfg, err);
    if (rc < 0)
        return rc;
    int usable = dev_usable_cores();
    struct misses *m = aligned_alloc(MAILBOX_LINE_BYTES, sizeof *m);
    if (!m)
        return moed_fail(err, MOED_ENOMEM, "no memory for the workers of misses");
    memset(m, 0, sizeof *m);
    m->cfg = *cfg;
    m->cfg.wait_limit_us = cfg->wait_limit_us > 0 ? cfg->wait_limit_us : WAIT_LIMIT_US;
    m->cfg.doze_us = cfg->doze_us > 0 ? cfg->doze_us : DOZE_US;
    m->threads = cfg->threads ? cfg->threads : misses_default_threads();
    m->pieces = (uint32_t)(cfg->pieces > 0 ? cfg->pieces : PIECES);
    m->yields = usable <= m->threads + 1;
    m->cfg.park_us = cfg->park_us > 0       ? cfg->park_us
                     : usable <= m->threads ? PARK_SCARCE_US
                                            : PARK_US;
    m->first_seq = mail_load(&cfg->mailbox->posted);
    m->released = m->over = m->first_seq;
    mail_store(&cfg->mailbox->stop, 0);
    mail_store(&cfg->mailbox->idle, m->first_seq);
    m->scratch_bytes = scratch_bytes_of(cfg->cls);
    m->worker = aligned_alloc(MAILBOX_LINE_BYTES, (size_t)m->threads * sizeof(struct miss_worker));
    m->scratch = mem_map(m->scratch_bytes * (size_t)m->threads);
    if (!m->worker || !m->scratch) {
        free(m->worker);
        m->worker = NULL;
        misses_close(&m);
        return moed_fail(err, MOED_ENOMEM, "no memory for %d workers of misses", cfg->threads);
    }
    memset(m->worker, 0, (size_t)m->threads * sizeof(struct miss_worker));
    misses_share_init(m);
    rc = start_workers(m, usable, err);
    if (rc < 0)
        misses_close(&m);
    else
        *out = m;
    return rc;
}

void misses_close(struct misses **mp)
{
    struct misses *m = *mp;
    if (!m)
        return;
    atomic_store(&m->stop, 1);
    mail_store(&m->cfg.mailbox->stop, 1);
    miss_wake_all(m);
    for (int i = 0; i < m->started; i++)
        pthread_join(m->worker[i].thread, NULL);
    mail_store(&m->cfg.mailbox->open, 0);
    for (int i = 0; m->worker && i < m->threads; i++)
        free(m->worker[i].group);
    mem_unmap(m->scratch, m->scratch_bytes * (size_t)m->threads);
    free(m->worker);
    free(m);
    *mp = NULL;
}

int misses_settle(struct misses *m, int64_t limit_us, struct moed_error *err)
{
    const struct mailbox *box = m->cfg.mailbox;
    uint32_t posted = mail_load(&box->posted);
    if (posted == m->first_seq)
        return 0;
    bool running = atomic_load(&m->steps) & 1;
    int64_t end_us = clock_us() + limit_us;
    int rc = 0;
    /* A job that nobody has looked at yet is seen by workers that are awake. */
    if (!running)
        misses_step_begin(m);
    while (mail_load(&box->idle) != posted) {
        if (clock_us() > end_us) {
            rc = moed_fail(err, MOED_EDEADLINE, "a miss worker is still in job %u after %lld ms",
                           posted, (long long)limit_us / 1000);
            break;
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    }
    if (!running)
        misses_step_end(m);
    return rc;
}

bool misses_busy(const struct misses *m)
{
    return mail_load(&m->cfg.mailbox->open) != 0;
}

void misses_stats(const struct misses *m, struct misses_stats *out)
{
    const struct miss_counters *n = &m->n;
    *out = (struct misses_stats){.jobs = n->jobs,
                                 .groups = n->groups,
                                 .pairs = n->pairs,
                                 .failed = n->failed,
                                 .abandoned = n->abandoned,
                                 .wakes = m->wakes,
                                 .bytes = n->bytes,
                                 .gate_up_ns = n->gate_up_ns,
                                 .wait_ns = n->wait_ns,
                                 .down_ns = n->down_ns,
                                 .total_ns = n->total_ns,
                                 .link_late = n->link_late,
                                 .threads = m->threads,
                                 .pinned = m->pinned};
    for (int i = 0; i < m->threads; i++) {
        const struct miss_worker *w = &m->worker[i];
        out->busy_ns += w->busy_ns;
        out->pieces_taken += w->taken;
        out->parts_missed += n->jobs > w->jobs ? n->jobs - w->jobs : 0;
    }
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        for (int way = 0; way < WAYS; way++) {
            out->seen[c][way].ns = m->share[c].way_ns[way];
            out->seen[c][way].groups = m->share[c].way_groups[way];
        }
    for (int i = 0; i < MISSES_HISTOGRAM; i++)
        out->histogram[i] = n->histogram[i];
}
