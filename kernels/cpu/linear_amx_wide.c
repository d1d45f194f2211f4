/* linear_amx_wide.c - y = x W' + b on the matrix unit (amx.h) for many tokens, where arithmetic is the limit.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k] + b[n]           x [T, K], w [N, K], y [T, N]
 *
 * Now the tokens are the first operand, as they lie, and weights are packed: that costs 64 shuffles a tile, which pays
 * from some WIDE_TOKENS on, and results come out as rows of y. Products commute and the order over k is amx.h's, so an
 * element has the bits that linear_amx.c gives it.
 *
 * Blocking: a part is up to 256 rows of w for all tokens, so w is read from memory once. For each STEP_K of k, the
 * part's weights are packed (256 KB, stays in the L2) and, for each pair of token tiles (32 KB, stays in the L1), meet
 * all of them. Sums wait in fp32 between steps of k. FLOP: 2 T N K. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/cpu.h"

#ifdef __AMX_BF16__

enum {
    PART_ROWS = 256,
    STEP_K = 512,
    TURN_TOKENS = 512, /* their sums, 512 KB, stay in the L2 */
};
_Static_assert(PART_ROWS * STEP_K / 2 + TURN_TOKENS * PART_ROWS <= LINEAR_WIDE_FLOATS, "a thread's scratch");

struct wide {
    struct exec *e;
    const uint16_t *x; /* [T, K] */
    const uint16_t *tail; /* [32, K32]: what follows the last whole tile of x, and zeros; or all of x if K is odd */
    const struct matrix *w;
    const uint16_t *bias; /* [N] or NULL */
    char *y;              /* [T, N] of yt */
    enum dtype yt;
    int T, K, K32, rows;  /* rows of w in a part */
};

/* 16 tokens of x from t on, K32 values a row. */
static const uint16_t *token_tile(const struct wide *o, int t) {
    if (o->K != o->K32) return o->tail + (size_t)t * o->K32;
    return t + TILE <= o->T ? o->x + (size_t)t * o->K : o->tail + (size_t)(t - o->T / TILE * TILE) * o->K32;
}

/* sums: [2 token tiles][2 weight tiles][16 t, 16 n] += x w' over n_k. b is two packed tiles, b_bytes apart. */
INLINE void multiply_2_by_2(float *sums, size_t sums_step, const uint16_t *x0, const uint16_t *x1, size_t x_bytes,
                            const char *b, size_t b_bytes, int n_k, bool first) {
    float *other = sums + sums_step;
    if (first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, other, 64);
        _tile_loadd(3, other + 256, 64);
    }
    for (int k = 0; k < n_k; k += TILE_K, b += 1024) {
        _tile_loadd(4, x0 + k, x_bytes);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, b + b_bytes, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, x1 + k, x_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, other, 64);
    _tile_stored(3, other + 256, 64);
}

/* Two tiles [16 t, 16 n] side by side to y. */
static void write_tiles(const struct wide *o, const float *tile, int t, int n) {
    int N = o->w->rows, left = N - n < 32 ? N - n : 32, n_t = o->T - t < TILE ? o->T - t : TILE;
    __mmask32 mask = left == 32 ? ~0u : (1u << left) - 1;
    __m512 b0 = _mm512_setzero_ps(), b1 = b0;
    if (o->bias) {
        __m512i b = _mm512_maskz_loadu_epi16(mask, o->bias + n);
        b0 = (__m512)vf_from_bf16((vh)_mm512_castsi512_si256(b));
        b1 = (__m512)vf_from_bf16((vh)_mm512_extracti64x4_epi64(b, 1));
    }
    for (int i = 0; i < n_t; i++) {
        __m512 v0 = _mm512_load_ps(tile + 16 * i), v1 = _mm512_load_ps(tile + 256 + 16 * i);
        if (o->bias) v0 = _mm512_add_ps(v0, b0), v1 = _mm512_add_ps(v1, b1);
        size_t at = (size_t)(t + i) * (size_t)N + (size_t)n;
        if (o->yt == DTYPE_F32) {
            _mm512_mask_storeu_ps((float *)o->y + at, (__mmask16)mask, v0);
            _mm512_mask_storeu_ps((float *)o->y + at + 16, (__mmask16)(mask >> 16), v1);
        } else {
            _mm512_mask_storeu_epi16((uint16_t *)o->y + at, mask, (__m512i)_mm512_cvtne2ps_pbh(v1, v0));
        }
    }
}

