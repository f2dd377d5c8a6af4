/* Inside base: how huge pages are counted, each way apart for its test. */
#ifndef MOED_BASE_MEM_INT_H
#define MOED_BASE_MEM_INT_H

#include "base/mem.h"

/* 2 MiB is the huge page of x86-64 and the common one of aarch64. */
#define HUGE_PAGE_BYTES ((size_t)2 << 20)

/* What mem_map maps for so many bytes. */
static inline size_t mem_mapped_bytes(size_t bytes)
{
    return (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
}

/* As mem_huge_bytes. The kernel walks the block alone (Linux 6.7 and later), or it lists every
 * mapping of the process, which takes tens of milliseconds beside a GPU's driver. */
long long mem_huge_bytes_scanned(const void *p, size_t bytes);
long long mem_huge_bytes_listed(const void *p, size_t bytes);

#endif
