/* The one table of request parameters: what is read, what is accepted without effect, what is
 * refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "http/api.h"

int api_bad_value(struct moed_error *err, const char *param, const json_t *value,
                  const char *must_be)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_ENSURE_ASCII |
                                       JSON_REAL_PRECISION(15));
    int rc = moed_fail_param(err, MOED_EINVAL, param, "'%s' must be %s, not %.80s%s", param,
                             must_be, text ? text : "this", text && strlen(text) > 80 ? "..." : "");
    free(text);
    return rc;
}

static void *field(struct api_params *p, const struct param_row *row)
{
    return (char *)p + row->offset;
}

static int take_bool(struct api_params *p, const struct param_row *row, const json_t *value,
                     struct moed_error *err)
{
    if (!json_is_boolean(value))
        return api_bad_value(err, row->name, value, "true or false");
    *(bool *)field(p, row) = json_is_true(value);
    if (row->has_offset)
        *(bool *)((char *)p + row->has_offset) = true;
    return 0;
}

static int bad_range(const struct param_row *row, const json_t *value, const char *kind,
                     struct moed_error *err)
{
    char must_be[160];
    if (row->high >= 9e18)
        snprintf(must_be, sizeof must_be, "%s of at least %.12g", kind, row->low);
    else
        snprintf(must_be, sizeof must_be, "%s between %.12g and %.12g", kind, row->low, row->high);
    return api_bad_value(err, row->name, value, must_be);
}

static int take_int(struct api_params *p, const struct param_row *row, const json_t *value,
                    struct moed_error *err)
{
    int64_t number = 0;
    bool whole = json_is_integer(value);
    if (whole)
        number = json_integer_value(value);
    else if (json_is_real(value) && fabs(json_real_value(value)) < 9e15 &&
             json_real_value(value) == floor(json_real_value(value)))
        whole = true, number = (int64_t)json_real_value(value); /* 16.0 is a whole number too */
    if (!whole || (double)number < row->low || (double)number > row->high)
        return bad_range(row, value, "a whole number", err);
    *(int64_t *)field(p, row) = number;
    if (row->has_offset)
        *(bool *)((char *)p + row->has_offset) = true;
    return 0;
}

static int take_number(struct api_params *p, const struct param_row *row, const json_t *value,
                       struct moed_error *err)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= row->low && number <= row->high))
        return bad_range(row, value, "a number", err);
    *(double *)field(p, row) = number;
    return 0;
}

/* Like take_number, but the lower bound itself is outside. */
static int take_positive(struct api_params *p, const struct param_row *row, const json_t *value,
                         struct moed_error *err)
{
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number > row->low && number <= row->high)) {
        char must_be[80];
        snprintf(must_be, sizeof must_be, "a number above %.12g and at most %.12g", row->low,
                 row->high);
        return api_bad_value(err, row->name, value, must_be);
    }
    *(double *)field(p, row) = number;
    return 0;
}

static int take_string(struct api_params *p, const struct param_row *row, const json_t *value,
                       struct moed_error *err)
{
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return api_bad_value(err, row->name, value, "a string without zero characters");
    *(const char **)field(p, row) = json_string_value(value);
    return 0;
}

/* Shapes that are checked later, with all parameters known. */
static int take_json(struct api_params *p, const struct param_row *row, const json_t *value,
                     struct moed_error *err)
{
    *(const json_t **)field(p, row) = value;
    return 0;
}

static int take_array(struct api_params *p, const struct param_row *row, const json_t *value,
                      struct moed_error *err)
{
    if (!json_is_array(value))
        return api_bad_value(err, row->name, value, "an array");
    return take_json(p, row, value, err);
}

static int take_object(struct api_params *p, const struct param_row *row, const json_t *value,
                       struct moed_error *err)
{
    if (!json_is_object(value))
        return api_bad_value(err, row->name, value, "an object");
    return take_json(p, row, value, err);
}

static int take_stream_options(struct api_params *p, const struct param_row *row,
                               const json_t *value, struct moed_error *err)
{
    static const struct {
        const char *key, *path;
        size_t offset;
    } options[] = {
        {"include_usage", "stream_options.include_usage",
         offsetof(struct api_params, include_usage)},
        {"continuous_usage_stats", "stream_options.continuous_usage_stats",
         offsetof(struct api_params, continuous_usage)},
    };
    if (!json_is_object(value))
        return api_bad_value(err, row->name, value, "an object");
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const json_t *option = json_object_get(value, options[i].key);
        if (!option || json_is_null(option))
            continue;
        if (!json_is_boolean(option))
            return api_bad_value(err, options[i].path, option, "true or false");
        *(bool *)((char *)p + options[i].offset) = json_is_true(option);
    }
    return 0;
}

