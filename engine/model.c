/* model.c - from a checkpoint's tensors to struct model: one region, every matrix 64-byte aligned, q/k/v and gate/up
 * stacked so that each is one linear. The same code measures the region (base NULL) and fills it, so the two agree. */
#include "engine/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* Walks the region: with base NULL it only counts. */
struct region {
    struct exec *e;
    const struct checkpoint *c;
    enum dtype dtype;
    char *base;
    size_t used;
    void *staging; /* one tensor's worth of converted elements; owned */
    size_t staging_bytes;
};

static size_t align64(size_t n) {
    return (n + 63) & ~(size_t)63;
}

/* The fixed part of a model's device memory, `n` bytes of it: its offset or address. */
static void *region_take(struct region *r, size_t n) {
    void *p = r->base ? r->base + r->used : NULL;
    r->used += align64(n);
    return p;
}

static float element(const struct tensor *t, size_t i) {
    switch (t->dtype) {
    case DTYPE_F32:
        return ((const float *)t->data)[i];
    case DTYPE_BF16:
        return f32_from_bf16(((const uint16_t *)t->data)[i]);
    case DTYPE_F16:
        return f32_from_f16(((const uint16_t *)t->data)[i]);
    default:
        CHECK(!"a weight's dtype is checked by checkpoint_check");
        return 0;
    }
}

/* Elements of t as the region's dtype, in host memory: the mapping itself where nothing is to convert. */
static const void *region_convert(struct region *r, const struct tensor *t, size_t n) {
    if (t->dtype == r->dtype) return t->data;
    CHECK_LE(n * dtype_bytes(r->dtype), r->staging_bytes);
    for (size_t i = 0; i < n; i++) {
        float f = element(t, i);
        if (r->dtype == DTYPE_F32)
            ((float *)r->staging)[i] = f;
        else
            ((uint16_t *)r->staging)[i] = r->dtype == DTYPE_BF16 ? bf16_from_f32(f) : f16_from_f32(f);
    }
    return r->staging;
}

static size_t tensor_elements(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= (size_t)t->dims[i];
    return n;
}

/* Appends the named tensors, one below the other, as one piece. `layer` < 0: the name has no layer in it. */
static void *region_stack(struct region *r, int layer, const char *const *names, int n_names) {
    size_t elements = 0, offset = 0;
    const struct tensor *parts[3];
    CHECK_LE(n_names, 3);
    for (int i = 0; i < n_names; i++) {
        char name[160];
        if (layer < 0)
            snprintf(name, sizeof name, "%s", names[i]);
        else
            snprintf(name, sizeof name, "model.layers.%d.%s", layer, names[i]);
        parts[i] = checkpoint_find(r->c, name);
        CHECK(parts[i]); /* checkpoint_check has passed */
        elements += tensor_elements(parts[i]);
        size_t converted = parts[i]->dtype == r->dtype ? 0 : tensor_elements(parts[i]) * dtype_bytes(r->dtype);
        if (converted > r->staging_bytes) {
            CHECK(!r->base);
            r->staging_bytes = converted;
        }
    }
    char *piece = region_take(r, elements * dtype_bytes(r->dtype));
    if (!piece) return NULL;
    for (int i = 0; i < n_names; i++) {
        size_t n = tensor_elements(parts[i]), bytes = n * dtype_bytes(r->dtype);
        exec_upload(r->e, piece + offset, region_convert(r, parts[i], n), bytes);
        offset += bytes;
    }
    return piece;
}

static const void *region_vector(struct region *r, int layer, const char *name) {
    return region_stack(r, layer, &name, 1);
}

static struct matrix region_matrix(struct region *r, int layer, const char *const *names, int n_names, int rows,
                                   int cols) {
    return (struct matrix){.format = MATRIX_DENSE,
                           .dtype = r->dtype,
                           .rows = rows,
                           .cols = cols,
                           .data = region_stack(r, layer, names, n_names)};
}

