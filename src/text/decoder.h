/*
 * Decoders: from pieces back to text. What a decoder does to single tokens is done once, when the
 * tokenizer is built; what it does to the text as a whole is left to the detokenizer.
 */
#ifndef MOED_TEXT_DECODER_H
#define MOED_TEXT_DECODER_H

#include <stddef.h>

#include <jansson.h>

#include "base/buf.h"
#include "moed/error.h"
#include "text/regex.h"

struct decoder_step;
struct decoder {
    struct decoder_step *steps; /* for each token */
    size_t n, cap;
    int byte_fallback; /* invalid bytes become one U+FFFD each, not one for a broken sequence */
    /* For the text as a whole. */
    unsigned strip_char; /* this character is taken off the start ... */
    size_t strip_count;  /* ... up to that many times */
    char *first_drops;   /* in the first token this string is left out, or NULL */
    const char *joiner;  /* between tokens, or NULL */
    char *word_end;      /* the end of a token that stands for a space unless last, or NULL */
};

/* From the "decoder" value of a tokenizer.json; null joins pieces by spaces. */
int decoder_parse(struct decoder *out, const json_t *spec, struct moed_error *err);
/* Adds what SentencePiece needs: U+2581 to space, byte pieces; strip: leading spaces taken off. */
void decoder_add_sentencepiece(struct decoder *d, size_t strip);
/* Adds GPT-2's byte alphabet. */
void decoder_add_byte_level(struct decoder *d);
void decoder_fini(struct decoder *d);

/* Appends the bytes that a piece stands for inside a text. */
void decoder_token_bytes(const struct decoder *d, const char *piece, size_t n, struct buf *out);

/* The byte of a piece "<0x0A>", -1 for all others. */
int decoder_byte_piece(const char *piece, size_t n);

#endif
