/* str.format and format specifications. Fields look up attributes and items as expressions do. */
#include <string.h>

#include "text/jinja_format.h"

static int is_align(unsigned cp)
{
    return cp == '<' || cp == '>' || cp == '^' || cp == '=';
}

static int64_t read_number(struct jinja *J, struct jv s, size_t *pos)
{
    int64_t n = -1;
    while (*pos < s.len && s.str[*pos] >= '0' && s.str[*pos] <= '9') {
        n = (n < 0 ? 0 : n) * 10 + (s.str[(*pos)++] - '0');
        if (n > INT32_MAX)
            jinja_fail(J, "Too many decimal digits in format string");
    }
    return n;
}

static void parse_spec(struct jinja *J, struct jv s, struct jinja_spec *out, const char *type)
{
    size_t pos = 0;
    unsigned cp;
    *out = (struct jinja_spec){.fill = jv_str(" ", 1), .precision = -1, .min_digits = -1};
    if (s.len) {
        size_t first = jinja_cp(s.str, s.len, &cp);
        if (first < s.len && is_align((unsigned char)s.str[first])) {
            out->fill = jv_str(s.str, first);
            out->align = s.str[first];
            pos = first + 1;
        } else if (is_align(cp)) {
            out->align = s.str[0];
            pos = 1;
        }
    }
#define TAKE(chars) (pos < s.len && s.str[pos] && strchr(chars, s.str[pos]) ? s.str[pos++] : 0)
    out->sign = TAKE("+- ");
    out->alternate = TAKE("#") != 0;
    if (TAKE("0") && !out->align) {
        out->align = '=';
        out->fill = jv_str("0", 1);
    }
    out->width = read_number(J, s, &pos);
    out->group = TAKE(",_");
    if (TAKE(".")) {
        out->precision = read_number(J, s, &pos);
        if (out->precision < 0)
            jinja_fail(J, "Format specifier missing precision");
    }
#undef TAKE
    if (pos < s.len)
        out->type = s.str[pos++];
    if (pos < s.len)
        jinja_fail(J, "Invalid format specifier '%s' for object of type '%s'", jinja_show(J, s),
                   type);
}

_Noreturn static void fail_code(struct jinja *J, char code, const char *type)
{
    jinja_fail(J, "Unknown format code '%c' for object of type '%s'",
               code >= ' ' && code < 0x7F ? code : '?', type);
}

static void format_str(struct jinja *J, struct jv v, struct jv spec_text)
{
    struct jinja_spec spec;
    parse_spec(J, spec_text, &spec, "str");
    if (spec.type && spec.type != 's')
        fail_code(J, spec.type, "str");
    if (spec.sign)
        jinja_fail(J, "Sign not allowed in string format specifier");
    if (spec.alternate)
        jinja_fail(J, "Alternate form (#) not allowed in string format specifier");
    if (spec.align == '=' && spec.fill.str[0] != '0')
        jinja_fail(J, "'=' alignment not allowed in string format specifier");
    if (spec.group)
        jinja_fail(J, "Cannot specify '%c' with 's'.", spec.group);
    if (spec.align == '=')
        spec.align = '<';
    if (spec.precision >= 0 && spec.precision < jv_str_len(J, v))
        v = jv_str_part(v, 0, jv_str_offset(J, v, spec.precision));
    jinja_put_padded(J, &spec, v, '<');
}

static void format_number(struct jinja *J, struct jv v, struct jv spec_text)
{
    struct jinja_spec spec;
    const char *type = jv_type_name(v);
    parse_spec(J, spec_text, &spec, type);
    char code = spec.type;
    if (v.kind != JV_FLOAT && (!code || strchr("bcdoxXn", code))) {
        if (spec.precision >= 0)
            jinja_fail(J, "Precision not allowed in integer format specifier");
        if (spec.group == ',' && code && strchr("bcoxX", code))
            jinja_fail(J, "Cannot specify ',' with '%c'.", code);
        if (code == 'n')
            spec.type = 'd';
        jinja_put_int(J, &spec, v.i);
        return;
    }
    if (code && !strchr("eEfFgGn%", code))
        fail_code(J, code, type);
    jinja_put_float(J, &spec, jv_number(v));
}

void jinja_format_value(struct jinja *J, struct jv v, struct jv spec)
{
    if (v.kind == JV_STR)
        format_str(J, v, spec);
    else if (!spec.len)
        jinja_write_value(J, v);
    else if (jv_is_number(v))
        format_number(J, v, spec);
    else
        jinja_fail(J, "unsupported format string passed to %s.__format__", jv_type_name(v));
}

/* str.format. */

struct fields {
    const struct jinja_args *args;
    int64_t next;          /* automatic number of the next field */
    int manual, automatic; /* which numbering was used */
    int markup;
};

static struct jv named(struct jinja *J, struct fields *f, struct jv name)
{
    for (uint32_t i = 0; i < f->args->n_kw; i++)
        if (jv_equal(J, f->args->kw[i].name, name))
            return f->args->kw[i].value;
    jinja_fail(J, "%s", jinja_show_repr(J, name));
}

