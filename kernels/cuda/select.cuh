/* select.cuh - private to sample.cu and logprobs.cu: where a prefix of a row's tokens, in order, ends; for any row and
 * any prefix. What is short is left to top.cuh, which is faster.
 *
 * A row belongs to the blocks of a cluster (8, its ranks; one block before sm_90), each of which has a part of the ids.
 * The end of a prefix is found without sorting, by histograms in shared memory that the ranks add up. The first is over
 * 2048 steps of 1/64 in z; it tells in which step the prefix ends. The tokens of that step are listed, few as a rule;
 * three more histograms over 11, 11 and 10 bits of their d fix d, and equal ones are kept by ascending id. Where a list
 * overflows, its block goes over its part again instead.
 *
 * Counts and masses (e^z in units of 2^-40) are integers, so the order of atomics does not matter: results depend on
 * the row alone, not on the number of ranks. */
#pragma once

#include "kernels/cuda/sample.cuh"

enum {
    SELECT_THREADS = 512,
    SELECT_WARPS = SELECT_THREADS / 32,
    SELECT_RANKS = 8, /* blocks of a cluster: the most that every chip with clusters takes */
    BINS = 2048,
    EACH_BINS = BINS / SELECT_THREADS, /* that one thread looks through */
    LISTED = 1024,
    BATCH = 2,
};
#define BINS_PER_UNIT 64.0f
#define MASS_UNIT 0x1p-40f

struct part { /* a row, and this block's part of it */
    struct row row;
    int rank, n_ranks, first, last;
};

struct bins { /* over all ranks in the bins whose turn a rank has; of the block's own tokens elsewhere */
    uint32_t count[BINS], low[BINS], high[BINS]; /* low and high 32 bits of the mass */
};

struct selection { /* shared memory */
    struct bins bins;
    uint32_t listed_d[LISTED];
    int listed_id[LISTED];
    int n_listed;
    int found, last_used; /* bins */
    int cut_id;
    uint64_t chosen_count, chosen_measure, chosen_before, total;
    uint64_t warp_sums[SELECT_WARPS];
    int warp_counts[SELECT_WARPS];
    uint32_t rank_counts[SELECT_RANKS];
};

/* This block's part of a row. */
__device__ static inline struct part part_of(const struct row &row, int n_ranks) {
    const int rank = (int)blockIdx.x % n_ranks, each = (row.V + 32 * n_ranks - 1) / (32 * n_ranks) * 32;
    struct part p = {row, rank, n_ranks, rank * each, rank * each + each};
    if (p.first > row.V) p.first = row.V;
    if (p.last > row.V) p.last = row.V;
    return p;
}

/* ---- clusters ---------------------------------------------------------------------------------------------------- */

__device__ static inline void cluster_arrive(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ static inline void cluster_wait(void) {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
    __syncthreads();
#endif
}
/* All threads of all ranks; shared memory written before is seen after. */
__device__ static inline void cluster_sync(void) {
    cluster_arrive();
    cluster_wait();
}

/* *p of another rank's shared memory. */
__device__ static inline uint32_t remote(const uint32_t *p, int rank) {
#if __CUDA_ARCH__ >= 900
    uint32_t at, x;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(at)
                 : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
    return x;
#else
    return *p;
#endif
}
__device__ static inline uint64_t remote(const uint64_t *p, int rank) {
    const uint32_t *half = (const uint32_t *)p;
    return remote(half, rank) | (uint64_t)remote(half + 1, rank) << 32;
}

/* ---- the end of a prefix ----------------------------------------------------------------------------------------- */

/* A thread's next BATCH pieces of four, all under way at once. */
struct batch_pieces {
    float v[4 * BATCH];
};
__device__ static inline struct batch_pieces load_batch(const struct part &r, int i) {
    struct batch_pieces x;
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
        const int at = i + j * 4 * SELECT_THREADS;
        const float4 v = load_four(r.row, at < r.last ? at : r.row.V);
        x.v[4 * j] = v.x, x.v[4 * j + 1] = v.y, x.v[4 * j + 2] = v.z, x.v[4 * j + 3] = v.w;
    }
    return x;
}

__device__ static inline int bin_of(float z) {
    const float step = -z * BINS_PER_UNIT;
    return step < BINS - 1 ? (int)step : BINS - 1; /* NaN, too */
}

__device__ static inline void clear_bins(struct bins *b) {
    for (int i = (int)threadIdx.x; i < BINS; i += SELECT_THREADS) b->count[i] = b->low[i] = b->high[i] = 0;
}

