/* From a body to a checked request. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/json_escape.h"
#include "base/mem.h"
#include "http/api.h"

void api_request_free(struct api_request **r)
{
    if (!*r)
        return;
    struct api_request *q = *r;
    for (size_t i = 0; i < q->n_prompts; i++) {
        free(q->prompts[i].ids);
        free(q->prompts[i].text);
    }
    free(q->prompts);
    for (size_t i = 0; i < q->sampling.n_stop; i++)
        free(q->sampling.stop[i]);
    free(q->sampling.bias);
    free(q->model);
    buf_fini(&q->reply);
    free(q);
    *r = NULL;
}

static int read_model(struct api_request *r, const struct api_context *ctx,
                      const struct api_params *p, struct moed_error *err)
{
    const char *name = p->model ? p->model : ctx->model_names[0];
    for (size_t i = 0; i < ctx->n_model_names; i++) {
        if (strcmp(ctx->model_names[i], name) == 0) {
            r->model = mem_strdup(name);
            return 0;
        }
    }
    return moed_fail_param(err, MOED_ENOTFOUND, "model", "the model '%.200s' is not served here",
                           name);
}

static int read_stop(struct moed_sampling *s, const json_t *stop, struct moed_error *err)
{
    if (!stop)
        return 0;
    size_t n = json_is_array(stop) ? json_array_size(stop) : 1;
    if (n > MOED_MAX_STOP)
        return moed_fail_param(err, MOED_EINVAL, "stop", "'stop' takes at most %d strings, not %zu",
                               MOED_MAX_STOP, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_is_array(stop) ? json_array_get(stop, i) : stop;
        size_t bytes = json_string_length(item);
        if (!json_is_string(item) || bytes == 0 || bytes > 512 ||
            strlen(json_string_value(item)) != bytes)
            return api_bad_value(err, "stop", item,
                                 "a string of 1 to 512 bytes, or an array of those");
        s->stop[s->n_stop++] = mem_strndup(json_string_value(item), bytes);
    }
    return 0;
}

static int read_stop_ids(struct moed_sampling *s, const json_t *ids, int32_t vocab,
                         struct moed_error *err)
{
    size_t n = json_array_size(ids); /* 0 for NULL */
    if (n + s->n_stop_id > MOED_MAX_STOP)
        return moed_fail_param(err, MOED_EINVAL, "stop_token_ids",
                               "'stop_token_ids' takes at most %zu ids, not %zu",
                               MOED_MAX_STOP - s->n_stop_id, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(ids, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= vocab)
            return api_bad_value(err, "stop_token_ids", item, "an array of token ids");
        s->stop_id[s->n_stop_id++] = (int32_t)id;
    }
    return 0;
}

/* The keys are token ids written as strings. Returns -1 for anything else. */
static int32_t token_key(const char *key, int32_t vocab)
{
    int64_t id = 0;
    size_t n = strlen(key);
    if (n == 0 || n > 9)
        return -1;
    for (; *key; key++) {
        if (*key < '0' || *key > '9')
            return -1;
        id = id * 10 + (*key - '0');
    }
    return id < vocab ? (int32_t)id : -1;
}

static int read_bias(struct moed_sampling *s, const json_t *object, int32_t vocab,
                     struct moed_error *err)
{
    size_t n = json_object_size(object); /* 0 for NULL */
    if (n > API_MAX_BIAS)
        return moed_fail_param(err, MOED_EINVAL, "logit_bias",
                               "'logit_bias' takes at most %d tokens, not %zu", API_MAX_BIAS, n);
    if (n == 0)
        return 0;
    s->bias = mem_new(n, sizeof *s->bias);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
    {
        int32_t token = token_key(key, vocab);
        double bias = json_number_value(value);
        if (token < 0)
            return moed_fail_param(err, MOED_EINVAL, "logit_bias",
                                   "'logit_bias' names the token '%.32s'; ids go from 0 to %d", key,
                                   vocab - 1);
        if (!json_is_number(value) || !(bias >= -100 && bias <= 100))
            return api_bad_value(err, "logit_bias", value, "numbers between -100 and 100");
        s->bias[s->n_bias++] = (struct moed_logit_bias){token, (float)bias};
    }
    return 0;
}

