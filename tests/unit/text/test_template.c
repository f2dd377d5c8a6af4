/* What a template may cost, and what its failures say. */
#include "check.h"
#include "unit/text/support_template.h"

#include "base/buf.h"
#include "base/mem.h"
#include "text/template.h"

static struct moed_error err;

/* Renders source without variables under limits (NULL: the default); the code. */
static int run(const char *source, const struct template_limits *limits, struct buf *out)
{
    struct chat_template *t;
    json_t *vars = json_object();
    err = (struct moed_error){0};
    int rc = template_compile(&t, source, strlen(source), &err);
    if (rc == 0)
        rc = template_render(t, vars, VECTOR_TIME, limits, out, &err);
    template_close(&t);
    json_decref(vars);
    return rc;
}

static void assert_code(const char *source, int code, const char *words)
{
    struct buf out = {0};
    buf_puts(&out, "before");
    int rc = run(source, NULL, &out);
    if (rc != code || !strstr(err.text, words))
        fail_msg("%.200s: %d, %s", source, rc, err.text);
    assert_string_equal(buf_str(&out), "before");
    buf_fini(&out);
}

static void no_template_runs_or_grows_for_ever(void **state)
{
    static const char *const hostile[] = {
        "{{ 'x' * 1000000000000 }}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ [0] * 10 ** 12 }}",
        "{{ [0] * 10 ** 8 }}",
        "{{ [[[[0] * 1000] * 1000] * 1000] * 1000 }}",
        "{{ ('x' * 10000) * 10000 * 10000 }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s "
        "%}{% endfor %}",
        "{% set ns = namespace(l=[1, 2]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% "
        "endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% "
        "endcall %}{% endmacro %}{{ g() }}",
        "{% for i in [0] recursive %}{{ loop([0]) }}{% endfor %}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l }}",
        "{% set l = [] %}{% set _ = l.append(l) %}{{ l|tojson }}",
        "{% set l = [] %}{% set m = [] %}{% set _ = l.append(m) %}{% set _ = m.append(l) %}{{ l == "
        "m }}",
        "{% set l = [0] %}{% for i in l %}{% set _ = l.append(i) %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor "
        "%}{{ ns.l }}",
        "{{ '%1000000000d' % 5 }}",
        "{{ '{:1000000000}'.format(5) }}",
        "{{ '%.100000000f' % 5 }}",
        "{{ '{:.100000000f}'.format(5) }}",
        "{{ 'x'.center(10 ** 12) }}",
        "{{ 'x'.zfill(10 ** 12) }}",
        "{{ '\\t'.expandtabs(10 ** 12) }}",
        "{{ 'x'|indent(10 ** 12, true) }}",
        "{{ [[1]]|tojson(indent=10 ** 12) }}",
        "{{ ('a' * 100000).replace('', 'x' * 100000) }}",
        "{{ [1]|batch(10 ** 12, 0)|list }}",
        "{{ [1]|slice(10 ** 12)|list }}",
        "{% set s = 'ab' * 1000000 %}{% for i in range(100000) %}{{ s.rfind('ba' * 1000 ~ 'c') "
        "}}{% "
        "endfor %}",
    };
    for (size_t i = 0; i < sizeof hostile / sizeof hostile[0]; i++)
        assert_code(hostile[i], MOED_ELIMIT, "template line 1: the limit of ");
}

