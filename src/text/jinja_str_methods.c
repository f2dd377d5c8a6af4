/* The methods of str. Positions count code points. */
#include <string.h>

#include "text/jinja_int.h"
#include "text/jinja_unicode.h"

typedef const struct jinja_args args_t;

static struct jv keep_flags(struct jv out, struct jv from)
{
    out.flags |= from.flags & JV_MARKUP;
    return out;
}

static void no_args(struct jinja *J, const char *name, args_t *args)
{
    if (args->n_pos || args->n_kw)
        jinja_fail(J, "str.%s() takes no arguments (%u given)", name, args->n_pos + args->n_kw);
}

/* str methods take their arguments by position only, but for split, splitlines and format. */
static void bind_pos(struct jinja *J, const char *name, args_t *args, unsigned n, unsigned needed,
                     struct jv *out)
{
    if (args->n_kw)
        jinja_fail(J, "str.%s() takes no keyword arguments", name);
    if (args->n_pos < needed || args->n_pos > n)
        jinja_fail(J, "%s expected %s %u argument%s, got %u", name,
                   needed == n            ? "exactly"
                   : args->n_pos < needed ? "at least"
                                          : "at most",
                   args->n_pos < needed ? needed : n,
                   (args->n_pos < needed ? needed : n) == 1 ? "" : "s", args->n_pos);
    for (unsigned i = 0; i < n; i++)
        out[i] = i < args->n_pos ? args->pos[i] : (struct jv){0};
}

static struct jv m_upper(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "upper", args);
    return jinja_upper(J, s);
}

static struct jv m_lower(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "lower", args);
    return jinja_lower(J, s);
}

static struct jv m_capitalize(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "capitalize", args);
    return jinja_capitalize(J, s);
}

/* Maps every character; `previous_cased` tells title() where words begin. */
static struct jv map_chars(struct jinja *J, struct jv s,
                           int (*map)(unsigned cp, int previous_cased, unsigned out[3]))
{
    struct jinja_capture c = jinja_capture_begin(J);
    int previous = 0;
    unsigned cp, out[3];
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        int n = map(cp, previous, out);
        for (int k = 0; k < n; k++)
            jinja_put_cp(J, out[k]);
        previous = jinja_is_cased(cp);
    }
    jinja_charge(J, s.len / 8);
    return keep_flags(jinja_capture_end(J, c), s);
}

static int title_char(unsigned cp, int previous_cased, unsigned out[3])
{
    return previous_cased ? jinja_to_lower(cp, out) : jinja_to_title(cp, out);
}

static struct jv m_title(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "title", args);
    return map_chars(J, s, title_char);
}

static int swap_char(unsigned cp, int previous_cased, unsigned out[3])
{
    return jinja_is_upper(cp)   ? jinja_to_lower(cp, out)
           : jinja_is_lower(cp) ? jinja_to_upper(cp, out)
                                : (out[0] = cp, 1);
}

static struct jv m_swapcase(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "swapcase", args);
    return map_chars(J, s, swap_char);
}

static int fold_char(unsigned cp, int previous_cased, unsigned out[3])
{
    return jinja_to_folded(cp, out);
}

static struct jv m_casefold(struct jinja *J, struct jv s, args_t *args)
{
    no_args(J, "casefold", args);
    return map_chars(J, s, fold_char);
}

static struct jv strip(struct jinja *J, const char *name, struct jv s, args_t *args, int sides)
{
    struct jv chars;
    bind_pos(J, name, args, 1, 0, &chars);
    if (chars.kind != JV_MISSING && chars.kind != JV_NONE && chars.kind != JV_STR)
        jinja_fail(J, "%s arg must be None or str", name);
    return jinja_strip(J, s, chars, sides);
}

static struct jv m_strip(struct jinja *J, struct jv s, args_t *args)
{
    return strip(J, "strip", s, args, JINJA_STRIP_LEFT | JINJA_STRIP_RIGHT);
}

static struct jv m_lstrip(struct jinja *J, struct jv s, args_t *args)
{
    return strip(J, "lstrip", s, args, JINJA_STRIP_LEFT);
}

