/*
 * tiktoken rank files: lines of a piece's bytes in base64, a space, its rank, which is its id.
 * Pattern and special tokens are not in the file; they follow from the family, which the number of
 * ranks tells, and from tokenizer_config.json.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "text/base64.h"
#include "text/byte_level.h"
#include "text/merges.h"
#include "text/split_patterns.h"
#include "text/tokenizer_impl.h"

struct special {
    int32_t offset; /* behind the last rank */
    const char *name;
};

/* Token names and places as the makers publish them beside the ranks. */
static const struct special cl100k_special[] = {
    {1, "<|endoftext|>"},  {2, "<|fim_prefix|>"},   {3, "<|fim_middle|>"},
    {4, "<|fim_suffix|>"}, {20, "<|endofprompt|>"}, {0, NULL},
};
static const struct special o200k_special[] = {
    {0, "<|startoftext|>"}, {1, "<|endoftext|>"},    {4, "<|return|>"}, {5, "<|constrain|>"},
    {7, "<|channel|>"},     {8, "<|start|>"},        {9, "<|end|>"},    {10, "<|message|>"},
    {14, "<|call|>"},       {20, "<|endofprompt|>"}, {0, NULL},
};
static const struct special llama3_special[] = {
    {0, "<|begin_of_text|>"},   {1, "<|end_of_text|>"},   {4, "<|finetune_right_pad_id|>"},
    {6, "<|start_header_id|>"}, {7, "<|end_header_id|>"}, {8, "<|eom_id|>"},
    {9, "<|eot_id|>"},          {10, "<|python_tag|>"},   {0, NULL},
};
static const struct special llama4_special[] = {
    {0, "<|begin_of_text|>"},
    {1, "<|end_of_text|>"},
    {2, "<|fim_prefix|>"},
    {3, "<|fim_middle|>"},
    {4, "<|fim_suffix|>"},
    {5, "<|header_start|>"},
    {6, "<|header_end|>"},
    {7, "<|eom|>"},
    {8, "<|eot|>"},
    {16, "<|python_start|>"},
    {17, "<|python_end|>"},
    {18, "<|finetune_right_pad|>"},
    {0, NULL},
};
static const struct special qwen_special[] = {
    {0, "<|endoftext|>"},
    {1, "<|im_start|>"},
    {2, "<|im_end|>"},
    {0, NULL},
};
static const struct special kimi_special[] = {
    {0, "[BOS]"},
    {1, "[EOS]"},
    {2, "<|im_end|>"},
    {3, "<|im_user|>"},
    {4, "<|im_assistant|>"},
    {6, "<|start_header_id|>"},
    {7, "<|end_header_id|>"},
    {9, "[EOT]"},
    {10, "<|im_system|>"},
    {11, "<|tool_calls_section_begin|>"},
    {12, "<|tool_calls_section_end|>"},
    {13, "<|tool_call_begin|>"},
    {14, "<|tool_call_argument_begin|>"},
    {15, "<|tool_call_end|>"},
    {17, "<|im_middle|>"},
    {0, NULL},
};

static const struct family {
    int32_t n_ranks;
    const char *name, *pattern;
    const struct special *special;
    const char *bos, *eos;
    int adds_bos;
} families[] = {
    {100256, "cl100k", "cl100k", cl100k_special, NULL, "<|endoftext|>", 0},
    {128000, "Llama 3", "llama-bpe", llama3_special, "<|begin_of_text|>", "<|end_of_text|>", 1},
    {151643, "Qwen", "qwen2", qwen_special, NULL, "<|endoftext|>", 0},
    {163584, "Kimi K2", "kimi-k2", kimi_special, "[BOS]", "[EOS]", 0},
    {199998, "o200k", "gpt-4o", o200k_special, "<|startoftext|>", "<|endoftext|>", 0},
    {200000, "Llama 4", "gpt-4o", llama4_special, "<|begin_of_text|>", "<|end_of_text|>", 1},
    {0, "unknown family", "cl100k", NULL, NULL, NULL, 0},
};

