/*
 * Inside the engine. The engine thread owns everything here except the fields marked otherwise:
 * requests reach it through `inbox`, numbers leave it through `shown`.
 */
#ifndef MOED_ENGINE_INT_H
#define MOED_ENGINE_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/buf.h"
#include "base/inbox.h"
#include "engine/admission.h"
#include "engine/backend.h"
#include "engine/outbox.h"
#include "engine/pace.h"
#include "engine/sampler.h"
#include "engine/stop.h"
#include "moed/engine.h"
#include "sched/sched.h"

/* One choice of a request. */
struct choice {
    struct request *request;
    int32_t index;
    struct sched_seq *seq; /* NULL for choices that need no computing */
    bool ended;
    int32_t generated;
    int64_t last_us;            /* when its last token came */
    struct token_counts counts; /* where a penalty is set */
    void *detokenizer;
    struct stop_matcher stop;
};

/* A request in flight, from moed_submit until its last event. */
struct request {
    struct request *prev, *next;
    uint64_t handle, seed;
    struct moed_request *spec;
    struct moed_outbox *outbox; /* holds a reference */
    struct sched_request *sched;
    struct choice *choices; /* [spec->n] */
    int32_t alive;          /* choices that have not ended */
    bool queued;            /* counted in moed_engine.queued */
    bool started;           /* its first token, or its prompt, is out */
    bool penalties;
    bool hit;    /* a pass that failed carried it */
    bool exempt; /* it has waited too long to be held back */
    bool lost;   /* memory for an event of it could not be had: it must end with an error */
    int64_t submitted_us;
    uint32_t generated;
    /* Prompt logprobs: [n_prompt] and [n_prompt][prompt_logprobs]; the first prompt_done are known.
     */
    struct moed_token *prompt;
    struct moed_top *prompt_top;
    int32_t prompt_done;
    bool prompt_sent;
};

enum message_kind { MESSAGE_SUBMIT, MESSAGE_CANCEL, MESSAGE_CLOSE };

struct message {
    struct inbox_node node;
    enum message_kind kind;
    struct request *request; /* SUBMIT */
    uint64_t handle;         /* CANCEL */
};

/* A row of the pass whose logits are wanted, and what came of them. */
enum job_kind { JOB_SAMPLE, JOB_PROMPT, JOB_END };
struct job {
    enum job_kind kind;
    struct choice *choice;
    int32_t row;      /* of the batch */
    int32_t position; /* of the token that the logits are about */
    bool done;        /* sampled on the device: its logits are not wanted */
    int32_t token;    /* SAMPLE: the result; -1: no finite logit */
    struct moed_token info;
    struct moed_top *top; /* [MOED_MAX_TOP_LOGPROBS] */
};

/* A pass of one lane: arrays allocated once, for as many rows as the lane takes. */
struct pass {
    enum model_lane lane;
    int32_t *token, *pos, *seq; /* [rows] */
    struct model_seq *seqs;     /* [rows] */
    struct choice **owner;      /* [rows] of each sequence; NULL once it is out of the pass */
    struct job *jobs;           /* [rows] */
    struct moed_top *top;       /* [jobs][MOED_MAX_TOP_LOGPROBS] */
    int32_t n_rows, n_seqs, n_jobs;
    int failures; /* one after the other, so far */
};

/* The pass of the long lane; what is in it is the scheduler's open long pass. */
struct long_pass {
    struct pass pass;
    bool open;     /* in the model */
    int32_t layer; /* the next to run */
};

/* Rows of a pass that the device samples; all NULL where it does not. */
struct device_sampling {
    struct job **jobs; /* [max_logits] */
    int32_t *rows, *tokens;
    struct kern_sample_row *params;
};

struct moed_engine {
    struct engine_setup setup; /* constant after start; any thread */
    pthread_t thread;
    bool thread_runs;
    struct inbox inbox;
    /* Any thread. */
    atomic_uint_fast64_t last_handle;
    atomic_int queued; /* requests submitted and never admitted: the queue that max_queue limits */
    atomic_bool draining, failed;

