#include "base/utf8.h"

#include <stdint.h>

/* Bounds of the second byte follow table 3-7 of the Unicode standard ("well-formed UTF-8 byte
 * sequences"). */
static int lead(uint8_t b, int *len, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (b < 0x80) {
        *len = 1;
    } else if (b >= 0xC2 && b <= 0xDF) {
        *len = 2;
    } else if (b >= 0xE0 && b <= 0xEF) {
        *len = 3;
        if (b == 0xE0)
            *low = 0xA0;
        if (b == 0xED)
            *high = 0x9F;
    } else if (b >= 0xF0 && b <= 0xF4) {
        *len = 4;
        if (b == 0xF0)
            *low = 0x90;
        if (b == 0xF4)
            *high = 0x8F;
    } else {
        return -1;
    }
    return 0;
}

int utf8_decode(const char *bytes, size_t n, unsigned *cp)
{
    const uint8_t *p = (const uint8_t *)bytes;
    int len;
    uint8_t low, high;
    if (n == 0)
        return 0;
    if (lead(p[0], &len, &low, &high) < 0)
        return -1;
    static const uint8_t mask[] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    unsigned value = p[0] & mask[len];
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n)
            return -2;
        if (p[i] < low || p[i] > high)
            return -1;
        low = 0x80;
        high = 0xBF;
        value = value << 6 | (p[i] & 0x3Fu);
    }
    *cp = value;
    return len;
}

size_t utf8_valid_prefix(const char *bytes, size_t n)
{
    size_t i = 0;
    unsigned cp;
    while (i < n) {
        int len = utf8_decode(bytes + i, n - i, &cp);
        if (len <= 0)
            break;
        i += (size_t)len;
    }
    return i;
}
