/*
 * The lexer: template source to tokens, with Jinja's whitespace control (trim_blocks,
 * lstrip_blocks,
 * "-" and "+" at tags; the last newline of the source is dropped). One token at a time.
 */
#ifndef MOED_TEXT_JINJA_LEXER_H
#define MOED_TEXT_JINJA_LEXER_H

#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

enum jinja_token_type {
    JT_EOF,
    JT_DATA, /* text outside tags */
    JT_VARIABLE_BEGIN,
    JT_VARIABLE_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING, /* with its quotes; escapes not yet read */
    JT_INTEGER,
    JT_FLOAT,
    JT_OPERATOR, /* text is the operator */
};

struct jinja_token {
    enum jinja_token_type type;
    uint32_t line;
    const char *text; /* in the lexer's source */
    size_t n;
};

#define JINJA_MAX_BRACKETS 256

struct jinja_lexer {
    const char *src; /* newlines are \n */
    size_t n, pos;
    uint32_t line;
    enum { JINJA_IN_DATA, JINJA_IN_VARIABLE, JINJA_IN_BLOCK } state;
    int tag_pending; /* the tag after the data just returned is at tag_pos */
    size_t tag_pos;
    int line_starting; /* what was consumed last ended in a newline */
    char brackets[JINJA_MAX_BRACKETS];
    unsigned n_brackets;
    char message[160]; /* of a failure */
};

void jinja_lexer_init(struct jinja_lexer *l, const char *src, size_t n);
/* The next token; -1 with l->message on failure. */
int jinja_lex(struct jinja_lexer *l, struct jinja_token *t);

#endif
