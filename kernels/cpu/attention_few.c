/* attention_few.c - attention of few rows, to the bit as attention.c has it.
 *
 *     s[r, p] = sum over d of k[p, d] q[r, d]      positions in the lanes, d ascending
 *     o[r, d] = sum over p of v[p, d] e[r, p]      d in the lanes, p ascending
 * K is turned for that, LANES positions at a time, in registers: pairs of bf16 as if they were one number of 32 bits. V
 * lies as it is needed. The sum of e^s over p is one chain of additions for each row, which hides behind those of o.
 *
 * In the workspace, for up to FEW_ROWS rows: q, out and split [row, D]; scores, then e^s, [row, SPLIT]; p [row, SPLIT],
 * e^s times V's scale; v [SPLIT, D], of fp8 alone, first K, then V, widened. */
#include "kernels/cpu/attention.h"

/* ---- scores ----------------------------------------------------------------------------------------------------------- */

/* How many d make whole vectors when K is read: of pairs, or of one. */
INLINE int whole(int D, enum dtype t) { return t == DTYPE_BF16 ? D / (2 * LANES) * (2 * LANES) : D / LANES * LANES; }

/* out[r * SPLIT + lane] = sum over d, which make whole vectors, of rows[lane][d] q[r * q_step + d], for n_r rows. */
INLINE void score_some(float *out, const float *q, size_t q_step, const char *const *rows, int D, enum dtype t,
                       const int n_r) {
    size_t b = dtype_bytes(t);
    vf x[LANES], acc[FEW_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < n_r; r++) acc[r] = (vf){0};
    for (int d = 0; d < whole(D, t);) {
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            x[i] = t == DTYPE_BF16 ? vf_load((const float *)(rows[i] + d * b)) : vf_widen(rows[i] + d * b, t);
        vf_transpose(x);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            vf first = t == DTYPE_BF16 ? (vf)((vu)x[i] << 16) : x[i], second = (vf)((vu)x[i] & 0xffff0000);
#pragma GCC unroll 8
            for (int r = 0; r < n_r; r++) acc[r] = vf_fma(first, vf_set1(q[r * q_step + d]), acc[r]);
            d++;
            if (t != DTYPE_BF16) continue;
#pragma GCC unroll 8
            for (int r = 0; r < n_r; r++) acc[r] = vf_fma(second, vf_set1(q[r * q_step + d]), acc[r]);
            d++;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < n_r; r++) vf_store(out + r * SPLIT, acc[r]);
}

/* Goes on with the d that are left. */
static void score_rest(float *out, const float *q, size_t q_step, const char *const *rows, int D, enum dtype t, int n_r) {
    for (int d = whole(D, t); d < D; d++) {
        vf x;
        for (int i = 0; i < LANES; i++) x[i] = f32_widen(rows[i] + (size_t)d * dtype_bytes(t), t);
        for (int r = 0; r < n_r; r++)
            vf_store(out + r * SPLIT, vf_fma(x, vf_set1(q[r * q_step + d]), vf_load(out + r * SPLIT)));
    }
}

/* Brings rows first .. first + LANES - 1 of n closer: blocks lie anywhere, and no processor guesses where the next is. */
INLINE void fetch_rows(const char *const *rows, int first, int n, size_t bytes) {
    int last = first + LANES < n ? first + LANES : n;
    for (int i = first; i < last; i++)
        for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(rows[i] + at);
}

