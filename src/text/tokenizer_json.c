/* tokenizer.json of Hugging Face tokenizers: big parts (vocabulary, merges) are streamed, small
 * ones go through jansson. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/json_reader.h"
#include "text/spec.h"
#include "text/tokenizer_impl.h"

/* A value of the file, not yet parsed. */
struct span {
    const char *at; /* NULL where the key is absent */
    size_t n;
};

struct parts {
    struct span added_tokens, normalizer, pre_tokenizer, post_processor, decoder, model;
    struct span truncation, padding;
    /* Of the model. */
    struct span type, unk_token, unk_id, prefix, suffix, vocab, merges;
    struct span fuse_unk, byte_fallback, ignore_merges, dropout;
};

struct key {
    const char *name;
    struct span *span;
};

static int find_spans(struct span object, const struct key *keys, size_t n_keys,
                      struct moed_error *err)
{
    struct json_reader r;
    const char *name;
    size_t n;
    jr_init(&r, object.at, object.n, err);
    jr_object_begin(&r);
    while (jr_object_next(&r, &name, &n) > 0) {
        struct span value, *to = &value;
        for (size_t i = 0; i < n_keys; i++)
            if (strlen(keys[i].name) == n && memcmp(keys[i].name, name, n) == 0)
                to = keys[i].span;
        jr_skip(&r, &to->at, &to->n);
    }
    int rc = jr_finish(&r);
    jr_fini(&r);
    return rc;
}

static int find_parts(struct parts *p, const char *bytes, size_t n, struct moed_error *err)
{
    const struct key top[] = {
        {"added_tokens", &p->added_tokens},
        {"normalizer", &p->normalizer},
        {"pre_tokenizer", &p->pre_tokenizer},
        {"post_processor", &p->post_processor},
        {"decoder", &p->decoder},
        {"model", &p->model},
        {"truncation", &p->truncation},
        {"padding", &p->padding},
    };
    const struct key model[] = {
        {"type", &p->type},
        {"unk_token", &p->unk_token},
        {"unk_id", &p->unk_id},
        {"continuing_subword_prefix", &p->prefix},
        {"end_of_word_suffix", &p->suffix},
        {"fuse_unk", &p->fuse_unk},
        {"byte_fallback", &p->byte_fallback},
        {"ignore_merges", &p->ignore_merges},
        {"dropout", &p->dropout},
        {"vocab", &p->vocab},
        {"merges", &p->merges},
    };
    int rc = find_spans((struct span){bytes, n}, top, sizeof top / sizeof *top, err);
    if (rc < 0)
        return rc;
    if (!p->model.at)
        return moed_fail(err, MOED_EFORMAT, "'model' is missing");
    rc = find_spans(p->model, model, sizeof model / sizeof *model, err);
    if (rc == 0 && !p->vocab.at)
        rc = moed_fail(err, MOED_EFORMAT, "'model.vocab' is missing");
    return rc;
}

static int is_null(struct span s)
{
    return !s.at || (s.n == 4 && memcmp(s.at, "null", 4) == 0);
}

static int is_true(struct span s)
{
    return s.at && s.n == 4 && memcmp(s.at, "true", 4) == 0;
}

