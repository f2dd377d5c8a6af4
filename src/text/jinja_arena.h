/*
 * A bump arena: what a compiled template or one rendering allocates, freed all at once. Owned by
 * one thread.
 */
#ifndef MOED_TEXT_JINJA_ARENA_H
#define MOED_TEXT_JINJA_ARENA_H

#include <stddef.h>

struct jinja_chunk;

struct jinja_arena {
    struct jinja_chunk *chunks; /* newest first */
    char *pos, *end;            /* free space of the newest chunk */
    size_t used_bytes;          /* of all chunks */
    size_t limit_bytes;
};

void jinja_arena_init(struct jinja_arena *a, size_t limit_bytes);
void jinja_arena_fini(struct jinja_arena *a);
/* Uncleared memory, aligned for any object; NULL when the limit or the system's memory is reached.
 */
void *jinja_arena_alloc(struct jinja_arena *a, size_t bytes);
/* The same without alignment, for text: consecutive pieces lie side by side. */
char *jinja_arena_text(struct jinja_arena *a, size_t bytes);
/* Lengthens the text that ends at `end` in place where it was the last thing allocated and room is
 * left. Returns 0 if it cannot. */
int jinja_arena_extend(struct jinja_arena *a, const char *end, size_t more);

#endif
