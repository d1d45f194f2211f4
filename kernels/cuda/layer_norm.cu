/* layer_norm.cu - LayerNorm, with the residual add before it.
 *
 *     h = round(x + r) or x,  d = h - mean(h),  y = d / sqrt(mean(d^2) + eps) * w + b      x, r, y [T, C], w, b [C]
 *
 * One warp per row, which it holds in registers: lane i has pieces (16 bytes) i, i + 32, .... Rows that are no whole
 * pieces, or longer than MOST_PIECES a lane, are read three times, an element at a time.
 *
 * fp32 sums by lane in ascending order, then as the tree of warp_sum; the variance from the differences, so that a
 * large mean costs nothing. Reads C (with a residual 2C) and writes C elements a row. */
#include "kernels/cuda/rows.cuh"

enum { WARPS = 8, MOST_PIECES = 8 };

/* This warp's row; those past the last are of no use. */
__device__ static size_t my_row(void) { return (size_t)blockIdx.x * WARPS + threadIdx.x / 32; }

/* A row is n <= N * 32 pieces. out may be x or residual. */
template <typename A, int N>
__global__ static void __launch_bounds__(WARPS * 32)
    norm_pieces(piece<A> *out, const piece<A> *x, const piece<A> *residual, const piece<A> *weight,
                const piece<A> *bias, int T, int n, float eps) {
    enum { M = piece<A>::N };
    pdl_trigger();
    pdl_wait();
    const int lane = (int)threadIdx.x % 32;
    const size_t first = my_row() * n + lane;
    if (my_row() >= (size_t)T) return;
    float h[N][M], sum = 0, square = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (lane + j * 32 >= n) continue;
        piece<A> a, r;
        a.bits = x[first + j * 32].bits;
        if (residual) r.bits = residual[first + j * 32].bits;
#pragma unroll
        for (int k = 0; k < M; k++) {
            h[j][k] = residual ? round_to<A>(to_float(a.at[k]) + to_float(r.at[k])) : to_float(a.at[k]);
            sum += h[j][k];
        }
    }
    const float count = (float)(n * M), mean = warp_sum(sum) / count;
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (lane + j * 32 >= n) continue;
#pragma unroll
        for (int k = 0; k < M; k++) {
            h[j][k] -= mean;
            square = fmaf(h[j][k], h[j][k], square);
        }
    }
    const float scale = 1.0f / sqrtf(warp_sum(square) / count + eps);
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (lane + j * 32 >= n) continue;
        piece<A> w, b, y;
        w.bits = weight[lane + j * 32].bits;
        b.bits = bias[lane + j * 32].bits;
#pragma unroll
        for (int k = 0; k < M; k++) y.at[k] = to_act<A>(fmaf(h[j][k] * scale, to_float(w.at[k]), to_float(b.at[k])));
        out[first + j * 32].bits = y.bits;
    }
}

/* Any C. */
template <typename A>
__global__ static void __launch_bounds__(WARPS * 32)
    norm_elements(A *out, const A *x, const A *residual, const A *weight, const A *bias, int T, int C, float eps) {
    pdl_trigger();
    pdl_wait();
    const size_t first = my_row() * C;
    const int lane = (int)threadIdx.x % 32;
    if (my_row() >= (size_t)T) return;
    auto at = [&](int i) {
        const float a = to_float(x[first + i]);
        return residual ? round_to<A>(a + to_float(residual[first + i])) : a;
    };
    float sum = 0, square = 0;
    for (int i = lane; i < C; i += 32) sum += at(i);
    const float mean = warp_sum(sum) / (float)C;
    for (int i = lane; i < C; i += 32) square = fmaf(at(i) - mean, at(i) - mean, square);
    const float scale = 1.0f / sqrtf(warp_sum(square) / (float)C + eps);
    for (int i = lane; i < C; i += 32)
        out[first + i] = to_act<A>(fmaf((at(i) - mean) * scale, to_float(weight[i]), to_float(bias[i])));
}

/* The instance for n pieces a lane: registers for pieces that no row has would keep blocks away. */
template <typename A>
static void (*pieces_kernel(int n))(piece<A> *, const piece<A> *, const piece<A> *, const piece<A> *, const piece<A> *,
                                    int, int, float) {
    return n <= 2 ? norm_pieces<A, 2> : n == 3 ? norm_pieces<A, 3> : n == 4 ? norm_pieces<A, 4>
                                                                              : norm_pieces<A, MOST_PIECES>;
}

void cuda__layer_norm(struct exec *e, void *out, const void *x, const void *residual, const void *weight,
                      const void *bias, int T, int C, float eps) {
    const enum dtype act = e->options.dtype;
    const int n = (int)((size_t)C * dtype_bytes(act) / 16), grid = div_up(T, WARPS);
    const bool whole = in_pieces(C, act) && n <= MOST_PIECES * 32;
    WITH_ACT(act, if (whole) cuda_launch(e, pieces_kernel<A>(div_up(n, 32)), grid, WARPS * 32, 0, (piece<A> *)out,
                                         (const piece<A> *)x, (const piece<A> *)residual, (const piece<A> *)weight,
                                         (const piece<A> *)bias, T, n, eps);
             else cuda_launch(e, norm_elements<A>, grid, WARPS * 32, 0, (A *)out, (const A *)x, (const A *)residual,
                              (const A *)weight, (const A *)bias, T, C, eps));
}
