/* attention_few.c - attention of few rows, to the bit as attention.c has it.
 *
 *     s[r, p] = sum over d of k[p, d] q[r, d]      positions in the lanes, d ascending
 *     o[r, d] = sum over p of v[p, d] e[r, p]      d in the lanes, p ascending
 * K is turned for that, LANES positions at a time: pairs of bf16 as if they were one number of 32 bits. V lies as it is
 * needed. The sum of e^s over p is one chain of additions for each row, which hides behind those of o.
 *
 * In the workspace, for up to FEW_ROWS rows: q, out and split [row, D]; scores, then e^s, [row, SPLIT]; p [row, SPLIT],
 * e^s times V's scale; k [D, STRIP], turned; v [SPLIT, D], of fp8 alone, first a strip of K, then V, widened. */
#include "kernels/cpu/attention.h"

enum { STRIP_VECTORS = 4, STRIP = STRIP_VECTORS * LANES };
_Static_assert(SPLIT % STRIP == 0, "strips fill a split");

/* ---- scores ----------------------------------------------------------------------------------------------------------- */

/* out [D, STRIP]: in its first LANES columns the LANES rows of K. */
INLINE void turn(float *out, const char *const *rows, int D, enum dtype t) {
    size_t b = dtype_bytes(t);
    int d = 0;
    vf x[LANES];
    for (; t == DTYPE_BF16 && d + 2 * LANES <= D; d += 2 * LANES) {
        for (int i = 0; i < LANES; i++) x[i] = vf_load((const float *)(rows[i] + d * b));
        vf_transpose(x);
        for (int i = 0; i < LANES; i++) {
            vf_store(out + (d + 2 * i) * STRIP, (vf)((vu)x[i] << 16));
            vf_store(out + (d + 2 * i + 1) * STRIP, (vf)((vu)x[i] & 0xffff0000));
        }
    }
    for (; d < D; d += LANES) {
        for (int i = 0; i < LANES; i++) {
            float pad[LANES] = {0};
            if (d + LANES <= D) {
                x[i] = vf_widen(rows[i] + d * b, t);
            } else {
                row_widen_as(pad, rows[i] + d * b, (size_t)(D - d), t);
                x[i] = vf_load(pad);
            }
        }
        vf_transpose(x);
        for (int i = 0; i < LANES; i++) vf_store(out + (d + i) * STRIP, x[i]);
    }
}

/* out[r * SPLIT + v * LANES + lane] = sum over d of k[d * STRIP + v * LANES + lane] q[r * q_step + d]. */
INLINE void score_some(float *out, const float *q, size_t q_step, const float *k, int D, const int n_r, const int n_v) {
    vf acc[4 * STRIP_VECTORS];
    for (int i = 0; i < n_r * n_v; i++) acc[i] = (vf){0};
    for (int d = 0; d < D; d++) {
        vf kd[STRIP_VECTORS];
        for (int v = 0; v < n_v; v++) kd[v] = vf_load(k + d * STRIP + v * LANES);
        for (int r = 0; r < n_r; r++)
            for (int v = 0; v < n_v; v++)
                acc[r * n_v + v] = vf_fma(kd[v], vf_set1(q[r * q_step + d]), acc[r * n_v + v]);
    }
    for (int r = 0; r < n_r; r++)
        for (int v = 0; v < n_v; v++) vf_store(out + r * SPLIT + v * LANES, acc[r * n_v + v]);
}

/* n_v vectors of positions, for all rows. */
INLINE void score_rows(float *out, const float *q, size_t q_step, const float *k, int D, int rows, const int n_v) {
    int r = 0;
    for (; r + 4 <= rows; r += 4) score_some(out + r * SPLIT, q + r * q_step, q_step, k, D, 4, n_v);
    if (r + 2 <= rows) score_some(out + r * SPLIT, q + r * q_step, q_step, k, D, 2, n_v), r += 2;
    if (r < rows) score_some(out + r * SPLIT, q + r * q_step, q_step, k, D, 1, n_v);
}

static void score_strip(float *out, const float *q, size_t q_step, const float *k, int D, int rows, int n_v) {
    if (n_v == STRIP_VECTORS) {
        score_rows(out, q, q_step, k, D, rows, STRIP_VECTORS);
        return;
    }
    for (int v = 0; v < n_v; v++) score_rows(out + v * LANES, q, q_step, k + v * LANES, D, rows, 1);
}

INLINE void scores_as(const struct unit *u, struct workspace *w, int n, enum dtype t) {
    int n_v = (n + LANES - 1) / LANES;
    for (int i = n; i < n_v * LANES; i++) w->k_row[i] = w->k_row[n - 1]; /* something that exists: not seen */
    for (int v = 0; v < n_v; v += STRIP_VECTORS) {
        int some = n_v - v < STRIP_VECTORS ? n_v - v : STRIP_VECTORS;
        for (int i = 0; i < some; i++) turn(w->k + i * LANES, w->k_row + (v + i) * LANES, u->D, t);
        score_strip(w->scores + v * LANES, w->q, (size_t)u->D_pad, w->k, u->D, u->n_rows, some);
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
        row_widen(w->q + (size_t)r * u->D_pad, u->op->q + row_offset(u, r), (size_t)u->D, u->op->e->options.dtype);
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
        row_narrow(u->op->o + row_offset(u, r), out, (size_t)u->D, u->op->e->options.dtype);
    }
}
