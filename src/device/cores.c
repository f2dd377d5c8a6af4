#include "device/cores.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "device/device.h"

#define PATH_BYTES 4096

/* The first line of a small file; false when there is none. */
static bool first_line(const char *path, char *line, int bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool got = fgets(line, bytes, f) != NULL;
    fclose(f);
    return got;
}

/* Cores that a quota of quota_us in each period_us gives; 0 for no limit. */
static int cores_of(long long quota_us, long long period_us)
{
    if (quota_us <= 0 || period_us <= 0)
        return 0;
    long long cores = (quota_us + period_us - 1) / period_us;
    return cores < 1 << 20 ? (int)cores : 1 << 20;
}

static int quota_v2(const char *dir)
{
    char path[PATH_BYTES + 64], line[128], *rest;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (!first_line(path, line, sizeof line))
        return 0;
    long long quota_us = strtoll(line, &rest, 10); /* "max 100000" reads as 0: no limit */
    return cores_of(quota_us, strtoll(rest, NULL, 10));
}

static int quota_v1(const char *dir)
{
    char path[PATH_BYTES + 64], quota[64], period[64];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!first_line(path, quota, sizeof quota))
        return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (!first_line(path, period, sizeof period))
        return 0;
    return cores_of(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

/* The tightest quota of base/group and all its parents up to base. */
static int tightest(const char *base, const char *group, int (*quota)(const char *dir))
{
    char dir[PATH_BYTES];
    size_t base_len = strlen(base);
    if (snprintf(dir, sizeof dir, "%s%s", base, group) >= (int)sizeof dir)
        return 0;
    int least = 0;
    for (;;) {
        int cores = quota(dir);
        if (cores && (!least || cores < least))
            least = cores;
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < base_len)
            return least;
        *slash = '\0';
    }
}

/* Whether "cpu" is in a list like "cpu,cpuacct". */
static bool names_cpu(const char *list)
{
    for (const char *p = list; p; p = strchr(p, ',')) {
        p += *p == ',';
        size_t n = strcspn(p, ",");
        if (n == 3 && memcmp(p, "cpu", 3) == 0)
            return true;
    }
    return false;
}

int cores_quota(const char *proc_cgroup, const char *cgroup_root)
{
    FILE *f = fopen(proc_cgroup, "re");
    char line[PATH_BYTES], base[PATH_BYTES + 300];
    int least = 0;
    while (f && fgets(line, sizeof line, f)) {
        /* hierarchy:controllers:path; version 2 has hierarchy 0 and no controllers. */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = NULL;
        if (controllers)
            group = strchr(++controllers, ':');
        if (!group)
            continue;
        *group++ = '\0';
        int cores = 0;
        if (!*controllers) {
            cores = tightest(cgroup_root, group, quota_v2);
        } else if (names_cpu(controllers)) {
            snprintf(base, sizeof base, "%s/%.255s", cgroup_root, controllers);
            cores = tightest(base, group, quota_v1);
            snprintf(base, sizeof base, "%s/cpu", cgroup_root);
            int linked = tightest(base, group, quota_v1);
            if (linked && (!cores || linked < cores))
                cores = linked;
        }
        if (cores && (!least || cores < least))
            least = cores;
    }
    if (f)
        fclose(f);
    return least;
}

#define CPUS_MAX (1 << 16)

int cores_allowed(int *cpu, int max)
{
    int n = 0;
    for (int cpus = 1024; cpus <= CPUS_MAX && !n; cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        if (set && sched_getaffinity(0, bytes, set) == 0)
            for (int c = 0; c < cpus && n < max; c++)
                if (CPU_ISSET_S((size_t)c, bytes, set))
                    cpu[n++] = c;
        CPU_FREE(set);
    }
    return n;
}

/* The lowest CPU of the physical core. */
static int core_of(int cpu, const char *cpu_root)
{
    char path[PATH_BYTES], line[256];
    snprintf(path, sizeof path, "%s/cpu%d/topology/thread_siblings_list", cpu_root, cpu);
    return first_line(path, line, sizeof line) ? (int)strtol(line, NULL, 10) : cpu;
}

void cores_spread(int *cpu, int count, int n, const char *cpu_root)
{
    struct place {
        int cpu, core, nth; /* nth of its core */
    } *place = mem_new((size_t)count, sizeof *place), moving;
    int cores = 0;
    for (int i = 0; i < count; i++) {
        place[i] = (struct place){cpu[i], core_of(cpu[i], cpu_root), 0};
        for (int j = 0; j < i; j++)
            place[i].nth += place[j].core == place[i].core;
        cores += !place[i].nth;
    }
    /* With a core for each, first ones first; otherwise whole cores. The highest cores lead. */
    bool spread = n <= cores;
    for (int i = 1; i < count; i++) {
        moving = place[i];
        int j = i;
        for (; j > 0; j--) {
            const struct place *p = &place[j - 1];
            bool after = spread && p->nth != moving.nth ? p->nth > moving.nth
                         : p->core != moving.core       ? p->core < moving.core
                                                        : p->nth > moving.nth;
            if (!after)
                break;
            place[j] = *p;
        }
        place[j] = moving;
    }
    for (int i = 0; i < count; i++)
        cpu[i] = place[i].cpu;
    free(place);
}

static int cores_affinity(void)
{
    int *cpu = mem_new(CPUS_MAX, sizeof *cpu), n = cores_allowed(cpu, CPUS_MAX);
    free(cpu);
    return n ? n : 1;
}

int cores_to_spin_on(int allowed, int quota)
{
    int n = allowed - 1;
    if (quota && quota < allowed)
        n = quota - 2;
    return n > 1 ? n : 1;
}

static int cores_of_group(void)
{
    return cores_quota("/proc/self/cgroup", "/sys/fs/cgroup");
}

int cores_to_spin_on_here(void)
{
    return cores_to_spin_on(cores_affinity(), cores_of_group());
}

int dev_usable_cores(void)
{
    int cores = cores_affinity(), quota = cores_of_group();
    return quota && quota < cores ? quota : cores;
}
