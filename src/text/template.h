/*
 * Chat templates: Jinja as Hugging Face templates use it, compiled once, rendered per request.
 *
 * A compiled template never changes and may be rendered from any thread at once. A template cannot
 * read files, run code or loop for ever: steps, depth, output bytes and memory of one rendering are
 * limited, and passing a limit is an error that names the template's line.
 */
#ifndef MOED_TEXT_TEMPLATE_H
#define MOED_TEXT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/buf.h"
#include "moed/error.h"

struct chat_template;

/* Compiles n bytes of template source. The message of a failure names the line. On failure *out is
 * NULL. */
int template_compile(struct chat_template **out, const char *source, size_t n,
                     struct moed_error *err);
void template_close(struct chat_template **t);

struct template_limits {
    size_t steps; /* evaluated nodes */
    size_t output_bytes;
    size_t memory_bytes; /* values alive during one rendering */
    size_t depth;        /* nested calls and loops */
};
extern const struct template_limits template_limits_default;

/*
 * Renders with the variables of `vars` (a JSON object: messages, tools, add_generation_prompt,
 * bos_token, ...; key order is kept). now_unix fixes strftime_now, or INT64_MIN for the clock.
 * Appends to *out; on failure *out is as before. A template's own raise_exception gives MOED_EINVAL
 * with exactly its message.
 */
int template_render(const struct chat_template *t, json_t *vars, int64_t now_unix,
                    const struct template_limits *limits, struct buf *out, struct moed_error *err);

/*
 * The template of a model folder: chat_template.jinja, or chat_template in tokenizer_config.json (a
 * string, or a list of {name, template} from which `default` and, when tools are given, `tool_use`
 * are taken). *out is NULL, and 0 is returned, where the model has none. bos_token and eos_token
 * strings come along as variables for rendering.
 */
struct chat_format;
int chat_format_open(struct chat_format **out, const char *model_dir, const char *template_file,
                     struct moed_error *err);
/* From memory, for tests: the same without files; either may be NULL. */
int chat_format_parse(struct chat_format **out, const char *config_json, size_t n_config,
                      const char *source, size_t n_source, struct moed_error *err);
void chat_format_close(struct chat_format **f);

struct chat_input {
    json_t *messages; /* array, borrowed */
    json_t *tools;    /* array or NULL */
    json_t *kwargs; /* chat_template_kwargs: object or NULL; its keys win over ours except messages
                       and tools */
    int add_generation_prompt;
    int continue_final_message; /* the last message stays open: no end-of-turn after it */
    int64_t now_unix;           /* INT64_MIN: the clock */
};
/* Renders a conversation; appends to *out. Any failure of the template is MOED_EINVAL with its
 * message and line. */
int chat_format_render(const struct chat_format *f, const struct chat_input *in, struct buf *out,
                       struct moed_error *err);

#endif
