#include "model/config_read.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

json_t *config_get(const struct config_reader *r, const char *key)
{
    json_t *v = json_object_get(r->object, key);
    return v && !json_is_null(v) ? v : NULL;
}

int config_fail(const struct config_reader *r, int code, const char *key, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return moed_fail_param(r->err, code, key, "%s: %s%s%s %s", r->file, r->group,
                           *r->group ? "." : "", key, text);
}

int config_int(const struct config_reader *r, const char *key, int64_t min, int64_t max,
               int32_t *out)
{
    json_t *v = config_get(r, key);
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return config_fail(r, MOED_EFORMAT, key, "must be an integer");
    int64_t n = json_integer_value(v);
    if (n < min || n > max)
        return config_fail(r, MOED_EFORMAT, key, "is %lld, must be %lld to %lld", (long long)n,
                           (long long)min, (long long)max);
    *out = (int32_t)n;
    return 1;
}

int config_number(const struct config_reader *r, const char *key, double min, double max,
                  double *out)
{
    json_t *v = config_get(r, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return config_fail(r, MOED_EFORMAT, key, "must be a number");
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        return config_fail(r, MOED_EFORMAT, key, "is %g, must be %g to %g", x, min, max);
    *out = x;
    return 1;
}

int config_bool(const struct config_reader *r, const char *key, bool *out)
{
    json_t *v = config_get(r, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return config_fail(r, MOED_EFORMAT, key, "must be true or false");
    *out = json_is_true(v);
    return 1;
}

int config_string(const struct config_reader *r, const char *key, const char **out)
{
    json_t *v = config_get(r, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return config_fail(r, MOED_EFORMAT, key, "must be a string");
    *out = json_string_value(v);
    return 1;
}

int config_ids(const struct config_reader *r, const char *key, int64_t max, int32_t *out,
               int32_t max_n, int32_t *n_out)
{
    json_t *v = config_get(r, key);
    if (!v)
        return 0;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > (size_t)max_n)
        return config_fail(r, MOED_ELIMIT, key, "has %zu ids, at most %d are supported", n, max_n);
    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        json_t *item = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(item))
            return config_fail(r, MOED_EFORMAT, key, "must be a token id or a list of them");
        int64_t id = json_integer_value(item);
        if (id > max)
            return config_fail(r, MOED_EFORMAT, key, "is %lld, must be at most %lld", (long long)id,
                               (long long)max);
        if (id >= 0)
            out[(*n_out)++] = (int32_t)id;
    }
    return 1;
}
