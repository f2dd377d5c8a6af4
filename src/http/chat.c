/* Conversations: messages are checked, brought into the shape that templates expect, rendered. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "http/api.h"

#define MAX_MESSAGES 4096

/* Content given as parts becomes one string; only text parts are taken. */
static int join_parts(json_t **out, const json_t *parts, size_t message, struct moed_error *err)
{
    struct buf text = {0};
    int rc = 0;
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *piece = NULL;
        const char *type = json_string_value(json_object_get(part, "type"));
        char place[64];
        snprintf(place, sizeof place, "messages[%zu].content[%zu]", message, i);
        if (json_is_string(part))
            piece = part;
        else if (type && strcmp(type, "text") == 0)
            piece = json_object_get(part, "text");
        else if (type) {
            rc = moed_fail_param(err, MOED_EUNSUPPORTED, place,
                                 "'%s': content of type '%.32s' is not supported here, only text",
                                 place, type);
            goto out;
        }
        if (!json_is_string(piece)) {
            rc = moed_fail_param(err, MOED_EINVAL, place,
                                 "'%s' must be an object with \"type\": \"text\" and a string "
                                 "\"text\"",
                                 place);
            goto out;
        }
        if (i)
            buf_putc(&text, '\n');
        buf_add(&text, json_string_value(piece), json_string_length(piece));
    }
    *out = json_stringn_nocheck(buf_str(&text), text.len);
out:
    buf_fini(&text);
    return rc;
}

/* OpenAI sends a call's arguments as a string of JSON; templates expect the object. */
static void open_arguments(json_t *message)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        json_t *function = json_object_get(call, "function");
        const json_t *arguments = json_object_get(function, "arguments");
        if (!json_is_string(arguments))
            continue;
        struct moed_error ignored;
        json_t *parsed;
        if (api_json_read(&parsed, json_string_value(arguments), json_string_length(arguments),
                          &ignored) == 0)
            json_object_set_new(function, "arguments", parsed);
    }
}

static int check_message(json_t *message, size_t index, struct moed_error *err)
{
    char place[64];
    snprintf(place, sizeof place, "messages[%zu]", index);
    if (!json_is_object(message))
        return api_bad_value(err, place, message, "an object");
    snprintf(place, sizeof place, "messages[%zu].role", index);
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role))
        return moed_fail_param(err, MOED_EINVAL, place, "'%s' must be a string", place);
    if (strcmp(json_string_value(role), "developer") == 0)
        json_object_set_new(message, "role", json_string("system"));
    snprintf(place, sizeof place, "messages[%zu].content", index);
    const json_t *content = json_object_get(message, "content");
    if (json_is_array(content)) {
        json_t *joined = NULL;
        int rc = join_parts(&joined, content, index, err);
        if (rc < 0)
            return rc;
        json_object_set_new(message, "content", joined);
    } else if (content && !json_is_string(content) && !json_is_null(content)) {
        return api_bad_value(err, place, content, "a string or an array of parts");
    } else if (!content && !json_object_get(message, "tool_calls")) {
        return moed_fail_param(err, MOED_EINVAL, place, "'%s' is required", place);
    }
    open_arguments(message);
    return 0;
}

int api_render_messages(const struct api_context *ctx, const struct api_params *p, struct buf *out,
                        struct moed_error *err)
{
    if (!p->messages)
        return moed_fail_param(err, MOED_EINVAL, "messages", "'messages' is required");
    size_t n = json_array_size(p->messages);
    if (n == 0 || n > MAX_MESSAGES)
        return moed_fail_param(err, MOED_EINVAL, "messages", "1 to %d messages are taken, not %zu",
                               MAX_MESSAGES, n);
    if (!ctx->chat)
        return moed_fail_param(err, MOED_EUNSUPPORTED, "messages",
                               "this model has no chat template; use /v1/completions");
    bool generation_prompt =
        p->has_add_generation_prompt ? p->add_generation_prompt : !p->continue_final_message;
    if (generation_prompt && p->continue_final_message)
        return moed_fail_param(err, MOED_EINVAL, "continue_final_message",
                               "'continue_final_message' and 'add_generation_prompt' exclude each "
                               "other");
    /* The document belongs to this request alone, so the messages may be changed in place. */
    for (size_t i = 0; i < n; i++) {
        int rc = check_message(json_array_get(p->messages, i), i, err);
        if (rc < 0)
            return rc;
    }
    json_t *kwargs = p->kwargs ? json_copy((json_t *)p->kwargs) : json_object();
    if (p->reasoning_effort && !json_object_get(kwargs, "reasoning_effort"))
        json_object_set_new(kwargs, "reasoning_effort", json_string(p->reasoning_effort));
    struct chat_input input = {
        .messages = (json_t *)p->messages,
        .tools = p->tools && json_array_size(p->tools) ? (json_t *)p->tools : NULL,
        .kwargs = kwargs,
        .add_generation_prompt = generation_prompt,
        .continue_final_message = p->continue_final_message,
        .now_unix = ctx->template_time_unix,
    };
    int rc = chat_format_render(ctx->chat, &input, out, err);
    json_decref(kwargs);
    if (rc < 0 && err && !err->param[0])
        snprintf(err->param, sizeof err->param, "messages");
    return rc;
}
