/* Numbers and text in Python's format specifications. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "text/jinja_format.h"

/* The longest float: 309 digits before the point and the precision behind it. */
#define MAX_PRECISION 1000
#define NUMBER_BYTES  (MAX_PRECISION + 400)

void jinja_put_padded(struct jinja *J, const struct jinja_spec *spec, struct jv text, char natural)
{
    char align = spec->align ? spec->align : natural;
    int64_t missing = spec->width - jv_str_len(J, text), left = 0;
    if (missing < 0)
        missing = 0;
    if (align == '>' || align == '=')
        left = missing;
    else if (align == '^')
        left = missing / 2;
    jinja_fill(J, spec->fill, left);
    jinja_write(J, text.str, text.len);
    jinja_fill(J, spec->fill, missing - left);
}

/* Separators between groups of digits, counted from the end of the digits. */
static size_t group_digits(char *out, const char *digits, size_t n, char separator, size_t size)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        if (separator && i && (n - i) % size == 0)
            out[len++] = separator;
        out[len++] = digits[i];
    }
    return len;
}

/* prefix (sign, 0x), digits, rest (fraction, exponent): padding goes where the alignment says. */
static void put_number(struct jinja *J, const struct jinja_spec *spec, const char *prefix,
                       const char *digits, size_t n_digits, const char *rest, size_t group)
{
    char grouped[NUMBER_BYTES * 2];
    size_t n = group_digits(grouped, digits, n_digits, spec->group, group);
    size_t n_prefix = strlen(prefix), n_rest = strlen(rest);
    struct jinja_spec padding = *spec;
    if (spec->align == '=') {
        jinja_write(J, prefix, n_prefix);
        n_prefix = 0;
        padding.width -= (int64_t)strlen(prefix);
    }
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_write(J, prefix, n_prefix);
    jinja_write(J, grouped, n);
    jinja_write(J, rest, n_rest);
    jinja_put_padded(J, &padding, jinja_capture_end(J, c), '>');
}

static const char *sign_of(const struct jinja_spec *spec, int negative)
{
    return negative ? "-" : spec->sign == '+' ? "+" : spec->sign == ' ' ? " " : "";
}

void jinja_put_int(struct jinja *J, const struct jinja_spec *spec, int64_t i)
{
    char digits[NUMBER_BYTES], prefix[8];
    unsigned base = 10;
    char type = spec->type ? spec->type : 'd';
    if (type == 'c') {
        char text[4];
        if (i < 0 || i > 0x10FFFF || (i >= 0xD800 && i < 0xE000))
            jinja_fail(J, "%%c arg not in range(0x110000)");
        size_t n = jinja_encode((unsigned)i, text);
        jinja_put_padded(J, spec, jv_str(text, n), '<');
        return;
    }
    if (spec->min_digits > MAX_PRECISION)
        jinja_fail_limit(J, "precision");
    base = type == 'x' || type == 'X' ? 16 : type == 'o' ? 8 : type == 'b' ? 2 : 10;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    size_t at = sizeof digits;
    do {
        digits[--at] = (type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef")[u % base];
        u /= base;
    } while (u);
    while ((int64_t)(sizeof digits - at) < spec->min_digits)
        digits[--at] = '0';
    snprintf(prefix, sizeof prefix, "%s%s%.*s", sign_of(spec, i < 0),
             spec->alternate && base != 10 ? "0" : "", spec->alternate && base != 10, &type);
    put_number(J, spec, prefix, digits + at, sizeof digits - at, "", base == 10 ? 3 : 4);
}

static size_t print_float(struct jinja *J, char *text, const struct jinja_spec *spec, double f)
{
    int precision = spec->precision < 0 ? 6 : (int)spec->precision;
    int upper = spec->type == 'F' || spec->type == 'E' || spec->type == 'G';
    size_t n;
    switch (spec->type) {
    case 'e':
    case 'E':
        n = (size_t)snprintf(text, NUMBER_BYTES, spec->alternate ? "%#.*e" : "%.*e", precision, f);
        break;
    case 'f':
    case 'F':
    case '%':
        n = (size_t)snprintf(text, NUMBER_BYTES, spec->alternate ? "%#.*f" : "%.*f", precision, f);
        break;
    case 'g':
    case 'G':
    case 'n':
        n = (size_t)snprintf(text, NUMBER_BYTES, spec->alternate ? "%#.*g" : "%.*g", precision, f);
        break;
    default:
        if (spec->precision < 0)
            return jinja_print_float(text, f);
        n = (size_t)snprintf(text, NUMBER_BYTES, "%.*g", precision ? precision : 1, f);
        if (strspn(text, "0123456789") == n) {
            /* str() shows a float as one: 3.0, or 3e+00 where no digit is left for it. */
            if ((int)n >= (precision ? precision : 1))
                n = (size_t)snprintf(text, NUMBER_BYTES, "%.*e", (int)n - 1, f);
            else
                n = (size_t)snprintf(text + n, 3, ".0") + n;
        }
    }
    for (size_t i = 0; upper && i < n; i++)
        text[i] = (char)toupper((unsigned char)text[i]);
    return n;
}

void jinja_put_float(struct jinja *J, const struct jinja_spec *spec, double f)
{
    char text[NUMBER_BYTES];
    if (spec->precision > MAX_PRECISION)
        jinja_fail_limit(J, "precision");
    double value = fabs(spec->type == '%' ? f * 100 : f);
    size_t n = print_float(J, text, spec, isnan(f) ? NAN : value);
    if (spec->type == '%')
        snprintf(text + n, 2, "%%");
    size_t digits = strspn(text, "0123456789");
    if (!digits) { /* nan, inf */
        put_number(J, spec, sign_of(spec, !isnan(f) && signbit(f)), "", 0, text, 3);
        return;
    }
    put_number(J, spec, sign_of(spec, signbit(f)), text, digits, text + digits, 3);
}

struct jv jinja_ascii(struct jinja *J, struct jv v)
{
    struct jv s = jinja_repr(J, v);
    struct jinja_capture c = jinja_capture_begin(J);
    unsigned cp;
    char text[16];
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        if (cp < 0x80)
            jinja_putc(J, (char)cp);
        else
            jinja_write(J, text,
                        (size_t)snprintf(text, sizeof text,
                                         cp < 0x100     ? "\\x%02x"
                                         : cp < 0x10000 ? "\\u%04x"
                                                        : "\\U%08x",
                                         cp));
    }
    return jinja_capture_end(J, c);
}
