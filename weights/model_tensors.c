/* model_tensors.c - which tensors a model has, and their shapes: one table for the dense Qwen decoders.
 *
 * A row is one tensor of the unquantised model. Where a linear layer is quantised, three tensors stand for its weight.
 *
 * A name with '*' stands once per layer. A shape is one word per dimension, a word being a product of the legend's
 * letters (V vocabulary, C hidden, H query heads, K KV heads, D head dim, F feed-forward). Whatever needs to know the
 * tensors reads them here: the check of a checkpoint, the loader, the parameter count. */
#include "weights/tensor_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum when { ALWAYS, IF_UNTIED, IF_QKV_BIAS, IF_QK_NORM };

static const struct row {
    const char *name, *shape;
    enum when when;
} DENSE[] = {
    {"model.embed_tokens.weight", "V C", ALWAYS},
    {"model.layers.*.input_layernorm.weight", "C", ALWAYS},
    {"model.layers.*.self_attn.q_proj.weight", "HD C", ALWAYS},
    {"model.layers.*.self_attn.k_proj.weight", "KD C", ALWAYS},
    {"model.layers.*.self_attn.v_proj.weight", "KD C", ALWAYS},
    {"model.layers.*.self_attn.q_proj.bias", "HD", IF_QKV_BIAS},
    {"model.layers.*.self_attn.k_proj.bias", "KD", IF_QKV_BIAS},
    {"model.layers.*.self_attn.v_proj.bias", "KD", IF_QKV_BIAS},
    {"model.layers.*.self_attn.q_norm.weight", "D", IF_QK_NORM},
    {"model.layers.*.self_attn.k_norm.weight", "D", IF_QK_NORM},
    {"model.layers.*.self_attn.o_proj.weight", "C HD", ALWAYS},
    {"model.layers.*.post_attention_layernorm.weight", "C", ALWAYS},
    {"model.layers.*.mlp.gate_proj.weight", "F C", ALWAYS},
    {"model.layers.*.mlp.up_proj.weight", "F C", ALWAYS},
    {"model.layers.*.mlp.down_proj.weight", "C F", ALWAYS},
    {"model.norm.weight", "C", ALWAYS},
    {"lm_head.weight", "V C", IF_UNTIED},
};
#define N_ROWS (sizeof DENSE / sizeof *DENSE)

static bool row_applies(const struct row *row, const struct model_config *config) {
    switch (row->when) {
    case ALWAYS:
        return true;
    case IF_UNTIED:
        return !config->tied;
    case IF_QKV_BIAS:
        return config->qkv_bias;
    case IF_QK_NORM:
        return config->qk_norm;
    }
    return false;
}

static int row_copies(const struct row *row, const struct model_config *config) {
    if (!row_applies(row, config)) return 0;
    return strchr(row->name, '*') ? config->n_layers : 1;
}

/* Linear layers of the decoder, which quantisation is about. */
static bool row_is_linear(const struct row *row) {
    return strstr(row->name, "_proj.weight") != NULL;
}

bool model_is_quantized(const struct model_config *config, const char *name) {
    const struct model_quantization *q = &config->quantization;
    if (q->method == QUANTIZATION_NONE || !strstr(name, "_proj")) return false;
    for (int i = 0; i < q->n_skipped; i++)
        if (strstr(name, q->skipped[i])) return false;
    return true;
}

static int64_t letter_value(char letter, const void *of) {
    const struct model_config *config = of;
    switch (letter) {
    case 'V':
        return config->vocab;
    case 'C':
        return config->hidden;
    case 'H':
        return config->n_heads;
    case 'K':
        return config->n_kv_heads;
    case 'D':
        return config->head_dim;
    case 'F':
        return config->ffn;
    }
    CHECK(!"a letter of the legend");
    return 0;
}

int table__shape(const char *shape, int64_t (*value)(char letter, const void *of), const void *of,
                 int64_t dims[TENSOR_MAX_DIMS]) {
    int n = 0;
    dims[0] = 1;
    for (const char *p = shape; *p; p++) {
        if (*p == ' ')
            dims[++n] = 1;
        else
            dims[n] *= value(*p, of);
    }
    return n + 1;
}

static int row_shape(const struct row *row, const struct model_config *config, int64_t dims[TENSOR_MAX_DIMS]) {
    return table__shape(row->shape, letter_value, config, dims);
}

/* The parts that a quantised weight [N, K] consists of. */
static const char *const PARTS[] = {"qweight", "qzeros", "scales"};
enum { N_PARTS = 3 };

/* The shape of one part, from the shape [N, K] of the weight. */
static void part_shape(int part, const struct model_config *config, int64_t dims[TENSOR_MAX_DIMS]) {
    const int64_t N = dims[0], K = dims[1];
    dims[0] = part == 0 ? K : K / config->quantization.group;
    dims[1] = part == 2 ? N : N / 8;
}

void table__name(const char *pattern, int layer, char name[MODEL_TENSOR_NAME]) {
    const char *star = strchr(pattern, '*');
    if (star)
        snprintf(name, MODEL_TENSOR_NAME, "%.*s%d%s", (int)(star - pattern), pattern, layer, star + 1);
    else
        snprintf(name, MODEL_TENSOR_NAME, "%s", pattern);
}

