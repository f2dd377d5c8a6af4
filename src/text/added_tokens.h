/*
 * Added and special tokens: strings found in the text before anything else cuts it. Those marked
 * "normalized" are looked for in normalized text (themselves normalized), the others in the text as
 * it came. Of several at one place the longest wins, which takes linear time.
 * Filled by one thread, then never changed and read by any.
 */
#ifndef MOED_TEXT_ADDED_TOKENS_H
#define MOED_TEXT_ADDED_TOKENS_H

#include <stddef.h>
#include <stdint.h>

#include "text/trie.h"

struct added_token {
    int32_t id;
    int special;
    int single_word;    /* only where no word character is next to it */
    int lstrip, rstrip; /* takes the white space before, behind it */
    int normalized;
};

struct added_tokens {
    struct added_token *token;
    size_t n, cap;
    struct trie raw, normalized; /* value: index into token */
};

void added_tokens_fini(struct added_tokens *a);
/* Registers a token under the text to look for. -1 where that is empty or there are too many. */
int added_tokens_add(struct added_tokens *a, struct added_token token, const char *text, size_t n);

/* A stretch of text: a token where id >= 0, otherwise text between tokens. */
struct added_split {
    size_t begin, end;
    int32_t id;
};
/*
 * Walks over the splits of valid UTF-8: *at is 0 at first, and behind the split on return. Special
 * tokens are left in the text unless with_special. 1, or 0 at the end.
 */
struct added_walk {
    size_t at;                  /* how far the splits given out reach */
    size_t search;              /* where the search goes on */
    struct added_split pending; /* a token found behind text that went out first */
    int has_pending;
};
int added_tokens_next(const struct added_tokens *a, int normalized, int with_special,
                      const char *text, size_t n, struct added_walk *walk,
                      struct added_split *split);

#endif
