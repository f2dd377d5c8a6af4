/*
 * The workers of misses against a GPU played by the test: what stands in the mailbox has the bits
 * of one plain call of the scalar kernels, whatever the share, the number of workers, the timing.
 */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "device/misses_int.h"
#include "fake_gpu.h"

enum { WIDTH = 136, INNER = 104, LAYERS = 2, EXPERTS = 7, ROWS = 64, TOP_K = 2 };
enum { PAIRS = ROWS * TOP_K, SECOND_US = 1000000, PATIENCE_US = 120 * SECOND_US };

struct rig {
    struct fake_gpu gpu;
    struct misses *m;
    struct kern_expert_group group[PAIRS]; /* of the job at hand, with lists in the mailbox */
    float want_hidden[PAIRS * INNER], want_y[PAIRS * WIDTH];
};

static struct misses_config config_of(const struct fake_gpu *g, int threads)
{
    return (struct misses_config){.threads = threads,
                                  .kern = kern_cpu(KERN_ISA_AUTO),
                                  .cls = &g->cls,
                                  .host_of = g->host_of,
                                  .layers = g->layers,
                                  .experts = g->experts,
                                  .mailbox = g->box,
                                  .layout = g->l,
                                  .link_share = MISSES_SHARE_ADAPTIVE,
                                  .wait_limit_us = PATIENCE_US};
}

static struct rig *rig_new(void)
{
    struct rig *r = calloc(1, sizeof *r);
    fake_open(&r->gpu, WIDTH, INNER, LAYERS, EXPERTS, ROWS, TOP_K);
    return r;
}

static void rig_start(struct rig *r, const struct misses_config *cfg)
{
    struct moed_error err;
    assert_ok(misses_open(&r->m, cfg, &err), &err);
}

static void rig_free(struct rig *r)
{
    misses_close(&r->m);
    assert_null(r->m);
    fake_close(&r->gpu);
    free(r);
}

/* Fills lists and x for n_groups experts of a random layer, and computes what should come out. */
static void make_job(struct rig *r, int n_groups, int rows, int cpu_inner, int cpu_width)
{
    struct fake_gpu *g = &r->gpu;
    struct mailbox_group *group = fake_array(g, g->l.group_off);
    int32_t *row = fake_array(g, g->l.row_off), *pair = fake_array(g, g->l.pair_off);
    float *x = fake_array(g, g->l.x_off);
    int chosen[ROWS][TOP_K], at = 0, first = (int)(fake_random(g) % EXPERTS), filled = 0;
    g->box->layer = (int)(fake_random(g) % LAYERS);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < TOP_K; k++)
            chosen[i][k] = (int)(fake_random(g) % (unsigned)n_groups);
    for (int e = 0; e < n_groups; e++) {
        int begin = at;
        for (int i = 0; i < rows; i++)
            for (int k = 0; k < TOP_K; k++)
                if (chosen[i][k] == e && (k == 0 || chosen[i][0] != e)) {
                    row[at] = i;
                    pair[at++] = i * TOP_K + k;
                }
        if (at == begin)
            continue;
        int expert = (first + e) % EXPERTS;
        group[filled] = (struct mailbox_group){expert, begin, at - begin, 0};
        r->group[filled++] = (struct kern_expert_group){
            g->host_of[g->box->layer * EXPERTS + expert], row + begin, pair + begin, at - begin};
    }
    for (int i = 0; i < rows * WIDTH; i++)
        x[i] = (float)((int)(fake_random(g) % 2001) - 1000) * 1e-3f;
    g->box->n_rows = rows, g->box->n_groups = filled, g->box->n_pairs = at;
    g->box->cpu_inner = cpu_inner, g->box->cpu_width = cpu_width;
    g->box->link_groups = 0;
    g->box->posted_ns = g->box->link_ns = 0;
    memset(fake_array(g, g->l.hidden_off), 0xee, sizeof r->want_hidden);
    memset(fake_array(g, g->l.y_off), 0xee, sizeof r->want_y);
    struct kern_experts all = {&g->cls, r->group, filled, x, r->want_hidden, r->want_y, 0, 0};
    _Alignas(64) static char scratch[1 << 12];
    struct kern_part one = {0, 1, scratch, sizeof scratch};
    kern_cpu(KERN_ISA_SCALAR)->experts_gate_up(&all, one);
    kern_cpu(KERN_ISA_SCALAR)->experts_down(&all, one);
}

/* got [pairs][outputs]: those before `end` as wanted, the others untouched or (the link's) the
 * same. */
