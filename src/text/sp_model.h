/*
 * What SentencePiece models are made of, whatever file they come in (.model, GGUF): pieces with
 * scores and types, and settings. A reader fills it, sp_model_build makes a tokenizer of it.
 */
#ifndef MOED_TEXT_SP_MODEL_H
#define MOED_TEXT_SP_MODEL_H

#include "text/tokenizer_impl.h"

/* As in sentencepiece_model.proto; GGUF's tokenizer.ggml.token_type has the same numbers. */
enum sp_type {
    SP_NORMAL = 1,
    SP_UNKNOWN = 2,
    SP_CONTROL = 3,
    SP_USER_DEFINED = 4,
    SP_UNUSED = 5,
    SP_BYTE = 6,
};

struct sp_model {
    struct sp_piece {
        float score;
        enum sp_type type;
    } * piece; /* [n]; the strings are in the tokenizer's vocab */
    int32_t n;
    size_t cap;
    int is_unigram, byte_fallback;
    int add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
    const char *charsmap; /* borrowed */
    size_t n_charsmap;
    int32_t unk, bos, eos; /* -1 where there is none */
};

/* SentencePiece's own defaults. */
void sp_model_init(struct sp_model *m);
void sp_model_fini(struct sp_model *m);
int sp_model_add(struct sp_model *m, struct tokenizer *t, const char *piece, size_t n, float score,
                 int type, struct moed_error *err);
/* Fills all stages of the tokenizer; bos and eos are set, but not yet put around texts. */
int sp_model_build(const struct sp_model *m, struct tokenizer *t, struct moed_error *err);

#endif
