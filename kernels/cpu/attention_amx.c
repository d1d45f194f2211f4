/* attention_amx.c - units of attention.c on the bf16 matrix unit (amx.h).
 *
 *     S = K Q'   [SPLIT, rows]      K as it lies in the cache, Q' packed once
 *     P = e^(S - max), as two bf16: p rounded, and what is left of p, rounded; together 2^-17 from p
 *     O' = V' P  [D, rows]          V turned once per unit         for units of several tiles (prefill)
 *     O  = P' V  [rows, D]          V only interleaved in pairs    for units of one tile (decode)
 * For one tile, turning S costs less than turning V, and exponentials are then only computed for rows that exist.
 *
 * Order, the same for both: scores and outputs as amx.h says, over d and over p; for each 32 positions the rounded
 * part first, then the rest. l' is 16 sums, the i-th over p = i mod 16 in ascending order, added at distances 8, 4, 2,
 * 1. Everything else is elementwise. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/attention.h"

#ifdef __AMX_BF16__

/* ---- K and V of a split ---------------------------------------------------------------------------------------------- */

/* Whether K's rows must be copied to be read as tiles of 16 positions. */
static bool copies_keys(const struct unit *u) {
    const struct kv_layout *a = &u->op->kv->layout;
    return a->dtype != DTYPE_BF16 || a->P % TILE != 0 || u->D != u->D_pad;
}

static void widen_to_bf16(uint16_t *out, const char *in, int D) {
    float row[MAX_D];
    row_widen_e4m3(row, in, D);
    row_narrow_as((char *)out, row, (size_t)D, DTYPE_BF16);
}

/* w->k [SPLIT, D_pad] bf16, zeros beyond D. */
static void copy_keys(const struct unit *u, struct workspace *w, int n) {
    for (int p = 0; p < n; p++) {
        uint16_t *copy = (uint16_t *)w->k + (size_t)p * u->D_pad;
        if (kv_is_fp8(u)) widen_to_bf16(copy, w->k_row[p], u->D);
        else memcpy(copy, w->k_row[p], (size_t)u->D * 2);
        memset(copy + u->D, 0, (size_t)(u->D_pad - u->D) * 2);
    }
}

/* 32 rows of V to w->v at position p: [D_pad, SPLIT] bf16 for several tiles, [SPLIT / 2, D_pad] pairs for one. */
INLINE void load_32_values(const struct unit *u, struct workspace *w, const uint16_t *const rows[32], int p,
                           const bool one_tile) {
    uint16_t *v = (uint16_t *)w->v + p;
    for (int d = 0; d < u->D_pad; d += 16) {
        __m512i in[16], out[16];
        __mmask16 mask = u->D - d >= 16 ? 0xffff : u->D > d ? (__mmask16)((1u << (u->D - d)) - 1) : 0;
        for (int i = 0; i < 16; i++) {
            __m512i even = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * i] + d));
            __m512i odd = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, rows[2 * i + 1] + d));
            in[i] = _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
        }
        if (one_tile) {
            uint32_t *pairs = (uint32_t *)w->v + (size_t)p / 2 * u->D_pad + d;
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(pairs + (size_t)i * u->D_pad, in[i]);
            continue;
        }
        transpose_words(out, in);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(v + (size_t)(d + i) * SPLIT, out[i]);
    }
}

/* The same for one tile, and D a multiple of 32: decoding lives here. The rows to come are fetched meanwhile. */
static void load_32_pairs(struct workspace *w, const uint16_t *const *rows, int p, int D, bool more) {
    const __m512i low = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i first = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(32)), 16));
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    uint32_t *pairs = (uint32_t *)w->v + (size_t)p / 2 * D;
    for (int i = 0; i < 32; i += 2, pairs += D)
        for (int d = 0; d < D; d += 32) {
            __m512i even = _mm512_loadu_si512(rows[i] + d), odd = _mm512_loadu_si512(rows[i + 1] + d);
            _mm512_storeu_si512(pairs + d, _mm512_permutex2var_epi16(even, first, odd));
            _mm512_storeu_si512(pairs + d + 16, _mm512_permutex2var_epi16(even, second, odd));
            if (!more) continue;
            _mm_prefetch((const char *)(rows[32 + i] + d), _MM_HINT_T0);
            _mm_prefetch((const char *)(rows[33 + i] + d), _MM_HINT_T0);
        }
}

