#include "engine/outbox.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/inbox.h"
#include "base/mem.h"

struct moed_outbox {
    struct inbox queue;
    atomic_int refs; /* the owner and each request in flight */
    atomic_bool closed;
};

/* An event with its place in the queue; the payload follows in the same block. */
struct queued_event {
    struct inbox_node node;
    struct moed_event event;
};

static struct queued_event *queued(struct moed_event *e)
{
    return (struct queued_event *)((char *)e - offsetof(struct queued_event, event));
}

int moed_outbox_open(struct moed_outbox **out, struct moed_error *err)
{
    *out = NULL;
    struct moed_outbox *o = mem_new(1, sizeof *o);
    int rc = inbox_init(&o->queue, err);
    if (rc < 0) {
        free(o);
        return rc;
    }
    atomic_init(&o->refs, 1);
    atomic_init(&o->closed, false);
    *out = o;
    return 0;
}

void outbox_ref(struct moed_outbox *o)
{
    atomic_fetch_add(&o->refs, 1);
}

void outbox_unref(struct moed_outbox *o)
{
    int refs = atomic_fetch_sub(&o->refs, 1);
    assert(refs > 0);
    if (refs > 1)
        return;
    struct moed_event *e;
    while ((e = moed_outbox_next(o)))
        moed_event_free(e);
    inbox_fini(&o->queue);
    free(o);
}

bool outbox_closed(const struct moed_outbox *o)
{
    return atomic_load(&o->closed);
}

void moed_outbox_close(struct moed_outbox **o)
{
    if (!*o)
        return;
    atomic_store(&(*o)->closed, true);
    outbox_unref(*o);
    *o = NULL;
}

int moed_outbox_fd(const struct moed_outbox *o)
{
    return o->queue.fd;
}

struct moed_event *moed_outbox_next(struct moed_outbox *o)
{
    struct inbox_node *n = inbox_next(&o->queue);
    return n ? &((struct queued_event *)n)->event : NULL;
}

void outbox_push(struct moed_outbox *o, struct moed_event *event)
{
    if (outbox_closed(o)) {
        moed_event_free(event);
        return;
    }
    inbox_push(&o->queue, &queued(event)->node);
}

void moed_event_free(struct moed_event *e)
{
    if (e)
        free(queued(e));
}

struct moed_event *outbox_event_new(const struct event_parts *p)
{
    size_t n_top = 0;
    for (size_t i = 0; i < p->n_tokens; i++)
        n_top += (size_t)p->tokens[i].n_top;
    size_t stop_bytes = p->stop_reason ? strlen(p->stop_reason) + 1 : 0;
    size_t token_bytes = p->n_tokens * sizeof *p->tokens;
    size_t top_bytes = n_top * sizeof(struct moed_top);
    size_t bytes =
        sizeof(struct queued_event) + token_bytes + top_bytes + p->text_bytes + 1 + stop_bytes;
    /* Small ones are within what mem.h lets us count on; prompt logprobs can be large. */
    struct queued_event *q = bytes <= 65536 ? mem_new(1, bytes) : mem_try(1, bytes);
    if (!q)
        return NULL;
    struct moed_token *tokens = (struct moed_token *)(q + 1);
    struct moed_top *top = (struct moed_top *)(tokens + p->n_tokens);
    char *text = (char *)(top + n_top), *stop = text + p->text_bytes + 1;
    for (size_t i = 0; i < p->n_tokens; i++) {
        tokens[i] = p->tokens[i];
        tokens[i].top = top;
        for (int32_t k = 0; k < tokens[i].n_top; k++)
            *top++ = p->tokens[i].top[k];
    }
    if (p->text_bytes)
        memcpy(text, p->text, p->text_bytes);
    if (stop_bytes)
        memcpy(stop, p->stop_reason, stop_bytes);
    struct moed_event *e = &q->event;
    e->kind = p->kind;
    e->user = p->user;
    e->choice = p->choice;
    e->text = text;
    e->text_bytes = p->text_bytes;
    e->tokens = tokens;
    e->n_tokens = p->n_tokens;
    e->finish = p->finish;
    e->stop_reason = stop_bytes ? stop : NULL;
    e->stop_token = p->stop_token;
    e->usage = p->usage;
    if (p->error)
        e->error = *p->error;
    return e;
}
