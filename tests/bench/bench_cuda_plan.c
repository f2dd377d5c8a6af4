/*
 * What moed plan says of a GPU's memory against what its driver says: bench_cuda_plan MODEL-FOLDER.
 * Opens the model with random weights, lets it answer a prompt of one long pass and some steps, and
 * compares. Ends with 1 beyond 2 % of the plan.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "device/device.h"
#include "engine/plan.h"
#include "moed/engine.h"

#define MIB       0x1p20
#define TOLERANCE 0.02

static int fail(const struct moed_error *err)
{
    fprintf(stderr, "%s\n", err->text);
    return 1;
}

/* Until the request's end; its error's code, or 0. */
static int await(struct moed_outbox *box)
{
    for (int code = 1; code > 0;) {
        struct moed_event *e = moed_outbox_next(box);
        if (!e) {
            struct pollfd p = {.fd = moed_outbox_fd(box), .events = POLLIN};
            poll(&p, 1, 100);
            continue;
        }
        if (e->kind == MOED_EVENT_DONE || e->kind == MOED_EVENT_ERROR)
            code = e->kind == MOED_EVENT_DONE ? 0 : e->error.code;
        moed_event_free(e);
        if (code <= 0)
            return code;
    }
    return 0;
}

static int ask(struct moed_engine *engine, int32_t n, int32_t new_tokens, struct moed_error *err)
{
    struct moed_request *r = moed_request_new();
    struct moed_outbox *box = NULL;
    uint64_t handle;
    r->prompt = mem_new((size_t)n, sizeof *r->prompt);
    for (int32_t i = 0; i < n; i++)
        r->prompt[i] = (i * 37 + 5) % 1000;
    r->n_prompt = (size_t)n;
    r->sampling.max_tokens = new_tokens;
    r->sampling.ignore_eos = true;
    int rc = moed_outbox_open(&box, err);
    if (rc == 0)
        rc = moed_submit(engine, &r, box, &handle, err);
    if (rc == 0 && (rc = await(box)) < 0)
        moed_fail(err, rc, "a prompt of %d tokens: %s", n, moed_code_name(rc));
    if (r)
        moed_request_free(&r);
    if (box)
        moed_outbox_close(&box);
    return rc;
}

static void row(const char *name, uint64_t bytes)
{
    printf("%-28s %10.1f MiB\n", name, (double)bytes / MIB);
}

int main(int argc, char **argv)
{
    struct moed_engine_config cfg = {.model_dir = argc > 1 ? argv[1] : "",
                                     .device = "cuda",
                                     .load_format = "dummy",
                                     .expert_cache_share = 0.25,
                                     .long_prefill_tokens = -1,
                                     .kv_cache_bytes = (uint64_t)1 << 30};
    struct dev_choice before, opened, after;
    struct engine_plan plan;
    struct moed_engine *engine;
    struct moed_error err = {0};
    if (dev_choose(&before, "cuda", &err) < 0 || engine_plan_model(&plan, NULL, &cfg, &err) < 0 ||
        moed_engine_open(&engine, &cfg, &err) < 0 || dev_choose(&opened, "cuda", &err) < 0)
        return fail(&err);
    int32_t most = plan.max_model_len - 16;
    int32_t n =
        plan.options.long_rows < most && plan.options.long_rows > 0 ? plan.options.long_rows : most;
    if (ask(engine, n, 8, &err) < 0 || dev_choose(&after, "cuda", &err) < 0)
        return fail(&err);
    uint64_t planned = plan.device_bytes + plan.device_other_bytes;
    uint64_t grown = before.memory.free_bytes - after.memory.free_bytes;
    row("dense weights", plan.memory.dense_bytes);
    row("expert cache", plan.memory.cache_bytes);
    row("KV cache", plan.memory.kv_bytes);
    row("activations", plan.memory.activation_bytes);
    row("recorded steps", plan.memory.step_bytes);
    row("kernels and their buffers", plan.device_other_bytes);
    row("planned", planned);
    row("driver: when opened", before.memory.free_bytes - opened.memory.free_bytes);
    row("driver: after a prompt", grown);
    double off = ((double)grown - (double)planned) / (double)planned;
    printf("%+.2f %% of the plan, a prompt of %d tokens; %s\n", off * 100, n,
           off <= TOLERANCE && off >= -TOLERANCE ? "within 2 %" : "BEYOND 2 %");
    moed_engine_close(&engine);
    return off <= TOLERANCE && off >= -TOLERANCE ? 0 : 1;
}
