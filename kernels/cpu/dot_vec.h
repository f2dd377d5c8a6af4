/*
 * Dot products of the FMA class, as a template over the vectors of vec_<isa>.h.
 *
 * One activation row, or SINGLE_ROWS of them: weight row by weight row (row_vec.h). A few rows and
 * bf16 weights: few_vec.h.
 *
 * More rows: the 256 partial sums of TILE_W x TILE_X dot products do not fit, but the class allows
 * to take them one vector v at a time: for a fixed v the chunks of 256 are walked with TILE_W
 * weight vectors against TILE_X activation vectors, and only the sums of 8 neighbours are kept.
 * Activations are packed so that each v finds its numbers in a row.
 *
 * Behind the end of a row the packed activations hold -0 and the weights +0: their product, -0, is
 * the one number that changes no partial sum, not even -0.
 *
 * Packed weights of a panel are unpacked into scratch first; from there on they are plain ones.
 */
/* Rows packed at once: activations of this many rows and a panel stay in a 1 MiB L2 cache. */
#define ROWS_AT_ONCE 48
/* How far ahead in what it reads a thread with a single row of activations asks for weights. */
#define AHEAD_BYTES ((size_t)8192)
/* The same within a row that is longer, where weights go to the first-level cache: half of one. */
#define AHEAD_L1_BYTES ((size_t)4096)
/* While the activations, the weights of a tile and those ahead of it are about an L1 cache, a panel
 * is one tile wide: each line of weights is then used twice before it goes. */
#define NEAR_BYTES ((size_t)64 << 10)
#define TILE       (TILE_W * TILE_X)
#define TILE_SUMS  ((TILE + 7) / 8)

/* Of one tile's chunk, so that NV of them fetch TILE_W rows; a prefetch fetches a line. */
#define TILE_AHEAD_BYTES(dtype) (TILE_W * 256 * dtype_bytes(dtype) / NV)

/* Where the weights of a tile lie, for one v: strides in elements. */
struct tile_w {
    const void *w;
    size_t row_stride, chunk_stride;
    size_t chunks;     /* whole vectors */
    size_t tail;       /* lanes of the one behind them, 0: none */
    const char *ahead; /* wanted soon: TILE_AHEAD_BYTES are asked for at each chunk */
};

/* One v of TILE_W outputs for `rows` activation rows: sums of 8 neighbours of output o and row i
 * are vector (o * rows + i) / 8 of r. x: [chunk][rows][VL]. */
INLINE void tile_of(const enum dtype dtype, const struct tile_w *t, const float *x,
                    const size_t rows, vf *r)
{
    vf acc[TILE_SUMS * 8], wv[TILE_W];
#pragma GCC unroll 32
    for (size_t a = 0; a < TILE_SUMS * 8; a++)
        acc[a] = v_zero();
    size_t at = 0;
    const char *ahead = t->ahead;
    for (size_t c = 0; c < t->chunks; c++, at += t->chunk_stride, x += rows * VL) {
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE_AHEAD_BYTES(dtype); i += 64, ahead += 64)
            __builtin_prefetch(ahead, 0, 3);
#pragma GCC unroll 8
        for (size_t o = 0; o < TILE_W; o++)
            wv[o] = load_w(dtype, t->w, at + o * t->row_stride);
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            vf xv = v_load(x + i * VL);
#pragma GCC unroll 8
            for (size_t o = 0; o < TILE_W; o++)
                acc[o * rows + i] = v_fma(wv[o], xv, acc[o * rows + i]);
        }
    }
    if (t->tail) {
#pragma GCC unroll 8
        for (size_t o = 0; o < TILE_W; o++)
            wv[o] = load_w_part(dtype, t->w, at + o * t->row_stride, t->tail);
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            vf xv = v_load(x + i * VL);
#pragma GCC unroll 8
            for (size_t o = 0; o < TILE_W; o++)
                acc[o * rows + i] = v_fma(wv[o], xv, acc[o * rows + i]);
        }
    }
