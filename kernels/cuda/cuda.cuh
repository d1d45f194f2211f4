/* cuda.cuh - private to kernels/cuda: the state of a CUDA exec, how kernels are launched, and small device helpers.
 *
 * Stream order is the only order: every op enqueues on the exec's one stream. Kernels overlap their neighbours by
 * programmatic dependent launch (PDL): a kernel may start while its predecessor still runs. Hence one rule for every
 * kernel that cuda_launch starts:
 *
 *     pdl_trigger() early, so that the successor may come; pdl_wait() before the first read OR write of anything that is
 *     not a weight. Only weights (and other memory that no step writes) may be touched before it, and every thread block
 *     calls it before it ends, even one that has nothing to do, because the successor relies on it transitively.
 *
 * On chips before sm_90 both are empty and launches are ordinary. */
#pragma once

extern "C" {
#include "kernels/ops.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>
#include <stdint.h>

struct cuda_sampler; /* sample.cu */
struct cuda_lt;      /* linear_lt.cu */

enum { CUDA_CLAIMS = 128, CUDA_MOST_CLUSTER = 8 };
struct cuda_state { /* owned by the exec */
    cudaStream_t stream; /* owned, like the workspace, or borrowed from options.beside */
    int device, n_sms;
    int arch; /* 90 for sm_90: compute capability times ten */
    int clusters[CUDA_MOST_CLUSTER + 1]; /* [n]: of n blocks, that can run side by side, one block an SM; before sm_90 0 for
                                          * n > 1 */
    bool hopper; /* sm_90a code is in the build and this is such a chip: wgmma and TMA may be used */
    cudaEvent_t slots[EXEC_SLOTS];
    /* Scratch of one op, planned when the exec opens: an op may use all of it, and owns it until the next op. */
    void *workspace;
    size_t workspace_bytes;
    int32_t *claims; /* owned [CUDA_CLAIMS]: linear_small.cu, which counts before its predecessor is through */
    unsigned n_claims;
    struct cuda_sampler *sampler; /* owned: sample.cu */
    struct cuda_lt *lt;           /* owned: linear_lt.cu */
};

static inline struct cuda_state *cuda_of(struct exec *e) { return (struct cuda_state *)e->state; }

/* ---- errors: the first failure is latched in the exec -------------------------------------------------------------- */

#define CUDA_TRY(e, call)                                                                                              \
    do {                                                                                                               \
        cudaError_t cuda_try_ = (call);                                                                                \
        if (cuda_try_ != cudaSuccess) exec__fail(e, __func__, __FILE__, __LINE__, cudaGetErrorString(cuda_try_));      \
    } while (0)

/* ---- launching ------------------------------------------------------------------------------------------------------ */

/* Launches kernel(args...) on the exec's stream as a programmatic dependent launch, in clusters of `cluster` blocks along x,
 * and latches a failure. The kernel keeps the rule above. Dynamic shared memory above 48 KB must have been allowed once
 * (cuda_allow_smem). */
template <typename... P, typename... A>
static inline void cuda_launch_(struct exec *e, const char *op, const char *file, int line, void (*kernel)(P...), dim3 grid,
                                int cluster, dim3 block, size_t smem, const A &...args) {
    struct cuda_state *s = cuda_of(e);
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = s->stream;
    config.attrs = attributes;
    config.numAttrs = s->arch < 90 ? 0 : cluster > 1 ? 2 : 1;
    /* One division of L1 and shared memory for all kernels: an SM must run empty before it can change it, and then no
     * kernel would overlap its neighbour. */
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                              cudaSharedmemCarveoutMaxShared);
    if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
    if (status != cudaSuccess) exec__fail(e, op, file, line, cudaGetErrorString(status));
}
#define cuda_launch_clusters(e, kernel, grid, cluster, block, smem, ...)                                               \
    cuda_launch_(e, __func__, __FILE__, __LINE__, kernel, dim3(grid), cluster, dim3(block), smem, __VA_ARGS__)
#define cuda_launch(e, kernel, grid, block, smem, ...) cuda_launch_clusters(e, kernel, grid, 1, block, smem, __VA_ARGS__)

