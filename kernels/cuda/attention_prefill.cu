/* attention_prefill.cu - attention of the sequences that have more than one token in the step, on Hopper's tensor
 * cores; and of whole texts to themselves (attention_full).
 *
 *     o[t, h] = softmax(q[t, h] K' / sqrt(D)) V over positions 0 .. positions[t], K and V those of head h / (H / K)
 *
 * Flash attention (Dao et al., arXiv:2205.14135) in the manner of its third version (Shah et al., arXiv:2407.08608). A
 * unit of work is one query head of ROWS consecutive tokens of one sequence. It walks the context in tiles of KEYS
 * positions, from the tile of its last token down to position 0:
 *     S = Q K'                      [ROWS, KEYS]  masked where a position is beyond the row's own
 *     m' = max(m, max S), P = 2^(S - m'), l = l 2^(m - m') + sum P, O = O 2^(m - m') + P V
 * and stores O / l. S carries the factor log2(e) / sqrt(D), so that powers are of two; P is rounded to act. m stays
 * where it is until it is FAR from the maximum: any m is right that keeps powers in range.
 *
 * A thread block stays on its SM and takes unit after unit: the tiles of queries sorted by their work, the heaviest
 * first, each with its H heads in turn, dealt to the blocks back and forth. Three warpgroups: the last one loads, the
 * first two compute, ROWS / 2 rows each; a thread holds the rows and columns that hopper.cuh says. They take turns:
 * while one has the tensor cores (S of the next tile, O of this one), the other is at its powers of two.
 *
 * KV of act dtype: the pool is a tensor of rows of D elements, of which TMA stores KEYS x D as [KEYS / 8][D / 64][8
 * rows][64], swizzled, in boxes of as many rows as a power of two that divides P. Positions beyond the context are read
 * as zeros, and what the last box holds of them is set to zero in V: their P is 0, but 0 times garbage need not be.
 * KV of e4m3: the warpgroup that loads widens it, through registers, to the same tiles: e4m3 times its scale, and with
 * a k_bias its turned share, rounded to act as a cache of act dtype would hold it.
 *
 * Texts: Q, K and V are columns of the step's own rows [T, 3 H D], which TMA loads as it does Q; every row sees all of
 * its text, so only a text's last tile is masked. D is 64, which makes a tile of K one box.
 *
 * Reads K and V of a unit's context from the L2, 4 D bytes a position (2 D of e4m3). FLOP: 4 D for each pair of a row
 * and a position that it sees, summed in fp32. Order: tiles lie at absolute positions, and one that a row does not see
 * changes none of its bits, so a row's result depends neither on how a prompt was cut into steps nor on who shares the
 * unit. */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/warp.cuh"

enum {
    ROWS = 128,
    KEYS = 128,
    STAGES = 2,       /* of K and of V */
    THREADS = 384,    /* two warpgroups that compute and one that loads */
    MAX_TILES = 1280, /* of queries in one step: 16 bytes of shared memory each */
    N_CONSUMER_WARPS = 8,
    FAR = 8, /* in powers of two: those of act stay below 2^8 */
};
enum kv_kind { KV_ACT, KV_E4M3, KV_E4M3_BIAS, KV_TEXTS }; /* the last: no cache, but the step's own rows */

struct prefill {
    void *o;                                           /* [T, H*D] act */
    const int32_t *query_start, *kv_len, *block_table; /* as struct batch; texts: start, and no others */
    int first, B, max_blocks;                          /* sequences first .. B-1 */
    int H, group;                                      /* group: H / K */
    unsigned P;
    float scale; /* log2(e) / sqrt(D) */
    /* KV of act dtype, in rows of D elements from the pool's base: of a granule; where the layer begins; of one head of
     * K; from a row of K to its V. box: rows that one TMA load brings. */
    int granule_rows, layer_row, head_rows, value_rows, box;
    /* KV of e4m3. layer: where the layer lies in the block at granule 0; granules in units of 64 bytes. */
    const char *layer;
    unsigned granule_lines;
    size_t value_bytes, scale_bytes; /* from K to V; from K to its scales */
    const void *k_bias;              /* [K*D] act or NULL */
    const float *cos_sin;            /* [positions, D], with a k_bias */
};

/* Tokens token .. token + n_rows - 1, the first of which sits at `position`. */
struct prefill_tile {
    int token, position, kv_len;
    uint16_t b, n_rows;
};

