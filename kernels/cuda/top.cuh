/* top.cuh - private to sample.cu and logprobs.cu: the first tokens of a row in order, a few hundred at most, by one
 * block.
 *
 * At least k tokens come no later than the k-th of the chunks' maxima, and what comes no later than it lies in the
 * chunks whose maximum does: so a bound is found among the chunks' maxima by bisection, the chunks that reach it (about
 * k of 600) are read again, and the tokens within the bound (a little over k) are put in order by counting for each how
 * many come before it. */
#pragma once

#include "kernels/cuda/sample.cuh"

enum {
    TOP_THREADS = 1024,
    TOP_WARPS = TOP_THREADS / 32,
    TOP_MOST = 256,     /* k */
    TOP_LIST = 1024,    /* tokens within the bound; more is an overflow */
    TOP_CHUNKS = 2048,  /* of a row */
    TOP_SLACK = 8,      /* the bound may let in so many chunks more than k, and a quarter */
};

struct top { /* shared memory */
    uint32_t chunk_d[TOP_CHUNKS];
    uint16_t chunks[TOP_CHUNKS]; /* those that reach the bound */
    int n_chunks, n_listed;
    uint64_t listed[TOP_LIST]; /* d and id */
    uint64_t sorted[TOP_LIST];
};

__device__ static inline uint32_t top_d(uint64_t entry) { return (uint32_t)(entry >> 32); }
__device__ static inline int top_id(uint64_t entry) { return (int)(uint32_t)entry; }

/* A d that at least k of the row's chunks reach, and hardly more; the largest d if the row has no k chunks. */
__device__ static uint32_t bound_of(const struct top *t, int n_chunks, int k) {
    uint32_t low = 0, high = UINT32_MAX - 1; /* fewer than k chunks reach low, or it does not matter */
    int n_high = n_chunks;
    while (high - low > 1 && n_high > k + k / 4 + TOP_SLACK) {
        const uint32_t middle = low + (high - low) / 2;
        int n = 0;
        for (int first = 0; first < n_chunks; first += TOP_THREADS) {
            const int c = first + (int)threadIdx.x;
            n += __syncthreads_count(c < n_chunks && t->chunk_d[c] <= middle);
        }
        if (n >= k) high = middle, n_high = n;
        else low = middle;
    }
    return high;
}

/* Fills t->sorted with the first tokens of row i in order: at least k of them, unless no more are as near as `limit`;
 * returns how many, and in *bound the d up to which they are all. -1: too many to list. A whole block calls it. */
template <bool RAW>
__device__ static int sort_top(struct top *t, const struct findings &f, const struct row &r, int i, int k,
                               uint32_t limit, uint32_t *bound) {
    const int n_chunks = f.n_slices * SLICE_CHUNKS, tid = (int)threadIdx.x, warp = tid / 32, lane = tid % 32;
    if (n_chunks > TOP_CHUNKS) return -1;
    for (int c = tid; c < n_chunks; c += TOP_THREADS) {
        const uint64_t key = f.keys[(size_t)i * n_chunks + c];
        t->chunk_d[c] = key ? d_of<RAW>(value_of(key), z_of(r, value_of(key))) : UINT32_MAX;
    }
    if (tid == 0) t->n_chunks = t->n_listed = 0;
    __syncthreads(); /* the chunks' d are there */
    uint32_t d_most = bound_of(t, n_chunks, k);
    if (d_most > limit) d_most = limit;
    *bound = d_most;
    for (int c = tid; c < n_chunks; c += TOP_THREADS)
        if (t->chunk_d[c] <= d_most) t->chunks[atomicAdd(&t->n_chunks, 1)] = (uint16_t)c;
    __syncthreads(); /* the list of chunks is whole */
    for (int c = warp; c < t->n_chunks; c += 2 * TOP_WARPS) { /* two chunks at a time */
        float4 pieces[4];
        int ids[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int chunk = c + j / 2 * TOP_WARPS;
            ids[j] = chunk < t->n_chunks ? t->chunks[chunk] * CHUNK + j % 2 * (CHUNK / 2) + lane * 4 : r.V;
            pieces[j] = load_four(r, ids[j]);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int first = ids[j];
            const float v[4] = {pieces[j].x, pieces[j].y, pieces[j].z, pieces[j].w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const uint32_t d = d_of<RAW>(v[e], z_of(r, v[e]));
                if (d > d_most || first + e >= r.V) continue;
                const int at = atomicAdd(&t->n_listed, 1);
                if (at < TOP_LIST) t->listed[at] = (uint64_t)d << 32 | (uint32_t)(first + e);
            }
        }
    }
    __syncthreads(); /* the list of tokens is whole */
    const int n = t->n_listed;
    if (n > TOP_LIST) return -1;
    for (int at = tid; at < n; at += TOP_THREADS) {
        const uint64_t mine = t->listed[at];
        int before = 0;
        for (int j = 0; j < n; j++) before += t->listed[j] < mine;
        t->sorted[before] = mine;
    }
    __syncthreads(); /* sorted is whole */
    return n;
}
