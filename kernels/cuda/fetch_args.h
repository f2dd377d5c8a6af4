/* A copy of pinned host memory to the device by a kernel, see cuda_fetch. */
#ifndef MOED_KERNELS_CUDA_FETCH_ARGS_H
#define MOED_KERNELS_CUDA_FETCH_ARGS_H

#include <stdint.h>

struct cu_fetch {
    const uint32_t *from;
    uint32_t *to;
    int64_t words;
};

#endif
