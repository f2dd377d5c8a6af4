/* a.b, a[b] and a[b:c:d]. As in Jinja, a.b looks for a method first and for an item then, a['b']
 * the other way round, and what is not there is undefined. */
#include <string.h>

#include "text/jinja_int.h"

static struct jv macro_attr(struct jinja *J, const struct jinja_macro *m, struct jv name)
{
    const struct jinja_params *params = m->node->params;
    if (jv_str_is(name, "name"))
        return m->node->value.kind == JV_STR ? m->node->value : jv_none();
    if (jv_str_is(name, "catch_kwargs"))
        return jv_bool(params->uses_kwargs);
    if (jv_str_is(name, "catch_varargs"))
        return jv_bool(params->uses_varargs);
    if (jv_str_is(name, "caller"))
        return jv_bool(params->uses_caller);
    if (!jv_str_is(name, "arguments"))
        return (struct jv){0};
    struct jinja_list *l = jinja_list_new(J, params->n);
    for (uint32_t i = 0; i < params->n; i++)
        l->items[l->n++] = J->program->names[params->list[i].name];
    return jv_tuple(l);
}

struct jv jinja_own_attr(struct jinja *J, struct jv obj, struct jv name)
{
    switch (obj.kind) {
    case JV_STR:
        return jinja_str_method(J, obj, name);
    case JV_TUPLE:
        if (obj.flags & JV_GROUP && jv_str_is(name, "grouper"))
            return obj.list->items[0];
        if (obj.flags & JV_GROUP && jv_str_is(name, "list"))
            return obj.list->items[1];
        return jinja_container_method(J, obj, name);
    case JV_LIST:
    case JV_RANGE:
    case JV_JSON_ARRAY:
    case JV_DICT:
    case JV_JSON_OBJECT:
    case JV_CYCLER:
        return jinja_container_method(J, obj, name);
    case JV_INT:
    case JV_BOOL:
    case JV_FLOAT:
        return jinja_number_method(J, obj, name);
    case JV_NAMESPACE:
        return jinja_dict_get(J, obj.dict, name);
    case JV_LOOP:
        return jinja_loop_attr(J, obj.loop, name);
    case JV_MACRO:
        return macro_attr(J, obj.macro, name);
    default:
        return (struct jv){0};
    }
}

struct jv jinja_getattr(struct jinja *J, struct jv obj, struct jv name)
{
    if (obj.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, obj);
    struct jv v = jinja_own_attr(J, obj, name);
    if (v.kind == JV_MISSING && jv_is_mapping(obj))
        v = jv_lookup(J, obj, name);
    return v.kind == JV_MISSING ? jinja_undefined_member(J, obj, name) : v;
}

static struct jv at_index(struct jinja *J, struct jv obj, int64_t i)
{
    int64_t n = jv_len(J, obj);
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return (struct jv){0};
    if (obj.kind != JV_STR)
        return jv_at(obj, i);
    if ((uint64_t)n == obj.len)
        return jv_str_part(obj, (size_t)i, (size_t)i + 1);
    size_t from = jv_str_offset(J, obj, i);
    unsigned cp;
    return jv_str_part(obj, from, from + jinja_cp(obj.str + from, obj.len - from, &cp));
}

struct jv jinja_getitem(struct jinja *J, struct jv obj, struct jv key)
{
    struct jv v = {0};
    if (obj.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, obj);
    if (jv_is_mapping(obj)) {
        if (!jv_is_listlike(key) && !jv_is_mapping(key))
            v = jv_lookup(J, obj, key);
        else if (key.kind == JV_TUPLE)
            v = jv_lookup(J, obj, key);
    } else if (key.kind == JV_INT || key.kind == JV_BOOL) {
        if (obj.kind == JV_STR || obj.kind == JV_RANGE || jv_is_listlike(obj))
            v = at_index(J, obj, key.i);
    }
    if (v.kind == JV_MISSING && key.kind == JV_STR)
        v = jinja_own_attr(J, obj, key);
    return v.kind == JV_MISSING ? jinja_undefined_member(J, obj, key) : v;
}

