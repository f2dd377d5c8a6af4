/* Renderings that Jinja2 made: real chat templates, llama.cpp's cases, generated pairs. */
#include "check.h"
#include "unit/text/support_template.h"

#include "base/mem.h"

static int check_golden(json_t *line, void *arg)
{
    const char *name = json_string_value(json_object_get(line, "template"));
    char *relative = mem_printf("chat_templates/%s.jinja", name);
    size_t n;
    char *source = read_file(data_path(relative), &n);
    int rc = check_rendering(line, source, n, json_object_get(line, "vars"), 0);
    if (rc < 0)
        print_message("  in %s, case %s\n", name, json_string_value(json_object_get(line, "case")));
    free(source);
    free(relative);
    return rc;
}

static void real_templates_render_byte_for_byte(void **state)
{
    assert_int_equal(each_vector(data_path("chat_templates/goldens.jsonl"), check_golden, NULL),
                     559);
}

static int check_llamacpp(json_t *line, void *arg)
{
    json_t *source = json_object_get(line, "template");
    json_t *vars = json_pack("{s:O, s:O, s:O, s:b}", "messages", json_object_get(line, "messages"),
                             "bos_token", json_object_get(line, "bos_token"), "eos_token",
                             json_object_get(line, "eos_token"), "add_generation_prompt", 1);
    int rc = check_rendering(line, json_string_value(source), json_string_length(source), vars, 0);
    json_decref(vars);
    return rc;
}

static void llamacpp_cases_render_byte_for_byte(void **state)
{
    assert_int_equal(each_vector(data_path("chat_templates/llamacpp_template_cases.jsonl"),
                                 check_llamacpp, NULL),
                     27);
}

static int check_pair(json_t *line, void *arg)
{
    json_t *source = json_object_get(line, "template");
    return check_rendering(line, json_string_value(source), json_string_length(source),
                           json_object_get(line, "vars"), 0);
}

static void committed_pairs_agree_with_jinja2(void **state)
{
    assert_true(each_vector(repo_path("tests/data/templates/pairs.jsonl"), check_pair, NULL) >=
                300);
}

/* The full run: MOED_TEMPLATE_PAIRS names what tests/data/templates/make_templates.py wrote. */
static void generated_pairs_agree_with_jinja2(void **state)
{
    const char *path = getenv("MOED_TEMPLATE_PAIRS");
    if (!path) {
        print_message("MOED_TEMPLATE_PAIRS is not set: skipped\n");
        skip();
    }
    print_message("%zu pairs\n", each_vector(path, check_pair, NULL));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(real_templates_render_byte_for_byte),
    cmocka_unit_test(llamacpp_cases_render_byte_for_byte),
    cmocka_unit_test(committed_pairs_agree_with_jinja2),
    cmocka_unit_test(generated_pairs_agree_with_jinja2),
};
CHECK_MAIN(tests)
