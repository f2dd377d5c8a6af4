#include "text/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/byte_level.h"
#include "text/spec.h"
#include "text/unicode.h"

enum stage_kind {
    STAGE_SPLIT,       /* by regex, or by literal */
    STAGE_CHARS,       /* by the characters that is_delimiter names */
    STAGE_METASPACE,   /* spaces become `literal`, which starts a word */
    STAGE_BYTE_PREFIX, /* a space in front of words without one */
    STAGE_BYTE_WRITE,  /* bytes become characters of the byte alphabet */
};

/* What becomes of a delimiter; names as in tokenizer.json. */
enum behavior {
    BEHAVIOR_REMOVED,
    BEHAVIOR_ISOLATED,
    BEHAVIOR_MERGED_WITH_PREVIOUS,
    BEHAVIOR_MERGED_WITH_NEXT,
    BEHAVIOR_CONTIGUOUS,
};

enum prepend { PREPEND_NEVER, PREPEND_FIRST, PREPEND_ALWAYS };

struct pretokenizer_stage {
    enum stage_kind kind;
    enum behavior behavior;
    int invert; /* what lies between the matches is the delimiter */
    struct regex *regex;
    char *literal;
    size_t n_literal;
    int (*is_delimiter)(unsigned cp);
    enum prepend prepend;
    int split;
};

/* GPT-2's pattern, which ByteLevel applies unless told not to. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static struct pretokenizer_stage *add_stage(struct pretokenizer *p, enum stage_kind kind,
                                            enum behavior behavior)
{
    p->stages = mem_reserve(p->stages, &p->cap, p->n + 1, sizeof *p->stages);
    struct pretokenizer_stage *stage = &p->stages[p->n++];
    *stage = (struct pretokenizer_stage){.kind = kind, .behavior = behavior};
    return stage;
}

static int parse_behavior(enum behavior *out, const char *name, struct moed_error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (enum behavior)i;
            return 0;
        }
    }
    return moed_fail(err, MOED_EFORMAT, "the split behavior '%.40s' is unknown", name);
}

static int parse_split(struct pretokenizer *p, const json_t *spec, struct moed_error *err)
{
    struct pretokenizer_stage *stage = add_stage(p, STAGE_SPLIT, BEHAVIOR_ISOLATED);
    const json_t *pattern = json_object_get(spec, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *literal = json_object_get(pattern, "String");
    stage->invert = spec_bool(spec, "invert", 0);
    int rc = parse_behavior(&stage->behavior, spec_string(spec, "behavior"), err);
    if (rc < 0)
        return rc;
    if (json_is_string(regex))
        return regex_compile(&stage->regex, json_string_value(regex), json_string_length(regex),
                             err);
    stage->n_literal = json_string_length(literal);
    if (stage->n_literal == 0)
        return moed_fail(err, MOED_EFORMAT, "Split without a pattern");
    stage->literal = mem_strndup(json_string_value(literal), stage->n_literal);
    return 0;
}

static int parse_byte_level(struct pretokenizer *p, const json_t *spec, struct moed_error *err)
{
    if (p->writes_bytes)
        return moed_fail(err, MOED_EUNSUPPORTED, "two ByteLevel pre-tokenizers");
    if (spec_bool(spec, "add_prefix_space", 1))
        add_stage(p, STAGE_BYTE_PREFIX, BEHAVIOR_ISOLATED);
    if (spec_bool(spec, "use_regex", 1)) {
        int rc = pretokenizer_add_regex(p, gpt2_pattern, err);
        if (rc < 0)
            return rc;
    }
    add_stage(p, STAGE_BYTE_WRITE, BEHAVIOR_ISOLATED);
    p->writes_bytes = 1;
    return 0;
}

static int parse_metaspace(struct pretokenizer *p, const json_t *spec, struct moed_error *err)
{
    struct pretokenizer_stage *stage = add_stage(p, STAGE_METASPACE, BEHAVIOR_ISOLATED);
    const json_t *replacement = json_object_get(spec, "replacement");
    stage->n_literal = json_string_length(replacement);
    if (stage->n_literal == 0)
        return moed_fail(err, MOED_EFORMAT, "Metaspace without a replacement");
    stage->literal = mem_strndup(json_string_value(replacement), stage->n_literal);
    /* The older generation says add_prefix_space, the newer one prepend_scheme. */
    const char *scheme = spec_string(spec, "prepend_scheme");
    stage->prepend = strcmp(scheme, "never") == 0   ? PREPEND_NEVER
                     : strcmp(scheme, "first") == 0 ? PREPEND_FIRST
                                                    : PREPEND_ALWAYS;
    if (!spec_bool(spec, "add_prefix_space", 1))
        stage->prepend = PREPEND_NEVER;
    stage->split = spec_bool(spec, "split", 1);
    return 0;
}

