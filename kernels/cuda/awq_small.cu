/* awq_small.cu - y = x W' for 4-bit weights and up to 16 tokens: the weights are read once. (Up to eight tokens,
 * awq_few.cu is faster where it covers the matrix.)
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k]     w = round_f16((q - zero) * scale), x [T, K] f16, T <= 16, fp32 sums
 *
 * mma.m16n8k16 with the weights as A (awq.cuh: 16 bytes of a lane are its fragments of 16 x 64 weights) and tokens as
 * the eight columns of B, N times.
 *
 * Work. One block per SM. The blocks of a cluster share some strips of 16 rows: block `rank` has the rank-th part of K
 * of all of them, and keeps its part of x in shared memory. Strips go in pairs, so that a fragment of x serves two:
 * neighbours, or gate and up for SILU_MUL; of an odd number the last is alone. A pair's groups of 128 in one block are
 * a unit, one group of it is a stage (2 x 16 x 128 weights). The block's stages, by (pair, group), are divided evenly
 * among its warps.
 *
 * Sums. A warp adds a unit's stages in order of k. Where a unit lies across warps, the warp with its beginning adds the
 * others' sums in order. The result is the block's share of the pair and goes to the block of the cluster that owns it
 * (pair modulo ranks), by asynchronous stores into its shared memory that count on its mbarrier; owners add the shares
 * in order of rank and apply the epilogue. So the order of every sum depends on (rows, K) and the chip, never on T. On
 * chips without clusters shares go to the workspace and a second kernel adds them.
 *
 * Bytes in flight. Each warp has its own ring of DEPTH stages in shared memory, filled by cp.async: 2 KB a stage, 68 KB
 * per SM. Rings are filled before the kernel waits for x. (Measured: deeper rings are slower, because a kernel begins
 * when its rings are full.)
 *
 * Instructions per stage and warp: 16 words of 13 each to dequantise, 16 N mma, 4 N ldmatrix, about 70 others. */
#include "kernels/cuda/awq.cuh"
#include "kernels/cuda/norm.cuh"

enum {
    WARPS = 16,
    THREADS = 32 * WARPS,
    DEPTH = 2,                       /* stages of a ring */
    MAX_RANKS = 8,                   /* blocks of a cluster, at most */
    RANK_GROUPS = 24,                /* of a block's part of K, if it can be */
    STAGE_DATA = 4 * AWQ_TILE_BYTES, /* first strip's two tiles, second strip's */
    STAGE_ZEROS = STAGE_DATA + 2 * AWQ_SCALE_BYTES,
    STAGE_BYTES = STAGE_ZEROS + 2 * AWQ_ZERO_BYTES,
    PAIR_ROWS = 2 * AWQ_STRIP,
    X_PAD = 16, /* so that the 8 rows that ldmatrix reads at once lie in different banks */
    MAX_TOKENS = 16,
    NORM_TOKENS = 8, /* of the fused norm, for which every block reads all of x */
};

struct args {
    const char *data, *scales, *zeros;
    const __half *x, *bias, *norm;
    void *y;
    float *shares; /* workspace: [clusters][ranks][pairs][T][32], where there are no clusters */
    float eps;
    enum epilogue epilogue;
    int T, rows, K;
    int n_groups, n_clusters, n_ranks;
    int n_strips; /* to be divided among clusters; for SILU_MUL those of gate */
    int n_pairs;  /* of a cluster, at most */
};

/* ---- whose work -------------------------------------------------------------------------------------------------- */

__device__ static inline bool is_silu(const struct args &a) {
    return a.epilogue == EPILOGUE_SILU_MUL;
}

/* What a block computes: n pairs beginning at strip `strip`, of which the last may have one strip only, by n_groups. */
struct work {
    int strip, n_pairs;
    bool odd;
    int group, n_groups;
};

