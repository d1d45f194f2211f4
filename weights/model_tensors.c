/* model_tensors.c - which tensors a model has, and their shapes: one table for the dense Qwen decoders.
 *
 * A name with '*' stands once per layer. A shape is one word per dimension, a word being a product of the legend's
 * letters (V vocabulary, C hidden, H query heads, K KV heads, D head dim, F feed-forward). Whatever needs to know the
 * tensors reads them here: the check of a checkpoint, the loader, the parameter count. */
#include "kernels/status.h"
#include "weights/weights.h"

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

static int64_t letter_value(char letter, const struct model_config *config) {
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

static int row_shape(const struct row *row, const struct model_config *config, int64_t dims[TENSOR_MAX_DIMS]) {
    int n = 0;
    dims[0] = 1;
    for (const char *p = row->shape; *p; p++) {
        if (*p == ' ')
            dims[++n] = 1;
        else
            dims[n] *= letter_value(*p, config);
    }
    return n + 1;
}

/* Whether `name` is the pattern with one of 0..n_layers-1, in plain decimal, for its '*'. */
static bool name_matches(const char *pattern, const char *name, int n_layers) {
    const char *star = strchr(pattern, '*');
    if (!star) return !strcmp(pattern, name);
    size_t prefix = (size_t)(star - pattern);
    if (strncmp(pattern, name, prefix)) return false;
    const char *digits = name + prefix;
    size_t n_digits = strspn(digits, "0123456789");
    if (n_digits == 0 || n_digits > 4 || (digits[0] == '0' && n_digits > 1)) return false;
    return atoi(digits) < n_layers && !strcmp(star + 1, digits + n_digits);
}

int model_n_tensors(const struct model_config *config) {
    int n = 0;
    for (size_t i = 0; i < N_ROWS; i++) n += row_copies(&DENSE[i], config);
    return n;
}

int model_tensor(const struct model_config *config, int i, char name[MODEL_TENSOR_NAME],
                 int64_t dims[TENSOR_MAX_DIMS]) {
    CHECK_LE(0, i);
    const struct row *row = DENSE;
    for (; i >= row_copies(row, config); row++) {
        i -= row_copies(row, config);
        CHECK_LT(row - DENSE, (int)N_ROWS - 1);
    }
    const char *star = strchr(row->name, '*');
    if (star)
        snprintf(name, MODEL_TENSOR_NAME, "%.*s%d%s", (int)(star - row->name), row->name, i, star + 1);
    else
        snprintf(name, MODEL_TENSOR_NAME, "%s", row->name);
    return row_shape(row, config, dims);
}

int model_tensor_shape(const struct model_config *config, const char *name, int64_t dims[TENSOR_MAX_DIMS]) {
    for (size_t i = 0; i < N_ROWS; i++)
        if (row_applies(&DENSE[i], config) && name_matches(DENSE[i].name, name, config->n_layers))
            return row_shape(&DENSE[i], config, dims);
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
