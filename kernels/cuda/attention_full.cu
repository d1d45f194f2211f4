/* attention_full.cu - attention of whole texts to themselves, by the tensor-core instructions of sm_80; and which
 * kernel attention_full runs on: on Hopper that of attention_prefill.cu where it can, here the rest of bf16 and f16
 * with D of 32 or 64, attention_simple for anything.
 *
 *     o[t, h] = softmax(q[t, h] K' / sqrt(D)) V over all tokens of t's text      o [T, H D], qkv [T, 3 H D]: q | k | v
 *
 * Flash attention (Dao, arXiv:2307.08691). A thread block has one head of ROWS consecutive tokens of one text, a warp
 * 16 of them. The block walks the text in tiles of KEYS positions from 0 on, the next one on its way to shared memory:
 *     S = Q K'                      [16, KEYS]  -inf beyond the text's end
 *     m' = max(m, max S), P = 2^(S - m'), l = l 2^(m - m') + sum P, O = O 2^(m - m') + P V
 * and stores O / l. S carries the factor log2(e) / sqrt(D); P is rounded to act. Positions beyond the end are read as
 * the last one there is: masked, and no other text's.
 *
 * Grid: tiles of the longest text times texts, and heads; blocks beyond a text's end return. Reads K and V of a text
 * once per tile of its rows, from the L2. fp32 sums; tiles lie at absolute positions, so a row depends on its text
 * alone. */
#include "kernels/cuda/warp.cuh"

enum { WARPS = 4, THREADS = WARPS * 32, ROWS = WARPS * 16, KEYS = 64, STAGES = 2 };

/* One operand's KEYS rows from position `first` on, by the whole block; `last` is the text's last position. */
template <typename A, int D>
__device__ static inline void copy_tile(uint32_t to, const A *from, size_t width, int first, int last) {
    enum { SEGMENTS = D / 8 }; /* of 16 bytes in a row */
#pragma unroll
    for (int i = threadIdx.x; i < KEYS * SEGMENTS; i += THREADS) {
        const int row = i / SEGMENTS, segment = i % SEGMENTS;
        copy_16(to + swizzled<D * 2>(row, segment), from + (size_t)min(first + row, last) * width + segment * 8);
    }
}

/* s [16, KEYS] = q [16, D] times a tile of K, transposed. */
template <typename A, int D>
__device__ static inline void multiply_keys(float (&s)[KEYS / 8][4], const uint32_t (&q)[D / 16][4], uint32_t keys) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
        for (int i = 0; i < 4; i++) s[n][i] = 0;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            uint32_t b[4];
            load_matrices(b, keys + swizzled<D * 2>(n * 8 + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
            mma<A>(s[n], q[k][0], q[k][1], q[k][2], q[k][3], b[0], b[1]);
            mma<A>(s[n + 1], q[k][0], q[k][1], q[k][2], q[k][3], b[2], b[3]);
        }
}

/* o [16, D] += p [16, KEYS] times a tile of V. */
template <typename A, int D>
__device__ static inline void multiply_values(float (&o)[D / 8][4], const float (&p)[KEYS / 8][4], uint32_t values) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t a[4];
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = pack(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1], A());
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t b[4];
            load_matrices_trans(b, values + swizzled<D * 2>(k * 16 + lane / 8 % 2 * 8 + lane % 8, n + lane / 16));
            mma<A>(o[n], a[0], a[1], a[2], a[3], b[0], b[1]);
            mma<A>(o[n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
        }
    }
}

/* Scores become powers of two; what the thread's two rows had so far is to be multiplied by keep. n_valid columns of
 * the tile exist. */
