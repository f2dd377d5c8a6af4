/*
 * A trie over bytes: longest match and common prefixes of a set of strings, each with a number.
 * Filled by one thread, then never changed and read by any.
 */
#ifndef MOED_TEXT_TRIE_H
#define MOED_TEXT_TRIE_H

#include <stddef.h>
#include <stdint.h>

struct trie {
    int32_t *value; /* [n_nodes], -1 where no string ends */
    size_t n_nodes, cap;
    struct trie_edge {
        uint32_t key;   /* node << 8 | byte */
        uint32_t child; /* 0: empty slot */
    } * edges;          /* open addressing, n_slots a power of two */
    size_t n_slots, n_edges;
    uint32_t root[256]; /* children of the root, 0 where none */
};

/* More nodes than this do not fit the edge key; trie_add then returns -1. */
enum { TRIE_MAX_NODES = 1 << 24 };

void trie_fini(struct trie *t);
/* value >= 0; a string added again gets the new value. 0, or -1 where the trie is full or n is 0.
 */
int trie_add(struct trie *t, const char *s, size_t n, int32_t value);
/* The node behind `node` (0 is the root) by one byte; 0 where there is none. */
uint32_t trie_step(const struct trie *t, uint32_t node, unsigned char byte);
/* The value of the longest string that bytes start with and its length; -1 where none. */
int32_t trie_longest(const struct trie *t, const char *bytes, size_t n, size_t *len);

#endif
