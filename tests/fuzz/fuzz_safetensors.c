/* A whole safetensors file in memory: length, header, data. What is accepted must lie in the file.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "store/store_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct moed_error err = {0};
    struct safetensors_header h;
    uint64_t json_bytes;
    if (size < 8 || safetensors_header_bytes(&json_bytes, data, size, "fuzz", &err) < 0)
        return 0;
    const char *json = (const char *)data + 8;
    if (safetensors_parse(&h, json, (size_t)json_bytes, size, "fuzz", 3, &err) < 0) {
        assert(err.code < 0 && err.text[0] && h.n == 0);
        return 0;
    }
    uint64_t at = 8 + json_bytes;
    for (size_t i = 0; i < h.n; i++) {
        const struct tensor_ref *t = &h.tensors[i];
        assert(t->file == 3 && t->offset == at && t->n_dims <= TENSOR_MAX_DIMS);
        assert(strlen(t->name) <= TENSOR_MAX_NAME_BYTES);
        at += t->bytes;
    }
    assert(at == size);
    safetensors_header_fini(&h);
    return 0;
}
