/*
 * What the CPU's half of a miss costs, with a GPU played by this program's main thread, and what
 * the machine would allow: reads of the same records by threads that do nothing else. Results are
 * compared with the scalar kernels before anything is timed. Prints one JSON object with raw
 * samples; a table goes to standard error. Under a minute on 16 cores.
 *
 *   bench_misses [--pool-gib 24] [--threads 8,12,15] [--pieces 1,32] [--isa auto] [--slice-ms 25]
 *
 * The table `rate`: jobs of some missed experts, posted at once after the one before or after a
 * gap as long as a GPU takes for the rest of a layer. Experts are random ones of
 *   2M     the whole pool on huge pages,
 *   4K     a quarter of it (at most 8 GiB) on small pages,
 *   near   as many as a last-level cache holds.
 * `pieces` is how finely a worker's part is shared with others, 1: not at all once it has begun.
 * Cases take turns, so that a machine that is slow for a while is slow for all of them.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "../fake_gpu.h"
#include "device/device.h"
#include "device/misses.h"
#include "pool.h"

#define SAMPLES_MAX   4000
#define SAMPLES_SHOWN 100
#define WAIT_US       5000000
#define TOP_K         8
#define ROUNDS        3
#define NEAR_BYTES    ((size_t)48 << 20)
#define SMALL_MOST    ((size_t)8 << 30)
#define READ_SECONDS  0.03
#define PIECES_MOST   4

struct bench {
    struct pool pool, small; /* on huge pages, on small pages */
    const struct kern_cpu *k;
    double slice_seconds;
    int threads[8], n_threads, pieces[PIECES_MOST], n_pieces;
    bool first; /* no comma yet */
};

/* A figure: times of one thing. */
struct figure {
    double us[SAMPLES_MAX];
    int n;
};

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_misses: %s\n", what);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Prints the object begun with `head`, its quantiles and samples, and a line of the table. */
static void report(struct bench *b, const char *head, struct figure *f, double bytes)
{
    static double sorted[SAMPLES_MAX];
    double sum = 0;
    if (!f->n)
        return;
    memcpy(sorted, f->us, (size_t)f->n * sizeof *sorted);
    qsort(sorted, (size_t)f->n, sizeof *sorted, by_value);
    for (int i = 0; i < f->n; i++)
        sum += sorted[i];
    double median = sorted[f->n / 2], p99 = sorted[f->n * 99 / 100], mean = sum / f->n;
    printf("%s\n {%s, \"n\": %d, \"mean_us\": %.3f, \"median_us\": %.3f, \"p90_us\": %.3f, "
           "\"p99_us\": %.3f, \"min_us\": %.3f",
           b->first ? "" : ",", head, f->n, mean, median, sorted[f->n * 9 / 10], p99, sorted[0]);
    b->first = false;
    if (bytes > 0)
        printf(", \"gb_per_s\": %.2f", bytes / mean * 1e-3);
    printf(", \"samples_us\": [");
    int step = (f->n + SAMPLES_SHOWN - 1) / SAMPLES_SHOWN;
    for (int i = 0; i < f->n; i += step)
        printf("%s%.2f", i ? "," : "", f->us[i]);
    printf("]}");
    fprintf(stderr, "%s: median %.1f us, p99 %.1f", head, median, p99);
    if (bytes > 0)
        fprintf(stderr, ", %.1f GB/s in the mean, %.1f in the median", bytes / mean * 1e-3,
                bytes / median * 1e-3);
    fprintf(stderr, "\n");
}

static void begin_list(struct bench *b, const char *name)
{
    printf(",\n\"%s\": [", name);
    b->first = true;
}

static struct misses *open_workers(struct bench *b, struct fake_gpu *g, int threads, int pieces)
{
    struct misses *m;
    struct moed_error err;
    struct misses_config cfg = {.threads = threads,
                                .kern = b->k,
                                .cls = &g->cls,
                                .host_of = g->host_of,
                                .layers = 1,
                                .experts = g->experts,
                                .mailbox = g->box,
                                .layout = g->l,
                                .pieces = pieces};
    g->yields = dev_usable_cores() <= threads;
    if (misses_open(&m, &cfg, &err) < 0)
        die(err.text);
    return m;
}