/* A small value as a tree; *out is NULL where the key is absent. */
static int parse_small(json_t **out, struct span s, const char *name, struct moed_error *err)
{
    *out = NULL;
    if (!s.at)
        return 0;
    json_error_t why;
    *out = json_loadb(s.at, s.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    return *out ? 0 : moed_fail(err, MOED_EFORMAT, "'%s': %s", name, why.text);
}

/* A string of the model, NULL where it is absent, null or empty; free() it. */
static int parse_string(char **out, struct span s, const char *name, struct moed_error *err)
{
    json_t *value;
    int rc = parse_small(&value, s, name, err);
    size_t n = json_string_length(value);
    *out = rc == 0 && n > 0 ? mem_strndup(json_string_value(value), n) : NULL;
    json_decref(value);
    return rc;
}

static int check_id(const struct tokenizer *t, int id, struct moed_error *err)
{
    if (id <= t->max_id)
        return 0;
    return moed_fail(err, MOED_ELIMIT, "token id %d is above the limit of %d", id, t->max_id);
}

/* {"piece": id, ...} */
static int read_vocab_object(struct tokenizer *t, struct span vocab, struct moed_error *err)
{
    struct json_reader r;
    const char *piece;
    size_t n;
    int id, rc = 0;
    jr_init(&r, vocab.at, vocab.n, err);
    jr_object_begin(&r);
    pieces_expect(&t->vocab, vocab.n / 20);
    struct buf key = {0};
    while (rc == 0 && jr_object_next(&r, &piece, &n) > 0) {
        buf_truncate(&key, 0);
        buf_add(&key, piece, n);
        if ((rc = jr_id(&r, &id)) < 0 || (rc = check_id(t, id, err)) < 0)
            break;
        pieces_set(&t->vocab, id, buf_str(&key), n);
        pieces_index(&t->vocab, id);
    }
    rc = rc < 0 ? rc : jr_finish(&r);
    buf_fini(&key);
    jr_fini(&r);
    return rc;
}

/* [["piece", score], ...] */
static int read_vocab_scores(struct tokenizer *t, struct span vocab, struct moed_error *err)
{
    struct unigram *u = &t->unigram;
    struct json_reader r;
    const char *piece;
    size_t n, cap = 0;
    int rc = 0;
    jr_init(&r, vocab.at, vocab.n, err);
    jr_array_begin(&r);
    while (rc == 0 && jr_array_next(&r) > 0) {
        jr_array_begin(&r);
        jr_array_next(&r);
        if ((rc = jr_string(&r, &piece, &n)) < 0 || (rc = check_id(t, u->n, err)) < 0)
            break;
        pieces_set(&t->vocab, u->n, piece, n);
        pieces_index(&t->vocab, u->n);
        u->score = mem_reserve(u->score, &cap, (size_t)u->n + 1, sizeof *u->score);
        if (n > 0 && unigram_add(u, piece, n, u->n) < 0)
            rc = moed_fail(err, MOED_ELIMIT, "the vocabulary is too large");
        jr_array_next(&r);
        jr_number(&r, &u->score[u->n++]);
        if (rc == 0 && jr_array_next(&r) != 0 && r.code == 0)
            rc = moed_fail(err, MOED_EFORMAT, "vocabulary entry %d is not [piece, score]", u->n);
    }
    rc = rc < 0 ? rc : jr_finish(&r);
    jr_fini(&r);
    return rc;
}

/* A merge that was read, but not yet looked up. */
struct merge_text {
    struct buf joined; /* left, then right without the prefix */
    struct buf right;
    size_t n_left;
    uint64_t left_hash, right_hash, joined_hash;
};

/* Merges are looked up this many behind the one being read, so that memory has time to answer: a
 * vocabulary is larger than the caches. */
enum { MERGES_AHEAD = 16 };

static void hash_merge(const struct tokenizer *t, struct merge_text *m)
{
    size_t n_prefix = t->bpe.prefix ? strlen(t->bpe.prefix) : 0;
    if (n_prefix > m->right.len)
        n_prefix = 0;
    m->n_left = m->joined.len;
    buf_add(&m->joined, buf_str(&m->right) + n_prefix, m->right.len - n_prefix);
    m->left_hash = pieces_hash(&t->vocab, buf_str(&m->joined), m->n_left);
    m->right_hash = pieces_hash(&t->vocab, buf_str(&m->right), m->right.len);
    m->joined_hash = pieces_hash(&t->vocab, buf_str(&m->joined), m->joined.len);
}

static int add_merge(struct tokenizer *t, const struct merge_text *m, uint32_t rank,
                     struct moed_error *err)
{
    const char *joined = buf_str(&m->joined), *right_text = buf_str(&m->right);
    int32_t left = pieces_find_hashed(&t->vocab, joined, m->n_left, m->left_hash);
    int32_t right = pieces_find_hashed(&t->vocab, right_text, m->right.len, m->right_hash);
    int32_t result = pieces_find_hashed(&t->vocab, joined, m->joined.len, m->joined_hash);
    if (left < 0 || right < 0 || result < 0)
        return moed_fail(err, MOED_EFORMAT, "merge %u '%.*s' + '%.80s' is not in the vocabulary",
                         rank, (int)(m->n_left < 80 ? m->n_left : 80), joined, right_text);
    bpe_add(&t->bpe.merges, left, right, rank, result);
    return 0;
}

/* "a b", or ["a", "b"] in newer files; the left one goes into `joined`. */
static int read_merge(struct json_reader *r, struct merge_text *m, struct moed_error *err)
{
    const char *s;
    size_t n;
    buf_truncate(&m->joined, 0);
    buf_truncate(&m->right, 0);
    if (jr_peek(r) == '[') {
        jr_array_begin(r);
        for (int i = 0; i < 2; i++) {
            jr_array_next(r);
            if (jr_string(r, &s, &n) < 0)
                return r->code;
            buf_add(i == 0 ? &m->joined : &m->right, s, n);
        }
        if (jr_array_next(r) > 0)
            return moed_fail(err, MOED_EFORMAT, "a merge of more than two pieces");
        return r->code;
    }
    if (jr_string(r, &s, &n) < 0)
        return r->code;
    const char *space = memchr(s, ' ', n);
    if (!space)
        return moed_fail(err, MOED_EFORMAT, "the merge '%.*s' is not two pieces",
                         (int)(n < 80 ? n : 80), s);
    buf_add(&m->joined, s, (size_t)(space - s));
    buf_add(&m->right, space + 1, n - (size_t)(space + 1 - s));
    return 0;
}

static int read_merges(struct tokenizer *t, struct span merges, struct moed_error *err)
{
    enum { TYPICAL_MERGE_BYTES = 40 };
    struct json_reader r;
    struct merge_text ahead[MERGES_AHEAD] = {0};
    uint32_t n_read = 0, n_added = 0;
    int rc = 0;
    bpe_init(&t->bpe.merges, &t->vocab, merges.n / TYPICAL_MERGE_BYTES);
    jr_init(&r, merges.at, merges.n, err);
    jr_array_begin(&r);
    while (rc == 0 && jr_array_next(&r) > 0) {
        struct merge_text *m = &ahead[n_read % MERGES_AHEAD];
        if (n_read - n_added == MERGES_AHEAD)
            rc = add_merge(t, m, n_added++, err);
        if (rc == 0 && (rc = read_merge(&r, m, err)) == 0) {
            hash_merge(t, m);
            n_read++;
        }
    }
    if (rc == 0)
        rc = jr_finish(&r);
    for (; rc == 0 && n_added < n_read; n_added++)
        rc = add_merge(t, &ahead[n_added % MERGES_AHEAD], n_added, err);
    for (int i = 0; i < MERGES_AHEAD; i++) {
        buf_fini(&ahead[i].joined);
        buf_fini(&ahead[i].right);
    }
    jr_fini(&r);
    return rc;
}

/* The piece of each byte: "<0x0A>", or with plain bytes its character in the byte alphabet. */
static void find_byte_pieces(const struct tokenizer *t, int32_t *byte_piece)
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        byte_piece[i] = pieces_find(&t->vocab, name, 6);
    }
}

