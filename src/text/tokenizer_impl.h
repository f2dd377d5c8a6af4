/*
 * The inside of a tokenizer, for the files that build one (tokenizer_*.c) and use it.
 *
 *   text -> added tokens -> normalizer -> added tokens (normalized) -> pre-tokenizer -> model ->
 * ids ids -> bytes of each token -> detokenizer -> text
 */
#ifndef MOED_TEXT_TOKENIZER_IMPL_H
#define MOED_TEXT_TOKENIZER_IMPL_H

#include <jansson.h>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/decoder.h"
#include "text/normalizer.h"
#include "text/pieces.h"
#include "text/pretokenizer.h"
#include "text/tokenizer.h"
#include "text/unigram.h"

enum tokenizer_model { TOKENIZER_MODEL_BPE, TOKENIZER_MODEL_UNIGRAM };

/* Never changes once tokenizer_finish has returned; any thread. */
struct tokenizer {
    int32_t n_ids;       /* 1 + the highest id */
    int32_t max_id;      /* what ids may be at most while reading: tables are as long */
    struct pieces vocab; /* the model's pieces, as written; BPE may add symbols behind n_ids */
    struct pieces names; /* added tokens, as written; they hide pieces of the same id */
    struct pieces bytes; /* what each token stands for in a text */
    unsigned char *is_special; /* [n_ids] */

    struct added_tokens added;
    struct normalizer normalizer;
    struct pretokenizer pretokenizer;
    enum tokenizer_model model;
    struct bpe_model bpe;
    struct unigram unigram;
    struct decoder decoder;
    struct tokens before, after; /* what the post-processor puts around a text */

    int invalid_each_byte; /* U+FFFD in place of each byte that is not UTF-8 (SentencePiece) */
    int32_t bos, eos;
    struct buf ignored; /* settings of the file that have no effect here, for describe */
    char *description;
};

/* n_bytes: size of the files. Ids are dense in all real ones, so that bounds them too. */
struct tokenizer *tokenizer_new(size_t n_bytes);

/*
 * Registers an added token under an id; the flags of `token` count, its id is set here. 0, or a
 * failure where the id is out of range.
 */
int tokenizer_add_token(struct tokenizer *t, int32_t id, const char *content, size_t n,
                        struct added_token token, struct moed_error *err);
/* Takes bos, eos, added tokens and add_bos_token from a tokenizer_config.json (may be NULL). */
int tokenizer_apply_config(struct tokenizer *t, enum tokenizer_format format, const json_t *config,
                           struct moed_error *err);
/* The last step: bytes of each token, indexes, the description. kind as in "byte-level BPE". */
int tokenizer_finish(struct tokenizer *t, const char *kind, struct moed_error *err);

/* The readers of the formats; each fills *t up to tokenizer_finish. */
int tokenizer_read_json(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                        struct moed_error *err);
int tokenizer_read_sentencepiece(struct tokenizer *t, const char *bytes, size_t n,
                                 const json_t *config, struct moed_error *err);
int tokenizer_read_tiktoken(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                            struct moed_error *err);
int tokenizer_read_gguf(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                        struct moed_error *err);

#endif
