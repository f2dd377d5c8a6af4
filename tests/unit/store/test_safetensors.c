/* Folders of safetensors files, good and bad: every error names the file and the tensor. */
#include "check.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "store/store.h"
#include "support_folder.h"

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

static int setup(void **state)
{
    struct folder *f = calloc(1, sizeof *f);
    folder_make(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    folder_remove(*state);
    free(*state);
    return 0;
}

/* Opening must fail with this code and these words. */
static void refused(const struct folder *f, int code, const char *word1, const char *word2)
{
    struct store *s = NULL;
    struct moed_error err = {0};
    int rc = store_open(&s, f->path, &err);
    if (rc != code || !strstr(err.text, word1) || !strstr(err.text, word2))
        fail_msg("wanted %d with \"%s\" and \"%s\", got %d: %s", code, word1, word2, rc, err.text);
    assert_null(s);
    assert_int_equal(err.code, code);
}

static void refused_header(const struct folder *f, int code, const char *header, size_t data_bytes,
                           const char *word)
{
    folder_tensors(f, "model.safetensors", header, data_bytes);
    refused(f, code, "model.safetensors", word);
}

static void a_single_file_gives_its_tensors(void **state)
{
    const struct folder *f = *state;
    struct store *s;
    struct moed_error err = {0};
    const struct tensor_ref *t;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "BF16", "[2,3]", "4", "16") "," T(
            "a", "F32", "[]", "0", "4") "," T("e", "F16", "[0,9]", "16",
                                              "16") "," T("i", "I64", "[1]", "16", "24") "}   ";
    folder_tensors(f, "model.safetensors", header, 24);
    assert_ok(store_open(&s, f->path, &err), &err);
    assert_false(store_is_dummy(s));
    assert_int_equal(store_count(s), 4);
    assert_int_equal(store_file_count(s), 1);
    assert_string_equal(store_at(s, 0)->name, "a");
    assert_string_equal(store_at(s, 1)->name, "b");
    assert_null(store_at(s, 4));
    assert_ok(store_expect(s, "b", 2, (const int64_t[]){2, 3}, DTYPE_F32, &t, &err), &err);
    assert_int_equal(t->dtype, DTYPE_BF16);
    assert_int_equal(t->bytes, 12);
    assert_int_equal(t->offset, 8 + strlen(header) + 4);
    assert_non_null(strstr(store_file_path(s, t->file), "/model.safetensors"));
    assert_ptr_equal(store_find(s, "b"), t);
    assert_null(store_find(s, "c"));

    assert_int_equal(store_expect(s, "b", 2, (const int64_t[]){3, 2}, DTYPE_F32, &t, &err),
                     MOED_EFORMAT);
    assert_non_null(strstr(err.text, "tensor b has shape [2, 3], the config asks for [3, 2]"));
    assert_int_equal(store_expect(s, "b", 1, (const int64_t[]){6}, DTYPE_F32, &t, &err),
                     MOED_EFORMAT);
    assert_int_equal(store_expect(s, "zz", 1, (const int64_t[]){6}, DTYPE_F32, &t, &err),
                     MOED_ENOTFOUND);
    assert_non_null(strstr(err.text, "tensor zz"));
    assert_string_equal(err.param, "zz");
    assert_int_equal(store_expect(s, "i", 1, (const int64_t[]){1}, DTYPE_F32, &t, &err),
                     MOED_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "tensor i is I64"));
    store_close(&s);
    assert_null(s);
}

static void offsets_are_checked(void **state)
{
    const struct folder *f = *state;
    refused_header(f, MOED_EFORMAT,
                   "{" T("one", "F32", "[2]", "0", "8") "," T("two", "F32", "[2]", "4", "12") "}",
                   12, "tensor two: overlaps with tensor one");
    refused_header(f, MOED_EFORMAT,
                   "{" T("one", "F32", "[2]", "0", "8") "," T("two", "F32", "[2]", "12", "20") "}",
                   20, "tensor two: a gap of 4 bytes");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2]", "4", "12") "}", 12,
                   "tensor one: a gap of 4 bytes");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2]", "0", "8") "}", 9,
                   "1 bytes behind the last tensor (one)");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[4]", "0", "16") "}", 15,
                   "tensor one: ends at data byte 16, the file has 15");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2]", "8", "0") "}", 8, "tensor one");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2]", "-8", "0") "}", 8, "tensor one");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2]", "0.5", "8") "}", 8, "tensor one");
    refused_header(f, MOED_EFORMAT,
                   "{\"one\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8,
                   "tensor one: data_offsets");
    refused_header(f, MOED_EFORMAT, "{\"one\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8,
                   "tensor one: data_offsets");
}

