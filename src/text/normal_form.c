/*
 * Unicode normal forms on top of utf8proc's tables. utf8proc's own entry points sort combining
 * marks by exchange, in quadratic time; here long runs of marks are sorted by counting.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "text/unicode.h"

struct chars {
    utf8proc_int32_t *cp;
    size_t n, cap;
    uint8_t *ccc; /* canonical combining class of each; 0 is a starter */
    size_t ccc_cap;
};

/*
 * What later versions of Unicode gave a combining class or a decomposition. The library that models
 * are trained with (Hugging Face tokenizers) has the tables of Unicode 9, where these characters
 * stand alone; so they do here.
 */
static int is_later(unsigned cp)
{
    static const struct {
        unsigned first, last;
    } ranges[] = {{0x7FD, 0x7FD},     {0x8D3, 0x8D3},     {0x9FE, 0x9FE},     {0xD3B, 0xD3C},
                  {0xEBA, 0xEBA},     {0x1ABF, 0x1AC0},   {0x1DF6, 0x1DF9},   {0x32FF, 0x32FF},
                  {0xA82C, 0xA82C},   {0xAB69, 0xAB69},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC},
                  {0x10F46, 0x10F50}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
                  {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
                  {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
                  {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x16FF0, 0x16FF1},
                  {0x1E130, 0x1E136}, {0x1E2EC, 0x1E2EF}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9}};
    size_t low = 0, high = sizeof ranges / sizeof *ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (cp > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof ranges / sizeof *ranges && cp >= ranges[low].first;
}

static void add_decomposed(struct chars *c, unsigned cp, int compat)
{
    enum { LONGEST = 32 }; /* the longest decomposition has 18 characters */
    c->cp = mem_reserve(c->cp, &c->cap, c->n + LONGEST, sizeof *c->cp);
    c->ccc = mem_reserve(c->ccc, &c->ccc_cap, c->n + LONGEST, 1);
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    int boundary = 0;
    if (is_later(cp)) {
        c->cp[c->n] = (utf8proc_int32_t)cp;
        c->ccc[c->n++] = 0;
        return;
    }
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, c->cp + c->n, LONGEST,
                                                 (utf8proc_option_t)options, &boundary);
    if (n <= 0 || n > LONGEST) {
        c->cp[c->n] = (utf8proc_int32_t)cp;
        n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        const utf8proc_property_t *p = utf8proc_get_property(c->cp[c->n]);
        c->ccc[c->n++] = (uint8_t)p->combining_class;
    }
}

static void sort_short_run(utf8proc_int32_t *cp, uint8_t *ccc, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        utf8proc_int32_t x = cp[i];
        uint8_t k = ccc[i];
        size_t j = i;
        for (; j > 0 && ccc[j - 1] > k; j--) {
            cp[j] = cp[j - 1];
            ccc[j] = ccc[j - 1];
        }
        cp[j] = x;
        ccc[j] = k;
    }
}

static void sort_long_run(utf8proc_int32_t *cp, uint8_t *ccc, size_t n)
{
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[ccc[i] + 1]++;
    for (int k = 0; k < 256; k++)
        start[k + 1] += start[k];
    utf8proc_int32_t *sorted = mem_new(n, sizeof *sorted);
    uint8_t *sorted_ccc = mem_new(n, 1);
    for (size_t i = 0; i < n; i++) {
        size_t to = start[ccc[i]]++;
        sorted[to] = cp[i];
        sorted_ccc[to] = ccc[i];
    }
    memcpy(cp, sorted, n * sizeof *cp);
    memcpy(ccc, sorted_ccc, n);
    free(sorted);
    free(sorted_ccc);
}

/* Puts each run of combining marks into canonical order. */
static void order_marks(struct chars *c)
{
    for (size_t i = 0; i < c->n;) {
        size_t end = i;
        while (end < c->n && c->ccc[end] != 0)
            end++;
        if (end - i > 24)
            sort_long_run(c->cp + i, c->ccc + i, end - i);
        else if (end - i > 1)
            sort_short_run(c->cp + i, c->ccc + i, end - i);
        i = end + 1;
    }
}

/*
 * U+11A7 stands in front of the trailing consonants of Hangul but is none of them, so it composes
 * with nothing; utf8proc 2.8 would drop it behind a syllable.
 */
enum { HANGUL_BEFORE_TRAILING = 0x11A7 };

/*
 * Whether the composed form can be cut in front of this character: it is a starter, no composition
 * has it as second part, and it is its own composed form.
 */
static int cuts_composed(unsigned cp)
{
    return cp < 0x300 || cp == HANGUL_BEFORE_TRAILING || (cp >= 0x3041 && cp <= 0x3096) ||
           (cp >= 0x30A1 && cp <= 0x30FA) || (cp >= 0x4E00 && cp <= 0x9FFF) ||
           (cp >= 0xAC00 && cp <= 0xD7A3);
}

/* Normalizes one stretch that nothing outside influences. */
static void add_stretch(struct buf *out, struct chars *c, const char *s, size_t n, int compat,
                        int compose)
{
    c->n = 0;
    for (size_t i = 0, len; i < n; i += len)
        add_decomposed(c, unicode_at(s + i, n - i, &len), compat);
    if (c->n == 0)
        return;
    order_marks(c);
    size_t n_out = c->n;
    if (compose) {
        utf8proc_ssize_t composed = utf8proc_normalize_utf32(
            c->cp, (utf8proc_ssize_t)c->n, (utf8proc_option_t)(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
        n_out = composed >= 0 ? (size_t)composed : n_out;
    }
    for (size_t i = 0; i < n_out; i++)
        buf_add_utf8(out, (unsigned)c->cp[i]);
}

static int cuts(unsigned cp, enum normal_form form)
{
    if (form == NORMAL_FORM_C ? cuts_composed(cp) : cp < 0x80 || cp == HANGUL_BEFORE_TRAILING)
        return 1;
    return is_later(cp);
}

void normal_form(struct buf *out, const char *s, size_t n, enum normal_form form)
{
    int compat = form == NORMAL_FORM_KC || form == NORMAL_FORM_KD;
    int compose = form == NORMAL_FORM_C || form == NORMAL_FORM_KC;
    struct chars c = {0};
    size_t i = 0;
    while (i < n) {
        /* Characters that stay as they are, up to the one in front of the first that may not. */
        size_t from = i, last = i, len = 0;
        while (i < n) {
            unsigned cp = unicode_at(s + i, n - i, &len);
            if (!cuts(cp, form))
                break;
            last = i;
            i += len;
        }
        if (i == n) {
            buf_add(out, s + from, n - from);
            break;
        }
        buf_add(out, s + from, last - from);
        while (i < n) {
            unsigned cp = unicode_at(s + i, n - i, &len);
            if (cuts(cp, form))
                break;
            i += len;
        }
        add_stretch(out, &c, s + last, i - last, compat, compose);
    }
    free(c.cp);
    free(c.ccc);
}
