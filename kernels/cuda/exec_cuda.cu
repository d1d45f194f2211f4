/* exec_cuda.cu - the CUDA backend's exec: the card, its stream, memory, transfers and graphs, and the table of ops.
 *
 * One stream per exec, or one for several that share a queue, and everything goes through it, so that order on the host
 * is order on the device. Memory is allocated when the engine opens and never while it serves. */
#include "kernels/cuda/cuda.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKSPACE_BYTES = 64 << 20 };

/* ---- opening --------------------------------------------------------------------------------------------------------- */

/* Loaded once for an architecture that this build has code for: a probe kernel tells. */
__global__ static void probe(void) {}

extern "C" bool cuda__usable(char *why, size_t why_bytes) {
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess || !n) {
        snprintf(why, why_bytes, "expected an NVIDIA GPU, found none (%s)", cudaGetErrorString(status));
        return false;
    }
    struct cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, probe);
    if (status == cudaSuccess) return true;
    struct cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, 0) == cudaSuccess)
        snprintf(why, why_bytes, "this build has no code for %s (sm_%d%d): configure with -DTANDEM_CUDA_ARCHS=%d%d", p.name,
                 p.major, p.minor, p.major, p.minor);
    else
        snprintf(why, why_bytes, "the GPU cannot be used: %s", cudaGetErrorString(status));
    cudaGetLastError(); /* so that no later call reports it */
    return false;
}

static void close_cuda(struct exec *e) {
    struct cuda_state *s = cuda_of(e);
    if (!s) return;
    if (s->stream) cudaStreamSynchronize(s->stream);
    cuda__sampler_close(e);
    cuda__lt_close(e);
    cudaFree(s->claims);
    for (int i = 0; i < EXEC_SLOTS; i++)
        if (s->slots[i]) cudaEventDestroy(s->slots[i]);
    if (!e->options.beside) {
        cudaFree(s->workspace);
        if (s->stream) cudaStreamDestroy(s->stream);
    }
    free(s);
    e->state = NULL;
}

/* How many clusters of each size fit at once depends on how many SMs each part of the chip has left. */
static void count_clusters(struct exec *e, size_t most_smem) {
    struct cuda_state *s = cuda_of(e);
    cuda_allow_smem(e, probe, most_smem);
    for (int n = 2; n <= CUDA_MOST_CLUSTER; n++) {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = n;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(n);
        config.blockDim = dim3(32);
        config.dynamicSmemBytes = most_smem;
        config.attrs = &attribute;
        config.numAttrs = 1;
        CUDA_TRY(e, cudaOccupancyMaxActiveClusters(&s->clusters[n], probe, &config));
    }
}

static int open_cuda(struct exec *e, char *err, size_t err_bytes) {
    struct cuda_state *s = (struct cuda_state *)calloc(1, sizeof *s);
    if (!s) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for an exec");
    e->state = s;
    struct cudaDeviceProp p;
    CUDA_TRY(e, cudaGetDevice(&s->device));
    CUDA_TRY(e, cudaGetDeviceProperties(&p, s->device));
    s->n_sms = p.multiProcessorCount;
    s->arch = p.major * 10 + p.minor;
    s->clusters[1] = s->n_sms;
    if (s->arch >= 90) count_clusters(e, p.sharedMemPerBlockOptin);
    for (int i = 0; i < EXEC_SLOTS; i++) CUDA_TRY(e, cudaEventCreate(&s->slots[i]));
    if (e->options.beside) {
        s->stream = cuda_of(e->options.beside)->stream;
        s->workspace = cuda_of(e->options.beside)->workspace;
    } else {
        CUDA_TRY(e, cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
        CUDA_TRY(e, cudaMalloc(&s->workspace, WORKSPACE_BYTES));
    }
    s->workspace_bytes = WORKSPACE_BYTES;
    CUDA_TRY(e, cudaMalloc((void **)&s->claims, CUDA_CLAIMS * sizeof *s->claims));
    if (s->claims) CUDA_TRY(e, cudaMemset(s->claims, 0, CUDA_CLAIMS * sizeof *s->claims));
    if (e->failed) {
        e->failed = false;
        return fail(err, err_bytes, STATUS_DEVICE, "the GPU cannot be opened: %s", e->failure);
    }
#if defined(TANDEM_SM90A)
    s->hopper = s->arch == 90;
#endif
    snprintf(e->label, sizeof e->label, "cuda, %.40s", p.name);
    int status = cuda__lt_open(e, err, err_bytes);
    if (!status) status = cuda__sampler_open(e, err, err_bytes);
    return status;
}

/* ---- memory and transfers ------------------------------------------------------------------------------------------- */

static void finish_cuda(struct exec *e) { CUDA_TRY(e, cudaStreamSynchronize(cuda_of(e)->stream)); }

static void *alloc_cuda(struct exec *e, size_t bytes) {
    void *p = NULL;
    if (cudaMalloc(&p, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError(); /* running out is the caller's to report */
        return NULL;
    }
    CUDA_TRY(e, cudaMemsetAsync(p, 0, bytes, cuda_of(e)->stream));
    return p;
}

static void free_cuda(struct exec *e, void *p) {
    cudaStreamSynchronize(cuda_of(e)->stream);
    cudaFree(p);
}

static void upload_async_cuda(struct exec *e, void *device, const void *host, size_t bytes) {
    CUDA_TRY(e, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda_of(e)->stream));
}

static void download_async_cuda(struct exec *e, void *host, const void *device, size_t bytes) {
    CUDA_TRY(e, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, cuda_of(e)->stream));
}

