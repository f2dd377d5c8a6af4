/*
 * Byte-pair encoding: a word starts as symbols (bytes or characters), and the adjacent pair whose
 * merge has the lowest rank is joined until none is left; of equal ranks the leftmost goes first.
 *
 * Words cost at most O(n log n). Before merging, a word is cut where no merge can reach across,
 * which is exact and keeps most pieces short even where a "word" is a whole text (SentencePiece
 * models). Never changes once filled; any thread, each with its own work space.
 */
#ifndef MOED_TEXT_BPE_H
#define MOED_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "text/merge_queue.h"
#include "text/pieces.h"

struct bpe_merge {
    int32_t left, right; /* left is -1 in an empty slot */
    uint32_t rank;       /* lower goes first */
    int32_t result;
};

struct bpe {
    struct bpe_merge *slots; /* open addressing by (left, right), n_slots a power of two */
    size_t n_slots, n_merges;
    /* Hashes of the first and last character of each symbol, [n_ends]; and for each pair of such
     * hashes (last of the left, first of the right) one bit: some merge may join there. */
    uint16_t *first, *last;
    size_t n_ends;
    uint64_t *joins; /* BPE_JOIN_BITS bits */
};

enum { BPE_JOIN_BITS = 1 << 18 };

void bpe_fini(struct bpe *b);
/* symbols: the string of each id that a merge names; expect: about how many merges will come. */
void bpe_init(struct bpe *b, const struct pieces *symbols, size_t expect);
/* A pair that comes again gets the new rank. */
void bpe_add(struct bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t result);

/* Work space of one thread; starts as {0}. */
struct bpe_work {
    int32_t *symbols; /* the word: filled by the caller, merged in place */
    size_t n, cap;
    uint32_t *prev, *next;
    size_t links_cap;
    struct merge_queue queue;
};
void bpe_work_fini(struct bpe_work *w);
/* Empties the word and makes room for that many symbols. */
void bpe_work_clear(struct bpe_work *w, size_t expect);
void bpe_work_add(struct bpe_work *w, int32_t symbol);

/* Merges w->symbols[0, w->n); w->n is then the number of tokens. */
void bpe_merge_word(const struct bpe *b, struct bpe_work *w);

#endif
