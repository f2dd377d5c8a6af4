/* Statements, and what both halves of the parser need. */
#include "text/jinja_parser.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_int.h"

typedef struct jinja_node node;

void jinja_parse_fail(struct jinja_parser *p, uint32_t line, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->code = moed_fail(p->err, MOED_EINVAL, "template line %u: %s", line, text);
    longjmp(p->unwind, 1);
}

void *jinja_parse_alloc(struct jinja_parser *p, size_t bytes)
{
    void *m = jinja_arena_alloc(&p->program->arena, bytes);
    if (!m) {
        p->code = moed_fail(p->err, MOED_ELIMIT, "template line %u: the template is too large",
                            p->cur.line);
        longjmp(p->unwind, 1);
    }
    return memset(m, 0, bytes);
}

struct jinja_node *jinja_node_new(struct jinja_parser *p, enum jinja_node_type type, uint32_t line)
{
    node *n = jinja_parse_alloc(p, sizeof *n);
    n->type = (uint8_t)type;
    n->line = line;
    return n;
}

struct jv jinja_parse_str(struct jinja_parser *p, const char *s, size_t n)
{
    char *copy = jinja_parse_alloc(p, n + 1);
    memcpy(copy, s, n);
    return jv_str(copy, n);
}

void jinja_nodes_add(struct jinja_parser *p, struct jinja_nodes *l, struct jinja_node *n)
{
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? l->cap * 2 : 4;
        node **grown = jinja_parse_alloc(p, cap * sizeof(node *));
        if (l->n)
            memcpy(grown, l->list, l->n * sizeof(node *));
        l->list = grown;
        l->cap = cap;
    }
    l->list[l->n++] = n;
}

struct jinja_node *jinja_nodes_node(struct jinja_parser *p, enum jinja_node_type type,
                                    uint32_t line, const struct jinja_nodes *l)
{
    node *n = jinja_node_new(p, type, line);
    n->kids = l->list;
    n->n = l->n;
    return n;
}

void jinja_parse_enter(struct jinja_parser *p)
{
    if (++p->nesting > JINJA_MAX_NESTING) {
        p->code = moed_fail(p->err, MOED_ELIMIT, "template line %u: more than %d levels of nesting",
                            p->cur.line, JINJA_MAX_NESTING);
        longjmp(p->unwind, 1);
    }
}

void jinja_parse_leave(struct jinja_parser *p)
{
    p->nesting--;
}

/* Names. */

static uint32_t *name_slot(const struct jinja_parser *p, const char *s, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 1099511628211u;
    for (uint32_t i = (uint32_t)h & (p->n_name_index - 1);; i = (i + 1) & (p->n_name_index - 1)) {
        uint32_t id = p->name_index[i];
        if (!id || (p->program->names[id - 1].len == n &&
                    memcmp(p->program->names[id - 1].str, s, n) == 0))
            return &p->name_index[i];
    }
}

static void grow_names(struct jinja_parser *p)
{
    struct jinja_program *program = p->program;
    uint32_t cap = p->names_cap ? p->names_cap * 2 : 64;
    struct jv *names = jinja_parse_alloc(p, cap * sizeof *names);
    if (program->n_names)
        memcpy(names, program->names, program->n_names * sizeof *names);
    program->names = names;
    p->names_cap = cap;
    p->n_name_index = cap * 2;
    p->name_index = jinja_parse_alloc(p, p->n_name_index * sizeof *p->name_index);
    for (uint32_t i = 0; i < program->n_names; i++)
        *name_slot(p, names[i].str, names[i].len) = i + 1;
}

uint32_t jinja_parse_name_id(struct jinja_parser *p, const char *s, size_t n)
{
    if (p->program->n_names == p->names_cap)
        grow_names(p);
    uint32_t *slot = name_slot(p, s, n);
    if (!*slot) {
        p->program->names[p->program->n_names++] = jinja_parse_str(p, s, n);
        *slot = p->program->n_names;
    }
    return *slot - 1;
}

/* Tokens. */

static void lex(struct jinja_parser *p, struct jinja_token *t)
{
    if (jinja_lex(&p->lexer, t) < 0)
        jinja_parse_fail(p, p->lexer.line, "%s", p->lexer.message);
}

void jinja_advance(struct jinja_parser *p)
{
    if (p->has_ahead)
        p->cur = p->ahead;
    else
        lex(p, &p->cur);
    p->has_ahead = 0;
}

const struct jinja_token *jinja_ahead(struct jinja_parser *p)
{
    if (!p->has_ahead)
        lex(p, &p->ahead);
    p->has_ahead = 1;
    return &p->ahead;
}

