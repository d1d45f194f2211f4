/* bert.c - from a checkpoint's tensors to struct bert: one region, query/key/value stacked so that they are one linear.
 * Without a checkpoint the weights are random, scaled so that every activation has a variance near one. */
#include "engine/bert.h"
#include "engine/region.h"

#include <inttypes.h>
#include <stdlib.h>

/* Biases are small beside what they are added to. */
static const struct spread BIAS = {0, 0.25f};

static const void *place_bias(struct region *r, int layer, const struct part *parts, int n_parts) {
    return region_stack(r, layer, parts, n_parts, ".bias", 1, BIAS);
}

static struct layer_norm_weights place_norm(struct region *r, int layer, const char *name, int C) {
    const struct part part = {name, C};
    return (struct layer_norm_weights){
        .weight = region_stack(r, layer, &part, 1, ".weight", 1, (struct spread){1, 0.25f}),
        .bias = place_bias(r, layer, &part, 1),
    };
}

static void place_weights(struct bert *m, struct region *r) {
    const struct encoder_config *c = &m->config;
    const int C = c->hidden;
    const struct part qkv[] = {{"attention.self.query", C}, {"attention.self.key", C}, {"attention.self.value", C}},
                      o[] = {{"attention.output.dense", C}}, up[] = {{"intermediate.dense", c->ffn}},
                      down[] = {{"output.dense", C}}, word[] = {{"embeddings.word_embeddings", c->vocab}},
                      position[] = {{"embeddings.position_embeddings", c->max_positions}},
                      type[] = {{"embeddings.token_type_embeddings", c->n_token_types}};

    m->word = region_dense(r, -1, word, 1, C);
    m->position = region_dense(r, -1, position, 1, C);
    m->type = region_dense(r, -1, type, 1, C).data;
    m->norm = place_norm(r, -1, "embeddings.LayerNorm", C);
    for (int l = 0; l < c->n_layers; l++) {
        struct bert_layer w = {
            .w_qkv = region_dense(r, l, qkv, N_PARTS(qkv), C),
            .b_qkv = place_bias(r, l, qkv, N_PARTS(qkv)),
            .w_o = region_dense(r, l, o, 1, C),
            .b_o = place_bias(r, l, o, 1),
            .attn_norm = place_norm(r, l, "attention.output.LayerNorm", C),
            .w_up = region_dense(r, l, up, 1, C),
            .b_up = place_bias(r, l, up, 1),
            .w_down = region_dense(r, l, down, 1, c->ffn),
            .b_down = place_bias(r, l, down, 1),
            .ffn_norm = place_norm(r, l, "output.LayerNorm", C),
        };
        if (m->layers) m->layers[l] = w;
    }
}

size_t bert_weight_bytes(const struct encoder_config *config, enum dtype dtype) {
    struct bert m = {.config = *config};
    struct region r = {.dtype = dtype};
    place_weights(&m, &r);
    return r.used;
}

int bert_load(struct bert *m, struct exec *e, const struct checkpoint *c, const struct encoder_config *config,
              char *err, size_t err_bytes) {
    *m = (struct bert){.config = *config};
    struct region r = {.e = e, .c = c, .dtype = exec_dtype(e), .layers = "encoder.layer.%d."};
    int status = STATUS_NO_MEMORY;
    place_weights(m, &r); /* counts */
    m->bytes = r.used;
    m->layers = calloc((size_t)config->n_layers, sizeof *m->layers);
    if (m->layers) status = region_begin(&r, 0);
    m->memory = r.base;
    if (status) {
        fail(err, err_bytes, status, "no memory for the weights: %zu MB needed for %" PRId64 " parameters in %s",
             m->bytes >> 20, encoder_config_n_params(config), dtype_name(r.dtype));
    } else {
        place_weights(m, &r); /* fills */
        status = region_end(&r, err, err_bytes);
    }
    region_deinit(&r);
    if (status) bert_deinit(m, e);
    return status;
}

void bert_deinit(struct bert *m, struct exec *e) {
    exec_free(e, m->memory);
    free(m->layers);
    *m = (struct bert){0};
}

size_t bert_activations_layout(struct bert_activations *a, void *base, const struct encoder_config *c, enum dtype dtype,
                               int T, int B) {
    const size_t row = (size_t)c->hidden * dtype_bytes(dtype), n = (size_t)T;
    struct region r = {.base = base};
    const struct bert_activations layout = {
        .h = region_take(&r, n * row),
        .x = region_take(&r, n * row),
        .qkv = region_take(&r, n * 3 * row),
        .o = region_take(&r, n * row),
        .ffn = region_take(&r, n * (size_t)c->ffn * dtype_bytes(dtype)),
        .vectors = region_take(&r, (size_t)B * (size_t)c->hidden * sizeof(float)),
    };
    if (base) *a = layout;
    return r.used;
}
