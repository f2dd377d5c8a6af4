/*
 * The tensor class on CUDA against double precision over the same rounded operands, within a bound
 * on the error of fp32 sums; and bit for bit against itself: run again, cut in other ways.
 */
#include "check.h"

#include <math.h>

#include "gpu.h"
#include "support_packed.h"

#define GUARD 777.25f

static struct dev *dev;
static bool emulated; /* small cases only */

static void open_device(void)
{
    struct dev_choice choice;
    cuda_or_skip(&choice);
    emulated = strstr(choice.memory.name, "mulat") != NULL;
    dev = cuda_open_or_skip();
    if (!dev->tensor) {
        dev_close(&dev);
        skip();
    }
}

static void *on_device(const void *host, size_t bytes)
{
    struct dev_event event = {0};
    void *p = dev->ops->alloc(dev, bytes);
    assert_non_null(p);
    if (bytes) {
        assert_int_equal(dev->ops->copy_in(dev, p, host, bytes, &event), 0);
        assert_int_equal(dev->ops->event_wait(dev, &event), 0);
    }
    return p;
}

static void back(void *host, void *device, size_t bytes)
{
    assert_int_equal(dev->kern->sync(dev), 0);
    assert_int_equal(dev->ops->copy_out(dev, host, device, bytes), 0);
    dev->ops->free(dev, device, bytes);
}

static void drop(void *device)
{
    dev->ops->free(dev, device, 0);
}

static float from_16(enum dtype dtype, uint16_t v)
{
    return dtype == DTYPE_BF16 ? kern_from_bf16(v) : kern_from_f16(v);
}

/* Nearest f16, ties to even, by looking at both neighbours; beyond the range the largest. */
static uint16_t to_f16(float v)
{
    uint16_t sign = signbit(v) ? 0x8000 : 0, lo = 0, hi = 0x7bff;
    double want = fabs((double)v);
    if (isnan(v) || isinf(v))
        return sign | (isnan(v) ? 0x7fff : 0x7c00);
    while (lo < hi) {
        uint16_t mid = (uint16_t)((lo + hi + 1) / 2);
        if ((double)kern_from_f16(mid) <= want)
            lo = mid;
        else
            hi = (uint16_t)(mid - 1);
    }
    if (lo == 0x7bff)
        return sign | lo;
    double below = want - (double)kern_from_f16(lo);
    double above = (double)kern_from_f16((uint16_t)(lo + 1)) - want;
    return sign | (uint16_t)(lo + (above < below || (above == below && lo % 2)));
}

static uint16_t to_16(enum dtype dtype, float v)
{
    return dtype == DTYPE_BF16 ? kern_to_bf16(v) : to_f16(v);
}

static uint16_t *halves_new(struct rng *r, enum dtype dtype, size_t n, float scale)
{
    uint16_t *p = malloc(n * sizeof *p + 1);
    for (size_t i = 0; i < n; i++)
        p[i] = to_16(dtype, rng_float(r) * scale);
    return p;
}

/* Sums of 16 products at a time, where the cores may cut off what lies 2^-23 below the largest. */
static double sum_bound(double magnitude, int in)
{
    return magnitude * 0x1p-22 * (4 + in / 16.0) + 1e-30;
}

