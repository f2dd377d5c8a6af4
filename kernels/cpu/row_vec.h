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

/*
 * Packed rows. Of two vectors of neighbours, 2 VL numbers, the even ones come first, then the odd
 * ones: bf16 numbers side by side become floats in these two sorts without a shuffle. x is `split`
 * once for all rows, or is as it was, for want of scratch.
 */
INLINE void load_x_pair(const bool split, const float *x, vf *even, vf *odd)
{
    if (split)
        *even = v_load(x), *odd = v_load(x + VL);
    else
        v_split(v_load(x), v_load(x + VL), even, odd);
}

INLINE void add_pair(const bool split, vh w, const float *x, vf acc[2])
{
    vf even, odd;
    load_x_pair(split, x, &even, &odd);
    acc[0] = v_fma(v_even_h(w), even, acc[0]);
    acc[1] = v_fma(v_odd_h(w), odd, acc[1]);
}

/* As many numbers of 16 bits as a pass takes from 256. */
INLINE void add_16_bits(const bool split, const uint16_t *w, const float *x, vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 2)
        add_pair(split, v_load_h(w + a * VL), x + a * VL, acc + a);
}

/* One escape of a block, or none. */
struct escape {
    bool is;
    uint16_t w;
    size_t at; /* in the block */
};

/* add_16_bits for both halves of a packed block of 512; `pass` numbers of each lie before. */
INLINE void add_units(const bool split, vcodes codes, const uint8_t *from, size_t pass,
                      const struct escape e, const float *x, vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 2) {
        size_t j = pass + a * VL;
        vh first, second;
        v_unpack_units(codes, from + j * 2, from + PACKED_BLOCK + j, &first, &second);
        if (e.is) {
            first = v_put_h(first, e.at - j, e.w);
            second = v_put_h(second, e.at - PACKED_HALF - j, e.w);
        }
        add_pair(split, first, x + j, acc + a);
        add_pair(split, second, x + PACKED_HALF + j, acc + a);
    }
}

/* The same for a packed block of 256, in order. */
INLINE void add_in_order(const bool split, vcodes codes, const uint8_t *from, size_t pass,
                         const struct escape e, const float *x, vf acc[ROW_ACC])
{
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 4) {
        size_t j = pass + a * VL;
        vh first, second;
        v_unpack_run(codes, from + j, from + PACKED_HALF + j / 2, &first, &second);
        if (e.is) {
            first = v_put_h(first, e.at - j, e.w);
            second = v_put_h(second, e.at - j - 2 * VL, e.w);
        }
        add_pair(split, first, x + j, acc + a);
        add_pair(split, second, x + j + 2 * VL, acc + a + 2);
    }
}

/* Where a pass over a packed row is. */
struct packed_at {
    const void *row;
    const uint8_t *from; /* its block */
    size_t at;           /* the block's first number */
    size_t pass;         /* numbers of 256 that lie before the pass's */
    struct packed_walk escapes;
};

/* A block of 512 or of 256 that has escapes: a single one is put in its place in registers, more of
 * them in a buffer. */
INLINE void add_escaped(const bool split, vcodes codes, struct packed_at *p, const size_t n,
                        const float *x, vf acc[ROW_ACC])
{
    struct packed_walk next = packed_walk_at(p->escapes.at + 1, p->escapes.end);
    if (next.column < p->at + n) {
        uint16_t w[PACKED_BLOCK];
        unpack_escaped(p->row, p->at, n, &p->escapes, w);
        for (size_t half = 0; half < n; half += PACKED_HALF)
            add_16_bits(split, w + half + p->pass, x + half + p->pass, acc);
        return;
    }
    struct escape e = {true, (uint16_t)*p->escapes.at, p->escapes.column - p->at};
    const uint8_t *from = p->from;
    /* Or the compiler decodes ahead of the branch that led here, and runs out of registers. */
    __asm__("" : "+r"(from));
    if (n == PACKED_BLOCK)
        add_units(split, codes, from, p->pass, e, x, acc);
    else
        add_in_order(split, codes, from, p->pass, e, x, acc);
    p->escapes = next;
}

