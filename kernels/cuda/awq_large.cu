/* awq_large.cu - y = x W' for 4-bit weights and many tokens, on the warpgroup products of sm_90a.
 *
 *     y[t, n] = sum over k of x[t, k] * w[n, k],  w = round_f16((q - zero) * scale)        x [T, C] f16, y [T, rows]
 *
 * Weights are the M side of the product and tokens the N side, as in Machete: then the 4-bit weights go from shared
 * memory to registers, become f16 there, and are the A operand without ever being stored again. x is the B operand, in
 * shared memory as TMA puts it (128-byte swizzle, lines along k).
 *
 * A thread block makes 128 rows x N tokens. Two warpgroups multiply, 64 rows each; with SILU_MUL the first one's are
 * `gate` rows and the second one's the `up` rows that belong to them. A third warpgroup has one thread that feeds a
 * ring of stages, 128 of k each (one scale group): x [2][N][64] f16, w [8 strips][2][512 bytes], scales and zeros [8
 * strips][16]. Blocks come in pairs (clusters of two) that make neighbouring rows of the same tokens: each loads half
 * of the x of a stage for both. So an SM draws 64 N + 4096 bytes from the L2 for each 64 of k, in 4 N cycles.
 *
 * Packed weights: awq.cuh. 16 bytes of a lane are the A fragments of four k16 steps of its strip of 16 rows; the four
 * warps of a warpgroup take four consecutive strips, which is just the m64k16 operand. While the products of some
 * fragments run, the next fragments are made in other registers.
 *
 * Blocks are persistent: pair i makes tiles i, i + pairs, ... Tiles are numbered so that those which run at the same
 * time share few rows and few tokens, which the L2 then holds: token tiles in groups, in a group all rows, at each row
 * the tokens of the group. Where even small tiles are too few to fill the chip, S pairs share a tile (then of one
 * cluster): each takes a part of k, and they exchange partial sums through shared memory, each finishing N / S of the
 * tokens.
 *
 * Sums: fp32 in the tensor cores, k ascending; S partial sums in order of k. A tile's size does not change a sum; S
 * does. */
#include "kernels/cuda/awq_tma.cuh"
#include "kernels/cuda/rows.cuh"

#include <math.h>

enum {
    GROUP = AWQ_GROUP, /* inputs of one scale, and the k of a stage */
    WARPGROUP = 128,
    THREADS = 3 * WARPGROUP,
    ROWS = 128, /* of a block's tile */
    STRIPS = ROWS / AWQ_STRIP,
    STAGED = 32,                     /* tokens of a warpgroup's output on their way through shared memory, */
    STAGING_BYTES = STAGED * 64 * 2, /* 64 rows each */
    SMEM_MAX = 227 << 10,
    STAGES_MAX = 8,
    TOKEN_GROUP = 1024, /* tokens whose x should stay in the L2 while all rows pass */
    CONSUMER_REGISTERS = 232,
    PRODUCER_REGISTERS = 40,
};

struct tiling {
    int rows, T;               /* of y; for SILU_MUL rows is F */
    int n_k;                   /* stages: C / 128 */
    int first_pair, row_pairs; /* pairs of row tiles that this launch makes */
    int token_tiles;
    int token_group; /* token tiles that are made together */
};