static void check_part(const struct rig *r, const float *got, const float *want, int outputs,
                       int end, bool rest_untouched)
{
    for (int g = 0; g < r->gpu.box->n_groups; g++)
        for (int i = 0; i < r->group[g].n; i++) {
            int at = r->group[g].pair[i] * outputs;
            if (memcmp(got + at, want + at, (size_t)end * sizeof(float)) != 0)
                fail_msg("group %d, row %d: the CPU's %d outputs differ", g, i, end);
            for (int o = end; rest_untouched && o < outputs; o++)
                assert_memory_equal(&got[at + o], "\xee\xee\xee\xee", 4);
        }
}

static void give_link_hidden(struct rig *r)
{
    struct fake_gpu *g = &r->gpu;
    float *hidden = fake_array(g, g->l.hidden_off);
    for (int p = 0; p < g->box->n_pairs; p++) {
        int at = ((int32_t *)fake_array(g, g->l.pair_off))[p] * INNER + g->box->cpu_inner;
        memcpy(hidden + at, r->want_hidden + at,
               (size_t)(INNER - g->box->cpu_inner) * sizeof(float));
    }
    fake_link_hidden(g);
}

/* The job at hand, from post to done. */
static void run_job(struct rig *r, bool link_first)
{
    struct fake_gpu *g = &r->gpu;
    int cpu_inner = g->box->cpu_inner, cpu_width = g->box->cpu_width;
    assert_int_equal(g->box->idle, g->seq);
    uint32_t seq = fake_post(g);
    if (cpu_inner < INNER && link_first)
        give_link_hidden(r);
    assert_true(fake_wait(g, &g->box->cpu_hidden, seq, PATIENCE_US));
    check_part(r, fake_array(g, g->l.hidden_off), r->want_hidden, INNER, cpu_inner,
               cpu_inner < INNER && !link_first);
    if (cpu_inner < INNER && !link_first)
        give_link_hidden(r);
    assert_true(fake_wait(g, &g->box->done, seq, PATIENCE_US));
    assert_int_equal(g->box->y_soon, seq);
    assert_int_equal(g->box->idle, seq);
    assert_int_equal(g->box->open, 0);
    check_part(r, fake_array(g, g->l.y_off), r->want_y, WIDTH, cpu_width, true);
}

/* A job of the CPU alone where its limit is short, so that a worker that loses its core for longer
 * costs one: done in the end. How many were given up before. */
static int job_in_the_end(struct rig *r)
{
    struct fake_gpu *g = &r->gpu;
    struct moed_error err;
    for (int given_up = 0;; given_up++) {
        make_job(r, 3, 2, INNER, WIDTH);
        uint32_t seq = fake_post(g);
        assert_true(fake_wait(g, &g->box->idle, seq, PATIENCE_US));
        if (__atomic_load_n(&g->box->failed, __ATOMIC_ACQUIRE) != seq) {
            assert_true(fake_wait(g, &g->box->done, seq, PATIENCE_US));
            check_part(r, fake_array(g, g->l.hidden_off), r->want_hidden, INNER, INNER, true);
            check_part(r, fake_array(g, g->l.y_off), r->want_y, WIDTH, WIDTH, true);
            return given_up;
        }
        assert_ok(misses_settle(r->m, PATIENCE_US, &err), &err);
    }
}

static int some_rows(struct rig *r)
{
    static const int rows[] = {1, 1, 1, 2, 3, 5, 8, 17, ROWS};
    return rows[fake_random(&r->gpu) % (sizeof rows / sizeof *rows)];
}

static void any_job(struct rig *r, int share)
{
    make_job(r, 1 + (int)(fake_random(&r->gpu) % EXPERTS), some_rows(r),
             mailbox_cpu_outputs(INNER, share), mailbox_cpu_outputs(WIDTH, share));
    run_job(r, fake_random(&r->gpu) & 1);
}

static void bits_are_those_of_a_plain_call_for_all_shares(void **state)
{
    static const int threads[] = {1, 2, 3, 6}, pieces[] = {1, 0, 3, 100};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct rig *r = rig_new();
        struct misses_config cfg = config_of(&r->gpu, threads[t]);
        cfg.pieces = pieces[t];
        rig_start(r, &cfg);
        int jobs = 0;
        for (int share = 0; share <= 768; share += 128) {
            misses_step_begin(r->m);
            for (int i = 0; i < 8; i++, jobs++)
                any_job(r, share);
            misses_step_end(r->m);
        }
        /* Splits that no share gives. */
        misses_step_begin(r->m);
        static const int inner[] = {1, INNER, 17, INNER - 1}, width[] = {0, 0, WIDTH, 1};
        for (int i = 0; i < 4; i++, jobs++) {
            make_job(r, 3, 5, inner[i], width[i]);
            run_job(r, true);
        }
        misses_step_end(r->m);
        struct misses_stats s;
        misses_stats(r->m, &s);
        assert_int_equal(s.jobs, jobs);
        assert_int_equal(s.threads, threads[t]);
        assert_int_equal(s.failed + s.abandoned, 0);
        uint64_t counted = 0;
        for (int i = 0; i < MISSES_HISTOGRAM; i++)
            counted += s.histogram[i];
        assert_int_equal(counted, jobs);
        assert_true(s.total_ns == s.gate_up_ns + s.wait_ns + s.down_ns && s.total_ns > 0);
        rig_free(r);
    }
}

