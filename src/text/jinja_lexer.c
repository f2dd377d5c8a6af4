#include "text/jinja_lexer.h"

#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_unicode.h"

void jinja_lexer_init(struct jinja_lexer *l, const char *src, size_t n)
{
    *l = (struct jinja_lexer){.src = src, .n = n, .line = 1, .line_starting = 1};
    if (n && src[n - 1] == '\n')
        l->n--;
}

static int fail(struct jinja_lexer *l, const char *message)
{
    snprintf(l->message, sizeof l->message, "%s", message);
    return -1;
}

static int at(const struct jinja_lexer *l, size_t pos, const char *s)
{
    size_t n = strlen(s);
    return pos <= l->n && l->n - pos >= n && memcmp(l->src + pos, s, n) == 0;
}

/* Moves to `to`, counting lines. */
static void advance(struct jinja_lexer *l, size_t to)
{
    for (const char *p = l->src + l->pos, *end = l->src + to;
         (p = memchr(p, '\n', (size_t)(end - p))); p++)
        l->line++;
    l->line_starting = to > l->pos && l->src[to - 1] == '\n';
    l->pos = to;
}

static size_t skip_space(const struct jinja_lexer *l, size_t pos)
{
    unsigned cp;
    int len;
    while ((len = utf8_decode(l->src + pos, l->n - pos, &cp)) > 0 && jinja_is_space(cp))
        pos += (size_t)len;
    return pos;
}

/* The end of [from, to) without the white space at its end. */
static size_t strip_end(const struct jinja_lexer *l, size_t from, size_t to)
{
    while (to > from) {
        size_t p = to - 1;
        while (p > from && ((unsigned char)l->src[p] & 0xC0) == 0x80)
            p--;
        unsigned cp;
        if (utf8_decode(l->src + p, to - p, &cp) <= 0 || !jinja_is_space(cp))
            break;
        to = p;
    }
    return to;
}

/* lstrip_blocks: where only white space stands between the start of the line and the tag. */
static size_t strip_line(const struct jinja_lexer *l, size_t from, size_t to)
{
    size_t line = to;
    while (line > from && l->src[line - 1] != '\n')
        line--;
    if (line == from && !l->line_starting)
        return to;
    return strip_end(l, line, to) == line ? line : to;
}

/* Where the next "{{", "{%" or "{#" begins, or the end. */
static size_t find_tag(const struct jinja_lexer *l, size_t pos)
{
    while (pos < l->n) {
        const char *p = memchr(l->src + pos, '{', l->n - pos);
        if (!p)
            return l->n;
        pos = (size_t)(p - l->src);
        if (pos + 1 < l->n && strchr("{%#", l->src[pos + 1]) && l->src[pos + 1])
            return pos;
        pos++;
    }
    return l->n;
}

/* The text before a tag at `tag` whose marks are `n_open` bytes long, white space stripped as the
 * tag asks. */
static size_t text_end(const struct jinja_lexer *l, size_t tag, size_t n_open, int is_variable)
{
    char sign = tag + n_open < l->n ? l->src[tag + n_open] : 0;
    if (sign == '-')
        return strip_end(l, l->pos, tag);
    if (sign == '+' || is_variable)
        return tag;
    return strip_line(l, l->pos, tag);
}

/* The end of a closing mark at pos ("%}" with its signs), or 0 where there is none. */
static size_t closing(const struct jinja_lexer *l, size_t pos, const char *mark, int is_variable)
{
    if (at(l, pos, mark)) {
        size_t end = pos + strlen(mark);
        return !is_variable && end < l->n && l->src[end] == '\n' ? end + 1 : end;
    }
    if (pos < l->n && l->src[pos] == '-' && at(l, pos + 1, mark))
        return skip_space(l, pos + 1 + strlen(mark));
    if (pos < l->n && l->src[pos] == '+' && !is_variable && at(l, pos + 1, mark))
        return pos + 1 + strlen(mark);
    return 0;
}

static int skip_comment(struct jinja_lexer *l)
{
    size_t p = l->pos + 2;
    if (p < l->n && (l->src[p] == '-' || l->src[p] == '+'))
        p++;
    if (p == l->n) {
        advance(l, p);
        return 0;
    }
    for (; p < l->n; p++) {
        size_t end = closing(l, p, "#}", 0);
        if (end) {
            advance(l, end);
            return 0;
        }
    }
    return fail(l, "Missing end of comment tag");
}

