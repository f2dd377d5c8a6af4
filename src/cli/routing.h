/*
 * Synthetic routing: which experts a token goes to, drawn with the locality that was measured on
 * real models, so that caches can be judged on random weights.
 *
 * Per layer and stream an expert's score is g_e + s_e + f_e(t) + n_e(t), and the top_k largest are
 * chosen: g fixed for the model, s for a conversation, f an AR(1) process over tokens, n noise of
 * deviation 1. The deviations were fitted to the hit rates of LRU, of decayed frequency and of
 * Belady's bound on recorded traces of each model.
 *
 * Pure and deterministic: a stream's choices depend on the seed, its index and how many tokens it
 * has drawn, on no other stream, and on no library but the rounding of exp and sqrt. One thread.
 */
#ifndef MOED_CLI_ROUTING_H
#define MOED_CLI_ROUTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "moed/error.h"

struct routing_model {
    const char *name;
    double sg, ss, sf;   /* deviations of g, s, f */
    double tau;          /* tokens: f keeps exp(-1 / tau) from one token to the next */
    int32_t talk_tokens; /* tokens of a conversation; a stream then starts the next. 0: no locality
                            at all, each token's experts are drawn evenly */
};

/* By the name after "synthetic:"; NULL where there is none. */
const struct routing_model *routing_find(const char *name);
/* All names, separated by ", ". */
void routing_names(struct buf *out);

struct routing_shape {
    int32_t n_layers, n_experts, top_k;
    const bool *has_experts; /* [n_layers] */
};

struct routing;

/* shape.has_experts is the caller's and must outlive the result. MOED_ENOMEM. */
int routing_open(struct routing **out, const struct routing_model *model,
                 const struct routing_shape *shape, int32_t n_streams, uint64_t seed,
                 struct moed_error *err);
void routing_close(struct routing **r);

/*
 * Draws the next n tokens of a stream. id: [n_layers][layer_stride], token i of the n at
 * id[layer * layer_stride + i * top_k], distinct experts in falling order of score; -1 in layers
 * without experts.
 */
void routing_draw(struct routing *r, int32_t stream, int32_t n, int32_t *id, size_t layer_stride);

/* The stream's next token is the first of another conversation. */
void routing_next_conversation(struct routing *r, int32_t stream);

#endif
