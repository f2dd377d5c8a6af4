/*
 * Dot products of the FMA class of one row of weights, plain or packed, with one of activations, as
 * a template over the vectors of vec_<isa>.h: all partial sums stay in registers, or a quarter of
 * them at a time, and the weights are read in order.
 */
#define NV (256 / VL)

INLINE vf load_w(enum dtype dtype, const void *w, size_t j)
{
    return dtype == DTYPE_BF16  ? v_load_bf16((const uint16_t *)w + j)
           : dtype == DTYPE_F16 ? v_load_f16((const uint16_t *)w + j)
                                : v_load((const float *)w + j);
}

INLINE vf load_w_part(enum dtype dtype, const void *w, size_t j, size_t n)
{
    return dtype == DTYPE_BF16  ? v_load_bf16_part((const uint16_t *)w + j, n)
           : dtype == DTYPE_F16 ? v_load_f16_part((const uint16_t *)w + j, n)
                                : v_load_part((const float *)w + j, n, 0);
}

/* What a row's dot product asks the memory for: nothing; what is far ahead, for the first-level
 * cache; or that for the second-level one, and what comes next for the first-level one. */
enum fetch { FETCH_NONE, FETCH_L1, FETCH_L2 };

/* Asked for are as many bytes as the row has. */
struct ahead {
    const char *far, *far_end, *then; /* from far to far_end, from there on from `then` on */
    const char *next;                 /* the row that is read after this one */
};

INLINE void fetch_far(const enum fetch fetch, struct ahead *a, size_t bytes)
{
#pragma GCC unroll 16
    for (size_t i = 0; i < bytes && fetch == FETCH_L1; i += 64)
        __builtin_prefetch(a->far + i, 0, 3);
#pragma GCC unroll 16
    for (size_t i = 0; i < bytes && fetch == FETCH_L2; i += 64)
        __builtin_prefetch(a->far + i, 0, 2);
    a->far += bytes;
    if (a->far >= a->far_end)
        a->far = a->then, a->far_end = (const char *)UINTPTR_MAX;
}

INLINE float row_dot_of(const enum fetch fetch, const enum dtype dtype, const void *w,
                        const float *x, size_t k, struct ahead ahead)
{
    vf sums[ROW_SUMS];
    const size_t step = ROW_ACC * VL, step_bytes = step * dtype_bytes(dtype);
    for (size_t pass = 0; pass < NV / ROW_ACC; pass++) {
        vf acc[ROW_ACC];
        size_t j = pass * step;
#pragma GCC unroll 16
        for (size_t a = 0; a < ROW_ACC; a++)
            acc[a] = v_zero();
        for (; j + step <= k; j += 256) {
            const char *near = j + 256 + step <= k
                                   ? (const char *)w + (j + 256) * dtype_bytes(dtype)
                                   : ahead.next + pass * step_bytes;
            if (fetch != FETCH_NONE)
                fetch_far(fetch, &ahead, step_bytes);
#pragma GCC unroll 16
            for (size_t i = 0; i < step_bytes && fetch == FETCH_L2; i += 64)
                __builtin_prefetch(near + i, 0, 3);
#pragma GCC unroll 16
            for (size_t a = 0; a < ROW_ACC; a++)
                acc[a] = v_fma(load_w(dtype, w, j + a * VL), v_load(x + j + a * VL), acc[a]);
        }
        if (j < k) {
#pragma GCC unroll 16
            for (size_t a = 0; a < ROW_ACC; a++) {
                size_t at = j + a * VL;
                if (at + VL <= k)
                    acc[a] = v_fma(load_w(dtype, w, at), v_load(x + at), acc[a]);
                else if (at < k)
                    acc[a] = v_fma(load_w_part(dtype, w, at, k - at),
                                   v_load_part(x + at, k - at, -0.0f), acc[a]);
            }
            for (size_t i = 0; fetch != FETCH_NONE && i < step && j + i < k;
                 i += 64 / dtype_bytes(dtype))
                fetch_far(fetch, &ahead, 64);
        }
        for (size_t a = 0; a < ROW_ACC; a += 8)
            sums[pass * (ROW_ACC / 8) + a / 8] = v_sum8(acc + a);
    }
    return v_row_end(sums);
}

