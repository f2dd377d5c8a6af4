/*
 * Experts in packed records: on every instruction set, for all counts of rows, parts and ends, with
 * any scratch, the numbers of the same weights in plain records, bit by bit.
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>

#include "pack_record.h"
#include "support_cases.h"

enum { GROUPS = 3, ROWS = 50 };

enum kind { TRAINED, ZEROS, SCATTERED, KINDS };

/* An expert's weights, and what is computed of them. */
struct experts {
    struct record_class plain, packed;
    char *plain_record, *packed_record; /* [GROUPS] */
    float *x, *hidden[2], *y[2];
    struct kern_expert_group group[2][GROUPS]; /* plain, packed */
    int32_t row[ROWS * 2], pair[ROWS * 2];
    int pairs;
};

/* Like trained ones, with one in so many outside of the window; many zeros; NaN and infinity too */
static uint16_t weight(struct rng *r, enum kind kind)
{
    uint16_t w = kern_to_bf16(rng_float(r) * 0.02f);
    if (kind == ZEROS && rng_int(r, 0, 2) == 0)
        return (uint16_t)(rng_int(r, 0, 1) << 15);
    if (rng_int(r, 0, kind == SCATTERED ? 39 : 1999) == 0)
        return kern_to_bf16(rng_float(r) * 1e-9f);
    if (kind == SCATTERED && rng_int(r, 0, 9999) == 0)
        return (uint16_t)(0x7f80 | rng_int(r, 0, 1) << 15 | rng_int(r, 0, 1) << 6);
    return w;
}

/* Records with room for lists of any length. */
static void experts_open(struct experts *e, int width, int inner, enum kind kind, uint64_t seed)
{
    struct rng r = {seed};
    e->plain = record_class_swiglu(DTYPE_BF16, width, inner);
    e->packed = record_class_packed(width, inner);
    size_t elements = 3 * (size_t)width * (size_t)inner;
    e->packed.lists_bytes = elements * sizeof(uint32_t);
    e->packed.bytes = (e->packed.lists_off + e->packed.lists_bytes + 4095) / 4096 * 4096;
    e->plain_record = aligned_alloc(4096, GROUPS * e->plain.bytes);
    e->packed_record = aligned_alloc(4096, GROUPS * e->packed.bytes);
    for (size_t i = 0; i < GROUPS * e->plain.bytes / 2; i++)
        ((uint16_t *)(void *)e->plain_record)[i] = weight(&r, kind);
    memset(e->packed_record, 0xee, GROUPS * e->packed.bytes);
    for (size_t g = 0; g < GROUPS; g++)
        assert_true(pack_record(kern_cpu(KERN_ISA_AUTO), &e->plain,
                                e->plain_record + g * e->plain.bytes, &e->packed,
                                e->packed_record + g * e->packed.bytes));
    e->x = floats_new(&r, ROWS * (size_t)width, 1);
    for (int i = 0; i < 2; i++) {
        e->hidden[i] = malloc(sizeof(float) * ROWS * 2 * (size_t)inner);
        e->y[i] = malloc(sizeof(float) * ROWS * 2 * (size_t)width);
    }
}

static void experts_close(struct experts *e)
{
    free(e->plain_record);
    free(e->packed_record);
    free(e->x);
    for (int i = 0; i < 2; i++) {
        free(e->hidden[i]);
        free(e->y[i]);
    }
}

/* Groups of `rows`, of one and of two rows. */
static void group_rows(struct experts *e, int rows)
{
    const int n[GROUPS] = {rows, 1, rows > 1 ? 2 : 0};
    e->pairs = 0;
    for (int g = 0; g < GROUPS; g++) {
        for (int i = 0; i < 2; i++)
            e->group[i][g] =
                (struct kern_expert_group){i ? e->packed_record + (size_t)g * e->packed.bytes
                                             : e->plain_record + (size_t)g * e->plain.bytes,
                                           e->row + e->pairs, e->pair + e->pairs, n[g]};
        for (int i = 0; i < n[g]; i++, e->pairs++) {
            e->row[e->pairs] = i;
            e->pair[e->pairs] = e->pairs;
        }
    }
}

