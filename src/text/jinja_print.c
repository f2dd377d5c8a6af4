/* Values as text: Python's str() and repr(). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

/* The shortest digits that read back as f (finite, positive), as d.ddde+xx with `precision` digits
 * behind the point. */
static void shortest(double f, char out[40])
{
    for (int precision = 0; precision < 17; precision++) {
        snprintf(out, 40, "%.*e", precision, f);
        if (strtod(out, NULL) == f)
            return;
    }
}

size_t jinja_print_float(char out[40], double f)
{
    if (isnan(f) || isinf(f))
        return (size_t)snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
    if (f == 0)
        return (size_t)snprintf(out, 40, "%s", signbit(f) ? "-0.0" : "0.0");
    if (fabs(f) < 1e15 && f == floor(f))
        return (size_t)snprintf(out, 40, "%.1f", f);
    char e[40], digits[24];
    shortest(fabs(f), e);
    int n = 0;
    for (const char *p = e; *p != 'e'; p++)
        if (*p != '.')
            digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = 0;
    int exp = (int)strtol(strchr(e, 'e') + 1, NULL, 10);
    const char *sign = f < 0 ? "-" : "";
    /* Python writes exponents below -4 and from 16 on. */
    if (exp < -4 || exp >= 16)
        return (size_t)snprintf(out, 40, "%s%.1s%s%se%c%02d", sign, digits, n > 1 ? "." : "",
                                digits + 1, exp < 0 ? '-' : '+', abs(exp));
    if (exp < 0)
        return (size_t)snprintf(out, 40, "%s0.%.*s%s", sign, -exp - 1, "0000", digits);
    if (n <= exp + 1)
        return (size_t)snprintf(out, 40, "%s%s%.*s.0", sign, digits, exp + 1 - n,
                                "0000000000000000");
    return (size_t)snprintf(out, 40, "%s%.*s.%s", sign, exp + 1, digits, digits + exp + 1);
}

static void put_float(struct jinja *J, double f)
{
    char text[40];
    jinja_write(J, text, jinja_print_float(text, f));
}

static void put_int(struct jinja *J, int64_t i)
{
    char text[24];
    jinja_write(J, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)i));
}

static void put_escaped(struct jinja *J, unsigned cp)
{
    char text[16];
    int n = cp < 0x100     ? snprintf(text, sizeof text, "\\x%02x", cp)
            : cp < 0x10000 ? snprintf(text, sizeof text, "\\u%04x", cp)
                           : snprintf(text, sizeof text, "\\U%08x", cp);
    jinja_write(J, text, (size_t)n);
}

