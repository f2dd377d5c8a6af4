/* Hostile text: twice the text takes about twice the time, up to a megabyte. */
#include "check.h"

#include <malloc.h>
#include <time.h>

#include "base/mem.h"
#include "unit/text/support_tokenizer.h"

enum { LARGEST_BYTES = 1 << 20 };

/* What doubling may cost, and how often a measurement may be taken again: other work on the
 * machine only ever makes a call slower. */
static const double MAX_RATIO = 2.3;
enum { TRIES = 12 };

static double seconds_of(const struct tokenizer *t, const char *text, size_t n)
{
    struct tokens ids = {0};
    struct moed_error err = {0};
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    assert_ok(tokenizer_encode(t, text, n, TOKENIZER_PARSE_SPECIAL, 0, &ids, &err), &err);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    tokens_fini(&ids);
    return (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
}

/* The text repeats `unit`. */
static void check_text(const struct tokenizer *t, const char *name, const char *unit)
{
    size_t n_unit = strlen(unit);
    char *text = mem_new(LARGEST_BYTES + n_unit, 1);
    for (size_t n = 0; n < LARGEST_BYTES; n += n_unit)
        memcpy(text + n, unit, n_unit);
    for (size_t n = LARGEST_BYTES / 4; n < LARGEST_BYTES; n *= 2) {
        double once = 1e9, twice = 1e9;
        size_t begin = n / n_unit * n_unit;
        for (int i = 0; i < TRIES && (i < 2 || twice > MAX_RATIO * once); i++) {
            double a = seconds_of(t, text, begin), b = seconds_of(t, text, 2 * begin);
            once = a < once ? a : once;
            twice = b < twice ? b : twice;
        }
        if (twice > MAX_RATIO * once)
            fail_msg("%s, '%s': %zu bytes take %.1f ms, %zu take %.1f ms", name, unit, begin,
                     1e3 * once, 2 * begin, 1e3 * twice);
    }
    free(text);
}

/* The heap keeps its pages: whether it gives them back and must fault them in again depends on
 * sizes just here or there of its thresholds, which would blur what is measured. */
static void keep_pages(void)
{
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, INT32_MAX);
    mallopt(M_TOP_PAD, 64 << 20);
}

static void check_all(const char *name, const char *const *units)
{
    keep_pages();
    char *path = mem_printf("%s/%s", repo_path("tests/data/tokenizers"), name);
    struct tokenizer *t = support_tokenizer(path, NULL);
    for (; *units; units++)
        check_text(t, name, *units);
    tokenizer_close(&t);
    free(path);
}

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
    NULL,
};

static void byte_level_time_is_linear(void **state)
{
    check_all("byte_bpe_nfc.json", units);
    check_all("byte_bpe_ignore_merges.json", units);
}

static void three_splits_time_is_linear(void **state)
{
    check_all("byte_bpe_three_splits.json", units);
}

static void sentencepiece_json_time_is_linear(void **state)
{
    check_all("llama_legacy.json", units);
    check_all("unigram.json", units);
}

static void sentencepiece_model_time_is_linear(void **state)
{
    check_all("sp_bpe.model", units);
    check_all("sp_unigram.model", units);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(byte_level_time_is_linear),
    cmocka_unit_test(three_splits_time_is_linear),
    cmocka_unit_test(sentencepiece_json_time_is_linear),
    cmocka_unit_test(sentencepiece_model_time_is_linear),
};
CHECK_MAIN(tests)
