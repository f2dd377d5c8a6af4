/* Filters of text. */
#include <stdio.h>
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

typedef const struct jinja_args args_t;

static void no_args(struct jinja *J, const char *name, args_t *args)
{
    jinja_bind(J, name, args, NULL, 0, 0, NULL);
}

static struct jv f_upper(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_upper", args);
    return jinja_upper(J, jinja_str(J, v));
}

static struct jv f_lower(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_lower", args);
    return jinja_lower(J, jinja_str(J, v));
}

static struct jv f_capitalize(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_capitalize", args);
    return jinja_capitalize(J, jinja_str(J, v));
}

static struct jv f_title(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_title", args);
    return jinja_title(J, jinja_str(J, v));
}

static struct jv f_trim(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"chars"};
    struct jv chars;
    jinja_bind(J, "do_trim", args, names, 1, 0, &chars);
    return jinja_strip(J, jinja_str(J, v), chars, JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT);
}

static struct jv f_string(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "soft_str", args);
    return jinja_str(J, v);
}

static struct jv f_replace(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"old", "new", "count"};
    struct jv a[3];
    jinja_bind(J, "do_replace", args, names, 3, 2, a);
    int64_t count = -1;
    if (a[2].kind != JV_MISSING && a[2].kind != JV_NONE)
        count = jinja_need_int(J, a[2]);
    struct jv s = jinja_str(J, v);
    s.flags &= (uint8_t)~JV_MARKUP;
    return jinja_replace(J, s, jinja_str(J, a[0]), jinja_str(J, a[1]), count);
}

static struct jv f_safe(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_mark_safe", args);
    v = jinja_str(J, v);
    v.flags |= JV_MARKUP;
    return v;
}

static struct jv f_escape(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "escape", args);
    return jinja_escape(J, v);
}

static struct jv f_forceescape(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_forceescape", args);
    v = jinja_str(J, v);
    v.flags &= (uint8_t)~JV_MARKUP;
    return jinja_escape(J, v);
}

static struct jv f_format(struct jinja *J, struct jv v, args_t *args)
{
    if (args->n_pos && args->n_kw)
        jinja_fail(J, "can't handle positional and keyword arguments at the same time");
    struct jv with;
    if (args->n_kw) {
        struct jinja_dict *d = jinja_dict_new(J);
        for (uint32_t i = 0; i < args->n_kw; i++)
            jinja_dict_set(J, d, args->kw[i].name, args->kw[i].value);
        with = jv_dict(d);
    } else {
        struct jinja_list *l = jinja_list_new(J, args->n_pos);
        for (uint32_t i = 0; i < args->n_pos; i++)
            jinja_list_add(J, l, args->pos[i]);
        with = jv_tuple(l);
    }
    return jinja_percent(J, jinja_str(J, v), with);
}

static struct jv f_center(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"width"};
    struct jv width;
    jinja_bind(J, "do_center", args, names, 1, 0, &width);
    return jinja_pad(J, jinja_str(J, v), width.kind == JV_MISSING ? 80 : jinja_need_int(J, width),
                     jv_str(" ", 1), '^');
}

static struct jv f_indent(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"width", "first", "blank"};
    struct jv a[3];
    jinja_bind(J, "do_indent", args, names, 3, 0, a);
    int first = a[1].kind != JV_MISSING && jv_truth(J, a[1]);
    int blank = a[2].kind != JV_MISSING && jv_truth(J, a[2]);
    if (v.kind != JV_STR) {
        if (v.kind == JV_UNDEFINED)
            jinja_fail_undefined(J, v);
        jinja_binary(J, JOP_ADD, v, jv_str("\n", 1)); /* says what cannot be added */
        jinja_fail(J, "'%s' object has no attribute 'splitlines'", jv_type_name(v));
    }
    struct jv width = a[0].kind == JV_MISSING ? jv_int(4) : a[0];
    if (width.kind != JV_STR)
        width = jinja_binary(J, JOP_MUL, jv_str(" ", 1), width);
    /* A newline is added so that a last empty line counts. */
    const struct jinja_list *lines = jinja_splitlines(J, jinja_concat(J, v, jv_str("\n", 1)), 0);
    struct jinja_capture c = jinja_capture_begin(J);
    for (uint32_t i = 0; i < lines->n; i++) {
        struct jv line = lines->items[i];
        if (i)
            jinja_putc(J, '\n');
        if (i ? blank || line.len : first)
            jinja_write(J, width.str, width.len);
        jinja_write(J, line.str, line.len);
    }
    struct jv out = jinja_capture_end(J, c);
    out.flags |= v.flags & JV_MARKUP;
    return out;
}