template <int D> struct prefill_smem { /* offsets from a 1024-byte aligned base */
    enum {
        TILE = KEYS * D * 2, /* bytes; also of Q and O */
        Q = 0,
        K = Q + TILE,
        V = K + STAGES * TILE,
        O = V + STAGES * TILE,
        TILES = O + TILE,
        BARRIERS = TILES + MAX_TILES * (int)sizeof(struct prefill_tile),
        BYTES = BARRIERS + 128,
    };
    static_assert((int)BYTES <= 227 * 1024, "what a block may have");
    static_assert((int)TILE >= MAX_TILES * 8, "the plan's scratch is where O will be");
};
enum { /* barriers: filled by loads, emptied by use */
    Q_FULL,
    Q_EMPTY,
    K_FULL,
    K_EMPTY = K_FULL + STAGES,
    V_FULL = K_EMPTY + STAGES,
    V_EMPTY = V_FULL + STAGES,
    N_BARRIERS = V_EMPTY + STAGES
};
static_assert(N_BARRIERS * 8 + 4 <= 128, "barriers, and the number of tiles");

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* The low or the high 16 bits of a pair. */
__device__ static inline float unpack(uint32_t pair, int high, __nv_bfloat16) {
    return __uint_as_float(high ? pair & 0xffff0000u : pair << 16);
}
__device__ static inline float unpack(uint32_t pair, int high, __half) {
    return __half2float(__ushort_as_half((unsigned short)(pair >> (high ? 16 : 0))));
}

/* ---- the plan: which tiles there are, the heaviest first --------------------------------------------------------- */

/* The last tile of positions that a row of this tile sees. */
template <enum kv_kind KV> __device__ static inline int last_tile(const struct prefill_tile &tile) {
    return ((KV == KV_TEXTS ? tile.kv_len : tile.position + tile.n_rows) - 1) / KEYS;
}

/* Called by all threads; scratch [2, MAX_TILES]. Returns how many tiles there are. */
template <enum kv_kind KV>
__device__ static int plan_tiles(struct prefill_tile *tiles, int *scratch, int *count, const struct prefill &a) {
    int *names = scratch, *cost = scratch + MAX_TILES; /* name: sequence, index of the tile in it */
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        int n = 0;
        for (int first = a.first; first < a.B; first += 32) {
            const int b = first + lane;
            const int mine = b < a.B ? (a.query_start[b + 1] - a.query_start[b] + ROWS - 1) / ROWS : 0;
            int upto = mine;
#pragma unroll
            for (int i = 1; i < 32; i *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, upto, i);
                if (lane >= i) upto += other;
            }
            for (int i = 0; i < mine; i++) names[n + upto - mine + i] = b << 16 | i;
            n += __shfl_sync(0xffffffffu, upto, 31);
        }
        if (lane == 0) *count = n;
    }
    __syncthreads();
    const int n = *count;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = threadIdx.x; i < n; i += THREADS) {
            const int b = names[i] >> 16, row = (names[i] & 0xffff) * ROWS;
            const int start = a.query_start[b], length = a.query_start[b + 1] - start;
            const int kv_len = KV == KV_TEXTS ? length : a.kv_len[b];
            const int n_rows = min(length - row, (int)ROWS), position = kv_len - length + row;
            const struct prefill_tile tile = {start + row, position, kv_len, (uint16_t)b, (uint16_t)n_rows};
            const int my_cost = last_tile<KV>(tile) + 1;
            if (pass == 0) {
                cost[i] = my_cost;
                continue;
            }
            int rank = 0;
            for (int j = 0; j < n; j++) rank += cost[j] > my_cost || (cost[j] == my_cost && j < i);
            tiles[rank] = tile;
        }
        __syncthreads();
    }
    return n;
}