/* Shared memory: the ring's parts, each stage after stage, and what is staged of the output. */
template <int N> struct layout {
    enum {
        X_BYTES = N * GROUP * 2,
        W_BYTES = STRIPS * (GROUP / AWQ_TILE_K) * AWQ_TILE_BYTES,
        SCALES_BYTES = STRIPS * AWQ_SCALE_BYTES,
        ZEROS_BYTES = STRIPS * AWQ_ZERO_BYTES,
        STAGE_BYTES = X_BYTES + W_BYTES + SCALES_BYTES + ZEROS_BYTES,
        ALIGN = 1024, /* the swizzle of x repeats every kilobyte */
        FIT = (SMEM_MAX - ALIGN - 2 * STAGING_BYTES - 2 * STAGES_MAX * 8) / STAGE_BYTES,
        STAGES = FIT < STAGES_MAX ? FIT : STAGES_MAX,
        X = 0,
        STAGING = X + STAGES * X_BYTES,
        W = STAGING + 2 * STAGING_BYTES,
        SCALES = W + STAGES * W_BYTES,
        ZEROS = SCALES + STAGES * SCALES_BYTES,
        FULL = ZEROS + STAGES * ZEROS_BYTES,
        EMPTY = FULL + STAGES * 8,
        SMEM_BYTES = EMPTY + STAGES * 8 + ALIGN,
    };
    static_assert(N % 16 == 0 && STAGES >= 3, "whole pairs of 8 tokens, and a ring");
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define CLUSTER_OF(n)
#else
#define CLUSTER_OF(n) __cluster_dims__(n)
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ static inline void tile_at(const struct tiling &t, int i, int *row_pair, int *token_tile) {
    const int group = i / (t.row_pairs * t.token_group), rest = i - group * t.row_pairs * t.token_group;
    const int first = group * t.token_group, n = min(t.token_group, t.token_tiles - first);
    *row_pair = t.first_pair + rest / n;
    *token_tile = first + rest % n;
}

/* ---- the multiplying warpgroups ---------------------------------------------------------------------------------- */

/* d += w x' over n stages of the ring from (slot, parity) on, which it moves on. `strip` is the warp's, in the tile;
 * peer_empty: of lanes 0 and 1, where the EMPTY barriers of one block of the pair are.
 *
 * Four k16 steps are a set, two sets a stage: while the products of one set run, the fragments of the next are made.
 * Sets of one or two steps cost 2 to 7 % more, for they wait more often; so did words loaded a set earlier. */
template <int N>
__device__ static inline void multiply(float (&d)[N / 2], uint32_t smem, int n, int *slot_, uint32_t *parity_,
                                       int strip, int lane, uint32_t peer_empty) {
    using L = layout<N>;
    int slot = *slot_, last = 0;
    uint32_t parity = *parity_;
    uint32_t a[2][4][4]; /* fragments of both sets */
    uint4 words;         /* what one set is made of */
    struct awq_scale scale;

    auto load_words = [&](int at, int set) {
        words = load_shared(smem + L::W + at * L::W_BYTES + (strip * 2 + set) * AWQ_TILE_BYTES + lane * 16);
    };
    auto load_scales = [&](int at) {
        scale = awq_scale_of(
            load_shared_u32(smem + L::SCALES + at * L::SCALES_BYTES + strip * AWQ_SCALE_BYTES + lane / 4 * 4),
            load_shared_u16(smem + L::ZEROS + at * L::ZEROS_BYTES + strip * AWQ_ZERO_BYTES + lane / 4 * 2));
    };
    auto make = [&](int set) {
        awq_dequantise(a[set][0], words.x, scale);
        awq_dequantise(a[set][1], words.y, scale);
        awq_dequantise(a[set][2], words.z, scale);
        awq_dequantise(a[set][3], words.w, scale);
    };
    auto start = [&](int set, uint64_t x, int accumulate) {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++)
            wgmma_rs_f16(d, a[set][i][0], a[set][i][1], a[set][i][2], a[set][i][3],
                         wgmma_advance(x, set * N * 128 + i * 32), set || i ? 1 : accumulate);
        wgmma_commit();
    };
    /* The products before those started last are done, their registers are free: no fragment is made earlier. */
    auto finish = [&]() {
        wgmma_wait<1>();
        asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    };
    /* Every warp tells both blocks of the pair: either may overwrite this block's x. */
    auto release = [&](int at) {
        if (lane < 2) cluster_arrive_at(peer_empty + at * 8);
    };

    mbarrier_wait(smem + L::FULL + slot * 8, parity);
    load_scales(slot);
    load_words(slot, 0);
    make(0);
    for (int k = 0; k < n; k++) {
        const uint64_t x = wgmma_operand(smem + L::X + slot * L::X_BYTES, 0, 1024);
        const int next = slot + 1 == L::STAGES ? 0 : slot + 1;
        const uint32_t next_parity = next ? parity : parity ^ 1;
        start(0, x, k);
        load_words(slot, 1);
        finish();
        if (k) release(last);
        make(1);
        start(1, x, 1);
        if (k + 1 < n) {
            mbarrier_wait(smem + L::FULL + next * 8, next_parity);
            load_scales(next);
            load_words(next, 0);
        }
        finish();
        make(0); /* after the last stage of no use, and no harm */
        last = slot;
        slot = next;
        parity = next_parity;
    }
    wgmma_wait<0>();
    wgmma_settle(d);
    release(last);
    *slot_ = slot;
    *parity_ = parity;
}

