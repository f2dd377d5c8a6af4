/* strftime_now: the time of the rendering in a format of strftime. */
#include <string.h>
#include <time.h>

#include "text/jinja_int.h"

/* A fixed time is printed as it is (UTC); the clock's in local time, as Python's datetime.now(). */
static struct tm broken_down(const struct jinja *J)
{
    struct tm tm = {0};
    time_t t;
    if (J->now_unix != INT64_MIN) {
        t = (time_t)J->now_unix;
        gmtime_r(&t, &tm);
        tm.tm_zone = "";
    } else {
        t = time(NULL);
        localtime_r(&t, &tm);
        /* datetime.now() knows no time zone: %z and %Z print nothing. */
        tm.tm_zone = "";
    }
    return tm;
}

/* The length of the directive behind a percent sign: flags, width, modifier and letter. */
static size_t directive(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && strchr("_-0^#", s[i]) && s[i])
        i++;
    while (i < n && s[i] >= '0' && s[i] <= '9')
        i++;
    if (i < n && (s[i] == 'E' || s[i] == 'O'))
        i++;
    return i < n ? i + 1 : i;
}

/* The format is one checked directive, from a template. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static size_t format_directive(char *out, size_t cap, const char *spec, const struct tm *tm)
{
    return strftime(out, cap, spec, tm);
}
#pragma GCC diagnostic pop

struct jv jinja_strftime(struct jinja *J, struct jv format)
{
    struct tm tm = broken_down(J);
    struct jinja_capture c = jinja_capture_begin(J);
    for (size_t i = 0; i < format.len;) {
        if (format.str[i] != '%') {
            jinja_putc(J, format.str[i++]);
            continue;
        }
        char spec[16] = "%", text[128];
        size_t n = directive(format.str + i + 1, format.len - i - 1);
        char letter = n ? format.str[i + n] : 0;
        if (n > 8)
            jinja_fail(J, "Invalid format string");
        memcpy(spec + 1, format.str + i + 1, n);
        if (letter == 'f')
            jinja_puts(J, "000000");
        else if (letter != 'z' && letter != 'Z')
            jinja_write(J, text, format_directive(text, sizeof text, n ? spec : "%%", &tm));
        i += n + 1;
    }
    return jinja_capture_end(J, c);
}
