#include "text/normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/charsmap.h"
#include "text/sp_normalizer.h"
#include "text/spec.h"
#include "text/unicode.h"

enum step_kind {
    STEP_FORM,    /* form */
    STEP_PREPEND, /* string, in front of text that is not empty */
    STEP_REPLACE, /* literal or regex by string */
    STEP_LOWERCASE,
    STEP_STRIP, /* left, right */
    STEP_STRIP_ACCENTS,
    STEP_NMT,
    STEP_BYTE_LEVEL,
    STEP_CHARSMAP,      /* charsmap */
    STEP_SENTENCEPIECE, /* sp */
};

struct normalizer_step {
    enum step_kind kind;
    enum normal_form form;
    int left, right;
    char *literal; /* NULL where regex is set */
    size_t n_literal;
    struct regex *regex;
    char *string;
    size_t n_string;
    struct charsmap *charsmap;
    struct sp_normalizer *sp;
};

void text_scratch_fini(struct text_scratch *s)
{
    buf_fini(&s->text[0]);
    buf_fini(&s->text[1]);
    regex_scratch_fini(&s->regex);
}

struct buf *text_scratch_next(struct text_scratch *s)
{
    s->current = !s->current;
    buf_truncate(&s->text[s->current], 0);
    return &s->text[s->current];
}

static void set_string(char **to, size_t *n, const json_t *value)
{
    *n = json_string_length(value);
    *to = mem_strndup(*n ? json_string_value(value) : "", *n);
}

static int parse_replace(struct normalizer_step *step, const json_t *spec, struct moed_error *err)
{
    const json_t *pattern = json_object_get(spec, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    step->kind = STEP_REPLACE;
    set_string(&step->string, &step->n_string, json_object_get(spec, "content"));
    if (json_is_string(regex))
        return regex_compile(&step->regex, json_string_value(regex), json_string_length(regex),
                             err);
    set_string(&step->literal, &step->n_literal, json_object_get(pattern, "String"));
    if (step->n_literal == 0)
        return moed_fail(err, MOED_EFORMAT, "Replace without a pattern");
    return 0;
}

static int parse_step(struct normalizer_step *step, const json_t *spec, struct moed_error *err)
{
    static const struct {
        const char *name;
        enum step_kind kind;
        enum normal_form form;
    } plain[] = {
        {"NFC", STEP_FORM, NORMAL_FORM_C},
        {"NFD", STEP_FORM, NORMAL_FORM_D},
        {"NFKC", STEP_FORM, NORMAL_FORM_KC},
        {"NFKD", STEP_FORM, NORMAL_FORM_KD},
        {"Lowercase", STEP_LOWERCASE},
        {"StripAccents", STEP_STRIP_ACCENTS},
        {"Nmt", STEP_NMT},
        {"ByteLevel", STEP_BYTE_LEVEL},
    };
    const char *type = spec_string(spec, "type");
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        if (strcmp(type, plain[i].name) == 0) {
            step->kind = plain[i].kind;
            step->form = plain[i].form;
            return 0;
        }
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        set_string(&step->string, &step->n_string, json_object_get(spec, "prepend"));
        return 0;
    }
    if (strcmp(type, "Strip") == 0) {
        step->kind = STEP_STRIP;
        step->left = spec_bool(spec, "strip_left", 1);
        step->right = spec_bool(spec, "strip_right", 1);
        return 0;
    }
    if (strcmp(type, "Precompiled") == 0) {
        const json_t *map = json_object_get(spec, "precompiled_charsmap");
        step->kind = STEP_CHARSMAP;
        return charsmap_open_base64(&step->charsmap, json_string_value(map),
                                    json_string_length(map), err);
    }
    if (strcmp(type, "Replace") == 0)
        return parse_replace(step, spec, err);
    return moed_fail(err, MOED_EUNSUPPORTED, "the normalizer '%.40s' is not supported", type);
}

static struct normalizer_step *add_step(struct normalizer *nz)
{
    nz->steps = mem_reserve(nz->steps, &nz->cap, nz->n + 1, sizeof *nz->steps);
    struct normalizer_step *step = &nz->steps[nz->n++];
    *step = (struct normalizer_step){0};
    return step;
}

