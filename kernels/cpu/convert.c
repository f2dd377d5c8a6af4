#include "cpu_int.h"

float kern_from_bf16(uint16_t v)
{
    return f32_of_bits((uint32_t)v << 16);
}

float kern_from_f16(uint16_t v)
{
    uint32_t sign = (uint32_t)(v & 0x8000) << 16, exponent = (v >> 10) & 31, mantissa = v & 1023;
    if (exponent == 31) /* inf; a NaN becomes quiet, as the hardware conversion does it */
        return f32_of_bits(sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x00400000u : 0));
    if (exponent)
        return f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float magnitude = (float)mantissa * 0x1p-24f;
    return f32_of_bits(sign | bits_of_f32(magnitude));
}

uint16_t kern_to_bf16(float v)
{
    uint32_t u = bits_of_f32(v);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40); /* a NaN stays one when its low bits go */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

float kern_exp(float x)
{
    if (isnan(x))
        return x;
    if (x > EXP_HI)
        return INFINITY;
    if (x < EXP_LO)
        return 0;
    float n = fmaf(x, EXP_LOG2E, EXP_MAGIC) - EXP_MAGIC;
    float r = fmaf(n, -EXP_LN2_LO, fmaf(n, -EXP_LN2_HI, x));
    float q = fmaf(fmaf(fmaf(fmaf(EXP_Q4, r, EXP_Q3), r, EXP_Q2), r, EXP_Q1), r, EXP_Q0);
    float p = fmaf(fmaf(q, r, 1), r, 1);
    int whole = (int)n, half = whole >> 1;
    float scale0 = f32_of_bits((uint32_t)(half + 127) << 23);
    float scale1 = f32_of_bits((uint32_t)(whole - half + 127) << 23);
    return p * scale0 * scale1;
}
