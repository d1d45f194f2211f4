/* linear_amx.c - y = x W' + b for bf16 on the matrix unit (amx.h), with the weights as they lie in the file.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k] + b[n]           x [T, K], w [N, K], y [T, N]
 *
 * Computed transposed: 16 rows of w are the first operand, up to 16 tokens the second. A tile of weights costs the same
 * time for 1 token as for 16. Order of summation: that of amx.h, whatever T is.
 *
 * Threads divide N. Each weight is read once per chunk of tokens, a chunk being what keeps packed x in the L2.
 * Bytes: 2 N K; FLOP: 2 T N K. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/cpu.h"

#ifdef __AMX_BF16__

enum {
    CHUNK_BYTES = 1024 * 1024,     /* of packed x: half of the L2 */
    AHEAD_BYTES = 256 * 1024,      /* of weights fetched ahead, at most: more would push out what is needed first */
    PART_BYTES = 128 * 1024,       /* of weights that a thread takes at a time, at least */
};

/* x, packed in groups of `width` tokens: all T up to 16, else 16, the last group filled up with zeros. */
struct packed {
    const char *data;
    int T, width, K, K32;
    size_t group_bytes;
};

struct product {
    struct exec *e;
    const uint16_t *x; /* [T, K], the chunk's */
    struct packed p;
    const struct matrix *w;
    char *y; /* [T, N] of yt, the chunk's */
    enum dtype yt;
    const uint16_t *bias; /* [N] or NULL */
};

/* ---- results: [16 n, 16 t] fp32 to y [t, n] ------------------------------------------------------------------------ */

/* v is outputs n .. n + 15 of token t, of which those below N exist. */
INLINE void write_vector(const struct product *o, vf v, int t, int n) {
    int N = o->w->rows;
    __mmask16 mask = N - n >= 16 ? 0xffff : (__mmask16)((1u << (N - n)) - 1);
    if (o->bias) v += vf_from_bf16((vh)_mm256_maskz_loadu_epi16(mask, o->bias + n));
    char *to = o->y + ((size_t)t * N + n) * dtype_bytes(o->yt);
    if (o->yt == DTYPE_F32) _mm512_mask_storeu_ps(to, mask, (__m512)v);
    else _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}

/* tile [16 n, 16 t]: outputs n .. of tokens t .. t + n_t - 1. */
static void write_tile(const struct product *o, const float *tile, int t, int n_t, int n) {
    __m512i in[16], out[16];
    if (n_t == 1) {
        __m512i index = _mm512_set_epi32(240, 224, 208, 192, 176, 160, 144, 128, 112, 96, 80, 64, 48, 32, 16, 0);
        write_vector(o, (vf)_mm512_i32gather_ps(index, tile, 4), t, n);
        return;
    }
    for (int i = 0; i < 16; i++) in[i] = _mm512_loadu_si512(tile + 16 * i);
    transpose_words(out, in);
    for (int i = 0; i < n_t; i++) write_vector(o, (vf)out[i], t + i, n);
}

/* ---- tiles ------------------------------------------------------------------------------------------------------- */