static struct jv m_rstrip(struct jinja *J, struct jv s, args_t *args)
{
    return strip(J, "rstrip", s, args, JINJA_STRIP_RIGHT);
}

static struct jv m_replace(struct jinja *J, struct jv s, args_t *args)
{
    struct jv a[3];
    bind_pos(J, "replace", args, 3, 2, a);
    jinja_need_str(J, a[0], "replace() argument 1");
    jinja_need_str(J, a[1], "replace() argument 2");
    return jinja_replace(J, s, a[0], a[1], a[2].kind == JV_MISSING ? -1 : jinja_need_int(J, a[2]));
}

/* A sub-range [start, end) in code points, as slices take it; 0 where it is empty and lies beyond
 * the end. */
static int sub_range(struct jinja *J, struct jv s, struct jv start, struct jv end, size_t *from,
                     size_t *to)
{
    *from = 0;
    *to = s.len;
    if (start.kind == JV_MISSING)
        return 1;
    int64_t n = jv_str_len(J, s);
    int64_t a = start.kind == JV_NONE ? 0 : jinja_need_int(J, start);
    int64_t b = end.kind == JV_MISSING || end.kind == JV_NONE ? n : jinja_need_int(J, end);
    a = a < 0 ? (a < -n ? 0 : a + n) : a;
    b = b < 0 ? (b < -n ? 0 : b + n) : b > n ? n : b;
    if (a > n || a > b)
        return 0;
    *from = jv_str_offset(J, s, a);
    *to = jv_str_offset(J, s, b);
    return 1;
}

static int64_t find(struct jinja *J, const char *name, struct jv s, args_t *args, int last)
{
    struct jv a[3];
    size_t from, to;
    bind_pos(J, name, args, 3, 1, a);
    jinja_need_str(J, a[0], "argument");
    if (!sub_range(J, s, a[1], a[2], &from, &to))
        return -1;
    const char *hit = NULL, *p = s.str + from, *end = s.str + to;
    size_t n = a[0].len;
    jinja_charge(J, (to - from) / 16);
    if (!n) {
        hit = last ? end : p;
    } else if (!last) {
        hit = to > from ? memmem(p, to - from, a[0].str, n) : NULL;
    } else {
        /* From the end; the work of a bad case is counted. */
        for (const char *q = end - n; to - from >= n && q >= p && !hit; q--) {
            if (*q == a[0].str[0]) {
                jinja_charge(J, n / 64);
                hit = memcmp(q, a[0].str, n) == 0 ? q : NULL;
            }
        }
    }
    return hit ? jv_str_len(J, jv_str_part(s, 0, (size_t)(hit - s.str))) : -1;
}

static struct jv m_find(struct jinja *J, struct jv s, args_t *args)
{
    return jv_int(find(J, "find", s, args, 0));
}

static struct jv m_rfind(struct jinja *J, struct jv s, args_t *args)
{
    return jv_int(find(J, "rfind", s, args, 1));
}

static struct jv found(struct jinja *J, int64_t at)
{
    if (at < 0)
        jinja_fail(J, "substring not found");
    return jv_int(at);
}

static struct jv m_index(struct jinja *J, struct jv s, args_t *args)
{
    return found(J, find(J, "index", s, args, 0));
}

static struct jv m_rindex(struct jinja *J, struct jv s, args_t *args)
{
    return found(J, find(J, "rindex", s, args, 1));
}

static struct jv m_count(struct jinja *J, struct jv s, args_t *args)
{
    struct jv a[3];
    size_t from, to;
    bind_pos(J, "count", args, 3, 1, a);
    jinja_need_str(J, a[0], "argument");
    if (!sub_range(J, s, a[1], a[2], &from, &to))
        return jv_int(0);
    struct jv part = jv_str_part(s, from, to);
    if (!a[0].len)
        return jv_int(jv_str_len(J, part) + 1);
    int64_t n = 0;
    for (size_t i = 0; i < part.len; n++) {
        const char *hit = memmem(part.str + i, part.len - i, a[0].str, a[0].len);
        if (!hit)
            break;
        i = (size_t)(hit - part.str) + a[0].len;
    }
    jinja_charge(J, part.len / 16);
    return jv_int(n);
}

