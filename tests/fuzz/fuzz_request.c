/* Request bodies of every endpoint: a checked request or an error, and nothing left behind. The
 * first byte picks the endpoint. */
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json_escape.h"
#include "http/api.h"

static const char template_source[] =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if tools %}{{ tools|tojson }}{% endif %}{% if add_generation_prompt %}>{% endif %}";

/* Byte-level pieces: a character of its own for each byte, as byte-level BPE names them. */
static void tokenizer_json(struct buf *out)
{
    unsigned extra = 256;
    buf_puts(out, "{\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":true}],"
                  "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                  "\"add_prefix_space\":false,\"use_regex\":true},\"post_processor\":null,"
                  "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],"
                  "\"vocab\":{");
    for (unsigned byte = 0; byte < 256; byte++) {
        bool plain = (byte >= 0x21 && byte < 0x7F) || (byte >= 0xA1 && byte != 0xAD);
        struct buf name = {0};
        buf_add_utf8(&name, plain ? byte : extra++);
        buf_puts(out, byte ? ",\"" : "\"");
        json_escape_bytes(out, name.data, name.len);
        buf_printf(out, "\":%u", byte);
        buf_fini(&name);
    }
    buf_puts(out, "}}}");
}

/* Made once; lives as long as the process. */
static const struct api_context *context(void)
{
    static char name[] = "m";
    static char *names[] = {name};
    static struct api_context ctx = {.model_names = names, .n_model_names = 1};
    if (ctx.tokenizer)
        return &ctx;
    struct tokenizer *tokenizer;
    struct chat_format *chat;
    struct moed_error err = {0};
    struct buf json = {0};
    tokenizer_json(&json);
    int rc = tokenizer_parse(&tokenizer, TOKENIZER_HF_JSON, json.data, json.len, NULL, 0, &err);
    assert(rc == 0);
    rc = chat_format_parse(&chat, NULL, 0, template_source, sizeof template_source - 1, &err);
    assert(rc == 0);
    buf_fini(&json);
    ctx.tokenizer = tokenizer;
    ctx.chat = chat;
    ctx.info.vocab_size = tokenizer_vocab_size(tokenizer);
    ctx.info.max_model_len = 512;
    ctx.info.max_num_seqs = 4;
    ctx.template_time_unix = 0;
    moed_sampling_default(&ctx.sampling);
    return &ctx;
}

static void check_generation(struct api_request *r, const struct api_context *ctx)
{
    const struct moed_sampling *s = &r->sampling;
    assert(r->n >= 1 && r->n <= MOED_MAX_CHOICES && r->n_prompts >= 1);
    assert(s->temperature >= 0 && s->top_p > 0 && s->top_p <= 1 && s->repetition_penalty > 0);
    assert(s->n_stop <= MOED_MAX_STOP && s->n_stop_id <= MOED_MAX_STOP);
    for (size_t i = 0; i < r->n_prompts; i++) {
        size_t n = r->prompts[i].n;
        assert(n > 0 && n + (size_t)s->max_tokens <= (size_t)ctx->info.max_model_len);
        struct moed_request *q = api_engine_request(r, i);
        assert(q->n_prompt == n);
        moed_request_free(&q);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct api_context *ctx = context();
    if (size == 0)
        return 0;
    enum api_endpoint endpoint = (enum api_endpoint)(1u << data[0] % 5);
    struct api_request *request;
    struct moed_error err = {0};
    char *body = malloc(size);
    memcpy(body, data + 1, size - 1);
    int rc = api_prepare(&request, ctx, endpoint, body, size - 1, &err);
    free(body);
    if (rc < 0) {
        assert(!request && err.text[0] && err.code == rc);
        return 0;
    }
    if (endpoint & API_GENERATE) {
        check_generation(request, ctx);
    } else {
        json_t *reply = json_loadb(request->reply.data, request->reply.len, JSON_ALLOW_NUL, NULL);
        assert(reply);
        json_decref(reply);
    }
    api_request_free(&request);
    return 0;
}