static void shapes_and_dtypes_are_checked(void **state)
{
    const struct folder *f = *state;
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[3]", "0", "8") "}", 8,
                   "tensor one: F32 of shape [3] takes 12 bytes, its offsets give 8");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F4", "[3]", "0", "1") "}", 1, "tensor one: F4");
    refused_header(f, MOED_EUNSUPPORTED, "{" T("one", "Q4_K", "[2]", "0", "8") "}", 8,
                   "tensor one: unknown dtype \"Q4_K\"");
    refused_header(f, MOED_ELIMIT, "{" T("one", "F32", "[4294967296,4294967296]", "0", "8") "}", 8,
                   "tensor one: shape [4294967296, 4294967296] is too large");
    refused_header(f, MOED_ELIMIT, "{" T("one", "F64", "[9223372036854775807]", "0", "8") "}", 8,
                   "tensor one");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[99999999999999999999]", "0", "8") "}", 8,
                   "integer");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[-2]", "0", "8") "}", 8, "tensor one");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[2.0]", "0", "8") "}", 8, "tensor one");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "{}", "0", "8") "}", 8,
                   "tensor one: shape");
    refused_header(f, MOED_ELIMIT, "{" T("one", "F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}", 8,
                   "tensor one: 9 dimensions");
    refused_header(f, MOED_EFORMAT, "{\"one\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                   "tensor one: no dtype");
    refused_header(f, MOED_EFORMAT, "{\"one\":[]}", 8, "tensor one");
}

static void headers_are_checked(void **state)
{
    const struct folder *f = *state;
    struct buf b = {0};
    refused_header(f, MOED_EFORMAT,
                   "{" T("one", "F32", "[1]", "0", "4") "," T("one", "F32", "[1]", "4", "8") "}", 8,
                   "duplicate object key near '\"one\"'");
    refused_header(f, MOED_EFORMAT, "{" T("one", "F32", "[1]", "0", "4"), 4, "line 1");
    refused_header(f, MOED_EFORMAT, "{} x", 0, "line 1");
    refused_header(f, MOED_EFORMAT, "[]", 0, "not a JSON object");
    refused_header(f, MOED_ELIMIT, "{\"a\":[[[[[]]]]]}", 0, "nested 6 deep");
    refused_header(f, MOED_ELIMIT, "{" T("", "F32", "[1]", "0", "4") "}", 4, "a name of 0 bytes");
    buf_puts(&b, "{\"");
    for (int i = 0; i < 300; i++)
        buf_putc(&b, 'n');
    buf_puts(&b, "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
    refused_header(f, MOED_ELIMIT, b.data, 4, "a name of 300 bytes");
    buf_fini(&b);

    folder_tensors_length(f, "model.safetensors", 100000001, "{}", 0);
    refused(f, MOED_ELIMIT, "model.safetensors", "header of 100000001 bytes, the limit");
    folder_tensors_length(f, "model.safetensors", UINT64_MAX, "{}", 0);
    refused(f, MOED_ELIMIT, "model.safetensors", "header of 18446744073709551615 bytes");
    folder_tensors_length(f, "model.safetensors", 3, "{}", 0);
    refused(f, MOED_EFORMAT, "model.safetensors", "header of 3 bytes in a file of 10");
    folder_text(f, "model.safetensors", "1234567");
    refused(f, MOED_EFORMAT, "model.safetensors", "7 bytes");
    folder_text(f, "model.safetensors", "");
    refused(f, MOED_EFORMAT, "model.safetensors", "0 bytes");
}

static void a_header_of_too_many_values_is_refused_before_it_is_parsed(void **state)
{
    const struct folder *f = *state;
    struct buf b = {0};
    buf_puts(&b, "{\"a\":[0");
    for (int i = 0; i < 6000000; i++)
        buf_puts(&b, ",0");
    buf_puts(&b, "]}");
    folder_tensors(f, "model.safetensors", b.data, 0);
    buf_fini(&b);
    refused(f, MOED_ELIMIT, "model.safetensors", "values, the limit is");
}

static const char shard1[] =
    "{" T("a", "F32", "[1]", "0", "4") "," T("b", "F32", "[1]", "4", "8") "}";
static const char shard2[] = "{" T("c", "F32", "[2]", "0", "8") "}";

static void shards_follow_the_index_through_symbolic_links(void **state)
{
    const struct folder *f = *state;
    struct store *s;
    struct moed_error err = {0};
    char from[600], to[600];
    /* As in a Hugging Face cache: blobs beside a snapshot of links. */
    snprintf(from, sizeof from, "%s/blobs", f->path);
    assert_int_equal(mkdir(from, 0700), 0);
    snprintf(from, sizeof from, "%s/snap", f->path);
    assert_int_equal(mkdir(from, 0700), 0);
    folder_tensors(f, "blobs/01", shard1, 8);
    folder_tensors(f, "blobs/02", shard2, 8);
    folder_text(f, "blobs/03",
                "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":"
                "\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}}");
    static const char *const names[] = {"m-1.safetensors", "m-2.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++) {
        snprintf(from, sizeof from, "../blobs/%02d", i + 1);
        snprintf(to, sizeof to, "%s/snap/%s", f->path, names[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/snap", f->path);
    assert_ok(store_open(&s, to, &err), &err);
    assert_int_equal(store_count(s), 3);
    assert_int_equal(store_file_count(s), 2);
    assert_string_equal(store_at(s, 2)->name, "c");
    assert_int_equal(store_find(s, "c")->file, 1);
    assert_int_equal(store_find(s, "b")->offset, 8 + strlen(shard1) + 4);
    store_close(&s);
}

static void refused_index(const struct folder *f, int code, const char *map, const char *word1,
                          const char *word2)
{
    struct buf b = {0};
    folder_tensors(f, "m-1.safetensors", shard1, 8);
    folder_tensors(f, "m-2.safetensors", shard2, 8);
    buf_printf(&b, "{\"weight_map\":%s}", map);
    folder_text(f, "model.safetensors.index.json", b.data);
    buf_fini(&b);
    refused(f, code, word1, word2);
}

static void an_index_that_disagrees_with_its_shards_is_refused(void **state)
{
    const struct folder *f = *state;
    refused_index(f, MOED_EFORMAT,
                  "{\"a\":\"m-1.safetensors\",\"b\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\","
                  "\"d\":\"m-2.safetensors\"}",
                  "tensor d is not in m-2.safetensors", "index.json");
    refused_index(f, MOED_EFORMAT, "{\"a\":\"m-1.safetensors\",\"c\":\"m-2.safetensors\"}",
                  "tensor b of m-1.safetensors is not in the index", "index.json");
    refused_index(f, MOED_EFORMAT,
                  "{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\",\"c\":\"m-2.safetensors\"}",
                  "tensor b is in m-1.safetensors, the index says m-2.safetensors", "index.json");
    refused_index(f, MOED_ENOTFOUND, "{\"a\":\"m-3.safetensors\"}", "m-3.safetensors", "No such");
    refused_index(f, MOED_EFORMAT, "{\"a\":\"../m-1.safetensors\"}", "tensor a",
                  "\"../m-1.safetensors\" is not the name");
    refused_index(f, MOED_EFORMAT, "{\"a\":\"m-1.bin\"}", "tensor a", "m-1.bin");
    refused_index(f, MOED_EFORMAT, "{\"a\":1}", "tensor a", "index.json");
    refused_index(f, MOED_EFORMAT, "{}", "0 files", "index.json");
    refused_index(f, MOED_EFORMAT, "[]", "no weight_map", "index.json");
}

/* However many threads read the headers, the first file in their order that is broken is told. */
static void the_first_of_several_broken_shards_is_told(void **state)
{
    enum { SHARDS = 40, ROUNDS = 20 };
    const struct folder *f = *state;
    char map[SHARDS * 64] = "{", name[32];
    for (int i = 0; i < SHARDS; i++) {
        char tensor[16], header[128];
        snprintf(name, sizeof name, "s%02d.safetensors", i);
        snprintf(tensor, sizeof tensor, "t%02d", i);
        snprintf(header, sizeof header,
                 "{\"%s\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[0,4]}}", tensor,
                 i < 13 || i % 3 == 0 ? 4 : 5);
        folder_tensors(f, name, header, 4);
        snprintf(map + strlen(map), sizeof map - strlen(map), "%s\"%s\":\"%s\"", i ? "," : "",
                 tensor, name);
    }
    strcat(map, "}");
    for (int i = 0; i < ROUNDS; i++)
        refused_index(f, MOED_EFORMAT, map, "/s13.safetensors", "tensor t13");
    folder_text(f, "s07.safetensors", "short");
    for (int i = 0; i < ROUNDS; i++)
        refused_index(f, MOED_EFORMAT, map, "/s07.safetensors", "truncated");
}

static void a_tensor_in_two_shards_is_refused(void **state)
{
    const struct folder *f = *state;
    folder_tensors(f, "m-1.safetensors", shard1, 8);
    folder_tensors(f, "m-2.safetensors", shard1, 8);
    folder_text(f, "model.safetensors.index.json",
                "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    refused(f, MOED_EFORMAT, "tensor a is in both", "m-2.safetensors");
}

static void a_folder_without_tensors_says_what_was_looked_for(void **state)
{
    const struct folder *f = *state;
    char path[512];
    refused(f, MOED_ENOTFOUND, "model.safetensors", "model.safetensors.index.json");
    snprintf(path, sizeof path, "%s/model.safetensors", f->path);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused(f, MOED_EIO, "model.safetensors", "not a regular file");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    refused(f, MOED_EIO, "model.safetensors", "not a regular file");
}

static void json_files_have_limits(void **state)
{
    const struct folder *f = *state;
    struct moed_error err = {0};
    struct buf b = {0};
    json_t *json;
    folder_text(f, "config.json", "{\"a\": [1, {\"b\": \"]]\\\"}\"}]}");
    assert_ok(store_read_json(&json, f->path, "config.json", &err), &err);
    assert_int_equal(json_object_size(json), 1);
    json_decref(json);

    assert_int_equal(store_read_json(&json, f->path, "none.json", &err), MOED_ENOTFOUND);
    assert_non_null(strstr(err.text, "none.json"));
    folder_text(f, "config.json", "{\"a\": 1, \"a\": 2}");
    assert_int_equal(store_read_json(&json, f->path, "config.json", &err), MOED_EFORMAT);
    assert_non_null(strstr(err.text, "duplicate"));
    folder_text(f, "config.json", "{\n\"a\": 1,\n}");
    assert_int_equal(store_read_json(&json, f->path, "config.json", &err), MOED_EFORMAT);
    assert_non_null(strstr(err.text, "config.json: line 3"));
    folder_text(f, "config.json", "[]");
    assert_int_equal(store_read_json(&json, f->path, "config.json", &err), MOED_EFORMAT);
    for (int depth = 64; depth <= 65; depth++) {
        buf_truncate(&b, 0);
        buf_puts(&b, "{\"a\":");
        for (int i = 1; i < depth; i++)
            buf_putc(&b, '[');
        for (int i = 1; i < depth; i++)
            buf_putc(&b, ']');
        buf_putc(&b, '}');
        folder_text(f, "config.json", b.data);
        int rc = store_read_json(&json, f->path, "config.json", &err);
        assert_int_equal(rc, depth == 64 ? 0 : MOED_ELIMIT);
        json_decref(json);
    }
    buf_fini(&b);
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", f->path);
    assert_int_equal(truncate(path, ((off_t)64 << 20) + 1), 0);
    assert_int_equal(store_read_json(&json, f->path, "config.json", &err), MOED_ELIMIT);
}

static void a_trained_model_opens(void **state)
{
    struct store *s;
    struct moed_error err = {0};
    const struct tensor_ref *t;
    assert_ok(store_open(&s, data_path("models/stories260K"), &err), &err);
    assert_ok(store_expect(s, "model.embed_tokens.weight", 2, (const int64_t[]){512, 64}, DTYPE_F32,
                           &t, &err),
              &err);
    store_close(&s);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(a_single_file_gives_its_tensors, setup, teardown),
    cmocka_unit_test_setup_teardown(offsets_are_checked, setup, teardown),
    cmocka_unit_test_setup_teardown(shapes_and_dtypes_are_checked, setup, teardown),
    cmocka_unit_test_setup_teardown(headers_are_checked, setup, teardown),
    cmocka_unit_test_setup_teardown(a_header_of_too_many_values_is_refused_before_it_is_parsed,
                                    setup, teardown),
    cmocka_unit_test_setup_teardown(shards_follow_the_index_through_symbolic_links, setup,
                                    teardown),
    cmocka_unit_test_setup_teardown(an_index_that_disagrees_with_its_shards_is_refused, setup,
                                    teardown),
    cmocka_unit_test_setup_teardown(the_first_of_several_broken_shards_is_told, setup, teardown),
    cmocka_unit_test_setup_teardown(a_tensor_in_two_shards_is_refused, setup, teardown),
    cmocka_unit_test_setup_teardown(a_folder_without_tensors_says_what_was_looked_for, setup,
                                    teardown),
    cmocka_unit_test_setup_teardown(json_files_have_limits, setup, teardown),
    cmocka_unit_test(a_trained_model_opens),
};
CHECK_MAIN(tests)
