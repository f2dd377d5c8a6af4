#include "record.h"

#include "packed.h"

#define MATRIX_ALIGN_BYTES ((size_t)64)
/* Room in the lists for one element in so many: trained weights have one in some thousand outside
 * of their rows' windows, of which rows keep the first three themselves. */
#define LISTED_ONE_IN ((size_t)1024)

static size_t align_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void lay_out(struct record_class *c)
{
    size_t inner = (size_t)c->intermediate;
    c->gate_off = 0;
    c->up_off = align_up(c->gate_off + inner * c->in_row_bytes, MATRIX_ALIGN_BYTES);
    c->down_off = align_up(c->up_off + inner * c->in_row_bytes, MATRIX_ALIGN_BYTES);
    c->lists_off =
        align_up(c->down_off + (size_t)c->hidden * c->down_row_bytes, MATRIX_ALIGN_BYTES);
    c->bytes = align_up(c->lists_off + c->lists_bytes, RECORD_ALIGN_BYTES);
}

struct record_class record_class_swiglu(enum dtype dtype, int hidden, int intermediate)
{
    struct record_class c = {.dtype = dtype, .hidden = hidden, .intermediate = intermediate};
    c.in_row_bytes = (size_t)hidden * dtype_bytes(dtype);
    c.down_row_bytes = (size_t)intermediate * dtype_bytes(dtype);
    lay_out(&c);
    return c;
}

struct record_class record_class_packed(int hidden, int intermediate)
{
    struct record_class c = {.dtype = DTYPE_BF16, .hidden = hidden, .intermediate = intermediate};
    size_t elements = 3 * (size_t)hidden * (size_t)intermediate;
    c.packed = true;
    c.in_row_bytes = packed_row_bytes(hidden);
    c.down_row_bytes = packed_row_bytes(intermediate);
    c.lists_bytes = align_up(elements / LISTED_ONE_IN * sizeof(uint32_t), MATRIX_ALIGN_BYTES);
    lay_out(&c);
    return c;
}