static int read_sampling(struct moed_sampling *s, const struct api_context *ctx,
                         const struct api_params *p, struct moed_error *err)
{
    *s = ctx->sampling;
    s->temperature = (float)p->temperature;
    s->top_p = (float)p->top_p;
    s->min_p = (float)p->min_p;
    s->top_k = (int32_t)p->top_k;
    s->presence_penalty = (float)p->presence_penalty;
    s->frequency_penalty = (float)p->frequency_penalty;
    s->repetition_penalty = (float)p->repetition_penalty;
    s->seed = (uint64_t)p->seed;
    s->has_seed = p->has_seed;
    s->min_tokens = (int32_t)p->min_tokens;
    s->ignore_eos = p->ignore_eos;
    s->include_stop = p->include_stop;
    s->skip_special = p->skip_special_tokens;
    int rc = read_stop(s, p->stop, err);
    if (rc < 0 || (rc = read_stop_ids(s, p->stop_token_ids, ctx->info.vocab_size, err)) < 0)
        return rc;
    return read_bias(s, p->logit_bias, ctx->info.vocab_size, err);
}

/* What is shown of logprobs, and what the engine must compute for it. */
static int read_logprobs(struct api_request *r, const struct api_params *p, struct moed_error *err)
{
    struct moed_sampling *s = &r->sampling;
    s->logprobs = -1;
    s->prompt_logprobs = -1;
    if (r->endpoint == API_CHAT) {
        if (p->top_logprobs > 0 && !p->chat_logprobs)
            return moed_fail_param(err, MOED_EINVAL, "top_logprobs",
                                   "'top_logprobs' needs 'logprobs' to be true");
        if (p->chat_logprobs)
            s->logprobs = p->top_logprobs > 0 ? (int32_t)p->top_logprobs : 0;
    } else if (p->logprobs >= 0) {
        s->logprobs = (int32_t)p->logprobs;
        if (p->echo)
            s->prompt_logprobs = (int32_t)p->logprobs;
    }
    r->logprobs = s->logprobs >= 0;
    if (p->prompt_logprobs >= 0) {
        if (p->stream)
            return moed_fail_param(err, MOED_EINVAL, "prompt_logprobs",
                                   "'prompt_logprobs' does not go with 'stream'");
        r->prompt_logprobs = true;
        if (p->prompt_logprobs > s->prompt_logprobs)
            s->prompt_logprobs = (int32_t)p->prompt_logprobs;
    }
    return 0;
}

/* Everything but prompts and their lengths. */
static int read_generation(struct api_request *r, const struct api_context *ctx,
                           const struct api_params *p, struct moed_error *err)
{
    r->stream = p->stream;
    r->include_usage = p->include_usage;
    r->continuous_usage = p->include_usage && p->continuous_usage;
    r->echo = p->echo;
    r->tokens_as_ids = p->tokens_as_ids;
    r->n = (int32_t)p->n;
    r->timeout_s = ctx->request_timeout_s;
    if (p->timeout_s > 0 && (r->timeout_s <= 0 || p->timeout_s < r->timeout_s))
        r->timeout_s = p->timeout_s;
    if (p->cache_salt)
        r->cache_salt = XXH3_64bits(p->cache_salt, strlen(p->cache_salt));
    if (p->best_of >= 0 && p->best_of != p->n)
        return moed_fail_param(err, MOED_EUNSUPPORTED, "best_of",
                               "'best_of' is not supported unless it equals 'n' (%d), it is %lld",
                               r->n, (long long)p->best_of);
    int rc = read_sampling(&r->sampling, ctx, p, err);
    return rc < 0 ? rc : read_logprobs(r, p, err);
}

static int too_long(struct moed_error *err, const char *param, const struct api_context *ctx,
                    size_t prompt, int64_t wanted)
{
    long long all = (long long)prompt + wanted;
    return moed_fail_param(err, MOED_ELIMIT, param,
                           "This model's maximum context length is %d tokens. However, you asked "
                           "for %lld tokens (%zu in the prompt, %lld for the completion).",
                           ctx->info.max_model_len, all, prompt, (long long)wanted);
}

