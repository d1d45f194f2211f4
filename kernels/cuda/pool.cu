/* pool.cu - one vector for each text.
 *
 *     CLS:   v = x[start[b]]
 *     mean:  v = (sum over the text's tokens of x[t]) / their number
 *     normalize: v = v / max(|v|, 1e-12)                        x [T, C], out [B, C] f32
 *
 * One block of THREADS per text; thread i has columns i, i + THREADS, .... Order: a column is summed over ascending t
 * in fp32; |v|^2 by thread over its columns, then as the tree of warp_sum, then over the warps in turn. Reads C
 * elements a token (CLS: a text), neighbours' side by side. */
#include "kernels/cuda/rows.cuh"

enum { THREADS = 256 };

template <typename A>
__global__ static void __launch_bounds__(THREADS)
    pool_rows(float *out, const A *x, const int32_t *start, int C, bool mean, bool normalize) {
    __shared__ float squares[THREADS / 32];
    pdl_trigger();
    pdl_wait();
    const int first = start[blockIdx.x], n = mean ? start[blockIdx.x + 1] - first : 1;
    const A *text = x + (size_t)first * C;
    float *v = out + (size_t)blockIdx.x * C, square = 0;
    for (int i = threadIdx.x; i < C; i += THREADS) {
        float sum = 0;
#pragma unroll 8
        for (int t = 0; t < n; t++) sum += to_float(text[(size_t)t * C + i]);
        sum /= (float)n;
        v[i] = sum;
        square = fmaf(sum, sum, square);
    }
    if (!normalize) return;
    square = warp_sum(square);
    if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32] = square;
    __syncthreads(); /* squares are whole */
    square = 0;
    for (int i = 0; i < THREADS / 32; i++) square += squares[i];
    const float divisor = fmaxf(sqrtf(square), 1e-12f);
    for (int i = threadIdx.x; i < C; i += THREADS) v[i] /= divisor; /* its own columns */
}

void cuda__pool_texts(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                      enum pooling pooling, bool normalize) {
    const bool mean = pooling == POOLING_MEAN;
    WITH_ACT(e->options.dtype, cuda_launch(e, pool_rows<A>, texts->B, THREADS, 0, out, (const A *)x, texts->start, C,
                                           mean, normalize));
}
