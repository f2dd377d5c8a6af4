/* A CUDA device for a test, or the test is skipped, visibly. */
#ifndef MOED_TESTS_GPU_H
#define MOED_TESTS_GPU_H

#include "check.h"
#include "device/device.h"

static inline void cuda_or_skip(struct dev_choice *choice)
{
    struct moed_error err = {0};
    if (dev_choose(choice, "cuda", &err) < 0) {
        print_message("%s: skipped\n", err.text);
        skip();
    }
}

/* Whether it is the emulator (tests/emulator), which takes its time: fewer or smaller cases then.
 */
static inline bool cuda_emulated(const struct dev_choice *choice)
{
    return strstr(choice->memory.name, "emulated") != NULL;
}

static inline struct dev *cuda_open_or_skip(void)
{
    struct dev_choice choice;
    struct moed_error err = {0};
    struct dev *dev;
    cuda_or_skip(&choice);
    assert_ok(dev_open(&dev, &choice, NULL, &err), &err);
    return dev;
}

#endif
