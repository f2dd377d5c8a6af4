#include "text/tokenizer_impl.h"
int tokenizer_read_sentencepiece(struct tokenizer *t, const char *bytes, size_t n,
                                 const json_t *config, struct moed_error *err)
{
    return moed_fail(err, MOED_EUNSUPPORTED, "SentencePiece models are not supported yet");
}
int tokenizer_read_tiktoken(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                            struct moed_error *err)
{
    return moed_fail(err, MOED_EUNSUPPORTED, "tiktoken files are not supported yet");
}
int tokenizer_read_gguf(struct tokenizer *t, const char *bytes, size_t n, const json_t *config,
                        struct moed_error *err)
{
    return moed_fail(err, MOED_EUNSUPPORTED, "GGUF files are not supported yet");
}