/* One row that misses `groups` of the n experts from `first` on. */
static void fill_job(struct fake_gpu *g, int groups, int first, int n, int cpu_inner)
{
    struct mailbox_group *group = fake_array(g, g->l.group_off);
    int32_t *row = fake_array(g, g->l.row_off), *pair = fake_array(g, g->l.pair_off);
    volatile float *x = fake_array(g, g->l.x_off);
    for (int i = 0; i < g->l.width; i += 16)
        x[i] = x[i]; /* no worker has it in its cache */
    for (int i = 0; i < groups; i++) {
        int expert = first + (int)(fake_random(g) % (unsigned)n);
        for (int j = 0; j < i; j++)
            if (group[j].expert == expert)
                expert = first + (expert - first + 1) % n, j = -1;
        group[i] = (struct mailbox_group){expert, i, 1, 0};
        row[i] = 0, pair[i] = i;
    }
    g->box->n_rows = 1, g->box->n_groups = g->box->n_pairs = groups;
    g->box->cpu_inner = cpu_inner;
    g->box->cpu_width = cpu_inner < g->l.inner ? g->l.width / 2 : g->l.width;
}

static double timed_job(struct fake_gpu *g)
{
    double begin = now_us();
    uint32_t seq = fake_post(g);
    if (g->box->cpu_inner < g->l.inner)
        fake_link_hidden(g);
    if (!fake_wait(g, &g->box->done, seq, WAIT_US))
        die("a job was not done");
    return now_us() - begin;
}

static void wait_us(double us)
{
    for (double end = now_us() + us; now_us() < end;)
        ;
}

/* A first job must have the bits of the scalar kernels. */
static void check_bits(struct fake_gpu *g, struct misses *m)
{
    size_t wide = (size_t)g->cls.intermediate, width = (size_t)g->cls.hidden;
    float *x = fake_array(g, g->l.x_off), *hidden = mem_new(wide, 4), *y = mem_new(width, 4);
    for (size_t i = 0; i < width; i++)
        x[i] = (float)((int)(fake_random(g) % 2001) - 1000) * 1e-3f;
    fill_job(g, 1, 0, 1, g->l.inner);
    misses_step_begin(m);
    timed_job(g);
    misses_step_end(m);
    int32_t zero = 0;
    struct kern_expert_group group = {g->host_of[0], &zero, &zero, 1};
    struct kern_experts call = {&g->cls, &group, 1, x, hidden, y, 0, 0};
    const struct kern_cpu *scalar = kern_cpu(KERN_ISA_SCALAR);
    scalar->experts_gate_up(&call, (struct kern_part){0, 1, NULL, 0});
    scalar->experts_down(&call, (struct kern_part){0, 1, NULL, 0});
    if (memcmp(y, fake_array(g, g->l.y_off), width * 4) != 0)
        die("the workers' bits are not those of the scalar kernels");
    free(hidden);
    free(y);
}

/* Empty jobs: a record of next to no bytes. */
static void bench_hand_off(struct bench *b, int threads)
{
    static struct figure f;
    struct fake_gpu g;
    fake_open(&g, 64, 64, 1, 64, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads, 0);
    for (int split = 0; split < 2; split++) {
        char head[160];
        f.n = 0;
        misses_step_begin(m);
        double end_us = now_us() + 2e5;
        for (int i = -500; f.n < SAMPLES_MAX && now_us() < end_us; i++) {
            fill_job(&g, 1, 0, 64, split ? 32 : 64);
            double us = timed_job(&g);
            if (i >= 0)
                f.us[f.n++] = us;
        }
        misses_step_end(m);
        snprintf(head, sizeof head, "\"threads\": %d, \"link\": \"%s\"", threads,
                 split ? "its part stands at once" : "none");
        report(b, head, &f, 0);
    }
    misses_close(&m);
    fake_close(&g);
}

/* Steps after a pause in which all workers parked: begin's cost to the caller, and the first job.
 */