/* The end of "{%- raw -%}" at pos, or 0. `word` is raw or endraw. */
static size_t raw_tag(const struct jinja_lexer *l, size_t pos, const char *word)
{
    size_t p = pos + 2;
    if (p < l->n && (l->src[p] == '-' || l->src[p] == '+'))
        p++;
    p = skip_space(l, p);
    if (!at(l, p, word))
        return 0;
    p = skip_space(l, p + strlen(word));
    if (strcmp(word, "endraw") == 0)
        return closing(l, p, "%}", 0);
    if (at(l, p, "-%}"))
        return skip_space(l, p + 3);
    return at(l, p, "%}") ? p + 2 : 0;
}

/* The text of a raw block; l->pos stands on its opening tag, `body` behind it. */
static int lex_raw(struct jinja_lexer *l, size_t body, struct jinja_token *t)
{
    advance(l, body);
    for (size_t p = body; p + 1 < l->n; p++) {
        if (l->src[p] != '{' || l->src[p + 1] != '%')
            continue;
        size_t end = raw_tag(l, p, "endraw");
        if (!end)
            continue;
        size_t stop = text_end(l, p, 2, 0);
        *t = (struct jinja_token){JT_DATA, l->line, l->src + l->pos, stop - l->pos};
        advance(l, end);
        return 1;
    }
    if (body == l->n) { /* as Jinja: nothing behind the tag is no error */
        *t = (struct jinja_token){JT_EOF, l->line, "", 0};
        return 1;
    }
    return fail(l, "Missing end of raw directive");
}

/* The tag at l->pos, after its data was returned: 1 with a token, 0 to go on, -1. */
static int lex_tag(struct jinja_lexer *l, struct jinja_token *t)
{
    char kind = l->src[l->pos + 1];
    if (kind == '#')
        return skip_comment(l);
    size_t raw = kind == '%' ? raw_tag(l, l->pos, "raw") : 0;
    if (raw)
        return lex_raw(l, raw, t);
    size_t end = l->pos + 2;
    if (end < l->n && (l->src[end] == '-' || l->src[end] == '+'))
        end++;
    *t = (struct jinja_token){kind == '{' ? JT_VARIABLE_BEGIN : JT_BLOCK_BEGIN, l->line,
                              l->src + l->pos, end - l->pos};
    advance(l, end);
    l->state = kind == '{' ? JINJA_IN_VARIABLE : JINJA_IN_BLOCK;
    return 1;
}

/* Outside tags: 1 with a token, 0 to call again, -1. */
static int lex_data(struct jinja_lexer *l, struct jinja_token *t)
{
    if (l->tag_pending) {
        l->tag_pending = 0;
        return lex_tag(l, t);
    }
    if (l->pos >= l->n) {
        *t = (struct jinja_token){JT_EOF, l->line, "", 0};
        return 1;
    }
    size_t tag = find_tag(l, l->pos), stop = tag;
    if (tag < l->n) {
        stop = text_end(l, tag, 2, l->src[tag + 1] == '{');
        l->tag_pending = 1;
    }
    *t = (struct jinja_token){JT_DATA, l->line, l->src + l->pos, stop - l->pos};
    advance(l, tag);
    return t->n > 0;
}

static int is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static int is_name_byte(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
           (unsigned char)c >= 0x80;
}

static int is_base_digit(char c, int base)
{
    if (base == 16)
        return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f');
    return c >= '0' && c < '0' + base;
}

/* The end of digits with single underscores between them, beginning at pos with a digit; pos if
 * there is none. */
static size_t digits(const struct jinja_lexer *l, size_t pos, int base)
{
    if (pos >= l->n || !is_base_digit(l->src[pos], base))
        return pos;
    while (pos < l->n &&
           (is_base_digit(l->src[pos], base) ||
            (l->src[pos] == '_' && pos + 1 < l->n && is_base_digit(l->src[pos + 1], base))))
        pos++;
    return pos;
}

static size_t exponent(const struct jinja_lexer *l, size_t pos)
{
    if (pos >= l->n || (l->src[pos] | 32) != 'e')
        return pos;
    size_t p = pos + 1;
    if (p < l->n && (l->src[p] == '+' || l->src[p] == '-'))
        p++;
    size_t end = digits(l, p, 10);
    return end > p ? end : pos;
}

