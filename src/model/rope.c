/*
 * Rotary tables. The frequencies are those of transformers (modeling_rope_utils.py): theta^(-2d /
 * head_dim), divided by the factor (linear), or by wavelength between two corner frequencies
 * (llama3). Angles are taken in double precision, so that positions in the hundred thousands keep
 * their place on the circle.
 */
#include "model/model_int.h"

#include <math.h>

#define TWO_PI 6.283185307179586476925286766559

static double frequency(const struct model_config *c, int d)
{
    double f = pow(c->rope_theta, -2.0 * d / c->head_dim);
    if (c->rope == ROPE_LINEAR)
        return f / c->rope_factor;
    if (c->rope != ROPE_LLAMA3)
        return f;
    /* Turns within the original context decide: many keep their frequency, few are stretched by the
     * factor, those between are blended. */
    double turns = c->rope_original_max * f / TWO_PI;
    if (turns < c->rope_low_freq)
        return f / c->rope_factor;
    if (turns > c->rope_high_freq)
        return f;
    double keep = (turns - c->rope_low_freq) / (c->rope_high_freq - c->rope_low_freq);
    return (1 - keep) * f / c->rope_factor + keep * f;
}

void rope_tables(const struct model_config *c, int32_t max_context, float *cos_out, float *sin_out)
{
    size_t half = (size_t)c->head_dim / 2;
    for (size_t d = 0; d < half; d++) {
        double f = frequency(c, (int)d);
        for (int32_t p = 0; p < max_context; p++) {
            double sin_at, cos_at;
            sincos(f * p, &sin_at, &cos_at);
            cos_out[(size_t)p * half + d] = (float)cos_at;
            sin_out[(size_t)p * half + d] = (float)sin_at;
        }
    }
}
