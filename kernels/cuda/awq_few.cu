/* awq_few.cu - y = x W' for 4-bit weights and up to eight tokens, which is the decode step of a few sequences: the
 * weights are read once, at memory speed, and the next kernel's weights are already on their way meanwhile.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k]     w = round_f16((q - zero) * scale), x [T, K] f16, T <= 8, fp32 sums
 *
 * mma.m16n8k16 with the weights as A (awq.cuh: 16 bytes of a lane are its fragments of 16 x 64 weights) and the tokens
 * as the eight columns of B.
 *
 * Work. A block, one an SM, has some strips of 16 rows (for SILU_MUL pairs of them: gate and up), over all of K. Their
 * units, a strip's 128 inputs (1 KB) each, are numbered strip by strip and divided evenly among the block's warps. Each
 * warp has a ring of DEPTH units in shared memory, filled by cp.async; x lies beside it, all of it. Where x of eight
 * tokens would not fit, a cluster of blocks has the strips, each of them a part of K. No sum crosses a cluster: waiting
 * for other blocks would cost more than the unevenness of whole strips does (5120 rows on 132 SMs: 3 strips where 2.4
 * would be even, 0.7 us of 3.6).
 *
 * Sums. A warp adds a strip's units in order of k, even and odd 16s of inputs apart, and leaves its piece in shared
 * memory; after a barrier the pieces of each strip are added in order of k, and the cluster's shares in order of the
 * parts. So the order of every sum depends on (rows, K) and the chip alone.
 *
 * PDL. A block fills its rings before it waits for x, so it had better be on its SM early; but where two blocks of such
 * kernels fit on an SM, now and then both are of one kernel, and another SM has none (measured: 112 us for the linears
 * of a layer of Qwen3-14B, and 71 where only one fits). So a block takes at least LEAST_BYTES of shared memory.
 *
 * Bytes: the matrix once, x once a block. Instructions per unit and warp: 8 words of 13 to dequantise, 8 mma, 4
 * ldmatrix, about 30 others. */
#include "kernels/cuda/awq.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/warp.cuh"

enum {
    WARPS = 16,
    THREADS = 32 * WARPS,
    TOKENS = 8,
    STAGE_DATA = 2 * AWQ_TILE_BYTES,
    STAGE_ZEROS = STAGE_DATA + AWQ_SCALE_BYTES,
    STAGE_BYTES = STAGE_ZEROS + AWQ_ZERO_BYTES + 16, /* a multiple of 64 */
    GROUP_BYTES = AWQ_GROUP * 2,                     /* of a row of x */
    X_PAD = 16,              /* so that the 8 rows that ldmatrix reads at once lie in different banks */
    LEAST_BYTES = 118 << 10, /* of shared memory: two blocks do not fit on an SM */
    MOST_BYTES = 224 << 10,
    LEAST_DEPTH = 3, /* units of a warp's ring */
    MOST_DEPTH = 6,
};
static_assert(STAGE_BYTES % 64 == 0, "stages are copied and read 16 bytes at a time");

struct few {
    const char *data, *scales, *zeros;
    const __half *x, *norm;
    float eps;
    int K;
    int n_groups, n_lots; /* lots: strips, or for SILU_MUL pairs of a gate's and an up's */
    int two;              /* strips of a lot */
    int n_parts;          /* of K: blocks of a cluster */
    struct awq_output out;
};

/* What a block has. */
struct work {
    int first_lot, n_lots, first_group, n_groups;
};

/* ---- loading ----------------------------------------------------------------------------------------------------- */

/* A warp's way through its units, ahead of the one that multiplies. */
struct loader {
    const char *data, *extra; /* this lane's 16 bytes of the unit; of its scales (lanes 0, 1) or zeros (lane 2) */
    uint32_t ring;            /* shared address of the warp's ring */
    int at, left;             /* where in the ring; units to come */
    int local, group;         /* the unit: which strip of the block, which inputs */
};

__device__ static inline void loader_seek(struct loader &l, const struct few &a, const struct work &w, int lane) {
    const size_t strip = w.first_lot + (a.two == 2 ? l.local / 2 + l.local % 2 * a.n_lots : l.local);
    const size_t unit = strip * a.n_groups + w.first_group + l.group;
    l.data = a.data + unit * STAGE_DATA + lane * 16;
    l.extra = lane < 2 ? a.scales + unit * AWQ_SCALE_BYTES + lane * 16 : a.zeros + unit * AWQ_ZERO_BYTES;
}