static int slice_part(struct jv v, int64_t absent, int64_t *out)
{
    *out = absent;
    if (v.kind == JV_MISSING || v.kind == JV_NONE)
        return 1;
    *out = v.i;
    return v.kind == JV_INT || v.kind == JV_BOOL;
}

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high)
{
    if (i < 0)
        i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static struct jv slice_str(struct jinja *J, struct jv s, int64_t from, int64_t step, int64_t count)
{
    int64_t n = jv_str_len(J, s);
    if ((uint64_t)n == s.len)
        s.flags |= JV_ASCII;
    if (step == 1) {
        size_t a = jv_str_offset(J, s, from);
        struct jv rest = jv_str_part(s, a, s.len);
        return jv_str_part(rest, 0, jv_str_offset(J, rest, count));
    }
    /* Offsets of all characters, so that any step is one pass. */
    uint32_t *offsets = jinja_alloc(J, ((size_t)n + 1) * sizeof *offsets);
    size_t pos = 0;
    unsigned cp;
    for (int64_t i = 0; i < n; i++) {
        offsets[i] = (uint32_t)pos;
        pos += jinja_cp(s.str + pos, s.len - pos, &cp);
    }
    offsets[n] = (uint32_t)pos;
    jinja_charge(J, (size_t)n / 16);
    struct jinja_capture c = jinja_capture_begin(J);
    for (int64_t k = 0; k < count; k++, from += step)
        jinja_write(J, s.str + offsets[from], offsets[from + 1] - offsets[from]);
    struct jv out = jinja_capture_end(J, c);
    out.flags |= s.flags & JV_MARKUP;
    return out;
}

static struct jv slice_list(struct jinja *J, struct jv v, int64_t from, int64_t to, int64_t step,
                            int64_t count)
{
    jinja_charge(J, (size_t)count);
    if (v.kind == JV_RANGE) {
        struct jinja_range *r = jinja_alloc(J, sizeof *r);
        const struct jinja_range *of = v.range;
        *r = (struct jinja_range){of->start + from * of->step, of->start + to * of->step,
                                  of->step * step, count};
        return (struct jv){.kind = JV_RANGE, .range = r};
    }
    struct jinja_list *l = jinja_list_new(J, (size_t)count);
    for (int64_t k = 0; k < count; k++, from += step)
        l->items[l->n++] = jv_at(v, from);
    return v.kind == JV_TUPLE ? jv_tuple(l) : jv_list(l);
}

struct jv jinja_slice(struct jinja *J, struct jv obj, struct jv start, struct jv stop,
                      struct jv step)
{
    int64_t from, to, by;
    if (obj.kind == JV_UNDEFINED)
        jinja_fail_undefined(J, obj);
    int is_str = obj.kind == JV_STR;
    if ((!is_str && obj.kind != JV_RANGE && !jv_is_listlike(obj)) || !slice_part(step, 1, &by) ||
        !slice_part(start, by < 0 ? INT64_MAX : 0, &from) ||
        !slice_part(stop, by < 0 ? INT64_MIN : INT64_MAX, &to))
        return jinja_undefined_member(J, obj, jv_none());
    if (by == 0)
        jinja_fail(J, "slice step cannot be zero");
    if (by == INT64_MIN)
        by = -INT64_MAX;
    int64_t n = jv_len(J, obj), count;
    if (by > 0) {
        from = clamp(from, n, 0, n);
        to = clamp(to, n, 0, n);
        count = to > from ? (to - from - 1) / by + 1 : 0;
    } else {
        from = clamp(from, n, -1, n - 1);
        to = to == INT64_MIN ? -1 : clamp(to, n, -1, n - 1);
        count = from > to ? (from - to - 1) / -by + 1 : 0;
    }
    /* A step beyond the end is never taken; this keeps from + step from overflowing. */
    if (count <= 1 && obj.kind != JV_RANGE)
        by = by > 0 ? 1 : -1;
    if (count == 0 && obj.kind != JV_RANGE)
        from = 0;
    return is_str ? slice_str(J, obj, from, by, count) : slice_list(J, obj, from, to, by, count);
}

static int all_digits(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9')
            return 0;
    return n > 0 && n < 18;
}

struct jv jinja_getpath(struct jinja *J, struct jv obj, struct jv path)
{
    if (path.kind != JV_STR)
        return path.kind == JV_NONE ? obj : jinja_getitem(J, obj, path);
    size_t from = 0;
    do {
        const char *dot = path.len > from ? memchr(path.str + from, '.', path.len - from) : NULL;
        size_t to = dot ? (size_t)(dot - path.str) : path.len;
        struct jv part = jv_str_part(path, from, to);
        part.flags = 0;
        if (all_digits(part.str, part.len)) {
            int64_t i = 0;
            for (uint32_t k = 0; k < part.len; k++)
                i = i * 10 + (part.str[k] - '0');
            part = jv_int(i);
        }
        obj = jinja_getitem(J, obj, part);
        from = to + 1;
    } while (from <= path.len);
    return obj;
}
