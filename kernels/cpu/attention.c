/* attention.c - causal, ragged, grouped-query attention over the paged KV cache, and attention of whole texts to
 * themselves (attention_full).
 *
 *     s[p] = (q . k[p]) / sqrt(D)                  for p in 0 .. positions[t] of t's sequence
 *     o    = sum of e^(s[p] - m) v[p] / sum of e^(s[p] - m),   m = max s[p]
 * Query head h of token t reads KV head h / (H / K), so a "row" here is a pair (t, h) and the rows of one sequence and
 * one KV head share all of k and v. Of whole texts every row sees every position of its own text, and k and v are those
 * of the step: the same sums over other addresses.
 *
 * Computed transposed, with TILE_ROWS rows in the lanes of vectors: scores [position, row], outputs [d, row]. Maxima,
 * sums and rescalings go down the lanes without crossing them.
 *
 *     for each SPLIT positions, from absolute position 0:       (flash attention; Dao et al., arXiv:2205.14135)
 *         S = K Q'          [SPLIT, rows]; masked where p > position of the row
 *         m', l' = max, sum of e^(S - m') over the split
 *         O' = V' P         [D, rows]
 *         m, l, O = fold of the running (m, l, O) and the split's (m', l', O')
 *     o = O / l
 * S carries a factor log2(e), so that powers are of two. With a k_bias (kernels.h), S = K Q' + R C', where row p of R is
 * (cos p, sin p) and C has a row for each of Q's.
 *
 * Order: splits lie at absolute positions and are folded in turn; within one, every score, l' and every output is one
 * sum in one order (d, p ascending; that of the matrix unit is in attention_amx.c). A position that a row does not see
 * adds exactly zero, a split that it does not see leaves it alone. So how many rows share a tile, how many tokens a
 * step, and where the blocks lie, changes no bit.
 *
 * A unit of work is one KV head of one sequence and up to UNIT_TILES tiles of its rows; it prepares each split's K and
 * V once for all its tiles. One with few rows, as every one of a decode step, would leave most lanes empty:
 * attention_few.c does the same sums with positions and d in the lanes. Reads 2 D elements for each position. FLOP: 4 D
 * for each position and row. */
#include "kernels/cpu/attention.h"

static size_t carve(struct workspace *w, float *scratch, size_t D) {
    size_t at = 0, pointer = sizeof(void *) / sizeof(float);
#define TAKE(field, n) (w->field = (void *)(scratch + at), at += round_up((n), 16))
    TAKE(q, UNIT_TILES * D * TILE_ROWS);
    TAKE(max, UNIT_TILES * TILE_ROWS);
    TAKE(sum, UNIT_TILES * TILE_ROWS);
    TAKE(out, UNIT_TILES * D * TILE_ROWS);
    TAKE(split, D * TILE_ROWS);
    TAKE(scores, SPLIT * TILE_ROWS);
    TAKE(turned, SPLIT * TILE_ROWS);
    TAKE(p, SPLIT * TILE_ROWS);
    TAKE(k, SPLIT * D);
    TAKE(v, SPLIT * D);
    TAKE(k_row, SPLIT * pointer);
    TAKE(v_row, SPLIT * pointer);
    TAKE(k_scale, SPLIT);
    TAKE(v_scale, SPLIT);
    TAKE(c, UNIT_TILES * D * TILE_ROWS);
    TAKE(bias_score, SPLIT * TILE_ROWS);
    TAKE(key_scale, SPLIT);
#undef TAKE
    return at;
}

size_t CPU(attention_floats)(int max_head_dim) {
    struct workspace w;
    static float nothing[1];
    return carve(&w, nothing, round_up((size_t)max_head_dim, 32));
}

/* ---- K and V of a split ---------------------------------------------------------------------------------------------- */

/* Where positions first .. first + n - 1 are, without a division for each; up to a multiple of 32, the scales of
 * positions that do not exist are finite. */
