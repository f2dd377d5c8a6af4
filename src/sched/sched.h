/*
 * The scheduler: what goes into the next pass. Pure: no threads, no clock, no I/O, no tensors; its
 * owner (the engine thread) calls everything. Rules and bounds: src/sched/README.md.
 *
 *   sched_add -> [ sched_plan -> run the step -> sched_complete -> sched_append or sched_end ]* ->
 *   sched_remove
 *
 * and between two steps, where there is a long lane,
 *
 *   sched_long -> some layers, as often as it takes -> sched_long_complete -> append or end
 */
#ifndef MOED_SCHED_H
#define MOED_SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moed/error.h"
#include "sched/kv.h"

struct sched_config {
    int32_t max_seqs;           /* sequences in the batch */
    int32_t max_batched_tokens; /* rows of one step; at least max_seqs */
    /* Prompt tokens of one pass that pauses while steps run. 0: there is no such pass, prompts are
     * cut into the steps. */
    int32_t long_prefill_tokens;
    int32_t max_queue;     /* requests that were never admitted */
    int32_t max_model_len; /* tokens of one sequence */
    int32_t kv_blocks;
    bool no_prefix_cache;  /* only choices of one request share blocks */
    uint64_t kv_hash_mask; /* 0: all bits */
};

/* All transitions are made by one function, sched_move in sched.c. */
enum sched_state {
    SCHED_HELD,    /* further choice of a request whose first choice still computes the prompt.
                      In: sched_add. Out: WAITING (prompt computed, or first choice ended), ENDED */
    SCHED_WAITING, /* in the queue, without blocks.
                      In: sched_add, HELD, preemption. Out: PREFILL (admission), ENDED */
    SCHED_PREFILL, /* admitted, has blocks for all its tokens, some of them not computed.
                      In: WAITING. Out: DECODE (all computed), WAITING (preempted), ENDED */
    SCHED_DECODE,  /* all tokens but at most the newest are computed. Steps when the decode limit
                      lets it. In: PREFILL. Out: WAITING (preempted), ENDED */
    SCHED_ENDED,   /* holds nothing. In: all. Out: never */
};

struct sched_request;

/* One sequence. Others read it; only the scheduler writes, except `user`. */
struct sched_seq {
    enum sched_state state;
    uint64_t order;  /* seniority: place in the queue when it first entered it */
    int32_t *tokens; /* [n_tokens] prompt and generated */
    int32_t n_prompt, n_tokens, cap_tokens;
    int32_t max_len;    /* tokens it may reach */
    int32_t n_computed; /* tokens whose K and V are in blocks */
    int32_t *blocks;    /* [n_blocks] block table */
    int32_t n_blocks, cap_blocks;
    int32_t n_published;   /* leading blocks that are published */
    int32_t cached_tokens; /* prompt tokens that were never computed for it, first admission */
    int32_t preemptions;
    struct kv_salt salt;
    bool no_reuse; /* computes its prompt even where blocks are known */
    bool admitted; /* once at least */
    bool decodes;  /* the decode limit lets it */
    bool exempt;   /* the decode limit does not hold it back */
    bool in_long;  /* in the open long pass */
    struct sched_request *request;
    struct sched_seq *prev, *next; /* in the queue or in the batch */
    void *user;
};

/* n sequences of one prompt. */
struct sched_request {
    int32_t n;
    struct sched_seq *seqs; /* [n]; the first one computes the prompt */
};

/* Rows [first, first + n) of a sequence. */
struct sched_span {
    struct sched_seq *seq; /* NULL, of a long pass only: ended or preempted while it was paused; its
                              blocks are gone, its rows must not be written any more */
    int32_t first, n;
    bool last; /* holds the newest token: its logits give the next one */
};

/* A step: decode rows, then prompt tokens. */
struct sched_plan {
    uint64_t number;
    int32_t n_rows;
    struct sched_span *decode; /* [n_decode], one row each */
    int32_t n_decode;
    struct sched_span *prefill; /* [n_prefill] */
    int32_t n_prefill, prefill_rows;
};

/* A long pass. Its spans stay as they are, except that a seq becomes NULL, until it is completed or
 * abandoned. */
struct sched_long {
    struct sched_span *spans; /* [n_spans] */
    int32_t n_spans, n_rows;  /* 0: none is open */
    int32_t n_alive;          /* spans that have their sequence */
};

struct sched_stats {
    int32_t running, waiting; /* sequences in the batch; requests never admitted */
    int32_t queued;           /* sequences in the queue, preempted ones too */
    int32_t held;             /* sequences that the last plan's decode limit left out */
    uint64_t exempted;        /* exempt sequences that decoded past the limit */
    int32_t kv_used, kv_cached;
    uint64_t preemptions;
    uint64_t prefix_queries, prefix_hits; /* tokens */
};

struct sched;
int sched_open(struct sched **out, const struct sched_config *cfg, struct moed_error *err);
/* All requests must have been removed. */
void sched_close(struct sched **s);

/* What sched_add takes; tokens are copied. */
struct sched_new {
    const int32_t *prompt; /* [n_prompt] at least one */
    int32_t n_prompt;
    int32_t n; /* choices */
    int32_t max_tokens;
    uint64_t salt;
    bool no_reuse; /* for the first choice */
};
/*
 * MOED_EBUSY: the queue is full. MOED_ELIMIT: it can never fit, with the numbers. MOED_ENOMEM. The
 * request lives until sched_remove.
 */
int sched_add(struct sched *s, struct sched_request **out, const struct sched_new *r,
              struct moed_error *err);
/* 0 when a request of this size can run, else MOED_ELIMIT. Any thread. */
int sched_check(const struct sched_config *cfg, size_t n_prompt, size_t max_tokens,
                struct moed_error *err);

/*
 * From now on n sequences (1 to max_seqs, which it is at open) decode together: those that do, and
 * the oldest others. Where n falls the youngest pause. Prompts are computed whatever n, and their
 * first tokens come; the oldest of the batch always decodes.
 */
void sched_limit_decodes(struct sched *s, int32_t n);
/* The limit does not hold this one back any more. */
void sched_exempt(struct sched *s, struct sched_seq *seq);

/* The next step, owned by the scheduler and valid until the next call; n_rows is 0 when there is
 * nothing to do in it. */
const struct sched_plan *sched_plan(struct sched *s);
/* The last step has run: its rows are computed. */
void sched_complete(struct sched *s);
/* It failed: nothing of it counts. */
void sched_abandon(struct sched *s);
/*
 * The open long pass, or a new one over all prompts that the last step did not take, oldest first,
 * or none (n_spans 0). Not between plan and complete. Owned by the scheduler, and of one address.
 */
const struct sched_long *sched_long(struct sched *s);
/* All its layers have run: its rows are computed. */
void sched_long_complete(struct sched *s);
/* It failed, or nothing in it is alive: nothing of it counts. */
void sched_long_abandon(struct sched *s);
/* The token that the logits of a span with `last` gave. The sequence must be in DECODE. */
void sched_append(struct sched *s, struct sched_seq *seq, int32_t token);
/* Ends a sequence in any state; not between plan and complete. */
void sched_end(struct sched *s, struct sched_seq *seq);
/* Frees a request whose sequences have all ended. */
void sched_remove(struct sched *s, struct sched_request **r);

void sched_stats(const struct sched *s, struct sched_stats *out);

#endif