/* The i-th unit of this block, -1 after the last: rounds of gridDim.x units, every other one dealt backwards. */
__device__ static int unit_of(int i, int n_units) {
    const int unit = i * gridDim.x + (i % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    return unit < n_units ? unit : -1;
}

/* By a whole warp: the unit's rows of Q, once those of the unit before (i counts) were used. */
template <int D>
__device__ static void load_query(const CUtensorMap *q_map, const struct prefill_tile &tile, int h, int i,
                                  uint32_t smem, uint32_t barriers) {
    typedef struct prefill_smem<D> at;
    const int lane = threadIdx.x % 32;
    mbarrier_wait(barriers + Q_EMPTY * 8, i % 2 ^ 1);
    if (lane == 0) mbarrier_expect(barriers + Q_FULL * 8, at::TILE);
    __syncwarp();
    if (lane < D / 64)
        tma_load_2d(smem + at::Q + lane * ROWS * 128, q_map, barriers + Q_FULL * 8, h * D + lane * 64, tile.token);
}

/* One warp loads Q and K, another one V; a lane brings one box of a tile. */
template <int D, bool VALUES>
__device__ static void load_units(const CUtensorMap *q_map, const CUtensorMap *kv_map, const struct prefill &a,
                                  const struct prefill_tile *tiles, int n_units, uint32_t smem, uint32_t barriers) {
    typedef struct prefill_smem<D> at;
    const int lane = threadIdx.x % 32, n_boxes = KEYS / a.box;
    const uint32_t full = barriers + (VALUES ? V_FULL : K_FULL) * 8,
                   empty = barriers + (VALUES ? V_EMPTY : K_EMPTY) * 8;
    const uint32_t to = smem + (VALUES ? at::V : at::K) + lane * a.box * D * 2;
    unsigned n_loaded = 0; /* tiles so far */
    for (int i = 0, unit; (unit = unit_of(i, n_units)) >= 0; i++) {
        const struct prefill_tile tile = tiles[unit / a.H];
        const int h = unit % a.H, last = last_tile<KV_ACT>(tile);
        const int head_row = a.layer_row + h / a.group * a.head_rows + (VALUES ? a.value_rows : 0);
        const int32_t *table = a.block_table + (size_t)tile.b * a.max_blocks;
        /* Of this lane's box of tile n; below 0 where there is nothing to read. */
        auto block_of = [&](int n) {
            const unsigned position = n * KEYS + lane * a.box;
            return n >= 0 && lane < n_boxes && (int)position < tile.kv_len ? table[position / a.P] : -1;
        };
        for (int n = last, block = block_of(n); n >= 0; n--, n_loaded++) {
            const unsigned slot = (unsigned)(n * KEYS + lane * a.box) % a.P;
            const int row = block < 0 ? -8 : block * a.granule_rows + head_row + (int)slot; /* -8: outside, so zeros */
            const int stage = n_loaded % STAGES;
            block = block_of(n - 1); /* fetched one tile ahead */
            mbarrier_wait(empty + stage * 8, n_loaded / STAGES % 2 ^ 1);
            if (lane == 0) mbarrier_expect(full + stage * 8, at::TILE);
            __syncwarp();
            if (lane < n_boxes) tma_load_4d(to + stage * at::TILE, kv_map, full + stage * 8, 0, row, 0, 0);
            if (!VALUES && n == last) load_query<D>(q_map, tile, h, i, smem, barriers);
        }
    }
}

/* The same of texts: a tile is one box of the map that Q comes from. */
template <int D, bool VALUES>
__device__ static void load_texts(const CUtensorMap *map, const struct prefill &a, const struct prefill_tile *tiles,
                                  int n_units, uint32_t smem, uint32_t barriers) {
    typedef struct prefill_smem<D> at;
    const int lane = threadIdx.x % 32;
    const uint32_t full = barriers + (VALUES ? V_FULL : K_FULL) * 8,
                   empty = barriers + (VALUES ? V_EMPTY : K_EMPTY) * 8, to = smem + (VALUES ? at::V : at::K);
    unsigned n_loaded = 0; /* tiles so far */
    for (int i = 0, unit; (unit = unit_of(i, n_units)) >= 0; i++) {
        const struct prefill_tile tile = tiles[unit / a.H];
        const int h = unit % a.H, last = last_tile<KV_TEXTS>(tile);
        const int column = ((VALUES ? 2 : 1) * a.H + h) * D, start = tile.token - tile.position;
        for (int n = last; n >= 0; n--, n_loaded++) {
            const int stage = n_loaded % STAGES;
            mbarrier_wait(empty + stage * 8, n_loaded / STAGES % 2 ^ 1);
            if (lane == 0) {
                mbarrier_expect(full + stage * 8, at::TILE);
                tma_load_2d(to + stage * at::TILE, map, full + stage * 8, column, start + n * KEYS);
            }
            __syncwarp();
            if (!VALUES && n == last) load_query<D>(map, tile, h, i, smem, barriers);
        }
    }
}

/* ---- the warpgroup that loads and widens: KV of e4m3 ------------------------------------------------------------- */

/* 8 of e4m3, times scale. */
__device__ static inline void widen(float (&out)[8], uint32_t first, uint32_t second, float scale) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const __nv_fp8x2_storage_t in = (__nv_fp8x2_storage_t)((i < 2 ? first : second) >> i % 2 * 16);
        const float2 x = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(in, __NV_E4M3)));
        out[2 * i] = x.x * scale;
        out[2 * i + 1] = x.y * scale;
    }
}

/* bias [D] of one head, turned to a position: what dims d .. d + 7 and those D / 2 further get of it is added. */
template <typename A, int D>
__device__ static inline void add_bias(float (&low)[8], float (&high)[8], const A *bias, const float *cos_sin, int d) {
    const uint4 b_low = __ldg((const uint4 *)(bias + d)), b_high = __ldg((const uint4 *)(bias + D / 2 + d));
    const uint32_t lows[4] = {b_low.x, b_low.y, b_low.z, b_low.w}, highs[4] = {b_high.x, b_high.y, b_high.z, b_high.w};
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        const float4 c = __ldg((const float4 *)(cos_sin + d + i)), s = __ldg((const float4 *)(cos_sin + D / 2 + d + i));
        const float cos[4] = {c.x, c.y, c.z, c.w}, sin[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float x = unpack(lows[(i + j) / 2], j % 2, A()), y = unpack(highs[(i + j) / 2], j % 2, A());
            low[i + j] += fmaf(x, cos[j], -y * sin[j]);
            high[i + j] += fmaf(y, cos[j], x * sin[j]);
        }
    }
}