/* Weights n .. n + n_n - 1 (zeros beyond N), k .. k + n_k - 1, as packed tiles of 16 rows, n_k * 32 bytes apart. */
static void pack_weights(const struct wide *o, char *out, int n, int n_n, int k, int n_k) {
    int k_left = o->K - k < n_k ? o->K - k : n_k;
    for (int i = 0; i < n_n; i += TILE, out += (size_t)n_k * 32) {
        int left = o->w->rows - n - i;
        amx_pack(out, (const uint16_t *)o->w->data + (size_t)(n + i) * o->K + k, (size_t)o->K,
                 left < 0 ? 0 : left < TILE ? left : TILE, k_left, n_k, TILE);
    }
}

/* Rows n .. n + n_n - 1 of w (n_n a multiple of 32) for tokens t0 .. t1 - 1. (Fetching the next tokens and weights ahead
 * was tried and gained nothing.) */
static void part_turn(const struct wide *o, float *sums, char *packed, int n, int n_n, int t0, int t1) {
    size_t x_bytes = (size_t)o->K32 * 2, tile_row = (size_t)n_n / TILE * 256; /* of sums, for 16 tokens */
    for (int k = 0; k < o->K32; k += STEP_K) {
        int n_k = o->K32 - k < STEP_K ? o->K32 - k : STEP_K;
        size_t b_bytes = (size_t)n_k * 32;
        pack_weights(o, packed, n, n_n, k, n_k);
        STORES_BEFORE_TILES();
        for (int t = t0; t < t1; t += 2 * TILE) {
            const uint16_t *x0 = token_tile(o, t) + k, *x1 = token_tile(o, t + TILE) + k;
            float *s = sums + (size_t)(t - t0) / TILE * tile_row;
            for (int i = 0; i < n_n / TILE; i += 2)
                multiply_2_by_2(s + 256 * i, tile_row, x0, x1, x_bytes, packed + i * b_bytes, b_bytes, n_k, !k);
            if (k + n_k < o->K32) continue;
            /* Only now: right behind its product, a write would wait for it and keep the next from starting. */
            for (int i = 0; i < n_n / TILE && n + i * TILE < o->w->rows; i += 2) {
                write_tiles(o, s + 256 * i, t, n + i * TILE);
                if (t + TILE < o->T) write_tiles(o, s + tile_row + 256 * i, t + TILE, n + i * TILE);
            }
        }
    }
}

static void wide_parts(void *arg, struct share *share) {
    const struct wide *o = arg;
    float *sums = scratch_of(o->e, share);
    char *packed = (char *)(sums + TURN_TOKENS * PART_ROWS);
    amx_configure(TILE);
    for (int part, last; threads_take(share, &part, &last);) {
        int n = part * o->rows, left = (int)round_up((size_t)(o->w->rows - n), 32);
        for (int t = 0; t < o->T; t += TURN_TOKENS)
            part_turn(o, sums, packed, n, left < o->rows ? left : o->rows, t,
                      o->T - t < TURN_TOKENS ? o->T : t + TURN_TOKENS);
    }
    _tile_release();
}

/* Rows t0 .. t1 - 1 of x to out [.., K32], then zeros up to `rows` rows. */
static void copy_tokens(const struct wide *o, uint16_t *out, int t0, int rows) {
    memset(out, 0, (size_t)rows * o->K32 * 2);
    for (int t = t0; t < o->T; t++)
        memcpy(out + (size_t)(t - t0) * o->K32, o->x + (size_t)t * o->K, (size_t)o->K * 2);
}

void CPU(linear_amx_wide)(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w,
                          const void *bias, int T) {
    struct cpu *s = cpu_of(e);
    int K = w->cols, K32 = (int)round_up((size_t)K, TILE_K), n_threads = e->options.n_threads;
    /* A K that is no multiple of 32 has its tokens copied, as many at a time as there is room for. */
    int turn = K == K32 ? T : 2 * X_ROWS - 2 * TILE;
    for (int t = 0; t < T; t += turn) {
        struct wide o = {.e = e, .x = (const uint16_t *)x + (size_t)t * K, .tail = (const uint16_t *)s->x, .w = w,
                         .bias = bias, .y = (char *)y + (size_t)t * w->rows * dtype_bytes(yt), .yt = yt,
                         .T = T - t < turn ? T - t : turn, .K = K, .K32 = K32, .rows = PART_ROWS};
        if (K == K32) copy_tokens(&o, (uint16_t *)s->x, o.T / TILE * TILE, 2 * TILE);
        else copy_tokens(&o, (uint16_t *)s->x, 0, (int)round_up((size_t)o.T, 2 * TILE));
        while (o.rows > 32 && (w->rows + o.rows - 1) / o.rows < 2 * n_threads) o.rows /= 2;
        parallel(e, (w->rows + o.rows - 1) / o.rows, 1, wide_parts, &o);
    }
}

#else
typedef int linear_amx_wide_is_empty; /* this instruction set has no matrix unit */
#endif