__device__ static inline uint64_t mass_of(float z) { return z > -29 ? __float2ull_rn(expf(z) * (1 / MASS_UNIT)) : 0; }

__device__ static inline void add_to_bin(struct bins *b, int bin, uint64_t mass) {
    atomicAdd(&b->count[bin], 1);
    const uint32_t low = (uint32_t)mass, high = (uint32_t)(mass >> 32);
    if (!mass) return;
    const uint32_t carry = atomicAdd(&b->low[bin], low) > ~low;
    if (high + carry) atomicAdd(&b->high[bin], high + carry);
}

/* The first bin at which before + the measure of all bins up to it reaches the target (a share of the total measure
 * when share > 0), or the last one that is not empty. All ranks' bins are filled; all threads of all ranks get the
 * same. On return the ranks may still be reading each other's bins: cluster_arrive has been called, cluster_wait has
 * not. */
struct pick {
    int bin;
    uint64_t count, measure, before; /* of the bin; of all before it */
    double target;
};
__device__ static struct pick choose_bin(struct selection *s, const struct part &r, uint64_t before, double target,
                                         double share, uint64_t unbinned, bool by_mass, bool count_ranks) {
    const int tid = (int)threadIdx.x, n_own = BINS / r.n_ranks;
    if (tid == 0) s->found = BINS, s->last_used = -1;
    cluster_sync(); /* the ranks' bins are filled */
    for (int bin = r.rank * n_own + tid; bin < (r.rank + 1) * n_own; bin += SELECT_THREADS) {
        uint32_t count = 0, counts[SELECT_RANKS], lows[SELECT_RANKS], highs[SELECT_RANKS];
        uint64_t mass = 0;
#pragma unroll
        for (int i = 0; i < SELECT_RANKS; i++) { /* all under way at once; ranks that do not exist: its own, unused */
            const int rank = i < r.n_ranks ? i : r.rank;
            counts[i] = remote(&s->bins.count[bin], rank);
            lows[i] = by_mass ? remote(&s->bins.low[bin], rank) : 0;
            highs[i] = by_mass ? remote(&s->bins.high[bin], rank) : 0;
        }
#pragma unroll
        for (int i = 0; i < SELECT_RANKS; i++)
            if (i < r.n_ranks) count += counts[i], mass += lows[i] + ((uint64_t)highs[i] << 32);
        s->bins.count[bin] = count;
        s->bins.low[bin] = (uint32_t)mass;
        s->bins.high[bin] = (uint32_t)(mass >> 32);
    }
    cluster_sync(); /* each rank's own bins are sums over all */
    const int first = tid * EACH_BINS, owner = first / n_own;
    uint64_t count[EACH_BINS], measure[EACH_BINS], sum = 0;
#pragma unroll
    for (int j = 0; j < EACH_BINS; j++) {
        measure[j] = count[j] = remote(&s->bins.count[first + j], owner);
        if (by_mass)
            measure[j] =
                remote(&s->bins.low[first + j], owner) + ((uint64_t)remote(&s->bins.high[first + j], owner) << 32);
        sum += measure[j];
    }
    uint64_t upto = sum; /* of the warp's lanes up to this one */
#pragma unroll
    for (int i = 1; i < 32; i <<= 1) {
        const uint64_t other = __shfl_up_sync(0xffffffffu, upto, i);
        if (tid % 32 >= i) upto += other;
    }
    if (tid % 32 == 31) s->warp_sums[tid / 32] = upto;
    __syncthreads(); /* the warps' sums are there */
    uint64_t total = unbinned, run = before + upto - sum;
    for (int i = 0; i < SELECT_WARPS; i++) {
        if (i < tid / 32) run += s->warp_sums[i];
        total += s->warp_sums[i];
    }
    if (share > 0) target = share * (double)total;
    const uint64_t start = run;
    int found = BINS, last_used = -1;
#pragma unroll
    for (int j = 0; j < EACH_BINS; j++) {
        if (!count[j]) continue;
        last_used = first + j;
        run += measure[j];
        if (found == BINS && (double)run >= target) found = first + j;
    }
    if (found < BINS) atomicMin(&s->found, found);
    if (last_used >= 0) atomicMax(&s->last_used, last_used);
    __syncthreads(); /* found and last_used are final */
    const int bin = s->found < BINS ? s->found : s->last_used;
    if (bin >= 0 && bin / EACH_BINS == tid) {
        run = start;
#pragma unroll
        for (int j = 0; j < EACH_BINS; j++) {
            if (first + j == bin) s->chosen_count = count[j], s->chosen_measure = measure[j], s->chosen_before = run;
            run += measure[j];
        }
    }
    if (count_ranks && bin >= 0 && tid < r.n_ranks) s->rank_counts[tid] = remote(&s->bins.count[bin], tid);
    __syncthreads(); /* what was chosen is there */
    const struct pick p = {bin, s->chosen_count, s->chosen_measure, s->chosen_before, target};
    if (count_ranks && bin >= 0) { /* the owner's own count is lost in the sum: it is the rest */
        uint32_t others = 0;
        for (int i = 0; i < r.n_ranks; i++)
            if (i != bin / n_own) others += s->rank_counts[i];
        __syncthreads(); /* all have read it */
        if (tid == 0) s->rank_counts[bin / n_own] = (uint32_t)p.count - others;
        __syncthreads(); /* it is the rest */
    }
    cluster_arrive();
    return p;
}