template <typename A> __device__ static inline uint4 pack8(const float (&x)[8]) {
    return make_uint4(pack(x[0], x[1], A()), pack(x[2], x[3], A()), pack(x[4], x[5], A()), pack(x[6], x[7], A()));
}

/* The same tiles as load_units, through registers: e4m3 times its scale (and with its share of the bias), rounded to A.
 * Each of the four warps has 32 rows of a tile; a lane has 16 dims of both halves of one of them, of several at a time.
 * Loads run one operand ahead: V's while K is widened, the next tile's K while V is. */
template <typename A, int D, bool BIAS>
__device__ static void widen_units(const CUtensorMap *q_map, const struct prefill &a, const struct prefill_tile *tiles,
                                   int n_units, char *smem_p, uint32_t smem, uint32_t barriers) {
    typedef struct prefill_smem<D> at;
    enum { LANES = D / 32, STEPS = LANES };
    const int warp = threadIdx.x / 32 - N_CONSUMER_WARPS, lane = threadIdx.x % 32, d = lane % LANES * 16;
    const unsigned NONE = ~0u;
    unsigned n_loaded = 0; /* tiles so far, of K and of V */
    uint4 raw[2 * STEPS];
    for (int i = 0, unit; (unit = unit_of(i, n_units)) >= 0; i++) {
        const struct prefill_tile tile = tiles[unit / a.H];
        const int h = unit % a.H, last = last_tile<KV_E4M3>(tile);
        const size_t head = (size_t)(h / a.group) * a.P;
        const int32_t *table = a.block_table + (size_t)tile.b * a.max_blocks;
        const char *k = a.layer + head * D + d, *k_scales = a.layer + a.scale_bytes + head * sizeof(float);
        const size_t value_scales = a.value_bytes / D * sizeof(float);
        const A *bias = BIAS ? (const A *)a.k_bias + (size_t)(h / a.group) * D : NULL;
        /* Of this lane's row of a tile: its block; then where it lies, in lines of 64 bytes, and its scales. */
        unsigned line, line_next = NONE;
        float k_scale, v_scale, k_scale_next = 0, v_scale_next = 0;
        auto block_of = [&](int n) {
            const unsigned position = n * KEYS + warp * 32 + lane;
            return n >= 0 && (int)position < tile.kv_len ? table[position / a.P] : -1;
        };
        auto find = [&](int n, int block) {
            line_next = NONE, k_scale_next = v_scale_next = 0;
            if (block < 0) return;
            const unsigned slot = (unsigned)(n * KEYS + warp * 32 + lane) % a.P, at_block = block * a.granule_lines;
            const char *scales = k_scales + (size_t)at_block * 64 + slot * sizeof(float);
            line_next = at_block + slot * D / 64;
            k_scale_next = *(const float *)scales;
            v_scale_next = *(const float *)(scales + value_scales);
        };
        auto fetch = [&](int step, const char *base, unsigned lines) {
            const unsigned at_line = __shfl_sync(0xffffffffu, lines, step * (32 / LANES) + lane / LANES);
            const uint4 *from = (const uint4 *)(base + (size_t)at_line * 64);
            raw[2 * step] = at_line == NONE ? make_uint4(0, 0, 0, 0) : __ldg(from);
            raw[2 * step + 1] = at_line == NONE ? make_uint4(0, 0, 0, 0) : __ldg(from + D / 32);
        };
        auto store = [&](int operand, int full, int empty, float scales, int n, const char *base_next,
                         unsigned lines_next) {
            const int stage = n_loaded % STAGES;
            mbarrier_wait(barriers + (empty + stage) * 8, n_loaded / STAGES % 2 ^ 1);
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                const int row = warp * 32 + step * (32 / LANES) + lane / LANES;
                const float scale = __shfl_sync(0xffffffffu, scales, row % 32);
                const uint4 in[2] = {raw[2 * step], raw[2 * step + 1]};
                if (base_next) fetch(step, base_next, lines_next);
                char *to = smem_p + operand + stage * at::TILE + row / 8 * D * 16 + row % 8 * 128;
#pragma unroll
                for (int j = 0; j < 16; j += 8) {
                    float low[8], high[8];
                    widen(low, j ? in[0].z : in[0].x, j ? in[0].w : in[0].y, scale);
                    widen(high, j ? in[1].z : in[1].x, j ? in[1].w : in[1].y, scale);
                    if (BIAS && operand == at::K && n * KEYS + row < tile.kv_len)
                        add_bias<A, D>(low, high, bias, a.cos_sin + (size_t)(n * KEYS + row) * D, d + j);
                    const int low_chunk = (d + j) / 8, high_chunk = (d + j + D / 2) / 8;
                    *(uint4 *)(to + low_chunk / 8 * 1024 + (low_chunk % 8 ^ row % 8) * 16) = pack8<A>(low);
                    *(uint4 *)(to + high_chunk / 8 * 1024 + (high_chunk % 8 ^ row % 8) * 16) = pack8<A>(high);
                }
            }
            fence_async();
            mbarrier_arrive(barriers + (full + stage) * 8);
        };
        find(last, block_of(last));
        int block = block_of(last - 1);
#pragma unroll
        for (int step = 0; step < STEPS; step++) fetch(step, k, line_next);
        for (int n = last; n >= 0; n--, n_loaded++) {
            line = line_next, k_scale = k_scale_next, v_scale = v_scale_next;
            find(n - 1, block);
            block = block_of(n - 2);
            store(at::K, K_FULL, K_EMPTY, k_scale, n, k + a.value_bytes, line);
            if (n == last && warp == 0) load_query<D>(q_map, tile, h, i, smem, barriers);
            store(at::V, V_FULL, V_EMPTY, v_scale, n, n ? k : NULL, line_next);
        }
    }
}

