/* noise.h - random numbers: of sampling a pure function of (seed, position, token id), of a random tensor one of (seed,
 * index), the same on every backend.
 *
 * Philox-4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the counter is
 * (id, position), the key is the seed. Valid C and CUDA. */
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define NOISE_FN static inline __host__ __device__
#else
#define NOISE_FN static inline
#endif

NOISE_FN uint32_t noise_bits(uint64_t seed, int64_t position, int32_t id) {
    uint32_t c0 = (uint32_t)id, c1 = (uint32_t)position, c2 = (uint32_t)((uint64_t)position >> 32), c3 = 0;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

/* Uniform in (0, 1), never 0 or 1; small values keep their full relative precision. */
NOISE_FN float noise_uniform(uint64_t seed, int64_t position, int32_t id) {
    float u = ((float)noise_bits(seed, position, id) + 0.5f) * 0x1p-32f;
    return u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
}

/* Standard Gumbel noise: the argmax over i of log p[i] + noise is a draw from p. -log(1 - u) is exponential, and it is
 * the small values that win, so they come from the end of (0, 1) that has the precision. At most NOISE_GUMBEL_MAX. */
#define NOISE_GUMBEL_MAX 23.0f /* -log(2^-33) = 22.87 */
NOISE_FN float noise_gumbel(uint64_t seed, int64_t position, int32_t id) {
    return -logf(-log1pf(-noise_uniform(seed, position, id)));
}

/* Element i of a random tensor (fill_random): its bits, and the number in [-1, 1) that they stand for, exact in fp32. */
NOISE_FN uint32_t noise_element(uint64_t seed, uint64_t i) {
    return noise_bits(seed, (int64_t)(i >> 31), (int32_t)(i & 0x7fffffffu));
}
NOISE_FN float noise_symmetric(uint32_t bits) { return (float)(bits >> 8) * 0x1p-23f - 1.0f; }
