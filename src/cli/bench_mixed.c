/*
 * A prompt beside decoding streams: its passes run some layers at a time and pause for a step of
 * the streams, paced as the engine paces them (engine/pace.h).
 */
#include "base/clock.h"
#include "cli/bench.h"
#include "engine/pace.h"

/* What goes on between two tokens of the streams. */
struct mix {
    struct bench *b;
    struct bench_case *c; /* NULL: not measured */
    struct pace pace;
    int32_t batch, step;
    int64_t token_us; /* the last token of the streams; 0: none yet */
};

static int step(struct mix *m, struct moed_error *err)
{
    int64_t begin = clock_us();
    int rc = bench_step(m->b, m->step, m->batch, err);
    if (rc < 0)
        return rc;
    int64_t end = clock_us();
    pace_step(&m->pace, begin, end);
    if (m->token_us)
        bench_sample(m->c, (double)(end - m->token_us) * 1e-6);
    m->token_us = end;
    /* Where a prompt takes more steps than a run of decode, they begin anew. */
    m->step = (m->step + 1) % m->b->decode_steps;
    return 0;
}

/* The layers of an open pass, and steps in between. */
static int run_pass(struct mix *m, struct moed_error *err)
{
    const int32_t layers = m->b->config.n_layers;
    int rc = 0;
    bool first = true;
    pace_new_pass(&m->pace);
    for (int32_t layer = 0; layer < layers && rc >= 0;) {
        int64_t begin = clock_us();
        if (!bench_watch_goes_on(&m->b->watch, 1, "layers of the prompt's pass", layer, layers)) {
            m->b->late = true;
            break;
        }
        int32_t n = pace_layers(&m->pace, begin, layers - layer, first);
        if (n == 0) {
            rc = step(m, err);
            first = true;
            continue;
        }
        rc = model_pass_run(m->b->model, MODEL_LONG, layer + n, err);
        pace_layers_ran(&m->pace, n, clock_us() - begin);
        layer += n;
        first = false;
    }
    return rc;
}

int bench_mixed_run(struct bench *b, const struct bench_case *what, struct bench_case *c,
                    struct moed_error *err)
{
    struct mix m = {.b = b, .c = c, .pace = {.target_us = b->target_itl_us}, .batch = what->batch};
    int32_t tokens = (int32_t)what->tokens;
    int rc = step(&m, err);
    for (int32_t done = 0, rows; done < tokens && rc >= 0 && !b->late; done += rows) {
        rows = bench_prompt_rows(b, done, tokens);
        if ((rc = bench_prompt_begin(b, b->max_batch, done, rows, err)) < 0)
            break;
        rc = run_pass(&m, err);
        if (rc >= 0 && !b->late)
            rc = bench_tokens(b, MODEL_LONG, &(int32_t){rows - 1}, 1, err);
        model_pass_end(b->model, MODEL_LONG);
    }
    /* The token that waited for the last layers. */
    return rc < 0 ? rc : step(&m, err);
}
