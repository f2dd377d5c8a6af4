#include "text/decoder.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/sp_normalizer.h"
#include "text/spec.h"
#include "text/unicode.h"

enum decoder_kind { DECODER_BYTE_LEVEL, DECODER_BYTE_FALLBACK, DECODER_REPLACE, DECODER_STRIP };

struct decoder_step {
    enum decoder_kind kind;
    char *from, *to; /* DECODER_REPLACE */
    size_t n_from;
    unsigned strip_char; /* DECODER_STRIP */
    int start, stop;
};

static struct decoder_step *add_step(struct decoder *d, enum decoder_kind kind)
{
    d->steps = mem_reserve(d->steps, &d->cap, d->n + 1, sizeof *d->steps);
    struct decoder_step *step = &d->steps[d->n++];
    *step = (struct decoder_step){.kind = kind};
    return step;
}

static void add_replace(struct decoder *d, const char *from, const char *to)
{
    struct decoder_step *step = add_step(d, DECODER_REPLACE);
    step->from = mem_strdup(from);
    step->n_from = strlen(from);
    step->to = mem_strdup(to);
}

void decoder_add_byte_level(struct decoder *d)
{
    add_step(d, DECODER_BYTE_LEVEL);
}

void decoder_add_sentencepiece(struct decoder *d, size_t strip)
{
    add_replace(d, SP_SPACE, " ");
    add_step(d, DECODER_BYTE_FALLBACK);
    d->byte_fallback = 1;
    d->strip_char = ' ';
    d->strip_count = strip;
}

static int parse_strip(struct decoder *d, const json_t *spec, int fused, struct moed_error *err)
{
    const char *content = spec_string(spec, "content");
    size_t len = 0;
    unsigned c = *content ? unicode_at(content, strlen(content), &len) : 0;
    int start = spec_int(spec, "start", 0), stop = spec_int(spec, "stop", 0);
    if (len == 0)
        return moed_fail(err, MOED_EFORMAT, "Strip without content");
    if (!fused) {
        struct decoder_step *step = add_step(d, DECODER_STRIP);
        step->strip_char = c;
        step->start = start;
        step->stop = stop;
        return 0;
    }
    if (stop > 0 || d->strip_count > 0)
        return moed_fail(err, MOED_EUNSUPPORTED, "a decoder that strips the end of the text");
    d->strip_char = c;
    d->strip_count = (size_t)start;
    return 0;
}

static int parse_metaspace(struct decoder *d, const json_t *spec, struct moed_error *err)
{
    const char *replacement = spec_string(spec, "replacement");
    if (!*replacement || d->first_drops)
        return moed_fail(err, MOED_EFORMAT, "Metaspace without a replacement, or twice");
    add_replace(d, replacement, " ");
    int never = strcmp(spec_string(spec, "prepend_scheme"), "never") == 0 ||
                !spec_bool(spec, "add_prefix_space", 1);
    if (!never)
        d->first_drops = mem_strdup(replacement);
    return 0;
}

static int parse_step(struct decoder *d, const json_t *spec, int *fused, struct moed_error *err)
{
    const char *type = spec_string(spec, "type");
    if (strcmp(type, "Fuse") == 0) {
        *fused = 1;
        return 0;
    }
    if (strcmp(type, "Strip") == 0)
        return parse_strip(d, spec, *fused, err);
    if (*fused)
        return moed_fail(err, MOED_EUNSUPPORTED, "the decoder '%.40s' after Fuse", type);
    if (strcmp(type, "ByteLevel") == 0) {
        decoder_add_byte_level(d);
        return 0;
    }
    if (strcmp(type, "ByteFallback") == 0) {
        add_step(d, DECODER_BYTE_FALLBACK);
        d->byte_fallback = 1;
        return 0;
    }
    if (strcmp(type, "Replace") == 0) {
        const char *from = spec_string(json_object_get(spec, "pattern"), "String");
        if (!*from)
            return moed_fail(err, MOED_EUNSUPPORTED, "a decoder that replaces by regex");
        add_replace(d, from, spec_string(spec, "content"));
        return 0;
    }
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(d, spec, err);
    if (strcmp(type, "BPEDecoder") == 0 && !d->word_end && *spec_string(spec, "suffix")) {
        d->word_end = mem_strdup(spec_string(spec, "suffix"));
        return 0;
    }
    return moed_fail(err, MOED_EUNSUPPORTED, "the decoder '%.40s' is not supported", type);
}

