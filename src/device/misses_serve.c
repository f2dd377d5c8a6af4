/*
 * A worker's life: wait for a job, claim pieces of the one half until there are none, meet the
 * others, claim pieces of the other half.
 *
 * Who has claimed a piece is in the job until it has counted it as done, whether it computed it or
 * could not; worker 0 closes the job when all claimed pieces are done. Nobody else reads the job's
 * lists: a worker that comes late finds nothing to claim and goes on to the next job. All words of
 * a half hold the job's seq when it is closed, so nobody can claim a piece of a job that is over.
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
/* Weights of the down half that a worker asks for while it waits for hidden, the CPU's or the
 * link's: a part of its second-level cache. */
#define FETCH_BYTES ((size_t)256 << 10)
/* So many at a time, between two looks: what a core has under way to memory. */
#define FETCH_STEP_BYTES ((size_t)1 << 10)
/* Activations, of the first row, that a worker asks for before it reads the lists. */
#define FETCH_X_BYTES ((size_t)16 << 10)
/* Weights of a claim, at least, where rows of activations are packed for each: then that is little
 * beside it. */
#define CLAIM_BYTES ((size_t)256 << 10)

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
    if (m->yields)
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

/* Pieces of a half that are done: all lines are asked for at once. */
static uint32_t pieces_done(const struct misses *m, uint32_t seq, int half)
{
    uint32_t done = 0;
    for (int i = 0; i < m->threads; i++)
        done +=
            miss_pieces(atomic_load_explicit(&m->worker[i].done[half], memory_order_acquire), seq);
    return done;
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
    bool entered;   /* it has claimed a piece */
    size_t fetched; /* bytes of its part of down asked for ahead */
    int n_groups, n_pairs, cpu_inner, cpu_width, link_groups;
    uint32_t least; /* pieces of a claim */
    struct kern_experts call;
    uint32_t claimed[HALVES];                      /* of a job that is off; worker 0 */
    int64_t seen_ns, gate_up_ns, link_ns, down_ns; /* worker 0 */
    uint64_t before_link_ns; /* when the link was done with the job before; worker 0 */
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

static uint32_t pieces_of(const struct misses *m)
{
    return m->pieces * (uint32_t)m->threads;
}

static uint32_t least_pieces(const struct misses *m, int n_groups)
{
    size_t half_bytes = (size_t)n_groups * m->cfg.cls->bytes / 2, most = m->pieces / 4;
    size_t n = CLAIM_BYTES * pieces_of(m) / half_bytes;
    return (uint32_t)(n < 1 ? 1 : n < most ? n : most);
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
    j->link_groups = box->link_groups;
    if (layer < 0 || layer >= m->cfg.layers || n_rows < 1 || n_rows > l->max_rows ||
        j->n_groups < 1 || j->n_groups > l->max_groups || j->n_pairs < 1 ||
        j->n_pairs > l->max_pairs || j->cpu_inner < 1 || j->cpu_inner > l->inner ||
        j->cpu_width < 0 || j->cpu_width > l->width || j->link_groups < 0 ||
        j->link_groups > l->max_groups)
        return false;
    j->least = j->n_pairs > j->n_groups ? least_pieces(m, j->n_groups) : 1;
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
    return true;
}

/* Some pieces of worker `of`. */
struct claim {
    int of;
    uint32_t from, n;
};

/* Claims a part in `share` of what is left. */
static bool claim_of(struct misses *m, const struct job *j, int half, int of, uint32_t share,
                     struct claim *c)
{
    _Atomic uint64_t *word = &m->worker[of].claimed[half];
    uint64_t seen = atomic_load_explicit(word, memory_order_relaxed);
    for (;;) {
        if ((int32_t)((uint32_t)(seen >> 32) - j->seq) > 0)
            return false; /* the job is over */
        uint32_t from = miss_pieces(seen, j->seq), left = m->pieces - from;
        uint32_t n = (left + share - 1) / share;
        n = n < j->least ? j->least : n;
        n = n < left ? n : left;
        if (!n)
            return false;
        if (atomic_compare_exchange_weak_explicit(word, &seen, miss_word(j->seq, from + n),
                                                  memory_order_acq_rel, memory_order_relaxed)) {
            *c = (struct claim){of, from, n};
            return true;
        }
    }
}

/* The next pieces of this worker's part, a third of them; then of others', who have all come to
 * their end at about this time: an even share. */
static bool claim_any(struct miss_worker *self, const struct job *j, int half, struct claim *c)
{
    struct misses *m = self->m;
    uint32_t share = m->threads > 3 ? (uint32_t)m->threads : 3;
    for (int i = 0; i < m->threads; i++)
        if (claim_of(m, j, half, (self->index + i) % m->threads, i ? share : 3, c))
            return true;
    return false;
}

static struct kern_part part_of(const struct miss_worker *self, struct job *j,
                                const struct claim *c)
{
    const struct misses *m = self->m;
    j->call.run = (int)c->n;
    j->call.more = c->of == self->index ? (int)(m->pieces - c->from - c->n) : 0;
    return (struct kern_part){(int)((uint32_t)c->of * m->pieces + c->from), (int)pieces_of(m),
                              self->scratch, m->scratch_bytes};
}

/* From its first claim on a worker may read the job (worker 0 always). */
static enum outcome enter(struct miss_worker *self, struct job *j)
{
    struct misses *m = self->m;
    j->entered = true;
    miss_add(&self->jobs, 1);
    if (m->cfg.on_job)
        m->cfg.on_job(m->cfg.on_job_arg, self->index, j->seq, false);
    return mail_load(&m->cfg.mailbox->abandon) == j->seq || !read_job(self, j) ? GIVEN_UP : ARRIVED;
}

/* Asks for the next weights of this worker's part of down. */
static void fetch_down(struct miss_worker *self, struct job *j)
{
    if (!j->entered || !j->cpu_width || j->fetched >= FETCH_BYTES)
        return;
    struct kern_part part = part_of(self, j, &(struct claim){self->index, 0, self->m->pieces});
    kern_experts_fetch_down(&j->call, part, j->fetched, j->fetched + FETCH_STEP_BYTES);
    j->fetched += FETCH_STEP_BYTES;
}

static enum outcome wait_for_link(struct miss_worker *self, struct job *j)
{
    struct misses *m = self->m;
    struct wait w = {0};
    enum outcome r = ARRIVED;
    if (!j->cpu_width || j->cpu_inner == m->cfg.layout.inner)
        return ARRIVED;
    while (mail_load(&m->cfg.mailbox->link_hidden) != j->seq) {
        if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
            return r;
        fetch_down(self, j);
    }
    return ARRIVED;
}

static enum outcome begin_down(struct miss_worker *self, struct job *j)
{
    const struct misses_config *c = &self->m->cfg;
    enum outcome r = wait_for_link(self, j);
    if (r == ARRIVED && c->on_job)
        c->on_job(c->on_job_arg, self->index, j->seq, true);
    return r;
}

static void compute(struct miss_worker *self, struct job *j, int half, const struct claim *c,
                    int64_t *since_ns)
{
    const struct kern_cpu *k = self->m->cfg.kern;
    struct kern_part part = part_of(self, j, c);
    if (half == GATE_UP)
        k->experts_gate_up(&j->call, part);
    else if (j->cpu_width)
        k->experts_down(&j->call, part);
    int64_t now_ns = clock_ns();
    miss_add(&self->busy_ns, (uint64_t)(now_ns - *since_ns));
    *since_ns = now_ns;
}

/* This worker's pieces of a half, and those it can take from others. */
static enum outcome work(struct miss_worker *self, struct job *j, int half)
{
    enum outcome r = ARRIVED;
    struct claim c;
    uint32_t done = 0;
    int64_t since_ns = 0;
    while (r == ARRIVED && claim_any(self, j, half, &c)) {
        if (!j->entered)
            r = enter(self, j);
        if (r == ARRIVED && half == DOWN && !done)
            r = begin_down(self, j);
        since_ns = since_ns ? since_ns : clock_ns();
        if (r == ARRIVED)
            compute(self, j, half, &c, &since_ns);
        else
            atomic_store_explicit(&self->broken, j->seq, memory_order_relaxed);
        if (c.of != self->index)
            miss_add(&self->taken, c.n);
        done += c.n;
        atomic_store_explicit(&self->done[half], miss_word(j->seq, done), memory_order_release);
    }
    return r;
}

static bool reached(_Atomic uint32_t *word, uint32_t seq)
{
    return (int32_t)(atomic_load_explicit(word, memory_order_acquire) - seq) >= 0;
}

/* Worker 0 tells everyone that hidden stands; the others wait for that. Meanwhile they ask for what
 * they read next. */
static enum outcome meet(struct miss_worker *self, struct job *j)
{
    struct misses *m = self->m;
    struct wait w = {0};
    enum outcome r = ARRIVED;
    while (self->index && !reached(&m->released, j->seq)) {
        if (reached(&m->over, j->seq))
            return GIVEN_UP;
        if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
            return r;
        fetch_down(self, j);
    }
    if (self->index)
        return ARRIVED;
    while (pieces_done(m, j->seq, GATE_UP) != pieces_of(m)) {
        if ((r = wait_more(m, &w, j->seq)) != ARRIVED)
            return r;
        fetch_down(self, j);
    }
    if (any_broken(m, j->seq))
        return GIVEN_UP;
    mail_store(&m->cfg.mailbox->cpu_hidden, j->seq);
    atomic_store_explicit(&m->released, j->seq, memory_order_release);
    return ARRIVED;
}

/* How long the link took for its part of hidden: by its own clock where the GPU tells, else from
 * when the CPU found it. Found at once, it was earlier by an unknown time: an eighth is assumed. */
static int64_t link_time_ns(const struct misses *m, const struct job *j)
{
    const struct mailbox *box = m->cfg.mailbox;
    uint64_t posted = box->posted_ns, ended = box->link_ns;
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
    uint64_t groups = (uint64_t)j->n_groups, gate_up_row_bytes = groups * 2 * c->in_row_bytes;
    uint64_t bytes = gate_up_row_bytes * (uint64_t)j->cpu_inner +
                     groups * (uint64_t)j->cpu_width * c->down_row_bytes;
    int slot = 0;
    while (slot < MISSES_HISTOGRAM - 1 && total_ns >= (int64_t)1000 << slot)
        slot++;
    miss_add(&n->jobs, 1);
    miss_add(&n->groups, groups);
    miss_add(&n->pairs, (uint64_t)j->n_pairs);
    miss_add(&n->bytes, bytes);
    miss_add(&n->gate_up_ns, (uint64_t)(j->gate_up_ns - j->seen_ns));
    miss_add(&n->wait_ns, (uint64_t)(j->link_ns - j->gate_up_ns));
    miss_add(&n->down_ns, (uint64_t)(end_ns - j->link_ns));
    miss_add(&n->total_ns, (uint64_t)total_ns);
    miss_add(&n->histogram[slot], 1);
    bool shared = j->cpu_inner < c->intermediate;
    misses_share_ended(m,
                       &(struct miss_job){.groups = j->n_groups,
                                          .link_groups = j->link_groups,
                                          .cpu_bytes = bytes,
                                          .way = shared || j->link_groups ? WAY_BOTH : WAY_CPU,
                                          .posted_ns = m->cfg.mailbox->posted_ns,
                                          .cpu_ns = total_ns},
                       j->before_link_ns);
    if (!shared || !j->cpu_width)
        return;
    miss_add(&n->link_late, j->link_ns - j->gate_up_ns > 200);
    misses_share_note(
        m, j->n_groups,
        &(struct miss_parts){j->gate_up_ns - j->seen_ns, link_time_ns(m, j),
                             gate_up_row_bytes * (uint64_t)j->cpu_inner,
                             gate_up_row_bytes * (uint64_t)(c->intermediate - j->cpu_inner)});
}

/* Worker 0: nobody claims a piece of the job from now on. */
static void close_claims(struct misses *m, struct job *j)
{
    for (int half = 0; half < HALVES; half++)
        for (int i = 0; i < m->threads; i++) {
            uint64_t was = atomic_exchange_explicit(
                &m->worker[i].claimed[half], miss_word(j->seq, m->pieces), memory_order_acq_rel);
            j->claimed[half] += miss_pieces(was, j->seq);
        }
}

/* Worker 0: says that the job is off, so that nobody waits for it. */
static void drop(struct misses *m, struct job *j)
{
    bool abandoned = mail_load(&m->cfg.mailbox->abandon) == j->seq;
    atomic_store_explicit(&m->over, j->seq, memory_order_release);
    close_claims(m, j);
    if (!abandoned)
        mail_store(&m->cfg.mailbox->failed, j->seq);
    miss_add(abandoned ? &m->n.abandoned : &m->n.failed, 1);
}

/* Worker 0 waits until all pieces of a job are done; of one that is off, those that were claimed.
 */
static enum outcome await_pieces(struct misses *m, struct job *j, enum outcome r)
{
    struct wait w = {0};
    while (r == ARRIVED && pieces_done(m, j->seq, DOWN) != pieces_of(m))
        r = wait_more(m, &w, j->seq);
    if (r == ARRIVED && any_broken(m, j->seq))
        r = GIVEN_UP;
    if (r != GIVEN_UP)
        return r;
    drop(m, j);
    while (pieces_done(m, j->seq, GATE_UP) != j->claimed[GATE_UP] ||
           pieces_done(m, j->seq, DOWN) != j->claimed[DOWN]) {
        if (atomic_load_explicit(&m->stop, memory_order_relaxed))
            return STOPPED;
        nap();
    }
    return GIVEN_UP;
}

/* Worker 0 closes the job: done when all of it was computed, else only idle. */
static void close_job(struct misses *m, const struct job *j, enum outcome r)
{
    struct mailbox *box = m->cfg.mailbox;
    if (r == ARRIVED)
        count_job(m, j, clock_ns());
    atomic_store_explicit(&m->over, j->seq, memory_order_release);
    mail_store(&box->open, 0);
    mail_store(&box->idle, j->seq);
    if (r == ARRIVED)
        mail_store(&box->done, j->seq);
}

static enum outcome lead(struct miss_worker *self, struct job *j)
{
    struct misses *m = self->m;
    j->seen_ns = clock_ns();
    j->before_link_ns = __atomic_load_n(&m->cfg.mailbox->link_ns, __ATOMIC_RELAXED);
    mail_store(&m->cfg.mailbox->open, 1);
    enum outcome r = enter(self, j);
    if (r == ARRIVED)
        r = work(self, j, GATE_UP);
    if (r == ARRIVED)
        r = meet(self, j);
    j->gate_up_ns = j->link_ns = clock_ns();
    if (r == ARRIVED && (r = wait_for_link(self, j)) == ARRIVED &&
        j->cpu_inner < m->cfg.layout.inner)
        j->link_ns = clock_ns();
    if (r == ARRIVED && (r = work(self, j, DOWN)) == ARRIVED)
        mail_store(&m->cfg.mailbox->y_soon, j->seq);
    r = await_pieces(m, j, r);
    if (r != STOPPED)
        close_job(m, j, r);
    return r;
}

/* False at a stop. */
static bool serve(struct miss_worker *self, uint32_t seq)
{
    const struct misses *m = self->m;
    struct job j = {.seq = seq};
    size_t x_bytes = (size_t)m->cfg.layout.width * sizeof(float);
    const char *x = (const char *)m->cfg.mailbox + m->cfg.layout.x_off;
    for (size_t i = 0; i < x_bytes && i < FETCH_X_BYTES; i += 64)
        __builtin_prefetch(x + i, 0, 3);
    if (!self->index)
        return lead(self, &j) != STOPPED;
    enum outcome r = work(self, &j, GATE_UP);
    if (r == ARRIVED && (r = meet(self, &j)) == ARRIVED)
        r = work(self, &j, DOWN);
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
