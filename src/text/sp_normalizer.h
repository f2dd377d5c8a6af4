/*
 * SentencePiece's own normalization: character map, white space rules, the dummy prefix.
 * Never changes once made; any thread.
 */
#ifndef MOED_TEXT_SP_NORMALIZER_H
#define MOED_TEXT_SP_NORMALIZER_H

#include <stddef.h>

#include "base/buf.h"
#include "text/charsmap.h"
#include "text/trie.h"

struct sp_normalizer {
    struct charsmap *map;     /* NULL: every character stays */
    struct trie user_defined; /* symbols that pass unchanged */
    int add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    int whitespace_as_suffix;
};
void sp_normalizer_close(struct sp_normalizer **sp);
/* Appends the normalized text of valid UTF-8. */
void sp_normalize(const struct sp_normalizer *sp, const char *s, size_t n, struct buf *out);

/* U+2581, which stands for a space inside pieces. */
#define SP_SPACE "\xE2\x96\x81"

#endif
