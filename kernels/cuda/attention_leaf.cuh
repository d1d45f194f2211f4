/* attention_leaf.cuh - private to attention_decode.cu, whose head explains: the arguments of its kernels, how two stretches
 * of positions become one, and what a warp does with a leaf: copies, scores, softmax, values. */
#pragma once

#include "kernels/cuda/warp.cuh"

enum {
    WARPS = 2, /* of a block: the fewer, the more SMs get work when there is little */
    THREADS = WARPS * 32,
    WARPS_PER_SM = 12, /* as many as registers, and shared memory for bf16 and D = 128, allow */
    TILE = 8,          /* query heads: columns of an MMA tile */
    LEAF = 32,         /* positions: a lane has one scale */
    FANOUT = 4,        /* of all levels of the tree */
    GROUP = 16,        /* positions that lie one after the other: P is a multiple */
    LEAF_GROUPS = LEAF / GROUP,
    MOST_LEAVES = FANOUT * FANOUT, /* of a part */
    FOLD_WARPS = 8,
    FOLD_PARTS = FANOUT * FANOUT, /* of a warp in fold_parts */
    MOST_SEQUENCES = 512,         /* of one launch: their lengths lie in shared memory */
};
static_assert(MOST_LEAVES * LEAF_GROUPS == 32, "a lane knows where one group of a part lies");

#define LOG2_E 1.44269504f

struct decode_args {
    void *o;          /* [T, H D] act */
    const void *q;    /* [T, H D] act */
    const char *pool; /* at the layer's place in granule 0 */
    size_t granule_bytes;
    const int32_t *kv_len, *block_table;             /* [B], [B, max_blocks] */
    const void *k_bias;                              /* [K D] act or NULL */
    const float *cos_sin;                            /* [max_positions, D] */
    float *part_o;                                   /* [parts, sequences, H, D] */
    float2 *part_ml;                                 /* [parts, sequences, H]: m, l */
    uint32_t v_offset, scale_offset, v_scale_offset; /* from K to V; to K's scales; from those to V's */
    int max_blocks, P, H, K, G;
    int tiles;              /* of a KV head */
    int first, n_sequences; /* of this launch */
    int most_1, most_4;     /* up to so many parts in all, a part is 1 leaf; 4 leaves */
    bool one_part;          /* no row has more than one: straight to o */
};

/* ---- shared memory -------------------------------------------------------------------------------------------------
 */

template <int D, bool F8> constexpr int ROW_BYTES = F8 ? D : 2 * D; /* of K and V */
template <int D, bool F8> constexpr int TILE_BYTES = LEAF *ROW_BYTES<D, F8>;

/* A warp's. */
template <int D, bool F8> struct warp_smem {
    char k[TILE_BYTES<D, F8>], v[TILE_BYTES<D, F8>]; /* a leaf's, swizzled */
    float scales[2][LEAF];                           /* fp8: and its K's and V's scales */
};
/* The block's, behind its warps'. With a k_bias, each warp's c follows: [D / 16, 32] pairs of registers, then what is
 * left of c. */
struct block_smem {
    int32_t kv_len[MOST_SEQUENCES];
    int32_t most[WARPS], unused[2];
};
template <int D> constexpr int BIAS_PAIRS = 2 * D / 16 * 32;
template <int D, bool F8> static size_t smem_bytes(bool bias) {
    return WARPS * sizeof(struct warp_smem<D, F8>) + sizeof(struct block_smem) + (bias ? WARPS * BIAS_PAIRS<D> * 8 : 0);
}

/* ---- instructions --------------------------------------------------------------------------------------------------
 */

/* A line of the L2 at a time: neighbours' 16 bytes come soon. */
__device__ static inline void copy_segment(uint32_t to, const char *from) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
/* Until all groups of this warp's copies but the last have arrived. */
__device__ static inline void copies_wait_warp(void) {
    copies_wait<1>();
    __syncwarp();
}

