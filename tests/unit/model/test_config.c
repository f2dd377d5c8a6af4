#include "check.h"

#include <dirent.h>

#include "model/config.h"

/* Parses a config written with ' for "; the braces around it may be left out. */
static int parse(struct model_config *c, const char *text, struct moed_error *err)
{
    char json[4096];
    int n = snprintf(json, sizeof json, *text == '\'' ? "{%s}" : "%s", text);
    assert_true(n > 0 && n < (int)sizeof json);
    for (int i = 0; i < n; i++)
        if (json[i] == '\'')
            json[i] = '"';
    json_error_t where;
    json_t *root = json_loads(json, JSON_DECODE_ANY, &where);
    if (!root)
        fail_msg("%s: %s", where.text, json);
    int rc = model_config_parse(c, root, err);
    json_decref(root);
    return rc;
}

#define LLAMA_SIZES                                                                                \
    "'architectures':['LlamaForCausalLM'],'vocab_size':100,'hidden_size':64,"                      \
    "'intermediate_size':96,'num_hidden_layers':3,'num_attention_heads':4,"                        \
    "'max_position_embeddings':256"
#define QWEN3_SIZES                                                                                \
    "'architectures':['Qwen3ForCausalLM'],'vocab_size':100,'hidden_size':64,"                      \
    "'intermediate_size':96,'num_hidden_layers':3,'num_attention_heads':4,"                        \
    "'num_key_value_heads':2,'max_position_embeddings':256"
#define QWEN3_MOE_SIZES                                                                            \
    "'architectures':['Qwen3MoeForCausalLM'],'vocab_size':100,'hidden_size':64,"                   \
    "'intermediate_size':96,'num_hidden_layers':6,'num_attention_heads':4,"                        \
    "'num_key_value_heads':2,'max_position_embeddings':256,'num_experts_per_tok':2"

static void older_and_newer_spellings_say_the_same(void **state)
{
    static const char *const pairs[][2] = {
        {LLAMA_SIZES ",'rope_theta':500000.0,'torch_dtype':'bfloat16','rope_scaling':null",
         LLAMA_SIZES ",'dtype':'bfloat16','rope_parameters':{'rope_theta':500000,"
                     "'rope_type':'default'}"},
        {LLAMA_SIZES ",'rope_theta':20000.0,'rope_scaling':{'type':'linear','factor':4}",
         LLAMA_SIZES ",'rope_parameters':{'rope_theta':20000,'rope_type':'linear','factor':4.0}"},
        {LLAMA_SIZES ",'rope_theta':500000.0,'rope_scaling':{'factor':8.0,'low_freq_factor':1.0,"
                     "'high_freq_factor':4.0,'original_max_position_embeddings':64,"
                     "'rope_type':'llama3'}",
         LLAMA_SIZES ",'rope_parameters':{'rope_theta':500000.0,'factor':8.0,"
                     "'low_freq_factor':1.0,'high_freq_factor':4.0,"
                     "'original_max_position_embeddings':64,'rope_type':'llama3'}"},
        {QWEN3_MOE_SIZES ",'num_experts':16", QWEN3_MOE_SIZES ",'num_local_experts':16"},
        {QWEN3_SIZES ",'use_sliding_window':true,'sliding_window':9,'max_window_layers':1",
         QWEN3_SIZES ",'use_sliding_window':true,'sliding_window':9,'max_window_layers':1,"
                     "'layer_types':['full_attention','sliding_attention','sliding_attention']"},
        {LLAMA_SIZES ",'head_dim':null", LLAMA_SIZES ",'head_dim':16"},
    };
    struct moed_error err;
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        struct model_config a, b;
        memset(&a, 0, sizeof a);
        memset(&b, 0, sizeof b);
        assert_ok(parse(&a, pairs[i][0], &err), &err);
        assert_ok(parse(&b, pairs[i][1], &err), &err);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

static void families_have_their_own_defaults(void **state)
{
    struct moed_error err;
    struct model_config c;
    assert_ok(parse(&c, LLAMA_SIZES, &err), &err);
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos[0], 2);
    assert_false(c.tied_embeddings);
    assert_int_equal(c.window[0], 0);

    assert_ok(parse(&c, QWEN3_SIZES, &err), &err);
    assert_int_equal(c.head_dim, 128);
    assert_true(c.qk_norm);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
    assert_int_equal(c.window[2], 0);

    assert_ok(parse(&c, QWEN3_MOE_SIZES, &err), &err);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.n_experts, 128);
    assert_int_equal(c.moe_intermediate, 768);
    assert_false(c.norm_topk);
    assert_int_equal(model_config_moe_layers(&c), 6);
    assert_int_equal(c.intermediate, 0);

    assert_ok(parse(&c,
                    "{'architectures':['MistralForCausalLM'],'vocab_size':100,'hidden_size':64,"
                    "'intermediate_size':96,'num_hidden_layers':3,'num_attention_heads':8,"
                    "'max_position_embeddings':256}",
                    &err),
              &err);
    assert_int_equal(c.window[0], 4096);
    assert_int_equal(c.n_kv_heads, 8);
}

