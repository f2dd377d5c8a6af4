/* A trained model (outside test data): logits, greedy ids and text that others computed for it. */
#include "check.h"

#include <math.h>

#include "base/buf.h"
#include "store/store.h"
#include "support_model.h"

#define STORIES "models/stories260K"

struct stories {
    struct rig r;
    json_t *expected;
    int32_t ids[128]; /* 1, then greedy */
};

static void stories_open(struct stories *s, enum dtype kv_dtype)
{
    struct moed_error err;
    char dir[1100];
    snprintf(dir, sizeof dir, "%s", data_path(STORIES));
    assert_ok(store_read_json(&s->expected, dir, "expected.json", &err), &err);
    rig_open(&s->r, &(struct rig_options){.dir = dir, .kv_dtype = kv_dtype});
    json_t *ids = json_object_get(s->expected, "greedy_ids");
    assert_int_equal(json_array_size(ids), 128);
    for (size_t i = 0; i < 128; i++)
        s->ids[i] = (int32_t)json_integer_value(json_array_get(ids, i));
}

static void stories_close(struct stories *s)
{
    json_decref(s->expected);
    rig_close(&s->r);
}

static int32_t largest(const float *x, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static void logits_are_those_of_others(void **state)
{
    struct stories s;
    double worst = 0;
    stories_open(&s, DTYPE_F32);
    rig_add(&s.r, s.ids, 32);
    rig_run_alone(&s.r, 32);
    json_t *tops = json_object_get(s.expected, "logits_first32_top5");
    json_t *norms = json_object_get(s.expected, "logsumexp_first32");
    for (size_t p = 0; p < 32; p++) {
        const float *logits = s.r.seq[0].logits + p * (size_t)s.r.c.vocab_size;
        double sum = 0;
        for (int32_t t = 0; t < s.r.c.vocab_size; t++)
            sum += exp((double)logits[t]);
        double delta = fabs(log(sum) - json_number_value(json_array_get(norms, p)));
        worst = delta > worst ? delta : worst;
        json_t *top = json_array_get(tops, p);
        for (size_t k = 0; k < 5; k++) {
            json_t *pair = json_array_get(top, k);
            json_int_t id = json_integer_value(json_array_get(pair, 0));
            delta = fabs((double)logits[id] - json_number_value(json_array_get(pair, 1)));
            worst = delta > worst ? delta : worst;
        }
        assert_int_equal(largest(logits, s.r.c.vocab_size),
                         json_integer_value(json_array_get(json_array_get(top, 0), 0)));
    }
    print_message("stories260K: largest delta of a logit or logsumexp %.2g\n", worst);
    assert_true(worst < 1e-4); /* expected.json has five decimals */
    stories_close(&s);
}

/* Pieces of SentencePiece as text: bytes are written <0xNN>, the first one after BOS loses its
 * space. */
static void add_piece(struct buf *text, const char *piece)
{
    unsigned byte;
    if (sscanf(piece, "<0x%2X>", &byte) == 1)
        buf_putc(text, (char)byte);
    else
        buf_puts(text, !text->len && *piece == ' ' ? piece + 1 : piece);
}

static void greedy_story(enum dtype kv_dtype)
{
    struct stories s;
    struct moed_error err;
    json_t *tokenizer;
    int32_t ids[128] = {1};
    stories_open(&s, kv_dtype);
    rig_add(&s.r, ids, 128);
    for (int i = 0; i < 127; i++) {
        const float *logits = s.r.seq[0].logits + (size_t)i * (size_t)s.r.c.vocab_size;
        rig_pass(&s.r, (const int32_t[]){1});
        ids[i + 1] = largest(logits, s.r.c.vocab_size);
    }
    assert_memory_equal(ids, s.ids, sizeof ids);
    char dir[1100];
    snprintf(dir, sizeof dir, "%s", data_path(STORIES));
    assert_ok(store_read_json(&tokenizer, dir, "tok512.json", &err), &err);
    json_t *pieces = json_object_get(tokenizer, "vocab");
    struct buf text = {0};
    for (int i = 1; i < 128; i++)
        add_piece(&text, json_string_value(json_array_get(pieces, (size_t)ids[i])));
    assert_string_equal(buf_str(&text),
                        json_string_value(json_object_get(s.expected, "greedy_text")));
    buf_fini(&text);
    json_decref(tokenizer);
    stories_close(&s);
}

static void greedy_text_is_the_story(void **state)
{
    greedy_story(DTYPE_F32);
}

static void greedy_text_with_a_bf16_cache(void **state)
{
    greedy_story(DTYPE_BF16);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(logits_are_those_of_others),
    cmocka_unit_test(greedy_text_is_the_story),
    cmocka_unit_test(greedy_text_with_a_bf16_cache),
};
CHECK_MAIN(tests)
