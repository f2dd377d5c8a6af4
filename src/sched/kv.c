#include "sched/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/mem.h"

#define NONE (-1)

struct block {
    int32_t refs;
    int32_t prev, next;  /* in the free or the LRU list */
    int32_t bucket_next; /* published blocks of the same bucket */
    uint64_t serial;     /* 0: not published */
    uint64_t parent;     /* serial of the block before; 0: none */
    uint64_t hash;
    struct kv_salt salt;
    int32_t tokens[SCHED_BLOCK_TOKENS];
};

/* Oldest first. */
struct list {
    int32_t head, tail, n;
};

struct kv_pool {
    int32_t n_blocks;
    uint64_t hash_mask, last_serial;
    size_t n_buckets; /* a power of two */
    struct list free, lru;
    int32_t *bucket;     /* [n_buckets] first block or NONE */
    struct block *block; /* [n_blocks] */
};

static void list_push(struct kv_pool *p, struct list *l, int32_t b)
{
    p->block[b].prev = l->tail;
    p->block[b].next = NONE;
    if (l->tail == NONE)
        l->head = b;
    else
        p->block[l->tail].next = b;
    l->tail = b;
    l->n++;
}

static void list_remove(struct kv_pool *p, struct list *l, int32_t b)
{
    struct block *k = &p->block[b];
    if (k->prev == NONE)
        l->head = k->next;
    else
        p->block[k->prev].next = k->next;
    if (k->next == NONE)
        l->tail = k->prev;
    else
        p->block[k->next].prev = k->prev;
    l->n--;
}

int kv_pool_open(struct kv_pool **out, int32_t n_blocks, uint64_t hash_mask, struct moed_error *err)
{
    *out = NULL;
    if (n_blocks < 1)
        return moed_fail(err, MOED_EINVAL, "a KV cache needs at least one block, not %d", n_blocks);
    struct kv_pool *p = mem_new(1, sizeof *p);
    p->n_blocks = n_blocks;
    p->hash_mask = hash_mask;
    p->n_buckets = 16;
    while (p->n_buckets < (size_t)n_blocks)
        p->n_buckets *= 2;
    p->bucket = mem_try(p->n_buckets, sizeof *p->bucket);
    p->block = mem_try((size_t)n_blocks, sizeof *p->block);
    if (!p->bucket || !p->block) {
        kv_pool_close(&p);
        return moed_fail(err, MOED_ENOMEM, "no memory for the table of %d KV blocks", n_blocks);
    }
    for (size_t i = 0; i < p->n_buckets; i++)
        p->bucket[i] = NONE;
    p->free = p->lru = (struct list){NONE, NONE, 0};
    for (int32_t b = 0; b < n_blocks; b++)
        list_push(p, &p->free, b);
    *out = p;
    return 0;
}

void kv_pool_close(struct kv_pool **p)
{
    if (!*p)
        return;
    free((*p)->bucket);
    free((*p)->block);
    free(*p);
    *p = NULL;
}

int32_t kv_total(const struct kv_pool *p)
{
    return p->n_blocks;
}

int32_t kv_available(const struct kv_pool *p)
{
    return p->free.n + p->lru.n;
}

int32_t kv_cached(const struct kv_pool *p)
{
    return p->lru.n;
}

int32_t kv_refs(const struct kv_pool *p, int32_t block)
{
    return p->block[block].refs;
}

static int32_t *bucket_of(const struct kv_pool *p, uint64_t hash)
{
    return &p->bucket[hash & (p->n_buckets - 1)];
}

static void unpublish(struct kv_pool *p, int32_t b)
{
    int32_t *at = bucket_of(p, p->block[b].hash);
    while (*at != b)
        at = &p->block[*at].bucket_next;
    *at = p->block[b].bucket_next;
    p->block[b].serial = 0;
}

int32_t kv_alloc(struct kv_pool *p)
{
    int32_t b = p->free.head;
    if (b != NONE) {
        list_remove(p, &p->free, b);
    } else {
        b = p->lru.head;
        if (b == NONE)
            return NONE;
        list_remove(p, &p->lru, b);
        unpublish(p, b);
    }
    p->block[b].refs = 1;
    return b;
}

void kv_ref(struct kv_pool *p, int32_t b)
{
    assert(p->block[b].refs > 0 || p->block[b].serial);
    if (p->block[b].refs++ == 0)
        list_remove(p, &p->lru, b);
}

void kv_unref(struct kv_pool *p, int32_t b)
{
    assert(p->block[b].refs > 0);
    if (--p->block[b].refs > 0)
        return;
    list_push(p, p->block[b].serial ? &p->lru : &p->free, b);
}

static uint64_t chain_hash(const struct kv_pool *p, int32_t parent, struct kv_salt salt,
                           const int32_t *tokens)
{
    uint64_t seed = parent == NONE ? XXH3_64bits(&salt, sizeof salt) : p->block[parent].hash;
    return XXH3_64bits_withSeed(tokens, SCHED_BLOCK_TOKENS * sizeof *tokens, seed) & p->hash_mask;
}

static int32_t find(const struct kv_pool *p, uint64_t hash, int32_t parent, struct kv_salt salt,
                    const int32_t *tokens)
{
    uint64_t parent_serial = parent == NONE ? 0 : p->block[parent].serial;
    for (int32_t b = *bucket_of(p, hash); b != NONE; b = p->block[b].bucket_next) {
        const struct block *k = &p->block[b];
        if (k->hash == hash && k->parent == parent_serial && k->salt.key == salt.key &&
            k->salt.scope == salt.scope && !memcmp(k->tokens, tokens, sizeof k->tokens))
            return b;
    }
    return NONE;
}

int32_t kv_find(const struct kv_pool *p, int32_t parent, struct kv_salt salt, const int32_t *tokens)
{
    return find(p, chain_hash(p, parent, salt, tokens), parent, salt, tokens);
}

int32_t kv_publish(struct kv_pool *p, int32_t b, int32_t parent, struct kv_salt salt,
                   const int32_t *tokens)
{
    struct block *k = &p->block[b];
    assert(k->refs == 1 && !k->serial);
    assert(parent == NONE || p->block[parent].serial);
    uint64_t hash = chain_hash(p, parent, salt, tokens);
    int32_t same = find(p, hash, parent, salt, tokens);
    if (same != NONE) {
        kv_ref(p, same);
        kv_unref(p, b);
        return same;
    }
    k->serial = ++p->last_serial;
    k->parent = parent == NONE ? 0 : p->block[parent].serial;
    k->hash = hash;
    k->salt = salt;
    memcpy(k->tokens, tokens, sizeof k->tokens);
    int32_t *at = bucket_of(p, hash);
    k->bucket_next = *at;
    *at = b;
    return b;
}
