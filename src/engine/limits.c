/*
 * cgroup v2 (memory.max) and v1 (memory.limit_in_bytes), at the process's own group and all above
 * it; Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux. Page cache is
 * dropped under pressure, so it does not count as used; shared memory (tmpfs) does.
 */
#include "engine/limits.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 4096

/* One version of the interface: names of its files and of the rows of memory.stat. */
struct cgroup_names {
    const char *limit, *usage, *cache, *shared;
};
static const struct cgroup_names v2 = {"memory.max", "memory.current", "file", "shmem"};
static const struct cgroup_names v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                       "total_cache", "total_shmem"};

static bool read_number(const char *dir, const char *file, uint64_t *out)
{
    char path[PATH_BYTES + 64], line[64];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    char *end = line;
    if (fgets(line, sizeof line, f))
        *out = strtoull(line, &end, 10); /* "max" is no number */
    fclose(f);
    return end > line;
}

/* "key value" or "key: value kB"; 0 where the row is missing. */
static uint64_t read_row(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    char line[256];
    uint64_t value = 0;
    size_t n = strlen(key);
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, n) != 0 || (line[n] != ' ' && line[n] != ':'))
            continue;
        char *end;
        value = strtoull(line + n + 1, &end, 10);
        if (strncmp(end, " kB", 3) == 0)
            value *= 1024;
        break;
    }
    if (f)
        fclose(f);
    return value;
}

static uint64_t left_in(const char *dir, const struct cgroup_names *names)
{
    uint64_t limit, usage, cache, shared;
    char stat[PATH_BYTES + 64];
    if (!read_number(dir, names->limit, &limit) || limit > (uint64_t)1 << 60 ||
        !read_number(dir, names->usage, &usage))
        return UINT64_MAX;
    snprintf(stat, sizeof stat, "%s/memory.stat", dir);
    cache = read_row(stat, names->cache);
    shared = read_row(stat, names->shared);
    cache = cache > shared ? cache - shared : 0;
    usage = usage > cache ? usage - cache : 0;
    return limit > usage ? limit - usage : 0;
}

static uint64_t tightest(const char *root, const char *group, const struct cgroup_names *names)
{
    char dir[PATH_BYTES];
    uint64_t least = UINT64_MAX;
    size_t root_len = strlen(root);
    if (snprintf(dir, sizeof dir, "%s%s", root, group) >= (int)sizeof dir)
        return least;
    for (;;) {
        uint64_t left = left_in(dir, names);
        least = left < least ? left : least;
        char *slash = strrchr(dir, '/');
        if (!slash || (size_t)(slash - dir) < root_len)
            return least;
        *slash = '\0';
    }
}

/* Lines of /proc/self/cgroup: "0::/group" (v2), "4:memory:/group" (v1). */
static uint64_t container_left(const char *proc, const char *cgroup)
{
    char path[PATH_BYTES], line[PATH_BYTES], root[PATH_BYTES];
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    snprintf(root, sizeof root, "%s/memory", cgroup);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *kind = strchr(line, ':'), *group = kind ? strchr(kind + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = '\0';
        uint64_t left = UINT64_MAX;
        if (kind[1] == '\0')
            left = tightest(cgroup, group, &v2);
        else if (strcmp(kind + 1, "memory") == 0)
            left = tightest(root, group, &v1);
        least = left < least ? left : least;
    }
    if (f)
        fclose(f);
    return least;
}

void memory_limits_from(struct memory_limits *out, const char *proc, const char *cgroup)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/meminfo", proc);
    uint64_t machine = read_row(path, "MemAvailable");
    out->machine_bytes = machine ? machine : UINT64_MAX;
    out->container_bytes = container_left(proc, cgroup);
    out->available_bytes =
        out->machine_bytes < out->container_bytes ? out->machine_bytes : out->container_bytes;
}

void memory_limits_read(struct memory_limits *out)
{
    memory_limits_from(out, "/proc", "/sys/fs/cgroup");
}
