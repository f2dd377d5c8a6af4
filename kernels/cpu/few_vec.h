/*
 * Dot products of the FMA class of bf16 weights, plain or packed, with a few rows of activations
 * (2 to FEW_ROWS), as a template over the vectors of vec_<isa>.h.
 *
 * The 256 partial sums are taken 2 VL at a time, a unit. Its weights become floats in two sorts,
 * even and odd ones (row_vec.h), an instruction each; x is split the same way and lies in the order
 * in which it is read. Up to four rows of weights share each load of x, which is what these loops
 * would wait for otherwise. Rows that are packed, or whose last chunk of 256 is not whole, go
 * through a panel first.
 */
#define PANEL     16 /* outputs of a call, and the stride of dots */
#define FEW_W     4
#define FEW_UNITS (256 / (2 * VL))

/* A loop's sums stay in registers: of `wide` rows of weights, of one sort or of both. */
struct few_shape {
    size_t wide;
    bool both;
};

INLINE struct few_shape few_shape(size_t rows)
{
    return (struct few_shape){4 * rows <= FEW_SUMS ? 4 : 2, 8 * rows <= FEW_SUMS};
}

/* Row i of x, [FEW_UNITS][chunks][rows][even, odd][VL] where both sorts are taken at once, else
 * [FEW_UNITS][even, odd][chunks][rows][VL]; behind the end of the row -0. */
static void few_x(float *to, size_t rows, size_t chunks, size_t i, const float *x, size_t k)
{
    const bool both = few_shape(rows).both;
    for (size_t j = 0; j < chunks * 256; j += 2 * VL) {
        size_t unit = j % 256 / (2 * VL), chunk = j / 256;
        float *sorts = to + unit * chunks * rows * 2 * VL, part[2 * VL];
        float *at = sorts + (chunk * rows + i) * (both ? 2 * VL : VL);
        const float *from = x + j;
        vf even, odd;
        if (j + 2 * VL > k) {
            for (size_t n = 0; n < 2 * VL; n++)
                part[n] = j + n < k ? x[j + n] : -0.0f;
            from = part;
        }
        v_split(v_load(from), v_load(from + VL), &even, &odd);
        v_store(at, even);
        v_store(at + (both ? VL : chunks * rows * VL), odd);
    }
}

/* A tile: `outs` <= FEW_W rows of weights, k numbers each. */
struct few {
    const char *w, *ahead; /* what is asked for meanwhile, as many bytes */
    size_t row_bytes, outs;
    bool packed;
    uint16_t *panel; /* [FEW_W][chunks * 256] */
    const float *x;  /* few_x's */
    size_t k, chunks;
};

/* The rows as bf16 with whole chunks; *stride in numbers. */
static const uint16_t *few_weights(const struct few *f, size_t *stride)
{
    *stride = f->row_bytes / sizeof(uint16_t);
    if (!f->packed && f->k % 256 == 0)
        return (const uint16_t *)(const void *)f->w;
    *stride = f->chunks * 256;
    for (size_t o = 0; o < f->outs; o++) {
        uint16_t *to = f->panel + o * *stride;
        if (f->packed)
            unpack_rows(f->w + o * f->row_bytes, (int)f->k, 1, to);
        else
            memcpy(to, f->w + o * f->row_bytes, f->k * sizeof *to);
        memset(to + f->k, 0, (*stride - f->k) * sizeof *to);
    }
    return f->panel;
}

enum few_sort { FEW_EVEN, FEW_ODD, FEW_BOTH };

/* A unit of `wide` rows of weights, `stride` apart; its sums for row i of x are added up by pairs
 * in pair[(o * FEW_ROWS + i) * FEW_UNITS], even ones first. */
