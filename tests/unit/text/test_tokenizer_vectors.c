/* Real vocabularies against the answers of the makers' own libraries (outside test data). */
#include "check.h"

#include "base/mem.h"
#include "unit/text/support_tokenizer.h"

static void check(const char *tokenizer, const char *cases, unsigned flags, size_t n)
{
    char *path = mem_strdup(data_path(tokenizer));
    struct tokenizer *t = support_tokenizer(path, NULL);
    assert_int_equal(support_check_cases(t, data_path(cases), flags), n);
    tokenizer_close(&t);
    assert_null(t);
    free(path);
}

static void qwen3(void **state)
{
    check("tokenizers/qwen3/tokenizer.json", "vectors/qwen3.jsonl", TOKENIZER_PARSE_SPECIAL, 239);
}

static void deepseek_v3(void **state)
{
    check("tokenizers/deepseek_v3/tokenizer.json", "vectors/deepseek_v3.jsonl",
          TOKENIZER_PARSE_SPECIAL, 144);
}

static void gpt_oss(void **state)
{
    check("tokenizers/gpt-oss/tokenizer.json", "vectors/gpt-oss.jsonl", TOKENIZER_PARSE_SPECIAL,
          191);
}

static void llama3(void **state)
{
    check("tokenizers/llama3/tokenizer.json", "vectors/llama3.jsonl", TOKENIZER_PARSE_SPECIAL, 188);
}

static void llama2(void **state)
{
    check("tokenizers/llama2/tokenizer.json", "vectors/llama2.jsonl", TOKENIZER_PARSE_SPECIAL, 188);
}

static void mixtral_metaspace(void **state)
{
    check("tokenizers/mixtral-8x7b/tokenizer.metaspace.json",
          "vectors/mistral-v1_mixtral-8x7b.jsonl", TOKENIZER_PARSE_SPECIAL, 141);
}

/* clang-format off: CTest reads one name per line */
static const struct CMUnitTest tests[] = {
    cmocka_unit_test(qwen3),
    cmocka_unit_test(deepseek_v3),
    cmocka_unit_test(gpt_oss),
    cmocka_unit_test(llama3),
    cmocka_unit_test(llama2),
    cmocka_unit_test(mixtral_metaspace),
};
/* clang-format on */
CHECK_MAIN(tests)
