#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "device/cores.h"
#include "device/device.h"
#include "device/link.h"

static struct dev *open_dev(int threads, enum kern_isa isa, uint64_t link_bytes_per_s)
{
    struct moed_error err;
    struct dev *dev;
    struct dev_cpu_config cfg = {threads, isa, link_bytes_per_s, 256};
    assert_ok(dev_cpu_open(&dev, &cfg, &err), &err);
    return dev;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Numbers without a pattern that a wrong split would keep. */
static void fill(float *p, size_t n, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (float)(int32_t)seed * 0x1p-31f;
    }
}

enum { IN = 300, OUT = 1000, ROWS = 20 };

/* One linear op large enough to be split, over a device. */
static void run_linear(struct dev *dev, const float *w, const float *x, float *y)
{
    struct kern_linear a = {.w = w,
                            .w_dtype = DTYPE_F32,
                            .x = x,
                            .y = y,
                            .x_stride = IN,
                            .y_stride = OUT,
                            .n = ROWS,
                            .in = IN,
                            .out = OUT};
    assert_int_equal(dev->kern->linear(dev, &a), 0);
    assert_int_equal(dev->kern->sync(dev), 0);
}

static void any_number_of_threads_gives_equal_bits(void **state)
{
    float *w = malloc(sizeof(float) * IN * OUT), *x = malloc(sizeof(float) * IN * ROWS);
    float *want = malloc(sizeof(float) * OUT * ROWS), *got = malloc(sizeof(float) * OUT * ROWS);
    fill(w, (size_t)IN * OUT, 1);
    fill(x, (size_t)IN * ROWS, 2);
    struct dev *dev = open_dev(1, KERN_ISA_SCALAR, 0);
    run_linear(dev, w, x, want);
    dev_close(&dev);
    assert_null(dev);
    for (int threads = 1; threads <= 5; threads += 2)
        for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
            if (!kern_cpu((enum kern_isa)isa))
                continue;
            dev = open_dev(threads, (enum kern_isa)isa, 0);
            assert_int_equal(dev_cpu_info(dev).threads, threads);
            assert_string_equal(dev_cpu_info(dev).isa, kern_isa_name((enum kern_isa)isa));
            for (int i = 0; i < 3; i++) {
                memset(got, 0, sizeof(float) * OUT * ROWS);
                run_linear(dev, w, x, got);
                assert_memory_equal(got, want, sizeof(float) * OUT * ROWS);
            }
            dev_close(&dev);
        }
    free(w);
    free(x);
    free(want);
    free(got);
}

/* Few rows go another way than many: the choices and weights are the kernel's. */
static void routers_agree_for_any_row_count(void **state)
{
    enum { WIDE = 200, EXPERTS = 100, MOST = 40, TOP_K = 5 };
    float *w = malloc(sizeof(float) * WIDE * EXPERTS), *x = malloc(sizeof(float) * WIDE * MOST);
    int32_t want_id[MOST * TOP_K], id[MOST * TOP_K];
    float want[MOST * TOP_K], weight[MOST * TOP_K];
    _Alignas(64) static float scratch[EXPERTS];
    fill(w, (size_t)WIDE * EXPERTS, 5);
    fill(x, (size_t)WIDE * MOST, 6);
    struct kern_router a = {w, DTYPE_F32, x, MOST, WIDE, EXPERTS, TOP_K, 1, want_id, want};
    kern_cpu(KERN_ISA_SCALAR)->router(&a, (struct kern_part){0, 1, scratch, sizeof scratch});
    struct dev *dev = open_dev(3, KERN_ISA_AUTO, 0);
    a.id = id;
    a.weight = weight;
    for (a.n = 1; a.n <= MOST; a.n++) {
        memset(id, 0xff, sizeof id);
        assert_int_equal(dev->kern->router(dev, &a), 0);
        assert_memory_equal(id, want_id, (size_t)a.n * TOP_K * sizeof *id);
        assert_memory_equal(weight, want, (size_t)a.n * TOP_K * sizeof *weight);
    }
    dev_close(&dev);
    free(w);
    free(x);
}

