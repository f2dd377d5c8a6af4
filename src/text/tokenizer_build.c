/* What the readers of all formats share: added tokens, tokenizer_config.json, the last step. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "text/byte_level.h"
#include "text/spec.h"
#include "text/tokenizer_impl.h"

int tokenizer_add_token(struct tokenizer *t, int32_t id, const char *content, size_t n,
                        struct added_token token, struct moed_error *err)
{
    if (!content || n == 0)
        return 0; /* nothing that could be found in a text */
    if (id < 0 || id > t->max_id)
        return moed_fail(err, MOED_ELIMIT, "added token '%.80s' has the id %d", content, id);
    /* A piece of the vocabulary keeps its id, whatever the list says. */
    int32_t known = pieces_find(&t->vocab, content, n);
    if (known >= 0 && (t->n_ids == 0 || known < t->n_ids))
        id = known;
    token.id = id;
    pieces_set(&t->names, id, content, n);
    pieces_index(&t->names, id);
    const char *text = content;
    struct text_scratch scratch = {0};
    int rc = 0;
    if (token.normalized)
        rc = normalizer_apply(&t->normalizer, &scratch, content, n, &text, &n, err);
    if (rc == 0 && n > 0 && added_tokens_add(&t->added, token, text, n) < 0)
        rc = moed_fail(err, MOED_ELIMIT, "too many added tokens");
    text_scratch_fini(&scratch);
    return rc;
}

static struct added_token token_flags(const json_t *item)
{
    return (struct added_token){
        .special = spec_bool(item, "special", 0),
        .single_word = spec_bool(item, "single_word", 0),
        .lstrip = spec_bool(item, "lstrip", 0),
        .rstrip = spec_bool(item, "rstrip", 0),
        .normalized = spec_bool(item, "normalized", !spec_bool(item, "special", 0)),
    };
}

/* added_tokens_decoder: {"151643": {"content": ..., flags}, ...}; tokens the file has are skipped.
 */
