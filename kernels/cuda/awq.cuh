/* awq.cuh - how 4-bit weights lie in device memory, and how they become f16 in registers. Shared by awq_*.cu.
 *
 * One region holds three arrays, each starting at a multiple of 256 bytes from the region's base; rows % 16 == 0 (a strip
 * is 16 rows), K = cols, K % 128 == 0 (a group):
 *
 *   data    [rows/16][K/64][32 lanes][4] u32   rows K / 2 bytes: 512 contiguous bytes are 16 rows x 64 inputs, and along
 *           K a strip is contiguous. Word i of lane l is what that lane holds of the 16 x 16 fragment A of
 *           mma.m16n8k16 over inputs 16 i .. 16 i + 15 of the 64 (a warp's share of wgmma.m64k16's A, too).
 *           With g = l / 4 and j = l % 4 its four registers are
 *               pair 0: row g,     k 2j, 2j + 1         pair 1: row g + 8, k 2j, 2j + 1
 *               pair 2: row g,     k 2j + 8, 2j + 9     pair 3: row g + 8, k 2j + 8, 2j + 9
 *           and pair p has its first element in bits 4p .. 4p + 3, its second in bits 16 + 4p .. 16 + 4p + 3.
 *   scales  [rows/16][K/128][8][2] f16         2 rows K / 128 bytes: of a strip and a group, entry g is rows g and g + 8
 *   zeros   [rows/16][K/128][8][2] u8          rows K / 128 bytes: in the same order
 *
 * So a lane needs one u32 of scales and one u16 of zeros per strip and group, at index l / 4 of the sixteen rows' eight.
 *
 * A weight is round_f16((q - zero) * scale). q - zero is exact in f16: a nibble in the low mantissa bits of 1024 is
 * 1024 + q, four bits higher it is 1024 + 16 q, and (1024 + 16 q) / 16 - (64 + zero) is exact, too. Pairs of row g are
 * always of the first kind, those of row g + 8 of the second. The one rounding is that of the product. */
#pragma once

#include "kernels/cuda/cuda.cuh"

enum {
    AWQ_STRIP = 16,      /* rows */
    AWQ_TILE_K = 64,     /* inputs of 512 contiguous bytes */
    AWQ_TILE_BYTES = 512,
    AWQ_SCALE_BYTES = 32, /* of a strip and a group */
    AWQ_ZERO_BYTES = 16,
};

#ifdef __CUDACC__

/* What a lane needs of one strip and group, each value twice. */
struct awq_scale {
    __half2 scale_low, scale_high; /* of rows g and g + 8 */
    __half2 zero_low;              /* -(1024 + zero of row g) */
    __half2 zero_high;             /* -(64 + zero of row g + 8) */
};

__device__ static inline __half2 awq_half2(uint32_t bits) { return *(const __half2 *)&bits; }
__device__ static inline uint32_t awq_bits(__half2 h) { return *(const uint32_t *)&h; }

/* scales: the f16 of row g below that of row g + 8; zeros: the u8 of row g below that of row g + 8 (the rest is ignored). */
__device__ static inline struct awq_scale awq_scale_of(uint32_t scales, uint32_t zeros) {
    struct awq_scale s;
    s.scale_low = awq_half2(__byte_perm(scales, 0, 0x1010));
    s.scale_high = awq_half2(__byte_perm(scales, 0, 0x3232));
    s.zero_low = awq_half2(__byte_perm(zeros, 0, 0x4040) | 0xe400e400u); /* 0xe400 is -1024 */
    s.zero_high = __hadd2(awq_half2(__byte_perm(zeros, 0, 0x4141) | 0xe400e400u), awq_half2(0x63806380u)); /* + 960 */
    return s;
}

/* (w & mask) | magic in one instruction. */
template <uint32_t MASK> __device__ static inline uint32_t awq_nibbles(uint32_t w) {
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(w), "n"(MASK), "r"(0x64006400u));
    return out;
}

/* One word of data as the four A registers of mma.m16n8k16. */
__device__ static inline void awq_dequantise(uint32_t a[4], uint32_t w, const struct awq_scale &s) {
    const __half2 sixteenth = awq_half2(0x2c002c00u);
    uint32_t upper = w >> 8;
    __half2 q0 = __hadd2(awq_half2(awq_nibbles<0x000f000fu>(w)), s.zero_low);
    __half2 q1 = __hfma2(awq_half2(awq_nibbles<0x00f000f0u>(w)), sixteenth, s.zero_high);
    __half2 q2 = __hadd2(awq_half2(awq_nibbles<0x000f000fu>(upper)), s.zero_low);
    __half2 q3 = __hfma2(awq_half2(awq_nibbles<0x00f000f0u>(upper)), sixteenth, s.zero_high);
    /* _rn: never contracted with a neighbour */
    a[0] = awq_bits(__hmul2_rn(q0, s.scale_low));
    a[1] = awq_bits(__hmul2_rn(q1, s.scale_high));
    a[2] = awq_bits(__hmul2_rn(q2, s.scale_low));
    a[3] = awq_bits(__hmul2_rn(q3, s.scale_high));
}

/* ---- y ----------------------------------------------------------------------------------------------------------- */

struct awq_output {
    void *y;
    const __half *bias;
    enum epilogue epilogue;
    int T, rows; /* of y */
};