/* Values that ask for nothing are no reason to refuse. */
static bool is_harmless(const json_t *value)
{
    return json_is_false(value) || (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_string(value) && json_string_length(value) == 0);
}

static int refuse(struct api_params *p, const struct param_row *row, const json_t *value,
                  struct moed_error *err)
{
    if (is_harmless(value))
        return 0;
    return moed_fail_param(err, MOED_EUNSUPPORTED, row->name, "'%s' is not supported here",
                           row->name);
}

static int refuse_unless_one(struct api_params *p, const struct param_row *row, const json_t *value,
                             struct moed_error *err)
{
    if (json_is_number(value) && json_number_value(value) == 1)
        return 0;
    return refuse(p, row, value, err);
}

static int refuse_unless_text(struct api_params *p, const struct param_row *row,
                              const json_t *value, struct moed_error *err)
{
    const char *type = json_string_value(json_object_get(value, "type"));
    if (type && strcmp(type, "text") == 0)
        return 0;
    const char *only = json_string_value(json_array_get(value, 0));
    if (only && json_array_size(value) == 1 && strcmp(only, "text") == 0)
        return 0;
    return refuse(p, row, value, err);
}

/* Without tools these ask for nothing. */
static int refuse_tool_choice(struct api_params *p, const struct param_row *row,
                              const json_t *value, struct moed_error *err)
{
    const char *choice = json_string_value(value);
    if (choice && (strcmp(choice, "none") == 0 || strcmp(choice, "auto") == 0))
        return 0;
    return refuse(p, row, value, err);
}

#define AT(member)  .offset = offsetof(struct api_params, member)
#define HAS(member) .has_offset = offsetof(struct api_params, member)
#define HONOURED(ends, nm, ty, fn, text, ...)                                                      \
    {                                                                                              \
        .name = nm, .endpoints = (ends), .class = PARAM_HONOURED, .type = ty, .take = fn,          \
        .doc = text, __VA_ARGS__                                                                   \
    }
#define IGNORED(ends, nm, text)                                                                    \
    {                                                                                              \
        .name = nm, .endpoints = (ends), .class = PARAM_IGNORED, .type = "any", .doc = text        \
    }
#define REFUSED(ends, nm, fn, text)                                                                \
    {                                                                                              \
        .name = nm, .endpoints = (ends), .class = PARAM_REFUSED, .type = "any", .take = fn,        \
        .doc = text                                                                                \
    }
#define NO_HIGH 9.3e18
#define ANY_LOW (-9.3e18)
#define COMP    API_COMPLETIONS
#define CHAT    API_CHAT
#define GEN     API_GENERATE
#define TOK     API_TOKENIZE
#define DETOK   API_DETOKENIZE
#define TEMPL   API_TEMPLATE

