/* Packed rows: what is packed comes back bit by bit, and takes the bytes it should. */
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "kernels.h"
#include "packed.h"
#include "record.h"

enum { WIDEST = 4096, LISTS = 2 * WIDEST };

struct room {
    uint16_t w[WIDEST], back[WIDEST];
    _Alignas(64) uint8_t row[8192];
    uint32_t list[LISTS];
    _Atomic uint32_t used;
};

static uint64_t next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* About normal, of the given size. */
static uint16_t normal(uint64_t *state, float size)
{
    float sum = 0;
    uint32_t bits;
    for (int i = 0; i < 6; i++)
        sum += (float)next(state) / (float)(1u << 31) - 0.5f;
    sum *= size;
    memcpy(&bits, &sum, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static bool pack(struct room *r, int in, uint32_t capacity)
{
    struct packed_lists lists = {r->list, capacity, &r->used};
    atomic_store(&r->used, 0);
    memset(r->row, 0xee, sizeof r->row);
    return packed_row_pack(r->w, in, r->row, &lists);
}

static void check_round_trip(struct room *r, int in)
{
    assert_true(pack(r, in, LISTS));
    memset(r->back, 0x55, sizeof r->back);
    packed_row_unpack(r->row, in, r->back);
    assert_memory_equal(r->back, r->w, (size_t)in * sizeof r->w[0]);
    for (size_t i = packed_row_bytes(in); i < sizeof r->row; i++)
        assert_int_equal(r->row[i], 0xee);
}

static const int widths[] = {8, 48, 64, 248, 256, 264, 504, 512, 520, 768, 1024, 1032, 1408, 2048};

static void packed_rows_come_back(void **state)
{
    static struct room r;
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++)
        for (int kind = 0; kind < 4; kind++) {
            for (int j = 0; j < widths[i]; j++) {
                r.w[j] = normal(&seed, 0.02f);
                if (kind == 1 && next(&seed) % 3 == 0) /* many zeros of both signs */
                    r.w[j] = (uint16_t)(next(&seed) % 2 << 15);
                if (kind == 2 && next(&seed) % 50 == 0) /* more than a head has room for */
                    r.w[j] = (uint16_t)next(&seed);
                if (kind == 3) /* anything, NaN and infinity too */
                    r.w[j] = (uint16_t)next(&seed);
            }
            check_round_trip(&r, widths[i]);
        }
}

static void every_number_comes_back(void **state)
{
    static struct room r;
    for (int first = 0; first < 1 << 16; first += 2048) {
        for (int j = 0; j < 2048; j++)
            r.w[j] = (uint16_t)(first + j);
        check_round_trip(&r, 2048);
    }
}

static void escapes_stand_in_the_head_or_in_the_lists(void **state)
{
    static struct room r;
    for (int n = 0; n <= 6; n++) {
        for (int j = 0; j < 512; j++)
            r.w[j] = 0x3c12;
        for (int j = 0; j < n; j++)
            r.w[100 * j] = (uint16_t)(0x8401 + j); /* far below */
        assert_true(pack(&r, 512, LISTS));
        const struct packed_head *head = (const void *)r.row;
        const uint32_t *escape = packed_escapes(r.row);
        assert_int_equal(head->escapes, n);
        assert_int_equal(atomic_load(&r.used), n > PACKED_OWN ? n : 0);
        for (int j = 0; j < n; j++)
            assert_int_equal(escape[j], (uint32_t)(100 * j) << 16 | (uint32_t)(0x8401 + j));
        check_round_trip(&r, 512);
    }
}

static void full_lists_are_told(void **state)
{
    static struct room r;
    for (int j = 0; j < 512; j++)
        r.w[j] = j % 100 ? 0x3c12 : 0x0401;
    assert_true(pack(&r, 512, 6));
    assert_false(pack(&r, 512, 5));
}

static void normal_weights_have_few_escapes(void **state)
{
    static struct room r;
    uint64_t seed = 7;
    size_t escapes = 0;
    for (int row = 0; row < 100; row++) {
        for (int j = 0; j < 2048; j++)
            r.w[j] = normal(&seed, 0.02f);
        assert_true(pack(&r, 2048, LISTS));
        escapes += ((const struct packed_head *)(const void *)r.row)->escapes;
    }
    assert_in_range(escapes, 1, 100 * 2048 / 1000);
}

static void packed_records_take_three_quarters(void **state)
{
    struct record_class plain = record_class_swiglu(DTYPE_BF16, 2048, 768);
    struct record_class c = record_class_packed(2048, 768);
    assert_int_equal(c.in_row_bytes, 16 + 3072);
    assert_int_equal(c.down_row_bytes, 16 + 1152);
    assert_int_equal(c.up_off, 768 * c.in_row_bytes);
    assert_int_equal(c.down_off, 2 * c.up_off);
    assert_int_equal(c.lists_off, c.down_off + 2048 * c.down_row_bytes);
    assert_in_range(c.bytes, c.lists_off + c.lists_bytes, c.lists_off + c.lists_bytes + 4095);
    assert_true(c.bytes * 100 < plain.bytes * 77);
    assert_true(packed_takes(768) && packed_takes(8) && packed_takes(65528));
    assert_false(packed_takes(0) || packed_takes(12) || packed_takes(65536));
}

enum { ROWS = 3 };

/* Rows and their lists as one instruction set packs them. */
struct packed_room {
    _Alignas(64) uint8_t rows[ROWS * 8192];
    uint32_t list[ROWS * WIDEST];
};

static size_t pack_rows(const struct kern_cpu *k, const uint16_t *w, int in, struct packed_room *to)
{
    _Atomic uint32_t used = 0;
    struct packed_lists lists = {to->list, ROWS * WIDEST, &used};
    memset(to, 0xee, sizeof *to);
    assert_true(k->pack_rows(w, in, ROWS, to->rows, &lists));
    lists.capacity = used ? used - 1 : 0;
    uint32_t needed = used;
    used = 0;
    static struct packed_room other;
    if (needed)
        assert_false(k->pack_rows(w, in, ROWS, other.rows, &lists));
    return needed;
}

static void all_instruction_sets_pack_the_same_bytes(void **state)
{
    static uint16_t w[ROWS * WIDEST], back[ROWS * WIDEST];
    static struct packed_room room, scalar;
    uint64_t seed = 3;
    for (int in = 8; in <= 2600; in += in < 600 ? 8 : 72)
        for (int kind = 0; kind < 4; kind++) {
            size_t n = (size_t)in * ROWS;
            for (size_t j = 0; j < n; j++) {
                w[j] = normal(&seed, 0.02f);
                if (kind == 1 && next(&seed) % 2)
                    w[j] = (uint16_t)(next(&seed) % 2 << 15);
                if (kind >= 2 && next(&seed) % (kind == 2 ? 100 : 1) == 0)
                    w[j] = (uint16_t)next(&seed);
            }
            size_t listed = pack_rows(kern_cpu(KERN_ISA_SCALAR), w, in, &scalar);
            for (int isa = KERN_ISA_SCALAR; isa < KERN_ISA_COUNT; isa++) {
                const struct kern_cpu *k = kern_cpu((enum kern_isa)isa);
                if (!k)
                    continue;
                assert_int_equal(pack_rows(k, w, in, &room), listed);
                assert_memory_equal(&room, &scalar, sizeof room);
                memset(back, 0x55, sizeof back);
                k->unpack_rows(room.rows, in, ROWS, back);
                assert_memory_equal(back, w, n * sizeof w[0]);
                for (size_t j = n; j < n + 64; j++)
                    assert_int_equal(back[j], 0x5555);
            }
        }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(packed_rows_come_back),
    cmocka_unit_test(every_number_comes_back),
    cmocka_unit_test(escapes_stand_in_the_head_or_in_the_lists),
    cmocka_unit_test(full_lists_are_told),
    cmocka_unit_test(normal_weights_have_few_escapes),
    cmocka_unit_test(packed_records_take_three_quarters),
    cmocka_unit_test(all_instruction_sets_pack_the_same_bytes),
};
CHECK_MAIN(tests)
