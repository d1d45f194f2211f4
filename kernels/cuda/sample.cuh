/* sample.cuh - private to sample.cu and logprobs.cu: a row of logits, cut into slices and chunks that many blocks look
 * through at once, and what they leave behind for the kernels after them.
 *
 * A row [V] is n_slices slices of 4096 ids, in which each of a block's warps has two chunks of 256. A block takes a
 * slice while rows are few, some neighbours of one row when there are many. A token's place in the order is (d, id),
 * ascending: d are the bits of -z = (max - v) / temperature, or, where the raw logits count, those of v turned upside
 * down (RAW). */
#pragma once

#include "kernels/cuda/cuda.cuh"

#include <float.h>

enum {
    SCAN_THREADS = 256,
    SCAN_WARPS = SCAN_THREADS / 32,
    SCAN_RESIDENT = 5, /* blocks on a multiprocessor at once */
    CHUNK = 256,
    WARP_CHUNKS = 2,
    SLICE_CHUNKS = SCAN_WARPS * WARP_CHUNKS,
    SLICE = SLICE_CHUNKS * CHUNK,
};

struct row {
    const float *v; /* [V] */
    int V;
    float max, temperature;
    float lowest; /* of z: what lies below is not there */
};

/* Tokens with (d, id) up to this one. */
struct cut {
    uint32_t d;
    int id;
};

struct row_state { /* of one row, between kernels */
    float max;
    int likeliest;
    int done; /* the row's result is written */
    struct cut cut;
    double lse; /* logprobs: the log of the sum of e^v */
};

/* Where n rows' findings lie in the workspace, and how their slices are dealt to blocks. */
struct findings {
    struct row_state *states; /* [n] */
    uint64_t *keys;           /* [n, n_slices * SLICE_CHUNKS] of the chunks' first maxima; 0: an empty chunk */
    float *sums;              /* [n, n_slices * SLICE_CHUNKS] of e^z relative to the chunk's own maximum */
    uint64_t *block_keys;     /* [n, n_blocks] */
    uint32_t *better;         /* [n, n_blocks] logprobs: tokens that come before the target */
    int n_slices, per_block, n_blocks; /* of a row: slices, those of one block, blocks */
};

/* Lays findings out at p (NULL: only for the size); returns their bytes. most_blocks: as many as run at once. */
static inline size_t findings_at(struct findings *f, void *p, int n, int V, int most_blocks) {
    f->n_slices = div_up(V, SLICE);
    f->per_block = div_up(n * f->n_slices, most_blocks);
    if (f->per_block > f->n_slices) f->per_block = f->n_slices;
    f->n_blocks = div_up(f->n_slices, f->per_block);
    const size_t slices = (size_t)n * (size_t)f->n_slices;
    char *at = (char *)p;
    f->states = (struct row_state *)at, at += (size_t)n * sizeof *f->states;
    f->keys = (uint64_t *)at, at += slices * SLICE_CHUNKS * sizeof *f->keys;
    f->block_keys = (uint64_t *)at, at += slices * sizeof *f->block_keys;
    f->sums = (float *)at, at += slices * SLICE_CHUNKS * sizeof *f->sums;
    f->better = (uint32_t *)at, at += slices * sizeof *f->better;
    return ((size_t)(at - (char *)p) + 255) / 256 * 256;
}

/* As many blocks of a kernel over slices as run at once: those that follow would only pay for their start. */
static inline int scan_blocks(struct exec *e) { return cuda_of(e)->n_sms * SCAN_RESIDENT; }

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* NaN counts as -inf, +inf as the largest number. */
__device__ static inline float tame(float x) { return x != x ? -INFINITY : fminf(x, FLT_MAX); }

