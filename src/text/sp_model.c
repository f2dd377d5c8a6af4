#include "text/sp_model.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/merges.h"
#include "text/sp_normalizer.h"
#include "text/unicode.h"

void sp_model_init(struct sp_model *m)
{
    *m = (struct sp_model){
        .add_dummy_prefix = 1,
        .remove_extra_whitespaces = 1,
        .escape_whitespaces = 1,
        .unk = -1,
        .bos = -1,
        .eos = -1,
    };
}

void sp_model_fini(struct sp_model *m)
{
    free(m->piece);
    *m = (struct sp_model){0};
}

int sp_model_add(struct sp_model *m, struct tokenizer *t, const char *piece, size_t n, float score,
                 int type, struct moed_error *err)
{
    if (m->n > PIECES_MAX_ID)
        return moed_fail(err, MOED_ELIMIT, "more than %d pieces", PIECES_MAX_ID);
    if (utf8_valid_prefix(piece, n) < n)
        return moed_fail(err, MOED_EFORMAT, "piece %d is not UTF-8", m->n);
    if (type < SP_NORMAL || type > SP_BYTE || score != score)
        return moed_fail(err, MOED_EFORMAT, "piece %d has type %d, score %g", m->n, type,
                         (double)score);
    m->piece = mem_reserve(m->piece, &m->cap, (size_t)m->n + 1, sizeof *m->piece);
    m->piece[m->n] = (struct sp_piece){score, (enum sp_type)type};
    pieces_set(&t->vocab, m->n, piece, n);
    pieces_index(&t->vocab, m->n);
    m->n++;
    return 0;
}

/* Pieces that text can be made of. */
static int is_text(const struct sp_model *m, int32_t id)
{
    enum sp_type type = m->piece[id].type;
    return type == SP_NORMAL || type == SP_USER_DEFINED || type == SP_UNUSED;
}

static int build_normalizer(const struct sp_model *m, struct tokenizer *t, struct moed_error *err)
{
    struct sp_normalizer *sp = mem_new(1, sizeof *sp);
    normalizer_add_sentencepiece(&t->normalizer, sp);
    sp->add_dummy_prefix = m->add_dummy_prefix;
    sp->remove_extra_whitespaces = m->remove_extra_whitespaces;
    sp->escape_whitespaces = m->escape_whitespaces;
    sp->whitespace_as_suffix = m->whitespace_as_suffix;
    for (int32_t id = 0; id < m->n; id++) {
        size_t n;
        const char *s = pieces_get(&t->vocab, id, &n);
        if (m->piece[id].type == SP_USER_DEFINED && n > 0 &&
            trie_add(&sp->user_defined, s, n, id) < 0)
            return moed_fail(err, MOED_ELIMIT, "too many user-defined pieces");
    }
    if (m->n_charsmap == 0)
        return 0;
    return charsmap_open(&sp->map, m->charsmap, m->n_charsmap, err);
}

