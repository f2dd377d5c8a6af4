/*
 * A worker's life: wait for a job, do its part, meet the others, do its part of the other half,
 * leave. All workers see every job, and every one leaves it by storing its seq in `left`, whatever
 * happens; worker 0 closes it when all have left.
 */
#include "base/clock.h"
#include "device/misses_int.h"

#include <linux/futex.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks at a word between two glances at the clock: about 3 us of pauses. */
#define LOOKS 64
/* A sleep while dozing or while a stalled worker is awaited; the kernel adds 50 us of slack. */
#define NAP_NS 50000
/* Weights of the down half that a worker asks for before it waits for hidden: what a core loads in
 * the time of such a wait, a small part of its L2 cache. */
#define FETCH_BYTES ((size_t)16 << 10)
/* So many at a time by worker 0, for whom the others wait. */
#define FETCH_STEP_BYTES ((size_t)1 << 10)

enum outcome { ARRIVED, GIVEN_UP, STOPPED };

/* One wait inside a job. */
struct wait {
    unsigned looks;
    int64_t since_us;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

/* True once in LOOKS calls. */
static bool pause_look(const struct misses *m, unsigned *looks)
{
    cpu_relax();
    if (++*looks % LOOKS)
        return false;
    if (m->scarce)
        sched_yield();
    return true;
}

/* Goes on waiting (ARRIVED), or tells why not. */
static enum outcome wait_more(const struct misses *m, struct wait *w, uint32_t seq)
{
    if (!pause_look(m, &w->looks))
        return ARRIVED;
    if (atomic_load_explicit(&m->stop, memory_order_relaxed))
        return STOPPED;
    if (mail_load(&m->cfg.mailbox->abandon) == seq)
        return GIVEN_UP;
    int64_t now_us = clock_us();
    if (!w->since_us)
        w->since_us = now_us;
    return now_us - w->since_us > m->cfg.wait_limit_us ? GIVEN_UP : ARRIVED;
}

/* How many workers have not yet stored seq: all lines are asked for at once. */
static int missing_hidden(const struct misses *m, uint32_t seq)
{
    int missing = 0;
    for (int i = 1; i < m->threads; i++)
        missing += atomic_load_explicit(&m->worker[i].hidden, memory_order_acquire) != seq;
    return missing;
}

static int missing_left(const struct misses *m, uint32_t seq)
{
    int missing = 0;
    for (int i = 1; i < m->threads; i++)
        missing += atomic_load_explicit(&m->worker[i].left, memory_order_acquire) != seq;
    return missing;
}

static bool any_broken(const struct misses *m, uint32_t seq)
{
    for (int i = 0; i < m->threads; i++)
        if (atomic_load_explicit(&m->worker[i].broken, memory_order_relaxed) == seq)
            return true;
    return false;
}

/* A job as a worker sees it. */
struct job {
    uint32_t seq;
    int n_groups, n_pairs, cpu_inner, cpu_width;
    struct kern_experts call;
    struct kern_part part;
    int64_t seen_ns, gate_up_ns, link_ns, down_ns; /* worker 0 */
};

static bool group_fits(const struct misses *m, const struct mailbox_group *g, const int32_t *row,
                       const int32_t *pair, int n_rows, int n_pairs)
{
    if (g->expert < 0 || g->expert >= m->cfg.experts || g->first < 0 || g->count < 1 ||
        g->count > n_pairs || g->first > n_pairs - g->count)
        return false;
    for (int i = g->first; i < g->first + g->count; i++)
        if (row[i] < 0 || row[i] >= n_rows || pair[i] < 0 || pair[i] >= m->cfg.layout.max_pairs)
            return false;
    return true;
}

/* Reads the job; every worker finds the same. False for a job that nobody can serve. */
static bool read_job(struct miss_worker *self, struct job *j)
{
    const struct misses *m = self->m;
    struct mailbox *box = m->cfg.mailbox;
    const struct mailbox_layout *l = &m->cfg.layout;
    char *base = (char *)box;
    const struct mailbox_group *group = (const void *)(base + l->group_off);
    const int32_t *row = (const void *)(base + l->row_off);
    const int32_t *pair = (const void *)(base + l->pair_off);
    int layer = box->layer, n_rows = box->n_rows;
    j->n_groups = box->n_groups, j->n_pairs = box->n_pairs;
    j->cpu_inner = box->cpu_inner, j->cpu_width = box->cpu_width;
    if (layer < 0 || layer >= m->cfg.layers || n_rows < 1 || n_rows > l->max_rows ||
        j->n_groups < 1 || j->n_groups > l->max_groups || j->n_pairs < 1 ||
        j->n_pairs > l->max_pairs || j->cpu_inner < 1 || j->cpu_inner > l->inner ||
        j->cpu_width < 0 || j->cpu_width > l->width)
        return false;
    const void *const *record = m->cfg.host_of + (size_t)layer * (size_t)m->cfg.experts;
    for (int g = 0; g < j->n_groups; g++) {
        if (!group_fits(m, &group[g], row, pair, n_rows, j->n_pairs) || !record[group[g].expert])
            return false;
        self->group[g] = (struct kern_expert_group){record[group[g].expert], row + group[g].first,
                                                    pair + group[g].first, group[g].count};
    }
    j->call = (struct kern_experts){.cls = m->cfg.cls,
                                    .group = self->group,
                                    .n_groups = j->n_groups,
                                    .x = (const float *)(const void *)(base + l->x_off),
                                    .hidden = (float *)(void *)(base + l->hidden_off),
                                    .y = (float *)(void *)(base + l->y_off),
                                    .inner_end = j->cpu_inner,
                                    .width_end = j->cpu_width};
    j->part = (struct kern_part){self->index, m->threads, self->scratch, m->scratch_bytes};
    return true;
}

/* Worker 0 tells everyone that hidden stands; the others wait for that. Meanwhile they ask for what
 * they read next. */
static enum outcome meet(struct miss_worker *self, struct job *j)
{
    struct misses *m = self->m;
    struct wait w = {0};
    enum outcome r = ARRIVED;
    size_t fetched = j->cpu_width ? 0 : FETCH_BYTES;
    if (self->index) {
        if (!fetched)
            kern_experts_fetch_down(&j->call, j->part, 0, FETCH_BYTES);
        while (atomic_load_explicit(&m->released, memory_order_acquire) != j->seq) {
            if (atomic_load_explicit(&m->dropped, memory_order_relaxed) == j->seq)
                return GIVEN_UP;
            if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
                return r;
        }
        return ARRIVED;
    }
    while (missing_hidden(m, j->seq)) {
        if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
            return r;
        if (fetched < FETCH_BYTES)
            kern_experts_fetch_down(&j->call, j->part, fetched, fetched + FETCH_STEP_BYTES);
        fetched += FETCH_STEP_BYTES;
    }
    if (any_broken(m, j->seq))
        return GIVEN_UP;
    mail_store(&m->cfg.mailbox->cpu_hidden, j->seq);
    atomic_store_explicit(&m->released, j->seq, memory_order_release);
    return ARRIVED;
}

static enum outcome wait_for_link(struct miss_worker *self, const struct job *j)
{
    struct misses *m = self->m;
    struct wait w = {0};
    enum outcome r = ARRIVED;
    if (j->cpu_inner < m->cfg.layout.inner)
        while (mail_load(&m->cfg.mailbox->link_hidden) != j->seq)
            if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
                return r;
    return ARRIVED;
}

/* Both halves of this worker's part. */
static enum outcome work(struct miss_worker *self, struct job *j)
{
    const struct kern_cpu *k = self->m->cfg.kern;
    bool timed = !self->index;
    enum outcome r;
    if (mail_load(&self->m->cfg.mailbox->abandon) == j->seq || !read_job(self, j))
        return GIVEN_UP;
    k->experts_gate_up(&j->call, j->part);
    atomic_store_explicit(&self->hidden, j->seq, memory_order_release);
    if ((r = meet(self, j)) != ARRIVED)
        return r;
    if (timed)
        j->gate_up_ns = j->link_ns = clock_ns();
    if (!j->cpu_width)
        return ARRIVED;
    if ((r = wait_for_link(self, j)) != ARRIVED)
        return r;
    if (timed && j->cpu_inner < self->m->cfg.layout.inner)
        j->link_ns = clock_ns();
    k->experts_down(&j->call, j->part);
    return ARRIVED;
}

/* How long the link took for its part of hidden: by its own clock where the GPU tells, else from
 * when the CPU found it. Found at once, it was earlier by an unknown time: an eighth is assumed. */
static int64_t link_time_ns(const struct misses *m, const struct job *j)
{
    const struct mailbox *box = m->cfg.mailbox;
    uint64_t posted = box->posted_ns, ended = box->link_hidden_ns;
    int64_t cpu = j->gate_up_ns - j->seen_ns, found = j->link_ns - j->seen_ns;
    if (posted && ended > posted && ended - posted < (uint64_t)m->cfg.wait_limit_us * 1000)
        return (int64_t)(ended - posted);
    return found > cpu + cpu / 64 + 200 ? found : cpu - cpu / 8;
}

static void count_job(struct misses *m, const struct job *j, int64_t end_ns)
{
    const struct record_class *c = m->cfg.cls;
    struct miss_counters *n = &m->n;
    int64_t total_ns = end_ns - j->seen_ns;
    size_t outputs_read = (size_t)j->cpu_inner * 2 * (size_t)c->hidden +
                          (size_t)j->cpu_width * (size_t)c->intermediate;
    int slot = 0;
    while (slot < MISSES_HISTOGRAM - 1 && total_ns >= (int64_t)1000 << slot)
        slot++;
    miss_add(&n->jobs, 1);
    miss_add(&n->groups, (uint64_t)j->n_groups);
    miss_add(&n->pairs, (uint64_t)j->n_pairs);
    miss_add(&n->bytes, (uint64_t)j->n_groups * outputs_read * dtype_bytes(c->dtype));
    miss_add(&n->gate_up_ns, (uint64_t)(j->gate_up_ns - j->seen_ns));
    miss_add(&n->wait_ns, (uint64_t)(j->link_ns - j->gate_up_ns));
    miss_add(&n->down_ns, (uint64_t)(end_ns - j->link_ns));
    miss_add(&n->total_ns, (uint64_t)total_ns);
    miss_add(&n->histogram[slot], 1);
    misses_share_ended(m, j->n_groups, j->cpu_inner == c->intermediate ? WAY_CPU : WAY_BOTH);
    if (j->cpu_inner == c->intermediate || !j->cpu_width)
        return;
    miss_add(&n->link_late, j->link_ns - j->gate_up_ns > 200);
    misses_share_note(m, j->n_groups, j->cpu_inner, j->gate_up_ns - j->seen_ns, link_time_ns(m, j));
}

/* Worker 0: says that the job is off, so that nobody waits for it. */
static void drop(struct misses *m, uint32_t seq)
{
    bool abandoned = mail_load(&m->cfg.mailbox->abandon) == seq;
    atomic_store_explicit(&m->dropped, seq, memory_order_release);
    if (!abandoned)
        mail_store(&m->cfg.mailbox->failed, seq);
    miss_add(abandoned ? &m->n.abandoned : &m->n.failed, 1);
}

/* Worker 0 closes the job: done when all did their part, else only idle. False at a stop. */
static bool close_job(struct miss_worker *self, const struct job *j, enum outcome r)
{
    struct misses *m = self->m;
    struct mailbox *box = m->cfg.mailbox;
    struct wait w = {0};
    if (r == GIVEN_UP)
        drop(m, j->seq);
    while (missing_left(m, j->seq)) {
        if (r == ARRIVED && (r = wait_more(m, &w, j->seq)) == GIVEN_UP)
            drop(m, j->seq);
        if (atomic_load_explicit(&m->stop, memory_order_relaxed))
            return false;
        if (r != ARRIVED)
            nap();
    }
    if (r == ARRIVED && any_broken(m, j->seq)) {
        r = GIVEN_UP;
        drop(m, j->seq);
    }
    if (r == ARRIVED)
        count_job(m, j, clock_ns());
    mail_store(&box->open, 0);
    mail_store(&box->idle, j->seq);
    if (r == ARRIVED)
        mail_store(&box->done, j->seq);
    return r != STOPPED;
}

/* False at a stop. */
static bool serve(struct miss_worker *self, uint32_t seq)
{
    struct misses *m = self->m;
    struct job j = {.seq = seq};
    if (!self->index) {
        j.seen_ns = clock_ns();
        mail_store(&m->cfg.mailbox->open, 1);
    }
    if (m->cfg.on_job)
        m->cfg.on_job(m->cfg.on_job_arg, self->index, seq);
    enum outcome r = work(self, &j);
    if (r != ARRIVED) {
        atomic_store_explicit(&self->broken, seq, memory_order_relaxed);
        atomic_store_explicit(&self->hidden, seq, memory_order_release);
    }
    if (!self->index)
        return close_job(self, &j, r);
    atomic_store_explicit(&self->left, seq, memory_order_release);
    return r != STOPPED;
}

/* Sleeps until a step begins. The one who wakes wakes two more, so that the engine thread need not
 * wake all. */
static void park(struct misses *m, uint32_t steps)
{
    atomic_fetch_add(&m->parked, 1);
    while (atomic_load(&m->steps) == steps && !atomic_load(&m->stop))
        futex_wait(&m->steps, steps);
    atomic_fetch_sub(&m->parked, 1);
    if (atomic_load(&m->parked))
        futex_wake(&m->steps, 2);
}

/* The next job's seq after `last`; 0 at a stop. */
static uint32_t next_job(struct misses *m, uint32_t last)
{
    uint32_t seq, steps = 0;
    unsigned looks = 0;
    int64_t since_us = 0;
    while ((seq = mail_load(&m->cfg.mailbox->posted)) == last) {
        if (!pause_look(m, &looks))
            continue;
        if (atomic_load_explicit(&m->stop, memory_order_relaxed))
            return 0;
        int64_t now_us = clock_us();
        uint32_t steps_now = atomic_load_explicit(&m->steps, memory_order_acquire);
        if (!since_us || steps_now != steps) {
            since_us = now_us;
            steps = steps_now;
        }
        bool running = steps & 1;
        if (running && now_us - since_us > m->cfg.doze_us)
            nap();
        if (!running && now_us - since_us > m->cfg.park_us) {
            park(m, steps);
            since_us = 0;
        }
    }
    return seq;
}

static void pin_to(int cpu)
{
    cpu_set_t *set = CPU_ALLOC((size_t)cpu + 1);
    size_t bytes = CPU_ALLOC_SIZE((size_t)cpu + 1);
    if (!set)
        return;
    CPU_ZERO_S(bytes, set);
    CPU_SET_S((size_t)cpu, bytes, set);
    sched_setaffinity(0, bytes, set); /* refused: the worker runs where it is put */
    CPU_FREE(set);
}

void *miss_worker_main(void *worker)
{
    struct miss_worker *self = worker;
    struct misses *m = self->m;
    if (self->cpu >= 0)
        pin_to(self->cpu);
    memset(self->scratch, 0, m->scratch_bytes); /* its pages are then this core's */
    for (uint32_t last = m->first_seq;;) {
        uint32_t seq = next_job(m, last);
        if (!seq || !serve(self, seq))
            return NULL;
        last = seq;
    }
}

void misses_step_begin(struct misses *m)
{
    misses_share_adapt(m);
    if (!(atomic_load(&m->steps) & 1))
        atomic_fetch_add(&m->steps, 1);
    if (atomic_load(&m->parked)) {
        miss_add(&m->wakes, 1);
        futex_wake(&m->steps, 2);
    }
}

void misses_step_end(struct misses *m)
{
    if (atomic_load(&m->steps) & 1)
        atomic_fetch_add(&m->steps, 1);
}

void miss_wake_all(struct misses *m)
{
    futex_wake(&m->steps, INT32_MAX);
}
