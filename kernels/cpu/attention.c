/* attention.c - causal, ragged, grouped-query attention over the paged KV cache.
 *
 *     s[p] = (q . k[p]) / sqrt(D)                  for p in 0 .. positions[t] of t's sequence
 *     o    = sum of e^(s[p] - m) v[p] / sum of e^(s[p] - m),   m = max s[p]
 * Query head h of token t reads KV head h / (H / K), so a "row" here is a pair (t, h) and the rows of one sequence and
 * one KV head share all of k and v.
 *
 * Everything is computed transposed, with TILE_ROWS rows in the lanes of vectors: scores [position, row], outputs
 * [d, row]. Both products then have a big operand as it lies in memory times a small packed one, and maxima, sums and
 * rescalings go down the lanes without crossing them.
 *
 *     for each SPLIT positions, from absolute position 0:       (flash attention; Dao et al., arXiv:2205.14135)
 *         S = K Q'          [SPLIT, rows]; masked where p > position of the row
 *         m', l' = max, sum of e^(S - m') over the split        p ascending
 *         O' = V' P         [D, rows]
 *         m, l, O = fold of the running (m, l, O) and the split's (m', l', O')
 *     o = O / l
 *
 * Order: splits lie at absolute positions and are folded in turn; within one, each score and each output is one sum in
 * one order (d, p ascending; on the matrix unit that of amx.h). A position that a row does not see adds exactly zero,
 * a split that it does not see leaves it alone. So how many rows share a tile, how many tokens a step, and where the
 * blocks lie, changes no bit. On the matrix unit a probability enters as the sum of two bf16, 2^-17 from the exact one.
 *
 * A unit of work is one KV head of one sequence and up to UNIT_TILES tiles of its rows; it brings each split's K and V
 * into the form that the products need once for all its tiles. Reads 2 D elements for each position. FLOP: 4 D for each
 * position and row. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/cpu.h"

enum {
    TILE_ROWS = 16,
    UNIT_TILES = 8, /* of prefill: 128 rows share one preparation of K and V */
    SPLIT = 256,    /* positions: scores, K and V of a split stay in the L2 */
    N_VECTORS = TILE_ROWS / LANES,
    MAX_D = 256,
};
_Static_assert(SPLIT % 64 == 0 && TILE_ROWS % LANES == 0, "tiles of positions fill a split, vectors fill a tile");

struct attention {
    struct exec *e;
    char *o;
    const char *q;
    const struct kv_cache *kv;
    int layer, H;
    const struct batch *batch;
};

/* One KV head of one sequence, and some of its rows. */
struct unit {
    const struct attention *op;
    int b, k, group; /* sequence, KV head, H / K */
    int first_row, n_rows;
    int D, D_pad; /* D_pad: a multiple of 32 */
    bool matrix;  /* on the matrix unit */
};

/* A thread's scratch; D is D_pad. */
struct workspace {
    float *q;        /* [UNIT_TILES, D, TILE_ROWS]; packed pairs of bf16 on the matrix unit */
    float *max, *sum; /* [UNIT_TILES, TILE_ROWS] */
    float *out;      /* [UNIT_TILES, D, TILE_ROWS] */
    float *split;    /* [D, TILE_ROWS]: the split's share of the outputs */
    float *scores;   /* [SPLIT, TILE_ROWS]; then probabilities */
    uint32_t *pairs; /* [2, SPLIT / 2, TILE_ROWS]: probabilities as pairs of bf16, first rounded, then the rest */
    float *k, *v;    /* [SPLIT, D] fp32; on the matrix unit bf16, v as [D, SPLIT] */
    float *k_scale, *v_scale; /* [SPLIT]: 1 where the KV is not fp8; k_scale includes 1 / sqrt(D) */
};