static int read_bpe(struct tokenizer *t, const struct parts *p, struct moed_error *err)
{
    struct bpe_model *m = &t->bpe;
    char *unk = NULL;
    int rc;
    m->fuse_unk = is_true(p->fuse_unk);
    m->byte_fallback = is_true(p->byte_fallback);
    m->ignore_merges = is_true(p->ignore_merges);
    if ((rc = parse_string(&unk, p->unk_token, "unk_token", err)) < 0 ||
        (rc = parse_string(&m->prefix, p->prefix, "continuing_subword_prefix", err)) < 0 ||
        (rc = parse_string(&m->suffix, p->suffix, "end_of_word_suffix", err)) < 0 ||
        (rc = read_vocab_object(t, p->vocab, err)) < 0)
        goto out;
    m->n_tokens = (int32_t)t->vocab.n;
    if (unk)
        m->unk = pieces_find(&t->vocab, unk, strlen(unk));
    if (!m->prefix && !m->suffix && !m->byte_fallback)
        m->plain_bytes = pretokenizer_leave_bytes(&t->pretokenizer);
    if (m->byte_fallback)
        find_byte_pieces(t, m->byte_symbol);
    rc = read_merges(t, is_null(p->merges) ? (struct span){"[]", 2} : p->merges, err);
    if (!is_null(p->dropout))
        buf_puts(&t->ignored, " dropout");
out:
    free(unk);
    return rc;
}

