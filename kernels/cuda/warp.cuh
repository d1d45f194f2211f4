/* warp.cuh - private to kernels/cuda: the instructions of sm_80 with which a warp fills shared memory, reads it as
 * fragments, and multiplies them. Shared memory is given by its 32-bit address. */
#pragma once

#include "kernels/cuda/cuda.cuh"

#ifdef __CUDACC__

__device__ static inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes on their way past the registers. A group ends with copies_commit; copies_wait<n>: until all of this thread's
 * groups but the last n are there. */
__device__ static inline void copy_16(uint32_t to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ static inline void copies_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int PENDING> __device__ static inline void copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Where 16-byte segment `segment` of row `row` of BYTES lies: any 8 consecutive rows' same segment covers all banks. */
template <int BYTES> __device__ static inline int swizzled(int row, int segment) {
    return row * BYTES + ((segment ^ (BYTES >= 128 ? row & 7 : row >> 1 & 3)) << 4);
}

/* Two numbers as a pair of A. */
__device__ static inline uint32_t pack(float low, float high, __nv_bfloat16) {
    const __nv_bfloat162 x = __floats2bfloat162_rn(low, high);
    return *(const uint32_t *)&x;
}
__device__ static inline uint32_t pack(float low, float high, __half) {
    const __half2 x = __floats2half2_rn(low, high);
    return *(const uint32_t *)&x;
}

/* 2^x, to 2 ulp. */
__device__ static inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Four 8 x 8 matrices of 16-bit elements: of lanes 8 i .. 8 i + 7, each has the address of a row of matrix i. A lane
 * gets 2 elements of row lane / 4 of each; transposed: of column lane / 4. */
__device__ static inline void load_matrices(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}
__device__ static inline void load_matrices_trans(uint32_t r[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
}

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
