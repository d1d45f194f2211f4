/* model.c - from a checkpoint's tensors to struct model: one region, every matrix 256-byte aligned, q/k/v and gate/up
 * stacked so that each is one linear. The same code measures the region (base NULL) and fills it, so the two agree.
 *
 * What needs no conversion is only noted while the region is walked and copied in bulk by exec_upload_all, at the speed
 * of the link. Quantised tensors go to a raw buffer on the device first and are repacked from there. Without a
 * checkpoint the weights are random, scaled so that every activation has a variance near one. */
#include "engine/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define RAW_BYTES ((size_t)2 << 30) /* of quantised tensors on their way: few bulk copies, and it fits beside */

struct pack { /* a part of a quantised matrix that waits in the raw buffer */
    struct matrix w;
    int first_row, n_rows;
    const void *qweight, *qzeros, *scales; /* device */
};

/* Walks the region: with base NULL it only counts. */
struct region {
    struct exec *e;
    const struct checkpoint *c; /* NULL: random weights */
    const struct model_config *config;
    enum dtype dtype;
    char *base;
    size_t used;
    void *staging; /* owned: one tensor's worth of converted elements */
    size_t staging_bytes;
    char *raw; /* owned device memory */
    size_t raw_bytes, raw_used, raw_widest;
    struct transfer *transfers; /* owned: noted, not yet copied */
    size_t n_transfers, transfers_capacity;
    struct pack *packs; /* owned: noted, not yet repacked */
    size_t n_packs, packs_capacity;
    uint64_t seed;
    bool failed; /* no memory on the host */
};

static size_t align256(size_t n) {
    return (n + 255) & ~(size_t)255;
}

/* The fixed part of a model's device memory, `n` bytes of it: its address, or NULL while counting. */
static void *region_take(struct region *r, size_t n) {
    void *p = r->base ? r->base + r->used : NULL;
    r->used += align256(n);
    return p;
}

static void *grow_list(struct region *r, void *list, size_t n, size_t *capacity, size_t item_bytes) {
    if (n < *capacity) return list;
    const size_t more = *capacity ? *capacity * 2 : 256;
    void *grown = realloc(list, more * item_bytes);
    r->failed |= !grown;
    if (!grown) return list;
    *capacity = more;
    return grown;
}

static void note_transfer(struct region *r, void *device, const void *host, size_t bytes) {
    r->transfers = grow_list(r, r->transfers, r->n_transfers, &r->transfers_capacity, sizeof *r->transfers);
    if (!r->failed) r->transfers[r->n_transfers++] = (struct transfer){device, host, bytes};
}

/* Carries out what was noted; the raw buffer is free again afterwards. */
static void region_flush(struct region *r) {
    exec_upload_all(r->e, r->transfers, r->n_transfers);
    for (size_t i = 0; i < r->n_packs; i++) {
        const struct pack *p = &r->packs[i];
        awq_pack(r->e, &p->w, p->first_row, p->n_rows, p->qweight, p->qzeros, p->scales);
    }
    r->n_transfers = r->n_packs = 0;
    r->raw_used = 0;
}

/* ---- one tensor -------------------------------------------------------------------------------------------------- */

