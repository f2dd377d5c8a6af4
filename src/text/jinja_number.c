/* Numbers from and to text, and rounding, as Python does them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

static int digit_of(unsigned cp)
{
    if (cp >= 'a' && cp <= 'z')
        return (int)cp - 'a' + 10;
    if (cp >= 'A' && cp <= 'Z')
        return (int)cp - 'A' + 10;
    int d = jinja_digit_value(cp);
    return d >= 0 ? d : 99;
}

/* "0x" and the like, where the base allows it; returns what is behind it. */
static struct jv skip_prefix(struct jv s, int *base)
{
    int of = 0;
    if (s.len > 1 && s.str[0] == '0') {
        char c = (char)(s.str[1] | 32);
        of = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 0;
    }
    if (of && (*base == 0 || *base == of)) {
        *base = of;
        s = jv_str_part(s, 2, s.len);
        if (s.len && s.str[0] == '_')
            s = jv_str_part(s, 1, s.len);
        return s;
    }
    if (*base == 0)
        *base = 10;
    return s;
}

int jinja_parse_int(struct jinja *J, struct jv s, int base, int64_t *out)
{
    s = jinja_strip(J, s, jv_none(), JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT);
    int negative = s.len && s.str[0] == '-', after_digit = 0, auto_base = base == 0;
    if (s.len && (s.str[0] == '-' || s.str[0] == '+'))
        s = jv_str_part(s, 1, s.len);
    s = skip_prefix(s, &base);
    jinja_charge(J, s.len / 16);
    int64_t value = 0;
    int overflow = 0, leading_zero = 0, nonzero = 0;
    unsigned cp;
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        if (cp == '_' && after_digit) {
            after_digit = 0;
            continue;
        }
        int d = digit_of(cp);
        if (d >= base)
            return 0;
        leading_zero |= i == 1 && d == 0;
        nonzero |= d != 0;
        overflow |= __builtin_mul_overflow(value, (int64_t)base, &value);
        overflow |=
            __builtin_sub_overflow(value, (int64_t)d, &value); /* negative: the wider half */
        after_digit = 1;
    }
    if (!after_digit || (auto_base && base == 10 && leading_zero && nonzero))
        return 0;
    if (overflow || (!negative && value == INT64_MIN))
        jinja_fail(J, "integer is too large (64 bits)");
    *out = negative ? value : -value;
    return 1;
}

/* Copies the text of a float to ASCII without underscores; 0 where it cannot be one. */
static size_t plain_float(struct jv s, char *out, size_t cap)
{
    size_t n = 0;
    unsigned cp, before = 0;
    for (size_t i = 0; i < s.len; before = cp) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        int d = jinja_digit_value(cp);
        if (cp == '_') {
            if (jinja_digit_value(before) < 0 || i >= s.len)
                return 0;
            continue;
        }
        if (before == '_' && d < 0)
            return 0;
        if (d < 0 && cp >= 0x80)
            return 0;
        if (n + 1 >= cap)
            return 0;
        out[n++] = d >= 0 ? (char)('0' + d) : (char)cp;
    }
    out[n] = 0;
    return n;
}

static int is_word(const char *s)
{
    if (*s == '+' || *s == '-')
        s++;
    return !strcasecmp(s, "inf") || !strcasecmp(s, "infinity") || !strcasecmp(s, "nan");
}

int jinja_parse_float(struct jinja *J, struct jv s, double *out)
{
    char text[512];
    s = jinja_strip(J, s, jv_none(), JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT);
    size_t n = plain_float(s, text, sizeof text);
    if (!n || (!is_word(text) && strspn(text, "+-.0123456789eE") != n))
        return 0;
    char *end;
    *out = strtod(text, &end);
    return end == text + n;
}

double jinja_round(double f, int digits)
{
    char text[400];
    if (!isfinite(f) || digits > 308)
        return f;
    if (digits < -308)
        return copysign(0, f);
    if (digits < 0) {
        double scale = pow(10, -digits);
        return nearbyint(f / scale) * scale;
    }
    if (digits > 22 && fabs(f) > 1e20)
        return f;
    snprintf(text, sizeof text, "%.*f", digits > 40 ? 40 : digits, f);
    return strtod(text, NULL);
}

struct jv jinja_float_to_int(struct jinja *J, double f)
{
    if (isnan(f))
        jinja_fail(J, "cannot convert float NaN to integer");
    if (isinf(f))
        jinja_fail(J, "cannot convert float infinity to integer");
    if (f < -0x1p63 || f >= 0x1p63)
        jinja_fail(J, "integer is too large (64 bits)");
    return jv_int((int64_t)f);
}
