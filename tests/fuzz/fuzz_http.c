/* Whatever bytes come: a head or a fault, and the same one however the bytes are cut; then a
 * chunked body. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "http/parse.h"

#define MAX_BYTES 4096

static void check_slice(struct http_slice s, const char *bytes, size_t n)
{
    if (s.at && s.n && !(s.n == 1 && *s.at == '/')) /* an absolute target may have no path */
        assert(s.at >= bytes && s.at + s.n <= bytes + n);
}

static void decode_chunks(const char *bytes, size_t n, size_t step, struct buf *out, int *outcome)
{
    struct http_chunks chunks = {0};
    struct http_fault fault = {0};
    bool done = false;
    size_t at = 0;
    *outcome = 0;
    while (at < n && !done) {
        size_t give = n - at < step ? n - at : step;
        struct http_slice data;
        int64_t used = http_chunks_take(&chunks, bytes + at, give, &data, &done, &fault);
        if (used < 0) {
            assert(fault.status >= 400);
            *outcome = fault.status;
            return;
        }
        assert((size_t)used <= give && (used > 0 || done));
        if (data.n)
            buf_add(out, data.at, data.n);
        at += (size_t)used;
    }
    *outcome = done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_head head, again;
    struct http_fault fault = {0}, other = {0};
    /* A copy of the exact size, so that reading past the end is seen. */
    char *bytes = malloc(size + 1);
    memcpy(bytes, data, size);
    size_t scanned = 0;
    int64_t whole = http_parse_head(&head, bytes, size, MAX_BYTES, &scanned, &fault);
    if (whole > 0) {
        assert((size_t)whole <= size && whole <= MAX_BYTES);
        check_slice(head.path, bytes, size);
        check_slice(head.query, bytes, size);
        for (size_t i = 0; i < head.n_headers; i++) {
            check_slice(head.headers[i].name, bytes, size);
            check_slice(head.headers[i].value, bytes, size);
        }
        assert(!head.chunked || head.content_length == HTTP_NO_LENGTH);
    }
    /* A byte at a time: as many bytes, or a fault too. */
    int64_t cut = 0;
    scanned = 0;
    for (size_t n = 1; n <= size && cut == 0; n++)
        cut = http_parse_head(&again, bytes, n, MAX_BYTES, &scanned, &other);
    assert(whole <= 0 || cut == whole);
    assert(whole >= 0 || cut < 0);
    size_t from = whole > 0 ? (size_t)whole : 0;
    struct buf one = {0}, many = {0};
    int outcome, same;
    decode_chunks(bytes + from, size - from, size + 1, &one, &outcome);
    decode_chunks(bytes + from, size - from, 1, &many, &same);
    assert(outcome == same && one.len == many.len &&
           memcmp(buf_str(&one), buf_str(&many), one.len) == 0);
    int64_t decoded = http_percent_decode(bytes, size);
    assert(decoded <= (int64_t)size);
    buf_fini(&one);
    buf_fini(&many);
    free(bytes);
    return 0;
}
