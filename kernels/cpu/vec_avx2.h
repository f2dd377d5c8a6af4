/* The vector of the kernel templates on AVX2 with FMA and F16C: 8 floats. */
#ifndef MOED_KERNELS_VEC_AVX2_H
#define MOED_KERNELS_VEC_AVX2_H

#include <immintrin.h>

#include "cpu_int.h"
#include "packed_int.h"

#define VL       8
#define ROW_ACC  8 /* accumulators of a single row's dot product: four passes over it */
#define ROW_SUMS 4 /* vectors that v_sum8 makes of all its partial sums */
/* Blocks that fill the 16 registers: weight rows times activation rows, heads. */
#define TILE_W 2
#define TILE_X 6
/* Up to so many rows, bf16 weights go the way of few_vec.h. */
#define FEW_ROWS 4
#define FEW_SUMS 12 /* of the registers are their sums */
/* Up to so many rows, dot products one by one are faster than tiles. */
#define SINGLE_ROWS 4
#define HEAD_BLOCK  2

typedef __m256 vf;

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf v_xor(vf a, vf b)
{
    return _mm256_xor_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline __m256i first_lanes(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n < VL lanes; the others are `fill`. */
static inline vf v_load_part(const float *p, size_t n, float fill)
{
    __m256i mask = first_lanes(n);
    return _mm256_blendv_ps(v_set1(fill), _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}

static inline void v_store_part(float *p, size_t n, vf v)
{
    _mm256_maskstore_ps(p, first_lanes(n), v);
}

/* AVX2 has no masked loads of 16 bits: through a buffer. */
static inline __m128i load16_part(const uint16_t *p, size_t n)
{
    uint16_t part[8] = {0};
    memcpy(part, p, n * sizeof *p);
    return _mm_loadu_si128((const __m128i *)part);
}

static inline vf widen_bf16(__m128i h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline vf v_load_bf16(const uint16_t *p)
{
    return widen_bf16(_mm_loadu_si128((const __m128i *)p));
}

static inline vf v_load_bf16_part(const uint16_t *p, size_t n)
{
    return widen_bf16(load16_part(p, n));
}

static inline vf v_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline vf v_load_f16_part(const uint16_t *p, size_t n)
{
    return _mm256_cvtph_ps(load16_part(p, n));
}

/* To the nearest bf16, ties to even, NaN kept (kern_to_bf16). */
static inline __m128i narrow_bf16(vf v)
{
    __m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i kept = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i all = _mm256_blendv_epi8(rounded, kept, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}

static inline void v_store_bf16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, narrow_bf16(v));
}

static inline void v_store_bf16_part(uint16_t *p, size_t n, vf v)
{
    uint16_t part[8];
    _mm_storeu_si128((__m128i *)part, narrow_bf16(v));
    memcpy(p, part, n * sizeof *p);
}

/* kern_exp */
static inline vf v_exp(vf x)
{
    vf hi = v_set1(EXP_HI), lo = v_set1(EXP_LO), magic = v_set1(EXP_MAGIC);
    vf bounded = _mm256_max_ps(_mm256_min_ps(x, hi), lo);
    vf n = v_sub(v_fma(bounded, v_set1(EXP_LOG2E), magic), magic);
    vf r = v_fma(n, v_set1(-EXP_LN2_LO), v_fma(n, v_set1(-EXP_LN2_HI), bounded));
    vf q = v_fma(v_set1(EXP_Q4), r, v_set1(EXP_Q3));
    q = v_fma(q, r, v_set1(EXP_Q2));
    q = v_fma(q, r, v_set1(EXP_Q1));
    q = v_fma(q, r, v_set1(EXP_Q0));
    vf one = v_set1(1), p = v_fma(v_fma(q, r, one), r, one);
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i scale0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i scale1 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
    vf y = v_mul(v_mul(p, _mm256_castsi256_ps(scale0)), _mm256_castsi256_ps(scale1));
    y = _mm256_blendv_ps(y, v_set1(INFINITY), _mm256_cmp_ps(x, hi, _CMP_GT_OQ));
    y = _mm256_blendv_ps(y, v_zero(), _mm256_cmp_ps(x, lo, _CMP_LT_OQ));
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

/* [a0+a1, a2+a3, b0+b1, b2+b3] in each half. */
static inline vf pair_sums(vf a, vf b)
{
    return v_add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}

/* Sums of 8 neighbours, ((0+1)+(2+3))+((4+5)+(6+7)), of 8 vectors: one lane each. */
static inline vf v_sum8(const vf *a)
{
    vf abcd = pair_sums(pair_sums(a[0], a[1]), pair_sums(a[2], a[3]));
    vf efgh = pair_sums(pair_sums(a[4], a[5]), pair_sums(a[6], a[7]));
    return v_add(_mm256_permute2f128_ps(abcd, efgh, 0x20),
                 _mm256_permute2f128_ps(abcd, efgh, 0x31));
}

/* Nothing is left to add after v_sum8 and the tree over vectors. */
static inline void v_sum8_end(vf s, float out[8])
{
    _mm256_storeu_ps(out, s);
}

/* The tree over one dot product's 256 partial sums, from v_sum8 of vectors 0..7, 8..15 and so on.
 */
static inline float v_row_end(const vf s[ROW_SUMS])
{
    vf d8 = v_add(v_add(s[0], s[2]), v_add(s[1], s[3])); /* distance 16, then 8 */
    __m128 d4 = _mm_add_ps(_mm256_castps256_ps128(d8), _mm256_extractf128_ps(d8, 1));
    __m128 d2 = _mm_add_ps(d4, _mm_movehl_ps(d4, d4));
    return _mm_cvtss_f32(_mm_add_ss(d2, _mm_shuffle_ps(d2, d2, 1)));
}

/* The largest lane; none is NaN. */
static inline float v_max_of(vf v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

/* The tree of the short class over its 16 partial sums. */
static inline float v_sum16(const vf s[2])
{
    vf d4[2];
    for (int i = 0; i < 2; i++) {
        vf d1 = v_add(s[i], _mm256_permute_ps(s[i], 0xb1));
        d4[i] = v_add(d1, _mm256_permute_ps(d1, 0x4e));
        d4[i] = v_add(d4[i], _mm256_permute2f128_ps(d4[i], d4[i], 1));
    }
    return _mm256_cvtss_f32(v_add(d4[0], d4[1]));
}

static inline uint32_t v_read(const void *p, size_t bytes)
{
    const char *at = p, *end = at + bytes;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (; end - at >= 128; at += 128) {
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)at));
        b = _mm256_xor_si256(b, _mm256_load_si256((const __m256i *)(at + 32)));
        c = _mm256_xor_si256(c, _mm256_load_si256((const __m256i *)(at + 64)));
        d = _mm256_xor_si256(d, _mm256_load_si256((const __m256i *)(at + 96)));
    }
    for (; at < end; at += 32)
        a = _mm256_xor_si256(a, _mm256_load_si256((const __m256i *)at));
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    __m128i half = _mm_or_si128(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    return (uint32_t)(_mm_cvtsi128_si32(half) | _mm_extract_epi32(half, 1) |
                      _mm_extract_epi32(half, 2) | _mm_extract_epi32(half, 3));
}

/*
 * Packed rows. vh: 2 VL numbers of bf16. vcodes: the high byte of each code. One step takes a run
 * of 4 VL numbers: units of a block of 512, of which `first` gets the numbers of the block's first
 * half and `second` the others, or numbers in order, first ones first.
 */
typedef __m256i vh;
typedef __m256i vcodes;

static inline vh v_load_h(const uint16_t *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void v_store_h(uint16_t *p, vh h)
{
    _mm256_storeu_si256((__m256i *)p, h);
}

/* Number `at` becomes w; none does where `at` is not below 2 VL (modulo 65,536). */
static inline vh v_put_h(vh h, size_t at, uint16_t w)
{
    const __m256i lane = _mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m256i here = _mm256_cmpeq_epi16(lane, _mm256_set1_epi16((short)at));
    return _mm256_blendv_epi8(h, _mm256_set1_epi16((short)w), here);
}

/* The numbers with even places in h and those with odd ones: no shuffle, one instruction each. */
static inline vf v_even_h(vh h)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

static inline vf v_odd_h(vh h)
{
    return _mm256_castsi256_ps(_mm256_and_si256(h, _mm256_set1_epi32((int)0xffff0000)));
}

/* The same of 2 VL floats. */
static inline void v_split(vf first, vf second, vf *even, vf *odd)
{
    *even = _mm256_castpd_ps(
        _mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(first, second, 0x88)), 0xd8));
    *odd = _mm256_castpd_ps(
        _mm256_permute4x64_pd(_mm256_castps_pd(_mm256_shuffle_ps(first, second, 0xdd)), 0xd8));
}

/* v_sum8 of 8 vectors that are even ones and odd ones by turns, added up by pairs. Lane 4q + i:
 * group 2i + q. */
static inline vf v_split_sum4(const vf *pair)
{
    return pair_sums(pair_sums(pair[0], pair[1]), pair_sums(pair[2], pair[3]));
}

/* The same before they are added up. */
static inline vf v_split_sum8(const vf *a)
{
    vf pair[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        pair[i] = v_add(a[2 * i], a[2 * i + 1]);
    return v_split_sum4(pair);
}

/* v_row_end after v_split_sum8. */
static inline float v_split_row_end(const vf s[ROW_SUMS])
{
    vf d8 = v_add(v_add(s[0], s[2]), v_add(s[1], s[3])); /* distance 16, then 8 */
    vf d4 = v_add(d8, _mm256_permute_ps(d8, 0x4e));
    vf d2 = v_add(d4, _mm256_permute_ps(d4, 0xb1));
    return _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(d2), _mm256_extractf128_ps(d2, 1)));
}

static inline vcodes v_codes(uint64_t upper, uint64_t negative)
{
    return _mm256_broadcastsi128_si256(_mm_set_epi64x((long long)negative, (long long)upper));
}

static inline void v_decode(vcodes upper, __m256i low, __m128i codes, vh *first, vh *second)
{
    __m256i pairs = _mm256_cvtepu8_epi16(codes);
    __m256i code = _mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4));
    __m256i high = _mm256_shuffle_epi8(upper, _mm256_and_si256(code, _mm256_set1_epi8(15)));
    *first = _mm256_unpacklo_epi8(low, high);
    *second = _mm256_unpackhi_epi8(low, high);
}

