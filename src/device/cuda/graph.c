/* Recorded steps: plan memory, recording into a CUDA graph, replay. */
#include <stdlib.h>
#include <string.h>

#include "cuda_int.h"

static void *plan_alloc(struct dev *dev, size_t bytes)
{
    struct dev_cuda *d = cuda_of(dev);
    if (d->plan.host)
        return NULL;
    d->plan.host = cuda_alloc_shared(dev, bytes);
    d->plan.device = (CUdeviceptr)(uintptr_t)cuda_alloc(dev, bytes);
    d->plan.bytes = bytes;
    if (d->plan.host && d->plan.device)
        return d->plan.host;
    cuda_free_shared(dev, d->plan.host, bytes);
    cuda_free(dev, (void *)(uintptr_t)d->plan.device, bytes);
    d->plan = (struct plan_memory){0};
    return NULL;
}

static void plan_free(struct dev *dev, void *plan)
{
    struct dev_cuda *d = cuda_of(dev);
    if (!plan)
        return;
    cuda_free_shared(dev, d->plan.host, d->plan.bytes);
    cuda_free(dev, (void *)(uintptr_t)d->plan.device, d->plan.bytes);
    d->plan = (struct plan_memory){0};
}

const void *cuda_plan_twin(const struct dev_cuda *d, const void *p)
{
    size_t at = (size_t)((uintptr_t)p - (uintptr_t)d->plan.host);
    return d->plan.host && at < d->plan.bytes ? cuda_at(d->plan.device + at) : NULL;
}

static int plan_send(struct dev *dev, const void *part, size_t bytes)
{
    struct dev_cuda *d = cuda_of(dev);
    const void *twin = cuda_plan_twin(d, part);
    int rc = cuda_enter(d);
    if (rc < 0)
        return rc;
    if (!twin)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "sending what is not a plan");
    /* By a kernel: a copy would wait for those of experts that are under way. */
    return cuda_fetch(d, (CUdeviceptr)(uintptr_t)twin, part, bytes);
}

static int record_begin(struct dev *dev)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    if (rc < 0 || (rc = cuda_wait_compute(d)) < 0)
        return rc;
    d->overlaps = d->overlap_capable;
    return cuda_check(d, cuStreamBeginCapture(d->compute, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
                      "recording a step");
}

static void live(struct dev *dev, const int32_t *word)
{
    struct dev_cuda *d = cuda_of(dev);
    d->live = cuda_plan_twin(d, word);
}

static void forget(struct dev *dev, struct dev_recorded *r)
{
    if (!r || cuCtxSetCurrent(cuda_of(dev)->context) != CUDA_SUCCESS)
        return;
    if (r->exec)
        cuGraphExecDestroy(r->exec);
    if (r->graph)
        cuGraphDestroy(r->graph);
    free(r);
}

static int record_end(struct dev *dev, struct dev_recorded **out, struct moed_error *err)
{
    struct dev_cuda *d = cuda_of(dev);
    struct dev_recorded *r = calloc(1, sizeof *r);
    d->overlaps = false;
    d->live = NULL;
    *out = NULL;
    if (!r)
        return moed_fail(err, MOED_ENOMEM, "no memory for a recorded step");
    CUresult result = cuStreamEndCapture(d->compute, &r->graph);
    if (result == CUDA_SUCCESS)
        result = cuGraphInstantiate(&r->exec, r->graph, 0);
    if (result == CUDA_SUCCESS)
        result = cuGraphUpload(r->exec, d->compute);
    if (result != CUDA_SUCCESS) {
        forget(dev, r);
        return moed_fail(err, cuda_check(d, result, "recording a step"), "cannot record a step: %s",
                         cuda_words(result));
    }
    *out = r;
    return 0;
}

static int replay(struct dev *dev, const struct dev_recorded *r)
{
    struct dev_cuda *d = cuda_of(dev);
    int rc = cuda_enter(d);
    return rc < 0 ? rc : cuda_check(d, cuGraphLaunch(r->exec, d->compute), "replaying a step");
}

const struct dev_step cuda_step = {
    .plan_alloc = plan_alloc,
    .plan_free = plan_free,
    .plan_send = plan_send,
    .mailbox_open = cuda_mailbox_open,
    .mailbox_close = cuda_mailbox_close,
    .record_begin = record_begin,
    .live = live,
    .record_end = record_end,
    .forget = forget,
    .replay = replay,
    .norm_linear = cuda_norm_linear,
    .turn = cuda_turn,
    .paged_experts = cuda_paged_experts,
    .can_page = cuda_can_page,
    .fused_open = cuda_fused_open,
    .fused_close = cuda_fused_close,
    .fused = cuda_fused,
    .fused_times = cuda_fused_times,
};
