#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

struct detokenizer {
    const struct tokenizer *t;
    unsigned flags;
    int started;        /* a token has come that prints something */
    int space_due;      /* the last token ended a word; a space follows if another token does */
    size_t strip_left;  /* characters that may still be taken off the start */
    struct buf pending; /* an unfinished character */
    struct buf out;
};

void detokenizer_open(struct detokenizer **out, const struct tokenizer *t, unsigned flags)
{
    struct detokenizer *d = mem_new(1, sizeof *d);
    d->t = t;
    d->flags = flags;
    d->strip_left = t->decoder.strip_count;
    *out = d;
}

void detokenizer_close(struct detokenizer **d)
{
    if (*d) {
        buf_fini(&(*d)->pending);
        buf_fini(&(*d)->out);
    }
    free(*d);
    *d = NULL;
}

/* The first token without the string that the decoder drops there. */
static void add_first(struct detokenizer *d, int32_t id)
{
    const char *drop = d->t->decoder.first_drops, *hit;
    size_t n, n_drop = strlen(drop);
    const char *piece = tokenizer_piece(d->t, id, &n), *end = piece + n;
    struct buf rest = {0};
    while (piece && (hit = memmem(piece, (size_t)(end - piece), drop, n_drop))) {
        buf_add(&rest, piece, (size_t)(hit - piece));
        piece = hit + n_drop;
    }
    if (piece)
        buf_add(&rest, piece, (size_t)(end - piece));
    decoder_token_bytes(&d->t->decoder, buf_str(&rest), rest.len, &d->pending);
    buf_fini(&rest);
}

static void add_token(struct detokenizer *d, int32_t id)
{
    const struct decoder *how = &d->t->decoder;
    size_t n;
    const char *bytes = tokenizer_token_bytes(d->t, id, &n);
    if (d->started && how->joiner)
        buf_puts(&d->pending, how->joiner);
    if (d->space_due)
        buf_putc(&d->pending, ' ');
    d->space_due = 0;
    if (!d->started && how->first_drops) {
        add_first(d, id);
    } else if (how->word_end && n >= strlen(how->word_end) &&
               memcmp(bytes + n - strlen(how->word_end), how->word_end, strlen(how->word_end)) ==
                   0) {
        buf_add(&d->pending, bytes, n - strlen(how->word_end));
        d->space_due = 1;
    } else {
        buf_add(&d->pending, bytes, n);
    }
    d->started = 1;
}

/* Takes the decoder's characters off the start of what is about to go out. */
static void strip(struct detokenizer *d)
{
    size_t from = 0, len;
    while (d->strip_left > 0 && from < d->out.len) {
        if (unicode_at(d->out.data + from, d->out.len - from, &len) != d->t->decoder.strip_char) {
            d->strip_left = 0;
            break;
        }
        d->strip_left--;
        from += len;
    }
    if (from > 0)
        buf_drop(&d->out, from);
}

void detokenizer_push(struct detokenizer *d, int32_t id, const char **text, size_t *n)
{
    buf_truncate(&d->out, 0);
    size_t n_piece;
    int skipped = (d->flags & DETOKENIZER_SKIP_SPECIAL) && tokenizer_is_special(d->t, id);
    if (!skipped && tokenizer_piece(d->t, id, &n_piece)) {
        add_token(d, id);
        size_t taken = unicode_add_valid_prefix(&d->out, buf_str(&d->pending), d->pending.len,
                                                d->t->decoder.byte_fallback);
        buf_drop(&d->pending, taken);
        strip(d);
    }
    *text = buf_str(&d->out);
    *n = d->out.len;
}

void detokenizer_finish(struct detokenizer *d, const char **text, size_t *n)
{
    buf_truncate(&d->out, 0);
    unicode_add_valid(&d->out, buf_str(&d->pending), d->pending.len, d->t->decoder.byte_fallback);
    buf_truncate(&d->pending, 0);
    strip(d);
    *text = buf_str(&d->out);
    *n = d->out.len;
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
                      struct buf *out)
{
    struct detokenizer *d;
    const char *text;
    size_t len;
    detokenizer_open(&d, t, flags);
    for (size_t i = 0; i < n; i++) {
        detokenizer_push(d, ids[i], &text, &len);
        buf_add(out, text, len);
    }
    detokenizer_finish(d, &text, &len);
    buf_add(out, text, len);
    detokenizer_close(&d);
}