/* Loads the next unit, if there is one, as a group of copies of its own. */
template <int DEPTH>
__device__ static inline void load_unit(struct loader &l, const struct few &a, const struct work &w, int lane) {
    if (l.left > 0) {
        const uint32_t to = l.ring + l.at;
        copy_16(to + lane * 16, l.data);
        copy_16(to + AWQ_TILE_BYTES + lane * 16, l.data + AWQ_TILE_BYTES);
        if (lane < 3) copy_16(to + STAGE_DATA + lane * 16, l.extra);
        l.at = l.at == (DEPTH - 1) * STAGE_BYTES ? 0 : l.at + STAGE_BYTES;
        l.data += STAGE_DATA;
        l.extra += lane < 2 ? AWQ_SCALE_BYTES : AWQ_ZERO_BYTES;
        l.left--;
        if (++l.group == w.n_groups) {
            l.group = 0;
            l.local++;
            if (l.left > 0) loader_seek(l, a, w, lane);
        }
    }
    copies_commit();
}

/* x of the block's groups, normalised if there is a norm, by all threads: row t at t * stride bytes. */
__device__ static inline void load_x(char *to, int stride, const struct few &a, const struct work &w,
                                     const float *scales) {
    const __half *x = a.x + w.first_group * AWQ_GROUP;
    for (int c = threadIdx.x; c < w.n_groups * (GROUP_BYTES / 16); c += THREADS) {
        uint4 norm = {};
        if (a.norm) norm = __ldg((const uint4 *)(a.norm + w.first_group * AWQ_GROUP) + c);
#pragma unroll 4
        for (int t = 0; t < a.out.T; t++) {
            const uint4 v = __ldcg((const uint4 *)(x + (size_t)t * a.K) + c);
            *(uint4 *)(to + t * stride + c * 16) = a.norm ? norm_apply<__half>(v, norm, scales[t]) : v;
        }
    }
}

/* ---- multiplying ------------------------------------------------------------------------------------------------- */

/* sums [even or odd 16s][4] += a unit times x; x is what this lane gives ldmatrix at the unit's first input. */
__device__ static inline void multiply_unit(float sums[2][4], const uint4 low, const uint4 high,
                                            const struct awq_scale &scale, uint32_t x) {
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int k = 0; k < 8; k += 2) { /* of 16 inputs */
        uint32_t b[4], f[2][4];
        load_matrices(b, x + k * 32);
        awq_dequantise(f[0], words[k], scale);
        awq_dequantise(f[1], words[k + 1], scale);
        mma<__half>(sums[0], f[0][0], f[0][1], f[0][2], f[0][3], b[0], b[1]);
        mma<__half>(sums[1], f[1][0], f[1][1], f[1][2], f[1][3], b[2], b[3]);
    }
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* The sum over the warps that have units of a strip, in order of k. Warp w's piece of strip `local` is number local +
 * w: along a block's units one of the two grows at a time, so no two share a number. */
__device__ static inline float4 add_pieces(const float4 *pieces, int local, int n_units, int n_groups, int lane) {
    const int begin = local * n_groups, end = begin + n_groups;
    int w = (int)((unsigned)begin * WARPS / (unsigned)n_units);
    while (n_units * (w + 1) / WARPS <= begin) w++;
    float4 sum = pieces[(local + w) * 32 + lane];
    for (w++; w < WARPS && n_units * w / WARPS < end; w++) {
        const float4 p = pieces[(local + w) * 32 + lane];
        sum.x += p.x, sum.y += p.y, sum.z += p.z, sum.w += p.w;
    }
    return sum;
}

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* Grid: [teams][parts]. Dynamic shared memory: rings [WARPS][DEPTH][STAGE_BYTES], pieces [strips + WARPS][32] float4, x
 * [T][stride]; the shares of the cluster's other blocks lie where rings were. */
