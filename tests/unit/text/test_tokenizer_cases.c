/* Every kind of tokenizer against the makers' libraries, on small ones of our own
 * (tests/data/tokenizers/make.py). */
#include "check.h"

#include "base/mem.h"
#include "unit/text/support_tokenizer.h"

static void check(const char *name, const char *extension, const char *config)
{
    char *path = mem_printf("%s/%s.%s", repo_path("tests/data/tokenizers"), name, extension);
    char *cases = mem_printf("%s/%s.jsonl", repo_path("tests/data/tokenizers"), name);
    char *settings = config ? mem_strdup(repo_path(config)) : NULL;
    struct tokenizer *t = support_tokenizer(path, settings);
    assert_in_range(support_check_cases(t, cases, 0), 50, 1000);
    tokenizer_close(&t);
    free(path);
    free(cases);
    free(settings);
}

static void byte_bpe_nfc(void **state)
{
    check("byte_bpe_nfc", "json", NULL);
}

static void byte_bpe_ignore_merges(void **state)
{
    check("byte_bpe_ignore_merges", "json", NULL);
}

static void byte_bpe_three_splits(void **state)
{
    check("byte_bpe_three_splits", "json", NULL);
}

static void gpt2_added_tokens(void **state)
{
    check("gpt2_added_tokens", "json", NULL);
}

static void stages(void **state)
{
    check("stages", "json", NULL);
}

static void word_stages(void **state)
{
    check("word_stages", "json", NULL);
}

static void word_suffix(void **state)
{
    check("word_suffix", "json", NULL);
}

static void llama_legacy(void **state)
{
    check("llama_legacy", "json", NULL);
}

static void llama_metaspace_first(void **state)
{
    check("llama_metaspace_first", "json", NULL);
}

static void llama_metaspace_always(void **state)
{
    check("llama_metaspace_always", "json", NULL);
}

static void unigram(void **state)
{
    check("unigram", "json", NULL);
}

static void unigram_bytes(void **state)
{
    check("unigram_bytes", "json", NULL);
}

static void sp_bpe(void **state)
{
    check("sp_bpe", "model", NULL);
}

static void sp_plain(void **state)
{
    check("sp_plain", "model", NULL);
}

static void sp_unused(void **state)
{
    check("sp_unused", "model", NULL);
}

static void sp_unigram(void **state)
{
    check("sp_unigram", "model", NULL);
}

static void sp_unigram_suffix(void **state)
{
    check("sp_unigram_suffix", "model", NULL);
}

static void ranks(void **state)
{
    check("ranks", "tiktoken", "tests/data/tokenizers/ranks.config.json");
}

static void gguf_bpe(void **state)
{
    check("gguf_bpe", "gguf", NULL);
}

static void gguf_sentencepiece(void **state)
{
    check("gguf_sentencepiece", "gguf", NULL);
}

/* clang-format off: CTest reads one name per line */
static const struct CMUnitTest tests[] = {
    cmocka_unit_test(byte_bpe_nfc),
    cmocka_unit_test(byte_bpe_ignore_merges),
    cmocka_unit_test(byte_bpe_three_splits),
    cmocka_unit_test(gpt2_added_tokens),
    cmocka_unit_test(stages),
    cmocka_unit_test(word_stages),
    cmocka_unit_test(word_suffix),
    cmocka_unit_test(llama_legacy),
    cmocka_unit_test(llama_metaspace_first),
    cmocka_unit_test(llama_metaspace_always),
    cmocka_unit_test(unigram),
    cmocka_unit_test(unigram_bytes),
    cmocka_unit_test(sp_bpe),
    cmocka_unit_test(sp_plain),
    cmocka_unit_test(sp_unused),
    cmocka_unit_test(sp_unigram),
    cmocka_unit_test(sp_unigram_suffix),
    cmocka_unit_test(ranks),
    cmocka_unit_test(gguf_bpe),
    cmocka_unit_test(gguf_sentencepiece),
};
/* clang-format on */
CHECK_MAIN(tests)
