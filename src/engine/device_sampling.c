/*
 * Which tokens the device samples, and the call that does it: those whose logits nobody else wants
 * to see or to change. The rest is sampled by the compute threads (pass.c).
 */
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "engine/engine_int.h"

int device_sampling_init(struct moed_engine *e, struct moed_error *err)
{
    struct device_sampling *d = &e->device_sampling;
    size_t n = (size_t)e->setup.max_logits;
    if (!e->setup.backend.sample)
        return 0;
    d->jobs = mem_try(n, sizeof *d->jobs);
    d->rows = mem_try(n, sizeof *d->rows);
    d->params = mem_try(n, sizeof *d->params);
    d->tokens = mem_try(n, sizeof *d->tokens);
    if (!d->jobs || !d->rows || !d->params || !d->tokens)
        return moed_fail(err, MOED_ENOMEM, "no memory to sample %zu rows on the device", n);
    return 0;
}

void device_sampling_fini(struct moed_engine *e)
{
    struct device_sampling *d = &e->device_sampling;
    free(d->jobs);
    free(d->rows);
    free(d->params);
    free(d->tokens);
}

/* Tokens that may not come before min_tokens are there. */
static size_t masked(const struct moed_engine *e, const struct choice *c, int32_t *mask)
{
    const struct moed_sampling *s = &c->request->spec->sampling;
    size_t n = 0;
    if (c->generated >= s->min_tokens)
        return 0;
    for (int32_t i = 0; i < e->setup.n_eos; i++)
        mask[n++] = e->setup.eos[i];
    for (size_t i = 0; i < s->n_stop_id; i++)
        mask[n++] = s->stop_id[i];
    return n;
}

struct sample_params job_params(const struct moed_engine *e, const struct job *j, int32_t *mask)
{
    const struct choice *c = j->choice;
    return (struct sample_params){.sampling = &c->request->spec->sampling,
                                  .counts = &c->counts,
                                  .mask = mask,
                                  .n_mask = masked(e, c, mask),
                                  .seed = c->request->seed,
                                  .choice = (uint32_t)c->index,
                                  .position = (uint64_t)j->position};
}

/* Whether the device can sample this row; then *row says how. */
static bool fits(const struct moed_engine *e, const struct job *j, struct kern_sample_row *row)
{
    int32_t mask[JOB_MAX_MASK];
    if (!e->setup.backend.sample || e->setup.hook)
        return false;
    struct sample_params p = job_params(e, j, mask);
    if (p.sampling->logprobs >= 0 || !sampler_raw(p.sampling, p.n_mask))
        return false;
    *row = sampler_row(&p);
    /* The same in every step: the device need not be sent it again. */
    if (row->temperature == 0 || row->top_k == 1)
        *row = (struct kern_sample_row){0};
    return true;
}

int sample_on_device(struct moed_engine *e, enum model_lane lane, struct job *jobs, int32_t n_jobs,
                     struct moed_error *err)
{
    const struct engine_backend *b = &e->setup.backend;
    struct device_sampling *d = &e->device_sampling;
    int rc = 0;
    for (int32_t i = 0; rc >= 0 && i < n_jobs;) {
        int32_t n = 0;
        for (; i < n_jobs && n < e->setup.max_logits; i++) {
            struct kern_sample_row row;
            if (jobs[i].kind != JOB_SAMPLE)
                continue;
            if (!fits(e, &jobs[i], &row)) {
                e->stats.sampled_cpu++;
                continue;
            }
            d->jobs[n] = &jobs[i];
            d->rows[n] = jobs[i].row;
            d->params[n++] = row;
        }
        if (n > 0)
            rc = b->sample(b->self, lane, d->rows, n, d->params, d->tokens, err);
        for (int32_t k = 0; rc >= 0 && k < n; k++) {
            struct job *j = d->jobs[k];
            j->done = true;
            j->token = d->tokens[k];
            j->info = (struct moed_token){.id = j->token, .logprob = NAN};
            e->stats.sampled_device++;
        }
    }
    return rc;
}