__device__ static inline struct work work_of(const struct args &a, int cluster, int rank) {
    struct work w;
    w.strip = a.n_strips * cluster / a.n_clusters;
    const int n_strips = a.n_strips * (cluster + 1) / a.n_clusters - w.strip;
    w.n_pairs = is_silu(a) ? n_strips : (n_strips + 1) / 2;
    w.odd = !is_silu(a) && n_strips % 2;
    w.group = a.n_groups * rank / a.n_ranks;
    w.n_groups = a.n_groups * (rank + 1) / a.n_ranks - w.group;
    return w;
}

/* The first stage of a warp, so that all have as many strips to read; that of warp WARPS is the end. */
__device__ static inline int warp_begin(const struct work &w, int warp) {
    const int whole = 2 * (w.n_pairs - w.odd) * w.n_groups; /* strips in pairs, times groups */
    const int at = (whole + w.odd * w.n_groups) * warp / WARPS;
    return at < whole ? (at + 1) / 2 : whole / 2 + at - whole;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

__device__ static inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ static inline void copy_16(uint32_t to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ static inline void copies_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int PENDING> __device__ static inline void copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* A warp's way through its stages, ahead of the one that multiplies. */
struct loader {
    const char *first, *second, *extra; /* this lane's 16 bytes of the strips' next tiles; of their scales or zeros */
    int left, unit_left;                /* stages of the warp, and of the unit */
    int pair;
    bool two; /* strips */
};

__device__ static inline void loader_point(struct loader &l, const struct args &a, const struct work &w, int group,
                                           int lane) {
    const int first = is_silu(a) ? w.strip + l.pair : w.strip + 2 * l.pair;
    const int second = is_silu(a) ? first + a.n_strips : first + 1;
    const size_t strip_bytes = (size_t)a.K / AWQ_TILE_K * AWQ_TILE_BYTES;
    const int at = group * (AWQ_GROUP / AWQ_TILE_K) * AWQ_TILE_BYTES + lane * 16;
    l.first = a.data + first * strip_bytes + at;
    l.second = a.data + second * strip_bytes + at;
    /* Lanes 0, 1: scales of the first strip; 2, 3: of the second; 4, 5: zeros of the first and the second. */
    const size_t entry = (size_t)((lane < 4 ? lane / 2 : lane % 2) ? second : first) * a.n_groups + group;
    l.extra = lane < 4 ? a.scales + entry * AWQ_SCALE_BYTES + lane % 2 * 16 : a.zeros + entry * AWQ_ZERO_BYTES;
    l.two = l.pair < w.n_pairs - w.odd;
}

/* Loads the next stage, if there is one, as a group of copies of its own. */
__device__ static inline void load_stage(struct loader &l, const struct args &a, const struct work &w, uint32_t to,
                                         int lane) {
    if (l.left > 0) {
        copy_16(to + lane * 16, l.first);
        copy_16(to + AWQ_TILE_BYTES + lane * 16, l.first + AWQ_TILE_BYTES);
        if (l.two) {
            copy_16(to + 2 * AWQ_TILE_BYTES + lane * 16, l.second);
            copy_16(to + 3 * AWQ_TILE_BYTES + lane * 16, l.second + AWQ_TILE_BYTES);
        }
        if (lane < 6 && (l.two || lane < 2 || lane == 4)) copy_16(to + STAGE_DATA + lane * 16, l.extra);
        l.first += 2 * AWQ_TILE_BYTES;
        l.second += 2 * AWQ_TILE_BYTES;
        l.extra += lane < 4 ? AWQ_SCALE_BYTES : AWQ_ZERO_BYTES;
        l.left--;
        if (--l.unit_left == 0) {
            l.unit_left = w.n_groups;
            l.pair++;
            loader_point(l, a, w, w.group, lane);
        }
    }
    copies_commit();
}

/* x of the block's groups: row t at t * stride bytes, by all threads. Complete for this thread's part when its copies
 * are. With a norm, scales [T] are the tokens'. */
__device__ static inline void load_x(char *to, int stride, const struct args &a, const struct work &w,
                                     const float *scales) {
    const int per_row = w.n_groups * (AWQ_GROUP * 2 / 16);
    for (int c = threadIdx.x; c < per_row; c += THREADS) {
        const uint4 *from = (const uint4 *)(a.x + w.group * AWQ_GROUP) + c;
        char *at = to + c * 16;
        uint4 norm = {};
        if (a.norm) norm = __ldg((const uint4 *)(a.norm + w.group * AWQ_GROUP) + c);
#pragma unroll 4
        for (int t = 0; t < a.T; t++, from += a.K / 8, at += stride) {
            if (a.norm)
                *(uint4 *)at = norm_apply<__half>(__ldcg(from), norm, scales[t]);
            else
                copy_16(shared_address(at), from);
        }
    }
}

/* ---- multiplying ------------------------------------------------------------------------------------------------- */

__device__ static inline void load_matrices(uint32_t b[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
}

__device__ static inline void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A unit's sums: [strip][eight tokens] as mma.m16n8k16 leaves them: with g = lane / 4, j = lane % 4, elements 0 and 1
 * are row g and tokens 2j, 2j + 1; 2 and 3 row g + 8. */
template <int N> struct sums { float at[2][N][4]; };

template <int N> __device__ static inline void clear(struct sums<N> &s) {
#pragma unroll
    for (int i = 0; i < 8 * N; i++) (&s.at[0][0][0])[i] = 0;
}

/* A stage's words, out of the ring. */
struct words {
    uint32_t data[2][8]; /* [strip][16 inputs] */
    uint32_t scales[2], zeros[2];
};

template <int STRIPS> __device__ static inline void read_stage(struct words &w, const char *stage, int lane) {
#pragma unroll
    for (int i = 0; i < 2 * STRIPS; i++) {
        uint4 v = *(const uint4 *)(stage + i * AWQ_TILE_BYTES + lane * 16);
        uint32_t *to = &w.data[i / 2][i % 2 * 4];
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
#pragma unroll
    for (int i = 0; i < STRIPS; i++) {
        w.scales[i] = *(const uint32_t *)(stage + STAGE_DATA + i * AWQ_SCALE_BYTES + lane / 4 * 4);
        w.zeros[i] = *(const uint16_t *)(stage + STAGE_ZEROS + i * AWQ_ZERO_BYTES + lane / 4 * 2);
    }
}

/* sums += a stage's first STRIPS strips times x; x[n] is what this lane gives ldmatrix for tokens 8 n .. 8 n + 7 at the
 * stage's first input. */
template <int N, int STRIPS>
__device__ static inline void multiply_stage(struct sums<N> &s, const struct words &w, const uint32_t x[N]) {
    struct awq_scale scale[STRIPS];
#pragma unroll
    for (int i = 0; i < STRIPS; i++) scale[i] = awq_scale_of(w.scales[i], w.zeros[i]);
#pragma unroll
    for (int k = 0; k < 8; k += 2) { /* of 16 inputs */
        uint32_t b[N][4];
#pragma unroll
        for (int n = 0; n < N; n++) load_matrices(b[n], x[n] + k * 32);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t f[STRIPS][4];
#pragma unroll
            for (int j = 0; j < STRIPS; j++) awq_dequantise(f[j], w.data[j][k + i], scale[j]);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int j = 0; j < STRIPS; j++) multiply(s.at[j][n], f[j], b[n][2 * i], b[n][2 * i + 1]);
        }
    }
}

/* ---- shares and their sum ---------------------------------------------------------------------------------------- */

/* Shares of a pair lie at its owner as [rank][pair / ranks][T][32]; one that is alone uses 16 of the 32. */
#if __CUDA_ARCH__ >= 900
__device__ static inline int owned_pairs(const struct args &a, const struct work &w, int rank) {
    return (w.n_pairs - rank + a.n_ranks - 1) / a.n_ranks;
}
#endif

/* Gives this block's share of a pair to the owner. shares: of this block, in shared memory or the workspace; barrier:
 * of this block. A block without others just stores: compute-sanitizer takes st.async in a cluster of one for an
 * error. */
template <int N>
__device__ static inline void give_share(const struct args &a, float *shares, uint64_t *barrier,
                                         const struct sums<N> &s, int pair, bool two, int rank, int lane) {
#if __CUDA_ARCH__ >= 900
    const int most = (a.n_pairs + a.n_ranks - 1) / a.n_ranks, owner = pair % a.n_ranks;
    uint32_t to, counts;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(shares)), "r"(owner));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counts) : "r"(shared_address(barrier)), "r"(owner));
    to += ((rank * most + pair / a.n_ranks) * a.T * PAIR_ROWS + lane / 4) * 4;
    float *const own = shares + pair * a.T * PAIR_ROWS + lane / 4; /* of a block without others */
