/*
 * The pre-tokenizers: they cut normalized text into words, within which the model then works.
 * Never changes once made; any thread, each with its own scratch.
 */
#ifndef MOED_TEXT_PRETOKENIZER_H
#define MOED_TEXT_PRETOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "moed/error.h"
#include "text/normalizer.h"

/* A list of words; starts as {0}. */
struct words {
    struct word {
        size_t begin, end; /* bytes of the text */
    } * word;
    size_t n, cap;
};

struct pretokenizer_stage;
struct pretokenizer {
    struct pretokenizer_stage *stages;
    size_t n, cap;
    int writes_bytes; /* a ByteLevel stage is among them */
};

/* From the "pre_tokenizer" value of a tokenizer.json; null gives one word. */
int pretokenizer_parse(struct pretokenizer *out, const json_t *spec, struct moed_error *err);
/* Adds a Split stage by regex (matches and what lies between are words), for other formats. */
int pretokenizer_add_regex(struct pretokenizer *p, const char *pattern, struct moed_error *err);
/*
 * Drops the writing of bytes as characters where that comes last: 1 if so. The words are then plain
 * bytes, which a model can look up as well, and faster.
 */
int pretokenizer_leave_bytes(struct pretokenizer *p);
void pretokenizer_fini(struct pretokenizer *p);
int pretokenizer_regexes(const struct pretokenizer *p, int *jit);

struct pretokenizer_scratch {
    struct words words[2];
    int current;
    struct words matches;
};
void pretokenizer_scratch_fini(struct pretokenizer_scratch *s);

/*
 * Cuts *text of *n valid UTF-8 bytes; both change where a stage rewrites the text (into the text
 * scratch). at_start: the text begins where the whole input does. *words is in the scratch.
 */
int pretokenizer_apply(const struct pretokenizer *p, struct pretokenizer_scratch *scratch,
                       struct text_scratch *text_scratch, int at_start, const char **text,
                       size_t *n, const struct words **words, struct moed_error *err);

#endif
