/* linear.c - y = x W' + b: the matrix product that nearly all time goes to, in vectors of fp32.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k] + b[n]           x [T, K], w [N, K], y [T, N]
 *
 * Order: lane j of LANES sums k = j, j + LANES, j + 2 LANES, ... by multiply-add in fp32; the lanes are folded as a
 * fixed tree (vf_sum). A row's tail is padded with zeros. Whatever tile an element is computed in, this is its order,
 * so tiles are chosen by speed alone: 1 token and LANES rows, 2 and LANES / 2, 4 and LANES / 4, always LANES sums.
 *
 * x is widened to fp32 once per X_ROWS tokens; up to OWN_TOKENS by each thread for itself, which takes less time than
 * fetching as much from another core. Weights are widened as they are read; for more tokens than PANEL_TOKENS
 * they are widened once into a panel of LANES rows, which all tokens then share; so are 4-bit rows, and rows that do not
 * fill vectors.
 *
 * What comes before and after is done here where that saves a pass: norm_linear normalises its few tokens as it widens
 * them, linear_add adds to the residual as it writes, norm_linear_silu_mul takes a block of gates and the same block of
 * ups and writes their product. All round where the ops that they are made of round.
 *
 * Threads divide N: each weight is read by one thread, once per X_ROWS tokens. Bytes: N K of the weights' format;
 * FLOP: 2 T N K. */
#include "kernels/cpu/cpu.h"

enum {
    PANEL_TOKENS = 4,        /* up to here weights are widened anew for each tile of tokens */
    PANEL_ROWS = LANES / 2,  /* of weights; half a block, so that x, too, has room in the L1 */
    OWN_TOKENS = LANES,      /* their x has room in a thread's scratch, behind a panel */
    PART_BYTES = 128 * 1024, /* of weights that a thread takes at a time, at least, where reading them takes the time */
};

struct product {
    struct exec *e;
    const char *x; /* [T, K] act, the chunk's */
    int T;         /* the chunk's */
    const struct matrix *w;
    char *y; /* [T, N] of yt, the chunk's; gated: [T, N / 2] */
    enum dtype yt;
    const void *bias; /* [N] act or NULL */
    const void *norm; /* [K] act: x is normalised first; or NULL */
    float eps;
    bool add;      /* to what y is */
    bool pairs;    /* x and w stay bf16: linear_bf16.c multiplies */
    bool gated;    /* w is gates above ups; N / 2 is a multiple of LANES */
    size_t stride; /* of x in fp32, padded with zeros */
};

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* n_t tokens times LANES / n_t rows of w: sum (t, n) of the tile at lane t * (LANES / n_t) + n. Row n is at w[n]. K is
 * a multiple of LANES. What lies `ahead` bytes behind the weights, if not 0, is fetched meanwhile.
 *
 * All loops over acc are unrolled, so that it never is in memory. */
INLINE vf tile(const float *x, size_t stride, const char *const *w, int K, enum dtype wt, const int n_t, size_t ahead) {
    const int n_n = LANES / n_t;
    size_t b = dtype_bytes(wt);
    vf acc[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) acc[i] = (vf){0};
    /* Rows are taken SOME at a time: enough sums to hide the latency, few enough pointers for the registers. */
    enum { SOME = 8 };
    const int n_some = n_n < SOME ? n_n : SOME;
#pragma GCC unroll 2
    for (int some = 0; some < n_n; some += n_some)
        for (int k = 0; k < K; k += LANES) {
            vf xk[4];
#pragma GCC unroll 4
            for (int t = 0; t < n_t; t++) xk[t] = vf_load(x + t * stride + k);
#pragma GCC unroll 8
            for (int n = 0; n < n_some; n++) {
                vf v = vf_widen(w[some + n] + k * b, wt);
                if (ahead) __builtin_prefetch(w[some + n] + k * b + ahead);
#pragma GCC unroll 4
                for (int t = 0; t < n_t; t++) acc[t * n_n + some + n] = vf_fma(xk[t], v, acc[t * n_n + some + n]);
            }
        }
    return vf_sum_each(acc);
}

