/* Compiles and renders its input as a chat template, under tight limits. */
#include <stdint.h>
#include <stdlib.h>

#include "base/buf.h"
#include "text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"Be \\u00fc <b>\"},{\"role\":\"user\","
    "\"content\":[{\"type\":\"text\",\"text\":\"hi\\n\"}]},{\"role\":\"assistant\",\"content\":"
    "null,"
    "\"tool_calls\":[{\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1,\"b\":[2.5,"
    "true]}}}]}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}"
    "],"
    "\"add_generation_prompt\":true,\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"s\":\"a\\u00e9"
    "\\ud83d\\ude42 x\",\"n\":7,\"f\":-2.5,\"l\":[3,1,2],\"d\":{\"k\":\"v\",\"z\":{}},\"e\":null}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct template_limits limits = {
        .steps = 20000, .output_bytes = 1 << 18, .memory_bytes = 1 << 22, .depth = 50};
    struct chat_template *t;
    struct moed_error err;
    struct buf out = {0};
    if (template_compile(&t, (const char *)data, size, &err) < 0)
        return 0;
    json_t *vars = json_loadb(variables, sizeof variables - 1, 0, NULL);
    if (!vars)
        abort();
    template_render(t, vars, 0, &limits, &out, &err);
    json_decref(vars);
    buf_fini(&out);
    template_close(&t);
    return 0;
}