static size_t carve(struct workspace *w, float *scratch, size_t D) {
    size_t at = 0;
#define TAKE(field, n) (w->field = (void *)(scratch + at), at += round_up((n), 16))
    TAKE(q, UNIT_TILES * D * TILE_ROWS);
    TAKE(max, UNIT_TILES * TILE_ROWS);
    TAKE(sum, UNIT_TILES * TILE_ROWS);
    TAKE(out, UNIT_TILES * D * TILE_ROWS);
    TAKE(split, D * TILE_ROWS);
    TAKE(scores, SPLIT * TILE_ROWS);
    TAKE(pairs, SPLIT * TILE_ROWS);
    TAKE(k, SPLIT * D);
    TAKE(v, SPLIT * D);
    TAKE(k_scale, SPLIT);
    TAKE(v_scale, SPLIT);
#undef TAKE
    return at;
}

size_t CPU(attention_floats)(int max_head_dim) {
    struct workspace w;
    static float nothing[1];
    return carve(&w, nothing, round_up((size_t)max_head_dim, 32));
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* Row r of the unit: its token, its head. */
static int row_token(const struct unit *u, int r) {
    return u->op->batch->query_start[u->b] + (u->first_row + r) / u->group;
}

static size_t row_offset(const struct unit *u, int r) {
    int h = u->k * u->group + (u->first_row + r) % u->group;
    return ((size_t)row_token(u, r) * u->op->H + h) * u->D * dtype_bytes(u->op->e->options.dtype);
}

/* Rows of tile i, and the last position that any of them sees. */
static int tile_rows(const struct unit *u, int i) {
    int n = u->n_rows - i * TILE_ROWS;
    return n < TILE_ROWS ? n : TILE_ROWS;
}

static int tile_last(const struct unit *u, int i) {
    return u->op->batch->positions[row_token(u, i * TILE_ROWS + tile_rows(u, i) - 1)];
}

/* [D, TILE_ROWS]: lane r is row r's vector; zeros beyond the rows. On the matrix unit: packed pairs. */
static void load_queries(const struct unit *u, float *q, int tile) {
    int n = tile_rows(u, tile), D = u->D;
#ifdef __AMX_BF16__
    if (u->matrix) {
        uint16_t rows[TILE_ROWS * MAX_D];
        for (int r = 0; r < n; r++)
            memcpy(rows + (size_t)r * D, u->op->q + row_offset(u, tile * TILE_ROWS + r), (size_t)D * 2);
        amx_pack((char *)q, rows, (size_t)D, n, D, u->D_pad, TILE_ROWS);
        return;
    }
#endif
    memset(q, 0, (size_t)D * TILE_ROWS * sizeof *q);
    float row[MAX_D];
    for (int r = 0; r < n; r++) {
        row_widen(row, u->op->q + row_offset(u, tile * TILE_ROWS + r), (size_t)D, u->op->e->options.dtype);
        for (int d = 0; d < D; d++) q[d * TILE_ROWS + r] = row[d];
    }
}

/* O / l, a row at a time. */
static void store_outputs(const struct unit *u, float *out, const float *sum, int tile) {
    float row[MAX_D], inverse[TILE_ROWS];
    int n = tile_rows(u, tile);
    for (int r = 0; r < TILE_ROWS; r++) inverse[r] = r < n ? 1.0f / sum[r] : 0;
    for (int d = 0; d < u->D; d++)
        for (int v = 0; v < TILE_ROWS; v += LANES) {
            float *at = out + d * TILE_ROWS + v;
            /* + 0: where a sum ended in zero, its sign may depend on how many unseen positions were added. */
            vf_store(at, vf_load(at) * vf_load(inverse + v) + 0.0f);
        }
    for (int r = 0; r < n; r++) {
        for (int d = 0; d < u->D; d++) row[d] = out[d * TILE_ROWS + r];
        row_narrow(u->op->o + row_offset(u, tile * TILE_ROWS + r), row, (size_t)u->D, u->op->e->options.dtype);
    }
}

/* ---- K and V of one split ------------------------------------------------------------------------------------------ */

/* n values of e4m3, exactly: the bits, as those of a bf16 with another bias, times 2^(127 - 7). */
static void row_widen_e4m3(float *out, const uint8_t *in, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)(in[i] & 0x80) << 24 | (uint32_t)(in[i] & 0x7f) << 20;
        float f;
        memcpy(&f, &u, 4);
        out[i] = (in[i] & 0x7f) == 0x7f ? NAN : f * 0x1p120f;
    }
}

