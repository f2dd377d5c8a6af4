/* Yardsticks: what plain reads and plain copies reach on this machine, now. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cli/bench.h"

/* Plain reads come from memory: of so much at least, and so many times the last-level cache. One
 * that holds a part of what is read again and again makes memory look faster than it is. */
#define READ_BYTES     ((size_t)512 << 20)
#define READ_CACHES    8
#define CACHE_MOST_KIB ((size_t)1 << 20) /* a file that says more is not believed */
#define READ_PASSES    3
#define READ_SHARES    4 /* parts for each thread: even out cores of different speed */
#define LINK_BYTES     ((size_t)16 << 20)
#define DEVICE_BYTES   ((size_t)512 << 20)
#define DEVICE_COPIES  8
#define PEAK_SECONDS   0.25
/* A link so slow that few of these copies end within that is given more, and not for ever. */
#define PEAK_COPIES       4
#define PEAK_MOST_SECONDS 5

struct bench_yardstick {
    struct dev *cpu;
    const struct kern_cpu *kern;
    int parts;
    uint8_t *data; /* [bytes] */
    size_t bytes;
    _Atomic uint32_t sum; /* keeps the reads alive */
};

static void read_part(void *arg, int part, int parts)
{
    struct bench_yardstick *y = arg;
    size_t lines = y->bytes / 64, lo = lines * (size_t)part / (size_t)parts;
    size_t hi = lines * ((size_t)part + 1) / (size_t)parts;
    y->sum += y->kern->read(y->data + lo * 64, (hi - lo) * 64);
}

static void touch_part(void *arg, int part, int parts)
{
    struct bench_yardstick *y = arg;
    size_t lo = y->bytes * (size_t)part / (size_t)parts;
    size_t hi = y->bytes * ((size_t)part + 1) / (size_t)parts;
    memset(y->data + lo, 1, hi - lo);
}

static size_t read_bytes(void)
{
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    char line[32] = ""; /* a number and K */
    if (f && !fgets(line, sizeof line, f))
        line[0] = 0;
    if (f)
        fclose(f);
    size_t cache_kib = strtoul(line, NULL, 10);
    size_t bytes = cache_kib < CACHE_MOST_KIB ? cache_kib * 1024 * READ_CACHES : 0;
    return bytes > READ_BYTES ? bytes : READ_BYTES;
}

int bench_yardstick_open(struct bench_yardstick **out, struct dev *cpu, struct moed_error *err)
{
    struct dev_cpu_info info = dev_cpu_info(cpu);
    struct bench_yardstick *y = mem_new(1, sizeof *y);
    y->cpu = cpu;
    y->kern = kern_cpu((enum kern_isa)kern_isa_parse(info.isa));
    y->parts = info.threads * READ_SHARES;
    y->bytes = read_bytes();
    y->data = mem_map(y->bytes);
    *out = y;
    if (!y->data) {
        bench_yardstick_close(out);
        return moed_fail(err, MOED_ENOMEM, "no memory for the measure of bandwidth");
    }
    /* Pages not yet written are all the same zero page. */
    dev_cpu_parallel(cpu, touch_part, y, y->parts);
    return 0;
}

void bench_yardstick_close(struct bench_yardstick **y)
{
    if (!*y)
        return;
    if ((*y)->data)
        mem_unmap((*y)->data, (*y)->bytes);
    free(*y);
    *y = NULL;
}

double bench_yardstick_reads(struct bench_yardstick *y)
{
    double best = 0;
    for (int pass = 0; pass < READ_PASSES; pass++) {
        double start = clock_seconds();
        dev_cpu_parallel(y->cpu, read_part, y, y->parts);
        double rate = (double)y->bytes / (clock_seconds() - start) / 1e9;
        best = rate > best ? rate : best;
    }
    return best;
}

/* Copies to the device, one after the other, until told to stop. */
struct feeder {
    struct dev *dev;
    void *to, *from; /* LINK_BYTES each */
    _Atomic bool stop;
    _Atomic uint64_t bytes; /* arrived */
    _Atomic int rc;
};

