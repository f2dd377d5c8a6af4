#include "record.h"

#define MATRIX_ALIGN_BYTES ((size_t)64)

static size_t align_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

struct record_class record_class_swiglu(enum dtype dtype, int hidden, int intermediate)
{
    size_t matrix_bytes = (size_t)hidden * (size_t)intermediate * dtype_bytes(dtype);
    struct record_class c = {.dtype = dtype, .hidden = hidden, .intermediate = intermediate};
    c.gate_off = 0;
    c.up_off = align_up(c.gate_off + matrix_bytes, MATRIX_ALIGN_BYTES);
    c.down_off = align_up(c.up_off + matrix_bytes, MATRIX_ALIGN_BYTES);
    c.bytes = align_up(c.down_off + matrix_bytes, RECORD_ALIGN_BYTES);
    return c;
}