static int parse_stage(struct pretokenizer *p, const json_t *spec, struct moed_error *err)
{
    const char *type = spec_string(spec, "type");
    if (strcmp(type, "Split") == 0)
        return parse_split(p, spec, err);
    if (strcmp(type, "ByteLevel") == 0)
        return parse_byte_level(p, spec, err);
    if (strcmp(type, "Metaspace") == 0)
        return parse_metaspace(p, spec, err);
    if (strcmp(type, "Digits") == 0) {
        enum behavior b =
            spec_bool(spec, "individual_digits", 0) ? BEHAVIOR_ISOLATED : BEHAVIOR_CONTIGUOUS;
        add_stage(p, STAGE_CHARS, b)->is_delimiter = unicode_is_numeric;
        return 0;
    }
    if (strcmp(type, "Punctuation") == 0) {
        const char *name = spec_string(spec, "behavior");
        struct pretokenizer_stage *stage = add_stage(p, STAGE_CHARS, BEHAVIOR_ISOLATED);
        stage->is_delimiter = unicode_is_punctuation;
        return *name ? parse_behavior(&stage->behavior, name, err) : 0;
    }
    if (strcmp(type, "WhitespaceSplit") == 0) {
        add_stage(p, STAGE_CHARS, BEHAVIOR_REMOVED)->is_delimiter = unicode_is_space;
        return 0;
    }
    if (strcmp(type, "Whitespace") == 0) {
        /* Rust's \w, which has the two joiners too. */
        int rc =
            pretokenizer_add_regex(p, "[\\w\\x{200C}\\x{200D}]+|[^\\w\\s\\x{200C}\\x{200D}]+", err);
        if (rc == 0) {
            p->stages[p->n - 1].behavior = BEHAVIOR_REMOVED;
            p->stages[p->n - 1].invert = 1;
        }
        return rc;
    }
    return moed_fail(err, MOED_EUNSUPPORTED, "the pre-tokenizer '%.40s' is not supported", type);
}

