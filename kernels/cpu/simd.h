/* simd.h - vectors of LANES floats, and the activation formats on their way in and out of them.
 *
 * LANES is what the instruction set has in one register: 4, 8 or 16. Conversions give the same bits as dtype.h (the
 * payload of a NaN aside). Everything is static inline: each instruction set has its own copy.
 *
 * The compiler may not contract a * b + c (-ffp-contract=off): it would do so in one copy of an expression and not in
 * another, and bits would depend on which tile an element fell into. What is to be fused says vf_fma. */
#pragma once

#include "kernels/dtype.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));

/* Rounds up to a multiple of `unit`. */
INLINE size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

INLINE vf vf_set1(float x) { return x - (vf){0}; }

INLINE vf vf_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }

/* mask ? a : b, lane by lane; mask is the result of a comparison. */
INLINE vf vf_select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }

/* a < b ? b : a: a NaN in b is ignored, one in a stays. */
INLINE vf vf_max(vf a, vf b) { return vf_select(a < b, b, a); }

/* a * b + c, rounded once where the instruction set can. */
INLINE vf vf_fma(vf a, vf b, vf c) {
#if LANES == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LANES == 8
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* ---- formats ---------------------------------------------------------------------------------------------------- */

/* GCC 12 converts these vectors by halves; the instructions do it at once. */
INLINE vu vu_from_vh(vh h) {
#if LANES == 16
    return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#elif LANES == 8
    return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#elif defined(__SSE4_1__)
    int64_t bits;
    memcpy(&bits, &h, sizeof bits);
    return (vu)_mm_cvtepu16_epi32(_mm_cvtsi64_si128(bits));
#else
    return __builtin_convertvector(h, vu);
#endif
}

/* The upper halves of the lanes. */
INLINE vh vh_from_upper(vu u) {
#if LANES == 16
    return (vh)_mm512_cvtepi32_epi16(_mm512_srli_epi32((__m512i)u, 16));
#elif LANES == 8
    __m256i upper = _mm256_srli_epi32((__m256i)u, 16);
    return (vh)_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(upper, upper), 0x08));
#elif defined(__SSE4_1__)
    __m128i upper = _mm_srli_epi32((__m128i)u, 16);
    int64_t bits = _mm_cvtsi128_si64(_mm_packus_epi32(upper, upper));
    vh h;
    memcpy(&h, &bits, sizeof h);
    return h;
#else
    return __builtin_convertvector(u >> 16, vh);
#endif
}

INLINE vf vf_from_bf16(vh h) { return (vf)(vu_from_vh(h) << 16); }

/* The bits of v as bf16 in the upper half of each lane, rounded to nearest even; NaN stays NaN. The lower half is rubble. */
INLINE vu bf16_bits(vf v) {
    vu u = (vu)v, rounded = u + 0x7fff + ((u >> 16) & 1);
#if LANES == 16
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)v, (__m512)v, _CMP_UNORD_Q);
    return (vu)_mm512_mask_or_epi32((__m512i)rounded, nan, (__m512i)u, _mm512_set1_epi32(0x400000));
#else
    vu is_nan = (vu)(v != v);
    return (rounded & ~is_nan) | ((u | 0x400000) & is_nan);
#endif
}

INLINE vh bf16_from_vf(vf v) { return vh_from_upper(bf16_bits(v)); }

INLINE vf vf_from_f16(vh h) {
#if LANES == 16
    return (vf)_mm512_cvtph_ps((__m256i)h);
#elif defined(__F16C__) && LANES == 8
    return (vf)_mm256_cvtph_ps((__m128i)h);
#else
    vf v;
    for (int i = 0; i < LANES; i++) v[i] = f32_from_f16(h[i]);
    return v;
#endif
}

INLINE vh f16_from_vf(vf v) {
#if LANES == 16
    return (vh)_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__) && LANES == 8
    return (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    vh h;
    for (int i = 0; i < LANES; i++) h[i] = f16_from_f32(v[i]);
    return h;
#endif
}

/* LANES elements of format t, widened. With a constant t the switch is gone after inlining. */
INLINE vf vf_widen(const void *p, enum dtype t) {
    if (t == DTYPE_F32) return vf_load(p);
    vh h;
    memcpy(&h, p, sizeof h);
    return t == DTYPE_BF16 ? vf_from_bf16(h) : vf_from_f16(h);
}

INLINE void vf_narrow(void *p, vf v, enum dtype t) {
    if (t == DTYPE_F32) {
        vf_store(p, v);
        return;
    }
    vh h = t == DTYPE_BF16 ? bf16_from_vf(v) : f16_from_vf(v);
    memcpy(p, &h, sizeof h);
}

