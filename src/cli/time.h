/* The time that chat templates see. */
#ifndef MOED_CLI_TIME_H
#define MOED_CLI_TIME_H

#include "base/options.h"

/* --template-time as seconds since 1970 UTC; INT64_MIN (the clock) without it. */
int cli_template_time(const struct options *o, int64_t *now_unix, struct moed_error *err);

#endif