static void bench_wake(struct bench *b, int threads)
{
    static struct figure begins, firsts;
    struct fake_gpu g;
    char head[160];
    fake_open(&g, 64, 64, 1, 64, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads, 0);
    for (begins.n = firsts.n = 0; begins.n < 40;) {
        usleep(6000);
        fill_job(&g, 1, 0, 64, 64);
        double begin = now_us();
        misses_step_begin(m);
        begins.us[begins.n++] = now_us() - begin;
        timed_job(&g);
        firsts.us[firsts.n++] = now_us() - begin;
        misses_step_end(m);
    }
    snprintf(head, sizeof head, "\"threads\": %d, \"what\": \"step_begin\"", threads);
    report(b, head, &begins, 0);
    snprintf(head, sizeof head, "\"threads\": %d, \"what\": \"step_begin and a first job\"",
             threads);
    report(b, head, &firsts, 0);
    misses_close(&m);
    fake_close(&g);
}

/* Loads that wait for one another, of random lines: memory's latency and that of page walks. */
static void bench_latency(const struct pool *pool, size_t bytes, const char *name)
{
    static volatile uint64_t zero;
    uint64_t random = 88172645463325252u, none = zero, value = 0;
    size_t lines = (bytes < pool->bytes ? bytes : pool->bytes) / 64, n = 0;
    double begin = now_us(), us = 0;
    for (; us < 1e5; us = now_us() - begin)
        for (int i = 0; i < 1000; i++, n++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            const uint8_t *at = pool->p + (random % lines) * 64;
            random ^= value & none;
            value = *(const volatile uint64_t *)(const void *)(at + (value & none));
        }
    printf(", \"latency_ns %s\": %.1f", name, us * 1e3 / (double)n);
    fprintf(stderr, "a load of a random line, %s: %.1f ns\n", name, us * 1e3 / (double)n);
}

/* Arithmetic on one CPU while another does the same: CPUs of one physical core halve each other. */
struct arithmetic {
    const struct kern_cpu *k;
    double rate[2];
};

static void arithmetic_part(void *arg, int index, int threads)
{
    struct arithmetic *a = arg;
    float sink = 0;
    double flops = 0, begin = pool_thread_us(), us = 0;
    for (; us < 10e3; us = pool_thread_us() - begin)
        flops += a->k->multiply_add(20000, &sink);
    a->rate[index] = flops / us;
    (void)threads;
}

static void bench_siblings(struct bench *b)
{
    int cpu[POOL_THREADS_MAX], cpus = cores_allowed(cpu, POOL_THREADS_MAX);
    struct arithmetic a = {.k = b->k};
    pool_run_on(cpu, 1, arithmetic_part, &a);
    double alone = a.rate[0];
    printf(",\n\"beside_cpu_%d\": [", cpu[0]);
    fprintf(stderr, "arithmetic of CPU %d, alone 100 %%; beside another CPU:", cpu[0]);
    for (int i = 1; i < cpus; i++) {
        pool_run_on((int[]){cpu[0], cpu[i]}, 2, arithmetic_part, &a);
        printf("%s[%d, %.3f]", i > 1 ? ", " : "", cpu[i], a.rate[0] / alone);
        fprintf(stderr, " %d: %.0f %%", cpu[i], a.rate[0] / alone * 100);
    }
    printf("]");
    fprintf(stderr, "\n");
}

/* Plain reads, each line once in a while that no cache remembers; and of few bytes again and again.
 */
static void bench_reads(struct bench *b)
{
    static const size_t few[] = {(size_t)64 << 20, (size_t)512 << 20, SIZE_MAX};
    int most = dev_usable_cores(), n[12], count = 0;
    for (int t = 1; t < most && count < 4; t *= 4)
        n[count++] = t;
    for (int i = 0; i < b->n_threads; i++)
        n[count++] = b->threads[i];
    n[count++] = most;
    begin_list(b, "reads");
    for (int i = 0; i < count; i++)
        for (int f = 0; f < 3; f++) {
            double slowest, fastest,
                all =
                    pool_reads(&b->pool, few[f], b->k, n[i], READ_SECONDS * 3, &slowest, &fastest);
            double mib = (double)(few[f] < b->pool.bytes ? few[f] : b->pool.bytes) / 0x1p20;
            printf("%s\n {\"threads\": %d, \"of_mib\": %.0f, \"gb_per_s\": %.2f, "
                   "\"slowest\": %.2f, \"fastest\": %.2f}",
                   b->first ? "" : ",", n[i], mib, all, slowest, fastest);
            b->first = false;
            fprintf(stderr,
                    "plain reads of %.0f MiB by %d threads: %.1f GB/s, slowest thread %.1f, "
                    "fastest %.1f\n",
                    mib, n[i], all, slowest, fastest);
        }
    printf("]");
}

