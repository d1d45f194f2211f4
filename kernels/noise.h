/* noise.h - random numbers: of sampling a pure function of (seed, position, token id), of a random tensor one of (seed,
 * index), the same on every backend.
 *
 * Philox-4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): the key is the
 * seed, the counter is (id / 4, position), and of the four words it gives id % 4 picks one: four neighbours share the
 * work. Valid C and CUDA. */
#pragma once

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define NOISE_FN static inline __host__ __device__
#else
#define NOISE_FN static inline
#endif

/* The words of ids 4 * counter .. 4 * counter + 3. */
NOISE_FN void noise_words(uint32_t words[4], uint64_t seed, int64_t position, uint32_t counter) {
    uint32_t c0 = counter, c1 = (uint32_t)position, c2 = (uint32_t)((uint64_t)position >> 32), c3 = 0;
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
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

NOISE_FN uint32_t noise_bits(uint64_t seed, int64_t position, int32_t id) {
    uint32_t words[4];
    noise_words(words, seed, position, (uint32_t)id >> 2);
    return words[id & 3];
}

/* Uniform in (0, 1), never 0 or 1; small values keep their full relative precision. */
NOISE_FN float noise_uniform(uint32_t bits) {
    float u = ((float)bits + 0.5f) * 0x1p-32f;
    return u < 0x1.fffffep-1f ? u : 0x1.fffffep-1f;
}

/* Standard Gumbel noise: the argmax over i of log p[i] + noise is a draw from p. -log(1 - u) is exponential, and it is
 * the small values that win, so they come from the end of (0, 1) that has the precision. At most NOISE_GUMBEL_MAX. */
#define NOISE_GUMBEL_MAX 23.0f /* -log(2^-33) = 22.87 */
NOISE_FN float noise_gumbel_of(uint32_t bits) { return -logf(-log1pf(-noise_uniform(bits))); }
NOISE_FN float noise_gumbel(uint64_t seed, int64_t position, int32_t id) {
    return noise_gumbel_of(noise_bits(seed, position, id));
}

/* Elements 4 * i .. 4 * i + 3 of a random tensor (fill_random): their bits, and the number in [-1, 1) that bits stand
 * for, exact in fp32. */
NOISE_FN void noise_elements(uint32_t bits[4], uint64_t seed, uint64_t i) {
    noise_words(bits, seed, (int64_t)(i >> 32), (uint32_t)i);
}
NOISE_FN float noise_symmetric(uint32_t bits) { return (float)(bits >> 8) * 0x1p-23f - 1.0f; }
