#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/unicode.h"

enum {
    SHORT_WORD = 24, /* symbols up to which a plain search for the best pair is fastest */
};

void bpe_fini(struct bpe *b)
{
    free(b->slots);
    free(b->first);
    free(b->last);
    free(b->joins);
    *b = (struct bpe){0};
}

/* A character of at most 4 bytes as a hash of 16 bits. */
static uint16_t hash_char(const char *s, size_t n)
{
    uint32_t v = 0;
    for (size_t i = 0; i < n; i++)
        v = v << 8 | (unsigned char)s[i];
    return (uint16_t)(v * 0x9E3779B1u >> 16);
}

static size_t join_bit(uint16_t last, uint16_t first)
{
    return ((uint32_t)last * 0x85EBCA6Bu ^ (uint32_t)first * 0xC2B2AE35u) >> 14;
}

/* Length of the first character; 1 where the bytes are not UTF-8 (pieces of plain bytes). */
static size_t first_char(const char *s, size_t n)
{
    size_t len = 1;
    while (len < n && len < 4 && ((unsigned char)s[len] & 0xC0) == 0x80)
        len++;
    return len;
}

void bpe_init(struct bpe *b, const struct pieces *symbols, size_t expect)
{
    *b = (struct bpe){.n_slots = 64};
    while (b->n_slots < 2 * expect)
        b->n_slots *= 2;
    b->slots = mem_new(b->n_slots, sizeof *b->slots);
    for (size_t i = 0; i < b->n_slots; i++)
        b->slots[i].left = -1;
    b->joins = mem_new(BPE_JOIN_BITS / 64, sizeof *b->joins);
    b->n_ends = symbols->n;
    b->first = mem_new(b->n_ends, sizeof *b->first);
    b->last = mem_new(b->n_ends, sizeof *b->last);
    for (size_t i = 0; i < b->n_ends; i++) {
        size_t n;
        const char *s = pieces_get(symbols, (int32_t)i, &n);
        if (!s || n == 0)
            continue;
        b->first[i] = hash_char(s, first_char(s, n));
        size_t len = unicode_len_before(s, n);
        b->last[i] = hash_char(s + n - len, len);
    }
}

static size_t pair_hash(int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (key * 0x9E3779B97F4A7C15u) >> 24;
}

static struct bpe_merge *slot_of(const struct bpe *b, int32_t left, int32_t right)
{
    size_t mask = b->n_slots - 1;
    size_t i = pair_hash(left, right) & mask;
    while (b->slots[i].left >= 0 && (b->slots[i].left != left || b->slots[i].right != right))
        i = (i + 1) & mask;
    return &b->slots[i];
}

static void grow(struct bpe *b)
{
    struct bpe_merge *old = b->slots;
    size_t n_old = b->n_slots;
    b->n_slots *= 2;
    b->slots = mem_new(b->n_slots, sizeof *b->slots);
    for (size_t i = 0; i < b->n_slots; i++)
        b->slots[i].left = -1;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].left >= 0)
            *slot_of(b, old[i].left, old[i].right) = old[i];
    free(old);
}

void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t result)
{
    if (2 * b->n_merges >= b->n_slots)
        grow(b);
    struct bpe_merge *slot = slot_of(b, left, right);
    b->n_merges += slot->left < 0;
    *slot = (struct bpe_merge){left, right, rank, result};
    size_t bit = join_bit(b->last[left], b->first[right]);
    b->joins[bit / 64] |= 1ull << bit % 64;
}

void bpe_work_fini(struct bpe_work *w)
{
    free(w->symbols);
    free(w->prev);
    free(w->next);
    merge_queue_fini(&w->queue);
    *w = (struct bpe_work){0};
}

void bpe_work_clear(struct bpe_work *w, size_t expect)
{
    w->symbols = mem_reserve(w->symbols, &w->cap, expect, sizeof *w->symbols);
    w->n = 0;
}

void bpe_work_add(struct bpe_work *w, int32_t symbol)
{
    if (w->n == w->cap)
        w->symbols = mem_reserve(w->symbols, &w->cap, w->n + 1, sizeof *w->symbols);
    w->symbols[w->n++] = symbol;
}

