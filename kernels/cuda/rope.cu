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
#include "kernels/cuda/rope.cuh"

enum { THREADS = 128, SOME = 4 };

struct rope_args {
    void *q;
    const void *qkv, *q_norm, *k_norm, *k_bias;
    struct kv_cache kv;
    const float *cos_sin;
    const int32_t *positions, *seq_of, *block_table;
    int layer, T, H, max_blocks, per_group;
    float eps;
};


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
