/* select.cuh - private to sample.cu: a row of logits shared by the blocks of a cluster, and where a prefix of its tokens,
 * in order, ends.
 *
 * A row of V logits belongs to n_ranks blocks (8, a cluster; 1 before sm_90), each of which has a slice of the ids. A
 * token's place in the order is (d, id), ascending, where d are the bits of -z = (max - v) / temperature, or, when the
 * raw logits are what counts, those of v turned upside down.
 *
 * The end of a prefix is found without sorting, by histograms in shared memory that the ranks add up. The first is over
 * 2048 steps of 1/64 in z; it tells in which step the prefix ends. The tokens of that step are listed, few as a rule; three
 * more histograms over 11, 11 and 10 bits of their d fix d, and equal ones are kept by ascending id. Where a list
 * overflows, its block goes over its slice again instead.
 *
 * Counts and masses (e^z in units of 2^-40) are integers, so the order of atomics does not matter: results depend on the
 * row alone, not on the number of ranks. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#include <float.h>

enum {
    SAMPLE_THREADS = 512,
    SAMPLE_WARPS = SAMPLE_THREADS / 32,
    SAMPLE_RANKS = 8, /* blocks of a cluster: the most that every chip with clusters takes */
    BINS = 2048,
    EACH_BINS = BINS / SAMPLE_THREADS, /* that one thread looks through */
    LISTED = 1024,
    BATCH = 4, /* pieces of a row that a thread has on their way */
};
#define BINS_PER_UNIT 64.0f
#define MASS_UNIT 0x1p-40f

struct row { /* and this block's part of it */
    const float *v; /* [V] */
    int V, rank, n_ranks, first, last;
    float max, temperature;
    float lowest; /* of z: what lies below is not there */
};

/* Tokens with (d, id) up to this one. */
struct cut {
    uint32_t d;
    int id;
};

struct maxima { /* of one block */
    uint64_t key[2]; /* the second is for a second maximum */
    uint64_t warp_keys[SAMPLE_WARPS];
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
    uint64_t warp_sums[SAMPLE_WARPS];
    int warp_counts[SAMPLE_WARPS];
    uint32_t rank_counts[SAMPLE_RANKS];
};

/* ---- clusters ---------------------------------------------------------------------------------------------------------- */

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
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(at) : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
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

/* ---- values ------------------------------------------------------------------------------------------------------------ */

/* NaN counts as -inf, +inf as the largest number. */
__device__ static inline float tame(float x) { return x != x ? -INFINITY : fminf(x, FLT_MAX); }

