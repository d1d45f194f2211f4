/* activation.c - what stands between the two halves of a feed-forward block.
 *
 *     out = round(gate / (1 + e^-gate)) * up                    gate_up [T, 2F]: gate | up, out [T, F]
 *     x = x (1 + erf(x / sqrt(2))) / 2                          x [T, F]
 * Elementwise, so no order to keep. Reads 2F (gelu: F) and writes F elements a token. */
#include "kernels/cpu/cpu.h"

INLINE void silu_mul_row(char *out, const char *gate, int F, float *pad, enum dtype act) {
    size_t b = dtype_bytes(act);
    const char *up = gate + (size_t)F * b;
    int i = 0;
    for (; i + LANES <= F; i += LANES)
        vf_narrow(out + i * b, vf_silu_mul(vf_widen(gate + i * b, act), vf_widen(up + i * b, act), act), act);
    if (i == F) return;
    /* The last lanes go through the same arithmetic, padded with zeros. */
    int rest = F - i;
    memset(pad, 0, 2 * LANES * sizeof *pad);
    row_widen_as(pad, gate + i * b, (size_t)rest, act);
    row_widen_as(pad + LANES, up + i * b, (size_t)rest, act);
    vf_store(pad, vf_silu_mul(vf_load(pad), vf_load(pad + LANES), act));
    row_narrow_as(out + i * b, pad, (size_t)rest, act);
}

struct activation {
    struct exec *e;
    char *out;
    const char *gate_up; /* gelu: none, out is the input too */
    int F;
};

static void silu_mul_rows(void *arg, struct share *share) {
    const struct activation *o = arg;
    enum dtype act = o->e->options.dtype;
    size_t row = (size_t)o->F * dtype_bytes(act);
    float *pad = scratch_of(o->e, share);
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) {
            char *y = o->out + t * row;
            const char *g = o->gate_up + 2 * t * row;
            if (act == DTYPE_BF16) silu_mul_row(y, g, o->F, pad, DTYPE_BF16);
            else if (act == DTYPE_F16) silu_mul_row(y, g, o->F, pad, DTYPE_F16);
            else silu_mul_row(y, g, o->F, pad, DTYPE_F32);
        }
}

void CPU(silu_mul)(struct exec *e, void *out, const void *gate_up, int T, int F) {
    struct activation o = {.e = e, .out = out, .gate_up = gate_up, .F = F};
    parallel(e, T, rows_per_part(4 * F), silu_mul_rows, &o); /* an exponential and a division count for some */
}

/* ---- gelu -------------------------------------------------------------------------------------------------------- */

/* n elements at x, as one row: which of them share a vector is of no account. */
INLINE void gelu_row(char *x, size_t n, float *pad, enum dtype act) {
    const size_t b = dtype_bytes(act);
    size_t i = 0;
#define GELU(v) (0.5f * (v) * (1.0f + vf_erf((v) * 0.70710678f)))
    for (; i + LANES <= n; i += LANES) {
        vf v = vf_widen(x + i * b, act);
        vf_narrow(x + i * b, GELU(v), act);
    }
    if (i == n) return;
    memset(pad, 0, LANES * sizeof *pad);
    row_widen_as(pad, x + i * b, n - i, act);
    vf v = vf_load(pad);
    vf_store(pad, GELU(v));
    row_narrow_as(x + i * b, pad, n - i, act);
#undef GELU
}

static void gelu_rows(void *arg, struct share *share) {
    const struct activation *o = arg;
    enum dtype act = o->e->options.dtype;
    size_t F = (size_t)o->F, row = F * dtype_bytes(act);
    float *pad = scratch_of(o->e, share);
    for (int first, last; threads_take(share, &first, &last);) {
        size_t n = (size_t)(last - first) * F;
        if (act == DTYPE_BF16) gelu_row(o->out + first * row, n, pad, DTYPE_BF16);
        else if (act == DTYPE_F16) gelu_row(o->out + first * row, n, pad, DTYPE_F16);
        else gelu_row(o->out + first * row, n, pad, DTYPE_F32);
    }
}

void CPU(gelu)(struct exec *e, void *x, int T, int F) {
    struct activation o = {.e = e, .out = x, .F = F};
    parallel(e, T, rows_per_part(4 * F), gelu_rows, &o);
}