/* max_tokens, given what the longest prompt leaves of the context. */
static int read_max_tokens(struct api_request *r, const struct api_context *ctx,
                           const struct api_params *p, struct moed_error *err)
{
    bool chat = r->endpoint == API_CHAT;
    const char *prompt_param = chat ? "messages" : "prompt";
    const char *param = p->max_completion_tokens >= 0 ? "max_completion_tokens" : "max_tokens";
    int64_t wanted =
        chat && p->max_completion_tokens >= 0 ? p->max_completion_tokens : p->max_tokens;
    int64_t context = ctx->info.max_model_len;
    size_t longest = 0;
    for (size_t i = 0; i < r->n_prompts; i++) {
        size_t n = r->prompts[i].n;
        if (n == 0)
            return moed_fail_param(err, MOED_EINVAL, prompt_param, "'%s' has no tokens",
                                   prompt_param);
        longest = n > longest ? n : longest;
    }
    int64_t left = context - (int64_t)longest;
    if (left < 0 || (left == 0 && wanted != 0))
        return too_long(err, prompt_param, ctx, longest, wanted > 0 ? wanted : 1);
    if (wanted > left)
        return too_long(err, param, ctx, longest, wanted);
    if (wanted < 0)
        wanted = chat || left < 16 ? left : 16;
    if (wanted == 0 && !r->echo && r->sampling.prompt_logprobs < 0)
        return moed_fail_param(err, MOED_EINVAL, "max_tokens",
                               "'max_tokens' must be at least 1 without 'echo', not 0");
    r->sampling.max_tokens = (int32_t)wanted;
    if (r->sampling.min_tokens > wanted)
        return moed_fail_param(err, MOED_EINVAL, "min_tokens",
                               "'min_tokens' must be at most 'max_tokens' (%lld), not %d",
                               (long long)wanted, r->sampling.min_tokens);
    return 0;
}

/* Renders and tokenizes messages into one prompt. */
static int read_messages(struct api_request *r, const struct api_context *ctx,
                         const struct api_params *p, struct moed_error *err)
{
    struct buf text = {0};
    struct tokens tokens = {0};
    int rc = api_render_messages(ctx, p, &text, err);
    if (rc == 0)
        rc = api_encode(&tokens, ctx, buf_str(&text), text.len,
                        p->has_add_special_tokens && p->add_special_tokens, err);
    buf_fini(&text);
    if (rc < 0) {
        tokens_fini(&tokens);
        return rc;
    }
    r->prompts = mem_new(1, sizeof *r->prompts);
    r->n_prompts = 1;
    r->prompts[0].ids = tokens.ids;
    r->prompts[0].n = tokens.n;
    return 0;
}

static int prepare_generation(struct api_request *r, const struct api_context *ctx,
                              const struct api_params *p, struct moed_error *err)
{
    int rc = read_generation(r, ctx, p, err);
    if (rc < 0)
        return rc;
    rc = r->endpoint == API_CHAT ? read_messages(r, ctx, p, err) : api_read_prompts(r, ctx, p, err);
    if (rc < 0)
        return rc;
    if (r->n_prompts * (size_t)r->n > API_MAX_SEQUENCES)
        return moed_fail_param(err, MOED_EINVAL, "n",
                               "at most %d choices in one request, not %zu prompts times %d",
                               API_MAX_SEQUENCES, r->n_prompts, r->n);
    return read_max_tokens(r, ctx, p, err);
}

static void print_ids(struct buf *out, const int32_t *ids, size_t n)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++)
        buf_printf(out, i ? ",%d" : "%d", ids[i]);
    buf_putc(out, ']');
}

static int prepare_tokenize(struct api_request *r, const struct api_context *ctx,
                            const struct api_params *p, struct moed_error *err)
{
    if (p->prompt && p->messages)
        return moed_fail_param(err, MOED_EINVAL, "prompt",
                               "'prompt' and 'messages' exclude each other");
    if (p->prompt && !json_is_string(p->prompt))
        return api_bad_value(err, "prompt", p->prompt, "a string");
    int rc = p->messages ? read_messages(r, ctx, p, err) : api_read_prompts(r, ctx, p, err);
    if (rc < 0)
        return rc;
    const struct api_prompt *prompt = &r->prompts[0];
    buf_printf(&r->reply, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":", prompt->n,
               ctx->info.max_model_len);
    print_ids(&r->reply, prompt->ids, prompt->n);
    buf_puts(&r->reply, ",\"token_strs\":");
    if (p->return_token_strs) {
        for (size_t i = 0; i < prompt->n; i++) {
            size_t bytes;
            const char *piece = tokenizer_piece(ctx->tokenizer, prompt->ids[i], &bytes);
            buf_puts(&r->reply, i ? ",\"" : "[\"");
            if (piece)
                json_escape_bytes(&r->reply, piece, bytes);
            buf_putc(&r->reply, '"');
        }
        buf_puts(&r->reply, prompt->n ? "]" : "[]");
    } else {
        buf_puts(&r->reply, "null");
    }
    buf_putc(&r->reply, '}');
    return 0;
}