/* out[t][i] = token t times row i of w, i < LANES, for n_t tokens. */
INLINE void tile_row(float (*out)[LANES], const float *x, size_t stride, const char *const *w, int K, enum dtype wt,
                     size_t ahead, const int n_t) {
    const int n_n = LANES / n_t;
    for (int i = 0; i < LANES; i += n_n) {
        float sums[LANES];
        vf_store(sums, tile(x, stride, w + i, K, wt, n_t, ahead));
        for (int j = 0; j < n_t; j++) memcpy(&out[j][i], sums + j * n_n, (size_t)n_n * sizeof(float));
    }
}

/* The same for all T tokens. */
INLINE void tiles(float (*out)[LANES], const float *x, size_t stride, int T, const char *const *w, int K,
                  enum dtype wt, size_t ahead) {
    int t = 0;
    for (; t + 4 <= T; t += 4) tile_row(out + t, x + t * stride, stride, w, K, wt, ahead, 4);
    if (t + 2 <= T) tile_row(out + t, x + t * stride, stride, w, K, wt, ahead, 2), t += 2;
    if (t < T) tile_row(out + t, x + t * stride, stride, w, K, wt, ahead, 1);
}

/* ---- tiles of a panel -------------------------------------------------------------------------------------------- */

/* As tile(), for rows of w that are fp32 and `stride` apart like those of x. Functions of their own, so that the
 * addresses stay in registers. Meanwhile 2 K bytes at `fetch` are fetched: one tile's share of the next block. */
INLINE vf panel_tile(const float *x, const float *w, size_t stride, int K, const char *fetch, const int n_t) {
    const int n_n = LANES / n_t;
    vf acc[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) acc[i] = (vf){0};
    for (int k = 0; k < K; k += LANES) {
        vf xk[4];
        __builtin_prefetch(fetch + 2 * k);
#pragma GCC unroll 4
        for (int t = 0; t < n_t; t++) xk[t] = vf_load(x + k + t * stride);
#pragma GCC unroll 8
        for (int n = 0; n < n_n; n++) {
            vf v = vf_load(w + k + n * stride);
#pragma GCC unroll 4
            for (int t = 0; t < n_t; t++) acc[t * n_n + n] = vf_fma(xk[t], v, acc[t * n_n + n]);
        }
    }
    return vf_sum_each(acc);
}

static __attribute__((noinline)) vf panel_tile_4(const float *x, const float *w, size_t stride, int K,
                                                 const char *fetch) {
    return panel_tile(x, w, stride, K, fetch, 4);
}

static __attribute__((noinline)) vf panel_tile_2(const float *x, const float *w, size_t stride, int K,
                                                 const char *fetch) {
    return panel_tile(x, w, stride, K, fetch, 2);
}

/* out[t][i] = token t times row i of the panel [PANEL_ROWS, stride], for T tokens, T even. */
static void panel_tiles(float (*out)[LANES], const float *x, size_t stride, int T, const float *panel, int K,
                        const char *fetch) {
    float sums[LANES];
    int t = 0;
    for (; t + 4 <= T; t += 4)
        for (int i = 0; i < PANEL_ROWS; i += LANES / 4, fetch += 2 * K) {
            vf_store(sums, panel_tile_4(x + t * stride, panel + i * stride, stride, K, fetch));
            for (int j = 0; j < 4; j++) memcpy(&out[t + j][i], sums + j * (LANES / 4), sizeof sums / 4);
        }
    for (int i = 0; t < T && i < PANEL_ROWS; i += LANES / 2, fetch += 2 * K) {
        vf_store(sums, panel_tile_2(x + t * stride, panel + i * stride, stride, K, fetch));
        for (int j = 0; j < 2; j++) memcpy(&out[t + j][i], sums + j * (LANES / 2), sizeof sums / 2);
    }
}

/* ---- LANES rows of w for all tokens ------------------------------------------------------------------------------- */

