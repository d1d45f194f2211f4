/* encoder_config.c - an encoder's files: config.json of BERT, and what sentence-transformers puts beside it.
 *
 *     config.json                  the shape; defaults are those of transformers' BertConfig
 *     modules.json                 Transformer, Pooling, then perhaps Normalize: whatever else there is, is refused
 *     PATH-OF-POOLING/config.json  CLS or mean
 *     sentence_bert_config.json    max_seq_length
 *     tokenizer_config.json        model_max_length, do_lower_case
 *     config_sentence_transformers.json   a default prompt is refused: it would change every text
 * All but the first may be missing; then vectors are what sentence-transformers makes of such a folder: the mean, not
 * normalised. */
#include "weights/reader.h"

#include <stdlib.h>
#include <string.h>

/* A path that stays inside the folder: "1_Pooling", "0_Transformer/model". */
static bool path_is_valid(const char *path) {
    return *path != '/' && !strstr(path, "..") && strlen(path) < 256;
}

int model_is_encoder(bool *is_encoder, const char *folder, char *err, size_t err_bytes) {
    char path[PATH_MAX];
    bool is_file;
    struct reader r;
    cJSON *root;
    *is_encoder = false;
    if (!config_path(path, folder, "config.json", &is_file))
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    if (!open_object(&r, &root, path, err, err_bytes)) {
        const char *type = read_string(&r, "model_type", "");
        *is_encoder = !strcmp(type, "bert");
    }
    cJSON_Delete(root);
    return r.status;
}

/* ---- config.json ------------------------------------------------------------------------------------------------ */

static void read_arch(struct reader *r, struct encoder_config *config) {
    char found[64];
    const cJSON *list = json_find(r->object, "architectures");
    const cJSON *name = cJSON_IsArray(list) ? list->child : NULL;
    if (!cJSON_IsString(name) || strcmp(name->valuestring, "BertModel"))
        refuse(r, STATUS_UNSUPPORTED, "architectures: expected [\"BertModel\"], found %s",
               json_show(name ? name : list, found, sizeof found));
    snprintf(config->arch_name, sizeof config->arch_name, "BertModel");
}

static void read_shape(struct reader *r, struct encoder_config *config) {
    config->n_layers = read_count(r, "num_hidden_layers", MAX_LAYERS);
    config->hidden = read_count(r, "hidden_size", MAX_COUNT);
    config->n_heads = read_count(r, "num_attention_heads", MAX_COUNT);
    config->ffn = read_count(r, "intermediate_size", MAX_COUNT);
    config->vocab = read_count(r, "vocab_size", MAX_VOCAB);
    config->max_positions = (int)read_int(r, "max_position_embeddings", 1, MAX_COUNT, 512);
    config->n_token_types = (int)read_int(r, "type_vocab_size", 1, MAX_COUNT, 2);
    config->norm_eps = (float)read_double(r, "layer_norm_eps", 0, 1, 1e-12);
    if (r->status) return;
    config->head_dim = config->hidden / config->n_heads;
    if (config->hidden % config->n_heads || config->head_dim > MAX_HEAD)
        refuse(r, STATUS_UNSUPPORTED,
               "hidden_size: expected a multiple of the %d attention heads and at most %d times "
               "as many, found %d",
               config->n_heads, MAX_HEAD, config->hidden);
}

/* What changes the mathematics and is not built. */
static void refuse_unsupported(struct reader *r) {
    static const char *const off[] = {"is_decoder", "add_cross_attention"};
    char found[64];
    const char *act = read_string(r, "hidden_act", "gelu");
    if (strcmp(act, "gelu"))
        refuse(r, STATUS_UNSUPPORTED, "hidden_act: expected \"gelu\", found \"%s\"",
               json_quote(act, found, sizeof found));
    const char *positions = read_string(r, "position_embedding_type", "absolute");
    if (strcmp(positions, "absolute"))
        refuse(r, STATUS_UNSUPPORTED, "position_embedding_type: expected \"absolute\", found \"%s\"",
               json_quote(positions, found, sizeof found));
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        if (read_bool(r, off[i], false))
            refuse(r, STATUS_UNSUPPORTED, "%s: expected false, found true; only encoders are read as BERT", off[i]);
    const cJSON *quantization = json_find(r->object, "quantization_config");
    if (quantization && !cJSON_IsNull(quantization))
        refuse(r, STATUS_UNSUPPORTED, "quantization_config: expected none in an encoder, found one");
}

