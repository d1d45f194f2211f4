/* weights.h, encoders: what config.json and sentence-transformers' files say, each refusal's sentence, the check of a
 * checkpoint. */
#include "kernels/status.h"
#include "weights/weights.h"
#include "tests/unit/temporary_folder.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GOLDEN "tests/golden/"

static char err[ERR_BYTES];
static struct encoder_config config;

static void setup(void) {
    folder_make("test_encoder_config");
}

TestSuite(encoder_config, .init = setup, .fini = folder_remove);

static void write_file(const char *name, const char *text) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    mkdir(path, 0700);
    *slash = '/';
    FILE *f = fopen(path, "w");
    cr_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

/* A small BERT; later members win, so `more` overrides. */
static int load(const char *more) {
    char text[4096];
    snprintf(text, sizeof text,
             "{\"architectures\":[\"BertModel\"],\"model_type\":\"bert\",\"num_hidden_layers\":2,\"hidden_size\":64,"
             "\"num_attention_heads\":2,\"intermediate_size\":96,\"vocab_size\":100,\"torch_dtype\":\"bfloat16\"%s%s}",
             *more ? "," : "", more);
    write_file("config.json", text);
    err[0] = 0;
    return encoder_config_load(&config, folder, err, sizeof err);
}

static void refused(const char *more, int status, const char *sentence) {
    int found = load(more);
    cr_assert_eq(found, status, "%s: status %d: %s", more, found, err);
    cr_assert(strstr(err, sentence), "%s: expected \"%s\" in \"%s\"", more, sentence, err);
}

/* The same of another file beside a good config.json. */
static void refused_file(const char *name, const char *text, int status, const char *sentence) {
    write_file(name, text);
    refused("", status, sentence);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    cr_assert_eq(remove(path), 0);
}

Test(encoder_config, defaults) {
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert(!strcmp(config.arch_name, "BertModel") && config.dtype == DTYPE_BF16);
    cr_assert(config.n_layers == 2 && config.hidden == 64 && config.n_heads == 2 && config.head_dim == 32);
    cr_assert(config.ffn == 96 && config.vocab == 100 && config.max_positions == 512 && config.n_token_types == 2);
    cr_assert_eq(config.norm_eps, 1e-12f);
    cr_assert(config.pooling == POOLING_MEAN && !config.normalize && config.max_len == 512);
}

Test(encoder_config, golden) {
    static const struct {
        const char *name;
        enum dtype dtype;
        enum pooling pooling;
        bool normalize;
    } folders[] = {{"bert-fp32", DTYPE_F32, POOLING_MEAN, true},
                   {"bert-bf16", DTYPE_BF16, POOLING_CLS, true},
                   {"bert-fp16", DTYPE_F16, POOLING_MEAN, false}};
    for (int i = 0; i < 3; i++) {
        struct checkpoint *c;
        char path[128];
        bool is_encoder;
        snprintf(path, sizeof path, GOLDEN "%s", folders[i].name);
        cr_assert_eq(encoder_config_load(&config, path, err, sizeof err), 0, "%s", err);
        cr_assert(config.dtype == folders[i].dtype && config.pooling == folders[i].pooling);
        cr_assert(config.normalize == folders[i].normalize && config.max_len == 160);
        cr_assert(!model_is_encoder(&is_encoder, path, err, sizeof err) && is_encoder);
        cr_assert_eq(checkpoint_open(&c, path, err, sizeof err), 0, "%s", err);
        cr_assert_eq(encoder_check(c, &config, err, sizeof err), 0, "%s", err);
        config.n_layers++; /* one that is not there */
        cr_assert_eq(encoder_check(c, &config, err, sizeof err), STATUS_INVALID);
        cr_assert(strstr(err, "attention.self.query.weight: expected shape ["), "%s", err);
        config.n_layers -= 2; /* one too many */
        cr_assert_eq(encoder_check(c, &config, err, sizeof err), STATUS_INVALID);
        cr_assert(strstr(err, "expected none of that name in a BertModel"), "%s", err);
        config.n_layers++, config.ffn++;
        cr_assert_eq(encoder_check(c, &config, err, sizeof err), STATUS_INVALID);
        cr_assert(strstr(err, "intermediate.dense.weight: expected shape") && strstr(err, "and "), "%s", err);
        checkpoint_close(c);
    }
    bool is_encoder;
    cr_assert(!model_is_encoder(&is_encoder, GOLDEN "qwen2-fp32", err, sizeof err) && !is_encoder);
}

Test(encoder_config, refusals) {
    refused("\"architectures\":[\"RobertaModel\"]", STATUS_UNSUPPORTED,
            "architectures: expected [\"BertModel\"], found \"RobertaModel\"");
    refused("\"architectures\":[]", STATUS_UNSUPPORTED, "architectures: expected [\"BertModel\"], found an array");
    refused("\"hidden_act\":\"gelu_new\"", STATUS_UNSUPPORTED, "hidden_act: expected \"gelu\", found \"gelu_new\"");
    refused("\"position_embedding_type\":\"relative_key\"", STATUS_UNSUPPORTED, "expected \"absolute\"");
    refused("\"is_decoder\":true", STATUS_UNSUPPORTED, "is_decoder: expected false, found true");
    refused("\"add_cross_attention\":true", STATUS_UNSUPPORTED, "add_cross_attention: expected false");
    refused("\"quantization_config\":{}", STATUS_UNSUPPORTED, "quantization_config: expected none");
    refused("\"num_attention_heads\":3", STATUS_UNSUPPORTED, "hidden_size: expected a multiple of the 3");
    refused("\"hidden_size\":1024,\"num_attention_heads\":2", STATUS_UNSUPPORTED, "hidden_size: expected a multiple");
    refused("\"vocab_size\":0", STATUS_INVALID, "vocab_size");
    refused("\"layer_norm_eps\":-1", STATUS_INVALID, "layer_norm_eps");
    refused("\"torch_dtype\":\"int8\"", STATUS_UNSUPPORTED, "dtype: expected float32");
    write_file("config.json", "{\"architectures\":[\"BertModel\"],\"hidden_size\":64}");
    cr_assert_eq(encoder_config_load(&config, folder, err, sizeof err), STATUS_INVALID);
    cr_assert(strstr(err, "num_hidden_layers: expected an integer from 1 to 1024, found nothing"), "%s", err);
}