#pragma GCC unroll 8
    for (size_t g = 0; g < (TILE_W * rows + 7) / 8; g++)
        r[g] = v_sum8(acc + 8 * g);
}

INLINE void tile_rows(const enum dtype dtype, const struct tile_w *t, const float *x, size_t rows,
                      vf *r)
{
    switch (rows) {
    case 1:
        tile_of(dtype, t, x, 1, r);
        break;
    case 2:
        tile_of(dtype, t, x, 2, r);
        break;
    case 3:
        tile_of(dtype, t, x, 3, r);
        break;
    case 4:
        tile_of(dtype, t, x, 4, r);
        break;
    case 5:
        tile_of(dtype, t, x, 5, r);
        break;
    case 6:
        tile_of(dtype, t, x, 6, r);
        break;
    }
}

static void tile_bf16(const struct tile_w *t, const float *x, size_t rows, vf *r)
{
    tile_rows(DTYPE_BF16, t, x, rows, r);
}

static void tile_f16(const struct tile_w *t, const float *x, size_t rows, vf *r)
{
    tile_rows(DTYPE_F16, t, x, rows, r);
}

static void tile_f32(const struct tile_w *t, const float *x, size_t rows, vf *r)
{
    tile_rows(DTYPE_F32, t, x, rows, r);
}

typedef void tile_fn(const struct tile_w *t, const float *x, size_t rows, vf *r);

static tile_fn *const tile_fns[DTYPE_COUNT] = {tile_f32, tile_bf16, tile_f16};

/* Scratch of one part, cut up for rows of k numbers. */
struct pack {
    size_t k, chunks;              /* chunks of 256, the last one filled up */
    size_t rows_max;               /* rows that fit at once; 0: not one, they go one by one */
    size_t rows;                   /* packed now */
    size_t blocks;                 /* of at most TILE_X rows */
    const float *row[SINGLE_ROWS]; /* the rows themselves where they are so few */
    float *split;                  /* or the only one, split (row_vec.h), [chunks * 256], or NULL */
    bool few;                      /* x is as few_vec.h has it */
    float *x;                      /* [NV][block][chunk][row of the block][VL] */
    vf *r;                         /* [NV][unit of outputs][block][TILE_SUMS] */
    uint16_t *panel;               /* [PANEL][k] of packed weights; few: [FEW_W][chunks * 256] */
};

/* packed: so are the weights. */
static struct pack pack_begin(size_t k, size_t rows, enum dtype dtype, bool packed, void *scratch,
                              size_t scratch_bytes)
{
    struct pack p = {.k = k, .chunks = (k + 255) / 256};
    size_t row_bytes = p.chunks * 256 * sizeof(float);
    size_t few_panel_bytes = FEW_W * p.chunks * 256 * sizeof(uint16_t);
    p.few = rows > 1 && rows <= FEW_ROWS && dtype == DTYPE_BF16 &&
            scratch_bytes >= few_panel_bytes + rows * row_bytes;
    if (p.few) {
        p.rows_max = rows;
        p.panel = scratch;
        p.x = (float *)(void *)((char *)scratch + few_panel_bytes);
        return p;
    }
    size_t r_bytes = (size_t)NV * (PANEL / TILE_W + TILE_W - 1) *
                     ((ROWS_AT_ONCE + TILE_X - 1) / TILE_X) * TILE_SUMS * sizeof(vf);
    size_t panel_bytes = packed ? (PANEL * k * sizeof *p.panel + 63) / 64 * 64 : 0;
    p.rows_max = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
    char *at = scratch;
    if (packed && rows == 1) {
        p.split = row_bytes <= scratch_bytes ? scratch : NULL;
        p.rows_max = 0;
        return p;
    }
    if (packed && scratch_bytes >= panel_bytes) {
        p.panel = (uint16_t *)(void *)at;
        at += panel_bytes, scratch_bytes -= panel_bytes;
    }
    if (rows <= SINGLE_ROWS || packed != (p.panel != NULL) || scratch_bytes < r_bytes + row_bytes) {
        p.rows_max = 0;
        return p;
    }
    p.r = (vf *)(void *)at;
    at += r_bytes, scratch_bytes -= r_bytes;
    p.x = (float *)(void *)at;
    if (p.rows_max > scratch_bytes / row_bytes)
        p.rows_max = scratch_bytes / row_bytes;
    return p;
}