static int affix(struct jinja *J, struct jv part, struct jv fix, int at_end)
{
    jinja_charge(J, fix.len / 64);
    return part.len >= fix.len &&
           (!fix.len ||
            memcmp(at_end ? part.str + part.len - fix.len : part.str, fix.str, fix.len) == 0);
}

static struct jv has_affix(struct jinja *J, const char *name, struct jv s, args_t *args, int at_end)
{
    struct jv a[3];
    size_t from, to;
    bind_pos(J, name, args, 3, 1, a);
    if (a[0].kind != JV_STR && a[0].kind != JV_TUPLE) {
        if (a[0].kind == JV_UNDEFINED)
            jinja_fail(J, "%s first arg must be str or a tuple of str, not Undefined", name);
        jinja_fail(J, "%s first arg must be str or a tuple of str, not %s", name,
                   jv_type_name(a[0]));
    }
    if (!sub_range(J, s, a[1], a[2], &from, &to))
        return jv_bool(0);
    struct jv part = jv_str_part(s, from, to);
    if (a[0].kind == JV_STR)
        return jv_bool(affix(J, part, a[0], at_end));
    for (uint32_t i = 0; i < a[0].list->n; i++) {
        struct jv each = a[0].list->items[i];
        if (each.kind != JV_STR)
            jinja_fail(J, "tuple for %s must only contain str, not %s", name, jv_type_name(each));
        if (affix(J, part, each, at_end))
            return jv_bool(1);
    }
    return jv_bool(0);
}

static struct jv m_startswith(struct jinja *J, struct jv s, args_t *args)
{
    return has_affix(J, "startswith", s, args, 0);
}

static struct jv m_endswith(struct jinja *J, struct jv s, args_t *args)
{
    return has_affix(J, "endswith", s, args, 1);
}

static struct jv m_removeprefix(struct jinja *J, struct jv s, args_t *args)
{
    struct jv fix;
    bind_pos(J, "removeprefix", args, 1, 1, &fix);
    jinja_need_str(J, fix, "removeprefix() argument");
    return affix(J, s, fix, 0) ? jv_str_part(s, fix.len, s.len) : s;
}

static struct jv m_removesuffix(struct jinja *J, struct jv s, args_t *args)
{
    struct jv fix;
    bind_pos(J, "removesuffix", args, 1, 1, &fix);
    jinja_need_str(J, fix, "removesuffix() argument");
    return affix(J, s, fix, 1) ? jv_str_part(s, 0, s.len - fix.len) : s;
}

/* Splitting. */

static void split_space(struct jinja *J, struct jv s, int64_t max, struct jinja_list *out)
{
    size_t i = 0;
    unsigned cp;
    for (;;) {
        struct jv rest = jinja_strip(J, jv_str_part(s, i, s.len), jv_none(), JINJA_STRIP_LEFT);
        i = s.len - rest.len;
        if (!rest.len)
            return;
        if (max-- == 0) {
            jinja_list_add(J, out, rest);
            return;
        }
        size_t end = i;
        while (end < s.len) {
            size_t len = jinja_cp(s.str + end, s.len - end, &cp);
            if (jinja_is_space(cp))
                break;
            end += len;
        }
        jinja_list_add(J, out, jv_str_part(s, i, end));
        i = end;
    }
}

static void rsplit_space(struct jinja *J, struct jv s, int64_t max, struct jinja_list *out)
{
    for (;;) {
        s = jinja_strip(J, s, jv_none(), JINJA_STRIP_RIGHT);
        if (!s.len)
            break;
        if (max-- == 0) {
            jinja_list_add(J, out, s);
            break;
        }
        size_t from = s.len;
        while (from > 0) {
            size_t p = from - 1;
            unsigned cp;
            while (p > 0 && ((unsigned char)s.str[p] & 0xC0) == 0x80)
                p--;
            jinja_cp(s.str + p, s.len - p, &cp);
            if (jinja_is_space(cp))
                break;
            from = p;
        }
        jinja_list_add(J, out, jv_str_part(s, from, s.len));
        s = jv_str_part(s, 0, from);
    }
}