/* ---- the end of a tile ------------------------------------------------------------------------------------------- */

__device__ static inline uint32_t pack(float a, float b) { return awq_bits(__floats2half2_rn(a, b)); }

/* Eight gates and the ups that belong to them. */
__device__ static inline uint4 silu_mul_halves(uint4 gate, uint4 up) {
    uint4 product;
    const __half2 *x = (const __half2 *)&gate, *y = (const __half2 *)&up;
    uint32_t *out = (uint32_t *)&product;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 g = __half22float2(x[i]), u = __half22float2(y[i]);
        out[i] = pack(round_to<__half>(silu<__half>(g.x)) * u.x, round_to<__half>(silu<__half>(g.y)) * u.y);
    }
    return product;
}

__device__ static inline uint4 add_halves(uint4 a, uint4 b) {
    uint4 sum;
    const __half2 *x = (const __half2 *)&a, *y = (const __half2 *)&b;
    uint32_t *out = (uint32_t *)&sum;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 u = __half22float2(x[i]), v = __half22float2(y[i]);
        out[i] = pack(u.x + v.x, u.y + v.y);
    }
    return sum;
}

/* Writes a warpgroup's sums: rows row .. row + 63, tokens token .. token + N - 1. They lie in registers with two tokens
 * side by side; y wants rows side by side, so they turn around in shared memory, some tokens at a time. With SILU_MUL
 * both warpgroups do this together, and each thread takes eight rows of gate from the one and of up from the other. */
template <int N>
__device__ static inline void store_tile(const float (&d)[N / 2], void *y, const __half *bias, enum epilogue epilogue,
                                         const struct tiling &t, int row, int token, uint32_t staging, int group,
                                         int thread) {
    const int warp = thread / 32, lane = thread % 32;
    const int mine = row + 16 * warp + lane / 4; /* this thread's rows: this one and the eighth after it */
    const bool exists = mine < t.rows;
    if (epilogue == EPILOGUE_F32) {
        if (!exists) return;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const int column = token + i / 4 * 8 + lane % 4 * 2 + i % 2;
            if (column < t.T) ((float *)y)[(size_t)column * t.rows + mine + i / 2 % 2 * 8] = d[i];
        }
        return;
    }
    const bool gated = epilogue == EPILOGUE_SILU_MUL;
    const int barrier = gated ? 1 : 2 + group, n_threads = gated ? 2 * WARPGROUP : WARPGROUP;
    const float low = bias && exists ? __half2float(bias[mine]) : 0.0f;
    const float high = bias && exists ? __half2float(bias[mine + 8]) : 0.0f;
    const int my_row = row + thread % 8 * 8, my_staged = thread / 8; /* eight rows of y, of which tokens */
#pragma unroll
    for (int first = 0; first < N; first += STAGED) {
        const int n = N - first < STAGED ? N - first : STAGED, my_token = token + first + my_staged;
        __half *at = (__half *)y + (size_t)my_token * t.rows + my_row;
        uint4 old[STAGED / 16];
        if (epilogue == EPILOGUE_ADD) {
#pragma unroll
            for (int i = 0; i < STAGED; i += 16)
                if (i < n && my_row < t.rows && my_token + i < t.T)
                    old[i / 16] = *(const uint4 *)(at + (size_t)i * t.rows);
        }
        named_barrier_sync(barrier, n_threads); /* what was staged before has been read */
#pragma unroll
        for (int i = 0; i < n; i += 16) {
            const float *s = &d[(first + i) / 2];
            const int staged = i + lane / 16 * 8 + lane % 8, chunk = 2 * warp + lane / 8 % 2;
            store_matrices_transposed(staging + group * STAGING_BYTES + staged * 128 + (chunk ^ staged % 8) * 16,
                                      pack(s[0] + low, s[1] + low), pack(s[2] + high, s[3] + high),
                                      pack(s[4] + low, s[5] + low), pack(s[6] + high, s[7] + high));
        }
        named_barrier_sync(barrier, n_threads); /* all of it is staged */
        if (gated) {
            const int staged = my_staged + group * 16, where = staged * 128 + (thread % 8 ^ staged % 8) * 16;
            if (staged < n && my_row < t.rows && my_token + group * 16 < t.T)
                *(uint4 *)(at + (size_t)group * 16 * t.rows) =
                    silu_mul_halves(load_shared(staging + where), load_shared(staging + STAGING_BYTES + where));
            continue;
        }
#pragma unroll
        for (int i = 0; i < n; i += 16) {
            const int staged = my_staged + i;
            uint4 v = load_shared(staging + group * STAGING_BYTES + staged * 128 + (thread % 8 ^ staged % 8) * 16);
            if (epilogue == EPILOGUE_ADD) v = add_halves(old[i / 16], v);
            if (my_row < t.rows && my_token + i < t.T) *(uint4 *)(at + (size_t)i * t.rows) = v;
        }
    }
}

