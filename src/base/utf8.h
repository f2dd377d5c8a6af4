/* UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef MOED_BASE_UTF8_H
#define MOED_BASE_UTF8_H

#include <stddef.h>

/*
 * Reads the code point at the start of n bytes into *cp. Returns its length in bytes (1-4), 0 when
 * n is 0, -1 when the bytes cannot start a valid sequence, -2 when they are a valid but unfinished
 * start of one.
 */
int utf8_decode(const char *bytes, size_t n, unsigned *cp);

/* How many of the first bytes form whole, valid characters. */
size_t utf8_valid_prefix(const char *bytes, size_t n);

#endif