static struct jv f_truncate(struct jinja *J, struct jv v, args_t *args)
{
    static const char *const names[] = {"length", "killwords", "end", "leeway"};
    struct jv a[4];
    jinja_bind(J, "do_truncate", args, names, 4, 0, a);
    int64_t length = a[0].kind == JV_MISSING ? 255 : jinja_need_int(J, a[0]);
    int kill = a[1].kind != JV_MISSING && jv_truth(J, a[1]);
    struct jv end = a[2].kind == JV_MISSING ? jv_text("...") : jinja_need_str(J, a[2], "end");
    int64_t leeway = a[3].kind == JV_MISSING || a[3].kind == JV_NONE ? 5 : jinja_need_int(J, a[3]);
    int64_t n_end = jv_str_len(J, end);
    if (length < n_end)
        jinja_fail(J, "expected length >= %lld, got %lld", (long long)n_end, (long long)length);
    if (leeway < 0)
        jinja_fail(J, "expected leeway >= 0, got %lld", (long long)leeway);
    v = jinja_need_str(J, v, "truncate() value");
    int64_t n = jv_str_len(J, v);
    if (n <= length || n - length <= leeway)
        return v;
    v = jv_str_part(v, 0, jv_str_offset(J, v, length - n_end));
    if (!kill) {
        const char *space = v.len ? memrchr(v.str, ' ', v.len) : NULL;
        if (space)
            v = jv_str_part(v, 0, (size_t)(space - v.str));
    }
    return jinja_concat(J, v, end);
}

static struct jv f_wordcount(struct jinja *J, struct jv v, args_t *args)
{
    int64_t words = 0;
    int inside = 0;
    unsigned cp;
    no_args(J, "do_wordcount", args);
    struct jv s = jinja_str(J, v);
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        int word = cp == '_' || jinja_is_alpha(cp) || jinja_is_numeric(cp);
        words += word && !inside;
        inside = word;
    }
    jinja_charge(J, s.len / 16);
    return jv_int(words);
}

static void put_quoted(struct jinja *J, struct jv v, int query)
{
    struct jv s = jinja_str(J, v);
    char text[8];
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.str[i];
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
            (c && strchr("_.-~", c)) || (c == '/' && !query)) {
            jinja_putc(J, (char)c);
        } else if (c == ' ' && query) {
            jinja_putc(J, '+');
        } else {
            snprintf(text, sizeof text, "%%%02X", c);
            jinja_puts(J, text);
        }
    }
}

static struct jv f_urlencode(struct jinja *J, struct jv v, args_t *args)
{
    no_args(J, "do_urlencode", args);
    struct jinja_capture c = jinja_capture_begin(J);
    if (v.kind == JV_STR || !jv_is_iterable(v)) {
        put_quoted(J, v, 0);
        return jinja_capture_end(J, c);
    }
    if (jv_is_mapping(v))
        v = (struct jv){.kind = JV_VIEW,
                        .flags =
                            (uint8_t)(JV_ITEMS | (v.kind == JV_JSON_OBJECT ? JV_VIEW_JSON : 0)),
                        .dict = v.dict};
    struct jv pair;
    int first = 1;
    for (struct jinja_cursor it = jv_iterate(J, v); jv_next(J, &it, &pair); first = 0) {
        const struct jinja_list *parts = jv_to_list(J, pair);
        if (parts->n != 2)
            jinja_fail(J, "not enough values to unpack (expected 2, got %u)", parts->n);
        if (!first)
            jinja_putc(J, '&');
        put_quoted(J, parts->items[0], 1);
        jinja_putc(J, '=');
        put_quoted(J, parts->items[1], 1);
    }
    return jinja_capture_end(J, c);
}

const struct jinja_filter jinja_filters_text[] = {
    {"upper", f_upper},
    {"lower", f_lower},
    {"capitalize", f_capitalize},
    {"title", f_title},
    {"trim", f_trim},
    {"string", f_string},
    {"replace", f_replace},
    {"safe", f_safe},
    {"escape", f_escape},
    {"e", f_escape},
    {"forceescape", f_forceescape},
    {"format", f_format},
    {"center", f_center},
    {"indent", f_indent},
    {"truncate", f_truncate},
    {"wordcount", f_wordcount},
    {"urlencode", f_urlencode},
    {"tojson", jinja_tojson},
    {NULL, NULL},
};
