/* Base64 (RFC 4648), as tiktoken files and character maps use it. */
#ifndef MOED_TEXT_BASE64_H
#define MOED_TEXT_BASE64_H

#include <stddef.h>

#include "base/buf.h"

/* Appends the decoded bytes; -1 (and *out as before) where the text is not base64. */
int base64_decode(struct buf *out, const char *text, size_t n);

#endif
