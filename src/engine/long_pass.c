/*
 * The long pass: begun between two steps, run some layers at a time, paused while steps run. What
 * ended or was preempted meanwhile is dropped from it before it goes on.
 */
#include "base/clock.h"
#include "engine/engine_int.h"

int64_t engine_now_us(const struct moed_engine *e)
{
    const struct engine_backend *b = &e->setup.backend;
    return b->now_us ? b->now_us(b->self) : clock_us();
}

static int close_pass(struct moed_engine *e)
{
    bool open = e->long_pass.open;
    e->long_pass.open = false;
    return open ? e->setup.backend.end(e->setup.backend.self, MODEL_LONG) : 0;
}

static void failed(struct moed_engine *e, int rc, struct moed_error *err)
{
    struct pass *p = &e->long_pass.pass;
    (void)close_pass(e);
    sched_long_abandon(e->sched);
    if (!pass_again(e, p, rc, err))
        pass_failed(e, p, err);
}

static int begin(struct moed_engine *e, const struct sched_long *plan, struct moed_error *err)
{
    struct pass *p = &e->long_pass.pass;
    pass_clear(p);
    for (int32_t i = 0; i < plan->n_spans; i++)
        pass_add(e, p, &plan->spans[i]);
    int rc = pass_begin(e, p, err);
    if (rc < 0)
        return rc;
    e->long_pass.open = true;
    e->long_pass.layer = 0;
    e->stats.long_passes++;
    pace_new_pass(&e->pace);
    return 0;
}

static void drop_gone(struct moed_engine *e, const struct sched_long *plan)
{
    for (int32_t i = 0; i < plan->n_spans; i++)
        if (!plan->spans[i].seq && e->long_pass.pass.owner[i])
            pass_drop(e, &e->long_pass.pass, i);
}

static int run_layers(struct moed_engine *e, struct moed_error *err)
{
    const struct engine_backend *b = &e->setup.backend;
    struct long_pass *l = &e->long_pass;
    int64_t now = engine_now_us(e);
    int32_t n, layers = e->setup.info.n_layers;
    for (bool first = true; (n = pace_layers(&e->pace, now, layers - l->layer, first)) > 0;
         first = false) {
        int rc = b->run(b->self, MODEL_LONG, l->layer + n, err);
        if (rc < 0)
            return rc;
        int64_t end = engine_now_us(e);
        pace_layers_ran(&e->pace, n, end - now);
        now = end;
        l->layer += n;
        e->stats.long_layers += (uint64_t)n;
    }
    return 0;
}

bool engine_long_pass(struct moed_engine *e, bool stepped)
{
    const struct sched_long *plan = sched_long(e->sched);
    struct moed_error err = {0};
    int rc = 0;
    if (plan->n_spans == 0)
        return false;
    if (!e->long_pass.open && (rc = begin(e, plan, &err)) < 0) {
        failed(e, rc, &err);
        return true;
    }
    drop_gone(e, plan);
    if (plan->n_alive == 0) {
        (void)close_pass(e);
        sched_long_abandon(e->sched);
        return true;
    }
    if (!stepped)
        pace_no_streams(&e->pace, engine_now_us(e));
    rc = run_layers(e, &err);
    if (rc == 0 && e->long_pass.layer < e->setup.info.n_layers)
        return true;
    if (rc < 0 || (rc = pass_sample(e, &e->long_pass.pass, &err)) < 0 || (rc = close_pass(e)) < 0) {
        failed(e, rc, &err);
        return true;
    }
    e->long_pass.pass.failures = 0;
    sched_long_complete(e->sched);
    pass_apply(e, &e->long_pass.pass);
    return true;
}

void engine_long_pass_close(struct moed_engine *e)
{
    (void)close_pass(e);
    sched_long_abandon(e->sched);
}