/* As many numbers of 16 bits as a pass takes from 256. */
INLINE void add_16_bits(const uint16_t *w, const float *x, vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a++)
        acc[a] = v_fma(v_load_bf16(w + a * VL), v_load(x + a * VL), acc[a]);
}

/* The same for both halves of a packed block of 512; `pass` numbers of each half lie before. */
INLINE void add_units(vcodes codes, const uint8_t *from, size_t pass, const float *x,
                      vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 2) {
        size_t j = pass + a * VL;
        vh first, second;
        v_unpack_units(codes, from + j * 2, from + PACKED_BLOCK + j, &first, &second);
        acc[a] = v_fma(v_low_h(first), v_load(x + j), acc[a]);
        acc[a + 1] = v_fma(v_high_h(first), v_load(x + j + VL), acc[a + 1]);
        acc[a] = v_fma(v_low_h(second), v_load(x + PACKED_HALF + j), acc[a]);
        acc[a + 1] = v_fma(v_high_h(second), v_load(x + PACKED_HALF + j + VL), acc[a + 1]);
    }
}

/* The same for a packed block of 256, in order. */
INLINE void add_in_order(vcodes codes, const uint8_t *from, size_t pass, const float *x,
                         vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 4) {
        size_t j = pass + a * VL;
        vh first, second;
        v_unpack_run(codes, from + j, from + PACKED_HALF + j / 2, &first, &second);
        acc[a] = v_fma(v_low_h(first), v_load(x + j), acc[a]);
        acc[a + 1] = v_fma(v_high_h(first), v_load(x + j + VL), acc[a + 1]);
        acc[a + 2] = v_fma(v_low_h(second), v_load(x + j + 2 * VL), acc[a + 2]);
        acc[a + 3] = v_fma(v_high_h(second), v_load(x + j + 3 * VL), acc[a + 3]);
    }
}

/* What follows the blocks of 512. */
INLINE void add_packed_end(vcodes codes, const uint8_t *from, struct packed_walk *escapes,
                           size_t at, size_t k, size_t pass, const float *x, vf acc[ROW_ACC])
{
    uint16_t w[PACKED_HALF];
    if (at + PACKED_HALF <= k) {
        if (escapes->column < at + PACKED_HALF) {
            unpack_few(codes, from, PACKED_HALF, w);
            packed_put(escapes, at, PACKED_HALF, w);
            add_16_bits(w + pass, x + at + pass, acc);
        } else
            add_in_order(codes, from, pass, x + at, acc);
        at += PACKED_HALF, from += packed_bytes(PACKED_HALF);
    }
    if (at < k) {
        unpack_few(codes, from, k - at, w);
        packed_put(escapes, at, k - at, w);
#pragma GCC unroll 16
        for (size_t a = 0; a < ROW_ACC; a++) {
            size_t j = pass + a * VL;
            if (at + j + VL <= k)
                acc[a] = v_fma(v_load_bf16(w + j), v_load(x + at + j), acc[a]);
            else if (at + j < k)
                acc[a] = v_fma(v_load_bf16_part(w + j, k - at - j),
                               v_load_part(x + at + j, k - at - j, -0.0f), acc[a]);
        }
    }
}

/* What a pass over a packed row asks for at a block of 512: its part of as many bytes far ahead,
 * and of those that are read next, one block later or at the beginning of the next row. */
INLINE void fetch_block(const enum fetch fetch, struct ahead *ahead, const char *near)
{
    enum { BYTES = PACKED_BLOCK * 3 / 2 / (NV / ROW_ACC) };
    if (fetch != FETCH_NONE)
        fetch_far(fetch, ahead, BYTES);
#pragma GCC unroll 16
    for (size_t i = 0; i < BYTES + 64 && fetch == FETCH_L2; i += 64)
        __builtin_prefetch(near + i, 0, 3);
}

/* The same for what is left of a row, `bytes` of it. */
INLINE void fetch_end(const enum fetch fetch, struct ahead *ahead, size_t bytes)
{
    for (size_t i = 0; i < bytes && fetch != FETCH_NONE; i += 64)
        fetch_far(fetch, ahead, 64);
    for (size_t i = 0; i < PACKED_BLOCK * 3 / 2 + 64 && fetch == FETCH_L2; i += 64)
        __builtin_prefetch(ahead->next + i, 0, 3);
}

