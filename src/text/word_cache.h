/*
 * Remembers the ids of short words during one call: text repeats its words. Belongs to one thread.
 */
#ifndef MOED_TEXT_WORD_CACHE_H
#define MOED_TEXT_WORD_CACHE_H

#include <stddef.h>
#include <stdint.h>

enum { WORD_CACHE_BYTES = 30, WORD_CACHE_IDS = 8 };

struct word_cache {
    struct word_cache_entry {
        uint8_t len; /* 0: empty */
        uint8_t n_ids;
        char word[WORD_CACHE_BYTES];
        int32_t ids[WORD_CACHE_IDS];
    } * entries; /* one place per hash; NULL: nothing is remembered */
    size_t mask;
};

/* Sized for a text of that many bytes; short texts get none. */
void word_cache_open(struct word_cache *c, size_t text_bytes);
void word_cache_fini(struct word_cache *c);

/* The place of a word of n > 0 bytes, NULL for words too long. The word is there if len is n and
 * the bytes are equal (word_cache_has). */
struct word_cache_entry *word_cache_place(const struct word_cache *c, const char *word, size_t n);
int word_cache_has(const struct word_cache_entry *e, const char *word, size_t n);
/* Puts the ids of a word there, if they are few enough. */
void word_cache_put(struct word_cache_entry *e, const char *word, size_t n, const int32_t *ids,
                    size_t n_ids);

#endif
