#include "text/bpe_model.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "text/unicode.h"

/* Nested unused pieces deeper than this stay as they are. */
enum { MAX_UNUSED_DEPTH = 64 };

void bpe_model_init(struct bpe_model *m)
{
    *m = (struct bpe_model){.unk = -1};
    for (int i = 0; i < 256; i++)
        m->byte_symbol[i] = -1;
}

void bpe_model_fini(struct bpe_model *m)
{
    bpe_fini(&m->merges);
    trie_fini(&m->user_defined);
    free(m->unused);
    free(m->prefix);
    free(m->suffix);
    *m = (struct bpe_model){0};
}

/* What has no symbol: its bytes, or one unk. *in_unk: the symbol before this one was such an unk.
 */
static void add_unknown(const struct bpe_model *m, struct bpe_work *work, const char *s, size_t n,
                        int *in_unk)
{
    int all = m->byte_fallback;
    for (size_t i = 0; i < n && all; i++)
        all = m->byte_symbol[(unsigned char)s[i]] >= 0;
    for (size_t i = 0; i < n && all; i++)
        bpe_work_add(work, m->byte_symbol[(unsigned char)s[i]]);
    if (all || m->unk < 0)
        return;
    if (!*in_unk || !m->fuse_unk)
        bpe_work_add(work, m->unk);
    *in_unk = 1;
}

static void add_bytes(const struct bpe_model *m, struct bpe_work *work, const char *s, size_t n)
{
    int in_unk = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t symbol = m->byte_symbol[(unsigned char)s[i]];
        if (symbol >= 0) {
            bpe_work_add(work, symbol);
            in_unk = 0;
        } else {
            add_unknown(m, work, s + i, 1, &in_unk);
        }
    }
}

static void add_chars(const struct bpe_model *m, const struct pieces *pieces, struct bpe_work *work,
                      const char *s, size_t n)
{
    struct buf decorated = {0};
    int in_unk = 0;
    for (size_t i = 0, len; i < n; i += len) {
        unicode_at(s + i, n - i, &len);
        const char *symbol = s + i;
        size_t n_symbol = len;
        int is_first = i == 0, is_last = i + len == n;
        if ((m->prefix && !is_first) || (m->suffix && is_last)) {
            buf_truncate(&decorated, 0);
            if (m->prefix && !is_first)
                buf_puts(&decorated, m->prefix);
            buf_add(&decorated, s + i, len);
            if (m->suffix && is_last)
                buf_puts(&decorated, m->suffix);
            symbol = decorated.data;
            n_symbol = decorated.len;
        }
        int32_t id = pieces_find(pieces, symbol, n_symbol);
        if (id >= 0) {
            bpe_work_add(work, id);
            in_unk = 0;
        } else {
            add_unknown(m, work, symbol, n_symbol, &in_unk);
        }
    }
    buf_fini(&decorated);
}

static void emit_unknown(const struct bpe_model *m, const struct pieces *pieces, int32_t symbol,
                         struct tokens *out)
{
    size_t n;
    const char *s = pieces_get(pieces, symbol, &n);
    struct bpe_work bytes = {0};
    int in_unk = out->n > 0 && out->ids[out->n - 1] == m->unk;
    add_unknown(m, &bytes, s, n, &in_unk);
    for (size_t i = 0; i < bytes.n; i++)
        tokens_add(out, bytes.symbols[i]);
    bpe_work_fini(&bytes);
}

/* Gives out a symbol: itself, the parts of an unused piece, or what stands for an unknown one. */
static void emit(const struct bpe_model *m, const struct pieces *pieces, int32_t symbol, int depth,
                 struct tokens *out)
{
    int32_t left = m->unused && symbol < m->n_tokens ? m->unused[symbol].left : BPE_USED;
    if (symbol >= m->n_tokens || left == BPE_NO_PARTS) {
        emit_unknown(m, pieces, symbol, out);
    } else if (left >= 0 && depth < MAX_UNUSED_DEPTH) {
        emit(m, pieces, left, depth + 1, out);
        emit(m, pieces, m->unused[symbol].right, depth + 1, out);
    } else {
        tokens_add(out, symbol);
    }
}

static void encode_stretch(const struct bpe_model *m, const struct pieces *pieces,
                           struct bpe_work *work, const char *s, size_t n, struct tokens *out)
{
    bpe_work_clear(work, n);
    if (m->plain_bytes)
        add_bytes(m, work, s, n);
    else
        add_chars(m, pieces, work, s, n);
    bpe_merge_word(&m->merges, work);
    for (size_t i = 0; i < work->n; i++)
        emit(m, pieces, work->symbols[i], 0, out);
}

void bpe_model_encode(const struct bpe_model *m, const struct pieces *pieces, struct bpe_work *work,
                      const char *word, size_t n, struct tokens *out)
{
    if (m->ignore_merges) {
        int32_t id = pieces_find(pieces, word, n);
        if (id >= 0) {
            tokens_add(out, id);
            return;
        }
    }
    size_t begin = 0, i = 0, len;
    while (m->user_defined.n_nodes > 0 && i < n) {
        int32_t id = trie_longest(&m->user_defined, word + i, n - i, &len);
        if (id < 0) {
            unicode_at(word + i, n - i, &len);
            i += len;
            continue;
        }
        if (begin < i)
            encode_stretch(m, pieces, work, word + begin, i - begin, out);
        tokens_add(out, id);
        begin = i += len;
    }
    if (begin < n)
        encode_stretch(m, pieces, work, word + begin, n - begin, out);
}
