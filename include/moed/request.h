/*
 * Requests and what comes back: the boundary between those who ask (HTTP, command line, programs)
 * and the engine. A request is a prompt of token ids with sampling parameters; it becomes n choices
 * (sequences).
 */
#ifndef MOED_REQUEST_H
#define MOED_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"

#define MOED_MAX_CHOICES      64
#define MOED_MAX_STOP         16
#define MOED_MAX_TOP_LOGPROBS 20

struct moed_logit_bias {
    int32_t token;
    float bias; /* -100..100, added to the logit */
};

/* Sampling parameters; moed_sampling_default fills them. Order: penalties, logit_bias, temperature,
 * min_p, top_k, top_p. */
struct moed_sampling {
    float temperature;                         /* 0: the largest logit, ties to the lower id */
    float top_p;                               /* (0, 1] */
    float min_p;                               /* [0, 1] */
    int32_t top_k;                             /* 0 or -1: all */
    float presence_penalty, frequency_penalty; /* -2..2, over generated tokens */
    float repetition_penalty;                  /* > 0, over prompt and generated tokens */
    uint64_t seed;
    bool has_seed;      /* false: the engine draws one */
    int32_t max_tokens; /* new tokens; 0 is allowed with prompt logprobs */
    int32_t min_tokens;
    bool ignore_eos;
    int32_t logprobs;        /* top alternatives per new token; 0: the chosen one only; -1: none */
    int32_t prompt_logprobs; /* the same for prompt tokens; -1: none */
    struct moed_logit_bias *bias; /* [n_bias], at most 1024 */
    size_t n_bias;
    char *stop[MOED_MAX_STOP]; /* UTF-8 of 1 to 512 bytes; not returned in the text */
    size_t n_stop;
    int32_t stop_id[MOED_MAX_STOP];
    size_t n_stop_id;
    bool include_stop; /* return the stop string too */
    bool skip_special; /* special tokens print nothing */
};
void moed_sampling_default(struct moed_sampling *s);

/* All heap members are owned by the request; moed_submit takes the whole over. */
struct moed_request {
    char id[64];     /* for logs */
    int32_t *prompt; /* [n_prompt] */
    size_t n_prompt;
    int32_t n; /* choices */
    struct moed_sampling sampling;
    int64_t deadline_us; /* monotonic clock; 0: none */
    uint64_t cache_salt; /* prefix reuse happens only among equal salts */
    void *user;          /* comes back with each event */
};
struct moed_request *moed_request_new(void);
void moed_request_free(struct moed_request **r);

enum moed_finish { MOED_FINISH_NONE, MOED_FINISH_STOP, MOED_FINISH_LENGTH, MOED_FINISH_ABORT };

struct moed_top {
    int32_t token;
    float logprob;
};

/* One token with its logprob and the alternatives, of the raw logits. */
struct moed_token {
    int32_t id;
    float logprob; /* NAN where it was not asked for or has no meaning (first prompt token) */
    int32_t rank;  /* 1 is the most likely; 0 unknown */
    int32_t n_top;
    const struct moed_top *top; /* [n_top], falling; owned by the event */
};

enum moed_event_kind {
    MOED_EVENT_PROMPT, /* prompt logprobs, once per request, before any token: tokens[n_prompt] */
    MOED_EVENT_TOKENS, /* new tokens of one choice, and the text that is final now: it may lag
                          behind the tokens; finish may be set */
    MOED_EVENT_ERROR,  /* the request ended with error; no event follows */
    MOED_EVENT_DONE,   /* all choices ended; no event follows */
};

struct moed_usage {
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
};

struct moed_event {
    struct moed_event *next; /* for queues */
    enum moed_event_kind kind;
    void *user;
    int32_t choice;
    const char *text; /* TOKENS: bytes that are final, whole UTF-8 characters; may be empty */
    size_t text_bytes;
    const struct moed_token *tokens; /* TOKENS, PROMPT */
    size_t n_tokens;
    enum moed_finish finish; /* TOKENS: the choice ended */
    const char *stop_reason; /* the stop string that ended it, or NULL */
    int32_t stop_token;      /* the stop id that ended it, or -1 */
    struct moed_usage usage; /* so far; final in DONE */
    struct moed_error error; /* ERROR */
};

/*
 * Where events of requests arrive: a queue with a file descriptor that becomes readable when it is
 * not empty. The owner's thread calls next; the engine's thread pushes. Closing with requests in
 * flight cancels them first.
 */
struct moed_outbox;
int moed_outbox_open(struct moed_outbox **out, struct moed_error *err);
void moed_outbox_close(struct moed_outbox **o);
int moed_outbox_fd(const struct moed_outbox *o);
/* The next event in order, or NULL (then the descriptor is drained). Free it. */
struct moed_event *moed_outbox_next(struct moed_outbox *o);
void moed_event_free(struct moed_event *e);

#endif
