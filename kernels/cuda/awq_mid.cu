/* awq_mid.cu - y = x W' for 4-bit weights and up to 64 tokens, on the warpgroup products of sm_90a: a decode step of
 * more than a few sequences. The weights are read once, and x as seldom as may be.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k]     w = round_f16((q - zero) * scale), x [T, K] f16, T <= 64, fp32 sums
 *
 * As in awq_large.cu weights are the M side of the product, made into f16 in registers, and tokens the N side.
 *
 * Work. A block, one an SM, has a tile: up to 20 strips of 16 rows (for SILU_MUL as many of gate as of up), and a part
 * of K. The blocks that have the parts of one tile are a cluster. Where K is whole, two neighbouring tiles are a
 * cluster, and each of its blocks loads half of x for both. How many strips and parts depends on (rows, K) and the chip
 * alone (choose).
 *
 * Warps. Five warpgroups multiply, each four strips; one more warp feeds a ring of stages by TMA, a stage being 128 of
 * k: x [2][N][64] f16 in the 128-byte swizzle, weights [strips][2][512 bytes], scales and zeros [strips][16]. While the
 * tensor cores work for some warpgroups, others make fragments. Stages hold the tile's weights before the kernel waits
 * for x.
 *
 * Sums: fp32 in the tensor cores, k ascending, then the parts of K in order, through the shared memory of the cluster:
 * each block finishes its share of the tile. N does not change a sum.
 *
 * Per stage and SM at 16 strips: 17 KB of weights and 256 N bytes of x to load; each warp has 8 words of 13
 * instructions to dequantise, 8 products and about 55 other instructions. Measured, gate_up of Qwen3-14B (20.7 us of
 * bytes): loading alone takes 25 us, with the fragments made 29, with the products of 16, 32 and 64 tokens 34, 40 and
 * 54: a product of 64 x N x 16 takes 26 + N / 2 cycles of its scheduler, for making fragments and multiplying hardly
 * overlap there. Two sets of fragments per warp, or sets of two or eight products, change nothing. */
#include "kernels/cuda/awq_tma.cuh"

enum {
    GROUP = AWQ_GROUP,       /* inputs of one scale, and the k of a stage */
    QUADS = 5,               /* warpgroups that multiply, and what each multiplies: four strips */
    MULTIPLIERS = 4 * QUADS, /* warps */
    THREADS = 32 * (MULTIPLIERS + 1),
    MOST_STRIPS = 4 * QUADS,
    MOST_TOKENS = 64,
    SMEM_BYTES = 226 << 10,
    ALIGN = 1024, /* the swizzle of x repeats every kilobyte */
};

/* A tile. */
struct tile {
    int lots, lots_all; /* strips of y's rows that a tile has, and that there are; for SILU_MUL of gate */
    int strips;         /* lots, or twice as many: of weights */
    int n_parts, n_k;   /* parts of K; groups of 128 in all of K */
};

/* Shared memory: stages of x, weights, scales and zeros, room for MOST_STRIPS in each; barriers. Once a tile's products
 * are done the shares lie where stages were. */