#else
    float *to = shares + (rank * a.n_pairs + pair) * a.T * PAIR_ROWS + lane / 4;
#endif
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int t = 8 * n + lane % 4 * 2 + i;
            if (t >= a.T) continue;
#pragma unroll
            for (int eight = 0; eight < 4; eight++) {
                if (eight >= 2 && !two) continue;
                const float v = s.at[eight / 2][n][eight % 2 * 2 + i];
                const int at = t * PAIR_ROWS + eight * 8;
#if __CUDA_ARCH__ >= 900
                if (a.n_ranks == 1) {
                    own[at] = v;
                    continue;
                }
                asm volatile(
                    "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to + at * 4),
                    "r"(__float_as_uint(v)), "r"(counts)
                    : "memory");
#else
                to[at] = v;
#endif
            }
        }
}

/* y of one pair and token: lane holds the sum of row `lane` of the pair, whose first strip is `strip`. By a warp. */
__device__ static inline void store(const struct args &a, int strip, bool two, int t, float sum, int lane) {
    if (is_silu(a)) {
        float up = round_to<__half>(__shfl_down_sync(0xffffffffu, sum, AWQ_STRIP)), gate = round_to<__half>(sum);
        float silu = round_to<__half>(gate / (1.0f + __expf(-gate)));
        if (lane < AWQ_STRIP)
            ((__half *)a.y)[(size_t)t * (a.rows / 2) + strip * AWQ_STRIP + lane] = to_act<__half>(silu * up);
        return;
    }
    if (!two && lane >= AWQ_STRIP) return;
    const int row = strip * AWQ_STRIP + lane;
    const size_t at = (size_t)t * a.rows + row;
    __half *y = (__half *)a.y + at;
    if (a.epilogue == EPILOGUE_F32)
        ((float *)a.y)[at] = sum;
    else if (a.epilogue == EPILOGUE_ADD)
        *y = to_act<__half>(to_float(*y) + round_to<__half>(sum));
    else
        *y = to_act<__half>(a.bias ? sum + to_float(a.bias[row]) : sum);
}