/* Context beyond what was announced: scratch grows. */
static void long_attention_gets_its_scratch(void **state)
{
    enum { CONTEXT = 40000, DIM = 4 };
    struct dev *dev = open_dev(2, KERN_ISA_AUTO, 0);
    size_t block_bytes = sizeof(float) * 2 * 16 * DIM;
    float *kv = dev->ops->alloc(dev, block_bytes);
    int32_t *table = calloc(CONTEXT / 16, sizeof *table), pos[1] = {CONTEXT - 1}, seq[1] = {0};
    const int32_t *tables[1] = {table};
    for (int i = 0; i < 16 * DIM; i++)
        kv[16 * DIM + i] = 3; /* every V is 3, whatever the weights */
    float q[20 * DIM] = {1}, out[20 * DIM];
    struct kern_attention a = {.kv = {kv, block_bytes, DTYPE_F32, 1, DIM},
                               .q = q,
                               .out = out,
                               .q_stride = sizeof q / 4,
                               .out_stride = sizeof out / 4,
                               .pos = pos,
                               .seq = seq,
                               .block_table = tables,
                               .n = 1,
                               .heads = 20,
                               .scale = 1,
                               .max_context = CONTEXT};
    assert_int_equal(dev->kern->attention(dev, &a), 0);
    for (int i = 0; i < 20 * DIM; i++)
        assert_float_equal(out[i], 3, 1e-3);
    free(table);
    dev->ops->free(dev, kv, block_bytes);
    dev_close(&dev);
}

static void refuses_bad_configurations(void **state)
{
    struct moed_error err;
    struct dev *dev;
    struct dev_cpu_config cfg = {.threads = -1, .max_context = 16};
    assert_int_equal(dev_cpu_open(&dev, &cfg, &err), MOED_EINVAL);
    assert_string_equal(err.param, "threads");
    cfg.threads = 1 << 20;
    assert_int_equal(dev_cpu_open(&dev, &cfg, &err), MOED_EINVAL);
    cfg.threads = 1;
    cfg.isa = KERN_ISA_COUNT;
    assert_int_equal(dev_cpu_open(&dev, &cfg, &err), MOED_EUNSUPPORTED);
    cfg.isa = KERN_ISA_AUTO;
    cfg.max_context = -1;
    assert_int_equal(dev_cpu_open(&dev, &cfg, &err), MOED_EINVAL);
}

static void *drive_device(void *arg)
{
    struct dev *dev = arg;
    float x[64], y[64], *w = malloc(sizeof(float) * 64 * 64);
    fill(w, (size_t)64 * 64, 3);
    fill(x, 64, 4);
    for (int i = 0; i < 3000; i++) {
        struct kern_linear a = {.w = w,
                                .w_dtype = DTYPE_F32,
                                .x = x,
                                .y = y,
                                .x_stride = 64,
                                .y_stride = 64,
                                .n = 1,
                                .in = 64,
                                .out = 64};
        dev->kern->linear(dev, &a);
    }
    free(w);
    return NULL;
}

static void two_devices_at_once(void **state)
{
    struct dev *dev[2] = {open_dev(2, KERN_ISA_AUTO, 0), open_dev(3, KERN_ISA_AUTO, 0)};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, drive_device, dev[i]), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 2; i++)
        dev_close(&dev[i]);
}

static void add_part(void *arg, int part, int parts)
{
    atomic_fetch_add((_Atomic int *)arg, part + 1);
}

static void parallel_runs_each_part(void **state)
{
    struct dev *dev = open_dev(3, KERN_ISA_AUTO, 0);
    _Atomic int sum = 0;
    dev_cpu_parallel(dev, add_part, (void *)&sum, 100);
    assert_int_equal(sum, 5050);
    assert_true(dev_cpu_read_gb_per_s(dev, (size_t)8 << 20) > 0);
    dev_close(&dev);
}

static void copies_run_in_order(void **state)
{
    enum { N = 500, BYTES = 4096 };
    struct dev *dev = open_dev(1, KERN_ISA_SCALAR, 0);
    uint8_t *src = malloc((size_t)N * BYTES), *dst = calloc(1, BYTES);
    struct dev_event *ev = calloc(N, sizeof *ev);
    for (int i = 0; i < N; i++) {
        memset(src + (size_t)i * BYTES, i % 251 + 1, BYTES);
        /* All to one place: only in order is the last one what remains. */
        while (dev->ops->copy_in(dev, dst, src + (size_t)i * BYTES, BYTES, &ev[i]) == MOED_EBUSY)
            assert_int_equal(dev->ops->event_wait(dev, &ev[i - 1]), 0);
    }
    assert_int_equal(dev->ops->event_wait(dev, &ev[N - 1]), 0);
    for (int i = 0; i < N; i++)
        assert_int_equal(atomic_load(&ev[i].state), 2);
    for (int i = 0; i < BYTES; i++)
        assert_int_equal(dst[i], (N - 1) % 251 + 1);
    free(src);
    free(dst);
    free(ev);
    dev_close(&dev);
}

