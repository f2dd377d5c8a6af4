/* The tokenizer's promises, on vocabularies small enough to read. */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

#include "base/utf8.h"
#include "unit/text/support_tokenizer.h"

/* Byte-level BPE: Ġ is the space, Ã the byte C3, ī the byte 89; "hi" is one token, " hi" too. */
static const char byte_level[] =
    "{\"added_tokens\":[{\"id\":10,\"content\":\"<|end|>\",\"special\":true},"
    "{\"id\":11,\"content\":\"<tool>\",\"special\":false,\"normalized\":false,\"lstrip\":true}],"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
    "{\"SpecialToken\":{\"id\":\"<|end|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\"}}],"
    "\"special_tokens\":{\"<|end|>\":{\"id\":\"<|end|>\",\"ids\":[10]}}},"
    "\"truncation\":{\"max_length\":3},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"h\":0,\"i\":1,\"Ġ\":2,\"hi\":3,\"Ġhi\":4,\"Ã\":5,"
    "\"ī\":6,\"!\":7},\"merges\":[\"h i\",\"Ġ hi\"]}}";

static struct tokenizer *open_text(const char *json, const char *config)
{
    struct tokenizer *t;
    struct moed_error err = {0};
    assert_ok(tokenizer_parse(&t, TOKENIZER_AUTO, json, strlen(json), config,
                              config ? strlen(config) : 0, &err),
              &err);
    return t;
}

static void check_ids(const struct tokenizer *t, const char *text, unsigned flags,
                      const int32_t *ids, size_t n)
{
    struct tokens got = {0};
    struct moed_error err = {0};
    assert_ok(tokenizer_encode(t, text, strlen(text), flags, 0, &got, &err), &err);
    assert_int_equal(got.n, n);
    if (n)
        assert_memory_equal(got.ids, ids, n * sizeof *ids);
    tokens_fini(&got);
}

#define CHECK_IDS(t, text, flags, ...)                                                             \
    check_ids(t, text, flags, (const int32_t[]){__VA_ARGS__},                                      \
              sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t))

static void encodes_with_and_without_special_tokens(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    CHECK_IDS(t, "hi hi", 0, 3, 4);
    CHECK_IDS(t, "hi hi", TOKENIZER_ADD_SPECIAL, 10, 3, 4);
    CHECK_IDS(t, "hi<|end|>hi", TOKENIZER_PARSE_SPECIAL, 3, 10, 3);
    CHECK_IDS(t, "hi<|end|>!", 0, 3, 7); /* what has no piece is left out */
    CHECK_IDS(t, "hi  <tool>hi", 0, 3, 11, 3);
    check_ids(t, "", 0, NULL, 0);
    CHECK_IDS(t, "", TOKENIZER_ADD_SPECIAL, 10);
    tokenizer_close(&t);
}

static void limits_the_number_of_tokens(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    struct tokens got = {0};
    struct moed_error err = {0};
    assert_ok(tokenizer_encode(t, "hi hi", 5, 0, 2, &got, &err), &err);
    assert_int_equal(tokenizer_encode(t, "hi hi hi", 8, 0, 2, &got, &err), MOED_ELIMIT);
    assert_int_equal(got.n, 2); /* as before the failed call */
    tokens_fini(&got);
    tokenizer_close(&t);
}

static void names_pieces_and_their_bytes(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    size_t n;
    assert_int_equal(tokenizer_vocab_size(t), 12);
    assert_string_equal(tokenizer_piece(t, 4, &n), "\xC4\xA0hi");
    assert_int_equal(n, 4);
    assert_string_equal(tokenizer_token_bytes(t, 4, &n), " hi");
    assert_string_equal(tokenizer_token_bytes(t, 5, &n), "\xC3");
    assert_string_equal(tokenizer_token_bytes(t, 10, &n), "<|end|>");
    assert_null(tokenizer_piece(t, 8, &n));
    assert_null(tokenizer_piece(t, -1, &n));
    assert_null(tokenizer_piece(t, 12, &n));
    assert_int_equal(tokenizer_id(t, "\xC4\xA0hi", 4), 4);
    assert_int_equal(tokenizer_id(t, "<tool>", 6), 11);
    assert_int_equal(tokenizer_id(t, "hello", 5), -1);
    assert_true(tokenizer_is_special(t, 10));
    assert_false(tokenizer_is_special(t, 11));
    assert_false(tokenizer_is_special(t, 99));
    assert_non_null(strstr(tokenizer_describe(t), "byte-level BPE, 8 pieces, 2 added tokens"));
    assert_non_null(strstr(tokenizer_describe(t), "ignored settings: truncation"));
    tokenizer_close(&t);
}

