/*
 * How long a chat takes to render: bench_template TEMPLATE.jinja [turns] renders a conversation and
 * prints the median microseconds of a rendering and of compiling. Without arguments: ChatML, ten
 * turns.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "text/template.h"

static const char chatml[] =
    "{%- if tools %}{{ tools|tojson }}{% endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content|trim + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";

enum { RUNS = 2000 };

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *samples)
{
    qsort(samples, RUNS, sizeof *samples, ascending);
    return samples[RUNS / 2];
}

/* A turn is a question and an answer of 200 bytes each. */
static json_t *conversation(int turns)
{
    char text[201];
    for (size_t i = 0; i < 200; i++)
        text[i] = "the quick brown fox\n"[i % 20];
    text[200] = 0;
    json_t *messages = json_array();
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", text));
    for (int i = 0; i < turns; i++) {
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", text));
        if (i + 1 < turns)
            json_array_append_new(messages,
                                  json_pack("{s:s, s:s}", "role", "assistant", "content", text));
    }
    return json_pack("{s:o, s:b, s:s, s:s}", "messages", messages, "add_generation_prompt", 1,
                     "bos_token", "<s>", "eos_token", "</s>");
}

static char *read_template(const char *path, size_t *n)
{
    struct buf b = {0};
    char chunk[4096];
    size_t got;
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    while ((got = fread(chunk, 1, sizeof chunk, f)) > 0)
        buf_add(&b, chunk, got);
    fclose(f);
    return buf_take(&b, n);
}

int main(int argc, char **argv)
{
    size_t n = sizeof chatml - 1;
    char *source = argc > 1 ? read_template(argv[1], &n) : mem_strdup(chatml);
    int turns = argc > 2 ? atoi(argv[2]) : 10;
    json_t *vars = conversation(turns);
    struct moed_error err;
    struct buf out = {0};
    static double compile_us[RUNS], render_us[RUNS];
    for (int i = 0; i < RUNS; i++) {
        struct chat_template *t;
        double start = now_us();
        if (template_compile(&t, source, n, &err) < 0)
            goto failed;
        double compiled = now_us();
        buf_truncate(&out, 0);
        int rc = template_render(t, vars, 0, NULL, &out, &err);
        render_us[i] = now_us() - compiled;
        compile_us[i] = compiled - start;
        template_close(&t);
        if (rc < 0)
            goto failed;
    }
    printf("%s: %d turns, %zu bytes out: render %.1f us, compile %.1f us (median of %d)\n",
           argc > 1 ? argv[1] : "ChatML", turns, out.len, median(render_us), median(compile_us),
           RUNS);
    json_decref(vars);
    buf_fini(&out);
    free(source);
    return 0;
failed:
    fprintf(stderr, "%s\n", err.text);
    return 1;
}
