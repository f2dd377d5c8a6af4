/* Packed records made of plain ones of the same weights, for tests and benches. */
#ifndef MOED_TESTS_PACK_RECORD_H
#define MOED_TESTS_PACK_RECORD_H

#include <stdatomic.h>
#include <string.h>

#include "kernels.h"
#include "packed.h"
#include "record.h"

/* False: the record's lists are full. to: of record_class_packed of the same widths. */
static inline bool pack_record(const struct kern_cpu *k, const struct record_class *plain,
                               const void *record, const struct record_class *c, void *to)
{
    _Atomic uint32_t used = 0;
    char *at = to;
    const char *from = record;
    struct packed_lists lists = {(uint32_t *)(void *)(at + c->lists_off),
                                 (uint32_t)(c->lists_bytes / sizeof(uint32_t)), &used};
    const uint16_t *gate = (const uint16_t *)(const void *)(from + plain->gate_off);
    const uint16_t *up = (const uint16_t *)(const void *)(from + plain->up_off);
    const uint16_t *down = (const uint16_t *)(const void *)(from + plain->down_off);
    size_t inner = (size_t)c->intermediate, width = (size_t)c->hidden;
    return k->pack_rows(gate, c->hidden, inner, at + c->gate_off, &lists) &&
           k->pack_rows(up, c->hidden, inner, at + c->up_off, &lists) &&
           k->pack_rows(down, c->intermediate, width, at + c->down_off, &lists);
}

#endif
