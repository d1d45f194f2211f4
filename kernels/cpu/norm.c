/* norm.c - RMSNorm, alone and after the residual add, and the plain residual add.
 *
 *     y = round(x / sqrt(mean(x^2) + eps)) * w                  x, y [T, C], w [C]
 *     add_rms_norm: r = round(r + h), then y = norm(r)
 * round() is to the activation format: Hugging Face casts the normalised value before it multiplies.
 *
 * The sum of squares runs over C in vectors of LANES, four partial sums in turn, folded as a fixed tree. A token is one
 * thread's work. Reads 2C (3C with the residual) and writes C (2C) elements a token. */
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

INLINE void norm_row_as(float *out, const float *x, const char *w, int C, float scale, enum dtype act) {
    size_t b = dtype_bytes(act);
    int i = 0;
    for (; i + LANES <= C; i += LANES)
        vf_store(out + i, vf_round(vf_load(x + i) * scale, act) * vf_widen(w + i * b, act));
    for (; i < C; i++) out[i] = f32_round(x[i] * scale, act) * f32_widen(w + i * b, act);
}

void CPU(norm_row)(float *out, const float *x, const void *weight, int C, float eps, enum dtype act) {
    float scale = 1.0f / sqrtf(sum_squares(x, C) / (float)C + eps);
    if (act == DTYPE_BF16) norm_row_as(out, x, weight, C, scale, DTYPE_BF16);
    else if (act == DTYPE_F16) norm_row_as(out, x, weight, C, scale, DTYPE_F16);
    else norm_row_as(out, x, weight, C, scale, DTYPE_F32);
}

/* x [C] from `row`, followed by zeros for sum_squares. */
static void load_row(float *x, const void *row, int C, enum dtype act) {
    row_widen(x, row, (size_t)C, act);
    memset(x + C, 0, (ROW_FLOATS(C) - (size_t)C) * sizeof *x);
}

struct norm {
    struct exec *e;
    char *out;
    const char *h;
    char *residual;     /* NULL: norm of h alone */
    const void *weight; /* NULL: the add alone, out unused */
    int C;
    float eps;
};

static void norm_rows(void *arg, struct share *share) {
    const struct norm *o = arg;
    enum dtype act = o->e->options.dtype;
    int C = o->C;
    size_t row = (size_t)C * dtype_bytes(act);
    float *x = scratch_of(o->e, share), *y = x + cpu_of(o->e)->row_floats;
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            load_row(x, o->h + t * row, C, act);
            if (o->residual) {
                char *r = o->residual + t * row;
                row_widen(y, r, (size_t)C, act);
                for (int i = 0; i < C; i++) y[i] += x[i];
                row_narrow(r, y, (size_t)C, act);
                if (o->weight) load_row(x, r, C, act);
            }
            if (!o->weight) continue;
            CPU(norm_row)(x, x, o->weight, C, o->eps, act);
            row_narrow(o->out + t * row, x, (size_t)C, act);
        }
}

void CPU(rms_norm)(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps) {
    struct norm o = {.e = e, .out = out, .h = h, .weight = weight, .C = C, .eps = eps};
    parallel(e, T, rows_per_part(C), norm_rows, &o);
}

void CPU(add_rms_norm)(struct exec *e, void *out, const void *h, void *residual, const void *weight, int T, int C,
                       float eps) {
    struct norm o = {.e = e, .out = out, .h = h, .residual = residual, .weight = weight, .C = C, .eps = eps};
    parallel(e, T, rows_per_part(C), norm_rows, &o);
}

void CPU(add)(struct exec *e, void *residual, const void *h, int T, int C) {
    struct norm o = {.e = e, .h = h, .residual = residual, .C = C};
    parallel(e, T, rows_per_part(C), norm_rows, &o);
}