/* Sums the partial sums of the S pairs of a cluster: part is what part of k this block did, and which N / S of the
 * tokens it gets. Partial sums go to the shared memory of whom they concern, over the stages, which are done with. */
template <int N, int S>
__device__ static inline void sum_parts(float (&sum)[N / S / 2], const float (&d)[N / 2], uint32_t smem, uint32_t rank,
                                        int thread) {
    enum { PIECES = N / 8 / S, PIECE_BYTES = 2 * WARPGROUP * 16 };
    static_assert(S * PIECES * PIECE_BYTES <= layout<N>::STAGING, "partial sums fit where stages were");
    cluster_meet(); /* no block's stages are in use any more */
#pragma unroll
    for (int to = 0; to < S; to++) {
        const uint32_t there = cluster_address(smem + thread * 16, 2 * to + rank % 2);
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const float *p = &d[4 * (to * PIECES + i)];
            cluster_store(there + (rank / 2 * PIECES + i) * PIECE_BYTES, p[0], p[1], p[2], p[3]);
        }
    }
    cluster_sync(); /* all parts are here */
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        float *s = &sum[4 * i];
#pragma unroll
        for (int part = 0; part < S; part++) {
            const uint4 v = load_shared(smem + thread * 16 + (part * PIECES + i) * PIECE_BYTES);
            s[0] = (part ? s[0] : 0.0f) + __uint_as_float(v.x);
            s[1] = (part ? s[1] : 0.0f) + __uint_as_float(v.y);
            s[2] = (part ? s[2] : 0.0f) + __uint_as_float(v.z);
            s[3] = (part ? s[3] : 0.0f) + __uint_as_float(v.w);
        }
    }
}

