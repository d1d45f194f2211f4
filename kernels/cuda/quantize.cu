/* quantize.cu - what a search for 4-bit weights is made of: rounding a matrix, the best limits, and sums over activations.
 *
 *     awq_round        out = ((q - zero) * scale) / s             w, out [rows, K]; the rule of q is kernels.h's
 *     awq_quantize     q, zero, scale in AutoAWQ's order          [K, rows / 8], [K / 128, rows / 8], [K / 128, rows]
 *     awq_clip         limit = argmin d' gram d                   [rows, K / 128]
 *     gram_add         gram += x' x, group by group               x [T, C], gram [C / 128, 128, 128]
 *     column_abs_add   sums += sum over t of |x|                  sums [C]
 *     row_distance_add sums += |a - b|^2                          sums [T]
 *
 * Rounding: one warp has a row's group, 4 weights a lane (awq_quantize: the same group of 8 rows in turn, which share
 * words). awq_clip: a block of 128 threads has a group of 8 rows in turn, a thread one input, gram through the caches.
 * gram_add: a block of 256 threads makes 64 x 64 of a group's gram, a thread 4 x 4, 16 tokens at a time in shared memory.
 * Columns: one thread each. Distances: one warp a row. All in fp32, each sum in one order that depends on the shape alone;
 * rounding has none, and rounds as the CPU does: products and divisions stand alone, nothing is fused into them.
 *
 * Nothing here calls pdl_trigger: what is written may be weights, which whoever comes next reads without waiting. */
#include "kernels/cuda/rows.cuh"

enum {
    GROUP = AWQ_GROUP, LANE_WEIGHTS = GROUP / 32,
    ROUND_WARPS = 4,
    WORD_ROWS = 8, /* of a word of qweight */
    GRAM_TILE = 64, GRAM_TOKENS = 16, GRAM_THREADS = 256,
    SUM_THREADS = 128,
};
static_assert(GRAM_TILE * GRAM_TILE == 16 * GRAM_THREADS, "a thread has 4 x 4 of a tile");
static_assert(GROUP == SUM_THREADS, "awq_clip: a thread has one input");

/* ---- one group --------------------------------------------------------------------------------------------------- */

struct code { /* what a group's inputs share */
    float scale, zero;
};

__device__ static float keep(float v, float lo, float hi) { return v < lo ? lo : v > hi ? hi : v; }

__device__ static struct code code_of(float lo, float hi) {
    struct code code;
    code.scale = round_to<__half>(__fdiv_rn(fmaxf(__fsub_rn(hi, lo), 1e-5f), 15.0f));
    code.zero = fminf(rintf(__fdiv_rn(-lo, code.scale)), 15.0f);
    return code;
}

__device__ static float encode(float v, struct code code) {
    return keep(__fadd_rn(rintf(__fdiv_rn(v, code.scale)), code.zero), 0, 15);
}
__device__ static float decode(float q, struct code code) { return __fmul_rn(__fsub_rn(q, code.zero), code.scale); }

/* q of this lane's weights lane + 32 i of a row's group, and the group's code; first: the group's first weight. */
template <typename A>
__device__ static struct code encode_group(float q[LANE_WEIGHTS], const A *w, const float *s, size_t first, int k0,
                                           float limit) {
    const int lane = threadIdx.x % 32;
    float v[LANE_WEIGHTS], low = 0, high = 0;
#pragma unroll
    for (int i = 0; i < LANE_WEIGHTS; i++) {
        const int k = lane + 32 * i;
        v[i] = to_float(w[first + k]);
        if (s) v[i] = __fmul_rn(v[i], s[k0 + k]);
        v[i] = keep(v[i], -limit, limit);
        low = fmaxf(low, -v[i]);
        high = fmaxf(high, v[i]);
    }
    const struct code code = code_of(-warp_max(low), warp_max(high));
#pragma unroll
    for (int i = 0; i < LANE_WEIGHTS; i++) q[i] = encode(v[i], code);
    return code;
}

/* ---- a matrix ---------------------------------------------------------------------------------------------------- */

template <typename A>
__global__ static void round_groups(A *out, const A *w, const float *s, const float *limit, size_t n, int n_groups) {
    pdl_wait();
    const size_t unit = (size_t)blockIdx.x * ROUND_WARPS + threadIdx.x / 32; /* row * n_groups + group */
    if (unit >= n) return;
    const int lane = threadIdx.x % 32, k0 = (int)(unit % n_groups) * GROUP;
    float q[LANE_WEIGHTS];
    const struct code code = encode_group(q, w, s, unit * GROUP, k0, limit ? limit[unit] : INFINITY);
#pragma unroll
    for (int i = 0; i < LANE_WEIGHTS; i++) {
        const int k = lane + 32 * i;
        const float v = decode(q[i], code);
        out[unit * GROUP + k] = to_act<A>(s ? __fdiv_rn(v, s[k0 + k]) : v);
    }
}