static void packed_records_have_the_same_bits(void **state)
{
    for (int threads = 1; threads <= 3; threads++) {
        struct rig *r = rig_new();
        fake_pack(&r->gpu);
        struct misses_config cfg = config_of(&r->gpu, threads);
        rig_start(r, &cfg);
        misses_step_begin(r->m);
        make_job(r, 3, 5, INNER, WIDTH);
        run_job(r, true);
        struct misses_stats s;
        misses_stats(r->m, &s);
        const struct record_class *c = &r->gpu.cls;
        assert_int_equal(s.bytes, (size_t)r->gpu.box->n_groups *
                                      (2 * INNER * c->in_row_bytes + WIDTH * c->down_row_bytes));
        for (int share = 0; share <= 768; share += 128)
            for (int i = 0; i < 8; i++)
                any_job(r, share);
        misses_step_end(r->m);
        misses_stats(r->m, &s);
        assert_int_equal(s.failed + s.abandoned, 0);
        rig_free(r);
    }
}

static void many_jobs_in_a_row(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 3);
    rig_start(r, &cfg);
    misses_step_begin(r->m);
    make_job(r, 1, 1, 64, 64);
    for (int i = 0; i < 1000; i++) /* each meets the scheduler where cores are scarce */
        run_job(r, true);
    misses_step_end(r->m);
    struct misses_stats s;
    misses_stats(r->m, &s);
    assert_int_equal(s.jobs, 1000);
    /* Both sides, outputs by weights per output: gate and up, and down. */
    assert_int_equal(s.bytes, s.groups * (64 * 2 * WIDTH + 64 * INNER) * 2);
    rig_free(r);
}

static void parked_workers_wake_up(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 5);
    cfg.park_us = 1;
    rig_start(r, &cfg);
    for (int i = 0; i < 60; i++) {
        misses_step_begin(r->m);
        any_job(r, 256);
        misses_step_end(r->m);
        for (int ms = 0; i % 3 && !atomic_load(&r->m->parked) && ms < 30000; ms++)
            usleep(1000);
    }
    struct misses_stats s;
    misses_stats(r->m, &s);
    assert_int_equal(s.jobs, 60);
    assert_in_range(s.wakes, 39, 60);
    rig_free(r);
}

/* A step without a job for long: workers doze and still see the next one. */
static void dozing_workers_see_a_job(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 3);
    cfg.doze_us = 1;
    rig_start(r, &cfg);
    misses_step_begin(r->m);
    for (int i = 0; i < 10; i++) {
        usleep(3000);
        any_job(r, 0);
    }
    misses_step_end(r->m);
    rig_free(r);
}

static void *close_soon(void *arg)
{
    struct rig *r = arg;
    while (!misses_busy(r->m))
        sched_yield();
    usleep(2000);
    misses_close(&r->m);
    return NULL;
}

static void a_stop_ends_an_open_job(void **state)
{
    for (int i = 0; i < 10; i++) {
        struct rig *r = rig_new();
        struct misses_config cfg = config_of(&r->gpu, 1 + i % 4);
        rig_start(r, &cfg);
        misses_step_begin(r->m);
        make_job(r, 3, 2, 32, 64);
        pthread_t closer;
        assert_int_equal(pthread_create(&closer, NULL, close_soon, r), 0);
        uint32_t seq = fake_post(&r->gpu); /* the link's part never comes */
        assert_false(fake_wait(&r->gpu, &r->gpu.box->done, seq, PATIENCE_US));
        assert_int_equal(r->gpu.box->stop, 1);
        pthread_join(closer, NULL);
        assert_int_equal(r->gpu.box->open, 0);
        rig_free(r);
    }
}

/* The link's part never comes: the CPU says so, and serves the next job. */
static void the_cpu_gives_up_a_silent_link(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 3);
    cfg.wait_limit_us = SECOND_US / 10;
    rig_start(r, &cfg);
    struct moed_error err;
    unsigned given_up = 0;
    misses_step_begin(r->m);
    for (int i = 0; i < 2; i++) {
        make_job(r, 3, 2, 32, 64);
        uint32_t seq = fake_post(&r->gpu);
        assert_true(fake_wait(&r->gpu, &r->gpu.box->failed, seq, PATIENCE_US));
        assert_ok(misses_settle(r->m, PATIENCE_US, &err), &err);
        assert_int_equal(r->gpu.box->idle, seq);
        assert_int_not_equal(r->gpu.box->done, seq);
        given_up += (unsigned)job_in_the_end(r);
    }
    misses_step_end(r->m);
    struct misses_stats s;
    misses_stats(r->m, &s);
    assert_int_equal(s.failed, 2 + given_up);
    assert_int_equal(s.jobs, 2);
    rig_free(r);
}

