#include "packed_int.h"

#include <stdatomic.h>
#include <string.h>

#define VALUES 128 /* of the upper seven bits of an exponent */
/* Numbers of a row that its window is chosen by. */
#define SAMPLES 512
/* Neighbours mostly fall into the same few counts: those of each sort wait for none but their own.
 */
#define SORTS 4

static void count_samples(const uint16_t *w, size_t in, uint16_t count[VALUES])
{
    uint16_t sort[SORTS][VALUES] = {0};
    size_t step = (in + SAMPLES - 1) / SAMPLES, i = 0;
    for (; i + (SORTS - 1) * step < in; i += SORTS * step)
        for (size_t s = 0; s < SORTS; s++)
            sort[s][packed_upper_of(w[i + s * step])]++;
    for (; i < in; i += step)
        sort[0][packed_upper_of(w[i])]++;
    for (size_t v = 0; v < VALUES; v++)
        count[v] = (uint16_t)(sort[0][v] + sort[1][v] + sort[2][v] + sort[3][v]);
}

/* The seven values that leave the fewest samples out; the last gives way to zeros where they are
 * more. Trained weights have one hill of exponents, so values side by side are the best ones. */
void packed_window(const uint16_t *w, size_t in, struct packed_head *head)
{
    uint16_t count[VALUES];
    unsigned in_window = 0, best = 0;
    count_samples(w, in, count);
    for (int i = 0; i < PACKED_ESCAPE; i++)
        in_window += count[i];
    for (int base = 0; base + PACKED_ESCAPE <= VALUES; base++) {
        if (base > 0)
            in_window += count[base + PACKED_ESCAPE - 1] - count[base - 1];
        unsigned zeros = base > 0 ? count[0] : 0, last = count[base + PACKED_ESCAPE - 1];
        unsigned kept = zeros > last ? in_window - last + zeros : in_window;
        if (kept > best) {
            best = kept;
            head->base = (uint8_t)base;
            head->zero_last = zeros > last;
        }
    }
}

/* Codes and low bytes of n numbers, one each, in order; how many are escapes. */
static size_t encode(const struct packed_head *head, const uint16_t *w, size_t n, uint8_t *low,
                     uint8_t *code)
{
    const uint8_t base = head->base, zero = head->zero_last;
    size_t escapes = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t upper = packed_upper_of(w[i]), index = (uint8_t)(upper - base);
        index = index < PACKED_ESCAPE - zero ? index : PACKED_ESCAPE;
        index = zero && !upper ? PACKED_ESCAPE - 1 : index;
        code[i] = (uint8_t)((w[i] >> 12 & 8) | index);
        low[i] = (uint8_t)w[i];
        escapes += index == PACKED_ESCAPE;
    }
    return escapes;
}

static void put_codes(const uint8_t *code, size_t n, uint8_t *to)
{
    for (size_t i = 0; i < n / 2; i++)
        to[i] = (uint8_t)(code[2 * i] | code[2 * i + 1] << 4);
}

static size_t pack_block(const struct packed_head *head, const uint16_t *w, uint8_t *to)
{
    uint8_t low[PACKED_BLOCK], code[PACKED_BLOCK], pairs[PACKED_BLOCK / 2];
    size_t escapes = encode(head, w, PACKED_BLOCK, low, code);
    put_codes(code, PACKED_BLOCK, pairs);
    for (size_t l = 0; l < PACKED_HALF / 8; l++) {
        memcpy(to + l * 16, low + l * 8, 8);
        memcpy(to + l * 16 + 8, low + PACKED_HALF + l * 8, 8);
        memcpy(to + PACKED_BLOCK + l * 8, pairs + l * 4, 4);
        memcpy(to + PACKED_BLOCK + l * 8 + 4, pairs + PACKED_HALF / 2 + l * 4, 4);
    }
    return escapes;
}