/* a < b as floats is order(a) < order(b); -0 and 0 are one. */
__device__ static inline uint32_t order(float x) {
    const uint32_t u = __float_as_uint(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ static inline float from_order(uint32_t u) {
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

/* A key that is larger for a larger value, then for a lower id. */
__device__ static inline uint64_t key_of(float x, int id) { return (uint64_t)order(x) << 32 | (uint32_t)~id; }
__device__ static inline int id_of(uint64_t key) { return (int)~(uint32_t)key; }
__device__ static inline float value_of(uint64_t key) { return from_order((uint32_t)(key >> 32)); }

/* Logits i .. i + 3, -inf past the row's end; i % 4 == 0. */
__device__ static inline float4 load_four(const struct row &r, int i) {
    float4 x = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (i >= r.V) return x;
    if (r.V % 4 == 0) {
        x = *(const float4 *)(r.v + i);
    } else {
        x.x = r.v[i];
        if (i + 1 < r.V) x.y = r.v[i + 1];
        if (i + 2 < r.V) x.z = r.v[i + 2];
        if (i + 3 < r.V) x.w = r.v[i + 3];
    }
    return make_float4(tame(x.x), tame(x.y), tame(x.z), tame(x.w));
}

__device__ static inline float z_of(const struct row &r, float v) {
    return r.temperature == 1 ? v - r.max : (v - r.max) / r.temperature;
}
template <bool RAW> __device__ static inline uint32_t d_of(float v, float z) {
    return RAW ? ~order(v) : __float_as_uint(z) & 0x7fffffffu;
}
__device__ static inline bool up_to(const struct cut &c, uint32_t d, int id) {
    return d < c.d || (d == c.d && id <= c.id);
}

/* ---- warps and blocks -------------------------------------------------------------------------------------------- */

__device__ static inline uint64_t warp_largest(uint64_t key) {
    const uint32_t high = __reduce_max_sync(0xffffffffu, (uint32_t)(key >> 32));
    const uint32_t low = __reduce_max_sync(0xffffffffu, (uint32_t)(key >> 32) == high ? (uint32_t)key : 0);
    return (uint64_t)high << 32 | low;
}

/* The largest key of the block; every thread gets it. warp_keys [32] are free again afterwards. */
__device__ static inline uint64_t block_largest(uint64_t *warp_keys, uint64_t key) {
    key = warp_largest(key);
    if (threadIdx.x % 32 == 0) warp_keys[threadIdx.x / 32] = key;
    __syncthreads(); /* the warps' keys are there */
    key = threadIdx.x % 32 < blockDim.x / 32 ? warp_keys[threadIdx.x % 32] : 0;
    __syncthreads(); /* and free */
    return warp_largest(key);
}

/* Whether this block is the last of n that come with the same ticket, so that what the others wrote before can be read
 * (through the L2). The ticket is 0 again then. */
__device__ static inline bool last_of(int *ticket, int n) {
    __shared__ int is_last;
    __syncthreads(); /* all threads have written */
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(ticket, 1) == n - 1;
        if (is_last) *ticket = 0;
        __threadfence();
    }
    __syncthreads(); /* is_last is known */
    return is_last;
}

/* ---- slices ------------------------------------------------------------------------------------------------------ */

/* The slices first .. last - 1 of this block, and its row of the launch. */
struct share {
    int i, first, last;
};
__device__ static inline struct share share_of(const struct findings &f) {
    const int i = (int)blockIdx.x / f.n_blocks, first = ((int)blockIdx.x - i * f.n_blocks) * f.per_block;
    return {i, first, first + f.per_block < f.n_slices ? first + f.per_block : f.n_slices};
}

/* The first id of this thread's piece j < 2 WARP_CHUNKS of the slice: 4 ids, a warp's 128 are neighbours. */
__device__ static inline int piece_id(int slice, int j) {
    const int tid = (int)threadIdx.x;
    return slice * SLICE + tid / 32 * (WARP_CHUNKS * CHUNK) + j * (CHUNK / 2) + tid % 32 * 4;
}

/* This thread's pieces of a slice. */
struct pieces {
    float4 at[2 * WARP_CHUNKS];
};

/* Past the row's last slice: -inf. */
__device__ static inline struct pieces load_pieces(const struct row &r, int slice) {
    struct pieces x;
#pragma unroll
    for (int j = 0; j < 2 * WARP_CHUNKS; j++) x.at[j] = load_four(r, piece_id(slice, j));
    return x;
}

/* A warp's chunks of a slice of row i: their keys and, with_sums, their sums of e^((v - max) / temperature); returns
 * the larger key in every lane. */
__device__ static inline uint64_t scan_chunks(const struct findings &f, const struct pieces &x, const struct row &r,
                                              int i, int slice, bool with_keys, bool with_sums) {
    const int first_chunk = (i * f.n_slices + slice) * SLICE_CHUNKS + (int)threadIdx.x / 32 * WARP_CHUNKS;
    uint64_t best = 0;
#pragma unroll
    for (int c = 0; c < WARP_CHUNKS; c++) {
        float max = -INFINITY;
        int id = INT32_MAX;
#pragma unroll
        for (int j = 2 * c; j < 2 * c + 2; j++) {
            const float4 v = x.at[j];
            const float largest = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
            const int at = piece_id(slice, j);
            if (at >= r.V || !(largest > max || id == INT32_MAX)) continue;
            max = largest;
            id = at + (v.x == largest ? 0 : v.y == largest ? 1 : v.z == largest ? 2 : 3);
        }
        const uint64_t key = warp_largest(id == INT32_MAX ? 0 : key_of(max, id));
        if (key > best) best = key;
        if (with_keys && threadIdx.x % 32 == 0) f.keys[first_chunk + c] = key;
        if (!with_sums) continue;
        max = value_of(key);
        float sum = 0;
#pragma unroll
        for (int j = 2 * c; j < 2 * c + 2; j++) {
            const float4 v = x.at[j];
            const float t = r.temperature;
            sum += (expf((v.x - max) / t) + expf((v.y - max) / t)) + (expf((v.z - max) / t) + expf((v.w - max) / t));
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0) f.sums[first_chunk + c] = key && max > -INFINITY ? sum : 0;
    }
    return best;
}

/* The sum of e^z over a row, relative to its maximum, from its chunks: fp64, threads in turn, then trees; in every
 * thread. A whole block calls it. */
__device__ static inline double sum_chunks(const struct findings &f, const struct row &r, int i) {
    __shared__ double warp_sums[32];
    const int n = f.n_slices * SLICE_CHUNKS;
    double sum = 0;
    for (int c = (int)threadIdx.x; c < n; c += (int)blockDim.x) {
        const uint64_t key = f.keys[(size_t)i * n + c];
        if (key && value_of(key) > -INFINITY)
            sum += (double)f.sums[(size_t)i * n + c] *
                   exp(((double)value_of(key) - (double)r.max) / (double)r.temperature);
    }
#pragma unroll
    for (int j = 16; j; j >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, j);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
    __syncthreads(); /* the warps' sums are there */
    sum = 0;
    for (int j = 0; j < (int)blockDim.x / 32; j++) sum += warp_sums[j];
    __syncthreads(); /* and free */
    return sum;
}

/* ---- host side --------------------------------------------------------------------------------------------------- */

enum { N_PINNED = 4 /* steps whose parameters may wait for their transfer */ };

struct cuda_sampler { /* owned by the exec */
    char *device;                  /* [max_rows] parameters, then words of lists */
    char *pinned[N_PINNED];        /* the same */
    cudaEvent_t sent[N_PINNED];    /* the buffer's transfer is done */
    size_t rows_bytes, list_words; /* capacity */
    int next;                      /* buffer */
    int *tickets;                  /* [max_rows]: of last_of */
    int n_ranks;                   /* blocks of a cluster (select.cuh); 1 where there are none */
};

/* As cuda_launch, but with clusters of n_ranks blocks. */
template <typename... P, typename... A>
static inline void launch_clusters_(struct exec *e, const char *op, const char *file, int line, void (*kernel)(P...),
                                    int grid, int block, int n_ranks, A... args) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)n_ranks;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)grid);
    config.blockDim = dim3((unsigned)block);
    config.stream = cuda_of(e)->stream;
    config.attrs = attributes;
    config.numAttrs = n_ranks > 1 ? 2 : 0;
    cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                              cudaSharedmemCarveoutMaxShared);
    if (status == cudaSuccess) status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
    if (status != cudaSuccess) exec__fail(e, op, file, line, cudaGetErrorString(status));
}
#define launch_clusters(e, kernel, grid, block, n_ranks, ...)                                                          \
    launch_clusters_(e, __func__, __FILE__, __LINE__, kernel, grid, block, n_ranks, __VA_ARGS__)
