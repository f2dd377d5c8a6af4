/*
 * Where a bench is, told on the log as it goes, and how long its cases may take: whatever a machine
 * or a setting makes slow, a bench comes to its end and prints what it has.
 */
#include <stdarg.h>

#include "base/clock.h"
#include "base/log.h"
#include "cli/bench.h"

/* Rare enough to cost a measured run nothing. */
#define SAY_EVERY_US 5000000

void bench_watch_begin(struct bench_watch *w, int64_t total_us, int64_t case_us)
{
    w->begin_us = clock_us();
    w->end_us = total_us > 0 ? w->begin_us + total_us : 0;
    w->case_limit_us = case_us;
}

bool bench_watch_over(const struct bench_watch *w)
{
    return w->end_us && clock_us() >= w->end_us;
}

void bench_watch_case(struct bench_watch *w, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(w->what, sizeof w->what, fmt, args);
    va_end(args);
    w->case_begin_us = w->said_us = clock_us();
    log_info("bench, %.1f s: %s", (double)(w->case_begin_us - w->begin_us) * 1e-6, w->what);
}

int64_t bench_watch_left_us(const struct bench_watch *w, double part)
{
    int64_t end_us = w->case_begin_us + (int64_t)(part * (double)w->case_limit_us);
    if (w->end_us && w->end_us < end_us)
        end_us = w->end_us;
    int64_t left_us = end_us - clock_us();
    return left_us > 0 ? left_us : 0;
}

bool bench_watch_goes_on(struct bench_watch *w, double part, const char *phase, int64_t done,
                         int64_t of)
{
    int64_t now_us = clock_us();
    if (now_us - w->said_us >= SAY_EVERY_US) {
        w->said_us = now_us;
        log_info("bench, %.1f s: %s: %s, %lld of %lld", (double)(now_us - w->begin_us) * 1e-6,
                 w->what, phase, (long long)done, (long long)of);
    }
    return bench_watch_left_us(w, part) > 0;
}
