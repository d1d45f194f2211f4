/* weights.h, configuration: real config.json files, each refusal's sentence, generation defaults, finding a model. */
#include "kernels/status.h"
#include "weights/weights.h"
#include "tests/unit/temporary_folder.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL "../shared/data/model-configs/"

static char err[ERR_BYTES];
static struct model_config config;

static void setup(void) {
    folder_make("test_config");
}

TestSuite(config, .init = setup, .fini = folder_remove);

static void write_file(const char *name, const char *text) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

static void make_folder(const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(mkdir(path, 0700), 0);
}

/* ---- config.json ------------------------------------------------------------------------------------------------ */

/* A small Qwen3; later members win, so `more` overrides. */
static int load(const char *more) {
    char text[4096];
    snprintf(text, sizeof text,
             "{\"architectures\":[\"Qwen3ForCausalLM\"],\"num_hidden_layers\":2,\"hidden_size\":64,"
             "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":32,\"intermediate_size\":96,"
             "\"vocab_size\":100,\"torch_dtype\":\"bfloat16\"%s%s}",
             *more ? "," : "", more);
    write_file("config.json", text);
    err[0] = 0;
    return model_config_load(&config, folder, err, sizeof err);
}

static void refused(const char *more, int status, const char *sentence) {
    char expected[ERR_BYTES];
    cr_expect_eq(load(more), status, "%s", more);
    snprintf(expected, sizeof expected, "%s/config.json: %s", folder, sentence);
    cr_expect_str_eq(err, expected);
}

Test(config, defaults) {
    cr_assert_eq(load(""), 0, "%s", err);
    cr_expect(config.arch == ARCH_QWEN3 && !strcmp(config.arch_name, "Qwen3ForCausalLM") && config.dtype == DTYPE_BF16);
    cr_expect(config.n_layers == 2 && config.hidden == 64 && config.n_heads == 4 && config.n_kv_heads == 2);
    cr_expect(config.head_dim == 32 && config.ffn == 96 && config.vocab == 100 && config.max_positions == 32768);
    cr_expect(config.rms_eps == 1e-6f && config.rope_theta == 10000 && !config.tied && !config.qkv_bias &&
              config.qk_norm);
}

Test(config, variants) {
    cr_assert_eq(load("\"architectures\":[\"Qwen2ForCausalLM\"],\"head_dim\":null,\"tie_word_embeddings\":true"), 0,
                 "%s", err);
    cr_expect(config.arch == ARCH_QWEN2 && config.head_dim == 16 && config.tied && config.qkv_bias && !config.qk_norm);
    cr_assert_eq(load("\"head_dim\":null"), 0, "%s", err);
    cr_expect_eq(config.head_dim, 128, "Qwen3's head dim does not follow the hidden size");
    cr_assert_eq(load("\"num_key_value_heads\":null"), 0, "%s", err);
    cr_expect_eq(config.n_kv_heads, 4);
    /* transformers 5 */
    cr_assert_eq(load("\"torch_dtype\":null,\"dtype\":\"float16\",\"rope_parameters\":{\"rope_type\":\"default\","
                      "\"rope_theta\":5000000},\"layer_types\":[\"full_attention\",\"full_attention\"]"),
                 0, "%s", err);
    cr_expect(config.dtype == DTYPE_F16 && config.rope_theta == 5e6f);
    cr_assert_eq(load("\"dtype\":\"float32\",\"rope_theta\":1e6,\"rope_scaling\":null,\"use_sliding_window\":false,"
                      "\"sliding_window\":131072,\"max_window_layers\":28,\"use_mrope\":false"),
                 0, "%s", err);
    cr_expect(config.dtype == DTYPE_F32 && config.rope_theta == 1e6f, "dtype wins over torch_dtype");
    cr_assert_eq(load("\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"default\"}"), 0, "%s", err);
    cr_expect_eq(config.rope_theta, 1e6f);
}

