#include "text/pieces.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/mem.h"

void pieces_fini(struct pieces *p)
{
    free(p->bytes);
    free(p->piece);
    free(p->slots);
    *p = (struct pieces){0};
}

void pieces_set(struct pieces *p, int32_t id, const char *s, size_t n)
{
    assert(id >= 0 && id <= PIECES_MAX_ID);
    if ((size_t)id >= p->n) {
        p->piece = mem_reserve(p->piece, &p->cap, (size_t)id + 1, sizeof *p->piece);
        for (size_t i = p->n; i <= (size_t)id; i++)
            p->piece[i] = (struct piece){PIECE_NONE, 0};
        p->n = (size_t)id + 1;
    }
    assert(p->bytes_len + n + 1 < PIECE_NONE);
    p->bytes = mem_reserve(p->bytes, &p->bytes_cap, p->bytes_len + n + 1, 1);
    memcpy(p->bytes + p->bytes_len, s, n);
    p->bytes[p->bytes_len + n] = 0;
    p->piece[id] = (struct piece){(uint32_t)p->bytes_len, (uint32_t)n};
    p->bytes_len += n + 1;
}

/* The slot of an equal string, or the empty one where it would go. */
static struct piece_slot *slot_of(const struct pieces *p, const char *s, size_t n, uint64_t hash)
{
    size_t mask = p->n_slots - 1;
    uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        struct piece_slot *slot = &p->slots[i];
        if (slot->id < 0)
            return slot;
        if (slot->tag != tag)
            continue;
        const struct piece *piece = &p->piece[slot->id];
        if (piece->len == n && memcmp(p->bytes + piece->at, s, n) == 0)
            return slot;
    }
}

static void rehash(struct pieces *p, size_t n_slots)
{
    struct piece_slot *old = p->slots;
    size_t n_old = p->n_slots;
    p->n_slots = n_slots;
    p->slots = mem_new(n_slots, sizeof *p->slots);
    memset(p->slots, 0xFF, n_slots * sizeof *p->slots);
    for (size_t i = 0; i < n_old; i++) {
        if (old[i].id < 0)
            continue;
        const struct piece *piece = &p->piece[old[i].id];
        const char *s = p->bytes + piece->at;
        *slot_of(p, s, piece->len, XXH3_64bits(s, piece->len)) = old[i];
    }
    free(old);
}

void pieces_expect(struct pieces *p, size_t n)
{
    size_t n_slots = p->n_slots ? p->n_slots : 64;
    while (n_slots < 2 * n)
        n_slots *= 2;
    if (n_slots > p->n_slots)
        rehash(p, n_slots);
}

void pieces_index(struct pieces *p, int32_t id)
{
    assert(id >= 0 && (size_t)id < p->n && p->piece[id].at != PIECE_NONE);
    pieces_expect(p, p->used + 1);
    const struct piece *piece = &p->piece[id];
    const char *s = p->bytes + piece->at;
    uint64_t hash = XXH3_64bits(s, piece->len);
    struct piece_slot *slot = slot_of(p, s, piece->len, hash);
    p->used += slot->id < 0;
    *slot = (struct piece_slot){(uint32_t)(hash >> 32), id};
}

int32_t pieces_find(const struct pieces *p, const char *s, size_t n)
{
    return p->n_slots ? slot_of(p, s, n, XXH3_64bits(s, n))->id : -1;
}

uint64_t pieces_hash(const struct pieces *p, const char *s, size_t n)
{
    uint64_t hash = XXH3_64bits(s, n);
    if (p->n_slots)
        __builtin_prefetch(&p->slots[hash & (p->n_slots - 1)]);
    return hash;
}

int32_t pieces_find_hashed(const struct pieces *p, const char *s, size_t n, uint64_t hash)
{
    return p->n_slots ? slot_of(p, s, n, hash)->id : -1;
}

const char *pieces_get(const struct pieces *p, int32_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= p->n || p->piece[id].at == PIECE_NONE) {
        *n = 0;
        return NULL;
    }
    *n = p->piece[id].len;
    return p->bytes + p->piece[id].at;
}