static void experts_lie_where_the_config_says(void **state)
{
    struct moed_error err;
    struct model_config c;
    assert_ok(parse(&c,
                    "{" QWEN3_MOE_SIZES ",'num_experts':16,'norm_topk_prob':true,"
                    "'decoder_sparse_step':2,'mlp_only_layers':[3]}",
                    &err),
              &err);
    static const bool moe[] = {false, true, false, false, false, true};
    assert_memory_equal(c.moe_layer, moe, sizeof moe);
    assert_int_equal(c.intermediate, 96);
    assert_true(c.norm_topk);
    assert_ok(parse(&c, "{" QWEN3_MOE_SIZES ",'mlp_only_layers':[0,1,2,3,4,5]}", &err), &err);
    assert_int_equal(c.n_experts, 0);
    assert_int_equal(c.top_k, 0);
}

static void eos_may_be_a_list(void **state)
{
    struct moed_error err;
    struct model_config c;
    assert_ok(parse(&c, "{" LLAMA_SIZES ",'eos_token_id':[7,9]}", &err), &err);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[1], 9);
}

static void wrong_values_are_refused_by_name(void **state)
{
    static const struct {
        const char *text, *param;
        int code;
    } cases[] = {
        {"[]", "", MOED_EFORMAT},
        {"{}", "architectures", MOED_EFORMAT},
        {"{'architectures':['GPT2LMHeadModel']}", "architectures", MOED_EUNSUPPORTED},
        {"{'model_type':'mamba'}", "model_type", MOED_EUNSUPPORTED},
        {"{'architectures':['LlamaForCausalLM']}", "vocab_size", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'hidden_act':'gelu'}", "hidden_act", MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'quantization_config':{'quant_method':'fp8'}}", "quantization_config",
         MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'head_dim':7}", "head_dim", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'head_dim':100000}", "head_dim", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'num_key_value_heads':3}", "num_key_value_heads", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'rms_norm_eps':'small'}", "rms_norm_eps", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'rope_theta':0}", "rope_theta", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'rope_scaling':{'type':'yarn','factor':4}}", "rope_type",
         MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'rope_scaling':{'type':'linear'}}", "factor", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'rope_scaling':7}", "rope_scaling", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'rope_parameters':{'full_attention':{'rope_theta':1}}}",
         "full_attention", MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'rope_parameters':{'partial_rotary_factor':0.5}}",
         "partial_rotary_factor", MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'dtype':'float8_e4m3fn'}", "dtype", MOED_EUNSUPPORTED},
        {"{" LLAMA_SIZES ",'eos_token_id':100}", "eos_token_id", MOED_EFORMAT},
        {"{" LLAMA_SIZES ",'eos_token_id':[1,2,3,4,5,6,7,8,9]}", "eos_token_id", MOED_ELIMIT},
        {"{" LLAMA_SIZES ",'tie_word_embeddings':1}", "tie_word_embeddings", MOED_EFORMAT},
        {"{" QWEN3_SIZES ",'layer_types':['full_attention']}", "layer_types", MOED_EFORMAT},
        {"{" QWEN3_SIZES ",'layer_types':['full_attention','linear_attention',"
         "'full_attention']}",
         "layer_types", MOED_EUNSUPPORTED},
        {"{" QWEN3_MOE_SIZES ",'num_experts':1}", "num_experts_per_tok", MOED_EFORMAT},
        {"{" QWEN3_MOE_SIZES ",'num_experts':8,'num_local_experts':9}", "num_experts",
         MOED_EFORMAT},
        {"{" QWEN3_MOE_SIZES ",'mlp_only_layers':[6]}", "mlp_only_layers", MOED_EFORMAT},
        {"{" QWEN3_MOE_SIZES ",'decoder_sparse_step':0}", "decoder_sparse_step", MOED_EFORMAT},
        {"{" QWEN3_MOE_SIZES ",'use_sliding_window':true,'max_window_layers':3}",
         "max_window_layers", MOED_EUNSUPPORTED},
        {"{" QWEN3_MOE_SIZES ",'shared_expert_intermediate_size':64}",
         "shared_expert_intermediate_size", MOED_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct moed_error err = {0};
        struct model_config c;
        int rc = parse(&c, cases[i].text, &err);
        if (rc != cases[i].code || strcmp(err.param, cases[i].param) != 0)
            fail_msg("%s: %d, %s, \"%s\"", cases[i].text, rc, err.param, err.text);
        if (*cases[i].param)
            assert_non_null(strstr(err.text, cases[i].param));
    }
}