Test(config, refused) {
    refused("\"architectures\":[\"Qwen3MoeForCausalLM\"]", STATUS_UNSUPPORTED,
            "architectures: expected [\"Qwen2ForCausalLM\"] or [\"Qwen3ForCausalLM\"], found \"Qwen3MoeForCausalLM\"");
    refused("\"architectures\":null", STATUS_UNSUPPORTED,
            "architectures: expected [\"Qwen2ForCausalLM\"] or [\"Qwen3ForCausalLM\"], found null");
    refused("\"num_hidden_layers\":null", STATUS_INVALID,
            "num_hidden_layers: expected an integer from 1 to 1024, found nothing");
    refused("\"num_hidden_layers\":1025", STATUS_INVALID,
            "num_hidden_layers: expected an integer from 1 to 1024, found 1025");
    refused("\"hidden_size\":1048577", STATUS_INVALID,
            "hidden_size: expected an integer from 1 to 1048576, found 1048577");
    refused("\"hidden_size\":-64", STATUS_INVALID, "hidden_size: expected an integer from 1 to 1048576, found -64");
    refused("\"num_attention_heads\":0", STATUS_INVALID,
            "num_attention_heads: expected an integer from 1 to 1048576, found 0");
    refused("\"intermediate_size\":\"96\"", STATUS_INVALID,
            "intermediate_size: expected an integer from 1 to 1048576, found \"96\"");
    refused("\"vocab_size\":4194305", STATUS_INVALID,
            "vocab_size: expected an integer from 1 to 4194304, found 4194305");
    refused("\"max_position_embeddings\":0", STATUS_INVALID,
            "max_position_embeddings: expected an integer from 1 to 2147483647, found 0");
    refused("\"num_key_value_heads\":3", STATUS_INVALID,
            "num_key_value_heads: expected a divisor of the 4 attention heads, found 3");
    refused("\"num_key_value_heads\":8", STATUS_INVALID,
            "num_key_value_heads: expected a divisor of the 4 attention heads, found 8");
    refused("\"head_dim\":33", STATUS_UNSUPPORTED, "head_dim: expected an even number up to 256, found 33");
    refused("\"head_dim\":512", STATUS_INVALID, "head_dim: expected an integer from 1 to 256, found 512");
    refused("\"architectures\":[\"Qwen2ForCausalLM\"],\"head_dim\":null,\"hidden_size\":66", STATUS_INVALID,
            "hidden_size: expected a multiple of the 4 attention heads, found 66");
    refused("\"architectures\":[\"Qwen2ForCausalLM\"],\"head_dim\":null,\"hidden_size\":2048", STATUS_UNSUPPORTED,
            "head_dim: expected an even number up to 256, found 2048 / 4 = 512");
    refused("\"rms_norm_eps\":2", STATUS_INVALID, "rms_norm_eps: expected a number from 0 to 1, found 2");
    refused("\"rope_theta\":0", STATUS_INVALID, "rope_theta: expected a number from 0.001 to 1e+12, found 0");
    refused("\"tie_word_embeddings\":1", STATUS_INVALID, "tie_word_embeddings: expected true or false, found 1");
    refused("\"torch_dtype\":\"float64\"", STATUS_UNSUPPORTED,
            "dtype: expected float32, bfloat16 or float16, found \"float64\"");
    refused(
        "\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}", STATUS_UNSUPPORTED,
        "quantization_config.quant_method: expected \"awq\", found \"gptq\"; use an AWQ or an unquantised checkpoint");
    refused("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0}", STATUS_UNSUPPORTED,
            "rope_scaling.rope_type: expected \"default\", the only rotary embedding supported, found \"yarn\"");
    refused("\"rope_scaling\":{\"type\":\"linear\",\"factor\":4.0}", STATUS_UNSUPPORTED,
            "rope_scaling.type: expected \"default\", the only rotary embedding supported, found \"linear\"");
    refused("\"rope_parameters\":{\"rope_type\":\"yarn\"}", STATUS_UNSUPPORTED,
            "rope_parameters.rope_type: expected \"default\", the only rotary embedding supported, found \"yarn\"");
    refused("\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", STATUS_UNSUPPORTED,
            "rope_parameters: expected one set of parameters for all layers, found one for \"full_attention\"");
    refused("\"rope_parameters\":{\"partial_rotary_factor\":0.5}", STATUS_UNSUPPORTED,
            "rope_parameters.partial_rotary_factor: expected 1, found less");
    refused("\"rope_parameters\":[]", STATUS_INVALID, "rope_parameters: expected an object or null, found an array");
    refused("\"partial_rotary_factor\":0.25", STATUS_UNSUPPORTED, "partial_rotary_factor: expected 1, found less");
    refused("\"use_sliding_window\":true,\"sliding_window\":4096", STATUS_UNSUPPORTED,
            "use_sliding_window: expected false, found true; sliding windows are not supported");
    refused("\"layer_types\":[\"full_attention\",\"sliding_attention\"]", STATUS_UNSUPPORTED,
            "layer_types: expected \"full_attention\" in every layer, found \"sliding_attention\"");
    refused("\"layer_types\":[\"full_attention\"]", STATUS_INVALID,
            "layer_types: expected one entry for each of the 2 layers, found 1");
    refused("\"hidden_act\":\"gelu\"", STATUS_UNSUPPORTED, "hidden_act: expected \"silu\", found \"gelu\"");
    refused("\"attention_bias\":true", STATUS_UNSUPPORTED,
            "attention_bias: expected false, found true; a bias on o_proj is not supported");
    refused("\"use_mrope\":true", STATUS_UNSUPPORTED,
            "use_mrope: expected false, found true; multimodal rope is not supported");
    write_file("config.json", "[]");
    cr_expect_eq(model_config_load(&config, folder, err, sizeof err), STATUS_INVALID);
    cr_expect(strstr(err, "/config.json: expected an object, found an array"), "%s", err);
    write_file("config.json", "{");
    cr_expect_eq(model_config_load(&config, folder, err, sizeof err), STATUS_INVALID);
    cr_expect(strstr(err, "/config.json: invalid JSON at byte 1: expected a member name or '}', found the end of"),
              "%s", err);
    cr_expect_eq(model_config_load(&config, "/nonexistent", err, sizeof err), STATUS_NOT_FOUND);
    cr_expect_str_eq(err, "/nonexistent/config.json: cannot be opened: No such file or directory");
}

