/* quantize.c - activation-aware weight quantisation (Lin et al. 2023, arXiv 2306.00978), as AutoAWQ does it.
 *
 * A row's 128 inputs share 4-bit steps, so weights whose inputs are large deserve finer ones. For linear layers W that
 * share an input x, input k is scaled:
 *     W x = (W diag(s)) (diag(1/s) x) ~ Q(W diag(s)) diag(1/s) x,         s_k = mean|x_k|^alpha, over sqrt(max s min s)
 * with the alpha of 0, 1/20 .. 19/20 that changes the output of the surrounding block least on calibration text; alpha = 0
 * is plain rounding. 1/s goes into what makes x: the norm before q, k, v and before gate, up; the rows of v for o; the
 * rows of up for down. v's rows are o's inputs only where every query head has a KV head of its own (H == K): with
 * grouped queries o is not scaled. Each group's weights are clipped at that share of their largest, from 1 down to 0.55,
 * which changes the group's own contribution least (not for q and k, whose product is what counts). Plain rounding is
 * among the candidates, so no block's error on the calibration text is above it.
 *
 * Two things differ from AutoAWQ, which finds the scaling first and the limits afterwards. A scaling is judged together
 * with the limits that suit it: found in turn, the scaling that was best unclipped was often worse than none once clipped
 * (the sample model's perplexity: 1.17 times as much in turn, 1.12 together; 16 sequences of 512 tokens). And limits are
 * judged on all tokens, through x' x of each group, where AutoAWQ takes 512.
 *
 * The calibration text is carried through the layers that are already quantised, so that a layer is fitted to the inputs
 * that it will see.
 *
 * Everything heavy is an op of kernels.h in float16, the dtype that the result is served in. On the device: the residual
 * stream of all calibration tokens, one layer's weights twice, activations of CHUNK_TOKENS tokens. Rows of 1/s: dividing
 * row n of W by a constant divides its steps and nothing else, so it is applied to the finished scales. */
#include "engine/quantize.h"
#include "engine/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_ALPHAS = 20,
    MAX_RULES = 1 + N_ALPHAS,
    CHUNK_TOKENS = 4096, /* at least one sequence */
    BLOCK_TOKENS = 16,   /* P of the calibration's KV */
    MAX_PARTS = 3,
    MAX_PIECES = 64,
};

/* Linear layers that share an input, one below the other. */
struct group {
    const char *linears;
    const char *parts[MAX_PARTS]; /* "self_attn.q_proj" */
    int rows[MAX_PARTS], n_parts;
    int first_clipped;  /* row from which on weights may be clipped */
    bool scalable;      /* something before it can take 1/s */
    struct matrix w, q; /* [sum of rows, K]: the original; what the chosen rule makes of it */
    float *s, *limit;   /* device [K], [rows, K / 128]: the chosen rule; see `rule` */
    struct awq_rule rule;
};
enum { QKV, O, GATE_UP, DOWN };

struct quantizer {
    const struct quantize_options *options;
    const struct checkpoint *checkpoint;
    const struct model_config *config;
    struct exec *e;
    struct safetensors_file *file;
    void *pieces[MAX_PIECES]; /* owned device memory */
    int n_pieces;
    bool failed; /* no memory */
    struct group groups[QUANTIZE_GROUPS];
    int layer;

    /* device: one layer's small weights, act */
    void *attn_norm, *ffn_norm, *q_norm, *k_norm, *b_qkv;

    /* device: the calibration. A chunk is `chunk` sequences; the last may have fewer. */
    int chunk, n_chunks;
    char *h; /* [n_sequences * length, C] act: the residual stream before this half of the layer */
    struct activations a;
    void *y, *reference; /* [T, C] act */
    struct batch batch;
    struct kv_cache kv;
    struct rope rope;

    /* device: sums of a search */
    float *gram, *magnitude; /* [K / 128, 128, 128], [K] of the group's input */
    float *scalings;         /* [N_ALPHAS, K] */
    float *limits;           /* [N_ALPHAS, rows, K / 128] */
    float *distances;        /* [MAX_RULES + 1, T]: of each rule, and |reference|^2 */
    int32_t *qweight, *qzeros;
    uint16_t *scales;

