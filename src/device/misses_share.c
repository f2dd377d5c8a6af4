/*
 * How a job is shared between the CPU and the link. Both should end their parts of gate/up at the
 * same time, or, where each has experts of its own, all of them (mailbox_cut_of makes whole experts
 * and late outputs of the share); each class of jobs (by missed experts) keeps the share at which
 * they did so far. For small jobs, and where CPU and link fight for one memory, the CPU alone may
 * be faster still: both ways are timed from the posting to the end as the GPU sees it, and the
 * better one is taken, the other now and then for comparison.
 */
#include "device/misses_int.h"

/* Before anything is measured: the link takes a quarter, as on a machine whose memory is three
 * times as fast as its link. */
#define SHARE_FIRST 256
/* Neither side is left out for good, so that both stay measured. */
#define SHARE_LEAST 32
#define SHARE_MOST  (MAILBOX_SHARE_ONE - 32)
/* How far towards the balance of the last steps a share moves at each: noise of single jobs is
 * smoothed over about eight steps. */
#define SHARE_GAIN 0.125

/* Every so many steps a class goes the other way. What that costs is then seen so rarely that one
 * look counts for half: a way that looks better than it is corrects itself within a few steps. */
#define TRY_STEPS 32
#define TRY_GAIN  0.5

static double clamp(double share)
{
    return share < SHARE_LEAST ? SHARE_LEAST : share > SHARE_MOST ? SHARE_MOST : share;
}

void misses_share_init(struct misses *m)
{
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++) {
        m->share[c].share =
            m->cfg.link_share == MISSES_SHARE_ADAPTIVE ? SHARE_FIRST : m->cfg.link_share;
        m->share[c].way = m->share[c].better = WAY_BOTH;
    }
}

/* Whether a moment may belong to the job before. */
static bool in_time(const struct misses *m, uint64_t ns)
{
    return m->last.posted_ns && ns > m->last.posted_ns &&
           ns - m->last.posted_ns < (uint64_t)m->cfg.wait_limit_us * 1000;
}

void misses_share_ended(struct misses *m, const struct miss_job *now, uint64_t before_link_ns)
{
    const struct mailbox *box = m->cfg.mailbox;
    const struct miss_job *last = &m->last;
    uint64_t ended = __atomic_load_n(&box->ended_ns, __ATOMIC_RELAXED);
    int missed = last->groups + last->link_groups;
    if (in_time(m, ended)) {
        struct miss_share *s = &m->share[mailbox_share_class(missed)];
        miss_add(&s->way_ns[last->way], ended - last->posted_ns);
        miss_add(&s->way_groups[last->way], (uint64_t)missed);
    }
    if (last->link_groups && in_time(m, before_link_ns) && before_link_ns < now->posted_ns) {
        uint64_t each = record_matrix_bytes(m->cfg.cls);
        misses_share_note(
            m, missed,
            &(struct miss_parts){last->cpu_ns, (int64_t)(before_link_ns - last->posted_ns),
                                 last->cpu_bytes, (uint64_t)last->link_groups * each});
    }
    m->last = *now;
}

static void choose_way(struct miss_share *s, bool try_other)
{
    for (int w = 0; w < WAYS; w++) {
        uint64_t ns = atomic_load_explicit(&s->way_ns[w], memory_order_relaxed);
        uint64_t groups = atomic_load_explicit(&s->way_groups[w], memory_order_relaxed);
        if (groups == s->way_groups_seen[w])
            continue;
        double cost = (double)(ns - s->way_ns_seen[w]) / (double)(groups - s->way_groups_seen[w]);
        double gain = s->cost[w] > 0 ? w == (int)s->better ? SHARE_GAIN : TRY_GAIN : 1;
        s->cost[w] += (cost - s->cost[w]) * gain;
        s->way_ns_seen[w] = ns;
        s->way_groups_seen[w] = groups;
    }
    bool alone = s->cost[WAY_CPU] > 0 && s->cost[WAY_CPU] < s->cost[WAY_BOTH];
    s->better = alone ? WAY_CPU : WAY_BOTH;
    s->way = alone != (try_other && s->cost[WAY_BOTH] > 0) ? WAY_CPU : WAY_BOTH;
}