static int read_unigram(struct tokenizer *t, const struct parts *p, struct moed_error *err)
{
    struct unigram *u = &t->unigram;
    int rc = read_vocab_scores(t, p->vocab, err);
    if (rc < 0)
        return rc;
    double lowest = 0, unk = -1;
    for (int32_t i = 0; i < u->n; i++)
        lowest = i == 0 || u->score[i] < lowest ? u->score[i] : lowest;
    u->unk_score = lowest - 10.0; /* the library's penalty */
    if (!is_null(p->unk_id)) {
        struct json_reader r;
        jr_init(&r, p->unk_id.at, p->unk_id.n, err);
        rc = jr_number(&r, &unk);
        jr_fini(&r);
    }
    u->unk = unk >= 0 && unk < u->n ? (int32_t)unk : -1;
    u->byte_fallback = is_true(p->byte_fallback);
    find_byte_pieces(t, u->byte_piece);
    return rc;
}

static int read_model(struct tokenizer *t, const struct parts *p, struct moed_error *err)
{
    char *type = NULL;
    int rc = parse_string(&type, p->type, "model.type", err);
    if (rc < 0)
        return rc;
    t->model = (type && strcmp(type, "Unigram") == 0) || *p->vocab.at == '['
                   ? TOKENIZER_MODEL_UNIGRAM
                   : TOKENIZER_MODEL_BPE;
    if (type && strcmp(type, "BPE") != 0 && strcmp(type, "Unigram") != 0)
        rc = moed_fail(err, MOED_EUNSUPPORTED, "the model '%.40s' is not supported", type);
    else if (t->model == TOKENIZER_MODEL_UNIGRAM)
        rc = read_unigram(t, p, err);
    else
        rc = read_bpe(t, p, err);
    free(type);
    return rc;
}