/* How many tensors the row's weight in one layer is; `name` is written. */
static int row_parts(const struct row *row, const struct model_config *config, int layer,
                     char name[MODEL_TENSOR_NAME]) {
    table__name(row->name, layer, name);
    return row_is_linear(row) && model_is_quantized(config, name) ? N_PARTS : 1;
}

int model_n_tensors(const struct model_config *config) {
    char name[MODEL_TENSOR_NAME];
    int n = 0;
    for (size_t i = 0; i < N_ROWS; i++)
        for (int layer = 0; layer < row_copies(&DENSE[i], config); layer++)
            n += row_parts(&DENSE[i], config, layer, name);
    return n;
}

int model_tensor(const struct model_config *config, int i, char name[MODEL_TENSOR_NAME],
                 int64_t dims[TENSOR_MAX_DIMS]) {
    CHECK_LE(0, i);
    for (size_t row = 0; row < N_ROWS; row++)
        for (int layer = 0; layer < row_copies(&DENSE[row], config); layer++) {
            const int n_parts = row_parts(&DENSE[row], config, layer, name);
            if (i >= n_parts) {
                i -= n_parts;
                continue;
            }
            const int n_dims = row_shape(&DENSE[row], config, dims);
            if (n_parts == 1) return n_dims;
            strcpy(strrchr(name, '.') + 1, PARTS[i]); /* "qweight" is a letter longer than "weight": names have room */
            part_shape(i, config, dims);
            return n_dims;
        }
    CHECK(!"a tensor that the model has");
    return 0;
}

bool table__matches(const char *pattern, const char *name, int n_layers) {
    const char *star = strchr(pattern, '*');
    if (!star) return !strcmp(pattern, name);
    size_t prefix = (size_t)(star - pattern);
    if (strncmp(pattern, name, prefix)) return false;
    const char *digits = name + prefix;
    size_t n_digits = strspn(digits, "0123456789");
    if (n_digits == 0 || n_digits > 4 || (digits[0] == '0' && n_digits > 1)) return false;
    return atoi(digits) < n_layers && !strcmp(star + 1, digits + n_digits);
}

int model_tensor_shape(const struct model_config *config, const char *name, int64_t dims[TENSOR_MAX_DIMS]) {
    char whole[MODEL_TENSOR_NAME]; /* the weight that it is, or is a part of */
    const char *dot = strrchr(name, '.');
    int part = -1;
    for (int i = 0; dot && i < N_PARTS; i++)
        if (!strcmp(dot + 1, PARTS[i])) part = i;
    if (strlen(name) >= sizeof whole - 1) return 0;
    snprintf(whole, sizeof whole, "%s", name);
    if (part >= 0) strcpy(whole + (dot - name) + 1, "weight");
    for (size_t i = 0; i < N_ROWS; i++) {
        if (!row_applies(&DENSE[i], config) || !table__matches(DENSE[i].name, whole, config->n_layers)) continue;
        const bool quantized = row_is_linear(&DENSE[i]) && model_is_quantized(config, whole);
        if (quantized != (part >= 0)) return 0;
        const int n_dims = row_shape(&DENSE[i], config, dims);
        if (quantized) part_shape(part, config, dims);
        return n_dims;
    }
    return 0;
}

int64_t model_config_n_params(const struct model_config *config) {
    int64_t sum = 0, dims[TENSOR_MAX_DIMS];
    for (size_t i = 0; i < N_ROWS; i++) {
        int64_t product = row_copies(&DENSE[i], config);
        int n_dims = row_shape(&DENSE[i], config, dims);
        for (int d = 0; d < n_dims; d++) product *= dims[d];
        sum += product;
    }
    return sum;
}

int64_t model_config_kv_bytes(const struct model_config *config, enum dtype kv_dtype) {
    int64_t per_head = (int64_t)config->head_dim * (int64_t)dtype_bytes(kv_dtype);
    if (kv_dtype == DTYPE_F8_E4M3) per_head += (int64_t)dtype_bytes(DTYPE_F32); /* its scale */
    return 2 * (int64_t)config->n_layers * config->n_kv_heads * per_head;
}

/* ---- the check -------------------------------------------------------------------------------------------------- */

static int expected_tensor(const void *config, int i, char name[MODEL_TENSOR_NAME], int64_t dims[TENSOR_MAX_DIMS]) {
    return model_tensor(config, i, name, dims);
}

static int expected_shape(const void *config, const char *name, int64_t dims[TENSOR_MAX_DIMS]) {
    return model_tensor_shape(config, name, dims);
}

/* Tensors that a checkpoint may carry without the model using them. */
static bool is_ignored(const void *config, const char *name) {
    static const char buffer[] = "rotary_emb.inv_freq";
    const size_t n = strlen(name), tail = sizeof buffer - 1;
    if (((const struct model_config *)config)->tied && !strcmp(name, "lm_head.weight")) return true;
    return n >= tail && !strcmp(name + n - tail, buffer);
}

int checkpoint_check(const struct checkpoint *c, const struct model_config *config, char *err, size_t err_bytes) {
    const struct expectation x = {.arch_name = config->arch_name,
                                  .n_layers = config->n_layers,
                                  .config = config,
                                  .n = model_n_tensors(config),
                                  .tensor = expected_tensor,
                                  .shape = expected_shape,
                                  .is_ignored = is_ignored};
    return checkpoint__check(c, &x, err, err_bytes);
}