/* An 8 x 8 matrix in registers, transposed. */
__device__ static inline uint32_t transposed(uint32_t x) {
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* Loads that stay where they are written, so that several are in flight before the first is looked at. */
__device__ static inline int32_t load_now(const int32_t *p) {
    int32_t x;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
template <int WORDS> __device__ static inline void load_words_now(uint32_t *x, const void *p) {
    if constexpr (WORDS == 2)
        asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(x[0]), "=r"(x[1]) : "l"(p) : "memory");
    else
        asm volatile("ld.global.b32 %0, [%1];" : "=r"(x[0]) : "l"(p) : "memory");
}

template <typename A> constexpr bool IS_BF16 = false;
template <> constexpr bool IS_BF16<__nv_bfloat16> = true;

template <bool BF16> __device__ static inline void mma(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    if constexpr (BF16) mma<__nv_bfloat16>(d, a[0], a[1], a[2], a[3], b[0], b[1]);
    else mma<__half>(d, a[0], a[1], a[2], a[3], b[0], b[1]);
}

template <bool BF16> __device__ static inline uint32_t pack(float low, float high) {
    uint32_t bits;
    if constexpr (BF16) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
        memcpy(&bits, &pair, 4);
    } else {
        const __half2 pair = __floats2half2_rn(low, high);
        memcpy(&bits, &pair, 4);
    }
    return bits;
}

/* Two e4m3 as two f16. */
__device__ static inline uint32_t widen_e4m3(uint32_t pair) {
    const __half2_raw wide = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)pair, __NV_E4M3);
    uint32_t bits;
    memcpy(&bits, &wide, 4);
    return bits;
}

/* ---- folding -------------------------------------------------------------------------------------------------------
 */

/* (m, l, o) of some positions takes in (m2, l2, o2) of the ones behind them: m and l here, and o is to become
 * folded(o, o2). To fold into what is empty (m = -inf, all else 0), or what is empty, changes nothing; two empty ones
 * must not meet. So levels of the tree with one child need not be run. */
struct weights {
    float keep, take;
};
__device__ static inline struct weights fold(float &m, float &l, float m2, float l2) {
    const float to = fmaxf(m, m2);
    const struct weights w = {power_of_two(m - to), power_of_two(m2 - to)};
    l = __fmaf_rn(l, w.keep, __fmul_rn(l2, w.take));
    m = to;
    return w;
}
__device__ static inline float folded(float o, float o2, float keep, float take) {
    return __fmaf_rn(o, keep, __fmul_rn(o2, take));
}
/* o / l; a zero loses its sign, which might tell how the tree was run. */
__device__ static inline float finished(float o, float inverse_l) {
    return __fmaf_rn(o, inverse_l, 0.0f);
}

/* ---- copies --------------------------------------------------------------------------------------------------------
 */

/* Positions of a sequence that a warp goes over. Lane i knows the block of group i of 16 positions, and the index of
 * its first row of this KV head in K or V of that block. */
struct places {
    uint64_t block;
    uint32_t row;
};

/* From what the block table has for this lane's group. Beyond kv_len that is anything; then any memory will do. */
__device__ static inline struct places place(const struct decode_args &a, int32_t granule, int group, int k,
                                             int kv_len) {
    const int block_groups = a.P / GROUP;
    if (group * GROUP >= kv_len) granule = 0;
    return {(uint64_t)(a.pool + (size_t)granule * a.granule_bytes),
            (uint32_t)(k * a.P + (block_groups == 1 ? 0 : group % block_groups * GROUP))};
}
__device__ static inline int32_t table_entry(const struct decode_args &a, int b, int group) {
    const int block_groups = a.P / GROUP, block = block_groups == 1 ? group : group / block_groups;
    return load_now(a.block_table + (size_t)b * a.max_blocks + min(block, a.max_blocks - 1));
}

/* Starts the copies of leaf `leaf` of K, or of V `offset` bytes behind it. */
template <int BYTES>
__device__ static inline void copy_tile(char *tile, const struct places &places, int leaf, uint32_t offset) {
    const int lane = threadIdx.x % 32;
    const uint32_t to = shared_address(tile);
#pragma unroll
    for (int i = 0; i < LEAF_GROUPS; i++) {
        const uint64_t block = __shfl_sync(~0u, places.block, leaf * LEAF_GROUPS + i);
        const uint32_t first = __shfl_sync(~0u, places.row, leaf * LEAF_GROUPS + i);
        const char *from = (const char *)block + (size_t)first * BYTES + offset + lane * 16;
#pragma unroll
        for (int j = 0; j < GROUP * BYTES / 512; j++) /* 16 rows are in one piece */
            copy_segment(to + i * GROUP * BYTES + swizzled<BYTES>((j * 512 + lane * 16) / BYTES, lane % (BYTES / 16)),
                    from + j * 512);
    }
}

