/* Any bytes as config.json and as generation_config.json. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *root = json_loadb((const char *)data, size, JSON_DECODE_ANY, NULL);
    if (!root)
        return 0;
    struct model_config c;
    struct model_generation g;
    struct moed_error err;
    if (model_config_parse(&c, root, &err) == 0) {
        uint64_t total, active;
        model_config_parameters(&c, &total, &active);
        assert(active <= total && total < (uint64_t)1 << 61);
        assert(c.n_heads % c.n_kv_heads == 0 && c.head_dim % 2 == 0 && c.top_k <= c.n_experts);
        assert(c.n_eos <= MODEL_MAX_EOS);
    }
    model_generation_parse(&g, root, &err);
    json_decref(root);
    return 0;
}