/* V of n positions, and zeros up to a multiple of 32: 0 * whatever lies in the cache beyond a sequence might be NaN. */
static void load_values(const struct unit *u, struct workspace *w, int n, bool one_tile) {
    static const uint16_t zeros[MAX_D];
    bool fp8 = kv_is_fp8(u), whole = u->D == u->D_pad;
    for (int i = n; i % 32; i++) w->v_row[i] = (const char *)zeros;
    for (int p = 0; p < n; p += 32) {
        const uint16_t *const *rows = (const uint16_t *const *)(w->v_row + p);
        uint16_t copies[32][MAX_D];
        const uint16_t *copy[32];
        for (int i = 0; fp8 && i < 32; i++) {
            if (p + i < n) widen_to_bf16(copies[i], w->v_row[p + i], u->D);
            copy[i] = p + i < n ? copies[i] : zeros;
        }
        if (one_tile && whole) load_32_pairs(w, fp8 ? copy : rows, p, u->D, !fp8 && p + 32 < n);
        else if (one_tile) load_32_values(u, w, fp8 ? copy : rows, p, true);
        else load_32_values(u, w, fp8 ? copy : rows, p, false);
    }
}

/* ---- scores ------------------------------------------------------------------------------------------------------------ */

/* w->scores [n up to a multiple of 16, TILE] = K Q', 64 positions at a time. Rows from n on are arbitrary. */
static void scores(const struct unit *u, struct workspace *w, const float *q, int n) {
    bool copied = copies_keys(u);
    size_t stride = (size_t)u->D_pad * 2;
    for (int p = 0; p < n; p += 64) {
        const char *a[4] = {NULL}; /* GCC 14 does not see that n_a is never 0 */
        int n_a = 0;
        for (int i = p; n_a < 4 && i < n; i += TILE) a[n_a++] = copied ? (char *)w->k + i * stride : w->k_row[i];
        float *out = w->scores + (size_t)p * TILE;
        if (n_a == 4) amx_multiply(out, a, stride, (const char *)q, TILE, u->D_pad, 4, NULL);
        else if (n_a == 3) amx_multiply(out, a, stride, (const char *)q, TILE, u->D_pad, 3, NULL);
        else if (n_a == 2) amx_multiply(out, a, stride, (const char *)q, TILE, u->D_pad, 2, NULL);
        else amx_multiply(out, a, stride, (const char *)q, TILE, u->D_pad, 1, NULL);
    }
}

/* e0 and e1, each as a bf16 and the rest as another: pair[i] holds e0's in the low half of its words, e1's in the high. */
INLINE void split_pair(__m512i pair[2], vf e0, vf e1) {
    const __m512i low = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i interleave = _mm512_or_si512(low, _mm512_slli_epi32(_mm512_add_epi32(low, _mm512_set1_epi32(16)), 16));
    for (int i = 0; i < 2; i++) {
        pair[i] = _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh((__m512)e1, (__m512)e0));
        e0 -= (vf)_mm512_slli_epi32(pair[i], 16);
        e1 -= (vf)_mm512_and_si512(pair[i], _mm512_set1_epi32((int)0xffff0000));
    }
}

/* ---- several tiles: rows in lanes ---------------------------------------------------------------------------------------- */

/* w->scores [n, TILE] to probabilities in w->p as pairs, zeros up to `padded`; the split's max and sum of each row. */
INLINE void softmax_lanes(struct workspace *w, const int32_t seen[TILE_ROWS], int padded, float *max, float *sum,
                          const bool fp8) {
    float *s = w->scores;
    char *out = w->p;
    int all_see = seen[0] < 0 ? 0 : seen[0] < padded ? seen[0] : padded; /* positions ascend with the rows */
    vf m = vf_set1(-INFINITY), l[16];
    vi some;
    memcpy(&some, seen, sizeof some);
    for (int p = 0; p < all_see; p++) {
        vf x = vf_load(s + p * TILE) * w->k_scale[p];
        vf_store(s + p * TILE, x);
        m = vf_max(m, x);
    }
    for (int p = all_see; p < padded; p++) {
        vf x = vf_select(some > p, vf_load(s + p * TILE) * w->k_scale[p], vf_set1(-INFINITY));
        vf_store(s + p * TILE, x);
        m = vf_max(m, x);
    }
    vf from = vf_select(m == -INFINITY, vf_set1(0), m);
    for (int i = 0; i < 16; i++) l[i] = vf_set1(0);
    for (int p = 0; p < padded; p += 16)
#pragma GCC unroll 8
        for (int i = 0; i < 16; i += 2) {
            vf e0 = vf_exp2(vf_load(s + (p + i) * TILE) - from), e1 = vf_exp2(vf_load(s + (p + i + 1) * TILE) - from);
            l[i] += e0;
            l[i + 1] += e1;
            if (fp8) e0 *= w->v_scale[p + i], e1 *= w->v_scale[p + i + 1];
            __m512i pair[2];
            split_pair(pair, e0, e1);
            _mm512_storeu_si512(out + (size_t)(p + i) / 2 * 64, pair[0]);
            _mm512_storeu_si512(out + (size_t)(SPLIT + p + i) / 2 * 64, pair[1]);
        }
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) l[i] += l[i + n];
    vf_store(max, m);
    vf_store(sum, l[0]);
}