/* Sixteenths of the pool: they differ where memory belongs to different sockets. */
static void bench_regions(struct bench *b)
{
    int threads = b->threads[b->n_threads - 1];
    begin_list(b, "regions_gb_per_s");
    fprintf(stderr, "plain reads of each sixteenth of the pool by %d threads, GB/s:", threads);
    for (size_t i = 0; i < 16; i++) {
        struct pool part = {b->pool.p + b->pool.bytes / 16 / 4096 * 4096 * i, b->pool.bytes / 16};
        double rate = pool_reads(&part, part.bytes, b->k, threads, READ_SECONDS, NULL, NULL);
        printf("%s%.2f", i ? ", " : "", rate);
        fprintf(stderr, " %.0f", rate);
    }
    printf("]");
    fprintf(stderr, "\n");
}

/* The table. */

static const int gap_us[] = {0, 70, 150}, group_counts[] = {1, 2, 4};
enum { GAPS = 3, COUNTS = 3, PLACES = 3 };
static const char *const place_name[PLACES] = {"2M", "4K", "near"};

struct place {
    int first, n; /* experts */
    const struct pool *pool;
    size_t bytes;
};

struct rate {
    struct figure f;
    struct misses_stats sum; /* of those fields that are printed */
};

struct table {
    struct bench *b;
    struct fake_gpu gpu;
    struct place place[PLACES];
    struct rate rate[8][PIECES_MOST][PLACES][GAPS][COUNTS];
    struct figure reads[8][PLACES]; /* GB/s */
};

static void add_stats(struct misses_stats *sum, const struct misses_stats *a,
                      const struct misses_stats *b)
{
    sum->jobs += b->jobs - a->jobs;
    sum->gate_up_ns += b->gate_up_ns - a->gate_up_ns;
    sum->down_ns += b->down_ns - a->down_ns;
    sum->busy_ns += b->busy_ns - a->busy_ns;
    sum->pieces_taken += b->pieces_taken - a->pieces_taken;
    sum->parts_missed += b->parts_missed - a->parts_missed;
}

static void run_slice(struct table *t, struct misses *m, const struct place *p, int gap, int groups,
                      struct rate *r)
{
    struct fake_gpu *g = &t->gpu;
    struct misses_stats before, after;
    if (p->n < groups)
        return;
    for (int i = 0; i < 2; i++) {
        fill_job(g, groups, p->first, p->n, g->l.inner);
        timed_job(g);
    }
    misses_stats(m, &before);
    double end_us = now_us() + t->b->slice_seconds * 1e6;
    for (int i = 0; r->f.n < SAMPLES_MAX && (i < 3 || now_us() < end_us); i++) {
        fill_job(g, groups, p->first, p->n, g->l.inner);
        wait_us(gap);
        r->f.us[r->f.n++] = timed_job(g);
    }
    misses_stats(m, &after);
    add_stats(&r->sum, &before, &after);
}

static void run_round(struct table *t)
{
    struct bench *b = t->b;
    for (int n = 0; n < b->n_threads; n++) {
        for (int p = 0; p < PLACES; p++) {
            struct figure *f = &t->reads[n][p];
            f->us[f->n++] = pool_reads(t->place[p].pool, t->place[p].bytes, b->k, b->threads[n],
                                       READ_SECONDS, NULL, NULL);
        }
        for (int pieces = 0; pieces < b->n_pieces; pieces++) {
            struct misses *m = open_workers(b, &t->gpu, b->threads[n], b->pieces[pieces]);
            check_bits(&t->gpu, m);
            misses_step_begin(m);
            for (int p = 0; p < PLACES; p++)
                for (int gap = 0; gap < GAPS; gap++)
                    for (int c = 0; c < COUNTS; c++)
                        run_slice(t, m, &t->place[p], gap_us[gap], group_counts[c],
                                  &t->rate[n][pieces][p][gap][c]);
            misses_step_end(m);
            misses_close(&m);
        }
    }
}

