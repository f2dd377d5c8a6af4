#include "check.h"
#include "unit/text/support_template.h"

#include "base/buf.h"
#include "text/template.h"

static const char config[] =
    "{\"bos_token\": {\"content\": \"<s>\", \"lstrip\": false}, \"eos_token\": \"</s>\","
    " \"pad_token\": null, \"additional_special_tokens\": [\"<a>\", {\"content\": \"<b>\"}],"
    " \"chat_template\": [{\"name\": \"tool_use\", \"template\": \"T{{ tools|length }}\"},"
    " {\"name\": \"default\", \"template\": \"{{ bos_token }}{% for m in messages %}[{{ m.role }}] "
    "{{ m.content }}{{ eos_token }}{% endfor %}{{ additional_special_tokens }}{{ pad_token is "
    "defined }}{{ tools }}{{ documents }}{% if add_generation_prompt %}>{% endif %}{{ x }}\"}]}";

static struct chat_format *parse(const char *json, const char *source)
{
    struct chat_format *f;
    struct moed_error err;
    assert_ok(chat_format_parse(&f, json, json ? strlen(json) : 0, source,
                                source ? strlen(source) : 0, &err),
              &err);
    return f;
}

/* Renders messages (JSON text); the code, and the output or the error's words in *out. */
static int render(const struct chat_format *f, struct chat_input in, const char *messages,
                  struct buf *out)
{
    struct moed_error err = {0};
    in.messages = json_loads(messages, 0, NULL);
    in.now_unix = VECTOR_TIME;
    assert_non_null(in.messages);
    int rc = chat_format_render(f, &in, out, &err);
    if (rc < 0)
        buf_puts(out, err.text);
    json_decref(in.messages);
    return rc;
}

static void special_tokens_and_defaults_are_variables(void **state)
{
    struct chat_format *f = parse(config, NULL);
    struct buf out = {0};
    struct chat_input in = {.add_generation_prompt = 1, .kwargs = json_pack("{s:s}", "x", "kw")};
    assert_int_equal(render(f, in, "[{\"role\": \"user\", \"content\": \"hi\"}]", &out), 0);
    assert_string_equal(buf_str(&out), "<s>[user] hi</s>['<a>', '<b>']FalseNoneNone>kw");
    json_decref(in.kwargs);
    buf_fini(&out);
    chat_format_close(&f);
    assert_null(f);
}

static void numbers_too_large_for_an_integer_do_not_matter(void **state)
{
    static const char large[] = "{\"model_max_length\": 1000000000000000019884624838656, "
                                "\"chat_template\": \"x\"}";
    struct chat_format *f;
    struct moed_error err;
    assert_ok(chat_format_parse(&f, large, sizeof large - 1, NULL, 0, &err), &err);
    assert_non_null(f);
    chat_format_close(&f);
}

static void tools_choose_the_tool_use_template(void **state)
{
    struct chat_format *f = parse(config, NULL);
    struct buf out = {0};
    struct chat_input in = {.tools = json_loads("[{}, {}]", 0, NULL)};
    assert_int_equal(render(f, in, "[]", &out), 0);
    assert_string_equal(buf_str(&out), "T2");
    json_decref(in.tools);
    buf_fini(&out);
    chat_format_close(&f);
}

static void kwargs_win_but_for_messages_and_tools(void **state)
{
    struct chat_format *f =
        parse(config, "{{ bos_token }}{{ messages|length }}{{ tools }}{{ add_generation_prompt }}");
    struct buf out = {0};
    struct chat_input in = {.kwargs = json_loads("{\"bos_token\": \"B\", \"messages\": [1, 2],"
                                                 "\"tools\": 5, \"add_generation_prompt\": true}",
                                                 0, NULL)};
    assert_int_equal(render(f, in, "[]", &out), 0);
    assert_string_equal(buf_str(&out), "B0NoneTrue");
    json_decref(in.kwargs);
    buf_fini(&out);
    chat_format_close(&f);
}

static void messages_arrive_as_they_were_sent(void **state)
{
    struct chat_format *f = parse(NULL, "{{ messages|tojson }}");
    struct buf out = {0};
    const char *sent = "[{\"role\": \"assistant\", \"zz\": 1, \"aa\": 2.0, \"tool_calls\": "
                       "[{\"arguments\": \"{\\\"b\\\":1,\\\"a\\\":2}\"}]}]";
    assert_int_equal(render(f, (struct chat_input){0}, sent, &out), 0);
    assert_string_equal(buf_str(&out), sent);
    buf_fini(&out);
    chat_format_close(&f);
}

