#include "base/mem_int.h"

#include <stdarg.h>
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

void *mem_map(size_t bytes)
{
    if (bytes == 0 || bytes > SIZE_MAX - 2 * HUGE_PAGE_BYTES)
        return NULL;
    /* Over-map by one huge page and give the ends back, so that the block starts on a huge page. */
    size_t want = mem_mapped_bytes(bytes), over = want + HUGE_PAGE_BYTES;
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
        munmap(p, mem_mapped_bytes(bytes));
}

void mem_make_huge(void *p, size_t bytes)
{
    madvise(p, mem_mapped_bytes(bytes), MADV_COLLAPSE);
}
