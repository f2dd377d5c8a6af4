/*
 * What the engine loop needs of a model and of its text: two small tables, so that the loop runs on
 * a real model and on a fake one in tests. The engine thread calls everything but where noted.
 */
#ifndef MOED_ENGINE_BACKEND_H
#define MOED_ENGINE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "moed/engine.h"
#include "sched/sched.h"

/* A model: as model_pass_* of model/model.h. */
struct engine_backend {
    void *self;
    int (*begin)(void *self, enum model_lane lane, const struct model_batch *batch,
                 struct moed_error *err);
    int (*run)(void *self, enum model_lane lane, int32_t layer_end, struct moed_error *err);
    int (*logits)(void *self, enum model_lane lane, const int32_t *rows, int32_t n, float *logits,
                  struct moed_error *err);
    /* As model_pass_sample; NULL where the model cannot. */
    int (*sample)(void *self, enum model_lane lane, const int32_t *rows, int32_t n,
                  const struct kern_sample_row *params, int32_t *token, struct moed_error *err);
    void (*drop)(void *self, enum model_lane lane, int32_t seq);
    int (*end)(void *self, enum model_lane lane);
    /* Runs fn(arg, part, parts) for each part, at once where there are threads. NULL: one part. */
    void (*parallel)(void *self, void (*fn)(void *arg, int part, int parts), void *arg, int parts);
    int threads; /* parts worth asking for */
    /* The clock that long passes are paced by; NULL: clock_us. */
    int64_t (*now_us)(void *self);
    /* Any thread; NULL for a model without experts. */
    struct pager *pager;
    const struct misses *misses; /* any thread; NULL where nothing is computed beside a device */
    /* Frees self; after the engine thread has ended. May be NULL. */
    void (*close)(void *self);
};

/* A streaming detokenizer: as detokenizer_* of text/tokenizer.h. open NULL: no text at all. */
struct engine_text {
    const void *tokenizer;
    void *(*open)(const void *tokenizer, bool skip_special);
    void (*push)(void *detokenizer, int32_t id, const char **text, size_t *n);
    void (*finish)(void *detokenizer, const char **text, size_t *n);
    void (*close)(void *detokenizer);
};

/* Sees the raw logits of every sampled row; for tests that compare bits. */
typedef void (*engine_logits_hook)(void *user, void *request_user, int32_t choice, int32_t position,
                                   const float *logits, int32_t vocab);

#define ENGINE_MAX_EOS 16

/* Ten tokens a second of each stream are more than people read, and leave nine tenths of the time
 * to a prompt whose layers take some 20 ms each, where a step takes 10. */
#define ENGINE_TARGET_ITL_US 100000

struct engine_setup {
    struct engine_backend backend; /* the engine's, once engine_start has succeeded */
    struct engine_text text;
    const struct tokenizer *tokenizer; /* what moed_engine_tokenizer returns; may be NULL */
    struct sched_config sched;
    int32_t max_logits;        /* rows of one logits call */
    bool admission_measured;   /* engine/admission.h; else all decode together */
    int64_t admission_wait_us; /* a request that waited so long is exempt from it; 0: none */
    int64_t target_itl_us;     /* between two tokens of a stream, beside a long pass; 0: 100 ms */
    int32_t eos[ENGINE_MAX_EOS], n_eos;
    struct moed_engine_info info; /* vocab_size is used by the loop */
    struct moed_sampling sampling;
    engine_logits_hook hook; /* or NULL */
    void *hook_user;
};

/* Starts an engine thread over a backend; what moed_engine_open does last. */
int engine_start(struct moed_engine **out, const struct engine_setup *setup,
                 struct moed_error *err);
/* moed_engine_open with a hook on the logits; hook may be NULL. */
int engine_open_hooked(struct moed_engine **out, const struct moed_engine_config *cfg,
                       engine_logits_hook hook, void *hook_user, struct moed_error *err);

#endif