template <int N> struct layout {
    enum {
        STAGES = N == 64 ? 5 : 6,
        X_BYTES = N * GROUP * 2,
        W = X_BYTES,
        SCALES = W + MOST_STRIPS * 2 * AWQ_TILE_BYTES,
        ZEROS = SCALES + MOST_STRIPS * AWQ_SCALE_BYTES,
        STAGE = (ZEROS + MOST_STRIPS * AWQ_ZERO_BYTES + ALIGN - 1) / ALIGN * ALIGN,
        FULL = STAGES * STAGE,
        EMPTY = FULL + STAGES * 8,
        DONE = EMPTY + STAGES * 8,
        BYTES = DONE + 8,
    };
    static_assert((MOST_STRIPS + CUDA_MOST_CLUSTER) * (N / 8) * AWQ_SHARE_BYTES <= FULL,
                  "shares fit where stages were");
    static_assert(BYTES + ALIGN <= SMEM_BYTES, "fits");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* mbarrier_wait without its clock, whose branches would keep the compiler from knowing that lanes go together. The
 * thread that feeds the ring has the clock. */
__device__ static inline void wait_full(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@!p bra.uni again;\n}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* ---- a warpgroup's product --------------------------------------------------------------------------------------- */

/* d = w x' over n stages from the first on. strip: the warp's in the tile; peer_empty: where, for lanes below
 * n_sharers, the EMPTY barriers of a block are that loads x for this one.
 *
 * While the products of one half of a stage run, the next words are fetched, and the warps of other warpgroups make
 * their fragments: two sets of fragments for each would be no faster. */
template <int N>
__device__ static inline void multiply(float (&d)[N / 2], uint32_t smem, int n, int strip, int lane,
                                       uint32_t peer_empty, int n_sharers) {
    using L = layout<N>;
    const uint32_t w = smem + L::W + strip * 2 * AWQ_TILE_BYTES + lane * 16;
    const uint32_t scales = smem + L::SCALES + strip * AWQ_SCALE_BYTES + lane / 4 * 4;
    const uint32_t zeros = smem + L::ZEROS + strip * AWQ_ZERO_BYTES + lane / 4 * 2;
    const uint32_t full = smem + L::FULL;
    const uint64_t x = wgmma_operand(smem, 0, 1024);
    uint32_t parity = 0;
    uint32_t a[4][4]; /* fragments of 64 of k */
    uint4 words;      /* what they are made of */
    struct awq_scale scale;

    auto load_words = [&](int slot, int half) { words = load_shared(w + slot * L::STAGE + half * AWQ_TILE_BYTES); };
    auto load_scales = [&](int slot) {
        scale = awq_scale_of(load_shared_u32(scales + slot * L::STAGE), load_shared_u16(zeros + slot * L::STAGE));
    };
    auto make = [&]() {
        awq_dequantise(a[0], words.x, scale);
        awq_dequantise(a[1], words.y, scale);
        awq_dequantise(a[2], words.z, scale);
        awq_dequantise(a[3], words.w, scale);
    };
    auto start = [&](int slot, int half) {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; i++)
            wgmma_rs_f16(d, a[i][0], a[i][1], a[i][2], a[i][3],
                         wgmma_advance(x, slot * L::STAGE + half * N * 128 + i * 32), 1);
        wgmma_commit();
    };
    /* The products are done, their registers are free: no fragment is made earlier. */
    auto finish = [&]() {
        wgmma_wait<0>();
        asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    };

#pragma unroll
    for (int i = 0; i < N / 2; i++) d[i] = 0;
    wait_full(full, 0);
    load_scales(0);
    load_words(0, 0);
    make();
    /* The ring is unrolled: where a stage lies is then known to be the same in all lanes, and the descriptors of x are
     * made by the scalar unit. That saves a fifth of all instructions. */
    for (int k = 0; k < n; parity ^= 1) {
#pragma unroll
        for (int slot = 0; slot < L::STAGES; slot++) {
            const int next = (slot + 1) % L::STAGES;
            start(slot, 0);
            load_words(slot, 1);
            finish();
            make();
            start(slot, 1);
            if (++k < n) {
                wait_full(full + next * 8, next ? parity : parity ^ 1);
                load_scales(next);
                load_words(next, 0);
            }
            finish();
            if (lane < n_sharers) cluster_arrive_at(peer_empty + slot * 8);
            if (k == n) break;
            make();
        }
    }
    wgmma_settle(d);
}

