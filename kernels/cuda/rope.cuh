/* rope.cuh - what happens to one head of q, k or v between its projection and attention: norm, rotation, storing. Shared by
 * rope.cu, where this is a kernel, and attention_few.cu, where it is the beginning of attention. The mathematics, the
 * division among lanes and the order of sums are told in rope.cu. */
#pragma once

#include "kernels/cuda/rows.cuh"

enum { N_PAIRS = 4 };

#ifdef __CUDACC__

/* ---- pairs of a lane --------------------------------------------------------------------------------------------- */

/* a[j], b[j] are elements i and i + D/2 of a head, i = pair_of(j). */
struct pairs {
    float a[N_PAIRS], b[N_PAIRS];
};

template <int G, bool ADJACENT> __device__ static int pair_of(int j) {
    const int lane = (int)threadIdx.x % G;
    return ADJACENT ? N_PAIRS * lane + j : lane + G * j;
}

/* Two floats as one word of two A, and back. */
__device__ static float2 unpack(__nv_bfloat162 v) { return __bfloat1622float2(v); }
__device__ static float2 unpack(__half2 v) { return __half22float2(v); }
template <typename A> struct two_of;
template <> struct two_of<__nv_bfloat16> {
    typedef __nv_bfloat162 type;
    __device__ static type pack(float x, float y) { return __floats2bfloat162_rn(x, y); }
};
template <> struct two_of<__half> {
    typedef __half2 type;
    __device__ static type pack(float x, float y) { return __floats2half2_rn(x, y); }
};

/* Four neighbours at once; memory is aligned to them. */
template <typename A> __device__ static void load_four(float *x, const A *p) {
    typedef typename two_of<A>::type two;
    const uint2 v = *(const uint2 *)p;
    const float2 low = unpack(*(const two *)&v.x), high = unpack(*(const two *)&v.y);
    x[0] = low.x, x[1] = low.y, x[2] = high.x, x[3] = high.y;
}
template <> __device__ void load_four<float>(float *x, const float *p) {
    const float4 v = *(const float4 *)p;
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
template <typename A> __device__ static uint2 pack_four(const float *x) {
    typename two_of<A>::type low = two_of<A>::pack(x[0], x[1]), high = two_of<A>::pack(x[2], x[3]);
    return make_uint2(*(const uint32_t *)&low, *(const uint32_t *)&high);
}
template <typename A> __device__ static void round_four(float *x) {
    const uint2 v = pack_four<A>(x);
    load_four<A>(x, (const A *)&v);
}
template <> __device__ void round_four<float>(float *) {}
__device__ static uint32_t e4m3_four(const float *x) {
    const uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(x[0], x[1]), __NV_SATFINITE, __NV_E4M3);
    const uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(x[2], x[3]), __NV_SATFINITE, __NV_E4M3);
    return low | high << 16;
}

/* What a lane lacks is 0. */
template <typename E, int G, bool ADJACENT> __device__ static struct pairs load_pairs(const E *head, int D) {
    struct pairs x = {};
    if constexpr (ADJACENT) {
        const int i = pair_of<G, true>(0);
        load_four(x.a, head + i), load_four(x.b, head + D / 2 + i);
    } else {
#pragma unroll
        for (int j = 0; j < N_PAIRS; j++) {
            const int i = pair_of<G, false>(j);
            if (i < D / 2) x.a[j] = to_float(head[i]), x.b[j] = to_float(head[i + D / 2]);
        }
    }
    return x;
}

template <typename A, int G, bool ADJACENT> __device__ static void store_pairs(A *head, const struct pairs &x, int D) {
    if constexpr (ADJACENT) {
        const int i = pair_of<G, true>(0);
        *(uint2 *)(head + i) = pack_four<A>(x.a);
        *(uint2 *)(head + D / 2 + i) = pack_four<A>(x.b);
    } else {
#pragma unroll
        for (int j = 0; j < N_PAIRS; j++) {
            const int i = pair_of<G, false>(j);
            if (i < D / 2) head[i] = to_act<A>(x.a[j]), head[i + D / 2] = to_act<A>(x.b[j]);
        }
    }
}

