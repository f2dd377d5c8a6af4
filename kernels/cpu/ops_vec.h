/* The ops, as a template over the vectors of vec_<isa>.h; TABLE names the table that it defines. */

INLINE vf load_any(enum dtype dtype, const void *p, size_t j, size_t left)
{
    return left >= VL ? load_w(dtype, p, j) : load_w_part(dtype, p, j, left);
}

INLINE vf load_x(const float *p, size_t left)
{
    return left >= VL ? v_load(p) : v_load_part(p, left, 0);
}

INLINE void store_x(float *p, size_t left, vf v)
{
    if (left >= VL)
        v_store(p, v);
    else
        v_store_part(p, left, v);
}

static void embed(const struct kern_embed *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t dim = (size_t)a->dim;
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const void *from = row_of(a->table, a->dtype, (size_t)a->token[i], dim);
        for (size_t j = 0; j < dim; j += VL)
            store_x(a->x + i * dim + j, dim - j, load_any(a->dtype, from, j, dim - j));
    }
}

static void rmsnorm(const struct kern_rmsnorm *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t dim = (size_t)a->dim;
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const float *x = a->x + i * a->x_stride;
        float *y = a->y + i * a->y_stride;
        float sum = row_dot(DTYPE_F32, x, x, dim);
        vf inverse = v_set1(1 / sqrtf(sum / (float)a->dim + a->eps));
        for (size_t j = 0; j < dim; j += VL) {
            vf scaled = v_mul(load_x(x + j, dim - j), inverse);
            store_x(y + j, dim - j, v_mul(scaled, load_any(a->w_dtype, a->w, j, dim - j)));
        }
    }
}

/* Outputs [o, o + outs) of the packed rows, which begin at row `first`. */
static void linear_store(const struct kern_linear *a, const float *dots, size_t first, size_t rows,
                         size_t o, size_t outs)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < outs; j += VL) {
            size_t at = (first + i) * a->y_stride + o + j, left = outs - j;
            vf v = v_load(dots + i * PANEL + j);
            if (a->bias)
                v = v_add(v, load_any(a->bias_dtype, a->bias, o + j, left));
            if (a->residual)
                v = v_add(v, load_x(a->residual + at, left));
            store_x(a->y + at, left, v);
        }
}

static void linear(const struct kern_linear *a, struct kern_part part)
{
    struct span outs = part_span((size_t)a->out, 8, part);
    size_t in = (size_t)a->in, n = (size_t)a->n, rows;
    struct pack p = pack_begin(in, n, a->w_dtype, false, part.scratch, part.scratch_bytes);
    struct row_run run =
        row_run_of(a->w, NULL, outs.hi, in * dtype_bytes(a->w_dtype), 1, KERN_AHEAD_AUTO);
    float dots[ROWS_AT_ONCE * PANEL];
    for (size_t first = 0; first < n && outs.lo < outs.hi; first += rows) {
        rows = pack_rows(&p, n - first);
        pack_start(&p, rows);
        for (size_t i = 0; i < rows; i++)
            pack_add(&p, i, a->x + (first + i) * a->x_stride);
        for (size_t o = outs.lo; o < outs.hi; o += PANEL) {
            size_t some = outs.hi - o < PANEL ? outs.hi - o : PANEL;
            dots_of(&p, a->w_dtype, &run, o, some, dots);
            linear_store(a, dots, first, rows, o, some);
        }
    }
}

static void rope(const struct kern_rope *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t half = (size_t)a->head_dim / 2;
    vf sign = v_set1(-0.0f);
    for (size_t i = rows.lo; i < rows.hi; i++) {
        const float *cos = a->cos + (size_t)a->pos[i] * half,
                    *sin = a->sin + (size_t)a->pos[i] * half;
        for (size_t h = 0; h < (size_t)a->heads; h++) {
            float *x = a->x + i * a->x_stride + h * (size_t)a->head_dim;
            for (size_t d = 0; d < half; d += VL) {
                size_t left = half - d;
                vf u = load_x(x + d, left), v = load_x(x + d + half, left);
                vf c = load_x(cos + d, left), s = load_x(sin + d, left);
                store_x(x + d, left, v_fma(u, c, v_xor(v_mul(v, s), sign)));
                store_x(x + d + half, left, v_fma(v, c, v_mul(u, s)));
            }
        }
    }
}

static void store_row(const struct kern_kv *kv, void *to, const float *from)
{
    size_t dim = (size_t)kv->head_dim;
    if (kv->dtype != DTYPE_BF16) {
        memcpy(to, from, dim * sizeof(float));
        return;
    }
    for (size_t d = 0; d < dim; d += VL) {
        uint16_t *at = (uint16_t *)to + d;
        if (dim - d >= VL)
            v_store_bf16(at, v_load(from + d));
        else
            v_store_bf16_part(at, dim - d, v_load_part(from + d, dim - d, 0));
    }
}

