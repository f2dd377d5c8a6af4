/*
 * The engine's side of an outbox: making and pushing events. The outbox lives until its owner has
 * closed it and every request that writes to it has let go.
 */
#ifndef MOED_ENGINE_OUTBOX_H
#define MOED_ENGINE_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed/request.h"

/* What an event is made of; everything is copied into one block of memory. */
struct event_parts {
    enum moed_event_kind kind;
    void *user;
    int32_t choice;
    const char *text; /* [text_bytes] */
    size_t text_bytes;
    const struct moed_token *tokens; /* [n_tokens], each with its own top */
    size_t n_tokens;
    enum moed_finish finish;
    const char *stop_reason; /* or NULL */
    int32_t stop_token;      /* -1: none */
    struct moed_usage usage;
    const struct moed_error *error; /* or NULL */
};

/* Copies the parts; NULL when memory for a large event cannot be had. */
struct moed_event *outbox_event_new(const struct event_parts *parts);

/* Any thread. */
void outbox_ref(struct moed_outbox *o);
void outbox_unref(struct moed_outbox *o);
/* True once the owner has closed it: nobody will read. */
bool outbox_closed(const struct moed_outbox *o);
/* Takes the event over. */
void outbox_push(struct moed_outbox *o, struct moed_event *event);

#endif