static void print_table(struct table *t)
{
    struct bench *b = t->b;
    begin_list(b, "rate");
    for (int n = 0; n < b->n_threads; n++)
        for (int p = 0; p < PLACES; p++) {
            double *reads = t->reads[n][p].us;
            qsort(reads, ROUNDS, sizeof *reads, by_value);
            for (int gap = 0; gap < GAPS; gap++)
                for (int c = 0; c < COUNTS; c++)
                    for (int pieces = 0; pieces < b->n_pieces; pieces++) {
                        struct rate *r = &t->rate[n][pieces][p][gap][c];
                        const struct misses_stats *s = &r->sum;
                        double jobs = s->jobs ? (double)s->jobs : 1;
                        double working = (double)(s->gate_up_ns + s->down_ns);
                        char head[400];
                        snprintf(head, sizeof head,
                                 "\"threads\": %d, \"place\": \"%s\", \"gap_us\": %d, "
                                 "\"experts\": %d, \"pieces\": %d, \"reads_gb_per_s\": %.1f, "
                                 "\"gate_up_us\": %.1f, \"down_us\": %.1f, \"busy\": %.3f, "
                                 "\"taken\": %.2f, \"late\": %.2f",
                                 b->threads[n], place_name[p], gap_us[gap], group_counts[c],
                                 b->pieces[pieces], reads[ROUNDS / 2],
                                 (double)s->gate_up_ns / jobs * 1e-3,
                                 (double)s->down_ns / jobs * 1e-3,
                                 (double)s->busy_ns / working / b->threads[n],
                                 (double)s->pieces_taken / jobs, (double)s->parts_missed / jobs);
                        report(b, head, &r->f, (double)t->gpu.cls.bytes * group_counts[c]);
                    }
        }
    printf("]");
}

/* Qwen3-30B-A3B's experts in the three places. */
static void bench_rate(struct bench *b)
{
    struct table *t = mem_new(1, sizeof *t);
    struct record_class cls = record_class_swiglu(DTYPE_BF16, 2048, 768);
    int large = (int)(b->pool.bytes / cls.bytes), small = (int)(b->small.bytes / cls.bytes);
    t->b = b;
    fake_open_at(&t->gpu, b->pool.p, &cls, 1, large + small, 1, TOP_K);
    for (int i = 0; i < small; i++)
        t->gpu.host_of[large + i] = b->small.p + (size_t)i * cls.bytes;
    t->place[0] = (struct place){0, large, &b->pool, b->pool.bytes};
    t->place[1] = (struct place){large, small, &b->small, b->small.bytes};
    t->place[2] = (struct place){0, (int)(NEAR_BYTES / cls.bytes), &b->pool, NEAR_BYTES};
    for (int round = 0; round < ROUNDS; round++)
        run_round(t);
    print_table(t);
    fake_close(&t->gpu);
    free(t);
}

/* Records of a class all over the pool, by the most threads. */
static void bench_model(struct bench *b, const char *model, struct record_class cls)
{
    static struct figure f;
    struct fake_gpu g;
    int experts = (int)(b->pool.bytes / cls.bytes), threads = b->threads[b->n_threads - 1];
    if (experts < 4)
        return;
    fake_open_at(&g, b->pool.p, &cls, 1, experts, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads, 0);
    check_bits(&g, m);
    for (int groups = 1; groups <= 4; groups *= 4) {
        char head[200];
        f.n = 0;
        misses_step_begin(m);
        for (double end_us = now_us() + 4e6 * b->slice_seconds; now_us() < end_us;) {
            fill_job(&g, groups, 0, experts, cls.intermediate);
            f.us[f.n++ % SAMPLES_MAX] = timed_job(&g);
        }
        misses_step_end(m);
        f.n = f.n < SAMPLES_MAX ? f.n : SAMPLES_MAX;
        snprintf(head, sizeof head, "\"model\": \"%s\", \"threads\": %d, \"experts\": %d", model,
                 threads, groups);
        report(b, head, &f, (double)cls.bytes * groups);
    }
    misses_close(&m);
    fake_close(&g);
}

