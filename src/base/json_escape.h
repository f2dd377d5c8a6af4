/* The inside of a JSON string (RFC 8259): what must be escaped is, and what is not UTF-8 becomes
 * U+FFFD. */
#ifndef MOED_BASE_JSON_ESCAPE_H
#define MOED_BASE_JSON_ESCAPE_H

#include "base/buf.h"

/* Appends text up to its zero byte or n bytes, whichever is first. */
void json_escape(struct buf *out, const char *text, size_t n);
/* Appends exactly n bytes; a zero byte becomes \u0000. */
void json_escape_bytes(struct buf *out, const char *bytes, size_t n);

#endif