/* ---- what lies beside it ---------------------------------------------------------------------------------------- */

/* Opens FOLDER/NAME. r->status is STATUS_NOT_FOUND where there is none: no fault of these files. The caller deletes
 * *root; `path` lives as long as the reader. */
static void open_beside(struct reader *r, cJSON **root, char path[PATH_MAX], const char *folder, const char *name,
                        char *err, size_t err_bytes) {
    *root = NULL;
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) {
        *r = (struct reader){.path = path, .err = err, .err_bytes = err_bytes};
        refuse(r, STATUS_TOO_LARGE, "the path is longer than %d bytes", PATH_MAX);
        return;
    }
    open_object(r, root, path, err, err_bytes);
}

static int close_beside(struct reader *r, cJSON *root) {
    cJSON_Delete(root);
    return r->status == STATUS_NOT_FOUND ? 0 : r->status;
}

/* Pooling's config: one flag per kind, or in new files the kind's name. */
static int read_pooling(struct encoder_config *config, const char *folder, const char *module, char *err,
                        size_t err_bytes) {
    static const struct {
        const char *flag, *name;
        int pooling; /* below 0: not built */
    } kinds[] = {{"pooling_mode_cls_token", "cls", POOLING_CLS},
                 {"pooling_mode_mean_tokens", "mean", POOLING_MEAN},
                 {"pooling_mode_max_tokens", "max", -1},
                 {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", -1},
                 {"pooling_mode_weightedmean_tokens", "weightedmean", -1},
                 {"pooling_mode_lasttoken", "lasttoken", -1}};
    char path[PATH_MAX], name[300], found[64];
    struct reader r;
    cJSON *root;
    snprintf(name, sizeof name, "%s%sconfig.json", module, *module ? "/" : "");
    open_beside(&r, &root, path, folder, name, err, err_bytes);
    if (r.status == STATUS_NOT_FOUND)
        r.status = fail(err, err_bytes, STATUS_INVALID,
                        "%s: expected the pooling that modules.json names, found no "
                        "such file; download the model again",
                        path);
    const char *mode = r.status ? "" : read_string(&r, "pooling_mode", "");
    int n = 0, pooling = -1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !r.status; i++)
        if (read_bool(&r, kinds[i].flag, false) || !strcmp(mode, kinds[i].name)) {
            n++;
            pooling = kinds[i].pooling;
        }
    const int width = r.status ? 0 : (int)read_int(&r, "word_embedding_dimension", 1, MAX_COUNT, config->hidden);
    if (!r.status && (n != 1 || pooling < 0))
        refuse(&r, STATUS_UNSUPPORTED, "expected pooling by the CLS token or by the mean of all tokens, found %s",
               n > 1   ? "several at once"
               : *mode ? json_quote(mode, found, sizeof found)
                       : "another one");
    if (!r.status && width != config->hidden)
        refuse(&r, STATUS_INVALID, "word_embedding_dimension: expected hidden_size, %d, found %d", config->hidden,
               width);
    if (!r.status) config->pooling = (enum pooling)pooling;
    cJSON_Delete(root);
    return r.status;
}

/* One module: "Transformer", then "Pooling", then perhaps "Normalize"; the last word of its type counts. */
static int read_module(struct encoder_config *config, const char *folder, const cJSON *module, int i, const char *path,
                       char *err, size_t err_bytes) {
    static const char *const expected[] = {"Transformer", "Pooling", "Normalize"};
    char shown[128], sentence[ERR_BYTES];
    const char *type = "", *where = "";
    if (!cJSON_IsObject(module) || json_get_string(module, "type", &type, sentence, sizeof sentence) ||
        json_get_string(module, "path", &where, sentence, sizeof sentence))
        return fail(err, err_bytes, STATUS_INVALID, "%s: expected modules with a type and a path, found something else",
                    path);
    const char *dot = strrchr(type, '.'), *word = dot ? dot + 1 : type;
    if (i >= 3 || strcmp(word, expected[i]))
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "%s: module %d: expected %s, found \"%s\"; encoders are a Transformer, a Pooling and perhaps a "
                    "Normalize",
                    path, i, i < 3 ? expected[i] : "none", json_quote(type, shown, sizeof shown));
    if (!path_is_valid(where))
        return fail(err, err_bytes, STATUS_INVALID, "%s: module %d: expected a path inside the folder, found \"%s\"",
                    path, i, json_quote(where, shown, sizeof shown));
    if (i == 0 && *where)
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "%s: module 0: expected the transformer in the folder itself, found it in \"%s\"", path,
                    json_quote(where, shown, sizeof shown));
    if (i == 1) return read_pooling(config, folder, where, err, err_bytes);
    if (i == 2) config->normalize = true;
    return 0;
}