/* Row `which` (0: K, 1: V) of position p, in fp32 without its scale, which is returned. */
static float load_row(const struct unit *u, float *out, int p, int which) {
    const struct kv_cache *kv = u->op->kv;
    const struct kv_layout *a = &kv->layout;
    char *block = kv_block(kv, u->op->layer, u->op->batch, u->b, p), *row = kv_row(block, a, which, u->k, p % a->P);
    if (a->dtype != DTYPE_F8_E4M3) {
        row_widen(out, row, (size_t)u->D, a->dtype);
        return 1;
    }
    row_widen_e4m3(out, (const uint8_t *)row, (size_t)u->D);
    return *kv_scale(block, a, which, u->k, p % a->P);
}

/* Positions first .. first + n - 1 into w->k, w->v. */
static void load_split(const struct unit *u, struct workspace *w, int first, int n) {
    float scale = 1.0f / sqrtf((float)u->D);
    for (int i = 0; i < n; i++) {
        w->k_scale[i] = load_row(u, w->k + (size_t)i * u->D, first + i, 0) * scale;
        w->v_scale[i] = load_row(u, w->v + (size_t)i * u->D, first + i, 1);
    }
}

#ifdef __AMX_BF16__

/* Whether K's rows must be copied to be read as tiles. */
static bool copies_keys(const struct unit *u) {
    const struct kv_layout *a = &u->op->kv->layout;
    return a->dtype != DTYPE_BF16 || a->P % TILE_ROWS || u->D != u->D_pad;
}

/* The bf16 rows of 16 positions of K, in memory that may be read as one [16, D_pad] block of *stride bytes a row: the
 * cache itself where 16 positions lie together, else the copy in w->k. */
static const char *key_tile(const struct unit *u, struct workspace *w, int first, int i, size_t *stride) {
    const struct kv_cache *kv = u->op->kv;
    const struct kv_layout *a = &kv->layout;
    if (!copies_keys(u)) {
        *stride = (size_t)u->D * 2;
        char *block = kv_block(kv, u->op->layer, u->op->batch, u->b, first + i);
        return kv_row(block, a, 0, u->k, (first + i) % a->P);
    }
    *stride = (size_t)u->D_pad * 2;
    uint16_t *rows = (uint16_t *)w->k + (size_t)i * u->D_pad;
    return (const char *)rows;
}

/* The bf16 values of row `which` of position p: in the cache, or fp8 widened into `copy`. */
static const uint16_t *bf16_row(const struct unit *u, int p, int which, uint16_t *copy, float *scale) {
    const struct kv_cache *kv = u->op->kv;
    const struct kv_layout *a = &kv->layout;
    if (a->dtype == DTYPE_F8_E4M3) {
        float row[MAX_D];
        *scale *= load_row(u, row, p, which);
        row_narrow_as((char *)copy, row, (size_t)u->D, DTYPE_BF16);
        return copy;
    }
    char *block = kv_block(kv, u->op->layer, u->op->batch, u->b, p);
    return (const uint16_t *)kv_row(block, a, which, u->k, p % a->P);
}

INLINE void prefetch_row(const uint16_t *row, int D) {
    for (int d = 0; d < D; d += 32) _mm_prefetch((const char *)(row + d), _MM_HINT_T0);
}

/* [32 p, D] in rows to [D_pad, SPLIT] at column p0: pairs of positions become words, and 16 x 16 words are turned. */
static void turn_values(uint16_t *v, const uint16_t *const rows[32], int p0, int D, int D_pad) {
    for (int d = 0; d < D_pad; d += 16) {
        __m512i in[16], out[16];
        __mmask16 mask = D - d >= 16 ? 0xffff : D > d ? (__mmask16)((1u << (D - d)) - 1) : 0;
        for (int i = 0; i < 16; i++) {
            __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * i] + d));
            __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * i + 1] + d));
            in[i] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
        }
        transpose_words(out, in);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(v + (size_t)(d + i) * SPLIT + p0, out[i]);
    }
}