static int token_is(const struct jinja_token *t, enum jinja_token_type type, const char *text)
{
    size_t n = strlen(text);
    return t->type == type && t->n == n && memcmp(t->text, text, n) == 0;
}

int jinja_is_name(const struct jinja_token *t, const char *name)
{
    return token_is(t, JT_NAME, name);
}

int jinja_is_op(const struct jinja_token *t, const char *op)
{
    return token_is(t, JT_OPERATOR, op);
}

int jinja_skip_name(struct jinja_parser *p, const char *name)
{
    if (!jinja_is_name(&p->cur, name))
        return 0;
    jinja_advance(p);
    return 1;
}

int jinja_skip_op(struct jinja_parser *p, const char *op)
{
    if (!jinja_is_op(&p->cur, op))
        return 0;
    jinja_advance(p);
    return 1;
}

const char *jinja_token_words(const struct jinja_token *t, char out[64])
{
    static const char *const words[] = {
        [JT_EOF] = "end of template",
        [JT_DATA] = "template data / text",
        [JT_VARIABLE_BEGIN] = "begin of print statement",
        [JT_VARIABLE_END] = "end of print statement",
        [JT_BLOCK_BEGIN] = "begin of statement block",
        [JT_BLOCK_END] = "end of statement block",
        [JT_STRING] = "string",
        [JT_INTEGER] = "integer",
        [JT_FLOAT] = "float",
    };
    if (t->type != JT_NAME && t->type != JT_OPERATOR)
        return words[t->type];
    size_t n = utf8_valid_prefix(t->text, t->n < 60 ? t->n : 60);
    snprintf(out, 64, "%.*s", (int)n, t->text);
    return out;
}

_Noreturn static void fail_expected(struct jinja_parser *p, const char *expected)
{
    char words[64];
    if (p->cur.type == JT_EOF)
        jinja_parse_fail(p, p->cur.line, "unexpected end of template, expected '%s'.", expected);
    jinja_parse_fail(p, p->cur.line, "expected token '%s', got '%s'", expected,
                     jinja_token_words(&p->cur, words));
}

static void expect(struct jinja_parser *p, enum jinja_token_type type, const char *words)
{
    if (p->cur.type != type)
        fail_expected(p, words);
    jinja_advance(p);
}

void jinja_expect_op(struct jinja_parser *p, const char *op)
{
    if (!jinja_skip_op(p, op))
        fail_expected(p, op);
}

void jinja_expect_name(struct jinja_parser *p, const char *name)
{
    if (!jinja_skip_name(p, name))
        fail_expected(p, name);
}

struct jinja_token jinja_expect_ident(struct jinja_parser *p)
{
    struct jinja_token t = p->cur;
    expect(p, JT_NAME, "name");
    return t;
}

/* Statements. */

/* The body of a statement up to one of the tags `ends` (a NULL-terminated list), which becomes the
 * current token; NULL: up to the end of the template. */
static node *parse_body(struct jinja_parser *p, const char *const *ends);

static node *parse_block_body(struct jinja_parser *p, const char *const *ends)
{
    jinja_skip_op(p, ":");
    expect(p, JT_BLOCK_END, "end of statement block");
    return parse_body(p, ends);
}

/* The same, in a frame of its own: conditions around it do not reach in, and the closing tag is
 * taken. */
static node *parse_inner_body(struct jinja_parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    unsigned soft = p->soft;
    p->soft = 0;
    node *body = parse_block_body(p, ends);
    p->soft = soft;
    jinja_advance(p);
    return body;
}

static node *parse_if(struct jinja_parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    node *first = NULL, **link = &first;
    p->soft++;
    for (;;) {
        node *n = jinja_node_new(p, JN_IF, p->cur.line);
        jinja_advance(p); /* if or elif */
        *link = n;
        link = &n->c;
        n->a = jinja_parse_tuple(p, 0, 0, NULL);
        n->b = parse_block_body(p, ends);
        if (jinja_is_name(&p->cur, "elif"))
            continue;
        if (jinja_skip_name(p, "else")) {
            static const char *const endif[] = {"endif", NULL};
            n->c = parse_block_body(p, endif);
        }
        jinja_advance(p);
        break;
    }
    p->soft--;
    return first;
}

static int binds_loop(const node *target)
{
    for (uint32_t i = 0; target->type == JN_TUPLE && i < target->n; i++)
        if (binds_loop(target->kids[i]))
            return 1;
    return target->type == JN_NAME && target->name == JINJA_NAME_LOOP;
}

