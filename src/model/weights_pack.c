/* Rows into packed records. Each piece is packed by the thread that has read it; the only thing
 * that threads share is the count of a record's list entries. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels.h"
#include "model/weights_int.h"
#include "packed.h"

/* Of a thread's stack: the longest row that can be packed. */
#define RUN_NUMBERS ((size_t)1 << 16)

int weights_packer_open(struct weights_packer *k, const struct weights *w, struct moed_error *err)
{
    *k = (struct weights_packer){.w = w, .kern = kern_cpu(KERN_ISA_AUTO)};
    k->used = mem_try(w->arena_bytes / w->cls.bytes, sizeof *k->used);
    return k->used ? 0 : moed_fail(err, MOED_ENOMEM, "no memory for the counts of packed records");
}

void weights_packer_close(struct weights_packer *k)
{
    free(k->used);
    *k = (struct weights_packer){0};
}

/* n rows from row `first` of a piece on. */
static bool pack_rows(const struct weights_packer *k, const struct weight_piece *p, size_t first,
                      const uint16_t *w, size_t n)
{
    const struct record_class *cls = &k->w->cls;
    size_t record = p->place_bytes / cls->bytes;
    uint8_t *lists = k->w->arena + record * cls->bytes + cls->lists_off;
    struct packed_lists to = {.at = (uint32_t *)(void *)lists,
                              .capacity = (uint32_t)(cls->lists_bytes / sizeof *to.at),
                              .used = &k->used[record]};
    return k->kern->pack_rows(w, p->columns, n,
                              weights_place(k->w, p) + first * packed_row_bytes(p->columns), &to);
}

static size_t piece_rows(const struct weight_piece *p)
{
    return p->bytes / sizeof(uint16_t) / (size_t)p->columns;
}

bool weights_pack(const struct weights_packer *k, const struct weight_piece *p, const void *data)
{
    uint16_t run[RUN_NUMBERS];
    size_t rows = piece_rows(p), most = RUN_NUMBERS / (size_t)p->columns;
    if ((uintptr_t)data % _Alignof(uint16_t) == 0)
        return pack_rows(k, p, 0, data, rows);
    /* Files may have tensors at odd offsets. */
    for (size_t row = 0, n; row < rows; row += n) {
        n = rows - row < most ? rows - row : most;
        memcpy(run, (const uint8_t *)data + row * (size_t)p->columns * sizeof *run,
               n * (size_t)p->columns * sizeof *run);
        if (!pack_rows(k, p, row, run, n))
            return false;
    }
    return true;
}

bool weights_pack_dummy(const struct weights_packer *k, const struct weight_piece *p, float scale)
{
    uint16_t run[RUN_NUMBERS];
    size_t columns = (size_t)p->columns, rows = piece_rows(p), most = RUN_NUMBERS / columns;
    uint64_t first = p->first_bytes / sizeof *run;
    for (size_t row = 0, n; row < rows; row += n) {
        n = rows - row < most ? rows - row : most;
        store_dummy_fill(p->ref, first + row * columns, n * columns, 0, scale, run);
        if (!pack_rows(k, p, row, run, n))
            return false;
    }
    return true;
}