#define MODULE(type, path)                                                                                             \
    "{\"idx\":0,\"name\":\"0\",\"path\":\"" path "\",\"type\":\"sentence_transformers.models." type "\"}"
#define MODULES(pooling) "[" MODULE("Transformer", "") "," pooling "]"
#define POOLING          MODULE("Pooling", "1_Pooling")

Test(encoder_config, modules) {
    write_file("1_Pooling/config.json", "{\"word_embedding_dimension\":64,\"pooling_mode_cls_token\":true,"
                                        "\"pooling_mode_mean_tokens\":false}");
    write_file("modules.json", MODULES(POOLING));
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert(config.pooling == POOLING_CLS && !config.normalize);
    write_file("modules.json", MODULES(POOLING "," MODULE("Normalize", "2_Normalize")));
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert(config.pooling == POOLING_CLS && config.normalize);
    write_file("1_Pooling/config.json", "{\"embedding_dimension\":64,\"pooling_mode\":\"mean\"}"); /* the new form */
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert_eq(config.pooling, POOLING_MEAN);

    refused_file("modules.json", MODULES(MODULE("Dense", "2_Dense")), STATUS_UNSUPPORTED, "module 1: expected Pooling");
    refused_file("modules.json", MODULES(POOLING "," MODULE("Dense", "2_Dense")), STATUS_UNSUPPORTED,
                 "module 2: expected Normalize, found \"sentence_transformers.models.Dense\"");
    refused_file("modules.json", MODULES(POOLING "," MODULE("Normalize", "") "," MODULE("Normalize", "")),
                 STATUS_UNSUPPORTED, "module 3: expected none");
    refused_file("modules.json", MODULES(MODULE("Pooling", "../x")), STATUS_INVALID, "a path inside the folder");
    refused_file("modules.json", MODULES(MODULE("Pooling", "/x")), STATUS_INVALID, "a path inside the folder");
    refused_file("modules.json", MODULES(MODULE("Pooling", "nowhere")), STATUS_INVALID, "found no such file");
    refused_file("modules.json", "[" MODULE("Transformer", "0_T") "," POOLING "]", STATUS_UNSUPPORTED,
                 "expected the transformer in the folder itself");
    refused_file("modules.json", "[" MODULE("Transformer", "") "]", STATUS_INVALID, "found fewer");
    refused_file("modules.json", "{}", STATUS_INVALID, "expected a list");
    refused_file("modules.json", "[7]", STATUS_INVALID, "expected modules with a type");
    refused_file("modules.json", "[", STATUS_INVALID, "modules.json");
}

Test(encoder_config, pooling) {
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"{\"pooling_mode_max_tokens\":true}", "found another one"},
        {"{\"pooling_mode_mean_tokens\":true,\"pooling_mode_max_tokens\":true}", "found several at once"},
        {"{\"pooling_mode_mean_tokens\":true,\"pooling_mode_cls_token\":true}", "found several at once"},
        {"{\"pooling_mode\":\"lasttoken\"}", "found lasttoken"},
        {"{\"pooling_mode\":\"attention\"}", "found attention"},
        {"{}", "found another one"},
        {"{\"pooling_mode_mean_tokens\":1}", "pooling_mode_mean_tokens"},
    };
    write_file("modules.json", MODULES(POOLING));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused_file("1_Pooling/config.json", cases[i].text, i == 6 ? STATUS_INVALID : STATUS_UNSUPPORTED,
                     cases[i].sentence);
    refused_file("1_Pooling/config.json", "{\"word_embedding_dimension\":65,\"pooling_mode_mean_tokens\":true}",
                 STATUS_INVALID, "word_embedding_dimension: expected hidden_size, 64, found 65");
}

Test(encoder_config, lengths) {
    write_file("sentence_bert_config.json", "{\"max_seq_length\":256,\"do_lower_case\":true}");
    write_file("tokenizer_config.json", "{\"model_max_length\":1000000000000000019884624838656}");
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert_eq(config.max_len, 256);
    write_file("tokenizer_config.json", "{\"model_max_length\":128,\"do_lower_case\":false}");
    refused("", STATUS_UNSUPPORTED, "do_lower_case: expected false with a tokenizer that keeps case");
    write_file("sentence_bert_config.json", "{\"max_seq_length\":null}");
    cr_assert_eq(load(""), 0, "%s", err);
    cr_assert_eq(config.max_len, 128);
    refused_file("sentence_bert_config.json", "{\"max_seq_length\":513}", STATUS_INVALID,
                 "max_seq_length: expected at most max_position_embeddings, 512, found 513");
    refused_file("config_sentence_transformers.json", "{\"default_prompt_name\":\"query\"}", STATUS_UNSUPPORTED,
                 "default_prompt_name: expected none, found \"query\"");
    write_file("config_sentence_transformers.json", "{\"default_prompt_name\":null,\"prompts\":{\"query\":\"x\"}}");
    cr_assert_eq(load(""), 0, "%s", err);
}
