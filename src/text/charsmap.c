#include "text/charsmap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "text/base64.h"
#include "text/unicode.h"

struct charsmap {
    uint32_t *units;
    size_t n_units;
    char *strings; /* ends in a zero byte */
    size_t n_strings;
};

int charsmap_open(struct charsmap **out, const char *bytes, size_t n, struct moed_error *err)
{
    *out = NULL;
    uint32_t trie_bytes = 0;
    if (n >= 4)
        trie_bytes = (uint32_t)(uint8_t)bytes[0] | (uint32_t)(uint8_t)bytes[1] << 8 |
                     (uint32_t)(uint8_t)bytes[2] << 16 | (uint32_t)(uint8_t)bytes[3] << 24;
    if (n < 4 || trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > n - 4)
        return moed_fail(err, MOED_EFORMAT, "a character map of %zu bytes is damaged", n);
    struct charsmap *m = mem_new(1, sizeof *m);
    m->n_units = trie_bytes / 4;
    m->units = mem_new(m->n_units, sizeof *m->units);
    for (size_t i = 0; i < m->n_units; i++) {
        const uint8_t *p = (const uint8_t *)bytes + 4 + 4 * i;
        m->units[i] =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    }
    m->n_strings = n - 4 - trie_bytes;
    m->strings = mem_strndup(bytes + 4 + trie_bytes, m->n_strings);
    *out = m;
    return 0;
}

int charsmap_open_base64(struct charsmap **out, const char *text, size_t n, struct moed_error *err)
{
    *out = NULL;
    struct buf bytes = {0};
    int rc = base64_decode(&bytes, text, n) < 0
                 ? moed_fail(err, MOED_EFORMAT, "precompiled_charsmap is not base64")
                 : charsmap_open(out, buf_str(&bytes), bytes.len, err);
    buf_fini(&bytes);
    return rc;
}

void charsmap_close(struct charsmap **m)
{
    if (*m) {
        free((*m)->units);
        free((*m)->strings);
    }
    free(*m);
    *m = NULL;
}

/* The fields of a unit, as Darts-clone packs them. */
static uint32_t unit_label(uint32_t unit)
{
    return unit & (1u << 31 | 0xFFu);
}

static uint32_t unit_offset(uint32_t unit)
{
    return unit >> 10 << ((unit & 1u << 9) >> 6);
}

static int unit_has_leaf(uint32_t unit)
{
    return (unit >> 8 & 1) != 0;
}

static const char *find(const struct charsmap *m, const char *s, size_t n, size_t *len, int longest)
{
    const char *found = NULL;
    size_t at = unit_offset(m->units[0]);
    *len = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s[i];
        at ^= byte;
        if (byte == 0 || at >= m->n_units || unit_label(m->units[at]) != byte)
            break;
        uint32_t unit = m->units[at];
        at ^= unit_offset(unit);
        if (!unit_has_leaf(unit))
            continue;
        uint32_t value = at < m->n_units ? m->units[at] & ~(1u << 31) : UINT32_MAX;
        if (value >= m->n_strings)
            break;
        found = m->strings + value;
        *len = i + 1;
        if (!longest)
            break;
    }
    return found;
}

const char *charsmap_longest(const struct charsmap *m, const char *s, size_t n, size_t *len)
{
    return find(m, s, n, len, 1);
}

const char *charsmap_shortest(const struct charsmap *m, const char *s, size_t n, size_t *len)
{
    return find(m, s, n, len, 0);
}

/* The end of the user-perceived character (UAX 29) that starts at s[from]. */
static size_t grapheme_end(const char *s, size_t n, size_t from)
{
    size_t len;
    utf8proc_int32_t state = 0, before = (utf8proc_int32_t)unicode_at(s + from, n - from, &len);
    size_t at = from + len;
    while (at < n) {
        utf8proc_int32_t cp = (utf8proc_int32_t)unicode_at(s + at, n - at, &len);
        if (utf8proc_grapheme_break_stateful(before, cp, &state))
            break;
        before = cp;
        at += len;
    }
    return at;
}

/*
 * The library looks up a whole grapheme of less than 6 bytes first, and takes the shortest entry
 * that it starts with for all of it; otherwise each character by itself.
 */
void charsmap_apply(const struct charsmap *m, const char *s, size_t n, struct buf *out)
{
    size_t end;
    for (size_t i = 0; i < n; i = end) {
        end = grapheme_end(s, n, i);
        size_t covered;
        const char *to = end - i < 6 ? charsmap_shortest(m, s + i, end - i, &covered) : NULL;
        if (to) {
            buf_puts(out, to);
            continue;
        }
        for (size_t k = i, len; k < end; k += len) {
            unicode_at(s + k, end - k, &len);
            to = charsmap_shortest(m, s + k, len, &covered);
            if (to)
                buf_puts(out, to);
            else
                buf_add(out, s + k, len);
        }
    }
}