/* Absent dtype: the embedding's, and float32 where there is no checkpoint. */
#define AWQ(more)                                                                                                      \
    "\"hidden_size\":256,\"intermediate_size\":384,\"quantization_config\":{\"quant_method\":\"awq\"" more "}"

Test(config, awq) {
    cr_assert_eq(load(AWQ("")), 0, "%s", err);
    cr_expect_eq(config.quantization.method, QUANTIZATION_AWQ);
    cr_expect_eq(config.quantization.group, 128);
    cr_expect(model_is_quantized(&config, "model.layers.1.mlp.up_proj.weight"));
    cr_expect(!model_is_quantized(&config, "lm_head"));
    cr_expect(!model_is_quantized(&config, "model.layers.0.self_attn.q_norm"));
    cr_assert_eq(load(AWQ(",\"bits\":4,\"group_size\":128,\"zero_point\":true,\"version\":\"GEMM\","
                          "\"modules_to_not_convert\":[\"layers.0.\",\"down_proj\"]")), 0, "%s", err);
    cr_expect_eq(config.quantization.n_skipped, 2);
    cr_expect(!model_is_quantized(&config, "model.layers.0.mlp.up_proj"));
    cr_expect(model_is_quantized(&config, "model.layers.1.mlp.up_proj"));
    cr_expect(!model_is_quantized(&config, "model.layers.1.mlp.down_proj"));

    refused(AWQ(",\"version\":\"gemv\""), STATUS_UNSUPPORTED,
            "quantization_config.version: expected \"gemm\", found \"gemv\" (llm-awq's v2 and gemv pack the weights in "
            "another order); use a checkpoint made by AutoAWQ");
    refused(AWQ(",\"bits\":8"), STATUS_UNSUPPORTED, "quantization_config.bits: expected 4, found 8");
    refused(AWQ(",\"group_size\":64"), STATUS_UNSUPPORTED, "quantization_config.group_size: expected 128, found 64");
    refused(AWQ(",\"zero_point\":false"), STATUS_UNSUPPORTED,
            "quantization_config.zero_point: expected true, found false");
    refused(AWQ(",\"modules_to_not_convert\":\"lm_head\""), STATUS_INVALID,
            "modules_to_not_convert: expected a list or null, found \"lm_head\"");
    refused(AWQ(",\"modules_to_not_convert\":[\"\"]"), STATUS_INVALID,
            "modules_to_not_convert: expected names of 1 to 63 bytes, found \"\"");
    refused("\"quantization_config\":{\"quant_method\":\"awq\"}", STATUS_UNSUPPORTED,
            "quantization_config: expected widths that are multiples of 128, found 64");
    refused(
        "\"quantization_config\":[]", STATUS_UNSUPPORTED,
        "quantization_config.quant_method: expected \"awq\", found an array; use an AWQ or an unquantised checkpoint");
}