    struct sched *sched;
    struct request *first, *last; /* in flight, by arrival */
    bool closing;
    struct device_sampling device_sampling;
    struct pass step;
    struct long_pass long_pass;
    struct pace pace;
    struct admission admission;      /* where setup says so */
    uint64_t layers_seen;            /* of long passes, when the last step ran */
    int32_t *rows;                   /* [max_logits] rows of a pass whose logits are made */
    float *logits;                   /* [max_logits][vocab] */
    struct job **sampled;            /* [max_logits] the jobs that wait for them */
    struct sampler_scratch *scratch; /* [parts] */
    int parts;
    struct buf text; /* of the event being made */
    struct moed_engine_stats stats;

    pthread_mutex_t shown_lock;
    struct moed_engine_stats shown; /* a copy of stats as of the last step; under shown_lock */
};

/* loop.c */
void *engine_main(void *arg);
void request_end(struct moed_engine *e, struct request *r, const struct moed_error *error);
void request_free(struct request *r);
void request_admitted(struct moed_engine *e, struct request *r);
/* Ends all requests in flight with the error. */
void engine_fail_all(struct moed_engine *e, const struct moed_error *error);

/* pass.c: what both lanes do. */
int pass_init(struct moed_engine *e, struct moed_error *err);
void pass_fini(struct moed_engine *e);
void pass_clear(struct pass *p);
void pass_add(struct moed_engine *e, struct pass *p, const struct sched_span *span);
int pass_begin(struct moed_engine *e, const struct pass *p, struct moed_error *err);
/* Takes a sequence whose choice may be freed already out of a pass that is open. */
void pass_drop(struct moed_engine *e, struct pass *p, int32_t seq);
/* After the last layer: logits and what is sampled from them; nothing is told yet. */
int pass_sample(struct moed_engine *e, const struct pass *p, struct moed_error *err);
/* Tells the results, in order of the rows, once the scheduler has completed the pass. */
void pass_apply(struct moed_engine *e, struct pass *p);
/* A pass that the scheduler has abandoned: whether its next plan may try again. Fills err where the
 * model did not. */
bool pass_again(struct moed_engine *e, struct pass *p, int rc, struct moed_error *err);
/* Ends the requests of a pass that failed, all of them when the device did. */
void pass_failed(struct moed_engine *e, struct pass *p, const struct moed_error *err);

/* step.c */
void engine_step(struct moed_engine *e, const struct sched_plan *plan);

/* device_sampling.c */
int device_sampling_init(struct moed_engine *e, struct moed_error *err);
void device_sampling_fini(struct moed_engine *e);
/* How a job of kind SAMPLE is sampled; mask [JOB_MAX_MASK] is filled and must outlive the result.
 */
#define JOB_MAX_MASK (ENGINE_MAX_EOS + MOED_MAX_STOP)
struct sample_params job_params(const struct moed_engine *e, const struct job *j, int32_t *mask);
/* Of the jobs of a pass that has gone through all layers: does those that the device can sample. */
int sample_on_device(struct moed_engine *e, enum model_lane lane, struct job *jobs, int32_t n_jobs,
                     struct moed_error *err);

/* long_pass.c */
/* Some layers of the long pass, by the pace; whether there is one. stepped: a step has run in this
 * turn, so there may be streams to keep. */
bool engine_long_pass(struct moed_engine *e, bool stepped);
/* Ends what is open, at the end of the engine. */
void engine_long_pass_close(struct moed_engine *e);
/* The clock of the pace. */
int64_t engine_now_us(const struct moed_engine *e);

/* emit.c: what a choice tells its client. */
void choice_open(struct moed_engine *e, struct choice *c);
void choice_close(struct moed_engine *e, struct choice *c);
void choice_token(struct moed_engine *e, struct choice *c, const struct job *job);
/* The prompt is computed and no token is wanted. */
void choice_no_tokens(struct moed_engine *e, struct choice *c);
/* Where memory for the event cannot be had, the request is marked lost. */
void request_push(struct request *r, const struct event_parts *parts);
struct moed_usage request_usage(const struct request *r);

/* stats.c */
void histogram_add(struct moed_histogram *h, int64_t us);
void stats_show(struct moed_engine *e);

#endif