static void split_by(struct jinja *J, struct jv s, struct jv sep, int64_t max,
                     struct jinja_list *out)
{
    size_t i = 0;
    for (; max != 0 && i < s.len; max--) {
        const char *hit = memmem(s.str + i, s.len - i, sep.str, sep.len);
        if (!hit)
            break;
        jinja_list_add(J, out, jv_str_part(s, i, (size_t)(hit - s.str)));
        i = (size_t)(hit - s.str) + sep.len;
    }
    jinja_list_add(J, out, jv_str_part(s, i, s.len));
}

/* The last place of sep in s, or -1. */
static int64_t last_of(struct jinja *J, struct jv s, struct jv sep)
{
    for (int64_t q = (int64_t)s.len - sep.len; q >= 0; q--) {
        if (s.str[q] != sep.str[0])
            continue;
        jinja_charge(J, sep.len / 64);
        if (memcmp(s.str + q, sep.str, sep.len) == 0)
            return q;
    }
    return -1;
}

static void rsplit_by(struct jinja *J, struct jv s, struct jv sep, int64_t max,
                      struct jinja_list *out)
{
    int64_t at;
    while (max-- != 0 && (at = last_of(J, s, sep)) >= 0) {
        jinja_list_add(J, out, jv_str_part(s, (size_t)at + sep.len, s.len));
        s = jv_str_part(s, 0, (size_t)at);
    }
    jinja_list_add(J, out, s);
}

