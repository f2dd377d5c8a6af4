/* What str methods and text filters share. */
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

static struct jv keep_flags(struct jv out, struct jv from)
{
    out.flags |= from.flags & JV_MARKUP;
    return out;
}

static void put_all(struct jinja *J, const unsigned *cps, int n)
{
    for (int i = 0; i < n; i++)
        jinja_put_cp(J, cps[i]);
}

/* Whether a cased letter stands before (step -1) or behind the position, case-ignorable characters
 * skipped: the rule of the Greek final sigma. */
static int cased_before(struct jv s, size_t pos)
{
    while (pos > 0) {
        unsigned cp;
        do
            pos--;
        while (pos > 0 && ((unsigned char)s.str[pos] & 0xC0) == 0x80);
        jinja_cp(s.str + pos, s.len - pos, &cp);
        if (!jinja_is_case_ignorable(cp))
            return jinja_is_cased(cp);
    }
    return 0;
}

static int cased_behind(struct jv s, size_t pos)
{
    while (pos < s.len) {
        unsigned cp;
        pos += jinja_cp(s.str + pos, s.len - pos, &cp);
        if (!jinja_is_case_ignorable(cp))
            return jinja_is_cased(cp);
    }
    return 0;
}

#define CAPITAL_SIGMA 0x3A3

static int lower_at(struct jv s, size_t pos, size_t len, unsigned cp, unsigned out[3])
{
    if (cp != CAPITAL_SIGMA)
        return jinja_to_lower(cp, out);
    out[0] = cased_before(s, pos) && !cased_behind(s, pos + len) ? 0x3C2 : 0x3C3;
    return 1;
}

static struct jv map_ascii(struct jinja *J, struct jv s, char first, char last)
{
    char *out = jinja_text(J, s.len);
    for (size_t i = 0; i < s.len; i++) {
        char c = s.str[i];
        out[i] = c >= first && c <= last ? (char)(c ^ 32) : c;
    }
    jinja_charge(J, s.len / 16);
    return keep_flags(jv_str(out, s.len), s);
}

struct jv jinja_upper(struct jinja *J, struct jv s)
{
    if ((uint64_t)jv_str_len(J, s) == s.len)
        return map_ascii(J, s, 'a', 'z');
    struct jinja_capture c = jinja_capture_begin(J);
    unsigned cp, out[3];
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        put_all(J, out, jinja_to_upper(cp, out));
    }
    jinja_charge(J, s.len / 8);
    return keep_flags(jinja_capture_end(J, c), s);
}

static void put_lower(struct jinja *J, struct jv s)
{
    unsigned cp, out[3];
    for (size_t i = 0, len; i < s.len; i += len) {
        len = jinja_cp(s.str + i, s.len - i, &cp);
        put_all(J, out, lower_at(s, i, len, cp, out));
    }
    jinja_charge(J, s.len / 8);
}

struct jv jinja_lower(struct jinja *J, struct jv s)
{
    if ((uint64_t)jv_str_len(J, s) == s.len)
        return map_ascii(J, s, 'A', 'Z');
    struct jinja_capture c = jinja_capture_begin(J);
    put_lower(J, s);
    return keep_flags(jinja_capture_end(J, c), s);
}

struct jv jinja_capitalize(struct jinja *J, struct jv s)
{
    struct jinja_capture c = jinja_capture_begin(J);
    unsigned cp, out[3];
    for (size_t i = 0, len; i < s.len; i += len) {
        len = jinja_cp(s.str + i, s.len - i, &cp);
        put_all(J, out, i ? lower_at(s, i, len, cp, out) : jinja_to_title(cp, out));
    }
    jinja_charge(J, s.len / 8);
    return keep_flags(jinja_capture_end(J, c), s);
}

static int begins_word(unsigned cp)
{
    return jinja_is_space(cp) || cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<';
}

struct jv jinja_title(struct jinja *J, struct jv s)
{
    struct jinja_capture c = jinja_capture_begin(J);
    unsigned cp, out[3];
    for (size_t i = 0; i < s.len;) {
        size_t len = jinja_cp(s.str + i, s.len - i, &cp), end = i + len;
        if (begins_word(cp)) {
            jinja_write(J, s.str + i, len);
            i = end;
            continue;
        }
        put_all(J, out, jinja_to_upper(cp, out));
        while (end < s.len) {
            size_t next = jinja_cp(s.str + end, s.len - end, &cp);
            if (begins_word(cp))
                break;
            end += next;
        }
        put_lower(J, jv_str_part(s, i + len, end));
        i = end;
    }
    jinja_charge(J, s.len / 8);
    return keep_flags(jinja_capture_end(J, c), s);
}

static int in_set(struct jv chars, unsigned cp)
{
    unsigned each;
    if (chars.kind != JV_STR)
        return jinja_is_space(cp);
    for (size_t i = 0; i < chars.len;) {
        i += jinja_cp(chars.str + i, chars.len - i, &each);
        if (each == cp)
            return 1;
    }
    return 0;
}