/* Allows a kernel so much dynamic shared memory. Cheap, so launchers just call it each time they need more than 48 KB. */
template <typename K> static inline void cuda_allow_smem(struct exec *e, K *kernel, size_t bytes) {
    CUDA_TRY(e, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

static inline int div_up(int a, int b) { return (a + b - 1) / b; }

/* ---- device helpers ------------------------------------------------------------------------------------------------- */

#ifdef __CUDACC__

__device__ static inline void pdl_trigger(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ static inline void pdl_wait(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Number formats: act types are float, __nv_bfloat16, __half. to_act rounds to nearest even. */
__device__ static inline float to_float(float x) { return x; }
__device__ static inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ static inline float to_float(__half x) { return __half2float(x); }
template <typename A> __device__ static inline A to_act(float x);
template <> __device__ inline float to_act<float>(float x) { return x; }
template <> __device__ inline __nv_bfloat16 to_act<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline __half to_act<__half>(float x) { return __float2half_rn(x); }
/* x rounded to A and back. */
template <typename A> __device__ static inline float round_to(float x) { return to_float(to_act<A>(x)); }

/* The sum over a warp in one fixed tree; every lane gets it. */
__device__ static inline float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}
__device__ static inline float warp_max(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

/* Layer `layer` of the block that starts at `granule`, as kernels.h lays it out. */
__device__ static inline char *kv_block(const struct kv_cache &kv, int layer, int32_t granule) {
    return (char *)kv.pool + (size_t)granule * kv.layout.granule_bytes + (size_t)layer * kv.layout.layer_bytes;
}

#endif

/* ---- the ops: one file per family. Contracts are those of kernels.h. ------------------------------------------------- */

/* upload.cu */
void cuda__upload_all(struct exec *e, const struct transfer *transfers, size_t n);

/* elementwise.cu */
void cuda__embed(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table, int T);
void cuda__gather_rows(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C);
void cuda__silu_mul(struct exec *e, void *out, const void *gate_up, int T, int F);
void cuda__add(struct exec *e, void *residual, const void *h, int T, int C);
void cuda__embed_sum(struct exec *e, void *x, const struct matrix *word, const struct matrix *position, const void *type,
                     const struct ragged *texts);
void cuda__gelu(struct exec *e, void *x, int T, int F);
void cuda__fill_random(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed);

/* norm.cu */
void cuda__rms_norm(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps);

/* layer_norm.cu, pool.cu */
void cuda__layer_norm(struct exec *e, void *out, const void *x, const void *residual, const void *weight,
                      const void *bias, int T, int C, float eps);
void cuda__pool_texts(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                      enum pooling pooling, bool normalize);

/* rope.cu */
void cuda__qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                              const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                              const struct batch *batch, int H, float eps);

/* attention.cu picks; each of the others returns false, having done nothing, for what it does not cover. The decode
 * kernel takes sequences 0 .. n_decode-1, the prefill kernel the rest, the simple one any range of tokens. */
void cuda__attention(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                     const struct rope *rope, const struct batch *batch, int H);
bool cuda__attention_decode(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                            const struct rope *rope, const struct batch *batch, int H);
bool cuda__attention_prefill(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                             const void *k_bias, const struct rope *rope, const struct batch *batch, int H);
void cuda__attention_simple(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                            const struct rope *rope, const struct batch *batch, int H, int first_token, int n_tokens);

/* attention_full.cu picks: attention_prefill.cu's kernel, which returns false for what it does not cover; its own; the
 * simple one. */
void cuda__attention_full(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);
bool cuda__attention_texts(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);
void cuda__attention_full_simple(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);

/* attention_few.cu: qk_norm_rope_store and attention in one, where it covers both. */
bool cuda__rope_attention(struct exec *e, void *o, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                          const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                          const struct batch *batch, int H, float eps);

/* linear.cu picks by format, dtype and T */
void cuda__linear(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T);
void cuda__linear_f32(struct exec *e, float *y, const void *x, const struct matrix *w, int T);
bool cuda__linear_add(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T);
bool cuda__norm_linear(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                       const struct matrix *w, const void *bias, int T);
bool cuda__norm_linear_silu_mul(struct exec *e, void *out, void *gate_up, void *x, const void *residual, const void *norm,
                                float eps, const struct matrix *w, int T);

/* What a linear does with its sums: rows of y are rounded to act, or kept in fp32. */
enum epilogue {
    EPILOGUE_STORE,    /* y = round(sum + bias) */
    EPILOGUE_F32,      /* y = sum, fp32 */
    EPILOGUE_ADD,      /* y = round(y + round(sum)): the residual */
    EPILOGUE_SILU_MUL, /* y [T, F] = round(round(silu(round(gate))) * round(up)); gate is row n, up row F + n of w */
};
struct linear_args {
    void *y;           /* [T, rows] act, or f32; [T, rows / 2] for SILU_MUL */
    const void *x;     /* [T, cols] act */
    const struct matrix *w;
    const void *bias;  /* [rows] act or NULL; EPILOGUE_STORE only */
    enum epilogue epilogue;
    int T;
    const void *norm;  /* [cols] act or NULL: x is normalised first, as rms_norm does (norm.cuh) */
    float eps;
};
/* Each returns false, having done nothing, for what it does not cover. */
bool cuda__dense_small(struct exec *e, const struct linear_args *a); /* linear_small.cu: bf16, f16; few tokens */
bool cuda__awq_few(struct exec *e, const struct linear_args *a);     /* awq_few.cu: up to 16 tokens */
bool cuda__awq_mid(struct exec *e, const struct linear_args *a);     /* awq_mid.cu: up to 64 tokens, wgmma */
bool cuda__awq_large(struct exec *e, const struct linear_args *a);   /* awq_large.cu: many tokens, wgmma */
void cuda__linear_simple(struct exec *e, const struct linear_args *a); /* linear_simple.cu: anything, slowly */
/* linear_lt.cu: cuBLASLt with plans cached per shape, for dense weights of the act dtype; all but SILU_MUL and norm. It
 * uses the first LT_WORKSPACE_BYTES of the workspace. Strided: rows of y are `stride` elements apart. */
enum { LT_WORKSPACE_BYTES = 32 << 20 };
int cuda__lt_open(struct exec *e, char *err, size_t err_bytes);
void cuda__lt_close(struct exec *e);
bool cuda__linear_lt(struct exec *e, const struct linear_args *a);
bool cuda__linear_lt_strided(struct exec *e, const struct linear_args *a, int stride);

/* probe.cu */
void cuda__probe_read(struct exec *e, uint32_t *out, const void *p, size_t bytes);
bool cuda__library_linear(struct exec *e, void *y, const void *x, const struct matrix *w, int T);

/* awq_pack.cu */
size_t cuda__awq_bytes(int rows, int cols, int group);
void cuda__awq_layout(struct matrix *w, void *base);
void cuda__awq_pack(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
                    const int32_t *qzeros, const uint16_t *scales);
/* Rows first_row .. first_row + n_rows - 1 as a dense f16 matrix [n_rows, cols]: for the large-T fallback and for tests. */
extern "C" void cuda__awq_unpack(struct exec *e, void *dense, const struct matrix *w, int first_row, int n_rows);

/* quantize.cu */
void cuda__awq_round(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule);
void cuda__awq_quantize(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                        const struct awq_rule *rule, const float *divisor);
void cuda__awq_clip(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s);
void cuda__gram_add(struct exec *e, float *gram, const void *x, int T, int C);
void cuda__column_abs_add(struct exec *e, float *sums, const void *x, int T, int C);
void cuda__row_distance_add(struct exec *e, float *sums, const void *a, const void *b, int T, int C);

/* sample.cu */
int cuda__sampler_open(struct exec *e, char *err, size_t err_bytes);
void cuda__sampler_close(struct exec *e);
unsigned cuda__sample_set(struct exec *e, const struct sample_params *params, int R, int V);
void cuda__sample(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V);
void cuda__token_logprobs(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                          const int32_t *targets, const int *n_top, int R, int V);