/* y [t, n ...] of n_n rows, from out [T, LANES]. */
INLINE void write_as(const struct product *o, float (*out)[LANES], int n, int n_n, enum dtype t) {
    size_t row = (size_t)o->w->rows * dtype_bytes(t);
    enum dtype act = o->e->options.dtype;
    char *y = o->y + (size_t)n * dtype_bytes(t);
    float pad[LANES] = {0};
    if (o->bias) row_widen(pad, (const char *)o->bias + (size_t)n * dtype_bytes(act), (size_t)n_n, act);
    vf bias = vf_load(pad);
    for (int i = 0; i < o->T; i++, y += row) {
        vf v = vf_load(out[i]);
        if (o->bias) v = v + bias;
        if (n_n == LANES) {
            vf_narrow(y, o->add ? vf_widen(y, t) + vf_round(v, t) : v, t);
            continue;
        }
        if (o->add) {
            row_widen_as(pad, y, (size_t)n_n, t);
            v = vf_load(pad) + vf_round(v, t);
        }
        vf_store(pad, v);
        row_narrow_as(y, pad, (size_t)n_n, t);
    }
}

static void write_rows(const struct product *o, float (*out)[LANES], int n) {
    int n_n = o->w->rows - n < LANES ? o->w->rows - n : LANES;
    if (o->yt == DTYPE_BF16) write_as(o, out, n, n_n, DTYPE_BF16);
    else if (o->yt == DTYPE_F16) write_as(o, out, n, n_n, DTYPE_F16);
    else write_as(o, out, n, n_n, DTYPE_F32);
}

/* The gated product of LANES columns: out [n ...] = silu_mul(gate, up), each rounded first. */
INLINE void write_gated_as(const struct product *o, float (*gate)[LANES], float (*up)[LANES], int n, enum dtype t) {
    size_t row = (size_t)o->w->rows / 2 * dtype_bytes(t);
    char *y = o->y + (size_t)n * dtype_bytes(t);
    for (int i = 0; i < o->T; i++, y += row)
        vf_narrow(y, vf_silu_mul(vf_round(vf_load(gate[i]), t), vf_round(vf_load(up[i]), t), t), t);
}

static void write_gated(const struct product *o, float (*gate)[LANES], float (*up)[LANES], int n) {
    if (o->yt == DTYPE_BF16) write_gated_as(o, gate, up, n, DTYPE_BF16);
    else if (o->yt == DTYPE_F16) write_gated_as(o, gate, up, n, DTYPE_F16);
    else write_gated_as(o, gate, up, n, DTYPE_F32);
}

/* n elements of format t to fp32, and zeros up to a whole vector. */
INLINE void widen_as(float *out, const char *in, size_t n, enum dtype t) {
    size_t b = dtype_bytes(t), i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
#pragma GCC unroll 4
        for (size_t j = i; j < i + 4 * LANES; j += LANES) vf_store(out + j, vf_widen(in + j * b, t));
    }
    for (; i + LANES <= n; i += LANES) vf_store(out + i, vf_widen(in + i * b, t));
    if (i == n) return;
    vf_store(out + i, (vf){0});
    for (; i < n; i++) out[i] = f32_widen(in + i * b, t);
}

static void widen(float *out, const char *in, size_t n, enum dtype t) {
    if (t == DTYPE_BF16) widen_as(out, in, n, DTYPE_BF16);
    else if (t == DTYPE_F16) widen_as(out, in, n, DTYPE_F16);
    else widen_as(out, in, n, DTYPE_F32);
}

/* Rows first .. last - 1 of x in fp32, to out [T, stride]; rows behind the last are zeros. */
static void widen_some(const struct product *o, float *out, int first, int last) {
    enum dtype act = o->e->options.dtype;
    size_t K = (size_t)o->w->cols;
    for (int t = first; t < last; t++) {
        float *row = out + t * o->stride;
        if (t >= o->T) {
            memset(row, 0, round_up(K, LANES) * sizeof *row);
            continue;
        }
        widen(row, o->x + (size_t)t * K * dtype_bytes(act), K, act);
        if (!o->norm) continue;
        for (size_t i = round_up(K, LANES); i % (4 * LANES); i += LANES) vf_store(row + i, (vf){0}); /* for the norm */
        CPU(norm_row)(row, row, o->norm, (int)K, o->eps, act);
        row_round(row, K, act);
    }
}

#ifdef __AVX512BF16__
/* All of x, normalised, in bf16: to out [T, K]. */
static void norm_pairs(const struct product *o, uint16_t *out, float *row) {
    size_t K = (size_t)o->w->cols;
    for (int t = 0; t < o->T; t++) {
        widen(row, o->x + t * K * 2, K, DTYPE_BF16);
        for (size_t i = round_up(K, LANES); i % (4 * LANES); i += LANES) vf_store(row + i, (vf){0}); /* for the norm */
        CPU(norm_row)(row, row, o->norm, (int)K, o->eps, DTYPE_BF16);
        row_narrow_as((char *)(out + t * K), row, K, DTYPE_BF16);
    }
}
#endif