/* The last block, `left` < 256 numbers. Behind them w is +0 and x -0, which changes no sum. */
INLINE void add_rest(const bool split, vcodes codes, struct packed_at *p, size_t left,
                     const float *x, vf acc[ROW_ACC])
{
    uint16_t w[PACKED_HALF];
    unpack_few(codes, p->from, left, w);
    packed_put(&p->escapes, p->at, left, w);
    memset(w + left, 0, (PACKED_HALF - left) * sizeof *w);
#pragma GCC unroll 16
    for (size_t a = 0; a < ROW_ACC; a += 2) {
        size_t j = p->pass + a * VL;
        float part[2 * VL];
        const float *at = x + j;
        if (j >= left)
            break;
        if (!split && j + 2 * VL > left) {
            for (size_t i = 0; i < 2 * VL; i++)
                part[i] = j + i < left ? x[j + i] : -0.0f;
            at = part;
        }
        add_pair(split, v_load_h(w + j), at, acc + a);
    }
}

/* What follows the blocks of 512. x: of the number at hand. */
INLINE void add_packed_end(const bool split, vcodes codes, struct packed_at *p, size_t k,
                           const float *x, vf acc[ROW_ACC])
{
    if (p->at + PACKED_HALF <= k) {
        if (p->escapes.column < p->at + PACKED_HALF)
            add_escaped(split, codes, p, PACKED_HALF, x, acc);
        else
            add_in_order(split, codes, p->from, p->pass, (struct escape){false}, x, acc);
        p->at += PACKED_HALF, x += PACKED_HALF, p->from += packed_bytes(PACKED_HALF);
    }
    if (p->at < k)
        add_rest(split, codes, p, k - p->at, x, acc);
}

/* What a pass over a packed row asks for at a block of 512: `bytes`, its part of as many far ahead,
 * and of those that are read next, one block later or at the beginning of the next row. */
INLINE void fetch_block(const enum fetch fetch, const size_t bytes, struct ahead *ahead,
                        const char *near)
{
    if (fetch != FETCH_NONE)
        fetch_far(fetch, ahead, bytes);
    if (fetch != FETCH_L2)
        return;
#pragma GCC unroll 16
    for (size_t i = 0; i < bytes + 64; i += 64)
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
INLINE float packed_dot_of(const enum fetch fetch, const bool split, const void *row,
                           const float *x, size_t k, struct ahead ahead)
{
    enum { BLOCK_BYTES = PACKED_BLOCK * 3 / 2, PASSES = NV / ROW_ACC };
    const vcodes codes = codes_of(row);
    vf sums[ROW_SUMS];
    if (fetch != FETCH_NONE)
        fetch_far(fetch, &ahead, PACKED_HEAD_BYTES);
    for (size_t pass = 0; pass < PASSES; pass++) {
        const size_t part = pass * (BLOCK_BYTES / PASSES);
        struct packed_at p = {row, (const uint8_t *)row + PACKED_HEAD_BYTES, 0, pass * ROW_ACC * VL,
                              packed_walk_begin(row)};
        vf acc[ROW_ACC];
#pragma GCC unroll 16
        for (size_t a = 0; a < ROW_ACC; a++)
            acc[a] = v_zero();
        for (; p.at + PACKED_BLOCK <= k; p.at += PACKED_BLOCK, p.from += BLOCK_BYTES) {
            const char *near =
                p.at + PACKED_BLOCK < k ? (const char *)p.from + BLOCK_BYTES : ahead.next;
            fetch_block(fetch, BLOCK_BYTES / PASSES, &ahead, near + part);
            if (__builtin_expect(p.escapes.column < p.at + PACKED_BLOCK, 0))
                add_escaped(split, codes, &p, PACKED_BLOCK, x + p.at, acc);
            else
                add_units(split, codes, p.from, p.pass, (struct escape){false}, x + p.at, acc);
        }
        if (p.at < k) {
            if (pass + 1 == PASSES)
                fetch_end(fetch, &ahead, packed_bytes(k - p.at));
            add_packed_end(split, codes, &p, k, x + p.at, acc);
        }
        for (size_t a = 0; a < ROW_ACC; a += 8)
            sums[pass * (ROW_ACC / 8) + a / 8] = v_split_sum8(acc + a);
    }
    return v_split_row_end(sums);
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
    return packed_dot_of(FETCH_L1, true, w, x, k, *ahead);
}

static float packed_dot_l2(const void *w, const float *x, size_t k, const struct ahead *ahead)
{
    return packed_dot_of(FETCH_L2, true, w, x, k, *ahead);
}

/* x is not split; the row is in a cache, or nobody waits. */
static float packed_dot(const void *w, const float *x, size_t k)
{
    return packed_dot_of(FETCH_NONE, false, w, x, k, (struct ahead){.next = w});
}