/* Worker 0, or the first other one that has a part in the job. */
struct stall {
    bool leader;
    _Atomic uint32_t seq; /* the job in which it stalls */
    _Atomic int stalled;
    _Atomic int go;
};

static void stall_one(void *arg, int worker, uint32_t seq, bool down)
{
    struct stall *s = arg;
    if (seq != s->seq || down)
        return;
    bool stalls = (worker == 0) == s->leader && !atomic_exchange(&s->stalled, 1);
    while (stalls ? !atomic_load(&s->go) : worker == 0 && !atomic_load(&s->stalled))
        usleep(200); /* so worker 0 does not take all there is */
}

/* One worker hangs in a job: the GPU gives it up, nobody touches the mailbox after the job was left
 * by all, and the next job works. */
static void a_stalled_worker_costs_one_job(void **state)
{
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new();
        struct stall stall = {.leader = i == 0, .seq = 3};
        struct misses_config cfg = config_of(&r->gpu, 3);
        cfg.on_job = stall_one;
        cfg.on_job_arg = &stall;
        rig_start(r, &cfg);
        struct moed_error err;
        misses_step_begin(r->m);
        any_job(r, 256);
        any_job(r, 0);
        make_job(r, 4, 8, 32, 64);
        uint32_t seq = fake_post(&r->gpu);
        assert_int_equal(seq, 3);
        while (!atomic_load(&stall.stalled))
            usleep(100);
        assert_false(fake_wait(&r->gpu, &r->gpu.box->cpu_hidden, seq, 5000));
        fake_abandon(&r->gpu);
        misses_step_end(r->m);
        assert_int_equal(misses_settle(r->m, 5000, &err), MOED_EDEADLINE);
        assert_int_not_equal(r->gpu.box->idle, seq);
        atomic_store(&stall.go, 1);
        assert_ok(misses_settle(r->m, PATIENCE_US, &err), &err);
        assert_int_equal(r->gpu.box->idle, seq);
        assert_int_not_equal(r->gpu.box->done, seq);
        misses_step_begin(r->m);
        for (int job = 0; job < 5; job++)
            any_job(r, 256);
        misses_step_end(r->m);
        struct misses_stats s;
        misses_stats(r->m, &s);
        assert_int_equal(s.jobs, 7);
        assert_int_equal(s.abandoned, 1);
        assert_int_equal(s.failed, 0);
        rig_free(r);
    }
}

static _Atomic int frozen, thaw;

static void freeze(int sig)
{
    atomic_fetch_add(&frozen, 1);
    while (!atomic_load(&thaw))
        usleep(200);
}

/* A worker that has lost its core between two jobs: the others do its part of any number of them,
 * and it takes part again when it is back. */
static void a_worker_that_is_away_holds_nobody_up(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 3);
    struct sigaction action = {.sa_handler = freeze}, before;
    struct misses_stats s;
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    rig_start(r, &cfg);
    for (int turn = 0; turn < 5; turn++) {
        misses_step_begin(r->m);
        any_job(r, 256);
        atomic_store(&thaw, 0);
        atomic_store(&frozen, 0);
        for (int away = 1; away <= 1 + turn % 2; away++) {
            assert_int_equal(pthread_kill(r->m->worker[away].thread, SIGUSR1), 0);
            while (atomic_load(&frozen) < away)
                usleep(100);
        }
        for (int job = 0; job < 4; job++)
            any_job(r, job % 2 * 256);
        atomic_store(&thaw, 1);
        for (int job = 0; job < 20; job++)
            any_job(r, job % 2 * 256);
        misses_step_end(r->m);
    }
    misses_stats(r->m, &s);
    assert_int_equal(s.jobs, 5 * 25);
    assert_int_equal(s.failed + s.abandoned, 0);
    assert_true(s.pieces_taken > 0 && s.parts_missed >= 4 * 7);
    assert_true(s.busy_ns > 0);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
    rig_free(r);
}

