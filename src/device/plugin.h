/*
 * What libmoed_cuda.so gives to the program: one exported table, moed_device_plugin. The program
 * opens the object with dlopen (dev.c) and links nothing of CUDA.
 */
#ifndef MOED_DEVICE_PLUGIN_H
#define MOED_DEVICE_PLUGIN_H

#include "device/device.h"

/* Both sides must be of one build: the table's tag is compared before anything is called. */
#define DEV_PLUGIN_SYMBOL "moed_device_plugin"
#define DEV_PLUGIN_TAG    "moed " MOED_VERSION " device 2"

struct dev_plugin {
    const char *tag; /* DEV_PLUGIN_TAG */
    /* warn may be called by any thread of the device, with one line of text. */
    int (*open)(struct dev **out, int ordinal, void (*warn)(const char *text),
                struct moed_error *err);
    /* keep: the context that this takes stays until drop, for an open that follows. */
    int (*memory)(struct dev_memory *out, int ordinal, bool keep, struct moed_error *err);
    void (*drop)(int ordinal);
};

#endif
