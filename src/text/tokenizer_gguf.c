/* The vocabulary in a GGUF file: tokenizer.ggml.* ("llama" and "t5" are SentencePiece models,
 * "gpt2" is byte-level BPE). */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/gguf_meta.h"
#include "text/sp_model.h"
#include "text/split_patterns.h"

#define KEY(name) "tokenizer.ggml." name

/* The arrays that make up a vocabulary; scores and types may be absent. */
struct vocabulary {
    const struct gguf_value *tokens, *scores, *types, *merges;
};

static int check_array(const struct gguf_value *v, int is_string, uint64_t n, const char *name,
                       struct moed_error *err)
{
    if (!v || (v->is_array && (v->type == GGUF_STRING) == is_string && v->n == n))
        return 0;
    return moed_fail(err, MOED_EFORMAT, "%s is not an array of %llu elements", name,
                     (unsigned long long)n);
}

static int find_vocabulary(const struct gguf_meta *m, struct vocabulary *v, struct moed_error *err)
{
    v->tokens = gguf_find(m, KEY("tokens"));
    v->scores = gguf_find(m, KEY("scores"));
    v->types = gguf_find(m, KEY("token_type"));
    v->merges = gguf_find(m, KEY("merges"));
    if (!v->tokens)
        return moed_fail(err, MOED_EFORMAT, "tokenizer.ggml.tokens is missing");
    int rc;
    if ((rc = check_array(v->tokens, 1, v->tokens->n, KEY("tokens"), err)) < 0 ||
        (rc = check_array(v->scores, 0, v->tokens->n, KEY("scores"), err)) < 0 ||
        (rc = check_array(v->types, 0, v->tokens->n, KEY("token_type"), err)) < 0)
        return rc;
    return v->merges ? check_array(v->merges, 1, v->merges->n, KEY("merges"), err) : 0;
}

static int type_at(const struct vocabulary *v, uint64_t i)
{
    double type = v->types ? gguf_number_at(v->types, i) : SP_NORMAL;
    return type >= SP_NORMAL && type <= SP_BYTE ? (int)type : 0;
}

static int32_t id_of(const struct gguf_meta *m, const char *key, int32_t n)
{
    int64_t id = gguf_int(m, key, -1);
    return id >= 0 && id < n ? (int32_t)id : -1;
}

static int read_sentencepiece(struct tokenizer *t, const struct gguf_meta *m,
                              const struct vocabulary *v, int is_unigram, struct moed_error *err)
{
    struct sp_model sp;
    const char *s;
    size_t at = 0, n;
    int rc = 0;
    sp_model_init(&sp);
    for (uint64_t i = 0; rc == 0 && gguf_next_string(v->tokens, &at, &s, &n); i++)
        rc = sp_model_add(&sp, t, s, n, v->scores ? (float)gguf_number_at(v->scores, i) : 0,
                          type_at(v, i), err);
    if (rc == 0) {
        const struct gguf_value *map = gguf_find(m, KEY("precompiled_charsmap"));
        sp.is_unigram = is_unigram;
        sp.byte_fallback = !is_unigram;
        sp.add_dummy_prefix = gguf_int(m, KEY("add_space_prefix"), 1) != 0;
        sp.remove_extra_whitespaces = gguf_int(m, KEY("remove_extra_whitespaces"), is_unigram) != 0;
        if (map && map->is_array && (map->type == GGUF_UINT8 || map->type == GGUF_INT8)) {
            sp.charsmap = map->bytes;
            sp.n_charsmap = map->n_bytes;
        }
        sp.unk = id_of(m, KEY("unknown_token_id"), sp.n);
        sp.bos = id_of(m, KEY("bos_token_id"), sp.n);
        sp.eos = id_of(m, KEY("eos_token_id"), sp.n);
        rc = sp_model_build(&sp, t, err);
    }
    sp_model_fini(&sp);
    return rc;
}

static int read_pieces(struct tokenizer *t, const struct vocabulary *v, struct moed_error *err)
{
    const char *s;
    size_t at = 0, n;
    for (uint64_t i = 0; gguf_next_string(v->tokens, &at, &s, &n); i++) {
        if (i > PIECES_MAX_ID)
            return moed_fail(err, MOED_ELIMIT, "more than %d tokens", PIECES_MAX_ID);
        if (utf8_valid_prefix(s, n) < n)
            return moed_fail(err, MOED_EFORMAT, "token %d is not UTF-8", (int)i);
        int type = type_at(v, i);
        if (type == SP_CONTROL || type == SP_USER_DEFINED) {
            int rc = tokenizer_add_token(t, (int32_t)i, s, n,
                                         (struct added_token){.special = type == SP_CONTROL}, err);
            if (rc < 0)
                return rc;
        } else {
            pieces_set(&t->vocab, (int32_t)i, s, n);
            pieces_index(&t->vocab, (int32_t)i);
        }
    }
    t->bpe.n_tokens = (int32_t)t->vocab.n;
    return 0;
}

