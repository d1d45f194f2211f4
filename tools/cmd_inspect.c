/* cmd_inspect.c - `tandem inspect`: what a checkpoint is, what it weighs, and what fits in a given memory. */
#include "kernels/kernels.h"
#include "tools/options.h"
#include "weights/weights.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int cmd_inspect(int argc, char **argv);

struct facts {
    struct model_config config;
    struct generation_config generation;
    size_t n_tensors, bytes[DTYPE_COUNT], weight_bytes;
    int64_t n_params, kv_bytes, kv_bytes_fp8;
    size_t memory;   /* asked for, or the machine's free */
    int64_t kv_room; /* tokens of KV that fit beside the weights; negative: the weights alone do not */
};

static void print_people(const struct facts *f, const char *path) {
    const struct model_config *c = &f->config;
    printf("%s\n\n", path);
    printf("  architecture     %s\n", c->arch_name);
    printf("  parameters       %.3f M (%" PRId64 ")\n", (double)f->n_params / 1e6, f->n_params);
    printf("  layers           L = %d\n", c->n_layers);
    printf("  hidden           C = %d\n", c->hidden);
    printf("  heads            H = %d query, K = %d KV, D = %d wide\n", c->n_heads, c->n_kv_heads, c->head_dim);
    printf("  feed-forward     F = %d\n", c->ffn);
    printf("  vocabulary       V = %d%s\n", c->vocab, c->tied ? ", embedding and lm_head tied" : "");
    printf("  positions        %d, RoPE theta %g\n", c->max_positions, (double)c->rope_theta);
    printf("  q, k, v biases   %s\n", c->qkv_bias ? "yes" : "no");
    printf("  q, k norms       %s\n", c->qk_norm ? "yes" : "no");
    printf("  end of text      ");
    for (int i = 0; i < f->generation.n_eos; i++) printf(i ? ", %d" : "%d", f->generation.eos[i]);
    printf("%s\n", f->generation.n_eos ? "" : "none");
    printf("  default sampling temperature %g, top_p %g, top_k %d\n\n", (double)f->generation.temperature,
           (double)f->generation.top_p, f->generation.top_k);
    printf("  tensors          %zu\n", f->n_tensors);
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (f->bytes[t]) printf("  %-16s %.1f MB\n", dtype_name((enum dtype)t), (double)f->bytes[t] / 1e6);
    printf("  KV per token     %" PRId64 " bytes in %s, %" PRId64 " in fp8 with scales\n\n", f->kv_bytes,
           dtype_name(c->dtype), f->kv_bytes_fp8);
    printf("  in %.1f GB        ", (double)f->memory / 1e9);
    if (f->kv_room < 0) {
        printf("the weights alone do not fit: they take %.1f GB\n", (double)f->weight_bytes / 1e9);
        return;
    }
    printf("weights and %" PRId64 " tokens of KV: ", f->kv_room);
    if (f->kv_room >= c->max_positions)
        printf("%" PRId64 " sequences of %d tokens\n", f->kv_room / c->max_positions, c->max_positions);
    else
        printf("one sequence of up to %" PRId64 " tokens (--max-model-len)\n", f->kv_room);
}

static void print_json(const struct facts *f, const char *path) {
    const struct model_config *c = &f->config;
    cJSON *o = cJSON_CreateObject(), *bytes = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "path", path);
    cJSON_AddStringToObject(o, "architecture", c->arch_name);
    cJSON_AddNumberToObject(o, "parameters", (double)f->n_params);
    cJSON_AddStringToObject(o, "dtype", dtype_name(c->dtype));
    cJSON_AddNumberToObject(o, "layers", c->n_layers);
    cJSON_AddNumberToObject(o, "hidden", c->hidden);
    cJSON_AddNumberToObject(o, "heads", c->n_heads);
    cJSON_AddNumberToObject(o, "kv_heads", c->n_kv_heads);
    cJSON_AddNumberToObject(o, "head_dim", c->head_dim);
    cJSON_AddNumberToObject(o, "ffn", c->ffn);
    cJSON_AddNumberToObject(o, "vocab", c->vocab);
    cJSON_AddBoolToObject(o, "tied", c->tied);
    cJSON_AddNumberToObject(o, "max_positions", c->max_positions);
    cJSON_AddNumberToObject(o, "tensors", (double)f->n_tensors);
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (f->bytes[t]) cJSON_AddNumberToObject(bytes, dtype_name((enum dtype)t), (double)f->bytes[t]);
    cJSON_AddItemToObject(o, "bytes", bytes);
    cJSON_AddNumberToObject(o, "kv_bytes_per_token", (double)f->kv_bytes);
    cJSON_AddNumberToObject(o, "kv_bytes_per_token_fp8", (double)f->kv_bytes_fp8);
    cJSON_AddNumberToObject(o, "memory", (double)f->memory);
    cJSON_AddNumberToObject(o, "kv_tokens_that_fit", (double)f->kv_room);
    char *text = cJSON_Print(o);
    puts(text);
    free(text);
    cJSON_Delete(o);
}

/* ---- encoders ---------------------------------------------------------------------------------------------------- */

