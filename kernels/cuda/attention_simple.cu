/* attention_simple.cu - causal, ragged, grouped-query attention over the paged KV, and attention of whole texts to
 * themselves, for every format, D <= 256 and chip: what no fast kernel covers.
 *
 *     o[t, h] = sum over p <= positions[t] of softmax(s)[p] v[p],  s[p] = (q k[p] + c (cos p, sin p)) / sqrt(D)
 * The second term of s puts a k_bias back (kernels.h). o, q [T, H D] act. Of a text all p count, and its k and v lie in
 * the step's own rows [T, 3 H D]: blocks of one token.
 *
 * One warp takes one (token, head): q and c lie in shared memory. It walks over 32 positions at a time: lane i has the
 * whole score of position i, then the warp has the softmax's maximum and sum, then lane i has dims i, i + 32, ... of
 * the output over the 32 positions in turn.
 *
 * fp32 throughout. Order: 32 positions after 32 positions from 0 on, so it depends on the position alone. Bytes: all of
 * a sequence's K and V once per token and query head; the L1 and L2 soften it. */
#include "kernels/cuda/rows.cuh"

enum { WARPS = 4, MOST_D = 256 };

struct attention_args {
    void *o;
    const void *q, *k_bias;
    struct kv_cache kv;
    const float *cos_sin;
    const int32_t *positions, *seq_of, *block_table;
    const int32_t *start; /* texts: [B + 1], instead of positions and block_table */
    size_t q_width;       /* elements of a row of q */
    enum dtype act;
    int layer, H, max_blocks, first_token, n_tokens;
};

__device__ static float kv_float(float x) { return x; }
__device__ static float kv_float(__nv_bfloat16 x) { return to_float(x); }
__device__ static float kv_float(__half x) { return to_float(x); }
__device__ static float kv_float(__nv_fp8_e4m3 x) { return (float)x; }

template <typename E> __device__ static float dot(const float *q, const E *k, int D) {
    float s = 0;
    for (int d = 0; d < D; d++) s = fmaf(q[d], kv_float(k[d]), s);
    return s;
}