/* The id of the keep-th of this block's tokens with d within the cut, in the order of ids; into s->cut_id. Rare, so it
 * is kept out of its callers' registers. */
template <bool RAW>
__device__ __noinline__ static void find_tie(struct selection *s, const struct part &r, const struct cut &within,
                                             uint32_t d, int keep) {
    const int tid = (int)threadIdx.x;
    if (s->n_listed <= LISTED) {
        for (int i = tid; i < s->n_listed; i += SELECT_THREADS) {
            if (s->listed_d[i] != d) continue;
            int before = 0;
            for (int j = 0; j < s->n_listed; j++) before += s->listed_d[j] == d && s->listed_id[j] < s->listed_id[i];
            if (before == keep - 1) s->cut_id = s->listed_id[i];
        }
        __syncthreads(); /* cut_id is there */
        return;
    }
    for (int base = r.first, seen = 0; base < r.last; base += SELECT_THREADS) {
        const int id = base + tid;
        bool tie = false;
        if (id < r.last) {
            const float v = tame(r.row.v[id]), z = z_of(r.row, v);
            tie = d_of<RAW>(v, z) == d && (RAW || z >= r.row.lowest) && up_to(within, d, id);
        }
        const unsigned ballot = __ballot_sync(0xffffffffu, tie);
        if (tid % 32 == 0) s->warp_counts[tid / 32] = __popc(ballot);
        __syncthreads(); /* the warps' counts are there */
        int before = seen + __popc(ballot & ((1u << tid % 32) - 1));
        for (int i = 0; i < SELECT_WARPS; i++) {
            if (i < tid / 32) before += s->warp_counts[i];
            seen += s->warp_counts[i];
        }
        if (tie && before == keep - 1) s->cut_id = id;
        __syncthreads(); /* cut_id is there, the counts are free */
        if (seen >= keep) return;
    }
}

/* One token of the slice into the bins of the first histogram; what weighs too little for it is added up aside. */
__device__ static inline void bin_token(struct selection *s, float z, bool by_mass, float negligible,
                                        uint64_t *unbinned) {
    const uint64_t mass = by_mass ? mass_of(z) : 0;
    if (z < negligible) *unbinned += mass;
    else add_to_bin(&s->bins, bin_of(z), mass);
}

/* One token of the chosen step into the bins of a later histogram. */
template <bool RAW>
__device__ static inline void bin_member(struct selection *s, uint32_t d, float z, uint32_t prefix, int shift,
                                         int width, bool by_mass) {
    if (shift + width < 32 && (d ^ prefix) >> (shift + width)) return;
    add_to_bin(&s->bins, (int)(d >> shift & ((1u << width) - 1)), by_mass ? mass_of(z) : 0);
}

/* The sum of a number over the block's threads; every thread gets it. */
__device__ static inline uint64_t block_sum(struct selection *s, uint64_t x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    if (threadIdx.x % 32 == 0) s->warp_sums[threadIdx.x / 32] = x;
    __syncthreads(); /* the warps' sums are there */
    x = 0;
    for (int i = 0; i < SELECT_WARPS; i++) x += s->warp_sums[i];
    __syncthreads(); /* and free */
    return x;
}

/* The shortest prefix of the tokens within a cut whose measure reaches the target: their number, or with share > 0 that
 * share of their mass. At least one token. Called by all threads of all ranks. */
