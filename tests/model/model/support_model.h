/* A model of tests/data/models with its device, and passes over sequences whose logits are kept. */
#ifndef MOED_TESTS_SUPPORT_MODEL_H
#define MOED_TESTS_SUPPORT_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

#define RIG_MAX_SEQS 4

struct rig_options {
    const char *dir;                  /* the model's folder, or */
    const struct model_config *dummy; /* random weights for this config */
    enum dtype kv_dtype;              /* F32 by default */
    enum kern_isa isa;                /* AUTO by default */
    int threads;                      /* 0: 2 */
    bool cuda;                        /* skips the test where there is no CUDA */
    int32_t max_rows;                 /* 0: 64 */
    int32_t long_rows;                /* 0: no long lane */
    struct pager_config pager;        /* in place by default */
    void (*alter)(struct dev *dev);   /* before the model is opened on it; may be NULL */
    bool fused;                       /* steps of one row in one launch */
    bool packed;                      /* experts in packed records */
    bool odd;                         /* some of the experts' weights made much smaller, some 0 */
    int32_t miss_threads, link_share; /* of recorded steps */
    int64_t miss_patience_us;
    void (*on_miss)(void *arg, int thread, uint32_t job, bool down);
    void *on_miss_arg;
};

/* One sequence: its tokens, its blocks (scattered on purpose), how far it has come, its logits. */
struct rig_seq {
    const int32_t *token;
    int32_t n, done;
    int32_t block[64];
    float *logits; /* [n][vocab] */
};

struct rig {
    struct model_config c;
    struct dev *dev;
    struct model *m;
    struct rig_seq seq[RIG_MAX_SEQS];
    int n_seqs;
    int32_t layers_per_run; /* 0: all at once */
    enum model_lane lane;   /* of the passes */
};

/* Fails the test when anything goes wrong. */
void rig_open(struct rig *r, const struct rig_options *o);
void rig_close(struct rig *r);
/* Forgets all sequences (the cache keeps its old bytes) and starts one with these tokens. */
void rig_reset(struct rig *r);
int rig_add(struct rig *r, const int32_t *token, int32_t n);
/* One pass over the next count[s] tokens of each sequence; logits of all their positions. */
void rig_pass(struct rig *r, const int32_t *count);
/* All sequences to their ends, chunk tokens at a time, alone one after the other or together. */
void rig_run_alone(struct rig *r, int32_t chunk);
void rig_run_together(struct rig *r, int32_t chunk);

/* vectors.bin of a model folder, see make_models.py. */
struct vectors {
    int32_t vocab, n_seqs;
    int32_t n[RIG_MAX_SEQS];
    int32_t *token[RIG_MAX_SEQS];
    float *logprob[RIG_MAX_SEQS]; /* [n][vocab] */
    uint8_t *file;
};
void vectors_open(struct vectors *v, const char *dir);
void vectors_close(struct vectors *v);

/* Adds the sequences of the vectors to the rig. */
void rig_add_vectors(struct rig *r, const struct vectors *v);
/* Largest |delta logprob| over all positions and tokens of all sequences. */
double rig_worst_delta(const struct rig *r, const struct vectors *v);
/* A hash of the logits of all sequences. */
uint64_t rig_hash(const struct rig *r);

#endif