/* The dot product of a packed row. */
INLINE float packed_dot_of(const enum fetch fetch, const void *row, const float *x, size_t k,
                           struct ahead ahead)
{
    enum { BLOCK_BYTES = PACKED_BLOCK * 3 / 2, PASSES = NV / ROW_ACC };
    const vcodes codes = codes_of(row);
    vf sums[ROW_SUMS];
    if (fetch != FETCH_NONE)
        fetch_far(fetch, &ahead, PACKED_HEAD_BYTES);
    for (size_t pass = 0; pass < PASSES; pass++) {
        const uint8_t *from = (const uint8_t *)row + PACKED_HEAD_BYTES;
        const size_t first = pass * ROW_ACC * VL, part = pass * (BLOCK_BYTES / PASSES);
        struct packed_walk escapes = packed_walk_begin(row);
        vf acc[ROW_ACC];
#pragma GCC unroll 16
        for (size_t a = 0; a < ROW_ACC; a++)
            acc[a] = v_zero();
        size_t at = 0;
        for (; at + PACKED_BLOCK <= k; at += PACKED_BLOCK, from += BLOCK_BYTES) {
            const char *near =
                at + PACKED_BLOCK < k ? (const char *)from + BLOCK_BYTES : ahead.next;
            fetch_block(fetch, &ahead, near + part);
            if (__builtin_expect(escapes.column < at + PACKED_BLOCK, 0)) {
                uint16_t w[PACKED_BLOCK];
                unpack_block(codes, from, w);
                packed_put(&escapes, at, PACKED_BLOCK, w);
                add_16_bits(w + first, x + at + first, acc);
                add_16_bits(w + PACKED_HALF + first, x + at + PACKED_HALF + first, acc);
            } else
                add_units(codes, from, first, x + at, acc);
        }
        if (at < k) {
            if (pass + 1 == PASSES)
                fetch_end(fetch, &ahead, packed_bytes(k - at));
            add_packed_end(codes, from, &escapes, at, k, first, x, acc);
        }
        for (size_t a = 0; a < ROW_ACC; a += 8)
            sums[pass * (ROW_ACC / 8) + a / 8] = v_sum8(acc + a);
    }
    return v_row_end(sums);
}

INLINE float row_dot_fetching(const enum fetch fetch, enum dtype dtype, const void *w,
                              const float *x, size_t k, const struct ahead *ahead)
{
    switch (dtype) {
    case DTYPE_BF16:
        return row_dot_of(fetch, DTYPE_BF16, w, x, k, *ahead);
    case DTYPE_F16:
        return row_dot_of(fetch, DTYPE_F16, w, x, k, *ahead);
    default:
        return row_dot_of(fetch, DTYPE_F32, w, x, k, *ahead);
    }
}

static float row_dot_l1(enum dtype dtype, const void *w, const float *x, size_t k,
                        const struct ahead *ahead)
{
    return row_dot_fetching(FETCH_L1, dtype, w, x, k, ahead);
}

static float row_dot_l2(enum dtype dtype, const void *w, const float *x, size_t k,
                        const struct ahead *ahead)
{
    return row_dot_fetching(FETCH_L2, dtype, w, x, k, ahead);
}

/* Of weights that are in a cache. */
static float row_dot(enum dtype dtype, const void *w, const float *x, size_t k)
{
    return row_dot_fetching(FETCH_NONE, dtype, w, x, k, &(struct ahead){.next = w});
}

static float packed_dot_l1(const void *w, const float *x, size_t k, const struct ahead *ahead)
{
    return packed_dot_of(FETCH_L1, w, x, k, *ahead);
}

static float packed_dot_l2(const void *w, const float *x, size_t k, const struct ahead *ahead)
{
    return packed_dot_of(FETCH_L2, w, x, k, *ahead);
}

static float packed_dot(const void *w, const float *x, size_t k)
{
    return packed_dot_of(FETCH_NONE, w, x, k, (struct ahead){.next = w});
}
