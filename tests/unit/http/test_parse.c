#include "check.h"

#include "http/parse.h"

static int64_t parse(struct http_head *head, const char *text, struct http_fault *fault)
{
    size_t scanned = 0;
    return http_parse_head(head, text, strlen(text), 4096, &scanned, fault);
}

static void assert_slice(struct http_slice s, const char *text)
{
    if (!http_slice_is(s, text))
        fail_msg("'%.*s' is not '%s'", (int)s.n, s.at ? s.at : "", text);
}

static void a_head_is_taken_apart(void **state)
{
    struct http_head head;
    struct http_fault fault;
    const char *text = "\r\nPOST /a%20b?c=d&e HTTP/1.1\r\nHost: x\r\nContent-Length:  12 \r\n"
                       "X-Empty:\r\nEXPECT: 100-Continue\r\n\r\nbody";
    assert_int_equal(parse(&head, text, &fault), strlen(text) - 4);
    assert_int_equal(head.method, HTTP_POST);
    assert_slice(head.path, "/a%20b");
    assert_slice(head.query, "c=d&e");
    assert_int_equal(head.content_length, 12);
    assert_true(head.expect_continue && head.keep_alive && !head.chunked);
    assert_int_equal(head.n_headers, 4);
    assert_slice(http_header(&head, "x-EMPTY"), "");
    assert_null(http_header(&head, "absent").at);
}

static void connections_stay_open_as_the_version_says(void **state)
{
    static const struct {
        const char *text;
        bool keep;
    } cases[] = {
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade , close\r\n\r\n", false},
        {"GET / HTTP/1.1\r\nHost: x\r\nConnection: closer\r\n\r\n", true},
        {"GET / HTTP/1.0\r\n\r\n", false},
        {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct http_head head;
        struct http_fault fault;
        assert_true(parse(&head, cases[i].text, &fault) > 0);
        assert_int_equal(head.keep_alive, cases[i].keep);
    }
}

static void an_absolute_target_loses_its_host(void **state)
{
    struct http_head head;
    struct http_fault fault;
    assert_true(parse(&head, "GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n", &fault) > 0);
    assert_slice(head.path, "/p");
    assert_slice(head.query, "q");
    assert_true(parse(&head, "GET HTTP://h HTTP/1.1\r\nHost: h\r\n\r\n", &fault) > 0);
    assert_slice(head.path, "/");
    assert_true(parse(&head, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", &fault) > 0);
    assert_slice(head.path, "*");
    assert_int_equal(parse(&head, "GET * HTTP/1.1\r\nHost: h\r\n\r\n", &fault), -1);
}

static void faults_are_told_as_early_as_they_show(void **state)
{
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {"\x16\x03", 400},           {"GET / HTTP/1.1\n", 400},      {"GET /\r\n", 400},
        {"GET / HTTP/3.0\r\n", 505}, {"G\xC3T / HTTP/1.1\r\n", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct http_head head;
        struct http_fault fault;
        assert_int_equal(parse(&head, cases[i].text, &fault), -1);
        assert_int_equal(fault.status, cases[i].status);
    }
}

static void unfinished_heads_wait(void **state)
{
    const char *text = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    for (size_t n = 0; n < strlen(text); n++) {
        struct http_head head;
        struct http_fault fault;
        size_t scanned = 0;
        assert_int_equal(http_parse_head(&head, text, n, 4096, &scanned, &fault), 0);
    }
}

static void the_limit_on_bytes_holds_for_whole_and_unfinished_heads(void **state)
{
    struct http_head head;
    struct http_fault fault;
    size_t scanned = 0;
    const char *text = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    size_t n = strlen(text);
    assert_int_equal(http_parse_head(&head, text, n, n, &scanned, &fault), n);
    scanned = 0;
    assert_int_equal(http_parse_head(&head, text, n, n - 1, &scanned, &fault), -1);
    assert_int_equal(fault.status, 431);
    scanned = 0;
    assert_int_equal(http_parse_head(&head, text, n - 1, n - 2, &scanned, &fault), -1);
    assert_int_equal(fault.status, 431);
}

static void percent_escapes_are_decoded(void **state)
{
    char good[] = "/a%2Fb%c3%A9";
    int64_t n = http_percent_decode(good, strlen(good));
    assert_int_equal(n, 6);
    assert_memory_equal(good, "/a/b\xC3\xA9", 6);
    static const char *const bad[] = {"%", "%a", "%zz", "%00", "a%4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char copy[8];
        snprintf(copy, sizeof copy, "%s", bad[i]);
        assert_int_equal(http_percent_decode(copy, strlen(copy)), -1);
    }
}

static void chunks_come_out_whole_however_they_are_cut(void **state)
{
    const char *text = "5\r\nhello\r\n00A ; x=y\r\n0123456789\r\n0\r\nA: b\r\nC: d\r\n\r\nGET";
    for (size_t step = 1; step < 20; step++) {
        struct http_chunks chunks = {0};
        struct http_fault fault;
        char out[64];
        size_t n_out = 0, at = 0;
        bool done = false;
        while (!done) {
            struct http_slice data;
            size_t give = strlen(text) - at < step ? strlen(text) - at : step;
            int64_t used = http_chunks_take(&chunks, text + at, give, &data, &done, &fault);
            assert_true(used > 0);
            if (data.n)
                memcpy(out + n_out, data.at, data.n);
            n_out += data.n;
            at += (size_t)used;
        }
        assert_int_equal(n_out, 15);
        assert_memory_equal(out, "hello0123456789", 15);
        assert_string_equal(text + at, "GET");
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_head_is_taken_apart),
    cmocka_unit_test(connections_stay_open_as_the_version_says),
    cmocka_unit_test(an_absolute_target_loses_its_host),
    cmocka_unit_test(faults_are_told_as_early_as_they_show),
    cmocka_unit_test(unfinished_heads_wait),
    cmocka_unit_test(the_limit_on_bytes_holds_for_whole_and_unfinished_heads),
    cmocka_unit_test(percent_escapes_are_decoded),
    cmocka_unit_test(chunks_come_out_whole_however_they_are_cut),
};
CHECK_MAIN(tests)
