/* linear.cu - which kernel a matrix product runs on.
 *
 * Few tokens: our own kernels, which read the weights once at memory speed, normalise x on the way in where a norm comes
 * first, and apply the epilogue (bias, residual, silu * up). Many tokens: cuBLASLt for dense weights, wgmma on 4-bit
 * weights for AWQ; norms and epilogues that these lack are passes of their own. What nothing else covers goes to the
 * simple kernel.
 *
 * Which kernel runs depends on (format, dtype, rows, cols) and T alone. */
#include "kernels/cuda/cuda.cuh"

/* Bytes of a dense copy of some rows of an AWQ matrix: little enough to stay in the L2 between the two passes. It lies in
 * the workspace behind cuBLASLt's part. */
enum { DENSE_ROWS_BYTES = 24 << 20 };

/* y = x W' through dense copies of W, some rows at a time. */
static bool awq_as_dense(struct exec *e, const struct linear_args *a) {
    struct cuda_state *s = cuda_of(e);
    const struct matrix *w = a->w;
    const size_t row_bytes = (size_t)w->cols * dtype_bytes(DTYPE_F16);
    int most = (int)(DENSE_ROWS_BYTES / row_bytes) / 128 * 128; /* whole tiles of the product */
    if (a->epilogue == EPILOGUE_SILU_MUL || a->norm || most == 0) return false;
    if (most > w->rows) most = w->rows;
    void *dense = (char *)s->workspace + LT_WORKSPACE_BYTES;
    const size_t y_bytes = dtype_bytes(a->epilogue == EPILOGUE_F32 ? DTYPE_F32 : e->options.dtype);
    for (int row = 0; row < w->rows; row += most) {
        const int n = w->rows - row < most ? w->rows - row : most;
        const struct matrix part = {.format = MATRIX_DENSE, .dtype = DTYPE_F16, .rows = n, .cols = w->cols, .data = dense};
        struct linear_args b = *a;
        b.w = &part;
        b.y = (char *)a->y + (size_t)row * y_bytes;
        if (a->bias) b.bias = (const char *)a->bias + (size_t)row * dtype_bytes(e->options.dtype);
        cuda__awq_unpack(e, dense, w, row, n);
        if (cuda__linear_lt_strided(e, &b, w->rows)) continue;
        if (row == 0) return false;
        exec__fail(e, __func__, __FILE__, __LINE__, "cuBLASLt covers some rows of a matrix and not all");
    }
    return true;
}

/* False when only the simple kernel covers it, or nothing in one pass. */
static bool fast(struct exec *e, const struct linear_args *a) {
    if (a->w->format == MATRIX_AWQ)
        return cuda__awq_few(e, a) || cuda__awq_mid(e, a) || cuda__awq_large(e, a) || awq_as_dense(e, a);
    return cuda__dense_small(e, a) || cuda__linear_lt(e, a);
}

/* The same for a product whose x is normalised on the way in. */
static bool fast_normed(struct exec *e, const struct linear_args *a) {
    if (a->w->format == MATRIX_AWQ) return cuda__awq_few(e, a);
    return cuda__dense_small(e, a);
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
    run(e, &a);
    return true;
}

bool cuda__norm_linear(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                       const struct matrix *w, const void *bias, int T) {
    const struct linear_args fused = {.y = y, .x = residual, .w = w, .bias = bias, .epilogue = EPILOGUE_STORE, .T = T,
                                      .norm = norm, .eps = eps};
    if (fast_normed(e, &fused)) return true;
    cuda__rms_norm(e, x, residual, norm, T, w->cols, eps);
    cuda__linear(e, y, x, w, bias, T);
    return true;
}

bool cuda__norm_linear_silu_mul(struct exec *e, void *out, void *gate_up, void *x, const void *residual, const void *norm,
                                float eps, const struct matrix *w, int T) {
    struct linear_args a = {.y = out, .x = residual, .w = w, .bias = NULL, .epilogue = EPILOGUE_SILU_MUL, .T = T,
                            .norm = norm, .eps = eps};
    if (fast_normed(e, &a)) return true;
    cuda__rms_norm(e, x, residual, norm, T, w->cols, eps);
    a.x = x;
    a.norm = NULL;
    if (fast(e, &a)) return true;
    cuda__linear(e, gate_up, x, w, NULL, T);
    cuda__silu_mul(e, out, gate_up, T, w->rows / 2);
    return true;
}