static void a_final_message_stays_open(void **state)
{
    struct chat_format *f =
        parse(NULL, "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}");
    struct chat_format *trims =
        parse(NULL, "{% for m in messages %}{{ m.content|trim }}<end>{% endfor %}");
    struct buf out = {0};
    struct chat_input in = {.continue_final_message = 1};
    const char *messages = "[{\"role\": \"user\", \"content\": \"a\"},"
                           "{\"role\": \"assistant\", \"content\": \"  The a is \"}]";
    assert_int_equal(render(f, in, messages, &out), 0);
    assert_string_equal(buf_str(&out), "<user>a<end><assistant>  The a is ");
    buf_truncate(&out, 0);
    assert_int_equal(render(trims, in, messages, &out), 0);
    assert_string_equal(buf_str(&out), "a<end>The a is");
    buf_truncate(&out, 0);
    assert_int_equal(render(trims, in, "[{\"content\": null}]", &out), MOED_EINVAL);
    buf_truncate(&out, 0);
    in.add_generation_prompt = 1;
    assert_int_equal(render(f, in, messages, &out), MOED_EINVAL);
    buf_fini(&out);
    chat_format_close(&f);
    chat_format_close(&trims);
}

static void failures_say_why(void **state)
{
    struct chat_format *f = parse(NULL, "\n\n{{ messages[0].x.y }}");
    struct chat_format *raises = parse(NULL, "\n{{ raise_exception('Only \"user\".') }}");
    struct chat_format *endless = parse(NULL, "{% macro f() %}{{ f() }}{% endmacro %}\n{{ f() }}");
    struct buf out = {0};
    assert_int_equal(render(f, (struct chat_input){0}, "[{\"role\": 1}]", &out), MOED_EINVAL);
    assert_string_equal(buf_str(&out), "template line 3: 'dict object' has no attribute 'x'");
    buf_truncate(&out, 0);
    assert_int_equal(render(raises, (struct chat_input){0}, "[]", &out), MOED_EINVAL);
    assert_string_equal(buf_str(&out), "Only \"user\".");
    buf_truncate(&out, 0);
    assert_int_equal(render(endless, (struct chat_input){0}, "[]", &out), MOED_EINVAL);
    assert_string_equal(buf_str(&out), "template line 1: the limit of depth is reached");
    buf_fini(&out);
    chat_format_close(&f);
    chat_format_close(&raises);
    chat_format_close(&endless);
}

static void a_model_may_have_no_template(void **state)
{
    assert_null(parse("{}", NULL));
    assert_null(parse(NULL, NULL));
    assert_null(parse("{\"chat_template\": null}", NULL));
}

static void bad_configs_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{\"chat_template\": 5}",
        "{\"chat_template\": \"{% if %}\"}",
        "{\"chat_template\": [{\"name\": \"other\", \"template\": \"x\"}]}",
        "{\"chat_template\": [{\"name\": \"default\"}]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct chat_format *f;
        struct moed_error err = {0};
        assert_true(chat_format_parse(&f, bad[i], strlen(bad[i]), NULL, 0, &err) < 0);
        assert_null(f);
        assert_true(err.text[0]);
    }
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void files_come_before_the_config(void **state)
{
    char dir[] = "/tmp/moed-chat-XXXXXX", path[64], file[64], other[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    snprintf(file, sizeof file, "%s/chat_template.jinja", dir);
    snprintf(other, sizeof other, "%s/other.jinja", dir);
    struct chat_format *f;
    struct moed_error err = {0};
    struct buf out = {0};
    assert_ok(chat_format_open(&f, dir, NULL, &err), &err);
    assert_null(f);
    write_file(path, config);
    write_file(file, "file {{ bos_token }}\n");
    write_file(other, "other {{ eos_token }}");
    assert_ok(chat_format_open(&f, dir, NULL, &err), &err);
    render(f, (struct chat_input){0}, "[]", &out);
    chat_format_close(&f);
    assert_ok(chat_format_open(&f, dir, other, &err), &err);
    render(f, (struct chat_input){0}, "[]", &out);
    chat_format_close(&f);
    assert_string_equal(buf_str(&out), "file <s>other </s>");
    write_file(file, "\n{% nope %}");
    assert_int_equal(chat_format_open(&f, dir, NULL, &err), MOED_EINVAL);
    assert_non_null(strstr(err.text, "chat_template.jinja: template line 2: "));
    assert_int_equal(chat_format_open(&f, dir, "/nonexistent", &err), MOED_ENOTFOUND);
    buf_fini(&out);
    remove(path);
    remove(file);
    remove(other);
    remove(dir);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(special_tokens_and_defaults_are_variables),
    cmocka_unit_test(numbers_too_large_for_an_integer_do_not_matter),
    cmocka_unit_test(tools_choose_the_tool_use_template),
    cmocka_unit_test(kwargs_win_but_for_messages_and_tools),
    cmocka_unit_test(messages_arrive_as_they_were_sent),
    cmocka_unit_test(a_final_message_stays_open),
    cmocka_unit_test(failures_say_why),
    cmocka_unit_test(a_model_may_have_no_template),
    cmocka_unit_test(bad_configs_are_refused),
    cmocka_unit_test(files_come_before_the_config),
};
CHECK_MAIN(tests)
