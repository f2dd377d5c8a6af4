/* Expressions: precedence as in Jinja's own parser, lowest first: if-else, or, and, not,
 * comparison,
 * + -, ~, * / // %, **, unary, then postfixes, filters and tests. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "text/jinja_int.h"
#include "text/jinja_parser.h"

typedef struct jinja_node node;

static node *parse_unary(struct jinja_parser *p, int with_filter);

static node *binary(struct jinja_parser *p, enum jinja_node_type type, uint32_t line, node *a,
                    node *b)
{
    node *n = jinja_node_new(p, type, line);
    n->a = a;
    n->b = b;
    return n;
}

/* Literals. */

/* \xHH, \uHHHH, \UHHHHHHHH: returns the bytes read behind the letter. */
static size_t hex_escape(struct jinja_parser *p, const char *s, size_t n, size_t digits,
                         unsigned *cp)
{
    unsigned value = 0;
    if (n < digits)
        jinja_parse_fail(p, p->cur.line, "truncated \\%c escape in a string", s[-1]);
    for (size_t i = 0; i < digits; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0)
            jinja_parse_fail(p, p->cur.line, "truncated \\%c escape in a string", s[-1]);
        value = value << 4 | (unsigned)d;
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000))
        jinja_parse_fail(p, p->cur.line, "illegal Unicode character in a string");
    *cp = value;
    return digits;
}

/* Reads one escape behind its backslash into out; returns the bytes read. */
static size_t read_escape(struct jinja_parser *p, const char *s, size_t n, char *out, size_t *len)
{
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = strchr(from, s[0]);
    unsigned cp;
    if (s[0] == '\n')
        return 1;
    if (s[0] && simple) {
        out[(*len)++] = to[simple - from];
        return 1;
    }
    if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        size_t used = hex_escape(p, s + 1, n - 1, digits, &cp);
        *len += jinja_encode(cp, out + *len);
        return 1 + used;
    }
    if (s[0] >= '0' && s[0] <= '7') {
        size_t i = 0;
        for (cp = 0; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            cp = cp << 3 | (unsigned)(s[i] - '0');
        *len += jinja_encode(cp, out + *len);
        return i;
    }
    if (s[0] == 'N')
        jinja_parse_fail(p, p->cur.line, "\\N escapes in strings are not supported");
    out[(*len)++] = '\\';
    return 0;
}

/* Adjacent strings are one. */
static node *parse_string(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_CONST, p->cur.line);
    size_t len = 0;
    char *text = NULL;
    while (p->cur.type == JT_STRING) {
        const char *s = p->cur.text + 1;
        size_t size = p->cur.n - 2;
        /* An escape is never shorter than the UTF-8 that it stands for. */
        char *grown = jinja_parse_alloc(p, len + size + 1);
        if (len)
            memcpy(grown, text, len);
        text = grown;
        for (size_t i = 0; i < size;) {
            if (s[i] == '\\' && i + 1 < size) {
                i++;
                i += read_escape(p, s + i, size - i, text, &len);
            } else {
                text[len++] = s[i++];
            }
        }
        jinja_advance(p);
    }
    n->value = jv_str(text, len);
    return n;
}

static node *parse_integer(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_CONST, p->cur.line);
    const char *s = p->cur.text;
    size_t size = p->cur.n, i = 0;
    int base = 10;
    if (size > 2 && s[0] == '0' && strchr("xXoObB", s[1])) {
        char c = (char)(s[1] | 32);
        base = c == 'x' ? 16 : c == 'o' ? 8 : 2;
        i = 2;
    }
    int64_t value = 0;
    for (; i < size; i++) {
        if (s[i] == '_')
            continue;
        int d = s[i] <= '9' ? s[i] - '0' : (s[i] | 32) - 'a' + 10;
        if (__builtin_mul_overflow(value, (int64_t)base, &value) ||
            __builtin_add_overflow(value, (int64_t)d, &value))
            jinja_parse_fail(p, p->cur.line, "integer is too large (64 bits)");
    }
    n->value = jv_int(value);
    jinja_advance(p);
    return n;
}