template <int DEPTH> __global__ static void __launch_bounds__(THREADS, 1) awq_few(const struct few a) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float norm_sums[TOKENS * NORM_WARPS], norm_of[TOKENS];
    __shared__ uint64_t done;
    pdl_trigger();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int part = (int)blockIdx.x % a.n_parts, team = (int)blockIdx.x / a.n_parts,
              n_teams = (int)gridDim.x / a.n_parts;
    struct work w;
    w.first_lot = (int)((unsigned)a.n_lots * team / n_teams);
    w.n_lots = (int)((unsigned)a.n_lots * (team + 1) / n_teams) - w.first_lot;
    w.first_group = a.n_groups * part / a.n_parts;
    w.n_groups = a.n_groups * (part + 1) / a.n_parts - w.first_group;
    const int n_local = a.two * w.n_lots, n_units = n_local * w.n_groups;
    const int begin = n_units * warp / WARPS, end = n_units * (warp + 1) / WARPS;
    char *const ring = shared + warp * DEPTH * STAGE_BYTES;
    float4 *const pieces = (float4 *)(shared + WARPS * DEPTH * STAGE_BYTES);
    char *const x = (char *)(pieces + (n_local + WARPS) * 32);
    const int x_stride = (a.n_groups + a.n_parts - 1) / a.n_parts * GROUP_BYTES + X_PAD;

    struct loader loader = {
        .ring = shared_address(ring), .left = end - begin, .local = begin / w.n_groups, .group = begin % w.n_groups};
    loader_seek(loader, a, w, lane);
#pragma unroll 1
    for (int i = 0; i < DEPTH; i++) load_unit<DEPTH>(loader, a, w, lane);
#if __CUDA_ARCH__ >= 900
    const struct awq_cluster cluster = {.shares = shared_address(shared),
                                        .done = shared_address(&done),
                                        .n_parts = a.n_parts,
                                        .part = part,
                                        .rank = part,
                                        .two = a.two,
                                        .n_items = w.n_lots};
    if (a.n_parts > 1 && threadIdx.x == 0) awq_cluster_init(cluster);
#endif
    pdl_wait();
    if (a.norm) norm_scales<__half, THREADS>(norm_of, norm_sums, a.x, a.out.T, a.K, a.eps);
    load_x(x, x_stride, a, w, norm_of);
    __syncthreads(); /* x is there */
    /* Tokens that do not exist are the last one again: what they give is not stored. */
    const uint32_t x_lane = shared_address(x) + min(lane % 8, a.out.T - 1) * x_stride + lane / 8 * 16;

    float sums[2][4] = {};
    int local = begin / w.n_groups, group = begin % w.n_groups, at = 0;
    for (int unit = begin; unit < end; unit++) {
        copies_wait<DEPTH - 1>();
        __syncwarp(); /* all lanes' copies are there */
        const char *stage = ring + at;
        const uint4 low = *(const uint4 *)(stage + lane * 16),
                    high = *(const uint4 *)(stage + AWQ_TILE_BYTES + lane * 16);
        const struct awq_scale scale = awq_scale_of(*(const uint32_t *)(stage + STAGE_DATA + lane / 4 * 4),
                                                    *(const uint16_t *)(stage + STAGE_ZEROS + lane / 4 * 2));
        __syncwarp(); /* all lanes have read */
        load_unit<DEPTH>(loader, a, w, lane);
        at = at == (DEPTH - 1) * STAGE_BYTES ? 0 : at + STAGE_BYTES;
        multiply_unit(sums, low, high, scale, x_lane + group * GROUP_BYTES);
        if (++group < w.n_groups && unit + 1 < end) continue;
        pieces[(local + warp) * 32 + lane] = make_float4(sums[0][0] + sums[1][0], sums[0][1] + sums[1][1],
                                                         sums[0][2] + sums[1][2], sums[0][3] + sums[1][3]);
#pragma unroll
        for (int i = 0; i < 4; i++) sums[0][i] = sums[1][i] = 0;
        group = 0;
        local++;
    }
    __syncthreads(); /* pieces are written */
#if __CUDA_ARCH__ >= 900
    if (a.n_parts > 1) cluster_meet(); /* nobody's ring is in use any more */
#endif
    for (int own = warp; own < w.n_lots; own += WARPS) {
        const float4 sum = add_pieces(pieces, a.two * own, n_units, w.n_groups, lane);
        const float4 up = a.two == 2 ? add_pieces(pieces, 2 * own + 1, n_units, w.n_groups, lane) : sum;
        if (a.n_parts == 1) {
            awq_store(a.out, w.first_lot + own, 0, lane, sum, up);
            continue;
        }
#if __CUDA_ARCH__ >= 900
        awq_give(cluster, own, 0, lane, sum);
        if (a.two == 2) awq_give(cluster, own, 1, lane, up);
#endif
    }
