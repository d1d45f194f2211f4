/* mma.cuh - private to kernels/cuda: the tensor cores' product of one warp, for both 16-bit formats. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#ifdef __CUDACC__

/* d [16, 8] fp32 += a [16, 16] b [16, 8]. With g = lane / 4 and c = lane % 4: a0, a1 are rows g and g + 8 at columns 2c and
 * the next, a2, a3 the same eight columns further; b0, b1 are column g at rows 2c and the next, and eight further; d is
 * row g at columns 2c and the next, then row g + 8. */
template <typename A>
__device__ static inline void mma(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                  uint32_t b1);
#define MMA(A, name)                                                                                                   \
    template <>                                                                                                        \
    __device__ inline void mma<A>(float d[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,         \
                                  uint32_t b1) {                                                                       \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "         \
            "{%8, %9}, {%0, %1, %2, %3};"                                                                              \
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                           \
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                                   \
    }
MMA(__nv_bfloat16, "bf16")
MMA(__half, "f16")
#undef MMA

#endif
