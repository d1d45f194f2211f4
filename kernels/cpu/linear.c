/* linear.c - y = x W' + b: the matrix product that nearly all time goes to.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k] + b[n]           x [T, K], w [N, K], y [T, N]
 *
 * Order: lane j of LANES sums k = j, j + LANES, j + 2 LANES, ... by fused multiply-add in fp32; the lanes are folded as
 * a fixed tree (vf_sum). A row's tail is padded with zeros. Whatever the tile an element is computed in, this is its
 * order, so tiles may be chosen by speed alone.
 *
 * x is widened to fp32 once (X_ROWS tokens at a time), the weights as they are read. Threads divide N: each weight is
 * read by one thread, once per X_ROWS tokens. Bytes: N K of the weights' format; FLOP: 2 T N K. */
#include "kernels/cpu/cpu.h"

enum { N_TILE = 4, T_TILE = 4 };

/* out[t * N_TILE + n] = row t of x times row n of w. */
INLINE void tile(float *out, const float *x, size_t x_stride, const char *w, size_t w_bytes, int K, enum dtype wt,
                 const int n_t, const int n_n) {
    size_t b = dtype_bytes(wt);
    vf acc[T_TILE][N_TILE];
    for (int t = 0; t < n_t; t++)
        for (int n = 0; n < n_n; n++) acc[t][n] = (vf){0};
    int k = 0;
    for (; k + LANES <= K; k += LANES)
        for (int n = 0; n < n_n; n++) {
            vf v = vf_widen(w + n * w_bytes + k * b, wt);
            for (int t = 0; t < n_t; t++) acc[t][n] += vf_load(x + t * x_stride + k) * v;
        }
    if (k < K)
        for (int n = 0; n < n_n; n++) {
            float pad[LANES] = {0};
            row_widen_as(pad, w + n * w_bytes + k * b, (size_t)(K - k), wt);
            for (int t = 0; t < n_t; t++) acc[t][n] += vf_load(x + t * x_stride + k) * vf_load(pad);
        }
    for (int t = 0; t < n_t; t++)
        for (int n = 0; n < n_n; n++) out[t * N_TILE + n] = vf_sum(acc[t][n]);
}

/* Rows n0 .. n1-1 of w for the T tokens of x. */
INLINE void rows(void *y, enum dtype yt, size_t N, const float *x, size_t x_stride, int T, const struct matrix *w,
                 enum dtype wt, const void *bias, enum dtype act, int n0, int n1) {
    size_t w_bytes = (size_t)w->cols * dtype_bytes(wt), yb = dtype_bytes(yt);
    for (int n = n0; n < n1; n += N_TILE) {
        int n_n = n1 - n < N_TILE ? n1 - n : N_TILE;
        const char *wn = (const char *)w->data + (size_t)n * w_bytes;
        for (int t = 0; t < T; t += T_TILE) {
            int n_t = T - t < T_TILE ? T - t : T_TILE;
            float out[T_TILE * N_TILE];
            const float *xt = x + t * x_stride;
            if (n_t == T_TILE && n_n == N_TILE) tile(out, xt, x_stride, wn, w_bytes, w->cols, wt, T_TILE, N_TILE);
            else if (n_n == N_TILE)
                for (int i = 0; i < n_t; i++)
                    tile(out + i * N_TILE, xt + i * x_stride, x_stride, wn, w_bytes, w->cols, wt, 1, N_TILE);
            else
                for (int i = 0; i < n_t; i++)
                    for (int j = 0; j < n_n; j++)
                        tile(out + i * N_TILE + j, xt + i * x_stride, x_stride, wn + j * w_bytes, w_bytes, w->cols, wt,
                             1, 1);
            for (int i = 0; i < n_t; i++)
                for (int j = 0; j < n_n; j++) {
                    float v = out[i * N_TILE + j];
                    if (bias) v += f32_widen((const char *)bias + (size_t)(n + j) * dtype_bytes(act), act);
                    f32_narrow((char *)y + ((size_t)(t + i) * N + n + j) * yb, v, yt);
                }
        }
    }
}

static void run(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w, const void *bias,
                int T) {
    struct cpu *s = cpu_of(e);
    enum dtype act = e->options.dtype;
    size_t K = (size_t)w->cols, N = (size_t)w->rows, stride = ROW_FLOATS(K);
    for (int t0 = 0; t0 < T; t0 += X_ROWS) {
        int n_t = T - t0 < X_ROWS ? T - t0 : X_ROWS;
#pragma omp parallel for num_threads(threads_if(e, (int64_t)n_t * K)) schedule(static)
        for (int t = 0; t < n_t; t++) {
            row_widen(s->x + t * stride, (const char *)x + (t0 + t) * K * dtype_bytes(act), K, act);
            memset(s->x + t * stride + K, 0, (stride - K) * sizeof(float));
        }
        void *yt0 = (char *)y + t0 * N * dtype_bytes(yt);
        int n_blocks = (int)((N + 15) / 16);
#pragma omp parallel for num_threads(threads_if(e, (int64_t)(N * K))) schedule(static)
        for (int i = 0; i < n_blocks; i++) {
            int n0 = i * 16, n1 = n0 + 16 < (int)N ? n0 + 16 : (int)N;
            if (w->dtype == DTYPE_BF16) rows(yt0, yt, N, s->x, stride, n_t, w, DTYPE_BF16, bias, act, n0, n1);
            else if (w->dtype == DTYPE_F16) rows(yt0, yt, N, s->x, stride, n_t, w, DTYPE_F16, bias, act, n0, n1);
            else rows(yt0, yt, N, s->x, stride, n_t, w, DTYPE_F32, bias, act, n0, n1);
        }
    }
}

void CPU(linear)(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T) {
    run(e, y, e->options.dtype, x, w, bias, T);
}

void CPU(linear_f32)(struct exec *e, float *y, const void *x, const struct matrix *w, int T) {
    run(e, y, DTYPE_F32, x, w, NULL, T);
}
