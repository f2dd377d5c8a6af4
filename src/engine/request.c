#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

void moed_sampling_default(struct moed_sampling *s)
{
    *s = (struct moed_sampling){
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .max_tokens = 16,
        .logprobs = -1,
        .prompt_logprobs = -1,
        .skip_special = true,
    };
}

struct moed_request *moed_request_new(void)
{
    struct moed_request *r = mem_new(1, sizeof *r);
    r->n = 1;
    moed_sampling_default(&r->sampling);
    return r;
}

void moed_request_free(struct moed_request **r)
{
    if (!*r)
        return;
    for (size_t i = 0; i < (*r)->sampling.n_stop && i < MOED_MAX_STOP; i++)
        free((*r)->sampling.stop[i]);
    free((*r)->sampling.bias);
    free((*r)->prompt);
    free(*r);
    *r = NULL;
}

/* Written so that NaN is outside every range. */
static int in_range(float v, double low, double high, const char *param, struct moed_error *err)
{
    if (v >= low && v <= high)
        return 0;
    return moed_fail_param(err, MOED_EINVAL, param, "%s must be between %g and %g, not %g", param,
                           low, high, (double)v);
}

static int check_numbers(const struct moed_sampling *s, struct moed_error *err)
{
    int rc;
    if ((rc = in_range(s->temperature, 0, 100, "temperature", err)) < 0 ||
        (rc = in_range(s->min_p, 0, 1, "min_p", err)) < 0 ||
        (rc = in_range(s->presence_penalty, -2, 2, "presence_penalty", err)) < 0 ||
        (rc = in_range(s->frequency_penalty, -2, 2, "frequency_penalty", err)) < 0)
        return rc;
    if (!(s->top_p > 0 && s->top_p <= 1))
        return moed_fail_param(err, MOED_EINVAL, "top_p", "top_p must be in (0, 1], not %g",
                               (double)s->top_p);
    if (!(s->repetition_penalty > 0 && s->repetition_penalty <= 100))
        return moed_fail_param(err, MOED_EINVAL, "repetition_penalty",
                               "repetition_penalty must be in (0, 100], not %g",
                               (double)s->repetition_penalty);
    if (s->top_k < -1)
        return moed_fail_param(err, MOED_EINVAL, "top_k",
                               "top_k must be -1 (all) or at least 0, not %d", s->top_k);
    if (s->max_tokens < 0)
        return moed_fail_param(err, MOED_EINVAL, "max_tokens",
                               "max_tokens must not be negative, it is %d", s->max_tokens);
    if (s->min_tokens < 0 || s->min_tokens > s->max_tokens)
        return moed_fail_param(err, MOED_EINVAL, "min_tokens",
                               "min_tokens must be between 0 and max_tokens (%d), not %d",
                               s->max_tokens, s->min_tokens);
    if (s->logprobs < -1 || s->logprobs > MOED_MAX_TOP_LOGPROBS)
        return moed_fail_param(err, MOED_EINVAL, "logprobs", "logprobs must be at most %d, not %d",
                               MOED_MAX_TOP_LOGPROBS, s->logprobs);
    if (s->prompt_logprobs < -1 || s->prompt_logprobs > MOED_MAX_TOP_LOGPROBS)
        return moed_fail_param(err, MOED_EINVAL, "prompt_logprobs",
                               "prompt_logprobs must be at most %d, not %d", MOED_MAX_TOP_LOGPROBS,
                               s->prompt_logprobs);
    return 0;
}

static int check_lists(const struct moed_sampling *s, int32_t vocab, struct moed_error *err)
{
    if (s->n_stop > MOED_MAX_STOP)
        return moed_fail_param(err, MOED_EINVAL, "stop", "at most %d stop strings, not %zu",
                               MOED_MAX_STOP, s->n_stop);
    for (size_t i = 0; i < s->n_stop; i++) {
        size_t n = s->stop[i] ? strlen(s->stop[i]) : 0;
        if (n == 0 || n > REQUEST_MAX_STOP_BYTES)
            return moed_fail_param(err, MOED_EINVAL, "stop",
                                   "a stop string must have 1 to %d bytes, not %zu",
                                   REQUEST_MAX_STOP_BYTES, n);
        if (utf8_valid_prefix(s->stop[i], n) != n)
            return moed_fail_param(err, MOED_EINVAL, "stop", "stop string %zu is not UTF-8", i);
    }
    if (s->n_stop_id > MOED_MAX_STOP)
        return moed_fail_param(err, MOED_EINVAL, "stop_token_ids",
                               "at most %d stop token ids, not %zu", MOED_MAX_STOP, s->n_stop_id);
    if (s->n_bias > REQUEST_MAX_BIAS)
        return moed_fail_param(err, MOED_EINVAL, "logit_bias",
                               "logit_bias may name at most %d tokens, not %zu", REQUEST_MAX_BIAS,
                               s->n_bias);
    for (size_t i = 0; i < s->n_bias; i++) {
        if (s->bias[i].token < 0 || s->bias[i].token >= vocab)
            return moed_fail_param(err, MOED_EINVAL, "logit_bias",
                                   "token %d of logit_bias is outside the vocabulary (0 to %d)",
                                   s->bias[i].token, vocab - 1);
        if (!(s->bias[i].bias >= -100 && s->bias[i].bias <= 100))
            return moed_fail_param(err, MOED_EINVAL, "logit_bias",
                                   "the bias of token %d must be between -100 and 100, not %g",
                                   s->bias[i].token, (double)s->bias[i].bias);
    }
    return 0;
}

int request_check(const struct moed_request *r, int32_t vocab, int32_t max_model_len,
                  struct moed_error *err)
{
    const struct moed_sampling *s = &r->sampling;
    if (r->n < 1 || r->n > MOED_MAX_CHOICES)
        return moed_fail_param(err, MOED_EINVAL, "n", "n must be between 1 and %d, not %d",
                               MOED_MAX_CHOICES, r->n);
    if (r->n_prompt == 0)
        return moed_fail_param(err, MOED_EINVAL, "prompt", "the prompt has no tokens");
    int rc = check_numbers(s, err);
    if (rc < 0 || (rc = check_lists(s, vocab, err)) < 0)
        return rc;
    if (r->n_prompt > (size_t)max_model_len ||
        r->n_prompt + (size_t)s->max_tokens > (size_t)max_model_len)
        return moed_fail_param(
            err, MOED_EINVAL, r->n_prompt > (size_t)max_model_len ? "prompt" : "max_tokens",
            "the model's context is %d tokens; the request asks for %zu (%zu in "
            "the prompt, %d new)",
            max_model_len, r->n_prompt + (size_t)s->max_tokens, r->n_prompt, s->max_tokens);
    for (size_t i = 0; i < r->n_prompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= vocab)
            return moed_fail_param(err, MOED_EINVAL, "prompt",
                                   "prompt token %d at %zu is outside the vocabulary (0 to %d)",
                                   r->prompt[i], i, vocab - 1);
    return 0;
}