    void *staging; /* owned: host memory for the largest tensor */
    float *host;   /* owned: host memory for the scalings or the distances */
};

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *take(struct quantizer *q, size_t bytes) {
    CHECK_LT(q->n_pieces, MAX_PIECES);
    void *p = exec_alloc(q->e, bytes);
    if (!p) q->failed = true;
    return q->pieces[q->n_pieces++] = p;
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static void clear(struct quantizer *q, float *p, size_t n) { fill_random(q->e, p, DTYPE_F32, n, 0, 0, 0); }

static int group_rows(const struct group *g) {
    int rows = 0;
    for (int i = 0; i < g->n_parts; i++) rows += g->rows[i];
    return rows;
}

static void take_group(struct quantizer *q, struct group *g, int K) {
    const int rows = group_rows(g);
    const size_t n = (size_t)rows * (size_t)K;
    g->w = (struct matrix){.format = MATRIX_DENSE, .dtype = DTYPE_F16, .rows = rows, .cols = K, .data = take(q, 2 * n)};
    g->q = g->w;
    g->q.data = take(q, 2 * n);
    g->s = take(q, (size_t)K * sizeof *g->s);
    g->limit = take(q, n / AWQ_GROUP * sizeof *g->limit);
}

/* Positions and blocks of a full chunk: sequence b's tokens and blocks lie one after the other. */
static void take_batch(struct quantizer *q) {
    const int L = q->options->length, B = q->chunk, T = B * L, per_seq = (L + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
    const struct model_config *c = q->config;
    struct kv_layout *layout = &q->kv.layout;
    kv_layout_init(layout, DTYPE_F16, 1, c->n_kv_heads, c->head_dim, BLOCK_TOKENS, 64);
    kv_layout_init(layout, DTYPE_F16, 1, c->n_kv_heads, c->head_dim, BLOCK_TOKENS, layout->block_bytes);
    q->kv.pool = take(q, (size_t)B * (size_t)per_seq * layout->block_bytes);

    const size_t n = 3 * (size_t)T + 2 * (size_t)B + 1 + (size_t)B * (size_t)per_seq;
    int32_t *host = q->staging, *positions = host + T, *seq_of = positions + T, *query_start = seq_of + T,
            *kv_len = query_start + B + 1, *table = kv_len + B;
    for (int t = 0; t < T; t++) host[t] = 0, positions[t] = t % L, seq_of[t] = t / L;
    for (int b = 0; b < B; b++) query_start[b] = b * L, kv_len[b] = L;
    query_start[B] = T;
    for (int i = 0; i < B * per_seq; i++) table[i] = i;
    int32_t *d = take(q, n * sizeof *d);
    if (q->failed) return;
    exec_upload(q->e, d, host, n * sizeof *d);
    q->batch = (struct batch){.T = T, .B = B, .n_decode = L == 1 ? B : 0, .max_query = L, .max_kv_len = L,
                              .max_blocks = per_seq, .tokens = d, .positions = d + (positions - host),
                              .seq_of = d + (seq_of - host), .query_start = d + (query_start - host),
                              .kv_len = d + (kv_len - host), .block_table = d + (table - host)};
}

static void take_rope(struct quantizer *q) {
    const int L = q->options->length, D = q->config->head_dim;
    float *host = q->staging, *table = take(q, (size_t)L * (size_t)D * sizeof *table);
    rope_table(host, L, D, q->config->rope_theta, DTYPE_F16);
    if (!q->failed) exec_upload(q->e, table, host, (size_t)L * (size_t)D * sizeof *table);
    q->rope = (struct rope){.cos_sin = table, .max_positions = L, .D = D};
}

/* All device memory but that of the text's embedding. */
static void take_all(struct quantizer *q) {
    const struct model_config *c = q->config;
    const int C = c->hidden, F = c->ffn, D = c->head_dim, QD = c->n_heads * D, KD = c->n_kv_heads * D;
    const struct group groups[QUANTIZE_GROUPS] = {
        [QKV] = {.linears = "q_proj k_proj v_proj", .n_parts = 3, .rows = {QD, KD, KD}, .first_clipped = QD + KD,
                 .parts = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, .scalable = true},
        [O] = {.linears = "o_proj", .n_parts = 1, .rows = {C}, .parts = {"self_attn.o_proj"},
               .scalable = c->n_heads == c->n_kv_heads},
        [GATE_UP] = {.linears = "gate_proj up_proj", .n_parts = 2, .rows = {F, F},
                     .parts = {"mlp.gate_proj", "mlp.up_proj"}, .scalable = true},
        [DOWN] = {.linears = "down_proj", .n_parts = 1, .rows = {C}, .parts = {"mlp.down_proj"}, .scalable = true},
    };
    const int inputs[QUANTIZE_GROUPS] = {C, QD, C, F};
    const size_t widest = most(most((size_t)C, (size_t)F), (size_t)QD), act = dtype_bytes(DTYPE_F16);
    size_t largest = 0, most_weights = 0; /* elements of one linear, of one group */
    for (int i = 0; i < QUANTIZE_GROUPS; i++) {
        q->groups[i] = groups[i];
        take_group(q, &q->groups[i], inputs[i]);
        most_weights = most(most_weights, (size_t)group_rows(&groups[i]) * (size_t)inputs[i]);
        for (int p = 0; p < groups[i].n_parts; p++)
            largest = most(largest, (size_t)groups[i].rows[p] * (size_t)inputs[i]);
    }
    q->attn_norm = take(q, (size_t)C * act);
    q->ffn_norm = take(q, (size_t)C * act);
    q->q_norm = c->qk_norm ? take(q, (size_t)D * act) : NULL;
    q->k_norm = c->qk_norm ? take(q, (size_t)D * act) : NULL;
    q->b_qkv = c->qkv_bias ? take(q, (size_t)(QD + 2 * KD) * act) : NULL;
    q->qweight = take(q, largest / 2);
    q->qzeros = take(q, largest / AWQ_GROUP / 2);
    q->scales = take(q, largest / AWQ_GROUP * act);
    if (!q->n_chunks) return;
    const size_t T = (size_t)q->chunk * (size_t)q->options->length;
    q->h = take(q, (size_t)q->options->n_sequences * (size_t)q->options->length * (size_t)C * act);
    void *arena = take(q, activations_layout(NULL, NULL, c, DTYPE_F16, (int)T, 0));
    if (arena) activations_layout(&q->a, arena, c, DTYPE_F16, (int)T, 0);
    q->y = take(q, T * (size_t)C * act);
    q->reference = take(q, T * (size_t)C * act);
    q->gram = take(q, widest * AWQ_GROUP * sizeof *q->gram);
    q->magnitude = take(q, widest * sizeof *q->magnitude);
    q->scalings = take(q, N_ALPHAS * widest * sizeof *q->scalings);
    q->limits = take(q, N_ALPHAS * (most_weights / AWQ_GROUP) * sizeof *q->limits);
    q->distances = take(q, (MAX_RULES + 1) * T * sizeof *q->distances);
    take_batch(q);
    take_rope(q);
}

/* ---- tensors in and out ------------------------------------------------------------------------------------------ */

static void tensor_name(char name[MODEL_TENSOR_NAME], int layer, const char *part, const char *suffix) {
    if (layer < 0)
        snprintf(name, MODEL_TENSOR_NAME, "%s%s", part, suffix);
    else
        snprintf(name, MODEL_TENSOR_NAME, "model.layers.%d.%s%s", layer, part, suffix);
}

/* n elements of a tensor as float16, or where that is not finite, a sentence. */
static int convert(uint16_t *out, const struct tensor *t, size_t n, char *err, size_t err_bytes) {
    for (size_t i = 0; i < n; i++) {
        const float f = t->dtype == DTYPE_F32    ? ((const float *)t->data)[i]
                        : t->dtype == DTYPE_BF16 ? f32_from_bf16(((const uint16_t *)t->data)[i])
                                                 : f32_from_f16(((const uint16_t *)t->data)[i]);
        out[i] = f16_from_f32(f);
        if ((out[i] & 0x7c00) == 0x7c00)
            return fail(err, err_bytes, STATUS_UNSUPPORTED,
                        "tensor %s: expected values that float16 can hold (an AWQ checkpoint is float16), found %g",
                        t->name, (double)f);
    }
    return 0;
}

static const struct tensor *find_tensor(const struct quantizer *q, int layer, const char *part, const char *suffix) {
    char name[MODEL_TENSOR_NAME];
    tensor_name(name, layer, part, suffix);
    const struct tensor *t = checkpoint_find(q->checkpoint, name);
    CHECK(t); /* checkpoint_check has passed */
    return t;
}

static size_t tensor_elements(const struct tensor *t) { return t->bytes / dtype_bytes(t->dtype); }

/* A tensor of this layer to the device, as float16. */
static int load(struct quantizer *q, void *device, const char *part, const char *suffix, char *err, size_t err_bytes) {
    const struct tensor *t = find_tensor(q, q->layer, part, suffix);
    int status = convert(q->staging, t, tensor_elements(t), err, err_bytes);
    if (!status) exec_upload(q->e, device, q->staging, 2 * tensor_elements(t));
    return status;
}

static int load_layer(struct quantizer *q, char *err, size_t err_bytes) {
    int status = load(q, q->attn_norm, "input_layernorm", ".weight", err, err_bytes);
    if (!status) status = load(q, q->ffn_norm, "post_attention_layernorm", ".weight", err, err_bytes);
    if (!status && q->q_norm) status = load(q, q->q_norm, "self_attn.q_norm", ".weight", err, err_bytes);
    if (!status && q->k_norm) status = load(q, q->k_norm, "self_attn.k_norm", ".weight", err, err_bytes);
    for (int i = 0; i < QUANTIZE_GROUPS; i++) {
        const struct group *g = &q->groups[i];
        char *to = (char *)g->w.data, *bias = i == QKV ? q->b_qkv : NULL;
        for (int p = 0; p < g->n_parts && !status; p++) {
            status = load(q, to, g->parts[p], ".weight", err, err_bytes);
            if (!status && bias) status = load(q, bias, g->parts[p], ".bias", err, err_bytes);
            to += 2 * (size_t)g->rows[p] * (size_t)g->w.cols;
            if (bias) bias += 2 * (size_t)g->rows[p];
        }
    }
    return status;
}

static int put(struct quantizer *q, int layer, const char *part, const char *suffix, const void *data, char *err,
               size_t err_bytes) {
    char name[MODEL_TENSOR_NAME];
    tensor_name(name, layer, part, suffix);
    return safetensors_put(q->file, name, data, err, err_bytes);
}

/* Writes a tensor that stays float16, its elements divided by `divisor` (host; NULL: ones). */
static int copy(struct quantizer *q, int layer, const char *part, const char *suffix, const float *divisor, char *err,
                size_t err_bytes) {
    const struct tensor *t = find_tensor(q, layer, part, suffix);
    uint16_t *out = q->staging;
    int status = convert(out, t, tensor_elements(t), err, err_bytes);
    for (size_t i = 0; divisor && i < tensor_elements(t); i++) out[i] = f16_from_f32(f32_from_f16(out[i]) / divisor[i]);
    return status ? status : put(q, layer, part, suffix, out, err, err_bytes);
}

/* Writes the three tensors of each linear of a group. The rows of the last are divided by `divisor` (device or NULL). */
static int put_group(struct quantizer *q, const struct group *g, const float *divisor, char *err, size_t err_bytes) {
    const size_t K = (size_t)g->w.cols, n_groups = K / AWQ_GROUP;
    int status = 0, row = 0;
    for (int p = 0; p < g->n_parts && !status; row += g->rows[p++]) {
        const size_t n = (size_t)g->rows[p];
        struct matrix w = g->w;
        w.rows = g->rows[p];
        w.data = (const char *)g->w.data + 2 * (size_t)row * K;
        const struct awq_rule rule = {.s = g->rule.s,
                                      .limit = g->rule.limit ? g->rule.limit + (size_t)row * n_groups : NULL};
        awq_quantize(q->e, q->qweight, q->qzeros, q->scales, &w, &rule, p == g->n_parts - 1 ? divisor : NULL);
        const struct {
            const char *suffix;
            const void *device;
            size_t bytes;
        } tensors[] = {{".qweight", q->qweight, K * n / 2},
                       {".qzeros", q->qzeros, n_groups * n / 2},
                       {".scales", q->scales, n_groups * n * 2}};
        for (int i = 0; i < 3 && !status; i++) {
            exec_download(q->e, q->staging, tensors[i].device, tensors[i].bytes);
            status = put(q, q->layer, g->parts[p], tensors[i].suffix, q->staging, err, err_bytes);
        }
    }
    return status;
}

/* ---- the blocks -------------------------------------------------------------------------------------------------- */

/* o = attention of x through w; y = o Wo where y is wanted. */
static void attention_block(struct quantizer *q, void *y, const void *x, const struct matrix *w,
                            const struct batch *batch) {
    const struct model_config *c = q->config;
    struct activations *a = &q->a;
    linear(q->e, a->qkv, x, w, q->b_qkv, batch->T);
    rope_attention(q->e, a->o, a->q, &q->kv, 0, a->qkv, q->q_norm, q->k_norm, NULL, &q->rope, batch, c->n_heads,
                   c->rms_eps);
    if (y) linear(q->e, y, a->o, &q->groups[O].w, NULL, batch->T);
}

/* ffn = silu(gate) up of x through w; y = ffn Wdown where y is wanted. */
static void ffn_block(struct quantizer *q, void *y, const void *x, const struct matrix *w, int T) {
    struct activations *a = &q->a;
    linear(q->e, a->gate_up, x, w, NULL, T);
    silu_mul(q->e, a->ffn, a->gate_up, T, q->config->ffn);
    if (y) linear(q->e, y, a->ffn, &q->groups[DOWN].w, NULL, T);
}

/* The batch of a chunk, and where its part of the residual stream begins. */
static struct batch chunk_batch(const struct quantizer *q, int chunk, void **h) {
    const int L = q->options->length, first = chunk * q->chunk, left = q->options->n_sequences - first;
    struct batch batch = q->batch;
    if (left < batch.B) batch.B = left, batch.T = left * L;
    if (batch.n_decode) batch.n_decode = batch.B;
    *h = q->h + 2 * (size_t)first * (size_t)L * (size_t)q->config->hidden;
    return batch;
}

/* The input of group i for a chunk whose residual stream is h, the groups before it being quantised. */
static const void *group_input(struct quantizer *q, int i, const void *h, const struct batch *batch) {
    const struct model_config *c = q->config;
    struct activations *a = &q->a;
    rms_norm(q->e, a->x, h, i == QKV || i == O ? q->attn_norm : q->ffn_norm, batch->T, c->hidden, c->rms_eps);
    if (i == O) attention_block(q, NULL, a->x, &q->groups[QKV].q, batch);
    if (i == DOWN) ffn_block(q, NULL, a->x, &q->groups[GATE_UP].q, batch->T);
    return i == O ? a->o : i == DOWN ? a->ffn : a->x;
}

/* y = the output of the block around group i, with w for its weights. */
static void group_output(struct quantizer *q, int i, void *y, const void *x, const struct matrix *w,
                         const struct batch *batch) {
    if (i == QKV)
        attention_block(q, y, x, w, batch);
    else if (i == GATE_UP)
        ffn_block(q, y, x, w, batch->T);
    else
        linear(q->e, y, x, w, NULL, batch->T);
}

/* h += the quantised half of the layer that ends with group i. */
static void advance(struct quantizer *q, int i) {
    for (int chunk = 0; chunk < q->n_chunks; chunk++) {
        void *h;
        const struct batch batch = chunk_batch(q, chunk, &h);
        const void *x = group_input(q, i, h, &batch);
        linear(q->e, q->y, x, &q->groups[i].q, NULL, batch.T);
        add(q->e, h, q->y, batch.T, q->config->hidden);
    }
}

/* ---- the search -------------------------------------------------------------------------------------------------- */

/* gram and magnitude of group i's input. */
static void measure_input(struct quantizer *q, int i) {
    const int K = q->groups[i].w.cols;
    clear(q, q->gram, (size_t)K * AWQ_GROUP);
    clear(q, q->magnitude, (size_t)K);
    for (int chunk = 0; chunk < q->n_chunks; chunk++) {
        void *h;
        const struct batch batch = chunk_batch(q, chunk, &h);
        const void *x = group_input(q, i, h, &batch);
        gram_add(q->e, q->gram, x, batch.T, K);
        column_abs_add(q->e, q->magnitude, x, batch.T, K);
    }
}

/* scalings [N_ALPHAS, K]; those of alpha = 0 are ones. */
static void make_scalings(struct quantizer *q, int K) {
    float *mean = q->staging, *all = q->host;
    const double n = (double)q->options->n_sequences * q->options->length;
    exec_download(q->e, mean, q->magnitude, (size_t)K * sizeof *mean);
    for (int alpha = 0; alpha < N_ALPHAS; alpha++) {
        float *s = all + (size_t)alpha * (size_t)K, low = INFINITY, high = 0;
        for (int k = 0; k < K; k++) {
            s[k] = powf((float)(mean[k] / n), (float)alpha / N_ALPHAS);
            if (!(s[k] >= 1e-4f)) s[k] = 1e-4f;
            low = fminf(low, s[k]), high = fmaxf(high, s[k]);
        }
        const float middle = sqrtf(low * high);
        for (int k = 0; k < K; k++) s[k] /= middle;
    }
    exec_upload(q->e, q->scalings, all, (size_t)N_ALPHAS * (size_t)K * sizeof *all);
}

/* Limits that suit group i's weights under a scaling s, into limit [rows, K / 128]. */
static void make_limits(struct quantizer *q, int i, float *limit, const float *s) {
    const struct group *g = &q->groups[i];
    const size_t first = (size_t)g->first_clipped, K = (size_t)g->w.cols;
    struct matrix clipped = g->w;
    clipped.rows -= g->first_clipped;
    clipped.data = (const char *)g->w.data + 2 * first * K;
    fill_random(q->e, limit, DTYPE_F32, first * (K / AWQ_GROUP), INFINITY, 0, 0);
    awq_clip(q->e, limit + first * (K / AWQ_GROUP), q->gram, &clipped, s);
}

/* errors [n_rules]: of group i's block under each rule, relative to its output. */
static int measure_errors(struct quantizer *q, int i, double *errors, const struct awq_rule *rules, int n_rules,
                          char *err, size_t err_bytes) {
    struct group *g = &q->groups[i];
    const size_t T = (size_t)q->batch.T;
    const int C = q->config->hidden;
    double sums[MAX_RULES + 1];
    clear(q, q->distances, (size_t)(n_rules + 1) * T);
    for (int chunk = 0; chunk < q->n_chunks; chunk++) {
        void *h;
        const struct batch batch = chunk_batch(q, chunk, &h);
        const void *x = group_input(q, i, h, &batch);
        group_output(q, i, q->reference, x, &g->w, &batch);
        row_distance_add(q->e, q->distances + (size_t)n_rules * T, q->reference, NULL, batch.T, C);
        for (int r = 0; r < n_rules; r++) {
            awq_round(q->e, (void *)g->q.data, &g->w, &rules[r]);
            group_output(q, i, q->y, x, &g->q, &batch);
            row_distance_add(q->e, q->distances + (size_t)r * T, q->y, q->reference, batch.T, C);
        }
    }
    int status = exec_finish(q->e, err, err_bytes);
    if (status) return status;
    exec_download(q->e, q->host, q->distances, (size_t)(n_rules + 1) * T * sizeof *q->host);
    for (int r = 0; r <= n_rules; r++) {
        sums[r] = 0;
        for (size_t t = 0; t < T; t++) sums[r] += q->host[(size_t)r * T + t];
        if (!isfinite(sums[r]))
            return fail(err, err_bytes, STATUS_UNSUPPORTED,
                        "layer %d, %s: expected activations that float16 can hold (an AWQ checkpoint computes in "
                        "float16), found an overflow",
                        q->layer, g->linears);
    }
    for (int r = 0; r < n_rules; r++) errors[r] = sums[n_rules] > 0 ? sums[r] / sums[n_rules] : 0;
    return 0;
}

/* Chooses group i's rule: of plain rounding, and each scaling with the limits that suit it. */
static int search(struct quantizer *q, int i, struct quantize_result *result, char *err, size_t err_bytes) {
    struct group *g = &q->groups[i];
    const bool scale = q->options->scale && g->scalable, clip = q->options->clip;
    const size_t K = (size_t)g->w.cols, n_limits = (size_t)g->w.rows * (K / AWQ_GROUP);
    const int n_alphas = scale ? N_ALPHAS : clip;
    struct awq_rule rules[MAX_RULES] = {{0}}; /* the first is plain rounding; rule 1 + j is alpha = j / N_ALPHAS */
    double errors[MAX_RULES];
    int best = 0;
    if (n_alphas) measure_input(q, i);
    if (scale) make_scalings(q, (int)K);
    for (int j = 0; j < n_alphas; j++) {
        struct awq_rule *rule = &rules[1 + j];
        if (j) rule->s = q->scalings + (size_t)j * K;
        if (clip) {
            rule->limit = q->limits + (size_t)j * n_limits;
            make_limits(q, i, q->limits + (size_t)j * n_limits, rule->s);
        }
    }
    int status = measure_errors(q, i, errors, rules, 1 + n_alphas, err, err_bytes);
    if (status) return status;
    for (int r = 1; r <= n_alphas; r++)
        if (errors[r] < errors[best]) best = r;
    if (rules[best].s) { /* the other groups of this layer will want the room */
        exec_download(q->e, q->host, rules[best].s, K * sizeof *q->host);
        exec_upload(q->e, g->s, q->host, K * sizeof *q->host);
        g->rule.s = g->s;
    }
    if (rules[best].limit) make_limits(q, i, g->limit, g->rule.s), g->rule.limit = g->limit;
    result->scaled = g->rule.s != NULL;
    result->clipped = g->rule.limit != NULL;
    result->exponent = best ? (double)(best - 1) / N_ALPHAS : 0;
    result->error_nearest = errors[0];
    result->error = errors[best];
    return 0;
}

static int quantize_group(struct quantizer *q, int i, struct quantize_result *result, char *err, size_t err_bytes) {
    struct group *g = &q->groups[i];
    *result = (struct quantize_result){.layer = q->layer, .linears = g->linears, .error_nearest = NAN,
                                       .error = NAN};
    g->rule = (struct awq_rule){0};
    int status = q->n_chunks ? search(q, i, result, err, err_bytes) : 0;
    if (!status && q->n_chunks) awq_round(q->e, (void *)g->q.data, &g->w, &g->rule);
    if (q->options->progress)
        q->options->progress(q->options->user, (int64_t)q->layer * QUANTIZE_GROUPS + i + 1);
    return status;
}

/* ---- a layer ----------------------------------------------------------------------------------------------------- */

/* A host copy of a group's scaling, or NULL where it has none. */
static const float *host_scaling(struct quantizer *q, const struct group *g) {
    if (!g->rule.s) return NULL;
    exec_download(q->e, q->host, g->rule.s, (size_t)g->w.cols * sizeof(float));
    return q->host;
}

static int put_layer(struct quantizer *q, char *err, size_t err_bytes) {
    const struct group *g = q->groups;
    int status = copy(q, q->layer, "input_layernorm", ".weight", host_scaling(q, &g[QKV]), err, err_bytes);
    if (!status)
        status = copy(q, q->layer, "post_attention_layernorm", ".weight", host_scaling(q, &g[GATE_UP]), err, err_bytes);
    if (!status && q->q_norm) status = copy(q, q->layer, "self_attn.q_norm", ".weight", NULL, err, err_bytes);
    if (!status && q->k_norm) status = copy(q, q->layer, "self_attn.k_norm", ".weight", NULL, err, err_bytes);
    for (int p = 0; p < g[QKV].n_parts && q->b_qkv && !status; p++)
        status = copy(q, q->layer, g[QKV].parts[p], ".bias", p == 2 ? host_scaling(q, &g[O]) : NULL, err, err_bytes);
    for (int i = 0; i < QUANTIZE_GROUPS && !status; i++) {
        const bool feeds = i == QKV || i == GATE_UP; /* the last of its linears makes the next group's input */
        status = put_group(q, &g[i], feeds ? g[i + 1].rule.s : NULL, err, err_bytes);
    }
    return status;
}

static int quantize_layer(struct quantizer *q, struct quantize_result *results, char *err, size_t err_bytes) {
    int status = load_layer(q, err, err_bytes);
    for (int i = 0; i < QUANTIZE_GROUPS && !status; i++) {
        status = quantize_group(q, i, &results[i], err, err_bytes);
        if (!status && (i == O || i == DOWN)) advance(q, i);
    }
    return status ? status : put_layer(q, err, err_bytes);
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

int quantize_check(const struct model_config *config, const char *name, char *err, size_t err_bytes) {
    const struct {
        const char *name;
        int width, unit;
    } widths[] = {{"hidden_size", config->hidden, AWQ_GROUP},
                  {"num_attention_heads * head_dim", config->n_heads * config->head_dim, AWQ_GROUP},
                  {"intermediate_size", config->ffn, AWQ_GROUP},
                  {"num_key_value_heads * head_dim", config->n_kv_heads * config->head_dim, 16}};
    if (config->quantization.method != QUANTIZATION_NONE)
        return fail(
            err, err_bytes, STATUS_INVALID,
            "%s: expected a model that is not quantised, found an AWQ checkpoint; give the model it was made from",
            name);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i].width % widths[i].unit)
            return fail(err, err_bytes, STATUS_UNSUPPORTED,
                        "%s: %s: expected a multiple of %d, which AWQ's packing needs, found %d; this model cannot be "
                        "quantised so",
                        name, widths[i].name, widths[i].unit, widths[i].width);
    return 0;
}

/* The file with room for every tensor of the quantised model. */
static int create_file(struct quantizer *q, const char *path, char *err, size_t err_bytes) {
    struct model_config quantised = *q->config;
    quantised.quantization = (struct model_quantization){.method = QUANTIZATION_AWQ, .group = AWQ_GROUP};
    const int n = model_n_tensors(&quantised);
    struct tensor *tensors = calloc((size_t)n, sizeof *tensors);
    char(*names)[MODEL_TENSOR_NAME] = calloc((size_t)n, sizeof *names);
    int status = tensors && names ? 0 : fail(err, err_bytes, STATUS_NO_MEMORY, "%s: out of memory", path);
    for (int i = 0; i < n && !status; i++) {
        struct tensor *t = &tensors[i];
        t->n_dims = model_tensor(&quantised, i, names[i], t->dims);
        t->name = names[i];
        t->dtype = strstr(names[i], ".qweight") || strstr(names[i], ".qzeros") ? DTYPE_I32 : DTYPE_F16;
        t->bytes = dtype_bytes(t->dtype);
        for (int d = 0; d < t->n_dims; d++) t->bytes *= (size_t)t->dims[d];
    }
    if (!status) status = safetensors_create(&q->file, path, tensors, (size_t)n, err, err_bytes);
    free(tensors);
    free(names);
    return status;
}

/* h = E[tokens], by way of a copy of the embedding on the device that is gone afterwards. */
static int embed_text(struct quantizer *q, char *err, size_t err_bytes) {
    const struct tensor *t = find_tensor(q, -1, "model.embed_tokens", ".weight");
    const int C = q->config->hidden, L = q->options->length;
    const size_t bytes = (size_t)q->batch.T * sizeof(int32_t);
    void *table = exec_alloc(q->e, t->bytes);
    int32_t *tokens = exec_alloc(q->e, bytes);
    int status = STATUS_NO_MEMORY;
    if (!table || !tokens) {
        fail(err, err_bytes, status, "no memory for the embedding (%zu MB)", t->bytes >> 20);
        goto done;
    }
    const struct matrix embedding = {.format = MATRIX_DENSE, .dtype = t->dtype, .rows = q->config->vocab, .cols = C,
                                     .data = table};
    exec_upload(q->e, table, t->data, t->bytes);
    for (int chunk = 0; chunk < q->n_chunks; chunk++) {
        void *h;
        const struct batch batch = chunk_batch(q, chunk, &h);
        const int32_t *from = q->options->tokens + (size_t)chunk * (size_t)q->chunk * (size_t)L;
        exec_upload(q->e, tokens, from, (size_t)batch.T * sizeof *tokens);
        embed(q->e, h, tokens, NULL, &embedding, batch.T);
    }
    status = exec_finish(q->e, err, err_bytes);
done:
    exec_free(q->e, table);
    exec_free(q->e, tokens);
    return status;
}

static int open_quantizer(struct quantizer *q, char *err, size_t err_bytes) {
    const struct model_config *c = q->config;
    const struct quantize_options *o = q->options;
    const size_t widest = most(most((size_t)c->hidden, 2 * (size_t)c->ffn),
                               (size_t)(c->n_heads + 2 * c->n_kv_heads) * (size_t)c->head_dim);
    q->chunk = o->n_sequences && o->length < CHUNK_TOKENS ? CHUNK_TOKENS / o->length : 1;
    if (q->chunk > o->n_sequences) q->chunk = o->n_sequences;
    q->n_chunks = q->chunk ? (o->n_sequences + q->chunk - 1) / q->chunk : 0;
    const size_t T = (size_t)q->chunk * (size_t)o->length;
    const struct exec_options exec = {
        .backend = o->backend,
        .dtype = DTYPE_F16,
        .n_threads = o->n_threads,
        .max_tokens = T ? (int)T : 1,
        .max_rows = 1,
        .max_width = (int)widest,
        .max_kv_len = o->length ? o->length : 1,
        .max_heads = c->n_heads,
        .max_head_dim = c->head_dim,
        .vocab = 1,
    };
    int status = exec_open(&q->e, &exec, err, err_bytes);
    if (status) return status;

    size_t largest = 16 * T + 4096; /* elements of two bytes: a chunk's positions and block table fit, too */
    int64_t dims[TENSOR_MAX_DIMS];
    char name[MODEL_TENSOR_NAME];
    for (int i = 0; i < model_n_tensors(c); i++) {
        size_t n = 1;
        for (int d = model_tensor(c, i, name, dims) - 1; d >= 0; d--) n *= (size_t)dims[d];
        largest = most(largest, n);
    }
    largest = most(largest, 2 * (size_t)o->length * (size_t)c->head_dim); /* the rope table */
    q->staging = malloc(2 * largest);
    q->host = malloc(most(N_ALPHAS * widest, (MAX_RULES + 1) * T) * sizeof *q->host);
    if (q->staging && q->host) take_all(q);
    if (q->staging && q->host && !q->failed) return 0;
    return fail(err, err_bytes, STATUS_NO_MEMORY,
                "no memory for one layer's weights and %d tokens of calibration: use fewer --samples", (int)T);
}

static void close_quantizer(struct quantizer *q) {
    for (int i = 0; i < q->n_pieces; i++) exec_free(q->e, q->pieces[i]);
    exec_close(q->e);
    safetensors_discard(q->file);
    free(q->staging);
    free(q->host);
}

int quantize_model(struct quantize_result *results, const char *path, const struct checkpoint *checkpoint,
                   const struct model_config *config, const struct quantize_options *options, char *err,
                   size_t err_bytes) {
    struct quantizer q = {.options = options, .checkpoint = checkpoint, .config = config};
    CHECK(options->n_sequences || (!options->scale && !options->clip));
    int status = open_quantizer(&q, err, err_bytes);
    if (!status) status = create_file(&q, path, err, err_bytes);
    if (!status && q.n_chunks) status = embed_text(&q, err, err_bytes);
    for (; q.layer < config->n_layers && !status; q.layer++) {
        status = quantize_layer(&q, results + (size_t)q.layer * QUANTIZE_GROUPS, err, err_bytes);
        if (!status) status = exec_finish(q.e, err, err_bytes);
    }
    if (!status) status = copy(&q, -1, "model.embed_tokens", ".weight", NULL, err, err_bytes);
    if (!status) status = copy(&q, -1, "model.norm", ".weight", NULL, err, err_bytes);
    if (!status && !config->tied) status = copy(&q, -1, "lm_head", ".weight", NULL, err, err_bytes);
    if (!status) {
        status = safetensors_commit(q.file, err, err_bytes);
        q.file = NULL;
    }
    close_quantizer(&q);
    return status;
}
