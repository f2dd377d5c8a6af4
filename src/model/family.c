#include "model/family.h"

#include <string.h>

static const struct family *const families[] = {
    &family_llama, &family_mistral, &family_mixtral, &family_qwen3, &family_qwen3_moe,
};

#define FAMILY_COUNT (sizeof families / sizeof families[0])

const struct family *family_find(enum model_family id)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (families[i]->id == id)
            return families[i];
    return NULL;
}

const struct family *family_find_architecture(const char *architecture)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(families[i]->architecture, architecture) == 0)
            return families[i];
    return NULL;
}

const struct family *family_find_type(const char *model_type)
{
    for (size_t i = 0; i < FAMILY_COUNT; i++)
        if (strcmp(families[i]->model_type, model_type) == 0)
            return families[i];
    return NULL;
}
