/* norm.cuh - RMSNorm as a part of other kernels: in norm.cu, and in the prologue of the linears for few tokens.
 *
 *     y = round(x * rsqrt(mean(x^2) + eps)) * w                                 x, y [T, C], w [C], bf16 or f16
 *
 * Order of the sum, whatever the block size, so that every user gets the same bits: lane i of 256 adds the squares of
 * elements 8 (i + 256 j) .. + 7 for j = 0, 1, .. in ascending order by multiply-add; each 32 lanes are folded by warp_sum,
 * and the eight results in ascending order. C % 8 == 0. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#ifdef __CUDACC__

enum { NORM_LANES = 256, NORM_WARPS = NORM_LANES / 32 };

/* sum plus the squares of eight elements. */
template <typename A> __device__ static inline float norm_squares(const uint4 x, float sum) {
    const A *a = (const A *)&x;
#pragma unroll
    for (int i = 0; i < 8; i++) sum = fmaf(to_float(a[i]), to_float(a[i]), sum);
    return sum;
}

/* The scale of a row from the sums of its eight warps of lanes. */
__device__ static inline float norm_scale(const float *sums, int C, float eps) {
    float sum = sums[0];
#pragma unroll
    for (int i = 1; i < NORM_WARPS; i++) sum += sums[i];
    return rsqrtf(sum / (float)C + eps);
}

/* Eight elements of y. */
template <typename A> __device__ static inline uint4 norm_apply(const uint4 x, const uint4 w, float scale) {
    uint4 y;
#pragma unroll
    for (int i = 0; i < 8; i++)
        ((A *)&y)[i] = to_act<A>(round_to<A>(to_float(((const A *)&x)[i]) * scale) * to_float(((const A *)&w)[i]));
    return y;
}

/* scales[t] = the scale of row t < T, computed by the whole block of N_THREADS. Shared memory: scales [T], sums [T, 8],
 * free for other use (sums), valid for all threads (scales) on return. Rows may be fresh from the kernel before:
 * after pdl_wait(). They are read through the L2. */
template <typename A, int N_THREADS>
__device__ static inline void norm_scales(float *scales, float *sums, const A *x, int T, int C, float eps) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int i = warp; i < T * NORM_WARPS; i += N_THREADS / 32) { /* a warp of lanes of one row */
        const A *row = x + (size_t)(i / NORM_WARPS) * C;
        float sum = 0;
#pragma unroll 4
        for (int c = 8 * (i % NORM_WARPS * 32 + lane); c < C; c += 8 * NORM_LANES)
            sum = norm_squares<A>(__ldcg((const uint4 *)(row + c)), sum);
        sum = warp_sum(sum);
        if (lane == 0) sums[i] = sum;
    }
    __syncthreads(); /* sums are written */
    for (int t = threadIdx.x; t < T; t += N_THREADS) scales[t] = norm_scale(sums + t * NORM_WARPS, C, eps);
    __syncthreads(); /* scales are written */
}

#endif