static double dot(enum dtype dtype, const uint16_t *w, const uint16_t *x, int in, double *magnitude)
{
    double sum = 0;
    *magnitude = 0;
    for (int i = 0; i < in; i++) {
        double term = (double)from_16(dtype, w[i]) * (double)from_16(dtype, x[i]);
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

/* Says what is off, and how many. */
struct verdict {
    size_t wrong, seen;
    double worst; /* error over bound */
};

static void judge(struct verdict *v, const char *what, double got, double want, double bound)
{
    double error = fabs(got - want);
    v->seen++;
    if (error <= bound) {
        v->worst = error / bound > v->worst ? error / bound : v->worst;
        return;
    }
    if (v->wrong++ < 3)
        print_message("%s: number %zu is %.9g, expected %.9g +- %.3g\n", what, v->seen - 1, got,
                      want, bound);
}

static void conclude(const struct verdict *v, const char *what)
{
    if (v->wrong)
        fail_msg("%s: %zu of %zu numbers are off", what, v->wrong, v->seen);
}

static void round_to_16_bits_cuda(void **state)
{
    static const float edges[] = {0,          -0.0f,  1,        65504,     65519.9f,      65520,
                                  -70000,     3e38f,  0x1p-14f, 0x1p-15f,  0x1p-24f,      0x1p-25f,
                                  0x1.8p-25f, 1e-30f, INFINITY, -INFINITY, 1.00048828125f};
    enum { EDGES = sizeof edges / sizeof edges[0] };
    static const int dims[] = {1, 3, 4, 64, 1021, 1024, 1030, 4100};
    struct rng r = {1};
    open_device();
    for (int c = 0; c < 16; c++) {
        enum dtype dtype = c % 2 ? DTYPE_F16 : DTYPE_BF16;
        int n = 3, dim = dims[c / 2];
        size_t x_stride = (size_t)(dim + c % 3), y_stride = (size_t)(dim + c % 5);
        float *x = floats_new(&r, (size_t)n * x_stride, 100);
        for (size_t i = 0; i < EDGES && i < (size_t)n * x_stride; i++)
            x[i] = edges[i];
        uint16_t *got = calloc((size_t)n * y_stride, sizeof *got);
        void *dx = on_device(x, (size_t)n * x_stride * sizeof *x);
        void *dy = on_device(got, (size_t)n * y_stride * sizeof *got);
        struct kern_round a = {dx, dy, dtype, x_stride, y_stride, n, dim};
        assert_int_equal(dev->tensor->round(dev, &a), 0);
        back(got, dy, (size_t)n * y_stride * sizeof *got);
        drop(dx);
        for (int i = 0; i < n; i++)
            for (int j = 0; j < dim; j++)
                if (got[(size_t)i * y_stride + (size_t)j] !=
                    to_16(dtype, x[(size_t)i * x_stride + (size_t)j]))
                    fail_msg("%s of %a is %04x", dtype_name(dtype),
                             (double)x[(size_t)i * x_stride + (size_t)j],
                             got[(size_t)i * y_stride + (size_t)j]);
        free(x);
        free(got);
    }
    dev_close(&dev);
}

/* One product of rows with a matrix, its operands on both sides. */
struct product {
    struct kern_tensor_linear a; /* host pointers */
    void *w, *x, *bias, *residual;
    size_t y_count;
};

static struct product product_new(struct rng *r, enum dtype dtype, int n, int in, int out, int kind)
{
    struct product p = {.a = {.dtype = dtype, .n = n, .in = in, .out = out}};
    struct kern_tensor_linear *a = &p.a;
    a->x_stride = (size_t)in + (kind & 1 ? 8 : 0);
    a->y_stride = (size_t)out + (kind & 2 ? 3 : 0);
    a->bias_dtype = kind & 8 ? DTYPE_F32 : dtype;
    p.y_count = (size_t)n * a->y_stride;
    a->w = halves_new(r, dtype, (size_t)in * (size_t)out, 0.5f);
    a->x = halves_new(r, dtype, (size_t)n * a->x_stride, 1);
    a->bias = kind & 4 ? weights_new(r, a->bias_dtype, (size_t)out, 1) : NULL;
    a->residual = kind & 16 ? floats_new(r, p.y_count, 1) : NULL;
    p.w = on_device(a->w, (size_t)in * (size_t)out * 2);
    p.x = on_device(a->x, (size_t)n * a->x_stride * 2);
    p.bias = a->bias ? on_device(a->bias, (size_t)out * dtype_bytes(a->bias_dtype)) : NULL;
    p.residual = a->residual ? on_device(a->residual, p.y_count * sizeof(float)) : NULL;
    return p;
}

static void product_free(struct product *p)
{
    drop(p->w);
    drop(p->x);
    drop(p->bias);
    drop(p->residual);
    free((void *)p->a.w);
    free((void *)p->a.x);
    free((void *)p->a.bias);
    free((void *)p->a.residual);
}

/* Rows of the product in calls of at most `most` rows. */
static float *product_run(const struct product *p, int most)
{
    float *y = malloc(p->y_count * sizeof *y);
    for (size_t i = 0; i < p->y_count; i++)
        y[i] = GUARD;
    float *dy = on_device(y, p->y_count * sizeof *y);
    for (int first = 0; first < p->a.n; first += most) {
        struct kern_tensor_linear a = p->a;
        size_t skip_y = (size_t)first * a.y_stride;
        a.w = p->w;
        a.x = (const uint16_t *)p->x + (size_t)first * a.x_stride;
        a.bias = p->bias;
        a.residual = p->residual ? (const float *)p->residual + skip_y : NULL;
        a.y = dy + skip_y;
        a.n = a.n - first < most ? a.n - first : most;
        assert_int_equal(dev->tensor->linear(dev, &a), 0);
    }
    back(y, dy, p->y_count * sizeof *y);
    return y;
}

static void product_check(struct rng *r, const struct product *p, const float *y, const char *what)
{
    const struct kern_tensor_linear *a = &p->a;
    struct verdict v = {0};
    int every = (int)((double)a->n * a->out * a->in / (emulated ? 3e6 : 2e7)) + 1;
    for (int i = 0; i < a->n; i++)
        for (int o = 0; o < (int)a->y_stride; o++) {
            float got = y[(size_t)i * a->y_stride + (size_t)o];
            double magnitude;
            if (o >= a->out) {
                judge(&v, "a number beside the rows", (double)got, (double)GUARD, 0);
                continue;
            }
            if (every > 1 && rng_int(r, 1, every) > 1)
                continue;
            double want = dot(a->dtype, (const uint16_t *)a->w + (size_t)o * (size_t)a->in,
                              (const uint16_t *)a->x + (size_t)i * a->x_stride, a->in, &magnitude);
            if (a->bias)
                want += weight_at(a->bias, a->bias_dtype, (size_t)o);
            if (a->residual)
                want += (double)a->residual[(size_t)i * a->y_stride + (size_t)o];
            judge(&v, what, (double)got, want, sum_bound(magnitude, a->in) + fabs(want) * 0x1p-22);
        }
    conclude(&v, what);
    print_message("%s: %zu numbers, worst error %.2g of the bound\n", what, v.seen, v.worst);
}

static void one_product(struct rng *r, enum dtype dtype, int n, int in, int out, int kind)
{
    char what[128];
    snprintf(what, sizeof what, "%s %d rows, %d to %d, kind %d", dtype_name(dtype), n, in, out,
             kind);
    struct product p = product_new(r, dtype, n, in, out, kind);
    float *y = product_run(&p, n);
    product_check(r, &p, y, what);
    int pieces[] = {n, 1 + n / 2, n > 37 ? 37 : 1, n > 100 ? 100 : 5};
    for (int c = 0; c < (emulated ? 2 : 4); c++) {
        float *again = product_run(&p, pieces[c]);
        if (memcmp(again, y, p.y_count * sizeof *y))
            fail_msg("%s: other bits in calls of %d rows", what, pieces[c]);
        free(again);
    }
    free(y);
    product_free(&p);
}

static void linear_of_odd_shapes_cuda(void **state)
{
    static const struct {
        int n, in, out;
    } cases[] = {{1, 8, 1},     {1, 64, 8},     {2, 72, 130},  {17, 40, 33}, {33, 200, 65},
                 {64, 64, 128}, {65, 136, 257}, {129, 96, 96}, {5, 7, 9},    {40, 131, 70}};
    struct rng r = {2};
    open_device();
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (int f16 = 0; f16 < 2; f16++)
            one_product(&r, f16 ? DTYPE_F16 : DTYPE_BF16, cases[c].n, cases[c].in, cases[c].out,
                        rng_int(&r, 0, 31));
    dev_close(&dev);
}

static void linear_of_model_shapes_cuda(void **state)
{
    static const struct {
        int n, in, out;
    } cases[] = {{512, 2048, 4096}, {333, 4096, 2048}, {1000, 2048, 512},
                 {2111, 768, 2048}, {70, 2048, 1536},  {4096, 2048, 1024}};
    struct rng r = {3};
    open_device();
    if (emulated) {
        dev_close(&dev);
        skip();
    }
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (int f16 = 0; f16 < 2; f16++)
            one_product(&r, f16 ? DTYPE_F16 : DTYPE_BF16, cases[c].n, cases[c].in, cases[c].out,
                        rng_int(&r, 0, 31));
    dev_close(&dev);
}

/* residual and y are one buffer, as the stream of a layer is. */
static void linear_adds_in_place_cuda(void **state)
{
    struct rng r = {4};
    open_device();
    struct product p = product_new(&r, DTYPE_BF16, 50, 72, 70, 16);
    float *apart = product_run(&p, 50), *y = malloc(p.y_count * sizeof *y);
    float *dy = on_device(p.a.residual, p.y_count * sizeof *y);
    struct kern_tensor_linear a = p.a;
    a.w = p.w;
    a.x = p.x;
    a.residual = a.y = dy;
    assert_int_equal(dev->tensor->linear(dev, &a), 0);
    back(y, dy, p.y_count * sizeof *y);
    assert_memory_equal(y, apart, p.y_count * sizeof *y);
    free(y);
    free(apart);
    product_free(&p);
    dev_close(&dev);
}

/* A call of the experts: groups of given sizes over random rows, pairs in random order. */
struct call {
    struct record_class cls;
    struct kern_expert_group group[160], device_group[160];
    int n_groups, n_rows, n_pairs, n_entries;
    int32_t *row, *pair; /* [n_entries] */
    uint16_t *x;
    void *dx, *unpacked;
    size_t unpacked_bytes;
};

static struct call call_new(struct rng *r, enum dtype dtype, int hidden, int inner,
                            const int *sizes, int n_groups, int n_rows)
{
    struct call c = {
        .cls = record_class_swiglu(dtype, hidden, inner), .n_groups = n_groups, .n_rows = n_rows};
    for (int g = 0; g < n_groups; g++)
        c.n_entries += sizes[g];
    c.n_pairs = c.n_entries + 3;
    c.row = calloc((size_t)c.n_entries + 1, sizeof *c.row);
    c.pair = calloc((size_t)c.n_pairs, sizeof *c.pair);
    for (int i = 0; i < c.n_pairs; i++) {
        int other = rng_int(r, 0, i);
        c.pair[i] = c.pair[other];
        c.pair[other] = i;
    }
    for (int g = 0, at = 0; g < n_groups; at += sizes[g++]) {
        uint16_t *record = calloc(1, c.cls.bytes);
        uint16_t *some = halves_new(r, dtype, c.cls.bytes / 2, 1.5f / sqrtf((float)hidden));
        memcpy(record, some, c.cls.bytes);
        free(some);
        for (int i = at; i < at + sizes[g]; i++)
            c.row[i] = rng_int(r, 0, n_rows - 1);
        c.group[g] = (struct kern_expert_group){record, c.row + at, c.pair + at, sizes[g]};
        c.device_group[g] = c.group[g];
        c.device_group[g].record = on_device(record, c.cls.bytes);
    }
    c.x = halves_new(r, dtype, (size_t)n_rows * (size_t)hidden, 1);
    c.dx = on_device(c.x, (size_t)n_rows * (size_t)hidden * 2);
    return c;
}

static void call_free(struct call *c)
{
    for (int g = 0; g < c->n_groups; g++) {
        free((void *)c->group[g].record);
        drop((void *)c->device_group[g].record);
    }
    drop(c->dx);
    free(c->x);
    free(c->row);
    free(c->pair);
}

/* Groups [first, end) in one op. */
static void call_run(const struct call *c, int first, int end, float *dy, void *dhidden)
{
    struct kern_tensor_experts a = {.cls = &c->cls,
                                    .group = c->device_group + first,
                                    .n_groups = end - first,
                                    .x = c->dx,
                                    .hidden = dhidden,
                                    .y = dy,
                                    .unpacked = c->unpacked,
                                    .unpacked_bytes = c->unpacked_bytes};
    assert_int_equal(dev->tensor->experts(dev, &a), 0);
}

/* Results of the groups in steps of `step` groups; hidden is that of the last op. */
static float *call_all(const struct call *c, int step, uint16_t *hidden)
{
    size_t count = (size_t)c->n_pairs * (size_t)c->cls.hidden;
    size_t hidden_bytes = (size_t)c->n_entries * (size_t)c->cls.intermediate * 2;
    float *y = malloc(count * sizeof *y);
    for (size_t i = 0; i < count; i++)
        y[i] = GUARD;
    float *dy = on_device(y, count * sizeof *y);
    void *dhidden = on_device(hidden, hidden_bytes);
    for (int g = 0; g < c->n_groups; g += step)
        call_run(c, g, g + step < c->n_groups ? g + step : c->n_groups, dy, dhidden);
    back(y, dy, count * sizeof *y);
    back(hidden, dhidden, hidden_bytes);
    return y;
}

static const uint16_t *matrix_row(const struct call *c, int g, size_t off, int row, int width)
{
    return (const uint16_t *)((const uint8_t *)c->group[g].record + off) +
           (size_t)row * (size_t)width;
}

/* The hidden row of an entry, against silu(gate) * up in double; half a unit of its format more. */
static void check_hidden(const struct call *c, int g, int entry, const uint16_t *hidden, int every,
                         struct rng *r, struct verdict *v)
{
    enum dtype t = c->cls.dtype;
    int width = c->cls.hidden;
    const uint16_t *x = c->x + (size_t)c->row[entry] * (size_t)width;
    for (int o = 0; o < c->cls.intermediate; o++) {
        double m_gate, m_up;
        if (rng_int(r, 1, every) > 1)
            continue;
        double gate = dot(t, matrix_row(c, g, c->cls.gate_off, o, width), x, width, &m_gate);
        double up = dot(t, matrix_row(c, g, c->cls.up_off, o, width), x, width, &m_up);
        double silu = gate / (1 + exp(-gate)), want = silu * up;
        double bound = fabs(want) * (t == DTYPE_BF16 ? 0x1p-8 : 0x1p-11) + 0x1p-24 +
                       sum_bound(m_gate, width) * 1.1 * fabs(up) +
                       sum_bound(m_up, width) * fabs(silu) + fabs(want) * 0x1p-20;
        judge(v, "hidden",
              (double)from_16(t, hidden[(size_t)entry * (size_t)c->cls.intermediate + (size_t)o]),
              want, bound);
    }
}

static void call_check(const struct call *c, const float *y, const uint16_t *hidden, struct rng *r,
                       const char *what)
{
    enum dtype t = c->cls.dtype;
    struct verdict up = {0}, down = {0};
    bool *seen = calloc((size_t)c->n_pairs, sizeof *seen);
    int inner = c->cls.intermediate, width = c->cls.hidden, entry = 0;
    int every = (int)((double)c->n_entries * inner * width * 3 / (emulated ? 4e6 : 3e7)) + 1;
    for (int g = 0; g < c->n_groups; g++)
        for (int i = 0; i < c->group[g].n; i++, entry++) {
            check_hidden(c, g, entry, hidden, every, r, &up);
            seen[c->pair[entry]] = true;
            for (int o = 0; o < width; o++) {
                double magnitude;
                if (rng_int(r, 1, every) > 1)
                    continue;
                double want = dot(t, matrix_row(c, g, c->cls.down_off, o, inner),
                                  hidden + (size_t)entry * (size_t)inner, inner, &magnitude);
                judge(&down, what, (double)y[(size_t)c->pair[entry] * (size_t)width + (size_t)o],
                      want, sum_bound(magnitude, inner));
            }
        }
    for (int p = 0; p < c->n_pairs; p++)
        for (int o = 0; o < width && !seen[p]; o++)
            judge(&down, "a pair of nobody", (double)y[(size_t)p * (size_t)width + (size_t)o],
                  (double)GUARD, 0);
    free(seen);
    conclude(&up, what);
    conclude(&down, what);
    print_message("%s: %zu + %zu numbers, worst errors %.2g and %.2g of the bound\n", what, up.seen,
                  down.seen, up.worst, down.worst);
}

static void one_call(struct rng *r, enum dtype dtype, int hidden, int inner, const int *sizes,
                     int n_groups, int n_rows)
{
    char what[128];
    snprintf(what, sizeof what, "experts %s %d x %d, %d groups", dtype_name(dtype), hidden, inner,
             n_groups);
    struct call c = call_new(r, dtype, hidden, inner, sizes, n_groups, n_rows);
    size_t count = (size_t)c.n_pairs * (size_t)hidden;
    uint16_t *h = calloc((size_t)c.n_entries * (size_t)inner + 1, sizeof *h);
    float *y = call_all(&c, n_groups, h);
    call_check(&c, y, h, r, what);
    for (int step = 1; step <= n_groups; step += n_groups - (n_groups > 1)) {
        float *again = call_all(&c, step, h);
        if (memcmp(again, y, count * sizeof *y))
            fail_msg("%s: other bits in ops of %d groups", what, step);
        free(again);
    }
    free(y);
    free(h);
    call_free(&c);
}

static void experts_of_few_rows_cuda(void **state)
{
    static const int sizes[] = {3, 0, 16, 1, 17, 40};
    struct rng r = {5};
    open_device();
    one_call(&r, DTYPE_BF16, 72, 40, sizes, 6, 50);
    one_call(&r, DTYPE_F16, 136, 72, sizes, 6, 50);
    one_call(&r, DTYPE_BF16, 33, 19, sizes, 5, 50);
    one_call(&r, DTYPE_F16, 20, 33, sizes, 5, 50);
    dev_close(&dev);
}

static void experts_of_many_rows_cuda(void **state)
{
    static const int sizes[] = {129, 65, 0, 64, 200, 33};
    struct rng r = {6};
    open_device();
    one_call(&r, DTYPE_BF16, 64, 136, sizes, emulated ? 2 : 6, 150);
    if (!emulated)
        one_call(&r, DTYPE_F16, 264, 392, sizes, 6, 300);
    dev_close(&dev);
}

/* Packed records give the bits of plain ones, with room for `room` of them. */
static void one_packed_call(struct rng *r, int hidden, int inner, const int *sizes, int n_groups,
                            int n_rows, int room)
{
    struct call plain = call_new(r, DTYPE_BF16, hidden, inner, sizes, n_groups, n_rows);
    struct call packed = plain;
    size_t y_bytes = (size_t)plain.n_pairs * (size_t)hidden * sizeof(float);
    size_t h_bytes = (size_t)plain.n_entries * (size_t)inner * sizeof(uint16_t);
    packed.cls = packed_class_roomy(hidden, inner);
    packed.unpacked_bytes = (size_t)room * kern_unpacked_bytes(hidden, inner) + 8;
    packed.unpacked = dev->ops->alloc(dev, packed.unpacked_bytes);
    for (int g = 0; g < n_groups; g++) {
        uint16_t *record = plain_record_new(r, &plain.cls, 1.5f / sqrtf((float)hidden));
        void *same = packed_record_new(record, &plain.cls, &packed.cls);
        drop((void *)plain.device_group[g].record);
        plain.device_group[g].record = on_device(record, plain.cls.bytes);
        packed.device_group[g].record = on_device(same, packed.cls.bytes);
        free(record);
        free(same);
    }
    uint16_t *h[2] = {calloc(1, h_bytes + 1), calloc(1, h_bytes + 1)};
    float *y[2] = {call_all(&plain, n_groups, h[0]), call_all(&packed, n_groups, h[1])};
    if (memcmp(h[0], h[1], h_bytes) || memcmp(y[0], y[1], y_bytes))
        fail_msg("%d x %d, room for %d: other bits from packed records", hidden, inner, room);
    for (int g = 0; g < n_groups; g++)
        drop((void *)packed.device_group[g].record);
    drop(packed.unpacked);
    for (int i = 0; i < 2; i++) {
        free(h[i]);
        free(y[i]);
    }
    call_free(&plain);
}

static void experts_of_packed_records_cuda(void **state)
{
    static const int sizes[] = {3, 0, 16, 1, 17, 40};
    struct rng r = {10};
    open_device();
    one_packed_call(&r, 48, 264, sizes, 6, 50, 2);
    one_packed_call(&r, 264, 48, sizes, 6, 50, 5);
    one_packed_call(&r, 768, 136, sizes, 4, 50, 1);
    one_packed_call(&r, 8, 1408, sizes, 3, 50, 9);
    if (!emulated) {
        one_packed_call(&r, 2048, 768, sizes, 6, 50, 3);
        one_packed_call(&r, 2048, 1408, sizes, 6, 50, 2);
    }
    dev_close(&dev);
}

/* Any bits, and values side by side from each of the possible lowest on: what lies in the room for
 * unpacked experts is the plain one. */
static void records_are_unpacked_bit_by_bit_cuda(void **state)
{
    enum { HIDDEN = 776, INNER = 128, MATRIX = HIDDEN * INNER };
    static uint16_t got[3 * MATRIX];
    static const int sizes[] = {2};
    struct rng r = {12};
    open_device();
    struct call c = call_new(&r, DTYPE_BF16, HIDDEN, INNER, sizes, 1, 2);
    uint16_t *record = (uint16_t *)c.group[0].record;
    for (int i = 0; i < 3 * MATRIX; i++) {
        int row = i / HIDDEN;
        uint16_t any = (uint16_t)rng_int(&r, 0, 0xffff);
        record[i] =
            row % 3 ? (uint16_t)((any & 0x80ff) | (row / 3 % 122 + (any >> 8) % 7) << 8) : any;
    }
    struct record_class plain = c.cls;
    assert_int_equal(plain.up_off, MATRIX * 2);
    assert_int_equal(plain.down_off, MATRIX * 4);
    c.cls = packed_class_roomy(HIDDEN, INNER);
    void *packed = packed_record_new(record, &plain, &c.cls);
    drop((void *)c.device_group[0].record);
    c.device_group[0].record = on_device(packed, c.cls.bytes);
    c.unpacked_bytes = sizeof got;
    c.unpacked = dev->ops->alloc(dev, sizeof got);
    uint16_t *h = calloc((size_t)(c.n_entries * INNER), sizeof *h);
    free(call_all(&c, 1, h));
    back(got, c.unpacked, sizeof got);
    for (int i = 0; i < 3 * MATRIX; i++)
        if (got[i] != record[i])
            fail_msg("number %d is %04x, not %04x", i, got[i], record[i]);
    free(h);
    free(packed);
    call_free(&c);
    dev_close(&dev);
}

static void packed_records_need_room_cuda(void **state)
{
    static const int sizes[] = {3};
    struct rng r = {11};
    open_device();
    struct call c = call_new(&r, DTYPE_BF16, 48, 48, sizes, 1, 3);
    c.cls.packed = true;
    c.unpacked_bytes = kern_unpacked_bytes(48, 48) - 1;
    c.unpacked = dev->ops->alloc(dev, c.unpacked_bytes);
    struct kern_tensor_experts a = {.cls = &c.cls,
                                    .group = c.device_group,
                                    .n_groups = 1,
                                    .x = c.dx,
                                    .unpacked = c.unpacked,
                                    .unpacked_bytes = c.unpacked_bytes};
    assert_int_equal(dev->tensor->experts(dev, &a), MOED_EDEVICE);
    drop(c.unpacked);
    call_free(&c);
    dev_close(&dev);
}

static void experts_of_model_shapes_cuda(void **state)
{
    struct rng r = {7};
    int sizes[128];
    open_device();
    if (emulated) {
        dev_close(&dev);
        skip();
    }
    for (int g = 0; g < 128; g++)
        sizes[g] = rng_int(&r, 0, 3) ? rng_int(&r, 0, 90) : rng_int(&r, 0, 700);
    one_call(&r, DTYPE_BF16, 2048, 768, sizes, 24, 2000);
    one_call(&r, DTYPE_F16, 2048, 1408, sizes, 6, 1000);
    one_call(&r, DTYPE_BF16, 512, 128, sizes, 128, 3000);
    dev_close(&dev);
}

/* Rows of sequences: from..to of each, all positions before them in the cache. */
struct rows {
    int from, to;
};

struct heads {
    int kv_heads, group, dim, window;
};

struct attention {
    struct kern_tensor_attention a; /* host pointers, without tables */
    int32_t *table[8];
    const int32_t *tables[8];
    size_t blocks_bytes;
};

/* All memory that no row may see is NaN. */
static struct attention attention_new(struct rng *r, struct heads h, const struct rows *rows,
                                      int n_seqs)
{
    struct attention t = {.a = {.kv = {.dtype = DTYPE_BF16,
                                       .kv_heads = h.kv_heads,
                                       .head_dim = h.dim,
                                       .block_bytes = (size_t)(2 * h.kv_heads * 16 * h.dim * 2)},
                                .heads = h.kv_heads * h.group,
                                .window = h.window,
                                .scale = 1 / sqrtf((float)h.dim)}};
    struct kern_tensor_attention *a = &t.a;
    int n_blocks = 5, next = 0, half = h.kv_heads * 16 * h.dim;
    for (int s = 0; s < n_seqs; s++) {
        n_blocks += rows[s].to / 16 + 1;
        a->n += rows[s].to - rows[s].from + 1;
    }
    t.blocks_bytes = (size_t)n_blocks * a->kv.block_bytes;
    uint16_t *blocks = malloc(t.blocks_bytes);
    for (size_t i = 0; i < t.blocks_bytes / 2; i++)
        blocks[i] = 0x7fc1;
    int32_t *pos = malloc((size_t)a->n * sizeof *pos), *seq = malloc((size_t)a->n * sizeof *seq);
    for (int s = 0, i = 0; s < n_seqs; s++) {
        t.table[s] = malloc((size_t)(rows[s].to / 16 + 1) * sizeof *t.table[s]);
        t.tables[s] = t.table[s];
        for (int b = 0; b <= rows[s].to / 16; b++)
            t.table[s][b] = n_blocks - 2 - next++;
        for (int p = 0; p <= rows[s].to; p++)
            for (int k = 0; k < h.kv_heads * h.dim; k++) {
                uint16_t *at = blocks + (size_t)t.table[s][p / 16] * a->kv.block_bytes / 2 +
                               (k / h.dim * 16 + p % 16) * h.dim + k % h.dim;
                at[0] = kern_to_bf16(rng_float(r));
                at[half] = kern_to_bf16(rng_float(r));
            }
        for (int p = rows[s].from; p <= rows[s].to; p++, i++) {
            pos[i] = p;
            seq[i] = s;
        }
    }
    a->kv.blocks = blocks;
    a->pos = pos;
    a->seq = seq;
    a->q_stride = (size_t)(a->heads * h.dim + 4);
    a->out_stride = (size_t)(a->heads * h.dim + 2);
    a->q = floats_new(r, (size_t)a->n * a->q_stride, 2);
    return t;
}

static void attention_free(struct attention *t)
{
    for (int s = 0; s < 8; s++)
        free(t->table[s]);
    free(t->a.kv.blocks);
    free((void *)t->a.q);
    free((void *)t->a.pos);
    free((void *)t->a.seq);
}

/* Rows in calls of at most `most`. */
static void *attention_run(const struct attention *t, enum dtype dtype, int most)
{
    size_t size = dtype_bytes(dtype), bytes = (size_t)t->a.n * t->a.out_stride * size;
    void *out = calloc(1, bytes), *dout = on_device(out, bytes);
    void *blocks = on_device(t->a.kv.blocks, t->blocks_bytes);
    float *q = on_device(t->a.q, (size_t)t->a.n * t->a.q_stride * sizeof *q);
    for (int first = 0; first < t->a.n; first += most) {
        struct kern_tensor_attention a = t->a;
        a.kv.blocks = blocks;
        a.block_table = t->tables;
        a.q = q + (size_t)first * a.q_stride;
        a.out = (uint8_t *)dout + (size_t)first * a.out_stride * size;
        a.out_dtype = dtype;
        a.pos += first;
        a.seq += first;
        a.n = a.n - first < most ? a.n - first : most;
        assert_int_equal(dev->tensor->attention(dev, &a), 0);
    }
    back(out, dout, bytes);
    drop(blocks);
    drop(q);
    return out;
}

static const uint16_t *cached(const struct attention *t, int seq, int p, int kv_head, bool v)
{
    const struct kern_kv *kv = &t->a.kv;
    return (const uint16_t *)kv->blocks + (size_t)t->table[seq][p / 16] * kv->block_bytes / 2 +
           ((v ? kv->kv_heads : 0) + kv_head) * 16 * kv->head_dim + p % 16 * kv->head_dim;
}

/* One head of one row in double. Weights are rounded to bf16 before they meet V. */
static void check_head(const struct attention *t, int i, int head, const void *out,
                       enum dtype dtype, struct verdict *v)
{
    const struct kern_tensor_attention *a = &t->a;
    int dim = a->kv.head_dim, pos = a->pos[i], kv_head = head / (a->heads / a->kv.kv_heads);
    int first = a->window > 0 && pos >= a->window ? pos - a->window + 1 : 0;
    double *e = malloc((size_t)(pos + 1) * sizeof *e), max = -INFINITY, sum = 0, loose = 0;
    const float *q = a->q + (size_t)i * a->q_stride + (size_t)(head * dim);
    for (int p = first; p <= pos; p++) {
        const uint16_t *k = cached(t, a->seq[i], p, kv_head, false);
        double magnitude = 0;
        e[p] = 0;
        for (int d = 0; d < dim; d++) {
            double term = (double)kern_from_bf16(kern_to_bf16(q[d])) * (double)kern_from_bf16(k[d]);
            e[p] += term;
            magnitude += fabs(term);
        }
        e[p] *= (double)a->scale;
        loose = fmax(loose, sum_bound(magnitude, dim) * (double)a->scale);
        max = fmax(max, e[p]);
    }
    for (int p = first; p <= pos; p++)
        sum += e[p] = exp(e[p] - max);
    for (int d = 0; d < dim; d++) {
        double want = 0, magnitude = 0;
        for (int p = first; p <= pos; p++) {
            double one =
                (double)kern_from_bf16(cached(t, a->seq[i], p, kv_head, true)[d]) * e[p] / sum;
            want += one;
            magnitude += fabs(one);
        }
        size_t at = (size_t)i * a->out_stride + (size_t)(head * dim + d);
        double got = dtype == DTYPE_F32 ? (double)((const float *)out)[at]
                                        : (double)from_16(dtype, ((const uint16_t *)out)[at]);
        double unit = dtype == DTYPE_F32 ? 0x1p-23 : dtype == DTYPE_BF16 ? 0x1p-8 : 0x1p-11;
        judge(v, "attention", got, want,
              magnitude * (0x1p-8 + 4 * loose + 0x1p-18) + fabs(want) * unit + 0x1p-24);
    }
    free(e);
}

static void one_attention(struct rng *r, struct heads h, const struct rows *rows, int n_seqs)
{
    char what[128];
    struct verdict v = {0};
    struct attention t = attention_new(r, h, rows, n_seqs);
    enum dtype dtype = (enum dtype)rng_int(r, 0, 2);
    snprintf(what, sizeof what, "attention %d x %d heads of %d, window %d, %d rows to %s",
             h.kv_heads, h.group, h.dim, h.window, t.a.n, dtype_name(dtype));
    assert_true(kern_tensor_attention_takes(&t.a.kv, t.a.heads));
    size_t bytes = (size_t)t.a.n * t.a.out_stride * dtype_bytes(dtype);
    void *out = attention_run(&t, dtype, t.a.n);
    int every = t.a.n * t.a.heads / 300 + 1;
    for (int i = 0; i < t.a.n; i++)
        for (int head = 0; head < t.a.heads; head++)
            if (rng_int(r, 1, every) == 1 || i == t.a.n - 1)
                check_head(&t, i, head, out, dtype, &v);
    conclude(&v, what);
    print_message("%s: %zu numbers, worst error %.2g of the bound\n", what, v.seen, v.worst);
    for (int pieces = 1; pieces < 3; pieces++) {
        void *again = attention_run(&t, dtype, (t.a.n + pieces - 1) / pieces);
        if (memcmp(again, out, bytes))
            fail_msg("%s: other bits in %d calls", what, pieces);
        free(again);
    }
    free(out);
    attention_free(&t);
}

static void attention_of_short_rows_cuda(void **state)
{
    struct rng r = {8};
    open_device();
    one_attention(&r, (struct heads){1, 1, 64, 0}, (struct rows[]){{0, 40}}, 1);
    one_attention(&r, (struct heads){2, 4, 64, 0}, (struct rows[]){{0, 20}, {7, 90}, {65, 65}}, 3);
    one_attention(&r, (struct heads){1, 8, 128, 0}, (struct rows[]){{30, 66}, {0, 0}}, 2);
    one_attention(&r, (struct heads){2, 3, 64, 24}, (struct rows[]){{0, 70}, {100, 140}}, 2);
    one_attention(&r, (struct heads){1, 7, 128, 65}, (struct rows[]){{120, 150}}, 1);
    dev_close(&dev);
}

static void attention_of_long_rows_cuda(void **state)
{
    struct rng r = {9};
    open_device();
    if (emulated) {
        dev_close(&dev);
        skip();
    }
    one_attention(&r, (struct heads){4, 8, 128, 0}, (struct rows[]){{0, 1500}, {900, 3000}}, 2);
    one_attention(&r, (struct heads){8, 4, 128, 1000}, (struct rows[]){{0, 2500}, {4000, 4100}}, 2);
    one_attention(&r, (struct heads){2, 5, 64, 0}, (struct rows[]){{0, 1030}, {2047, 2049}}, 2);
    one_attention(&r, (struct heads){2, 1, 64, 33}, (struct rows[]){{500, 1030}, {64, 200}}, 2);
    dev_close(&dev);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_to_16_bits_cuda),
        cmocka_unit_test(linear_of_odd_shapes_cuda),
        cmocka_unit_test(linear_of_model_shapes_cuda),
        cmocka_unit_test(linear_adds_in_place_cuda),
        cmocka_unit_test(experts_of_few_rows_cuda),
        cmocka_unit_test(experts_of_many_rows_cuda),
        cmocka_unit_test(experts_of_packed_records_cuda),
        cmocka_unit_test(records_are_unpacked_bit_by_bit_cuda),
        cmocka_unit_test(packed_records_need_room_cuda),
        cmocka_unit_test(experts_of_model_shapes_cuda),
        cmocka_unit_test(attention_of_short_rows_cuda),
        cmocka_unit_test(attention_of_long_rows_cuda),
    };
    return check_main(tests, sizeof tests / sizeof tests[0], argc, argv, __FILE__);
}
