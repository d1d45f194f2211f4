/* rope.cu - what happens to q, k and v between their projection and attention, in one pass.
 *
 *     q = rope(norm(q)), k = rope(norm(k)) or rope(k - k_bias) per head of D; k and v go to their KV block
 *     rope: (a, b) = halves of the head; a' = a cos - b sin, b' = b cos + a sin     (half-rotation layout)
 * qkv [T, (H+2K) D], q [T, H D]. norm is that of norm.cu, its result rounded to the activation format; the rotation is
 * fp32 with one rounding at the end, products and sums apart as on the CPU. fp8 KV: scale = absmax / 448 per token and
 * head, x / scale rounded to e4m3; x = scale * e4m3.
 *
 * A head is a group of G lanes, each with four pairs (i, i + D/2): the fast instances have D = 8 G and pairs 4 lane ..
 * 4 lane + 3; the general one has a whole warp per head and pairs lane, lane + 32, ... (D <= 256). A group takes one
 * token and `per_group` of its H + 2K heads: one while tokens are few, so that all heads are under way at once; SOME
 * when there are many, so that position, block and angles are looked up once for several heads and enough loads are in
 * flight.
 *
 * The norm's sum of squares is fp32: a lane's own in turn, then a tree over the group; the order depends on D alone.
 * Bytes: (H+2K) D elements a token read, as many written, and the angles. */
#include "kernels/cuda/rows.cuh"

enum { THREADS = 128, SOME = 4, N_PAIRS = 4 };

struct rope_args {
    void *q;
    const void *qkv, *q_norm, *k_norm, *k_bias;
    struct kv_cache kv;
    const float *cos_sin;
    const int32_t *positions, *seq_of, *block_table;
    int layer, T, H, max_blocks, per_group;
    float eps;
};

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

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

template <typename A, int G, bool ADJACENT>
__global__ static void __launch_bounds__(THREADS) norm_rope_store(const __grid_constant__ struct rope_args o) {
    pdl_trigger();
    const struct kv_layout &kv = o.kv.layout;
    const int D = ADJACENT ? 8 * G : kv.D, H = o.H, K = kv.K, n_heads = H + 2 * K;
    const int n_parts = (n_heads + o.per_group - 1) / o.per_group;
    const int group = (int)(blockIdx.x * (THREADS / G) + threadIdx.x / G), t = group / n_parts;
    const int first = (group - t * n_parts) * o.per_group;
    struct pairs q_norm, k_norm;
    if (o.q_norm) q_norm = load_pairs<A, G, ADJACENT>((const A *)o.q_norm, D);
    if (o.k_norm) k_norm = load_pairs<A, G, ADJACENT>((const A *)o.k_norm, D);
    pdl_wait();
    if (t >= o.T) return;
    const int n = n_heads - first < o.per_group ? n_heads - first : o.per_group;
    const A *in = (const A *)o.qkv + ((size_t)t * n_heads + first) * D;
    struct pairs x[SOME];
#pragma unroll
    for (int j = 0; j < SOME; j++)
        if (j < n) x[j] = load_pairs<A, G, ADJACENT>(in + (size_t)j * D, D);
    const int p = o.positions[t], slot = p % kv.P;
    char *block = NULL;
    if (first + n > H)
        block = kv_block(o.kv, o.layer, o.block_table[(size_t)o.seq_of[t] * o.max_blocks + p / kv.P]);
    struct pairs angle;
    if (first < H + K) angle = load_pairs<float, G, ADJACENT>(o.cos_sin + (size_t)p * D, D);
#pragma unroll
    for (int j = 0; j < SOME; j++) {
        const int h = first + j;
        if (j >= n) break;
        if (h < H) {
            if (o.q_norm) norm_pairs<A, G>(&x[j], q_norm, D, o.eps);
            rotate_pairs(&x[j], angle);
            store_pairs<A, G, ADJACENT>((A *)o.q + ((size_t)t * H + h) * D, x[j], D);
        } else if (h < H + K) {
            const int k = h - H;
            if (o.k_norm) norm_pairs<A, G>(&x[j], k_norm, D, o.eps);
            if (o.k_bias) {
                const struct pairs b = load_pairs<A, G, ADJACENT>((const A *)o.k_bias + (size_t)k * D, D);
#pragma unroll
                for (int i = 0; i < N_PAIRS; i++) x[j].a[i] -= b.a[i], x[j].b[i] -= b.b[i];
            }
            rotate_pairs(&x[j], angle);
            store_kv<A, G, ADJACENT>(block, kv, 0, k, slot, x[j]);
        } else {
            store_kv<A, G, ADJACENT>(block, kv, 1, h - H - K, slot, x[j]);
        }
    }
}

template <typename A, int G, bool ADJACENT> static void launch(struct exec *e, struct rope_args *o) {
    const int n_heads = o->H + 2 * o->kv.layout.K;
    o->per_group = (size_t)o->T * n_heads * G <= (size_t)cuda_of(e)->n_sms * 1024 ? 1 : SOME;
    const int n_groups = o->T * div_up(n_heads, o->per_group);
    cuda_launch(e, (norm_rope_store<A, G, ADJACENT>), div_up(n_groups, THREADS / G), THREADS, 0, *o);
}

/* D = 8 G has an instance of its own where it is common. */
template <typename A> static void launch_16_bit(struct exec *e, struct rope_args *o) {
    const int D = o->kv.layout.D;
    if (D == 64) launch<A, 8, true>(e, o);
    else if (D == 128) launch<A, 16, true>(e, o);
    else launch<A, 32, false>(e, o);
}

void cuda__qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                              const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                              const struct batch *batch, int H, float eps) {
    CHECK_LE(kv->layout.D, 256);
    struct rope_args o = {};
    o.q = q, o.qkv = qkv, o.q_norm = q_norm, o.k_norm = k_norm, o.k_bias = k_bias, o.kv = *kv,
    o.cos_sin = rope->cos_sin;
    o.positions = batch->positions, o.seq_of = batch->seq_of, o.block_table = batch->block_table;
    o.layer = layer, o.T = batch->T, o.H = H, o.max_blocks = batch->max_blocks, o.eps = eps;
    if (e->options.dtype == DTYPE_BF16) launch_16_bit<__nv_bfloat16>(e, &o);
    else if (e->options.dtype == DTYPE_F16) launch_16_bit<__half>(e, &o);
    else launch<float, 32, false>(e, &o);
}