static void limits_are_the_callers(void **state)
{
    struct buf out = {0};
    struct template_limits l = template_limits_default;
    l.steps = 1000;
    assert_int_equal(run("{% for i in range(100) %}{% endfor %}", &l, &out), 0);
    assert_int_equal(run("{% for i in range(2000) %}{% endfor %}", &l, &out), MOED_ELIMIT);
    l = template_limits_default;
    l.output_bytes = 5;
    assert_int_equal(run("12345", &l, &out), 0);
    assert_int_equal(run("123456", &l, &out), MOED_ELIMIT);
    l = template_limits_default;
    l.depth = 3;
    assert_int_equal(run("{% for a in [1] %}{% for b in [1] %}{% for c in [1] %}{% endfor %}"
                         "{% endfor %}{% endfor %}",
                         &l, &out),
                     0);
    l.depth = 2;
    assert_int_equal(run("{% for a in [1] %}{% for b in [1] %}{% for c in [1] %}{% endfor %}"
                         "{% endfor %}{% endfor %}",
                         &l, &out),
                     MOED_ELIMIT);
    l = template_limits_default;
    l.memory_bytes = 100000;
    assert_int_equal(run("{{ ('x' * 200000)|length }}", &l, &out), MOED_ELIMIT);
    buf_fini(&out);
}

/* n times the text between a head and a tail */
static char *repeated(const char *head, const char *text, size_t n, const char *tail)
{
    struct buf b = {0};
    buf_puts(&b, head);
    for (size_t i = 0; i < n; i++)
        buf_puts(&b, text);
    buf_puts(&b, tail);
    return buf_take(&b, NULL);
}

static void sources_are_limited_too(void **state)
{
    static const char *const deep[][3] = {
        {"{{ ", "(", "1 }}"},         {"{{ ", "[", "1 }}"},
        {"{{ ", "-", "1 }}"},         {"{{ ", "not ", "1 }}"},
        {"{{ ", "{1:", "}}"},         {"", "{% if 1 %}", "x"},
        {"", "{% for i in l %}", ""}, {"{{ ", "a[", "1 }}"},
        {"{{ ", "f(", "1 }}"},        {"{{ ", "1 if 1 else ", "2 }}"},
    };
    for (size_t i = 0; i < sizeof deep / sizeof deep[0]; i++) {
        char *source = repeated(deep[i][0], deep[i][1], 50000, deep[i][2]);
        struct buf out = {0};
        assert_true(run(source, NULL, &out) < 0);
        assert_non_null(strstr(err.text, "deep") ? "" : strstr(err.text, "nesting"));
        buf_fini(&out);
        free(source);
    }
    char *wide = repeated("{{ 1", " + 1", 50000, " }}");
    assert_code(wide, MOED_ELIMIT, "nesting");
    free(wide);
    char *large = repeated("", "0123456789", 200000, "");
    assert_code(large, MOED_ELIMIT, "bytes");
    free(large);
    char *strings = repeated("{{ ", "'a' ", 200000, "}}");
    assert_code(strings, MOED_ELIMIT, "too large");
    free(strings);
}

static void failures_name_the_line(void **state)
{
    assert_code("a\nb\n{{ x.y }}", MOED_EINVAL, "template line 3: 'x' is undefined");
    assert_code("a\r\nb\r\n{{ x.y }}", MOED_EINVAL, "template line 3: 'x' is undefined");
    assert_code("{#\n\n#}{%- if true -%}\n\n{{ 1 + 'a' }}{% endif %}", MOED_EINVAL,
                "template line 5: unsupported operand type(s) for +: 'int' and 'str'");
    assert_code("\n{% if %}", MOED_EINVAL,
                "template line 2: Expected an expression, got 'end of "
                "statement block'");
    assert_code("{% for x in y %}\n\n", MOED_EINVAL,
                "template line 2: Unexpected end of template.");
    assert_code("\n\n\n{{ 'a }}", MOED_EINVAL, "template line 4: unexpected char");
    assert_code("\n{% raw %}x", MOED_EINVAL, "template line 2: Missing end of raw directive");
    assert_code("\xFF", MOED_EINVAL, "not UTF-8");
    assert_code("{% macro m() %}\n{{ 1 / 0 }}\n{% endmacro %}\n\n{{ m() }}", MOED_EINVAL,
                "template line 2: division by zero");
}

