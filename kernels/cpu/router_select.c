#include "cpu_int.h"

/* Whether logit v comes before the best so far; NaN comes last. */
static int before(float v, float best)
{
    return v > best || (isnan(best) && !isnan(v));
}

/* The best expert that is not among the n taken ones: their list is short. */
static int32_t best_left(const float *logit, int experts, const int32_t *taken, int n)
{
    int32_t best = -1;
    for (int32_t e = 0; e < experts; e++) {
        int is_taken = 0;
        for (int j = 0; j < n && !is_taken; j++)
            is_taken = taken[j] == e;
        if (!is_taken && (best < 0 || before(logit[e], logit[best])))
            best = e;
    }
    return best;
}

void kern_router_select(const struct kern_router *a, size_t row, float *logit)
{
    const int32_t *forced = a->forced ? a->forced + row * (size_t)a->top_k : NULL;
    int32_t *id = a->id + row * (size_t)a->top_k;
    float *weight = a->weight + row * (size_t)a->top_k;
    float max = 0, sum = 0, chosen = 0;
    for (int k = 0; k < a->top_k; k++) {
        if (k == 0 || !forced) {
            id[k] = best_left(logit, a->experts, id, k);
            max = k == 0 ? logit[id[0]] : max;
        }
        if (forced)
            id[k] = forced[k];
    }
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
