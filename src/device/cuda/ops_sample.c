/* Sampling: see kernels/cuda/sample.cu for what each launch does. */
#include "cuda/args.h"
#include "cuda/sample_args.h"
#include "cuda_int.h"

_Static_assert(sizeof(struct cu_sample_state) <= SAMPLE_STATE_BYTES, "a row's state has its room");

int cuda_sample(struct dev *dev, const struct kern_sample *a)
{
    static const enum function all[] = {FN_sample_best, FN_sample_weigh, FN_sample_select,
                                        FN_sample_draw};
    struct dev_cuda *d = cuda_of(dev);
    const void *row;
    int rc;
    if (a->vocab < 1 || a->vocab > SAMPLE_MAX_VOCAB)
        return cuda_check(d, CUDA_ERROR_INVALID_VALUE, "sampling from such a vocabulary");
    if ((rc = cuda_enter(d)) < 0 ||
        (rc = cuda_plan_array(d, MIRROR_SAMPLE, a->row, (size_t)a->n * sizeof *a->row, &row)) < 0)
        return rc;
    size_t chunks = ((size_t)a->vocab + SAMPLE_CHUNK - 1) / SAMPLE_CHUNK;
    struct cu_sample args = {.logits = a->logits,
                             .row = row,
                             .live = d->live,
                             .token = a->token,
                             .scratch = a->scratch,
                             .state_bytes = (int64_t)kern_sample_row_bytes(a->vocab),
                             .vocab = a->vocab,
                             .chunks = (int32_t)chunks,
                             .wide = a->vocab % 4 == 0 && (uintptr_t)a->logits % 16 == 0,
                             .general = a->general};
    for (int i = 0; i < (a->general ? 4 : 1) && rc == 0; i++)
        rc = cuda_launch(d, all[i], chunks, (size_t)a->n, CU_THREADS, 0, &args);
    return rc;
}