static node *parse_for(struct jinja_parser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    node *n = jinja_node_new(p, JN_FOR, p->cur.line);
    unsigned soft = p->soft;
    jinja_advance(p);
    n->a = jinja_parse_target(p, 0, "in");
    if (binds_loop(n->a))
        jinja_parse_fail(p, n->line, "Can't assign to special loop variable in for-loop target");
    jinja_expect_name(p, "in");
    n->b = jinja_parse_tuple(p, 0, 0, "recursive");
    p->soft = 0;
    if (jinja_skip_name(p, "if"))
        n->c = jinja_parse_expression(p, 1);
    n->op = (uint8_t)jinja_skip_name(p, "recursive");
    p->loops++;
    n->d = parse_block_body(p, ends);
    p->loops--;
    p->soft = soft;
    if (jinja_skip_name(p, "else"))
        n->e = parse_inner_body(p, "endfor");
    else
        jinja_advance(p);
    return n;
}

static node *parse_set(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_SET, p->cur.line);
    jinja_advance(p);
    n->a = jinja_parse_target(p, 1, NULL);
    if (jinja_skip_op(p, "=")) {
        n->b = jinja_parse_tuple(p, 1, 0, NULL);
        return n;
    }
    n->type = JN_SET_BLOCK;
    n->c = jinja_parse_filters(p, NULL, 0);
    n->b = parse_inner_body(p, "endset");
    return n;
}

static void parse_params(struct jinja_parser *p, struct jinja_params *params)
{
    uint32_t cap = 0;
    int defaults = 0;
    jinja_expect_op(p, "(");
    while (!jinja_is_op(&p->cur, ")")) {
        if (params->n)
            jinja_expect_op(p, ",");
        struct jinja_token t = jinja_expect_ident(p);
        if (params->n == cap) {
            cap = cap ? cap * 2 : 4;
            struct jinja_param *grown = jinja_parse_alloc(p, cap * sizeof *grown);
            if (params->n)
                memcpy(grown, params->list, params->n * sizeof *grown);
            params->list = grown;
        }
        struct jinja_param *param = &params->list[params->n++];
        param->name = jinja_parse_name_id(p, t.text, t.n);
        params->explicit_caller |= param->name == JINJA_NAME_CALLER;
        if (jinja_skip_op(p, "=")) {
            param->value = jinja_parse_expression(p, 1);
            defaults = 1;
        } else if (defaults) {
            jinja_parse_fail(p, t.line, "non-default argument follows default argument");
        }
    }
    jinja_expect_op(p, ")");
}

static int has_param(const struct jinja_params *params, uint32_t name)
{
    for (uint32_t i = 0; i < params->n; i++)
        if (params->list[i].name == name)
            return 1;
    return 0;
}

/* The body of a macro or of a call block: finds out which special names it uses. */
static node *parse_macro_body(struct jinja_parser *p, struct jinja_params *params, const char *end)
{
    struct jinja_usage usage = {.outer = p->usage};
    unsigned loops = p->loops;
    p->usage = &usage;
    p->loops = 0;
    node *body = parse_inner_body(p, end);
    p->loops = loops;
    p->usage = usage.outer;
    params->uses_caller = usage.caller;
    params->uses_kwargs = usage.kwargs && !has_param(params, JINJA_NAME_KWARGS);
    params->uses_varargs = usage.varargs && !has_param(params, JINJA_NAME_VARARGS);
    for (uint32_t i = 0; i < params->n; i++)
        if (usage.caller && params->list[i].name == JINJA_NAME_CALLER && !params->list[i].value)
            jinja_parse_fail(p, body->line,
                             "When defining macros or call blocks the special \"caller\" argument "
                             "must be omitted or be given a default.");
    return body;
}

static node *parse_macro(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_MACRO, p->cur.line);
    jinja_advance(p);
    struct jinja_token name = jinja_expect_ident(p);
    n->name = jinja_parse_name_id(p, name.text, name.n);
    n->value = p->program->names[n->name];
    n->params = jinja_parse_alloc(p, sizeof *n->params);
    parse_params(p, n->params);
    n->b = parse_macro_body(p, n->params, "endmacro");
    return n;
}

static node *parse_call_block(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_CALL_BLOCK, p->cur.line);
    jinja_advance(p);
    n->params = jinja_parse_alloc(p, sizeof *n->params);
    if (jinja_is_op(&p->cur, "("))
        parse_params(p, n->params);
    n->a = jinja_parse_expression(p, 1);
    if (n->a->type != JN_CALL)
        jinja_parse_fail(p, n->line, "expected call");
    n->b = parse_macro_body(p, n->params, "endcall");
    return n;
}