/* A worker that hangs longer than the CPU's own limit: the job fails without the GPU's word. */
static void a_stalled_worker_is_told_to_the_gpu(void **state)
{
    struct rig *r = rig_new();
    struct stall stall = {.seq = 1};
    struct misses_config cfg = config_of(&r->gpu, 3);
    cfg.on_job = stall_one;
    cfg.on_job_arg = &stall;
    cfg.wait_limit_us = SECOND_US / 10;
    rig_start(r, &cfg);
    struct moed_error err;
    misses_step_begin(r->m);
    make_job(r, 4, 8, INNER, WIDTH);
    uint32_t seq = fake_post(&r->gpu);
    assert_true(fake_wait(&r->gpu, &r->gpu.box->failed, seq, PATIENCE_US));
    atomic_store(&stall.go, 1);
    assert_ok(misses_settle(r->m, PATIENCE_US, &err), &err);
    job_in_the_end(r);
    misses_step_end(r->m);
    rig_free(r);
}

/* A job given up before a worker looked: parked ones are woken to leave it. */
static void settle_wakes_those_who_never_saw_the_job(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 3);
    cfg.park_us = 1;
    rig_start(r, &cfg);
    struct moed_error err;
    assert_ok(misses_settle(r->m, 1000, &err), &err);
    for (int i = 0; i < 10; i++) {
        usleep(3000);
        make_job(r, 2, 2, INNER, WIDTH);
        fake_post(&r->gpu);
        fake_abandon(&r->gpu);
        assert_ok(misses_settle(r->m, PATIENCE_US, &err), &err);
        misses_step_begin(r->m);
        any_job(r, 128);
        misses_step_end(r->m);
    }
    rig_free(r);
}

static void jobs_beyond_the_limits_fail(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 2);
    rig_start(r, &cfg);
    struct mailbox *box = r->gpu.box;
    struct mailbox_group *group = fake_array(&r->gpu, r->gpu.l.group_off);
    int32_t *row = fake_array(&r->gpu, r->gpu.l.row_off);
    int32_t *pair = fake_array(&r->gpu, r->gpu.l.pair_off);
    int32_t *field[] = {&box->layer,      &box->layer,      &box->n_rows,    &box->n_rows,
                        &box->n_groups,   &box->n_groups,   &box->n_pairs,   &box->n_pairs,
                        &box->cpu_inner,  &box->cpu_inner,  &box->cpu_width, &box->cpu_width,
                        &group[0].expert, &group[0].expert, &group[0].first, &group[0].first,
                        &group[0].count,  &group[0].count,  &row[1],         &row[1],
                        &pair[0],         &pair[0]};
    const int32_t low[] = {-1, 0, 0, 0, 0, -1, -1, -1, 0, -1, -1};
    const int32_t high[] = {LAYERS,  ROWS + 1,  EXPERTS + 1, PAIRS + 1, INNER + 1, WIDTH + 1,
                            EXPERTS, INT32_MAX, INT32_MAX,   4,         PAIRS};
    misses_step_begin(r->m);
    for (size_t i = 0; i < sizeof field / sizeof *field; i++) {
        make_job(r, 3, 4, INNER, WIDTH);
        *field[i] = i % 2 ? high[i / 2] : low[i / 2];
        uint32_t seq = fake_post(&r->gpu);
        if (!fake_wait(&r->gpu, &box->idle, seq, PATIENCE_US) || box->failed != seq)
            fail_msg("case %d was not refused", (int)i);
        assert_int_not_equal(box->done, seq);
        any_job(r, 0);
    }
    /* A record that is not here. */
    make_job(r, 3, 4, INNER, WIDTH);
    const void **record = &r->gpu.host_of[box->layer * EXPERTS + group[0].expert], *was = *record;
    *record = NULL;
    uint32_t seq = fake_post(&r->gpu);
    assert_true(fake_wait(&r->gpu, &box->failed, seq, PATIENCE_US));
    assert_true(fake_wait(&r->gpu, &box->idle, seq, PATIENCE_US));
    *record = was;
    any_job(r, 0);
    misses_step_end(r->m);
    rig_free(r);
}

static void sequence_numbers_wrap(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 2);
    r->gpu.box->posted = r->gpu.seq = UINT32_MAX - 2;
    rig_start(r, &cfg);
    misses_step_begin(r->m);
    for (int i = 0; i < 6; i++)
        any_job(r, 256);
    misses_step_end(r->m);
    assert_int_equal(r->gpu.seq, 4);
    rig_free(r);
}

/* A second life with the same mailbox. */
static void opens_again(void **state)
{
    struct rig *r = rig_new();
    for (int i = 0; i < 4; i++) {
        struct misses_config cfg = config_of(&r->gpu, 2);
        rig_start(r, &cfg);
        misses_step_begin(r->m);
        any_job(r, 256);
        misses_step_end(r->m);
        misses_close(&r->m);
    }
    misses_close(&r->m);
    rig_free(r);
}

/* A step with one job, shared as the table says; times are of the GPU's clock. Returns the share.
 */