/* n rows of w in fp32, padded, to out [n, stride]. */
static void widen_rows(const struct product *o, float *out, const char *const *w, int n) {
    for (int i = 0; i < n; i++) widen(out + i * o->stride, w[i], (size_t)o->w->cols, o->w->dtype);
}

/* out [T, LANES]: rows n .. n + LANES - 1 of w. */
static void product_block(const struct product *o, float *panel, float (*out)[LANES], const void *x, int n) {
    const struct matrix *m = o->w;
    int K = m->cols, T = o->T, full = (int)round_up((size_t)K, LANES);
    size_t row_bytes = (size_t)K * dtype_bytes(m->dtype), ahead = LANES * row_bytes;
    const char *w[LANES];
    if (m->format == MATRIX_AWQ) {
        for (int i = 0; i < LANES; i++) {
            CPU(awq_row)(panel + i * o->stride, m, n + i);
            w[i] = (const char *)(panel + i * o->stride);
        }
        tiles(out, x, o->stride, T, w, K, DTYPE_F32, 0);
        return;
    }
    for (int i = 0; i < LANES; i++) /* rows that do not exist: the last one again, not written */
        w[i] = (const char *)m->data + (size_t)(n + i < m->rows ? n + i : m->rows - 1) * row_bytes;
#ifdef __AVX512BF16__
    if (o->pairs) {
        CPU(linear_bf16)(out, (const uint16_t *)x, (size_t)K, T, (const uint16_t *const *)w, K, LANES * (size_t)K);
        return;
    }
#endif
    if (T > PANEL_TOKENS && (m->dtype != DTYPE_F32 || K % LANES)) {
        for (int i = 0; i < LANES; i += PANEL_ROWS) {
            widen_rows(o, panel, w + i, PANEL_ROWS);
            panel_tiles((float(*)[LANES]) & out[0][i], x, o->stride, T + T % 2, panel, full, w[i] + ahead);
        }
    } else if (K % LANES) {
        const char *rows[LANES];
        widen_rows(o, panel, w, LANES);
        for (int i = 0; i < LANES; i++) rows[i] = (const char *)(panel + i * o->stride);
        tiles(out, x, o->stride, T, rows, full, DTYPE_F32, 0);
    } else if (m->dtype == DTYPE_BF16) {
        tiles(out, x, o->stride, T, w, K, DTYPE_BF16, ahead);
    } else if (m->dtype == DTYPE_F16) {
        tiles(out, x, o->stride, T, w, K, DTYPE_F16, ahead);
    } else {
        tiles(out, x, o->stride, T, w, K, DTYPE_F32, ahead);
    }
}

static void product_rows(void *arg, struct share *share) {
    const struct product *o = arg;
    float *panel = scratch_of(o->e, share); /* [LANES, stride] */
    const void *x = cpu_of(o->e)->x;        /* [T, stride] */
    float out[X_ROWS][LANES], up[X_ROWS][LANES];
    if (o->pairs) {
        x = o->x;
#ifdef __AVX512BF16__
        if (o->norm) norm_pairs(o, (uint16_t *)(panel + LANES * o->stride), panel), x = panel + LANES * o->stride;
#endif
    } else if (o->T <= OWN_TOKENS) {
        x = panel + LANES * o->stride;
        widen_some(o, panel + LANES * o->stride, 0, o->T + o->T % 2);
    }
    for (int first, last; threads_take(share, &first, &last);)
        for (int n = first * LANES; n < last * LANES; n += LANES) {
            product_block(o, panel, out, x, n);
            if (o->gated) {
                product_block(o, panel, up, x, o->w->rows / 2 + n);
                write_gated(o, out, up, n);
            } else {
                write_rows(o, out, n);
            }
        }
}

/* ---- the ops ----------------------------------------------------------------------------------------------------- */

static void widen_tokens(void *arg, struct share *share) {
    const struct product *o = arg;
    for (int first, last; threads_take(share, &first, &last);) widen_some(o, cpu_of(o->e)->x, first, last);
}