static void repr_str(struct jinja *J, struct jv s)
{
    int single = s.len && memchr(s.str, '\'', s.len) != NULL;
    int dbl = s.len && memchr(s.str, '"', s.len) != NULL;
    char quote = single && !dbl ? '"' : '\'';
    jinja_putc(J, quote);
    unsigned cp;
    for (size_t i = 0, len; i < s.len; i += len) {
        len = jinja_cp(s.str + i, s.len - i, &cp);
        if (cp == (unsigned char)quote || cp == '\\') {
            jinja_putc(J, '\\');
            jinja_putc(J, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            jinja_puts(J, cp == '\n' ? "\\n" : cp == '\r' ? "\\r" : "\\t");
        } else if (!jinja_is_printable(cp)) {
            put_escaped(J, cp);
        } else {
            jinja_write(J, s.str + i, len);
        }
    }
    jinja_charge(J, s.len / 16);
    jinja_putc(J, quote);
}

static void repr_items(struct jinja *J, struct jv v, const char *open, const char *close)
{
    struct jv item;
    int first = 1;
    jinja_puts(J, open);
    for (struct jinja_cursor c = jv_iterate(J, v); jv_next(J, &c, &item); first = 0) {
        if (!first)
            jinja_puts(J, ", ");
        jinja_charge(J, 1);
        jinja_print_repr(J, item);
    }
    jinja_puts(J, close);
}

static void repr_mapping(struct jinja *J, struct jv v)
{
    struct jinja_walk w = {0};
    struct jv key, value;
    int first = 1;
    jinja_putc(J, '{');
    for (; jv_walk(v, &w, &key, &value); first = 0) {
        if (!first)
            jinja_puts(J, ", ");
        jinja_charge(J, 1);
        jinja_print_repr(J, key);
        jinja_puts(J, ": ");
        jinja_print_repr(J, value);
    }
    jinja_putc(J, '}');
}

static void repr_range(struct jinja *J, const struct jinja_range *r)
{
    jinja_puts(J, "range(");
    put_int(J, r->start);
    jinja_puts(J, ", ");
    put_int(J, r->stop);
    if (r->step != 1) {
        jinja_puts(J, ", ");
        put_int(J, r->step);
    }
    jinja_putc(J, ')');
}

static void repr_container(struct jinja *J, struct jv v)
{
    switch (v.kind) {
    case JV_LIST:
    case JV_JSON_ARRAY:
        repr_items(J, v, "[", "]");
        break;
    case JV_TUPLE:
        repr_items(J, v, "(", v.list->n == 1 ? ",)" : ")");
        break;
    case JV_VIEW:
        jinja_puts(J, jv_type_name(v));
        repr_items(J, v, "([", "])");
        break;
    case JV_NAMESPACE:
        jinja_puts(J, "<Namespace ");
        repr_mapping(J, jv_dict(v.dict));
        jinja_putc(J, '>');
        break;
    default:
        repr_mapping(J, v);
        break;
    }
}

/* What Python prints with an address. */
static void repr_object(struct jinja *J, struct jv v)
{
    if (v.kind == JV_MACRO) {
        jinja_puts(J, "<Macro ");
        if (v.macro->node->value.kind == JV_STR)
            repr_str(J, v.macro->node->value);
        else
            jinja_puts(J, "anonymous");
        jinja_putc(J, '>');
        return;
    }
    jinja_putc(J, '<');
    jinja_puts(J, jv_type_name(v));
    jinja_puts(J, " object>");
}

void jinja_print_repr(struct jinja *J, struct jv v)
{
    switch ((enum jv_kind)v.kind) {
    case JV_MISSING:
    case JV_UNDEFINED:
        jinja_puts(J, "Undefined");
        return;
    case JV_NONE:
        jinja_puts(J, "None");
        return;
    case JV_BOOL:
        jinja_puts(J, v.i ? "True" : "False");
        return;
    case JV_INT:
        put_int(J, v.i);
        return;
    case JV_FLOAT:
        put_float(J, v.f);
        return;
    case JV_STR:
        jinja_puts(J, v.flags & JV_MARKUP ? "Markup(" : "");
        repr_str(J, v);
        jinja_puts(J, v.flags & JV_MARKUP ? ")" : "");
        return;
    case JV_RANGE:
        repr_range(J, v.range);
        return;
    case JV_LIST:
    case JV_TUPLE:
    case JV_DICT:
    case JV_JSON_ARRAY:
    case JV_JSON_OBJECT:
    case JV_VIEW:
    case JV_NAMESPACE:
        jinja_enter(J);
        repr_container(J, v);
        jinja_leave(J);
        return;
    default:
        repr_object(J, v);
        return;
    }
}

void jinja_write_value(struct jinja *J, struct jv v)
{
    if (v.kind == JV_STR)
        jinja_write(J, v.str, v.len);
    else if (v.kind != JV_UNDEFINED)
        jinja_print_repr(J, v);
}

struct jv jinja_str(struct jinja *J, struct jv v)
{
    if (v.kind == JV_STR)
        return v;
    if (v.kind == JV_UNDEFINED)
        return jv_str("", 0);
    return jinja_repr(J, v);
}

struct jv jinja_repr(struct jinja *J, struct jv v)
{
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_print_repr(J, v);
    return jinja_capture_end(J, c);
}

struct jv jinja_escape(struct jinja *J, struct jv v)
{
    if (v.kind == JV_STR && v.flags & JV_MARKUP)
        return v;
    struct jv s = jinja_str(J, v);
    struct jinja_capture c = jinja_capture_begin(J);
    for (size_t i = 0; i < s.len; i++) {
        switch (s.str[i]) {
        case '&':
            jinja_puts(J, "&amp;");
            break;
        case '<':
            jinja_puts(J, "&lt;");
            break;
        case '>':
            jinja_puts(J, "&gt;");
            break;
        case '"':
            jinja_puts(J, "&#34;");
            break;
        case '\'':
            jinja_puts(J, "&#39;");
            break;
        default:
            jinja_putc(J, s.str[i]);
        }
    }
    jinja_charge(J, s.len / 16);
    struct jv out = jinja_capture_end(J, c);
    out.flags |= JV_MARKUP;
    return out;
}