static void print_encoder(const struct encoder_config *c, const struct checkpoint *checkpoint, const char *path) {
    printf("%s\n\n", path);
    printf("  architecture     %s, an encoder: tandem embed\n", c->arch_name);
    printf("  parameters       %.3f M (%" PRId64 ")\n", (double)encoder_config_n_params(c) / 1e6,
           encoder_config_n_params(c));
    printf("  layers           L = %d\n", c->n_layers);
    printf("  hidden           C = %d: what its vectors have\n", c->hidden);
    printf("  heads            H = %d, D = %d wide\n", c->n_heads, c->head_dim);
    printf("  feed-forward     F = %d\n", c->ffn);
    printf("  vocabulary       V = %d\n", c->vocab);
    printf("  texts            of up to %d tokens\n", c->max_len);
    printf("  vectors          %s, %s\n", c->pooling == POOLING_CLS ? "of the first token" : "mean of all tokens",
           c->normalize ? "normalised" : "not normalised");
    printf("  tensors          %zu, to be run in %s\n", checkpoint_n_tensors(checkpoint), dtype_name(c->dtype));
}

static void print_encoder_json(const struct encoder_config *c, const struct checkpoint *checkpoint, const char *path) {
    cJSON *o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "path", path);
    cJSON_AddStringToObject(o, "architecture", c->arch_name);
    cJSON_AddNumberToObject(o, "parameters", (double)encoder_config_n_params(c));
    cJSON_AddStringToObject(o, "dtype", dtype_name(c->dtype));
    cJSON_AddNumberToObject(o, "layers", c->n_layers);
    cJSON_AddNumberToObject(o, "hidden", c->hidden);
    cJSON_AddNumberToObject(o, "heads", c->n_heads);
    cJSON_AddNumberToObject(o, "head_dim", c->head_dim);
    cJSON_AddNumberToObject(o, "ffn", c->ffn);
    cJSON_AddNumberToObject(o, "vocab", c->vocab);
    cJSON_AddNumberToObject(o, "max_tokens", c->max_len);
    cJSON_AddStringToObject(o, "pooling", c->pooling == POOLING_CLS ? "cls" : "mean");
    cJSON_AddBoolToObject(o, "normalized", c->normalize);
    cJSON_AddNumberToObject(o, "tensors", (double)checkpoint_n_tensors(checkpoint));
    char *text = cJSON_Print(o);
    puts(text);
    free(text);
    cJSON_Delete(o);
}

static int inspect_encoder(const char *path, bool json, char *err, size_t err_bytes) {
    struct encoder_config config;
    struct checkpoint *c = NULL;
    int status = encoder_config_load(&config, path, err, err_bytes);
    if (!status) status = checkpoint_open(&c, path, err, err_bytes);
    if (!status) status = encoder_check(c, &config, err, err_bytes);
    if (!status) (json ? print_encoder_json : print_encoder)(&config, c, path);
    checkpoint_close(c);
    return status;
}

int cmd_inspect(int argc, char **argv) {
    static const struct command_help help = {
        .name = "inspect",
        .operands = "MODEL",
        .summary = "Checks a checkpoint and prints its architecture, parameters, bytes per dtype, KV bytes per token,\n"
                   "and how many tokens of context fit beside the weights in a given memory.",
        .example = "tandem inspect weights/sample/small --memory 24G",
        .min_operands = 1,
        .max_operands = 1,
    };
    struct facts f = {.memory = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE)};
    bool json = false, is_encoder;
    const struct option_spec specs[] = {
        FLAG(SIZE, "memory", &f.memory, "BYTES", "memory to fill", .shown = "what is free now"),
        FLAG(BOOL, "json", &json, NULL, "print one JSON object"),
        {0},
    };
    struct options o = {0};
    struct checkpoint *c = NULL;
    char err[ERR_BYTES], path[PATH_MAX];
    int exit_code;

    if (!options_parse(&o, &help, specs, argc, argv, &exit_code)) goto done;
    exit_code = 1;
    if (model_find(o.operands.items[0], path, sizeof path, err, sizeof err)) goto failed;
    if (model_is_encoder(&is_encoder, path, err, sizeof err)) goto failed;
    if (is_encoder) {
        if (inspect_encoder(path, json, err, sizeof err)) goto failed;
        exit_code = 0;
        goto done;
    }
    if (model_config_load(&f.config, path, err, sizeof err)) goto failed;
    if (generation_config_load(&f.generation, &f.config, path, err, sizeof err)) goto failed;
    if (checkpoint_open(&c, path, err, sizeof err)) goto failed;
    if (checkpoint_check(c, &f.config, err, sizeof err)) goto failed;

    f.n_tensors = checkpoint_n_tensors(c);
    for (size_t i = 0; i < f.n_tensors; i++) {
        const struct tensor *t = checkpoint_tensor(c, i);
        f.bytes[t->dtype] += t->bytes;
        f.weight_bytes += t->bytes;
    }
    f.n_params = model_config_n_params(&f.config);
    f.kv_bytes = model_config_kv_bytes(&f.config, f.config.dtype);
    f.kv_bytes_fp8 = model_config_kv_bytes(&f.config, DTYPE_F8_E4M3);
    f.kv_room = f.memory < f.weight_bytes ? -1 : (int64_t)(f.memory - f.weight_bytes) / f.kv_bytes;
    if (json)
        print_json(&f, path);
    else
        print_people(&f, path);
    exit_code = 0;
    goto done;
failed:
    fprintf(stderr, "tandem inspect: %s\n", err);
done:
    checkpoint_close(c);
    options_deinit(&o);
    return exit_code;
}
