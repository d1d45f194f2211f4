/* linear_lt.cu - y = x W' for many tokens, by cuBLASLt.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k]  (+ bias[n], or + y[t, n])            x [T, K], w [N, K], y [T, N]
 *
 * cuBLASLt thinks in columns: our row-major w is its [K, N], x its [K, T] and y its [N, T], so the product is
 * y = op(w)' x. fp32 sums (f32 weights: no TF32), and reductions of split K in fp32 only; the sum, the bias or the
 * residual are added before the one rounding. (Hugging Face rounds the sum before it adds the residual; one rounding is
 * nearer to fp32 and saves a pass.)
 *
 * A plan is what cuBLASLt recommends for (N, K, epilogue, a bucket of T), asked for once. Deterministic: a plan is one
 * kernel, whose order of sums is fixed; but rows of y may change their last bit with the bucket.
 *
 * The handle takes long to create, so the first product creates it, not the exec. That, or a kernel's first launch, may
 * happen while a graph is recorded, hence the relaxed capture mode around every call. */
#include "kernels/cuda/cuda.cuh"

#include <stdlib.h>

enum { MAX_PLANS = 512 };

struct plan {
    int rows, cols, T;
    enum epilogue epilogue;
    bool bias;
    bool usable; /* false: cuBLASLt has nothing for it */
    cublasLtMatmulAlgo_t algo;
};

struct cuda_lt { /* owned by the exec's state */
    cublasLtHandle_t handle;
    struct plan plans[MAX_PLANS];
    int n_plans, oldest;
};

int cuda__lt_open(struct exec *e, char *err, size_t err_bytes) {
    struct cuda_lt *lt = (struct cuda_lt *)calloc(1, sizeof *lt);
    if (!lt) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for plans of matrix products");
    cuda_of(e)->lt = lt;
    return 0;
}

void cuda__lt_close(struct exec *e) {
    struct cuda_lt *lt = cuda_of(e)->lt;
    if (!lt) return;
    if (lt->handle) cublasLtDestroy(lt->handle);
    free(lt);
    cuda_of(e)->lt = NULL;
}

static cudaDataType_t type_of(enum dtype dtype) {
    return dtype == DTYPE_BF16 ? CUDA_R_16BF : dtype == DTYPE_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* T itself below 16, where kernels differ most, else rounded up to 16, 24, 32, 48, 64, 96, ..: a plan for so many
 * tokens serves somewhat smaller numbers well. */
static int bucket_of(int T) {
    if (T < 16) return T;
    int b = 16;
    while (b < T) b *= 2;
    return b > 16 && T <= b / 4 * 3 ? b / 4 * 3 : b;
}

/* What describes one product; rows of y are `stride` apart. */
struct product {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t w, x, y;
};

static cublasStatus_t describe(struct exec *e, struct product *p, const struct linear_args *a, int T, int stride) {
    const struct matrix *w = a->w;
    const cudaDataType_t act = type_of(e->options.dtype), out = a->epilogue == EPILOGUE_F32 ? CUDA_R_32F : act;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasStatus_t s = cublasLtMatmulDescInit(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s) s = cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (!s && a->bias) {
        const cublasLtEpilogue_t bias = CUBLASLT_EPILOGUE_BIAS;
        s = cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &bias, sizeof bias);
        if (!s) s = cublasLtMatmulDescSetAttribute(&p->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &a->bias, sizeof a->bias);
    }
    if (!s) s = cublasLtMatrixLayoutInit(&p->w, act, (uint64_t)w->cols, (uint64_t)w->rows, w->cols);
    if (!s) s = cublasLtMatrixLayoutInit(&p->x, act, (uint64_t)w->cols, (uint64_t)T, w->cols);
    if (!s) s = cublasLtMatrixLayoutInit(&p->y, out, (uint64_t)w->rows, (uint64_t)T, stride);
    return s;
}