/* The least that an expert costs each way: what turns out to cost more gives way to the other. */
static void expect(struct miss_share *s, size_t bytes, const struct misses_rates *rates)
{
    s->cost[WAY_CPU] = (double)bytes / rates->cpu_gb_per_s;
    s->cost[WAY_BOTH] = (double)bytes / rates->both_gb_per_s;
    s->way = s->better = s->cost[WAY_CPU] < s->cost[WAY_BOTH] ? WAY_CPU : WAY_BOTH;
}

void misses_set_rates(struct misses *m, const struct misses_rates *rates)
{
    static const double groups[MAILBOX_SHARE_CLASSES] = {1, 2, 3.5, 6.5, 12.5, 24};
    if (m->cfg.link_share != MISSES_SHARE_ADAPTIVE || !(rates->cpu_gb_per_s > 0))
        return;
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++) {
        double kilobytes = groups[c] * (double)m->cfg.cls->bytes * 1e-3, link = 0;
        /* cpu_start + (all - link) / cpu_rate = link_start + link / link_rate; GB/s are kB/us. */
        if (rates->link_gb_per_s > 0)
            link = (kilobytes / rates->cpu_gb_per_s + rates->cpu_start_us - rates->link_start_us) /
                   (1 / rates->cpu_gb_per_s + 1 / rates->link_gb_per_s);
        m->share[c].share = clamp(link / kilobytes * MAILBOX_SHARE_ONE);
        if (rates->both_gb_per_s > 0)
            expect(&m->share[c], m->cfg.cls->bytes, rates);
    }
}

void misses_share_note(struct misses *m, int missed, const struct miss_parts *parts)
{
    struct miss_share *s = &m->share[mailbox_share_class(missed)];
    miss_add(&s->sum[SUM_CPU_NS], (uint64_t)parts->cpu_ns);
    miss_add(&s->sum[SUM_LINK_NS], (uint64_t)parts->link_ns);
    miss_add(&s->sum[SUM_CPU_BYTES], parts->cpu_bytes);
    miss_add(&s->sum[SUM_LINK_BYTES], parts->link_bytes);
}

void misses_share_adapt(struct misses *m)
{
    m->adapted++;
    for (int c = 0; c < MAILBOX_SHARE_CLASSES && m->cfg.link_share == MISSES_SHARE_ADAPTIVE; c++) {
        struct miss_share *s = &m->share[c];
        choose_way(s, m->adapted % TRY_STEPS == 0);
        double sum[SUMS];
        for (int i = 0; i < SUMS; i++) {
            uint64_t now = atomic_load_explicit(&s->sum[i], memory_order_relaxed);
            sum[i] = (double)(now - s->seen[i]);
            s->seen[i] = now;
        }
        if (!(sum[SUM_CPU_NS] > 0 && sum[SUM_LINK_NS] > 0))
            continue;
        double cpu_rate = sum[SUM_CPU_BYTES] / sum[SUM_CPU_NS];
        double link_rate = sum[SUM_LINK_BYTES] / sum[SUM_LINK_NS];
        double balance = link_rate / (link_rate + cpu_rate) * MAILBOX_SHARE_ONE;
        s->share = clamp(s->share + (balance - s->share) * SHARE_GAIN);
    }
}

static int share_of(const struct misses *m, int c)
{
    const struct miss_share *s = &m->share[c];
    return s->way == WAY_CPU ? 0 : (int)(s->share + 0.5);
}

int misses_link_share(const struct misses *m, int n_groups)
{
    return share_of(m, mailbox_share_class(n_groups));
}

void misses_link_shares(const struct misses *m, int32_t share[MAILBOX_SHARE_CLASSES])
{
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        share[c] = share_of(m, c);
}
