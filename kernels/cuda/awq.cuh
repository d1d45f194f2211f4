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
    AWQ_GROUP = 128,     /* inputs with one scale and zero per row */
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

#endif