/* V as [D_pad, SPLIT] bf16, zeros from position n on (0 * whatever lies in the cache beyond a sequence might be NaN);
 * K where it must be copied, else on its way to the cache. */
static void load_split_matrix(const struct unit *u, struct workspace *w, int first, int n) {
    static const uint16_t zeros[MAX_D];
    bool copy_keys = copies_keys(u);
    float scale = 1.0f / sqrtf((float)u->D);
    uint16_t *k = (uint16_t *)w->k, copies[32][MAX_D];
    for (int p0 = 0; p0 < n; p0 += 32) {
        const uint16_t *rows[32];
        for (int i = 0; i < 32; i++) {
            int p = p0 + i;
            w->k_scale[p] = scale;
            w->v_scale[p] = 1;
            rows[i] = zeros;
            if (p >= n) continue;
            rows[i] = bf16_row(u, first + p, 1, copies[i], &w->v_scale[p]);
            prefetch_row(rows[i], u->D);
            uint16_t *copy = k + (size_t)p * u->D_pad;
            const uint16_t *key = bf16_row(u, first + p, 0, copy, &w->k_scale[p]);
            if (!copy_keys) {
                prefetch_row(key, u->D);
                continue;
            }
            if (key != copy) memcpy(copy, key, (size_t)u->D * 2);
            memset(copy + u->D, 0, (size_t)(u->D_pad - u->D) * 2);
        }
        turn_values((uint16_t *)w->v, rows, p0, u->D, u->D_pad);
    }
}

/* scores [padded n, TILE_ROWS] = K Q', 64 positions at a time. */
static void scores_matrix(const struct unit *u, struct workspace *w, const float *q, int first, int n) {
    for (int p = 0; p < n; p += 64) {
        const char *a[4];
        size_t stride = 0;
        int n_a = 0;
        for (; n_a < 4 && p + 16 * n_a < n; n_a++) a[n_a] = key_tile(u, w, first, p + 16 * n_a, &stride);
        float *out = w->scores + (size_t)p * TILE_ROWS;
        if (n_a == 4) amx_multiply(out, a, stride, (const char *)q, TILE_ROWS, u->D_pad, 4, NULL);
        else if (n_a == 3) amx_multiply(out, a, stride, (const char *)q, TILE_ROWS, u->D_pad, 3, NULL);
        else if (n_a == 2) amx_multiply(out, a, stride, (const char *)q, TILE_ROWS, u->D_pad, 2, NULL);
        else amx_multiply(out, a, stride, (const char *)q, TILE_ROWS, u->D_pad, 1, NULL);
    }
}