struct jv jinja_strip(struct jinja *J, struct jv s, struct jv chars, int sides)
{
    size_t from = 0, to = s.len;
    unsigned cp;
    if (chars.kind != JV_MISSING && chars.kind != JV_NONE && chars.kind != JV_STR)
        jinja_fail(J, "strip arg must be None or str");
    size_t each = chars.kind == JV_STR ? chars.len / 4 : 0;
    while (sides & JINJA_STRIP_LEFT && from < to) {
        size_t len = jinja_cp(s.str + from, to - from, &cp);
        if (!in_set(chars, cp))
            break;
        jinja_charge(J, each);
        from += len;
    }
    while (sides & JINJA_STRIP_RIGHT && to > from) {
        size_t p = to - 1;
        while (p > from && ((unsigned char)s.str[p] & 0xC0) == 0x80)
            p--;
        jinja_cp(s.str + p, to - p, &cp);
        if (!in_set(chars, cp))
            break;
        jinja_charge(J, each);
        to = p;
    }
    jinja_charge(J, (s.len - (to - from)) / 16);
    return jv_str_part(s, from, to);
}

/* With an empty `old`: `with` before every character and at the end. */
static void put_between(struct jinja *J, struct jv s, struct jv with, int64_t count)
{
    size_t i = 0;
    unsigned cp;
    for (; i <= s.len && count != 0; count--) {
        jinja_write(J, with.str, with.len);
        jinja_charge(J, 1);
        size_t len = i < s.len ? jinja_cp(s.str + i, s.len - i, &cp) : 1;
        if (i < s.len)
            jinja_write(J, s.str + i, len);
        i += len;
    }
    if (i < s.len)
        jinja_write(J, s.str + i, s.len - i);
}

struct jv jinja_replace(struct jinja *J, struct jv s, struct jv old, struct jv with, int64_t count)
{
    if (s.flags & JV_MARKUP)
        with = jinja_escape(J, with);
    if (count < 0)
        count = INT64_MAX;
    struct jinja_capture c = jinja_capture_begin(J);
    if (!old.len) {
        put_between(J, s, with, count);
        return keep_flags(jinja_capture_end(J, c), s);
    }
    size_t from = 0;
    for (; count > 0 && from < s.len; count--) {
        const char *hit = memmem(s.str + from, s.len - from, old.str, old.len);
        if (!hit)
            break;
        jinja_charge(J, 1);
        jinja_write(J, s.str + from, (size_t)(hit - s.str) - from);
        jinja_write(J, with.str, with.len);
        from = (size_t)(hit - s.str) + old.len;
    }
    jinja_write(J, s.str + from, s.len - from);
    jinja_charge(J, s.len / 16);
    return keep_flags(jinja_capture_end(J, c), s);
}

static int is_line_break(unsigned cp)
{
    return (cp >= 0x0A && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 ||
           cp == 0x2029;
}

struct jinja_list *jinja_splitlines(struct jinja *J, struct jv s, int keep_ends)
{
    struct jinja_list *l = jinja_list_new(J, 0);
    size_t start = 0;
    unsigned cp;
    for (size_t i = 0; i < s.len;) {
        size_t len = jinja_cp(s.str + i, s.len - i, &cp), end = i + len;
        if (!is_line_break(cp)) {
            i = end;
            continue;
        }
        if (cp == '\r' && end < s.len && s.str[end] == '\n')
            end++;
        jinja_list_add(J, l, jv_str_part(s, start, keep_ends ? end : i));
        start = i = end;
    }
    if (start < s.len)
        jinja_list_add(J, l, jv_str_part(s, start, s.len));
    jinja_charge(J, s.len / 16 + l->n);
    return l;
}

struct jv jinja_pad(struct jinja *J, struct jv s, int64_t width, struct jv fill, char align)
{
    int64_t missing = width - jv_str_len(J, s), left = 0;
    if (missing <= 0)
        return s;
    if (align == '^')
        left = missing / 2 + (missing & width & 1); /* as str.center rounds */
    else if (align == '>')
        left = missing;
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_fill(J, fill, left);
    jinja_write(J, s.str, s.len);
    jinja_fill(J, fill, missing - left);
    return keep_flags(jinja_capture_end(J, c), s);
}

struct jv jinja_join(struct jinja *J, struct jv separator, struct jv items, struct jv attribute,
                     int only_str)
{
    struct jv item;
    int markup = only_str && separator.flags & JV_MARKUP;
    int64_t n = 0;
    if (!jv_is_iterable(items))
        jinja_fail(J, only_str ? "can only join an iterable" : "'%s' object is not iterable",
                   jv_type_name(items));
    struct jinja_list *parts = jv_to_list(J, items);
    struct jinja_capture out = jinja_capture_begin(J);
    for (uint32_t i = 0; i < parts->n; i++, n++) {
        item = parts->items[i];
        if (attribute.kind != JV_MISSING)
            item = jinja_getpath(J, item, attribute);
        if (only_str && item.kind != JV_STR)
            jinja_fail(J, "sequence item %lld: expected str instance, %s found", (long long)n,
                       jv_type_name(item));
        if (markup)
            item = jinja_escape(J, item);
        if (n)
            jinja_write(J, separator.str, separator.len);
        jinja_write_value(J, item);
    }
    item = jinja_capture_end(J, out);
    item.flags |= markup ? JV_MARKUP : 0;
    return item;
}
