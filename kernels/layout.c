/* layout.c - what host and device must agree on before any op runs: the layout of a KV block, and the rope table. */
#include "kernels/kernels.h"

#include <math.h>

void kv_layout_init(struct kv_layout *layout, enum dtype dtype, int L, int K, int D, int P, size_t granule_bytes) {
    CHECK_LT(0, L);
    CHECK_LT(0, K);
    CHECK_LT(0, D);
    CHECK_LT(0, P);
    CHECK_LT(0, granule_bytes);
    CHECK_EQ(granule_bytes % 64, 0);
    CHECK(dtype != DTYPE_I32 && dtype != DTYPE_I64);
    size_t layer = 2 * (size_t)K * P * D * dtype_bytes(dtype);
    if (dtype == DTYPE_F8_E4M3) {
        CHECK_EQ(D % 4, 0); /* the scales behind the values are fp32 */
        layer += 2 * (size_t)K * P * sizeof(float);
    }
    layer = (layer + 63) / 64 * 64;
    size_t block = (size_t)L * layer, granules = (block + granule_bytes - 1) / granule_bytes;
    CHECK_LE(granules, INT32_MAX);
    *layout = (struct kv_layout){.dtype = dtype, .L = L, .K = K, .D = D, .P = P, .layer_bytes = layer,
                                 .block_bytes = block, .granule_bytes = granule_bytes,
                                 .block_granules = (int)granules};
}

/* Hugging Face: inv_freq = 1 / theta^(2i/D) and angle = p * inv_freq, both in fp32; cos and sin are then cast. */
void rope_table(float *cos_sin, int max_positions, int D, float theta, enum dtype act) {
    for (int i = 0; i < D / 2; i++) {
        float inv_freq = 1.0f / (float)pow(theta, (float)(2 * i) / (float)D);
        for (int p = 0; p < max_positions; p++) {
            float angle = (float)p * inv_freq, *row = cos_sin + (size_t)p * D;
            float c = (float)cos(angle), s = (float)sin(angle);
            if (act == DTYPE_BF16) c = f32_from_bf16(bf16_from_f32(c)), s = f32_from_bf16(bf16_from_f32(s));
            if (act == DTYPE_F16) c = f32_from_f16(f16_from_f32(c)), s = f32_from_f16(f16_from_f32(s));
            row[i] = c;
            row[i + D / 2] = s;
        }
    }
}