static void find_rows(const struct unit *u, struct workspace *w, int first, int n) {
    const struct kv_cache *kv = u->op->kv;
    const struct kv_layout *a = &kv->layout;
    const int32_t *start = starts(u->op);
    float scale = LOG2_E / sqrtf((float)u->D);
    size_t row_bytes = (size_t)a->D * dtype_bytes(a->dtype);
    bool fp8 = kv_is_fp8(u);
    float *k_scale = u->op->k_bias ? w->key_scale : w->k_scale;
    for (int i = 0, slot = first % a->P; i < n; slot = 0) {
        char *block = u->op->texts ? (char *)kv->pool + (size_t)(start[u->b] + first + i) * a->block_bytes
                                   : kv_block(kv, u->op->layer, u->op->batch, u->b, first + i);
        const char *k = kv_row(block, a, 0, u->k, slot), *v = kv_row(block, a, 1, u->k, slot);
        const float *ks = kv_scale(block, a, 0, u->k, slot), *vs = kv_scale(block, a, 1, u->k, slot);
        int end = n - i < a->P - slot ? n : i + a->P - slot;
        for (; i < end; i++, k += row_bytes, v += row_bytes) {
            w->k_row[i] = k;
            w->v_row[i] = v;
            k_scale[i] = fp8 ? *ks++ * scale : scale;
            w->v_scale[i] = fp8 ? *vs++ : 1;
        }
    }
    for (int i = n; i % 32; i++) w->k_scale[i] = w->v_scale[i] = 0;
    for (int i = 0; u->op->k_bias && i < n; i++) w->k_scale[i] = 1;
}

/* ---- in fp32 vectors -------------------------------------------------------------------------------------------------- */

/* [D, TILE_ROWS]: lane r is row r's vector; zeros beyond the rows. */
static void load_queries(const struct unit *u, float *q, int tile) {
    float row[MAX_D];
    memset(q, 0, (size_t)u->D * TILE_ROWS * sizeof *q);
    for (int r = 0; r < tile_rows(u, tile); r++) {
        row_widen(row, q_row(u, tile * TILE_ROWS + r), (size_t)u->D, u->op->e->options.dtype);
        for (int d = 0; d < u->D; d++) q[d * TILE_ROWS + r] = row[d];
    }
}

static void load_split(const struct unit *u, struct workspace *w, int n) {
    enum dtype t = u->op->kv->layout.dtype;
    for (int i = 0; i < n; i++) {
        float *k = w->k + (size_t)i * u->D, *v = w->v + (size_t)i * u->D;
        if (kv_is_fp8(u)) {
            row_widen_e4m3(k, w->k_row[i], u->D);
            row_widen_e4m3(v, w->v_row[i], u->D);
        } else {
            row_widen(k, w->k_row[i], (size_t)u->D, t);
            row_widen(v, w->v_row[i], (size_t)u->D, t);
        }
    }
}

/* out[i] [TILE_ROWS] = sum over j of a[i * i_step + j * j_step] b[j] [TILE_ROWS], j ascending. */
INLINE void multiply_some(float *out, const float *a, size_t i_step, size_t j_step, const float *b, int n_j,
                          const int n_i, const int n_v) {
    vf acc[8];
    for (int i = 0; i < n_i * n_v; i++) acc[i] = (vf){0};
    for (int j = 0; j < n_j; j++)
        for (int i = 0; i < n_i; i++)
            for (int v = 0; v < n_v; v++)
                acc[i * n_v + v] = vf_fma(vf_set1(a[i * i_step + j * j_step]), vf_load(b + j * TILE_ROWS + v * LANES),
                                          acc[i * n_v + v]);
    for (int i = 0; i < n_i; i++)
        for (int v = 0; v < n_v; v++) vf_store(out + i * TILE_ROWS + v * LANES, acc[i * n_v + v]);
}