static void kv_store(const struct kern_kv_store *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    for (size_t i = rows.lo; i < rows.hi; i++) {
        if (a->slot[i] < 0)
            continue;
        int32_t block = (int32_t)(a->slot[i] / KV_BLOCK_TOKENS);
        int offset = (int)(a->slot[i] % KV_BLOCK_TOKENS);
        for (int h = 0; h < a->kv.kv_heads; h++) {
            size_t at = (size_t)h * (size_t)a->kv.head_dim;
            store_row(&a->kv, kv_row(&a->kv, &block, h, offset, 0), a->k + i * a->k_stride + at);
            store_row(&a->kv, kv_row(&a->kv, &block, h, offset, 1), a->v + i * a->v_stride + at);
        }
    }
}

INLINE vf silu_mul_v(vf gate, vf up)
{
    vf denominator = v_add(v_set1(1), v_exp(v_xor(gate, v_set1(-0.0f))));
    return v_mul(v_div(gate, denominator), up);
}

static void silu_mul(const struct kern_silu_mul *a, struct kern_part part)
{
    struct span span = part_span(a->n, 64, part);
    for (size_t i = span.lo; i < span.hi; i += VL) {
        size_t left = span.hi - i;
        store_x(a->y + i, left, silu_mul_v(load_x(a->gate + i, left), load_x(a->up + i, left)));
    }
}

static void router(const struct kern_router *a, struct kern_part part)
{
    struct span span = part_span((size_t)a->n, 1, part);
    size_t in = (size_t)a->in, experts = (size_t)a->experts, rows;
    /* Scratch: logits of some rows, then the packed rows. */
    size_t most = part.scratch_bytes / 4 / (experts * sizeof(float));
    most = most < 1 ? 1 : most < ROWS_AT_ONCE ? most : ROWS_AT_ONCE;
    most = most < span.hi - span.lo ? most : span.hi - span.lo;
    size_t logit_bytes = (most * experts * sizeof(float) + 63) / 64 * 64;
    float *logit = part.scratch, dots[ROWS_AT_ONCE * PANEL];
    struct pack p = pack_begin(in, most, a->w_dtype, false, (char *)part.scratch + logit_bytes,
                               part.scratch_bytes - logit_bytes);
    struct row_run run =
        row_run_of(a->w, NULL, experts, in * dtype_bytes(a->w_dtype), 1, KERN_AHEAD_AUTO);
    for (size_t first = span.lo; first < span.hi; first += rows) {
        size_t left = span.hi - first < most ? span.hi - first : most;
        rows = pack_rows(&p, left);
        pack_start(&p, rows);
        for (size_t i = 0; i < rows; i++)
            pack_add(&p, i, a->x + (first + i) * in);
        for (size_t e = 0; e < experts; e += PANEL) {
            size_t some = experts - e < PANEL ? experts - e : PANEL;
            dots_of(&p, a->w_dtype, &run, e, some, dots);
            for (size_t i = 0; i < rows; i++)
                memcpy(logit + i * experts + e, dots + i * PANEL, some * sizeof(float));
        }
        for (size_t i = 0; i < rows; i++)
            kern_router_select(a, first + i, logit + i * experts);
    }
}

/* The rows of a share in the matrix at `off`, and those of the next share, if any. */
static struct row_run share_run(const struct kern_experts *a, const struct expert_share *s,
                                const struct expert_share *next, size_t off, size_t row_bytes,
                                int matrices)
{
    const char *then = next->group ? (const char *)next->group->record : NULL;
    struct row_run run = row_run_of((const char *)s->group->record + off,
                                    then ? then + off + next->outs.lo * row_bytes : NULL, s->more,
                                    row_bytes, matrices, a->ahead);
    run.packed = a->cls->packed;
    return run;
}

static void gate_up_share(const struct kern_experts *a, const struct expert_share *s,
                          const struct expert_share *next, struct kern_part part)
{
    const struct record_class *c = a->cls;
    size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate, n = (size_t)s->group->n,
           rows;
    struct row_run gate_run = share_run(a, s, next, c->gate_off, c->in_row_bytes, 2);
    struct row_run up_run = share_run(a, s, next, c->up_off, c->in_row_bytes, 2);
    struct pack p = pack_begin(hidden, n, c->dtype, c->packed, part.scratch, part.scratch_bytes);
    float gate[ROWS_AT_ONCE * PANEL], up[ROWS_AT_ONCE * PANEL];
    for (size_t first = 0; first < n; first += rows) {
        rows = pack_rows(&p, n - first);
        pack_start(&p, rows);
        for (size_t i = 0; i < rows; i++)
            pack_add(&p, i, a->x + (size_t)s->group->row[first + i] * hidden);
        for (size_t o = s->outs.lo; o < s->outs.hi; o += PANEL) {
            size_t some = s->outs.hi - o < PANEL ? s->outs.hi - o : PANEL;
            dots_of_two(&p, c->dtype, &gate_run, &up_run, o, some, gate, up);
            for (size_t i = 0; i < rows; i++)
                for (size_t j = 0; j < some; j += VL)
                    store_x(a->hidden + (size_t)s->group->pair[first + i] * wide + o + j, some - j,
                            silu_mul_v(v_load(gate + i * PANEL + j), v_load(up + i * PANEL + j)));
        }
    }
}

