/*
 * The engine's public side: what any thread may call. The engine thread itself is in loop.c.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine_int.h"
#include "engine/request.h"

static void engine_free(struct moed_engine *e)
{
    pass_fini(e);
    sched_close(&e->sched);
    if (e->inbox.fd >= 0)
        inbox_fini(&e->inbox);
    pthread_mutex_destroy(&e->shown_lock);
    buf_fini(&e->text);
    free(e);
}

int engine_start(struct moed_engine **out, const struct engine_setup *setup, struct moed_error *err)
{
    *out = NULL;
    struct moed_engine *e = mem_new(1, sizeof *e);
    e->setup = *setup;
    e->pace.target_us = setup->target_itl_us ? setup->target_itl_us : ENGINE_TARGET_ITL_US;
    admission_init(&e->admission, setup->sched.max_seqs, setup->admission_wait_us);
    e->inbox.fd = -1;
    pthread_mutex_init(&e->shown_lock, NULL);
    int rc = inbox_init(&e->inbox, err);
    if (rc < 0 || (rc = sched_open(&e->sched, &setup->sched, err)) < 0 ||
        (rc = pass_init(e, err)) < 0)
        goto out;
    stats_show(e);
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0) {
        rc = moed_fail(err, MOED_EIO, "cannot start the engine thread");
        goto out;
    }
    pthread_setname_np(e->thread, "moed-engine");
    *out = e;
    return 0;
out:
    engine_free(e);
    return rc;
}

static struct message *message_new(enum message_kind kind)
{
    struct message *m = mem_new(1, sizeof *m);
    m->kind = kind;
    return m;
}

void moed_engine_close(struct moed_engine **out)
{
    struct moed_engine *e = *out;
    if (!e)
        return;
    moed_drain(e);
    inbox_push(&e->inbox, &message_new(MESSAGE_CLOSE)->node);
    pthread_join(e->thread, NULL);
    struct engine_backend backend = e->setup.backend;
    engine_free(e);
    if (backend.close)
        backend.close(backend.self);
    *out = NULL;
}

void moed_engine_info(const struct moed_engine *e, struct moed_engine_info *out)
{
    *out = e->setup.info;
}

void moed_engine_sampling(const struct moed_engine *e, struct moed_sampling *out)
{
    *out = e->setup.sampling;
}

const struct tokenizer *moed_engine_tokenizer(const struct moed_engine *e)
{
    return e->setup.tokenizer;
}

void moed_drain(struct moed_engine *e)
{
    atomic_store(&e->draining, true);
}

static int check(struct moed_engine *e, const struct moed_request *r, struct moed_error *err)
{
    if (atomic_load(&e->failed))
        return moed_fail(err, MOED_EDEVICE, "the engine has failed and must be restarted");
    if (atomic_load(&e->draining))
        return moed_fail(err, MOED_ECLOSED, "the engine is shutting down");
    int rc = request_check(r, e->setup.info.vocab_size, e->setup.sched.max_model_len, err);
    if (rc < 0)
        return rc;
    if (r->sampling.n_stop > 0 && !e->setup.text.open)
        return moed_fail_param(err, MOED_EINVAL, "stop",
                               "stop strings need a tokenizer, and this model has none");
    if (sched_check(&e->setup.sched, r->n_prompt, (size_t)r->sampling.max_tokens, err) < 0) {
        if (err)
            err->code = MOED_EINVAL;
        return MOED_EINVAL;
    }
    return 0;
}

/* The prompt's logprobs are kept until all are known. */
static int prompt_init(struct request *r, struct moed_error *err)
{
    int32_t n_top = r->spec->sampling.prompt_logprobs;
    if (n_top < 0)
        return 0;
    size_t n = r->spec->n_prompt;
    r->prompt = mem_try(n, sizeof *r->prompt);
    r->prompt_top = mem_try(n * (size_t)n_top, sizeof *r->prompt_top);
    if (!r->prompt || !r->prompt_top)
        return moed_fail(err, MOED_ENOMEM, "no memory for the logprobs of %zu prompt tokens", n);
    return 0;
}

static int draw_seed(struct request *r, struct moed_error *err)
{
    r->seed = r->spec->sampling.seed;
    if (!r->spec->sampling.has_seed &&
        getrandom(&r->seed, sizeof r->seed, 0) != (ssize_t)sizeof r->seed)
        return moed_fail(err, MOED_EIO, "the system gives no random numbers");
    return 0;
}

int moed_submit(struct moed_engine *e, struct moed_request **request, struct moed_outbox *outbox,
                uint64_t *handle, struct moed_error *err)
{
    int rc = check(e, *request, err);
    if (rc < 0)
        return rc;
    if (atomic_fetch_add(&e->queued, 1) >= e->setup.sched.max_queue) {
        atomic_fetch_sub(&e->queued, 1);
        return moed_fail(err, MOED_EBUSY, "the queue is full: %d requests are waiting",
                         e->setup.sched.max_queue);
    }
    struct request *r = mem_new(1, sizeof *r);
    r->spec = *request;
    if ((rc = prompt_init(r, err)) < 0 || (rc = draw_seed(r, err)) < 0) {
        atomic_fetch_sub(&e->queued, 1);
        r->spec = NULL;
        request_free(r);
        return rc;
    }
    *request = NULL;
    r->queued = true;
    r->submitted_us = clock_us();
    r->handle = *handle = atomic_fetch_add(&e->last_handle, 1) + 1;
    r->outbox = outbox;
    outbox_ref(outbox);
    struct message *m = message_new(MESSAGE_SUBMIT);
    m->request = r;
    inbox_push(&e->inbox, &m->node);
    return 0;
}

void moed_cancel(struct moed_engine *e, uint64_t handle)
{
    struct message *m = message_new(MESSAGE_CANCEL);
    m->handle = handle;
    inbox_push(&e->inbox, &m->node);
}
