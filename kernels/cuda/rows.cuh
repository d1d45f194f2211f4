/* rows.cuh - private to kernels/cuda: rows of activations, 16 bytes at a time, and the choice of an instance by
 * dtype. */
#pragma once

#include "kernels/cuda/cuda.cuh"

/* 16 bytes of a row. */
template <typename A> union piece {
    enum { N = 16 / sizeof(A) };
    uint4 bits;
    A at[N];
};

/* Whether rows of C elements of format t can be read in pieces: each then begins at a multiple of 16 bytes. */
static inline bool in_pieces(int C, enum dtype t) { return (size_t)C * dtype_bytes(t) % 16 == 0; }

/* Runs the statements with A as the C++ type of an activation dtype. */
#define WITH_ACT(dtype, ...)                                                                                           \
    do {                                                                                                               \
        if ((dtype) == DTYPE_BF16) {                                                                                   \
            using A = __nv_bfloat16;                                                                                   \
            __VA_ARGS__;                                                                                               \
        } else if ((dtype) == DTYPE_F16) {                                                                             \
            using A = __half;                                                                                          \
            __VA_ARGS__;                                                                                               \
        } else {                                                                                                       \
            using A = float;                                                                                           \
            __VA_ARGS__;                                                                                               \
        }                                                                                                              \
    } while (0)

#ifdef __CUDACC__
/* Element i of memory of any float format: for the kernels that would rather be short than fast. */
__device__ static inline float load_as(const void *p, size_t i, enum dtype t) {
    if (t == DTYPE_BF16) return to_float(((const __nv_bfloat16 *)p)[i]);
    if (t == DTYPE_F16) return to_float(((const __half *)p)[i]);
    return ((const float *)p)[i];
}
__device__ static inline void store_as(void *p, size_t i, float x, enum dtype t) {
    if (t == DTYPE_BF16) ((__nv_bfloat16 *)p)[i] = to_act<__nv_bfloat16>(x);
    else if (t == DTYPE_F16) ((__half *)p)[i] = to_act<__half>(x);
    else ((float *)p)[i] = x;
}
__device__ static inline float round_as(float x, enum dtype t) {
    return t == DTYPE_BF16 ? round_to<__nv_bfloat16>(x) : t == DTYPE_F16 ? round_to<__half>(x) : x;
}

/* silu(x) = x / (1 + e^-x) in fp32; for 16-bit formats the fast functions are exact enough by far. */
template <typename A> __device__ static inline float silu(float x) { return __fdividef(x, 1.0f + __expf(-x)); }
template <> __device__ inline float silu<float>(float x) { return x / (1.0f + expf(-x)); }
#endif