__device__ static inline void softmax(float (&s)[KEYS / 8][4], float (&max)[2], float (&sum)[2], float (&keep)[2],
                                      float scale, int n_valid) {
    const int column = threadIdx.x % 4 * 2;
    if (n_valid < KEYS)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 8 + column + i % 2 >= n_valid) s[n][i] = -INFINITY;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = s[0][2 * r];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) m = fmaxf(m, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
        m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2));
        m = fmaxf(max[r], m * scale);
        keep[r] = power_of_two(max[r] - m);
        max[r] = m;
        sum[r] *= keep[r];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                s[n][2 * r + c] = power_of_two(fmaf(s[n][2 * r + c], scale, -m));
                sum[r] += s[n][2 * r + c];
            }
    }
}

template <typename A, int D>
__global__ static void __launch_bounds__(THREADS)
    attend(A *out, const A *qkv, const int32_t *start, int tiles, int H, float scale) {
    __shared__ __align__(128) A keys[STAGES][KEYS * D], values[STAGES][KEYS * D];
    pdl_trigger();
    pdl_wait();
    const int b = blockIdx.x / tiles, h = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_token = start[b], length = start[b + 1] - first_token, first_row = blockIdx.x % tiles * ROWS;
    if (first_row >= length) return;
    const size_t width = 3 * (size_t)H * D;
    const A *text = qkv + (size_t)first_token * width + h * D, *k = text + H * D, *v = k + H * D;
    const int row = first_row + warp * 16 + lane / 4, n_tiles = (length + KEYS - 1) / KEYS;
    auto fetch = [&](int n) {
        if (n < n_tiles) {
            copy_tile<A, D>(shared_address(keys[n % STAGES]), k, width, n * KEYS, length - 1);
            copy_tile<A, D>(shared_address(values[n % STAGES]), v, width, n * KEYS, length - 1);
        }
        copies_commit();
    };
    fetch(0);
    uint32_t q[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const A *from = text + (size_t)min(row + j % 2 * 8, length - 1) * width + i * 16 + j / 2 * 8 + lane % 4 * 2;
            q[i][j] = *(const uint32_t *)from;
        }
    float o[D / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, keep[2];
    for (int n = 0; n < n_tiles; n++) {
        fetch(n + 1);
        copies_wait<1>();
        __syncthreads(); /* the tile has come, from all threads */
        float s[KEYS / 8][4];
        multiply_keys<A, D>(s, q, shared_address(keys[n % STAGES]));
        softmax(s, max, sum, keep, scale, length - n * KEYS);
#pragma unroll
        for (int i = 0; i < D / 8; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) o[i][j] *= keep[j / 2];
        multiply_values<A, D>(o, s, shared_address(values[n % STAGES]));
        __syncthreads(); /* it is used up, before the one after the next comes */
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
        sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
        if (row + 8 * r >= length) continue;
        A *to = out + ((size_t)(first_token + row + 8 * r) * H + h) * D + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            *(uint32_t *)(to + i * 8) = pack(o[i][2 * r] / sum[r], o[i][2 * r + 1] / sum[r], A());
    }
}

template <typename A, int D>
static void launch(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H) {
    const int tiles = div_up(texts->max_len, ROWS);
    cuda_launch(e, (attend<A, D>), dim3(tiles * texts->B, H), THREADS, 0, (A *)o, (const A *)qkv, texts->start, tiles,
                H, 1.44269504f / sqrtf((float)D));
}

void cuda__attention_full(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D) {
    const enum dtype act = e->options.dtype;
    if (cuda__attention_texts(e, o, qkv, texts, H, D)) return;
    if (act == DTYPE_BF16 && D == 64) launch<__nv_bfloat16, 64>(e, o, qkv, texts, H);
    else if (act == DTYPE_BF16 && D == 32) launch<__nv_bfloat16, 32>(e, o, qkv, texts, H);
    else if (act == DTYPE_F16 && D == 64) launch<__half, 64>(e, o, qkv, texts, H);
    else if (act == DTYPE_F16 && D == 32) launch<__half, 32>(e, o, qkv, texts, H);
    else cuda__attention_full_simple(e, o, qkv, texts, H, D);
}
