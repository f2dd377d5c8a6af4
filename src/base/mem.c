#include "base/mem.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of Linux 6.1; C libraries before 2.37 do not name it. */
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static void *must(void *p, size_t bytes)
{
    if (!p) {
        fprintf(stderr, "moed: out of memory asking for %zu bytes\n", bytes);
        abort();
    }
    return p;
}

void *mem_new(size_t n, size_t size)
{
    return must(calloc(n ? n : 1, size ? size : 1), n * size);
}

void *mem_try(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

void *mem_grow(void *p, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size)
        must(NULL, SIZE_MAX);
    size_t bytes = n * size;
    return must(realloc(p, bytes ? bytes : 1), bytes);
}

void *mem_reserve(void *p, size_t *cap, size_t need, size_t size)
{
    if (need <= *cap)
        return p;
    size_t cap_new = *cap < 8 ? 8 : *cap * 2;
    if (cap_new < need)
        cap_new = need;
    *cap = cap_new;
    return mem_grow(p, cap_new, size);
}

char *mem_strndup(const char *s, size_t n)
{
    char *copy = mem_new(n + 1, 1);
    memcpy(copy, s, n);
    return copy;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

char *mem_printf(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    return must(n < 0 ? NULL : text, 0);
}

/* 2 MiB is the huge page of x86-64 and the common one of aarch64. */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

static size_t map_bytes(size_t bytes)
{
    return (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
}

void *mem_map(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX - 2 * HUGE_PAGE_BYTES)
        return NULL;
    /* Over-map by one huge page and give the ends back, so that the block starts on a huge page. */
    size_t want = map_bytes(bytes), over = want + HUGE_PAGE_BYTES;
    uint8_t *raw = mmap(NULL, over, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED)
        return NULL;
    size_t head = (HUGE_PAGE_BYTES - (uintptr_t)raw % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    if (head)
        munmap(raw, head);
    if (over - head - want)
        munmap(raw + head + want, over - head - want);
    madvise(raw + head, want, MADV_HUGEPAGE);
    return raw + head;
}

void mem_unmap(void *p, size_t bytes)
{
    if (p)
        munmap(p, map_bytes(bytes));
}

void mem_make_huge(void *p, size_t bytes)
{
    madvise(p, map_bytes(bytes), MADV_COLLAPSE);
}

long long mem_huge_bytes(const void *p, size_t bytes)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f)
        return -1;
    uintptr_t lo = (uintptr_t)p, hi = lo + map_bytes(bytes);
    static const char key[] = "AnonHugePages:";
    long long sum = 0;
    bool ours = false, told = false;
    char line[512];
    while (fgets(line, sizeof line, f)) {
        char *dash;
        uintptr_t begin = strtoul(line, &dash, 16);
        if (*dash == '-') {
            ours = begin < hi && strtoul(dash + 1, NULL, 16) > lo;
        } else if (ours && strncmp(line, key, sizeof key - 1) == 0) {
            sum += strtoll(line + sizeof key - 1, NULL, 10) * 1024;
            told = true;
        }
    }
    fclose(f);
    /* A mapping may go on beyond the block, where the kernel merged neighbours. */
    return !told ? -1 : sum < (long long)bytes ? sum : (long long)bytes;
}