static void takes_bos_and_eos_from_the_configuration(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    assert_int_equal(tokenizer_bos(t), 10); /* from the template */
    assert_int_equal(tokenizer_eos(t), -1);
    tokenizer_close(&t);
    t = open_text(byte_level, "{\"bos_token\":null,\"eos_token\":{\"content\":\"<|end|>\"},"
                              "\"model_max_length\":1000000000000000019884624838656}");
    assert_int_equal(tokenizer_eos(t), 10);
    tokenizer_close(&t);
    /* A string that the vocabulary lacks warns, and does not refuse. */
    t = open_text(byte_level, "{\"eos_token\":\"<nothing>\"}");
    assert_int_equal(tokenizer_eos(t), -1);
    tokenizer_close(&t);
    t = open_text(byte_level, "{\"added_tokens_decoder\":{\"20\":{\"content\":\"<x>\","
                              "\"special\":true}}}");
    assert_int_equal(tokenizer_vocab_size(t), 21);
    CHECK_IDS(t, "<x>hi", TOKENIZER_PARSE_SPECIAL, 20, 3);
    tokenizer_close(&t);
}

static void streams_whole_characters(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    struct detokenizer *d;
    const char *text;
    size_t n;
    detokenizer_open(&d, t, DETOKENIZER_SKIP_SPECIAL);
    detokenizer_push(d, 5, &text, &n); /* C3: the first half of É */
    assert_int_equal(n, 0);
    detokenizer_push(d, 10, &text, &n); /* skipped, and does not break the character */
    assert_int_equal(n, 0);
    detokenizer_push(d, 6, &text, &n);
    assert_string_equal(text, "\xC3\x89");
    detokenizer_push(d, 5, &text, &n);
    detokenizer_push(d, 4, &text, &n); /* no second half: U+FFFD */
    assert_string_equal(text, "\xEF\xBF\xBD hi");
    detokenizer_push(d, 99, &text, &n); /* no such token */
    assert_int_equal(n, 0);
    detokenizer_push(d, 5, &text, &n);
    detokenizer_finish(d, &text, &n);
    assert_string_equal(text, "\xEF\xBF\xBD");
    detokenizer_close(&d);
    assert_null(d);
    tokenizer_close(&t);
}

static void invalid_bytes_become_replacement_characters(void **state)
{
    struct tokenizer *t = open_text(
        "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
        "\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xC3\xAF\":0,\"\xC2\xBF\":1,\"\xC2\xBD\":2,"
        "\"h\":3},\"merges\":[]}}",
        NULL);
    CHECK_IDS(t, "h\xFFh", 0, 3, 0, 1, 2, 3);
    CHECK_IDS(t, "\xE2\x82h", 0, 0, 1, 2, 3); /* one for a sequence that breaks off */
    tokenizer_close(&t);
}

struct reader {
    const struct tokenizer *t;
    pthread_t thread;
    size_t n_ids;
};

static void *read_long_text(void *arg)
{
    struct reader *r = arg;
    struct tokens ids = {0};
    struct buf text = {0}, decoded = {0};
    struct moed_error err;
    for (int i = 0; i < 400; i++)
        buf_puts(&text, "hi hihi hi<tool>! hi");
    for (int i = 0; i < 10; i++) {
        ids.n = 0;
        buf_truncate(&decoded, 0);
        tokenizer_encode(r->t, buf_str(&text), text.len, TOKENIZER_PARSE_SPECIAL, 0, &ids, &err);
        tokenizer_decode(r->t, ids.ids, ids.n, 0, &decoded);
    }
    r->n_ids = decoded.len == text.len ? ids.n : 0;
    tokens_fini(&ids);
    buf_fini(&text);
    buf_fini(&decoded);
    return NULL;
}

