/* norm.cu - RMSNorm as a pass of its own; norm.cuh has it as a part of other kernels.
 *
 *     y = round(x * rsqrt(mean(x^2) + eps)) * w                 x, y [T, C], w [C]
 * round() is to the activation format: Hugging Face casts the normalised value before it multiplies.
 *
 * One block of 256 threads per row, which it holds in registers between the two passes: thread i has pieces (16 bytes)
 * i, i + 256, .... Rows that are no whole pieces, or longer than MOST_PIECES a thread, are read twice, an element at a
 * time.
 *
 * The sum of squares is fp32 in the order of norm.cuh, whatever T is. Reads 2C and writes C elements a row. */
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rows.cuh"

enum { MOST_PIECES = 4 };

/* The scale of the block's row from each thread's share of the squares; every thread gets it. Once per kernel. */
__device__ static float row_scale(float sum, int C, float eps) {
    __shared__ float sums[NORM_WARPS];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads(); /* sums are whole */
    return norm_scale(sums, C, eps);
}

template <typename A> __device__ static A norm_one(A x, float scale, A w) {
    return to_act<A>(round_to<A>(to_float(x) * scale) * to_float(w));
}

/* A row is n <= N * 256 pieces. out may be h. */
template <typename A, int N>
__global__ static void __launch_bounds__(NORM_LANES)
norm_pieces(piece<A> *out, const piece<A> *h, const piece<A> *weight, int n, float eps) {
    pdl_trigger();
    const int tid = (int)threadIdx.x;
    piece<A> w[N], x[N];
#pragma unroll
    for (int j = 0; j < N; j++)
        if (tid + j * NORM_LANES < n) w[j].bits = weight[tid + j * NORM_LANES].bits;
    pdl_wait();
    const size_t first = (size_t)blockIdx.x * n + tid;
#pragma unroll
    for (int j = 0; j < N; j++) {
        x[j].bits = make_uint4(0, 0, 0, 0);
        if (tid + j * NORM_LANES < n) x[j].bits = h[first + j * NORM_LANES].bits;
    }
    float sum = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (tid + j * NORM_LANES >= n) continue;
#pragma unroll
        for (int k = 0; k < piece<A>::N; k++) sum = fmaf(to_float(x[j].at[k]), to_float(x[j].at[k]), sum);
    }
    const float scale = row_scale(sum, n * piece<A>::N, eps);
#pragma unroll
    for (int j = 0; j < N; j++) {
        if (tid + j * NORM_LANES >= n) continue;
#pragma unroll
        for (int k = 0; k < piece<A>::N; k++) x[j].at[k] = norm_one(x[j].at[k], scale, w[j].at[k]);
        out[first + j * NORM_LANES].bits = x[j].bits;
    }
}

/* Any C. */
template <typename A>
__global__ static void __launch_bounds__(NORM_LANES)
norm_elements(A *out, const A *h, const A *weight, int C, float eps) {
    pdl_trigger();
    pdl_wait();
    h += (size_t)blockIdx.x * C;
    out += (size_t)blockIdx.x * C;
    float sum = 0;
    for (int first = 8 * (int)threadIdx.x; first < C; first += 8 * NORM_LANES)
        for (int i = first; i < first + 8 && i < C; i++) sum = fmaf(to_float(h[i]), to_float(h[i]), sum);
    const float scale = row_scale(sum, C, eps); /* its barrier puts the first pass before the second */
    for (int i = (int)threadIdx.x; i < C; i += NORM_LANES) out[i] = norm_one(h[i], scale, weight[i]);
}

/* The instance for n pieces a thread: registers for pieces that no row has would keep blocks away. */
template <typename A>
static void (*pieces_kernel(int n))(piece<A> *, const piece<A> *, const piece<A> *, int, float) {
    return n <= 1 ? norm_pieces<A, 1> : n == 2 ? norm_pieces<A, 2> : n == 3 ? norm_pieces<A, 3> : norm_pieces<A, 4>;
}

void cuda__rms_norm(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps) {
    const enum dtype act = e->options.dtype;
    const int n = (int)((size_t)C * dtype_bytes(act) / 16);
    const bool whole = in_pieces(C, act) && n <= MOST_PIECES * NORM_LANES;
    WITH_ACT(act, if (whole) cuda_launch(e, pieces_kernel<A>(div_up(n, NORM_LANES)), T, NORM_LANES, 0, (piece<A> *)out,
                                         (const piece<A> *)h, (const piece<A> *)weight, n, eps);
             else cuda_launch(e, norm_elements<A>, T, NORM_LANES, 0, (A *)out, (const A *)h, (const A *)weight, C,
                              eps));
}
