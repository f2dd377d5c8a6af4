/* "..." % values, and the filter format. */
#include <string.h>

#include "text/jinja_format.h"

struct percent {
    struct jv format, args;
    size_t pos;
    uint32_t used; /* positional arguments */
};

static char next_char(struct jinja *J, struct percent *p)
{
    if (p->pos >= p->format.len)
        jinja_fail(J, "incomplete format");
    return p->format.str[p->pos++];
}

static struct jv next_arg(struct jinja *J, struct percent *p)
{
    if (p->args.kind == JV_TUPLE && p->used < p->args.list->n)
        return p->args.list->items[p->used++];
    if (p->args.kind != JV_TUPLE && p->used == 0) {
        p->used++;
        return p->args;
    }
    jinja_fail(J, "not enough arguments for format string");
}

/* "(key)" behind the percent sign. */
static struct jv keyed_arg(struct jinja *J, struct percent *p)
{
    size_t from = p->pos;
    int depth = 1;
    while (depth) {
        if (p->pos >= p->format.len)
            jinja_fail(J, "incomplete format key");
        char c = p->format.str[p->pos++];
        depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    }
    if (!jv_is_mapping(p->args))
        jinja_fail(J, "format requires a mapping");
    struct jv key = jv_str(p->format.str + from, p->pos - 1 - from);
    struct jv v = jv_lookup(J, p->args, key);
    if (v.kind == JV_MISSING)
        jinja_fail(J, "%s", jinja_show_repr(J, key));
    return v;
}

static void read_flags(struct jinja *J, struct percent *p, struct jinja_spec *spec)
{
    int zero = 0;
    for (;; p->pos++) {
        char c = p->pos < p->format.len ? p->format.str[p->pos] : 0;
        if (c == '-')
            spec->align = '<';
        else if (c == '+')
            spec->sign = '+';
        else if (c == ' ')
            spec->sign = spec->sign == '+' ? '+' : ' ';
        else if (c == '#')
            spec->alternate = 1;
        else if (c == '0')
            zero = 1;
        else
            break;
    }
    if (zero && !spec->align) {
        spec->align = '=';
        spec->fill = jv_str("0", 1);
    }
}

/* A number, or * for the next argument; -1 where there is neither. */
static int64_t read_count(struct jinja *J, struct percent *p)
{
    int64_t n = -1;
    if (p->pos < p->format.len && p->format.str[p->pos] == '*') {
        p->pos++;
        struct jv v = next_arg(J, p);
        if (v.kind != JV_INT)
            jinja_fail(J, "* wants int");
        return v.i;
    }
    while (p->pos < p->format.len && p->format.str[p->pos] >= '0' && p->format.str[p->pos] <= '9') {
        n = (n < 0 ? 0 : n) * 10 + (p->format.str[p->pos++] - '0');
        if (n > INT32_MAX)
            jinja_fail(J, "width too big");
    }
    return n;
}

static void put_text(struct jinja *J, const struct percent *p, struct jinja_spec *spec, struct jv v)
{
    struct jv s = spec->type == 's'   ? jinja_str(J, v)
                  : spec->type == 'r' ? jinja_repr(J, v)
                                      : jinja_ascii(J, v);
    if (p->format.flags & JV_MARKUP)
        s = jinja_escape(J, s);
    if (spec->precision >= 0 && spec->precision < jv_str_len(J, s))
        s = jv_str_part(s, 0, jv_str_offset(J, s, spec->precision));
    if (spec->align == '=') {
        spec->align = '>';
        spec->fill = jv_str(" ", 1);
    }
    jinja_put_padded(J, spec, s, '>');
}

