/* What a launch hands to the kernels of sample.cu, and how its scratch is cut; as args.h. */
#ifndef MOED_KERNELS_CUDA_SAMPLE_ARGS_H
#define MOED_KERNELS_CUDA_SAMPLE_ARGS_H

#include <stdint.h>

#define CU_SAMPLE_BINS 2048
#define CU_SAMPLE_LIST 4096 /* candidates held as a list; more are searched in the logits */

/* Of one row, beginning on a multiple of 256 bytes; after it [chunks] sums of 64 bits. */
struct cu_sample_state {
    unsigned long long best;      /* place in the order of the largest logit */
    unsigned long long threshold; /* what is kept has at least this place */
    unsigned long long target;    /* the sum of weights that the token's must pass */
    unsigned long long before;    /* the sum of weights above the first bin of the list */
    uint32_t ticket;              /* blocks that have done their share; 0 between kernels */
    uint32_t listed;              /* candidates; those from CU_SAMPLE_LIST on are not in the list */
    int32_t first_bin, last_bin;  /* what the list holds */
    int32_t stage;                /* enum cu_sample_stage */
    int32_t by_count;             /* top_k decides, then top_p */
    uint32_t count[CU_SAMPLE_BINS];
    unsigned long long sum[CU_SAMPLE_BINS]; /* of weights */
    unsigned long long list[CU_SAMPLE_LIST];
};

/* What is left to do for a row. */
enum cu_sample_stage { CU_SAMPLE_DONE, CU_SAMPLE_WEIGH, CU_SAMPLE_SELECT, CU_SAMPLE_DRAW };

struct cu_sample {
    const float *logits; /* [n][vocab] */
    const struct kern_sample_row *row;
    const int32_t *live;
    int32_t *token;
    uint8_t *scratch;
    int64_t state_bytes; /* from one row's state to the next */
    int32_t vocab, chunks;
    int32_t wide; /* rows begin on 16-byte edges */
    int32_t general;
};

#endif
