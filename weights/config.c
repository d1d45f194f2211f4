/* config.c - config.json and generation_config.json, checked field by field.
 *
 * Defaults are those of transformers' Qwen2Config, Qwen3Config and GenerationConfig; what changes the mathematics and
 * is not built is refused by name, never ignored. */
#include "weights/reader.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    const char *name;
    enum model_arch arch;
    int head_dim; /* when the file has none; 0: hidden / heads */
} ARCHS[] = {{"Qwen2ForCausalLM", ARCH_QWEN2, 0}, {"Qwen3ForCausalLM", ARCH_QWEN3, 128}};
#define N_ARCHS (sizeof ARCHS / sizeof *ARCHS)

_Static_assert(N_ARCHS == ARCH_COUNT, "every architecture has a row");

/* ---- config.json ------------------------------------------------------------------------------------------------ */

/* Returns the row of ARCHS. */
static size_t read_arch(struct reader *r) {
    char found[64];
    const cJSON *list = json_find(r->object, "architectures");
    const cJSON *name = cJSON_IsArray(list) ? list->child : NULL;
    for (size_t i = 0; i < N_ARCHS && cJSON_IsString(name); i++)
        if (!strcmp(name->valuestring, ARCHS[i].name)) return i;
    refuse(r, STATUS_UNSUPPORTED, "architectures: expected [\"%s\"] or [\"%s\"], found %s", ARCHS[0].name,
           ARCHS[1].name, json_show(name ? name : list, found, sizeof found));
    return 0;
}

/* One rope object: rope_scaling of old, rope_parameters of transformers 5. Only plain rotation is built. */
static double read_rope_object(struct reader *r, const char *name, double theta) {
    static const char *const type_names[] = {"rope_type", "type"};
    char found[64];
    const cJSON *object = json_find(r->object, name);
    if (!object || cJSON_IsNull(object)) return theta;
    if (!cJSON_IsObject(object)) {
        refuse(r, STATUS_INVALID, "%s: expected an object or null, found %s", name,
               json_show(object, found, sizeof found));
        return theta;
    }
    for (size_t i = 0; i < 2; i++) {
        const cJSON *type = json_find(object, type_names[i]);
        if (type && !(cJSON_IsString(type) && !strcmp(type->valuestring, "default")))
            refuse(r, STATUS_UNSUPPORTED, "%s.%s: expected \"default\", the only rotary embedding supported, found %s",
                   name, type_names[i], json_show(type, found, sizeof found));
    }
    const cJSON *nested;
    cJSON_ArrayForEach(nested, object) if (cJSON_IsObject(nested))
        refuse(r, STATUS_UNSUPPORTED, "%s: expected one set of parameters for all layers, found one for \"%s\"", name,
               json_quote(nested->string, found, sizeof found));
    struct reader inner = *r;
    inner.object = object;
    theta = read_double(&inner, "rope_theta", 1e-3, 1e12, theta);
    if (read_double(&inner, "partial_rotary_factor", 0, 1, 1) != 1)
        refuse(&inner, STATUS_UNSUPPORTED, "%s.partial_rotary_factor: expected 1, found less", name);
    r->status = inner.status;
    return theta;
}

/* modules_to_not_convert: null or a list of words. */
static void read_skipped(struct reader *r, struct model_quantization *q) {
    char found[64];
    const cJSON *word, *list = json_find(r->object, "modules_to_not_convert");
    if (!list || cJSON_IsNull(list)) return;
    if (!cJSON_IsArray(list)) {
        refuse(r, STATUS_INVALID, "modules_to_not_convert: expected a list or null, found %s",
               json_show(list, found, sizeof found));
        return;
    }
    cJSON_ArrayForEach(word, list) {
        if (!cJSON_IsString(word) || !*word->valuestring || strlen(word->valuestring) >= sizeof q->skipped[0])
            refuse(r, STATUS_INVALID, "modules_to_not_convert: expected names of 1 to %zu bytes, found %s",
                   sizeof q->skipped[0] - 1, json_show(word, found, sizeof found));
        else if (q->n_skipped == MODEL_MAX_SKIPPED)
            refuse(r, STATUS_TOO_LARGE, "modules_to_not_convert: expected at most %d names, found more",
                   MODEL_MAX_SKIPPED);
        if (r->status) return;
        snprintf(q->skipped[q->n_skipped++], sizeof q->skipped[0], "%s", word->valuestring);
    }
}