static void down_share(const struct kern_experts *a, const struct expert_share *s,
                       const struct expert_share *next, struct kern_part part)
{
    const struct record_class *c = a->cls;
    size_t hidden = (size_t)c->hidden, wide = (size_t)c->intermediate, n = (size_t)s->group->n,
           rows;
    struct row_run run = share_run(a, s, next, c->down_off, c->down_row_bytes, 1);
    struct pack p = pack_begin(wide, n, c->dtype, c->packed, part.scratch, part.scratch_bytes);
    float dots[ROWS_AT_ONCE * PANEL];
    for (size_t first = 0; first < n; first += rows) {
        rows = pack_rows(&p, n - first);
        pack_start(&p, rows);
        for (size_t i = 0; i < rows; i++)
            pack_add(&p, i, a->hidden + (size_t)s->group->pair[first + i] * wide);
        for (size_t o = s->outs.lo; o < s->outs.hi; o += PANEL) {
            size_t some = s->outs.hi - o < PANEL ? s->outs.hi - o : PANEL;
            dots_of(&p, c->dtype, &run, o, some, dots);
            for (size_t i = 0; i < rows; i++)
                memcpy(a->y + (size_t)s->group->pair[first + i] * hidden + o, dots + i * PANEL,
                       some * sizeof(float));
        }
    }
}

/* Walks the shares of this part, each with a view of the next. */
static void each_share(const struct kern_experts *a, enum expert_half half, struct kern_part part)
{
    struct expert_walk walk = expert_walk_begin(a, half, part);
    struct expert_share s = {0}, next = {0};
    for (int more = expert_walk_next(&walk, &s); more && s.outs.lo < s.outs.hi; s = next) {
        next = (struct expert_share){0};
        more = expert_walk_next(&walk, &next);
        if (half == EXPERT_GATE_UP)
            gate_up_share(a, &s, &next, part);
        else
            down_share(a, &s, &next, part);
    }
}

static void experts_gate_up(const struct kern_experts *a, struct kern_part part)
{
    each_share(a, EXPERT_GATE_UP, part);
}

static void experts_down(const struct kern_experts *a, struct kern_part part)
{
    each_share(a, EXPERT_DOWN, part);
}

static void combine(const struct kern_combine *a, struct kern_part part)
{
    struct span rows = part_span((size_t)a->n, 1, part);
    size_t dim = (size_t)a->dim, top_k = (size_t)a->top_k;
    for (size_t i = rows.lo; i < rows.hi; i++)
        for (size_t j = 0; j < dim; j += VL) {
            size_t left = dim - j;
            vf acc = v_zero();
            for (size_t k = i * top_k; k < (i + 1) * top_k; k++)
                acc = v_fma(v_set1(a->weight[k]), load_x(a->y + k * dim + j, left), acc);
            float *x = a->x + i * dim + j;
            store_x(x, left, v_add(load_x(x, left), acc));
        }
}

static void exp_all(const float *x, float *y, size_t n)
{
    for (size_t i = 0; i < n; i += VL)
        store_x(y + i, n - i, v_exp(load_x(x + i, n - i)));
}

static uint32_t read_all(const void *p, size_t bytes)
{
    return v_read(p, bytes);
}

static double multiply_add(long steps, float *sink)
{
    vf a[TILE], x = v_set1(0.999f), y = v_set1(1e-3f);
#pragma GCC unroll 32
    for (size_t i = 0; i < TILE; i++)
        a[i] = v_set1((float)i);
    for (long n = 0; n < steps; n++) {
#pragma GCC unroll 32
        for (size_t i = 0; i < TILE; i++)
            a[i] = v_fma(a[i], x, y);
    }
#pragma GCC unroll 32
    for (size_t i = 1; i < TILE; i++)
        a[0] = v_add(a[0], a[i]);
    float lane[VL];
    v_store(lane, a[0]);
    *sink = lane[0];
    return 2.0 * TILE * VL * (double)steps;
}

const struct kern_cpu TABLE = {
    .name = TABLE_NAME,
    .embed = embed,
    .rmsnorm = rmsnorm,
    .linear = linear,
    .rope = rope,
    .kv_store = kv_store,
    .attention = attention,
    .silu_mul = silu_mul,
    .router = router,
    .experts_gate_up = experts_gate_up,
    .experts_down = experts_down,
    .combine = combine,
    .exp = exp_all,
    .read = read_all,
    .multiply_add = multiply_add,
    .pack_rows = pack_rows_of,
    .unpack_rows = unpack_rows,
};