static node *parse_filter_block(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_FILTER_BLOCK, p->cur.line);
    unsigned soft = p->soft;
    jinja_advance(p);
    p->soft = 0;
    n->c = jinja_parse_filters(p, NULL, 1);
    p->soft = soft;
    n->b = parse_inner_body(p, "endfilter");
    return n;
}

static node *parse_with(struct jinja_parser *p)
{
    struct jinja_nodes pairs = {0};
    uint32_t line = p->cur.line;
    jinja_advance(p);
    while (p->cur.type != JT_BLOCK_END) {
        if (pairs.n)
            jinja_expect_op(p, ",");
        jinja_nodes_add(p, &pairs, jinja_parse_target(p, 0, NULL));
        jinja_expect_op(p, "=");
        jinja_nodes_add(p, &pairs, jinja_parse_expression(p, 1));
    }
    node *n = jinja_nodes_node(p, JN_WITH, line, &pairs);
    n->b = parse_inner_body(p, "endwith");
    return n;
}

/* {% generation %} marks what the model wrote; for rendering it is a scope. */
static node *parse_generation(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_SCOPE, p->cur.line);
    jinja_advance(p);
    n->b = parse_inner_body(p, "endgeneration");
    return n;
}

static node *parse_autoescape(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_SCOPE, p->cur.line);
    jinja_advance(p);
    node *on = jinja_parse_expression(p, 1);
    if (on->type != JN_CONST || on->value.kind != JV_BOOL || on->value.i)
        jinja_parse_fail(p, n->line, "autoescape can only be false");
    n->b = parse_inner_body(p, "endautoescape");
    return n;
}

static node *parse_block(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_BLOCK, p->cur.line);
    jinja_advance(p);
    struct jinja_token name = jinja_expect_ident(p);
    n->op = (uint8_t)jinja_skip_name(p, "scoped");
    jinja_skip_name(p, "required");
    unsigned loops = p->loops;
    p->loops = 0;
    n->b = parse_inner_body(p, "endblock");
    p->loops = loops;
    if (p->cur.type == JT_NAME && p->cur.n == name.n && !memcmp(p->cur.text, name.text, name.n))
        jinja_advance(p);
    return n;
}

static node *parse_print(struct jinja_parser *p)
{
    struct jinja_nodes outputs = {0};
    uint32_t line = p->cur.line;
    jinja_advance(p);
    while (p->cur.type != JT_BLOCK_END) {
        if (outputs.n)
            jinja_expect_op(p, ",");
        node *o = jinja_node_new(p, JN_OUTPUT, p->cur.line);
        o->a = jinja_parse_expression(p, 1);
        jinja_nodes_add(p, &outputs, o);
    }
    return jinja_nodes_node(p, JN_BODY, line, &outputs);
}

static node *parse_loop_control(struct jinja_parser *p)
{
    int is_break = jinja_is_name(&p->cur, "break");
    node *n = jinja_node_new(p, is_break ? JN_BREAK : JN_CONTINUE, p->cur.line);
    if (!p->loops)
        jinja_parse_fail(p, n->line, "'%s' outside loop", is_break ? "break" : "continue");
    jinja_advance(p);
    return n;
}

/* There are no other templates; it is an error only where one is asked for. */
static node *parse_no_loader(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_NO_LOADER, p->cur.line);
    while (p->cur.type != JT_BLOCK_END && p->cur.type != JT_EOF)
        jinja_advance(p);
    return n;
}

static const struct {
    const char *tag;
    node *(*parse)(struct jinja_parser *);
} statements[] = {
    {"if", parse_if},
    {"for", parse_for},
    {"set", parse_set},
    {"macro", parse_macro},
    {"call", parse_call_block},
    {"filter", parse_filter_block},
    {"with", parse_with},
    {"generation", parse_generation},
    {"autoescape", parse_autoescape},
    {"block", parse_block},
    {"print", parse_print},
    {"break", parse_loop_control},
    {"continue", parse_loop_control},
    {"include", parse_no_loader},
    {"import", parse_no_loader},
    {"from", parse_no_loader},
    {"extends", parse_no_loader},
};

static node *parse_statement(struct jinja_parser *p)
{
    char words[64];
    node *n = NULL;
    if (p->cur.type != JT_NAME)
        jinja_parse_fail(p, p->cur.line, "tag name expected");
    jinja_parse_enter(p);
    for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++)
        if (jinja_is_name(&p->cur, statements[i].tag)) {
            n = statements[i].parse(p);
            break;
        }
    if (!n)
        jinja_parse_fail(p, p->cur.line, "Encountered unknown tag '%s'.",
                         jinja_token_words(&p->cur, words));
    jinja_parse_leave(p);
    expect(p, JT_BLOCK_END, "end of statement block");
    return n;
}

