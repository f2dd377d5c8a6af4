/*
 * The byte alphabet of GPT-2: every byte is written as one printable character. Bytes that are
 * printable in Latin-1 stand for themselves, the 68 others for U+0100 onwards, in order.
 */
#ifndef MOED_TEXT_BYTE_LEVEL_H
#define MOED_TEXT_BYTE_LEVEL_H

#include <stddef.h>

#include "base/buf.h"

unsigned byte_level_char(unsigned char byte);
/* The byte that a character stands for, -1 where it is none of the alphabet. */
int byte_level_byte(unsigned cp);

/* Appends the bytes in written form. */
void byte_level_write(struct buf *out, const char *bytes, size_t n);
/* Appends the bytes that a written piece stands for; 0, or -1 and nothing where it holds another
 * character. */
int byte_level_read(struct buf *out, const char *piece, size_t n);

#endif
