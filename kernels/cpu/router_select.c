#include "cpu_int.h"

/* Whether logit v comes before the best so far; NaN comes last. */
static int before(float v, float best)
{
    return v > best || (isnan(best) && !isnan(v));
}

void kern_router_select(const struct kern_router *a, size_t row, float *logit)
{
    int32_t *id = a->id + row * (size_t)a->top_k;
    float *weight = a->weight + row * (size_t)a->top_k;
    /* Choose on logits, marking what is taken in the list itself: it is short. */
    for (int k = 0; k < a->top_k; k++) {
        int best = -1;
        for (int e = 0; e < a->experts; e++) {
            int taken = 0;
            for (int j = 0; j < k && !taken; j++)
                taken = id[j] == e;
            if (!taken && (best < 0 || before(logit[e], logit[best])))
                best = e;
        }
        id[k] = best;
    }
    float max = logit[id[0]], sum = 0, chosen = 0;
    for (int e = 0; e < a->experts; e++) {
        logit[e] = kern_exp(logit[e] - max);
        sum += logit[e];
    }
    for (int k = 0; k < a->top_k; k++) {
        weight[k] = logit[id[k]] / sum;
        chosen += weight[k];
    }
    for (int k = 0; k < a->top_k && a->renormalize; k++)
        weight[k] /= chosen;
}
