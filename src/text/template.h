/*
 * Chat templates: Jinja as Hugging Face templates use it, compiled once, rendered per request.
 *
 * A compiled template never changes and may be rendered from any thread at once. A template cannot
 * read files, run code or loop for ever: steps, depth, output bytes and memory of one rendering are
 * limited, and passing a limit is an error that names the template's line. It may change lists and
 * dicts that it made itself, never the variables it was given.
 *
 * The behaviour is Jinja2's with the settings of transformers: trim_blocks, lstrip_blocks, loop
 * controls, {% generation %}, tojson = json.dumps(ensure_ascii=False), raise_exception and
 * strftime_now; docs/text.md has the details.
 */
#ifndef MOED_TEXT_TEMPLATE_H
#define MOED_TEXT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/buf.h"
#include "moed/error.h"

struct chat_template;

/*
 * Compiles n bytes of template source, at most 1 MiB, nested at most 100 deep. A failure is
 * MOED_EINVAL or MOED_ELIMIT with "template line N: ..."; *out is NULL then.
 */
int template_compile(struct chat_template **out, const char *source, size_t n,
                     struct moed_error *err);
void template_close(struct chat_template **t);

struct template_limits {
    size_t steps; /* evaluated nodes, items and, in parts of 16 to 64, bytes of text */
    size_t output_bytes;
    size_t memory_bytes; /* of all values made during one rendering */
    size_t depth;        /* nested macro calls and loops */
};
extern const struct template_limits template_limits_default;

/*
 * Renders with the variables of `vars` (a JSON object: messages, tools, add_generation_prompt,
 * bos_token, ...; key order is kept; borrowed, not changed). now_unix fixes strftime_now, shown as
 * UTC, or INT64_MIN for the clock in local time. limits may be NULL for the default. Appends to
 * *out; on failure *out is as before. Failures are MOED_EINVAL, or MOED_ELIMIT for a limit, with
 * "template line N: ..."; a template's own raise_exception gives MOED_EINVAL with exactly its
 * message.
 */
int template_render(const struct chat_template *t, json_t *vars, int64_t now_unix,
                    const struct template_limits *limits, struct buf *out, struct moed_error *err);

/*
 * The template of a model folder: chat_template.jinja, or chat_template in tokenizer_config.json (a
 * string, or a list of {name, template} from which `default` and, when tools are given, `tool_use`
 * are taken). template_file, where not NULL, wins over both; model_dir may then be NULL. *out is
 * NULL, and 0 is returned, where the model has none. The special tokens of tokenizer_config.json
 * (bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token: a string or an
 * object with `content`; additional_special_tokens) come along as variables; absent ones are
 * undefined. Never changes once open: any thread may render.
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
    /* The last message stays open: the rendering is cut behind the last place of its text. Not
     * together with add_generation_prompt. */
    int continue_final_message;
    int64_t now_unix; /* INT64_MIN: the clock */
};
/* Renders a conversation; appends to *out, which is as before on failure. `tools` and `documents`
 * are none where absent. Any failure of the template is MOED_EINVAL with its message and line. */
int chat_format_render(const struct chat_format *f, const struct chat_input *in, struct buf *out,
                       struct moed_error *err);

#endif