static int at_end_tag(const struct jinja_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (jinja_is_name(&p->cur, *ends))
            return 1;
    return 0;
}

static node *parse_output(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_OUTPUT, p->cur.line);
    jinja_advance(p);
    n->a = jinja_parse_tuple(p, 1, 0, NULL);
    expect(p, JT_VARIABLE_END, "end of print statement");
    return n;
}

_Noreturn static void fail_eof(struct jinja_parser *p, const char *const *ends)
{
    char tags[64] = "";
    for (size_t n = 0; *ends; ends++)
        n += (size_t)snprintf(tags + n, sizeof tags - n, "%s'%s'", n ? " or " : "", *ends);
    jinja_parse_fail(p, p->cur.line,
                     "Unexpected end of template. Jinja was looking for the following tags: %s.",
                     tags);
}

static node *parse_body(struct jinja_parser *p, const char *const *ends)
{
    struct jinja_nodes body = {0};
    uint32_t line = p->cur.line;
    while (p->cur.type != JT_EOF) {
        node *n;
        if (p->cur.type == JT_DATA) {
            n = jinja_node_new(p, JN_TEXT, p->cur.line);
            n->value = jinja_parse_str(p, p->cur.text, p->cur.n);
            jinja_advance(p);
        } else if (p->cur.type == JT_VARIABLE_BEGIN) {
            n = parse_output(p);
        } else {
            jinja_advance(p);
            if (at_end_tag(p, ends))
                return jinja_nodes_node(p, JN_BODY, line, &body);
            n = parse_statement(p);
        }
        if (p->unknown)
            jinja_parse_fail(p, p->unknown->line, "No %s named '%.60s'.",
                             p->unknown->type == JN_FILTER ? "filter" : "test",
                             p->unknown->value.str);
        jinja_nodes_add(p, &body, n);
    }
    if (ends)
        fail_eof(p, ends);
    return jinja_nodes_node(p, JN_BODY, line, &body);
}

/* \r\n and \r become \n. */
static char *normalize_newlines(struct jinja_parser *p, const char *source, size_t *n)
{
    char *out = jinja_parse_alloc(p, *n + 1);
    size_t len = 0;
    for (size_t i = 0; i < *n; i++) {
        if (source[i] == '\r') {
            out[len++] = '\n';
            i += i + 1 < *n && source[i + 1] == '\n';
        } else {
            out[len++] = source[i];
        }
    }
    *n = len;
    return out;
}

static int parse_program(struct jinja_parser *p, const char *source, size_t n)
{
    static const char *const known[JINJA_NAMES_KNOWN] = {
        [JINJA_NAME_LOOP] = "loop",
        [JINJA_NAME_CALLER] = "caller",
        [JINJA_NAME_VARARGS] = "varargs",
        [JINJA_NAME_KWARGS] = "kwargs",
    };
    if (setjmp(p->unwind))
        return p->code;
    for (int i = 0; i < JINJA_NAMES_KNOWN; i++)
        jinja_parse_name_id(p, known[i], strlen(known[i]));
    const char *text = normalize_newlines(p, source, &n);
    jinja_lexer_init(&p->lexer, text, n);
    jinja_advance(p);
    p->program->body = parse_body(p, NULL);
    return 0;
}

int jinja_parse(struct jinja_program *program, const char *source, size_t n, struct moed_error *err)
{
    if (n > JINJA_MAX_SOURCE_BYTES)
        return moed_fail(err, MOED_ELIMIT, "the template has %zu bytes, more than %zu", n,
                         JINJA_MAX_SOURCE_BYTES);
    size_t valid = utf8_valid_prefix(source, n);
    if (valid < n)
        return moed_fail(err, MOED_EINVAL, "the template is not UTF-8 at byte %zu", valid);
    *program = (struct jinja_program){0};
    jinja_arena_init(&program->arena, JINJA_MAX_PROGRAM_BYTES);
    struct jinja_parser p = {.program = program, .err = err};
    p.cur.line = 1;
    int rc = parse_program(&p, source, n);
    if (rc < 0)
        jinja_program_fini(program);
    return rc;
}

void jinja_program_fini(struct jinja_program *p)
{
    jinja_arena_fini(&p->arena);
    *p = (struct jinja_program){0};
}
