#include "cli/time.h"

#include <time.h>

int cli_template_time(const struct options *o, int64_t *now_unix, struct moed_error *err)
{
    const char *text = options_string(o, "template-time");
    *now_unix = INT64_MIN;
    if (!text)
        return 0;
    struct tm tm = {0};
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!end || (*end && !(end[0] == 'Z' && !end[1])))
        return moed_fail_param(err, MOED_EINVAL, "template-time",
                               "--template-time takes a time such as 2026-01-31T12:00:00, not '%s'",
                               text);
    *now_unix = (int64_t)timegm(&tm);
    return 0;
}