#endif

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* Grid: [tiles][parts], clusters of `parts`; where there is one part, of two tiles. */
template <int N>
__global__ static void __launch_bounds__(THREADS, 1)
    awq_mid(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
            const __grid_constant__ CUtensorMap scales_map, const __grid_constant__ CUtensorMap zeros_map,
            const struct tile t, const struct awq_output o) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using L = layout<N>;
    enum { EIGHTS = N / 8 };
    extern __shared__ char dynamic[];
    const uint32_t smem = (smem_address(dynamic) + ALIGN - 1) & ~(ALIGN - 1u);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, rank = (int)cluster_rank();
    const int n_sharers = t.n_parts > 1 ? 1 : 2, part = t.n_parts > 1 ? rank : 0;
    const int first_lot = (int)blockIdx.x / t.n_parts * t.lots;
    const int k_begin = t.n_k * part / t.n_parts, n = t.n_k * (part + 1) / t.n_parts - k_begin;
    const int n_quads = (t.strips + 3) / 4, two = t.strips / t.lots;
    const uint32_t full = smem + L::FULL, empty = smem + L::EMPTY;

    const struct awq_cluster cluster = {.shares = smem,
                                        .done = smem + L::DONE,
                                        .n_parts = t.n_parts,
                                        .part = part,
                                        .rank = rank,
                                        .two = two,
                                        .n_items = t.lots * EIGHTS};

    pdl_trigger();
    auto load_weights = [&](int slot, int k) {
        mbarrier_expect(full + slot * 8,
                        L::X_BYTES + t.strips * (2 * AWQ_TILE_BYTES + AWQ_SCALE_BYTES + AWQ_ZERO_BYTES));
        tma_load_4d(smem + L::W + slot * L::STAGE, &w_map, full + slot * 8, 0, 2 * k, first_lot, 0);
        tma_load_4d(smem + L::SCALES + slot * L::STAGE, &scales_map, full + slot * 8, 0, k, first_lot, 0);
        tma_load_4d(smem + L::ZEROS + slot * L::STAGE, &zeros_map, full + slot * 8, 0, k, first_lot, 0);
    };
    if (threadIdx.x == 32 * MULTIPLIERS) {
        for (int i = 0; i < L::STAGES; i++) {
            mbarrier_init(full + i * 8, 1);
            mbarrier_init(empty + i * 8, n_quads * 4 * n_sharers);
        }
        awq_cluster_init(cluster);
        mbarrier_init_fence();
        fence_async();
        for (int i = 0; i < L::STAGES && i < n; i++) load_weights(i, k_begin + i);
    }
    __syncwarp();
    cluster_meet(); /* barriers are ready before another block arrives at them */

    if (warp == MULTIPLIERS) {
        if (lane == 0) {
            pdl_wait();
            int slot = 0;
            uint32_t parity = 1; /* of the wait for an empty stage: at first all are */
            for (int k = 0; k < n; k++) {
                if (k >= L::STAGES) {
                    mbarrier_wait(empty + slot * 8, parity);
                    load_weights(slot, k_begin + k);
                }
                const uint32_t to = smem + slot * L::STAGE;
                const int at = (k_begin + k) * GROUP;
                if (n_sharers == 2) { /* half of it, for both */
                    tma_load_2d_multicast(to + rank * N * 128, &x_map, full + slot * 8, 3, at + rank * 64, 0);
                } else {
                    tma_load_2d(to, &x_map, full + slot * 8, at, 0);
                    tma_load_2d(to + N * 128, &x_map, full + slot * 8, at + 64, 0);
                }
                if (++slot == L::STAGES) slot = 0, parity ^= 1;
            }
        }
        __syncwarp();
        cluster_meet();
    } else if (warp / 4 < n_quads) {
        const int strip = warp < t.strips ? warp : t.strips - 1;
        float d[N / 2];
        multiply<N>(d, smem, n, strip, lane,
                    cluster_address(empty, n_sharers == 2 ? (uint32_t)lane % 2 : (uint32_t)rank), n_sharers);
        cluster_meet(); /* nobody's stages are in use any more */
        if (warp < t.strips) {
            const int lot = warp % t.lots, up = warp / t.lots;
#pragma unroll
            for (int i = 0; i < EIGHTS; i++)
                awq_give(cluster, lot * EIGHTS + i, up, lane,
                         make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
        }
    } else
        cluster_meet();
    pdl_wait();
    awq_fold(cluster, o, first_lot, t.lots_all, EIGHTS, warp, MULTIPLIERS + 1, lane);
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <int N> static void launch(struct exec *e, const struct linear_args *a, struct tile t) {
    const struct matrix *w = a->w;
    const int halves = a->epilogue == EPILOGUE_SILU_MUL ? 2 : 1;
    struct awq_maps m;
    if (!awq_maps_init(e, &m, a, N, t.lots)) return;

    const int n_tiles = div_up(t.lots_all, t.lots), cluster = t.n_parts > 1 ? t.n_parts : 2;
    const int grid = div_up(n_tiles * t.n_parts, cluster) * cluster;
    const struct awq_output o = {
        .y = a->y, .bias = (const __half *)a->bias, .epilogue = a->epilogue, .T = a->T, .rows = w->rows / halves};
    cuda_allow_smem(e, awq_mid<N>, SMEM_BYTES);
    cuda_launch_clusters(e, awq_mid<N>, grid, cluster, THREADS, SMEM_BYTES, m.x, m.data, m.scales, m.zeros, t, o);
}

/* The tiles for which the busiest block is done first. T has no say. A launch of more blocks than fit at a time costs
 * as much as so many launches. */
static bool choose(struct exec *e, struct tile *t, int two) {
    enum { QUAD_NS = 180, GROUP_NS = 40, ROUND_NS = 3000, PART_NS = 150 }; /* measured at 32 tokens */
    int best = INT32_MAX;
    for (int parts = 1; parts <= CUDA_MOST_CLUSTER && parts <= t->n_k; parts++) {
        const int *clusters = cuda_of(e)->clusters, room = parts == 1 ? 2 * clusters[2] : clusters[parts];
        if (!room) continue;
        int rounds = 1;
        while (div_up(t->lots_all, room * rounds) * two > MOST_STRIPS) rounds++;
        const int lots = div_up(t->lots_all, room * rounds), quads = div_up(lots * two, 4);
        const int cost = rounds * (div_up(t->n_k, parts) * (quads * QUAD_NS + GROUP_NS) + ROUND_NS) + parts * PART_NS;
        if (cost >= best) continue;
        best = cost;
        t->n_parts = parts;
        t->lots = lots;
        t->strips = lots * two;
    }
    return best < INT32_MAX;
}

/* From 33 tokens on awq_large.cu is faster where K is short. */
bool cuda__awq_mid(struct exec *e, const struct linear_args *a) {
    enum { WIDE_TOKENS = 32, WIDE_K = 8192 };
    const struct matrix *w = a->w;
    const int two = a->epilogue == EPILOGUE_SILU_MUL ? 2 : 1;
    struct tile t = {.lots_all = w->rows / AWQ_STRIP / two, .n_k = w->cols / GROUP};
    if (!cuda_of(e)->hopper || a->norm || a->T > MOST_TOKENS || w->rows % (two * AWQ_STRIP)) return false;
    if ((a->T > WIDE_TOKENS && w->cols < WIDE_K) || !choose(e, &t, two)) return false;
    if (a->T <= 8)
        launch<8>(e, a, t);
    else if (a->T <= 16)
        launch<16>(e, a, t);
    else if (a->T <= 32)
        launch<32>(e, a, t);
    else
        launch<64>(e, a, t);
    return true;
}
