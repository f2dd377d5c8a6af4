#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

enum {
    MAX_PATTERN_BYTES = 64 << 10,
    JIT_STACK_START_BYTES = 64 << 10,
    JIT_STACK_MAX_BYTES = 64 << 20,
    /* Steps of one match: a megabyte of text may be walked and walked back. */
    MATCH_LIMIT = 100 * 1000 * 1000,
    HEAP_LIMIT_KIB = 256 << 10,
};

/* The members of \w, for use inside a class. */
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

/* Outside a class Oniguruma counts these as well: superscripts and fractions of Latin-1. */
#define LATIN_1_WORD "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}"

struct regex {
    pcre2_code *code;
    int is_jit;
};

/* The end of a bracketed class that starts at p[0] == '[', or NULL. */
static const char *class_end(const char *p, const char *end)
{
    int depth = 0;
    for (const char *q = p; q < end; q++) {
        if (*q == '\\')
            q++;
        else if (*q == '[')
            depth++;
        else if (*q == ']' && q > p + 1 && !(q == p + 2 && p[1] == '^') && --depth == 0)
            return q + 1;
    }
    return NULL;
}

/* Whether PCRE2 knows a script of that name. */
static int is_script(const char *name, size_t n)
{
    char pattern[64];
    int code;
    PCRE2_SIZE offset;
    if (n < 3 || n > 32)
        return 0;
    snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)n, name);
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &offset, NULL);
    pcre2_code_free(compiled);
    return compiled != NULL;
}

/* The escape at p (behind the backslash); returns how many of its bytes were taken. */
static size_t add_escape(struct buf *out, const char *p, const char *end, int in_class)
{
    const char *close = p + 1 < end && p[1] == '{' ? memchr(p, '}', (size_t)(end - p)) : NULL;
    switch (*p) {
    case 'p':
    case 'P':
        if (!close || !is_script(p + 2, (size_t)(close - p) - 2))
            break;
        buf_printf(out, "\\%c{sc:%.*s}", *p, (int)(close - p) - 2, p + 2);
        return (size_t)(close - p) + 1;
    case 's':
        buf_puts(out, "\\p{White_Space}");
        return 1;
    case 'S':
        buf_puts(out, "\\P{White_Space}");
        return 1;
    case 'w':
        buf_puts(out, in_class ? WORD : "[" WORD LATIN_1_WORD "]");
        return 1;
    case 'W':
        if (in_class)
            break;
        buf_puts(out, "[^" WORD LATIN_1_WORD "]");
        return 1;
    default:
        break;
    }
    buf_putc(out, '\\');
    buf_putc(out, *p);
    return 1;
}

static void add_plain_class(struct buf *out, const char *p, const char *end)
{
    for (; p < end; p++) {
        if (*p == '\\' && p + 1 < end)
            p += add_escape(out, p + 1, end, 1);
        else
            buf_putc(out, *p);
    }
}

/* "[a&&[^b]]" as "(?:(?![b])[a])" (and "[a&&[b]]" with a positive lookahead); others as they are.
 */
static void add_class(struct buf *out, const char *p, const char *end)
{
    const char *both = NULL;
    for (const char *q = p; q + 3 < end && !both; q++) {
        if (*q == '\\')
            q++;
        else if (q[0] == '&' && q[1] == '&' && q[2] == '[')
            both = q;
    }
    if (!both || p[1] == '^') {
        add_plain_class(out, p, end);
        return;
    }
    int negated = both[3] == '^';
    buf_puts(out, negated ? "(?:(?![" : "(?:(?=[");
    add_plain_class(out, both + 3 + negated, end - 1);
    buf_putc(out, ')');
    add_plain_class(out, p, both);
    buf_puts(out, "])");
}

static void translate(struct buf *out, const char *p, size_t n)
{
    const char *end = p + n;
    while (p < end) {
        const char *stop = *p == '[' ? class_end(p, end) : NULL;
        if (stop) {
            add_class(out, p, stop);
            p = stop;
        } else if (*p == '\\' && p + 1 < end) {
            p += 1 + add_escape(out, p + 1, end, 0);
        } else {
            buf_putc(out, *p++);
        }
    }
}

int regex_compile(struct regex **out, const char *pattern, size_t n, struct moed_error *err)
{
    *out = NULL;
    if (n > MAX_PATTERN_BYTES)
        return moed_fail(err, MOED_ELIMIT, "a regular expression of %zu bytes", n);
    struct buf text = {0};
    translate(&text, pattern, n);
    int code;
    PCRE2_SIZE offset;
    pcre2_code *compiled = pcre2_compile(
        (PCRE2_SPTR)buf_str(&text), text.len,
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    int rc = 0;
    if (compiled) {
        struct regex *r = mem_new(1, sizeof *r);
        r->code = compiled;
        r->is_jit = pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE) == 0;
        *out = r;
    } else {
        PCRE2_UCHAR words[160];
        pcre2_get_error_message(code, words, sizeof words);
        rc = moed_fail(err, MOED_EFORMAT, "regular expression '%.120s' at byte %zu: %s",
                       buf_str(&text), (size_t)offset, (const char *)words);
    }
    buf_fini(&text);
    return rc;
}

void regex_close(struct regex **r)
{
    if (*r)
        pcre2_code_free((*r)->code);
    free(*r);
    *r = NULL;
}

int regex_is_jit(const struct regex *r)
{
    return r->is_jit;
}

void regex_scratch_fini(struct regex_scratch *s)
{
    pcre2_match_data_free(s->match_data);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->jit_stack);
    *s = (struct regex_scratch){0};
}

static int open_scratch(struct regex_scratch *s)
{
    if (!s->match_data)
        s->match_data = pcre2_match_data_create(1, NULL);
    if (!s->context && (s->context = pcre2_match_context_create(NULL))) {
        pcre2_set_match_limit(s->context, MATCH_LIMIT);
        pcre2_set_heap_limit(s->context, HEAP_LIMIT_KIB);
    }
    return s->match_data && s->context;
}

int regex_find(const struct regex *r, struct regex_scratch *s, const char *text, size_t n,
               size_t from, size_t *begin, size_t *end, struct moed_error *err)
{
    if (!s->context && !open_scratch(s))
        return moed_fail(err, MOED_ENOMEM, "no memory to match a regular expression");
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc;
    if (r->is_jit) {
        rc = pcre2_jit_match(r->code, subject, n, from, 0, s->match_data, s->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT && !s->jit_stack) {
            s->jit_stack = pcre2_jit_stack_create(JIT_STACK_START_BYTES, JIT_STACK_MAX_BYTES, NULL);
            pcre2_jit_stack_assign(s->context, NULL, s->jit_stack);
            rc = pcre2_jit_match(r->code, subject, n, from, 0, s->match_data, s->context);
        }
    } else {
        rc = pcre2_match(r->code, subject, n, from, PCRE2_NO_UTF_CHECK, s->match_data, s->context);
    }
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc < 0) {
        PCRE2_UCHAR words[160];
        pcre2_get_error_message(rc, words, sizeof words);
        return moed_fail(err, MOED_ELIMIT, "splitting the text: %s", (const char *)words);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(s->match_data);
    *begin = range[0];
    *end = range[1];
    return 1;
}
