/* for loops and the variable `loop`. */
#include "text/jinja_int.h"

typedef struct jinja_node node;

static int passes(struct jinja *J, struct jinja_loop *loop, struct jv item)
{
    const node *n = loop->node;
    if (!n->c || loop->length >= 0)
        return 1;
    struct jinja_scope *outer = J->scope;
    J->scope = jinja_scope_new(J, loop->scope);
    jinja_assign(J, n->a, item);
    int ok = jv_truth(J, jinja_eval(J, n->c));
    J->scope = outer;
    return ok;
}

/* The next item that the loop's condition lets through. */
static int fetch(struct jinja *J, struct jinja_loop *loop, struct jv *item)
{
    struct jv next;
    while (jv_next(J, &loop->cursor, &next)) {
        jinja_charge(J, 1);
        if (passes(J, loop, next)) {
            *item = next;
            return 1;
        }
    }
    return 0;
}

static struct jv peek(struct jinja *J, struct jinja_loop *loop)
{
    if (loop->after.kind == JV_MISSING)
        fetch(J, loop, &loop->after);
    return loop->after;
}

/* Where the length is not known, what is left is taken now. */
static int64_t length(struct jinja *J, struct jinja_loop *loop)
{
    if (loop->length >= 0)
        return loop->length;
    struct jinja_list *rest = jinja_list_new(J, 0);
    struct jv item;
    while (fetch(J, loop, &item))
        jinja_list_add(J, rest, item);
    loop->cursor = (struct jinja_cursor){.v = jv_list(rest)};
    loop->length = rest->n + loop->index0 + 1 + (loop->after.kind != JV_MISSING);
    return loop->length;
}

static int advance(struct jinja *J, struct jinja_loop *loop)
{
    struct jv item = loop->after;
    loop->after = (struct jv){0};
    if (item.kind == JV_MISSING && !fetch(J, loop, &item))
        return 0;
    loop->index0++;
    loop->before = loop->current;
    loop->current = item;
    return 1;
}

static enum jinja_flow run(struct jinja *J, const node *n, struct jinja_scope *around,
                           struct jv iterable, uint32_t depth0)
{
    struct jinja_loop *loop = jinja_alloc(J, sizeof *loop);
    *loop = (struct jinja_loop){.node = n, .scope = around, .index0 = -1, .depth0 = depth0};
    loop->cursor = jv_iterate(J, iterable);
    loop->length = n->c ? -1 : jv_len(J, iterable);
    if (iterable.kind == JV_STR)
        loop->length = -1; /* counting characters only if asked for */
    if (++J->depth > J->limits->depth)
        jinja_fail_limit(J, "depth");
    struct jinja_scope *outer = J->scope, *inner = jinja_scope_new(J, around);
    int completed = 0;
    while (advance(J, loop)) {
        inner->n = 0;
        J->scope = inner;
        jinja_scope_set(J, inner, JINJA_NAME_LOOP, (struct jv){.kind = JV_LOOP, .loop = loop});
        jinja_assign(J, n->a, loop->current);
        enum jinja_flow flow = jinja_exec(J, n->d);
        J->scope = outer;
        if (flow == JINJA_BREAK)
            break;
        completed |= flow == JINJA_NEXT;
    }
    enum jinja_flow flow = JINJA_NEXT;
    /* As Jinja has it: else runs when no iteration came to its end. */
    if (n->e && !completed) {
        J->scope = jinja_scope_new(J, around);
        flow = jinja_exec(J, n->e);
        J->scope = outer;
    }
    J->depth--;
    return flow;
}

enum jinja_flow jinja_exec_for(struct jinja *J, const struct jinja_node *n)
{
    return run(J, n, J->scope, jinja_eval(J, n->b), 0);
}

struct jv jinja_loop_recurse(struct jinja *J, struct jinja_loop *loop,
                             const struct jinja_args *args)
{
    static const char *const names[] = {"iterable"};
    struct jv iterable;
    jinja_bind(J, "loop", args, names, 1, 1, &iterable);
    if (!loop->node->op)
        jinja_fail(J, "The loop must have the 'recursive' marker to be called recursively.");
    struct jinja_capture c = jinja_capture_begin(J);
    jinja_enter(J);
    run(J, loop->node, loop->scope, iterable, loop->depth0 + 1);
    jinja_leave(J);
    return jinja_capture_end(J, c);
}

static struct jv loop_cycle(struct jinja *J, struct jv self, const struct jinja_args *args)
{
    if (!args->n_pos)
        jinja_fail(J, "no items for cycling given");
    return args->pos[self.loop->index0 % args->n_pos];
}

static struct jv loop_changed(struct jinja *J, struct jv self, const struct jinja_args *args)
{
    struct jinja_list *l = jinja_list_new(J, args->n_pos);
    for (uint32_t i = 0; i < args->n_pos; i++)
        jinja_list_add(J, l, args->pos[i]);
    struct jv now = jv_tuple(l);
    int same = self.loop->changed.kind != JV_MISSING && jv_equal(J, self.loop->changed, now);
    self.loop->changed = now;
    return jv_bool(!same);
}

static const struct jinja_method_row methods[] = {
    {"cycle", loop_cycle}, {"changed", loop_changed}, {NULL, NULL}};

struct jv jinja_loop_attr(struct jinja *J, struct jinja_loop *loop, struct jv name)
{
    if (jv_str_is(name, "index"))
        return jv_int(loop->index0 + 1);
    if (jv_str_is(name, "index0"))
        return jv_int(loop->index0);
    if (jv_str_is(name, "first"))
        return jv_bool(loop->index0 == 0);
    if (jv_str_is(name, "last"))
        return jv_bool(peek(J, loop).kind == JV_MISSING);
    if (jv_str_is(name, "length"))
        return jv_int(length(J, loop));
    if (jv_str_is(name, "revindex"))
        return jv_int(length(J, loop) - loop->index0);
    if (jv_str_is(name, "revindex0"))
        return jv_int(length(J, loop) - loop->index0 - 1);
    if (jv_str_is(name, "depth"))
        return jv_int(loop->depth0 + 1);
    if (jv_str_is(name, "depth0"))
        return jv_int(loop->depth0);
    if (jv_str_is(name, "previtem"))
        return loop->index0 == 0 ? jinja_undefined_hint(J, "there is no previous item")
                                 : loop->before;
    if (jv_str_is(name, "nextitem")) {
        struct jv next = peek(J, loop);
        return next.kind == JV_MISSING ? jinja_undefined_hint(J, "there is no next item") : next;
    }
    return jinja_method_bind(J, methods, (struct jv){.kind = JV_LOOP, .loop = loop}, name);
}