static int shared_job(struct rig *r, int n_groups, uint64_t posted_ns, uint64_t link_ns)
{
    misses_step_begin(r->m);
    int share = misses_link_share(r->m, n_groups);
    make_job(r, n_groups, 1, mailbox_cpu_outputs(INNER, share), mailbox_cpu_outputs(WIDTH, share));
    r->gpu.box->posted_ns = posted_ns;
    r->gpu.box->link_ns = link_ns;
    run_job(r, true);
    misses_step_end(r->m);
    return share;
}

/* One in which the link needs so long for its part. */
static void job_with_link_time(struct rig *r, int n_groups, uint64_t link_ns)
{
    shared_job(r, n_groups, 1000, 1000 + link_ns);
}

static void shares_follow_who_waits_for_whom(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 2);
    rig_start(r, &cfg);
    int32_t share[MAILBOX_SHARE_CLASSES];
    int first = misses_link_share(r->m, 1);
    assert_in_range(first, 1, MAILBOX_SHARE_ONE - 1);
    for (int i = 0; i < 50; i++)
        job_with_link_time(r, 1, 60000000000); /* a minute: much too slow */
    misses_step_begin(r->m);
    assert_true(misses_link_share(r->m, 1) < first / 2);
    assert_true(misses_link_share(r->m, 1) > 0); /* stays measured */
    assert_int_equal(misses_link_share(r->m, 2), first);
    misses_step_end(r->m);
    for (int i = 0; i < 100; i++)
        job_with_link_time(r, 1, 1); /* a nanosecond */
    misses_step_begin(r->m);
    misses_step_end(r->m);
    misses_link_shares(r->m, share);
    assert_in_range(share[0], MAILBOX_SHARE_ONE * 3 / 4, MAILBOX_SHARE_ONE - 1);
    for (int c = 1; c < MAILBOX_SHARE_CLASSES; c++)
        assert_int_equal(share[c], first);
    rig_free(r);
}

/* A step with one job, and experts beside it that are the link's; the GPU has told when it was done
 * with those beside the job before. */
static void job_beside_the_links(struct rig *r, uint64_t posted_ns, uint64_t before_link_ns)
{
    misses_step_begin(r->m);
    make_job(r, EXPERTS, 16, INNER, WIDTH);
    r->gpu.box->link_groups = EXPERTS;
    r->gpu.box->link_ns = before_link_ns;
    r->gpu.box->posted_ns = posted_ns;
    run_job(r, false);
    misses_step_end(r->m);
}

/* Where each side has experts of its own, both should end together: what a job's link took is known
 * when the next job begins. */
static void shares_follow_whole_experts(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 2);
    rig_start(r, &cfg);
    int first = misses_link_share(r->m, 2 * EXPERTS);
    for (int slow = 1; slow >= 0; slow--) {
        for (uint64_t i = 1; i < 60; i++)
            job_beside_the_links(r, i * 1000000000, (i - 1) * 1000000000 + (slow ? 900000000 : 1));
        misses_step_begin(r->m);
        misses_step_end(r->m);
        int share = misses_link_share(r->m, 2 * EXPERTS);
        if (slow)
            assert_true(share < first / 2);
        else
            assert_in_range(share, MAILBOX_SHARE_ONE * 3 / 4, MAILBOX_SHARE_ONE - 1);
        assert_int_equal(misses_link_share(r->m, 1), first);
    }
    rig_free(r);
}

/* A step with one job of two experts, after the GPU has told when the job before ended: alone_ns
 * after its posting if the CPU computed all of it, both_ns if the link had a part. True: it has. */
static bool job_of_some_way(struct rig *r, bool before, uint64_t both_ns)
{
    static uint64_t posted_ns = 1000;
    const uint64_t alone_ns = 100000;
    r->gpu.box->ended_ns = posted_ns + (before ? both_ns : alone_ns);
    posted_ns += 1000000000;
    return shared_job(r, 2, posted_ns, 0) > 0;
}

/* The way that is not taken is looked at seldom, and yet soon found to be the better one again. */
static void the_better_way_comes_back(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 2);
    rig_start(r, &cfg);
    bool both = false;
    int with_link = 0;
    for (int i = 0; i < 300; i++)
        both = job_of_some_way(r, both, 90000);
    for (int i = 0; i < 20; i++)
        both = job_of_some_way(r, both, 150000);
    for (int i = 0; i < 150; i++) {
        both = job_of_some_way(r, both, 90000);
        with_link += i >= 100 && both;
    }
    assert_in_range(with_link, 45, 50);
    rig_free(r);
}