static void multiply(float *out, const float *a, size_t i_step, size_t j_step, const float *b, int n_i, int n_j,
                     int rows) {
    enum { SOME = 8 / N_VECTORS };
    int i = 0;
    if (N_VECTORS > 1 && rows <= LANES) { /* few rows: the first vector has them all */
        for (; i + 8 <= n_i; i += 8) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 8, 1);
        for (; i < n_i; i++) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 1, 1);
        return;
    }
    for (; i + SOME <= n_i; i += SOME)
        multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, SOME, N_VECTORS);
    for (; i < n_i; i++) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 1, N_VECTORS);
}

/* C of each tile, as load_queries has Q; times the factor of scores. */
static void load_bias(const struct unit *u, struct workspace *w) {
    int D = u->D, half = D / 2, n_tiles = (u->n_rows + TILE_ROWS - 1) / TILE_ROWS;
    enum dtype act = u->op->e->options.dtype;
    float b[MAX_D], q[MAX_D], scale = LOG2_E / sqrtf((float)D);
    row_widen(b, u->op->k_bias + (size_t)u->k * D * dtype_bytes(act), (size_t)D, act);
    memset(w->c, 0, (size_t)n_tiles * u->D_pad * TILE_ROWS * sizeof *w->c);
    for (int r = 0; r < u->n_rows; r++) {
        float *c = w->c + (size_t)(r / TILE_ROWS) * u->D_pad * TILE_ROWS + r % TILE_ROWS;
        row_widen(q, q_row(u, r), (size_t)D, act);
        for (int i = 0, j = half; i < half; i++, j++) {
            c[i * TILE_ROWS] = (q[i] * b[i] + q[j] * b[j]) * scale;
            c[j * TILE_ROWS] = (q[j] * b[i] - q[i] * b[j]) * scale;
        }
    }
}

void CPU(attention_add_bias)(const struct unit *u, struct workspace *w, int tile, int first, int n) {
    int rows = tile_rows(u, tile), D = u->D;
    multiply(w->bias_score, u->op->cos_sin + (size_t)first * D, (size_t)D, 1, w->c + (size_t)tile * u->D_pad * TILE_ROWS, n, D,
             rows);
    for (int p = 0; p < n; p++)
        for (int v = 0; v < rows; v += LANES) {
            float *s = w->scores + p * TILE_ROWS + v;
            vf_store(s, vf_fma(vf_load(s), vf_set1(w->key_scale[p]), vf_load(w->bias_score + p * TILE_ROWS + v)));
        }
}

/* One vector of rows. Scores become e^(s - max) of the split, times V's scale; what a row does not see becomes 0. max is
 * -inf for a row that sees none of it. */
static void softmax(struct workspace *w, const int32_t *seen, int n, int v, float *max, float *sum) {
    float *s = w->scores + v;
    vi some;
    memcpy(&some, seen + v, sizeof some);
    vf m = vf_set1(-INFINITY), l = vf_set1(0);
    for (int p = 0; p < n; p++) {
        vf x = vf_select(some > p, vf_load(s + p * TILE_ROWS) * w->k_scale[p], vf_set1(-INFINITY));
        vf_store(s + p * TILE_ROWS, x);
        m = vf_max(m, x);
    }
    vf from = vf_select(m == -INFINITY, vf_set1(0), m);
    for (int p = 0; p < n; p++) {
        vf e = vf_exp2(vf_load(s + p * TILE_ROWS) - from);
        l += e;
        vf_store(s + p * TILE_ROWS, e * w->v_scale[p]);
    }
    vf_store(max + v, m);
    vf_store(sum + v, l);
}