/* The pager polls the state without waiting: what it then reads must be the copy. */
static void polling_sees_the_bytes(void **state)
{
    struct dev *dev = open_dev(1, KERN_ISA_SCALAR, 0);
    uint32_t src[256], dst[256] = {0};
    for (uint32_t round = 1; round <= 300; round++) {
        struct dev_event ev = {0};
        for (int i = 0; i < 256; i++)
            src[i] = round;
        assert_int_equal(dev->ops->copy_in(dev, dst, src, sizeof src, &ev), 0);
        while (atomic_load_explicit(&ev.state, memory_order_acquire) != 2)
            sched_yield();
        for (int i = 0; i < 256; i++)
            assert_int_equal(dst[i], round);
    }
    dev_close(&dev);
}

static void the_link_keeps_its_rate(void **state)
{
    enum { N = 20, BYTES = 1 << 20 };
    const double rate = 200e6;
    struct dev *dev = open_dev(1, KERN_ISA_SCALAR, (uint64_t)rate);
    uint8_t *src = calloc(1, BYTES), *dst = malloc(BYTES);
    struct dev_event ev[N];
    double t0 = now_s();
    for (int i = 0; i < N; i++) {
        atomic_init(&ev[i].state, 0);
        assert_int_equal(dev->ops->copy_in(dev, dst, src, BYTES, &ev[i]), 0);
    }
    for (int i = 0; i < N; i++)
        assert_int_equal(dev->ops->event_wait(dev, &ev[i]), 0);
    double seconds = now_s() - t0, want = N * BYTES / rate;
    /* 1 ms may be caught up; a busy machine may be late by any amount. */
    assert_true(seconds > want - 0.0015);
    print_message("%.1f ms, at the rate %.1f ms\n", seconds * 1e3, want * 1e3);
    free(src);
    free(dst);
    dev_close(&dev);
}

static void a_full_queue_is_busy_and_close_fails_the_rest(void **state)
{
    struct moed_error err;
    struct link *link;
    assert_ok(link_open(&link, 200000, &err), &err); /* 200 KB/s: a copy takes 250 ms */
    static uint8_t src[50000], dst[50000];
    static struct dev_event ev[1000];
    int n = 0, rc;
    while ((rc = link_copy(link, dst, src, sizeof src, &ev[n])) == 0)
        assert_true(++n < 1000);
    assert_int_equal(rc, MOED_EBUSY);
    assert_int_equal(atomic_load(&ev[n].state), 0);
    assert_true(n >= LINK_QUEUE_COPIES);
    link_close(&link);
    int failed = 0;
    for (int i = 0; i < n; i++) { /* the first ones were copied */
        int end = atomic_load(&ev[i].state);
        assert_in_range(end, failed ? 3 : 2, 3);
        failed += end == 3;
    }
    assert_in_range(failed, 1, LINK_QUEUE_COPIES);
}

/* A made-up /proc/self/cgroup and /sys/fs/cgroup in a temporary folder. */
static void put(const char *dir, const char *name, const char *text)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void make_dirs(const char *root, const char *path)
{
    char command[700];
    snprintf(command, sizeof command, "mkdir -p %s/%s", root, path);
    assert_int_equal(system(command), 0);
}

