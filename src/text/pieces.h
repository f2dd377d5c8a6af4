/*
 * A table of byte strings numbered by token id, with a way back from string to id.
 * Filled by one thread, then never changed and read by any.
 */
#ifndef MOED_TEXT_PIECES_H
#define MOED_TEXT_PIECES_H

#include <stddef.h>
#include <stdint.h>

/* Ids above this are refused: no model has them, and tables are indexed by id. */
enum { PIECES_MAX_ID = (1 << 22) - 1 };

struct pieces {
    char *bytes; /* all strings, each followed by a zero byte */
    size_t bytes_len, bytes_cap;
    struct piece {
        uint32_t at, len; /* at is PIECE_NONE where the id has no string */
    } * piece;            /* [n] */
    size_t n, cap;
    struct piece_slot {
        uint32_t tag;
        int32_t id; /* -1: empty */
    } * slots;      /* open addressing, n_slots a power of two */
    size_t n_slots, used;
};

#define PIECE_NONE UINT32_MAX

void pieces_fini(struct pieces *p);
/* Sets the string of an id (0..PIECES_MAX_ID); the bytes are copied. Not yet found by pieces_find.
 */
void pieces_set(struct pieces *p, int32_t id, const char *s, size_t n);
/* Lets pieces_find find an id by its string; the last one indexed wins over an equal string. */
void pieces_index(struct pieces *p, int32_t id);
/* -1 where no indexed piece is equal. */
int32_t pieces_find(const struct pieces *p, const char *s, size_t n);
/*
 * The same in two steps, for many strings in a row: the first computes the hash and asks the memory
 * for the place, the second looks there.
 */
uint64_t pieces_hash(const struct pieces *p, const char *s, size_t n);
int32_t pieces_find_hashed(const struct pieces *p, const char *s, size_t n, uint64_t hash);
/* NULL where the id has no string. */
const char *pieces_get(const struct pieces *p, int32_t id, size_t *n);
/* Room for that many entries at once, to save growing. */
void pieces_expect(struct pieces *p, size_t n);

#endif