static void parameters_match_published_totals_of_two_models(void **state)
{
    struct moed_error err;
    struct model_config c;
    uint64_t total, active;
    assert_ok(parse(&c,
                    "{'architectures':['MixtralForCausalLM'],'hidden_size':4096,"
                    "'intermediate_size':14336,'num_hidden_layers':32,'num_attention_heads':32,"
                    "'num_key_value_heads':8,'vocab_size':32000,'max_position_embeddings':32768}",
                    &err),
              &err);
    model_config_parameters(&c, &total, &active);
    assert_int_equal(total, 46702792704);
    assert_int_equal((active + 50000000) / 100000000, 129);
    assert_ok(parse(&c,
                    "{'architectures':['Qwen3MoeForCausalLM'],'hidden_size':2048,"
                    "'moe_intermediate_size':768,'num_hidden_layers':48,'num_attention_heads':32,"
                    "'num_key_value_heads':4,'head_dim':128,'num_experts':128,"
                    "'num_experts_per_tok':8,'vocab_size':151936,'max_position_embeddings':40960}",
                    &err),
              &err);
    model_config_parameters(&c, &total, &active);
    assert_int_equal(total / 100000000, 305);
    assert_int_equal(active / 100000000, 33);
}

static const struct {
    const char *file;
    double billions; /* published */
} published[] = {
    {"Mixtral-8x7B-v0.1.json", 46.7},
    {"Mixtral-8x22B-v0.1.json", 140.6},
    {"Qwen3-30B-A3B.json", 30.5},
    {"Qwen3-235B-A22B.json", 235.1},
    {"Qwen3-Coder-480B-A35B-Instruct.json", 480.2},
    {"Qwen3-0.6B.json", 0.6},
    {"Qwen3-8B.json", 8.2},
    {"Llama-2-7b-hf.json", 6.74},
    {"Meta-Llama-3.1-8B.json", 8.03},
    {"TinyLlama-1.1B-Chat-v1.0.json", 1.1},
    {"SmolLM2-135M.json", 0.135},
};
#define PUBLISHED_COUNT (sizeof published / sizeof published[0])

static void real_configs_parse_or_are_refused_in_words(void **state)
{
    char dir[1024];
    snprintf(dir, sizeof dir, "%s", data_path("../configs"));
    struct dirent **names = NULL;
    int n = scandir(dir, &names, NULL, alphasort);
    if (n < 0) {
        print_message("%s is not there: skipped\n", dir);
        skip();
    }
    size_t parsed = 0;
    for (int i = 0; i < n; i++) {
        char path[1300];
        struct moed_error err = {0};
        struct model_config c;
        snprintf(path, sizeof path, "%s/%s", dir, names[i]->d_name);
        size_t len = strlen(names[i]->d_name);
        json_t *root = len > 5 && strcmp(names[i]->d_name + len - 5, ".json") == 0
                           ? json_load_file(path, 0, NULL)
                           : NULL;
        size_t k = 0;
        while (k < PUBLISHED_COUNT && strcmp(published[k].file, names[i]->d_name) != 0)
            k++;
        free(names[i]);
        if (!root)
            continue;
        int rc = model_config_parse(&c, root, &err);
        json_decref(root);
        if (k == PUBLISHED_COUNT) {
            assert_int_equal(rc, MOED_EUNSUPPORTED);
            assert_true(*err.param != 0);
            continue;
        }
        uint64_t total, active;
        assert_ok(rc, &err);
        model_config_parameters(&c, &total, &active);
        assert_float_equal((double)total / 1e9, published[k].billions,
                           0.007 * published[k].billions);
        parsed++;
    }
    free(names);
    assert_int_equal(parsed, PUBLISHED_COUNT);
}

static void generation_defaults(void **state)
{
    struct moed_error err;
    struct model_generation g;
    assert_ok(model_generation_parse(&g, NULL, &err), &err);
    assert_true(g.temperature < 0 && g.top_k < 0 && g.do_sample < 0 && g.n_eos == 0);
    json_t *root = json_pack("{s:f, s:f, s:i, s:b, s:[i,i]}", "temperature", 0.6, "top_p", 0.95,
                             "top_k", 20, "do_sample", 1, "eos_token_id", 151645, 151643);
    assert_ok(model_generation_parse(&g, root, &err), &err);
    assert_float_equal(g.temperature, 0.6, 1e-6);
    assert_float_equal(g.top_p, 0.95, 1e-6);
    assert_true(g.min_p < 0);
    assert_int_equal(g.top_k, 20);
    assert_int_equal(g.do_sample, 1);
    assert_int_equal(g.n_eos, 2);
    json_object_set_new(root, "top_p", json_real(1.5));
    assert_int_equal(model_generation_parse(&g, root, &err), MOED_EFORMAT);
    assert_string_equal(err.param, "top_p");
    json_decref(root);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(older_and_newer_spellings_say_the_same),
    cmocka_unit_test(families_have_their_own_defaults),
    cmocka_unit_test(experts_lie_where_the_config_says),
    cmocka_unit_test(eos_may_be_a_list),
    cmocka_unit_test(wrong_values_are_refused_by_name),
    cmocka_unit_test(parameters_match_published_totals_of_two_models),
    cmocka_unit_test(real_configs_parse_or_are_refused_in_words),
    cmocka_unit_test(generation_defaults),
};
CHECK_MAIN(tests)