static node *parse_float(struct jinja_parser *p)
{
    node *n = jinja_node_new(p, JN_CONST, p->cur.line);
    char *text = jinja_parse_alloc(p, p->cur.n + 1);
    size_t len = 0;
    for (size_t i = 0; i < p->cur.n; i++)
        if (p->cur.text[i] != '_')
            text[len++] = p->cur.text[i];
    n->value = jv_float(strtod(text, NULL));
    jinja_advance(p);
    return n;
}

/* Primaries. */

static void note_usage(struct jinja_parser *p, uint32_t name)
{
    for (struct jinja_usage *u = p->usage; u; u = u->outer) {
        u->caller |= name == JINJA_NAME_CALLER;
        u->kwargs |= name == JINJA_NAME_KWARGS;
        u->varargs |= name == JINJA_NAME_VARARGS;
    }
}

static node *parse_name(struct jinja_parser *p)
{
    const struct jinja_token t = p->cur;
    node *n = jinja_node_new(p, JN_CONST, t.line);
    jinja_advance(p);
    if (jinja_is_name(&t, "true") || jinja_is_name(&t, "True")) {
        n->value = jv_bool(1);
    } else if (jinja_is_name(&t, "false") || jinja_is_name(&t, "False")) {
        n->value = jv_bool(0);
    } else if (jinja_is_name(&t, "none") || jinja_is_name(&t, "None")) {
        n->value = jv_none();
    } else {
        n->type = JN_NAME;
        n->name = jinja_parse_name_id(p, t.text, t.n);
        note_usage(p, n->name);
    }
    return n;
}

static node *parse_list(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    struct jinja_nodes items = {0};
    jinja_expect_op(p, "[");
    while (!jinja_is_op(&p->cur, "]")) {
        if (items.n) {
            jinja_expect_op(p, ",");
            if (jinja_is_op(&p->cur, "]"))
                break;
        }
        jinja_nodes_add(p, &items, jinja_parse_expression(p, 1));
    }
    jinja_expect_op(p, "]");
    return jinja_nodes_node(p, JN_LIST, line, &items);
}

static node *parse_dict(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    struct jinja_nodes items = {0};
    jinja_expect_op(p, "{");
    while (!jinja_is_op(&p->cur, "}")) {
        if (items.n) {
            jinja_expect_op(p, ",");
            if (jinja_is_op(&p->cur, "}"))
                break;
        }
        jinja_nodes_add(p, &items, jinja_parse_expression(p, 1));
        jinja_expect_op(p, ":");
        jinja_nodes_add(p, &items, jinja_parse_expression(p, 1));
    }
    jinja_expect_op(p, "}");
    return jinja_nodes_node(p, JN_DICT, line, &items);
}

static node *parse_primary(struct jinja_parser *p)
{
    char words[64];
    switch (p->cur.type) {
    case JT_NAME:
        return parse_name(p);
    case JT_STRING:
        return parse_string(p);
    case JT_INTEGER:
        return parse_integer(p);
    case JT_FLOAT:
        return parse_float(p);
    default:
        break;
    }
    if (jinja_skip_op(p, "(")) {
        node *n = jinja_parse_tuple(p, 1, 1, NULL);
        jinja_expect_op(p, ")");
        return n;
    }
    if (jinja_is_op(&p->cur, "["))
        return parse_list(p);
    if (jinja_is_op(&p->cur, "{"))
        return parse_dict(p);
    jinja_parse_fail(p, p->cur.line, "unexpected '%s'", jinja_token_words(&p->cur, words));
}

/* Postfixes. */

static int at_subscript_end(struct jinja_parser *p)
{
    return jinja_is_op(&p->cur, "]") || jinja_is_op(&p->cur, ",");
}

/* Inside brackets: an expression, or a slice whose object is filled in by the caller. */
static node *parse_subscribed(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    node *start = NULL;
    if (!jinja_is_op(&p->cur, ":")) {
        start = jinja_parse_expression(p, 1);
        if (!jinja_is_op(&p->cur, ":"))
            return start;
    }
    jinja_advance(p);
    node *n = jinja_node_new(p, JN_SLICE, line);
    n->b = start;
    if (!jinja_is_op(&p->cur, ":") && !at_subscript_end(p))
        n->c = jinja_parse_expression(p, 1);
    if (jinja_skip_op(p, ":") && !at_subscript_end(p))
        n->d = jinja_parse_expression(p, 1);
    return n;
}

