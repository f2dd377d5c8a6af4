/* In place of the embedded fat binaries: the emulator finds kernels by name in any image. */
#include "device/cuda/cuda_int.h"

#define X(name) const unsigned char moed_image_##name[] = #name;
IMAGES(X)
#undef X