/* y from four sums of a lane as the products leave them: with g = lane / 4, j = lane % 4, elements 0 and 1 are row g of
 * a strip of y's rows and tokens 2j, 2j + 1 of eight; 2 and 3 row g + 8. up: as sum, for SILU_MUL. */
__device__ static inline void awq_store(const struct awq_output &o, int strip, int first_token, int lane, float4 sum,
                                        float4 up) {
    const float s[4] = {sum.x, sum.y, sum.z, sum.w}, u[4] = {up.x, up.y, up.z, up.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int t = first_token + lane % 4 * 2 + i % 2, row = strip * AWQ_STRIP + lane / 4 + i / 2 * 8;
        if (t >= o.T) continue;
        const size_t at = (size_t)t * o.rows + row;
        __half *y = (__half *)o.y + at;
        if (o.epilogue == EPILOGUE_SILU_MUL) {
            const float gate = round_to<__half>(s[i]), act = round_to<__half>(gate / (1.0f + __expf(-gate)));
            *y = to_act<__half>(act * round_to<__half>(u[i]));
        } else if (o.epilogue == EPILOGUE_F32) {
            ((float *)o.y)[at] = s[i];
        } else if (o.epilogue == EPILOGUE_ADD) {
            *y = to_act<__half>(to_float(*y) + round_to<__half>(s[i]));
        } else {
            *y = to_act<__half>(o.bias ? s[i] + to_float(o.bias[row]) : s[i]);
        }
    }
}

/* ---- sums of parts of K, over the shared memory of a cluster ----------------------------------------------------- */

enum { AWQ_SHARE_BYTES = 512 }; /* of a strip and eight tokens: four sums of each lane */

#if __CUDA_ARCH__ >= 900
/* The blocks of a cluster have the parts of K of the same strips. What they have of a strip of y's rows and eight
 * tokens (an item) is added by block item % parts, in whose shared memory it lies from `shares` on as [item /
 * parts][gate, up][part][32 lanes] float4; without SILU_MUL there is no second. Stores there count on the mbarrier
 * `done`, which waits for all of them. */
struct awq_cluster {
    uint32_t shares, done;   /* addresses, the same in all blocks */
    int n_parts, part, rank; /* rank: of this block in the cluster, its part where there are parts */
    int two;                 /* gate and up, or one */
    int n_items;
};

/* By one thread, before cluster_meet. */
__device__ static inline void awq_cluster_init(const struct awq_cluster &c) {
    const int n_own = (c.n_items - c.part + c.n_parts - 1) / c.n_parts;
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                 "fence.mbarrier_init.release.cluster;\n"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(c.done),
                 "r"(n_own * c.two * c.n_parts * AWQ_SHARE_BYTES)
                 : "memory");
}

/* A barrier of all threads of the cluster that orders no memory: it tells that reads are done, or mbarriers made. With
 * the usual release every thread would wait for its stores to reach the whole chip. */
__device__ static inline void cluster_meet(void) {
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/* Gives a warp's sums of an item to whom they concern, when nobody uses his shared memory otherwise any more. */
__device__ static inline void awq_give(const struct awq_cluster &c, int item, int up, int lane, float4 sum) {
    const int number = item / c.n_parts, owner = c.n_parts > 1 ? item - number * c.n_parts : c.rank;
    const uint32_t at = c.shares + ((number * c.two + up) * c.n_parts + c.part) * AWQ_SHARE_BYTES + lane * 16;
    asm volatile(
        "{\n.reg .b32 to, counts;\n"
        "mapa.shared::cluster.u32 to, %0, %2;\n"
        "mapa.shared::cluster.u32 counts, %1, %2;\n"
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %4, %5, %6}, [counts];\n}" ::"r"(
            at),
        "r"(c.done), "r"(owner), "f"(sum.x), "f"(sum.y), "f"(sum.z), "f"(sum.w)
        : "memory");
}

__device__ static inline float4 awq_add_shares(const struct awq_cluster &c, int number, int up, int lane) {
    float4 sum = {};
    for (int part = 0; part < c.n_parts; part++) {
        const uint32_t at = c.shares + ((number * c.two + up) * c.n_parts + part) * AWQ_SHARE_BYTES + lane * 16;
        float4 v;
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                     : "r"(at)
                     : "memory");
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
}

/* Waits for the shares of this block's items, adds them in order of the parts and stores y. Items are [strips][eights];
 * first_strip: of y's rows, of which there are n_strips; warps 0 .. n_warps - 1 take part. */
__device__ static inline void awq_fold(const struct awq_cluster &c, const struct awq_output &o, int first_strip,
                                       int n_strips, int eights, int warp, int n_warps, int lane) {
    asm volatile("{\n.reg .pred p;\n"
                 "again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], 0;\n"
                 "@!p bra again;\n}" ::"r"(c.done)
                 : "memory");
    for (int number = warp; number * c.n_parts + c.part < c.n_items; number += n_warps) {
        const int item = number * c.n_parts + c.part, strip = first_strip + item / eights;
        const int first_token = item % eights * 8;
        if (strip >= n_strips || first_token >= o.T) continue;
        const float4 sum = awq_add_shares(c, number, 0, lane);
        awq_store(o, strip, first_token, lane, sum, c.two == 2 ? awq_add_shares(c, number, 1, lane) : sum);
    }
}
#endif

#endif