static node *parse_subscript(struct jinja_parser *p, node *of)
{
    uint32_t line = p->cur.line;
    if (jinja_skip_op(p, ".")) {
        const struct jinja_token t = p->cur;
        if (t.type == JT_NAME) {
            node *n = jinja_node_new(p, JN_ATTR, line);
            n->a = of;
            n->value = jinja_parse_str(p, t.text, t.n);
            jinja_advance(p);
            return n;
        }
        if (t.type != JT_INTEGER)
            jinja_parse_fail(p, t.line, "expected name or number");
        return binary(p, JN_ITEM, line, of, parse_integer(p));
    }
    jinja_expect_op(p, "[");
    struct jinja_nodes parts = {0};
    while (!jinja_is_op(&p->cur, "]")) {
        if (parts.n)
            jinja_expect_op(p, ",");
        jinja_nodes_add(p, &parts, parse_subscribed(p));
    }
    jinja_expect_op(p, "]");
    if (parts.n == 1 && parts.list[0]->type == JN_SLICE && !parts.list[0]->a) {
        parts.list[0]->a = of;
        return parts.list[0];
    }
    for (uint32_t i = 0; i < parts.n; i++)
        if (parts.list[i]->type == JN_SLICE && !parts.list[i]->a)
            jinja_parse_fail(p, line, "slices cannot be part of a tuple");
    node *index = parts.n == 1 ? parts.list[0] : jinja_nodes_node(p, JN_TUPLE, line, &parts);
    return binary(p, JN_ITEM, line, of, index);
}

/* Each is compared with all before it. */
#define MAX_KEYWORDS 1000

static void add_kwarg(struct jinja_parser *p, struct jinja_call_args *a, uint32_t *cap,
                      struct jinja_token name, node *value)
{
    if (a->n_kw == *cap) {
        *cap = *cap ? *cap * 2 : 4;
        struct jinja_kwarg *grown = jinja_parse_alloc(p, *cap * sizeof *grown);
        if (a->n_kw)
            memcpy(grown, a->kw, a->n_kw * sizeof *grown);
        a->kw = grown;
    }
    struct jv key = jinja_parse_str(p, name.text, name.n);
    if (a->n_kw == MAX_KEYWORDS)
        jinja_parse_fail(p, name.line, "more than %d keyword arguments", MAX_KEYWORDS);
    for (uint32_t i = 0; i < a->n_kw; i++)
        if (a->kw[i].name.len == key.len && memcmp(a->kw[i].name.str, key.str, key.len) == 0)
            jinja_parse_fail(p, name.line, "keyword argument repeated: %s", key.str);
    a->kw[a->n_kw++] = (struct jinja_kwarg){key, value};
}

static void need_call(struct jinja_parser *p, int ok)
{
    if (!ok)
        jinja_parse_fail(p, p->cur.line, "invalid syntax for function call expression");
}

static struct jinja_call_args *parse_call_args(struct jinja_parser *p)
{
    struct jinja_call_args *a = jinja_parse_alloc(p, sizeof *a);
    struct jinja_nodes pos = {0};
    uint32_t kw_cap = 0;
    int comma = 0;
    jinja_expect_op(p, "(");
    while (!jinja_is_op(&p->cur, ")")) {
        if (comma) {
            jinja_expect_op(p, ",");
            if (jinja_is_op(&p->cur, ")"))
                break;
        }
        if (jinja_skip_op(p, "*")) {
            need_call(p, !a->star && !a->star_star);
            a->star = jinja_parse_expression(p, 1);
        } else if (jinja_skip_op(p, "**")) {
            need_call(p, !a->star_star);
            a->star_star = jinja_parse_expression(p, 1);
        } else if (p->cur.type == JT_NAME && jinja_is_op(jinja_ahead(p), "=")) {
            need_call(p, !a->star_star);
            struct jinja_token name = p->cur;
            jinja_advance(p);
            jinja_advance(p);
            add_kwarg(p, a, &kw_cap, name, jinja_parse_expression(p, 1));
        } else {
            need_call(p, !a->star && !a->star_star && !a->n_kw);
            jinja_nodes_add(p, &pos, jinja_parse_expression(p, 1));
        }
        comma = 1;
    }
    jinja_expect_op(p, ")");
    a->pos = pos.list;
    a->n_pos = pos.n;
    return a;
}