#endif

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* Grid: a multiple of the cluster of 2 S blocks; with S > 1 one cluster per tile. */
template <int N, int S>
__global__ static void CLUSTER_OF(2 * S) __launch_bounds__(THREADS, 1)
    awq_many(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
             const __grid_constant__ CUtensorMap scales_map, const __grid_constant__ CUtensorMap zeros_map, void *y,
             const __half *bias, enum epilogue epilogue, struct tiling t) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using L = layout<N>;
    extern __shared__ char dynamic[];
    uint32_t smem = (smem_address(dynamic) + 1023) & ~1023u;
    asm volatile("" : "+r"(smem)); /* kept in a register: it would be made anew at every use */
    const uint32_t rank = cluster_rank();
    const int part = rank / 2;
    const int k_begin = t.n_k * part / S, k_end = t.n_k * (part + 1) / S;
    const int n_tiles = t.row_pairs * t.token_tiles;
    const int first_tile = blockIdx.x / (2 * S), step = gridDim.x / (2 * S);
    const bool gated = epilogue == EPILOGUE_SILU_MUL;
    const int tile_rows = gated ? ROWS / 2 : ROWS; /* of y */

    pdl_trigger();
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::STAGES; i++) {
            mbarrier_init(smem + L::FULL + i * 8, 1);
            mbarrier_init(smem + L::EMPTY + i * 8, 2 * 8); /* the multiplying warps of the pair */
        }
        mbarrier_init_fence();
    }
    cluster_meet(); /* barriers are ready before another block arrives at them */

    if (threadIdx.x < 2 * WARPGROUP) {
        registers_grow<CONSUMER_REGISTERS>();
        pdl_wait();
        const int group = threadIdx.x / WARPGROUP, thread = threadIdx.x % WARPGROUP;
        const int strip = group * 4 + thread / 32;
        const uint32_t peer_empty = cluster_address(smem + L::EMPTY, (rank & ~1u) + thread % 2);
        int slot = 0;
        uint32_t parity = 0;
        for (int i = first_tile; i < n_tiles; i += step) {
            int row_pair, token_tile;
            tile_at(t, i, &row_pair, &token_tile);
            const int row = (2 * row_pair + rank % 2) * tile_rows + (gated ? 0 : group * 64), token = token_tile * N;
            const uint32_t staging = smem + L::STAGING;
            float d[N / 2];
            multiply<N>(d, smem, k_end - k_begin, &slot, &parity, strip, thread % 32, peer_empty);
            if constexpr (S > 1) {
                float sum[N / S / 2];
                sum_parts<N, S>(sum, d, smem, rank, threadIdx.x);
                store_tile<N / S>(sum, y, bias, epilogue, t, row, token + part * (N / S), staging, group, thread);
            } else store_tile<N>(d, y, bias, epilogue, t, row, token, staging, group, thread);
        }
        if (S == 1) cluster_meet(); /* nobody leaves while the other may still write to it */
    } else {
        registers_shrink<PRODUCER_REGISTERS>();
        if (threadIdx.x == 2 * WARPGROUP) {
            int slot = 0, filled = 0;
            uint32_t parity = 1; /* of the wait for an empty stage: at first all are */
            /* Weights of a stage; its x may only be read once earlier kernels are done. */
            auto load_weights = [&](int at, int row_pair, int k) {
                const int strip = (2 * row_pair + rank % 2) * tile_rows / 16;
                const uint32_t full = smem + L::FULL + at * 8;
                mbarrier_expect(full, L::STAGE_BYTES);
                tma_load_4d(smem + L::W + at * L::W_BYTES, &w_map, full, 0, 2 * k, strip, 0);
                tma_load_4d(smem + L::SCALES + at * L::SCALES_BYTES, &scales_map, full, 0, k, strip, 0);
                tma_load_4d(smem + L::ZEROS + at * L::ZEROS_BYTES, &zeros_map, full, 0, k, strip, 0);
            };
            /* This block's 64 of k, for both. */
            auto load_x = [&](int at, int token_tile, int k) {
                tma_load_2d_multicast(smem + L::X + at * L::X_BYTES + rank % 2 * N * 128, &x_map,
                                      smem + L::FULL + at * 8, (uint16_t)(3 << (rank & ~1u)),
                                      k * GROUP + (int)(rank % 2) * 64, token_tile * N);
            };
            int row_pair, token_tile;
            tile_at(t, first_tile, &row_pair, &token_tile);
            if (first_tile < n_tiles)
                for (; filled < L::STAGES && k_begin + filled < k_end; filled++)
                    load_weights(filled, row_pair, k_begin + filled);
            pdl_wait();
            for (int i = first_tile; i < n_tiles; i += step) {
                tile_at(t, i, &row_pair, &token_tile);
                for (int k = k_begin; k < k_end; k++) {
                    if (filled) filled--;
                    else {
                        mbarrier_wait(smem + L::EMPTY + slot * 8, parity);
                        load_weights(slot, row_pair, k);
                    }
                    load_x(slot, token_tile, k);
                    if (++slot == L::STAGES) slot = 0, parity ^= 1;
                }
            }
        }
        __syncwarp();
        cluster_meet();
        if (S > 1) cluster_meet();
    }
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <int N, int S> static void launch(struct exec *e, const struct linear_args *a, int first_pair, int row_pairs) {
    const struct matrix *w = a->w;
    const int halves = a->epilogue == EPILOGUE_SILU_MUL ? 2 : 1;
    struct awq_maps m;
    if (!awq_maps_init(e, &m, a, N, STRIPS / halves)) return;
    const struct tiling t = {.rows = w->rows / halves,
                             .T = a->T,
                             .n_k = w->cols / GROUP,
                             .first_pair = first_pair,
                             .row_pairs = row_pairs,
                             .token_tiles = div_up(a->T, N),
                             .token_group = div_up(TOKEN_GROUP, N)};
    const int n_tiles = t.row_pairs * t.token_tiles, n_pairs = cuda_of(e)->n_sms / 2;
    const int n_clusters = S > 1 || n_tiles < n_pairs ? n_tiles : n_pairs;
    cuda_allow_smem(e, awq_many<N, S>, layout<N>::SMEM_BYTES);
    cuda_launch(e, (awq_many<N, S>), n_clusters * 2 * S, THREADS, layout<N>::SMEM_BYTES, m.x, m.data, m.scales,
                m.zeros, a->y, (const __half *)a->bias, a->epilogue, t);
}

