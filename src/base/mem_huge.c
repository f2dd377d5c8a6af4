/* How much of a block lies on huge pages. */
#include "base/mem_int.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* linux/fs.h of Linux 6.7, which the headers of older systems lack; its documentation:
 * https://docs.kernel.org/admin-guide/mm/pagemap.html */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan {
    uint64_t size, flags;
    uint64_t start, end, walk_end; /* addresses; walk_end: where the kernel stopped */
    uint64_t regions, n_regions;
    uint64_t max_pages;
    uint64_t inverted, mask, any_of, returned; /* sets of categories */
};
#define SCAN          _IOWR('f', 16, struct scan)
#define CATEGORY_HUGE ((uint64_t)1 << 6)
/* Neighbours come as one region, so a block on huge pages throughout is a single one. */
#define REGIONS 16

/* The last huge page may go on behind the block. */
static long long at_most(long long sum, size_t bytes)
{
    return sum < (long long)bytes ? sum : (long long)bytes;
}

long long mem_huge_bytes_scanned(const void *p, size_t bytes)
{
    struct scan_region region[REGIONS];
    uint64_t at = (uintptr_t)p, end = at + mem_mapped_bytes(bytes);
    long long sum = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    while (at < end) {
        struct scan scan = {.size = sizeof scan,
                            .start = at,
                            .end = end,
                            .regions = (uintptr_t)region,
                            .n_regions = REGIONS,
                            .mask = CATEGORY_HUGE,
                            .returned = CATEGORY_HUGE};
        int n = ioctl(fd, SCAN, &scan);
        if (n < 0 || scan.walk_end <= at) {
            sum = -1;
            break;
        }
        for (int i = 0; i < n; i++)
            sum += (long long)(region[i].end - region[i].start);
        at = scan.walk_end;
    }
    close(fd);
    return at_most(sum, bytes);
}

long long mem_huge_bytes_listed(const void *p, size_t bytes)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f)
        return -1;
    uintptr_t lo = (uintptr_t)p, hi = lo + mem_mapped_bytes(bytes);
    static const char key[] = "AnonHugePages:";
    long long sum = 0;
    bool ours = false, told = false;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char *dash;
        uintptr_t begin = strtoul(line, &dash, 16);
        if (*dash == '-') {
            if (begin >= hi) /* they come in the order of their addresses */
                break;
            ours = strtoul(dash + 1, NULL, 16) > lo;
        } else if (ours && strncmp(line, key, sizeof key - 1) == 0) {
            sum += strtoll(line + sizeof key - 1, NULL, 10) * 1024;
            told = true;
        }
    }
    fclose(f);
    /* A mapping may go on beyond the block, where the kernel merged neighbours. */
    return told ? at_most(sum, bytes) : -1;
}

long long mem_huge_bytes(const void *p, size_t bytes)
{
    long long huge = mem_huge_bytes_scanned(p, bytes);
    return huge >= 0 ? huge : mem_huge_bytes_listed(p, bytes);
}