static int add_special(const struct sp_model *m, struct tokenizer *t, struct moed_error *err)
{
    for (int32_t id = 0; id < m->n; id++) {
        if (m->piece[id].type != SP_CONTROL && m->piece[id].type != SP_UNKNOWN)
            continue;
        size_t n;
        const char *s = pieces_get(&t->vocab, id, &n);
        /* The vocabulary's bytes may move while the name is added. */
        char *name = mem_strndup(s, n);
        int rc = tokenizer_add_token(t, id, name, n, (struct added_token){.special = 1}, err);
        free(name);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static void find_byte_pieces(const struct sp_model *m, const struct tokenizer *t, int32_t *byte)
{
    for (int i = 0; i < 256; i++)
        byte[i] = -1;
    for (int32_t id = 0; id < m->n; id++) {
        size_t n;
        const char *s = pieces_get(&t->vocab, id, &n);
        int value = m->piece[id].type == SP_BYTE ? decoder_byte_piece(s, n) : -1;
        if (value >= 0)
            byte[value] = id;
    }
}

static int build_unigram(const struct sp_model *m, struct tokenizer *t, struct moed_error *err)
{
    struct unigram *u = &t->unigram;
    float lowest = FLT_MAX, highest = FLT_MIN; /* as SentencePiece starts them */
    t->model = TOKENIZER_MODEL_UNIGRAM;
    u->n = m->n;
    u->score = mem_new((size_t)m->n, sizeof *u->score);
    for (int32_t id = 0; id < m->n; id++) {
        if (m->piece[id].type != SP_NORMAL)
            continue;
        lowest = m->piece[id].score < lowest ? m->piece[id].score : lowest;
        highest = m->piece[id].score > highest ? m->piece[id].score : highest;
    }
    for (int32_t id = 0; id < m->n; id++) {
        size_t n;
        const char *s = pieces_get(&t->vocab, id, &n);
        u->score[id] = (double)m->piece[id].score;
        if (m->piece[id].type == SP_USER_DEFINED) /* a bonus, so that it always wins */
            u->score[id] = (double)((float)n * highest) - 0.1;
        if (is_text(m, id) && m->piece[id].type != SP_UNUSED && n > 0 &&
            unigram_add(u, s, n, id) < 0)
            return moed_fail(err, MOED_ELIMIT, "the vocabulary is too large");
    }
    u->unk = m->unk;
    u->unk_score = (double)(lowest - 10.0f);
    u->single_floats = 1;
    u->byte_fallback = m->byte_fallback;
    find_byte_pieces(m, t, u->byte_piece);
    return 0;
}

struct scored {
    float score;
    int32_t id;
};

static int by_falling_score(const void *a, const void *b)
{
    float x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    return (x < y) - (x > y);
}

/* Ranks from scores: the highest score goes first, equal scores are equal. free() it. */
static uint32_t *rank_pieces(const struct sp_model *m)
{
    uint32_t *rank = mem_new((size_t)m->n, sizeof *rank);
    struct scored *order = mem_new((size_t)m->n, sizeof *order);
    size_t n = 0;
    for (int32_t id = 0; id < m->n; id++) {
        rank[id] = MERGES_NONE;
        if (is_text(m, id))
            order[n++] = (struct scored){m->piece[id].score, id};
    }
    qsort(order, n, sizeof *order, by_falling_score);
    uint32_t next = 0;
    for (size_t i = 0; i < n; i++) {
        next += i > 0 && order[i].score != order[i - 1].score;
        rank[order[i].id] = next;
    }
    free(order);
    return rank;
}

/* Gives a symbol to each character that occurs in a piece but is none by itself. */
static void add_hidden_symbols(const struct sp_model *m, struct tokenizer *t)
{
    for (int32_t id = 0; id < m->n; id++) {
        size_t n, len;
        pieces_get(&t->vocab, id, &n);
        for (size_t i = 0; is_text(m, id) && i < n; i += len) {
            const char *s = pieces_get(&t->vocab, id, &n);
            unicode_at(s + i, n - i, &len);
            if (pieces_find(&t->vocab, s + i, len) >= 0)
                continue;
            char symbol[4];
            memcpy(symbol, s + i, len);
            int32_t hidden = (int32_t)t->vocab.n;
            pieces_set(&t->vocab, hidden, symbol, len);
            pieces_index(&t->vocab, hidden);
        }
    }
}

/* For each unused piece the two parts it is taken apart into: of all merges that make it, the one
 * whose parts are there first. */
static void find_unused_parts(const struct sp_model *m, struct tokenizer *t, const uint32_t *rank)
{
    struct bpe_model *bpe = &t->bpe;
    int any = 0;
    for (int32_t id = 0; id < m->n; id++)
        any |= m->piece[id].type == SP_UNUSED;
    if (!any)
        return;
    bpe->unused = mem_new((size_t)m->n, sizeof *bpe->unused);
    for (int32_t id = 0; id < m->n; id++)
        bpe->unused[id].left = m->piece[id].type == SP_UNUSED ? BPE_NO_PARTS : BPE_USED;
    uint32_t *best = mem_new((size_t)m->n, sizeof *best);
    for (size_t i = 0; i < bpe->merges.n_slots; i++) {
        const struct bpe_merge *merge = &bpe->merges.slots[i];
        if (merge->left < 0 || m->piece[merge->result].type != SP_UNUSED)
            continue;
        uint32_t left = merge->left < m->n ? rank[merge->left] : 0;
        uint32_t right = merge->right < m->n ? rank[merge->right] : 0;
        uint32_t later = left > right ? left : right;
        if (bpe->unused[merge->result].left >= 0 && later >= best[merge->result])
            continue;
        best[merge->result] = later;
        bpe->unused[merge->result] = (struct bpe_parts){merge->left, merge->right};
    }
    free(best);
}

static int build_bpe(const struct sp_model *m, struct tokenizer *t, struct moed_error *err)
{
    struct bpe_model *bpe = &t->bpe;
    t->model = TOKENIZER_MODEL_BPE;
    bpe->unk = m->unk;
    bpe->fuse_unk = 1;
    bpe->byte_fallback = m->byte_fallback;
    bpe->n_tokens = m->n;
    if (m->byte_fallback)
        find_byte_pieces(m, t, bpe->byte_symbol);
    for (int32_t id = 0; id < m->n; id++) {
        size_t n;
        const char *s = pieces_get(&t->vocab, id, &n);
        if (m->piece[id].type == SP_USER_DEFINED && n > 0 &&
            trie_add(&bpe->user_defined, s, n, id) < 0)
            return moed_fail(err, MOED_ELIMIT, "too many user-defined pieces");
    }
    add_hidden_symbols(m, t);
    uint32_t *rank = rank_pieces(m);
    bpe_init(&bpe->merges, &t->vocab, 2 * (size_t)m->n);
    merges_derive(&bpe->merges, &t->vocab, rank, m->n, 1);
    find_unused_parts(m, t, rank);
    free(rank);
    return 0;
}

int sp_model_build(const struct sp_model *m, struct tokenizer *t, struct moed_error *err)
{
    int rc;
    if (m->n == 0)
        return moed_fail(err, MOED_EFORMAT, "the model has no pieces");
    if (m->unk >= m->n || m->bos >= m->n || m->eos >= m->n)
        return moed_fail(err, MOED_EFORMAT, "unk, bos or eos is not among the %d pieces", m->n);
    if ((rc = build_normalizer(m, t, err)) < 0 || (rc = add_special(m, t, err)) < 0 ||
        (rc = m->is_unigram ? build_unigram(m, t, err) : build_bpe(m, t, err)) < 0)
        return rc;
    size_t strip = m->remove_extra_whitespaces ? SIZE_MAX : m->add_dummy_prefix ? 1 : 0;
    decoder_add_sentencepiece(&t->decoder, strip);
    t->invalid_each_byte = 1;
    t->bos = m->bos;
    t->eos = m->eos;
    return 0;
}
