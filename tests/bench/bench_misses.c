/*
 * What the CPU's half of a miss costs, with a GPU played by this program's main thread: hand-off,
 * wake-up, meeting of the workers, and the speed at which they work off 1 to 8 missed experts of
 * real models from cold memory. Results are compared with the scalar kernels before anything is
 * timed. Prints one JSON object with raw samples; a table goes to standard error.
 *
 *   bench_misses [GiB of records [thread counts, as 8,12,14 [isa [seconds per figure]]]]
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "../fake_gpu.h"
#include "device/device.h"
#include "device/misses.h"

#define SAMPLES_MAX   20000
#define SAMPLES_SHOWN 400
#define WAIT_US       5000000
#define TOP_K         8

struct bench {
    uint8_t *arena;
    size_t arena_bytes;
    const struct kern_cpu *k;
    double seconds;
    double sample_us[SAMPLES_MAX];
    int n;
    bool first; /* no comma yet */
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

/* Closes a figure: prints the object begun with `head`, its quantiles and samples. */
static double report(struct bench *b, const char *head, double bytes)
{
    static double sorted[SAMPLES_MAX];
    memcpy(sorted, b->sample_us, (size_t)b->n * sizeof *sorted);
    qsort(sorted, (size_t)b->n, sizeof *sorted, by_value);
    double median = sorted[b->n / 2], p90 = sorted[b->n * 9 / 10], p99 = sorted[b->n * 99 / 100];
    printf("%s\n {%s, \"n\": %d, \"median_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f, "
           "\"min_us\": %.3f, \"max_us\": %.3f",
           b->first ? "" : ",", head, b->n, median, p90, p99, sorted[0], sorted[b->n - 1]);
    b->first = false;
    if (bytes > 0)
        printf(", \"gb_per_s\": %.2f", bytes / median * 1e-3);
    printf(", \"samples_us\": [");
    int step = (b->n + SAMPLES_SHOWN - 1) / SAMPLES_SHOWN;
    for (int i = 0; i < b->n; i += step)
        printf("%s%.2f", i ? "," : "", b->sample_us[i]);
    printf("]}");
    fprintf(stderr, "%s: median %.2f us, p99 %.2f us", head, median, p99);
    if (bytes > 0)
        fprintf(stderr, ", %.1f GB/s", bytes / median * 1e-3);
    fprintf(stderr, "\n");
    return median;
}

static void begin_list(struct bench *b, const char *name)
{
    printf(",\n\"%s\": [", name);
    b->first = true;
}

struct fill {
    uint16_t *w;
    size_t n;
};

static void fill_part(void *arg, int part, int parts)
{
    const struct fill *f = arg;
    uint64_t r = (uint64_t)part * 0x9e3779b97f4a7c15u + 1;
    size_t lo = f->n / (size_t)parts * (size_t)part, hi = lo + f->n / (size_t)parts;
    for (size_t i = lo; i + 4 <= hi; i += 4) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        uint64_t four = ((r ^ r >> 29) & 0x807f807f807f807fu) | 0x3c803c803c803c80u;
        memcpy(f->w + i, &four, sizeof four);
    }
}

static struct misses *open_workers(struct bench *b, struct fake_gpu *g, int threads)
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
                                .link_share = 0};
    g->yields = dev_usable_cores() <= threads;
    if (misses_open(&m, &cfg, &err) < 0)
        die(err.text);
    return m;
}