static void quota_of_cgroups(void **state)
{
    char root[] = "/tmp/moed-cores-XXXXXX", proc[64], command[128];
    assert_non_null(mkdtemp(root));
    snprintf(proc, sizeof proc, "%s/proc", root);
    make_dirs(root, "a/b");
    put(root, "proc", "0::/a/b\n");
    assert_int_equal(cores_quota(proc, root), 0);
    put(root, "a/b/cpu.max", "max 100000\n");
    assert_int_equal(cores_quota(proc, root), 0);
    put(root, "a/b/cpu.max", "250000 100000\n");
    assert_int_equal(cores_quota(proc, root), 3);
    put(root, "a/cpu.max", "150000 100000\n"); /* the parent is tighter */
    assert_int_equal(cores_quota(proc, root), 2);
    put(root, "a/cpu.max", "1000 100000\n");
    assert_int_equal(cores_quota(proc, root), 1);
    put(root, "a/cpu.max", "nonsense\n");
    assert_int_equal(cores_quota(proc, root), 3);

    /* Version 1, named by all its controllers or by a link called cpu; the root sees no group. */
    put(root, "proc", "5:devices:/x\n4:cpu,cpuacct:/job\n0::/\n");
    make_dirs(root, "cpu,cpuacct/job");
    put(root, "cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    put(root, "cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cores_quota(proc, root), 0);
    put(root, "cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
    assert_int_equal(cores_quota(proc, root), 4);
    make_dirs(root, "cpu");
    put(root, "cpu/cpu.cfs_quota_us", "100000\n");
    put(root, "cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(cores_quota(proc, root), 1);

    put(root, "proc", "broken\n:\n1:cpuset:/\n");
    assert_int_equal(cores_quota(proc, root), 0);
    assert_int_equal(cores_quota("/nonexistent/file", root), 0);
    assert_true(dev_usable_cores() >= 1);
    snprintf(command, sizeof command, "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

static void spinning_threads_leave_cores_to_others(void **state)
{
    static const int allowed[] = {1, 2, 2, 4, 8, 16, 16, 16, 16, 64, 4};
    static const int quota[] = {0, 0, 1, 0, 0, 0, 16, 15, 4, 3, 8};
    static const int want[] = {1, 1, 1, 3, 7, 15, 15, 13, 2, 1, 3};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(cores_to_spin_on(allowed[i], quota[i]), want[i]);
    assert_true(cores_to_spin_on_here() >= 1);
}

static void threads_that_stay_get_whole_cores(void **state)
{
    char root[] = "/tmp/moed-cores-XXXXXX", name[80], text[16];
    assert_non_null(mkdtemp(root));
    for (int c = 0; c < 8; c++) { /* 4 cores; CPU 8 is not described */
        snprintf(name, sizeof name, "cpu%d/topology", c);
        make_dirs(root, name);
        snprintf(name, sizeof name, "cpu%d/topology/thread_siblings_list", c);
        snprintf(text, sizeof text, "%d,%d\n", c % 4, c % 4 + 4);
        put(root, name, text);
    }
    static const int n[] = {1, 3, 4, 6, 8};
    static const int want[][8] = {
        {3}, {3, 2, 1}, {3, 2, 1, 0}, {3, 7, 2, 6, 1, 5}, {3, 7, 2, 6, 1, 5, 0, 4}};
    for (int i = 0; i < 5; i++) {
        int cpu[] = {0, 1, 2, 3, 4, 5, 6, 7};
        cores_spread(cpu, 8, n[i], root);
        assert_memory_equal(cpu, want[i], (size_t)n[i] * sizeof(int));
    }
    int some[] = {2, 6, 8};
    cores_spread(some, 3, 2, root);
    assert_int_equal(some[0], 8);
    assert_int_equal(some[1], 2);
    int allowed[4];
    assert_in_range(cores_allowed(allowed, 4), 1, 4);
    assert_int_equal(cores_allowed(allowed, 1), 1);
    snprintf(name, sizeof name, "rm -r %s", root);
    assert_int_equal(system(name), 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(any_number_of_threads_gives_equal_bits),
    cmocka_unit_test(routers_agree_for_any_row_count),
    cmocka_unit_test(long_attention_gets_its_scratch),
    cmocka_unit_test(refuses_bad_configurations),
    cmocka_unit_test(two_devices_at_once),
    cmocka_unit_test(parallel_runs_each_part),
    cmocka_unit_test(copies_run_in_order),
    cmocka_unit_test(polling_sees_the_bytes),
    cmocka_unit_test(the_link_keeps_its_rate),
    cmocka_unit_test(a_full_queue_is_busy_and_close_fails_the_rest),
    cmocka_unit_test(quota_of_cgroups),
    cmocka_unit_test(spinning_threads_leave_cores_to_others),
    cmocka_unit_test(threads_that_stay_get_whole_cores),
};
CHECK_MAIN(tests)
