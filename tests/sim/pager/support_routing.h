/*
 * Synthetic routing, seeded, and recorded traces. Per layer and token score_e = g_e + s_e + f_e(t)
 * + n_e(t), the largest top_k are used: g fixed for the model, s for a conversation, f an AR(1)
 * process, n noise; with the deviations fitted to traces of real models.
 */
#ifndef MOED_TESTS_SUPPORT_ROUTING_H
#define MOED_TESTS_SUPPORT_ROUTING_H

#include "pager/replay.h"

struct routing {
    const char *name;
    int n_layers, n_experts, top_k;
    double sg, ss, sf; /* deviations of g, s, f; noise has 1 */
    double tau;        /* correlation of f between tokens: exp(-1 / tau) */
    int conversation;  /* tokens */
};
extern const struct routing routings[];
extern const size_t n_routings;
const struct routing *routing_find(const char *name);

/*
 * Steps of `streams` conversations side by side, `n_steps` of them, each a token of every stream;
 * the first step of a conversation takes prompt_tokens at once. n_layers 0: the model's own. The
 * same arguments give the same trace.
 */
void routing_make(struct trace *out, const struct routing *r, int n_layers, int streams,
                  int prompt_tokens, size_t n_steps, uint32_t seed);

/* Reads a recorded trace (tab-separated, packed with xz, read through the xz program). Returns 0,
 * or -1 when it cannot be read. */
int trace_read(struct trace *out, const char *path);

/*
 * Reads a trace of whole sequences (tests/data/story/README.md has the format) as a server would
 * run them: `streams` side by side, a sequence's prompt in one step, then a token a step; the next
 * sequence takes the place of one that ended. Returns 0, or -1 when it cannot be read.
 */
int trace_read_sequences(struct trace *out, const char *path, int streams);

#endif
