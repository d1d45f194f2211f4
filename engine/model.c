/* model.c - from a checkpoint's tensors to struct model: one region, q/k/v and gate/up stacked so that each is one
 * linear. Without a checkpoint the weights are random, scaled so that every activation has a variance near one. */
#include "engine/model.h"
#include "engine/region.h"

#include <inttypes.h>
#include <stdlib.h>

/* A linear layer: its parts are quantised all or none. */
static struct matrix place_matrix(const struct model *m, struct region *r, int layer, const struct part *parts,
                                  int n_parts, int cols) {
    int n_quantized = 0;
    for (int i = 0; i < n_parts; i++) n_quantized += model_is_quantized(&m->config, parts[i].name);
    if (n_quantized == n_parts) return region_awq(r, layer, parts, n_parts, cols, m->config.quantization.group);
    CHECK_EQ(n_quantized, 0); /* check_stacks has passed */
    return region_dense(r, layer, parts, n_parts, cols);
}

static const void *place_norm(struct region *r, int layer, const char *name, int width) {
    const struct part part = {name, width};
    return region_stack(r, layer, &part, 1, ".weight", 1, (struct spread){1, 0.25f});
}

static void place_weights(struct model *m, struct region *r, bool fp8_kv) {
    const struct model_config *c = &m->config;
    const int C = c->hidden, F = c->ffn, V = c->vocab, QD = c->n_heads * c->head_dim, KD = c->n_kv_heads * c->head_dim;
    const struct part qkv[] = {{"self_attn.q_proj", QD}, {"self_attn.k_proj", KD}, {"self_attn.v_proj", KD}},
                      o[] = {{"self_attn.o_proj", C}}, gate_up[] = {{"mlp.gate_proj", F}, {"mlp.up_proj", F}},
                      down[] = {{"mlp.down_proj", C}}, embedding[] = {{"model.embed_tokens", V}},
                      head[] = {{"lm_head", V}};

    m->embedding = place_matrix(m, r, -1, embedding, 1, C);
    for (int l = 0; l < c->n_layers; l++) {
        struct layer *w = &m->layers[l];
        w->attn_norm = place_norm(r, l, "input_layernorm", C);
        w->w_qkv = place_matrix(m, r, l, qkv, N_PARTS(qkv), C);
        if (c->qkv_bias) {
            w->b_qkv = region_stack(r, l, qkv, N_PARTS(qkv), ".bias", 1, (struct spread){0, 0.25f});
            if (fp8_kv && w->b_qkv) w->k_bias = (const char *)w->b_qkv + (size_t)QD * dtype_bytes(r->dtype);
        }
        if (c->qk_norm) {
            w->q_norm = place_norm(r, l, "self_attn.q_norm", c->head_dim);
            w->k_norm = place_norm(r, l, "self_attn.k_norm", c->head_dim);
        }
        w->w_o = place_matrix(m, r, l, o, N_PARTS(o), QD);
        w->ffn_norm = place_norm(r, l, "post_attention_layernorm", C);
        w->w_gate_up = place_matrix(m, r, l, gate_up, N_PARTS(gate_up), C);
        w->w_down = place_matrix(m, r, l, down, N_PARTS(down), F);
    }
    m->final_norm = place_norm(r, -1, "model.norm", C);
    m->lm_head = c->tied ? m->embedding : place_matrix(m, r, -1, head, 1, C);
}

/* Parts that lie in one matrix must be quantised alike. */
static int check_stacks(const struct model_config *c, char *err, size_t err_bytes) {
    static const char *const stacks[][3] = {{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"},
                                            {"mlp.gate_proj", "mlp.up_proj", "mlp.up_proj"}};
    for (int i = 0; i < 2; i++)
        for (int j = 1; j < 3; j++)
            if (model_is_quantized(c, stacks[i][0]) != model_is_quantized(c, stacks[i][j]))
                return fail(err, err_bytes, STATUS_UNSUPPORTED,
                            "modules_to_not_convert: expected %s and %s to be quantised alike, found one of them named",
                            stacks[i][0], stacks[i][j]);
    return 0;
}

int model_load(struct model *m, struct exec *e, const struct checkpoint *c, const struct model_config *config,
               enum dtype dtype, enum dtype kv_dtype, int max_len, char *err, size_t err_bytes) {
    *m = (struct model){.config = *config};
    int status = check_stacks(config, err, err_bytes);
    if (status) return status;
    const bool fp8_kv = kv_dtype == DTYPE_F8_E4M3;
    struct region r = {.e = e, .c = c, .dtype = dtype, .layers = "model.layers.%d."};
    const size_t rope_bytes = (size_t)max_len * config->head_dim * sizeof(float);
    float *rope = malloc(rope_bytes);
    m->layers = calloc(config->n_layers, sizeof *m->layers);
    status = STATUS_NO_MEMORY;
    if (!m->layers || !rope) goto fail;
    place_weights(m, &r, fp8_kv); /* counts */
    m->bytes = r.used;
    status = region_begin(&r, rope_bytes);
    m->memory = r.base;
    if (status) goto fail;
    place_weights(m, &r, fp8_kv); /* fills */
    rope_table(rope, max_len, config->head_dim, config->rope_theta, dtype);
    void *table = region_take(&r, rope_bytes);
    region_copy(&r, table, rope, rope_bytes);
    status = region_end(&r, err, err_bytes);
    m->rope = (struct rope){.cos_sin = table, .max_positions = max_len, .D = config->head_dim};
    goto done;

fail:
    fail(err, err_bytes, status, "no memory for the weights: %zu MB needed for %" PRId64 " parameters in %s",
         (m->bytes + rope_bytes) >> 20, model_config_n_params(config),
         config->quantization.method ? "4 bits" : dtype_name(dtype));
done:
    free(rope);
    region_deinit(&r);
    if (status) model_deinit(m, e);
    return status;
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