static bool make_plan(struct cuda_lt *lt, struct plan *plan, struct product *p) {
    cublasLtMatmulPreferenceOpaque_t preference;
    const size_t bytes = LT_WORKSPACE_BYTES;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* others add up rounded parts */
    const uint32_t alignment = 16;
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;
    cublasStatus_t s = cublasLtMatmulPreferenceInit(&preference);
    if (!s) s = cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                                     sizeof bytes);
    if (!s) s = cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                     &reductions, sizeof reductions);
    const cublasLtMatmulPreferenceAttributes_t pointers[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (int i = 0; i < 4 && !s; i++)
        s = cublasLtMatmulPreferenceSetAttribute(&preference, pointers[i], &alignment, sizeof alignment);
    if (!s) s = cublasLtMatmulAlgoGetHeuristic(lt->handle, &p->op, &p->w, &p->x, &p->y, &p->y, &preference, 1, &result,
                                               &n);
    if (s || n < 1 || result.state) return false;
    plan->algo = result.algo;
    return true;
}

static const struct plan *find_plan(struct exec *e, const struct linear_args *a, int stride) {
    struct cuda_lt *lt = cuda_of(e)->lt;
    const int T = bucket_of(a->T);
    for (int i = 0; i < lt->n_plans; i++) {
        const struct plan *p = &lt->plans[i];
        const bool same_shape = p->rows == a->w->rows && p->cols == a->w->cols && p->T == T;
        if (same_shape && p->epilogue == a->epilogue && p->bias == !!a->bias) return p;
    }
    if (!lt->handle && cublasLtCreate(&lt->handle)) {
        lt->handle = NULL;
        return NULL;
    }
    struct plan *plan;
    if (lt->n_plans < MAX_PLANS) plan = &lt->plans[lt->n_plans++];
    else plan = &lt->plans[lt->oldest++ % MAX_PLANS];
    *plan = (struct plan){.rows = a->w->rows, .cols = a->w->cols, .T = T, .epilogue = a->epilogue, .bias = !!a->bias};
    struct product product;
    plan->usable = !describe(e, &product, a, T, stride) && make_plan(lt, plan, &product);
    return plan;
}

static cublasStatus_t multiply(struct exec *e, const struct plan *plan, const struct linear_args *a, int stride) {
    struct cuda_state *s = cuda_of(e);
    struct product p;
    const float one = 1, zero = 0;
    cublasStatus_t status = describe(e, &p, a, a->T, stride);
    if (status) return status;
    const float *beta = a->epilogue == EPILOGUE_ADD ? &one : &zero;
    return cublasLtMatmul(s->lt->handle, &p.op, &one, a->w->data, &p.w, a->x, &p.x, beta, a->y, &p.y, a->y, &p.y,
                          &plan->algo, s->workspace, LT_WORKSPACE_BYTES, s->stream);
}

bool cuda__linear_lt_strided(struct exec *e, const struct linear_args *a, int stride) {
    if (a->w->format != MATRIX_DENSE || a->w->dtype != e->options.dtype || a->epilogue == EPILOGUE_SILU_MUL || a->norm)
        return false;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    CUDA_TRY(e, cudaThreadExchangeStreamCaptureMode(&mode));
    const struct plan *plan = find_plan(e, a, stride);
    const bool usable = plan && plan->usable;
    const cublasStatus_t status = usable ? multiply(e, plan, a, stride) : CUBLAS_STATUS_NOT_SUPPORTED;
    CUDA_TRY(e, cudaThreadExchangeStreamCaptureMode(&mode));
    if (status && status != CUBLAS_STATUS_NOT_SUPPORTED)
        exec__fail(e, __func__, __FILE__, __LINE__, cublasLtGetStatusString(status));
    return status != CUBLAS_STATUS_NOT_SUPPORTED; /* of a plan's smaller T, too: nothing has been launched then */
}

bool cuda__linear_lt(struct exec *e, const struct linear_args *a) { return cuda__linear_lt_strided(e, a, a->w->rows); }
