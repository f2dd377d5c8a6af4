/*
 * Stop strings over streamed text. Text goes in as it is detokenized and comes out as soon as no
 * stop string can begin in it any more: a match across token borders ends the text before its first
 * byte. The match that ends first wins, whatever the pieces; of those that end together the
 * longest. One thread.
 */
#ifndef MOED_ENGINE_STOP_H
#define MOED_ENGINE_STOP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"

struct stop_matcher {
    char *const *stop; /* [n] borrowed; none empty */
    size_t n, longest; /* bytes */
    bool include;      /* a match comes out too */
    struct buf held;   /* may be the start of a match */
    struct buf out;    /* what the last call let go */
    const char *found; /* the stop string that matched; then nothing comes out any more */
};

void stop_init(struct stop_matcher *m, char *const *stop, size_t n, bool include);
void stop_fini(struct stop_matcher *m);
/* Takes text; m->out is what is final now. */
void stop_push(struct stop_matcher *m, const char *text, size_t n);
/* The text ends here: m->out is the rest. */
void stop_finish(struct stop_matcher *m);

#endif
