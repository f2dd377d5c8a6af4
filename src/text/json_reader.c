#include "text/json_reader.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

static int fail(struct json_reader *r, int code, const char *what)
{
    if (r->code == 0)
        r->code = moed_fail(r->err, code, "JSON: %s at byte %zu", what, (size_t)(r->at - r->begin));
    return r->code;
}

void jr_init(struct json_reader *r, const char *bytes, size_t n, struct moed_error *err)
{
    *r = (struct json_reader){.begin = bytes, .at = bytes, .end = bytes + n, .err = err};
}

void jr_fini(struct json_reader *r)
{
    buf_fini(&r->unescaped);
}

static void skip_space(struct json_reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r'))
        r->at++;
}

char jr_peek(struct json_reader *r)
{
    skip_space(r);
    return r->at < r->end ? *r->at : 0;
}

static int enter(struct json_reader *r, char open, const char *what)
{
    if (r->code)
        return r->code;
    if (jr_peek(r) != open)
        return fail(r, MOED_EFORMAT, what);
    if (++r->depth > JSON_READER_MAX_DEPTH)
        return fail(r, MOED_ELIMIT, "nested too deeply");
    r->at++;
    r->fresh = 1;
    return 0;
}

/* 1 where an element follows; takes the comma in front of it, or the closing bracket. */
static int next(struct json_reader *r, char close)
{
    if (r->code)
        return r->code;
    char c = jr_peek(r);
    if (c == close) {
        r->at++;
        r->depth--;
        r->fresh = 0;
        return 0;
    }
    if (!r->fresh) {
        if (c != ',')
            return fail(r, MOED_EFORMAT, "a comma or a closing bracket is missing");
        r->at++;
    }
    r->fresh = 0;
    return 1;
}

int jr_object_begin(struct json_reader *r)
{
    return enter(r, '{', "an object was expected");
}

int jr_object_next(struct json_reader *r, const char **key, size_t *n)
{
    int more = next(r, '}');
    if (more <= 0)
        return more;
    int rc = jr_string(r, key, n);
    if (rc < 0)
        return rc;
    if (jr_peek(r) != ':')
        return fail(r, MOED_EFORMAT, "a colon is missing");
    r->at++;
    return 1;
}

int jr_array_begin(struct json_reader *r)
{
    return enter(r, '[', "an array was expected");
}

int jr_array_next(struct json_reader *r)
{
    return next(r, ']');
}

/* Four hex digits at p, -1 if they are not. */
static int hex4(const char *p, const char *end)
{
    if (end - p < 4)
        return -1;
    int value = 0;
    for (int i = 0; i < 4; i++) {
        if (!isxdigit((unsigned char)p[i]))
            return -1;
        int digit = p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10;
        value = value * 16 + digit;
    }
    return value;
}

/* One escape at r->at (behind the backslash). A surrogate without its partner is U+FFFD. */
static int unescape(struct json_reader *r)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end)
        return fail(r, MOED_EFORMAT, "an unfinished escape");
    const char *plain = *r->at ? strchr(names, *r->at) : NULL;
    if (plain) {
        buf_putc(&r->unescaped, values[plain - names]);
        r->at++;
        return 0;
    }
    int unit = *r->at == 'u' ? hex4(r->at + 1, r->end) : -1;
    if (unit < 0)
        return fail(r, MOED_EFORMAT, "an unknown escape");
    r->at += 5;
    unsigned cp = (unsigned)unit;
    if (cp >= 0xD800 && cp < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
        int low = hex4(r->at + 2, r->end);
        if (low >= 0xDC00 && low < 0xE000) {
            cp = 0x10000 + ((cp - 0xD800) << 10) + ((unsigned)low - 0xDC00);
            r->at += 6;
        }
    }
    buf_add_utf8(&r->unescaped, cp >= 0xD800 && cp < 0xE000 ? 0xFFFD : cp);
    return 0;
}

