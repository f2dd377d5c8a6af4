/*
 * Rotary tables. The frequencies are those of transformers (modeling_rope_utils.py): theta^(-2d /
 * head_dim), divided by the factor (linear), or by wavelength between two corner frequencies
 * (llama3). Angles are taken in double precision, so that positions in the hundred thousands keep
 * their place on the circle.
 */
#include "model/model_int.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "io/io.h"

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

/* Positions of one job: some 100 us of work. */
#define JOB_POSITIONS 128

struct tables {
    const double *frequency; /* [half] */
    size_t half, positions;
    float *cos, *sin; /* [positions][half] */
};

static void fill_positions(void *arg, size_t job)
{
    const struct tables *t = arg;
    size_t begin = job * JOB_POSITIONS, end = begin + JOB_POSITIONS;
    end = end < t->positions ? end : t->positions;
    for (size_t p = begin; p < end; p++)
        for (size_t d = 0; d < t->half; d++) {
            double sin_at, cos_at;
            sincos(t->frequency[d] * (double)p, &sin_at, &cos_at);
            t->cos[p * t->half + d] = (float)cos_at;
            t->sin[p * t->half + d] = (float)sin_at;
        }
}

int rope_tables(const struct model_config *c, int32_t max_context, float *cos_out, float *sin_out,
                struct moed_error *err)
{
    size_t half = (size_t)c->head_dim / 2, positions = (size_t)max_context;
    double *frequencies = mem_new(half, sizeof *frequencies);
    for (size_t d = 0; d < half; d++)
        frequencies[d] = frequency(c, (int)d);
    struct tables t = {frequencies, half, positions, cos_out, sin_out};
    int rc =
        io_for_each((positions + JOB_POSITIONS - 1) / JOB_POSITIONS, fill_positions, &t, NULL, err);
    free(frequencies);
    return rc;
}
