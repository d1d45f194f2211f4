/* linear_bf16.c - LANES rows of w for T tokens in bf16, by the instruction that multiplies pairs of it (AVX512_BF16).
 *
 *     out[t, n] = sum over k of x[t, k] w[n, k]                x [T, K], w [LANES rows, K], out [T, LANES] fp32
 *
 * vdpbf16ps takes 32 k of two rows as they lie in memory: nothing is widened, and an EPYC does twice the arithmetic
 * that fp32 vectors do.
 *
 * Order: lane j adds up the pairs at k = 2 j, 2 j + 32, 2 j + 64, ... in fp32 with exact products, rounded where the
 * instruction does; the lanes are folded as a fixed tree (vf_sum). A row's tail is filled up with zeros. Whatever tile
 * an element is computed in, this is its order. Denormals count as zero. */
#include "kernels/cpu/cpu.h"

#ifdef __AVX512BF16__

enum { STEP_K = 32 };

INLINE __m512bh load(const uint16_t *p, __mmask32 mask, const bool whole) {
    return (__m512bh)(whole ? _mm512_loadu_si512(p) : _mm512_maskz_loadu_epi16(mask, p));
}

/* acc[t * n_n + n] += the pairs of STEP_K k, or of those in the mask. */
INLINE void step(vf *acc, const uint16_t *x, size_t stride, const uint16_t *const *w, int k, __mmask32 mask,
                 size_t ahead, const int n_t, const int n_n, const int n_some, const bool whole) {
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

/* n_t tokens times LANES / n_t rows: sum (t, n) at lane t * (LANES / n_t) + n. Meanwhile is fetched what lies `ahead`
 * elements behind the weights, if not 0, and n_fetch times K elements at `fetch`. */
INLINE vf tile(const uint16_t *x, size_t stride, const uint16_t *const *w, int K, size_t ahead, const uint16_t *fetch,
               const int n_t, const int n_fetch) {
    enum { SOME = 8 }; /* rows at a time: enough sums to hide the latency, few enough pointers for the registers */
    const int n_n = LANES / n_t, n_some = n_n < SOME ? n_n : SOME;
    __mmask32 tail = (1u << K % STEP_K) - 1;
    vf acc[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) acc[i] = (vf){0};
#pragma GCC unroll 2
    for (int some = 0; some < n_n; some += n_some) {
        int k = 0;
        for (; k + STEP_K <= K; k += STEP_K) {
            step(acc + some, x, stride, w + some, k, 0, ahead, n_t, n_n, n_some, true);
#pragma GCC unroll 4
            for (int i = 0; i < n_fetch; i++) /* into the L2 */
                __builtin_prefetch(fetch + n_fetch * k + i * STEP_K, 0, 2);
        }
        if (tail) step(acc + some, x, stride, w + some, k, tail, 0, n_t, n_n, n_some, false);
    }
    return vf_sum_each(acc);
}

INLINE void tile_row(float (*out)[LANES], const uint16_t *x, size_t stride, const uint16_t *const *w, int K,
                     size_t ahead, const uint16_t *fetch, const int n_t, const int n_fetch) {
    const int n_n = LANES / n_t;
    for (int i = 0; i < LANES; i += n_n, fetch += n_fetch * K) {
        float sums[LANES];
        vf_store(sums, tile(x, stride, w + i, K, ahead, fetch, n_t, n_fetch));
        for (int t = 0; t < n_t; t++) memcpy(&out[t][i], sums + t * n_n, (size_t)n_n * sizeof(float));
    }
}

/* 4 tokens times LANES rows, a row of tiles of its own, so that the addresses stay in registers. */
#define ROW_OF_4(name, n_fetch)                                                                                       \
    static __attribute__((noinline)) void name(float (*out)[LANES], const uint16_t *x, size_t stride,                 \
                                               const uint16_t *const *w, int K, const uint16_t *fetch) {              \
        tile_row(out, x, stride, w, K, 0, fetch, 4, n_fetch);                                                         \
    }
ROW_OF_4(row_of_4, 0)
ROW_OF_4(row_of_4_fetch, 1)
ROW_OF_4(row_of_4_fetch_2, 2)
ROW_OF_4(row_of_4_fetch_4, 4)

/* The next LANES rows are fetched by as many rows of tiles as there are, up to four: a few lines at a time all along,
 * because a core waits for more than some 20 of them, and memory past the caches takes as long as 1000 products. */
void CPU(linear_bf16)(float (*out)[LANES], const uint16_t *x, size_t stride, int T, const uint16_t *const *w, int K,
                      size_t ahead) {
    int t = 0;
    const uint16_t *fetch = w[0] + ahead, *end = fetch + LANES * (size_t)K;
    for (; t + 4 <= T; t += 4) {
        float(*to)[LANES] = out + t;
        const uint16_t *from = x + t * stride;
        if (fetch == end) row_of_4(to, from, stride, w, K, fetch);
        else if (T >= 16) row_of_4_fetch(to, from, stride, w, K, fetch), fetch += 4 * K;
        else if (T >= 8) row_of_4_fetch_2(to, from, stride, w, K, fetch), fetch += 8 * K;
        else row_of_4_fetch_4(to, from, stride, w, K, fetch), fetch += 16 * K;
    }
    if (T >= 4) ahead = 0;
    if (t + 2 <= T) tile_row(out + t, x + t * stride, stride, w, K, ahead, NULL, 2, 0), t += 2;
    if (t < T) tile_row(out + t, x + t * stride, stride, w, K, ahead, NULL, 1, 0);
}

#else
typedef int linear_bf16_is_empty; /* this instruction set multiplies no pairs */
#endif
