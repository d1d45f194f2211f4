/* norm.c - RMSNorm, LayerNorm and the residual add.
 *
 *     y = round(x / sqrt(mean(x^2) + eps)) * w                  x, y [T, C], w [C]
 *     d = h - mean(h),  y = d / sqrt(mean(d^2) + eps) * w + b   h = x, or round(x + r)
 *     r = round(r + h)                                          r, h [T, C]
 * round() is to the activation format: Hugging Face casts the normalised value before it multiplies.
 *
 * Sums run over C in vectors of LANES, four partial sums in turn, folded as a fixed tree. A token is one thread's work.
 * Reads 2C (with a residual 3C) and writes C elements a token. */
#include "kernels/cpu/cpu.h"

/* The sum of squares of x [C], which is padded with zeros to a multiple of 4 * LANES. */
static float sum_squares(const float *x, int C) {
    vf s[4] = {{0}, {0}, {0}, {0}};
    for (int i = 0; i < C; i += 4 * LANES)
        for (int j = 0; j < 4; j++) {
            vf v = vf_load(x + i + j * LANES);
            s[j] = vf_fma(v, v, s[j]);
        }
    return vf_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* out [C] of format `to` = round(x * scale) * w. */
INLINE void norm_row_as(char *out, const float *x, const char *w, int C, float scale, enum dtype act, enum dtype to) {
    size_t b = dtype_bytes(act), ob = dtype_bytes(to);
    int i = 0;
    for (; i + LANES <= C; i += LANES)
        vf_narrow(out + i * ob, vf_round(vf_load(x + i) * scale, act) * vf_widen(w + i * b, act), to);
    for (; i < C; i++) f32_narrow(out + i * ob, f32_round(x[i] * scale, act) * f32_widen(w + i * b, act), to);
}

static float norm_scale(const float *x, int C, float eps) { return 1.0f / sqrtf(sum_squares(x, C) / (float)C + eps); }

void CPU(norm_row)(float *out, const float *x, const void *weight, int C, float eps, enum dtype act) {
    float scale = norm_scale(x, C, eps);
    if (act == DTYPE_BF16) norm_row_as((char *)out, x, weight, C, scale, DTYPE_BF16, DTYPE_F32);
    else if (act == DTYPE_F16) norm_row_as((char *)out, x, weight, C, scale, DTYPE_F16, DTYPE_F32);
    else norm_row_as((char *)out, x, weight, C, scale, DTYPE_F32, DTYPE_F32);
}

struct rows {
    struct exec *e;
    char *out;
    const char *h;
    const void *weight; /* of the norm */
    int C;
    float eps;
};

INLINE void norm_rows_as(const struct rows *o, struct share *share, enum dtype act) {
    int C = o->C;
    size_t row = (size_t)C * dtype_bytes(act);
    float *x = scratch_of(o->e, share);
    memset(x + C, 0, (ROW_FLOATS(C) - (size_t)C) * sizeof *x); /* for sum_squares */
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            row_widen_as(x, o->h + t * row, (size_t)C, act);
            norm_row_as(o->out + t * row, x, o->weight, C, norm_scale(x, C, o->eps), act, act);
        }
}

static void norm_rows(void *arg, struct share *share) {
    const struct rows *o = arg;
    enum dtype act = o->e->options.dtype;
    if (act == DTYPE_BF16) norm_rows_as(o, share, DTYPE_BF16);
    else if (act == DTYPE_F16) norm_rows_as(o, share, DTYPE_F16);
    else norm_rows_as(o, share, DTYPE_F32);
}

void CPU(rms_norm)(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps) {
    struct rows o = {.e = e, .out = out, .h = h, .weight = weight, .C = C, .eps = eps};
    parallel(e, T, rows_per_part(C), norm_rows, &o);
}

/* ---- LayerNorm --------------------------------------------------------------------------------------------------- */

struct layer_norm {
    struct exec *e;
    char *out;
    const char *x, *residual;
    const char *weight, *bias;
    int C;
    float eps;
};

/* The sum of h [C], padded as for sum_squares. */
static float sum_row(const float *h, int C) {
    vf s[4] = {{0}, {0}, {0}, {0}};
    for (int i = 0; i < C; i += 4 * LANES)
        for (int j = 0; j < 4; j++) s[j] += vf_load(h + i + j * LANES);
    return vf_sum((s[0] + s[1]) + (s[2] + s[3]));
}

