#include "base/json_escape.h"

#include <string.h>

#include "base/utf8.h"

static void escape_ascii(struct buf *out, unsigned char c)
{
    static const char *const short_forms[] = {
        ['"'] = "\\\"", ['\\'] = "\\\\", ['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t",
    };
    if (c < sizeof short_forms / sizeof short_forms[0] && short_forms[c])
        buf_puts(out, short_forms[c]);
    else
        buf_printf(out, "\\u%04x", c);
}

void json_escape_bytes(struct buf *out, const char *bytes, size_t n)
{
    size_t i = 0, plain = 0;
    while (i < n) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c < 0x7F && c != '"' && c != '\\') {
            i++;
            continue;
        }
        unsigned cp;
        int len = utf8_decode(bytes + i, n - i, &cp);
        if (len > 1) {
            i += (size_t)len;
            continue;
        }
        buf_add(out, bytes + plain, i - plain);
        if (len < 0)
            buf_add_utf8(out, 0xFFFD);
        else
            escape_ascii(out, c);
        plain = ++i;
    }
    buf_add(out, bytes + plain, n - plain);
}

void json_escape(struct buf *out, const char *text, size_t n)
{
    json_escape_bytes(out, text, strnlen(text, n));
}