/* w->split [D_pad, TILE] = V' P over n positions (a multiple of 32), 64 d at a time. */
static void outputs_lanes(const struct unit *u, struct workspace *w, int n) {
    const size_t stride = SPLIT * 2;
    for (int d = 0; d < u->D_pad; d += 64) {
        const char *v = (const char *)w->v + d * stride, *p = w->p, *rest = p + SPLIT / 2 * 64;
        bool four = d + 32 < u->D_pad;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int i = 0; i < n; i += TILE_K, v += 2 * TILE_K, p += 1024, rest += 1024) {
            _tile_loadd(6, p, 64);
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
        float *out = w->split + (size_t)d * TILE;
        _tile_stored(0, out, 64);
        _tile_stored(1, out + 256, 64);
        if (!four) continue;
        _tile_stored(2, out + 512, 64);
        _tile_stored(3, out + 768, 64);
    }
}

static void tile_split(const struct unit *u, struct workspace *w, int tile, int first, int n) {
    float max[TILE], sum[TILE], keep[TILE], take[TILE], *out = w->out + (size_t)tile * u->D_pad * TILE;
    int padded = (int)round_up((size_t)n, TILE_K);
    int32_t seen[TILE_ROWS];
    rows_see(u, tile, first, seen);
    scores(u, w, w->q + (size_t)tile * u->D_pad * TILE, n);
    if (u->op->k_bias) CPU(attention_add_bias)(u, w, tile, first, n);
    if (kv_is_fp8(u)) softmax_lanes(w, seen, padded, max, sum, true);
    else softmax_lanes(w, seen, padded, max, sum, false);
    STORES_BEFORE_TILES();
    outputs_lanes(u, w, padded);
    fold_state(w->max + tile * TILE, w->sum + tile * TILE, max, sum, keep, take, 1);
    vf k = vf_load(keep), t = vf_load(take);
    for (int d = 0; d < u->D * TILE; d += TILE) vf_store(out + d, vf_fma(vf_load(out + d), k, vf_load(w->split + d) * t));
}

/* ---- one tile: positions in lanes ------------------------------------------------------------------------------------------ */

/* w->scores [n, TILE] to w->turned [rows, SPLIT]. */
static void turn_scores(struct workspace *w, int rows, int padded) {
    for (int p = 0; p < padded; p += 16) {
        __m512i in[16], out[16];
        for (int i = 0; i < 16; i++) in[i] = _mm512_loadu_si512(w->scores + (size_t)(p + i) * TILE);
        transpose_words(out, in);
        for (int r = 0; r < rows; r++) _mm512_storeu_si512(w->turned + r * SPLIT + p, out[r]);
    }
}

/* Row r of w->turned to probabilities in w->p [2, TILE, SPLIT]: as softmax_lanes, element by element. */
INLINE void softmax_row(struct workspace *w, int r, int seen, int padded, float *max, float *sum, const bool fp8) {
    float *s = w->turned + r * SPLIT;
    uint16_t *out = (uint16_t *)w->p + r * SPLIT;
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    vf m = vf_set1(-INFINITY), l = vf_set1(0);
    for (int p = 0; p < padded; p += LANES) {
        vf x = vf_select(lane + p < seen, vf_load(s + p) * vf_load(w->k_scale + p), vf_set1(-INFINITY));
        vf_store(s + p, x);
        m = vf_max(m, x);
    }
    float most = _mm512_reduce_max_ps((__m512)m);
    vf from = vf_set1(most == -INFINITY ? 0 : most);
    for (int p = 0; p < padded; p += LANES) {
        vf e = vf_exp2(vf_load(s + p) - from);
        l += e;
        if (fp8) e *= vf_load(w->v_scale + p);
        for (int i = 0; i < 2; i++) {
            vh h = (vh)_mm512_cvtneps_pbh((__m512)e);
            memcpy(out + i * TILE * SPLIT + p, &h, sizeof h);
            e -= vf_from_bf16(h);
        }
    }
    *max = most;
    *sum = vf_sum(l);
}

