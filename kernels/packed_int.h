/* What packs and unpacks rows on all instruction sets alike (packed.h has the format). */
#ifndef MOED_KERNELS_PACKED_INT_H
#define MOED_KERNELS_PACKED_INT_H

#include "packed.h"

#define PACKED_BLOCK 512
#define PACKED_HALF  256
#define PACKED_EVERY 0x0101010101010101u /* eight times a byte */

/* Numbers of the block that begins at number `at` of n. */
static inline size_t packed_block(size_t n, size_t at)
{
    size_t left = n - at;
    return left >= PACKED_BLOCK ? PACKED_BLOCK : left >= PACKED_HALF ? PACKED_HALF : left;
}

/* What a block takes. */
static inline size_t packed_bytes(size_t numbers)
{
    return numbers + numbers / 2;
}

/* The high bytes of codes 0..7 and of 8..15, the first one lowest. Those of escapes mean nothing.
 */
static inline uint64_t packed_uppers(const struct packed_head *head, uint64_t *negative)
{
    uint64_t upper = head->base * PACKED_EVERY + 0x0706050403020100u;
    upper &= head->zero_last ? ~((uint64_t)0xff << 8 * (PACKED_ESCAPE - 1)) : ~(uint64_t)0;
    *negative = upper | 0x80 * PACKED_EVERY;
    return upper;
}

/* A row's escapes from some number on. */
struct packed_walk {
    const uint32_t *at, *end;
    size_t column; /* of the next one; SIZE_MAX: there is none */
};

static inline struct packed_walk packed_walk_at(const uint32_t *at, const uint32_t *end)
{
    return (struct packed_walk){at, end, at < end ? *at >> 16 : SIZE_MAX};
}

static inline struct packed_walk packed_walk_begin(const void *row)
{
    const uint32_t *at = packed_escapes(row);
    return packed_walk_at(at, at + ((const struct packed_head *)row)->escapes);
}

/* Puts the escapes below number `at` + n in their places of w, which begins with number `at`. */
static inline void packed_put(struct packed_walk *walk, size_t at, size_t n, uint16_t *w)
{
    while (walk->column < at + n) {
        w[walk->column - at] = (uint16_t)*walk->at;
        *walk = packed_walk_at(walk->at + 1, walk->end);
    }
}

static inline uint8_t packed_upper_of(uint16_t w)
{
    return (uint8_t)(w >> 8 & 0x7f);
}

/* Chooses base and zero_last of a row. */
void packed_window(const uint16_t *w, size_t in, struct packed_head *head);

/* Where the escapes of a row go: into its head or the lists, then head->own[0] says so. NULL: the
 * lists are full. */
uint32_t *packed_room(struct packed_head *head, void *row, const struct packed_lists *lists);

/* The escapes among numbers at..at+n of w, for a list; returns its new end. */
static inline uint32_t *packed_list(const struct packed_head *head, const uint16_t *w, size_t at,
                                    size_t n, uint32_t *to)
{
    for (size_t i = at; i < at + n; i++) {
        uint8_t upper = packed_upper_of(w[i]), index = (uint8_t)(upper - head->base);
        if (index >= PACKED_ESCAPE - head->zero_last && (upper || !head->zero_last))
            *to++ = (uint32_t)i << 16 | w[i];
    }
    return to;
}

/* One block as it stands in the row, not its escapes. */
void packed_block_unpack(const struct packed_head *head, const uint8_t *from, size_t numbers,
                         uint16_t *w);

#endif