#define NAMES(...)                                                                                                     \
    (const char *const[]){__VA_ARGS__}, (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static void place_weights(struct model *m, struct region *r) {
    const struct model_config *c = &m->config;
    const int C = c->hidden, F = c->ffn, V = c->vocab, QD = c->n_heads * c->head_dim,
              QKVD = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;

    m->embedding = region_matrix(r, -1, NAMES("model.embed_tokens.weight"), V, C);
    for (int l = 0; l < c->n_layers; l++) {
        struct layer *w = &m->layers[l];
        w->attn_norm = region_vector(r, l, "input_layernorm.weight");
        w->w_qkv = region_matrix(
            r, l, NAMES("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"), QKVD, C);
        if (c->qkv_bias)
            w->b_qkv =
                region_stack(r, l, NAMES("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"));
        if (c->qk_norm) {
            w->q_norm = region_vector(r, l, "self_attn.q_norm.weight");
            w->k_norm = region_vector(r, l, "self_attn.k_norm.weight");
        }
        w->w_o = region_matrix(r, l, NAMES("self_attn.o_proj.weight"), C, QD);
        w->ffn_norm = region_vector(r, l, "post_attention_layernorm.weight");
        w->w_gate_up = region_matrix(r, l, NAMES("mlp.gate_proj.weight", "mlp.up_proj.weight"), 2 * F, C);
        w->w_down = region_matrix(r, l, NAMES("mlp.down_proj.weight"), C, F);
    }
    m->final_norm = region_vector(r, -1, "model.norm.weight");
    m->lm_head = c->tied ? m->embedding : region_matrix(r, -1, NAMES("lm_head.weight"), V, C);
}

int model_load(struct model *m, struct exec *e, const struct checkpoint *c, const struct model_config *config,
               enum dtype dtype, int max_len, char *err, size_t err_bytes) {
    *m = (struct model){.config = *config, .dtype = dtype};
    struct region r = {.e = e, .c = c, .dtype = dtype};
    const size_t rope_bytes = (size_t)max_len * config->head_dim * sizeof(float);
    float *rope = NULL;
    int status = STATUS_NO_MEMORY;

    m->layers = calloc(config->n_layers, sizeof *m->layers);
    if (!m->layers) goto fail;
    place_weights(m, &r); /* counts */
    m->bytes = r.used;
    m->memory = exec_alloc(e, r.used + rope_bytes);
    rope = malloc(rope_bytes);
    r.staging = malloc(r.staging_bytes ? r.staging_bytes : 1);
    if (!m->memory || !rope || !r.staging) goto fail;

    r.base = m->memory;
    r.used = 0;
    place_weights(m, &r); /* fills */
    rope_table(rope, max_len, config->head_dim, config->rope_theta, dtype);
    void *table = region_take(&r, rope_bytes);
    exec_upload(e, table, rope, rope_bytes);
    m->rope = (struct rope){.cos_sin = table, .max_positions = max_len, .D = config->head_dim};
    status = exec_finish(e, err, err_bytes);
    free(rope);
    free(r.staging);
    if (status) model_deinit(m, e);
    return status;

fail:
    free(rope);
    free(r.staging);
    model_deinit(m, e);
    return fail(err, err_bytes, status, "no memory for the weights: %zu MB needed for %" PRId64 " parameters in %s",
                (r.used + rope_bytes) >> 20, model_config_n_params(config), dtype_name(dtype));
}

void model_deinit(struct model *m, struct exec *e) {
    exec_free(e, m->memory);
    free(m->layers);
    *m = (struct model){0};
}

size_t activations_layout(struct activations *a, void *base, const struct model_config *c, enum dtype dtype, int T,
                          int R) {
    const size_t act = dtype_bytes(dtype), C = c->hidden, D = c->head_dim, H = c->n_heads, K = c->n_kv_heads,
                 F = c->ffn;
    struct region r = {.base = base};
    struct activations layout = {
        .x = region_take(&r, T * C * act),
        .h = region_take(&r, T * C * act),
        .qkv = region_take(&r, T * (H + 2 * K) * D * act),
        .q = region_take(&r, T * H * D * act),
        .o = region_take(&r, T * H * D * act),
        .gate_up = region_take(&r, T * 2 * F * act),
        .ffn = region_take(&r, T * F * act),
        .last = region_take(&r, R * C * act),
        .last_x = region_take(&r, R * C * act),
        .logits = region_take(&r, (size_t)R * c->vocab * sizeof(float)),
    };
    if (base) *a = layout;
    return r.used;
}