static void raise_exception_gives_exactly_its_message(void **state)
{
    assert_code("\n{{ raise_exception('a: %s \"b\"') }}", MOED_EINVAL, "");
    assert_string_equal(err.text, "a: %s \"b\"");
    struct buf out = {0};
    assert_int_equal(run("{{ raise_exception('\xE2\x82\xAC' * 1000) }}", NULL, &out), MOED_EINVAL);
    assert_int_equal(strlen(err.text) % 3, 0); /* cut between characters */
    buf_fini(&out);
}

static void the_callers_json_is_not_changed(void **state)
{
    static const char *const changes[] = {
        "messages.append(1)",  "messages.pop()",          "messages[0].update(a=1)",
        "messages[0].clear()", "messages[0].pop('role')", "messages.sort()",
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        char *source = mem_printf("{{ %s }}", changes[i]);
        struct chat_template *t;
        struct buf out = {0};
        json_t *vars = json_loads("{\"messages\": [{\"role\": \"user\"}]}", 0, NULL);
        json_t *before = json_deep_copy(vars);
        assert_ok(template_compile(&t, source, strlen(source), &err), &err);
        assert_int_equal(template_render(t, vars, 0, NULL, &out, &err), MOED_EINVAL);
        assert_true(json_equal(vars, before));
        template_close(&t);
        json_decref(vars);
        json_decref(before);
        buf_fini(&out);
        free(source);
    }
}

static void nul_bytes_and_large_numbers_pass(void **state)
{
    struct chat_template *t;
    struct buf out = {0};
    const char source[] = "{{ s|length }}{{ s }}{{ s|tojson }}{{ i }} {{ i - 1 }}";
    json_t *vars =
        json_loads("{\"s\": \"a\\u0000b\", \"i\": -9223372036854775807}", JSON_ALLOW_NUL, NULL);
    assert_ok(template_compile(&t, source, strlen(source), &err), &err);
    assert_ok(template_render(t, vars, 0, NULL, &out, &err), &err);
    const char expected[] = "3a\0b\"a\\u0000b\"-9223372036854775807 -9223372036854775808";
    assert_int_equal(out.len, sizeof expected - 1);
    assert_memory_equal(out.data, expected, out.len);
    template_close(&t);
    json_decref(vars);
    buf_fini(&out);
    assert_code("{{ 9223372036854775807 + 1 }}", MOED_EINVAL, "64-bit");
    assert_code("{{ 2 ** 64 }}", MOED_EINVAL, "64-bit");
    assert_code("{{ 9223372036854775808 }}", MOED_EINVAL, "64 bits");
    assert_code("{{ '9223372036854775808'|int }}", MOED_EINVAL, "64 bits");
    assert_code("{{ 1e300|int }}", MOED_EINVAL, "64 bits");
}

static void time_is_what_the_caller_says(void **state)
{
    struct buf out = {0};
    assert_int_equal(run("{{ strftime_now('%Y-%m-%d %H:%M:%S %f|%Z|%z|%q|%') }}", NULL, &out), 0);
    assert_string_equal(buf_str(&out), "2025-07-26 12:00:00 000000|||%q|%");
    buf_fini(&out);
    struct chat_template *t;
    json_t *vars = json_object();
    assert_ok(template_compile(&t, "{{ strftime_now('%Y') }}", 24, &err), &err);
    assert_ok(template_render(t, vars, INT64_MIN, NULL, &out, &err), &err);
    assert_true(atoi(buf_str(&out)) >= 2024);
    template_close(&t);
    json_decref(vars);
    buf_fini(&out);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(no_template_runs_or_grows_for_ever),
    cmocka_unit_test(limits_are_the_callers),
    cmocka_unit_test(sources_are_limited_too),
    cmocka_unit_test(failures_name_the_line),
    cmocka_unit_test(raise_exception_gives_exactly_its_message),
    cmocka_unit_test(the_callers_json_is_not_changed),
    cmocka_unit_test(nul_bytes_and_large_numbers_pass),
    cmocka_unit_test(time_is_what_the_caller_says),
};
CHECK_MAIN(tests)
