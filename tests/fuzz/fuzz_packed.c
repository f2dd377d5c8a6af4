/*
 * Any bytes as rows of bf16: what is packed comes back bit by bit, all instruction sets make the
 * same bytes, and nothing is written beyond a row. The first two bytes are the row's width.
 */
#include <assert.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "packed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MARK = 0xee };

/* Rows, then room for `entries` of lists, then a few marks. */
static uint8_t *pack(const struct kern_cpu *k, const uint16_t *w, int in, size_t rows,
                     uint32_t entries, bool *whole)
{
    size_t list_off = rows * packed_row_bytes(in), bytes = list_off + entries * sizeof(uint32_t);
    uint8_t *room = aligned_alloc(64, (bytes + 127) / 64 * 64);
    memset(room, MARK, (bytes + 127) / 64 * 64);
    _Atomic uint32_t used = 0;
    struct packed_lists lists = {(uint32_t *)(void *)(room + list_off), entries, &used};
    *whole = k->pack_rows(w, in, rows, room, &lists);
    for (size_t i = bytes; i < (bytes + 127) / 64 * 64; i++)
        assert(room[i] == MARK);
    return room;
}

static void check(const struct kern_cpu *k, const uint16_t *w, int in, size_t rows,
                  uint32_t entries)
{
    size_t n = rows * (size_t)in;
    bool whole, whole_too;
    uint8_t *packed = pack(k, w, in, rows, entries, &whole);
    uint8_t *scalar = pack(kern_cpu(KERN_ISA_SCALAR), w, in, rows, entries, &whole_too);
    assert(whole == whole_too);
    if (whole) {
        uint16_t *back = malloc(n * sizeof *back + 1);
        size_t used_bytes = rows * packed_row_bytes(in) + entries * sizeof(uint32_t);
        assert(memcmp(packed, scalar, used_bytes) == 0);
        k->unpack_rows(packed, in, rows, back);
        assert(memcmp(back, w, n * sizeof *w) == 0);
        free(back);
    }
    free(packed);
    free(scalar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    int in = data[0] | data[1] << 8;
    if (!packed_takes(in) || (size - 2) / 2 < (size_t)in)
        return 0;
    size_t rows = (size - 2) / 2 / (size_t)in, n = rows * (size_t)in;
    uint16_t *w = malloc(n * sizeof *w);
    memcpy(w, data + 2, n * sizeof *w);
    for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
        const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
        if (!k)
            continue;
        check(k, w, in, rows, (uint32_t)n);
        check(k, w, in, rows, (uint32_t)rows);
    }
    free(w);
    return 0;
}
