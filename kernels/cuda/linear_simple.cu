/* linear_simple.cu - y = x W' with any epilogue, for every format and chip: what no fast kernel covers.
 *
 *     sum[t, n] = sum over k of x[t, k] w[n, k]                 x [T, cols] act, w [rows, cols]
 *
 * One block of 256 threads makes a TILE x TILE piece of y: grid (rows / TILE, T / TILE). It walks over k in steps of
 * DEPTH, which it holds in shared memory in fp32; thread (i, j) of 16 x 16 has tokens i, i + 16, ... and rows j, j +
 * 16, .... SILU_MUL: the tile's rows are TILE / 2 of gate, then the same of up, so that one thread has both.
 *
 * Order: fp32, within a step in turn, then step after step; it depends on cols alone. Bytes: x rows / TILE times, w
 * T / TILE times. Formats are told apart when the tile is loaded, once in TILE / 4 uses. */
#include "kernels/cuda/awq.cuh"
#include "kernels/cuda/rows.cuh"

enum { TILE = 64, DEPTH = 16, EACH = TILE / 16 };

struct simple_args {
    void *y;
    const void *x, *w, *bias;
    const uint16_t *scales; /* NULL: w is dense */
    const uint8_t *zeros;
    enum dtype act, w_dtype;
    enum epilogue epilogue;
    int T, rows, cols;
};

/* w[n, k], one nibble of a word (awq.cuh). */
__device__ static float awq_weight(const struct simple_args &o, int n, int k) {
    const size_t strip = n / AWQ_STRIP, tile = strip * (o.cols / AWQ_TILE_K) + k / AWQ_TILE_K;
    const int g = n % 8, high = n % AWQ_STRIP / 8, k16 = k % 16, lane = 4 * g + k16 % 8 / 2, pair = k16 / 8 * 2 + high;
    const uint32_t word = ((const uint32_t *)o.w)[(tile * 32 + lane) * 4 + k % AWQ_TILE_K / 16];
    const size_t entry = (strip * (o.cols / AWQ_GROUP) + k / AWQ_GROUP) * AWQ_STRIP + 2 * g + high;
    const int q = (int)(word >> (4 * pair + 16 * (k % 2)) & 15);
    return round_to<__half>((float)(q - o.zeros[entry]) * __half2float(__ushort_as_half(o.scales[entry])));
}

__device__ static float weight(const struct simple_args &o, int n, int k) {
    return o.scales ? awq_weight(o, n, k) : load_as(o.w, (size_t)n * o.cols + k, o.w_dtype);
}

/* The row of w that is row j of this block's tile, or a number past them. */
__device__ static int tile_row(const struct simple_args &o, int j) {
    if (o.epilogue != EPILOGUE_SILU_MUL) return (int)blockIdx.x * TILE + j;
    const int F = o.rows / 2, f = (int)blockIdx.x * (TILE / 2) + j % (TILE / 2);
    return f >= F ? o.rows : j < TILE / 2 ? f : F + f;
}

__device__ static void store(const struct simple_args &o, int t, int n, float sum) {
    if (n >= o.rows) return;
    const size_t i = (size_t)t * o.rows + n;
    if (o.epilogue == EPILOGUE_F32)
        ((float *)o.y)[i] = sum;
    else if (o.epilogue == EPILOGUE_ADD)
        store_as(o.y, i, load_as(o.y, i, o.act) + round_as(sum, o.act), o.act);
    else
        store_as(o.y, i, o.bias ? sum + load_as(o.bias, n, o.act) : sum, o.act);
}

__global__ static void __launch_bounds__(256) product(const __grid_constant__ struct simple_args o) {
    __shared__ float x[DEPTH][TILE + 1], w[DEPTH][TILE + 1]; /* + 1: a column is stored without bank conflicts */
    pdl_trigger();
    pdl_wait();
    const int tid = (int)threadIdx.x, i = tid / 16, j = tid % 16, t0 = (int)blockIdx.y * TILE;
    float sum[EACH][EACH] = {};
    for (int k0 = 0; k0 < o.cols; k0 += DEPTH) {
        for (int at = tid; at < TILE * DEPTH; at += 256) {
            const int r = at / DEPTH, k = at % DEPTH, n = tile_row(o, r);
            const bool in = k0 + k < o.cols;
            x[k][r] = in && t0 + r < o.T ? load_as(o.x, (size_t)(t0 + r) * o.cols + k0 + k, o.act) : 0;
            w[k][r] = in && n < o.rows ? weight(o, n, k0 + k) : 0;
        }
        __syncthreads(); /* the step is loaded */
        float step[EACH][EACH] = {};
        for (int k = 0; k < DEPTH; k++) {
#pragma unroll
            for (int a = 0; a < EACH; a++)
#pragma unroll
                for (int b = 0; b < EACH; b++) step[a][b] = fmaf(x[k][i + 16 * a], w[k][j + 16 * b], step[a][b]);
        }
        __syncthreads(); /* nobody reads it any more */
#pragma unroll
        for (int a = 0; a < EACH; a++)
#pragma unroll
            for (int b = 0; b < EACH; b++) sum[a][b] += step[a][b];
    }
#pragma unroll
    for (int a = 0; a < EACH; a++) {
        const int t = t0 + i + 16 * a;
        if (t >= o.T) continue;
#pragma unroll
        for (int b = 0; b < EACH; b++) {
            const int n = tile_row(o, j + 16 * b);
            if (o.epilogue != EPILOGUE_SILU_MUL) {
                store(o, t, n, sum[a][b]);
            } else if (b < EACH / 2 && n < o.rows) {
                const float gate = round_as(sum[a][b], o.act), up = round_as(sum[a][b + EACH / 2], o.act);
                store_as(o.y, (size_t)t * (o.rows / 2) + n, round_as(silu<float>(gate), o.act) * up, o.act);
            }
        }
    }
}

void cuda__linear_simple(struct exec *e, const struct linear_args *a) {
    const struct matrix *w = a->w;
    CHECK(!a->norm); /* linear.cu normalises in a pass of its own */
    struct simple_args o = {};
    o.y = a->y, o.x = a->x, o.w = w->data, o.bias = a->epilogue == EPILOGUE_STORE ? a->bias : NULL;
    if (w->format == MATRIX_AWQ) o.scales = (const uint16_t *)w->scales, o.zeros = (const uint8_t *)w->zeros;
    o.act = e->options.dtype, o.w_dtype = w->dtype, o.epilogue = a->epilogue;
    o.T = a->T, o.rows = w->rows, o.cols = w->cols;
    const int n = a->epilogue == EPILOGUE_SILU_MUL ? div_up(w->rows / 2, TILE / 2) : div_up(w->rows, TILE);
    cuda_launch(e, product, dim3((unsigned)n, (unsigned)div_up(a->T, TILE)), 256, 0, o);
}