static size_t lex_number(const struct jinja_lexer *l, enum jinja_token_type *type)
{
    size_t pos = l->pos, whole = digits(l, pos, 10);
    /* After a dot ("a.0.1") only integers follow. */
    if (pos == 0 || l->src[pos - 1] != '.') {
        size_t end = whole;
        if (end < l->n && l->src[end] == '.' && digits(l, end + 1, 10) > end + 1)
            end = digits(l, end + 1, 10);
        size_t with_exponent = exponent(l, end);
        if (with_exponent > whole) {
            *type = JT_FLOAT;
            return with_exponent;
        }
    }
    *type = JT_INTEGER;
    if (l->src[pos] != '0')
        return whole;
    int base = 10;
    if (pos + 1 < l->n) {
        char c = (char)(l->src[pos + 1] | 32);
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    }
    if (base != 10) {
        size_t from = pos + 2;
        if (from < l->n && l->src[from] == '_')
            from++;
        if (digits(l, from, base) > from)
            return digits(l, from, base);
    }
    /* A decimal that begins with 0 is zeros only. */
    size_t end = pos;
    while (end < whole && (l->src[end] == '0' || (l->src[end] == '_' && l->src[end + 1] == '0')))
        end++;
    return end;
}

static size_t lex_string(const struct jinja_lexer *l)
{
    char quote = l->src[l->pos];
    for (size_t p = l->pos + 1; p < l->n; p++) {
        if (l->src[p] == '\\')
            p++;
        else if (l->src[p] == quote)
            return p + 1;
    }
    return 0;
}

static size_t lex_operator(const struct jinja_lexer *l)
{
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    for (size_t i = 0; i < sizeof two / sizeof two[0]; i++)
        if (at(l, l->pos, two[i]))
            return l->pos + 2;
    return strchr("+-/*%~[](){}<>=.:|,;", l->src[l->pos]) && l->src[l->pos] ? l->pos + 1 : 0;
}

static int balance(struct jinja_lexer *l, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_brackets == JINJA_MAX_BRACKETS)
            return fail(l, "brackets are nested too deeply");
        l->brackets[l->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        char expected = l->n_brackets ? l->brackets[--l->n_brackets] : 0;
        if (expected == c)
            return 0;
        if (expected)
            snprintf(l->message, sizeof l->message, "unexpected '%c', expected '%c'", c, expected);
        else
            snprintf(l->message, sizeof l->message, "unexpected '%c'", c);
        return -1;
    }
    return 0;
}

static int unexpected_char(struct jinja_lexer *l)
{
    unsigned cp;
    int len = utf8_decode(l->src + l->pos, l->n - l->pos, &cp);
    snprintf(l->message, sizeof l->message, "unexpected char '%.*s' at byte %zu", len > 0 ? len : 0,
             l->src + l->pos, l->pos);
    return -1;
}

/* Inside a tag. */
static int lex_code(struct jinja_lexer *l, struct jinja_token *t)
{
    int is_variable = l->state == JINJA_IN_VARIABLE;
    size_t end = l->n_brackets ? 0 : closing(l, l->pos, is_variable ? "}}" : "%}", is_variable);
    if (end) {
        *t = (struct jinja_token){is_variable ? JT_VARIABLE_END : JT_BLOCK_END, l->line,
                                  l->src + l->pos, end - l->pos};
        advance(l, end);
        l->state = JINJA_IN_DATA;
        return 1;
    }
    size_t space = skip_space(l, l->pos);
    if (space > l->pos) {
        advance(l, space);
        return 0;
    }
    if (l->pos >= l->n) {
        *t = (struct jinja_token){JT_EOF, l->line, "", 0};
        return 1;
    }
    char c = l->src[l->pos];
    enum jinja_token_type type;
    if (is_digit(c)) {
        end = lex_number(l, &type);
    } else if (is_name_byte(c)) {
        type = JT_NAME;
        for (end = l->pos; end < l->n && is_name_byte(l->src[end]);)
            end++;
    } else if ((c == '"' || c == '\'') && (end = lex_string(l)) != 0) {
        type = JT_STRING;
    } else {
        type = JT_OPERATOR;
        end = lex_operator(l);
        if (!end)
            return unexpected_char(l);
        if (balance(l, c) < 0)
            return -1;
    }
    *t = (struct jinja_token){type, l->line, l->src + l->pos, end - l->pos};
    advance(l, end);
    return 1;
}

int jinja_lex(struct jinja_lexer *l, struct jinja_token *t)
{
    int rc;
    do {
        rc = l->state == JINJA_IN_DATA ? lex_data(l, t) : lex_code(l, t);
    } while (rc == 0);
    return rc < 0 ? -1 : 0;
}
