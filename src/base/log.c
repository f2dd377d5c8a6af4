#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/json_escape.h"

static _Atomic int level_now = LOG_INFO_LEVEL;
static _Atomic int format_now = LOG_FORMAT_TEXT;

static const char *const level_names[] = {"error", "warning", "info", "debug"};

void log_setup(enum log_level level, enum log_format format)
{
    atomic_store(&level_now, (int)level);
    atomic_store(&format_now, (int)format);
}

int log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

static void put_time(struct buf *out)
{
    struct timespec now;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    buf_printf(out, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ", tm.tm_year + 1900, tm.tm_mon + 1,
               tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (!log_enabled(level))
        return;
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);

    struct buf out = {0};
    if (atomic_load(&format_now) == LOG_FORMAT_JSON) {
        buf_puts(&out, "{\"time\":\"");
        put_time(&out);
        buf_printf(&out, "\",\"level\":\"%s\",\"message\":\"", level_names[level]);
        json_escape(&out, text, sizeof text);
        buf_puts(&out, "\"}\n");
    } else {
        put_time(&out);
        buf_printf(&out, " %s%s%s\n", level == LOG_INFO_LEVEL ? "" : level_names[level],
                   level == LOG_INFO_LEVEL ? "" : ": ", text);
    }
    /* One write, so that lines of several threads do not mix. A log that cannot be written is lost.
     */
    ssize_t n = write(STDERR_FILENO, out.data, out.len);
    (void)n;
    buf_fini(&out);
}
