/*
 * A growing string of bytes, always followed by a zero byte. Not shared between threads.
 * Starts as {0}; buf_fini frees. Sizes that come from outside are limited by the caller.
 */
#ifndef MOED_BASE_BUF_H
#define MOED_BASE_BUF_H

#include <stddef.h>

struct buf {
    char *data; /* NULL until the first byte */
    size_t len; /* bytes, without the final zero */
    size_t cap;
};

void buf_fini(struct buf *b);
void buf_reserve(struct buf *b, size_t more);
void buf_add(struct buf *b, const void *bytes, size_t n);
void buf_puts(struct buf *b, const char *s);
void buf_putc(struct buf *b, char c);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends one Unicode code point as UTF-8; cp must be at most 0x10FFFF. */
void buf_add_utf8(struct buf *b, unsigned cp);
/* Drops all but the first len bytes. */
void buf_truncate(struct buf *b, size_t len);
/* Removes the first n bytes. */
void buf_drop(struct buf *b, size_t n);
/* Hands the bytes over (never NULL; free() them) and leaves the buffer empty. */
char *buf_take(struct buf *b, size_t *len);
/* The bytes as a C string, "" when empty; valid until the next change. */
const char *buf_str(const struct buf *b);

#endif
