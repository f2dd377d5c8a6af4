/* Sampling on the device: tokens leave it instead of logits. */
#include <assert.h>
#include <string.h>

#include "model/model_int.h"

int sampler_open(struct model *m, struct moed_error *err)
{
    if (!m->dev->kern->sample || !m->b.logits)
        return 0;
    m->sampled = m->dev->ops->alloc_shared(m->dev, (size_t)m->o.max_logits * sizeof *m->sampled);
    if (!m->sampled)
        return moed_fail(err, MOED_ENOMEM, "no memory for the tokens of %d rows", m->o.max_logits);
    return 0;
}

void sampler_close(struct model *m)
{
    if (m->sampled)
        m->dev->ops->free_shared(m->dev, m->sampled, (size_t)m->o.max_logits * sizeof *m->sampled);
}

bool model_can_sample(const struct model *m)
{
    return m->sampled != NULL;
}

int model_pass_sample(struct model *m, enum model_lane lane, const int32_t *rows, int32_t n,
                      const struct kern_sample_row *params, int32_t *token, struct moed_error *err)
{
    const struct pass *p = &m->lane[lane];
    struct kern_sample call = {.logits = m->b.logits,
                               .row = params,
                               .token = m->sampled,
                               .scratch = m->b.sampler,
                               .n = n,
                               .vocab = m->c.vocab_size};
    assert(model_can_sample(m));
    for (int32_t i = 0; i < n; i++)
        call.general |= params[i].temperature != 0 && params[i].top_k != 1;
    int rc = head_run(m, p, rows, n, m->b.logits, err);
    if (rc < 0)
        return rc;
    if (m->dev->kern->sample(m->dev, &call) < 0)
        return moed_fail(err, MOED_EDEVICE, "the device failed in sampling");
    if ((rc = head_wait(m, err)) < 0)
        return rc;
    memcpy(token, m->sampled, (size_t)n * sizeof *token);
    head_end(m, p);
    return 0;
}