static int read_modules(struct encoder_config *config, const char *folder, char *err, size_t err_bytes) {
    static const struct json_limits limits = {.max_bytes = 1 << 20, .max_depth = 32};
    char path[PATH_MAX];
    cJSON *root = NULL;
    const cJSON *module;
    int n = 0;
    if (snprintf(path, sizeof path, "%s/modules.json", folder) >= (int)sizeof path)
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    int status = json_parse_file(&root, path, limits, err, err_bytes);
    if (status == STATUS_NOT_FOUND) return 0;
    cJSON_ArrayForEach(module, root) if (!status) status =
        read_module(config, folder, module, n++, path, err, err_bytes);
    if (!status && (!cJSON_IsArray(root) || n < 2))
        status = fail(err, err_bytes, STATUS_INVALID,
                      "%s: expected a list of a Transformer, a Pooling and perhaps a Normalize, found fewer", path);
    cJSON_Delete(root);
    return status;
}

/* How long a text may be, and whether texts are lowercased before the tokenizer does what it does. */
static int read_lengths(struct encoder_config *config, const char *folder, char *err, size_t err_bytes) {
    char path[PATH_MAX];
    struct reader r;
    cJSON *root;
    bool tokenizer_lowers = true; /* BertTokenizer's default */
    config->max_len = config->max_positions;
    open_beside(&r, &root, path, folder, "tokenizer_config.json", err, err_bytes);
    if (!r.status) {
        /* 1e30 stands for no limit */
        const double most = read_double(&r, "model_max_length", 1, 1e300, config->max_positions);
        if (most < config->max_len) config->max_len = (int)most;
        tokenizer_lowers = read_bool(&r, "do_lower_case", true);
    }
    int status = close_beside(&r, root);
    if (status) return status;
    open_beside(&r, &root, path, folder, "sentence_bert_config.json", err, err_bytes);
    if (!r.status) {
        config->max_len = (int)read_int(&r, "max_seq_length", 1, MAX_COUNT, config->max_len);
        if (config->max_len > config->max_positions)
            refuse(&r, STATUS_INVALID, "max_seq_length: expected at most max_position_embeddings, %d, found %d",
                   config->max_positions, config->max_len);
        if (read_bool(&r, "do_lower_case", false) && !tokenizer_lowers)
            refuse(&r, STATUS_UNSUPPORTED,
                   "do_lower_case: expected false with a tokenizer that keeps case, found true");
    }
    return close_beside(&r, root);
}

static int read_prompts(const char *folder, char *err, size_t err_bytes) {
    char path[PATH_MAX], shown[64];
    struct reader r;
    cJSON *root;
    open_beside(&r, &root, path, folder, "config_sentence_transformers.json", err, err_bytes);
    const char *prompt = r.status ? NULL : read_string(&r, "default_prompt_name", NULL);
    if (prompt)
        refuse(&r, STATUS_UNSUPPORTED,
               "default_prompt_name: expected none, found \"%s\"; put prompts in front of the texts instead",
               json_quote(prompt, shown, sizeof shown));
    return close_beside(&r, root);
}

int encoder_config_load(struct encoder_config *config, const char *folder, char *err, size_t err_bytes) {
    char path[PATH_MAX];
    bool is_file;
    struct reader r;
    cJSON *root;
    *config = (struct encoder_config){.pooling = POOLING_MEAN};
    if (!config_path(path, folder, "config.json", &is_file))
        return fail(err, err_bytes, STATUS_TOO_LARGE, "the model's path is longer than %d bytes", PATH_MAX);
    if (!open_object(&r, &root, path, err, err_bytes)) {
        read_arch(&r, config);
        read_shape(&r, config);
        refuse_unsupported(&r);
        if (!r.status) config->dtype = config__dtype(&r, folder, "embeddings.word_embeddings.weight");
    }
    cJSON_Delete(root);
    config->max_len = config->max_positions;
    if (r.status || is_file) return r.status;
    int status = read_modules(config, folder, err, err_bytes);
    if (!status) status = read_lengths(config, folder, err, err_bytes);
    if (!status) status = read_prompts(folder, err, err_bytes);
    return status;
}
