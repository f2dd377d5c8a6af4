#include "http/wire.h"

#include <math.h>
#include <string.h>

#include "base/json_escape.h"
#include "base/utf8.h"

void wire_logprobs_fini(struct wire_logprobs *l)
{
    buf_fini(&l->tokens);
    buf_fini(&l->logprobs);
    buf_fini(&l->top);
    buf_fini(&l->offsets);
}

void wire_logprobs_clear(struct wire_logprobs *l)
{
    buf_truncate(&l->tokens, 0);
    buf_truncate(&l->logprobs, 0);
    buf_truncate(&l->top, 0);
    buf_truncate(&l->offsets, 0);
    l->n = 0;
}

void wire_logprob(struct buf *out, float logprob)
{
    if (isnan(logprob))
        buf_puts(out, "null");
    else if (isinf(logprob))
        buf_puts(out, "-9999.0");
    else
        buf_printf(out, "%.9g", (double)logprob);
}

void wire_string(struct buf *out, const char *bytes, size_t n)
{
    buf_putc(out, '"');
    json_escape_bytes(out, bytes, n);
    buf_putc(out, '"');
}

/* The bytes of a token; none where there is no tokenizer. Never NULL. */
static const char *token_bytes(const struct wire_style *style, int32_t id, size_t *n)
{
    const char *bytes = NULL;
    *n = 0;
    if (style->tokenizer)
        bytes = tokenizer_token_bytes(style->tokenizer, id, n);
    return bytes ? bytes : "";
}

/* Characters that start in these bytes, so that a character cut into tokens counts once. */
static size_t count_characters(const char *bytes, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    return count;
}

/* A token's name. In completions bytes that are no text are spelled out, because the names are keys
 * of an object and must differ; a chat has the bytes beside the name. */
static void put_token(struct buf *out, const struct wire_style *style, int32_t id)
{
    size_t n;
    const char *bytes = token_bytes(style, id, &n);
    if (style->tokens_as_ids || !style->tokenizer) {
        buf_printf(out, "\"token_id:%d\"", id);
    } else if (style->chat || utf8_valid_prefix(bytes, n) == n) {
        wire_string(out, bytes, n);
    } else {
        buf_puts(out, "\"bytes:");
        for (size_t i = 0; i < n; i++)
            buf_printf(out, "\\\\x%02x", (unsigned char)bytes[i]);
        buf_putc(out, '"');
    }
}

static void put_bytes(struct buf *out, const struct wire_style *style, int32_t id)
{
    size_t n;
    const char *bytes = token_bytes(style, id, &n);
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++)
        buf_printf(out, i ? ",%d" : "%d", (unsigned char)bytes[i]);
    buf_putc(out, ']');
}

static void put_chat_entry(struct buf *out, const struct wire_style *style, int32_t id,
                           float logprob)
{
    buf_puts(out, "{\"token\":");
    put_token(out, style, id);
    buf_puts(out, ",\"logprob\":");
    wire_logprob(out, logprob);
    buf_puts(out, ",\"bytes\":");
    put_bytes(out, style, id);
}

static int32_t shown_top(const struct wire_style *style, const struct moed_token *t)
{
    return t->n_top < style->n_top ? t->n_top : style->n_top;
}

static void add_chat(struct wire_logprobs *l, const struct wire_style *style,
                     const struct moed_token *t)
{
    put_chat_entry(&l->tokens, style, t->id, t->logprob);
    buf_puts(&l->tokens, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < shown_top(style, t); i++) {
        if (i)
            buf_putc(&l->tokens, ',');
        put_chat_entry(&l->tokens, style, t->top[i].token, t->top[i].logprob);
        buf_putc(&l->tokens, '}');
    }
    buf_puts(&l->tokens, "]}");
}

/* Whether an earlier alternative has the same name: a key must stand once. */
static bool is_repeated(const struct wire_style *style, const struct moed_token *t, int32_t index,
                        int32_t id)
{
    size_t n, m;
    const char *bytes = token_bytes(style, id, &n);
    for (int32_t i = 0; i < index; i++) {
        if (t->top[i].token == id)
            return true;
        const char *other = token_bytes(style, t->top[i].token, &m);
        if (!style->tokens_as_ids && style->tokenizer && n == m && memcmp(bytes, other, n) == 0)
            return true;
    }
    return false;
}

static void put_top(struct buf *out, const struct wire_style *style, int32_t id, float logprob,
                    bool first)
{
    if (!first)
        buf_putc(out, ',');
    put_token(out, style, id);
    buf_putc(out, ':');
    wire_logprob(out, logprob);
}

