/* How results look on the wire: pieces of JSON. Pure. */
#ifndef MOED_HTTP_WIRE_H
#define MOED_HTTP_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "moed/request.h"
#include "text/tokenizer.h"

/* Logprobs as they grow: the insides of JSON arrays. A completion fills all four, a chat only the
 * first. */
struct wire_logprobs {
    struct buf tokens, logprobs, top, offsets;
    size_t n;
    size_t offset; /* characters of text before the next token */
};
void wire_logprobs_fini(struct wire_logprobs *l);
/* Forgets the entries, not the offset: for the next piece of a stream. */
void wire_logprobs_clear(struct wire_logprobs *l);

struct wire_style {
    const struct tokenizer *tokenizer; /* NULL: tokens are named by their ids */
    bool chat;
    bool tokens_as_ids;
    bool skip_special; /* special tokens are not in the text */
    size_t hidden;     /* nor are this many first tokens of the next call */
    int32_t n_top;     /* alternatives to show */
};
void wire_logprobs_add(struct wire_logprobs *l, const struct wire_style *style,
                       const struct moed_token *tokens, size_t n);
/* The value of "logprobs". */
void wire_logprobs_put(struct buf *out, const struct wire_logprobs *l, bool chat);

/* The value of "prompt_logprobs": an array with one object per token. */
void wire_prompt_logprobs(struct buf *out, const struct wire_style *style,
                          const struct moed_token *tokens, size_t n);

/* A number that JSON can hold: null for NaN, -9999 for minus infinity. */
void wire_logprob(struct buf *out, float logprob);
void wire_string(struct buf *out, const char *bytes, size_t n);
void wire_usage(struct buf *out, const struct moed_usage *usage);
/* ,"finish_reason":...,"stop_reason":... */
void wire_finish(struct buf *out, enum moed_finish finish, const char *stop_reason,
                 int32_t stop_token);

#endif
