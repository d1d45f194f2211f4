/* rope.cu - what happens to q, k and v between their projection and attention, in one pass.
 *
 *     q = rope(norm(q)), k = rope(norm(k)) or rope(k - k_bias) per head of D; k and v go to their KV block
 *     rope: (a, b) = halves of the head; a' = a cos - b sin, b' = b cos + a sin     (half-rotation layout)
 * qkv [T, (H+2K) D], q [T, H D]. norm is that of norm.cu, its result rounded to the activation format; the rotation is
 * fp32 with one rounding at the end, products and sums apart as on the CPU. fp8 KV: scale = absmax / 448 per token and
 * head, x / scale rounded to e4m3; x = scale * e4m3.
 *
 * A warp takes one token and `per_warp` of its H + 2K heads: one while tokens are few, so that all heads are under way
 * at once; SOME when there are many, so that position, block and angles are looked up once for several heads and enough
 * loads are in flight. A lane has pairs (i, i + D/2) of a head: the fast instance pairs 2 lane, 2 lane + 1 (up to D 128),
 * the other one pairs lane, lane + 32, ... (up to D 256).
 *
 * The norm's sum of squares is fp32: a lane's own in turn, then a tree over the warp; the order depends on D alone. Bytes:
 * (H+2K) D elements a token read, as many written, and the angles. */
#include "kernels/cuda/rows.cuh"

enum { WARPS = 4, SOME = 4 };

struct rope_args {
    void *q;
    const void *qkv, *q_norm, *k_norm, *k_bias;
    struct kv_cache kv;
    const float *cos_sin;
    const int32_t *positions, *seq_of, *block_table;
    int layer, T, H, max_blocks, per_warp;
    float eps;
};

/* ---- pairs of a lane ---------------------------------------------------------------------------------------------------- */

/* N_PAIRS of a head: a[j], b[j] are elements i and i + D/2, i = pair_of(j). */
template <int N_PAIRS> struct pairs {
    float a[N_PAIRS], b[N_PAIRS];
};

template <bool ADJACENT> __device__ static int pair_of(int j) {
    const int lane = (int)threadIdx.x % 32;
    return ADJACENT ? 2 * lane + j : lane + 32 * j;
}

/* Two neighbours at once; memory is aligned to them. */
__device__ static void load_two(float *x, const float *p) {
    const float2 v = *(const float2 *)p;
    x[0] = v.x, x[1] = v.y;
}
__device__ static void load_two(float *x, const __nv_bfloat16 *p) {
    const float2 v = __bfloat1622float2(*(const __nv_bfloat162 *)p);
    x[0] = v.x, x[1] = v.y;
}
__device__ static void load_two(float *x, const __half *p) {
    const float2 v = __half22float2(*(const __half2 *)p);
    x[0] = v.x, x[1] = v.y;
}
__device__ static void store_two(float *p, const float *x) { *(float2 *)p = make_float2(x[0], x[1]); }
__device__ static void store_two(__nv_bfloat16 *p, const float *x) {
    *(__nv_bfloat162 *)p = __floats2bfloat162_rn(x[0], x[1]);
}
__device__ static void store_two(__half *p, const float *x) { *(__half2 *)p = __floats2half2_rn(x[0], x[1]); }

/* What a lane lacks stays 0. */
template <typename E, int N, bool ADJACENT> __device__ static struct pairs<N> load_pairs(const E *head, int D) {
    struct pairs<N> x = {};
    if constexpr (ADJACENT) {
        const int i = pair_of<true>(0);
        if (i < D / 2) load_two(x.a, head + i), load_two(x.b, head + D / 2 + i);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int i = pair_of<false>(j);
            if (i < D / 2) x.a[j] = to_float(head[i]), x.b[j] = to_float(head[i + D / 2]);
        }
    }
    return x;
}