/* Rows to take next of `left`; blocks of TILE_X stay whole while there are more. */
static size_t pack_rows(const struct pack *p, size_t left)
{
    if (!p->rows_max)
        return left < SINGLE_ROWS ? left : SINGLE_ROWS;
    if (left <= p->rows_max)
        return left;
    return p->rows_max < TILE_X ? p->rows_max : p->rows_max / TILE_X * TILE_X;
}

/* Rows are taken in blocks of at most TILE_X, as even as can be. */
static size_t block_first(const struct pack *p, size_t block)
{
    return p->rows * block / p->blocks;
}

static void pack_row(struct pack *p, size_t i, const float *x)
{
    size_t block = ((i + 1) * p->blocks - 1) / p->rows, first = block_first(p, block);
    size_t rows = block_first(p, block + 1) - first;
    for (size_t j = 0; j < p->chunks * 256; j += VL) {
        size_t v = j % 256 / VL, c = j / 256;
        vf value = j + VL <= p->k ? v_load(x + j)
                   : j < p->k     ? v_load_part(x + j, p->k - j, -0.0f)
                                  : v_set1(-0.0f);
        v_store(p->x + ((v * p->rows + first) * p->chunks + c * rows + i - first) * VL, value);
    }
}

/* Row i of the next `rows`; all of them must be given. */
static void pack_start(struct pack *p, size_t rows)
{
    p->rows = rows;
    p->blocks = (rows + TILE_X - 1) / TILE_X;
}

/* Behind the end of the row: -0. */
static const float *split_row(const struct pack *p, const float *x)
{
    float *to = p->split;
    size_t j = 0;
    vf even, odd;
    for (; j + 2 * VL <= p->k; j += 2 * VL) {
        v_split(v_load(x + j), v_load(x + j + VL), &even, &odd);
        v_store(to + j, even);
        v_store(to + j + VL, odd);
    }
    for (size_t at = j; at < p->chunks * 256; at++)
        to[at] = -0.0f;
    for (size_t at = j; at < p->k; at++)
        to[j + (at - j) / 2 + (at - j) % 2 * VL] = x[at];
    return to;
}

static void pack_add(struct pack *p, size_t i, const float *x)
{
    if (p->few)
        few_x(p->x, p->rows, p->chunks, i, x, p->k);
    else if (p->rows <= SINGLE_ROWS)
        p->row[i] = p->split ? split_row(p, x) : x;
    else
        pack_row(p, i, x);
}

/* Ends the dot products of a tile: r has TILE_SUMS vectors for each v, `stride` vectors apart. */
static void tile_end(vf *r, size_t stride, size_t rows, size_t outs, float *dots)
{
    float sum[TILE_SUMS * 8];
    for (size_t g = 0; g < (TILE_W * rows + 7) / 8; g++) {
        vf s[NV / 2];
        for (size_t i = 0; i < NV / 2; i++)
            s[i] = v_add(r[i * stride + g], r[(i + NV / 2) * stride + g]);
        for (size_t distance = NV / 4; distance; distance /= 2)
            for (size_t i = 0; i < distance; i++)
                s[i] = v_add(s[i], s[i + distance]);
        v_sum8_end(s[0], sum + 8 * g);
    }
    for (size_t o = 0; o < outs; o++)
        for (size_t i = 0; i < rows; i++)
            dots[i * PANEL + o] = sum[o * rows + i];
}

/*
 * Blocks of TILE_W outputs times blocks of rows, for one v after the other: the activations of a v
 * are in the L1 cache for all outputs. Weights come straight from memory, those of the next panel
 * on their way. Outputs at the end that are fewer than TILE_W are taken one by one (row_stride 0
 * repeats them). `ahead` lie the weights that are wanted soon.
 */
