/* A damaged or hostile tokenizer file is refused, or encodes and decodes like any other. */
#include "tokenizer_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return tokenizer_input(TOKENIZER_GGUF, data, size);
}
