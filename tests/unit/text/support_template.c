#include "unit/text/support_template.h"

#include "check.h"

#include "base/buf.h"
#include "text/template.h"

char *read_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("cannot open %s", path);
    struct buf b = {0};
    char chunk[65536];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(&b, chunk, got);
    fclose(f);
    return buf_take(&b, n);
}

size_t each_vector(const char *path, int (*check)(json_t *line, void *arg), void *arg)
{
    size_t n, lines = 0, failed = 0;
    char *text = read_file(path, &n);
    for (char *p = text, *end; p < text + n; p = end + 1) {
        end = strchr(p, '\n');
        if (!end)
            end = text + n;
        if (end == p)
            continue;
        json_error_t error;
        json_t *line = json_loadb(p, (size_t)(end - p), JSON_ALLOW_NUL, &error);
        if (!line)
            fail_msg("%s line %zu: %s", path, lines + 1, error.text);
        lines++;
        failed += check(line, arg) < 0;
        json_decref(line);
    }
    free(text);
    if (failed)
        fail_msg("%zu of %zu vectors of %s failed", failed, lines, path);
    return lines;
}

/* The words of a Python error that our message must end with: "TypeError: words". */
static int same_error(const char *expected, const struct moed_error *err)
{
    const char *words = strstr(expected, ": ");
    words = words ? words + 2 : expected;
    if (strncmp(expected, "TemplateError:", 14) == 0)
        return strcmp(err->text, words) == 0;
    size_t n = strlen(words), m = strlen(err->text);
    return strncmp(err->text, "template line ", 14) == 0 && m > n &&
           strcmp(err->text + m - n, words) == 0;
}

static int report(json_t *line, const char *source, const char *what, const char *got,
                  const char *expected)
{
    char *vars = json_dumps(json_object_get(line, "vars"), JSON_COMPACT);
    print_message(
        "%s\n  template: %.600s\n  vars: %.300s\n  got:      %.400s\n  expected: %.400s\n", what,
        source, vars ? vars : "", got, expected);
    free(vars);
    return -1;
}

int check_rendering(json_t *line, const char *source, size_t n, json_t *vars, int any_error)
{
    struct chat_template *t;
    struct moed_error err = {0};
    struct buf out = {0};
    const char *error = json_string_value(json_object_get(line, "error"));
    json_t *output = json_object_get(line, "output");
    int rc = template_compile(&t, source, n, &err);
    if (rc == 0) {
        rc = template_render(t, vars, VECTOR_TIME, NULL, &out, &err);
        template_close(&t);
    }
    int result = 0;
    if (rc < 0 && !error)
        result = report(line, source, "failed", err.text, json_string_value(output));
    else if (rc == 0 && error)
        result = report(line, source, "did not fail", buf_str(&out), error);
    else if (rc < 0 && !any_error && !same_error(error, &err))
        result = report(line, source, "other error", err.text, error);
    else if (rc == 0 && (out.len != json_string_length(output) ||
                         memcmp(buf_str(&out), json_string_value(output), out.len) != 0))
        result = report(line, source, "other output", buf_str(&out), json_string_value(output));
    buf_fini(&out);
    return result;
}