/* K of a leaf; fp8: with the scales of K and of V, 4 in each of 16 lanes. */
template <int D, bool F8>
__device__ static inline void copy_keys(struct warp_smem<D, F8> *s, const struct places &places, int leaf,
                                        const struct decode_args &a) {
    copy_tile<ROW_BYTES<D, F8>>(s->k, places, leaf, 0);
    if constexpr (F8) {
        const int lane = threadIdx.x % 32, i = lane % 8;
        const uint64_t block = __shfl_sync(~0u, places.block, leaf * LEAF_GROUPS + i / 4);
        const uint32_t first = __shfl_sync(~0u, places.row, leaf * LEAF_GROUPS + i / 4);
        const char *from = (const char *)block + a.scale_offset + (size_t)(first + i % 4 * 4) * 4;
        if (lane < 16) copy_segment(shared_address(s->scales) + lane * 16, from + (lane < 8 ? 0 : a.v_scale_offset));
    }
}
template <int D, bool F8>
__device__ static inline void copy_values(struct warp_smem<D, F8> *s, const struct places &places, int leaf,
                                          const struct decode_args &a) {
    copy_tile<ROW_BYTES<D, F8>>(s->v, places, leaf, a.v_offset);
}

/* ---- queries -------------------------------------------------------------------------------------------------------
 */

/* Starts loading q [n_heads, D]: lane l has head l / 4. In the MMA's order of dims; fp8: dims 16 i + 4 (l % 4) .. in
 * q[i]. */
template <typename A, int D, bool F8>
__device__ static inline void load_queries(uint32_t (*q)[2], const A *heads, int n_heads) {
    const int lane = threadIdx.x % 32;
    const A *from = heads + lane / 4 * D;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        q[i][0] = q[i][1] = 0;
        if (lane / 4 >= n_heads) continue;
        if (F8) {
            load_words_now<2>(q[i], from + 16 * i + lane % 4 * 4);
        } else {
            load_words_now<1>(&q[i][0], from + 16 * i + lane % 4 * 2);
            load_words_now<1>(&q[i][1], from + 16 * i + 8 + lane % 4 * 2);
        }
    }
}

/* The power of two that brings the largest |x| into [2^14, 2^15), and its inverse. */
__device__ static inline float power_to_f16(float largest, float *inverse) {
    const int exponent = max((int)(__float_as_uint(largest) >> 23) - 127, -100);
    *inverse = __uint_as_float((uint32_t)(127 + exponent - 14) << 23);
    return __uint_as_float((uint32_t)(127 + 14 - exponent) << 23);
}

/* The largest of the 4 lanes that share a head. */
__device__ static inline float head_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* 4 consecutive elements. */
template <typename A> __device__ static inline void widen_4(float x[4], const uint32_t raw[2]) {
    for (int i = 0; i < 4; i++) {
        A a;
        memcpy(&a, (const char *)raw + 2 * i, 2);
        x[i] = to_float(a);
    }
}

/* q as loaded becomes f16; returns what its scores are to be multiplied by. With a bias (that of the KV head), c goes
 * to shared memory, and *c_inverse is its factor. */
template <typename A, int D>
__device__ static inline float queries_to_f16(uint32_t (*q)[2], const A *bias, uint2 *c_shared, float *c_inverse) {
    const int lane = threadIdx.x % 32;
    float x[D / 16][4], largest = 0, inverse;
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        widen_4<A>(x[i], q[i]);
        for (int j = 0; j < 4; j++) largest = fmaxf(largest, fabsf(x[i][j]));
    }
    const float power = power_to_f16(head_max(largest), &inverse);
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        for (int j = 0; j < 2; j++) q[i][j] = pack<false>(x[i][2 * j] * power, x[i][2 * j + 1] * power);
    if (!bias) return inverse;
    largest = 0;
