/* logprobs.cu - the log-probability and rank of a token, and the most likely tokens of a row.
 *
 *     logprob(t) = v[t] - log(sum over i of e^v[i]),  rank(t) = 1 + how many tokens come before t
 *
 *     scan  a block per slice of a row: the chunks' maxima and sums, and how many tokens come before the target
 *     top   a block per row: the sum, the target's entry, and the first tokens in order where they are few (top.cuh)
 *     rest  a cluster per row: the first tokens in order where they are not (select.cuh)
 *
 * Reads V logits once, and again in `rest`. Sums: fp32 within a chunk, fp64 over chunks, in an order that depends on V
 * alone. */
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/top.cuh"

enum { MOST_ROWS = 1024 /* of one launch: their n_top are arguments of the kernel */ };

struct logprobs_args {
    struct token_logprob *out; /* [.., stride] */
    const float *logits;
    const int32_t *targets;
    int *tickets;
    struct findings f;
    int stride, first_row, V, n_ranks;
    int16_t n_top[MOST_ROWS]; /* below 0: the row is skipped */
};

__device__ static struct row row_of(const struct logprobs_args &a, int i, float max) {
    return {a.logits + (size_t)(a.first_row + i) * a.V, a.V, max, 1, -FLT_MAX};
}

/* ---- scan -------------------------------------------------------------------------------------------------------- */

__global__ static void __launch_bounds__(SCAN_THREADS, SCAN_RESIDENT)
    scan(const __grid_constant__ struct logprobs_args a) {
    __shared__ uint64_t warp_keys[32];
    __shared__ uint32_t warp_better[SCAN_WARPS];
    pdl_trigger();
    pdl_wait();
    const struct share mine = share_of(a.f);
    if (a.n_top[mine.i] < 0) return;
    const struct row r = row_of(a, mine.i, 0);
    const int target = a.targets[a.first_row + mine.i];
    const uint64_t target_key = key_of(tame(r.v[target]), target);
    uint64_t key = 0;
    uint32_t better = 0;
    for (int slice = mine.first; slice < mine.last; slice++) {
        const struct pieces x = load_pieces(r, slice);
        const uint64_t warp_key = scan_chunks(a.f, x, r, mine.i, slice, true, true);
        if (warp_key > key) key = warp_key;
#pragma unroll
        for (int j = 0; j < 2 * WARP_CHUNKS; j++) {
            const float v[4] = {x.at[j].x, x.at[j].y, x.at[j].z, x.at[j].w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int id = piece_id(slice, j) + e;
                better += id < r.V && key_of(v[e], id) > target_key;
            }
        }
    }
    key = block_largest(warp_keys, key);
    better = __reduce_add_sync(0xffffffffu, better);
    if (threadIdx.x % 32 == 0) warp_better[threadIdx.x / 32] = better;
    __syncthreads(); /* the warps' counts are there */
    if (threadIdx.x) return;
    for (int w = 1; w < SCAN_WARPS; w++) better += warp_better[w];
    a.f.better[blockIdx.x] = better;
    a.f.block_keys[blockIdx.x] = key;
}

/* ---- top --------------------------------------------------------------------------------------------------------- */

__device__ static struct token_logprob entry_of(const struct row &r, int id, double lse, int rank) {
    return {id, (float)((double)tame(r.v[id]) - lse), rank};
}

/* Block i is row i of this launch. */
__global__ static void __launch_bounds__(TOP_THREADS, 1) top(const __grid_constant__ struct logprobs_args a) {
    __shared__ struct top t;
    __shared__ uint64_t warp_keys[32];
    __shared__ uint32_t better;
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x, row = a.first_row + i, n_blocks = a.f.n_blocks, n_top = a.n_top[i];
    if (n_top < 0) return;
    if (threadIdx.x == 0) better = 0;
    __syncthreads(); /* better is clear */
    uint64_t key = 0;
    for (int b = (int)threadIdx.x; b < n_blocks; b += TOP_THREADS) {
        const uint64_t other = a.f.block_keys[(size_t)i * n_blocks + b];
        if (other > key) key = other;
        atomicAdd(&better, a.f.better[(size_t)i * n_blocks + b]);
    }
    key = block_largest(warp_keys, key);
    const struct row r = row_of(a, i, value_of(key));
    const double lse = r.max == -INFINITY ? -INFINITY : (double)r.max + log(sum_chunks(a.f, r, i));
    struct token_logprob *out = a.out + (size_t)row * a.stride;
    int n = n_top ? -1 : 0;
    uint32_t bound;
    if (n_top && n_top <= TOP_MOST) n = sort_top<true>(&t, a.f, r, i, n_top, UINT32_MAX, &bound);
    for (int at = (int)threadIdx.x; at < n_top && at < n; at += TOP_THREADS)
        out[1 + at] = entry_of(r, top_id(t.sorted[at]), lse, at + 1);
    if (threadIdx.x) return;
    out[0] = entry_of(r, a.targets[row], lse, 1 + (int)better);
    a.f.states[i] = {r.max, id_of(key), n >= 0, {UINT32_MAX, INT32_MAX}, lse};
}