/* ---- the warpgroups that compute --------------------------------------------------------------------------------- */

/* The tile's maxima decide on what the powers of this thread's two rows refer to: `from`, the scaled score that becomes
 * 2^0. It moves only when a maximum is more than FAR beyond it (a row's own affair, so bits stay those of the row),
 * which is rare after the first tile; keep is what sums and outputs so far are to be multiplied by. A row that saw
 * nothing yet (max -inf) stays so: its powers and sum are 0. */
__device__ static inline void refer(const float (&s)[64], float (&max)[2], float (&sum)[2], float (&keep)[2],
                                    float (&from)[2], float scale) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float m[2] = {s[2 * i], s[2 * i + 1]};
#pragma unroll
        for (int j = 4; j < 64; j += 4)
#pragma unroll
            for (int c = 0; c < 2; c++) m[c] = fmaxf(m[c], s[j + 2 * i + c]);
        m[0] = fmaxf(m[0], m[1]);
        m[0] = fmaxf(m[0], __shfl_xor_sync(0xffffffffu, m[0], 1));
        m[0] = fmaxf(m[0], __shfl_xor_sync(0xffffffffu, m[0], 2));
        const bool far = (m[0] - max[i]) * scale > FAR;
        const float next = far ? m[0] : max[i];
        from[i] = next == -INFINITY ? 0.0f : next * scale;
        keep[i] = far ? power_of_two(fmaf(max[i], scale, -from[i])) : 1.0f;
        max[i] = next;
        sum[i] *= keep[i];
    }
}

/* Row I of this thread: scores become powers, and add to its columns' sum. */
template <int I>
__device__ static inline void powers(float (&s)[64], float (&sum)[2], const float (&from)[2], float scale) {
#pragma unroll
    for (int j = 0; j < 64; j += 4)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            float *x = &s[j + 2 * I + c];
            *x = power_of_two(fmaf(*x, scale, -from[I]));
            sum[I] += *x;
        }
}

/* Row i of the thread sees the tile's columns below seen[i] (already less the thread's own first column). */
__device__ static inline void mask(float (&s)[64], const int (&seen)[2]) {
#pragma unroll
    for (int j = 0; j < 16; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int c = 0; c < 2; c++)
                if (8 * j + c >= seen[i]) s[4 * j + 2 * i + c] = -INFINITY;
}

template <typename A> __device__ static inline void pack_powers(uint32_t (&p)[32], const float (&s)[64]) {
#pragma unroll
    for (int i = 0; i < 32; i++) p[i] = pack(s[2 * i], s[2 * i + 1], A());
}

/* S = Q K': the warpgroup's 64 rows of Q, lines of which are [D / 64][ROWS][64]. */
template <typename A, int D> __device__ static inline void issue_scores(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        wgmma_ss<A>(s, wgmma_advance(q, i / 4 * ROWS * 128 + i % 4 * 32), wgmma_advance(k, i / 4 * 1024 + i % 4 * 32),
                    i > 0);
    wgmma_commit();
}

/* O += P V */
template <typename A, int D>
__device__ static inline void issue_output(float (&o)[D / 2], const uint32_t (&p)[32], uint64_t v) {
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        wgmma_rs<A, 1>(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], wgmma_advance(v, i * 16 * D * 2), 1);
    wgmma_commit();
}

/* The warp's 16 rows of O / l, through its part of shared memory so that stores are whole lines. */
template <typename A, int D>
__device__ static inline void store_output(char *stage, const float (&o)[D / 2], const float (&sum)[2], A *out,
                                           size_t stride, int n_rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float l = sum[i];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        const float inverse = 1.0f / l;
        const int row = lane / 4 + 8 * i;
#pragma unroll
        for (int j = 0; j < D / 8; j++) { /* + 0: a zero's sign may depend on how many unseen positions were added */
            const uint32_t x = pack(o[4 * j + 2 * i] * inverse + 0.0f, o[4 * j + 2 * i + 1] * inverse + 0.0f, A());
            *(uint32_t *)(stage + row * D * 2 + ((j ^ row % 8) * 16 + lane % 4 * 4)) = x;
        }
    }
    __syncwarp(); /* rows are complete */
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / 32; i++) {
        const int row = (i * 32 + lane) / CHUNKS, chunk = lane % CHUNKS;
        const uint4 x = *(const uint4 *)(stage + row * D * 2 + (chunk ^ row % 8) * 16);
        if (row < n_rows) *(uint4 *)(out + row * stride + chunk * 8) = x;
    }
    __syncwarp(); /* read before the next unit's rows come */
}

