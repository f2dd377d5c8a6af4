/* The chat template of a model: where it comes from, and the variables that it is rendered with. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/jinja_ast.h"
#include "text/jinja_unicode.h"
#include "text/jinja_value.h"
#include "text/template.h"

struct chat_format {
    struct chat_template *plain;    /* never NULL */
    struct chat_template *tool_use; /* used when tools are given; NULL: there is one for all */
    json_t *special_tokens;         /* variables: bos_token, eos_token ... */
};

#define MAX_CONFIG_BYTES ((size_t)32 << 20)

/* What transformers calls special tokens and hands to templates as variables. */
static const char *const special_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                            "pad_token", "cls_token", "mask_token"};

/* A token is a string or an object with its `content`; NULL where there is none. */
static json_t *token_text(json_t *token)
{
    json_t *text = json_is_object(token) ? json_object_get(token, "content") : token;
    return json_string_length(text) ? text : NULL;
}

static void read_special_tokens(struct chat_format *f, const json_t *config)
{
    f->special_tokens = json_object();
    for (size_t i = 0; i < sizeof special_names / sizeof special_names[0]; i++) {
        json_t *text = token_text(json_object_get(config, special_names[i]));
        if (text)
            json_object_set(f->special_tokens, special_names[i], text);
    }
    json_t *more = json_object_get(config, "additional_special_tokens"), *token;
    if (!json_array_size(more))
        return;
    json_t *list = json_array();
    size_t i;
    json_array_foreach(more, i, token) if (token_text(token))
        json_array_append(list, token_text(token));
    json_object_set_new(f->special_tokens, "additional_special_tokens", list);
}

static int compile(struct chat_template **out, json_t *source, const char *name,
                   struct moed_error *err)
{
    if (!json_is_string(source))
        return moed_fail(err, MOED_EFORMAT, "%s is not a string", name);
    if (template_compile(out, json_string_value(source), json_string_length(source), err) < 0)
        return moed_fail_in(err, MOED_EINVAL, "%s", name);
    return 0;
}

/* chat_template as a list of {name, template}. */
static int read_named(struct chat_format *f, json_t *list, struct moed_error *err)
{
    json_t *entry;
    size_t i;
    json_array_foreach(list, i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        json_t *source = json_object_get(entry, "template");
        int rc = 0;
        if (name && strcmp(name, "default") == 0 && !f->plain)
            rc = compile(&f->plain, source, "chat_template", err);
        else if (name && strcmp(name, "tool_use") == 0 && !f->tool_use)
            rc = compile(&f->tool_use, source, "chat_template", err);
        if (rc < 0)
            return rc;
    }
    if (!f->plain && json_array_size(list))
        return moed_fail(err, MOED_EFORMAT, "chat_template has no entry named default");
    return 0;
}

static int read_templates(struct chat_format *f, const json_t *config, const char *source,
                          size_t n_source, struct moed_error *err)
{
    json_t *templates = json_object_get(config, "chat_template");
    if (source)
        return template_compile(&f->plain, source, n_source, err);
    if (!templates || json_is_null(templates))
        return 0;
    if (json_is_array(templates))
        return read_named(f, templates, err);
    return compile(&f->plain, templates, "chat_template", err);
}

int chat_format_parse(struct chat_format **out, const char *config_json, size_t n_config,
                      const char *source, size_t n_source, struct moed_error *err)
{
    struct chat_format *f = mem_new(1, sizeof *f);
    json_t *config = NULL;
    json_error_t where;
    int rc = 0;
    *out = NULL;
    if (config_json) {
        /* Real files hold model_max_length of 1e30 as an integer. */
        config =
            json_loadb(config_json, n_config, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &where);
        if (!json_is_object(config)) {
            rc = moed_fail(err, MOED_EFORMAT, "tokenizer_config.json line %d: %.200s",
                           config ? 1 : where.line, config ? "not an object" : where.text);
            goto out;
        }
    }
    read_special_tokens(f, config);
    rc = read_templates(f, config, source, n_source, err);
out:
    json_decref(config);
    if (rc == 0 && f->plain)
        *out = f;
    else
        chat_format_close(&f);
    return rc;
}

void chat_format_close(struct chat_format **f)
{
    if (!*f)
        return;
    template_close(&(*f)->plain);
    template_close(&(*f)->tool_use);
    json_decref((*f)->special_tokens);
    free(*f);
    *f = NULL;
}

/* Reads a file; *text is NULL where it does not exist and `optional` allows that. */
static int read_file(char **text, size_t *n, const char *path, size_t limit, int optional,
                     struct moed_error *err)
{
    struct buf b = {0};
    char chunk[16384];
    int rc = 0;
    size_t got;
    *text = NULL;
    *n = 0;
    FILE *file = fopen(path, "rbe");
    if (!file) {
        if (optional && (errno == ENOENT || errno == ENOTDIR))
            return 0;
        return moed_fail(err, errno == ENOENT ? MOED_ENOTFOUND : MOED_EIO, "%s: %s", path,
                         strerror(errno));
    }
    while ((got = fread(chunk, 1, sizeof chunk, file)) > 0) {
        buf_add(&b, chunk, got);
        if (b.len > limit) {
            rc = moed_fail(err, MOED_ELIMIT, "%s is larger than %zu bytes", path, limit);
            goto out;
        }
    }
    if (ferror(file)) {
        rc = moed_fail(err, MOED_EIO, "%s: %s", path, strerror(errno));
        goto out;
    }
    *text = buf_take(&b, n);
out:
    fclose(file);
    buf_fini(&b);
    return rc;
}

