/*
 * The blocks of the KV cache: who holds them, and which hold a known prefix. Pure bookkeeping; the
 * memory behind a block number is the model's. One thread: the scheduler's owner.
 *
 *   free        no holder, no content                        -> held by kv_alloc
 *   held        refs > 0; private, or published              -> kv_unref; last one: free or cached
 *   cached      published, refs 0, in the LRU list           -> held by kv_ref, free by eviction
 *
 * A block is published once all its 16 tokens are computed. A published block is named by its
 * content: 16 token ids, salt, and the serial number of the block before it. The chained hash only
 * finds candidates; the stored content decides, so a collision costs time and never shows one
 * client another's state. When a block is evicted its serial dies with it, and what followed it can
 * no longer be reached.
 */
#ifndef MOED_SCHED_KV_H
#define MOED_SCHED_KV_H

#include <stdbool.h>
#include <stdint.h>

#include "moed/error.h"

#define SCHED_BLOCK_TOKENS 16

/* Prefixes are shared only where both are equal. scope: 0 for all requests, or one request's own
 * number. */
struct kv_salt {
    uint64_t key, scope;
};

struct kv_pool;
/* hash_mask is UINT64_MAX; tests pass fewer bits to force collisions. */
int kv_pool_open(struct kv_pool **out, int32_t n_blocks, uint64_t hash_mask,
                 struct moed_error *err);
void kv_pool_close(struct kv_pool **p);

int32_t kv_total(const struct kv_pool *p);
/* Blocks that kv_alloc could hand out now: free and cached ones. */
int32_t kv_available(const struct kv_pool *p);
int32_t kv_cached(const struct kv_pool *p);

/* A private block with one reference, its old content forgotten; -1 when none is available. */
int32_t kv_alloc(struct kv_pool *p);
void kv_ref(struct kv_pool *p, int32_t block);
void kv_unref(struct kv_pool *p, int32_t block);
int32_t kv_refs(const struct kv_pool *p, int32_t block);

/* The published block of these 16 tokens after parent (-1: at the start), or -1. Takes no
 * reference. */
int32_t kv_find(const struct kv_pool *p, int32_t parent, struct kv_salt salt,
                const int32_t *tokens);
/*
 * Publishes a held private block. Where an equal one is published already, the caller's reference
 * moves to that one. Returns the block that the caller now holds. parent must be published.
 */
int32_t kv_publish(struct kv_pool *p, int32_t block, int32_t parent, struct kv_salt salt,
                   const int32_t *tokens);

#endif