template <typename A, int D, enum kv_kind KV>
__device__ static void compute_units(const struct prefill &a, const struct prefill_tile *tiles, int n_units,
                                     char *smem_p, uint32_t smem, uint32_t barriers) {
    typedef struct prefill_smem<D> at;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int first_row = warp * 16 + lane / 4; /* and 8 further: this thread's rows in the tile */
    const uint64_t q = wgmma_operand(smem + at::Q + group * 64 * 128, 0, 1024);
    const uint64_t k = wgmma_operand(smem + at::K, 0, D * 16), v = wgmma_operand(smem + at::V, 1024, D * 16);
    unsigned n_k = 0, n_v = 0; /* tiles used so far */
    auto full = [&](int barrier, unsigned n) { mbarrier_wait(barriers + (barrier + n % STAGES) * 8, n / STAGES % 2); };
    auto release = [&](int barrier) {
        if (lane == 0) mbarrier_arrive(barriers + barrier * 8);
    };
    if (group == 1) named_barrier_arrive(1, 256); /* the first warpgroup begins */
    for (int i = 0, unit; (unit = unit_of(i, n_units)) >= 0; i++) {
        const struct prefill_tile tile = tiles[unit / a.H];
        float s[64], o[D / 2], max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, keep[2], from[2];
        uint32_t p[32];
        int n = __shfl_sync(0xffffffffu, last_tile<KV>(tile), 0); /* the compiler sees: uniform */
        auto mask_tile = [&]() {
            if ((n + 1) * KEYS <= (KV == KV_TEXTS ? tile.kv_len : tile.position + group * 64 + 1))
                return; /* every row sees it whole */
            const int seen = (KV == KV_TEXTS ? tile.kv_len : tile.position + first_row + 1) - n * KEYS - lane % 4 * 2;
            const int both[2] = {seen, KV == KV_TEXTS ? seen : seen + 8};
            mask(s, both);
        };
#pragma unroll
        for (int j = 0; j < D / 2; j++) o[j] = 0;
        mbarrier_wait(barriers + Q_FULL * 8, i % 2);
        full(K_FULL, n_k);
        wgmma_fence();
        issue_scores<A, D>(s, q, wgmma_advance(k, n_k % STAGES * at::TILE));
        wgmma_wait<0>();
        wgmma_settle(s);
        release(K_EMPTY + n_k++ % STAGES);
        mask_tile();
        refer(s, max, sum, keep, from, a.scale);
        powers<0>(s, sum, from, a.scale);
        powers<1>(s, sum, from, a.scale);
        pack_powers<A>(p, s);
        if ((KV == KV_ACT || KV == KV_TEXTS) && (n + 1) * KEYS > tile.kv_len) { /* both warpgroups write the same zeros, each before its own use */
            full(V_FULL, n_v);
            for (int j = threadIdx.x % 128; j < ((n + 1) * KEYS - tile.kv_len) * (D / 8); j += 128) {
                const int row = KEYS - 1 - j / (D / 8), chunk = j % (D / 8);
                *(uint4 *)(smem_p + at::V + n_v % STAGES * at::TILE + row / 8 * D * 16 + chunk / 8 * 1024 +
                           row % 8 * 128 + chunk % 8 * 16) = make_uint4(0, 0, 0, 0);
            }
            fence_async();
            named_barrier_sync(3 + group, 128);
        }
        while (--n >= 0) {
            full(K_FULL, n_k);
            named_barrier_sync(1 + group, 256); /* my turn at the tensor cores */
            wgmma_fence();
            issue_scores<A, D>(s, q, wgmma_advance(k, n_k % STAGES * at::TILE));
            full(V_FULL, n_v);
            wgmma_fence();
            issue_output<A, D>(o, p, wgmma_advance(v, n_v % STAGES * at::TILE));
            named_barrier_arrive(2 - group, 256); /* the other's */
            wgmma_wait<1>();
            wgmma_settle(s);
            release(K_EMPTY + n_k++ % STAGES);
            mask_tile();
            refer(s, max, sum, keep, from, a.scale);
            powers<0>(s, sum, from, a.scale);
            wgmma_wait<0>(); /* here, so that packing the first row's powers overlaps with the second's */
            wgmma_settle(o);
            wgmma_settle(p);
            release(V_EMPTY + n_v++ % STAGES);
            powers<1>(s, sum, from, a.scale);
            pack_powers<A>(p, s);
            if (__any_sync(0xffffffffu, keep[0] != 1.0f || keep[1] != 1.0f))
#pragma unroll
                for (int j = 0; j < D / 2; j++) o[j] *= keep[j / 2 % 2];
        }
        release(Q_EMPTY);
        full(V_FULL, n_v);
        wgmma_fence();
        issue_output<A, D>(o, p, wgmma_advance(v, n_v % STAGES * at::TILE));
        wgmma_wait<0>();
        wgmma_settle(o);
        release(V_EMPTY + n_v++ % STAGES);
        A *out = (A *)a.o + ((size_t)(tile.token + warp * 16) * a.H + unit % a.H) * D;
        store_output<A, D>(smem_p + at::O + warp * 16 * D * 2, o, sum, out, (size_t)a.H * D, tile.n_rows - warp * 16);
    }
}

