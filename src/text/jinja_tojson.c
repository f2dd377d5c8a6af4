/* tojson as transformers has it: json.dumps(value, ensure_ascii=False, indent=None,
 * separators=None, sort_keys=False), without the HTML escaping of Jinja's own. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_int.h"

struct dump {
    struct jv indent;    /* a string, or missing: all on one line */
    struct jv item, key; /* separators */
    int ascii, sorted;
};

static void dump_value(struct jinja *J, const struct dump *d, struct jv v, unsigned level);

static void dump_str(struct jinja *J, const struct dump *d, struct jv s)
{
    char text[16];
    size_t plain = 0, len;
    unsigned cp;
    jinja_putc(J, '"');
    for (size_t i = 0; i < s.len; i += len) {
        len = jinja_cp(s.str + i, s.len - i, &cp);
        if (cp >= 0x20 && cp != '"' && cp != '\\' && (!d->ascii || (cp < 0x7F)))
            continue;
        jinja_write(J, s.str + plain, i - plain);
        plain = i + len;
        static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
        const char *simple = cp && cp < 0x80 ? strchr(from, (int)cp) : NULL;
        if (simple)
            snprintf(text, sizeof text, "\\%c", to[simple - from]);
        else if (cp < 0x10000)
            snprintf(text, sizeof text, "\\u%04x", cp);
        else
            snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xD7C0 + (cp >> 10),
                     0xDC00 + (cp & 0x3FF));
        jinja_puts(J, text);
    }
    jinja_write(J, s.str + plain, s.len - plain);
    jinja_charge(J, s.len / 16);
    jinja_putc(J, '"');
}

static void newline(struct jinja *J, const struct dump *d, unsigned level)
{
    if (d->indent.kind == JV_MISSING)
        return;
    jinja_putc(J, '\n');
    jinja_fill(J, d->indent, level);
}

static void dump_list(struct jinja *J, const struct dump *d, struct jv v, unsigned level)
{
    int64_t n = jv_len(J, v);
    jinja_putc(J, '[');
    for (int64_t i = 0; i < n; i++) {
        if (i)
            jinja_write(J, d->item.str, d->item.len);
        newline(J, d, level + 1);
        dump_value(J, d, jv_at(v, i), level + 1);
    }
    if (n)
        newline(J, d, level);
    jinja_putc(J, ']');
}

static void dump_key(struct jinja *J, const struct dump *d, struct jv key)
{
    char text[40];
    switch (key.kind) {
    case JV_STR:
        dump_str(J, d, key);
        return;
    case JV_BOOL:
        jinja_puts(J, key.i ? "\"true\"" : "\"false\"");
        return;
    case JV_NONE:
        jinja_puts(J, "\"null\"");
        return;
    case JV_INT:
    case JV_FLOAT:
        jinja_putc(J, '"');
        if (key.kind == JV_INT)
            snprintf(text, sizeof text, "%lld", (long long)key.i);
        else
            jinja_print_float(text, key.f);
        jinja_puts(J, text);
        jinja_putc(J, '"');
        return;
    default:
        jinja_fail(J, "keys must be str, int, float, bool or None, not %s", jv_type_name(key));
    }
}

/* The entries of a mapping in the order of their keys, as a list of pairs. */
static struct jv sorted_entries(struct jinja *J, struct jv v)
{
    struct jinja_list *l = jinja_list_new(J, 0);
    struct jinja_walk w = {0};
    struct jv key, value;
    while (jv_walk(v, &w, &key, &value))
        jinja_list_add(J, l, jinja_pair(J, key, value));
    struct jinja_list *keys = jinja_list_new(J, l->n);
    for (uint32_t i = 0; i < l->n; i++)
        keys->items[keys->n++] = l->items[i].list->items[0];
    jinja_sort(J, l, keys, 0);
    return jv_list(l);
}

static void dump_mapping(struct jinja *J, const struct dump *d, struct jv v, unsigned level)
{
    struct jinja_walk w = {0};
    struct jv key, value, sorted = {0};
    int64_t n = jv_len(J, v);
    if (d->sorted)
        sorted = sorted_entries(J, v);
    jinja_putc(J, '{');
    for (int64_t i = 0; i < n; i++) {
        if (d->sorted) {
            key = sorted.list->items[i].list->items[0];
            value = sorted.list->items[i].list->items[1];
        } else if (!jv_walk(v, &w, &key, &value)) {
            break;
        }
        if (i)
            jinja_write(J, d->item.str, d->item.len);
        newline(J, d, level + 1);
        dump_key(J, d, key);
        jinja_write(J, d->key.str, d->key.len);
        dump_value(J, d, value, level + 1);
    }
    if (n)
        newline(J, d, level);
    jinja_putc(J, '}');
}

static void dump_value(struct jinja *J, const struct dump *d, struct jv v, unsigned level)
{
    jinja_charge(J, 1);
    jinja_enter(J);
    switch (v.kind) {
    case JV_NONE:
        jinja_puts(J, "null");
        break;
    case JV_BOOL:
        jinja_puts(J, v.i ? "true" : "false");
        break;
    case JV_FLOAT:
        if (isnan(v.f) || isinf(v.f)) {
            jinja_puts(J, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
            break;
        }
        jinja_print_repr(J, v);
        break;
    case JV_INT:
        jinja_print_repr(J, v);
        break;
    case JV_STR:
        dump_str(J, d, v);
        break;
    case JV_LIST:
    case JV_TUPLE:
    case JV_JSON_ARRAY:
        dump_list(J, d, v, level);
        break;
    case JV_DICT:
    case JV_JSON_OBJECT:
        dump_mapping(J, d, v, level);
        break;
    default:
        jinja_fail(J, "Object of type %s is not JSON serializable", jv_type_name(v));
    }
    jinja_leave(J);
}

static void set_separators(struct jinja *J, struct dump *d, struct jv v)
{
    d->item = jv_text(d->indent.kind == JV_MISSING ? ", " : ",");
    d->key = jv_text(": ");
    if (v.kind == JV_MISSING || v.kind == JV_NONE)
        return;
    const struct jinja_list *l = jv_to_list(J, v);
    if (l->n != 2)
        jinja_fail(J,
                   l->n < 2 ? "not enough values to unpack (expected 2, got %u)"
                            : "too many values to unpack (expected 2, got %u)",
                   l->n);
    d->item = jinja_need_str(J, l->items[0], "separator");
    d->key = jinja_need_str(J, l->items[1], "separator");
}

struct jv jinja_tojson(struct jinja *J, struct jv v, const struct jinja_args *args)
{
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys"};
    struct jv a[4];
    struct dump d = {0};
    jinja_bind(J, "tojson", args, names, 4, 0, a);
    d.ascii = a[0].kind != JV_MISSING && jv_truth(J, a[0]);
    if (a[1].kind == JV_STR) {
        d.indent = a[1];
    } else if (a[1].kind != JV_MISSING && a[1].kind != JV_NONE) {
        struct jinja_capture c = jinja_capture_begin(J);
        jinja_fill(J, jv_str(" ", 1), jinja_need_int(J, a[1]));
        d.indent = jinja_capture_end(J, c);
    }
    set_separators(J, &d, a[2]);
    d.sorted = a[3].kind != JV_MISSING && jv_truth(J, a[3]);
    struct jinja_capture c = jinja_capture_begin(J);
    dump_value(J, &d, v, 0);
    return jinja_capture_end(J, c);
}