#if __CUDA_ARCH__ >= 900
/* Adds the shares of this block's pairs in order of rank and stores y. */
__device__ static inline void fold(const struct args &a, const float *shares, const struct work &w, int rank, int warp,
                                   int lane) {
    const int n = owned_pairs(a, w, rank) * a.T, most = (a.n_pairs + a.n_ranks - 1) / a.n_ranks;
    for (int task = warp; task < n; task += WARPS) {
        const float *share = shares + task * PAIR_ROWS + lane;
        float sum = share[0];
        for (int i = 1; i < a.n_ranks; i++) sum += share[i * most * a.T * PAIR_ROWS];
        const int pair = task / a.T * a.n_ranks + rank;
        store(a, is_silu(a) ? w.strip + pair : w.strip + 2 * pair, pair < w.n_pairs - w.odd, task % a.T, sum, lane);
    }
}
#endif

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

#if __CUDA_ARCH__ >= 900
__device__ static inline void barrier_init(uint64_t *barrier, int bytes) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                 "fence.mbarrier_init.release.cluster;\n"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}
__device__ static inline void barrier_wait(uint64_t *barrier) {
    asm volatile("{\n.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\n"
                 "@!p bra again;\n}" ::"r"(shared_address(barrier))
                 : "memory");
}
#endif

