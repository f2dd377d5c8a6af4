/* Typed, range-checked reads from a JSON object of a model folder. null counts as absent. */
#ifndef MOED_MODEL_CONFIG_READ_H
#define MOED_MODEL_CONFIG_READ_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "moed/error.h"

struct config_reader {
    const char *file;  /* for messages, "config.json" */
    const char *group; /* key of the object inside the file, "" for the whole */
    json_t *object;
    struct moed_error *err;
};

/* The value of a key, NULL where it is absent or null. */
json_t *config_get(const struct config_reader *r, const char *key);
/* Refuses the file, naming the key. */
int config_fail(const struct config_reader *r, int code, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* *out is left alone where the key is absent. 1: there, 0: absent, negative: wrong. */
int config_int(const struct config_reader *r, const char *key, int64_t min, int64_t max,
               int32_t *out);
int config_number(const struct config_reader *r, const char *key, double min, double max,
                  double *out);
int config_bool(const struct config_reader *r, const char *key, bool *out);
/* Borrowed from the JSON. */
int config_string(const struct config_reader *r, const char *key, const char **out);
/* One integer or a list of up to max_n; negative ones are left out. */
int config_ids(const struct config_reader *r, const char *key, int64_t max, int32_t *out,
               int32_t max_n, int32_t *n_out);

#endif