static int read_merges(struct tokenizer *t, const struct vocabulary *v, struct moed_error *err)
{
    const char *s;
    size_t at = 0, n;
    uint32_t rank = 0;
    struct buf joined = {0};
    int rc = 0;
    bpe_init(&t->bpe.merges, &t->vocab, v->merges ? v->merges->n_bytes / 16 : 0);
    for (; rc == 0 && v->merges && gguf_next_string(v->merges, &at, &s, &n); rank++) {
        /* A piece may itself begin with a space; the space between the two comes later. */
        const char *space = n > 1 ? memchr(s + 1, ' ', n - 1) : NULL;
        size_t n_left = space ? (size_t)(space - s) : 0;
        buf_truncate(&joined, 0);
        buf_add(&joined, s, n_left);
        if (space)
            buf_add(&joined, space + 1, n - n_left - 1);
        int32_t left = pieces_find(&t->vocab, s, n_left);
        int32_t right = space ? pieces_find(&t->vocab, space + 1, n - n_left - 1) : -1;
        int32_t result = pieces_find(&t->vocab, buf_str(&joined), joined.len);
        if (left < 0 || right < 0 || result < 0)
            rc = moed_fail(err, MOED_EFORMAT, "merge %u is not in the vocabulary", rank);
        else
            bpe_add(&t->bpe.merges, left, right, rank, result);
    }
    buf_fini(&joined);
    return rc;
}

static int read_byte_level(struct tokenizer *t, const struct gguf_meta *m,
                           const struct vocabulary *v, struct moed_error *err)
{
    char *pre = gguf_string(m, KEY("pre"));
    const struct split_family *family = split_family_find(pre ? pre : "gpt-2");
    int rc;
    if (!family) {
        rc = moed_fail(err, MOED_EUNSUPPORTED, "tokenizer.ggml.pre '%.60s' is not supported", pre);
        free(pre);
        return rc;
    }
    free(pre);
    if ((rc = split_family_add(family, &t->pretokenizer, err)) < 0 ||
        (rc = read_pieces(t, v, err)) < 0 || (rc = read_merges(t, v, err)) < 0)
        return rc;
    t->bpe.plain_bytes = 1;
    t->bpe.ignore_merges = family->ignore_merges;
    decoder_add_byte_level(&t->decoder);
    t->bos = id_of(m, KEY("bos_token_id"), (int32_t)v->tokens->n);
    t->eos = id_of(m, KEY("eos_token_id"), (int32_t)v->tokens->n);
    return 0;
}

int tokenizer_read_gguf(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                        struct moed_error *err)
{
    struct gguf_meta m;
    struct vocabulary v;
    int rc = gguf_meta_open(&m, bytes, n, err);
    if (rc < 0)
        return rc;
    char *model = gguf_string(&m, KEY("model"));
    const char *name = model ? model : "";
    int is_unigram = strcmp(name, "t5") == 0, is_bpe = strcmp(name, "gpt2") == 0;
    if ((rc = find_vocabulary(&m, &v, err)) < 0)
        goto out;
    if (is_bpe)
        rc = read_byte_level(t, &m, &v, err);
    else if (is_unigram || strcmp(name, "llama") == 0)
        rc = read_sentencepiece(t, &m, &v, is_unigram, err);
    else
        rc = moed_fail(err, MOED_EUNSUPPORTED, "tokenizer.ggml.model '%.60s' is not supported",
                       name);
    if (rc < 0)
        goto out;
    if (t->bos >= 0 && gguf_int(&m, KEY("add_bos_token"), !is_bpe && !is_unigram) != 0)
        tokens_add(&t->before, t->bos);
    if (t->eos >= 0 && gguf_int(&m, KEY("add_eos_token"), is_unigram) != 0)
        tokens_add(&t->after, t->eos);
    if ((rc = tokenizer_apply_config(t, TOKENIZER_GGUF, config, err)) == 0)
        rc = tokenizer_finish(t,
                              is_bpe       ? "GGUF byte-level BPE"
                              : is_unigram ? "GGUF unigram"
                                           : "GGUF SentencePiece BPE",
                              err);
out:
    gguf_meta_fini(&m);
    free(model);
    return rc;
}
