/* Compiled templates and their rendering, over the Jinja engine. */
#include "text/template.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "text/jinja_int.h"

struct chat_template {
    struct jinja_program program;
};

/*
 * The template of a served model needs thousands of steps and kilobytes for a long conversation;
 * the limits stop one that does not end within about a second, and leave room for a prompt that
 * fills the largest contexts.
 */
const struct template_limits template_limits_default = {
    .steps = 20000000,
    .output_bytes = (size_t)32 << 20,
    .memory_bytes = (size_t)256 << 20,
    .depth = 200,
};

int template_compile(struct chat_template **out, const char *source, size_t n,
                     struct moed_error *err)
{
    struct chat_template *t = mem_new(1, sizeof *t);
    *out = NULL;
    int rc = jinja_parse(&t->program, source, n, err);
    if (rc < 0) {
        free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void template_close(struct chat_template **t)
{
    if (!*t)
        return;
    jinja_program_fini(&(*t)->program);
    free(*t);
    *t = NULL;
}

/* Fails by unwinding to here; everything a rendering owns hangs off J. */
static int render(struct jinja *J)
{
    if (setjmp(J->unwind))
        return J->code;
    size_t bytes = J->program->n_names * sizeof *J->slots;
    J->slots = memset(jinja_alloc(J, bytes), 0, bytes);
    jinja_exec(J, J->program->body);
    return 0;
}

int template_render(const struct chat_template *t, json_t *vars, int64_t now_unix,
                    const struct template_limits *limits, struct buf *out, struct moed_error *err)
{
    struct moed_error unheard;
    struct jinja J = {
        .program = &t->program,
        .limits = limits ? limits : &template_limits_default,
        .vars = vars,
        .now_unix = now_unix,
        .out = out,
        .out_start = out->len,
        .line = 1,
        .err = err ? err : &unheard,
    };
    jinja_arena_init(&J.arena, J.limits->memory_bytes);
    int rc = render(&J);
    if (rc < 0)
        buf_truncate(out, J.out_start);
    buf_fini(&J.capture);
    jinja_arena_fini(&J.arena);
    return rc;
}