#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
/* Both are bf16: what the matrix unit computes where there is one, and pairs elsewhere. */
INLINE bool is_bf16(const struct exec *e, const struct matrix *w) {
    return w->format == MATRIX_DENSE && w->dtype == DTYPE_BF16 && e->options.dtype == DTYPE_BF16;
}
#endif

static bool is_amx(const struct exec *e, const struct matrix *w) {
#ifdef __AMX_BF16__
    return is_bf16(e, w);
#else
    (void)e, (void)w;
    return false;
#endif
}

/* All but the chunk's fields are set; x and y are those of all T tokens. */
static void run(struct product o, int T) {
    const struct matrix *w = o.w;
    struct exec *e = o.e;
    const char *x = o.x;
    char *y = o.y;
    size_t x_bytes = (size_t)w->cols * dtype_bytes(e->options.dtype);
    size_t y_bytes = (size_t)(o.gated ? w->rows / 2 : w->rows) * dtype_bytes(o.yt);
    int n_blocks = ((o.gated ? w->rows / 2 : w->rows) + LANES - 1) / LANES, even = n_blocks / e->options.n_threads;
    /* With few tokens memory sets the pace; with more, a part takes long enough that waiting for the last one shows. */
    size_t part_bytes = T <= PANEL_TOKENS ? PART_BYTES : PART_BYTES / 4;
    int grain = (int)(part_bytes / (LANES * (size_t)w->cols * dtype_bytes(w->dtype) * (o.gated ? 2 : 1))) + 1;
    if (grain > even) grain = even + !even;
    o.stride = ROW_FLOATS(w->cols);
#ifdef __AVX512BF16__
    o.pairs = is_bf16(e, w);
#endif
    for (int t = 0; t < T; t += X_ROWS) {
        o.x = x + t * x_bytes;
        o.y = y + t * y_bytes;
        o.T = T - t < X_ROWS ? T - t : X_ROWS;
        if (o.T > OWN_TOKENS && !o.pairs) parallel(e, o.T + o.T % 2, rows_per_part(w->cols), widen_tokens, &o);
        parallel(e, n_blocks, grain, product_rows, &o);
    }
}

static void linear_as(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w, const void *bias,
                      int T) {
#ifdef __AMX_BF16__
    if (is_amx(e, w)) {
        if (T < WIDE_TOKENS) CPU(linear_amx)(e, y, yt, x, w, bias, T);
        else CPU(linear_amx_wide)(e, y, yt, x, w, bias, T);
        return;
    }
#endif
    run((struct product){.e = e, .x = x, .w = w, .y = y, .yt = yt, .bias = bias}, T);
}

void CPU(linear)(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T) {
    linear_as(e, y, e->options.dtype, x, w, bias, T);
}

void CPU(linear_f32)(struct exec *e, float *y, const void *x, const struct matrix *w, int T) {
    linear_as(e, y, DTYPE_F32, x, w, NULL, T);
}

bool CPU(norm_linear)(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                      const struct matrix *w, const void *bias, int T) {
    (void)x;
    if (is_amx(e, w) || T > OWN_TOKENS) return false;
    run((struct product){.e = e, .x = residual, .norm = norm, .eps = eps, .w = w, .y = y, .yt = e->options.dtype,
                         .bias = bias}, T);
    return true;
}

bool CPU(norm_linear_silu_mul)(struct exec *e, void *out, void *gate_up, void *x, const void *residual,
                               const void *norm, float eps, const struct matrix *w, int T) {
    (void)gate_up;
    if (is_amx(e, w) || w->rows / 2 % LANES) return false;
    struct product o = {.e = e, .x = residual, .norm = norm, .eps = eps, .w = w, .y = out, .yt = e->options.dtype,
                        .gated = true};
    if (T > OWN_TOKENS) {
        CPU(rms_norm)(e, x, residual, norm, T, w->cols, eps);
        o.x = x;
        o.norm = NULL;
    }
    run(o, T);
    return true;
}

bool CPU(linear_add)(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T) {
    (void)h;
    if (is_amx(e, w)) return false;
    run((struct product){.e = e, .x = x, .w = w, .y = residual, .yt = e->options.dtype, .add = true}, T);
    return true;
}
