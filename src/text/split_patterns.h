/*
 * How model families cut text into words, for files that do not say it themselves: tiktoken ranks
 * (told apart by their number) and GGUF vocabularies (tokenizer.ggml.pre). The patterns are what
 * the makers published with their tokenizers.
 */
#ifndef MOED_TEXT_SPLIT_PATTERNS_H
#define MOED_TEXT_SPLIT_PATTERNS_H

#include "moed/error.h"
#include "text/pretokenizer.h"

enum { SPLIT_PATTERNS_MAX = 6 };

struct split_family {
    const char *name;                         /* as in tokenizer.ggml.pre */
    const char *patterns[SPLIT_PATTERNS_MAX]; /* applied one after the other; NULL at the end */
    int ignore_merges;                        /* a word that is a piece is one token */
};

/* NULL for a name that is unknown. Several names share a family. */
const struct split_family *split_family_find(const char *name);
int split_family_add(const struct split_family *family, struct pretokenizer *p,
                     struct moed_error *err);

#endif