INLINE float f32_widen(const void *p, enum dtype t) {
    if (t == DTYPE_F32) return *(const float *)p;
    return t == DTYPE_BF16 ? f32_from_bf16(*(const uint16_t *)p) : f32_from_f16(*(const uint16_t *)p);
}

INLINE void f32_narrow(void *p, float v, enum dtype t) {
    if (t == DTYPE_F32) *(float *)p = v;
    else *(uint16_t *)p = t == DTYPE_BF16 ? bf16_from_f32(v) : f16_from_f32(v);
}

/* The nearest value of format t, still in fp32: the rounding points of Hugging Face. */
INLINE vf vf_round(vf v, enum dtype t) {
    if (t == DTYPE_BF16) return (vf)(bf16_bits(v) & 0xffff0000);
    if (t == DTYPE_F16) return vf_from_f16(f16_from_vf(v));
    return v;
}

INLINE float f32_round(float v, enum dtype t) {
    if (t == DTYPE_BF16) return f32_from_bf16(bf16_from_f32(v));
    if (t == DTYPE_F16) return f32_from_f16(f16_from_f32(v));
    return v;
}

/* 1 / v within 1 ulp for v in [1, 2^126]; above, at most 2^-126. */
INLINE vf vf_reciprocal(vf v) {
#if LANES == 16
    vf r = (vf)_mm512_rcp14_ps((__m512)v);
    vf e = vf_fma(-v, r, vf_set1(1)); /* two steps of Newton's, as one of third order */
    return vf_fma(vf_fma(e, e, e), r, r);
#else
    return 1.0f / v;
#endif
}

/* ---- rows: n elements of format t from and to fp32 --------------------------------------------------------------- */

INLINE void row_widen_as(float *out, const char *in, size_t n, enum dtype t) {
    size_t b = dtype_bytes(t), i = 0;
    for (; i + LANES <= n; i += LANES) vf_store(out + i, vf_widen(in + i * b, t));
    for (; i < n; i++) out[i] = f32_widen(in + i * b, t);
}

static inline void row_widen(float *out, const void *in, size_t n, enum dtype t) {
    if (t == DTYPE_BF16) row_widen_as(out, in, n, DTYPE_BF16);
    else if (t == DTYPE_F16) row_widen_as(out, in, n, DTYPE_F16);
    else row_widen_as(out, in, n, DTYPE_F32);
}

INLINE void row_narrow_as(char *out, const float *in, size_t n, enum dtype t) {
    size_t b = dtype_bytes(t), i = 0;
    for (; i + LANES <= n; i += LANES) vf_narrow(out + i * b, vf_load(in + i), t);
    for (; i < n; i++) f32_narrow(out + i * b, in[i], t);
}

static inline void row_narrow(void *out, const float *in, size_t n, enum dtype t) {
    if (t == DTYPE_BF16) row_narrow_as(out, in, n, DTYPE_BF16);
    else if (t == DTYPE_F16) row_narrow_as(out, in, n, DTYPE_F16);
    else row_narrow_as(out, in, n, DTYPE_F32);
}

static inline void row_round(float *x, size_t n, enum dtype t) {
    size_t i = 0;
    for (; t == DTYPE_BF16 && i + LANES <= n; i += LANES) vf_store(x + i, vf_round(vf_load(x + i), DTYPE_BF16));
    for (; t == DTYPE_F16 && i + LANES <= n; i += LANES) vf_store(x + i, vf_round(vf_load(x + i), DTYPE_F16));
    for (; i < n; i++) x[i] = f32_round(x[i], t);
}

/* ---- arithmetic ------------------------------------------------------------------------------------------------- */

/* The sum of all lanes as a fixed tree: lanes at distance LANES/2 first, then a quarter, ..., then neighbours. */
INLINE float vf_sum(vf v) {
#if LANES == 16
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256((__m512)v),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)v), 1)));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
#elif LANES == 8
    __m128 b = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
#elif defined(__x86_64__)
    __m128 b = (__m128)v;
#endif
#if defined(__x86_64__)
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
#else
    return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