/* N: eights of tokens. Grid: [clusters][ranks]. Dynamic shared memory: rings [WARPS][DEPTH][STAGE_BYTES], heads
 * [WARPS][2 N][32] float4, shares [ranks][pairs / ranks][T][32], x [T][stride]. */
template <int N> __global__ static void __launch_bounds__(THREADS, 1) awq_small(const struct args a) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float norm_sums[NORM_TOKENS * NORM_WARPS], norm_of[NORM_TOKENS];
    __shared__ uint64_t barrier;
    pdl_trigger();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int rank = blockIdx.x % a.n_ranks, cluster = blockIdx.x / a.n_ranks;
    const struct work w = work_of(a, cluster, rank);
    const int begin = warp_begin(w, warp);
    int left = warp_begin(w, warp + 1) - begin;                /* stages of the warp */
    int pair = begin / w.n_groups, group = begin % w.n_groups; /* of the block's */

    char *const ring = shared + warp * DEPTH * STAGE_BYTES;
    float4 *const heads = (float4 *)(shared + WARPS * DEPTH * STAGE_BYTES);
    struct loader loader = {.left = left, .unit_left = w.n_groups - group, .pair = pair};
    loader_point(loader, a, w, w.group + group, lane);
#pragma unroll 1
    for (int i = 0; i < DEPTH; i++) load_stage(loader, a, w, shared_address(ring) + i * STAGE_BYTES, lane);

#if __CUDA_ARCH__ >= 900
    float *const shares = (float *)(heads + WARPS * 2 * N * 32);
    char *const x = (char *)(shares + a.n_ranks * ((a.n_pairs + a.n_ranks - 1) / a.n_ranks) * a.T * PAIR_ROWS);
    if (threadIdx.x == 0) {
        const int n = owned_pairs(a, w, rank);
        const bool odd = w.odd && (w.n_pairs - 1) % a.n_ranks == rank;
        barrier_init(&barrier, a.n_ranks * a.T * (n * PAIR_ROWS - odd * AWQ_STRIP) * (int)sizeof(float));
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#else
    float *const shares = a.shares + (size_t)cluster * a.n_ranks * a.n_pairs * a.T * PAIR_ROWS;
    char *const x = (char *)(heads + WARPS * 2 * N * 32);
#endif
    const int x_stride = (a.n_groups + a.n_ranks - 1) / a.n_ranks * AWQ_GROUP * 2 + X_PAD;
    uint32_t x_lane[N]; /* what this lane gives ldmatrix; tokens that do not exist: the last one again, not stored */
#pragma unroll
    for (int i = 0; i < N; i++)
        x_lane[i] = shared_address(x) + min(8 * i + lane % 8, a.T - 1) * x_stride + lane / 8 * 16;

    pdl_wait();
    if (a.norm) norm_scales<__half, THREADS>(norm_of, norm_sums, a.x, a.T, a.K, a.eps);
    load_x(x, x_stride, a, w, norm_of);
    copies_commit();
    copies_wait<0>();
    __syncthreads(); /* x is there */
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); /* the others' barriers can be counted on */
#endif

    struct sums<N> sums;
    clear(sums);
    bool owner = group == 0; /* whether the sums begin where the unit does */
    bool tail = false;       /* whether the next warps have the rest */
    int at = 0;              /* of the ring */
    while (left > 0) {
        copies_wait<DEPTH - 1>();
        __syncwarp(); /* all lanes' copies are there */
        struct words words;
        uint32_t x_stage[N];
#pragma unroll
        for (int i = 0; i < N; i++) x_stage[i] = x_lane[i] + group * AWQ_GROUP * 2;
        const bool two = pair < w.n_pairs - w.odd;
        if (two) {
            read_stage<2>(words, ring + at, lane);
            __syncwarp(); /* all lanes have read */
            load_stage(loader, a, w, shared_address(ring) + at, lane);
            multiply_stage<N, 2>(sums, words, x_stage);
        } else {
            read_stage<1>(words, ring + at, lane);
            __syncwarp();
            load_stage(loader, a, w, shared_address(ring) + at, lane);
            multiply_stage<N, 1>(sums, words, x_stage);
        }
        at = at == (DEPTH - 1) * STAGE_BYTES ? 0 : at + STAGE_BYTES;
        left--;
        group++;
        if (group < w.n_groups && left > 0) continue;
        if (!owner) { /* the rest of a unit that began in another warp */
#pragma unroll
            for (int i = 0; i < 2 * N; i++)
                heads[(warp * 2 * N + i) * 32 + lane] = ((const float4 *)&sums.at[0][0][0])[i];
        } else if (group == w.n_groups) {
            give_share(a, shares, &barrier, sums, pair, two, rank, lane);
        } else {
            tail = true;
            break;
        }
        owner = true;
        group = 0;
        pair++;
        clear(sums);
    }
    __syncthreads(); /* heads are written */
    if (tail) {
        for (int other = warp + 1; other < WARPS; other++) {
            const int other_begin = warp_begin(w, other);
            if (other_begin >= (pair + 1) * w.n_groups) break;
            if (other_begin == warp_begin(w, other + 1)) continue;
#pragma unroll
            for (int i = 0; i < 2 * N; i++) {
                float4 v = heads[(other * 2 * N + i) * 32 + lane];
                float *to = &sums.at[0][0][0] + 4 * i;
                to[0] += v.x, to[1] += v.y, to[2] += v.z, to[3] += v.w;
            }
        }
        give_share(a, shares, &barrier, sums, pair, pair < w.n_pairs - w.odd, rank, lane);
    }