static node *parse_call(struct jinja_parser *p, node *callee)
{
    node *n = jinja_node_new(p, JN_CALL, p->cur.line);
    n->a = callee;
    n->args = parse_call_args(p);
    return n;
}

static node *parse_postfix(struct jinja_parser *p, node *n)
{
    for (;;) {
        if (jinja_is_op(&p->cur, ".") || jinja_is_op(&p->cur, "["))
            n = parse_subscript(p, n);
        else if (jinja_is_op(&p->cur, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* The dotted name of a filter or test, in the program. */
static struct jv parse_dotted(struct jinja_parser *p)
{
    struct jinja_token t = jinja_expect_ident(p);
    const char *end = t.text + t.n;
    while (jinja_is_op(&p->cur, ".")) {
        jinja_advance(p);
        struct jinja_token more = jinja_expect_ident(p);
        end = more.text + more.n;
    }
    return jinja_parse_str(p, t.text, (size_t)(end - t.text));
}

/* An unknown filter or test is an error, but inside a condition only once it is reached. */
static void note_unknown(struct jinja_parser *p, const node *n)
{
    if (!p->soft && !p->unknown)
        p->unknown = n;
}

static struct jinja_call_args *no_args(struct jinja_parser *p)
{
    return jinja_parse_alloc(p, sizeof(struct jinja_call_args));
}

struct jinja_node *jinja_parse_filters(struct jinja_parser *p, node *n, int is_inline)
{
    while (is_inline || jinja_is_op(&p->cur, "|")) {
        if (!is_inline)
            jinja_advance(p);
        is_inline = 0;
        node *f = jinja_node_new(p, JN_FILTER, p->cur.line);
        f->a = n;
        f->value = parse_dotted(p);
        f->filter = jinja_filter_find(f->value.str, f->value.len);
        if (!f->filter)
            note_unknown(p, f);
        f->args = jinja_is_op(&p->cur, "(") ? parse_call_args(p) : no_args(p);
        n = f;
    }
    return n;
}

static int begins_test_arg(const struct jinja_token *t)
{
    switch (t->type) {
    case JT_NAME:
        return !jinja_is_name(t, "else") && !jinja_is_name(t, "or") && !jinja_is_name(t, "and");
    case JT_STRING:
    case JT_INTEGER:
    case JT_FLOAT:
        return 1;
    default:
        return jinja_is_op(t, "[") || jinja_is_op(t, "{");
    }
}

static node *parse_test(struct jinja_parser *p, node *of)
{
    node *n = jinja_node_new(p, JN_TEST, p->cur.line);
    jinja_expect_name(p, "is");
    int negated = jinja_skip_name(p, "not");
    n->a = of;
    n->value = parse_dotted(p);
    n->test = jinja_test_find(n->value.str, n->value.len);
    if (!n->test)
        note_unknown(p, n);
    if (jinja_is_op(&p->cur, "(")) {
        n->args = parse_call_args(p);
    } else {
        n->args = no_args(p);
        if (begins_test_arg(&p->cur)) {
            if (jinja_is_name(&p->cur, "is"))
                jinja_parse_fail(p, p->cur.line, "You cannot chain multiple tests with is");
            struct jinja_nodes arg = {0};
            jinja_nodes_add(p, &arg, parse_postfix(p, parse_primary(p)));
            n->args->pos = arg.list;
            n->args->n_pos = 1;
        }
    }
    return negated ? binary(p, JN_NOT, n->line, n, NULL) : n;
}

static node *parse_filter_expr(struct jinja_parser *p, node *n)
{
    for (;;) {
        if (jinja_is_op(&p->cur, "|"))
            n = jinja_parse_filters(p, n, 0);
        else if (jinja_is_name(&p->cur, "is"))
            n = parse_test(p, n);
        else if (jinja_is_op(&p->cur, "("))
            n = parse_call(p, n);
        else
            return n;
    }
}

/* Operators. */

static node *parse_unary(struct jinja_parser *p, int with_filter)
{
    uint32_t line = p->cur.line;
    node *n;
    jinja_parse_enter(p);
    if (jinja_skip_op(p, "-"))
        n = binary(p, JN_NEG, line, parse_unary(p, 0), NULL);
    else if (jinja_skip_op(p, "+"))
        n = binary(p, JN_POS, line, parse_unary(p, 0), NULL);
    else
        n = parse_primary(p);
    n = parse_postfix(p, n);
    if (with_filter)
        n = parse_filter_expr(p, n);
    jinja_parse_leave(p);
    return n;
}

static const struct {
    const char *text;
    uint8_t level, op; /* level 0 binds tightest */
} operators[] = {
    {"**", 0, JOP_POW}, {"*", 1, JOP_MUL}, {"/", 1, JOP_DIV}, {"//", 1, JOP_FLOORDIV},
    {"%", 1, JOP_MOD},  {"~", 2, JOP_ADD}, {"+", 3, JOP_ADD}, {"-", 3, JOP_SUB},
    {"==", 4, JOP_EQ},  {"!=", 4, JOP_NE}, {"<", 4, JOP_LT},  {"<=", 4, JOP_LE},
    {">", 4, JOP_GT},   {">=", 4, JOP_GE},
};
enum { LEVEL_POW, LEVEL_MUL, LEVEL_CONCAT, LEVEL_ADD, LEVEL_COMPARE };

/* The operator of that level at the position, or -1. */
static int operator_here(const struct jinja_parser *p, unsigned level)
{
    if (p->cur.type != JT_OPERATOR)
        return -1;
    for (size_t i = 0; i < sizeof operators / sizeof operators[0]; i++)
        if (operators[i].level == level && jinja_is_op(&p->cur, operators[i].text))
            return operators[i].op;
    return -1;
}

/* Left-associative operators of one level (also **, as in Jinja). */
static node *parse_level(struct jinja_parser *p, unsigned level)
{
    uint32_t line = p->cur.line;
    node *left = level == LEVEL_POW ? parse_unary(p, 1) : parse_level(p, level - 1);
    struct jinja_nodes concat = {0};
    int op;
    while ((op = operator_here(p, level)) >= 0) {
        jinja_advance(p);
        node *right = level == LEVEL_POW ? parse_unary(p, 1) : parse_level(p, level - 1);
        if (level == LEVEL_CONCAT) {
            if (!concat.n)
                jinja_nodes_add(p, &concat, left);
            jinja_nodes_add(p, &concat, right);
        } else {
            left = binary(p, JN_BINARY, line, left, right);
            left->op = (uint8_t)op;
        }
        line = p->cur.line;
    }
    return concat.n ? jinja_nodes_node(p, JN_CONCAT, line, &concat) : left;
}

static node *parse_compare(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    node *first = parse_level(p, LEVEL_ADD);
    struct jinja_nodes operands = {0};
    for (;;) {
        int op = operator_here(p, LEVEL_COMPARE);
        if (op >= 0) {
            jinja_advance(p);
        } else if (jinja_skip_name(p, "in")) {
            op = JOP_IN;
        } else if (jinja_is_name(&p->cur, "not") && jinja_is_name(jinja_ahead(p), "in")) {
            jinja_advance(p);
            jinja_advance(p);
            op = JOP_NOT_IN;
        } else {
            break;
        }
        node *operand = binary(p, JN_OPERAND, p->cur.line, NULL, NULL);
        operand->op = (uint8_t)op;
        operand->a = parse_level(p, LEVEL_ADD);
        jinja_nodes_add(p, &operands, operand);
    }
    if (!operands.n)
        return first;
    node *n = jinja_nodes_node(p, JN_COMPARE, line, &operands);
    n->a = first;
    return n;
}

static node *parse_not(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    if (!jinja_skip_name(p, "not"))
        return parse_compare(p);
    jinja_parse_enter(p);
    node *n = binary(p, JN_NOT, line, parse_not(p), NULL);
    jinja_parse_leave(p);
    return n;
}

static node *parse_and(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    node *left = parse_not(p);
    while (jinja_skip_name(p, "and"))
        left = binary(p, JN_AND, line, left, parse_not(p));
    return left;
}

static node *parse_or(struct jinja_parser *p)
{
    uint32_t line = p->cur.line;
    node *left = parse_and(p);
    while (jinja_skip_name(p, "or"))
        left = binary(p, JN_OR, line, left, parse_and(p));
    return left;
}

/* a if b else c. Whether a stands in a condition is known only behind it. */
struct jinja_node *jinja_parse_expression(struct jinja_parser *p, int with_cond)
{
    jinja_parse_enter(p);
    const node *unknown = p->unknown;
    uint32_t line = p->cur.line;
    node *n = parse_or(p);
    while (with_cond && jinja_skip_name(p, "if")) {
        node *cond = jinja_node_new(p, JN_COND, line);
        p->soft++;
        p->unknown = unknown;
        cond->a = n;
        cond->b = parse_or(p);
        if (jinja_skip_name(p, "else"))
            cond->c = jinja_parse_expression(p, 1);
        p->soft--;
        n = cond;
    }
    jinja_parse_leave(p);
    return n;
}

static int at_tuple_end(const struct jinja_parser *p, const char *stop)
{
    return p->cur.type == JT_VARIABLE_END || p->cur.type == JT_BLOCK_END ||
           jinja_is_op(&p->cur, ")") || (stop && jinja_is_name(&p->cur, stop));
}

static node *parse_items(struct jinja_parser *p, int with_cond, int parenthesised, const char *stop,
                         node *(*item)(struct jinja_parser *, int), int arg)
{
    uint32_t line = p->cur.line;
    struct jinja_nodes items = {0};
    int is_tuple = 0;
    char words[64];
    for (;;) {
        if (items.n)
            jinja_expect_op(p, ",");
        if (at_tuple_end(p, stop))
            break;
        jinja_nodes_add(p, &items, item(p, arg));
        if (!jinja_is_op(&p->cur, ","))
            break;
        is_tuple = 1;
    }
    if (!is_tuple && items.n)
        return items.list[0];
    if (!is_tuple && !parenthesised)
        jinja_parse_fail(p, p->cur.line, "Expected an expression, got '%s'",
                         jinja_token_words(&p->cur, words));
    return jinja_nodes_node(p, JN_TUPLE, line, &items);
}

struct jinja_node *jinja_parse_tuple(struct jinja_parser *p, int with_cond, int parenthesised,
                                     const char *stop)
{
    jinja_parse_enter(p);
    node *n = parse_items(p, with_cond, parenthesised, stop, jinja_parse_expression, with_cond);
    jinja_parse_leave(p);
    return n;
}

/* A primary that may be ns.attribute. */
static node *parse_target_item(struct jinja_parser *p, int with_namespace)
{
    if (!with_namespace || p->cur.type != JT_NAME || !jinja_is_op(jinja_ahead(p), "."))
        return parse_primary(p);
    node *n = jinja_node_new(p, JN_NSREF, p->cur.line);
    n->name = jinja_parse_name_id(p, p->cur.text, p->cur.n);
    note_usage(p, n->name);
    jinja_advance(p);
    jinja_advance(p);
    struct jinja_token attr = jinja_expect_ident(p);
    n->value = jinja_parse_str(p, attr.text, attr.n);
    return n;
}

static void need_assignable(struct jinja_parser *p, const node *n)
{
    if (n->type == JN_TUPLE) {
        for (uint32_t i = 0; i < n->n; i++)
            need_assignable(p, n->kids[i]);
        return;
    }
    const char *what = n->type == JN_CONST  ? "const"
                       : n->type == JN_LIST ? "list"
                       : n->type == JN_DICT ? "dict"
                                            : "expression";
    if (n->type != JN_NAME && n->type != JN_NSREF)
        jinja_parse_fail(p, n->line, "can't assign to '%s'", what);
}

struct jinja_node *jinja_parse_target(struct jinja_parser *p, int with_namespace, const char *stop)
{
    node *n = parse_items(p, 0, 0, stop, parse_target_item, with_namespace);
    need_assignable(p, n);
    return n;
}