static int read_added_tokens(struct tokenizer *t, const json_t *list, struct moed_error *err)
{
    size_t i;
    const json_t *item;
    json_array_foreach(list, i, item)
    {
        const json_t *content = json_object_get(item, "content");
        struct added_token token = {
            .special = spec_bool(item, "special", 0),
            .single_word = spec_bool(item, "single_word", 0),
            .lstrip = spec_bool(item, "lstrip", 0),
            .rstrip = spec_bool(item, "rstrip", 0),
            .normalized = spec_bool(item, "normalized", !spec_bool(item, "special", 0)),
        };
        json_int_t id = json_integer_value(json_object_get(item, "id"));
        int rc = id < 0 || id > t->max_id
                     ? moed_fail(err, MOED_ELIMIT, "added token %zu has no possible id", i)
                     : tokenizer_add_token(t, (int32_t)id, json_string_value(content),
                                           json_string_length(content), token, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The ids of one special token of a template, in front of the text or behind it. */
static int add_template_token(struct tokens *to, const json_t *processor, const char *name,
                              struct moed_error *err)
{
    const json_t *known = json_object_get(json_object_get(processor, "special_tokens"), name);
    const json_t *id;
    size_t i;
    if (!known)
        return moed_fail(err, MOED_EFORMAT, "the template's token '%.80s' has no ids", name);
    json_array_foreach(json_object_get(known, "ids"), i, id)
    {
        json_int_t v = json_integer_value(id);
        if (v < 0 || v > PIECES_MAX_ID || i > 64)
            return moed_fail(err, MOED_ELIMIT, "the template's token '%.80s' has odd ids", name);
        tokens_add(to, (int32_t)v);
    }
    return 0;
}

static int read_template(struct tokenizer *t, const json_t *processor, struct moed_error *err)
{
    size_t i;
    const json_t *item;
    int behind = 0, rc = 0;
    json_array_foreach(json_object_get(processor, "single"), i, item)
    {
        const json_t *special = json_object_get(item, "SpecialToken");
        if (json_object_get(item, "Sequence"))
            behind = 1;
        else
            rc = add_template_token(behind ? &t->after : &t->before, processor,
                                    spec_string(special, "id"), err);
        if (rc < 0 || i > 256)
            break;
    }
    return rc;
}

/* BERT's and RoBERTa's: [cls] text [sep], each as ["<s>", 0]. */
static void read_cls_sep(struct tokenizer *t, const json_t *processor)
{
    json_int_t cls = json_integer_value(json_array_get(json_object_get(processor, "cls"), 1));
    json_int_t sep = json_integer_value(json_array_get(json_object_get(processor, "sep"), 1));
    if (cls >= 0 && cls <= PIECES_MAX_ID && sep >= 0 && sep <= PIECES_MAX_ID) {
        tokens_add(&t->before, (int32_t)cls);
        tokens_add(&t->after, (int32_t)sep);
    }
}

static int read_post_processor(struct tokenizer *t, const json_t *processor, int depth,
                               struct moed_error *err)
{
    const char *type = spec_string(processor, "type");
    size_t i;
    const json_t *inner;
    int rc = 0;
    if (!processor || json_is_null(processor) || strcmp(type, "ByteLevel") == 0)
        return 0; /* ByteLevel only moves offsets */
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(t, processor, err);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        read_cls_sep(t, processor);
        return 0;
    }
    if (strcmp(type, "Sequence") != 0 || depth > SPEC_MAX_DEPTH)
        return moed_fail(err, MOED_EUNSUPPORTED, "the post-processor '%.40s' is not supported",
                         type);
    json_array_foreach(json_object_get(processor, "processors"), i, inner)
    {
        if ((rc = read_post_processor(t, inner, depth + 1, err)) < 0)
            break;
    }
    return rc;
}

int tokenizer_read_json(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                        struct moed_error *err)
{
    struct parts p = {0};
    json_t *normalizer = NULL, *cutter = NULL, *post = NULL, *decoder = NULL, *added = NULL;
    int rc = find_parts(&p, bytes, n, err);
    if (rc < 0 || (rc = parse_small(&normalizer, p.normalizer, "normalizer", err)) < 0 ||
        (rc = parse_small(&cutter, p.pre_tokenizer, "pre_tokenizer", err)) < 0 ||
        (rc = parse_small(&post, p.post_processor, "post_processor", err)) < 0 ||
        (rc = parse_small(&decoder, p.decoder, "decoder", err)) < 0 ||
        (rc = parse_small(&added, p.added_tokens, "added_tokens", err)) < 0)
        goto out;
    if ((rc = normalizer_parse(&t->normalizer, normalizer, err)) < 0 ||
        (rc = pretokenizer_parse(&t->pretokenizer, cutter, err)) < 0 ||
        (rc = decoder_parse(&t->decoder, decoder, err)) < 0 || (rc = read_model(t, &p, err)) < 0 ||
        (rc = read_added_tokens(t, added, err)) < 0 ||
        (rc = read_post_processor(t, post, 0, err)) < 0)
        goto out;
    if (!is_null(p.truncation))
        buf_puts(&t->ignored, " truncation");
    if (!is_null(p.padding))
        buf_puts(&t->ignored, " padding");
    rc = tokenizer_apply_config(t, TOKENIZER_HF_JSON, config, err);
    if (rc == 0)
        rc = tokenizer_finish(t,
                              t->model == TOKENIZER_MODEL_UNIGRAM ? "unigram"
                              : t->bpe.plain_bytes                ? "byte-level BPE"
                                                                  : "BPE",
                              err);
out:
    json_decref(normalizer);
    json_decref(cutter);
    json_decref(post);
    json_decref(decoder);
    json_decref(added);
    return rc;
}
