/* Names to tensors. */
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/mem.h"
#include "store/store_int.h"

static size_t slot_of(const struct name_table *t, const char *name)
{
    size_t i = (size_t)XXH3_64bits(name, strlen(name)) & (t->cap - 1);
    while (t->slot[i] && strcmp(t->slot[i]->name, name) != 0)
        i = (i + 1) & (t->cap - 1);
    return i;
}

static void grow(struct name_table *t)
{
    struct name_table old = *t;
    t->cap = old.cap ? old.cap * 2 : 256;
    t->slot = mem_new(t->cap, sizeof t->slot[0]);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i])
            t->slot[slot_of(t, old.slot[i]->name)] = old.slot[i];
    free(old.slot);
}

const struct tensor_ref *name_table_add(struct name_table *t, const struct tensor_ref *ref)
{
    if (t->n * 2 >= t->cap)
        grow(t);
    size_t i = slot_of(t, ref->name);
    if (t->slot[i])
        return t->slot[i];
    t->slot[i] = ref;
    t->n++;
    return NULL;
}

const struct tensor_ref *name_table_find(const struct name_table *t, const char *name)
{
    return t->cap ? t->slot[slot_of(t, name)] : NULL;
}

void name_table_fini(struct name_table *t)
{
    free(t->slot);
    *t = (struct name_table){0};
}