Test(config, dtype_of_the_checkpoint) {
    static const float zeros[4];
    char path[PATH_MAX];
    struct tensor t[2] = {
        {.name = "model.norm.weight", .dtype = DTYPE_F32, .n_dims = 1, .dims = {1}, .bytes = 4, .data = zeros},
        {.name = "model.embed_tokens.weight",
         .dtype = DTYPE_F16,
         .n_dims = 2,
         .dims = {1, 1},
         .bytes = 2,
         .data = zeros}};
    cr_assert_eq(load("\"torch_dtype\":null"), 0, "%s", err);
    cr_expect_eq(config.dtype, DTYPE_F32);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    cr_assert_eq(safetensors_write(path, t, 2, err, sizeof err), 0, "%s", err);
    cr_assert_eq(load("\"torch_dtype\":null"), 0, "%s", err);
    cr_expect_eq(config.dtype, DTYPE_F16);
    write_file("model.safetensors", "broken");
    cr_expect_eq(load("\"torch_dtype\":null"), STATUS_INVALID);
    cr_expect(strstr(err, "expected a safetensors file"), "%s", err);
}

Test(config, real_files) {
    static const struct {
        const char *file;
        int layers, hidden, heads, kv_heads, head_dim, ffn, vocab, positions;
        double theta;
        bool tied;
        int64_t params;
    } real[] = {
        {"aiconfigurator/Qwen--Qwen3-0.6B_config.json", 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e6, true,
         596049920},
        {"other/Qwen--Qwen3-4B-2507_config.json", 36, 2560, 32, 8, 128, 9728, 151936, 262144, 5e6, true, 4022468096},
        {"other/Qwen--Qwen3-Embedding-0.6B_config.json", 28, 1024, 16, 8, 128, 3072, 151669, 32768, 1e6, true,
         595776512},
        {"aiconfigurator/Qwen--Qwen3-8B_config.json", 36, 4096, 32, 8, 128, 12288, 151936, 40960, 1e6, false,
         8190735360},
        {"inference-sim/qwen3-14b.config.json", 40, 5120, 40, 8, 128, 17408, 151936, 40960, 1e6, false, 14768307200},
        {"aiconfigurator/Qwen--Qwen3-32B_config.json", 64, 5120, 64, 8, 128, 25600, 151936, 40960, 1e6, false,
         32762123264},
        {"inference-sim/qwen2.5-7b-instruct.config.json", 28, 3584, 28, 4, 128, 18944, 152064, 32768, 1e6, false,
         7615616512},
    };
    if (access(REAL, F_OK)) cr_skip_test("the real config.json files are not at " REAL);
    for (size_t i = 0; i < sizeof real / sizeof *real; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, REAL "%s", real[i].file);
        cr_expect_eq(model_config_load(&config, path, err, sizeof err), 0, "%s", err);
        cr_expect(config.n_layers == real[i].layers && config.hidden == real[i].hidden &&
                      config.n_heads == real[i].heads && config.n_kv_heads == real[i].kv_heads &&
                      config.head_dim == real[i].head_dim && config.ffn == real[i].ffn &&
                      config.vocab == real[i].vocab && config.max_positions == real[i].positions &&
                      config.rope_theta == (float)real[i].theta && config.tied == real[i].tied &&
                      config.dtype == DTYPE_BF16,
                  "%s", path);
        cr_expect_eq(model_config_n_params(&config), real[i].params, "%s: found %lld", path,
                     (long long)model_config_n_params(&config));
    }
    /* Qwen2.5-7B: 2 x 28 layers x 4 heads x 128 */
    cr_expect_eq(model_config_kv_bytes(&config, DTYPE_BF16), 57344);
    cr_expect_eq(model_config_kv_bytes(&config, DTYPE_F8_E4M3), 28672 + 2 * 28 * 4 * 4);

    static const char *const others[] = {
        "aiconfigurator/Qwen--Qwen3-30B-A3B_config.json", "aiconfigurator/openai--gpt-oss-120b_config.json",
        "aiconfigurator/Qwen--Qwen3-32B-FP8_config.json", "aiconfigurator/Qwen--Qwen3.5-27B_config.json",
        "other/BAAI--bge-base-en-v1.5_config.json"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, REAL "%s", others[i]);
        cr_expect_eq(model_config_load(&config, path, err, sizeof err), STATUS_UNSUPPORTED, "%s", path);
    }
}

