/* linear_bf16.c - LANES rows of w for T tokens in bf16, by the instruction that multiplies pairs of it (AVX512_BF16).
 *
 *     out[t, n] = sum over k of x[t, k] w[n, k]                x [T, K], w [LANES rows, K], out [T, LANES] fp32
 *
 * vdpbf16ps takes 32 k of two rows as they lie in memory: nothing is widened, and an EPYC does twice the arithmetic
 * that fp32 vectors do.
 *
 * Order: lane j adds up the pairs at k = 2 j, 2 j + 32, 2 j + 64, ... in fp32 with exact products, each pair and its sum
 * as the instruction rounds them; the lanes are folded as a fixed tree (vf_sum). A row's tail is filled up with zeros.
 * Whatever tile an element is computed in, this is its order. Denormals count as zero. */
#include "kernels/cpu/cpu.h"

#ifdef __AVX512BF16__

enum { STEP_K = 32 };

INLINE __m512bh load(const uint16_t *p, __mmask32 mask, const bool whole) {
    return (__m512bh)(whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask, p));
}

/* acc[t * n_n + n] += the pairs of STEP_K k, or of those in the mask. What lies `ahead` elements behind the weights, if
 * not 0, is fetched meanwhile. */
INLINE void step(vf *acc, const uint16_t *x, size_t stride, const uint16_t *const *w, int k, __mmask32 mask, size_t ahead,
                 const int n_t, const int n_n, const int n_some, const bool whole) {
    __m512bh xk[4];
#pragma GCC unroll 4
    for (int t = 0; t < n_t; t++) xk[t] = load(x + t * stride + k, mask, whole);
#pragma GCC unroll 8
    for (int n = 0; n < n_some; n++) {
        __m512bh v = load(w[n] + k, mask, whole);
        if (ahead) __builtin_prefetch(w[n] + k + ahead);
#pragma GCC unroll 4
        for (int t = 0; t < n_t; t++) acc[t * n_n + n] = (vf)_mm512_dpbf16_ps((__m512)acc[t * n_n + n], xk[t], v);
    }
}

/* n_t tokens times LANES / n_t rows: sum (t, n) at lane t * (LANES / n_t) + n. */
INLINE vf tile(const uint16_t *x, size_t stride, const uint16_t *const *w, int K, size_t ahead, const int n_t) {
    enum { SOME = 8 }; /* rows at a time: enough sums to hide the latency, few enough pointers for the registers */
    const int n_n = LANES / n_t, n_some = n_n < SOME ? n_n : SOME;
    __mmask32 tail = (1u << K % STEP_K) - 1;
    vf acc[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) acc[i] = (vf){0};
#pragma GCC unroll 2
    for (int some = 0; some < n_n; some += n_some) {
        int k = 0;
        for (; k + STEP_K <= K; k += STEP_K)
            step(acc + some, x, stride, w + some, k, 0, ahead, n_t, n_n, n_some, true);
        if (tail) step(acc + some, x, stride, w + some, k, tail, 0, n_t, n_n, n_some, false);
    }
    return vf_sum_each(acc);
}

INLINE void tile_row(float (*out)[LANES], const uint16_t *x, size_t stride, const uint16_t *const *w, int K, size_t ahead,
                     const int n_t) {
    const int n_n = LANES / n_t;
    for (int i = 0; i < LANES; i += n_n) {
        float sums[LANES];
        vf_store(sums, tile(x, stride, w + i, K, ahead, n_t));
        for (int t = 0; t < n_t; t++) memcpy(&out[t][i], sums + t * n_n, (size_t)n_n * sizeof(float));
    }
}

void CPU(linear_bf16)(float (*out)[LANES], const uint16_t *x, size_t stride, int T, const uint16_t *const *w, int K,
                      size_t ahead) {
    int t = 0;
    for (; t + 4 <= T; t += 4, ahead = 0) {
        if (ahead) tile_row(out + t, x + t * stride, stride, w, K, ahead, 4);
        else tile_row(out + t, x + t * stride, stride, w, K, 0, 4);
    }
    if (t + 2 <= T) tile_row(out + t, x + t * stride, stride, w, K, ahead, 2), t += 2;
    if (t < T) tile_row(out + t, x + t * stride, stride, w, K, ahead, 1);
}

#else
typedef int linear_bf16_is_empty; /* this instruction set multiplies no pairs */
#endif