static void add_completion(struct wire_logprobs *l, const struct wire_style *style,
                           const struct moed_token *t, bool hidden)
{
    size_t n;
    const char *bytes = token_bytes(style, t->id, &n);
    put_token(&l->tokens, style, t->id);
    wire_logprob(&l->logprobs, t->logprob);
    buf_printf(&l->offsets, "%zu", l->offset);
    if (style->skip_special && style->tokenizer && tokenizer_is_special(style->tokenizer, t->id))
        hidden = true;
    if (!hidden)
        l->offset += count_characters(bytes, n);
    if (style->n_top == 0 || isnan(t->logprob)) {
        buf_puts(&l->top, "null");
        return;
    }
    int32_t shown = shown_top(style, t);
    buf_putc(&l->top, '{');
    for (int32_t i = 0; i < shown; i++)
        if (!is_repeated(style, t, i, t->top[i].token))
            put_top(&l->top, style, t->top[i].token, t->top[i].logprob, i == 0);
    /* The chosen token always has its place, so there may be one more than asked for. */
    if (!is_repeated(style, t, shown, t->id))
        put_top(&l->top, style, t->id, t->logprob, shown == 0);
    buf_putc(&l->top, '}');
}

void wire_logprobs_add(struct wire_logprobs *l, const struct wire_style *style,
                       const struct moed_token *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (l->n++) {
            buf_putc(&l->tokens, ',');
            if (!style->chat) {
                buf_putc(&l->logprobs, ',');
                buf_putc(&l->top, ',');
                buf_putc(&l->offsets, ',');
            }
        }
        if (style->chat)
            add_chat(l, style, &tokens[i]);
        else
            add_completion(l, style, &tokens[i], i < style->hidden);
    }
}

static void put_array(struct buf *out, const char *key, const struct buf *inside)
{
    buf_printf(out, "\"%s\":[", key);
    buf_add(out, buf_str(inside), inside->len);
    buf_putc(out, ']');
}

void wire_logprobs_put(struct buf *out, const struct wire_logprobs *l, bool chat)
{
    buf_putc(out, '{');
    if (chat) {
        put_array(out, "content", &l->tokens);
        buf_puts(out, ",\"refusal\":null}");
        return;
    }
    put_array(out, "tokens", &l->tokens);
    buf_putc(out, ',');
    put_array(out, "token_logprobs", &l->logprobs);
    buf_putc(out, ',');
    put_array(out, "top_logprobs", &l->top);
    buf_putc(out, ',');
    put_array(out, "text_offset", &l->offsets);
    buf_putc(out, '}');
}

static void put_prompt_entry(struct buf *out, const struct wire_style *style, int32_t id,
                             float logprob, int32_t rank)
{
    size_t n;
    const char *bytes = token_bytes(style, id, &n);
    buf_printf(out, "\"%d\":{\"logprob\":", id);
    wire_logprob(out, logprob);
    if (rank > 0)
        buf_printf(out, ",\"rank\":%d", rank);
    else
        buf_puts(out, ",\"rank\":null");
    buf_puts(out, ",\"decoded_token\":");
    wire_string(out, bytes, n);
    buf_putc(out, '}');
}

void wire_prompt_logprobs(struct buf *out, const struct wire_style *style,
                          const struct moed_token *tokens, size_t n)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        const struct moed_token *t = &tokens[i];
        if (i)
            buf_putc(out, ',');
        if (isnan(t->logprob)) {
            buf_puts(out, "null");
            continue;
        }
        buf_putc(out, '{');
        put_prompt_entry(out, style, t->id, t->logprob, t->rank);
        for (int32_t k = 0; k < shown_top(style, t); k++) {
            if (t->top[k].token == t->id)
                continue;
            buf_putc(out, ',');
            put_prompt_entry(out, style, t->top[k].token, t->top[k].logprob, k + 1);
        }
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

void wire_usage(struct buf *out, const struct moed_usage *u)
{
    buf_printf(out,
               "{\"prompt_tokens\":%u,\"total_tokens\":%u,\"completion_tokens\":%u,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%u}}",
               u->prompt_tokens, u->prompt_tokens + u->completion_tokens, u->completion_tokens,
               u->cached_tokens);
}

void wire_finish(struct buf *out, enum moed_finish finish, const char *stop_reason,
                 int32_t stop_token)
{
    static const char *const names[] = {
        [MOED_FINISH_NONE] = "null",
        [MOED_FINISH_STOP] = "\"stop\"",
        [MOED_FINISH_LENGTH] = "\"length\"",
        [MOED_FINISH_ABORT] = "\"abort\"",
    };
    buf_printf(out, ",\"finish_reason\":%s", names[finish]);
    if (finish == MOED_FINISH_NONE)
        return;
    buf_puts(out, ",\"stop_reason\":");
    if (stop_reason)
        wire_string(out, stop_reason, strlen(stop_reason));
    else if (stop_token >= 0)
        buf_printf(out, "%d", stop_token);
    else
        buf_puts(out, "null");
}