static void reverse(struct jinja_list *l)
{
    for (uint32_t i = 0; i < l->n / 2; i++) {
        struct jv t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
}

static struct jv split(struct jinja *J, const char *name, struct jv s, args_t *args, int right)
{
    static const char *const names[] = {"sep", "maxsplit"};
    struct jv a[2];
    jinja_bind(J, name, args, names, 2, 0, a);
    int64_t max = a[1].kind == JV_MISSING ? -1 : jinja_need_int(J, a[1]);
    struct jinja_list *out = jinja_list_new(J, 0);
    jinja_charge(J, s.len / 16);
    if (a[0].kind == JV_MISSING || a[0].kind == JV_NONE) {
        (right ? rsplit_space : split_space)(J, s, max, out);
    } else {
        if (a[0].kind != JV_STR)
            jinja_fail(J, "must be str or None, not %s", jv_type_name(a[0]));
        if (!a[0].len)
            jinja_fail(J, "empty separator");
        (right ? rsplit_by : split_by)(J, s, a[0], max, out);
    }
    if (right)
        reverse(out);
    jinja_charge(J, out->n);
    return jv_list(out);
}

static struct jv m_split(struct jinja *J, struct jv s, args_t *args)
{
    return split(J, "split", s, args, 0);
}

static struct jv m_rsplit(struct jinja *J, struct jv s, args_t *args)
{
    return split(J, "rsplit", s, args, 1);
}

static struct jv m_splitlines(struct jinja *J, struct jv s, args_t *args)
{
    static const char *const names[] = {"keepends"};
    struct jv keep;
    jinja_bind(J, "splitlines", args, names, 1, 0, &keep);
    return jv_list(jinja_splitlines(J, s, keep.kind != JV_MISSING && jv_truth(J, keep)));
}

static struct jv partition(struct jinja *J, const char *name, struct jv s, args_t *args, int right)
{
    struct jv sep;
    bind_pos(J, name, args, 1, 1, &sep);
    jinja_need_str(J, sep, "must be str, argument");
    if (!sep.len)
        jinja_fail(J, "empty separator");
    int64_t at = -1;
    if (right) {
        at = last_of(J, s, sep);
    } else {
        const char *hit = s.len ? memmem(s.str, s.len, sep.str, sep.len) : NULL;
        at = hit ? hit - s.str : -1;
    }
    jinja_charge(J, s.len / 16);
    struct jinja_list *l = jinja_list_new(J, 3);
    struct jv empty = jv_str("", 0);
    l->n = 3;
    l->items[0] = at >= 0 ? jv_str_part(s, 0, (size_t)at) : right ? empty : s;
    l->items[1] = at >= 0 ? sep : empty;
    l->items[2] = at >= 0 ? jv_str_part(s, (size_t)at + sep.len, s.len) : right ? s : empty;
    return jv_tuple(l);
}

static struct jv m_partition(struct jinja *J, struct jv s, args_t *args)
{
    return partition(J, "partition", s, args, 0);
}

static struct jv m_rpartition(struct jinja *J, struct jv s, args_t *args)
{
    return partition(J, "rpartition", s, args, 1);
}

static struct jv m_join(struct jinja *J, struct jv s, args_t *args)
{
    struct jv items;
    bind_pos(J, "join", args, 1, 1, &items);
    return jinja_join(J, s, items, (struct jv){0}, 1);
}

/* Padding. */

static struct jv pad(struct jinja *J, const char *name, struct jv s, args_t *args, char align)
{
    struct jv a[2];
    bind_pos(J, name, args, 2, 1, a);
    struct jv fill = a[1].kind == JV_MISSING ? jv_str(" ", 1) : a[1];
    if (fill.kind != JV_STR || jv_str_len(J, fill) != 1)
        jinja_fail(J, "The fill character must be exactly one character long");
    return jinja_pad(J, s, jinja_need_int(J, a[0]), fill, align);
}

static struct jv m_center(struct jinja *J, struct jv s, args_t *args)
{
    return pad(J, "center", s, args, '^');
}

static struct jv m_ljust(struct jinja *J, struct jv s, args_t *args)
{
    return pad(J, "ljust", s, args, '<');
}

static struct jv m_rjust(struct jinja *J, struct jv s, args_t *args)
{
    return pad(J, "rjust", s, args, '>');
}

static struct jv m_zfill(struct jinja *J, struct jv s, args_t *args)
{
    struct jv width;
    bind_pos(J, "zfill", args, 1, 1, &width);
    int64_t missing = jinja_need_int(J, width) - jv_str_len(J, s);
    if (missing <= 0)
        return s;
    size_t sign = s.len && (s.str[0] == '+' || s.str[0] == '-');
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_write(J, s.str, sign);
    jinja_fill(J, jv_str("0", 1), missing);
    jinja_write(J, s.str + sign, s.len - sign);
    return keep_flags(jinja_capture_end(J, c), s);
}

static struct jv m_expandtabs(struct jinja *J, struct jv s, args_t *args)
{
    static const char *const names[] = {"tabsize"};
    struct jv size;
    jinja_bind(J, "expandtabs", args, names, 1, 0, &size);
    int64_t tab = size.kind == JV_MISSING ? 8 : jinja_need_int(J, size), column = 0;
    struct jinja_capture c = jinja_capture_begin(J);
    for (size_t i = 0; i < s.len; i++) {
        if (s.str[i] == '\t') {
            int64_t n = tab > 0 ? tab - column % tab : 0;
            jinja_fill(J, jv_str(" ", 1), n);
            column += n;
        } else {
            column += ((unsigned char)s.str[i] & 0xC0) != 0x80;
            if (s.str[i] == '\n' || s.str[i] == '\r')
                column = 0;
            jinja_putc(J, s.str[i]);
        }
    }
    return keep_flags(jinja_capture_end(J, c), s);
}

/* Questions about all characters. */

static struct jv all(struct jinja *J, struct jv s, args_t *args, int (*is)(unsigned), int empty)
{
    unsigned cp;
    no_args(J, "is...", args);
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        if (!is(cp))
            return jv_bool(0);
    }
    jinja_charge(J, s.len / 16);
    return jv_bool(s.len ? 1 : empty);
}

static int is_alnum(unsigned cp)
{
    return jinja_is_alpha(cp) || jinja_is_numeric(cp);
}