/* Lane i is vf_sum(v[i]), to the bit: the same tree, folding two vectors into one at each level. */
INLINE vf vf_sum_each(const vf v[LANES]) {
#if defined(__x86_64__)
    /* Level by level: halves of the register, then halves of 128 bits, then neighbours. The order of the inputs is such
     * that the sums come out in theirs. */
    vf x[4];
#if LANES == 16
    /* A fold adds what stays of two vectors to what changes places, in two additions under a mask: a blend would take
     * a port from the multiplications around. */
#define ADD_STAYING(t, mask, a, b) _mm512_mask_add_ps(_mm512_add_ps(t, a), mask, t, b)
    const __m512i quarters = _mm512_set_epi32(27, 26, 25, 24, 15, 14, 13, 12, 19, 18, 17, 16, 7, 6, 5, 4);
    __m512 half[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        __m512 a = (__m512)v[i], b = (__m512)v[8 + i];
        half[i] = ADD_STAYING(_mm512_shuffle_f32x4(a, b, 0x4e), 0xff00, a, b);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 a = half[i], b = half[4 + i];
        x[i] = (vf)ADD_STAYING(_mm512_permutex2var_ps(a, quarters, b), 0xf0f0, a, b);
    }
#define FOLD(a, b, i) (vf) _mm512_shuffle_ps((__m512)(a), (__m512)(b), i)
#define HALVE(a, b) \
    (vf) ADD_STAYING(_mm512_shuffle_ps((__m512)(a), (__m512)(b), 0x4e), 0xcccc, (__m512)(a), (__m512)(b))
#elif LANES == 8
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256 a = (__m256)v[i], b = (__m256)v[4 + i];
        x[i] = (vf)_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
#define FOLD(a, b, i) (vf) _mm256_shuffle_ps((__m256)(a), (__m256)(b), i)
#define HALVE(a, b)   (FOLD(a, b, 0x44) + FOLD(a, b, 0xee))
#else
    for (int i = 0; i < 4; i++) x[i] = v[i];
#define FOLD(a, b, i) (vf) _mm_shuffle_ps((__m128)(a), (__m128)(b), i)
#define HALVE(a, b)   (FOLD(a, b, 0x44) + FOLD(a, b, 0xee))
#endif
    vf lo = HALVE(x[0], x[1]), hi = HALVE(x[2], x[3]);
    return FOLD(lo, hi, 0x88) + FOLD(lo, hi, 0xdd);
#undef FOLD
#undef HALVE
#undef ADD_STAYING
#else
    vf sums;
    for (int i = 0; i < LANES; i++) sums[i] = vf_sum(v[i]);
    return sums;
#endif
}

/* The greatest lane; no lane is NaN. */
INLINE float vf_max_lane(vf v) {
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float max = v[0];
    for (int i = 1; i < LANES; i++) max = max < v[i] ? v[i] : max;
    return max;
#endif
}

/* Lane j of x[i] and lane i of x[j] change places. */
INLINE void vf_transpose(vf x[LANES]) {
#if LANES == 16
#define PS(op, a, b)    _mm512_##op##_ps(a, b)
#define PD(op, a, b)    _mm512_castpd_ps(_mm512_##op##_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define QUARTERS(a, b, i) _mm512_shuffle_f32x4(a, b, i)
    __m512 t[LANES], u[LANES];
#elif LANES == 8
#define PS(op, a, b) _mm256_##op##_ps(a, b)
#define PD(op, a, b) _mm256_castpd_ps(_mm256_##op##_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)))
    __m256 t[LANES], u[LANES];
#elif defined(__x86_64__)
#define PS(op, a, b) _mm_##op##_ps(a, b)
#define PD(op, a, b) _mm_castpd_ps(_mm_##op##_pd(_mm_castps_pd(a), _mm_castps_pd(b)))
    __m128 t[LANES], u[LANES];
#endif
#if defined(__x86_64__)
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) u[i] = (__typeof__(u[0]))x[i];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) t[i] = PS(unpacklo, u[i], u[i + 1]), t[i + 1] = PS(unpackhi, u[i], u[i + 1]);
    /* Then quarter q of u[4 i + c] is column 4 q + c of rows 4 i .. 4 i + 3. */
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        u[i] = PD(unpacklo, t[i], t[i + 2]), u[i + 1] = PD(unpackhi, t[i], t[i + 2]);
        u[i + 2] = PD(unpacklo, t[i + 1], t[i + 3]), u[i + 3] = PD(unpackhi, t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
#if LANES == 16
        __m512 a = QUARTERS(u[c], u[4 + c], 0x88), b = QUARTERS(u[8 + c], u[12 + c], 0x88);
        x[c] = (vf)QUARTERS(a, b, 0x88), x[8 + c] = (vf)QUARTERS(a, b, 0xdd);
        a = QUARTERS(u[c], u[4 + c], 0xdd), b = QUARTERS(u[8 + c], u[12 + c], 0xdd);
        x[4 + c] = (vf)QUARTERS(a, b, 0x88), x[12 + c] = (vf)QUARTERS(a, b, 0xdd);
#elif LANES == 8
        x[c] = (vf)_mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
        x[4 + c] = (vf)_mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
#else
        x[c] = (vf)u[c];
#endif
    }