static void *feed(void *arg)
{
    struct feeder *f = arg;
    struct dev_event event[2] = {0};
    int rc = 0;
    /* Two at a time: the link does not wait for this thread. */
    for (unsigned i = 0; rc >= 0; i++) {
        struct dev_event *e = &event[i % 2];
        if (i >= 2) {
            rc = f->dev->ops->event_wait(f->dev, e);
            f->bytes += rc >= 0 ? LINK_BYTES : 0;
        }
        if (rc < 0 || f->stop)
            break;
        e->state = 0;
        rc = f->dev->ops->copy_in(f->dev, f->to, f->from, LINK_BYTES, e);
    }
    for (int i = 0; i < 2; i++)
        f->dev->ops->event_wait(f->dev, &event[i]);
    f->rc = rc;
    return NULL;
}

/* The link's bytes and, with reads, the CPU's in the same span of time. */
static int measure_link(struct bench_yardstick *y, struct feeder *f, bool reads, double *link,
                        double *cpu, struct moed_error *err)
{
    pthread_t thread;
    f->stop = false;
    if (pthread_create(&thread, NULL, feed, f))
        return moed_fail(err, MOED_EIO, "a thread for the measure of the link did not start");
    double asked = clock_seconds();
    while (f->bytes == 0 && f->rc == 0 && clock_seconds() - asked < PEAK_MOST_SECONDS)
        nanosleep(&(struct timespec){0, 100000}, NULL);
    uint64_t before = f->bytes, read = 0;
    double start = clock_seconds(), seconds = 0;
    while (f->rc == 0 && (seconds < PEAK_SECONDS || (f->bytes - before < PEAK_COPIES * LINK_BYTES &&
                                                     seconds < PEAK_MOST_SECONDS))) {
        if (reads) {
            dev_cpu_parallel(y->cpu, read_part, y, y->parts);
            read += y->bytes;
        } else {
            nanosleep(&(struct timespec){0, 1000000}, NULL);
        }
        seconds = clock_seconds() - start;
    }
    *link = (double)(f->bytes - before) / seconds / 1e9;
    *cpu = (double)read / seconds / 1e9;
    f->stop = true;
    pthread_join(thread, NULL);
    return f->rc < 0 ? moed_fail(err, MOED_EDEVICE, "the device failed in the measure of its link")
                     : 0;
}

static void release(struct dev *dev, void (*how)(struct dev *, void *, size_t), void *p,
                    size_t bytes)
{
    if (p)
        how(dev, p, bytes);
}

static int measure_device(struct dev *dev, double *rate, struct moed_error *err)
{
    void *a = dev->ops->alloc(dev, DEVICE_BYTES), *b = dev->ops->alloc(dev, DEVICE_BYTES);
    int rc = a && b ? 0 : moed_fail(err, MOED_ENOMEM, "no device memory for its measure");
    double begin = clock_seconds();
    for (int pass = 0; pass < 3 && rc == 0; pass++) {
        double start = clock_seconds();
        if (start - begin > PEAK_SECONDS && pass > 0)
            break;
        for (int i = 0; i < DEVICE_COPIES && rc == 0; i++)
            rc = dev->ops->copy_within(dev, b, a, DEVICE_BYTES);
        if (rc < 0 || (rc = dev->kern->sync(dev)) < 0) {
            rc = moed_fail(err, MOED_EDEVICE, "the device failed in the measure of its memory");
            break;
        }
        double bytes = 2.0 * DEVICE_COPIES * (double)DEVICE_BYTES;
        double now = bytes / (clock_seconds() - start) / 1e9;
        *rate = now > *rate ? now : *rate;
    }
    release(dev, dev->ops->free, a, DEVICE_BYTES);
    release(dev, dev->ops->free, b, DEVICE_BYTES);
    return rc;
}

int bench_yardstick_peaks(struct bench_yardstick *y, struct dev *dev, struct bench_peaks *out,
                          struct moed_error *err)
{
    struct feeder f = {.dev = dev,
                       .to = dev->ops->alloc(dev, LINK_BYTES),
                       .from = dev->ops->alloc_shared(dev, LINK_BYTES)};
    double none;
    *out = (struct bench_peaks){0};
    int rc = f.to && f.from ? 0 : moed_fail(err, MOED_ENOMEM, "no memory to measure the link");
    if (rc == 0)
        rc = measure_link(y, &f, false, &out->link, &none, err);
    if (rc == 0 && !dev->ops->uses_host_memory) {
        rc = measure_link(y, &f, true, &out->host_link, &out->host_cpu, err);
        if (rc == 0)
            rc = measure_device(dev, &out->device, err);
    }
    release(dev, dev->ops->free, f.to, LINK_BYTES);
    release(dev, dev->ops->free_shared, f.from, LINK_BYTES);
    return rc;
}
