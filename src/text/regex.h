/*
 * The regular expressions of tokenizers, run by PCRE2, compiled to machine code where the system
 * allows it. A regex never changes and may be used from any thread, each with its own scratch.
 *
 * Tokenizer files are written for other engines (Oniguruma, Rust's). What differs is rewritten when
 * compiling: \s, \S, \w, \W mean the Unicode properties, a script's name in \p{} means the script
 * (not its extensions), and [a&&[^b]] becomes a lookahead.
 */
#ifndef MOED_TEXT_REGEX_H
#define MOED_TEXT_REGEX_H

#include <stddef.h>

#include "moed/error.h"

struct regex;
int regex_compile(struct regex **out, const char *pattern, size_t n, struct moed_error *err);
void regex_close(struct regex **r);
/* 1 when compiled to machine code, 0 when it is interpreted. */
int regex_is_jit(const struct regex *r);

/* What matching needs, for one thread; starts as {0}. */
struct regex_scratch {
    void *match_data, *context, *jit_stack;
};
void regex_scratch_fini(struct regex_scratch *s);

/* The leftmost match in valid UTF-8 at or behind `from`: 1 and its range, 0, or a failure. */
int regex_find(const struct regex *r, struct regex_scratch *s, const char *text, size_t n,
               size_t from, size_t *begin, size_t *end, struct moed_error *err);

#endif
