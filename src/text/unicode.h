/* What tokenizers ask about characters. Code points must be at most 0x10FFFF. Any thread. */
#ifndef MOED_TEXT_UNICODE_H
#define MOED_TEXT_UNICODE_H

#include <stddef.h>

#include "base/buf.h"

/* The property White_Space. */
int unicode_is_space(unsigned cp);
/* Unicode's \w (UTS 18, annex C): alphabetic, mark, decimal digit, connector, joiner. */
int unicode_is_word(unsigned cp);
/* Categories P*, and the ASCII symbols. */
int unicode_is_punctuation(unsigned cp);
/* Categories N*. */
int unicode_is_numeric(unsigned cp);
/* Categories M*. */
int unicode_is_mark(unsigned cp);
void unicode_add_lower(struct buf *out, unsigned cp);

/* The code point at the start of valid UTF-8 (n > 0) and its length. */
unsigned unicode_at(const char *s, size_t n, size_t *len);
/* Length in bytes of the character before s[at] of valid UTF-8 (at > 0). */
size_t unicode_len_before(const char *s, size_t at);

/* Appends the bytes with U+FFFD in place of what is not UTF-8: of each byte, or of each maximal
 * part of a sequence (Unicode 3.9, "substitution of maximal subparts"). */
void unicode_add_valid(struct buf *out, const char *s, size_t n, int each_byte);

/* The same, but leaves a sequence that only ends too early; returns how many bytes were taken. */
size_t unicode_add_valid_prefix(struct buf *out, const char *s, size_t n, int each_byte);

enum normal_form {
    NORMAL_FORM_C,
    NORMAL_FORM_D,
    NORMAL_FORM_KC,
    NORMAL_FORM_KD,
};
/* Appends the normal form (UAX 15, by the tables of Unicode 9, which the makers' library has) of
 * valid UTF-8; time is linear, whatever the marks. */
void normal_form(struct buf *out, const char *s, size_t n, enum normal_form form);

#endif
