/*
 * The log: one line per event on standard error, as text or as JSON. Any thread.
 *
 *   log_info("loaded %zu tensors", n);            moed: loaded 219 tensors
 *   log_warn(...), log_error(...), log_debug(...)
 */
#ifndef MOED_BASE_LOG_H
#define MOED_BASE_LOG_H

enum log_level { LOG_ERROR_LEVEL, LOG_WARN_LEVEL, LOG_INFO_LEVEL, LOG_DEBUG_LEVEL };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* Set once at start, before threads. */
void log_setup(enum log_level level, enum log_format format);
int log_enabled(enum log_level level);

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_line(LOG_ERROR_LEVEL, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN_LEVEL, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO_LEVEL, __VA_ARGS__)
#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_enabled(LOG_DEBUG_LEVEL))                                                          \
            log_line(LOG_DEBUG_LEVEL, __VA_ARGS__);                                                \
    } while (0)

#endif