/* Without the GPU's clock: a link that is late loses. */
static void a_late_link_gets_less(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 1);
    rig_start(r, &cfg);
    int first = misses_link_share(r->m, 1);
    struct misses_stats s;
    do {
        misses_step_begin(r->m);
        make_job(r, 1, 1, 64, 64);
        uint32_t seq = fake_post(&r->gpu);
        assert_true(fake_wait(&r->gpu, &r->gpu.box->cpu_hidden, seq, PATIENCE_US));
        usleep(2000);
        give_link_hidden(r);
        assert_true(fake_wait(&r->gpu, &r->gpu.box->done, seq, PATIENCE_US));
        misses_step_end(r->m);
        misses_stats(r->m, &s);
        /* It is not late where the worker lost its core meanwhile. */
    } while (s.link_late < 30 || misses_link_share(r->m, 1) >= first);
    assert_true(s.wait_ns > 30 * 1000 * 1000);
    rig_free(r);
}

static void shares_start_from_rates_and_forced_ones_stay(void **state)
{
    struct rig *r = rig_new();
    struct misses_config cfg = config_of(&r->gpu, 1);
    int32_t share[MAILBOX_SHARE_CLASSES];
    struct misses_rates rates = {.cpu_gb_per_s = 150, .link_gb_per_s = 50};
    rig_start(r, &cfg);
    misses_set_rates(r->m, &rates);
    misses_link_shares(r->m, share);
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        assert_int_equal(share[c], MAILBOX_SHARE_ONE / 4);
    /* A start that costs the link more than the whole of a small job: next to nothing for it. */
    rates.link_start_us = 1e-3 * (double)r->gpu.cls.bytes / 150;
    misses_set_rates(r->m, &rates);
    misses_link_shares(r->m, share);
    assert_in_range(share[0], 1, 40);
    for (int c = 1; c < MAILBOX_SHARE_CLASSES; c++)
        assert_true(share[c] > share[c - 1] && share[c] < MAILBOX_SHARE_ONE / 4);
    /* Where both are slower together than the CPU alone, it is left alone until a job was timed. */
    rates.both_gb_per_s = 140;
    misses_set_rates(r->m, &rates);
    misses_link_shares(r->m, share);
    for (int c = 0; c < MAILBOX_SHARE_CLASSES; c++)
        assert_int_equal(share[c], 0);
    rates.both_gb_per_s = 190;
    misses_set_rates(r->m, &rates);
    assert_true(misses_link_share(r->m, 2) > 0);
    misses_close(&r->m);
    static const int forced[] = {0, 300, MAILBOX_SHARE_ONE};
    for (int i = 0; i < 3; i++) {
        cfg.link_share = forced[i];
        rig_start(r, &cfg);
        misses_set_rates(r->m, &rates);
        for (int n = 0; n < 3 && forced[i] < MAILBOX_SHARE_ONE; n++)
            job_with_link_time(r, 2, 1);
        misses_step_begin(r->m);
        misses_step_end(r->m);
        for (int n = 1; n < 40; n++)
            assert_int_equal(misses_link_share(r->m, n), forced[i]);
        misses_close(&r->m);
    }
    rig_free(r);
}

static void classes_and_outputs_of_a_share(void **state)
{
    static const int groups[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 500};
    static const int class[] = {0, 1, 2, 2, 3, 3, 4, 4, 5, 5};
    for (int i = 0; i < 10; i++)
        assert_int_equal(mailbox_share_class(groups[i]), class[i]);
    for (int outputs = 1; outputs < 300; outputs++) {
        assert_int_equal(mailbox_cpu_outputs(outputs, 0), outputs);
        assert_int_equal(mailbox_cpu_outputs(outputs, MAILBOX_SHARE_ONE), 0);
        for (int share = 1, before = outputs; share < MAILBOX_SHARE_ONE; share++) {
            int n = mailbox_cpu_outputs(outputs, share);
            assert_true(n > 0 && n <= before && (n == outputs || n % MAILBOX_GRAIN == 0));
            assert_true(n < outputs || outputs <= MAILBOX_GRAIN);
            before = n;
        }
    }
    assert_int_equal(mailbox_cpu_outputs(768, 256), 576);
}

static void check_cut(int n, int share, int late, int link_groups, int cpu_width)
{
    struct mailbox_cut cut = mailbox_cut_of(n, share, 768, 2048, late);
    assert_int_equal(cut.link_groups, link_groups);
    assert_int_equal(cut.cpu_inner, 768);
    assert_int_equal(cut.cpu_width, cpu_width);
}

/* When the later side ends, if an expert takes the CPU `share` of some time and the link the rest;
 * late outputs begin when two thirds of the CPU's time are over. */
static double end_of(struct mailbox_cut cut, int n, int share, int width)
{
    double cpu_each = share, link_each = MAILBOX_SHARE_ONE - share, n_cpu = n - cut.link_groups;
    double late = n_cpu * (width - cut.cpu_width) / (3.0 * width),
           hidden = n_cpu * cpu_each * 2 / 3;
    double cpu = (n_cpu - late) * cpu_each, link = cut.link_groups * link_each;
    if (late > 0)
        link = (link > hidden ? link : hidden) + late * link_each;
    return cpu > link ? cpu : link;
}