/* w->split [D_pad, TILE_ROWS] = V' P over n positions (a multiple of 32): 64 d at a time, high parts and rests in turn. */
static void outputs_matrix(const struct unit *u, struct workspace *w, int n) {
    const size_t stride = SPLIT * 2;
    STORES_BEFORE_TILES();
    for (int d = 0; d < u->D_pad; d += 32) {
        const char *v = (const char *)w->v + d * stride, *high = (const char *)w->pairs;
        const char *rest = (const char *)(w->pairs + SPLIT / 2 * TILE_ROWS);
        bool four = d + 32 < u->D_pad;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int p = 0; p < n; p += TILE_K, v += 2 * TILE_K, high += 1024, rest += 1024) {
            _tile_loadd(6, high, 64);
            _tile_loadd(7, rest, 64);
            _tile_loadd(4, v, stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(5, v + 16 * stride, stride);
            _tile_dpbf16ps(1, 5, 6);
            _tile_dpbf16ps(0, 4, 7);
            _tile_dpbf16ps(1, 5, 7);
            if (!four) continue;
            _tile_loadd(4, v + 32 * stride, stride);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(5, v + 48 * stride, stride);
            _tile_dpbf16ps(3, 5, 6);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        float *out = w->split + (size_t)d * TILE_ROWS;
        _tile_stored(0, out, 64);
        _tile_stored(1, out + 256, 64);
        if (!four) continue;
        _tile_stored(2, out + 512, 64);
        _tile_stored(3, out + 768, 64);
        d += 32;
    }
}

#endif

/* ---- the two products in fp32 --------------------------------------------------------------------------------------- */

/* out[i] [TILE_ROWS] = sum over j of a[i * i_step + j * j_step] b[j] [TILE_ROWS], j ascending, for `rows` lanes. */
INLINE void multiply_some(float *out, const float *a, size_t i_step, size_t j_step, const float *b, int n_j,
                          const int n_i, const int n_v) {
    vf acc[16];
    for (int i = 0; i < n_i * n_v; i++) acc[i] = (vf){0};
    for (int j = 0; j < n_j; j++)
        for (int i = 0; i < n_i; i++)
            for (int v = 0; v < n_v; v++)
                acc[i * n_v + v] += a[i * i_step + j * j_step] * vf_load(b + j * TILE_ROWS + v * LANES);
    for (int i = 0; i < n_i; i++)
        for (int v = 0; v < n_v; v++) vf_store(out + i * TILE_ROWS + v * LANES, acc[i * n_v + v]);
}

static void multiply(float *out, const float *a, size_t i_step, size_t j_step, const float *b, int n_i, int n_j,
                     int rows) {
    int i = 0;
    if (N_VECTORS > 1 && rows <= LANES) { /* few rows: the first vector has them all */
        for (; i + 8 <= n_i; i += 8) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 8, 1);
        for (; i < n_i; i++) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 1, 1);
        return;
    }
    enum { SOME = 8 / N_VECTORS };
    for (; i + SOME <= n_i; i += SOME)
        multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, SOME, N_VECTORS);
    for (; i < n_i; i++) multiply_some(out + i * TILE_ROWS, a + i * i_step, i_step, j_step, b, n_j, 1, N_VECTORS);
}

/* ---- softmax of a split, and the fold -------------------------------------------------------------------------------- */

/* Scores become e^(s - max) of the split, times V's scale; what a row does not see becomes 0. max and sum are the
 * split's; max is -inf for a row that sees none of it. The matrix unit has the probabilities in w->pairs instead, and
 * zeros up to `padded` positions. */
INLINE void softmax_vector(struct workspace *w, vi seen, int all_see, int padded, vf *max, vf *sum, int v,
                           const bool fp8, const bool matrix) {
    float *s = w->scores + v * LANES;
    vf m = vf_set1(-INFINITY), l = vf_set1(0);
    int p = 0;
    for (; p < all_see; p++) {
        vf x = vf_load(s + p * TILE_ROWS) * w->k_scale[p];
        vf_store(s + p * TILE_ROWS, x);
        m = vf_max(m, x);
    }
    for (; p < padded; p++) {
        vf x = vf_select(seen > p, vf_load(s + p * TILE_ROWS) * w->k_scale[p], vf_set1(-INFINITY));
        vf_store(s + p * TILE_ROWS, x);
        m = vf_max(m, x);
    }
    vf from = vf_select(m == -INFINITY, vf_set1(0), m);
#ifdef __AMX_BF16__
    if (matrix) {
        const __m512i interleave = _mm512_or_si512(
            _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
            _mm512_slli_epi32(_mm512_set_epi32(31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16), 16));
        for (p = 0; p < padded; p += 2) {
            vf e0 = vf_exp(vf_load(s + p * TILE_ROWS) - from), e1 = vf_exp(vf_load(s + (p + 1) * TILE_ROWS) - from);
            l += e0;
            l += e1;
            if (fp8) e0 *= w->v_scale[p], e1 *= w->v_scale[p + 1];
            for (int i = 0; i < 2; i++) {
                __m512i pair = (__m512i)_mm512_cvtne2ps_pbh((__m512)e1, (__m512)e0);
                pair = _mm512_permutexvar_epi16(interleave, pair);
                _mm512_storeu_si512(w->pairs + (size_t)(i * SPLIT + p) / 2 * TILE_ROWS, pair);
                e0 -= (vf)_mm512_slli_epi32(pair, 16);
                e1 -= (vf)_mm512_and_si512(pair, _mm512_set1_epi32((int)0xffff0000));
            }
        }
    }
#endif
    if (!matrix)
        for (p = 0; p < padded; p++) {
            vf e = vf_exp(vf_load(s + p * TILE_ROWS) - from);
            l += e;
            vf_store(s + p * TILE_ROWS, fp8 ? e * w->v_scale[p] : e);
        }
    *max = m;
    *sum = l;
}