template <bool RAW>
__device__ static struct cut select_prefix(struct selection *s, const struct part &r, struct cut within, double target,
                                           double share) {
    const int tid = (int)threadIdx.x;
    const bool by_mass = share > 0;
    /* All tokens below this together have less mass than may be dropped, whatever the rest weighs (the best weighs 1).
     * */
    const float negligible = by_mass && share < 1 ? logf((float)(1 - share) / (float)r.row.V) - 1e-3f : -INFINITY;
    clear_bins(&s->bins);
    if (tid == 0) s->n_listed = 0, s->total = 0;
    __syncthreads(); /* bins are clear */
    uint64_t unbinned = 0;
    for (int i = r.first + 4 * tid; i < r.last; i += BATCH * 4 * SELECT_THREADS) {
        const struct batch_pieces x = load_batch(r, i);
#pragma unroll
        for (int j = 0; j < 4 * BATCH; j++) {
            const float v = x.v[j], z = z_of(r.row, v);
            const int id = i + j / 4 * 4 * SELECT_THREADS + j % 4;
            if (id < r.last && (RAW || z >= r.row.lowest) && up_to(within, d_of<RAW>(v, z), id))
                bin_token(s, z, by_mass, negligible, &unbinned);
        }
    }
    if (by_mass) {
        unbinned = block_sum(s, unbinned);
        if (tid == 0) s->total = unbinned;
        cluster_sync(); /* the ranks' totals are there */
        unbinned = 0;
        for (int i = 0; i < r.n_ranks; i++) unbinned += remote(&s->total, i);
    }
    struct pick p = choose_bin(s, r, 0, target, share, unbinned, by_mass, false);
    if (p.bin < 0) { /* no tokens at all */
        cluster_wait();
        return within;
    }
    const int step = p.bin;
    target = p.target;
    for (int i = r.first + 4 * tid; i < r.last; i += BATCH * 4 * SELECT_THREADS) {
        const struct batch_pieces x = load_batch(r, i);
#pragma unroll
        for (int j = 0; j < 4 * BATCH; j++) {
            const float v = x.v[j], z = z_of(r.row, v);
            const int id = i + j / 4 * 4 * SELECT_THREADS + j % 4;
            if (bin_of(z) != step || id >= r.last || !(RAW || z >= r.row.lowest)) continue;
            const uint32_t d = d_of<RAW>(v, z);
            if (!up_to(within, d, id) || z < negligible) continue;
            const int at = atomicAdd(&s->n_listed, 1);
            if (at < LISTED) s->listed_d[at] = d, s->listed_id[at] = id;
        }
    }
    cluster_wait(); /* the bins are free */
    uint32_t prefix = 0;
    for (int level = 0; level < 3; level++) {
        const int shift = level == 0 ? 21 : level == 1 ? 10 : 0, width = level == 2 ? 10 : 11;
        clear_bins(&s->bins);
        __syncthreads(); /* bins are clear, the list is whole */
        if (s->n_listed <= LISTED) {
            for (int i = tid; i < s->n_listed; i += SELECT_THREADS) {
                const uint32_t d = s->listed_d[i];
                bin_member<RAW>(s, d, -__uint_as_float(d), prefix, shift, width, by_mass);
            }
        } else {
            for (int i = r.first + tid; i < r.last; i += SELECT_THREADS) {
                const float v = tame(r.row.v[i]), z = z_of(r.row, v);
                const uint32_t d = d_of<RAW>(v, z);
                if (bin_of(z) == step && (RAW || z >= r.row.lowest) && !(z < negligible) && up_to(within, d, i))
                    bin_member<RAW>(s, d, z, prefix, shift, width, by_mass);
            }
        }
        p = choose_bin(s, r, p.before, target, 0, 0, by_mass, level == 2);
        cluster_wait(); /* the bins are free */
        prefix |= (uint32_t)p.bin << shift;
    }
    /* p.count tokens have this d: so many of them, the lowest ids, are needed. */
    const double need = target - (double)p.before, one = by_mass ? (double)p.measure / (double)p.count : 1;
    const int n = (int)(need <= one ? 1 : one * (double)p.count > need ? ceil(need / one) : (double)p.count);
    struct cut c = {prefix, INT32_MAX};
    if (n == (int)p.count) {
        if (prefix == within.d) c.id = within.id;
        return c;
    }
    int before = 0, at = 0;
    while (before + (int)s->rank_counts[at] < n) before += (int)s->rank_counts[at++];
    if (at == r.rank) find_tie<RAW>(s, r, within, prefix, n - before);
    cluster_sync(); /* cut_id is there */
    c.id = (int)remote((const uint32_t *)&s->cut_id, at);
    return c;
}
