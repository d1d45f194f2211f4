/* pool.c - one vector for each text.
 *
 *     CLS:   v = x[start[b]]
 *     mean:  v = (sum over the text's tokens of x[t]) / their number
 *     normalize: v = v / max(|v|, 1e-12)                        x [T, C], out [B, C] f32
 * Order: each column is summed over ascending t in fp32; |v|^2 runs over C in vectors of LANES, folded as a fixed tree.
 * A text is one thread's work. Reads C elements a token (CLS: a text). */
#include "kernels/cpu/cpu.h"

struct pool {
    struct exec *e;
    float *out;
    const char *x;
    const struct ragged *texts;
    size_t C;
    enum pooling pooling;
    bool normalize;
};

/* v += x, a row of the activations. */
INLINE void add_row_as(float *v, const char *x, size_t C, enum dtype act) {
    size_t b = dtype_bytes(act), i = 0;
    for (; i + LANES <= C; i += LANES) vf_store(v + i, vf_load(v + i) + vf_widen(x + i * b, act));
    for (; i < C; i++) v[i] += f32_widen(x + i * b, act);
}

static void add_row(float *v, const char *x, size_t C, enum dtype act) {
    if (act == DTYPE_BF16) add_row_as(v, x, C, DTYPE_BF16);
    else if (act == DTYPE_F16) add_row_as(v, x, C, DTYPE_F16);
    else add_row_as(v, x, C, DTYPE_F32);
}

static float length(const float *v, size_t C) {
    vf s = {0};
    size_t i = 0;
    float rest = 0;
    for (; i + LANES <= C; i += LANES) s = vf_fma(vf_load(v + i), vf_load(v + i), s);
    for (; i < C; i++) rest += v[i] * v[i];
    return sqrtf(vf_sum(s) + rest);
}

static void pool_some(void *arg, struct share *share) {
    const struct pool *o = arg;
    const int32_t *start = o->texts->start;
    enum dtype act = o->e->options.dtype;
    const size_t C = o->C, row = C * dtype_bytes(act);
    for (int b, last; threads_take(share, &b, &last);)
        for (; b < last; b++) {
            float *v = o->out + (size_t)b * C, divisor;
            row_widen(v, o->x + (size_t)start[b] * row, C, act);
            if (o->pooling == POOLING_MEAN) {
                for (int t = start[b] + 1; t < start[b + 1]; t++) add_row(v, o->x + (size_t)t * row, C, act);
                divisor = (float)(start[b + 1] - start[b]);
                for (size_t i = 0; i < C; i++) v[i] /= divisor;
            }
            if (!o->normalize) continue;
            divisor = fmaxf(length(v, C), 1e-12f);
            for (size_t i = 0; i < C; i++) v[i] /= divisor;
        }
}

void CPU(pool_texts)(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                     enum pooling pooling, bool normalize) {
    struct pool o = {.e = e, .out = out, .x = x, .texts = texts, .C = (size_t)C, .pooling = pooling,
                     .normalize = normalize};
    parallel(e, texts->B, 1, pool_some, &o);
}