/* Tile `tile` over the positions first .. first + n - 1, which are in w->k, w->v. */
static void tile_split(const struct unit *u, struct workspace *w, int tile, int first, int n) {
    int rows = tile_rows(u, tile), n_v = (rows + LANES - 1) / LANES, D = u->D;
    float max[TILE_ROWS] = {0}, sum[TILE_ROWS] = {0}, keep[TILE_ROWS], take[TILE_ROWS];
    float *out = w->out + (size_t)tile * u->D_pad * TILE_ROWS;
    int32_t seen[TILE_ROWS];
    rows_see(u, tile, first, seen);
    multiply(w->scores, w->k, (size_t)D, 1, w->q + (size_t)tile * u->D_pad * TILE_ROWS, n, D, rows);
    if (u->op->k_bias) CPU(attention_add_bias)(u, w, tile, first, n);
    for (int v = 0; v < n_v * LANES; v += LANES) softmax(w, seen, n, v, max, sum);
    multiply(w->split, w->v, 1, (size_t)D, w->scores, D, n, rows);
    fold_state(w->max + tile * TILE_ROWS, w->sum + tile * TILE_ROWS, max, sum, keep, take, n_v);
    for (int d = 0; d < D; d++)
        for (int v = 0; v < n_v * LANES; v += LANES) {
            float *at = out + d * TILE_ROWS + v;
            vf_store(at, vf_fma(vf_load(at), vf_load(keep + v), vf_load(w->split + d * TILE_ROWS + v) * vf_load(take + v)));
        }
}

static void store_outputs(const struct unit *u, struct workspace *w, int tile) {
    const float *out = w->out + (size_t)tile * u->D_pad * TILE_ROWS, *sum = w->sum + tile * TILE_ROWS;
    float row[MAX_D];
    for (int r = 0; r < tile_rows(u, tile); r++) {
        float inverse = 1.0f / sum[r];
        /* + 0: where a sum ended in zero, its sign may depend on how many unseen positions were added. */
        for (int d = 0; d < u->D; d++) row[d] = out[d * TILE_ROWS + r] * inverse + 0.0f;
        row_narrow(o_row(u, tile * TILE_ROWS + r), row, (size_t)u->D, u->op->e->options.dtype);
    }
}

/* ---- one unit --------------------------------------------------------------------------------------------------------- */

static void run_unit(const struct unit *u, struct workspace *w, bool matrix) {
    int n_tiles = (u->n_rows + TILE_ROWS - 1) / TILE_ROWS, n_all = tile_last(u, n_tiles - 1) + 1;
    bool few = u->n_rows <= FEW_ROWS && !matrix && !u->op->k_bias;
    for (int i = 0; i < n_tiles * TILE_ROWS; i++) w->max[i] = -INFINITY, w->sum[i] = 0;
    memset(w->out, 0, (size_t)u->D_pad * (few ? u->n_rows : n_tiles * TILE_ROWS) * sizeof *w->out);
    if (u->op->k_bias) load_bias(u, w);
#ifdef __AMX_BF16__
    if (matrix) {
        CPU(attention_amx_begin)(u, w);
        for (int first = 0; first < n_all; first += SPLIT) {
            int n = n_all - first < SPLIT ? n_all - first : SPLIT;
            find_rows(u, w, first, n);
            CPU(attention_amx_split)(u, w, first, n);
        }
        CPU(attention_amx_end)(u, w);
        return;
    }
#endif
    if (few) {
        CPU(attention_few_begin)(u, w);
        for (int first = 0; first < n_all; first += SPLIT) {
            int n = n_all - first < SPLIT ? n_all - first : SPLIT;
            find_rows(u, w, first, n);
            CPU(attention_few_split)(u, w, first, n);
        }
        CPU(attention_few_end)(u, w);
        return;
    }
    for (int i = 0; i < n_tiles; i++) load_queries(u, w->q + (size_t)i * u->D_pad * TILE_ROWS, i);
    for (int first = 0; first < n_all; first += SPLIT) {
        int n = n_all - first < SPLIT ? n_all - first : SPLIT;
        find_rows(u, w, first, n);
        load_split(u, w, n);
        for (int i = 0; i < n_tiles; i++) {
            int n_tile = tile_last(u, i) + 1 - first;
            if (n_tile > 0) tile_split(u, w, i, first, n_tile < n ? n_tile : n);
        }
    }
    for (int i = 0; i < n_tiles; i++) store_outputs(u, w, i);
}