INLINE void few_unit(const bool l2, const enum few_sort sort, const size_t wide, const size_t rows,
                     const uint16_t *w, size_t stride, const float *x, size_t chunks,
                     const char *ahead, size_t ahead_step, vf *pair)
{
    vf acc[2][FEW_SUMS];
#pragma GCC unroll 32
    for (size_t i = 0; i < wide * rows; i++)
        acc[0][i] = acc[1][i] = v_zero();
    for (size_t c = 0; c < chunks; c++, w += 256) {
#pragma GCC unroll 4
        for (size_t o = 0; o < wide; o++, ahead += ahead_step) {
            vh h = v_load_h(w + o * stride);
            vf wv = sort == FEW_ODD ? v_odd_h(h) : v_even_h(h), odd = v_odd_h(h);
            if (l2)
                __builtin_prefetch(ahead, 0, 2);
            else
                __builtin_prefetch(ahead, 0, 3);
#pragma GCC unroll 8
            for (size_t i = 0; i < rows; i++) {
                const float *from = x + i * (sort == FEW_BOTH ? 2 * VL : VL);
                acc[0][o * rows + i] = v_fma(wv, v_load(from), acc[0][o * rows + i]);
                if (sort == FEW_BOTH)
                    acc[1][o * rows + i] = v_fma(odd, v_load(from + VL), acc[1][o * rows + i]);
            }
        }
        x += rows * (sort == FEW_BOTH ? 2 * VL : VL);
    }
#pragma GCC unroll 4
    for (size_t o = 0; o < wide; o++)
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            vf *to = pair + (o * FEW_ROWS + i) * FEW_UNITS, sum = acc[0][o * rows + i];
            *to = sort == FEW_BOTH  ? v_add(sum, acc[1][o * rows + i])
                  : sort == FEW_ODD ? v_add(*to, sum)
                                    : sum;
        }
}

INLINE void few_turn(const bool l2, const bool both, const size_t wide, const size_t rows,
                     const uint16_t *w, size_t stride, const float *x, size_t chunks,
                     const char *ahead, size_t step, vf *pair)
{
    if (both) {
        few_unit(l2, FEW_BOTH, wide, rows, w, stride, x, chunks, ahead, step, pair);
        return;
    }
    few_unit(l2, FEW_EVEN, wide, rows, w, stride, x, chunks, ahead, step, pair);
    few_unit(l2, FEW_ODD, wide, rows, w, stride, x + chunks * rows * VL, chunks,
             ahead + wide * chunks * step, step, pair);
}

INLINE void few_tile(const bool l2, const struct few *f, const size_t rows, float *dots)
{
    const struct few_shape s = few_shape(rows);
    vf pair[FEW_W * FEW_ROWS * FEW_UNITS];
    size_t stride, loads = f->chunks * (s.both ? 1 : 2), all = FEW_UNITS * FEW_W * loads;
    size_t step = (FEW_W * f->row_bytes + all - 1) / all;
    const uint16_t *w = few_weights(f, &stride);
    const char *ahead = f->ahead;
    for (size_t u = 0; u < FEW_UNITS; u++) {
        const float *x = f->x + u * f->chunks * rows * 2 * VL;
        const uint16_t *at = w + u * 2 * VL;
        size_t o = 0;
        for (; o + s.wide <= f->outs; o += s.wide, ahead += s.wide * loads * step)
            few_turn(l2, s.both, s.wide, rows, at + o * stride, stride, x, f->chunks, ahead, step,
                     pair + o * FEW_ROWS * FEW_UNITS + u);
        for (; o < f->outs; o++, ahead += loads * step)
            few_turn(l2, s.both, 1, rows, at + o * stride, stride, x, f->chunks, ahead, step,
                     pair + o * FEW_ROWS * FEW_UNITS + u);
    }
    for (size_t o = 0; o < f->outs; o++)
        for (size_t i = 0; i < rows; i++) {
            vf sums[ROW_SUMS];
            for (size_t n = 0; n < ROW_SUMS; n++)
                sums[n] = v_split_sum4(pair + (o * FEW_ROWS + i) * FEW_UNITS + 4 * n);
            dots[i * PANEL + o] = v_split_row_end(sums);
        }
}

INLINE void few_rows(const bool l2, const struct few *f, size_t rows, float *dots)
{
    switch (rows) {
    case 1: /* what a router's rows leave over */
        few_tile(l2, f, 1, dots);
        break;
    case 2:
        few_tile(l2, f, 2, dots);
        break;
    case 3:
        few_tile(l2, f, 3, dots);
        break;
    case 4:
        few_tile(l2, f, 4, dots);
        break;
#if FEW_ROWS > 4
    case 5:
        few_tile(l2, f, 5, dots);
        break;
#endif
    }
}

/* dots[i * PANEL + o] for row i of x and row o of the weights; l2: what is ahead goes to the
 * second-level cache. */
static void few_dots(const struct few *f, bool l2, size_t rows, float *dots)
{
    if (l2)
        few_rows(true, f, rows, dots);
    else
        few_rows(false, f, rows, dots);
}