/* quantization_config: AutoAWQ's "gemm" form with 4 bits, groups of 128 and zero points, which is what Qwen publishes.
 * Other forms pack the same bits in another order, so reading them as this one would give noise: refused by name. */
static void read_quantization(struct reader *r, struct model_config *config) {
    char found[64];
    struct model_quantization *q = &config->quantization;
    const cJSON *object = json_find(r->object, "quantization_config");
    if (!object || cJSON_IsNull(object)) return;
    struct reader inner = *r;
    inner.object = object;
    const char *method = cJSON_IsObject(object) ? read_string(&inner, "quant_method", NULL) : NULL;
    if (!method || strcmp(method, "awq"))
        refuse(&inner, STATUS_UNSUPPORTED,
               "quantization_config.quant_method: expected \"awq\", found %s; use an AWQ or an unquantised checkpoint",
               json_show(cJSON_IsObject(object) ? json_find(object, "quant_method") : object, found, sizeof found));
    const char *version = read_string(&inner, "version", "gemm");
    if (!inner.status && strcasecmp(version, "gemm"))
        refuse(&inner, STATUS_UNSUPPORTED,
               "quantization_config.version: expected \"gemm\", found \"%s\" (llm-awq's v2 and gemv pack the weights "
               "in another order); use a checkpoint made by AutoAWQ",
               json_quote(version, found, sizeof found));
    const int bits = (int)read_int(&inner, "bits", 1, 32, 4);
    const int group = (int)read_int(&inner, "group_size", -1, 1 << 20, 128);
    if (bits != 4) refuse(&inner, STATUS_UNSUPPORTED, "quantization_config.bits: expected 4, found %d", bits);
    if (group != 128)
        refuse(&inner, STATUS_UNSUPPORTED, "quantization_config.group_size: expected 128, found %d", group);
    if (!read_bool(&inner, "zero_point", true))
        refuse(&inner, STATUS_UNSUPPORTED, "quantization_config.zero_point: expected true, found false");
    *q = (struct model_quantization){.method = QUANTIZATION_AWQ, .group = group};
    read_skipped(&inner, q);
    r->status = inner.status;
    const int widths[] = {config->hidden, config->n_heads * config->head_dim, config->ffn};
    for (int i = 0; i < 3; i++)
        if (widths[i] % group)
            refuse(r, STATUS_UNSUPPORTED, "quantization_config: expected widths that are multiples of %d, found %d",
                   group, widths[i]);
    if (config->n_kv_heads * config->head_dim % 16)
        refuse(r, STATUS_UNSUPPORTED, "quantization_config: expected a multiple of 16 rows in k_proj, found %d",
               config->n_kv_heads * config->head_dim);
}

/* What changes the mathematics and is not built. */
static void refuse_unsupported(struct reader *r, const struct model_config *config) {
    char found[64];
    if (read_bool(r, "use_sliding_window", false))
        refuse(r, STATUS_UNSUPPORTED,
               "use_sliding_window: expected false, found true; sliding windows are not supported");
    const cJSON *layer, *layers = json_find(r->object, "layer_types");
    cJSON_ArrayForEach(layer, layers) if (!cJSON_IsString(layer) || strcmp(layer->valuestring, "full_attention"))
        refuse(r, STATUS_UNSUPPORTED, "layer_types: expected \"full_attention\" in every layer, found %s",
               json_show(layer, found, sizeof found));
    if (cJSON_IsArray(layers) && cJSON_GetArraySize(layers) != config->n_layers)
        refuse(r, STATUS_INVALID, "layer_types: expected one entry for each of the %d layers, found %d",
               config->n_layers, cJSON_GetArraySize(layers));
    const char *act = read_string(r, "hidden_act", "silu");
    if (strcmp(act, "silu"))
        refuse(r, STATUS_UNSUPPORTED, "hidden_act: expected \"silu\", found \"%s\"",
               json_quote(act, found, sizeof found));
    /* Qwen2 has no such switch: its q, k and v carry a bias whatever the file says. */
    if (config->arch == ARCH_QWEN3 && read_bool(r, "attention_bias", false))
        refuse(r, STATUS_UNSUPPORTED, "attention_bias: expected false, found true; a bias on o_proj is not supported");
    if (read_double(r, "partial_rotary_factor", 0, 1, 1) != 1)
        refuse(r, STATUS_UNSUPPORTED, "partial_rotary_factor: expected 1, found less");
    if (read_bool(r, "use_mrope", false))
        refuse(r, STATUS_UNSUPPORTED, "use_mrope: expected false, found true; multimodal rope is not supported");
}