static size_t pack_few(const struct packed_head *head, const uint16_t *w, size_t n, uint8_t *to)
{
    uint8_t code[PACKED_HALF];
    size_t escapes = encode(head, w, n, to, code);
    put_codes(code, n, to + n);
    return escapes;
}

uint32_t *packed_room(struct packed_head *head, void *row, const struct packed_lists *lists)
{
    if (head->escapes <= PACKED_OWN)
        return head->own;
    uint32_t first = atomic_fetch_add_explicit(lists->used, head->escapes, memory_order_relaxed);
    if (first > lists->capacity || head->escapes > lists->capacity - first)
        return NULL;
    head->own[0] = (uint32_t)((char *)(lists->at + first) - (char *)row);
    return lists->at + first;
}

bool packed_row_pack(const uint16_t *w, int in, void *row, const struct packed_lists *lists)
{
    struct packed_head head = {0};
    size_t n = (size_t)in, escapes = 0;
    uint8_t *to = (uint8_t *)row + PACKED_HEAD_BYTES;
    packed_window(w, n, &head);
    for (size_t at = 0, each; at < n; at += each, to += packed_bytes(each)) {
        each = packed_block(n, at);
        escapes += each == PACKED_BLOCK ? pack_block(&head, w + at, to)
                                        : pack_few(&head, w + at, each, to);
    }
    head.escapes = (uint16_t)escapes;
    if (escapes) {
        uint32_t *list = packed_room(&head, row, lists);
        if (!list)
            return false;
        packed_list(&head, w, 0, n, list);
    }
    memcpy(row, &head, sizeof head);
    return true;
}

/* Numbers of 8 low bytes and 4 bytes of codes. */
static void unpack8(const uint64_t upper[2], const uint8_t *low, const uint8_t *codes, uint16_t *w)
{
    for (int i = 0; i < 8; i++) {
        int code = codes[i / 2] >> i % 2 * 4 & 15;
        w[i] = (uint16_t)((upper[code >> 3] >> (code & 7) * 8 & 0xff) << 8 | low[i]);
    }
}

void packed_block_unpack(const struct packed_head *head, const uint8_t *from, size_t numbers,
                         uint16_t *w)
{
    uint64_t upper[2];
    upper[0] = packed_uppers(head, &upper[1]);
    if (numbers < PACKED_BLOCK) {
        for (size_t i = 0; i < numbers; i += 8)
            unpack8(upper, from + i, from + numbers + i / 2, w + i);
        return;
    }
    for (size_t l = 0; l < PACKED_HALF / 8; l++) {
        const uint8_t *low = from + l * 16, *codes = from + PACKED_BLOCK + l * 8;
        unpack8(upper, low, codes, w + l * 8);
        unpack8(upper, low + 8, codes + 4, w + PACKED_HALF + l * 8);
    }
}

void packed_row_unpack(const void *row, int in, uint16_t *w)
{
    const uint8_t *from = (const uint8_t *)row + PACKED_HEAD_BYTES;
    struct packed_walk escapes = packed_walk_begin(row);
    size_t n = (size_t)in;
    for (size_t at = 0, each; at < n; at += each, from += packed_bytes(each)) {
        each = packed_block(n, at);
        packed_block_unpack(row, from, each, w + at);
    }
    packed_put(&escapes, 0, n, w);
}

bool packed_rows_pack(const uint16_t *w, int in, size_t rows, void *first_row,
                      const struct packed_lists *lists)
{
    for (size_t i = 0; i < rows; i++)
        if (!packed_row_pack(w + i * (size_t)in, in, (char *)first_row + i * packed_row_bytes(in),
                             lists))
            return false;
    return true;
}

void packed_rows_unpack(const void *first_row, int in, size_t rows, uint16_t *w)
{
    for (size_t i = 0; i < rows; i++)
        packed_row_unpack((const char *)first_row + i * packed_row_bytes(in), in,
                          w + i * (size_t)in);
}