template <typename E, int N, bool ADJACENT> __device__ static void store_pairs(E *head, const struct pairs<N> &x, int D) {
    if constexpr (ADJACENT) {
        const int i = pair_of<true>(0);
        if (i < D / 2) store_two(head + i, x.a), store_two(head + D / 2 + i, x.b);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int i = pair_of<false>(j);
            if (i < D / 2) head[i] = to_act<E>(x.a[j]), head[i + D / 2] = to_act<E>(x.b[j]);
        }
    }
}

/* ---- steps on one head ----------------------------------------------------------------------------------------------- */

template <typename A, int N>
__device__ static void norm_pairs(struct pairs<N> *x, const struct pairs<N> &w, int D, float eps) {
    float s = 0;
#pragma unroll
    for (int j = 0; j < N; j++) s = fmaf(x->b[j], x->b[j], fmaf(x->a[j], x->a[j], s));
    const float scale = rsqrtf(warp_sum(s) / (float)D + eps);
#pragma unroll
    for (int j = 0; j < N; j++) {
        x->a[j] = round_to<A>(round_to<A>(x->a[j] * scale) * w.a[j]);
        x->b[j] = round_to<A>(round_to<A>(x->b[j] * scale) * w.b[j]);
    }
}

/* r: cos in a, sin in b. */
template <int N> __device__ static void rotate_pairs(struct pairs<N> *x, const struct pairs<N> &r) {
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float a = x->a[j], b = x->b[j];
        x->a[j] = __fsub_rn(__fmul_rn(a, r.a[j]), __fmul_rn(b, r.b[j]));
        x->b[j] = __fadd_rn(__fmul_rn(b, r.a[j]), __fmul_rn(a, r.b[j]));
    }
}

/* One head of fp8 and its scale. */
template <int N, bool ADJACENT>
__device__ static void store_e4m3(uint8_t *head, float *scale_at, const struct pairs<N> &x, int D) {
    float max = 0;
#pragma unroll
    for (int j = 0; j < N; j++) max = fmaxf(max, fmaxf(fabsf(x.a[j]), fabsf(x.b[j])));
    float scale = __fdiv_rn(warp_max(max), 448);
    if (!(scale > 0x1p-126f)) scale = 1; /* an all-zero head */
    if (threadIdx.x % 32 == 0) *scale_at = scale;
    if constexpr (ADJACENT) {
        const int i = pair_of<true>(0);
        if (i >= D / 2) return;
        const float2 a = make_float2(__fdiv_rn(x.a[0], scale), __fdiv_rn(x.a[1], scale));
        const float2 b = make_float2(__fdiv_rn(x.b[0], scale), __fdiv_rn(x.b[1], scale));
        *(__nv_fp8x2_storage_t *)(head + i) = __nv_cvt_float2_to_fp8x2(a, __NV_SATFINITE, __NV_E4M3);
        *(__nv_fp8x2_storage_t *)(head + D / 2 + i) = __nv_cvt_float2_to_fp8x2(b, __NV_SATFINITE, __NV_E4M3);
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) {
            const int i = pair_of<false>(j);
            if (i >= D / 2) continue;
            head[i] = __nv_cvt_float_to_fp8(__fdiv_rn(x.a[j], scale), __NV_SATFINITE, __NV_E4M3);
            head[i + D / 2] = __nv_cvt_float_to_fp8(__fdiv_rn(x.b[j], scale), __NV_SATFINITE, __NV_E4M3);
        }
    }
}

/* KV head k of K (which 0) or V (which 1) into its slot of a layer of a block. */
template <typename A, int N, bool ADJACENT>
__device__ static void store_kv(char *block, const struct kv_layout &a, int which, int k, int slot, const struct pairs<N> &x) {
    const size_t row = ((size_t)which * a.K + k) * a.P + slot;
    if (a.dtype != DTYPE_F8_E4M3) {
        store_pairs<A, N, ADJACENT>((A *)block + row * a.D, x, a.D);
        return;
    }
    float *scales = (float *)(block + 2 * (size_t)a.K * a.P * a.D);
    store_e4m3<N, ADJACENT>((uint8_t *)block + row * a.D, scales + row, x, a.D);
}

/* ---- the kernel -------------------------------------------------------------------------------------------------------- */

