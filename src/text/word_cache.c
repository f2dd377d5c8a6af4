#include "text/word_cache.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/mem.h"

enum {
    MIN_TEXT_BYTES = 1024,
    MAX_ENTRIES = 4096, /* 256 KiB: stays in the second-level cache */
};

void word_cache_open(struct word_cache *c, size_t text_bytes)
{
    *c = (struct word_cache){0};
    if (text_bytes < MIN_TEXT_BYTES)
        return;
    size_t n = 64;
    while (n < MAX_ENTRIES && n < text_bytes / 16)
        n *= 2;
    c->entries = mem_new(n, sizeof *c->entries);
    c->mask = n - 1;
}

void word_cache_fini(struct word_cache *c)
{
    free(c->entries);
    *c = (struct word_cache){0};
}

struct word_cache_entry *word_cache_place(const struct word_cache *c, const char *word, size_t n)
{
    if (!c->entries || n > WORD_CACHE_BYTES)
        return NULL;
    return &c->entries[XXH3_64bits(word, n) & c->mask];
}

int word_cache_has(const struct word_cache_entry *e, const char *word, size_t n)
{
    return e->len == n && memcmp(e->word, word, n) == 0;
}

void word_cache_put(struct word_cache_entry *e, const char *word, size_t n, const int32_t *ids,
                    size_t n_ids)
{
    if (n_ids > WORD_CACHE_IDS)
        return;
    e->len = (uint8_t)n;
    e->n_ids = (uint8_t)n_ids;
    memcpy(e->word, word, n);
    for (size_t i = 0; i < n_ids; i++)
        e->ids[i] = ids[i];
}