static const struct bpe_merge *merge_of(const struct bpe *b, int32_t left, int32_t right)
{
    const struct bpe_merge *m = slot_of(b, left, right);
    return m->left >= 0 ? m : NULL;
}

/* Merges s[0, n) by searching all pairs each time; returns the new count. */
static size_t merge_short(const struct bpe *b, int32_t *s, size_t n)
{
    const struct bpe_merge *pair[SHORT_WORD]; /* of s[i] and s[i + 1] */
    for (size_t i = 0; i + 1 < n; i++)
        pair[i] = merge_of(b, s[i], s[i + 1]);
    while (n > 1) {
        size_t best = n;
        uint32_t rank = UINT32_MAX;
        for (size_t i = 0; i + 1 < n; i++) {
            if (pair[i] && (pair[i]->rank < rank || best == n)) {
                best = i;
                rank = pair[i]->rank;
            }
        }
        if (best == n)
            break;
        s[best] = pair[best]->result;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            s[i] = s[i + 1];
            pair[i - 1] = pair[i];
        }
        if (best > 0)
            pair[best - 1] = merge_of(b, s[best - 1], s[best]);
        if (best + 1 < n)
            pair[best] = merge_of(b, s[best], s[best + 1]);
    }
    return n;
}

static void consider(const struct bpe *b, struct bpe_work *w, const int32_t *s, uint32_t at,
                     uint32_t behind)
{
    const struct bpe_merge *m = merge_of(b, s[at], s[behind]);
    if (m)
        merge_queue_push(&w->queue, m->rank, at);
}

/* The same for long words, by a queue of candidates over a linked list; a symbol that was joined to
 * the one before it is -1. */
static size_t merge_long(const struct bpe *b, struct bpe_work *w, int32_t *s, size_t n)
{
    if (w->links_cap < n) {
        size_t cap = w->links_cap;
        w->prev = mem_reserve(w->prev, &cap, n, sizeof *w->prev);
        w->next = mem_reserve(w->next, &w->links_cap, n, sizeof *w->next);
    }
    merge_queue_clear(&w->queue, n);
    for (uint32_t i = 0; i < n; i++) {
        w->prev[i] = i - 1; /* the first has UINT32_MAX */
        w->next[i] = i + 1; /* the last has n */
        if (i + 1 < n)
            consider(b, w, s, i, i + 1);
    }
    uint32_t rank, at;
    while (merge_queue_pop(&w->queue, &rank, &at)) {
        uint32_t behind = s[at] >= 0 ? w->next[at] : (uint32_t)n;
        const struct bpe_merge *m = behind < n ? merge_of(b, s[at], s[behind]) : NULL;
        if (!m || m->rank != rank)
            continue; /* one of the two was merged meanwhile */
        s[at] = m->result;
        s[behind] = -1;
        uint32_t after = w->next[behind];
        w->next[at] = after;
        if (after < n)
            w->prev[after] = at;
        if (w->prev[at] != UINT32_MAX)
            consider(b, w, s, w->prev[at], at);
        if (after < n)
            consider(b, w, s, at, after);
    }
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i] >= 0)
            s[n_out++] = s[i];
    return n_out;
}

static int may_join(const struct bpe *b, int32_t left, int32_t right)
{
    size_t bit = join_bit(b->last[left], b->first[right]);
    return (b->joins[bit / 64] >> bit % 64 & 1) != 0;
}

void bpe_merge_word(const struct bpe *b, struct bpe_work *w)
{
    size_t n_out = 0;
    for (size_t begin = 0, end; begin < w->n; begin = end) {
        end = begin + 1;
        while (end < w->n && may_join(b, w->symbols[end - 1], w->symbols[end]))
            end++;
        int32_t *s = w->symbols + begin;
        size_t n = end - begin;
        n = n <= SHORT_WORD ? merge_short(b, s, n) : merge_long(b, w, s, n);
        memmove(w->symbols + n_out, s, n * sizeof *s);
        n_out += n;
    }
    w->n = n_out;
}
