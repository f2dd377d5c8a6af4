#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"
#include "text/word_cache.h"

struct tokenizer *tokenizer_new(size_t n_bytes)
{
    enum { SPARE_IDS = 1 << 16 };
    struct tokenizer *t = mem_new(1, sizeof *t);
    bpe_model_init(&t->bpe);
    t->bos = t->eos = -1;
    t->max_id = n_bytes < PIECES_MAX_ID - SPARE_IDS ? (int32_t)n_bytes + SPARE_IDS : PIECES_MAX_ID;
    return t;
}

void tokenizer_close(struct tokenizer **tp)
{
    struct tokenizer *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    pieces_fini(&t->vocab);
    pieces_fini(&t->names);
    pieces_fini(&t->bytes);
    free(t->is_special);
    added_tokens_fini(&t->added);
    normalizer_fini(&t->normalizer);
    pretokenizer_fini(&t->pretokenizer);
    bpe_model_fini(&t->bpe);
    unigram_fini(&t->unigram);
    decoder_fini(&t->decoder);
    tokens_fini(&t->before);
    tokens_fini(&t->after);
    buf_fini(&t->ignored);
    free(t->description);
    free(t);
}

void tokens_add(struct tokens *t, int32_t id)
{
    if (t->n == t->cap)
        t->ids = mem_reserve(t->ids, &t->cap, t->n + 1, sizeof *t->ids);
    t->ids[t->n++] = id;
}

void tokens_fini(struct tokens *t)
{
    free(t->ids);
    *t = (struct tokens){0};
}

/* Positions in a text, and in what it becomes, are kept in 32 bits. */
enum { MAX_TEXT_BYTES = 256 << 20 };

/* One call of tokenizer_encode. */
struct encoding {
    const struct tokenizer *t;
    int with_special;
    size_t limit; /* of out->n */
    struct tokens *out;
    struct moed_error *err;
    struct text_scratch normal, cut;
    struct pretokenizer_scratch words;
    struct bpe_work bpe;
    struct unigram_work unigram;
    struct word_cache cache;
};

static int check_limit(const struct encoding *e)
{
    if (e->out->n <= e->limit)
        return 0;
    return moed_fail(e->err, MOED_ELIMIT, "the text has more tokens than the %zu allowed",
                     e->limit);
}

static void encode_word(struct encoding *e, const char *word, size_t n)
{
    const struct tokenizer *t = e->t;
    if (t->model == TOKENIZER_MODEL_UNIGRAM) {
        unigram_encode(&t->unigram, &e->unigram, word, n, e->out);
        return;
    }
    struct word_cache_entry *place = word_cache_place(&e->cache, word, n);
    if (place && word_cache_has(place, word, n)) {
        for (int i = 0; i < place->n_ids; i++)
            tokens_add(e->out, place->ids[i]);
        return;
    }
    size_t before = e->out->n;
    bpe_model_encode(&t->bpe, t->bpe.plain_bytes ? &t->bytes : &t->vocab, &e->bpe, word, n, e->out);
    /* A word may give nothing, and nothing may have been given yet. */
    if (place && e->out->n > before)
        word_cache_put(place, word, n, e->out->ids + before, e->out->n - before);
}

/* Text without tokens in it, normalized. */
static int encode_plain(struct encoding *e, const char *text, size_t n, int at_start)
{
    const struct words *words;
    int rc = pretokenizer_apply(&e->t->pretokenizer, &e->words, &e->cut, at_start, &text, &n,
                                &words, e->err);
    for (size_t i = 0; rc == 0 && i < words->n; i++) {
        encode_word(e, text + words->word[i].begin, words->word[i].end - words->word[i].begin);
        rc = check_limit(e);
    }
    return rc;
}

/* Text without the tokens that are looked for before normalizing. */
static int encode_raw(struct encoding *e, const char *text, size_t n, int at_start)
{
    int rc = normalizer_apply(&e->t->normalizer, &e->normal, text, n, &text, &n, e->err);
    struct added_walk walk = {0};
    struct added_split split;
    while (rc == 0 && added_tokens_next(&e->t->added, 1, e->with_special, text, n, &walk, &split)) {
        if (split.id >= 0)
            tokens_add(e->out, split.id);
        else
            rc = encode_plain(e, text + split.begin, split.end - split.begin,
                              at_start && split.begin == 0);
        if (rc == 0)
            rc = check_limit(e);
    }
    return rc;
}

static int encode_text(struct encoding *e, const char *text, size_t n)
{
    int rc = 0;
    struct added_walk walk = {0};
    struct added_split split;
    while (rc == 0 && added_tokens_next(&e->t->added, 0, e->with_special, text, n, &walk, &split)) {
        if (split.id >= 0)
            tokens_add(e->out, split.id);
        else
            rc = encode_raw(e, text + split.begin, split.end - split.begin, split.begin == 0);
        if (rc == 0)
            rc = check_limit(e);
    }
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                     size_t max_tokens, struct tokens *out, struct moed_error *err)
{
    struct encoding e = {.t = t, .out = out, .err = err};
    struct buf valid = {0};
    size_t before = out->n;
    if (n > MAX_TEXT_BYTES)
        return moed_fail(err, MOED_ELIMIT, "a text of %zu bytes", n);
    e.with_special = (flags & TOKENIZER_PARSE_SPECIAL) != 0;
    e.limit = max_tokens ? before + max_tokens : SIZE_MAX;
    if (utf8_valid_prefix(text, n) < n) {
        unicode_add_valid(&valid, text, n, t->invalid_each_byte);
        text = buf_str(&valid);
        n = valid.len;
    }
    word_cache_open(&e.cache, n);
    for (size_t i = 0; i < t->before.n && (flags & TOKENIZER_ADD_SPECIAL); i++)
        tokens_add(out, t->before.ids[i]);
    int rc = encode_text(&e, text, n);
    for (size_t i = 0; i < t->after.n && (flags & TOKENIZER_ADD_SPECIAL); i++)
        tokens_add(out, t->after.ids[i]);
    if (rc == 0)
        rc = check_limit(&e);
    if (rc < 0)
        out->n = before;
    word_cache_fini(&e.cache);
    text_scratch_fini(&e.normal);
    text_scratch_fini(&e.cut);
    pretokenizer_scratch_fini(&e.words);
    bpe_work_fini(&e.bpe);
    unigram_work_fini(&e.unigram);
    buf_fini(&valid);
    return rc;
}

int32_t tokenizer_vocab_size(const struct tokenizer *t)
{
    return t->n_ids;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_id(const struct tokenizer *t, const char *piece, size_t n)
{
    int32_t id = pieces_find(&t->names, piece, n);
    if (id < 0)
        id = pieces_find(&t->vocab, piece, n);
    return id < t->n_ids ? id : -1;
}

int tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return id >= 0 && id < t->n_ids && t->is_special[id];
}

const char *tokenizer_piece(const struct tokenizer *t, int32_t id, size_t *n)
{
    *n = 0;
    if (id < 0 || id >= t->n_ids)
        return NULL;
    const char *name = pieces_get(&t->names, id, n);
    return name ? name : pieces_get(&t->vocab, id, n);
}

const char *tokenizer_token_bytes(const struct tokenizer *t, int32_t id, size_t *n)
{
    const char *bytes = pieces_get(&t->bytes, id, n);
    return bytes ? bytes : "";
}

const char *tokenizer_describe(const struct tokenizer *t)
{
    return t->description;
}