int chat_format_open(struct chat_format **out, const char *model_dir, const char *template_file,
                     struct moed_error *err)
{
    char *config = NULL, *source = NULL, *path = NULL;
    size_t n_config = 0, n_source = 0;
    int rc = 0;
    *out = NULL;
    if (model_dir) {
        path = mem_printf("%s/tokenizer_config.json", model_dir);
        rc = read_file(&config, &n_config, path, MAX_CONFIG_BYTES, 1, err);
        free(path);
        path = NULL;
        if (rc < 0)
            goto out;
    }
    if (template_file)
        path = mem_strdup(template_file);
    else if (model_dir)
        path = mem_printf("%s/chat_template.jinja", model_dir);
    if (path)
        rc = read_file(&source, &n_source, path, JINJA_MAX_SOURCE_BYTES, !template_file, err);
    if (rc == 0)
        rc = chat_format_parse(out, config, n_config, source, n_source, err);
    if (rc < 0 && source)
        rc = moed_fail_in(err, rc, "%s", path);
out:
    free(config);
    free(source);
    free(path);
    return rc;
}

/* The variables of a rendering; the caller frees them. */
static json_t *variables(const struct chat_format *f, const struct chat_input *in)
{
    json_t *vars = json_copy(f->special_tokens);
    json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_boolean(in->add_generation_prompt));
    if (in->kwargs)
        json_object_update(vars, in->kwargs);
    json_object_set(vars, "messages", in->messages);
    json_object_set(vars, "tools", in->tools ? in->tools : json_null());
    return vars;
}

/* The last message's text: its content, or the last text of its content parts. */
static json_t *final_text(const struct chat_input *in)
{
    size_t n = json_array_size(in->messages);
    json_t *content = n ? json_object_get(json_array_get(in->messages, n - 1), "content") : NULL;
    if (!json_is_array(content))
        return json_is_string(content) ? content : NULL;
    for (size_t i = json_array_size(content); i > 0; i--) {
        json_t *text = json_object_get(json_array_get(content, i - 1), "text");
        if (json_is_string(text))
            return text;
    }
    return NULL;
}

static size_t strip_start(const char *s, size_t n)
{
    size_t i = 0;
    unsigned cp;
    while (i < n) {
        size_t len = jinja_cp(s + i, n - i, &cp);
        if (!jinja_is_space(cp))
            break;
        i += len;
    }
    return i;
}

static size_t strip_end(const char *s, size_t n)
{
    unsigned cp;
    while (n > 0) {
        size_t p = n - 1;
        while (p > 0 && ((unsigned char)s[p] & 0xC0) == 0x80)
            p--;
        jinja_cp(s + p, n - p, &cp);
        if (!jinja_is_space(cp))
            break;
        n = p;
    }
    return n;
}

/* The last place of a text in another, or NULL. */
static const char *find_last(const char *in, size_t n_in, const char *what, size_t n)
{
    if (n == 0)
        return in + n_in;
    for (const char *end = in + n_in; (size_t)(end - in) >= n;) {
        const char *last = memrchr(in, what[0], (size_t)(end - in) - n + 1);
        if (!last || memcmp(last, what, n) == 0)
            return last;
        end = last + n - 1;
    }
    return NULL;
}

/* Cuts the rendering behind the last message's text, with the white space at its end where the
 * template left that. The text is found as transformers finds it: its last place. */
static int cut_open(struct buf *out, size_t start, const struct chat_input *in,
                    struct moed_error *err)
{
    json_t *content = final_text(in);
    if (!content)
        return moed_fail_param(err, MOED_EINVAL, "continue_final_message",
                               "the last message has no text to continue");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    size_t from = strip_start(text, n), to = strip_end(text, n);
    if (to < from)
        to = from;
    const char *all = buf_str(out) + start;
    size_t n_all = out->len - start;
    const char *found = find_last(all, n_all, text + from, to - from);
    if (!found)
        return moed_fail_param(err, MOED_EINVAL, "continue_final_message",
                               "the template does not show the last message's text, so that it "
                               "cannot be continued");
    size_t at = (size_t)(found - all), with_space = n - from;
    int kept = n_all - at >= with_space && memcmp(found, text + from, with_space) == 0;
    buf_truncate(out, start + at + (kept ? with_space : to - from));
    return 0;
}

int chat_format_render(const struct chat_format *f, const struct chat_input *in, struct buf *out,
                       struct moed_error *err)
{
    size_t start = out->len;
    if (in->continue_final_message && in->add_generation_prompt)
        return moed_fail_param(err, MOED_EINVAL, "continue_final_message",
                               "continue_final_message and add_generation_prompt exclude each "
                               "other");
    json_t *vars = variables(f, in);
    const struct chat_template *t = in->tools && f->tool_use ? f->tool_use : f->plain;
    int rc = template_render(t, vars, in->now_unix, NULL, out, err);
    json_decref(vars);
    if (rc == 0 && in->continue_final_message) {
        rc = cut_open(out, start, in, err);
        if (rc < 0)
            buf_truncate(out, start);
    }
    /* Whatever a template does wrong, the request that brought it there is answered with a 400. */
    if (rc == MOED_ELIMIT) {
        rc = MOED_EINVAL;
        if (err)
            err->code = rc;
    }
    return rc;
}