/* Passes over characters that stand for themselves, checking that they are UTF-8. */
static int plain_run(struct json_reader *r)
{
    while (r->at < r->end) {
        unsigned char c = (unsigned char)*r->at;
        if (c == '"' || c == '\\')
            return 0;
        if (c < 0x20)
            return fail(r, MOED_EFORMAT, "a control character in a string");
        if (c < 0x80) {
            r->at++;
            continue;
        }
        unsigned cp;
        int len = utf8_decode(r->at, (size_t)(r->end - r->at), &cp);
        if (len <= 0)
            return fail(r, MOED_EFORMAT, "a string that is not UTF-8");
        r->at += len;
    }
    return fail(r, MOED_EFORMAT, "an unfinished string");
}

int jr_string(struct json_reader *r, const char **s, size_t *n)
{
    if (r->code)
        return r->code;
    if (jr_peek(r) != '"')
        return fail(r, MOED_EFORMAT, "a string was expected");
    const char *from = ++r->at;
    int rc = plain_run(r);
    if (rc < 0)
        return rc;
    if (*r->at == '"') {
        *s = from;
        *n = (size_t)(r->at++ - from);
        return 0;
    }
    buf_truncate(&r->unescaped, 0);
    while (*r->at == '\\') {
        buf_add(&r->unescaped, from, (size_t)(r->at - from));
        r->at++;
        if ((rc = unescape(r)) < 0)
            return rc;
        from = r->at;
        if ((rc = plain_run(r)) < 0)
            return rc;
    }
    buf_add(&r->unescaped, from, (size_t)(r->at++ - from));
    *s = buf_str(&r->unescaped);
    *n = r->unescaped.len;
    return 0;
}

int jr_number(struct json_reader *r, double *value)
{
    if (r->code)
        return r->code;
    char text[64];
    size_t n = 0;
    jr_peek(r);
    while (r->at + n < r->end && n < sizeof text - 1 && r->at[n] &&
           strchr("+-.0123456789eE", r->at[n]))
        n++;
    memcpy(text, r->at, n);
    text[n] = 0;
    char *stop;
    *value = strtod(text, &stop);
    if (n == 0 || *stop)
        return fail(r, MOED_EFORMAT, "a number was expected");
    r->at += n;
    return 0;
}

int jr_id(struct json_reader *r, int *value)
{
    if (r->code)
        return r->code;
    int64_t v = 0;
    jr_peek(r);
    const char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9' && v <= INT32_MAX)
        v = v * 10 + (*r->at++ - '0');
    if (r->at == from || v > INT32_MAX)
        return fail(r, MOED_EFORMAT, "an id from 0 to 2^31-1 was expected");
    *value = (int)v;
    return 0;
}

/* Passes over a string without looking at its characters. */
static int skip_string(struct json_reader *r)
{
    for (r->at++; r->at < r->end; r->at++) {
        const char *quote = memchr(r->at, '"', (size_t)(r->end - r->at));
        if (!quote)
            break;
        const char *slash = quote;
        while (slash > r->at && slash[-1] == '\\')
            slash--;
        r->at = quote;
        if ((quote - slash) % 2 == 0) {
            r->at++;
            return 0;
        }
    }
    return fail(r, MOED_EFORMAT, "an unfinished string");
}

int jr_skip(struct json_reader *r, const char **from, size_t *n)
{
    if (r->code)
        return r->code;
    jr_peek(r);
    const char *begin = r->at;
    int depth = 0, rc;
    do {
        char c = jr_peek(r);
        if (c == 0)
            return fail(r, MOED_EFORMAT, "an unfinished value");
        if (c == '"') {
            if ((rc = skip_string(r)) < 0)
                return rc;
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        else if (depth == 0 && !isalnum((unsigned char)c) && c != '-')
            return fail(r, MOED_EFORMAT, "a value was expected");
        else if (depth == 0)
            while (r->at + 1 < r->end &&
                   (isalnum((unsigned char)r->at[1]) || strchr("+-.", r->at[1])))
                r->at++;
        if (depth < 0)
            return fail(r, MOED_EFORMAT, "a value was expected");
        if (depth + r->depth > JSON_READER_MAX_DEPTH)
            return fail(r, MOED_ELIMIT, "nested too deeply");
        r->at++;
    } while (depth > 0);
    *from = begin;
    *n = (size_t)(r->at - begin);
    return 0;
}

int jr_finish(struct json_reader *r)
{
    return r->code ? r->code : jr_peek(r) ? fail(r, MOED_EFORMAT, "something after the end") : 0;
}
