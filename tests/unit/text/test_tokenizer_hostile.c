/*
 * A megabyte of hostile text goes in and comes back. Anything worse than linear would run into the
 * time limit of the test by orders of magnitude; what it costs exactly is shown by
 * tests/bench/bench_tokenizer_hostile.c.
 */
#include "check.h"

#include <stdbool.h>

#include "base/mem.h"
#include "unit/text/support_tokenizer.h"

enum { TEXT_BYTES = 1 << 20 };

static const char *const units[] = {
    "a",
    " ",
    "\n",
    "A",
    "\xCC\x81",                 /* a combining mark */
    "\xCC\x81\xCC\xA7\xCC\x96", /* three out of canonical order */
    "\xF0\x9F\x99\x82",         /* an emoji */
    "<|im_en",                  /* starts of special tokens that do not end */
    "<s",
    " a",
};

/* exact: the tokenizer changes nothing, so that decoding must give the text again. */
static void check_unit(const struct tokenizer *t, const char *unit, bool exact)
{
    struct moed_error err;
    struct tokens ids = {0};
    struct buf text = {0}, back = {0};
    while (text.len + strlen(unit) <= TEXT_BYTES)
        buf_puts(&text, unit);
    assert_ok(tokenizer_encode(t, text.data, text.len, TOKENIZER_PARSE_SPECIAL, 0, &ids, &err),
              &err);
    assert_true(ids.n <= 4 * text.len);
    tokenizer_decode(t, ids.ids, ids.n, 0, &back);
    if (exact) {
        assert_int_equal(back.len, text.len);
        assert_memory_equal(back.data, text.data, text.len);
    }
    tokens_fini(&ids);
    buf_fini(&text);
    buf_fini(&back);
}

static void check_all(const char *name, bool exact)
{
    char *path = mem_printf("%s/%s", repo_path("tests/data/tokenizers"), name);
    struct tokenizer *t = support_tokenizer(path, NULL);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        check_unit(t, units[i], exact);
    tokenizer_close(&t);
    free(path);
}

static void byte_level_takes_a_megabyte(void **state)
{
    check_all("byte_bpe_nfc.json", false);
    check_all("byte_bpe_ignore_merges.json", true);
    check_all("byte_bpe_three_splits.json", true);
}

static void sentencepiece_json_takes_a_megabyte(void **state)
{
    check_all("llama_legacy.json", false);
    check_all("unigram.json", false);
}

static void sentencepiece_models_take_a_megabyte(void **state)
{
    check_all("sp_bpe.model", false);
    check_all("sp_unigram.model", false);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(byte_level_takes_a_megabyte),
    cmocka_unit_test(sentencepiece_json_takes_a_megabyte),
    cmocka_unit_test(sentencepiece_models_take_a_megabyte),
};
CHECK_MAIN(tests)
