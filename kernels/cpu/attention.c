/* attention.c - causal, ragged, grouped-query attention over the paged KV cache.
 *
 *     s[p] = (q . k[p]) scale * 1/sqrt(D);   o = sum over p of e^(s[p] - max) v[p] / sum over p of e^(s[p] - max)
 * for p in 0 .. positions[t]. Each query head h of token t reads KV head h / (H / K).
 *
 * Order, for one (t, h): a score's dot product as in linear.c; the maximum over all positions; then the sum of weights
 * and the weighted V, each over p ascending. So how many queries share a step, and where the blocks lie, changes no
 * bit. A (t, KV head) pair is one thread's work. Reads (p + 1) 2 D elements of KV for each pair. */
#include "kernels/cpu/cpu.h"

static float f32_from_e4m3(uint8_t h) {
    uint32_t exp = (h >> 3) & 15, man = h & 7;
    float v = exp ? ldexpf((float)(8 + man), (int)exp - 10) : (float)man * 0x1p-9f;
    if ((h & 0x7f) == 0x7f) v = NAN;
    return h & 0x80 ? -v : v;
}

/* Row `which` (0: K, 1: V) of position p into fp32, scale included. */
static void load_kv(float *out, const struct kv_cache *kv, int layer, const struct batch *batch, int b, int p,
                    int which, int kv_head) {
    const struct kv_layout *a = &kv->layout;
    char *block = kv_block(kv, layer, batch, b, p), *row = kv_row(block, a, which, kv_head, p % a->P);
    if (a->dtype != DTYPE_F8_E4M3) {
        row_widen(out, row, (size_t)a->D, a->dtype);
        return;
    }
    float scale = *kv_scale(block, a, which, kv_head, p % a->P);
    for (int i = 0; i < a->D; i++) out[i] = f32_from_e4m3(((uint8_t *)row)[i]) * scale;
}

void CPU(attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                    const struct batch *batch, int H) {
    enum dtype act = e->options.dtype;
    const struct kv_layout *a = &kv->layout;
    int D = a->D, K = a->K, group = H / K, pairs = batch->T * K;
    size_t head_bytes = (size_t)D * dtype_bytes(act), head_floats = ROW_FLOATS(D);
    float scale = 1.0f / sqrtf((float)D);
    for (int t = 0; t < batch->T; t++) {
        CHECK_LE(0, batch->positions[t]);
        CHECK_LT(batch->positions[t], e->options.max_kv_len);
        CHECK_LT(batch->positions[t] / a->P, batch->max_blocks);
    }
#pragma omp parallel for num_threads(threads_for(e, pairs)) schedule(dynamic)
    for (int pair = 0; pair < pairs; pair++) {
        int t = pair / K, k = pair % K, b = batch->seq_of[t], n = batch->positions[t] + 1;
        float *row = thread_scratch(e), *x = row + head_floats, *acc = x + head_floats, *s = acc + head_floats;
        memset(row, 0, head_floats * sizeof(float));
        memset(x, 0, head_floats * sizeof(float));
        for (int h = k * group; h < (k + 1) * group; h++) {
            row_widen(x, (const char *)q + ((size_t)t * H + h) * head_bytes, (size_t)D, act);
            float max = -INFINITY, sum = 0;
            for (int p = 0; p < n; p++) {
                load_kv(row, kv, layer, batch, b, p, 0, k);
                vf dot = {0};
                for (int i = 0; i < D; i += LANES) dot += vf_load(x + i) * vf_load(row + i);
                s[p] = vf_sum(dot) * scale;
                max = fmaxf(max, s[p]);
            }
            memset(acc, 0, head_floats * sizeof(float));
            for (int p = 0; p < n; p++) {
                float w = expf(s[p] - max);
                sum += w;
                load_kv(row, kv, layer, batch, b, p, 1, k);
                for (int i = 0; i < D; i++) acc[i] += w * row[i];
            }
            for (int i = 0; i < D; i++) acc[i] /= sum;
            row_narrow((char *)o + ((size_t)t * H + h) * head_bytes, acc, (size_t)D, act);
        }
    }
}