static inline void v_unpack_units(vcodes upper, const uint8_t *low, const uint8_t *codes, vh *first,
                                  vh *second)
{
    v_decode(upper, _mm256_loadu_si256((const __m256i *)low),
             _mm_loadu_si128((const __m128i *)codes), first, second);
}

static inline void v_unpack_run(vcodes upper, const uint8_t *low, const uint8_t *codes, vh *first,
                                vh *second)
{
    __m256i l = _mm256_loadu_si256((const __m256i *)low);
    __m128i c = _mm_loadu_si128((const __m128i *)codes);
    v_decode(upper, _mm256_permute4x64_epi64(l, 0xd8), _mm_shuffle_epi32(c, 0xd8), first, second);
}

/* How many of the numbers are escapes. */
static inline unsigned v_encode(const struct packed_head *head, vh first, vh second, __m256i *low,
                                __m128i *codes)
{
    const __m256i byte = _mm256_set1_epi16(0xff);
    __m256i high = _mm256_packus_epi16(_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8));
    __m256i upper = _mm256_and_si256(high, _mm256_set1_epi8(0x7f));
    __m256i index = _mm256_sub_epi8(upper, _mm256_set1_epi8((char)head->base));
    __m256i zero = _mm256_and_si256(_mm256_cmpeq_epi8(upper, _mm256_setzero_si256()),
                                    _mm256_set1_epi8((char)-head->zero_last));
    __m256i limit = _mm256_set1_epi8((char)(PACKED_ESCAPE - head->zero_last));
    __m256i beyond = _mm256_cmpeq_epi8(_mm256_max_epu8(index, limit), index);
    __m256i escape = _mm256_andnot_si256(zero, beyond);
    index = _mm256_blendv_epi8(index, _mm256_set1_epi8(PACKED_ESCAPE), escape);
    index = _mm256_blendv_epi8(index, _mm256_set1_epi8(PACKED_ESCAPE - 1), zero);
    __m256i sign = _mm256_and_si256(_mm256_srli_epi16(high, 4), _mm256_set1_epi8(8));
    __m256i pairs =
        _mm256_maddubs_epi16(_mm256_or_si256(index, sign), _mm256_set1_epi16(16 << 8 | 1));
    __m256i narrow = _mm256_packus_epi16(pairs, _mm256_setzero_si256());
    *codes = _mm256_castsi256_si128(_mm256_permute4x64_epi64(narrow, 0x08));
    *low = _mm256_packus_epi16(_mm256_and_si256(first, byte), _mm256_and_si256(second, byte));
    return (unsigned)__builtin_popcount((unsigned)_mm256_movemask_epi8(escape));
}

static inline unsigned v_pack_units(const struct packed_head *head, vh first, vh second,
                                    uint8_t *low, uint8_t *codes)
{
    __m256i l;
    __m128i c;
    unsigned escapes = v_encode(head, first, second, &l, &c);
    _mm256_storeu_si256((__m256i *)low, l);
    _mm_storeu_si128((__m128i *)codes, c);
    return escapes;
}

static inline unsigned v_pack_run(const struct packed_head *head, vh first, vh second, uint8_t *low,
                                  uint8_t *codes)
{
    __m256i l;
    __m128i c;
    unsigned escapes = v_encode(head, first, second, &l, &c);
    _mm256_storeu_si256((__m256i *)low, _mm256_permute4x64_epi64(l, 0xd8));
    _mm_storeu_si128((__m128i *)codes, _mm_shuffle_epi32(c, 0xd8));
    return escapes;
}

#endif
