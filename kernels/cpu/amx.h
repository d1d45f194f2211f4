/* amx.h - the bf16 matrix unit of recent Xeons, as one product: out = A B, with A as it lies in memory.
 *
 *     out[i, t] = sum over k of a[i, k] b[k, t]                 A [16 n, K], B [K, width <= 16], out [16 n, 16] fp32
 *
 * One instruction, tdpbf16ps, adds a [16, 32] x [32, 16] product to a tile [16, 16]. Its first operand is read straight
 * from row-major memory; the second is interleaved in pairs of k. So what is large (weights, keys) is A and needs no
 * repacking, and what is small (tokens, queries, probabilities) is B and is packed once.
 *
 * Order, in fp32 with exact products, for every element: for each 32 k in turn, the even k from the first to the last
 * and likewise the odd ones; the two sums are added, and their sum is added to the element. That is the instruction's
 * own order and depends on neither row nor column. It takes denormals as zero and flushes to zero.
 *
 * An instruction takes 16 cycles for any width and its result can be added to after 52, so four tiles are in flight. */
#pragma once

#ifdef __AMX_BF16__

#include "kernels/cpu/simd.h"

enum { TILE = 16 /* rows of A, columns of B */, TILE_K = 32 /* k per instruction */ };

/* GCC's intrinsics do not tell the compiler which memory a tile is loaded from: what was stored must be there. */
#define STORES_BEFORE_TILES() __asm__ volatile("" ::: "memory")

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64)));

/* Tiles 0-3 accumulate [16, width], 4-5 hold A, 6-7 B. Costs some 50 ns; _tile_release() when the thread is done. */
static inline void amx_configure(int width) {
    struct tile_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.rows[i] = 16;
        c.row_bytes[i] = i == 4 || i == 5 ? 64 : (uint16_t)(4 * width);
    }
    STORES_BEFORE_TILES();
    _tile_loadconfig(&c);
}

/* out[j][i] = in[i][j], 16 x 16 words. */
INLINE void transpose_words(__m512i out[16], const __m512i in[16]) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(in[i], in[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(in[i], in[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm512_unpacklo_epi64(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm512_unpackhi_epi64(a[i + j], a[i + j + 2]);
        }
    /* b[4 g + c] holds, in its four 128-bit lanes l, column 4 l + c of rows 4 g .. 4 g + 3. */
    for (int c = 0; c < 4; c++) {
        __m512i lo = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88), hi = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
        out[c] = _mm512_shuffle_i32x4(lo, hi, 0x88);
        out[8 + c] = _mm512_shuffle_i32x4(lo, hi, 0xdd);
        lo = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd), hi = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
        out[4 + c] = _mm512_shuffle_i32x4(lo, hi, 0x88);
        out[12 + c] = _mm512_shuffle_i32x4(lo, hi, 0xdd);
    }
}

/* n <= 16 rows of x, `stride` elements apart, as B: [K32 / 2, width] pairs; zeros where there is no k or no row. */
static inline void amx_pack(char *out, const uint16_t *x, size_t stride, int n, int K, int K32, int width) {
    __mmask16 keep = (__mmask16)((1u << width) - 1);
    for (int k = 0; k < K32; k += TILE_K) {
        __m512i in[16], columns[16];
        int rest = K - k < TILE_K ? K - k : TILE_K;
        __mmask32 mask = rest == TILE_K ? ~0u : (1u << rest) - 1;
        for (int t = 0; t < 16; t++)
            in[t] = t < n ? _mm512_maskz_loadu_epi16(mask, x + (size_t)t * stride + k) : _mm512_setzero_si512();
        transpose_words(columns, in);
        for (int i = 0; i < 16; i++) _mm512_mask_storeu_epi32(out + ((size_t)k / 2 + i) * width * 4, keep, columns[i]);
    }
}

/* Brings the 16 cache lines at p closer while something else is computed. */
INLINE void prefetch_1k(const char *p) {
    for (int i = 0; i < 16; i++) _mm_prefetch(p + 64 * i, _MM_HINT_T0);
}

/* out[i] [16, 16] = A[i] B for i < n <= 4, K a multiple of 32. A[i] is 16 rows at a[i], a_bytes apart; B is packed.
 * `ahead`, if not NULL, is what will be read next: as many bytes as A has here. */
INLINE void amx_multiply(float *out, const char *const a[4], size_t a_bytes, const char *b, int width, int K,
                         const int n, const char *ahead) {
    size_t b_bytes = 4 * (size_t)width;
    const char *a0 = a[0], *a1 = n > 1 ? a[1] : a0, *a2 = n > 2 ? a[2] : a0, *a3 = n > 3 ? a[3] : a0;
    _tile_zero(0);
    if (n > 1) _tile_zero(1);
    if (n > 2) _tile_zero(2);
    if (n > 3) _tile_zero(3);
    for (size_t k = 0; k < 2 * (size_t)K; k += 2 * TILE_K, b += 16 * b_bytes) {
        _tile_loadd(6, b, b_bytes);
        _tile_loadd(4, a0 + k, a_bytes);
        _tile_dpbf16ps(0, 4, 6);
        if (ahead) prefetch_1k(ahead + 16 * k * n);
        if (n > 1) {
            _tile_loadd(5, a1 + k, a_bytes);
            _tile_dpbf16ps(1, 5, 6);
            if (ahead) prefetch_1k(ahead + 16 * k * n + 1024);
        }
        if (n > 2) {
            _tile_loadd(4, a2 + k, a_bytes);
            _tile_dpbf16ps(2, 4, 6);
            if (ahead) prefetch_1k(ahead + 16 * k * n + 2048);
        }
        if (n > 3) {
            _tile_loadd(5, a3 + k, a_bytes);
            _tile_dpbf16ps(3, 5, 6);
            if (ahead) prefetch_1k(ahead + 16 * k * n + 3072);
        }
    }
    _tile_stored(0, out, 64);
    if (n > 1) _tile_stored(1, out + 256, 64);
    if (n > 2) _tile_stored(2, out + 512, 64);
    if (n > 3) _tile_stored(3, out + 768, 64);
}

#endif
