/* linear.cu - which kernel a matrix product runs on.
 *
 * Few tokens: our own kernels, which read the weights once at memory speed and apply the epilogue (bias, residual,
 * silu * up). Many tokens: cuBLASLt for dense weights, wgmma on 4-bit weights for AWQ; epilogues that these lack follow
 * as a pass of their own. What nothing else covers goes to the simple kernel.
 *
 * Which kernel runs depends on (format, dtype, rows, cols) and T alone. */
#include "kernels/cuda/cuda.cuh"

/* y = x W' with an epilogue; false when only the simple kernel covers it. */
static bool fast(struct exec *e, const struct linear_args *a) {
    if (a->w->format == MATRIX_AWQ) return cuda__awq_small(e, a) || cuda__awq_large(e, a);
    return cuda__dense_small(e, a) || cuda__linear_lt(e, a);
}

static void run(struct exec *e, const struct linear_args *a) {
    if (!fast(e, a)) cuda__linear_simple(e, a);
}

void cuda__linear(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T) {
    const struct linear_args a = {.y = y, .x = x, .w = w, .bias = bias, .epilogue = EPILOGUE_STORE, .T = T};
    run(e, &a);
}

void cuda__linear_f32(struct exec *e, float *y, const void *x, const struct matrix *w, int T) {
    const struct linear_args a = {.y = y, .x = x, .w = w, .bias = NULL, .epilogue = EPILOGUE_F32, .T = T};
    run(e, &a);
}

bool cuda__linear_add(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T) {
    (void)h;
    const struct linear_args a = {.y = residual, .x = x, .w = w, .bias = NULL, .epilogue = EPILOGUE_ADD, .T = T};
    return fast(e, &a);
}

bool cuda__norm_linear(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                       const struct matrix *w, const void *bias, int T) {
    cuda__rms_norm(e, x, residual, norm, T, w->cols, eps);
    cuda__linear(e, y, x, w, bias, T);
    return true;
}

bool cuda__norm_linear_silu_mul(struct exec *e, void *out, void *gate_up, void *x, const void *residual, const void *norm,
                                float eps, const struct matrix *w, int T) {
    cuda__rms_norm(e, x, residual, norm, T, w->cols, eps);
    const struct linear_args fused = {.y = out, .x = x, .w = w, .bias = NULL, .epilogue = EPILOGUE_SILU_MUL, .T = T};
    if (fast(e, &fused)) return true;
    cuda__linear(e, gate_up, x, w, NULL, T);
    cuda__silu_mul(e, out, gate_up, T, w->rows / 2);
    return true;
}
