/*
 * Memory.
 *
 * mem_new and its relatives serve small allocations whose size our own limits bound: they do not
 * return NULL, the process ends with a message instead, because no caller could go on. Whatever
 * grows with a file or a request beyond 64 KiB uses mem_try and reports MOED_ENOMEM. All may be
 * called from any thread.
 */
#ifndef MOED_BASE_MEM_H
#define MOED_BASE_MEM_H

#include <stddef.h>

/* Zeroed memory for n objects of size bytes; overflow counts as out of memory. Free with free(). */
void *mem_new(size_t n, size_t size);
/* Like realloc for n objects; new bytes are not cleared. */
void *mem_grow(void *p, size_t n, size_t size);
char *mem_strdup(const char *s);
/* A zero-terminated copy of n bytes. */
char *mem_strndup(const char *s, size_t n);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Zeroed memory for n objects of size bytes, or NULL. */
void *mem_try(size_t n, size_t size);

/* Makes room for at least `need` elements in a growing array: doubles *cap. p is the array,
 * returned moved. */
void *mem_reserve(void *p, size_t *cap, size_t need, size_t size);

/*
 * Page-aligned zeroed memory for bulk data (weights, KV, records): mapped, on huge pages where the
 * kernel gives them. NULL when it cannot be had. Free with mem_unmap and the same size.
 */
void *mem_map(size_t bytes);
void mem_unmap(void *p, size_t bytes);
/* Moves what such a block holds to huge pages where it does not lie on them yet: a copy of it, for
 * blocks that were filled while the kernel gave none. Does what it can (Linux 6.1 and later). */
void mem_make_huge(void *p, size_t bytes);
/* Bytes of such a block that lie on huge pages now, -1 where the system does not tell. Takes a walk
 * over the block's page tables (before Linux 6.7: the whole process's). */
long long mem_huge_bytes(const void *p, size_t bytes);

#endif