/* a < b as floats is order(a) < order(b); -0 and 0 are one. */
__device__ static inline uint32_t order(float x) {
    const uint32_t u = __float_as_uint(x + 0.0f);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* Logits i .. i + 3 of the slice, -inf past its end; i % 4 == 0. */
__device__ static inline float4 load_four(const struct row &r, int i) {
    float4 x = make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    if (r.V % 4 == 0) {
        x = *(const float4 *)(r.v + i); /* a slice ends at a multiple of four, too */
    } else {
        x.x = r.v[i];
        if (i + 1 < r.last) x.y = r.v[i + 1];
        if (i + 2 < r.last) x.z = r.v[i + 2];
        if (i + 3 < r.last) x.w = r.v[i + 3];
    }
    return make_float4(tame(x.x), tame(x.y), tame(x.z), tame(x.w));
}

/* Of a thread's next BATCH turns, all under way at once; -inf past the end. */
__device__ static inline void load_batch(float4 batch[BATCH], const struct row &r, int i) {
#pragma unroll
    for (int j = 0; j < BATCH; j++) {
        const int at = i + j * 4 * SAMPLE_THREADS;
        batch[j] = at < r.last ? load_four(r, at) : make_float4(-INFINITY, -INFINITY, -INFINITY, -INFINITY);
    }
}

__device__ static inline float z_of(const struct row &r, float v) {
    return r.temperature == 1 ? v - r.max : (v - r.max) / r.temperature;
}
template <bool RAW> __device__ static inline uint32_t d_of(float v, float z) {
    return RAW ? ~order(v) : __float_as_uint(z) & 0x7fffffffu;
}
__device__ static inline bool up_to(const struct cut &c, uint32_t d, int id) { return d < c.d || (d == c.d && id <= c.id); }
__device__ static inline int bin_of(float z) {
    const float step = -z * BINS_PER_UNIT;
    return step < BINS - 1 ? (int)step : BINS - 1; /* NaN, too */
}

/* ---- maxima ------------------------------------------------------------------------------------------------------------ */

/* The largest key of all ranks; slot: one that is not in use any more. */
__device__ static inline uint64_t cluster_max(struct maxima *m, int slot, int n_ranks, uint64_t key) {
#pragma unroll
    for (int i = 16; i; i >>= 1) {
        const uint64_t other = __shfl_xor_sync(0xffffffffu, key, i);
        if (other > key) key = other;
    }
    if (threadIdx.x % 32 == 0) m->warp_keys[threadIdx.x / 32] = key;
    __syncthreads(); /* the warps' keys are there */
    if (threadIdx.x == 0) {
        for (int i = 1; i < SAMPLE_WARPS; i++)
            if (m->warp_keys[i] > key) key = m->warp_keys[i];
        m->key[slot] = key;
    }
    cluster_sync(); /* the ranks' keys are there, and warp_keys is free */
    key = remote(&m->key[slot], 0);
    for (int i = 1; i < n_ranks; i++) {
        const uint64_t other = remote(&m->key[slot], i);
        if (other > key) key = other;
    }
    return key;
}

/* A key that is larger for a larger value, then for a lower id. */
__device__ static inline uint64_t key_of(float x, int id) { return (uint64_t)order(x) << 32 | (uint32_t)~id; }
__device__ static inline int id_of(uint64_t key) { return (int)~(uint32_t)key; }
__device__ static inline float value_of(uint64_t key) {
    const uint32_t u = (uint32_t)(key >> 32);
    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

/* The first maximum of this block's slice. */
__device__ static inline uint64_t slice_max(const struct row &r) {
    float max = -INFINITY;
    int id = INT32_MAX;
    for (int i = r.first + 4 * (int)threadIdx.x; i < r.last; i += BATCH * 4 * SAMPLE_THREADS) {
        float4 batch[BATCH];
        load_batch(batch, r, i);
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float4 v = batch[j];
            const float largest = fmaxf(fmaxf(v.x, v.y), fmaxf(v.z, v.w));
            if (!(largest > max || id == INT32_MAX)) continue;
            max = largest;
            id = i + j * 4 * SAMPLE_THREADS + (v.x == largest ? 0 : v.y == largest ? 1 : v.z == largest ? 2 : 3);
        }
    }
    return id == INT32_MAX ? 0 : key_of(max, id);
}

/* ---- the end of a prefix ----------------------------------------------------------------------------------------------- */

__device__ static inline void clear_bins(struct bins *b) {
    for (int i = (int)threadIdx.x; i < BINS; i += SAMPLE_THREADS) b->count[i] = b->low[i] = b->high[i] = 0;
}

__device__ static inline uint64_t mass_of(float z) { return z > -29 ? __float2ull_rn(expf(z) * (1 / MASS_UNIT)) : 0; }

__device__ static inline void add_to_bin(struct bins *b, int bin, uint64_t mass) {
    atomicAdd(&b->count[bin], 1);
    const uint32_t low = (uint32_t)mass, high = (uint32_t)(mass >> 32);
    if (!mass) return;
    const uint32_t carry = atomicAdd(&b->low[bin], low) > ~low;
    if (high + carry) atomicAdd(&b->high[bin], high + carry);
}

/* The first bin at which before + the measure of all bins up to it reaches the target (a share of the total measure when
 * share > 0), or the last one that is not empty. All ranks' bins are filled; all threads of all ranks get the same. On
 * return the ranks may still be reading each other's bins: cluster_arrive has been called, cluster_wait has not. */
struct pick {
    int bin;
    uint64_t count, measure, before; /* of the bin; of all before it */
    double target;
};
__device__ static struct pick choose_bin(struct selection *s, const struct row &r, uint64_t before, double target, double share,
                                         uint64_t unbinned, bool by_mass, bool count_ranks) {
    const int tid = (int)threadIdx.x, n_own = BINS / r.n_ranks;
    if (tid == 0) s->found = BINS, s->last_used = -1;
    cluster_sync(); /* the ranks' bins are filled */
    for (int bin = r.rank * n_own + tid; bin < (r.rank + 1) * n_own; bin += SAMPLE_THREADS) {
        uint32_t count = 0;
        uint64_t mass = 0;
        for (int i = 0; i < r.n_ranks; i++) {
            count += remote(&s->bins.count[bin], i);
            if (by_mass) mass += remote(&s->bins.low[bin], i) + ((uint64_t)remote(&s->bins.high[bin], i) << 32);
        }
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
            measure[j] = remote(&s->bins.low[first + j], owner) + ((uint64_t)remote(&s->bins.high[first + j], owner) << 32);
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
    for (int i = 0; i < SAMPLE_WARPS; i++) {
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

/* The id of the keep-th of this block's tokens with d within the cut, in the order of ids; into s->cut_id. */
template <bool RAW>
__device__ static void find_tie(struct selection *s, const struct row &r, const struct cut &within, uint32_t d, int keep) {
    const int tid = (int)threadIdx.x;
    if (s->n_listed <= LISTED) {
        for (int i = tid; i < s->n_listed; i += SAMPLE_THREADS) {
            if (s->listed_d[i] != d) continue;
            int before = 0;
            for (int j = 0; j < s->n_listed; j++) before += s->listed_d[j] == d && s->listed_id[j] < s->listed_id[i];
            if (before == keep - 1) s->cut_id = s->listed_id[i];
        }
        __syncthreads(); /* cut_id is there */
        return;
    }
    for (int base = r.first, seen = 0; base < r.last; base += SAMPLE_THREADS) {
        const int id = base + tid;
        bool tie = false;
        if (id < r.last) {
            const float v = tame(r.v[id]), z = z_of(r, v);
            tie = d_of<RAW>(v, z) == d && (RAW || z >= r.lowest) && up_to(within, d, id);
        }
        const unsigned ballot = __ballot_sync(0xffffffffu, tie);
        if (tid % 32 == 0) s->warp_counts[tid / 32] = __popc(ballot);
        __syncthreads(); /* the warps' counts are there */
        int before = seen + __popc(ballot & ((1u << tid % 32) - 1));
        for (int i = 0; i < SAMPLE_WARPS; i++) {
            if (i < tid / 32) before += s->warp_counts[i];
            seen += s->warp_counts[i];
        }
        if (tie && before == keep - 1) s->cut_id = id;
        __syncthreads(); /* cut_id is there, the counts are free */
        if (seen >= keep) return;
    }
}

/* One token of the slice into the bins of the first histogram; what weighs too little for it is added up aside. */
__device__ static inline void bin_token(struct selection *s, float z, bool by_mass, float negligible, uint64_t *unbinned) {
    const uint64_t mass = by_mass ? mass_of(z) : 0;
    if (z < negligible) *unbinned += mass;
    else add_to_bin(&s->bins, bin_of(z), mass);
}

/* One token of the chosen step into the bins of a later histogram. */
template <bool RAW>
__device__ static inline void bin_member(struct selection *s, uint32_t d, float z, uint32_t prefix, int shift, int width,
                                         bool by_mass) {
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
    for (int i = 0; i < SAMPLE_WARPS; i++) x += s->warp_sums[i];
    __syncthreads(); /* and free */
    return x;
}

/* The shortest prefix of the tokens within a cut whose measure reaches the target: their number, or with share > 0 that
 * share of their mass. At least one token. Called by all threads of all ranks. */
template <bool RAW>
__device__ static struct cut select_prefix(struct selection *s, const struct row &r, struct cut within, double target,
                                           double share) {
    const int tid = (int)threadIdx.x;
    const bool by_mass = share > 0;
    /* All tokens below this together have less mass than may be dropped, whatever the rest weighs (the best weighs 1). */
    const float negligible = by_mass && share < 1 ? logf((float)(1 - share) / (float)r.V) - 1e-3f : -INFINITY;
    clear_bins(&s->bins);
    if (tid == 0) s->n_listed = 0, s->total = 0;
    __syncthreads(); /* bins are clear */
    uint64_t unbinned = 0;
    for (int i = r.first + 4 * tid; i < r.last; i += 4 * SAMPLE_THREADS) {
        const float4 four = load_four(r, i);
        const float v[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float z = z_of(r, v[j]);
            if (i + j < r.last && (RAW || z >= r.lowest) && up_to(within, d_of<RAW>(v[j], z), i + j))
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
    for (int i = r.first + 4 * tid; i < r.last; i += 4 * SAMPLE_THREADS) {
        const float4 four = load_four(r, i);
        const float v[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float z = z_of(r, v[j]);
            if (bin_of(z) != step || i + j >= r.last || !(RAW || z >= r.lowest)) continue;
            const uint32_t d = d_of<RAW>(v[j], z);
            if (!up_to(within, d, i + j) || z < negligible) continue;
            const int at = atomicAdd(&s->n_listed, 1);
            if (at < LISTED) s->listed_d[at] = d, s->listed_id[at] = i + j;
        }
    }
    cluster_wait(); /* the bins are free */
    uint32_t prefix = 0;
    for (int level = 0; level < 3; level++) {
        const int shift = level == 0 ? 21 : level == 1 ? 10 : 0, width = level == 2 ? 10 : 11;
        clear_bins(&s->bins);
        __syncthreads(); /* bins are clear, the list is whole */
        if (s->n_listed <= LISTED) {
            for (int i = tid; i < s->n_listed; i += SAMPLE_THREADS) {
                const uint32_t d = s->listed_d[i];
                bin_member<RAW>(s, d, -__uint_as_float(d), prefix, shift, width, by_mass);
            }
        } else {
            for (int i = r.first + tid; i < r.last; i += SAMPLE_THREADS) {
                const float v = tame(r.v[i]), z = z_of(r, v);
                const uint32_t d = d_of<RAW>(v, z);
                if (bin_of(z) == step && (RAW || z >= r.lowest) && !(z < negligible) && up_to(within, d, i))
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