/* ---- steps on one head ------------------------------------------------------------------------------------------- */

/* Groups of a warp may be at different steps: each shuffles among its own lanes. */
template <int G> __device__ static unsigned group_mask(void) {
    return (0xffffffffu >> (32 - G)) << (threadIdx.x % 32 / G * G);
}
template <int G> __device__ static float group_sum(float x) {
#pragma unroll
    for (int i = G / 2; i; i >>= 1) x += __shfl_xor_sync(group_mask<G>(), x, i);
    return x;
}
template <int G> __device__ static float group_max(float x) {
#pragma unroll
    for (int i = G / 2; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(group_mask<G>(), x, i));
    return x;
}

template <typename A, int G>
__device__ static void norm_pairs(struct pairs *x, const struct pairs &w, int D, float eps) {
    float s = 0;
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) s = fmaf(x->b[j], x->b[j], fmaf(x->a[j], x->a[j], s));
    const float scale = rsqrtf(group_sum<G>(s) / (float)D + eps);
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) x->a[j] *= scale, x->b[j] *= scale;
    round_four<A>(x->a), round_four<A>(x->b);
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) x->a[j] *= w.a[j], x->b[j] *= w.b[j];
    round_four<A>(x->a), round_four<A>(x->b);
}

/* r: cos in a, sin in b. */
__device__ static void rotate_pairs(struct pairs *x, const struct pairs &r) {
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) {
        const float a = x->a[j], b = x->b[j];
        x->a[j] = __fsub_rn(__fmul_rn(a, r.a[j]), __fmul_rn(b, r.b[j]));
        x->b[j] = __fadd_rn(__fmul_rn(b, r.a[j]), __fmul_rn(a, r.b[j]));
    }
}

/* One head of fp8 and its scale. */
template <int G, bool ADJACENT>
__device__ static void store_e4m3(uint8_t *head, float *scale_at, struct pairs x, int D) {
    float max = 0;
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) max = fmaxf(max, fmaxf(fabsf(x.a[j]), fabsf(x.b[j])));
    float scale = group_max<G>(max) / 448;
    if (!(scale > 0x1p-126f)) scale = 1; /* an all-zero head */
    if (threadIdx.x % G == 0) *scale_at = scale;
    const float inverse = 1.0f / scale;
#pragma unroll
    for (int j = 0; j < N_PAIRS; j++) x.a[j] *= inverse, x.b[j] *= inverse;
    if constexpr (ADJACENT) {
        const int i = pair_of<G, true>(0);
        *(uint32_t *)(head + i) = e4m3_four(x.a);
        *(uint32_t *)(head + D / 2 + i) = e4m3_four(x.b);
    } else {
#pragma unroll
        for (int j = 0; j < N_PAIRS; j++) {
            const int i = pair_of<G, false>(j);
            if (i >= D / 2) continue;
            head[i] = __nv_cvt_float_to_fp8(x.a[j], __NV_SATFINITE, __NV_E4M3);
            head[i + D / 2] = __nv_cvt_float_to_fp8(x.b[j], __NV_SATFINITE, __NV_E4M3);
        }
    }
}

/* KV head k of K (which 0) or V (which 1) into its slot of a layer of a block. */
template <typename A, int G, bool ADJACENT>
__device__ static void store_kv(char *block, const struct kv_layout &a, int which, int k, int slot,
                                const struct pairs &x) {
    const size_t row = ((size_t)which * a.K + k) * a.P + slot;
    if (a.dtype != DTYPE_F8_E4M3) {
        store_pairs<A, G, ADJACENT>((A *)block + row * a.D, x, a.D);
        return;
    }
    float *scales = (float *)(block + 2 * (size_t)a.K * a.P * a.D);
    store_e4m3<G, ADJACENT>((uint8_t *)block + row * a.D, scales + row, x, a.D);
}
#endif