static int add_config_tokens(struct tokenizer *t, const json_t *config, struct moed_error *err)
{
    const char *key;
    json_t *item;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, item)
    {
        const json_t *content = json_object_get(item, "content");
        const char *s = json_string_value(content);
        size_t n = json_string_length(content);
        char *end;
        long id = strtol(key, &end, 10);
        if (!s || *end || id < 0 || id > t->max_id || pieces_find(&t->names, s, n) >= 0)
            continue;
        int rc = tokenizer_add_token(t, (int32_t)id, s, n, token_flags(item), err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The id of "bos_token" or the like, a string or an object with content; `missing` where the
 * configuration does not name it. */
static int32_t config_token(const struct tokenizer *t, const json_t *config, const char *key,
                            int32_t missing)
{
    const json_t *value = json_object_get(config, key);
    if (json_is_object(value))
        value = json_object_get(value, "content");
    if (!json_is_string(value))
        return missing;
    const char *s = json_string_value(value);
    size_t n = json_string_length(value);
    int32_t id = pieces_find(&t->names, s, n);
    if (id < 0)
        id = pieces_find(&t->vocab, s, n);
    if (id < 0)
        log_warn("tokenizer: the %s '%s' is not in the vocabulary", key, s);
    return id >= 0 ? id : missing;
}

static void put_around(struct tokens *list, int wanted, int32_t id, const char *key)
{
    if (!wanted) {
        list->n = 0;
    } else if (id < 0) {
        log_warn("tokenizer: %s is set, but there is no such token", key);
    } else if (list->n == 0 || list->ids[0] != id) {
        list->n = 0;
        tokens_add(list, id);
    }
}

int tokenizer_apply_config(struct tokenizer *t, enum tokenizer_format format, const json_t *config,
                           struct moed_error *err)
{
    if (t->bos < 0 && t->before.n > 0)
        t->bos = t->before.ids[0];
    if (t->eos < 0 && t->after.n > 0)
        t->eos = t->after.ids[t->after.n - 1];
    if (!config)
        return 0;
    int rc = add_config_tokens(t, config, err);
    if (rc < 0)
        return rc;
    t->bos = config_token(t, config, "bos_token", t->bos);
    t->eos = config_token(t, config, "eos_token", t->eos);
    /*
     * transformers rebuilds the post-processor from these two settings for its Llama class alone;
     * other classes leave what tokenizer.json says.
     */
    const char *class = spec_string(config, "tokenizer_class");
    if (format == TOKENIZER_HF_JSON && strncmp(class, "LlamaTokenizer", 14) != 0)
        return 0;
    const json_t *bos = json_object_get(config, "add_bos_token");
    const json_t *eos = json_object_get(config, "add_eos_token");
    if (json_is_boolean(bos))
        put_around(&t->before, json_is_true(bos), t->bos, "add_bos_token");
    if (json_is_boolean(eos))
        put_around(&t->after, json_is_true(eos), t->eos, "add_eos_token");
    return 0;
}

/* With plain bytes, a piece is looked up by its bytes: only pieces in the byte alphabet can be. */
static void index_bytes(struct tokenizer *t)
{
    struct buf bytes = {0};
    for (int32_t id = 0; id < (int32_t)t->vocab.n; id++) {
        size_t n;
        const char *piece = pieces_get(&t->vocab, id, &n);
        buf_truncate(&bytes, 0);
        if (!piece || pieces_find(&t->vocab, piece, n) != id ||
            byte_level_read(&bytes, piece, n) < 0)
            continue;
        if (bytes.len == 1)
            t->bpe.byte_symbol[(unsigned char)bytes.data[0]] = id;
        if (!t->bpe.ignore_merges)
            continue;
        /* An added token of the same id has other bytes; it is not found by them. */
        const char *own = pieces_get(&t->bytes, id, &n);
        if (own && n == bytes.len && memcmp(own, buf_str(&bytes), n) == 0)
            pieces_index(&t->bytes, id);
    }
    buf_fini(&bytes);
}

static void describe(struct tokenizer *t, const char *kind)
{
    struct buf text = {0};
    int jit = 0;
    int regexes = pretokenizer_regexes(&t->pretokenizer, &jit);
    regexes += normalizer_regexes(&t->normalizer, &jit);
    size_t n_pieces =
        t->model == TOKENIZER_MODEL_UNIGRAM ? (size_t)t->unigram.n : (size_t)t->bpe.n_tokens;
    buf_printf(&text, "%s, %zu pieces, %zu added tokens", kind, n_pieces, t->added.n);
    if (regexes > 0)
        buf_puts(&text,
                 jit == regexes ? ", regex by PCRE2 JIT" : ", regex by PCRE2 without JIT (slower)");
    if (t->ignored.len > 0)
        buf_printf(&text, ", ignored settings:%s", buf_str(&t->ignored));
    t->description = buf_take(&text, NULL);
}

int tokenizer_finish(struct tokenizer *t, const char *kind, struct moed_error *err)
{
    size_t n_model =
        t->model == TOKENIZER_MODEL_UNIGRAM ? (size_t)t->unigram.n : (size_t)t->bpe.n_tokens;
    size_t n_ids = n_model > t->names.n ? n_model : t->names.n;
    if (n_ids == 0)
        return moed_fail(err, MOED_EFORMAT, "the vocabulary is empty");
    for (size_t i = 0; i < t->before.n + t->after.n; i++) {
        int32_t id = i < t->before.n ? t->before.ids[i] : t->after.ids[i - t->before.n];
        if ((size_t)id >= n_ids)
            return moed_fail(err, MOED_EFORMAT, "the post-processor adds token %d of %zu", id,
                             n_ids);
    }
    t->n_ids = (int32_t)n_ids;
    t->is_special = mem_new(n_ids, 1);
    for (size_t i = 0; i < t->added.n; i++)
        t->is_special[t->added.token[i].id] = t->added.token[i].special != 0;
    struct buf bytes = {0};
    for (int32_t id = 0; id < t->n_ids; id++) {
        size_t n;
        const char *piece = tokenizer_piece(t, id, &n);
        if (!piece)
            continue;
        buf_truncate(&bytes, 0);
        decoder_token_bytes(&t->decoder, piece, n, &bytes);
        pieces_set(&t->bytes, id, buf_str(&bytes), bytes.len);
    }
    buf_fini(&bytes);
    if (t->model == TOKENIZER_MODEL_BPE && t->bpe.plain_bytes)
        index_bytes(t);
    describe(t, kind);
    return 0;
}
