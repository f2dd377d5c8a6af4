/* Reading the settings of tokenizer.json's stages, which jansson has parsed. */
#ifndef MOED_TEXT_SPEC_H
#define MOED_TEXT_SPEC_H

#include <jansson.h>

#include "moed/error.h"

/* Nested Sequence stages deeper than this are refused. */
enum { SPEC_MAX_DEPTH = 16, SPEC_MAX_STAGES = 256 };

/* The string under a key, "" where there is none. */
static inline const char *spec_string(const json_t *spec, const char *key)
{
    const char *s = json_string_value(json_object_get(spec, key));
    return s ? s : "";
}

static inline int spec_bool(const json_t *spec, const char *key, int missing)
{
    const json_t *v = json_object_get(spec, key);
    return json_is_boolean(v) ? json_is_true(v) : missing;
}

static inline int spec_int(const json_t *spec, const char *key, int missing)
{
    const json_t *v = json_object_get(spec, key);
    json_int_t i = json_integer_value(v);
    return json_is_integer(v) && i >= 0 && i <= 1 << 20 ? (int)i : missing;
}

#endif
