#include "text/unicode.h"

#include <assert.h>
#include <utf8proc.h>

#include "base/utf8.h"

int unicode_is_space(unsigned cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

static utf8proc_category_t category(unsigned cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

int unicode_is_word(unsigned cp)
{
    if (cp == 0x200C || cp == 0x200D)
        return 1;
    /* Other_Alphabetic outside the categories below: circled and squared Latin letters. */
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
        (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189))
        return 1;
    switch (category(cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;
    default:
        return 0;
    }
}

int unicode_is_punctuation(unsigned cp)
{
    if (cp < 0x80)
        return (cp >= '!' && cp <= '/') || (cp >= ':' && cp <= '@') || (cp >= '[' && cp <= '`') ||
               (cp >= '{' && cp <= '~');
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

int unicode_is_numeric(unsigned cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}

int unicode_is_mark(unsigned cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

void unicode_add_lower(struct buf *out, unsigned cp)
{
    if (cp == 0x130) { /* the only letter whose lower case is two characters */
        buf_puts(out, "i\xCC\x87");
        return;
    }
    buf_add_utf8(out, (unsigned)utf8proc_tolower((utf8proc_int32_t)cp));
}

unsigned unicode_at(const char *s, size_t n, size_t *len)
{
    unsigned cp = 0;
    int count = utf8_decode(s, n, &cp);
    assert(count > 0);
    *len = (size_t)count;
    return cp;
}

size_t unicode_len_before(const char *s, size_t at)
{
    size_t len = 1;
    while (len < at && len < 4 && ((unsigned char)s[at - len] & 0xC0) == 0x80)
        len++;
    return len;
}

/* How many of the bytes are the valid start of a sequence that then breaks off; 1 where not even
 * the first is. */
static size_t broken_len(const char *s, size_t n)
{
    unsigned cp;
    size_t len = 1;
    if (utf8_decode(s, 1, &cp) != -2)
        return 1;
    while (len < n && utf8_decode(s, len + 1, &cp) == -2)
        len++;
    return len;
}

size_t unicode_add_valid_prefix(struct buf *out, const char *s, size_t n, int each_byte)
{
    size_t i = 0;
    unsigned cp;
    for (;;) {
        size_t good = utf8_valid_prefix(s + i, n - i);
        buf_add(out, s + i, good);
        i += good;
        if (i == n || utf8_decode(s + i, n - i, &cp) == -2)
            return i;
        buf_add_utf8(out, 0xFFFD);
        i += each_byte ? 1 : broken_len(s + i, n - i);
    }
}

void unicode_add_valid(struct buf *out, const char *s, size_t n, int each_byte)
{
    size_t i = unicode_add_valid_prefix(out, s, n, each_byte);
    for (size_t left = n - i; left > 0; left = each_byte ? left - 1 : 0)
        buf_add_utf8(out, 0xFFFD);
}
