/* Which device: the CPU of this program, or CUDA from a shared object opened at run time. */
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "device/plugin.h"

#define PLUGIN_FILE "libmoed_cuda.so"

static void warn(const char *text)
{
    log_warn("cuda: %s", text);
}

/* Beside the program, then where it would be installed. Loaded once, kept to the end: the driver
 * does not unload cleanly. Returns NULL and says why. */
static const struct dev_plugin *load_plugin(struct moed_error *err)
{
    char self[PATH_MAX], path[PATH_MAX + 64];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length > 0 ? length : 0] = 0;
    char *slash = strrchr(self, '/');
    if (slash)
        *slash = 0;
    snprintf(path, sizeof path, "%s/" PLUGIN_FILE, self);
    if (!slash || access(path, R_OK) != 0)
        snprintf(path, sizeof path, "%s/" PLUGIN_FILE, MOED_LIBDIR);
    if (access(path, R_OK) != 0) {
        moed_fail(err, MOED_EUNSUPPORTED, PLUGIN_FILE " is neither beside the program nor in %s",
                  MOED_LIBDIR);
        return NULL;
    }
    void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!object) {
        moed_fail(err, MOED_EUNSUPPORTED, "%.200s", dlerror());
        return NULL;
    }
    const struct dev_plugin *plugin = dlsym(object, DEV_PLUGIN_SYMBOL);
    if (!plugin || strcmp(plugin->tag, DEV_PLUGIN_TAG) != 0) {
        moed_fail(err, MOED_EUNSUPPORTED, "%.200s is of another build (%.64s)", path,
                  plugin ? plugin->tag : "no table");
        return NULL;
    }
    return plugin;
}

/* Asks the plugin for the device's memory, which shows that there is a device. */
static int ask_cuda(struct dev_choice *c, bool keep, struct moed_error *err)
{
    const struct dev_plugin *plugin = load_plugin(err);
    int rc = plugin ? plugin->memory(&c->memory, c->ordinal, keep, err) : MOED_EUNSUPPORTED;
    c->kept = keep && rc >= 0;
    return rc;
}

/* "cuda" or "cuda:N". */
static bool parse_cuda(const char *name, int *ordinal)
{
    *ordinal = 0;
    if (strcmp(name, "cuda") == 0)
        return true;
    if (strncmp(name, "cuda:", 5) != 0 || name[5] < '0' || name[5] > '9')
        return false;
    char *end;
    long n = strtol(name + 5, &end, 10);
    *ordinal = (int)n;
    return *end == 0 && n < 1024;
}

static int choose(struct dev_choice *out, const char *name, bool keep, struct moed_error *err)
{
    struct moed_error why = {0};
    *out = (struct dev_choice){0};
    bool any = !name || !*name || strcmp(name, "auto") == 0;
    if (!any && strcmp(name, "cpu") == 0) {
        snprintf(out->why, sizeof out->why, "cpu, as asked for");
        return 0;
    }
    if (!any && !parse_cuda(name, &out->ordinal))
        return moed_fail_param(err, MOED_EINVAL, "device",
                               "device must be auto, cpu, cuda or cuda:N, not \"%.64s\"", name);
    int rc = ask_cuda(out, keep, &why);
    if (rc < 0 && !any)
        return moed_fail_param(err, MOED_EUNSUPPORTED, "device", "device %s: %s", name, why.text);
    out->cuda = rc >= 0;
    if (out->cuda)
        snprintf(out->why, sizeof out->why, "cuda:%d, %s, %.1f of %.1f GiB free, %s", out->ordinal,
                 out->memory.name, (double)out->memory.free_bytes / 0x1p30,
                 (double)out->memory.total_bytes / 0x1p30, any ? "found" : "as asked for");
    else
        snprintf(out->why, sizeof out->why, "cpu, since there is no CUDA: %.200s", why.text);
    return 0;
}

int dev_choose(struct dev_choice *out, const char *name, struct moed_error *err)
{
    return choose(out, name, false, err);
}

int dev_choose_to_open(struct dev_choice *out, const char *name, struct moed_error *err)
{
    return choose(out, name, true, err);
}

void dev_choice_end(struct dev_choice *c)
{
    const struct dev_plugin *plugin = c->kept ? load_plugin(NULL) : NULL;
    if (plugin)
        plugin->drop(c->ordinal);
    c->kept = false;
}

int dev_open(struct dev **out, const struct dev_choice *choice, const struct dev_cpu_config *cpu,
             struct moed_error *err)
{
    if (!choice->cuda)
        return dev_cpu_open(out, cpu, err);
    const struct dev_plugin *plugin = load_plugin(err);
    if (!plugin)
        return MOED_EUNSUPPORTED;
    return plugin->open(out, choice->ordinal, warn, err);
}

void dev_close(struct dev **dev)
{
    if (*dev)
        (*dev)->ops->close(*dev);
    *dev = NULL;
}
