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

static void llama2_model(void **state)
{
    check("tokenizers/llama2/tokenizer.model", "vectors/llama2.sentencepiece.jsonl", 0, 141);
}

static void mixtral_8x7b_model(void **state)
{
    check("tokenizers/mixtral-8x7b/tokenizer.model",
          "vectors/mistral-v1_mixtral-8x7b.sentencepiece.jsonl", 0, 141);
}

static void mixtral_8x22b_model(void **state)
{
    check("tokenizers/mixtral-8x22b-instruct/tokenizer.model.v3",
          "vectors/mistral-v3_mixtral-8x22b.sentencepiece.jsonl", 0, 141);
}

static void t5_model(void **state)
{
    check("tokenizers/t5/nai-t5.model", "vectors/t5_switch.sentencepiece.jsonl", 0, 141);
}

static void grok_1_model(void **state)
{
    check("tokenizers/grok-1/tokenizer.model", "vectors/grok-1.sentencepiece.jsonl", 0, 187);
}

static void kimi_k2_tiktoken(void **state)
{
    check("tokenizers/kimi_k2/kimi_k2.tiktoken", "vectors/kimi_k2.jsonl", TOKENIZER_PARSE_SPECIAL,
          141);
}

static void llama4_tiktoken(void **state)
{
    check("tokenizers/llama4/llama4.tiktoken", "vectors/llama4.jsonl", TOKENIZER_PARSE_SPECIAL,
          188);
}

static void llama_spm_gguf(void **state)
{
    check("gguf_vocab/ggml-vocab-llama-spm.gguf", "vectors/gguf_llama-spm.jsonl",
          TOKENIZER_PARSE_SPECIAL, 47);
}

static void phi_3_gguf(void **state)
{
    check("gguf_vocab/ggml-vocab-phi-3.gguf", "vectors/gguf_phi-3.jsonl", TOKENIZER_PARSE_SPECIAL,
          47);
}

static void deepseek_llm_gguf(void **state)
{
    check("gguf_vocab/ggml-vocab-deepseek-llm.gguf", "vectors/gguf_deepseek-llm.jsonl",
          TOKENIZER_PARSE_SPECIAL, 47);
}

static void gpt_2_gguf(void **state)
{
    check("gguf_vocab/ggml-vocab-gpt-2.gguf", "vectors/gguf_gpt-2.jsonl", TOKENIZER_PARSE_SPECIAL,
          188);
}

/* clang-format off: CTest reads one name per line */
static const struct CMUnitTest tests[] = {
    cmocka_unit_test(qwen3),
    cmocka_unit_test(deepseek_v3),
    cmocka_unit_test(gpt_oss),
    cmocka_unit_test(llama3),
    cmocka_unit_test(llama2),
    cmocka_unit_test(mixtral_metaspace),
    cmocka_unit_test(llama2_model),
    cmocka_unit_test(mixtral_8x7b_model),
    cmocka_unit_test(mixtral_8x22b_model),
    cmocka_unit_test(t5_model),
    cmocka_unit_test(grok_1_model),
    cmocka_unit_test(kimi_k2_tiktoken),
    cmocka_unit_test(llama4_tiktoken),
    cmocka_unit_test(llama_spm_gguf),
    cmocka_unit_test(phi_3_gguf),
    cmocka_unit_test(deepseek_llm_gguf),
    cmocka_unit_test(gpt_2_gguf),
};
/* clang-format on */
CHECK_MAIN(tests)
