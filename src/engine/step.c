/* One step: decode rows and what rides along with them, through all layers at once. */
#include "engine/engine_int.h"

static int run(struct moed_engine *e, struct pass *p, struct moed_error *err)
{
    const struct engine_backend *b = &e->setup.backend;
    int rc = pass_begin(e, p, err);
    if (rc < 0)
        return rc;
    if ((rc = b->run(b->self, p->lane, e->setup.info.n_layers, err)) >= 0)
        rc = pass_sample(e, p, err);
    int end = b->end(b->self, p->lane);
    return rc < 0 ? rc : end;
}

void engine_step(struct moed_engine *e, const struct sched_plan *plan)
{
    int64_t start = engine_now_us(e);
    struct pass *p = &e->step;
    struct moed_error err = {0};
    int32_t n_decode = plan->n_decode;
    bool pure = plan->n_prefill == 0 && e->layers_seen == e->stats.long_layers;
    pass_clear(p);
    for (int32_t i = 0; i < plan->n_decode; i++)
        pass_add(e, p, &plan->decode[i]);
    for (int32_t i = 0; i < plan->n_prefill; i++)
        pass_add(e, p, &plan->prefill[i]);
    int rc = run(e, p, &err);
    e->stats.steps++;
    e->stats.long_pauses += e->long_pass.open;
    if (rc < 0) {
        sched_abandon(e->sched);
        if (!pass_again(e, p, rc, &err))
            pass_failed(e, p, &err);
    } else {
        p->failures = 0;
        sched_complete(e->sched);
        pass_apply(e, p);
    }
    int64_t end = engine_now_us(e);
    if (rc >= 0)
        admission_step(&e->admission, n_decode, pure, start, end);
    e->layers_seen = e->stats.long_layers;
    pace_step(&e->pace, start, end);
    histogram_add(&e->stats.step_time, end - start);
}