#if __CUDA_ARCH__ >= 900
    if (a.n_parts > 1) awq_fold(cluster, a.out, w.first_lot, a.n_lots, 1, warp, WARPS, lane);
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

/* Shared memory that a block takes for T tokens with rings of so many units. */
static size_t bytes_of(const struct few *a, int n_teams, int depth, int T) {
    const int n_local = div_up(a->n_lots, n_teams) * a->two;
    return (size_t)WARPS * depth * STAGE_BYTES + (size_t)(n_local + WARPS) * AWQ_SHARE_BYTES +
           (size_t)T * (div_up(a->n_groups, a->n_parts) * GROUP_BYTES + X_PAD);
}

/* One part where x of eight tokens fits; otherwise those for which the busiest block has the fewest bytes to load, and
 * for each more as if of PART_BYTES. T has no say. Returns the number of teams, the blocks that have all of some
 * strips; 0 if nothing fits. */
static int choose(struct exec *e, struct few *a) {
    enum { PART_BYTES = 10 << 10 };
    int best = INT32_MAX, n_teams = 0, n_parts = 0;
    for (int parts = 1; parts <= CUDA_MOST_CLUSTER && n_parts != 1; parts++) {
        int teams = cuda_of(e)->clusters[parts]; /* side by side, one block an SM */
        if (teams > a->n_lots) teams = a->n_lots;
        a->n_parts = parts;
        if (teams == 0 || a->n_groups / parts * a->two < WARPS) continue; /* a warp would have nothing to do */
        const int n_groups = div_up(a->n_groups, parts), n_lots = div_up(a->n_lots, teams);
        const int n_shares = div_up(n_lots, parts) * parts * a->two; /* lie where rings were */
        if (n_shares * AWQ_SHARE_BYTES > WARPS * LEAST_DEPTH * STAGE_BYTES) continue;
        if (bytes_of(a, teams, LEAST_DEPTH, TOKENS) > (size_t)MOST_BYTES) continue;
        const int cost = n_groups * (n_lots * a->two * STAGE_BYTES + TOKENS * GROUP_BYTES) + parts * PART_BYTES;
        if (cost >= best) continue;
        best = cost;
        n_teams = teams;
        n_parts = parts;
    }
    a->n_parts = n_parts;
    return n_teams;
}

template <int DEPTH> static void launch(struct exec *e, const struct few &a, int n_teams, size_t smem) {
    cuda_allow_smem(e, awq_few<DEPTH>, smem);
    cuda_launch_clusters(e, awq_few<DEPTH>, n_teams * a.n_parts, a.n_parts, THREADS, smem, a);
}

bool cuda__awq_few(struct exec *e, const struct linear_args *l) {
    const struct matrix *w = l->w;
    const int two = l->epilogue == EPILOGUE_SILU_MUL ? 2 : 1;
    struct few a = {
        .data = (const char *)w->data,
        .scales = (const char *)w->scales,
        .zeros = (const char *)w->zeros,
        .x = (const __half *)l->x,
        .norm = (const __half *)l->norm,
        .eps = l->eps,
        .K = w->cols,
        .n_groups = w->cols / AWQ_GROUP,
        .n_lots = w->rows / AWQ_STRIP / two,
        .two = two,
        .out = {.y = l->y, .bias = (const __half *)l->bias, .epilogue = l->epilogue, .T = l->T, .rows = w->rows / two}};
    if (l->T > TOKENS || cuda_of(e)->arch < 90 || w->rows % (two * AWQ_STRIP)) return false;
    const int n_teams = choose(e, &a);
    if (!n_teams) return false;
    int depth = MOST_DEPTH; /* or as deep as there is room */
    while (bytes_of(&a, n_teams, depth, l->T) > (size_t)MOST_BYTES) depth--;
    size_t smem = bytes_of(&a, n_teams, depth, l->T);
    if (smem < LEAST_BYTES) smem = LEAST_BYTES;
    if (depth == 6)
        launch<6>(e, a, n_teams, smem);
    else if (depth == 5)
        launch<5>(e, a, n_teams, smem);
    else if (depth == 4)
        launch<4>(e, a, n_teams, smem);
    else
        launch<3>(e, a, n_teams, smem);
    return true;
}