/* out[2 i + j] = A[i] B[j] for two blocks of 16 rows and two groups of tokens: each operand loaded is used twice. */
INLINE void multiply_2_by_2(float *out, const char *w, size_t w_bytes, const char *x, size_t group_bytes, int K) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int k = 0; k < K; k += TILE_K, w += 2 * TILE_K, x += 1024) {
        _tile_loadd(6, x, 64);
        _tile_loadd(4, w, w_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, x + group_bytes, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, w + TILE * w_bytes, w_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    _tile_stored(1, out + 256, 64);
    _tile_stored(2, out + 512, 64);
    _tile_stored(3, out + 768, 64);
}

/* n_n <= 4 blocks of 16 rows from w, for all tokens. `ahead`: weights that will be read next, or NULL. */
static void blocks(const struct product *o, float *tile, const char *w, size_t w_bytes, int n, int n_n,
                   const char *ahead) {
    const struct packed *p = &o->p;
    const char *a[4];
    for (int i = 0; i < n_n; i++) a[i] = w + (size_t)i * TILE * w_bytes;
    for (int t = 0, n_g; t < p->T; t += n_g * p->width) {
        const char *x = p->data + (size_t)(t / p->width) * p->group_bytes;
        n_g = n_n == 2 && p->T - t > p->width ? 2 : 1;
        if (n_g == 2) multiply_2_by_2(tile, w, w_bytes, x, p->group_bytes, p->K32);
        else if (n_n == 4 && ahead) amx_multiply(tile, a, w_bytes, x, p->width, p->K32, 4, ahead);
        else if (n_n == 4) amx_multiply(tile, a, w_bytes, x, p->width, p->K32, 4, NULL);
        else if (n_n == 3) amx_multiply(tile, a, w_bytes, x, p->width, p->K32, 3, NULL);
        else if (n_n == 2) amx_multiply(tile, a, w_bytes, x, p->width, p->K32, 2, NULL);
        else amx_multiply(tile, a, w_bytes, x, p->width, p->K32, 1, NULL);
        for (int i = 0; i < n_n; i++)
            for (int j = 0; j < n_g; j++) {
                int tj = t + j * p->width, n_t = p->T - tj < p->width ? p->T - tj : p->width;
                write_tile(o, tile + (i * n_g + j) * 256, tj, n_t, n + i * TILE);
            }
    }
}

/* ---- the op ------------------------------------------------------------------------------------------------------ */

static void product_rows(void *arg, struct share *share) {
    const struct product *o = arg;
    int K = o->p.K, K32 = o->p.K32, N = o->w->rows, at_once = o->p.T > o->p.width ? 2 : 4;
    size_t w_bytes = (size_t)K * 2;
    float *tile = scratch_of(o->e, share);
    uint16_t *panel = (uint16_t *)(tile + 4 * 256); /* [16, K32] */
    amx_configure(o->p.width);
    for (int first, last; threads_take(share, &first, &last);)
        for (int block = first, n_n; block < last; block += n_n) {
            int n = block * TILE, whole = N / TILE - block;
            const char *w = (const char *)o->w->data + (size_t)n * w_bytes;
            n_n = last - block < at_once ? last - block : at_once;
            if (n_n > whole) n_n = whole;
            if (n_n && K == K32) {
                bool fetch = block + n_n < last && n_n * TILE * w_bytes <= AHEAD_BYTES;
                blocks(o, tile, w, w_bytes, n, n_n, fetch ? w + n_n * TILE * w_bytes : NULL);
                continue;
            }
            /* A tail of k or n: these rows are copied and filled up with zeros. */
            n_n = 1;
            memset(panel, 0, TILE * (size_t)K32 * 2);
            for (int i = 0; i < TILE && n + i < N; i++) memcpy(panel + (size_t)i * K32, w + i * w_bytes, w_bytes);
            STORES_BEFORE_TILES();
            blocks(o, tile, (const char *)panel, (size_t)K32 * 2, n, 1, NULL);
        }
    _tile_release();
}

static void pack_groups(void *arg, struct share *share) {
    const struct product *o = arg;
    const struct packed *p = &o->p;
    for (int first, last; threads_take(share, &first, &last);)
        for (int g = first; g < last; g++) {
            int t = g * p->width, n = p->T - t < p->width ? p->T - t : p->width;
            amx_pack((char *)p->data + (size_t)g * p->group_bytes, o->x + (size_t)t * p->K, (size_t)p->K, n, p->K,
                     p->K32, p->width);
        }
}

void CPU(linear_amx)(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w, const void *bias,
                     int T) {
    struct cpu *s = cpu_of(e);
    int K = w->cols, K32 = (int)round_up((size_t)K, TILE_K), n_blocks = (w->rows + TILE - 1) / TILE;
    size_t token_bytes = (size_t)K32 * 2, room = X_ROWS * s->row_floats * sizeof(float);
    int chunk = (int)((room < CHUNK_BYTES ? room : CHUNK_BYTES) / token_bytes) / (2 * TILE) * (2 * TILE);
    if (chunk < 2 * TILE) chunk = 2 * TILE;
    /* Whole fours of blocks to a part, so that only the last has fewer; parts no larger than an even share. */
    int grain = (int)(PART_BYTES / (4 * TILE * token_bytes) + 1) * 4, even = n_blocks / e->options.n_threads;
    if (grain > even) grain = (int)round_up((size_t)even + !even, 4);
    for (int t0 = 0; t0 < T; t0 += chunk) {
        struct product o = {.e = e, .x = (const uint16_t *)x + (size_t)t0 * K, .w = w, .yt = yt, .bias = bias,
                            .y = (char *)y + (size_t)t0 * w->rows * dtype_bytes(yt)};
        struct packed *p = &o.p;
        *p = (struct packed){.data = (const char *)s->x, .T = T - t0 < chunk ? T - t0 : chunk, .K = K, .K32 = K32};
        p->width = p->T < TILE ? p->T : TILE;
        p->group_bytes = (size_t)p->width * token_bytes;
        if (p->T == 1 && K == K32) p->data = (const char *)o.x; /* one column of pairs is the row itself */
        else parallel(e, (p->T + p->width - 1) / p->width, rows_per_part(TILE * K), pack_groups, &o);
        parallel(e, n_blocks, grain, product_rows, &o);
    }
}

#else
typedef int linear_amx_is_empty; /* this instruction set has no matrix unit */
#endif
