/*
 * Packed rows: bf16 numbers in 12 bits each, every bit of them kept.
 *
 * The weights of a row have nearly all of their exponents side by side. So a number is kept as its
 * low byte (last bit of the exponent, mantissa) and a code of 4 bits: its sign, and which of the
 * row's seven values the upper seven bits of its exponent have. What has none of them is an escape:
 * it stands in a list of the row, too, in full.
 *
 *   bf16  = sign 1 | upper 7 | low byte 8
 *   code  = sign << 3 | index
 *   upper = base + index for index 0..6; 0 for index 6 where zero_last is set; index 7: an escape,
 *           whose upper is in the list alone
 *
 * A row begins on a 16-byte edge with 16 bytes that tell all that is its own, then come its
 * numbers, in blocks of 512, then one of 256, then one of the rest, as far as there are so many:
 *
 *   block of 512: low bytes [32 units][16], codes [32 units][8]. Unit l has elements 8l..8l+7 and
 *                 256+8l..256+8l+7, in this order: what the lane of a warp adds up (kernels.h).
 *   other blocks: low bytes [n], codes [n / 2], in order.
 *
 * Of two codes in a byte the first has the lower bits. All is little-endian.
 */
#ifndef MOED_KERNELS_PACKED_H
#define MOED_KERNELS_PACKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_HEAD_BYTES 16
#define PACKED_ESCAPE     7
/* Escapes that a row's head has itself. */
#define PACKED_OWN 3

struct packed_head {
    uint8_t base;      /* 0..121 */
    uint8_t zero_last; /* 0 or 1 */
    uint16_t escapes;
    /* Each: column << 16 | the number's bits, ascending. More than PACKED_OWN: own[0] is where they
     * all lie, in bytes from the row's start, a multiple of 4, in the same record. */
    uint32_t own[PACKED_OWN];
};

/* Rows of so many numbers can be packed: a multiple of 8, 8 to 65,528. */
static inline bool packed_takes(int in)
{
    return in >= 8 && in % 8 == 0 && in < 1 << 16;
}

/* Of a row, a multiple of 16. */
static inline size_t packed_row_bytes(int in)
{
    size_t n = (size_t)in;
    return (PACKED_HEAD_BYTES + n + n / 2 + 15) / 16 * 16;
}

/* Escapes of a row, in its own head or in the record's lists. */
static inline const uint32_t *packed_escapes(const void *row)
{
    const struct packed_head *head = (const struct packed_head *)row;
    return head->escapes <= PACKED_OWN
               ? head->own
               : (const uint32_t *)(const void *)((const char *)row + head->own[0]);
}

#ifndef __cplusplus
/* The lists of a record while it is filled, by any thread. */
struct packed_lists {
    uint32_t *at;           /* 4-byte aligned, behind the rows in the same record */
    uint32_t capacity;      /* entries */
    _Atomic uint32_t *used; /* entries, 0 at first; grows beyond capacity where it is too little */
};

/* Packs w [in] into a row. False: the lists are full; then the row is not whole. */
bool packed_row_pack(const uint16_t *w, int in, void *row, const struct packed_lists *lists);
/* And back: w [in] has the very bits. */
void packed_row_unpack(const void *row, int in, uint16_t *w);
/* The same of many rows (kernels.h: pack_rows, unpack_rows, of which these are the scalar form). */
bool packed_rows_pack(const uint16_t *w, int in, size_t rows, void *first_row,
                      const struct packed_lists *lists);
void packed_rows_unpack(const void *first_row, int in, size_t rows, uint16_t *w);
#endif

#endif