/* Sign and payload of a NaN are not promised. */
static void check_same(const struct kern_cpu *k, const char *what, const float *packed,
                       const float *plain, int n)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&packed[i], &plain[i], sizeof(float)) && !(isnan(packed[i]) && isnan(plain[i])))
            fail_msg("%s, %s, number %d of %d: %a, of plain records %a", k->name, what, i, n,
                     (double)packed[i], (double)plain[i]);
}

struct how {
    int parts, inner_end, width_end;
    enum kern_ahead ahead;
    size_t scratch_bytes;
};

static void compute(const struct kern_cpu *k, struct experts *e, int packed, int down,
                    const struct how *how)
{
    struct kern_experts call = {.cls = packed ? &e->packed : &e->plain,
                                .group = e->group[packed],
                                .n_groups = GROUPS,
                                .x = e->x,
                                .hidden = e->hidden[down ? 0 : packed],
                                .y = e->y[packed],
                                .inner_end = how->inner_end,
                                .width_end = how->width_end,
                                .ahead = how->ahead};
    void *scratch = aligned_alloc(64, how->scratch_bytes);
    memset(scratch, 0xff, how->scratch_bytes);
    for (int p = 0; p < how->parts; p += call.run) {
        struct kern_part part = {p, how->parts, scratch, how->scratch_bytes};
        call.run = p + 3 <= how->parts ? 3 : 1;
        call.more = how->parts - p - call.run;
        if (down)
            kern_experts_fetch_down(&call, part, 0, 4096);
        (down ? k->experts_down : k->experts_gate_up)(&call, part);
    }
    free(scratch);
}

static void check_call(const struct kern_cpu *k, struct experts *e, const struct how *how)
{
    int hiddens = e->pairs * e->plain.intermediate, ys = e->pairs * e->plain.hidden;
    for (int i = 0; i < 2; i++) {
        memset(e->hidden[i], 0, sizeof(float) * (size_t)hiddens);
        memset(e->y[i], 0, sizeof(float) * (size_t)ys);
    }
    for (int down = 0; down < 2; down++)
        for (int packed = 0; packed < 2; packed++)
            compute(k, e, packed, down, how);
    check_same(k, "gate/up", e->hidden[1], e->hidden[0], hiddens);
    check_same(k, "down", e->y[1], e->y[0], ys);
}

static void check_experts(int width, int inner, enum kind kind, int rows_step)
{
    struct experts e;
    experts_open(&e, width, inner, kind, (uint64_t)(width * 7 + inner));
    for (int rows = 1, n = 0; rows <= ROWS; rows += rows >= 7 ? rows_step : 1)
        for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++, n++) {
            static const int parts[] = {1, 2, 5, 16, 41};
            static const size_t scratch[] = {(size_t)1 << 20, (size_t)240 << 10, 4096};
            const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
            struct how how = {.parts = parts[n % 5],
                              .inner_end = n % 4 ? 0 : inner / 2 + 1,
                              .width_end = n % 3 ? 0 : width / 2 + 3,
                              .ahead = (enum kern_ahead)(n / 2 % 3),
                              .scratch_bytes = scratch[n / 3 % 3]};
            if (!k || (isa == KERN_ISA_SCALAR && rows > 3))
                continue;
            group_rows(&e, rows);
            check_call(k, &e, &how);
        }
    experts_close(&e);
}

static void packed_experts_of_small_widths(void **state)
{
    static const int widths[] = {8, 24, 48, 72, 248, 256, 264, 520};
    for (int i = 0; i < 8; i++)
        for (int kind = 0; kind < KINDS; kind++)
            check_experts(widths[i], widths[(i * 3 + kind) % 8], (enum kind)kind, 1);
}

static void packed_experts_of_models_widths(void **state)
{
    static const int widths[][2] = {{768, 264}, {264, 768}, {1408, 136}, {88, 1408}, {2048, 64}};
    for (int i = 0; i < 5; i++)
        for (int kind = 0; kind < KINDS; kind++)
            check_experts(widths[i][0], widths[i][1], (enum kind)kind, 13);
}

/* Longer than weights are asked for ahead. */
static void packed_experts_of_long_rows(void **state)
{
    check_experts(6152, 24, TRAINED, 40);
    check_experts(16, 12040, SCATTERED, 40);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(packed_experts_of_small_widths),
    cmocka_unit_test(packed_experts_of_models_widths),
    cmocka_unit_test(packed_experts_of_long_rows),
};
CHECK_MAIN(tests)