void cuda__awq_round(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule) {
    const int n_groups = w->cols / GROUP;
    const size_t n = (size_t)w->rows * n_groups;
    WITH_ACT(w->dtype, cuda_launch(e, round_groups<A>, (unsigned)((n + ROUND_WARPS - 1) / ROUND_WARPS),
                                   32 * ROUND_WARPS, 0, (A *)out, (const A *)w->data, rule->s, rule->limit, n,
                                   n_groups));
}

/* The bit where row `row` of eight begins in AutoAWQ's word. */
__device__ static int word_shift(int row) { return 4 * (row / 2 + row % 2 * 4); }

/* Warp u: the words of rows 8 (u / n_groups) .. in group u % n_groups. */
template <typename A>
__global__ static void quantize_words(uint32_t *qweight, uint32_t *qzeros, __half *scales, const A *w, const float *s,
                                      const float *limit, const float *divisor, int n_rows, int n_groups) {
    pdl_wait();
    const size_t unit = (size_t)blockIdx.x * ROUND_WARPS + threadIdx.x / 32, n_words = n_rows / WORD_ROWS;
    if (unit >= n_words * n_groups) return;
    const size_t word = unit / n_groups, g = unit % n_groups;
    const int lane = threadIdx.x % 32, k0 = (int)g * GROUP;
    uint32_t words[LANE_WEIGHTS] = {0}, zeros = 0;
    for (int r = 0; r < WORD_ROWS; r++) {
        const size_t row = word * WORD_ROWS + r, entry = row * n_groups + g;
        float q[LANE_WEIGHTS];
        const struct code code = encode_group(q, w, s, entry * GROUP, k0, limit ? limit[entry] : INFINITY);
#pragma unroll
        for (int i = 0; i < LANE_WEIGHTS; i++) words[i] |= (uint32_t)q[i] << word_shift(r);
        zeros |= (uint32_t)code.zero << word_shift(r);
        if (lane == 0)
            scales[g * n_rows + row] = to_act<__half>(divisor ? __fdiv_rn(code.scale, divisor[row]) : code.scale);
    }
#pragma unroll
    for (int i = 0; i < LANE_WEIGHTS; i++) qweight[(k0 + lane + 32 * i) * n_words + word] = words[i];
    if (lane == 0) qzeros[g * n_words + word] = zeros;
}

void cuda__awq_quantize(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                        const struct awq_rule *rule, const float *divisor) {
    const int n_groups = w->cols / GROUP;
    const size_t n = (size_t)(w->rows / WORD_ROWS) * n_groups;
    WITH_ACT(w->dtype,
             cuda_launch(e, quantize_words<A>, (unsigned)((n + ROUND_WARPS - 1) / ROUND_WARPS), 32 * ROUND_WARPS, 0,
                         (uint32_t *)qweight, (uint32_t *)qzeros, (__half *)scales, (const A *)w->data, rule->s,
                         rule->limit, divisor, w->rows, n_groups));
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* The maximum over the block; every thread gets it. `shared` [4] is free again after the next barrier. */
__device__ static float block_max(float x, float *shared) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads(); /* shared is written */
    x = fmaxf(fmaxf(shared[0], shared[1]), fmaxf(shared[2], shared[3]));
    __syncthreads(); /* and read: the caller may fill it again */
    return x;
}

__device__ static float limit_of(float largest, int i) { return __fmul_rn(largest, 1 - (float)i / 20); }

/* Block (x, y): rows 8 x .. of group y. */
template <typename A>
__global__ static void __launch_bounds__(GROUP)
    clip(float *limit, const float *gram, const A *w, const float *s, int n_groups) {
    __shared__ float d[AWQ_CLIPS][GROUP], warps[4], errors[4][AWQ_CLIPS];
    pdl_wait();
    const int k = threadIdx.x;
    const size_t g = blockIdx.y;
    gram += g * GROUP * GROUP;
    for (int r = 0; r < WORD_ROWS; r++) {
        const size_t entry = ((size_t)blockIdx.x * WORD_ROWS + r) * n_groups + g;
        float v = to_float(w[entry * GROUP + k]), sk = s ? s[g * GROUP + k] : 1;
        if (s) v = __fmul_rn(v, sk);
        const float hi = block_max(fmaxf(v, 0), warps), lo = -block_max(fmaxf(-v, 0), warps);
        const float largest = fmaxf(-lo, hi);
#pragma unroll 1
        for (int i = 0; i < AWQ_CLIPS; i++) {
            const float most = limit_of(largest, i);
            const struct code code = code_of(fmaxf(lo, -most), fminf(hi, most));
            const float error = decode(encode(keep(v, -most, most), code), code) - v;
            d[i][k] = s ? error / sk : error;
        }
        __syncthreads(); /* d is written */
        float y[AWQ_CLIPS] = {0};
#pragma unroll 4 /* by itself the compiler unrolls until registers spill */
        for (int j = 0; j < GROUP; j++) {
            const float x = gram[j * GROUP + k]; /* symmetric: row k, too */
#pragma unroll
            for (int i = 0; i < AWQ_CLIPS; i++) y[i] += x * d[i][j];
        }
#pragma unroll
        for (int i = 0; i < AWQ_CLIPS; i++) {
            const float sum = warp_sum(y[i] * d[i][k]);
            if (k % 32 == 0) errors[k / 32][i] = sum;
        }
        __syncthreads(); /* errors are written, and d is read: the next row may fill it */
        if (k == 0) {
            int best = 0;
            float least = INFINITY;
            for (int i = 0; i < AWQ_CLIPS; i++) {
                const float sum = (errors[0][i] + errors[1][i]) + (errors[2][i] + errors[3][i]);
                if (sum < least) best = i, least = sum;
            }
            limit[entry] = limit_of(largest, best);
        }
    }
}

