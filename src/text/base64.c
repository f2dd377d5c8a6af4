#include "text/base64.h"

#include <stdint.h>

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int base64_decode(struct buf *out, const char *text, size_t n)
{
    size_t before = out->len;
    for (int pad = 0; pad < 2 && n > 0 && text[n - 1] == '='; pad++)
        n--;
    uint32_t bits = 0;
    int n_bits = 0, ok = n % 4 != 1;
    for (size_t i = 0; i < n && ok; i++) {
        int d = digit(text[i]);
        ok = d >= 0;
        bits = bits << 6 | (uint32_t)(d & 63);
        if ((n_bits += 6) >= 8) {
            n_bits -= 8;
            buf_putc(out, (char)(bits >> n_bits));
        }
    }
    if (!ok)
        buf_truncate(out, before);
    return ok ? 0 : -1;
}