template <typename A, int N, bool ADJACENT>
__global__ static void __launch_bounds__(WARPS * 32) norm_rope_store(const __grid_constant__ struct rope_args o) {
    typedef struct pairs<N> P;
    pdl_trigger();
    const struct kv_layout &kv = o.kv.layout;
    const int D = kv.D, H = o.H, K = kv.K, n_heads = H + 2 * K, n_parts = (n_heads + o.per_warp - 1) / o.per_warp;
    const int warp = (int)(blockIdx.x * WARPS + threadIdx.x / 32), t = warp / n_parts, first = (warp - t * n_parts) * o.per_warp;
    P q_norm, k_norm;
    if (o.q_norm) q_norm = load_pairs<A, N, ADJACENT>((const A *)o.q_norm, D);
    if (o.k_norm) k_norm = load_pairs<A, N, ADJACENT>((const A *)o.k_norm, D);
    pdl_wait();
    if (t >= o.T) return;
    const int n = n_heads - first < o.per_warp ? n_heads - first : o.per_warp;
    const A *in = (const A *)o.qkv + ((size_t)t * n_heads + first) * D;
    P x[SOME];
#pragma unroll
    for (int j = 0; j < SOME; j++)
        if (j < n) x[j] = load_pairs<A, N, ADJACENT>(in + (size_t)j * D, D);
    const int p = o.positions[t];
    char *block = NULL;
    if (first + n > H)
        block = kv_block(o.kv, o.layer, o.block_table[(size_t)o.seq_of[t] * o.max_blocks + p / kv.P]);
    P angle;
    if (first < H + K) angle = load_pairs<float, N, ADJACENT>(o.cos_sin + (size_t)p * D, D);
#pragma unroll
    for (int j = 0; j < SOME; j++) {
        const int h = first + j;
        if (j >= n) break;
        if (h < H) {
            if (o.q_norm) norm_pairs<A, N>(&x[j], q_norm, D, o.eps);
            rotate_pairs<N>(&x[j], angle);
            store_pairs<A, N, ADJACENT>((A *)o.q + ((size_t)t * H + h) * D, x[j], D);
        } else if (h < H + K) {
            const int k = h - H;
            if (o.k_norm) norm_pairs<A, N>(&x[j], k_norm, D, o.eps);
            if (o.k_bias) {
                const P b = load_pairs<A, N, ADJACENT>((const A *)o.k_bias + (size_t)k * D, D);
#pragma unroll
                for (int i = 0; i < N; i++) x[j].a[i] -= b.a[i], x[j].b[i] -= b.b[i];
            }
            rotate_pairs<N>(&x[j], angle);
            store_kv<A, N, ADJACENT>(block, kv, 0, k, p % kv.P, x[j]);
        } else {
            store_kv<A, N, ADJACENT>(block, kv, 1, h - H - K, p % kv.P, x[j]);
        }
    }
}

void cuda__qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                              const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                              const struct batch *batch, int H, float eps) {
    const int D = kv->layout.D, n_heads = H + 2 * kv->layout.K, T = batch->T;
    CHECK_LE(D, 256);
    struct rope_args o = {};
    o.q = q, o.qkv = qkv, o.q_norm = q_norm, o.k_norm = k_norm, o.k_bias = k_bias, o.kv = *kv, o.cos_sin = rope->cos_sin;
    o.positions = batch->positions, o.seq_of = batch->seq_of, o.block_table = batch->block_table;
    o.layer = layer, o.T = T, o.H = H, o.max_blocks = batch->max_blocks, o.eps = eps;
    o.per_warp = (size_t)T * n_heads <= (size_t)cuda_of(e)->n_sms * 64 ? 1 : SOME;
    const int grid = div_up(T * div_up(n_heads, o.per_warp), WARPS);
    const bool adjacent = D % 4 == 0 && D <= 128;
    WITH_ACT(e->options.dtype, cuda_launch(e, (adjacent ? norm_rope_store<A, 2, true> : norm_rope_store<A, 4, false>), grid,
                                           WARPS * 32, 0, o));
}