static int prepare_detokenize(struct api_request *r, const struct api_context *ctx,
                              const struct api_params *p, struct moed_error *err)
{
    if (!p->tokens)
        return moed_fail_param(err, MOED_EINVAL, "tokens", "'tokens' is required");
    if (!ctx->tokenizer)
        return moed_fail(err, MOED_EUNSUPPORTED, "this model has no tokenizer");
    size_t n = json_array_size(p->tokens);
    int32_t *ids = mem_try(n + 1, sizeof *ids);
    if (!ids)
        return moed_fail(err, MOED_ENOMEM, "no memory for %zu tokens", n);
    for (size_t i = 0; i < n; i++) {
        const json_t *item = json_array_get(p->tokens, i);
        json_int_t id = json_integer_value(item);
        if (!json_is_integer(item) || id < 0 || id >= ctx->info.vocab_size) {
            char place[64];
            snprintf(place, sizeof place, "tokens[%zu]", i);
            int rc = api_bad_value(err, place, item, "a token id of this model");
            free(ids);
            return rc;
        }
        ids[i] = (int32_t)id;
    }
    struct buf text = {0};
    tokenizer_decode(ctx->tokenizer, ids, n, 0, &text);
    buf_puts(&r->reply, "{\"prompt\":\"");
    json_escape_bytes(&r->reply, buf_str(&text), text.len);
    buf_puts(&r->reply, "\"}");
    buf_fini(&text);
    free(ids);
    return 0;
}

static int prepare_template(struct api_request *r, const struct api_context *ctx,
                            const struct api_params *p, struct moed_error *err)
{
    struct buf text = {0};
    int rc = api_render_messages(ctx, p, &text, err);
    if (rc == 0) {
        buf_puts(&r->reply, "{\"prompt\":\"");
        json_escape_bytes(&r->reply, buf_str(&text), text.len);
        buf_puts(&r->reply, "\"}");
    }
    buf_fini(&text);
    return rc;
}

int api_prepare(struct api_request **out, const struct api_context *ctx, enum api_endpoint endpoint,
                const char *body, size_t n, struct moed_error *err)
{
    struct api_request *r = mem_new(1, sizeof *r);
    json_t *root = NULL;
    struct api_params params;
    *out = NULL;
    r->endpoint = endpoint;
    int rc = api_json_read(&root, body, n, err);
    if (rc < 0 || (rc = api_params_read(&params, ctx, endpoint, root, err)) < 0 ||
        (rc = read_model(r, ctx, &params, err)) < 0)
        goto out;
    switch (endpoint) {
    case API_COMPLETIONS:
    case API_CHAT:
        rc = prepare_generation(r, ctx, &params, err);
        break;
    case API_TOKENIZE:
        rc = prepare_tokenize(r, ctx, &params, err);
        break;
    case API_DETOKENIZE:
        rc = prepare_detokenize(r, ctx, &params, err);
        break;
    case API_TEMPLATE:
        rc = prepare_template(r, ctx, &params, err);
        break;
    }
out:
    json_decref(root);
    if (rc < 0)
        api_request_free(&r);
    *out = r;
    return rc;
}

struct moed_request *api_engine_request(struct api_request *r, size_t index)
{
    struct api_prompt *prompt = &r->prompts[index];
    struct moed_request *q = moed_request_new();
    q->prompt = prompt->ids;
    q->n_prompt = prompt->n;
    prompt->ids = NULL;
    q->n = r->n;
    q->sampling = r->sampling;
    for (size_t i = 0; i < q->sampling.n_stop; i++)
        q->sampling.stop[i] = mem_strdup(r->sampling.stop[i]);
    if (r->sampling.n_bias) {
        q->sampling.bias = mem_new(r->sampling.n_bias, sizeof *q->sampling.bias);
        memcpy(q->sampling.bias, r->sampling.bias, r->sampling.n_bias * sizeof *q->sampling.bias);
    }
    q->cache_salt = r->cache_salt;
    return q;
}
