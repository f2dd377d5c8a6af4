/* The compiled kernels as bytes; CMake names the folder where nvcc has put them. */
#include "cuda_int.h"

#define X(name)                                                                                    \
    __asm__(".section .rodata,\"a\"\n"                                                             \
            ".balign 64\n"                                                                         \
            ".hidden moed_image_" #name "\n"                                                       \
            ".global moed_image_" #name "\n"                                                       \
            "moed_image_" #name ":\n"                                                              \
            ".incbin \"" MOED_IMAGE_DIR "/" #name ".fatbin\"\n"                                    \
            ".previous\n");
IMAGES(X)
#undef X