static void read_shape(struct reader *r, struct model_config *config, int default_head_dim) {
    char found[64];
    config->n_layers = read_count(r, "num_hidden_layers", MAX_LAYERS);
    config->hidden = read_count(r, "hidden_size", MAX_COUNT);
    config->n_heads = read_count(r, "num_attention_heads", MAX_COUNT);
    config->ffn = read_count(r, "intermediate_size", MAX_COUNT);
    config->vocab = read_count(r, "vocab_size", MAX_VOCAB);
    config->max_positions = (int)read_int(r, "max_position_embeddings", 1, INT_MAX, 32768);
    if (r->status) return;

    /* null means one KV head per query head; absent means transformers' 32, which nobody wants: it is asked for. */
    const cJSON *kv = json_find(r->object, "num_key_value_heads");
    config->n_kv_heads = cJSON_IsNull(kv) ? config->n_heads : read_count(r, "num_key_value_heads", MAX_COUNT);
    if (!r->status && config->n_heads % config->n_kv_heads)
        refuse(r, STATUS_INVALID, "num_key_value_heads: expected a divisor of the %d attention heads, found %d",
               config->n_heads, config->n_kv_heads);

    config->head_dim = (int)read_int(r, "head_dim", 1, MAX_HEAD, default_head_dim);
    if (config->head_dim == 0) {
        if (config->hidden % config->n_heads)
            refuse(r, STATUS_INVALID, "hidden_size: expected a multiple of the %d attention heads, found %d",
                   config->n_heads, config->hidden);
        config->head_dim = config->hidden / config->n_heads;
        snprintf(found, sizeof found, "%d / %d = %d", config->hidden, config->n_heads, config->head_dim);
    } else
        snprintf(found, sizeof found, "%d", config->head_dim);
    if (config->head_dim < 2 || config->head_dim % 2 || config->head_dim > MAX_HEAD)
        refuse(r, STATUS_UNSUPPORTED, "head_dim: expected an even number up to %d, found %s", MAX_HEAD, found);
}

static enum dtype dtype_of_checkpoint(struct reader *r, const char *folder, const char *name) {
    struct checkpoint *c;
    enum dtype dtype = DTYPE_F32;
    int status = checkpoint_open(&c, folder, r->err, r->err_bytes);
    if (status == STATUS_NOT_FOUND) return dtype;
    if (status) {
        r->status = status;
        return dtype;
    }
    const struct tensor *embedding = checkpoint_find(c, name);
    if (embedding && (embedding->dtype == DTYPE_BF16 || embedding->dtype == DTYPE_F16)) dtype = embedding->dtype;
    checkpoint_close(c);
    return dtype;
}

enum dtype config__dtype(struct reader *r, const char *folder, const char *embedding) {
    static const enum dtype known[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    char found[64];
    const char *name = read_string(r, "dtype", read_string(r, "torch_dtype", NULL));
    if (r->status) return DTYPE_F32;
    if (!name) return dtype_of_checkpoint(r, folder, embedding);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(name, dtype_name(known[i]))) return known[i];
    refuse(r, STATUS_UNSUPPORTED, "dtype: expected float32, bfloat16 or float16, found \"%s\"",
           json_quote(name, found, sizeof found));
    return DTYPE_F32;
}