INLINE void scores_as(const struct unit *u, struct workspace *w, int n, enum dtype t) {
    enum { AHEAD = 2 * LANES };
    const int D = u->D, n_r = u->n_rows;
    size_t row_bytes = (size_t)D * dtype_bytes(u->op->kv->layout.dtype);
    size_t step = (size_t)u->D_pad;
    for (int i = n; i % LANES; i++) w->k_row[i] = w->k_row[n - 1]; /* something that exists: not seen */
    for (int p = 0; p < AHEAD && !kv_is_fp8(u); p += LANES) fetch_rows(w->k_row, p, n, row_bytes);
    for (int p = 0; p < n; p += LANES) {
        const char *const *rows = w->k_row + p;
        float *out = w->scores + p;
        if (!kv_is_fp8(u)) fetch_rows(w->k_row, p + AHEAD, n, row_bytes);
        fetch_rows(w->v_row, p, n, row_bytes);
        if (n_r == 1) score_some(out, w->q, step, rows, D, t, 1);
        else if (n_r == 2) score_some(out, w->q, step, rows, D, t, 2);
#if LANES > 4
        else if (n_r <= 4) score_some(out, w->q, step, rows, D, t, 4);
#endif
        else score_some(out, w->q, step, rows, D, t, FEW_ROWS);
        score_rest(out, w->q, step, rows, D, t, n_r);
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------------- */

/* Row r, which sees the first `seen` of the positions: as softmax() of attention.c, but for the sum. Returns max. */
static float softmax(struct workspace *w, int r, int seen, int n) {
    float *s = w->scores + r * SPLIT, *e = (float *)w->p + r * SPLIT, max;
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    vf m = vf_set1(-INFINITY);
    for (int p = 0; p < n; p += LANES) {
        vf x = vf_select(lane < seen - p, vf_load(s + p) * vf_load(w->k_scale + p), vf_set1(-INFINITY));
        vf_store(s + p, x);
        m = vf_max(m, x);
    }
    max = vf_max_lane(m);
    vf from = vf_set1(max == -INFINITY ? 0 : max);
    for (int p = 0; p < n; p += LANES) {
        vf x = vf_exp2(vf_load(s + p) - from);
        vf_store(s + p, x);
        vf_store(e + p, x * vf_load(w->v_scale + p));
    }
    return max;
}

/* ---- values ----------------------------------------------------------------------------------------------------------- */

/* n_r rows and n_v vectors of d, from element d on: out[r * out_step + lane] = sum over p of v_row[p][d + lane] e[r, p].
 * With n_v 0: the last, partial vector. `sums`, if not NULL: of e^s, row by row. */
INLINE void value_some(const struct unit *u, struct workspace *w, int r0, int d, int n, float *sums, enum dtype t,
                       const int n_r, const int n_v) {
    const float *e = (const float *)w->p + r0 * SPLIT, *raw = w->scores + r0 * SPLIT;
    const int n_all = n_v ? n_v : 1;
    size_t b = dtype_bytes(t);
    float pad[LANES] = {0}, l[4] = {0};
    vf acc[16];
    for (int i = 0; i < n_r * n_all; i++) acc[i] = (vf){0};
    for (int p = 0; p < n; p++) {
        const char *row = w->v_row[p] + d * b;
        if (sums)
            for (int r = 0; r < n_r; r++) l[r] += raw[r * SPLIT + p];
        if (!n_v) row_widen_as(pad, row, (size_t)(u->D - d), t);
        for (int v = 0; v < n_all; v++) {
            vf x = n_v ? vf_widen(row + v * LANES * b, t) : vf_load(pad);
            for (int r = 0; r < n_r; r++)
                acc[r * n_all + v] = vf_fma(x, vf_set1(e[r * SPLIT + p]), acc[r * n_all + v]);
        }
    }
    for (int r = 0; r < n_r; r++) {
        for (int v = 0; v < n_all; v++)
            vf_store(w->split + (size_t)(r0 + r) * u->D_pad + d + v * LANES, acc[r * n_all + v]);
        if (sums) sums[r0 + r] = l[r];
    }
}

INLINE void value_rows(const struct unit *u, struct workspace *w, int r0, int n, float *sums, enum dtype t,
                       const int n_r) {
    int d = 0;
    for (; d + 4 * LANES <= u->D; d += 4 * LANES, sums = NULL) {
        if (sums) value_some(u, w, r0, d, n, sums, t, n_r, 4);
        else value_some(u, w, r0, d, n, NULL, t, n_r, 4);
    }
    for (; d + LANES <= u->D; d += LANES, sums = NULL) value_some(u, w, r0, d, n, sums, t, n_r, 1);
    if (d < u->D) value_some(u, w, r0, d, n, sums, t, n_r, 0);
}

INLINE void values_as(const struct unit *u, struct workspace *w, int n, float *sums, enum dtype t) {
    int r = 0;
    for (; r + 4 <= u->n_rows; r += 4) value_rows(u, w, r, n, sums, t, 4);
    if (r + 2 <= u->n_rows) value_rows(u, w, r, n, sums, t, 2), r += 2;
    if (r < u->n_rows) value_rows(u, w, r, n, sums, t, 1);
}

/* ---- fp8 -------------------------------------------------------------------------------------------------------------- */

/* The rows, widened, in w->v; the pointers then point there. */
static void widen_fp8(const struct unit *u, struct workspace *w, const char **rows, int n) {
    for (int i = 0; i < n; i++) {
        float *to = w->v + (size_t)i * u->D_pad;
        row_widen_e4m3(to, rows[i], u->D);
        rows[i] = (const char *)to;
    }
}

/* ---- one split -------------------------------------------------------------------------------------------------------- */

void CPU(attention_few_begin)(const struct unit *u, struct workspace *w) {
    for (int r = 0; r < u->n_rows; r++)
        row_widen(w->q + (size_t)r * u->D_pad, q_row(u, r), (size_t)u->D, u->op->e->options.dtype);
    for (int r = u->n_rows; r & (r - 1); r++) /* score_some takes a power of two of them */
        memset(w->q + (size_t)r * u->D_pad, 0, (size_t)u->D_pad * sizeof *w->q);
}

void CPU(attention_few_split)(const struct unit *u, struct workspace *w, int first, int n) {
    enum dtype t = u->op->kv->layout.dtype;
    float max[TILE_ROWS] = {0}, sum[TILE_ROWS] = {0}, keep[TILE_ROWS], take[TILE_ROWS];
    int32_t seen[TILE_ROWS];
    rows_see(u, 0, first, seen);
    if (kv_is_fp8(u)) widen_fp8(u, w, w->k_row, n);
    if (t == DTYPE_BF16) scores_as(u, w, n, DTYPE_BF16);
    else if (t == DTYPE_F16) scores_as(u, w, n, DTYPE_F16);
    else scores_as(u, w, n, DTYPE_F32);
    for (int r = 0; r < u->n_rows; r++) max[r] = softmax(w, r, seen[r], n);
    if (kv_is_fp8(u)) widen_fp8(u, w, w->v_row, n);
    if (t == DTYPE_BF16) values_as(u, w, n, sum, DTYPE_BF16);
    else if (t == DTYPE_F16) values_as(u, w, n, sum, DTYPE_F16);
    else values_as(u, w, n, sum, DTYPE_F32);

    fold_state(w->max, w->sum, max, sum, keep, take, (u->n_rows + LANES - 1) / LANES);
    for (int r = 0; r < u->n_rows; r++) {
        float *out = w->out + (size_t)r * u->D_pad, *split = w->split + (size_t)r * u->D_pad;
        for (int d = 0; d < u->D; d += LANES)
            vf_store(out + d, vf_fma(vf_load(out + d), vf_set1(keep[r]), vf_load(split + d) * vf_set1(take[r])));
    }
}

void CPU(attention_few_end)(const struct unit *u, struct workspace *w) {
    for (int r = 0; r < u->n_rows; r++) {
        float *out = w->out + (size_t)r * u->D_pad;
        vf inverse = vf_set1(1.0f / w->sum[r]);
        /* + 0 as in attention.c */
        for (int d = 0; d < u->D; d += LANES) vf_store(out + d, vf_load(out + d) * inverse + vf_set1(0));
        row_narrow(o_row(u, r), out, (size_t)u->D, u->op->e->options.dtype);
    }
}