#endif

template <typename A, int D, enum kv_kind KV>
__global__ static void __launch_bounds__(THREADS, 1)
    prefill_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap kv_map,
                   const __grid_constant__ struct prefill a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    typedef struct prefill_smem<D> at;
    extern __shared__ __align__(1024) char smem_p[];
    const uint32_t smem = smem_address(smem_p), barriers = smem + at::BARRIERS;
    constexpr bool by_hand = KV == KV_E4M3 || KV == KV_E4M3_BIAS;
    struct prefill_tile *tiles = (struct prefill_tile *)(smem_p + at::TILES);
    pdl_trigger();
    if (threadIdx.x == 0) {
        if (smem % 1024) __trap(); /* the swizzle goes by address */
        tma_prefetch_map(&q_map);
        tma_prefetch_map(&kv_map);
        for (int i = 0; i < N_BARRIERS; i++) {
            const bool by_consumers = i == Q_EMPTY || (i >= K_EMPTY && i < V_FULL) || i >= V_EMPTY;
            const bool widened = by_hand && (i == K_FULL || i == K_FULL + 1 || i == V_FULL || i == V_FULL + 1);
            mbarrier_init(barriers + i * 8, by_consumers ? N_CONSUMER_WARPS : widened ? 128 : 1);
        }
        mbarrier_init_fence();
    }
    pdl_wait();
    const int n_units =
        a.H * plan_tiles<KV>(tiles, (int *)(smem_p + at::O), (int *)(smem_p + at::BARRIERS + N_BARRIERS * 8), a);
    /* Registers: 65536 / 128 less what 168 a thread at the start leaves over: 504 for the three. */
    constexpr int FOR_LOADS = by_hand ? 120 : 40, FOR_COMPUTE = (504 - FOR_LOADS) / 2;
    if (threadIdx.x >= 256) {
        registers_shrink<FOR_LOADS>();
        if constexpr (by_hand) {
            widen_units<A, D, KV == KV_E4M3_BIAS>(&q_map, a, tiles, n_units, smem_p, smem, barriers);
        } else if constexpr (KV == KV_TEXTS) {
            if (threadIdx.x < 288) load_texts<D, false>(&q_map, a, tiles, n_units, smem, barriers);
            else if (threadIdx.x < 320) load_texts<D, true>(&q_map, a, tiles, n_units, smem, barriers);
        } else {
            if (threadIdx.x < 288) load_units<D, false>(&q_map, &kv_map, a, tiles, n_units, smem, barriers);
            else if (threadIdx.x < 320) load_units<D, true>(&q_map, &kv_map, a, tiles, n_units, smem, barriers);
        }
    } else {
        registers_grow<FOR_COMPUTE>();
        compute_units<A, D, KV>(a, tiles, n_units, smem_p, smem, barriers);
    }
#endif
}

/* ---- the launcher ------------------------------------------------------------------------------------------------ */

template <typename A, int D, enum kv_kind KV>
static void launch_prefill(struct exec *e, const struct prefill *a, const void *q, const struct kv_cache *kv, int T) {
    /* Overlapping strides: lines of 64 elements; any row; halves of a row; every eighth row after it. Rows have no
     * upper bound here: block tables say which exist. */
    const cuuint64_t q_dims[] = {(cuuint64_t)a->H * D, (cuuint64_t)T}, q_strides[] = {(cuuint64_t)a->H * D * 2};
    const cuuint64_t kv_dims[] = {64, INT32_MAX, D / 64, KEYS / 8}, kv_strides[] = {D * 2, 128, 8 * D * 2};
    const cuuint32_t q_box[] = {64, ROWS}, kv_box[] = {64, 8, D / 64, (cuuint32_t)a->box / 8};
    CUtensorMap q_map, kv_map = {};
    if (!tensor_map(e, &q_map, 2, 2, q, q_dims, q_strides, q_box)) return;
    if (KV == KV_ACT && !tensor_map(e, &kv_map, 2, 4, kv->pool, kv_dims, kv_strides, kv_box)) return;
    const int n_units = (T / ROWS + a->B - a->first) * a->H, n_sms = cuda_of(e)->n_sms;
    cuda_allow_smem(e, prefill_kernel<A, D, KV>, prefill_smem<D>::BYTES);
    cuda_launch(e, (prefill_kernel<A, D, KV>), n_units < n_sms ? n_units : n_sms, THREADS, prefill_smem<D>::BYTES,
                q_map, kv_map, *a);
}