static void softmax_split(const struct unit *u, struct workspace *w, int tile, int first, int n, int padded, vf max[],
                          vf sum[]) {
    int rows = tile_rows(u, tile);
    bool fp8 = u->op->kv->layout.dtype == DTYPE_F8_E4M3;
    int32_t seen[TILE_ROWS]; /* positions of the split that each row sees; lanes without a row do as the last one */
    for (int r = 0; r < TILE_ROWS; r++) {
        int t = row_token(u, tile * TILE_ROWS + (r < rows ? r : rows - 1));
        seen[r] = u->op->batch->positions[t] + 1 - first;
    }
    int all_see = seen[0] < 0 ? 0 : seen[0] < n ? seen[0] : n;
    for (int v = 0; v * LANES < rows; v++) {
        vi some;
        memcpy(&some, seen + v * LANES, sizeof some);
        if (u->matrix && fp8) softmax_vector(w, some, all_see, padded, &max[v], &sum[v], v, true, true);
        else if (u->matrix) softmax_vector(w, some, all_see, padded, &max[v], &sum[v], v, false, true);
        else if (fp8) softmax_vector(w, some, all_see, padded, &max[v], &sum[v], v, true, false);
        else softmax_vector(w, some, all_see, padded, &max[v], &sum[v], v, false, false);
    }
}

/* (m, l, O) of the tile takes in the split's (max, sum, w->split). Rows that saw nothing of it are left as they are. */
static void fold(struct workspace *w, int tile, int D, const vf max[], const vf sum[], int n_v) {
    for (int v = 0; v < n_v; v++) {
        float *m = w->max + tile * TILE_ROWS + v * LANES, *l = w->sum + tile * TILE_ROWS + v * LANES;
        float *out = w->out + (size_t)tile * D * TILE_ROWS + v * LANES, *in = w->split + v * LANES;
        vf old = vf_load(m), new = vf_max(old, max[v]);
        vi none = max[v] == -INFINITY;
        vf keep = vf_exp(old - new), take = vf_exp(max[v] - new);
        keep = vf_select(none, vf_set1(1), keep);
        take = vf_select(none, vf_set1(0), take);
        vf_store(m, vf_select(none, old, new));
        vf_store(l, vf_load(l) * keep + sum[v] * take);
        for (int d = 0; d < D; d++)
            vf_store(out + d * TILE_ROWS, vf_load(out + d * TILE_ROWS) * keep + vf_load(in + d * TILE_ROWS) * take);
    }
}

/* ---- one unit --------------------------------------------------------------------------------------------------------- */

/* Tile `tile` over the positions first .. first + n - 1, which are in w->k, w->v. */
static void tile_split(const struct unit *u, struct workspace *w, int tile, int first, int n) {
    int rows = tile_rows(u, tile), n_v = (rows + LANES - 1) / LANES, D = u->D;
    const float *q = w->q + (size_t)tile * u->D_pad * TILE_ROWS;
    vf max[N_VECTORS], sum[N_VECTORS];
#ifdef __AMX_BF16__
    if (u->matrix) {
        int padded = (int)round_up((size_t)n, TILE_K);
        STORES_BEFORE_TILES();
        scores_matrix(u, w, q, first, n);
        softmax_split(u, w, tile, first, n, padded, max, sum);
        outputs_matrix(u, w, padded);
        fold(w, tile, D, max, sum, n_v);
        return;
    }
#endif
    multiply(w->scores, w->k, (size_t)D, 1, q, n, D, rows);
    softmax_split(u, w, tile, first, n, n, max, sum);
    multiply(w->split, w->v, 1, (size_t)D, w->scores, D, n, rows);
    fold(w, tile, D, max, sum, n_v);
}