static int is_ascii(unsigned cp)
{
    return cp < 0x80;
}

static struct jv m_isalnum(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, is_alnum, 0);
}
static struct jv m_isalpha(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_alpha, 0);
}
static struct jv m_isascii(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, is_ascii, 1);
}
static struct jv m_isdecimal(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_decimal, 0);
}
static struct jv m_isdigit(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_digit, 0);
}
static struct jv m_isnumeric(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_numeric, 0);
}
static struct jv m_isspace(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_space, 0);
}
static struct jv m_isprintable(struct jinja *J, struct jv s, args_t *args)
{
    return all(J, s, args, jinja_is_printable, 1);
}
static struct jv m_isidentifier(struct jinja *J, struct jv s, args_t *args)
{
    unsigned cp = 0;
    if (s.len)
        jinja_cp(s.str, s.len, &cp);
    return jinja_is_name_start(cp) ? all(J, s, args, jinja_is_name_part, 0) : jv_bool(0);
}

/* Some cased character, and none of the other case. */
static struct jv one_case(struct jinja *J, struct jv s, args_t *args, int (*is)(unsigned))
{
    unsigned cp;
    int any = 0;
    no_args(J, "is...", args);
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        if (is(cp))
            any = 1;
        else if (jinja_is_cased(cp))
            return jv_bool(0);
    }
    jinja_charge(J, s.len / 16);
    return jv_bool(any);
}

static struct jv m_islower(struct jinja *J, struct jv s, args_t *args)
{
    return one_case(J, s, args, jinja_is_lower);
}

static struct jv m_isupper(struct jinja *J, struct jv s, args_t *args)
{
    return one_case(J, s, args, jinja_is_upper);
}

static struct jv m_istitle(struct jinja *J, struct jv s, args_t *args)
{
    unsigned cp;
    int any = 0, previous = 0;
    no_args(J, "istitle", args);
    for (size_t i = 0; i < s.len;) {
        i += jinja_cp(s.str + i, s.len - i, &cp);
        int upper = jinja_is_upper(cp) || jinja_is_title(cp), lower = jinja_is_lower(cp);
        if ((upper && previous) || (lower && !previous))
            return jv_bool(0);
        previous = upper || lower;
        any |= previous;
    }
    jinja_charge(J, s.len / 16);
    return jv_bool(any);
}

static const struct jinja_method_row methods[] = {
    {"capitalize", m_capitalize},
    {"casefold", m_casefold},
    {"center", m_center},
    {"count", m_count},
    {"endswith", m_endswith},
    {"expandtabs", m_expandtabs},
    {"find", m_find},
    {"format", jinja_str_format},
    {"index", m_index},
    {"isalnum", m_isalnum},
    {"isalpha", m_isalpha},
    {"isascii", m_isascii},
    {"isdecimal", m_isdecimal},
    {"isdigit", m_isdigit},
    {"isidentifier", m_isidentifier},
    {"islower", m_islower},
    {"isnumeric", m_isnumeric},
    {"isprintable", m_isprintable},
    {"isspace", m_isspace},
    {"istitle", m_istitle},
    {"isupper", m_isupper},
    {"join", m_join},
    {"ljust", m_ljust},
    {"lower", m_lower},
    {"lstrip", m_lstrip},
    {"partition", m_partition},
    {"removeprefix", m_removeprefix},
    {"removesuffix", m_removesuffix},
    {"replace", m_replace},
    {"rfind", m_rfind},
    {"rindex", m_rindex},
    {"rjust", m_rjust},
    {"rpartition", m_rpartition},
    {"rsplit", m_rsplit},
    {"rstrip", m_rstrip},
    {"split", m_split},
    {"splitlines", m_splitlines},
    {"startswith", m_startswith},
    {"strip", m_strip},
    {"swapcase", m_swapcase},
    {"title", m_title},
    {"upper", m_upper},
    {"zfill", m_zfill},
    {NULL, NULL},
};

struct jv jinja_str_method(struct jinja *J, struct jv self, struct jv name)
{
    return jinja_method_bind(J, methods, self, name);
}