#if __CUDA_ARCH__ >= 900
    if (a.n_ranks == 1)
        __syncthreads(); /* all shares are here */
    else
        barrier_wait(&barrier);
    fold(a, shares, w, rank, warp, lane);
#endif
}

/* The fold by itself, for chips without clusters. Block: a cluster's pairs. */
__global__ static void __launch_bounds__(THREADS) awq_small_fold(const struct args a) {
    pdl_trigger();
    pdl_wait();
    const int lane = threadIdx.x % 32;
    const struct work w = work_of(a, blockIdx.x, 0);
    const size_t rank_floats = (size_t)a.n_pairs * a.T * PAIR_ROWS;
    for (int task = threadIdx.x / 32; task < w.n_pairs * a.T; task += WARPS) {
        const float *share = a.shares + blockIdx.x * a.n_ranks * rank_floats + task * PAIR_ROWS + lane;
        float sum = __ldcg(share);
        for (int i = 1; i < a.n_ranks; i++) sum += __ldcg(share + i * rank_floats);
        const int pair = task / a.T;
        store(a, is_silu(a) ? w.strip + pair : w.strip + 2 * pair, pair < w.n_pairs - w.odd, task % a.T, sum, lane);
    }
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

/* As cuda_launch, in clusters. */
template <typename K>
static void launch_clusters(struct exec *e, K *kernel, int grid, int cluster, size_t smem, const struct args &a) {
    struct cuda_state *s = cuda_of(e);
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = smem;
    config.stream = s->stream;
    config.attrs = attributes;
    config.numAttrs = 2;
    CUDA_TRY(e, cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared));
    CUDA_TRY(e, cudaLaunchKernelEx(&config, kernel, a));
}

