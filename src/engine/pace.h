/*
 * How many layers of a long pass run between two steps, so that the streams keep a target for the
 * time between two tokens. Pure: the caller brings the clock.
 *
 * A token comes at the end of a step; the next one comes after the layers that follow and the next
 * step. So layers run as long as they and a step are expected to end a tenth below the target. A
 * step is expected to take its mean and four mean deviations, both smoothed, as TCP expects an
 * answer (V. Jacobson, Congestion Avoidance and Control, 1988, appendix A; RFC 6298): steps of
 * several streams vary by two fifths, those of one hardly. One layer runs always, or else the pass
 * would never end.
 */
#ifndef MOED_ENGINE_PACE_H
#define MOED_ENGINE_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* How long something takes. */
struct pace_time {
    double mean_us; /* 0: not known */
    double deviation_us;
    double part; /* of the mean that it deviates by before more is known */
};

struct pace {
    int64_t target_us; /* between two tokens of a stream */
    int64_t token_us;  /* when the last step ended */
    struct pace_time step, layer;
};

/* A step has run from begin_us to end_us. */
void pace_step(struct pace *p, int64_t begin_us, int64_t end_us);
/* There is no stream to keep: a turn lasts from now to the target, so that what arrives is seen. */
void pace_no_streams(struct pace *p, int64_t now_us);
/* A new pass: its layers take their own time. */
void pace_new_pass(struct pace *p);
/* n layers have taken so long. */
void pace_layers_ran(struct pace *p, int32_t n, int64_t us);
/* Layers to run now, of `left` that are left; 0: it is time for a step. first: of this turn. */
int32_t pace_layers(const struct pace *p, int64_t now_us, int32_t left, bool first);

#endif