/* Pageable memory: the call returns when the host's side is free again. */
static void upload_cuda(struct exec *e, void *device, const void *host, size_t bytes) {
    upload_async_cuda(e, device, host, bytes);
    finish_cuda(e);
}

static void download_cuda(struct exec *e, void *host, const void *device, size_t bytes) {
    download_async_cuda(e, host, device, bytes);
    finish_cuda(e);
}

static void *alloc_host_cuda(struct exec *e, size_t bytes) {
    void *p = NULL;
    (void)e;
    if (cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    memset(p, 0, bytes);
    return p;
}

static void free_host_cuda(struct exec *e, void *p) {
    (void)e;
    cudaFreeHost(p);
}

static void memory_cuda(const struct exec *e, size_t *free_bytes, size_t *total_bytes) {
    (void)e;
    if (cudaMemGetInfo(free_bytes, total_bytes) != cudaSuccess) *free_bytes = *total_bytes = 0;
}

/* ---- running ahead -------------------------------------------------------------------------------------------------- */

static void record_cuda(struct exec *e, int slot) {
    CUDA_TRY(e, cudaEventRecord(cuda_of(e)->slots[slot], cuda_of(e)->stream));
}

static void wait_cuda(struct exec *e, int slot) { CUDA_TRY(e, cudaEventSynchronize(cuda_of(e)->slots[slot])); }

static double elapsed_cuda(struct exec *e, int from_slot, int to_slot) {
    float ms = 0;
    CUDA_TRY(e, cudaEventElapsedTime(&ms, cuda_of(e)->slots[from_slot], cuda_of(e)->slots[to_slot]));
    return 1e-3 * ms;
}

struct exec_graph {
    cudaGraphExec_t exec;
};

static bool graph_begin_cuda(struct exec *e) {
    CUDA_TRY(e, cudaStreamBeginCapture(cuda_of(e)->stream, cudaStreamCaptureModeThreadLocal));
    return !e->failed;
}

static struct exec_graph *graph_end_cuda(struct exec *e) {
    cudaGraph_t recorded = NULL;
    struct exec_graph *graph = (struct exec_graph *)calloc(1, sizeof *graph);
    CUDA_TRY(e, cudaStreamEndCapture(cuda_of(e)->stream, &recorded)); /* also after a failure: capturing must end */
    if (!graph) exec__fail(e, __func__, __FILE__, __LINE__, "no memory for a graph");
    if (!e->failed) CUDA_TRY(e, cudaGraphInstantiate(&graph->exec, recorded, 0));
    if (!e->failed) CUDA_TRY(e, cudaGraphUpload(graph->exec, cuda_of(e)->stream));
    if (recorded) cudaGraphDestroy(recorded);
    if (!e->failed) return graph;
    free(graph);
    return NULL;
}

static void graph_launch_cuda(struct exec *e, struct exec_graph *graph) {
    CUDA_TRY(e, cudaGraphLaunch(graph->exec, cuda_of(e)->stream));
}

static void graph_close_cuda(struct exec *e, struct exec_graph *graph) {
    (void)e;
    if (graph->exec) cudaGraphExecDestroy(graph->exec);
    free(graph);
}

/* ---- the table ------------------------------------------------------------------------------------------------------- */

extern "C" const struct kernel_ops cuda_ops = {
    .name = "cuda",
    .is_gpu = true,
    .open = open_cuda,
    .close = close_cuda,
    .finish = finish_cuda,
    .alloc = alloc_cuda,
    .free = free_cuda,
    .upload = upload_cuda,
    .download = download_cuda,
    .upload_all = cuda__upload_all,
    .memory = memory_cuda,
    .alloc_host = alloc_host_cuda,
    .free_host = free_host_cuda,
    .upload_async = upload_async_cuda,
    .download_async = download_async_cuda,
    .record = record_cuda,
    .wait = wait_cuda,
    .elapsed = elapsed_cuda,
    .graph_begin = graph_begin_cuda,
    .graph_end = graph_end_cuda,
    .graph_launch = graph_launch_cuda,
    .graph_close = graph_close_cuda,
    .embed = cuda__embed,
    .rms_norm = cuda__rms_norm,
    .linear = cuda__linear,
    .linear_f32 = cuda__linear_f32,
    .qk_norm_rope_store = cuda__qk_norm_rope_store,
    .attention = cuda__attention,
    .silu_mul = cuda__silu_mul,
    .add = cuda__add,
    .gather_rows = cuda__gather_rows,
    .embed_sum = cuda__embed_sum,
    .layer_norm = cuda__layer_norm,
    .gelu = cuda__gelu,
    .attention_full = cuda__attention_full,
    .pool_texts = cuda__pool_texts,
    .sample_set = cuda__sample_set,
    .sample = cuda__sample,
    .token_logprobs = cuda__token_logprobs,
    .awq_bytes = cuda__awq_bytes,
    .awq_layout = cuda__awq_layout,
    .awq_pack = cuda__awq_pack,
    .awq_round = cuda__awq_round,
    .awq_quantize = cuda__awq_quantize,
    .awq_clip = cuda__awq_clip,
    .gram_add = cuda__gram_add,
    .column_abs_add = cuda__column_abs_add,
    .row_distance_add = cuda__row_distance_add,
    .fill_random = cuda__fill_random,
    .probe_read = cuda__probe_read,
    .library = "cuBLASLt",
    .library_linear = cuda__library_linear,
    .norm_linear = cuda__norm_linear,
    .norm_linear_silu_mul = cuda__norm_linear_silu_mul,
    .linear_add = cuda__linear_add,
    .rope_attention = cuda__rope_attention,
};