const struct param_row param_rows[] = {
    HONOURED(GEN | TOK | DETOK | TEMPL, "model", "string", take_string,
             "a served name, else 404; absent: the first one", AT(model)),
    HONOURED(COMP, "prompt", "string, token ids, or an array of either", take_json,
             "required; each prompt gets its own choices", AT(prompt)),
    HONOURED(TOK, "prompt", "string", take_json, "this or messages is required", AT(prompt)),
    HONOURED(CHAT | TEMPL, "messages", "array of objects", take_array,
             "required; content is a string or text parts, which are joined by newlines; the role "
             "developer is given to the template as system",
             AT(messages)),
    HONOURED(TOK, "messages", "array of objects", take_array, "this or prompt is required",
             AT(messages)),
    HONOURED(DETOK, "tokens", "array of token ids", take_array, "required", AT(tokens)),
    HONOURED(TOK | TEMPL, "tools", "array of objects", take_array, "given to the chat template",
             AT(tools)),
    HONOURED(COMP, "max_tokens", "integer", take_int,
             "default 16, or what the context leaves if that is less; 0 needs echo or "
             "prompt_logprobs",
             AT(max_tokens), .low = 0, .high = INT32_MAX),
    HONOURED(CHAT, "max_tokens", "integer", take_int,
             "older name of max_completion_tokens, which wins", AT(max_tokens), .low = 1,
             .high = INT32_MAX),
    HONOURED(CHAT, "max_completion_tokens", "integer", take_int, "default: what the context leaves",
             AT(max_completion_tokens), .low = 1, .high = INT32_MAX),
    HONOURED(GEN, "temperature", "number", take_number,
             "0 to 100; 0 takes the likeliest token; default 1, or the model's", AT(temperature),
             .low = 0, .high = 100),
    HONOURED(GEN, "top_p", "number", take_positive, "above 0, up to 1; default 1, or the model's",
             AT(top_p), .low = 0, .high = 1),
    HONOURED(GEN, "top_k", "integer", take_int, "0 or -1: all; default 0, or the model's",
             AT(top_k), .low = -1, .high = INT32_MAX),
    HONOURED(GEN, "min_p", "number", take_number, "0 to 1; default 0, or the model's", AT(min_p),
             .low = 0, .high = 1),
    HONOURED(GEN, "presence_penalty", "number", take_number, "-2 to 2; default 0",
             AT(presence_penalty), .low = -2, .high = 2),
    HONOURED(GEN, "frequency_penalty", "number", take_number, "-2 to 2; default 0",
             AT(frequency_penalty), .low = -2, .high = 2),
    HONOURED(GEN, "repetition_penalty", "number", take_positive,
             "above 0, up to 100; default 1, or the model's", AT(repetition_penalty), .low = 0,
             .high = 100),
    HONOURED(GEN, "logit_bias", "object", take_object,
             "token id to bias, -100 to 100; at most 1024 tokens", AT(logit_bias)),
    HONOURED(GEN, "seed", "integer", take_int,
             "the same seed gives the same choices; default: drawn", AT(seed), HAS(has_seed),
             .low = ANY_LOW, .high = NO_HIGH),
    HONOURED(GEN, "n", "integer", take_int, "choices per prompt, 1 to 64; default 1", AT(n),
             .low = 1, .high = MOED_MAX_CHOICES),
    HONOURED(COMP, "best_of", "integer", take_int, "only as n says: anything else is refused",
             AT(best_of), .low = 1, .high = INT32_MAX),
    HONOURED(GEN, "stop", "string or array of strings", take_json,
             "at most 16 of at most 512 bytes; not returned", AT(stop)),
    HONOURED(GEN, "stop_token_ids", "array of token ids", take_array, "at most 16",
             AT(stop_token_ids)),
    HONOURED(GEN, "include_stop_str_in_output", "boolean", take_bool,
             "return the stop string too; default false", AT(include_stop)),
    HONOURED(GEN, "min_tokens", "integer", take_int, "no end before so many new tokens; default 0",
             AT(min_tokens), .low = 0, .high = INT32_MAX),
    HONOURED(GEN, "ignore_eos", "boolean", take_bool, "go on after the end token; default false",
             AT(ignore_eos)),
    HONOURED(GEN, "skip_special_tokens", "boolean", take_bool,
             "special tokens print nothing; default true", AT(skip_special_tokens)),
    HONOURED(COMP, "logprobs", "integer", take_int,
             "alternatives per token, 0 to 20; default: none", AT(logprobs), .low = 0,
             .high = MOED_MAX_TOP_LOGPROBS),
    HONOURED(CHAT, "logprobs", "boolean", take_bool, "default false", AT(chat_logprobs)),
    HONOURED(CHAT, "top_logprobs", "integer", take_int,
             "alternatives per token, 0 to 20; needs logprobs", AT(top_logprobs), .low = 0,
             .high = MOED_MAX_TOP_LOGPROBS),
    HONOURED(GEN, "prompt_logprobs", "integer", take_int,
             "alternatives per prompt token, 0 to 20; not with stream", AT(prompt_logprobs),
             .low = 0, .high = MOED_MAX_TOP_LOGPROBS),
    HONOURED(GEN, "return_tokens_as_token_ids", "boolean", take_bool,
             "logprobs name tokens token_id:N; default false", AT(tokens_as_ids)),
    HONOURED(COMP, "echo", "boolean", take_bool,
             "return the prompt in front, with its logprobs if logprobs is given; default false",
             AT(echo)),
    HONOURED(GEN, "stream", "boolean", take_bool, "server-sent events; default false", AT(stream)),
    HONOURED(GEN, "stream_options", "object", take_stream_options,
             "include_usage: a last event with the usage; continuous_usage_stats: usage in each",
             .offset = 0),
    HONOURED(GEN, "timeout", "number", take_positive,
             "seconds until the request is given up with 504", AT(timeout_s), .low = 0,
             .high = 1e6),
    HONOURED(GEN, "cache_salt", "string", take_string,
             "prompts are reused only among requests with the same salt", AT(cache_salt)),
    HONOURED(CHAT | TOK | TEMPL, "add_generation_prompt", "boolean", take_bool,
             "open the assistant's turn; default true unless continue_final_message",
             AT(add_generation_prompt), HAS(has_add_generation_prompt)),
    HONOURED(CHAT | TOK | TEMPL, "continue_final_message", "boolean", take_bool,
             "leave the last message open; default false", AT(continue_final_message)),
    HONOURED(CHAT | TOK | TEMPL, "chat_template_kwargs", "object", take_object,
             "variables for the chat template", AT(kwargs)),
    HONOURED(CHAT, "reasoning_effort", "string", take_string,
             "given to the chat template as reasoning_effort", AT(reasoning_effort)),
    HONOURED(GEN | TOK, "add_special_tokens", "boolean", take_bool,
             "let the tokenizer add its bos and eos; default true for prompts, false for messages",
             AT(add_special_tokens), HAS(has_add_special_tokens)),
    HONOURED(TOK, "return_token_strs", "boolean", take_bool, "return the pieces too; default false",
             AT(return_token_strs)),

    IGNORED(GEN, "user", "an end user's name"),
    IGNORED(GEN, "safety_identifier", "an end user's name"),
    IGNORED(GEN, "metadata", "kept by nobody"),
    IGNORED(GEN, "store", "nothing is stored"),
    IGNORED(GEN, "service_tier", "there is one"),
    IGNORED(GEN, "parallel_tool_calls", "there are no tools"),
    IGNORED(GEN, "prediction", "a hint only"),
    IGNORED(GEN, "verbosity", "a hint only"),
    IGNORED(GEN, "prompt_cache_key", "prefixes are found by their content"),
    IGNORED(GEN, "prompt_cache_retention", "prefixes stay while there is room"),
    IGNORED(GEN, "priority", "first come, first served"),
    IGNORED(GEN, "spaces_between_special_tokens", "the tokenizer's own rule holds"),

    REFUSED(COMP, "suffix", refuse, "text to come after the completion"),
    REFUSED(CHAT, "tools", refuse, "tool calls are not parsed yet"),
    REFUSED(CHAT, "tool_choice", refuse_tool_choice, "allowed: none, auto"),
    REFUSED(CHAT, "functions", refuse, "older name of tools"),
    REFUSED(CHAT, "function_call", refuse_tool_choice, "older name of tool_choice"),
    REFUSED(GEN, "response_format", refuse_unless_text, "allowed: {\"type\": \"text\"}"),
    REFUSED(CHAT, "modalities", refuse_unless_text, "allowed: [\"text\"]"),
    REFUSED(CHAT, "audio", refuse, "output is text"),
    REFUSED(CHAT, "web_search_options", refuse, "there is no search"),
    REFUSED(CHAT, "documents", refuse, "put them into the messages"),
    REFUSED(CHAT | TOK | TEMPL, "chat_template", refuse, "the model's template is used"),
    REFUSED(CHAT, "echo", refuse, "for completions only"),
    REFUSED(GEN, "use_beam_search", refuse, "tokens are sampled"),
    REFUSED(GEN, "length_penalty", refuse_unless_one, "allowed: 1"),
    REFUSED(GEN, "bad_words", refuse, "use logit_bias"),
    REFUSED(GEN, "allowed_token_ids", refuse, "use logit_bias"),
    REFUSED(GEN, "truncate_prompt_tokens", refuse, "shorten the prompt yourself"),
    REFUSED(GEN, "logits_processors", refuse, "no code from outside is run"),
    REFUSED(GEN, "structured_outputs", refuse, "output is free text"),
    REFUSED(GEN, "guided_json", refuse, "output is free text"),
    REFUSED(GEN, "guided_regex", refuse, "output is free text"),
    REFUSED(GEN, "guided_choice", refuse, "output is free text"),
    REFUSED(GEN, "guided_grammar", refuse, "output is free text"),
    REFUSED(GEN, "grammar", refuse, "output is free text"),
};
const size_t n_param_rows = sizeof param_rows / sizeof param_rows[0];