static void dots_tiled(const struct pack *p, enum dtype dtype, const void *w, const char *ahead,
                       size_t outs, float *dots)
{
    size_t width = dtype_bytes(dtype), whole = outs / TILE_W, units = whole + outs % TILE_W;
    size_t stride = units * p->blocks * TILE_SUMS;
    for (size_t v = 0; v < NV; v++) {
        size_t at = v * VL;
        struct tile_w t = {NULL, p->k, 256, 0, 0};
        t.chunks = p->k >= at + VL ? (p->k - at - VL) / 256 + 1 : 0;
        t.tail = p->k > t.chunks * 256 + at ? p->k - t.chunks * 256 - at : 0;
        for (size_t u = 0; u < units; u++) {
            size_t o = u < whole ? u * TILE_W : whole * TILE_W + (u - whole);
            t.w = (const char *)w + (o * p->k + at) * width;
            t.row_stride = u < whole ? p->k : 0;
            t.ahead = ahead + (v * units + u) * p->chunks * TILE_AHEAD_BYTES(dtype);
            for (size_t b = 0; b < p->blocks; b++)
                tile_fns[dtype](&t, p->x + (v * p->rows + block_first(p, b)) * p->chunks * VL,
                                block_first(p, b + 1) - block_first(p, b),
                                p->r + v * stride + (u * p->blocks + b) * TILE_SUMS);
        }
    }
    for (size_t u = 0; u < units; u++) {
        size_t o = u < whole ? u * TILE_W : whole * TILE_W + (u - whole);
        for (size_t b = 0; b < p->blocks; b++)
            tile_end(p->r + (u * p->blocks + b) * TILE_SUMS, stride,
                     block_first(p, b + 1) - block_first(p, b), u < whole ? TILE_W : 1,
                     dots + block_first(p, b) * PANEL + o);
    }
}

/*
 * Rows [0, hi) of a matrix that one thread reads in order; `next` is what it reads behind them,
 * rows as long, or NULL.
 */
struct row_run {
    const char *rows, *next;
    size_t hi, row_bytes;
    /* What is asked for lies so many rows ahead; 0: it begins ahead_bytes into the row itself. */
    size_t ahead, ahead_bytes;
    enum kern_ahead to;
    bool packed;
};

/* matrices: that take turns. What is ahead of each adds up: a single one looks twice as far. */
static struct row_run row_run_of(const void *matrix, const void *next, size_t hi, size_t row_bytes,
                                 int matrices, enum kern_ahead to)
{
    struct row_run r = {matrix, next, hi, row_bytes, .to = kern_ahead_of(to)};
    size_t far = AHEAD_BYTES / (size_t)matrices;
    size_t within = r.to == KERN_AHEAD_L1 ? AHEAD_L1_BYTES : AHEAD_BYTES;
    if (row_bytes > far)
        r.ahead_bytes = row_bytes < within ? row_bytes : within;
    else
        r.ahead = (far + row_bytes - 1) / row_bytes;
    return r;
}

/* Row o of the run, or of what comes behind it; NULL beyond. */
static const char *row_run_at(const struct row_run *r, size_t o)
{
    if (o < r->hi)
        return r->rows + o * r->row_bytes;
    return r->next ? r->next + (o - r->hi) * r->row_bytes : NULL;
}

/* row_dots of the packed row w. */
static void packed_row_dots(const struct pack *p, const void *w, const struct ahead *a, bool l2,
                            float *dots)
{
    if (p->split) {
        dots[0] = (l2 ? packed_dot_l2 : packed_dot_l1)(w, p->split, p->k, a);
        return;
    }
    for (size_t i = 0; i < p->rows; i++)
        dots[i * PANEL] = packed_dot(w, p->row[i], p->k);
}