/* ---- rest -------------------------------------------------------------------------------------------------------- */

struct kept { /* shared memory */
    uint32_t n, d[LISTED], id[LISTED];
};

/* Cluster i is row i of this launch. */
__global__ static void __launch_bounds__(SELECT_THREADS, 2) rest(const __grid_constant__ struct logprobs_args a) {
    __shared__ struct selection s;
    __shared__ struct kept kept;
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x / a.n_ranks, tid = (int)threadIdx.x;
    if (a.n_top[i] <= 0 || a.f.states[i].done) return; /* all ranks of the row */
    const struct part part = part_of(row_of(a, i, a.f.states[i].max), a.n_ranks);
    const struct row &r = part.row;
    const double lse = a.f.states[i].lse;
    const struct cut all = {UINT32_MAX, INT32_MAX}, c = select_prefix<true>(&s, part, all, a.n_top[i], 0);
    if (tid == 0) kept.n = 0;
    __syncthreads(); /* the list is empty */
    for (int id = part.first + tid; id < part.last; id += SELECT_THREADS) {
        const uint32_t d = d_of<true>(tame(r.v[id]), 0);
        if (!up_to(c, d, id)) continue;
        const uint32_t at = atomicAdd(&kept.n, 1); /* below n_top <= LISTED */
        kept.d[at] = d, kept.id[at] = (uint32_t)id;
    }
    cluster_sync(); /* the ranks' lists are there */
    for (uint32_t at = (uint32_t)tid; at < kept.n; at += SELECT_THREADS) {
        const struct cut mine = {kept.d[at], (int)kept.id[at]};
        int rank = 0; /* tokens up to it, itself included */
        for (int from = 0; from < part.n_ranks; from++) {
            const uint32_t n_from = remote(&kept.n, from);
            for (uint32_t j = 0; j < n_from; j++)
                rank += up_to(mine, remote(&kept.d[j], from), (int)remote(&kept.id[j], from));
        }
        a.out[(size_t)(a.first_row + i) * a.stride + rank] = entry_of(r, mine.id, lse, rank);
    }
    cluster_sync(); /* nobody reads this block's shared memory any more */
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

void cuda__token_logprobs(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                          const int32_t *targets, const int *n_top, int R, int V) {
    struct cuda_state *state = cuda_of(e);
    const int n_ranks = state->sampler->n_ranks;
    struct logprobs_args a = {};
    a.out = out, a.logits = logits, a.targets = targets, a.stride = stride, a.V = V, a.n_ranks = n_ranks;
    size_t room = state->workspace_bytes / findings_at(&a.f, NULL, 1, V, 1); /* rows at a time */
    if (room > MOST_ROWS) room = MOST_ROWS;
    for (a.first_row = 0; a.first_row < R; a.first_row += (int)room) {
        const int n = (size_t)(R - a.first_row) < room ? R - a.first_row : (int)room;
        findings_at(&a.f, state->workspace, n, V, scan_blocks(e));
        bool tops = false;
        for (int i = 0; i < n; i++) {
            if (n_top[a.first_row + i] > LISTED) {
                exec__fail(e, __func__, __FILE__, __LINE__, "more than 1024 top tokens of a row");
                return;
            }
            a.n_top[i] = (int16_t)n_top[a.first_row + i];
            tops |= a.n_top[i] > 0;
        }
        cuda_launch(e, scan, n * a.f.n_blocks, SCAN_THREADS, 0, a);
        cuda_launch(e, top, n, TOP_THREADS, 0, a);
        if (tops) launch_clusters(e, rest, n * n_ranks, SELECT_THREADS, n_ranks, a);
    }
}