/* E: the format of the KV; with scales where it is e4m3. */
template <typename E>
__global__ static void __launch_bounds__(WARPS * 32) attend(const __grid_constant__ struct attention_args a) {
    __shared__ float queries[WARPS][MOST_D], biases[WARPS][MOST_D];
    pdl_trigger();
    pdl_wait();
    const struct kv_layout &kv = a.kv.layout;
    const int D = kv.D, P = kv.P, lane = (int)threadIdx.x % 32;
    const size_t item = (size_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (item >= (size_t)a.n_tokens * a.H) return;
    const int t = a.first_token + (int)(item / a.H), h = (int)(item % a.H), k_head = h / (a.H / kv.K);
    const size_t row = ((size_t)t * a.H + h) * D;
    float *q = queries[threadIdx.x / 32], *c = biases[threadIdx.x / 32];
    for (int d = lane; d < D; d += 32) q[d] = load_as(a.q, t * a.q_width + (size_t)h * D + d, a.act);
    __syncwarp(); /* q is whole */
    for (int i = lane; a.k_bias && i < D / 2; i += 32) {
        const float b = load_as(a.k_bias, (size_t)k_head * D + i, a.act);
        const float b2 = load_as(a.k_bias, (size_t)k_head * D + D / 2 + i, a.act);
        c[i] = q[i] * b + q[i + D / 2] * b2;
        c[i + D / 2] = q[i + D / 2] * b - q[i] * b2;
    }
    __syncwarp(); /* c is whole */

    const int b = a.seq_of[t], first_token = a.start ? a.start[b] : 0;
    const int n_seen = a.start ? a.start[b + 1] - first_token : a.positions[t] + 1;
    const int32_t *table = a.block_table + (size_t)b * a.max_blocks;
    const float scale = 1.0f / sqrtf((float)D);
    float max = -INFINITY, sum = 0, out[MOST_D / 32] = {};
    for (int first = 0; first < n_seen; first += 32) {
        const int p = first + lane, n = n_seen - first < 32 ? n_seen - first : 32;
        float s = -INFINITY, v_scale = 0;
        const E *v = NULL;
        if (lane < n) {
            const char *block = kv_block(a.kv, a.layer, a.start ? first_token + p : table[p / P]);
            const size_t k_row = (size_t)k_head * P + p % P, v_row = k_row + (size_t)kv.K * P;
            const float *scales = (const float *)(block + 2 * (size_t)kv.K * P * D);
            const bool scaled = sizeof(E) == 1;
            v = (const E *)block + v_row * D;
            v_scale = scaled ? scales[v_row] : 1;
            s = dot(q, (const E *)block + k_row * D, D) * (scaled ? scales[k_row] : 1);
            if (a.k_bias) s += dot(c, a.cos_sin + (size_t)p * D, D);
            s *= scale;
        }
        const float new_max = fmaxf(max, warp_max(s)), keep = expf(max - new_max),
                    weight = lane < n ? expf(s - new_max) : 0;
        sum = sum * keep + warp_sum(weight);
        max = new_max;
#pragma unroll
        for (int j = 0; j < MOST_D / 32; j++) out[j] *= keep;
        for (int i = 0; i < n; i++) {
            const float w = __shfl_sync(0xffffffffu, weight * v_scale, i);
            const E *v_i = (const E *)__shfl_sync(0xffffffffu, (unsigned long long)v, i);
#pragma unroll
            for (int j = 0; j < MOST_D / 32; j++)
                if (lane + 32 * j < D) out[j] = fmaf(w, kv_float(v_i[lane + 32 * j]), out[j]);
        }
    }
#pragma unroll
    for (int j = 0; j < MOST_D / 32; j++)
        if (lane + 32 * j < D) store_as(a.o, row + lane + 32 * j, out[j] / sum, a.act);
}

void cuda__attention_simple(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                            const void *k_bias, const struct rope *rope, const struct batch *batch, int H,
                            int first_token, int n_tokens) {
    CHECK_LE(kv->layout.D, MOST_D);
    if (!n_tokens) return;
    struct attention_args a = {};
    a.o = o, a.q = q, a.q_width = (size_t)H * kv->layout.D, a.k_bias = k_bias, a.kv = *kv, a.cos_sin = k_bias ? rope->cos_sin : NULL;
    a.positions = batch->positions, a.seq_of = batch->seq_of, a.block_table = batch->block_table;
    a.act = e->options.dtype, a.layer = layer, a.H = H, a.max_blocks = batch->max_blocks;
    a.first_token = first_token, a.n_tokens = n_tokens;
    const unsigned grid = (unsigned)(((size_t)n_tokens * H + WARPS - 1) / WARPS);
    if (kv->layout.dtype == DTYPE_F8_E4M3)
        cuda_launch(e, attend<__nv_fp8_e4m3>, grid, WARPS * 32, 0, a);
    else
        WITH_ACT(a.act, cuda_launch(e, attend<A>, grid, WARPS * 32, 0, a));
}

void cuda__attention_full_simple(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D) {
    CHECK_LE(D, MOST_D);
    struct attention_args a = {};
    a.act = e->options.dtype;
    const size_t element = dtype_bytes(a.act);
    a.o = o, a.q = qkv, a.q_width = 3 * (size_t)H * D;
    a.kv.pool = (char *)qkv + (size_t)H * D * element;
    a.kv.layout.dtype = a.act, a.kv.layout.K = H, a.kv.layout.D = D, a.kv.layout.P = 1;
    a.kv.layout.granule_bytes = a.q_width * element;
    a.seq_of = texts->seq_of, a.start = texts->start, a.H = H, a.n_tokens = texts->T;
    const unsigned grid = (unsigned)(((size_t)texts->T * H + WARPS - 1) / WARPS);
    WITH_ACT(a.act, cuda_launch(e, attend<A>, grid, WARPS * 32, 0, a));
}