static void parse(struct bench *b, int argc, char **argv)
{
    char counts[128] = "8,12,15", pieces[128] = "1,32";
    double gib = 24;
    int isa = KERN_ISA_AUTO, i = 1;
    b->slice_seconds = 0.025;
    for (; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], "--pool-gib"))
            gib = atof(argv[i + 1]);
        else if (!strcmp(argv[i], "--threads"))
            snprintf(counts, sizeof counts, "%s", argv[i + 1]);
        else if (!strcmp(argv[i], "--pieces"))
            snprintf(pieces, sizeof pieces, "%s", argv[i + 1]);
        else if (!strcmp(argv[i], "--isa"))
            isa = kern_isa_parse(argv[i + 1]);
        else if (!strcmp(argv[i], "--slice-ms"))
            b->slice_seconds = atof(argv[i + 1]) * 1e-3;
        else
            break;
    for (char *p = strtok(counts, ","); p && b->n_threads < 8; p = strtok(NULL, ","))
        b->threads[b->n_threads++] = atoi(p);
    for (char *p = strtok(pieces, ","); p && b->n_pieces < PIECES_MOST; p = strtok(NULL, ","))
        b->pieces[b->n_pieces++] = atoi(p);
    b->k = isa < 0 ? NULL : kern_cpu((enum kern_isa)isa);
    if (i < argc || !b->k || !b->n_threads || !b->n_pieces || gib < 0.25)
        die("usage: bench_misses [--pool-gib GIB] [--threads N,...] [--pieces N,...] [--isa NAME] "
            "[--slice-ms MS]");
    size_t bytes = (size_t)(gib * 0x1p30), small = bytes / 4 < SMALL_MOST ? bytes / 4 : SMALL_MOST;
    if (!pool_open(&b->pool, bytes, true) || !pool_open(&b->small, small, false))
        die("no memory for the pool");
}

int main(int argc, char **argv)
{
    static struct bench b;
    double begin = now_us();
    pool_describe_machine(stderr);
    parse(&b, argc, argv);
    long long steal = pool_steal();
    printf("{\"bench\": \"misses\", \"isa\": \"%s\", \"cores\": %d, \"pool_bytes\": %zu, "
           "\"huge_bytes\": %lld",
           b.k->name, dev_usable_cores(), b.pool.bytes, mem_huge_bytes(b.pool.p, b.pool.bytes));
    bench_latency(&b.pool, NEAR_BYTES, "near");
    bench_latency(&b.pool, (size_t)1 << 30, "1 GiB");
    bench_latency(&b.pool, SIZE_MAX, "2M");
    bench_latency(&b.small, SIZE_MAX, "4K");
    bench_siblings(&b);
    bench_reads(&b);
    bench_regions(&b);
    begin_list(&b, "hand_off");
    for (int t = 0; t < b.n_threads; t++)
        bench_hand_off(&b, b.threads[t]);
    printf("]");
    begin_list(&b, "wake");
    for (int t = 0; t < b.n_threads; t++)
        bench_wake(&b, b.threads[t]);
    printf("]");
    bench_rate(&b);
    begin_list(&b, "models");
    bench_model(&b, "DeepSeek-V2-Lite", record_class_swiglu(DTYPE_BF16, 2048, 1408));
    bench_model(&b, "Mixtral-8x7B", record_class_swiglu(DTYPE_BF16, 4096, 14336));
    bench_model(&b, "Qwen3-30B-A3B", record_class_swiglu(DTYPE_BF16, 2048, 768));
    if (pool_pack(&b.pool, b.k, 2048, 768)) /* from here on the pool holds packed records */
        bench_model(&b, "Qwen3-30B-A3B, packed", record_class_packed(2048, 768));
    printf("],\n\"steal_centiseconds\": %lld}\n", pool_steal() - steal);
    fprintf(stderr,
            "taken by other machines of the host: %lld hundredths of a second; %.1f s in all\n",
            pool_steal() - steal, (now_us() - begin) * 1e-6);
    mem_unmap(b.pool.p, b.pool.bytes);
    mem_unmap(b.small.p, b.small.bytes);
    return 0;
}
