/* dtype.h - the number formats of tensors, and exact scalar conversions between them. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F8_E4M3, DTYPE_I32, DTYPE_I64, DTYPE_COUNT };

/* Bytes per element. */
static inline size_t dtype_bytes(enum dtype t) {
    static const uint8_t bytes[DTYPE_COUNT] = {4, 2, 2, 1, 4, 8};
    return bytes[t];
}

/* "float32", "bfloat16", "float16", "float8_e4m3", "int32", "int64": Hugging Face's names. */
static inline const char *dtype_name(enum dtype t) {
    static const char *const names[DTYPE_COUNT] = {"float32", "bfloat16", "float16", "float8_e4m3", "int32", "int64"};
    return names[t];
}

static inline float f32_from_bf16(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t bf16_from_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

static inline float f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023, u;
    if (exp == 31) u = sign | 0x7f800000u | man << 13;
    else if (exp) u = sign | (exp + 112) << 23 | man << 13;
    else { /* subnormal: man * 2^-24, exact in fp32 */
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Round to nearest even, overflow to infinity. */
static inline uint16_t f16_from_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (u >> 16) & 0x8000;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return sign | 0x7e00;
    if (u >= 0x477ff000u) return sign | 0x7c00; /* >= 65520 rounds to infinity */
    if (u < 0x38800000u) {                      /* below 2^-14: a multiple of 2^-24, rounded by the adder */
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f; /* ulp of [0.5, 1) is 2^-24 */
        uint32_t v;
        memcpy(&v, &a, 4);
        return sign | (uint16_t)(v - 0x3f000000u);
    }
    u += 0xfffu + ((u >> 13) & 1);
    return sign | (uint16_t)((u - 0x38000000u) >> 13);
}