/* False where the chip has too little shared memory, or the workspace is too small. */
template <int N> static bool launch(struct exec *e, struct args *a, int smem_limit) {
    struct cuda_state *s = cuda_of(e);
    const size_t share_bytes = (size_t)a->n_ranks * div_up(a->n_pairs, a->n_ranks) * a->T * PAIR_ROWS * sizeof(float);
    size_t smem = (size_t)WARPS * (DEPTH * STAGE_BYTES + 2 * N * 32 * sizeof(float4)) +
                  (size_t)a->T * (div_up(a->n_groups, a->n_ranks) * AWQ_GROUP * 2 + X_PAD);
    if (s->arch >= 90) smem += share_bytes;
    if (smem > (size_t)smem_limit) return false;
    const int grid = a->n_clusters * a->n_ranks;
    cuda_allow_smem(e, awq_small<N>, smem);
    if (s->arch >= 90) {
        launch_clusters(e, awq_small<N>, grid, a->n_ranks, smem, *a);
        return true;
    }
    if ((size_t)grid * a->n_pairs * a->T * PAIR_ROWS * sizeof(float) > s->workspace_bytes) return false;
    a->shares = (float *)s->workspace;
    cuda_launch(e, awq_small<N>, grid, THREADS, smem, *a);
    cuda_launch(e, awq_small_fold, a->n_clusters, THREADS, 0, *a);
    return true;
}

/* Clusters of n blocks that can run side by side. */
static int clusters_of(struct exec *e, int n) {
    struct cuda_state *s = cuda_of(e);
    if (n == 1 || s->arch < 90) return s->n_sms / n;
    return s->clusters[n == 2 ? 0 : n == 4 ? 1 : 2];
}

bool cuda__awq_small(struct exec *e, const struct linear_args *l) {
    struct cuda_state *s = cuda_of(e);
    const struct matrix *w = l->w;
    const bool silu = l->epilogue == EPILOGUE_SILU_MUL;
    if (l->T > MAX_TOKENS || (l->norm && l->T > NORM_TOKENS) || s->arch < 80) return false;
    if (silu && w->rows % PAIR_ROWS) return false;
    struct args a = {.data = (const char *)w->data,
                     .scales = (const char *)w->scales,
                     .zeros = (const char *)w->zeros,
                     .x = (const __half *)l->x,
                     .bias = (const __half *)l->bias,
                     .norm = (const __half *)l->norm,
                     .y = l->y,
                     .eps = l->eps,
                     .epilogue = l->epilogue,
                     .T = l->T,
                     .rows = w->rows,
                     .K = w->cols,
                     .n_groups = w->cols / AWQ_GROUP,
                     .n_strips = w->rows / AWQ_STRIP / (silu ? 2 : 1)};
    if ((size_t)w->rows / AWQ_STRIP * a.n_groups > INT32_MAX / 256) return false;

    /* The ranks for which the busiest block has the fewest strips times groups to read; few ranks where that is equal.
     */
    int best = INT32_MAX;
    for (int ranks = 1; ranks <= MAX_RANKS && ranks <= a.n_groups; ranks *= 2) {
        const int n = div_up(a.n_groups, ranks), clusters = clusters_of(e, ranks);
        if (clusters == 0 || (n > RANK_GROUPS && ranks < MAX_RANKS && 2 * ranks <= a.n_groups)) continue;
        const int cost = div_up(a.n_strips, clusters) * (silu ? 2 : 1) * n + ranks;
        if (cost >= best) continue;
        best = cost;
        a.n_ranks = ranks;
        a.n_clusters = a.n_strips < clusters ? a.n_strips : clusters;
    }
    if (best == INT32_MAX) return false;
    const int most_strips = div_up(a.n_strips, a.n_clusters);
    a.n_pairs = silu ? most_strips : div_up(most_strips, 2);

    int smem_limit = 0;
    CUDA_TRY(e, cudaDeviceGetAttribute(&smem_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, s->device));
    smem_limit -= 1 << 10; /* what the kernel declares */
    return l->T <= 8 ? launch<1>(e, &a, smem_limit) : launch<2>(e, &a, smem_limit);
}
