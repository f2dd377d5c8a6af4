#include "check.h"

#include "http/api.h"
#include "http/server.h"
#include "http/server_int.h"

static void each_parameter_stands_once_per_endpoint(void **state)
{
    for (unsigned endpoint = 1; endpoint <= API_TEMPLATE; endpoint <<= 1)
        for (size_t i = 0; i < n_param_rows; i++)
            for (size_t k = i + 1; k < n_param_rows; k++)
                if (param_rows[i].endpoints & param_rows[k].endpoints & endpoint)
                    if (strcmp(param_rows[i].name, param_rows[k].name) == 0)
                        fail_msg("%s stands twice", param_rows[i].name);
}

static void each_row_does_what_its_class_says(void **state)
{
    for (size_t i = 0; i < n_param_rows; i++) {
        const struct param_row *row = &param_rows[i];
        assert_true(row->name && row->doc && row->doc[0] && row->endpoints);
        assert_int_equal(row->take == NULL, row->class == PARAM_IGNORED);
    }
}

/* docs/api.md holds the tables between two marks. */
static void the_docs_hold_the_tables(void **state)
{
    static const char begin[] = "<!-- tables -->\n", end[] = "<!-- end of tables -->";
    struct buf tables = {0}, docs = {0};
    FILE *f = fopen(repo_path("docs/api.md"), "r");
    assert_non_null(f);
    char piece[4096];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, f)) > 0)
        buf_add(&docs, piece, n);
    fclose(f);
    http_print_docs(&tables);
    const char *from = strstr(buf_str(&docs), begin), *to = strstr(buf_str(&docs), end);
    assert_true(from && to && from < to);
    from += sizeof begin - 1;
    if ((size_t)(to - from) != tables.len || memcmp(from, tables.data, tables.len) != 0) {
        f = fopen("api_tables.md", "w");
        assert_non_null(f);
        fwrite(tables.data, 1, tables.len, f);
        fclose(f);
        fail_msg("docs/api.md differs from the tables, which are now in api_tables.md here");
    }
    buf_fini(&tables);
    buf_fini(&docs);
}

static void each_error_has_one_row(void **state)
{
    for (int code = MOED_EINVAL; code >= MOED_EINTERNAL; code--) {
        const struct error_row *row = error_row(code);
        assert_true(row->status >= 400 && row->status < 600);
        size_t same = 0;
        for (size_t i = 0; i < n_error_rows; i++)
            same += error_rows[i].code == code;
        assert_true(same <= 1);
    }
    /* What has no row of its own is the server's fault. */
    assert_int_equal(error_row(MOED_EIO)->status, 500);
    assert_int_equal(error_row(-1000)->status, 500);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(each_parameter_stands_once_per_endpoint),
    cmocka_unit_test(each_row_does_what_its_class_says),
    cmocka_unit_test(the_docs_hold_the_tables),
    cmocka_unit_test(each_error_has_one_row),
};
CHECK_MAIN(tests)
