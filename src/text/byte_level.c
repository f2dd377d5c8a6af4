#include "text/byte_level.h"

#include "text/unicode.h"

static int is_printable(unsigned cp)
{
    return (cp >= 0x21 && cp <= 0x7E) || (cp >= 0xA1 && cp <= 0xFF && cp != 0xAD);
}

/* The bytes that are not printable, in order: 0x00-0x20, 0x7F-0xA0, 0xAD. */
unsigned byte_level_char(unsigned char byte)
{
    if (is_printable(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xAD ? 0x143u : 0x121u + (byte - 0x7Fu);
}

int byte_level_byte(unsigned cp)
{
    if (is_printable(cp))
        return (int)cp;
    if (cp >= 0x100 && cp <= 0x120)
        return (int)(cp - 0x100);
    if (cp >= 0x121 && cp <= 0x142)
        return (int)(cp - 0x121 + 0x7F);
    return cp == 0x143 ? 0xAD : -1;
}

void byte_level_write(struct buf *out, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_add_utf8(out, byte_level_char((unsigned char)bytes[i]));
}

int byte_level_read(struct buf *out, const char *piece, size_t n)
{
    size_t before = out->len;
    for (size_t i = 0, len; i < n; i += len) {
        int byte = byte_level_byte(unicode_at(piece + i, n - i, &len));
        if (byte < 0) {
            buf_truncate(out, before);
            return -1;
        }
        buf_putc(out, (char)byte);
    }
    return 0;
}
