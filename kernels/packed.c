#include "packed.h"

#include <stdatomic.h>
#include <string.h>

#define BLOCK  512
#define HALF   256
#define VALUES 128 /* of the upper seven bits of an exponent */
/* Numbers of a row that its window is chosen by. */
#define SAMPLES 512

static uint8_t upper_of(uint16_t w)
{
    return (uint8_t)(w >> 8 & 0x7f);
}

/* The seven values that leave the fewest samples out; the last gives way to zeros where they are
 * more. Trained weights have one hill of exponents, so values side by side are the best ones. */
static void choose_window(const uint16_t *w, size_t in, struct packed_head *head)
{
    uint16_t count[VALUES] = {0};
    size_t step = (in + SAMPLES - 1) / SAMPLES;
    for (size_t i = 0; i < in; i += step)
        count[upper_of(w[i])]++;
    unsigned in_window = 0, best = 0;
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
        uint8_t upper = upper_of(w[i]), index = (uint8_t)(upper - base);
        index = index < PACKED_ESCAPE - zero ? index : PACKED_ESCAPE;
        index = zero && !upper ? PACKED_ESCAPE - 1 : index;
        uint8_t escape = index == PACKED_ESCAPE;
        code[i] = (uint8_t)((w[i] >> 12 & 8) | index);
        low[i] = escape ? 0 : (uint8_t)w[i];
        escapes += escape;
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
    uint8_t low[BLOCK], code[BLOCK], pairs[BLOCK / 2];
    size_t escapes = encode(head, w, BLOCK, low, code);
    put_codes(code, BLOCK, pairs);
    for (size_t l = 0; l < HALF / 8; l++) {
        memcpy(to + l * 16, low + l * 8, 8);
        memcpy(to + l * 16 + 8, low + HALF + l * 8, 8);
        memcpy(to + BLOCK + l * 8, pairs + l * 4, 4);
        memcpy(to + BLOCK + l * 8 + 4, pairs + HALF / 2 + l * 4, 4);
    }
    return escapes;
}

static size_t pack_few(const struct packed_head *head, const uint16_t *w, size_t n, uint8_t *to)
{
    uint8_t code[HALF];
    size_t escapes = encode(head, w, n, to, code);
    put_codes(code, n, to + n);
    return escapes;
}

static bool list_escapes(struct packed_head *head, const uint16_t *w, size_t in, char *row,
                         const struct packed_lists *lists)
{
    uint32_t *to = head->own;
    if (head->escapes > PACKED_OWN) {
        uint32_t first =
            atomic_fetch_add_explicit(lists->used, head->escapes, memory_order_relaxed);
        if (first > lists->capacity || head->escapes > lists->capacity - first)
            return false;
        to = lists->at + first;
        head->own[0] = (uint32_t)((char *)to - row);
    }
    for (size_t i = 0; i < in; i++) {
        uint8_t upper = upper_of(w[i]), index = (uint8_t)(upper - head->base);
        if (index >= PACKED_ESCAPE - head->zero_last && (upper || !head->zero_last))
            *to++ = (uint32_t)i << 16 | w[i];
    }
    return true;
}

bool packed_row_pack(const uint16_t *w, int in, void *row, const struct packed_lists *lists)
{
    struct packed_head head = {0};
    size_t n = (size_t)in, at = 0, escapes = 0;
    uint8_t *to = (uint8_t *)row + PACKED_HEAD_BYTES;
    choose_window(w, n, &head);
    for (; at + BLOCK <= n; at += BLOCK)
        escapes += pack_block(&head, w + at, to + at + at / 2);
    for (size_t each; at < n; at += each) {
        each = n - at < HALF ? n - at : HALF;
        escapes += pack_few(&head, w + at, each, to + at + at / 2);
    }
    head.escapes = (uint16_t)escapes;
    if (escapes && !list_escapes(&head, w, n, row, lists))
        return false;
    memcpy(row, &head, sizeof head);
    return true;
}

/* Numbers of 8 low bytes and 4 bytes of codes. */
static void unpack8(const uint8_t upper[16], const uint8_t *low, const uint8_t *codes, uint16_t *w)
{
    for (int i = 0; i < 8; i++)
        w[i] = (uint16_t)(upper[codes[i / 2] >> i % 2 * 4 & 15] << 8 | low[i]);
}

void packed_row_unpack(const void *row, int in, uint16_t *w)
{
    struct packed_head head;
    memcpy(&head, row, sizeof head);
    const uint8_t *from = (const uint8_t *)row + PACKED_HEAD_BYTES;
    const uint32_t *escape = packed_escapes(row);
    size_t n = (size_t)in, at = 0;
    uint8_t upper[16];
    for (int code = 0; code < 16; code++) {
        bool zero = head.zero_last && code % 8 == PACKED_ESCAPE - 1;
        upper[code] = (uint8_t)((zero ? 0 : head.base + code % 8) | (code & 8) << 4);
    }
    for (; at + BLOCK <= n; at += BLOCK, from += BLOCK + BLOCK / 2)
        for (size_t l = 0; l < HALF / 8; l++) {
            const uint8_t *low = from + l * 16, *codes = from + BLOCK + l * 8;
            unpack8(upper, low, codes, w + at + l * 8);
            unpack8(upper, low + 8, codes + 4, w + at + HALF + l * 8);
        }
    for (size_t each; at < n; at += each, from += each + each / 2) {
        each = n - at < HALF ? n - at : HALF;
        for (size_t i = 0; i < each; i += 8)
            unpack8(upper, from + i, from + each + i / 2, w + at + i);
    }
    for (size_t i = 0; i < head.escapes; i++)
        w[escape[i] >> 16] = (uint16_t)escape[i];
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
