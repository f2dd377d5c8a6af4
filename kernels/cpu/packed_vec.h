/* Packing and unpacking rows, as a template over the vectors of vec_<isa>.h. */
#include <stdatomic.h>

#define INLINE static inline __attribute__((always_inline))

/* Numbers of one step. */
#define RUN         (4 * VL)
#define PACKED_MOST 65536 /* numbers of a row, and more */

static inline vcodes codes_of(const void *row)
{
    uint64_t negative, upper = packed_uppers(row, &negative);
    return v_codes(upper, negative);
}

/* A block of 512; not its escapes. */
INLINE void unpack_block(vcodes codes, const uint8_t *from, uint16_t *w)
{
    for (size_t j = 0; j < PACKED_HALF; j += RUN / 2) {
        vh first, second;
        v_unpack_units(codes, from + j * 2, from + PACKED_BLOCK + j, &first, &second);
        v_store_h(w + j, first);
        v_store_h(w + PACKED_HALF + j, second);
    }
}

/* A block of n <= 256 numbers in order, not its escapes; w has room for 256. */
INLINE void unpack_few(vcodes codes, const uint8_t *from, size_t n, uint16_t *w)
{
    vh first, second;
    size_t j = 0;
    for (; j + RUN <= n; j += RUN) {
        v_unpack_run(codes, from + j, from + n + j / 2, &first, &second);
        v_store_h(w + j, first);
        v_store_h(w + j + RUN / 2, second);
    }
    if (j < n) {
        uint8_t low[RUN] = {0}, code[RUN / 2] = {0};
        memcpy(low, from + j, n - j);
        memcpy(code, from + n + j / 2, (n - j) / 2);
        v_unpack_run(codes, low, code, &first, &second);
        v_store_h(w + j, first);
        v_store_h(w + j + RUN / 2, second);
    }
}

static void unpack_row(const void *row, size_t n, uint16_t *w)
{
    const uint8_t *from = (const uint8_t *)row + PACKED_HEAD_BYTES;
    const vcodes codes = codes_of(row);
    struct packed_walk escapes = packed_walk_begin(row);
    size_t at = 0;
    for (; at + PACKED_BLOCK <= n; at += PACKED_BLOCK, from += packed_bytes(PACKED_BLOCK))
        unpack_block(codes, from, w + at);
    if (at + PACKED_HALF <= n) {
        unpack_few(codes, from, PACKED_HALF, w + at);
        at += PACKED_HALF, from += packed_bytes(PACKED_HALF);
    }
    if (at < n) {
        uint16_t rest[PACKED_HALF];
        unpack_few(codes, from, n - at, rest);
        memcpy(w + at, rest, (n - at) * sizeof *w);
    }
    packed_put(&escapes, 0, n, w);
}

static void unpack_rows(const void *first_row, int in, size_t rows, uint16_t *w)
{
    for (size_t i = 0; i < rows; i++)
        unpack_row((const char *)first_row + i * packed_row_bytes(in), (size_t)in,
                   w + i * (size_t)in);
}

/* A row while it is packed. */
struct packing {
    struct packed_head head;
    size_t escapes;
    uint8_t has[PACKED_MOST / (RUN / 2)]; /* for each RUN / 2 numbers: they may have an escape */
};

INLINE void pack_block(struct packing *p, const uint16_t *w, size_t at, uint8_t *to)
{
    for (size_t j = 0; j < PACKED_HALF; j += RUN / 2) {
        const uint16_t *first = w + at + j, *second = first + PACKED_HALF;
        unsigned escapes = v_pack_units(&p->head, v_load_h(first), v_load_h(second), to + j * 2,
                                        to + PACKED_BLOCK + j);
        p->has[(at + j) / (RUN / 2)] = escapes != 0;
        p->has[(at + PACKED_HALF + j) / (RUN / 2)] = escapes != 0;
        p->escapes += escapes;
    }
}

INLINE void pack_in_order(struct packing *p, const uint16_t *w, size_t at, uint8_t *low,
                          uint8_t *codes)
{
    unsigned escapes = v_pack_run(&p->head, v_load_h(w), v_load_h(w + RUN / 2), low, codes);
    p->has[at / (RUN / 2)] = escapes != 0;
    p->has[at / (RUN / 2) + 1] = escapes != 0;
    p->escapes += escapes;
}

/* n <= 256 numbers. */
INLINE void pack_few(struct packing *p, const uint16_t *w, size_t at, size_t n, uint8_t *to)
{
    size_t j = 0;
    for (; j + RUN <= n; j += RUN)
        pack_in_order(p, w + at + j, at + j, to + j, to + n + j / 2);
    if (j < n) {
        uint8_t low[RUN], codes[RUN / 2];
        uint16_t part[RUN];
        for (size_t i = 0; i < RUN; i++) /* filled up with what is no escape */
            part[i] = i < n - j ? w[at + j + i] : (uint16_t)(p->head.base << 8);
        pack_in_order(p, part, at + j, low, codes);
        memcpy(to + j, low, n - j);
        memcpy(to + n + j / 2, codes, (n - j) / 2);
    }
}

static bool pack_row_end(struct packing *p, const uint16_t *w, size_t n, void *row,
                         const struct packed_lists *lists)
{
    p->head.escapes = (uint16_t)p->escapes;
    if (p->escapes) {
        uint32_t *list = packed_room(&p->head, row, lists);
        if (!list)
            return false;
        for (size_t at = 0; at < n; at += RUN / 2)
            if (p->has[at / (RUN / 2)])
                list = packed_list(&p->head, w, at, n - at < RUN / 2 ? n - at : RUN / 2, list);
    }
    memcpy(row, &p->head, sizeof p->head);
    return true;
}

static bool pack_row_of(const uint16_t *w, size_t n, void *row, const struct packed_lists *lists)
{
    struct packing p;
    uint8_t *to = (uint8_t *)row + PACKED_HEAD_BYTES;
    p.head = (struct packed_head){0};
    p.escapes = 0;
    packed_window(w, n, &p.head);
    for (size_t at = 0, each; at < n; at += each, to += packed_bytes(each)) {
        each = packed_block(n, at);
        if (each == PACKED_BLOCK)
            pack_block(&p, w, at, to);
        else
            pack_few(&p, w, at, each, to);
    }
    return pack_row_end(&p, w, n, row, lists);
}

static bool pack_rows_of(const uint16_t *w, int in, size_t rows, void *first_row,
                         const struct packed_lists *lists)
{
    for (size_t i = 0; i < rows; i++)
        if (!pack_row_of(w + i * (size_t)in, (size_t)in,
                         (char *)first_row + i * packed_row_bytes(in), lists))
            return false;
    return true;
}
