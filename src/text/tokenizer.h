/*
 * Tokenizers: text to token ids and back.
 *
 * A tokenizer is built once from a file and then never changes: every function that takes a const
 * tokenizer may be called from any thread at once. Detokenizers belong to one sequence and one
 * thread. Text is bytes; bytes that are not UTF-8 are encoded as the makers' library does (U+FFFD
 * in place of each broken sequence, or of each byte with SentencePiece files).
 */
#ifndef MOED_TEXT_TOKENIZER_H
#define MOED_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

struct tokenizer;

/* What a file is, told from its name and first bytes. */
enum tokenizer_format {
    TOKENIZER_AUTO,
    TOKENIZER_HF_JSON,       /* tokenizer.json of Hugging Face tokenizers */
    TOKENIZER_SENTENCEPIECE, /* tokenizer.model, a protobuf (BPE or unigram) */
    TOKENIZER_TIKTOKEN,      /* "base64 rank" lines */
    TOKENIZER_GGUF,          /* the vocabulary in a GGUF file's metadata */
};

/*
 * Reads the tokenizer of a model folder (tokenizer.json, tokenizer.model, *.tiktoken;
 * tokenizer_config.json beside it for special tokens) or of one file. On failure *out is NULL.
 */
int tokenizer_open(struct tokenizer **out, const char *path, struct moed_error *err);
/* The same from memory, for tests and fuzzing; config_json (tokenizer_config.json) may be NULL. */
int tokenizer_parse(struct tokenizer **out, enum tokenizer_format format, const char *bytes,
                    size_t n_bytes, const char *config_json, size_t n_config,
                    struct moed_error *err);
void tokenizer_close(struct tokenizer **t);

/* A token list; starts as {0}; the caller frees ids with tokens_fini. */
struct tokens {
    int32_t *ids; /* [n] */
    size_t n, cap;
};
void tokens_add(struct tokens *t, int32_t id);
void tokens_fini(struct tokens *t);

enum tokenizer_flags {
    TOKENIZER_ADD_SPECIAL = 1,   /* apply the post-processor: bos, eos as the file says */
    TOKENIZER_PARSE_SPECIAL = 2, /* recognise special tokens inside the text */
};

/* Appends the ids of n bytes of text to *out. Fails with MOED_ELIMIT when more than max_tokens
 * would be added (0: no limit). */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                     size_t max_tokens, struct tokens *out, struct moed_error *err);

/* Size of the id space: 1 + the highest id. Ids in it may have no piece. */
int32_t tokenizer_vocab_size(const struct tokenizer *t);
/* -1 where the model has none. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
/* The id of an exact piece (special or ordinary, as written in the file), -1 if there is none. */
int32_t tokenizer_id(const struct tokenizer *t, const char *piece, size_t n);
int tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* The piece as written in the file ("Ġthe"); NULL for an id without one. Owned by the tokenizer. */
const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *n);
/*
 * The raw bytes that one token stands for inside a text (" the"; a byte token gives its byte; a
 * special token its name). Owned by the tokenizer; *n may be 0. What logprobs show.
 */
const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n);
/* One line for the log: kind, vocabulary, settings ignored, regex engine. Owned by the tokenizer.
 */
const char *tokenizer_describe(const struct tokenizer *t);

/*
 * Streaming detokenizer: bytes come out as soon as they are final, in whole UTF-8 characters. The
 * concatenation of all outputs equals decoding the ids at once. An unfinished character at the end
 * comes out as U+FFFD on finish.
 */
struct detokenizer;
enum detokenizer_flags {
    DETOKENIZER_SKIP_SPECIAL = 1, /* special tokens print nothing */
};
void detokenizer_open(struct detokenizer **out, const struct tokenizer *t, unsigned flags);
void detokenizer_close(struct detokenizer **d);
/* Takes one token; *text (valid until the next call) gets the bytes that are now final, *n may be
 * 0. */
void detokenizer_push(struct detokenizer *d, int32_t id, const char **text, size_t *n);
void detokenizer_finish(struct detokenizer *d, const char **text, size_t *n);

/* All ids at once; appends to *out (free() it through buf_fini). */
struct buf;
void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
                      struct buf *out);

#endif
