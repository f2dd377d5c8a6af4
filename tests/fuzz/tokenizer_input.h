/* What the fuzz targets of tokenizer files share. */
#ifndef MOED_FUZZ_TOKENIZER_INPUT_H
#define MOED_FUZZ_TOKENIZER_INPUT_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/buf.h"
#include "base/log.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

static inline void tokenizer_input_use(const struct tokenizer *t)
{
    static const char text[] =
        "Hello  world, don't\n\n\t12345 <s>[INST] caf\xC3\xA9 e\xCC\x81 "
        "\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x99\x82 \xE2\x96\x81 \xFF\xE2\x82 "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa<|end|>";
    struct tokens ids = {0};
    struct buf decoded = {0}, repeated = {0};
    struct moed_error err;
    unsigned flags = TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL;
    int32_t n_ids = tokenizer_vocab_size(t);
    if (tokenizer_encode(t, text, sizeof text - 1, flags, 10000, &ids, &err) == 0)
        for (size_t i = 0; i < ids.n; i++)
            assert(ids.ids[i] >= 0 && ids.ids[i] < n_ids);
    for (int i = 0; i < 8; i++) /* long enough for words to be remembered */
        buf_add(&repeated, text, sizeof text - 1);
    tokenizer_encode(t, repeated.data, repeated.len, 0, 0, &ids, &err);
    for (int32_t id = 0; id < n_ids && id < 64; id++)
        tokens_add(&ids, id);
    tokenizer_decode(t, ids.ids, ids.n, 0, &decoded);
    assert(utf8_valid_prefix(buf_str(&decoded), decoded.len) == decoded.len);
    assert(tokenizer_bos(t) < n_ids && tokenizer_eos(t) < n_ids);
    assert(tokenizer_describe(t));
    tokens_fini(&ids);
    buf_fini(&decoded);
    buf_fini(&repeated);
}

/* The bytes up to a zero byte are the file, the rest is the configuration; GGUF and protobuf hold
 * zero bytes, so there all of it is the file. */
static inline int tokenizer_input(enum tokenizer_format format, const uint8_t *data, size_t size)
{
    struct tokenizer *t;
    struct moed_error err;
    const char *bytes = (const char *)data;
    int has_config = format == TOKENIZER_HF_JSON || format == TOKENIZER_TIKTOKEN;
    const char *zero = has_config && size > 0 ? memchr(bytes, 0, size) : NULL;
    size_t n = zero ? (size_t)(zero - bytes) : size;
    log_setup(LOG_ERROR_LEVEL, LOG_FORMAT_TEXT);
    if (tokenizer_parse(&t, format, bytes, n, zero ? zero + 1 : NULL, zero ? size - n - 1 : 0,
                        &err) == 0)
        tokenizer_input_use(t);
    tokenizer_close(&t);
    return 0;
}

#endif