static void run_unit(const struct unit *u, struct workspace *w) {
    int n_tiles = (u->n_rows + TILE_ROWS - 1) / TILE_ROWS, n_all = tile_last(u, n_tiles - 1) + 1;
    for (int i = 0; i < n_tiles; i++) load_queries(u, w->q + (size_t)i * u->D_pad * TILE_ROWS, i);
    for (int i = 0; i < n_tiles * TILE_ROWS; i++) w->max[i] = -INFINITY, w->sum[i] = 0;
    memset(w->out, 0, (size_t)n_tiles * u->D * TILE_ROWS * sizeof *w->out);
    for (int first = 0; first < n_all; first += SPLIT) {
        int n = n_all - first < SPLIT ? n_all - first : SPLIT;
#ifdef __AMX_BF16__
        if (u->matrix) load_split_matrix(u, w, first, n);
        else
#endif
            load_split(u, w, first, n);
        for (int i = 0; i < n_tiles; i++) {
            int n_tile = tile_last(u, i) + 1 - first;
            if (n_tile > 0) tile_split(u, w, i, first, n_tile < n ? n_tile : n);
        }
    }
    for (int i = 0; i < n_tiles; i++)
        store_outputs(u, w->out + (size_t)i * u->D * TILE_ROWS, w->sum + i * TILE_ROWS, i);
}

/* ---- the op ------------------------------------------------------------------------------------------------------------ */

static void run_units(void *arg, struct share *share) {
    const struct attention *op = arg;
    const struct kv_layout *a = &op->kv->layout;
    const struct batch *batch = op->batch;
    const int32_t *units = cpu_of(op->e)->units;
    struct workspace w;
    struct unit u = {.op = op, .group = op->H / a->K, .D = a->D, .D_pad = (int)round_up((size_t)a->D, 32)};
    carve(&w, scratch_of(op->e, share), (size_t)u.D_pad);
#ifdef __AMX_BF16__
    u.matrix = op->e->options.dtype == DTYPE_BF16;
    if (u.matrix) amx_configure(TILE_ROWS);
#endif
    for (int i, last; threads_take(share, &i, &last);) {
        if (i < units[u.b]) u.b = 0;
        while (i >= units[u.b + 1]) u.b++;
        int chunk = (i - units[u.b]) / a->K;
        int rows = (batch->query_start[u.b + 1] - batch->query_start[u.b]) * u.group;
        u.k = (i - units[u.b]) % a->K;
        u.first_row = chunk * UNIT_TILES * TILE_ROWS;
        u.n_rows = rows - u.first_row;
        if (u.n_rows > UNIT_TILES * TILE_ROWS) u.n_rows = UNIT_TILES * TILE_ROWS;
        run_unit(&u, &w);
    }
#ifdef __AMX_BF16__
    if (u.matrix) _tile_release();
#endif
}

void CPU(attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                    const struct batch *batch, int H) {
    struct attention op = {.e = e, .o = o, .q = q, .kv = kv, .layer = layer, .H = H, .batch = batch};
    int32_t *units = cpu_of(e)->units;
    int K = kv->layout.K, unit_rows = UNIT_TILES * TILE_ROWS;
    CHECK_LE(kv->layout.D, MAX_D);
    for (int t = 0; t < batch->T; t++) {
        CHECK_LE(0, batch->positions[t]);
        CHECK_LT(batch->positions[t], e->options.max_kv_len);
        CHECK_LT(batch->positions[t] / kv->layout.P, batch->max_blocks);
    }
    units[0] = 0;
    for (int b = 0; b < batch->B; b++) {
        int rows = (batch->query_start[b + 1] - batch->query_start[b]) * (H / K);
        units[b + 1] = units[b] + (rows + unit_rows - 1) / unit_rows * K;
    }
    parallel(e, units[batch->B], 1, run_units, &op);
}