INLINE void layer_norm_row(char *out, float *h, const struct layer_norm *o, enum dtype act) {
    const int C = o->C;
    const size_t b = dtype_bytes(act);
    const float mean = sum_row(h, C) / (float)C;
    int i = 0;
    for (; i + LANES <= C; i += LANES) vf_store(h + i, vf_load(h + i) - mean);
    for (; i < C; i++) h[i] -= mean;
    const float scale = norm_scale(h, C, o->eps);
    for (i = 0; i + LANES <= C; i += LANES) {
        vf w = vf_widen(o->weight + i * b, act), bias = vf_widen(o->bias + i * b, act);
        vf_narrow(out + i * b, vf_load(h + i) * scale * w + bias, act);
    }
    for (; i < C; i++) {
        float w = f32_widen(o->weight + i * b, act), bias = f32_widen(o->bias + i * b, act);
        f32_narrow(out + i * b, h[i] * scale * w + bias, act);
    }
}

INLINE void layer_norm_rows_as(const struct layer_norm *o, struct share *share, enum dtype act) {
    const int C = o->C;
    const size_t b = dtype_bytes(act), row = (size_t)C * b;
    float *h = scratch_of(o->e, share);
    memset(h + C, 0, (ROW_FLOATS(C) - (size_t)C) * sizeof *h); /* for the sums */
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            const char *x = o->x + t * row, *r = o->residual ? o->residual + t * row : NULL;
            int i = 0;
            if (!r) row_widen_as(h, x, (size_t)C, act);
            for (; r && i + LANES <= C; i += LANES)
                vf_store(h + i, vf_round(vf_widen(x + i * b, act) + vf_widen(r + i * b, act), act));
            for (; r && i < C; i++) h[i] = f32_round(f32_widen(x + i * b, act) + f32_widen(r + i * b, act), act);
            layer_norm_row(o->out + t * row, h, o, act);
        }
}

static void layer_norm_rows(void *arg, struct share *share) {
    const struct layer_norm *o = arg;
    enum dtype act = o->e->options.dtype;
    if (act == DTYPE_BF16) layer_norm_rows_as(o, share, DTYPE_BF16);
    else if (act == DTYPE_F16) layer_norm_rows_as(o, share, DTYPE_F16);
    else layer_norm_rows_as(o, share, DTYPE_F32);
}

void CPU(layer_norm)(struct exec *e, void *out, const void *x, const void *residual, const void *weight,
                     const void *bias, int T, int C, float eps) {
    struct layer_norm o = {.e = e, .out = out, .x = x, .residual = residual, .weight = weight, .bias = bias, .C = C,
                           .eps = eps};
    parallel(e, T, rows_per_part(C), layer_norm_rows, &o);
}

/* ---- the residual add -------------------------------------------------------------------------------------------- */

INLINE void add_rows_as(const struct rows *o, struct share *share, enum dtype act) {
    size_t C = (size_t)o->C, b = dtype_bytes(act);
    for (int first, last; threads_take(share, &first, &last);) {
        size_t i = first * C, end = last * C;
        for (; i + LANES <= end; i += LANES)
            vf_narrow(o->out + i * b, vf_round(vf_widen(o->out + i * b, act) + vf_widen(o->h + i * b, act), act), act);
        for (; i < end; i++)
            f32_narrow(o->out + i * b, f32_round(f32_widen(o->out + i * b, act) + f32_widen(o->h + i * b, act), act),
                       act);
    }
}

static void add_rows(void *arg, struct share *share) {
    const struct rows *o = arg;
    enum dtype act = o->e->options.dtype;
    if (act == DTYPE_BF16) add_rows_as(o, share, DTYPE_BF16);
    else if (act == DTYPE_F16) add_rows_as(o, share, DTYPE_F16);
    else add_rows_as(o, share, DTYPE_F32);
}

void CPU(add)(struct exec *e, void *residual, const void *h, int T, int C) {
    struct rows o = {.e = e, .out = residual, .h = h, .C = C};
    parallel(e, T, rows_per_part(C), add_rows, &o);
}
