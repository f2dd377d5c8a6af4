#include "text/jinja_arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>

struct jinja_chunk {
    struct jinja_chunk *next;
    alignas(16) char data[];
};

/* Small renderings fit the first chunk; later ones double, so that few calls serve a large one. */
#define FIRST_CHUNK_BYTES ((size_t)32 << 10)
#define MAX_CHUNK_BYTES   ((size_t)4 << 20)

void jinja_arena_init(struct jinja_arena *a, size_t limit_bytes)
{
    *a = (struct jinja_arena){.limit_bytes = limit_bytes};
}

void jinja_arena_fini(struct jinja_arena *a)
{
    while (a->chunks) {
        struct jinja_chunk *next = a->chunks->next;
        free(a->chunks);
        a->chunks = next;
    }
    *a = (struct jinja_arena){0};
}

static int add_chunk(struct jinja_arena *a, size_t need)
{
    size_t left = a->limit_bytes - a->used_bytes;
    size_t want = a->used_bytes < FIRST_CHUNK_BYTES ? FIRST_CHUNK_BYTES : a->used_bytes;
    if (want > MAX_CHUNK_BYTES)
        want = MAX_CHUNK_BYTES;
    if (want > left)
        want = left;
    if (want < need)
        want = need;
    if (want > left)
        return -1;
    struct jinja_chunk *c = malloc(sizeof *c + want);
    if (!c)
        return -1;
    c->next = a->chunks;
    a->chunks = c;
    a->pos = c->data;
    a->end = c->data + want;
    a->used_bytes += want;
    return 0;
}

void *jinja_arena_alloc(struct jinja_arena *a, size_t bytes)
{
    size_t pad = (16 - (uintptr_t)a->pos % 16) % 16;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (!a->pos || (size_t)(a->end - a->pos) < bytes + pad) {
        if (add_chunk(a, bytes) < 0)
            return NULL;
        pad = 0;
    }
    char *p = a->pos + pad;
    a->pos = p + bytes;
    return p;
}

char *jinja_arena_text(struct jinja_arena *a, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    if (!a->pos || (size_t)(a->end - a->pos) < bytes) {
        if (add_chunk(a, bytes) < 0)
            return NULL;
    }
    char *p = a->pos;
    a->pos += bytes;
    return p;
}

int jinja_arena_extend(struct jinja_arena *a, const char *end, size_t more)
{
    if (end != a->pos || (size_t)(a->end - a->pos) < more)
        return 0;
    a->pos += more;
    return 1;
}