/* ---- which tiles ------------------------------------------------------------------------------------------------- */

/* Measured on an H200, in microseconds: `step` is what 64 of k take a tile, the time of the products from N = 160 on
 * and that of making the weights below 128; `end` is what a tile takes besides. */
struct instance {
    int N, S;
    float step, end;
    void (*launch)(struct exec *e, const struct linear_args *a, int first_pair, int row_pairs);
};
#define INSTANCE(N, S, step, end) {N, S, step, end, launch<N, S>}
static const struct instance instances[] = {
    INSTANCE(64, 1, 0.245f, 0.6f),  INSTANCE(96, 1, 0.272f, 0.8f),  INSTANCE(128, 1, 0.312f, 1.2f),
    INSTANCE(160, 1, 0.368f, 1.9f), INSTANCE(176, 1, 0.405f, 2.1f), INSTANCE(192, 1, 0.448f, 2.5f),
    INSTANCE(256, 1, 0.592f, 3.5f), INSTANCE(64, 2, 0.245f, 3.0f),  INSTANCE(96, 2, 0.272f, 3.2f),
    INSTANCE(128, 2, 0.302f, 3.7f), INSTANCE(64, 4, 0.245f, 3.0f),  INSTANCE(128, 4, 0.302f, 3.7f),
};
enum { N_INSTANCES = sizeof instances / sizeof *instances };

/* Clusters that run at a time. On 132 SMs there is room for 66 pairs, 30 clusters of four and 15 of eight. */
static int room_for(const struct instance *i, int n_sms) {
    return i->S == 1 ? n_sms / 2 : i->S == 2 ? n_sms / 4 - 3 : n_sms / 8 - 1;
}

static float cost(const struct instance *i, int row_pairs, int n_k, int T, int n_sms) {
    const int waves = div_up(row_pairs * div_up(T, i->N), room_for(i, n_sms));
    if (i->S > 1 && (waves > 1 || n_k < 2 * i->S)) return INFINITY;
    return 1.5f + waves * (i->end + 2 * div_up(n_k, i->S) * i->step); /* and what a launch takes */
}

static const struct instance *cheapest(float *least, int row_pairs, int n_k, int T, int n_sms) {
    const struct instance *best = NULL;
    *least = INFINITY;
    for (int i = 0; i < N_INSTANCES; i++) {
        const float c = cost(&instances[i], row_pairs, n_k, T, n_sms);
        if (c < *least) *least = c, best = &instances[i];
    }
    return best;
}

/* One instance for all rows; or one for as many rows as fill the chip some whole number of times, and another for the
 * rest, which alone would leave most of the chip idle. */
bool cuda__awq_large(struct exec *e, const struct linear_args *a) {
    const struct matrix *w = a->w;
    const bool gated = a->epilogue == EPILOGUE_SILU_MUL;
    if (!cuda_of(e)->hopper || w->format != MATRIX_AWQ || w->group != GROUP || w->cols % GROUP || a->norm) return false;
    if (gated && w->rows % (2 * AWQ_STRIP)) return false;
    const int n_sms = cuda_of(e)->n_sms, n_k = w->cols / GROUP;
    const int row_pairs = gated ? div_up(w->rows / 2, ROWS) : div_up(w->rows, 2 * ROWS);
    float least;
    const struct instance *main = cheapest(&least, row_pairs, n_k, a->T, n_sms), *rest = NULL;
    int main_pairs = row_pairs;
    for (int i = 0; i < N_INSTANCES; i++) {
        const struct instance *some = &instances[i];
        const int token_tiles = div_up(a->T, some->N), room = room_for(some, n_sms);
        const int pairs = row_pairs * token_tiles / room * room / token_tiles;
        if (some->S > 1 || pairs == 0 || pairs == row_pairs) continue;
        float c;
        const struct instance *other = cheapest(&c, row_pairs - pairs, n_k, a->T, n_sms);
        c += cost(some, pairs, n_k, a->T, n_sms);
        if (c < least) least = c, main = some, rest = other, main_pairs = pairs;
    }
    main->launch(e, a, 0, main_pairs);
    if (rest) rest->launch(e, a, main_pairs, row_pairs - main_pairs);
    return true;
}