static void put_integer(struct jinja *J, struct jinja_spec *spec, struct jv v)
{
    char type = spec->type;
    if (type == 'c' && v.kind == JV_STR) {
        if (jv_str_len(J, v) != 1)
            jinja_fail(J, "%%c requires int or char");
        jinja_put_padded(J, spec, v, '>');
        return;
    }
    if (type == 'i' || type == 'u')
        spec->type = type = 'd';
    if (v.kind == JV_UNDEFINED && type == 'd')
        jinja_fail_undefined(J, v);
    if (v.kind == JV_FLOAT && type == 'd')
        v = jinja_float_to_int(J, v.f);
    if (v.kind != JV_INT && v.kind != JV_BOOL) {
        if (type == 'c')
            jinja_fail(J, "%%c requires int or char");
        jinja_fail(J, "%%%c format: %s is required, not %s", type,
                   type == 'd' ? "a real number" : "an integer", jv_type_name(v));
    }
    spec->min_digits = spec->precision;
    jinja_put_int(J, spec, v.i);
}

static void put_conversion(struct jinja *J, const struct percent *p, struct jinja_spec *spec,
                           struct jv v)
{
    switch (spec->type) {
    case 's':
    case 'r':
    case 'a':
        put_text(J, p, spec, v);
        return;
    case 'd':
    case 'i':
    case 'u':
    case 'o':
    case 'x':
    case 'X':
    case 'c':
        put_integer(J, spec, v);
        return;
    default:
        if (v.kind == JV_UNDEFINED)
            jinja_fail_undefined(J, v);
        if (!jv_is_number(v))
            jinja_fail(J, "must be real number, not %s", jv_type_name(v));
        jinja_put_float(J, spec, jv_number(v));
    }
}

static void put_directive(struct jinja *J, struct percent *p)
{
    struct jinja_spec spec = {.fill = jv_str(" ", 1), .precision = -1};
    struct jv v = {0};
    if (p->pos < p->format.len && p->format.str[p->pos] == '(') {
        p->pos++;
        v = keyed_arg(J, p);
    }
    read_flags(J, p, &spec);
    spec.width = read_count(J, p);
    if (spec.width < -1) {
        spec.align = '<';
        spec.fill = jv_str(" ", 1);
        spec.width = -spec.width;
    }
    if (p->pos < p->format.len && p->format.str[p->pos] == '.') {
        p->pos++;
        spec.precision = read_count(J, p);
        if (spec.precision < 0)
            spec.precision = 0;
    }
    spec.type = next_char(J, p);
    if (strchr("hlL", spec.type))
        spec.type = next_char(J, p);
    if (spec.type == '%') {
        jinja_putc(J, '%');
        return;
    }
    if (!spec.type || !strchr("sradiuoxXceEfFgG", spec.type))
        jinja_fail(J, "unsupported format character '%c' (0x%x) at index %zu",
                   spec.type >= ' ' && spec.type < 0x7F ? spec.type : '?', (unsigned char)spec.type,
                   p->pos - 1);
    put_conversion(J, p, &spec, v.kind == JV_MISSING ? next_arg(J, p) : v);
}

struct jv jinja_percent(struct jinja *J, struct jv format, struct jv arg)
{
    struct percent p = {.format = format, .args = arg};
    struct jinja_capture c = jinja_capture_begin(J);
    while (p.pos < format.len) {
        const char *from = format.str + p.pos, *next = memchr(from, '%', format.len - p.pos);
        size_t n = next ? (size_t)(next - from) : format.len - p.pos;
        jinja_write(J, from, n);
        p.pos += n + (next != NULL);
        if (next)
            put_directive(J, &p);
        jinja_charge(J, 1);
    }
    /* What has items counts as a mapping, of which not all need to be used. */
    int spare = arg.kind == JV_TUPLE ? p.used < arg.list->n
                                     : !p.used && (arg.kind == JV_STR || !jv_is_iterable(arg));
    if (spare)
        jinja_fail(J, "not all arguments converted during string formatting");
    struct jv out = jinja_capture_end(J, c);
    out.flags |= format.flags & JV_MARKUP;
    return out;
}