/* One row that misses `groups` experts from `first` on. */
static void fill_job(struct fake_gpu *g, int groups, int first, int cpu_inner, int cpu_width)
{
    struct mailbox_group *group = fake_array(g, g->l.group_off);
    int32_t *row = fake_array(g, g->l.row_off), *pair = fake_array(g, g->l.pair_off);
    for (int i = 0; i < groups; i++) {
        group[i] = (struct mailbox_group){(first + i) % g->experts, i, 1, 0};
        row[i] = 0, pair[i] = i;
    }
    g->box->n_rows = 1, g->box->n_groups = g->box->n_pairs = groups;
    g->box->cpu_inner = cpu_inner, g->box->cpu_width = cpu_width;
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

/* A first job must have the bits of the scalar kernels. */
static void check_bits(struct bench *b, struct fake_gpu *g, struct misses *m)
{
    size_t wide = (size_t)g->cls.intermediate, width = (size_t)g->cls.hidden;
    float *x = fake_array(g, g->l.x_off), *hidden = mem_new(wide, 4), *y = mem_new(width, 4);
    for (size_t i = 0; i < width; i++)
        x[i] = (float)((int)(fake_random(g) % 2001) - 1000) * 1e-3f;
    fill_job(g, 1, 0, g->l.inner, g->l.width);
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
    struct fake_gpu g;
    fake_open(&g, 64, 64, 1, 64, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads);
    char head[160];
    for (int split = 0; split < 2; split++) {
        misses_step_begin(m);
        for (int i = -1000; i < SAMPLES_MAX; i++) {
            fill_job(&g, 1, i & 63, split ? 32 : 64, split ? 32 : 64);
            double us = timed_job(&g);
            if (i >= 0)
                b->sample_us[b->n = i] = us;
        }
        b->n++;
        misses_step_end(m);
        snprintf(head, sizeof head, "\"threads\": %d, \"link\": \"%s\"", threads,
                 split ? "its part stands at once" : "none");
        report(b, head, 0);
    }
    misses_close(&m);
    fake_close(&g);
}

/* Steps after a pause in which all workers parked: begin's cost to the caller, and the first job.
 */
static void bench_wake(struct bench *b, int threads)
{
    struct fake_gpu g;
    fake_open(&g, 64, 64, 1, 64, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads);
    static double begin_us[100], first_us[100];
    fill_job(&g, 1, 0, 64, 64);
    for (int i = 0; i < 100; i++) {
        usleep(2000);
        double begin = now_us();
        misses_step_begin(m);
        begin_us[i] = now_us() - begin;
        timed_job(&g);
        first_us[i] = now_us() - begin;
        misses_step_end(m);
    }
    char head[160];
    b->n = 100;
    memcpy(b->sample_us, begin_us, sizeof begin_us);
    snprintf(head, sizeof head, "\"threads\": %d, \"what\": \"step_begin\"", threads);
    report(b, head, 0);
    memcpy(b->sample_us, first_us, sizeof first_us);
    snprintf(head, sizeof head, "\"threads\": %d, \"what\": \"step_begin and a first job\"",
             threads);
    report(b, head, 0);
    misses_close(&m);
    fake_close(&g);
}

/* Real experts, cold: records rotate through the whole arena. */
static void bench_rate(struct bench *b, const char *model, int width, int inner, int threads)
{
    struct fake_gpu g;
    struct record_class cls = record_class_swiglu(DTYPE_BF16, width, inner);
    int experts = (int)(b->arena_bytes / cls.bytes), next = 0;
    if (experts < TOP_K)
        return;
    fake_open_at(&g, b->arena, width, inner, 1, experts, 1, TOP_K);
    struct misses *m = open_workers(b, &g, threads);
    check_bits(b, &g, m);
    for (int groups = 1; groups <= 8; groups *= 2)
        for (int share = 0; share <= 256; share += 256) {
            int cpu_inner = mailbox_cpu_outputs(inner, share);
            int cpu_width = mailbox_cpu_outputs(width, share);
            double bytes =
                2.0 * groups * ((double)cpu_inner * 2 * width + (double)cpu_width * inner);
            struct misses_stats before, after;
            double end_us = 0;
            misses_step_begin(m);
            misses_stats(m, &before);
            b->n = 0;
            for (int i = -5; i < SAMPLES_MAX && (i < 10 || now_us() < end_us); i++) {
                fill_job(&g, groups, next, cpu_inner, cpu_width);
                next = (next + groups) % experts;
                double us = timed_job(&g);
                if (i < 0) {
                    end_us = now_us() + b->seconds * 1e6;
                    misses_stats(m, &before);
                } else {
                    b->sample_us[b->n++] = us;
                }
            }
            misses_stats(m, &after);
            misses_step_end(m);
            double jobs = (double)(after.jobs - before.jobs) * 1e3;
            char head[320];
            snprintf(head, sizeof head,
                     "\"model\": \"%s\", \"threads\": %d, \"groups\": %d, \"link_share\": %d, "
                     "\"gate_up_us\": %.2f, \"down_us\": %.2f",
                     model, threads, groups, share,
                     (double)(after.gate_up_ns - before.gate_up_ns) / jobs,
                     (double)(after.down_ns - before.down_ns) / jobs);
            report(b, head, bytes);
        }
    misses_close(&m);
    fake_close(&g);
}

/* Meetings of threads, three ways, apart from everything else. */
enum meeting { COUNTER, GATHER, ALL_LOOK };
static const char *const meeting_names[] = {"one counter", "one gathers, then releases",
                                            "each looks at all"};

struct meet {
    _Alignas(128) _Atomic uint32_t count;
    _Alignas(128) _Atomic uint32_t release;
    struct {
        _Alignas(128) _Atomic uint32_t at;
    } line[MISSES_THREADS_MAX];
    enum meeting kind;
    int threads, rounds;
};

struct meeter {
    struct meet *meet;
    int index;
};

static void wait_at_least(_Atomic uint32_t *word, uint32_t value)
{
    while (atomic_load_explicit(word, memory_order_acquire) < value)
        __builtin_ia32_pause();
}

static void meet_once(struct meet *t, int self, uint32_t round)
{
    uint32_t n = (uint32_t)t->threads;
    if (t->kind == COUNTER) {
        if (atomic_fetch_add(&t->count, 1) == round * n - 1)
            atomic_store_explicit(&t->release, round, memory_order_release);
        wait_at_least(&t->release, round);
        return;
    }
    atomic_store_explicit(&t->line[self].at, round, memory_order_release);
    for (uint32_t missing = n; missing && (t->kind == ALL_LOOK || !self);) {
        missing = 0;
        for (uint32_t i = 0; i < n; i++)
            missing += atomic_load_explicit(&t->line[i].at, memory_order_acquire) < round;
        if (missing)
            __builtin_ia32_pause();
    }
    if (t->kind == GATHER && !self)
        atomic_store_explicit(&t->release, round, memory_order_release);
    if (t->kind == GATHER)
        wait_at_least(&t->release, round);
}

static void *meeter_main(void *arg)
{
    struct meeter *p = arg;
    for (int r = 1; r <= p->meet->rounds; r++)
        meet_once(p->meet, p->index, (uint32_t)r);
    return NULL;
}

static void bench_meeting(struct bench *b, int threads)
{
    static struct meet t;
    pthread_t thread[MISSES_THREADS_MAX];
    struct meeter meeter[MISSES_THREADS_MAX];
    if (dev_usable_cores() < threads)
        return;
    for (int kind = COUNTER; kind <= ALL_LOOK; kind++) {
        memset(&t, 0, sizeof t);
        t.kind = (enum meeting)kind, t.threads = threads, t.rounds = 2000 + SAMPLES_MAX * 10;
        for (int i = 0; i < threads; i++)
            meeter[i] = (struct meeter){&t, i};
        for (int i = 1; i < threads; i++)
            if (pthread_create(&thread[i], NULL, meeter_main, &meeter[i]))
                die("no threads");
        b->n = 0;
        double last = 0;
        for (int r = 1; r <= t.rounds; r++) {
            meet_once(&t, 0, (uint32_t)r);
            if (r % 10 == 0) { /* samples are means of ten */
                double now = now_us();
                if (r > 2000)
                    b->sample_us[b->n++] = (now - last) / 10;
                last = now;
            }
        }
        for (int i = 1; i < threads; i++)
            pthread_join(thread[i], NULL);
        char head[120];
        snprintf(head, sizeof head, "\"threads\": %d, \"kind\": \"%s\"", threads,
                 meeting_names[kind]);
        report(b, head, 0);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    static const struct {
        const char *name;
        int width, inner;
    } model[] = {{"Qwen3-30B-A3B", 2048, 768},
                 {"DeepSeek-V2-Lite", 2048, 1408},
                 {"Mixtral-8x7B", 4096, 14336}};
    int threads[16], n_threads = 0, isa = argc > 3 ? kern_isa_parse(argv[3]) : KERN_ISA_AUTO;
    b.arena_bytes = (size_t)((argc > 1 ? atof(argv[1]) : 12) * (double)((size_t)1 << 30));
    char counts[128];
    snprintf(counts, sizeof counts, "%s", argc > 2 ? argv[2] : "8,12,14");
    for (char *p = strtok(counts, ","); p && n_threads < 16; p = strtok(NULL, ","))
        threads[n_threads++] = atoi(p);
    b.k = isa < 0 ? NULL : kern_cpu((enum kern_isa)isa);
    b.seconds = argc > 4 ? atof(argv[4]) : 0.2;
    b.arena = mem_map(b.arena_bytes);
    if (!b.k || !b.arena || !n_threads)
        die("usage: bench_misses [GiB [threads,... [isa [seconds]]]]");
    struct dev *dev;
    struct moed_error err;
    if (dev_cpu_open(&dev, &(struct dev_cpu_config){.isa = KERN_ISA_AUTO}, &err) < 0)
        die(err.text);
    struct fill fill = {(uint16_t *)(void *)b.arena, b.arena_bytes / 2};
    dev_cpu_parallel(dev, fill_part, &fill, 64);
    printf("{\"bench\": \"misses\", \"isa\": \"%s\", \"cores\": %d, \"arena_bytes\": %zu, "
           "\"plain_read_gb_per_s\": %.1f",
           b.k->name, dev_usable_cores(), b.arena_bytes,
           dev_cpu_read_gb_per_s(dev, (size_t)1 << 30));
    dev_close(&dev);
    begin_list(&b, "hand_off");
    for (int t = 0; t < n_threads; t++)
        bench_hand_off(&b, threads[t]);
    printf("]");
    begin_list(&b, "wake");
    for (int t = 0; t < n_threads; t++)
        bench_wake(&b, threads[t]);
    printf("]");
    begin_list(&b, "meeting");
    for (int t = 0; t < n_threads; t++)
        bench_meeting(&b, threads[t]);
    printf("]");
    begin_list(&b, "rate");
    for (int t = 0; t < n_threads; t++)
        for (size_t i = 0; i < sizeof model / sizeof *model; i++)
            bench_rate(&b, model[i].name, model[i].width, model[i].inner, threads[t]);
    printf("]}\n");
    mem_unmap(b.arena, b.arena_bytes);
    return 0;
}