/* ---- generation_config.json ------------------------------------------------------------------------------------- */

static struct generation_config generation;

static int load_generation(const char *text) {
    if (text) write_file("generation_config.json", text);
    err[0] = 0;
    return generation_config_load(&generation, &config, folder, err, sizeof err);
}

static void refused_generation(const char *text, int status, const char *sentence) {
    char expected[ERR_BYTES];
    cr_expect_eq(load_generation(text), status, "%s", text);
    snprintf(expected, sizeof expected, "%s/generation_config.json: %s", folder, sentence);
    cr_expect_str_eq(err, expected);
}

Test(config, generation) {
    cr_assert_eq(load("\"eos_token_id\":7,\"pad_token_id\":3"), 0, "%s", err);
    cr_assert_eq(load_generation(NULL), 0, "%s", err);
    cr_expect(generation.n_eos == 1 && generation.eos[0] == 7, "one id, whatever members come after it");
    cr_expect(generation.temperature == 1 && generation.top_p == 1 && generation.top_k == 0 && generation.min_p == 0 &&
              generation.repetition_penalty == 1);
    cr_assert_eq(
        load_generation("{\"bos_token_id\":1,\"do_sample\":true,\"eos_token_id\":[9,8],\"pad_token_id\":9,"
                        "\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95,\"min_p\":0.1,\"repetition_penalty\":1.05}"),
        0, "%s", err);
    cr_expect(generation.n_eos == 2 && generation.eos[0] == 9 && generation.eos[1] == 8, "they replace config.json's");
    cr_expect(generation.temperature == 0.6f && generation.top_p == 0.95f && generation.top_k == 20 &&
              generation.min_p == 0.1f && generation.repetition_penalty == 1.05f);
    cr_assert_eq(load_generation("{\"do_sample\":false,\"temperature\":0.6,\"eos_token_id\":5,\"top_k\":-1}"), 0, "%s",
                 err);
    cr_expect(generation.temperature == 0 && generation.n_eos == 1 && generation.eos[0] == 5 && generation.top_k == 0);
    cr_assert_eq(load_generation("{}"), 0, "%s", err);
    cr_expect(generation.n_eos == 1 && generation.eos[0] == 7);

    refused_generation("{\"eos_token_id\":100}", STATUS_INVALID,
                       "eos_token_id: expected token ids from 0 to 99, found 100");
    refused_generation("{\"eos_token_id\":[1,-1]}", STATUS_INVALID,
                       "eos_token_id: expected token ids from 0 to 99, found -1");
    refused_generation("{\"eos_token_id\":[1,1.5]}", STATUS_INVALID,
                       "eos_token_id: expected token ids from 0 to 99, found 1.5");
    refused_generation("{\"eos_token_id\":\"7\"}", STATUS_INVALID,
                       "eos_token_id: expected token ids from 0 to 99, found \"7\"");
    refused_generation("{\"eos_token_id\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}", STATUS_TOO_LARGE,
                       "eos_token_id: expected at most 16 ids, found more");
    refused_generation("{\"temperature\":-1}", STATUS_INVALID,
                       "temperature: expected a number from 0 to 100, found -1");
    refused_generation("{\"top_p\":0}", STATUS_INVALID, "top_p: expected a number from 1e-06 to 1, found 0");
    refused_generation("{\"top_k\":0.5}", STATUS_INVALID,
                       "top_k: expected an integer from -1 to 2147483647, found 0.5");
    refused_generation("{\"min_p\":2}", STATUS_INVALID, "min_p: expected a number from 0 to 1, found 2");
    refused_generation("{\"repetition_penalty\":0}", STATUS_INVALID,
                       "repetition_penalty: expected a number from 0.001 to 100, found 0");
    refused_generation("[]", STATUS_INVALID, "expected an object, found an array");
    refused_generation("{", STATUS_INVALID,
                       "invalid JSON at byte 1: expected a member name or '}', found the end of the text");
    cr_assert_eq(load("\"eos_token_id\":[]"), 0, "%s", err);
    cr_assert_eq(load_generation("{}"), 0, "%s", err);
    cr_expect_eq(generation.n_eos, 0);
}