static int parse_into(struct decoder *d, const json_t *spec, int depth, int *fused,
                      struct moed_error *err)
{
    if (depth > SPEC_MAX_DEPTH || d->n >= SPEC_MAX_STAGES)
        return moed_fail(err, MOED_ELIMIT, "too many decoders");
    if (strcmp(spec_string(spec, "type"), "Sequence") != 0)
        return parse_step(d, spec, fused, err);
    size_t i;
    const json_t *inner;
    json_array_foreach(json_object_get(spec, "decoders"), i, inner)
    {
        int rc = parse_into(d, inner, depth + 1, fused, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int decoder_parse(struct decoder *out, const json_t *spec, struct moed_error *err)
{
    *out = (struct decoder){0};
    if (!spec || json_is_null(spec)) {
        out->joiner = " ";
        return 0;
    }
    int fused = 0, rc = parse_into(out, spec, 0, &fused, err);
    if (rc < 0)
        decoder_fini(out);
    return rc;
}

void decoder_fini(struct decoder *d)
{
    for (size_t i = 0; i < d->n; i++) {
        free(d->steps[i].from);
        free(d->steps[i].to);
    }
    free(d->steps);
    free(d->first_drops);
    free(d->word_end);
    *d = (struct decoder){0};
}

int decoder_byte_piece(const char *piece, size_t n)
{
    if (n != 6 || memcmp(piece, "<0x", 3) != 0 || piece[5] != '>' ||
        !isxdigit((unsigned char)piece[3]) || !isxdigit((unsigned char)piece[4]))
        return -1;
    char digits[3] = {piece[3], piece[4], 0};
    return (int)strtol(digits, NULL, 16);
}

static void replace(const struct decoder_step *step, const char *s, size_t n, struct buf *out)
{
    const char *end = s + n, *hit;
    while ((hit = memmem(s, (size_t)(end - s), step->from, step->n_from))) {
        buf_add(out, s, (size_t)(hit - s));
        buf_puts(out, step->to);
        s = hit + step->n_from;
    }
    buf_add(out, s, (size_t)(end - s));
}

static void strip(const struct decoder_step *step, const char *s, size_t n, struct buf *out)
{
    size_t from = 0, len;
    for (int i = 0; i < step->start && from < n; i++) {
        if (unicode_at(s + from, n - from, &len) != step->strip_char)
            break;
        from += len;
    }
    for (int i = 0; i < step->stop && n > from; i++) {
        size_t last = unicode_len_before(s, n);
        if (unicode_at(s + n - last, last, &len) != step->strip_char)
            break;
        n -= last;
    }
    buf_add(out, s + from, n - from);
}

void decoder_token_bytes(const struct decoder *d, const char *piece, size_t n, struct buf *out)
{
    struct buf from = {0}, to = {0};
    buf_add(&from, piece, n);
    for (size_t i = 0; i < d->n; i++) {
        const struct decoder_step *step = &d->steps[i];
        const char *s = buf_str(&from);
        int byte;
        buf_truncate(&to, 0);
        if (step->kind == DECODER_REPLACE) {
            replace(step, s, from.len, &to);
        } else if (step->kind == DECODER_STRIP) {
            strip(step, s, from.len, &to);
        } else if (step->kind == DECODER_BYTE_FALLBACK) {
            if ((byte = decoder_byte_piece(s, from.len)) < 0)
                continue;
            buf_putc(&to, (char)byte);
            i = d->n; /* a bare byte is not text for later steps */
        } else if (byte_level_read(&to, s, from.len) < 0) {
            continue;
        } else {
            i = d->n;
        }
        struct buf swap = from;
        from = to;
        to = swap;
    }
    buf_add(out, buf_str(&from), from.len);
    buf_fini(&from);
    buf_fini(&to);
}
