/*
 * Weights for a model without files. A block of 1024 elements has its own seed, made of the
 * tensor's name and the block's number; within it 16 xorshift32 generators run side by side
 * (Marsaglia, "Xorshift RNGs", 2003), which the compiler turns into vector code on any machine. So
 * every part of a tensor can be filled alone, in parallel, and comes out the same.
 */
#include <string.h>

#include <xxhash.h>

#include "store/store_int.h"

#define LANES          16
#define ROWS           64
#define BLOCK_ELEMENTS ((size_t)LANES * ROWS)

static uint64_t splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static void fill_block(uint64_t seed, uint64_t block, float center, float scale,
                       float out[BLOCK_ELEMENTS])
{
    uint32_t s[LANES];
    uint64_t z = splitmix64(seed ^ splitmix64(block));
    for (int k = 0; k < LANES; k++) {
        z = splitmix64(z);
        s[k] = (uint32_t)(z >> 32) | 1; /* zero would stay zero */
    }
    /* 24 signed bits: exact in a float, so that the product is rounded once. */
    float unit = scale * 0x1p-23f;
    for (int row = 0; row < ROWS; row++)
        for (int k = 0; k < LANES; k++) {
            uint32_t x = s[k];
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            s[k] = x;
            out[row * LANES + k] = center + (float)((int32_t)x >> 8) * unit;
        }
}

/* Round to nearest, ties to even; the values are finite. */
static uint16_t bf16_of(uint32_t bits)
{
    return (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

static uint16_t f16_of(uint32_t bits)
{
    uint32_t sign = bits >> 16 & 0x8000, a = bits & 0x7FFFFFFF;
    /* Below 2^-14 halves are multiples of 2^-24: adding 0.5 rounds there, and leaves the count in
     * the low bits. */
    float low;
    memcpy(&low, &a, 4);
    low += 0.5f;
    uint32_t small;
    memcpy(&small, &low, 4);
    small -= 0x3F000000;
    uint32_t normal = (a + 0xC8000FFF + (a >> 13 & 1)) >> 13;
    return (uint16_t)(sign | (a < 0x38800000 ? small : normal));
}

static void convert(enum dtype dtype, const float *from, size_t n, uint8_t *to)
{
    if (dtype == DTYPE_F32) {
        memcpy(to, from, n * sizeof from[0]);
        return;
    }
    uint32_t bits[BLOCK_ELEMENTS];
    uint16_t half[BLOCK_ELEMENTS];
    memcpy(bits, from, n * sizeof from[0]);
    if (dtype == DTYPE_BF16)
        for (size_t i = 0; i < BLOCK_ELEMENTS; i++)
            half[i] = bf16_of(bits[i]);
    else
        for (size_t i = 0; i < BLOCK_ELEMENTS; i++)
            half[i] = f16_of(bits[i]);
    memcpy(to, half, n * sizeof half[0]);
}

void store_dummy_fill(const struct tensor_ref *t, uint64_t first, size_t n, float center,
                      float scale, void *dst)
{
    uint64_t seed = XXH3_64bits(t->name, strlen(t->name));
    size_t width = dtype_bytes(t->dtype);
    uint8_t *to = dst;
    while (n > 0) {
        float values[BLOCK_ELEMENTS];
        size_t skip = (size_t)(first % BLOCK_ELEMENTS);
        size_t take = BLOCK_ELEMENTS - skip < n ? BLOCK_ELEMENTS - skip : n;
        fill_block(seed, first / BLOCK_ELEMENTS, center, scale, values);
        convert(t->dtype, values + skip, take, to);
        to += take * width;
        first += take;
        n -= take;
    }
}