/* ---- finding ---------------------------------------------------------------------------------------------------- */

static char found[PATH_MAX];

static void expect_found(const char *name, const char *rest) {
    char expected[PATH_MAX];
    cr_expect_eq(model_find(name, found, sizeof found, err, sizeof err), 0, "%s", err);
    snprintf(expected, sizeof expected, "%s%s", folder, rest);
    cr_expect_str_eq(found, expected);
}

/* "NAME: A FOLDER B" */
static void expect_not_found(const char *name, const char *a, const char *b) {
    char expected[ERR_BYTES];
    cr_expect_eq(model_find(name, found, sizeof found, err, sizeof err), STATUS_NOT_FOUND);
    snprintf(expected, sizeof expected, "%s: %s%s%s", name, a, folder, b);
    cr_expect_str_eq(err, expected);
}

Test(config, find_folder) {
    char path[PATH_MAX], expected[ERR_BYTES];
    cr_expect_eq(model_find(folder, found, sizeof found, err, sizeof err), STATUS_NOT_FOUND);
    snprintf(expected, sizeof expected,
             "%s: expected a model in Hugging Face layout, found a folder without config.json", folder);
    cr_expect_str_eq(err, expected);
    write_file("config.json", "{}");
    expect_found(folder, "");
    snprintf(path, sizeof path, "%s/config.json", folder);
    expect_found(path, "/config.json");
    cr_expect_eq(model_find(folder, found, 5, err, sizeof err), STATUS_TOO_LARGE);
    static const char *const bad[] = {"../../nowhere", "/nonexistent", "a/b/c",  "a//b", "",
                                      "-x/y",          "x/y.",         "a/b--c", "a b",  "a/\xc3\xa9"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect_eq(model_find(bad[i], found, sizeof found, err, sizeof err), STATUS_NOT_FOUND, "%s", bad[i]);
        snprintf(expected, sizeof expected,
                 "%s: expected a folder with config.json or a name like Qwen/Qwen3-0.6B, found no such folder", bad[i]);
        cr_expect_str_eq(err, expected);
    }
}

