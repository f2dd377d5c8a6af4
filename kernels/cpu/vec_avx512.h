/* The vector of the kernel templates on AVX-512: 16 floats. */
#ifndef MOED_KERNELS_VEC_AVX512_H
#define MOED_KERNELS_VEC_AVX512_H

#include <immintrin.h>

#include "cpu_int.h"
#include "packed_int.h"

#define VL       16
#define ROW_ACC  16 /* accumulators of a single row's dot product */
#define ROW_SUMS 2  /* vectors that v_sum8 makes of all its partial sums */
/* Blocks that fill the 32 registers: weight rows times activation rows, heads. */
#define TILE_W 4
#define TILE_X 6
/* Up to so many rows, bf16 weights go the way of few_vec.h. */
#define FEW_ROWS 5
#define FEW_SUMS 24 /* of the registers are their sums */
/* Up to so many rows, dot products one by one are faster than tiles. */
#define SINGLE_ROWS 1
#define HEAD_BLOCK  4

typedef __m512 vf;

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

static inline vf v_xor(vf a, vf b)
{
    return _mm512_xor_ps(a, b);
}

static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline __mmask16 first_lanes(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* The first n < VL lanes; the others are `fill`. */
static inline vf v_load_part(const float *p, size_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(n), p);
}

static inline void v_store_part(float *p, size_t n, vf v)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

static inline vf widen_bf16(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline vf v_load_bf16(const uint16_t *p)
{
    return widen_bf16(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_load_bf16_part(const uint16_t *p, size_t n)
{
    return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}

static inline vf v_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline vf v_load_f16_part(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p));
}

/* To the nearest bf16, ties to even, NaN kept (kern_to_bf16). */
static inline __m256i narrow_bf16(vf v)
{
    __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40)));
}

static inline void v_store_bf16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, narrow_bf16(v));
}

static inline void v_store_bf16_part(uint16_t *p, size_t n, vf v)
{
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_bf16(v));
}

/* kern_exp */
static inline vf v_exp(vf x)
{
    vf hi = v_set1(EXP_HI), lo = v_set1(EXP_LO), magic = v_set1(EXP_MAGIC);
    vf bounded = _mm512_max_ps(_mm512_min_ps(x, hi), lo);
    vf n = v_sub(v_fma(bounded, v_set1(EXP_LOG2E), magic), magic);
    vf r = v_fma(n, v_set1(-EXP_LN2_LO), v_fma(n, v_set1(-EXP_LN2_HI), bounded));
    vf q = v_fma(v_set1(EXP_Q4), r, v_set1(EXP_Q3));
    q = v_fma(q, r, v_set1(EXP_Q2));
    q = v_fma(q, r, v_set1(EXP_Q1));
    q = v_fma(q, r, v_set1(EXP_Q0));
    vf one = v_set1(1), p = v_fma(v_fma(q, r, one), r, one);
    __m512i whole = _mm512_cvtps_epi32(n), half = _mm512_srai_epi32(whole, 1);
    __m512i bias = _mm512_set1_epi32(127);
    __m512i scale0 = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    __m512i scale1 = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(whole, half), bias), 23);
    vf y = v_mul(v_mul(p, _mm512_castsi512_ps(scale0)), _mm512_castsi512_ps(scale1));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, hi, _CMP_GT_OQ), v_set1(INFINITY));
    y = _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, lo, _CMP_LT_OQ), v_zero());
    return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x);
}