static int parse_into(struct normalizer *nz, const json_t *spec, int depth, struct moed_error *err)
{
    if (!spec || json_is_null(spec))
        return 0;
    if (depth > SPEC_MAX_DEPTH || nz->n >= SPEC_MAX_STAGES)
        return moed_fail(err, MOED_ELIMIT, "too many normalizers");
    if (strcmp(spec_string(spec, "type"), "Sequence") != 0)
        return parse_step(add_step(nz), spec, err);
    size_t i;
    const json_t *inner;
    json_array_foreach(json_object_get(spec, "normalizers"), i, inner)
    {
        int rc = parse_into(nz, inner, depth + 1, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int normalizer_parse(struct normalizer *out, const json_t *spec, struct moed_error *err)
{
    *out = (struct normalizer){0};
    int rc = parse_into(out, spec, 0, err);
    if (rc < 0)
        normalizer_fini(out);
    return rc;
}

void normalizer_fini(struct normalizer *nz)
{
    for (size_t i = 0; i < nz->n; i++) {
        struct normalizer_step *step = &nz->steps[i];
        free(step->literal);
        free(step->string);
        regex_close(&step->regex);
        charsmap_close(&step->charsmap);
        sp_normalizer_close(&step->sp);
    }
    free(nz->steps);
    *nz = (struct normalizer){0};
}

int normalizer_regexes(const struct normalizer *nz, int *jit)
{
    int n = 0;
    for (size_t i = 0; i < nz->n; i++) {
        if (nz->steps[i].regex) {
            n++;
            *jit += regex_is_jit(nz->steps[i].regex);
        }
    }
    return n;
}

void normalizer_add_sentencepiece(struct normalizer *nz, struct sp_normalizer *sp)
{
    struct normalizer_step *step = add_step(nz);
    step->kind = STEP_SENTENCEPIECE;
    step->sp = sp;
}

static void replace_literal(const struct normalizer_step *step, const char *s, size_t n,
                            struct buf *out)
{
    const char *end = s + n;
    while (s < end) {
        const char *hit = memmem(s, (size_t)(end - s), step->literal, step->n_literal);
        if (!hit)
            break;
        buf_add(out, s, (size_t)(hit - s));
        buf_add(out, step->string, step->n_string);
        s = hit + step->n_literal;
    }
    buf_add(out, s, (size_t)(end - s));
}

static int replace_regex(const struct normalizer_step *step, struct regex_scratch *scratch,
                         const char *s, size_t n, struct buf *out, struct moed_error *err)
{
    size_t done = 0, from = 0, begin, end;
    int found = 0;
    while (from <= n &&
           (found = regex_find(step->regex, scratch, s, n, from, &begin, &end, err)) > 0) {
        buf_add(out, s + done, begin - done);
        buf_add(out, step->string, step->n_string);
        done = from = end;
        if (end == begin) { /* an empty match: the next search starts one character on */
            size_t len = 1;
            if (from < n)
                unicode_at(s + from, n - from, &len);
            from += len;
        }
    }
    buf_add(out, s + done, n - done);
    return found;
}

static void strip(const struct normalizer_step *step, const char *s, size_t n, struct buf *out)
{
    size_t from = 0, len;
    while (step->left && from < n && unicode_is_space(unicode_at(s + from, n - from, &len)))
        from += len;
    while (step->right && n > from) {
        len = unicode_len_before(s, n);
        size_t again;
        if (!unicode_is_space(unicode_at(s + n - len, len, &again)))
            break;
        n -= len;
    }
    buf_add(out, s + from, n - from);
}

/* The clean-up of Google's NMT: drops control characters, turns odd spaces into plain ones. */
static void add_nmt(struct buf *out, unsigned cp)
{
    if ((cp >= 0x01 && cp <= 0x08) || cp == 0x0B || (cp >= 0x0E && cp <= 0x1F) || cp == 0x7F ||
        cp == 0x8F || cp == 0x9F)
        return;
    int is_space = cp == 0x09 || cp == 0x0A || cp == 0x0C || cp == 0x0D || cp == 0x1680 ||
                   (cp >= 0x200B && cp <= 0x200F) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 ||
                   cp == 0xFEFF || cp == 0xFFFD;
    buf_add_utf8(out, is_space ? ' ' : cp);
}

static void map_chars(const struct normalizer_step *step, const char *s, size_t n, struct buf *out)
{
    for (size_t i = 0, len; i < n; i += len) {
        unsigned cp = unicode_at(s + i, n - i, &len);
        if (step->kind == STEP_LOWERCASE)
            unicode_add_lower(out, cp);
        else if (step->kind == STEP_NMT)
            add_nmt(out, cp);
        else if (!unicode_is_mark(cp))
            buf_add(out, s + i, len);
    }
}

static int apply_step(const struct normalizer_step *step, struct text_scratch *scratch,
                      const char *s, size_t n, struct buf *out, struct moed_error *err)
{
    switch (step->kind) {
    case STEP_FORM:
        normal_form(out, s, n, step->form);
        return 0;
    case STEP_PREPEND:
        if (n > 0)
            buf_add(out, step->string, step->n_string);
        buf_add(out, s, n);
        return 0;
    case STEP_REPLACE:
        if (step->regex)
            return replace_regex(step, &scratch->regex, s, n, out, err);
        replace_literal(step, s, n, out);
        return 0;
    case STEP_STRIP:
        strip(step, s, n, out);
        return 0;
    case STEP_BYTE_LEVEL:
        byte_level_write(out, s, n);
        return 0;
    case STEP_CHARSMAP:
        charsmap_apply(step->charsmap, s, n, out);
        return 0;
    case STEP_SENTENCEPIECE:
        sp_normalize(step->sp, s, n, out);
        return 0;
    case STEP_LOWERCASE:
    case STEP_NMT:
    case STEP_STRIP_ACCENTS:
        map_chars(step, s, n, out);
        return 0;
    }
    return 0;
}

int normalizer_apply(const struct normalizer *nz, struct text_scratch *scratch, const char *s,
                     size_t n, const char **out, size_t *n_out, struct moed_error *err)
{
    for (size_t i = 0; i < nz->n; i++) {
        struct buf *to = text_scratch_next(scratch);
        int rc = apply_step(&nz->steps[i], scratch, s, n, to, err);
        if (rc < 0)
            return rc;
        s = buf_str(to);
        n = to->len;
    }
    *out = s;
    *n_out = n;
    return 0;
}
