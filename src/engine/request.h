/* What the engine asks of a request beyond its type. Pure; any thread. */
#ifndef MOED_ENGINE_REQUEST_CHECK_H
#define MOED_ENGINE_REQUEST_CHECK_H

#include <stdint.h>

#include "moed/request.h"

/* Bytes of one stop string: matching holds that much text back at most. */
#define REQUEST_MAX_STOP_BYTES 512
/* Entries of logit_bias, as in OpenAI's API. */
#define REQUEST_MAX_BIAS 1024

/* 0, or MOED_EINVAL with the field named as the API calls it. */
int request_check(const struct moed_request *r, int32_t vocab, int32_t max_model_len,
                  struct moed_error *err);

#endif
