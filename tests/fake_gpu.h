/*
 * A GPU played by a thread: the other side of the mailbox of misses (kernels/mailbox.h), for tests
 * and benches. It posts jobs, computes the link's share with a CPU kernel of one thread, and waits.
 * Every function belongs to the thread that plays.
 */
#ifndef MOED_TESTS_FAKE_GPU_H
#define MOED_TESTS_FAKE_GPU_H

#include <assert.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "kernels.h"
#include "mailbox.h"
#include "pack_record.h"

struct fake_gpu {
    struct mailbox *box;
    struct mailbox_layout l;
    struct record_class cls;
    int layers, experts;
    const void **host_of; /* [layers * experts] */
    uint8_t *records;
    size_t owned_bytes; /* of records, when they are its own */
    uint32_t seq;       /* of the last job */
    bool yields;        /* while it waits */
    uint32_t random;
};

static inline uint32_t fake_random(struct fake_gpu *g)
{
    return (g->random = g->random * 1664525 + 1013904223) >> 8;
}

static inline void *fake_array(const struct fake_gpu *g, size_t off)
{
    return (char *)g->box + off;
}

/* A mailbox for records that lie at `records` (layers * experts of them). */
static inline void fake_open_at(struct fake_gpu *g, uint8_t *records, int width, int inner,
                                int layers, int experts, int max_rows, int top_k)
{
    *g = (struct fake_gpu){.layers = layers, .experts = experts, .random = 12345, .yields = true};
    g->cls = record_class_swiglu(DTYPE_BF16, width, inner);
    g->l = mailbox_layout(max_rows, top_k, experts, width, inner);
    g->box = mem_map(g->l.bytes);
    g->records = records;
    g->host_of = mem_new((size_t)layers * (size_t)experts, sizeof *g->host_of);
    for (size_t i = 0; i < (size_t)layers * (size_t)experts; i++)
        g->host_of[i] = g->records + i * g->cls.bytes;
}

/* The same with its own records of random bf16, magnitudes 1/32 to 1/8. */
static inline void fake_open(struct fake_gpu *g, int width, int inner, int layers, int experts,
                             int max_rows, int top_k)
{
    struct record_class cls = record_class_swiglu(DTYPE_BF16, width, inner);
    size_t bytes = (size_t)layers * (size_t)experts * cls.bytes;
    uint16_t *w = mem_map(bytes);
    fake_open_at(g, (uint8_t *)w, width, inner, layers, experts, max_rows, top_k);
    g->owned_bytes = bytes;
    for (size_t i = 0; i < bytes / 2; i++)
        w[i] = (uint16_t)((fake_random(g) & 0x80ff) | 0x3d00);
}

/* Packs its own records, after one in so many of the weights was made far smaller than the others.
 */
static inline void fake_pack(struct fake_gpu *g)
{
    struct record_class plain = g->cls,
                        packed = record_class_packed(plain.hidden, plain.intermediate);
    size_t records = (size_t)g->layers * (size_t)g->experts, bytes = records * packed.bytes;
    uint8_t *to = mem_map(bytes);
    bool fits = true;
    for (size_t i = 0; i < records; i++) {
        uint16_t *w = (uint16_t *)(void *)(g->records + i * plain.bytes);
        for (size_t j = fake_random(g) % 100; j < plain.bytes / 2; j += 150 + fake_random(g) % 100)
            w[j] = (uint16_t)(w[j] & 0x80ff) | 0x3000;
        g->host_of[i] = to + i * packed.bytes;
        fits &= pack_record(kern_cpu(KERN_ISA_AUTO), &plain, w, &packed, to + i * packed.bytes);
    }
    assert(fits);
    mem_unmap(g->records, g->owned_bytes);
    g->records = to;
    g->owned_bytes = bytes;
    g->cls = packed;
}

static inline void fake_close(struct fake_gpu *g)
{
    mem_unmap(g->box, g->l.bytes);
    if (g->owned_bytes)
        mem_unmap(g->records, g->owned_bytes);
    free(g->host_of);
}

/* Waits for *word to hold seq; false after limit_us or when the mailbox is stopped. */
static inline bool fake_wait(const struct fake_gpu *g, const uint32_t *word, uint32_t seq,
                             int64_t limit_us)
{
    int64_t end_us = 0;
    for (unsigned n = 1; __atomic_load_n(word, __ATOMIC_ACQUIRE) != seq; n++) {
        if (n % 64)
            continue;
        int64_t now_us = clock_us();
        end_us = end_us ? end_us : now_us + limit_us;
        if (now_us > end_us || __atomic_load_n(&g->box->stop, __ATOMIC_ACQUIRE))
            return false;
        if (g->yields)
            sched_yield();
    }
    return true;
}

/* Says that the job whose lists, x and fields stand is posted; returns its seq. */
static inline uint32_t fake_post(struct fake_gpu *g)
{
    if (!++g->seq)
        ++g->seq;
    __atomic_store_n(&g->box->posted, g->seq, __ATOMIC_RELEASE);
    return g->seq;
}

static inline void fake_link_hidden(struct fake_gpu *g)
{
    __atomic_store_n(&g->box->link_hidden, g->seq, __ATOMIC_RELEASE);
}

static inline void fake_abandon(struct fake_gpu *g)
{
    __atomic_store_n(&g->box->abandon, g->seq, __ATOMIC_RELEASE);
}

#endif