#pragma unroll
    for (int i = 0; i < D / 32; i++) { /* x becomes c */
        uint32_t raw[2][2];
        float b[4], b2[4];
        for (int j = 0; j < 2; j++) load_words_now<2>(raw[j], bias + j * D / 2 + 16 * i + lane % 4 * 4);
        widen_4<A>(b, raw[0]);
        widen_4<A>(b2, raw[1]);
        for (int j = 0; j < 4; j++) {
            const float x1 = x[i][j], x2 = x[i + D / 32][j];
            x[i][j] = __fmaf_rn(x1, b[j], __fmul_rn(x2, b2[j]));
            x[i + D / 32][j] = __fmaf_rn(x2, b[j], -__fmul_rn(x1, b2[j]));
            largest = fmaxf(largest, fmaxf(fabsf(x[i][j]), fabsf(x[i + D / 32][j])));
        }
    }
    const float c_power = power_to_f16(head_max(largest), c_inverse);
    __syncwarp(); /* the last c is no longer read */
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        uint32_t c[2], rest[2];
        for (int j = 0; j < 2; j++) {
            const float y = x[i][2 * j] * c_power, z = x[i][2 * j + 1] * c_power;
            c[j] = pack<false>(y, z);
            rest[j] = pack<false>(y - round_to<__half>(y), z - round_to<__half>(z));
        }
        c_shared[i * 32 + lane] = make_uint2(c[0], c[1]);
        c_shared[(D / 16 + i) * 32 + lane] = make_uint2(rest[0], rest[1]);
    }
    __syncwarp(); /* c is whole */
    return inverse;
}

/* What a lane's scores, of heads lane % 4 * 2 + i, are to be multiplied by: from q, and fp8 from c. */
struct factors {
    float q[2], c[2];
};

/* Makes loaded queries ready, once for all leaves. */
template <typename A, int D, bool F8>
__device__ static inline struct factors prepare_queries(uint32_t (*q)[2], const A *bias, uint2 *c_shared) {
    const float unit = LOG2_E / (D == 64 ? 8.0f : 11.3137085f); /* sqrt(D) */
    float inverse = 1, c_inverse = 1;
    struct factors f;
    if (F8) inverse = queries_to_f16<A, D>(q, bias, c_shared, &c_inverse);
    for (int i = 0; i < 2; i++) {
        const int from = (threadIdx.x % 4 * 2 + i) * 4; /* a lane that has this head of q */
        f.q[i] = F8 ? __shfl_sync(~0u, inverse, from) * unit : unit;
        f.c[i] = F8 ? __shfl_sync(~0u, c_inverse, from) * unit : unit;
    }
    return f;
}

/* ---- a leaf --------------------------------------------------------------------------------------------------------
 */

/* s[t] [16, 8]: positions 16 t .. of the tile of K times the heads. */
template <bool BF16, int D, bool F8>
__device__ static inline void multiply_keys(float (*s)[4], const uint32_t (*q)[2], uint32_t tile) {
    constexpr int BYTES = ROW_BYTES<D, F8>;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < LEAF / 16; t++) {
        float odd[4] = {}; /* two chains of products, one for the even and one for the odd steps */
        for (int i = 0; i < 4; i++) s[t][i] = 0;
#pragma unroll
        for (int segment = 0; segment < BYTES / 16; segment += 2) {
            uint32_t a[4];
            load_matrices(a, tile + swizzled<BYTES>(16 * t + lane % 16, segment + lane / 16));
            if constexpr (F8) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const uint32_t x = a[2 * i], y = a[2 * i + 1];
                    const uint32_t wide[4] = {widen_e4m3(x & 0xffff), widen_e4m3(y & 0xffff), widen_e4m3(x >> 16),
                                              widen_e4m3(y >> 16)};
                    mma<false>(i ? odd : s[t], wide, q[segment + i]);
                }
            } else {
                mma<BF16>(segment % 4 ? odd : s[t], a, q[segment / 2]);
            }
        }
        for (int i = 0; i < 4; i++) s[t][i] += odd[i];
    }
}

