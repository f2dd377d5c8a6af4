/*
 * The unigram model: of all ways to cut a word into pieces the one with the highest sum of scores
 * (log probabilities), found by Viterbi's algorithm in linear time. A word is first cut where no
 * piece can reach across, which changes nothing but the memory that long words need.
 * Never changes once filled; any thread, each with its own work space.
 */
#ifndef MOED_TEXT_UNIGRAM_H
#define MOED_TEXT_UNIGRAM_H

#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer.h"
#include "text/trie.h"

struct unigram {
    struct trie pieces; /* value: id; filled by unigram_add */
    /* For each pair of characters, by hash: some piece has them next to each other. */
    uint64_t *joins; /* UNIGRAM_JOIN_BITS bits */
    double *score;   /* [n] */
    int32_t n;
    int32_t unk;       /* -1: what no piece covers is left out */
    double unk_score;  /* of a character that no piece covers */
    int single_floats; /* sums are rounded to float, as SentencePiece's are */
    /* The bytes of an unknown stretch in place of unk, where all have a piece "<0x0A>". */
    int byte_fallback;
    int32_t byte_piece[256]; /* -1 where there is none */
};

enum { UNIGRAM_JOIN_BITS = 1 << 18 };

void unigram_fini(struct unigram *u);
/* Adds a piece of n > 0 valid UTF-8 bytes. -1 where there are too many. */
int unigram_add(struct unigram *u, const char *piece, size_t n, int32_t id);

/* Work space of one thread; starts as {0}. */
struct unigram_work {
    struct unigram_node {
        double score;
        uint32_t begin; /* of the last piece of the best way here, or UNIGRAM_UNREACHED */
        int32_t id;
    } * nodes;
    size_t cap;
    struct tokens reversed;
};
#define UNIGRAM_UNREACHED UINT32_MAX

void unigram_work_fini(struct unigram_work *w);

/* Appends the ids of one word of n valid UTF-8 bytes (n below 2^32 - 1). */
void unigram_encode(const struct unigram *u, struct unigram_work *work, const char *word, size_t n,
                    struct tokens *out);

#endif
