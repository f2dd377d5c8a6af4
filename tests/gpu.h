/* A CUDA device for a test, or the test is skipped, visibly. */
#ifndef MOED_TESTS_GPU_H
#define MOED_TESTS_GPU_H

#include <dlfcn.h>
#include <unistd.h>

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

/* Keeps a device open until the program ends: the first one makes the GPU's context, which takes
 * some tenths of a second, and the last one takes it along. Not the emulator's, whose ordered
 * faults stick until its last device is closed. */
static inline void cuda_keep_context(const struct dev_choice *choice)
{
    static struct dev *kept;
    struct moed_error err = {0};
    if (!kept && !cuda_emulated(choice))
        assert_ok(dev_open(&kept, choice, NULL, &err), &err);
}

/* A function of tests/emulator/control.h, or the test is skipped where the device is not emulated.
 */
static inline void *emulator_symbol_or_skip(const char *name)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 64);
    path[n > 0 ? n : 0] = 0;
    char *slash = strrchr(path, '/');
    assert_non_null(slash);
    strcpy(slash, "/libmoed_cuda.so");
    void *object = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
    void *symbol = object ? dlsym(object, name) : NULL;
    if (object)
        dlclose(object);
    if (!symbol) {
        print_message("not the emulator: skipped\n");
        skip();
    }
    return symbol;
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