/* s[t] likewise: rows of the rope table, whose entries are f16 already, or close, times c. */
template <int D>
__device__ static inline void multiply_rotations(float (*s)[4], const uint2 *c, const float *cos_sin, int first,
                                                 int n_valid) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < LEAF / 16; t++) {
        const float4 *row[2];
        for (int i = 0; i < 2; i++) {
            const int p = first + min(16 * t + 8 * i + lane / 4, n_valid - 1);
            row[i] = (const float4 *)(cos_sin + (size_t)p * D) + lane % 4;
        }
#pragma unroll 2
        for (int i = 0; i < D / 16; i++) {
            const float4 x = row[0][4 * i], y = row[1][4 * i];
            const uint32_t a[4] = {pack<false>(x.x, x.y), pack<false>(y.x, y.y), pack<false>(x.z, x.w),
                                   pack<false>(y.z, y.w)};
            const uint2 most = c[i * 32 + lane], rest = c[(D / 16 + i) * 32 + lane];
            const uint32_t b[2] = {most.x, most.y}, b2[2] = {rest.x, rest.y};
            mma<false>(s[t], a, b2);
            mma<false>(s[t], a, b);
        }
    }
}

/* y [16, 8]: dims 16 t .. of the tile of V, transposed, times P [32, heads]. fp8: rows 0-7 are the even dims, rows 8-15
 * the odd ones, for that is how the transposed pairs of bytes come. */
