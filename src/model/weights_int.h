/* Inside weights: the list of a model's tensors and the plan of where their bytes go. */
#ifndef MOED_MODEL_WEIGHTS_INT_H
#define MOED_MODEL_WEIGHTS_INT_H

#include "model/weights.h"

#define WEIGHT_ALIGN_BYTES 64

/* Part of the experts on huge pages below which something is to be done or said: less than the
 * whole, since a block's last page may be small. */
#define HUGE_ENOUGH 0.95
/* Fewer bytes of experts are not worth it. */
#define HUGE_MATTERS_BYTES ((size_t)64 << 20)

/* What random weights of a tensor look like. */
enum weight_kind { WEIGHT_MATRIX, WEIGHT_EMBED, WEIGHT_NORM, WEIGHT_BIAS };

/* One tensor that the config asks for, outside experts. */
struct weight_spec {
    char name[TENSOR_MAX_NAME_BYTES];
    int n_dims;
    int64_t shape[2];
    enum weight_kind kind;
    struct weight *into;
    uint64_t *counter; /* bytes of the part of the layer that it belongs to */
};

/* Calls fn for every tensor outside experts; stops at the first negative result and returns it.
 * fused: the checkpoint has all experts of a layer in one tensor. */
int weights_each_dense(const struct model_config *c, bool fused, struct weights *w,
                       int (*fn)(void *arg, const struct weight_spec *spec), void *arg);

/* Of the file, about, in a run of rows that is packed at once: while it is in the cache of the core
 * that has read it. */
#define PACK_RUN_BYTES ((uint64_t)512 << 10)

/* A run of bytes of a tensor and its place in memory. */
struct weight_piece {
    const struct tensor_ref *ref;
    uint64_t first_bytes; /* from the tensor's start */
    uint64_t bytes;
    uint64_t place_bytes; /* from the start of the dense block or the arena */
    uint64_t taken_bytes; /* there; as bytes, unless it is packed */
    bool in_arena;
    enum weight_kind kind;
    int columns; /* packed: it is whole rows of so many; else 0 */
};

struct weight_plan {
    struct weight_piece *piece;
    size_t n, cap;
    const struct tensor_ref **used; /* tensors of the store that the model takes */
    size_t n_used, used_cap;
    uint64_t dense_bytes, arena_bytes;
};

/* Checks all tensors and fills plan, w->cls and the dtypes in w; allocates nothing of their size.
 */
int weights_plan(struct weight_plan *plan, struct weights *w, const struct model_config *c,
                 struct store *store, bool packed, struct moed_error *err);
void weights_plan_fini(struct weight_plan *plan);

/* Where a piece goes; the blocks are mapped. */
uint8_t *weights_place(const struct weights *w, const struct weight_piece *p);
/* Rows on their way into packed records; for all threads of a loading. */
struct weights_packer {
    const struct weights *w;
    const struct kern_cpu *kern;
    _Atomic uint32_t *used; /* [records] entries of each one's lists */
};
int weights_packer_open(struct weights_packer *k, const struct weights *w, struct moed_error *err);
void weights_packer_close(struct weights_packer *k);
/* Packs a piece, the file's bytes at any alignment; or makes it up, as dummy weights with this
 * scale. False: the record's lists are full. */
bool weights_pack(const struct weights_packer *k, const struct weight_piece *p, const void *data);
bool weights_pack_dummy(const struct weights_packer *k, const struct weight_piece *p, float scale);

/* Sets all pointers into the blocks, in the order in which the plan placed the tensors. */
void weights_bind(struct weights *w, const struct weight_plan *plan, const struct model_config *c);

#endif
