/*
 * SentencePiece's compiled character map: a trie from character sequences to their replacements.
 * Format (little endian): u32 size of the trie in bytes; the trie, a double array of u32 units as
 * of the library Darts-clone; the replacements, each ending in a zero byte.
 * Never changes once opened; any thread.
 */
#ifndef MOED_TEXT_CHARSMAP_H
#define MOED_TEXT_CHARSMAP_H

#include <stddef.h>

#include "base/buf.h"
#include "moed/error.h"

struct charsmap;
int charsmap_open(struct charsmap **out, const char *bytes, size_t n, struct moed_error *err);
int charsmap_open_base64(struct charsmap **out, const char *text, size_t n, struct moed_error *err);
void charsmap_close(struct charsmap **m);

/* The replacement of the longest (or shortest) sequence that s starts with, and the bytes it
 * covers; NULL where there is none. */
const char *charsmap_longest(const struct charsmap *m, const char *s, size_t n, size_t *len);
const char *charsmap_shortest(const struct charsmap *m, const char *s, size_t n, size_t *len);

/* Appends the text as Hugging Face's "Precompiled" normalizer maps it. */
void charsmap_apply(const struct charsmap *m, const char *s, size_t n, struct buf *out);

#endif