template <typename A, int D>
static void launch_kind(struct exec *e, const struct prefill *a, const void *q, const struct kv_cache *kv, int T) {
    if (kv->layout.dtype != DTYPE_F8_E4M3)
        launch_prefill<A, D, KV_ACT>(e, a, q, kv, T);
    else if (!a->k_bias)
        launch_prefill<A, D, KV_E4M3>(e, a, q, kv, T);
    else
        launch_prefill<A, D, KV_E4M3_BIAS>(e, a, q, kv, T);
}

bool cuda__attention_prefill(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                             const void *k_bias, const struct rope *rope, const struct batch *batch, int H) {
    const struct kv_layout *l = &kv->layout;
    const enum dtype act = e->options.dtype;
    const bool e4m3 = l->dtype == DTYPE_F8_E4M3;
    const size_t row_bytes = (size_t)l->D * 2, head_bytes = (size_t)l->P * l->D;
    const int n_sequences = batch->B - batch->n_decode, box = l->P & -l->P;
    if (!cuda_of(e)->hopper || act == DTYPE_F32 || (l->D != 128 && l->D != 64)) return false;
    if (!e4m3 && (l->P % 8 || l->granule_bytes % row_bytes || l->layer_bytes % row_bytes)) return false;
    if (batch->T / ROWS + n_sequences > MAX_TILES) return false;
    const struct prefill a = {
        .o = o,
        .query_start = batch->query_start,
        .kv_len = batch->kv_len,
        .block_table = batch->block_table,
        .first = batch->n_decode,
        .B = batch->B,
        .max_blocks = batch->max_blocks,
        .H = H,
        .group = H / l->K,
        .P = (unsigned)l->P,
        .scale = 1.44269504f / sqrtf((float)l->D),
        .granule_rows = (int)(l->granule_bytes / row_bytes),
        .layer_row = (int)(layer * l->layer_bytes / row_bytes),
        .head_rows = l->P,
        .value_rows = l->K * l->P,
        .box = box < KEYS ? box : KEYS,
        .layer = (const char *)kv->pool + layer * l->layer_bytes,
        .granule_lines = (unsigned)(l->granule_bytes / 64),
        .value_bytes = l->K * head_bytes,
        .scale_bytes = 2 * l->K * head_bytes,
        .k_bias = k_bias,
        .cos_sin = k_bias ? rope->cos_sin : NULL,
    };
    if (act == DTYPE_BF16 && l->D == 128) launch_kind<__nv_bfloat16, 128>(e, &a, q, kv, batch->T);
    if (act == DTYPE_BF16 && l->D == 64) launch_kind<__nv_bfloat16, 64>(e, &a, q, kv, batch->T);
    if (act == DTYPE_F16 && l->D == 128) launch_kind<__half, 128>(e, &a, q, kv, batch->T);
    if (act == DTYPE_F16 && l->D == 64) launch_kind<__half, 64>(e, &a, q, kv, batch->T);
    return true;
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

template <typename A> static void launch_texts(struct exec *e, const struct prefill *a, const void *qkv, int T) {
    enum { D = 64 };
    const cuuint64_t dims[] = {3 * (cuuint64_t)a->H * D, (cuuint64_t)T}, strides[] = {3 * (cuuint64_t)a->H * D * 2};
    const cuuint32_t box[] = {64, ROWS};
    static_assert((int)ROWS == (int)KEYS, "one box for Q, K and V");
    CUtensorMap map;
    if (!tensor_map(e, &map, 2, 2, qkv, dims, strides, box)) return;
    const int n_units = (T / ROWS + a->B) * a->H, n_sms = cuda_of(e)->n_sms;
    cuda_allow_smem(e, prefill_kernel<A, D, KV_TEXTS>, prefill_smem<D>::BYTES);
    cuda_launch(e, (prefill_kernel<A, D, KV_TEXTS>), n_units < n_sms ? n_units : n_sms, THREADS, prefill_smem<D>::BYTES,
                map, map, *a);
}

bool cuda__attention_texts(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D) {
    const enum dtype act = e->options.dtype;
    if (!cuda_of(e)->hopper || act == DTYPE_F32 || D != 64 || texts->T / ROWS + texts->B > MAX_TILES) return false;
    const struct prefill a = {
        .o = o,
        .query_start = texts->start,
        .B = texts->B,
        .H = H,
        .group = 1,
        .scale = 1.44269504f / sqrtf((float)D),
    };
    if (act == DTYPE_BF16) launch_texts<__nv_bfloat16>(e, &a, qkv, texts->T);
    else launch_texts<__half>(e, &a, qkv, texts->T);
    return true;
}