Test(config, find_in_cache) {
    setenv("HF_HUB_CACHE", folder, 1);
    expect_not_found("Qwen/Qwen3-0.6B", "expected a folder with config.json or a model in the Hugging Face cache ",
                     ", found neither; \"tandem pull Qwen/Qwen3-0.6B\" downloads it");
    make_folder("models--Qwen--Qwen3-0.6B");
    expect_not_found("Qwen/Qwen3-0.6B", "expected a snapshot with config.json in ",
                     "/models--Qwen--Qwen3-0.6B, found none; its download is not complete");
    make_folder("models--Qwen--Qwen3-0.6B/snapshots");
    make_folder("models--Qwen--Qwen3-0.6B/snapshots/abc");
    expect_not_found("Qwen/Qwen3-0.6B", "expected a snapshot with config.json in ",
                     "/models--Qwen--Qwen3-0.6B, found none; its download is not complete");
    write_file("models--Qwen--Qwen3-0.6B/snapshots/abc/config.json", "{}");
    expect_found("Qwen/Qwen3-0.6B", "/models--Qwen--Qwen3-0.6B/snapshots/abc");
    make_folder("models--Qwen--Qwen3-0.6B/snapshots/def");
    write_file("models--Qwen--Qwen3-0.6B/snapshots/def/config.json", "{}");
    expect_not_found("Qwen/Qwen3-0.6B", "expected refs/main or a single snapshot in ",
                     "/models--Qwen--Qwen3-0.6B, found 2 snapshots; give the folder of one");
    make_folder("models--Qwen--Qwen3-0.6B/refs");
    write_file("models--Qwen--Qwen3-0.6B/refs/main", "def\n");
    expect_found("Qwen/Qwen3-0.6B", "/models--Qwen--Qwen3-0.6B/snapshots/def");
    write_file("models--Qwen--Qwen3-0.6B/refs/main", "../../../nowhere");
    expect_not_found("Qwen/Qwen3-0.6B", "expected refs/main or a single snapshot in ",
                     "/models--Qwen--Qwen3-0.6B, found 2 snapshots; give the folder of one");
    make_folder("models--gpt2");
    make_folder("models--gpt2/snapshots");
    make_folder("models--gpt2/snapshots/a");
    write_file("models--gpt2/snapshots/a/config.json", "{}");
    expect_found("gpt2", "/models--gpt2/snapshots/a");

    /* where the cache is, by the environment */
    make_folder("hub");
    make_folder("huggingface");
    make_folder("huggingface/hub");
    make_folder(".cache");
    make_folder(".cache/huggingface");
    make_folder(".cache/huggingface/hub");
    setenv("HF_HOME", folder, 1);
    setenv("XDG_CACHE_HOME", folder, 1);
    setenv("HOME", folder, 1);
    static const char tail[] = ", found neither; \"tandem pull gpt2\" downloads it";
    static const char *const unset[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"};
    static const char *const places[] = {"/hub", "/huggingface/hub", "/.cache/huggingface/hub"};
    for (int i = 0; i < 3; i++) {
        char rest[128];
        unsetenv(unset[i]);
        snprintf(rest, sizeof rest, "%s%s", places[i], tail);
        expect_not_found("gpt2", "expected a folder with config.json or a model in the Hugging Face cache ", rest);
    }
}