static void experts_are_cut_so_that_both_end_together(void **state)
{
    for (int n = 0; n < 200; n++)
        for (int share = 0; share <= MAILBOX_SHARE_ONE; share += 32) {
            bool both = share > 0 && share < MAILBOX_SHARE_ONE && n >= MAILBOX_WHOLE_GROUPS;
            struct mailbox_cut cut = mailbox_cut_of(n, share, 768, 2048, true);
            struct mailbox_cut whole = mailbox_cut_of(n, share, 768, 2048, false);
            assert_int_equal(cut.cpu_inner, n ? mailbox_cpu_outputs(768, both ? 0 : share) : 0);
            if (!both) {
                assert_int_equal(cut.link_groups, 0);
                assert_int_equal(cut.cpu_width, n ? mailbox_cpu_outputs(2048, share) : 0);
                continue;
            }
            assert_in_range(cut.link_groups, 1, n - 1); /* both stay measured */
            assert_in_range(whole.link_groups, 1, n - 1);
            assert_int_equal(whole.cpu_width, 2048);
            assert_true(cut.cpu_width % MAILBOX_GRAIN == 0 && cut.cpu_width > 0);
            for (int link = 1; link < n; link++) {
                struct mailbox_cut other = {link, 768, 2048};
                assert_true(end_of(whole, n, share, 2048) <= end_of(other, n, share, 2048));
                assert_true(end_of(cut, n, share, 2048) <= end_of(other, n, share, 2048) * 1.001);
            }
        }
    check_cut(40, 256, true, 10, 2048);
    check_cut(8, 320, false, 2, 2048);
    check_cut(8, 320, true, 2, 1536); /* half an expert more: a quarter of six experts' down */
    check_cut(5, 320, true, 1, 1440); /* the share of down, which is all that is left by then */
    check_cut(6, 320, true, 2, 2048);
}

static void configs_that_cannot_be_are_refused(void **state)
{
    struct rig *r = rig_new();
    struct moed_error err;
    for (int i = 0; i < 11; i++) {
        struct misses_config cfg = config_of(&r->gpu, 1);
        cfg.threads = i == 0 ? -1 : i == 1 ? MISSES_THREADS_MAX + 1 : 1;
        cfg.link_share = i == 2 ? -2 : i == 3 ? MAILBOX_SHARE_ONE + 1 : 0;
        cfg.mailbox = i == 4 ? NULL : cfg.mailbox;
        cfg.kern = i == 5 ? NULL : cfg.kern;
        cfg.layers = i == 6 ? 0 : cfg.layers;
        cfg.layout.width += i == 7;
        cfg.layout.inner += i == 8;
        cfg.pieces = i == 9 ? -1 : i == 10 ? 1 << 20 : 0;
        assert_int_equal(misses_open(&r->m, &cfg, &err), MOED_EINVAL);
        assert_null(r->m);
    }
    assert_in_range(misses_default_threads(), 1, MISSES_THREADS_MAX);
    rig_free(r);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(bits_are_those_of_a_plain_call_for_all_shares),
    cmocka_unit_test(packed_records_have_the_same_bits),
    cmocka_unit_test(many_jobs_in_a_row),
    cmocka_unit_test(parked_workers_wake_up),
    cmocka_unit_test(dozing_workers_see_a_job),
    cmocka_unit_test(a_stop_ends_an_open_job),
    cmocka_unit_test(the_cpu_gives_up_a_silent_link),
    cmocka_unit_test(a_stalled_worker_costs_one_job),
    cmocka_unit_test(a_worker_that_is_away_holds_nobody_up),
    cmocka_unit_test(a_stalled_worker_is_told_to_the_gpu),
    cmocka_unit_test(settle_wakes_those_who_never_saw_the_job),
    cmocka_unit_test(jobs_beyond_the_limits_fail),
    cmocka_unit_test(sequence_numbers_wrap),
    cmocka_unit_test(opens_again),
    cmocka_unit_test(shares_follow_who_waits_for_whom),
    cmocka_unit_test(shares_follow_whole_experts),
    cmocka_unit_test(the_better_way_comes_back),
    cmocka_unit_test(a_late_link_gets_less),
    cmocka_unit_test(shares_start_from_rates_and_forced_ones_stay),
    cmocka_unit_test(classes_and_outputs_of_a_share),
    cmocka_unit_test(experts_are_cut_so_that_both_end_together),
    cmocka_unit_test(configs_that_cannot_be_are_refused),
};

CHECK_MAIN(tests)