static size_t tensor_elements(const struct tensor *t) {
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= (size_t)t->dims[i];
    return n;
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

/* Elements of t in the region's dtype, in the staging memory. */
static const void *region_convert(struct region *r, const struct tensor *t, size_t n) {
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

static const struct tensor *region_find(const struct region *r, int layer, const char *name, const char *suffix) {
    char full[160];
    if (layer < 0)
        snprintf(full, sizeof full, "%s%s", name, suffix);
    else
        snprintf(full, sizeof full, "model.layers.%d.%s%s", layer, name, suffix);
    const struct tensor *t = checkpoint_find(r->c, full);
    CHECK(t); /* checkpoint_check has passed */
    return t;
}

/* What random weights look like: uniform around a mean. */
struct spread {
    float mean, spread;
};

/* ---- pieces of the region ---------------------------------------------------------------------------------------- */

/* One part of a stack: a tensor of the checkpoint and how many rows it has. */
struct part {
    const char *name; /* "self_attn.q_proj", or without a layer "lm_head" */
    int rows;
};

/* Appends the parts' tensors NAME + suffix, [rows, cols] each, one below the other, as one dense piece. `layer` < 0:
 * the name has no layer in it. */
static void *region_stack(struct region *r, int layer, const struct part *parts, int n_parts, const char *suffix,
                          int cols, struct spread random) {
    size_t elements = 0, offset = 0;
    for (int i = 0; i < n_parts; i++) elements += (size_t)parts[i].rows * (size_t)cols;
    char *piece = region_take(r, elements * dtype_bytes(r->dtype));
    if (!r->c) {
        if (piece) fill_random(r->e, piece, r->dtype, elements, random.mean, random.spread, r->seed++);
        return piece;
    }
    for (int i = 0; i < n_parts; i++) {
        const struct tensor *t = region_find(r, layer, parts[i].name, suffix);
        const size_t n = (size_t)parts[i].rows * (size_t)cols, bytes = n * dtype_bytes(r->dtype);
        CHECK_EQ(n, tensor_elements(t));
        if (!piece) {
            if (t->dtype != r->dtype && bytes > r->staging_bytes) r->staging_bytes = bytes;
        } else if (t->dtype == r->dtype) {
            note_transfer(r, piece + offset, t->data, bytes);
        } else {
            exec_upload(r->e, piece + offset, region_convert(r, t, n), bytes);
        }
        offset += bytes;
    }
    return piece;
}

/* Bytes of the raw buffer that one quantised part needs: its three tensors, each aligned. */
static size_t part_raw_bytes(const struct part *part, int cols, int group) {
    const size_t n = (size_t)part->rows, k = (size_t)cols, g = (size_t)(cols / group);
    return align256(k * n / 2) + align256(g * n / 2) + align256(g * n * 2);
}

static void *raw_take(struct region *r, size_t n) {
    void *p = r->raw + r->raw_used;
    r->raw_used += align256(n);
    CHECK_LE(r->raw_used, r->raw_bytes);
    return p;
}

/* One of the three tensors of a quantised part, in the raw buffer. */
static void *raw_tensor(struct region *r, int layer, const char *name, const char *suffix, size_t elements,
                        enum dtype dtype, struct spread random) {
    void *p = raw_take(r, elements * dtype_bytes(dtype));
    if (r->c) {
        const struct tensor *t = region_find(r, layer, name, suffix);
        CHECK_EQ(elements, tensor_elements(t));
        note_transfer(r, p, t->data, t->bytes);
    } else {
        fill_random(r->e, p, dtype, elements, random.mean, random.spread, r->seed++);
    }
    return p;
}

static struct matrix region_awq(struct region *r, int layer, const struct part *parts, int n_parts, int rows,
                                int cols) {
    const int group = r->config->quantization.group;
    struct matrix w = {.format = MATRIX_AWQ, .dtype = DTYPE_F16, .rows = rows, .cols = cols, .group = group};
    awq_layout(r->e, &w, region_take(r, awq_bytes(r->e, rows, cols, group)));
    int row = 0;
    for (int i = 0; i < n_parts; i++) {
        const size_t need = part_raw_bytes(&parts[i], cols, group);
        if (!r->base) {
            r->raw_used += need;
            if (need > r->raw_widest) r->raw_widest = need;
            continue;
        }
        if (r->raw_used + need > r->raw_bytes) region_flush(r);
        const size_t n = (size_t)parts[i].rows, g = (size_t)(cols / group);
        /* q and zero are uniform in 0..15, so their difference has a variance of 42.5 */
        const float scale = 1 / sqrtf(42.5f * (float)cols);
        struct pack pack = {.w = w, .first_row = row, .n_rows = parts[i].rows};
        const char *name = parts[i].name;
        pack.qweight = raw_tensor(r, layer, name, ".qweight", (size_t)cols * n / 8, DTYPE_I32, (struct spread){0});
        pack.qzeros = raw_tensor(r, layer, name, ".qzeros", g * n / 8, DTYPE_I32, (struct spread){0});
        pack.scales =
            raw_tensor(r, layer, name, ".scales", g * n, DTYPE_F16, (struct spread){scale, 0.25f * scale});
        r->packs = grow_list(r, r->packs, r->n_packs, &r->packs_capacity, sizeof *r->packs);
        if (!r->failed) r->packs[r->n_packs++] = pack;
        row += parts[i].rows;
    }
    return w;
}

/* A linear layer: its parts are quantised all or none. */
static struct matrix region_matrix(struct region *r, int layer, const struct part *parts, int n_parts, int cols) {
    int rows = 0, n_quantized = 0;
    for (int i = 0; i < n_parts; i++) {
        rows += parts[i].rows;
        n_quantized += model_is_quantized(r->config, parts[i].name);
    }
    if (n_quantized == n_parts) return region_awq(r, layer, parts, n_parts, rows, cols);
    CHECK_EQ(n_quantized, 0); /* check_stacks has passed */
    const struct spread random = {0, sqrtf(3.0f / (float)cols)}; /* a variance of 1 / cols */
    return (struct matrix){.format = MATRIX_DENSE,
                           .dtype = r->dtype,
                           .rows = rows,
                           .cols = cols,
                           .data = region_stack(r, layer, parts, n_parts, ".weight", cols, random)};
}

#define N_PARTS(parts) (int)(sizeof(parts) / sizeof *(parts))

static const void *region_norm(struct region *r, int layer, const char *name, int width) {
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

    m->embedding = region_matrix(r, -1, embedding, 1, C);
    for (int l = 0; l < c->n_layers; l++) {
        struct layer *w = &m->layers[l];
        w->attn_norm = region_norm(r, l, "input_layernorm", C);
        w->w_qkv = region_matrix(r, l, qkv, N_PARTS(qkv), C);
        if (c->qkv_bias) {
            w->b_qkv = region_stack(r, l, qkv, N_PARTS(qkv), ".bias", 1, (struct spread){0, 0.25f});
            if (fp8_kv && w->b_qkv) w->k_bias = (const char *)w->b_qkv + (size_t)QD * dtype_bytes(r->dtype);
        }
        if (c->qk_norm) {
            w->q_norm = region_norm(r, l, "self_attn.q_norm", c->head_dim);
            w->k_norm = region_norm(r, l, "self_attn.k_norm", c->head_dim);
        }
        w->w_o = region_matrix(r, l, o, N_PARTS(o), QD);
        w->ffn_norm = region_norm(r, l, "post_attention_layernorm", C);
        w->w_gate_up = region_matrix(r, l, gate_up, N_PARTS(gate_up), C);
        w->w_down = region_matrix(r, l, down, N_PARTS(down), F);
    }
    m->final_norm = region_norm(r, -1, "model.norm", C);
    m->lm_head = c->tied ? m->embedding : region_matrix(r, -1, head, 1, C);
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
    struct region r = {.e = e, .c = c, .config = config, .dtype = dtype};
    const size_t rope_bytes = (size_t)max_len * config->head_dim * sizeof(float);
    float *rope = NULL;
    status = STATUS_NO_MEMORY;

    m->layers = calloc(config->n_layers, sizeof *m->layers);
    if (!m->layers) goto fail;
    place_weights(m, &r, fp8_kv); /* counts */
    m->bytes = r.used;
    r.raw_bytes = r.raw_used < RAW_BYTES ? r.raw_used : r.raw_widest > RAW_BYTES ? r.raw_widest : RAW_BYTES;
    m->memory = exec_alloc(e, r.used + rope_bytes);
    rope = malloc(rope_bytes);
    r.staging = malloc(r.staging_bytes ? r.staging_bytes : 1);
    r.raw = exec_alloc(e, r.raw_bytes);
    if (!m->memory || !rope || !r.staging || !r.raw) goto fail;

    r.base = m->memory;
    r.used = r.raw_used = 0;
    place_weights(m, &r, fp8_kv); /* fills */
    rope_table(rope, max_len, config->head_dim, config->rope_theta, dtype);
    void *table = region_take(&r, rope_bytes);
    note_transfer(&r, table, rope, rope_bytes);
    if (r.failed) goto fail;
    region_flush(&r);
    m->rope = (struct rope){.cos_sin = table, .max_positions = max_len, .D = config->head_dim};
    status = exec_finish(e, err, err_bytes);
    goto done;

fail:
    status = fail(err, err_bytes, status, "no memory for the weights: %zu MB needed for %" PRId64 " parameters in %s",
                  (r.used + rope_bytes) >> 20, model_config_n_params(config),
                  config->quantization.method ? "4 bits" : dtype_name(dtype));
done:
    free(rope);
    free(r.staging);
    free(r.transfers);
    free(r.packs);
    exec_free(e, r.raw);
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