static void serves_several_threads_at_once(void **state)
{
    struct tokenizer *t = open_text(byte_level, NULL);
    struct reader readers[4];
    for (int i = 0; i < 4; i++) {
        readers[i] = (struct reader){.t = t};
        assert_int_equal(pthread_create(&readers[i].thread, NULL, read_long_text, &readers[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(readers[i].thread, NULL);
    assert_int_equal(readers[0].n_ids, 400 * 7);
    for (int i = 1; i < 4; i++)
        assert_int_equal(readers[i].n_ids, readers[0].n_ids);
    tokenizer_close(&t);
}

static void finds_the_tokenizer_of_a_folder(void **state)
{
    char folder[] = "/tmp/moed-tokenizer-XXXXXX", path[128];
    struct tokenizer *t;
    struct moed_error err = {0};
    assert_non_null(mkdtemp(folder));
    assert_int_equal(tokenizer_open(&t, folder, &err), MOED_ENOTFOUND);
    assert_null(t);
    const struct {
        const char *name, *text;
    } files[] = {
        {"tokenizer.json", byte_level},
        {"tokenizer_config.json", "{\"eos_token\":\"<tool>\"}"},
        {"other.tiktoken", "damaged"},
    };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
        FILE *f = fopen(path, "w");
        fputs(files[i].text, f);
        fclose(f);
    }
    assert_ok(tokenizer_open(&t, folder, &err), &err);
    assert_int_equal(tokenizer_eos(t), 11);
    tokenizer_close(&t);
    assert_int_equal(tokenizer_open(&t, path, &err), MOED_EFORMAT); /* the last, damaged one */
    assert_non_null(strstr(err.text, "other.tiktoken"));
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, files[i].name);
        remove(path);
    }
    remove(folder);
}

static void refuses_what_it_cannot_do(void **state)
{
    static const struct {
        const char *json, *words;
        int code;
    } cases[] = {
        {"{", "JSON", MOED_EFORMAT},
        {"{}", "'model' is missing", MOED_EFORMAT},
        {"{\"model\":{\"type\":\"BPE\"}}", "'model.vocab' is missing", MOED_EFORMAT},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece", MOED_EUNSUPPORTED},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
         "not in the vocabulary", MOED_EFORMAT},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4194304}}}", "limit", MOED_ELIMIT},
        {"{\"normalizer\":{\"type\":\"Odd\"},\"model\":{\"vocab\":{\"a\":0}}}", "Odd",
         MOED_EUNSUPPORTED},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
         "\"Isolated\"},\"model\":{\"vocab\":{\"a\":0}}}",
         "regular expression", MOED_EFORMAT},
        {"{\"model\":{\"vocab\":{\"\\q\":0}}}", "escape", MOED_EFORMAT},
        {"{\"model\":{\"vocab\":{\"\xFF\":0}}}", "UTF-8", MOED_EFORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokenizer *t;
        struct moed_error err = {0};
        int rc = tokenizer_parse(&t, TOKENIZER_HF_JSON, cases[i].json, strlen(cases[i].json), NULL,
                                 0, &err);
        if (rc != cases[i].code || !strstr(err.text, cases[i].words))
            fail_msg("case %zu: %d, %s", i, rc, err.text);
        assert_null(t);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(encodes_with_and_without_special_tokens),
    cmocka_unit_test(limits_the_number_of_tokens),
    cmocka_unit_test(names_pieces_and_their_bytes),
    cmocka_unit_test(takes_bos_and_eos_from_the_configuration),
    cmocka_unit_test(streams_whole_characters),
    cmocka_unit_test(invalid_bytes_become_replacement_characters),
    cmocka_unit_test(serves_several_threads_at_once),
    cmocka_unit_test(finds_the_tokenizer_of_a_folder),
    cmocka_unit_test(refuses_what_it_cannot_do),
};
CHECK_MAIN(tests)