template <bool BF16, int D, bool F8>
__device__ static inline void multiply_values(float y[4], const uint32_t (*p)[2], uint32_t tile, int t) {
    constexpr int BYTES = ROW_BYTES<D, F8>;
    const int lane = threadIdx.x % 32;
    uint32_t a[4];
    if constexpr (F8) {
        load_matrices_trans(a, tile + swizzled<BYTES>(lane, t));
#pragma unroll
        for (int i = 0; i < LEAF / 16; i++) {
            const uint32_t x = __byte_perm(a[2 * i], 0, 0x3120), z = __byte_perm(a[2 * i + 1], 0, 0x3120);
            const uint32_t wide[4] = {widen_e4m3(x & 0xffff), widen_e4m3(x >> 16), widen_e4m3(z & 0xffff),
                                      widen_e4m3(z >> 16)};
            mma<false>(y, wide, p[i]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < LEAF / 16; i++) {
            load_matrices_trans(a, tile + swizzled<BYTES>(16 * i + lane / 16 * 8 + lane % 8, 2 * t + lane / 8 % 2));
            mma<BF16>(y, a, p[i]);
        }
    }
}

/* Heads lane % 4 * 2 + i have m[i] and l[i]; o[t] are MMA tiles [16 dims, 8 heads]. */
template <int D> struct state { float m[2], l[2], o[D / 16][4]; };
template <int D> __device__ static inline void clear(struct state<D> &s) {
    for (int i = 0; i < 2; i++) s.m[i] = -INFINITY, s.l[i] = 0;
    for (int t = 0; t < D / 16; t++)
        for (int i = 0; i < 4; i++) s.o[t][i] = 0;
}
template <int D> __device__ static inline void fold_state(struct state<D> &to, const struct state<D> &from) {
    struct weights w[2];
    for (int i = 0; i < 2; i++) w[i] = fold(to.m[i], to.l[i], from.m[i], from.l[i]);
    for (int t = 0; t < D / 16; t++)
        for (int i = 0; i < 4; i++) to.o[t][i] = folded(to.o[t][i], from.o[t][i], w[i % 2].keep, w[i % 2].take);
}

/* x: a leaf's scores, in MMA tiles [16 positions, 8 heads]; v_scale: of V, by row of those tiles, relative to v_unit.
 */
struct leaf_scores {
    float x[LEAF / 16][4], v_scale[LEAF / 16][2], v_unit;
};

/* The scores of a leaf of which n_valid positions exist. K has arrived. */
template <bool BF16, int D, bool F8>
__device__ static inline void score_leaf(struct leaf_scores &s, const uint32_t (*q)[2], const struct factors &f,
                                         const struct warp_smem<D, F8> *smem, int n_valid) {
    const int lane = threadIdx.x % 32;
    float k_scale[LEAF / 16][2];
    multiply_keys<BF16, D, F8>(s.x, q, shared_address(smem->k));
    s.v_unit = 1;
    if constexpr (F8) {
        const float largest = warp_max(lane < n_valid ? smem->scales[1][lane] : 0);
        const uint32_t power = __float_as_uint(largest) & 0x7f800000u; /* down to a power of two */
        const float inverse = __uint_as_float((254u << 23) - power);
        s.v_unit = __uint_as_float(power);
        for (int t = 0; t < LEAF / 16; t++)
            for (int i = 0; i < 2; i++) {
                const int p = 16 * t + 8 * i + lane / 4;
                k_scale[t][i] = smem->scales[0][p];
                s.v_scale[t][i] = p < n_valid ? smem->scales[1][p] * inverse : 0;
            }
    }
#pragma unroll
    for (int t = 0; t < LEAF / 16; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s.x[t][i] = __fmul_rn(s.x[t][i], f.q[i % 2]);
            if (F8) s.x[t][i] = __fmul_rn(s.x[t][i], k_scale[t][i / 2]);
        }
}

/* Adds the k_bias's share to the scores of the leaf at position `first`. */
template <int D>
__device__ static inline void add_bias(struct leaf_scores &s, const struct factors &f, const uint2 *c,
                                       const float *cos_sin, int first, int n_valid) {
    float y[LEAF / 16][4] = {};
    multiply_rotations<D>(y, c, cos_sin, first, n_valid);
    for (int t = 0; t < LEAF / 16; t++)
        for (int i = 0; i < 4; i++) s.x[t][i] = __fmaf_rn(y[t][i], f.c[i % 2], s.x[t][i]);
}

/* Folds the leaf's m and l into the run's; p becomes its probabilities [32, heads] as the MMA wants them, and o is to
 * become folded(o, P V, keep, take). */
template <bool BF16, int D, bool F8>
__device__ static inline void softmax_leaf(uint32_t (*p)[2], struct weights w[2], struct state<D> &run,
                                           struct leaf_scores &s, int n_valid) {
    const int lane = threadIdx.x % 32;
    if (n_valid < LEAF)
        for (int t = 0; t < LEAF / 16; t++)
            for (int i = 0; i < 4; i++)
                if (16 * t + 8 * (i / 2) + lane / 4 >= n_valid) s.x[t][i] = -INFINITY;
#pragma unroll
    for (int i = 0; i < 2; i++) { /* of the lane's two heads */
        float most = fmaxf(fmaxf(s.x[0][i], s.x[0][2 + i]), fmaxf(s.x[1][i], s.x[1][2 + i])), sum = 0;
        for (int j = 4; j < 32; j *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, j));
#pragma unroll
        for (int t = 0; t < LEAF / 16; t++)
#pragma unroll
            for (int j = i; j < 4; j += 2) {
                s.x[t][j] = power_of_two(__fadd_rn(s.x[t][j], -most));
                sum += s.x[t][j];
                if (F8) s.x[t][j] *= s.v_scale[t][j / 2];
            }
        for (int j = 4; j < 32; j *= 2) sum += __shfl_xor_sync(~0u, sum, j);
        w[i] = fold(run.m[i], run.l[i], most, sum);
        w[i].take = __fmul_rn(w[i].take, s.v_unit);
    }
#pragma unroll
    for (int t = 0; t < LEAF / 16; t++)
        for (int i = 0; i < 2; i++) p[t][i] = transposed(pack<BF16>(s.x[t][2 * i], s.x[t][2 * i + 1]));
}

/* V has arrived. */
template <bool BF16, int D, bool F8>
__device__ static inline void output_leaf(struct state<D> &run, const uint32_t (*p)[2], const struct weights w[2],
                                          struct warp_smem<D, F8> *smem, int n_valid) {
    constexpr int BYTES = ROW_BYTES<D, F8>;
    const int lane = threadIdx.x % 32;
    if (n_valid < LEAF) { /* 0 times anything is to be 0 */
        if (lane >= n_valid)
            for (int i = 0; i < BYTES; i += 16) *(uint4 *)(smem->v + lane * BYTES + i) = make_uint4(0, 0, 0, 0);
        __syncwarp();
    }
#pragma unroll
    for (int t = 0; t < D / 16; t++) {
        float y[4] = {};
        multiply_values<BF16, D, F8>(y, p, shared_address(smem->v), t);
        for (int i = 0; i < 4; i++) run.o[t][i] = folded(run.o[t][i], y[i], w[i % 2].keep, w[i % 2].take);
    }
}
