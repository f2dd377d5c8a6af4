#include "text/sp_normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

void sp_normalizer_close(struct sp_normalizer **sp)
{
    if (*sp) {
        charsmap_close(&(*sp)->map);
        trie_fini(&(*sp)->user_defined);
    }
    free(*sp);
    *sp = NULL;
}

/* What the text at s becomes, up to the next point where the map can be asked again; *len is what
 * of s that covers. */
static const char *next_unit(const struct sp_normalizer *sp, const char *s, size_t n, size_t *len,
                             size_t *n_out)
{
    if (trie_longest(&sp->user_defined, s, n, len) >= 0) {
        *n_out = *len;
        return s;
    }
    const char *to = sp->map ? charsmap_longest(sp->map, s, n, len) : NULL;
    if (to) {
        *n_out = strlen(to);
        return to;
    }
    unicode_at(s, n, len);
    *n_out = *len;
    return s;
}

static void add_escaped(const struct sp_normalizer *sp, struct buf *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ' && sp->escape_whitespaces)
            buf_puts(out, SP_SPACE);
        else
            buf_putc(out, s[i]);
    }
}

void sp_normalize(const struct sp_normalizer *sp, const char *s, size_t n, struct buf *out)
{
    const char *space = sp->escape_whitespaces ? SP_SPACE : " ";
    size_t i = 0, len = 0, n_unit = 0, begin = out->len;
    while (sp->remove_extra_whitespaces && i < n) {
        const char *unit = next_unit(sp, s + i, n - i, &len, &n_unit);
        if (n_unit != 1 || *unit != ' ')
            break;
        i += len;
    }
    if (i == n)
        return;
    if (sp->add_dummy_prefix && !sp->whitespace_as_suffix)
        buf_puts(out, space);
    int after_space = sp->remove_extra_whitespaces;
    for (; i < n; i += len) {
        const char *unit = next_unit(sp, s + i, n - i, &len, &n_unit);
        while (after_space && n_unit > 0 && *unit == ' ') {
            unit++;
            n_unit--;
        }
        if (n_unit > 0) {
            add_escaped(sp, out, unit, n_unit);
            after_space = sp->remove_extra_whitespaces && unit[n_unit - 1] == ' ';
        }
    }
    size_t n_space = strlen(space);
    while (sp->remove_extra_whitespaces && out->len >= begin + n_space &&
           memcmp(out->data + out->len - n_space, space, n_space) == 0)
        buf_truncate(out, out->len - n_space);
    if (sp->add_dummy_prefix && sp->whitespace_as_suffix)
        buf_puts(out, space);
}
