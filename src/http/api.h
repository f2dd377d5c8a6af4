/*
 * Request bodies: JSON text in, checked parameters and prompts out. No connections here; everything
 * may run on the http thread or on the text worker.
 */
#ifndef MOED_HTTP_API_H
#define MOED_HTTP_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/buf.h"
#include "moed/engine.h"
#include "moed/error.h"
#include "moed/request.h"
#include "text/template.h"
#include "text/tokenizer.h"

/* Endpoints with a body; a bit set names several. */
enum api_endpoint {
    API_COMPLETIONS = 1,
    API_CHAT = 2,
    API_TOKENIZE = 4,
    API_DETOKENIZE = 8,
    API_TEMPLATE = 16,
};
#define API_GENERATE (API_COMPLETIONS | API_CHAT)
#define API_MESSAGES (API_CHAT | API_TOKENIZE | API_TEMPLATE)

/* Limits on one body. */
#define API_MAX_DEPTH      64      /* nested arrays and objects */
#define API_MAX_CONTAINERS 200000  /* arrays and objects */
#define API_MAX_VALUES     4000000 /* about as many as 16 MiB of token ids */
#define API_MAX_PROMPTS    2048
#define API_MAX_SEQUENCES  4096 /* prompts times n */
#define API_MAX_BIAS       1024

/* What requests are checked against; never changes while requests use it. */
struct api_context {
    char **model_names; /* [n_model_names], at least one */
    size_t n_model_names;
    const struct tokenizer *tokenizer; /* NULL: token ids only, no text */
    const struct chat_format *chat;    /* NULL: no chat template */
    struct moed_engine_info info;
    struct moed_sampling sampling; /* the model's defaults; has no heap members */
    double request_timeout_s;      /* 0: none */
    int64_t template_time_unix;    /* INT64_MIN: the clock */
};

struct api_prompt {
    int32_t *ids; /* [n]; owned */
    size_t n;
    char *text; /* echo: what to send back; owned */
    size_t text_bytes;
};

/* A checked request. */
struct api_request {
    enum api_endpoint endpoint;
    char *model; /* the name to answer with */
    bool stream, include_usage, continuous_usage;
    bool echo;
    bool logprobs;        /* show logprobs of new tokens (and of echoed ones) */
    bool prompt_logprobs; /* show the field prompt_logprobs */
    bool tokens_as_ids;   /* logprobs name tokens "token_id:N" */
    int32_t n;
    struct moed_sampling sampling; /* owns its heap members */
    struct api_prompt *prompts;    /* [n_prompts] */
    size_t n_prompts;
    double timeout_s; /* 0: none */
    uint64_t cache_salt;
    struct buf reply; /* endpoints that need no engine: the whole answer */
};

/*
 * Checks n bytes of JSON for an endpoint. On failure *out is NULL and err names the parameter:
 * MOED_EINVAL, MOED_EUNSUPPORTED, MOED_ENOTFOUND (model), MOED_ELIMIT (longer than the context).
 */
int api_prepare(struct api_request **out, const struct api_context *ctx, enum api_endpoint endpoint,
                const char *body, size_t n, struct moed_error *err);
void api_request_free(struct api_request **r);

/* An engine request for one prompt; the prompt's ids move into it. */
struct moed_request *api_engine_request(struct api_request *r, size_t prompt);

/* --- between the files of this part ------------------------------------------------------- */

enum param_class { PARAM_HONOURED, PARAM_IGNORED, PARAM_REFUSED };

/* The parameters of a body as they were sent, json borrowed from the document. */
struct api_params {
    const char *model; /* NULL: absent */
    const json_t *prompt, *messages, *tools, *kwargs, *tokens, *stop_token_ids, *logit_bias, *stop;
    const char *reasoning_effort, *cache_salt;
    int64_t max_tokens, max_completion_tokens, best_of, logprobs, top_logprobs,
        prompt_logprobs; /* -1:
        absent */
    int64_t n, seed, top_k, min_tokens;
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    double timeout_s;
    bool chat_logprobs, echo, stream, include_usage, continuous_usage;
    bool ignore_eos, skip_special_tokens, include_stop, tokens_as_ids;
    bool add_generation_prompt, has_add_generation_prompt, continue_final_message;
    bool add_special_tokens, has_add_special_tokens, return_token_strs;
    bool has_seed;
};

/* One row of the table of parameters. */
struct param_row {
    const char *name;
    unsigned endpoints; /* bit set */
    enum param_class class;
    const char *type; /* for people */
    const char *doc;  /* for people: range, default, meaning */
    int (*take)(struct api_params *p, const struct param_row *row, const json_t *value,
                struct moed_error *err); /* NULL: ignored */
    size_t offset;                       /* of the field in api_params that take fills */
    double low, high;                    /* inclusive, for numbers */
    size_t has_offset; /* of a bool that is set when the value is there; 0: none */
};
extern const struct param_row param_rows[];
extern const size_t n_param_rows;

/* Reads the parameters of one endpoint out of a JSON object. */
int api_params_read(struct api_params *p, const struct api_context *ctx, enum api_endpoint endpoint,
                    const json_t *root, struct moed_error *err);
/* Parses JSON text within the limits; *out is an object. */
int api_json_read(json_t **out, const char *body, size_t n, struct moed_error *err);
/* Fails, naming the parameter and quoting the value at fault. */
int api_bad_value(struct moed_error *err, const char *param, const json_t *value,
                  const char *must_be);

/* Prompts of a completion, or of /tokenize with "prompt". */
int api_read_prompts(struct api_request *r, const struct api_context *ctx,
                     const struct api_params *p, struct moed_error *err);
/* Checks messages and renders them; appends to *out. */
int api_render_messages(const struct api_context *ctx, const struct api_params *p, struct buf *out,
                        struct moed_error *err);
/* Tokenizes text for one prompt. */
int api_encode(struct tokens *out, const struct api_context *ctx, const char *text, size_t n,
               bool add_special, struct moed_error *err);

#endif
