#include "moed/error.h"

#include <stdio.h>
#include <string.h>

#include "moed/version.h"

const char *moed_version(void)
{
    return MOED_VERSION;
}

static int __attribute__((format(printf, 4, 0)))
fill(struct moed_error *err, int code, const char *param, const char *fmt, va_list args)
{
    if (!err)
        return code;
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    return code;
}

int moed_fail(struct moed_error *err, int code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, "", fmt, args);
    va_end(args);
    return code;
}

int moed_fail_param(struct moed_error *err, int code, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fill(err, code, param, fmt, args);
    va_end(args);
    return code;
}

int moed_fail_in(struct moed_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char context[512], inner[sizeof err->text];
    va_list args;
    va_start(args, fmt);
    vsnprintf(context, sizeof context, fmt, args);
    va_end(args);
    memcpy(inner, err->text, sizeof inner);
    snprintf(err->text, sizeof err->text, "%.400s: %.420s", context, inner);
    return err->code;
}

const char *moed_code_name(int code)
{
    static const char *const names[] = {
        "ok",          "invalid", "format", "io",       "no memory",
        "not found",   "limit",   "busy",   "canceled", "deadline",
        "unsupported", "device",  "closed", "internal", "timed out",
    };
    int i = -code;
    return i >= 0 && i < (int)(sizeof names / sizeof names[0]) ? names[i] : "unknown";
}
