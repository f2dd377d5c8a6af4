/*
 * A vocabulary with merges as a model: from a word's bytes to token ids.
 * Never changes once filled; any thread, each with its own work space.
 */
#ifndef MOED_TEXT_BPE_MODEL_H
#define MOED_TEXT_BPE_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "text/bpe.h"
#include "text/pieces.h"
#include "text/tokenizer.h"
#include "text/trie.h"

enum { BPE_USED = -1, BPE_NO_PARTS = -2 };

struct bpe_model {
    struct bpe merges;
    /* Words are plain bytes, each a symbol; otherwise words are UTF-8, each character a symbol. */
    int plain_bytes;
    /* The symbol of a byte: the one-byte piece, or the piece "<0x0A>" under byte_fallback; -1. */
    int32_t byte_symbol[256];
    int byte_fallback;     /* a character without piece becomes its bytes */
    int32_t unk;           /* the token for what has no symbol, or -1: it is left out */
    int fuse_unk;          /* one unk for several in a row */
    int ignore_merges;     /* a word that is a piece is one token, whatever the merges say */
    char *prefix, *suffix; /* continuing_subword_prefix, end_of_word_suffix; NULL for none */
    /* Symbols from here on are characters that occur in pieces but are none: unknown if alone. */
    int32_t n_tokens;
    /* SentencePiece: symbols that are never merged with others, by their text. */
    struct trie user_defined;
    /* SentencePiece: pieces that may be passed through but not given out; [n_tokens] or NULL, the
     * two parts that such a piece is taken apart into. */
    struct bpe_parts {
        int32_t left, right; /* left is BPE_USED for other pieces, BPE_NO_PARTS for single
                              * characters, which are unknown then */
    } * unused;
};

void bpe_model_init(struct bpe_model *m);
void bpe_model_fini(struct bpe_model *m);

/*
 * Appends the ids of one word of n > 0 bytes. pieces: where characters and whole words are looked
 * up; the raw bytes of each piece with plain_bytes, else the pieces as written.
 */
void bpe_model_encode(const struct bpe_model *m, const struct pieces *pieces, struct bpe_work *work,
                      const char *word, size_t n, struct tokens *out);

#endif