/* ---- the op ------------------------------------------------------------------------------------------------------------ */

static void run_units(void *arg, struct share *share) {
    const struct attention *op = arg;
    const struct kv_layout *a = &op->kv->layout;
    const int32_t *units = cpu_of(op->e)->units, *start = starts(op);
#ifdef __AMX_BF16__
    bool matrix = op->e->options.dtype == DTYPE_BF16;
#else
    bool matrix = false;
#endif
    struct workspace w;
    struct unit u = {.op = op, .group = op->H / a->K, .D = a->D, .D_pad = (int)round_up((size_t)a->D, 32)};
    carve(&w, scratch_of(op->e, share), (size_t)u.D_pad);
    for (int i, last; threads_take(share, &i, &last);) {
        if (i < units[u.b]) u.b = 0;
        while (i >= units[u.b + 1]) u.b++;
        int rows = (start[u.b + 1] - start[u.b]) * u.group;
        u.k = (i - units[u.b]) % a->K;
        u.first_row = (i - units[u.b]) / a->K * UNIT_TILES * TILE_ROWS;
        u.n_rows = rows - u.first_row;
        if (u.n_rows > UNIT_TILES * TILE_ROWS) u.n_rows = UNIT_TILES * TILE_ROWS;
        run_unit(&u, &w, matrix);
    }
}

static void run(struct attention *op, int B) {
    int32_t *units = cpu_of(op->e)->units;
    const int32_t *start = starts(op);
    int K = op->kv->layout.K, unit_rows = UNIT_TILES * TILE_ROWS;
    units[0] = 0;
    for (int b = 0; b < B; b++) {
        int rows = (start[b + 1] - start[b]) * (op->H / K);
        units[b + 1] = units[b] + (rows + unit_rows - 1) / unit_rows * K;
    }
    parallel(op->e, units[B], 1, run_units, op);
}

void CPU(attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                    const struct rope *rope, const struct batch *batch, int H) {
    struct attention op = {.e = e, .o = o, .q = q, .kv = kv, .layer = layer, .H = H, .k_bias = k_bias, .batch = batch,
                           .q_width = (size_t)H * kv->layout.D, .cos_sin = k_bias ? rope->cos_sin : NULL};
    CHECK_LE(kv->layout.D, MAX_D);
    for (int t = 0; t < batch->T; t++) {
        CHECK_LE(0, batch->positions[t]);
        CHECK_LT(batch->positions[t], e->options.max_kv_len);
        CHECK_LT(batch->positions[t] / kv->layout.P, batch->max_blocks);
        CHECK(!k_bias || batch->positions[t] < rope->max_positions);
    }
    run(&op, batch->B);
}

void CPU(attention_full)(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D) {
    const size_t element = dtype_bytes(e->options.dtype), width = 3 * (size_t)H * D;
    /* A token's k and v of all heads lie as in a block of one token. */
    const struct kv_cache kv = {.pool = (char *)qkv + (size_t)H * D * element,
                                .layout = {.dtype = e->options.dtype, .L = 1, .K = H, .D = D, .P = 1,
                                           .layer_bytes = width * element, .block_bytes = width * element}};
    struct attention op = {.e = e, .o = o, .q = qkv, .kv = &kv, .H = H, .q_width = width, .texts = texts};
    for (int b = 0; b < texts->B; b++) {
        CHECK_LT(texts->start[b], texts->start[b + 1]);
        CHECK_LE(texts->start[b + 1] - texts->start[b], e->options.max_kv_len);
    }
    CHECK_EQ(texts->start[texts->B], texts->T);
    run(&op, texts->B);
}