/* One line; the piece is kept in written form, as the byte-level vocabularies of tokenizer.json. */
static int read_line(struct tokenizer *t, const char *line, size_t n, size_t number,
                     struct moed_error *err)
{
    struct buf bytes = {0}, piece = {0};
    const char *space = memchr(line, ' ', n);
    size_t at = space ? (size_t)(space - line) + 1 : n;
    int64_t rank = 0;
    int ok = at < n && base64_decode(&bytes, line, at - 1) == 0 && bytes.len > 0;
    for (; ok && at < n && rank <= t->max_id; at++) {
        ok = line[at] >= '0' && line[at] <= '9';
        rank = rank * 10 + (line[at] - '0');
    }
    int rc = 0;
    if (!ok || rank > t->max_id) {
        rc = moed_fail(err, MOED_EFORMAT, "line %zu is not a tiktoken rank", number);
    } else {
        byte_level_write(&piece, buf_str(&bytes), bytes.len);
        pieces_set(&t->vocab, (int32_t)rank, buf_str(&piece), piece.len);
        pieces_index(&t->vocab, (int32_t)rank);
    }
    buf_fini(&bytes);
    buf_fini(&piece);
    return rc;
}

static int read_lines(struct tokenizer *t, const char *bytes, size_t n, struct moed_error *err)
{
    size_t number = 0;
    int rc = 0;
    pieces_expect(&t->vocab, n / 24);
    for (const char *at = bytes, *end = bytes + n; at < end && rc == 0;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);
        const char *next = at + len + (newline != NULL);
        while (len > 0 && (at[len - 1] == '\r' || at[len - 1] == ' '))
            len--;
        number++;
        if (len > 0)
            rc = read_line(t, at, len, number, err);
        at = next;
    }
    if (rc == 0 && t->vocab.n == 0)
        rc = moed_fail(err, MOED_EFORMAT, "the file has no tiktoken ranks");
    return rc;
}

static const struct family *find_family(int32_t n_ranks)
{
    const struct family *f = families;
    while (f->n_ranks != 0 && f->n_ranks != n_ranks)
        f++;
    if (f->n_ranks == 0)
        log_warn("tokenizer: no family is known with %d tiktoken ranks; cutting words as GPT-4",
                 n_ranks);
    return f;
}

static int build_model(struct tokenizer *t)
{
    int32_t n = (int32_t)t->vocab.n;
    uint32_t *rank = mem_new((size_t)n, sizeof *rank);
    for (int32_t id = 0; id < n; id++) {
        size_t len;
        rank[id] = pieces_get(&t->vocab, id, &len) ? (uint32_t)id : MERGES_NONE;
    }
    t->bpe.n_tokens = n;
    t->bpe.plain_bytes = 1;
    t->bpe.ignore_merges = 1;
    bpe_init(&t->bpe.merges, &t->vocab, 3 * (size_t)n);
    merges_derive(&t->bpe.merges, &t->vocab, rank, n, 1);
    free(rank);
    return 0;
}

static int add_special(struct tokenizer *t, const struct family *f, const json_t *config,
                       struct moed_error *err)
{
    int32_t n_ranks = t->bpe.n_tokens;
    /* tokenizer_config.json knows better where it names tokens. */
    if (json_object_size(json_object_get(config, "added_tokens_decoder")) > 0)
        return 0;
    for (const struct special *s = f->special; s && s->name; s++) {
        int rc = tokenizer_add_token(t, n_ranks + s->offset, s->name, strlen(s->name),
                                     (struct added_token){.special = 1}, err);
        if (rc < 0)
            return rc;
    }
    t->bos = f->bos ? pieces_find(&t->names, f->bos, strlen(f->bos)) : -1;
    t->eos = f->eos ? pieces_find(&t->names, f->eos, strlen(f->eos)) : -1;
    if (f->adds_bos && t->bos >= 0)
        tokens_add(&t->before, t->bos);
    return 0;
}

int tokenizer_read_tiktoken(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                            struct moed_error *err)
{
    int rc = read_lines(t, bytes, n, err);
    if (rc < 0)
        return rc;
    build_model(t);
    decoder_add_byte_level(&t->decoder);
    const struct family *f = find_family(t->bpe.n_tokens);
    if ((rc = split_family_add(split_family_find(f->pattern), &t->pretokenizer, err)) < 0 ||
        (rc = add_special(t, f, config, err)) < 0 ||
        (rc = tokenizer_apply_config(t, TOKENIZER_TIKTOKEN, config, err)) < 0)
        return rc;
    char *kind = mem_printf("tiktoken BPE (%s)", f->name);
    rc = tokenizer_finish(t, kind, err);
    free(kind);
    return rc;
}
