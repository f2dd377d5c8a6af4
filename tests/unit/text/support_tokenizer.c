#include "unit/text/support_tokenizer.h"

#include "check.h"

#include <jansson.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"

void support_read(struct buf *out, const char *path)
{
    char *packed = mem_printf("%s.xz", path), *command = mem_printf("xz -dc '%s.xz'", path);
    int is_packed = access(path, R_OK) != 0 && access(packed, R_OK) == 0;
    FILE *f = is_packed ? popen(command, "r") : fopen(path, "rb");
    if (!f)
        fail_msg("cannot read %s", path);
    char bytes[65536];
    size_t n;
    while ((n = fread(bytes, 1, sizeof bytes, f)) > 0)
        buf_add(out, bytes, n);
    assert_int_equal(is_packed ? pclose(f) : fclose(f), 0);
    free(packed);
    free(command);
}

struct tokenizer *support_tokenizer(const char *path, const char *config)
{
    struct tokenizer *t;
    struct moed_error err = {0};
    struct buf bytes = {0}, settings = {0};
    support_read(&bytes, path);
    if (config)
        support_read(&settings, config);
    assert_ok(tokenizer_parse(&t, TOKENIZER_AUTO, buf_str(&bytes), bytes.len,
                              config ? buf_str(&settings) : NULL, settings.len, &err),
              &err);
    buf_fini(&bytes);
    buf_fini(&settings);
    return t;
}

void support_stream(const struct tokenizer *t, const int32_t *ids, size_t n, unsigned flags,
                    struct buf *out)
{
    struct detokenizer *d;
    const char *text;
    size_t len;
    detokenizer_open(&d, t, flags);
    for (size_t i = 0; i <= n; i++) {
        if (i < n)
            detokenizer_push(d, ids[i], &text, &len);
        else
            detokenizer_finish(d, &text, &len);
        assert_int_equal(utf8_valid_prefix(text, len), len);
        buf_add(out, text, len);
    }
    detokenizer_close(&d);
}

static void check_decoded(const struct tokenizer *t, const json_t *item, const struct tokens *ids,
                          size_t line)
{
    const json_t *decoded = json_object_get(item, "decoded");
    if (!decoded)
        return;
    struct buf once = {0}, streamed = {0};
    tokenizer_decode(t, ids->ids, ids->n, 0, &once);
    support_stream(t, ids->ids, ids->n, 0, &streamed);
    if (once.len != json_string_length(decoded) ||
        memcmp(buf_str(&once), json_string_value(decoded), once.len) != 0)
        fail_msg("line %zu: decoded '%s', not '%s'", line, buf_str(&once),
                 json_string_value(decoded));
    assert_int_equal(once.len, streamed.len);
    assert_memory_equal(buf_str(&once), buf_str(&streamed), once.len);
    buf_fini(&once);
    buf_fini(&streamed);
}

static void check_case(const struct tokenizer *t, const json_t *item, unsigned flags, size_t line)
{
    const json_t *text = json_object_get(item, "text"), *want = json_object_get(item, "ids");
    const json_t *own_flags = json_object_get(item, "flags");
    struct tokens got = {0};
    struct moed_error err = {0};
    if (own_flags)
        flags = (unsigned)json_integer_value(own_flags);
    assert_ok(tokenizer_encode(t, json_string_value(text), json_string_length(text), flags, 0, &got,
                               &err),
              &err);
    for (size_t i = 0; i < got.n || i < json_array_size(want); i++) {
        int expected = (int)json_integer_value(json_array_get(want, i));
        if (i >= got.n || i >= json_array_size(want) || got.ids[i] != expected)
            fail_msg("line %zu, '%.100s': token %zu of %zu is %d, not %d of %zu", line,
                     json_string_value(text), i, got.n, i < got.n ? got.ids[i] : -1, expected,
                     json_array_size(want));
    }
    check_decoded(t, item, &got, line);
    tokens_fini(&got);
}

size_t support_check_cases(const struct tokenizer *t, const char *path, unsigned flags)
{
    struct buf bytes = {0};
    size_t n = 0;
    support_read(&bytes, path);
    for (const char *at = buf_str(&bytes), *end = at + bytes.len; at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((newline ? newline : end) - at);
        json_error_t why;
        json_t *item = json_loadb(at, len, JSON_ALLOW_NUL, &why);
        if (!item)
            fail_msg("%s, line %zu: %s", path, n + 1, why.text);
        check_case(t, item, flags, ++n);
        json_decref(item);
        at += len + 1;
    }
    buf_fini(&bytes);
    return n;
}