/* dots[i * PANEL] of row o for the packed rows, at most SINGLE_ROWS. `next` is the row that is read
 * after it, or NULL. Where nothing lies ahead, what is here is asked for once more. */
static void row_dots(const struct pack *p, enum dtype dtype, const struct row_run *r, size_t o,
                     const char *next, float *dots)
{
    const char *w = r->rows + o * r->row_bytes, *far = row_run_at(r, o + r->ahead);
    bool l2 = r->to == KERN_AHEAD_L2;
    next = next ? next : w;
    struct ahead a = {far ? far : w, (const char *)UINTPTR_MAX, next, next};
    if (!r->ahead && r->ahead_bytes < r->row_bytes)
        a.far = w + r->ahead_bytes, a.far_end = w + r->row_bytes;
    else if (!r->ahead)
        a.far = next;
    if (r->packed) {
        packed_row_dots(p, w, &a, l2, dots);
        return;
    }
    dots[0] = (l2 ? row_dot_l2 : row_dot_l1)(dtype, w, p->row[0], p->k, &a);
    for (size_t i = 1; i < p->rows; i++)
        dots[i * PANEL] = row_dot(dtype, w, p->row[i], p->k);
}

/* dots_of for a few rows; the weights of the next tile are asked for meanwhile. */
static void dots_of_few(const struct pack *p, const struct row_run *r, size_t o, size_t outs,
                        float *dots)
{
    for (size_t j = 0; j < outs; j += FEW_W) {
        const char *ahead = row_run_at(r, o + j + FEW_W);
        struct few f = {.w = r->rows + (o + j) * r->row_bytes,
                        .row_bytes = r->row_bytes,
                        .outs = outs - j < FEW_W ? outs - j : FEW_W,
                        .packed = r->packed,
                        .panel = p->panel,
                        .x = p->x,
                        .k = p->k,
                        .chunks = p->chunks};
        f.ahead = ahead ? ahead : f.w;
        few_dots(&f, r->to == KERN_AHEAD_L2, p->rows, dots + j);
    }
}

/* dots[i * PANEL + j] = dot(row o + j of the run, row i) for the packed rows and outs <= PANEL
 * outputs. */
static void dots_of(const struct pack *p, enum dtype dtype, const struct row_run *r, size_t o,
                    size_t outs, float *dots)
{
    if (p->few) {
        dots_of_few(p, r, o, outs, dots);
        return;
    }
    if (p->rows <= SINGLE_ROWS) {
        for (size_t j = 0; j < outs; j++)
            row_dots(p, dtype, r, o + j, row_run_at(r, o + j + 1), dots + j);
        return;
    }
    size_t near_bytes = p->rows * p->chunks * 256 * sizeof(float) + 2 * TILE_W * r->row_bytes;
    size_t step = near_bytes <= NEAR_BYTES ? TILE_W : PANEL;
    for (size_t j = 0; j < outs; j += step) {
        size_t some = outs - j < step ? outs - j : step;
        const char *w = r->rows + (o + j) * r->row_bytes, *ahead = row_run_at(r, o + j + some);
        ahead = ahead ? ahead : w;
        if (r->packed)
            unpack_rows(w, (int)p->k, some, p->panel);
        dots_tiled(p, dtype, r->packed ? (const char *)p->panel : w, ahead, some, dots + j);
    }
}

/* The same for two matrices, which take turns row by row where the rows of x are few. */
static void dots_of_two(const struct pack *p, enum dtype dtype, const struct row_run *a,
                        const struct row_run *b, size_t o, size_t outs, float *dots_a,
                        float *dots_b)
{
    if (p->rows <= SINGLE_ROWS && !p->few) {
        for (size_t j = 0; j < outs; j++) {
            row_dots(p, dtype, a, o + j, row_run_at(b, o + j), dots_a + j);
            row_dots(p, dtype, b, o + j, row_run_at(a, o + j + 1), dots_b + j);
        }
        return;
    }
    dots_of(p, dtype, a, o, outs, dots_a);
    dots_of(p, dtype, b, o, outs, dots_b);
}