static struct jv first_of_field(struct jinja *J, struct fields *f, struct jv name)
{
    size_t pos = 0;
    int64_t i = read_number(J, name, &pos);
    if (name.len && (i < 0 || pos < name.len))
        return named(J, f, name);
    if (name.len)
        f->manual = 1;
    else
        f->automatic = 1;
    if (f->manual && f->automatic)
        jinja_fail(J, name.len ? "cannot switch from automatic field numbering to manual field "
                                 "specification"
                               : "cannot switch from manual field specification to automatic field "
                                 "numbering");
    if (!name.len)
        i = f->next++;
    if (i >= f->args->n_pos)
        jinja_fail(J, "Replacement index %lld out of range for positional args tuple",
                   (long long)i);
    return f->args->pos[i];
}

/* "0.name[key]" */
static struct jv field_value(struct jinja *J, struct fields *f, struct jv path)
{
    size_t pos = 0;
    while (pos < path.len && path.str[pos] != '.' && path.str[pos] != '[')
        pos++;
    struct jv v = first_of_field(J, f, jv_str_part(path, 0, pos));
    while (pos < path.len) {
        size_t from = ++pos;
        if (path.str[from - 1] == '.') {
            while (pos < path.len && path.str[pos] != '.' && path.str[pos] != '[')
                pos++;
            if (pos == from)
                jinja_fail(J, "Empty attribute in format string");
            v = jinja_getattr(J, v, jv_str_part(path, from, pos));
            continue;
        }
        if (path.str[from - 1] != '[')
            jinja_fail(J, "Only '.' or '[' may follow ']' in format field specifier");
        while (pos < path.len && path.str[pos] != ']')
            pos++;
        if (pos == path.len)
            jinja_fail(J, "Missing ']' in format string");
        struct jv key = jv_str_part(path, from, pos++);
        if (!key.len)
            jinja_fail(J, "Empty attribute in format string");
        size_t digits = 0;
        int64_t i = read_number(J, key, &digits);
        v = jinja_getitem(J, v, i >= 0 && digits == key.len ? jv_int(i) : key);
    }
    return v;
}

static void put_fields(struct jinja *J, struct fields *f, struct jv format, int depth);

/* The field between braces: path, conversion, specification. */
static void put_field(struct jinja *J, struct fields *f, struct jv field, int depth)
{
    size_t pos = 0;
    int bracket = 0;
    for (; pos < field.len; pos++) {
        char c = field.str[pos];
        bracket = c == '[' ? 1 : c == ']' ? 0 : bracket;
        if (!bracket && (c == ':' || c == '!'))
            break;
    }
    struct jv v = field_value(J, f, jv_str_part(field, 0, pos));
    if (pos < field.len && field.str[pos] == '!') {
        char conversion = pos + 1 < field.len ? field.str[pos + 1] : 0;
        pos += 2;
        if (conversion != 's' && conversion != 'r' && conversion != 'a')
            jinja_fail(J, "Unknown conversion specifier in format string");
        v = conversion == 's'   ? jinja_str(J, v)
            : conversion == 'r' ? jinja_repr(J, v)
                                : jinja_ascii(J, v);
        if (pos < field.len && field.str[pos] != ':')
            jinja_fail(J, "expected ':' after conversion specifier");
    }
    struct jv spec = jv_str("", 0);
    if (pos < field.len) {
        struct jinja_capture c = jinja_capture_begin(J);
        put_fields(J, f, jv_str_part(field, pos + 1, field.len), depth + 1);
        spec = jinja_capture_end(J, c);
    }
    if (f->markup)
        v = jinja_escape(J, v);
    jinja_format_value(J, v, spec);
}

static size_t closing_brace(struct jinja *J, struct jv s, size_t pos)
{
    int depth = 1;
    for (; pos < s.len; pos++) {
        depth += s.str[pos] == '{' ? 1 : s.str[pos] == '}' ? -1 : 0;
        if (!depth)
            return pos;
    }
    jinja_fail(J, "expected '}' before end of string");
}

static void put_fields(struct jinja *J, struct fields *f, struct jv format, int depth)
{
    if (depth > 1)
        jinja_fail(J, "Max string recursion exceeded");
    for (size_t i = 0; i < format.len; i++) {
        char c = format.str[i];
        if (c != '{' && c != '}') {
            jinja_putc(J, c);
            continue;
        }
        if (i + 1 < format.len && format.str[i + 1] == c) {
            jinja_putc(J, c);
            i++;
            continue;
        }
        if (c == '}' || i + 1 == format.len)
            jinja_fail(J, "Single '%c' encountered in format string", c);
        size_t end = closing_brace(J, format, i + 1);
        put_field(J, f, jv_str_part(format, i + 1, end), depth);
        jinja_charge(J, 1 + (end - i) / 16);
        i = end;
    }
}

struct jv jinja_str_format(struct jinja *J, struct jv self, const struct jinja_args *args)
{
    struct fields f = {.args = args, .markup = self.flags & JV_MARKUP};
    struct jv format = self;
    format.flags = 0;
    struct jinja_capture c = jinja_capture_begin(J);
    put_fields(J, &f, format, 0);
    struct jv out = jinja_capture_end(J, c);
    out.flags |= self.flags & JV_MARKUP;
    return out;
}
