/* Prompts: text or token ids, one or several. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/api.h"

int api_encode(struct tokens *out, const struct api_context *ctx, const char *text, size_t n,
               bool add_special, struct moed_error *err)
{
    unsigned flags = TOKENIZER_PARSE_SPECIAL | (add_special ? TOKENIZER_ADD_SPECIAL : 0);
    if (!ctx->tokenizer)
        return moed_fail(err, MOED_EUNSUPPORTED,
                         "this model has no tokenizer: prompts must be token ids");
    /* No limit on the count: the body's size bounds it, and an error shall say by how much a prompt
     * is too long. */
    return tokenizer_encode(ctx->tokenizer, text, n, flags, 0, out, err);
}

/* A prompt's place for messages: "prompt" alone, or "prompt[3]". */
static void prompt_name(char *name, size_t size, size_t index, size_t n_prompts)
{
    if (n_prompts > 1)
        snprintf(name, size, "prompt[%zu]", index);
    else
        snprintf(name, size, "prompt");
}

static int read_text(struct api_request *r, const struct api_context *ctx,
                     const struct api_params *p, const json_t *value, struct api_prompt *prompt,
                     struct moed_error *err)
{
    const char *text = json_string_value(value);
    size_t n = json_string_length(value);
    struct tokens tokens = {0};
    bool special = p->has_add_special_tokens ? p->add_special_tokens : true;
    int rc = api_encode(&tokens, ctx, text, n, special, err);
    if (rc < 0) {
        tokens_fini(&tokens);
        return rc;
    }
    prompt->ids = tokens.ids;
    prompt->n = tokens.n;
    if (r->echo) {
        prompt->text = mem_strndup(text, n);
        prompt->text_bytes = n;
    }
    return 0;
}

static int read_ids(struct api_request *r, const struct api_context *ctx, const json_t *array,
                    const char *name, struct api_prompt *prompt, struct moed_error *err)
{
    size_t n = json_array_size(array);
    int32_t *ids = mem_try(n + 1, sizeof *ids);
    if (!ids)
        return moed_fail(err, MOED_ENOMEM, "no memory for a prompt of %zu tokens", n);
    prompt->ids = ids; /* freed with the request */
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(array, i);
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= ctx->info.vocab_size) {
            char place[80], must_be[80];
            snprintf(place, sizeof place, "%s[%zu]", name, i);
            snprintf(must_be, sizeof must_be, "a token id between 0 and %d",
                     ctx->info.vocab_size - 1);
            return api_bad_value(err, place, value, must_be);
        }
        ids[i] = (int32_t)id;
    }
    prompt->n = n;
    if (r->echo) {
        struct buf text = {0};
        if (ctx->tokenizer)
            tokenizer_decode(ctx->tokenizer, ids, n, 0, &text);
        prompt->text = buf_take(&text, &prompt->text_bytes);
    }
    return 0;
}

int api_read_prompts(struct api_request *r, const struct api_context *ctx,
                     const struct api_params *p, struct moed_error *err)
{
    const json_t *value = p->prompt;
    if (!value)
        return moed_fail_param(err, MOED_EINVAL, "prompt", "'prompt' is required");
    bool list = json_is_array(value);
    if (!list && !json_is_string(value))
        return api_bad_value(err, "prompt", value,
                             "a string, an array of token ids or an array of those");
    if (list && json_array_size(value) == 0)
        return moed_fail_param(err, MOED_EINVAL, "prompt", "'prompt' is empty");
    bool several = list && !json_is_integer(json_array_get(value, 0));
    size_t n = several ? json_array_size(value) : 1;
    if (n > API_MAX_PROMPTS)
        return moed_fail_param(err, MOED_EINVAL, "prompt",
                               "at most %d prompts in one request, not %zu", API_MAX_PROMPTS, n);
    r->prompts = mem_new(n, sizeof *r->prompts);
    r->n_prompts = n;
    for (size_t i = 0; i < n; i++) {
        const json_t *item = several ? json_array_get(value, i) : value;
        char name[48];
        prompt_name(name, sizeof name, i, n);
        int rc;
        if (json_is_string(item))
            rc = read_text(r, ctx, p, item, &r->prompts[i], err);
        else if (json_is_array(item))
            rc = read_ids(r, ctx, item, name, &r->prompts[i], err);
        else
            rc = api_bad_value(err, name, item, "a string or an array of token ids");
        if (rc < 0)
            return rc;
    }
    return 0;
}