static const struct param_row *find_row(enum api_endpoint endpoint, const char *name)
{
    for (size_t i = 0; i < n_param_rows; i++)
        if ((param_rows[i].endpoints & (unsigned)endpoint) && strcmp(param_rows[i].name, name) == 0)
            return &param_rows[i];
    return NULL;
}

int api_params_read(struct api_params *p, const struct api_context *ctx, enum api_endpoint endpoint,
                    const json_t *root, struct moed_error *err)
{
    const struct moed_sampling *model = &ctx->sampling;
    *p = (struct api_params){
        .max_tokens = -1,
        .max_completion_tokens = -1,
        .best_of = -1,
        .logprobs = -1,
        .top_logprobs = -1,
        .prompt_logprobs = -1,
        .n = 1,
        .top_k = model->top_k,
        .temperature = (double)model->temperature,
        .top_p = (double)model->top_p,
        .min_p = (double)model->min_p,
        .presence_penalty = (double)model->presence_penalty,
        .frequency_penalty = (double)model->frequency_penalty,
        .repetition_penalty = (double)model->repetition_penalty,
        .skip_special_tokens = true,
        .add_generation_prompt = true,
    };
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)root, key, value)
    {
        if (json_is_null(value))
            continue; /* null means absent */
        const struct param_row *row = find_row(endpoint, key);
        if (!row)
            log_debug("http: unknown parameter '%.64s' ignored", key);
        if (!row || !row->take)
            continue;
        int rc = row->take(p, row, value, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}