/* w->split [D_pad / 16, TILE, 16] = P' V over n positions (a multiple of 32), 64 d at a time. */
static void outputs_rows(const struct unit *u, struct workspace *w, int n) {
    const size_t stride = SPLIT * 2, v_stride = (size_t)u->D_pad * 4;
    for (int d = 0; d < u->D_pad; d += 64) {
        const char *v = (const char *)w->v + d * 4, *p = w->p, *rest = p + TILE * stride;
        bool four = d + 32 < u->D_pad;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int i = 0; i < n; i += TILE_K, v += 16 * v_stride, p += 2 * TILE_K, rest += 2 * TILE_K) {
            _tile_loadd(4, p, stride);
            _tile_loadd(5, rest, stride);
            _tile_loadd(6, v, v_stride);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, v + 64, v_stride);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(0, 5, 6);
            _tile_dpbf16ps(1, 5, 7);
            if (!four) continue;
            _tile_loadd(6, v + 128, v_stride);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, v + 192, v_stride);
            _tile_dpbf16ps(3, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        float *out = w->split + (size_t)d * TILE;
        _tile_stored(0, out, 64);
        _tile_stored(1, out + 256, 64);
        if (!four) continue;
        _tile_stored(2, out + 512, 64);
        _tile_stored(3, out + 768, 64);
    }
}

static void only_tile_split(const struct unit *u, struct workspace *w, int first, int n) {
    float max[TILE], sum[TILE], keep[TILE], take[TILE];
    int padded = (int)round_up((size_t)n, TILE_K), rows = u->n_rows;
    int32_t seen[TILE_ROWS];
    rows_see(u, 0, first, seen);
    scores(u, w, w->q, n);
    if (u->op->k_bias) CPU(attention_add_bias)(u, w, 0, first, n);
    turn_scores(w, rows, padded);
    for (int r = 0; r < TILE; r++) max[r] = -INFINITY, sum[r] = 0;
    for (int r = 0; r < rows; r++)
        if (kv_is_fp8(u)) softmax_row(w, r, seen[r], padded, &max[r], &sum[r], true);
        else softmax_row(w, r, seen[r], padded, &max[r], &sum[r], false);
    STORES_BEFORE_TILES();
    outputs_rows(u, w, padded);
    fold_state(w->max, w->sum, max, sum, keep, take, 1);
    for (int r = 0; r < rows; r++)
        for (int d = 0; d < u->D_pad; d += 16) {
            float *out = w->out + (size_t)d * TILE + r * 16, *in = w->split + (size_t)d * TILE + r * 16;
            vf_store(out, vf_fma(vf_load(out), vf_set1(keep[r]), vf_load(in) * vf_set1(take[r])));
        }
}

/* ---- a unit ------------------------------------------------------------------------------------------------------------------ */

static bool has_one_tile(const struct unit *u) { return u->n_rows <= TILE_ROWS; }

void CPU(attention_amx_begin)(const struct unit *u, struct workspace *w) {
    uint16_t rows[TILE_ROWS * MAX_D];
    for (int i = 0; i * TILE_ROWS < u->n_rows; i++) {
        int n = tile_rows(u, i);
        for (int r = 0; r < n; r++)
            memcpy(rows + r * u->D, q_row(u, i * TILE_ROWS + r), (size_t)u->D * 2);
        amx_pack((char *)(w->q + (size_t)i * u->D_pad * TILE_ROWS), rows, (size_t)u->D, n, u->D, u->D_pad, TILE_ROWS);
    }
    amx_configure(TILE_ROWS);
}

void CPU(attention_amx_split)(const struct unit *u, struct workspace *w, int first, int n) {
    load_values(u, w, n, has_one_tile(u));
    if (copies_keys(u)) copy_keys(u, w, n);
    STORES_BEFORE_TILES();
    if (has_one_tile(u)) {
        only_tile_split(u, w, first, n);
        return;
    }
    for (int i = 0; i * TILE_ROWS < u->n_rows; i++) {
        int n_tile = tile_last(u, i) + 1 - first;
        if (n_tile > 0) tile_split(u, w, i, first, n_tile < n ? n_tile : n);
    }
}

void CPU(attention_amx_end)(const struct unit *u, struct workspace *w) {
    _tile_release();
    for (int r = 0; r < u->n_rows; r++) {
        int tile = r / TILE, lane = r % TILE;
        float row[MAX_D] = {0}, inverse = 1.0f / w->sum[r];
        const float *out = w->out + (size_t)tile * u->D_pad * TILE;
        if (has_one_tile(u))
            for (int d = 0; d < u->D_pad; d += 16) memcpy(row + d, out + (size_t)d * TILE + lane * 16, 64);
        else
            for (int d = 0; d < u->D; d++) row[d] = out[d * TILE + lane];
        /* + 0: where a sum ended in zero, its sign may depend on how many unseen positions were added. */
        for (int d = 0; d < u->D_pad; d += LANES) vf_store(row + d, vf_load(row + d) * inverse + 0.0f);
        row_narrow(o_row(u, r), row, (size_t)u->D, DTYPE_BF16);
    }
}

#else
typedef int attention_amx_is_empty; /* this instruction set has no matrix unit */
#endif
