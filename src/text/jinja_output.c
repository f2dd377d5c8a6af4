/* Where text goes: to the caller's buffer, or into a capture that becomes a string value. */
#include <string.h>

#include "text/jinja_int.h"

static void check_room(struct jinja *J, size_t more)
{
    if (J->out == &J->capture) {
        if (more > J->limits->memory_bytes || J->capture.len > J->limits->memory_bytes - more)
            jinja_fail_limit(J, "memory");
    } else if (more > J->limits->output_bytes ||
               J->out->len - J->out_start > J->limits->output_bytes - more) {
        jinja_fail_limit(J, "output");
    }
}

void jinja_write(struct jinja *J, const char *s, size_t n)
{
    check_room(J, n);
    jinja_charge(J, n / 64);
    buf_add(J->out, s, n);
}

void jinja_puts(struct jinja *J, const char *s)
{
    jinja_write(J, s, strlen(s));
}

void jinja_putc(struct jinja *J, char c)
{
    jinja_write(J, &c, 1);
}

void jinja_put_cp(struct jinja *J, unsigned cp)
{
    char out[4];
    jinja_write(J, out, jinja_encode(cp, out));
}

void jinja_fill(struct jinja *J, struct jv text, int64_t times)
{
    if (times <= 0 || !text.len)
        return;
    if ((uint64_t)times > SIZE_MAX / text.len)
        jinja_fail_limit(J, "memory");
    check_room(J, text.len * (size_t)times);
    for (int64_t i = 0; i < times; i++)
        jinja_write(J, text.str, text.len);
}

struct jinja_capture jinja_capture_begin(struct jinja *J)
{
    struct jinja_capture c = {J->out, J->capture.len};
    J->out = &J->capture;
    return c;
}

struct jv jinja_capture_end(struct jinja *J, struct jinja_capture c)
{
    struct jv v = jinja_str_copy(J, buf_str(&J->capture) + c.start, J->capture.len - c.start);
    buf_truncate(&J->capture, c.start);
    J->out = c.out;
    return v;
}