int model_config_load(struct model_config *config, const char *folder, char *err, size_t err_bytes) {
    char path[PATH_MAX];
    bool is_file;
    struct reader r;
    cJSON *root;
    *config = (struct model_config){0};
    if (!config_path(path, folder, "config.json", &is_file))
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    if (!open_object(&r, &root, path, err, err_bytes)) {
        size_t row = read_arch(&r);
        config->arch = ARCHS[row].arch;
        snprintf(config->arch_name, sizeof config->arch_name, "%s", ARCHS[row].name);
        config->qkv_bias = config->arch == ARCH_QWEN2;
        config->qk_norm = config->arch == ARCH_QWEN3;
        read_shape(&r, config, ARCHS[row].head_dim);
        config->rms_eps = (float)read_double(&r, "rms_norm_eps", 0, 1, 1e-6);
        double theta = read_double(&r, "rope_theta", 1e-3, 1e12, 10000);
        theta = read_rope_object(&r, "rope_parameters", theta);
        config->rope_theta = (float)read_rope_object(&r, "rope_scaling", theta);
        config->tied = read_bool(&r, "tie_word_embeddings", false);
        refuse_unsupported(&r, config);
        if (!r.status) read_quantization(&r, config);
        config->dtype = config__dtype(&r, folder, "model.embed_tokens.weight");
    }
    cJSON_Delete(root);
    return r.status;
}

/* ---- generation_config.json ------------------------------------------------------------------------------------- */

/* eos_token_id: a number, a list of numbers, or nothing. */
static void read_eos(struct reader *r, struct generation_config *config, int vocab) {
    char found[64];
    const cJSON *eos = json_find(r->object, "eos_token_id");
    if (!eos || cJSON_IsNull(eos)) return;
    const cJSON *item = cJSON_IsArray(eos) ? eos->child : eos;
    for (config->n_eos = 0; item; item = item->next) {
        double id = cJSON_IsNumber(item) ? item->valuedouble : -1;
        if (!(id >= 0 && id < vocab && id == (int32_t)id)) {
            refuse(r, STATUS_INVALID, "eos_token_id: expected token ids from 0 to %d, found %s", vocab - 1,
                   json_show(item, found, sizeof found));
            return;
        }
        if (config->n_eos == MODEL_MAX_EOS) {
            refuse(r, STATUS_TOO_LARGE, "eos_token_id: expected at most %d ids, found more", MODEL_MAX_EOS);
            return;
        }
        config->eos[config->n_eos++] = (int32_t)id;
        if (item == eos) return; /* a lone number is itself a member, with members after it */
    }
}

int generation_config_load(struct generation_config *config, const struct model_config *model, const char *folder,
                           char *err, size_t err_bytes) {
    char path[PATH_MAX];
    bool is_file;
    struct reader r;
    cJSON *root = NULL;
    *config = (struct generation_config){.temperature = 1, .top_p = 1, .repetition_penalty = 1};

    if (!config_path(path, folder, "config.json", &is_file))
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    if (!open_object(&r, &root, path, err, err_bytes)) read_eos(&r, config, model->vocab);
    cJSON_Delete(root);
    if (r.status || is_file) return r.status;

    if (!config_path(path, folder, "generation_config.json", &is_file))
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    if (!open_object(&r, &root, path, err, err_bytes)) {
        read_eos(&r, config, model->vocab);
        config->temperature = (float)read_double(&r, "temperature", 0, 100, 1);
        config->top_p = (float)read_double(&r, "top_p", 1e-6, 1, 1);
        config->top_k = (int)read_int(&r, "top_k", -1, INT_MAX, 0);
        config->min_p = (float)read_double(&r, "min_p", 0, 1, 0);
        config->repetition_penalty = (float)read_double(&r, "repetition_penalty", 1e-3, 100, 1);
        if (config->top_k < 0) config->top_k = 0;
        if (!read_bool(&r, "do_sample", true)) config->temperature = 0;
    }
    cJSON_Delete(root);
    return r.status == STATUS_NOT_FOUND ? 0 : r.status;
}