#undef PS
#undef PD
#undef QUARTERS
#else
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            float keep = x[i][j];
            x[i][j] = x[j][i];
            x[j][i] = keep;
        }
#endif
}

/* e^x within 2 ulp for x in [-87.3, 88.3]; larger x give e^88.3, smaller ones 0, NaN stays NaN. x = n ln2 + r with
 * |r| <= ln2/2; a degree-6 polynomial for e^r (Cephes' coefficients); 2^n put into the exponent. */
INLINE vf vf_exp(vf x) {
    vi tiny = x < -87.3f;
    x = vf_select(x > 88.3f, vf_set1(88.3f), x);
    x = vf_select(tiny, vf_set1(0), x);
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, which then stands in the low mantissa bits */
    vf shifted = vf_fma(x, vf_set1(0x1.715476p0f), vf_set1(magic)), n = shifted - magic;
    vf r = vf_fma(n, vf_set1(-0.693359375f), x);
    r = vf_fma(n, vf_set1(2.12194440e-4f), r);
    vf p = vf_fma(vf_set1(1.9875691500e-4f), r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, r * r, r) + 1.0f;
    vi bits = (vi)shifted - (vi)vf_set1(magic) + 127;
    return vf_select(tiny, vf_set1(0), p * (vf)(bits << 23));
}

/* round(gate / (1 + e^-gate)) * up: the gated activation of activation.c. */
INLINE vf vf_silu_mul(vf gate, vf up, enum dtype act) {
    return vf_round(gate * vf_reciprocal(1.0f + vf_exp(-gate)), act) * up;
}

/* erf(x) within 2 ulp (Norbert Juffa's polynomials, of which the outer one is a power's exponent). */
INLINE vf vf_erf(vf x) {
    vf t = vf_select(x < 0, -x, x), s = x * x;
    vf inner = vf_fma(vf_set1(-5.96761703e-4f), s, vf_set1(4.99119423e-3f));
    inner = vf_fma(inner, s, vf_set1(-2.67681349e-2f));
    inner = vf_fma(inner, s, vf_set1(1.12819925e-1f));
    inner = vf_fma(inner, s, vf_set1(-3.76125336e-1f));
    inner = vf_fma(inner, s, vf_set1(1.28379166e-1f));
    inner = vf_fma(inner, x, x);
    t = vf_select(t > 4, vf_set1(4), t); /* where it is 1, and its square is finite; NaN stays NaN */
    s = t * t;
    vf outer = vf_fma(vf_set1(-1.72853470e-5f), t, vf_set1(3.83197126e-4f));
    outer = vf_fma(outer, s, vf_fma(vf_set1(-3.88396438e-3f), t, vf_set1(2.42546219e-2f)));
    outer = vf_fma(outer, t, vf_set1(-1.06777877e-1f));
    outer = vf_fma(outer, t, vf_set1(-6.34846687e-1f));
    outer = vf_fma(outer, t, vf_set1(-1.28717512e-1f));
    outer = 1.0f - vf_exp(vf_fma(outer, t, -t));
    outer = vf_select(x < 0, -outer, outer);
    return vf_select(t > 0.927734375f, outer, inner);
}

/* 2^x within 2 ulp for x in [-126, 127]; below 0, NaN stays NaN. x = n + f with |f| <= 1/2; a degree-6 polynomial for
 * 2^f (least relative error, 2e-9 before rounding); 2^n into the exponent. */
INLINE vf vf_exp2(vf x) {
    const float magic = 0x1.8p23f;
#if LANES != 16
    vi tiny = x < -126.0f;
    x = vf_select(tiny, vf_set1(0), x);
#endif
    vf shifted = x + magic, n = shifted - magic, f = x - n;
    vf p = vf_fma(vf_set1(0x1.41fbbep-13f), f, vf_set1(0x1.5f3e56p-10f));
    p = vf_fma(p, f, vf_set1(0x1.3b2d4cp-7f));
    p = vf_fma(p, f, vf_set1(0x1.c6aee8p-5f));
    p = vf_fma(p, f, vf_set1(0x1.ebfbdcp-3f));
    p = vf_fma(p, f, vf_set1(0x1.62e430p-1f));
    p = vf_fma(p, f, vf_set1(1));
#if LANES == 16
    __mmask16 keep = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126), _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(keep, (__m512)p, (__m512)n);
#else
    vi bits = (vi)shifted - (vi)vf_set1(magic) + 127;
    return vf_select(tiny, vf_set1(0), p * (vf)(bits << 23));
#endif
}
