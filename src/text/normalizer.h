/*
 * The normalizers of a tokenizer: what is done to text before it is cut into words.
 * Never changes once made; any thread, each with its own scratch.
 */
#ifndef MOED_TEXT_NORMALIZER_H
#define MOED_TEXT_NORMALIZER_H

#include <stddef.h>

#include <jansson.h>

#include "base/buf.h"
#include "moed/error.h"
#include "text/regex.h"

struct normalizer_step;
struct normalizer {
    struct normalizer_step *steps;
    size_t n, cap;
};

/* Two buffers that stages write to in turn, and what regular expressions need. Starts as {0}. */
struct text_scratch {
    struct buf text[2];
    int current; /* of text, where the last stage wrote */
    struct regex_scratch regex;
};
void text_scratch_fini(struct text_scratch *s);
/* The buffer that does not hold the current text, emptied; it becomes the current one. */
struct buf *text_scratch_next(struct text_scratch *s);

/* From the "normalizer" value of a tokenizer.json; null gives an empty list. */
int normalizer_parse(struct normalizer *out, const json_t *spec, struct moed_error *err);
void normalizer_fini(struct normalizer *nz);
int normalizer_regexes(const struct normalizer *nz, int *jit);

struct sp_normalizer;
/* Appends SentencePiece's own normalization; takes ownership. */
void normalizer_add_sentencepiece(struct normalizer *nz, struct sp_normalizer *sp);

/* *out is the text itself where nothing changes it, or in the scratch until its next use. */
int normalizer_apply(const struct normalizer *nz, struct text_scratch *scratch, const char *s,
                     size_t n, const char **out, size_t *n_out, struct moed_error *err);

#endif