/* [a0+a1, a2+a3, b0+b1, b2+b3] in each quarter. */
static inline vf pair_sums(vf a, vf b)
{
    return v_add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/*
 * Sums of 8 neighbours, ((0+1)+(2+3))+((4+5)+(6+7)), of 8 vectors. Lanes: the low halves of vectors
 * 0..3, their high halves, the low halves of 4..7, their high halves.
 */
static inline vf v_sum8(const vf *a)
{
    vf abcd = pair_sums(pair_sums(a[0], a[1]), pair_sums(a[2], a[3]));
    vf efgh = pair_sums(pair_sums(a[4], a[5]), pair_sums(a[6], a[7]));
    return v_add(_mm512_shuffle_f32x4(abcd, efgh, 0x88), _mm512_shuffle_f32x4(abcd, efgh, 0xdd));
}

/* The last addition after v_sum8, low half + high half, for the 8 vectors. */
static inline void v_sum8_end(vf s, float out[8])
{
    __m512 swapped = _mm512_shuffle_f32x4(s, s, 0xb1), sum = v_add(s, swapped);
    _mm_storeu_ps(out, _mm512_castps512_ps128(sum));
    _mm_storeu_ps(out + 4, _mm512_extractf32x4_ps(sum, 2));
}

/* The tree over one dot product's 256 partial sums, from v_sum8 of vectors 0..7 and 8..15. */
static inline float v_row_end(const vf s[ROW_SUMS])
{
    vf d16 = v_add(s[0], s[1]);
    __m256 d8 = _mm256_add_ps(_mm512_castps512_ps256(d16), _mm512_extractf32x8_ps(d16, 1));
    __m256 d4 = _mm256_add_ps(d8, _mm256_permute_ps(d8, 0x4e));
    __m256 d2 = _mm256_add_ps(d4, _mm256_permute_ps(d4, 0xb1));
    __m128 d1 = _mm_add_ss(_mm256_castps256_ps128(d2), _mm256_extractf128_ps(d2, 1));
    return _mm_cvtss_f32(d1);
}

/* The largest lane; none is NaN. */
static inline float v_max_of(vf v)
{
    return _mm512_reduce_max_ps(v);
}

/* The tree of the short class over its 16 partial sums. */
static inline float v_sum16(const vf s[1])
{
    vf d1 = v_add(s[0], _mm512_permute_ps(s[0], 0xb1));
    vf d2 = v_add(d1, _mm512_permute_ps(d1, 0x4e));
    vf d4 = v_add(d2, _mm512_shuffle_f32x4(d2, d2, 0xb1));
    return _mm512_cvtss_f32(v_add(d4, _mm512_shuffle_f32x4(d4, d4, 0x4e)));
}

static inline uint32_t v_read(const void *p, size_t bytes)
{
    const char *at = p, *end = at + bytes;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (; end - at >= 256; at += 256) {
        a = _mm512_xor_si512(a, _mm512_load_si512(at));
        b = _mm512_xor_si512(b, _mm512_load_si512(at + 64));
        c = _mm512_xor_si512(c, _mm512_load_si512(at + 128));
        d = _mm512_xor_si512(d, _mm512_load_si512(at + 192));
    }
    for (; at < end; at += 64)
        a = _mm512_xor_si512(a, _mm512_load_si512(at));
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    return (uint32_t)_mm512_reduce_or_epi32(a);
}

/*
 * Packed rows. vh: 2 VL numbers of bf16. vcodes: the high byte of each code. One step takes a run
 * of 4 VL numbers: units of a block of 512, of which `first` gets the numbers of the block's first
 * half and `second` the others, or numbers in order, first ones first.
 */
typedef __m512i vh;
typedef __m512i vcodes;

static inline vh v_load_h(const uint16_t *p)
{
    return _mm512_loadu_si512(p);
}

static inline void v_store_h(uint16_t *p, vh h)
{
    _mm512_storeu_si512(p, h);
}

/* Number `at` becomes w; none does where `at` is not below 2 VL (modulo 65,536). */
static inline vh v_put_h(vh h, size_t at, uint16_t w)
{
    const __m512i lane =
        _mm512_set_epi16(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13,
                         12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __mmask32 here = _mm512_cmpeq_epi16_mask(lane, _mm512_set1_epi16((short)at));
    return _mm512_mask_mov_epi16(h, here, _mm512_set1_epi16((short)w));
}

/* The numbers with even places in h and those with odd ones: no shuffle, one instruction each. */
static inline vf v_even_h(vh h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
}

static inline vf v_odd_h(vh h)
{
    return _mm512_castsi512_ps(_mm512_and_si512(h, _mm512_set1_epi32((int)0xffff0000)));
}

/* The same of 2 VL floats. */
static inline void v_split(vf first, vf second, vf *even, vf *odd)
{
    const __m512i evens =
        _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odds =
        _mm512_set_epi32(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    *even = _mm512_permutex2var_ps(first, evens, second);
    *odd = _mm512_permutex2var_ps(first, odds, second);
}

/* v_sum8 of 8 vectors that are even ones and odd ones by turns, added up by pairs. Lane 4q + i:
 * group 4i + q. */
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
    vf d16 = v_add(s[0], s[1]);
    vf d8 = v_add(d16, _mm512_permute_ps(d16, 0x4e));
    vf d4 = v_add(d8, _mm512_permute_ps(d8, 0xb1));
    __m256 d2 = _mm256_add_ps(_mm512_castps512_ps256(d4), _mm512_extractf32x8_ps(d4, 1));
    __m128 d1 = _mm_add_ss(_mm256_castps256_ps128(d2), _mm256_extractf128_ps(d2, 1));
    return _mm_cvtss_f32(d1);
}

static inline vcodes v_codes(uint64_t upper, uint64_t negative)
{
    return _mm512_broadcast_i32x4(_mm_set_epi64x((long long)negative, (long long)upper));
}

static inline void v_decode(vcodes upper, __m512i low, __m256i codes, vh *first, vh *second)
{
    __m512i pairs = _mm512_cvtepu8_epi16(codes);
    enum { EITHER_AND = 0xa8 }; /* (a | b) & c */
    __m512i code = _mm512_ternarylogic_epi32(pairs, _mm512_slli_epi16(pairs, 4),
                                             _mm512_set1_epi8(15), EITHER_AND);
    __m512i high = _mm512_shuffle_epi8(upper, code);
    *first = _mm512_unpacklo_epi8(low, high);
    *second = _mm512_unpackhi_epi8(low, high);
}

static inline void v_unpack_units(vcodes upper, const uint8_t *low, const uint8_t *codes, vh *first,
                                  vh *second)
{
    v_decode(upper, _mm512_loadu_si512(low), _mm256_loadu_si256((const __m256i *)codes), first,
             second);
}

static inline void v_unpack_run(vcodes upper, const uint8_t *low, const uint8_t *codes, vh *first,
                                vh *second)
{
    const __m512i lows = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
    const __m256i fours = _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0);
    __m256i c = _mm256_loadu_si256((const __m256i *)codes);
    v_decode(upper, _mm512_permutexvar_epi64(lows, _mm512_loadu_si512(low)),
             _mm256_permutevar8x32_epi32(c, fours), first, second);
}

/* How many of the numbers are escapes. */
static inline unsigned v_encode(const struct packed_head *head, vh first, vh second, __m512i *low,
                                __m256i *codes)
{
    const __m512i byte = _mm512_set1_epi16(0xff);
    __m512i high = _mm512_packus_epi16(_mm512_srli_epi16(first, 8), _mm512_srli_epi16(second, 8));
    __m512i upper = _mm512_and_si512(high, _mm512_set1_epi8(0x7f));
    __m512i index = _mm512_sub_epi8(upper, _mm512_set1_epi8((char)head->base));
    __mmask64 zero = head->zero_last ? _mm512_testn_epi8_mask(upper, upper) : 0;
    __m512i limit = _mm512_set1_epi8((char)(PACKED_ESCAPE - head->zero_last));
    __mmask64 escape = _mm512_cmpge_epu8_mask(index, limit) & ~zero;
    index = _mm512_mask_mov_epi8(index, escape, _mm512_set1_epi8(PACKED_ESCAPE));
    index = _mm512_mask_mov_epi8(index, zero, _mm512_set1_epi8(PACKED_ESCAPE - 1));
    __m512i sign = _mm512_and_si512(_mm512_srli_epi16(high, 4), _mm512_set1_epi8(8));
    __m512i pairs =
        _mm512_maddubs_epi16(_mm512_or_si512(index, sign), _mm512_set1_epi16(16 << 8 | 1));
    *codes = _mm512_cvtepi16_epi8(pairs);
    *low = _mm512_packus_epi16(_mm512_and_si512(first, byte), _mm512_and_si512(second, byte));
    return (unsigned)__builtin_popcountll(escape);
}

static inline unsigned v_pack_units(const struct packed_head *head, vh first, vh second,
                                    uint8_t *low, uint8_t *codes)
{
    __m512i l;
    __m256i c;
    unsigned escapes = v_encode(head, first, second, &l, &c);
    _mm512_storeu_si512(low, l);
    _mm256_storeu_si256((__m256i *)codes, c);
    return escapes;
}

static inline unsigned v_pack_run(const struct packed_head *head, vh first, vh second, uint8_t *low,
                                  uint8_t *codes)
{
    const __m512i lows = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
    const __m256i fours = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
    __m512i l;
    __m256i c;
    unsigned escapes = v_encode(head, first, second, &l, &c);
    _mm512_storeu_si512(low, _mm512_permutexvar_epi64(lows, l));
    _mm256_storeu_si256((__m256i *)codes, _mm256_permutevar8x32_epi32(c, fours));
    return escapes;
}

#endif
