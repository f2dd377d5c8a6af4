/* The parser, as its two halves see it: statements (jinja_parser.c), expressions
 * (jinja_parse_expr.c). */
#ifndef MOED_TEXT_JINJA_PARSER_H
#define MOED_TEXT_JINJA_PARSER_H

#include <setjmp.h>

#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"

/* Which of the special names the body of a macro mentions; one per macro around the position. */
struct jinja_usage {
    struct jinja_usage *outer;
    uint8_t caller, kwargs, varargs;
};

struct jinja_parser {
    struct jinja_program *program;
    struct jinja_lexer lexer;
    struct jinja_token cur, ahead;
    int has_ahead;
    struct jinja_usage *usage;
    unsigned nesting; /* of the recursion */
    unsigned soft;    /* inside a condition: unknown filters fail only when they are reached */
    const struct jinja_node *unknown; /* the first unknown filter or test outside a condition */
    unsigned loops;                   /* around the position, inside the innermost macro */
    uint32_t *name_index;             /* open addressing, 1 + id */
    uint32_t n_name_index, names_cap;
    struct moed_error *err;
    int code;
    jmp_buf unwind;
};

_Noreturn void jinja_parse_fail(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void *jinja_parse_alloc(struct jinja_parser *p, size_t bytes); /* zeroed */
struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_type type, uint32_t line);
uint32_t jinja_parse_name_id(struct jinja_parser *p, const char *s, size_t n);
/* A zero-terminated copy in the program. */
struct jv jinja_parse_str(struct jinja_parser *p, const char *s, size_t n);

/* A growing array of nodes, in the program's arena. */
struct jinja_nodes {
    struct jinja_node **list;
    uint32_t n, cap;
};
void jinja_nodes_add(struct jinja_parser *p, struct jinja_nodes *l, struct jinja_node *n);
struct jinja_node *jinja_nodes_node(struct jinja_parser *p, enum jinja_node_type type,
                                    uint32_t line, const struct jinja_nodes *l);

void jinja_parse_enter(struct jinja_parser *p);
void jinja_parse_leave(struct jinja_parser *p);

/* Tokens. */
void jinja_advance(struct jinja_parser *p);
const struct jinja_token *jinja_ahead(struct jinja_parser *p);
int jinja_is_name(const struct jinja_token *t, const char *name);
int jinja_is_op(const struct jinja_token *t, const char *op);
int jinja_skip_name(struct jinja_parser *p, const char *name); /* 1 if it was there */
int jinja_skip_op(struct jinja_parser *p, const char *op);
void jinja_expect_op(struct jinja_parser *p, const char *op);
void jinja_expect_name(struct jinja_parser *p, const char *name);
/* Any name; returns its token. */
struct jinja_token jinja_expect_ident(struct jinja_parser *p);
/* A token in words, for messages. */
const char *jinja_token_words(const struct jinja_token *t, char out[64]);

/* Expressions. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p, int with_cond);
/* a, b, c: a tuple where there is a comma. stop: a name that ends it, or NULL. */
struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, int with_cond, int parenthesised,
                                     const char *stop);
/* What may be assigned to: a name, a tuple of them, and ns.attribute with_namespace. */
struct jinja_node *jinja_parse_target(struct jinja_parser *p, int with_namespace, const char *stop);
/* |filter|filter ... after `node` (NULL: the text of a block); inline: the first has no bar. */
struct jinja_node *jinja_parse_filters(struct jinja_parser *p, struct jinja_node *node,
                                       int is_inline);

#endif
