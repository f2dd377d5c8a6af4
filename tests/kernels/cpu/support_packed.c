#include "support_packed.h"

#include <stdlib.h>
#include <string.h>

#include "pack_record.h"

enum { KINDS = 5 };

static uint16_t weight(struct rng *r, int kind, float scale)
{
    if (kind == 1 && rng_int(r, 0, 2) == 0) /* so many that zero is one of the row's values */
        return (uint16_t)(rng_int(r, 0, 1) << 15);
    if (kind == 2) /* subnormals among them: the lowest of all windows */
        return kern_to_bf16(rng_float(r) * 0x1p-125f);
    return kern_to_bf16(rng_float(r) * scale);
}

/* Far from the others: small or large, of either sign. */
static uint16_t outsider(struct rng *r)
{
    int exponent = rng_int(r, 0, 1) ? rng_int(r, 40, 80) : rng_int(r, 128, 132);
    return (uint16_t)(rng_int(r, 0, 1) << 15 | exponent << 7 | rng_int(r, 0, 127));
}

void packed_weights_fill(struct rng *r, uint16_t *w, size_t n, int in, float scale)
{
    for (size_t at = 0; at < n; at += (size_t)in) {
        int kind = rng_int(r, 0, KINDS - 1), many = kind == 4 ? in / 4 : 3;
        for (size_t j = 0; j < (size_t)in && at + j < n; j++)
            w[at + j] = weight(r, kind, scale);
        for (int i = 0; i < many && kind >= 3; i++) {
            size_t to = at + (size_t)rng_int(r, 0, in - 1);
            if (to < n)
                w[to] = outsider(r);
        }
    }
}

uint16_t *plain_record_new(struct rng *r, const struct record_class *cls, float scale)
{
    size_t in = (size_t)cls->hidden * (size_t)cls->intermediate;
    uint16_t *record = aligned_alloc(RECORD_ALIGN_BYTES, cls->bytes);
    memset(record, 0, cls->bytes);
    packed_weights_fill(r, record + cls->gate_off / 2, in, cls->hidden, scale);
    packed_weights_fill(r, record + cls->up_off / 2, in, cls->hidden, scale);
    packed_weights_fill(r, record + cls->down_off / 2, in, cls->intermediate, scale);
    return record;
}

struct record_class packed_class_roomy(int hidden, int intermediate)
{
    struct record_class c = record_class_packed(hidden, intermediate);
    c.lists_bytes = 3 * (size_t)hidden * (size_t)intermediate * sizeof(uint32_t);
    c.bytes = (c.lists_off + c.lists_bytes + RECORD_ALIGN_BYTES - 1) / RECORD_ALIGN_BYTES *
              RECORD_ALIGN_BYTES;
    return c;
}

void *packed_record_new(const uint16_t *plain, const struct record_class *of,
                        const struct record_class *cls)
{
    uint8_t *record = aligned_alloc(RECORD_ALIGN_BYTES, cls->bytes);
    memset(record, 0xee, cls->bytes);
    if (!pack_record(kern_cpu(KERN_ISA_AUTO), of, plain, cls, record))
        abort();
    return record;
}