static int parse_into(struct pretokenizer *p, const json_t *spec, int depth, struct moed_error *err)
{
    if (!spec || json_is_null(spec))
        return 0;
    if (depth > SPEC_MAX_DEPTH || p->n >= SPEC_MAX_STAGES)
        return moed_fail(err, MOED_ELIMIT, "too many pre-tokenizers");
    if (strcmp(spec_string(spec, "type"), "Sequence") != 0)
        return parse_stage(p, spec, err);
    size_t i;
    const json_t *inner;
    json_array_foreach(json_object_get(spec, "pretokenizers"), i, inner)
    {
        int rc = parse_into(p, inner, depth + 1, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int pretokenizer_parse(struct pretokenizer *out, const json_t *spec, struct moed_error *err)
{
    *out = (struct pretokenizer){0};
    int rc = parse_into(out, spec, 0, err);
    if (rc < 0)
        pretokenizer_fini(out);
    return rc;
}

int pretokenizer_leave_bytes(struct pretokenizer *p)
{
    int is_last = p->n > 0 && p->stages[p->n - 1].kind == STAGE_BYTE_WRITE;
    p->n -= (size_t)is_last;
    return is_last;
}

int pretokenizer_add_regex(struct pretokenizer *p, const char *pattern, struct moed_error *err)
{
    struct pretokenizer_stage *stage = add_stage(p, STAGE_SPLIT, BEHAVIOR_ISOLATED);
    return regex_compile(&stage->regex, pattern, strlen(pattern), err);
}

void pretokenizer_fini(struct pretokenizer *p)
{
    for (size_t i = 0; i < p->n; i++) {
        regex_close(&p->stages[i].regex);
        free(p->stages[i].literal);
    }
    free(p->stages);
    *p = (struct pretokenizer){0};
}

int pretokenizer_regexes(const struct pretokenizer *p, int *jit)
{
    int n = 0;
    for (size_t i = 0; i < p->n; i++) {
        if (p->stages[i].regex) {
            n++;
            *jit += regex_is_jit(p->stages[i].regex);
        }
    }
    return n;
}

void pretokenizer_scratch_fini(struct pretokenizer_scratch *s)
{
    free(s->words[0].word);
    free(s->words[1].word);
    free(s->matches.word);
    *s = (struct pretokenizer_scratch){0};
}

static void add_word(struct words *w, size_t begin, size_t end)
{
    if (w->n == w->cap)
        w->word = mem_reserve(w->word, &w->cap, w->n + 1, sizeof *w->word);
    w->word[w->n++] = (struct word){begin, end};
}

static void add_unless_empty(struct words *w, size_t begin, size_t end)
{
    if (begin < end)
        add_word(w, begin, end);
}

/* Lists the delimiters inside one word. */
static int find_matches(const struct pretokenizer_stage *stage, struct regex_scratch *scratch,
                        const char *text, struct word word, struct words *matches,
                        struct moed_error *err)
{
    matches->n = 0;
    if (stage->kind == STAGE_CHARS) {
        for (size_t i = word.begin, len; i < word.end; i += len)
            if (stage->is_delimiter(unicode_at(text + i, word.end - i, &len)))
                add_word(matches, i, i + len);
        return 0;
    }
    if (stage->literal) {
        size_t at = word.begin;
        const char *hit;
        while ((hit = memmem(text + at, word.end - at, stage->literal, stage->n_literal))) {
            at = (size_t)(hit - text) + stage->n_literal;
            add_word(matches, at - stage->n_literal, at);
        }
        return 0;
    }
    const char *s = text + word.begin;
    size_t n = word.end - word.begin, from = 0, begin, end;
    int found = 0;
    while (from < n &&
           (found = regex_find(stage->regex, scratch, s, n, from, &begin, &end, err)) > 0) {
        from = end;
        if (begin == end) { /* nothing can be cut out; go on behind the next character */
            size_t len;
            if (begin < n)
                unicode_at(s + begin, n - begin, &len);
            from = begin < n ? begin + len : n;
            continue;
        }
        add_word(matches, word.begin + begin, word.begin + end);
    }
    return found;
}

/* One stretch of a word, delimiter or not, goes to the words as the behavior says. *last_was is
 * the kind of the stretch before it: -1 at the start of a word. */
static void add_stretch(enum behavior behavior, struct words *out, size_t begin, size_t end,
                        int is_delimiter, int *last_was)
{
    int joins = 0;
    if (behavior == BEHAVIOR_CONTIGUOUS)
        joins = *last_was == is_delimiter;
    else if (behavior == BEHAVIOR_MERGED_WITH_PREVIOUS)
        joins = is_delimiter && *last_was == 0;
    else if (behavior == BEHAVIOR_MERGED_WITH_NEXT)
        joins = !is_delimiter && *last_was == 1;
    if (joins)
        out->word[out->n - 1].end = end;
    else if (behavior != BEHAVIOR_REMOVED || !is_delimiter)
        add_word(out, begin, end);
    *last_was = is_delimiter;
}

static void cut_word(const struct pretokenizer_stage *stage, struct word word,
                     const struct words *matches, struct words *out)
{
    if (stage->behavior == BEHAVIOR_ISOLATED) { /* by far the most frequent */
        size_t at = word.begin;
        for (size_t i = 0; i < matches->n; i++) {
            add_unless_empty(out, at, matches->word[i].begin);
            add_word(out, matches->word[i].begin, matches->word[i].end);
            at = matches->word[i].end;
        }
        add_unless_empty(out, at, word.end);
        return;
    }
    size_t at = word.begin;
    int last_was = -1;
    for (size_t i = 0; i < matches->n; i++) {
        struct word m = matches->word[i];
        if (at < m.begin)
            add_stretch(stage->behavior, out, at, m.begin, stage->invert, &last_was);
        add_stretch(stage->behavior, out, m.begin, m.end, !stage->invert, &last_was);
        at = m.end;
    }
    if (at < word.end)
        add_stretch(stage->behavior, out, at, word.end, stage->invert, &last_was);
}

static void metaspace_word(const struct pretokenizer_stage *stage, int at_start, const char *s,
                           size_t n, struct buf *text, struct words *out)
{
    size_t begin = text->len;
    int starts_so = n >= stage->n_literal && memcmp(s, stage->literal, stage->n_literal) == 0;
    if (!starts_so && s[0] != ' ' &&
        (stage->prepend == PREPEND_ALWAYS || (stage->prepend == PREPEND_FIRST && at_start)))
        buf_add(text, stage->literal, stage->n_literal);
    for (size_t i = 0; i < n; i++) {
        int is_mark = s[i] == ' ' || (n - i >= stage->n_literal && s[i] == stage->literal[0] &&
                                      memcmp(s + i, stage->literal, stage->n_literal) == 0);
        if (is_mark && stage->split) {
            add_unless_empty(out, begin, text->len);
            begin = text->len;
        }
        if (s[i] == ' ')
            buf_add(text, stage->literal, stage->n_literal);
        else
            buf_putc(text, s[i]);
    }
    add_unless_empty(out, begin, text->len);
}

/* Writes the text anew, word by word. */
static void rewrite(const struct pretokenizer_stage *stage, int at_start, const char *text,
                    const struct words *in, struct buf *out_text, struct words *out)
{
    for (size_t i = 0; i < in->n; i++) {
        const char *s = text + in->word[i].begin;
        size_t n = in->word[i].end - in->word[i].begin, begin = out_text->len;
        if (stage->kind == STAGE_METASPACE) {
            metaspace_word(stage, at_start && i == 0, s, n, out_text, out);
            continue;
        }
        if (stage->kind == STAGE_BYTE_WRITE) {
            byte_level_write(out_text, s, n);
        } else {
            if (s[0] != ' ')
                buf_putc(out_text, ' ');
            buf_add(out_text, s, n);
        }
        add_word(out, begin, out_text->len);
    }
}

int pretokenizer_apply(const struct pretokenizer *p, struct pretokenizer_scratch *scratch,
                       struct text_scratch *text_scratch, int at_start, const char **text,
                       size_t *n, const struct words **words, struct moed_error *err)
{
    struct words *in = &scratch->words[0];
    in->n = 0;
    add_unless_empty(in, 0, *n);
    for (size_t i = 0; i < p->n && in->n > 0; i++) {
        const struct pretokenizer_stage *stage = &p->stages[i];
        struct words *out = &scratch->words[in == &scratch->words[0]];
        out->n = 0;
        if (stage->kind != STAGE_SPLIT && stage->kind != STAGE_CHARS) {
            struct buf *to = text_scratch_next(text_scratch);
            rewrite(stage, at_start, *text, in, to, out);
            *text = buf_str(to);
            *n = to->len;
        }
        for (size_t k = 0; k < in->n && (stage->kind == STAGE_SPLIT || stage->kind == STAGE_CHARS);
             k++) {
            int rc = find_matches(stage, &text_scratch->regex, *text, in->word[k],
                                  &scratch->matches, err);
            if (rc < 0)
                return rc;
            cut_word(stage, in->word[k], &scratch->matches, out);
        }
        in = out;
    }
    *words = in;
    return 0;
}