void cuda__awq_clip(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s) {
    const dim3 grid(w->rows / WORD_ROWS, w->cols / GROUP);
    WITH_ACT(w->dtype,
             cuda_launch(e, clip<A>, grid, GROUP, 0, limit, gram, (const A *)w->data, s, w->cols / GROUP));
}

/* ---- sums over activations --------------------------------------------------------------------------------------- */

/* Block (x, y): tile x % 2, x / 2 of group y. */
template <typename A>
__global__ static void __launch_bounds__(GRAM_THREADS) gram_tiles(float *gram, const A *x, int T, int C) {
    __shared__ float rows[GRAM_TOKENS][GRAM_TILE], columns[GRAM_TOKENS][GRAM_TILE];
    pdl_wait();
    const int i0 = blockIdx.x / 2 * GRAM_TILE, j0 = blockIdx.x % 2 * GRAM_TILE;
    const int my_i = threadIdx.x / 16 * 4, my_j = threadIdx.x % 16 * 4;
    float sum[4][4] = {{0}};
    x += (size_t)blockIdx.y * GROUP;
    for (int t0 = 0; t0 < T; t0 += GRAM_TOKENS) {
        for (int u = threadIdx.x; u < GRAM_TOKENS * GRAM_TILE; u += GRAM_THREADS) {
            const int t = u / GRAM_TILE, c = u % GRAM_TILE;
            const A *row = x + (size_t)(t0 + t) * C;
            rows[t][c] = t0 + t < T ? to_float(row[i0 + c]) : 0;
            columns[t][c] = t0 + t < T ? to_float(row[j0 + c]) : 0;
        }
        __syncthreads(); /* the tokens are there */
#pragma unroll
        for (int t = 0; t < GRAM_TOKENS; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += rows[t][my_i + i] * columns[t][my_j + j];
        __syncthreads(); /* and read: the next may come */
    }
    gram += ((size_t)blockIdx.y * GROUP + i0 + my_i) * GROUP + j0 + my_j;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) gram[i * GROUP + j] += sum[i][j];
}

void cuda__gram_add(struct exec *e, float *gram, const void *x, int T, int C) {
    const dim3 grid(GROUP / GRAM_TILE * (GROUP / GRAM_TILE), C / GROUP);
    WITH_ACT(e->options.dtype, cuda_launch(e, gram_tiles<A>, grid, GRAM_THREADS, 0, gram, (const A *)x, T, C));
}

template <typename A> __global__ static void column_sums(float *sums, const A *x, int T, int C) {
    pdl_wait();
    const int c = blockIdx.x * SUM_THREADS + threadIdx.x;
    if (c >= C) return;
    float sum = 0;
#pragma unroll 8
    for (int t = 0; t < T; t++) sum += fabsf(to_float(x[(size_t)t * C + c]));
    sums[c] += sum;
}

void cuda__column_abs_add(struct exec *e, float *sums, const void *x, int T, int C) {
    WITH_ACT(e->options.dtype, cuda_launch(e, column_sums<A>, div_up(C, SUM_THREADS), SUM_THREADS, 0, sums,
                                           (const A *)x, T, C));
}

template <typename A> __global__ static void row_distances(float *sums, const A *a, const A *b, int T, int C) {
    pdl_wait();
    const int t = blockIdx.x * (SUM_THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (t >= T) return;
    const size_t first = (size_t)t * C;
    float sum = 0;
    for (int c = lane; c < C; c += 32) {
        const float d = to_float(a[first + c]) - (b ? to_float(b[first + c]) : 0);
        sum += d * d;
    }
    sum = warp_sum(sum);
    if (lane == 0) sums[t] += sum;
}

void cuda__row_distance_add(struct exec *e, float *sums, const void *a, const void *b, int T, int C) {
    WITH_ACT(e->options.dtype, cuda_launch(e, row_distances<A>, div_up(T, SUM_THREADS / 32), SUM_THREADS, 0, sums,
                                           (const A *)a, (const A *)b, T, C));
}
