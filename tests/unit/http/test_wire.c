#include "check.h"

#include <math.h>

#include <jansson.h>

#include "http/wire.h"

static const char source[] =
    "{\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
    "\"add_prefix_space\":false,\"use_regex\":true},\"post_processor\":null,"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":"
    "{\"a\":0,\"b\":1,\"\\\"\":2,\"\\u00c3\":3,\"\\u00a9\":4,\"\\u0120\":5}}}";

static struct tokenizer *open_tokenizer(void)
{
    struct tokenizer *t;
    struct moed_error err;
    assert_ok(tokenizer_parse(&t, TOKENIZER_HF_JSON, source, sizeof source - 1, NULL, 0, &err),
              &err);
    return t;
}

static json_t *parsed(struct buf *text)
{
    json_error_t error;
    json_t *value =
        json_loadb(text->data, text->len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (!value)
        fail_msg("%s: %s", error.text, text->data);
    buf_fini(text);
    return value;
}

static void logprobs_are_valid_json_with_each_name_once(void **state)
{
    struct tokenizer *t = open_tokenizer();
    struct moed_top top[] = {{3, -0.5F}, {4, -1.0F}, {2, -INFINITY}};
    struct moed_token tokens[] = {
        {.id = 0, .logprob = NAN},
        {.id = 3, .logprob = -0.5F, .n_top = 3, .top = top},
        {.id = 4, .logprob = -1.0F, .n_top = 3, .top = top},
        {.id = 1, .logprob = -7.0F, .n_top = 3, .top = top},
    };
    struct wire_style style = {.tokenizer = t, .n_top = 2};
    struct wire_logprobs l = {0};
    struct buf out = {0};
    wire_logprobs_add(&l, &style, tokens, 4);
    wire_logprobs_put(&out, &l, false);
    wire_logprobs_fini(&l);
    json_t *value = parsed(&out);
    json_t *tops = json_object_get(value, "top_logprobs");
    assert_true(json_is_null(json_array_get(tops, 0)));
    assert_int_equal(json_object_size(json_array_get(tops, 1)), 2);
    assert_int_equal(json_object_size(json_array_get(tops, 2)), 2);
    assert_int_equal(json_object_size(json_array_get(tops, 3)), 3); /* the chosen one beside them */
    json_t *offsets = json_object_get(value, "text_offset");
    static const int expected[] = {0, 1, 2, 2}; /* two tokens make one character */
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(json_integer_value(json_array_get(offsets, i)), expected[i]);
    json_decref(value);
    tokenizer_close(&t);
}

static void numbers_that_json_lacks_are_spelled_otherwise(void **state)
{
    struct buf out = {0};
    wire_logprob(&out, NAN);
    buf_putc(&out, ' ');
    wire_logprob(&out, -INFINITY);
    buf_putc(&out, ' ');
    wire_logprob(&out, -0.100000001F);
    assert_string_equal(buf_str(&out), "null -9999.0 -0.100000001");
    buf_fini(&out);
}

static void printed_logprobs_read_back_as_the_same_float(void **state)
{
    uint32_t seed = 1;
    for (int i = 0; i < 10000; i++) {
        seed = seed * 1664525u + 1013904223u;
        float x = -(float)seed / 4294967296.0F * 30.0F;
        struct buf out = {0};
        wire_logprob(&out, x);
        assert_true(strtof(out.data, NULL) == x);
        buf_fini(&out);
    }
}

static void a_chat_entry_has_its_bytes(void **state)
{
    struct tokenizer *t = open_tokenizer();
    struct moed_token token = {.id = 3, .logprob = -1};
    struct wire_style style = {.tokenizer = t, .chat = true};
    struct wire_logprobs l = {0};
    struct buf out = {0};
    wire_logprobs_add(&l, &style, &token, 1);
    wire_logprobs_put(&out, &l, true);
    wire_logprobs_fini(&l);
    json_t *value = parsed(&out);
    json_t *entry = json_array_get(json_object_get(value, "content"), 0);
    assert_string_equal(json_string_value(json_object_get(entry, "token")), "\xEF\xBF\xBD");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(entry, "bytes"), 0)), 0xC3);
    json_decref(value);
    tokenizer_close(&t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(logprobs_are_valid_json_with_each_name_once),
    cmocka_unit_test(numbers_that_json_lacks_are_spelled_otherwise),
    cmocka_unit_test(printed_logprobs_read_back_as_the_same_float),
    cmocka_unit_test(a_chat_entry_has_its_bytes),
};
CHECK_MAIN(tests)
