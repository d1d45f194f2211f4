/* rope.c - what happens to q, k and v between their projection and attention, in one pass.
 *
 *     q = rope(norm(q)), k = rope(norm(k)) per head of D; k and v go to their KV block
 *     rope: (a, b) = halves of the head; a' = a cos - b sin, b' = b cos + a sin     (half-rotation layout)
 *     with a k_bias, k = rope(k - k_bias): attention puts it back
 * norm is that of norm.c, its result rounded to the activation format; the rotation is fp32 with one rounding at the
 * end. fp8 KV: scale = absmax / 448 per token and head, x / scale rounded to e4m3; x = scale * e4m3.
 *
 * A token is one thread's work. Reads (H + 2K) D elements a token, writes as many. */
#include "kernels/cpu/cpu.h"

/* head [D] in place; cos_sin is cos [D/2] | sin [D/2]. */
static void rotate(float *head, const float *cos_sin, int D) {
    int half = D / 2, i = 0;
    for (; i + LANES <= half; i += LANES) {
        vf a = vf_load(head + i), b = vf_load(head + half + i), c = vf_load(cos_sin + i), s = vf_load(cos_sin + half + i);
        vf_store(head + i, a * c - b * s);
        vf_store(head + half + i, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = head[i], b = head[i + half], c = cos_sin[i], s = cos_sin[i + half];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

/* One head of q or k into fp32: widened, its bias taken off, or normalised and rounded where there is a weight, rotated.
 * What follows D is zero, for the norm. */
static void prepare_head(float *head, const char *in, const void *weight, const char *bias, const float *cos_sin, int D,
                         float eps, enum dtype act) {
    row_widen(head, in, (size_t)D, act);
    if (bias)
        for (int i = 0; i < D; i++) head[i] -= f32_widen(bias + i * dtype_bytes(act), act);
    if (weight) {
        CPU(norm_row)(head, head, weight, D, eps, act);
        row_round(head, (size_t)D, act);
    }
    rotate(head, cos_sin, D);
}

/* Round to nearest even; |x| above 448 becomes 448, NaN stays NaN. */
static uint8_t e4m3_from_f32(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    uint8_t sign = (u >> 24) & 0x80;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return sign | 0x7f;
    if (u >= 0x43e00000u) return sign | 0x7e; /* 448 and above */
    if (u < 0x3c800000u) {                    /* below 2^-6: a multiple of 2^-9, rounded by the adder */
        float a;
        memcpy(&a, &u, 4);
        a += 16384.0f; /* ulp of [2^14, 2^15) is 2^-9 */
        uint32_t v;
        memcpy(&v, &a, 4);
        return sign | (uint8_t)(v - 0x46800000u);
    }
    u += 0x7ffffu + ((u >> 20) & 1);
    return sign | (uint8_t)((u - 0x3c000000u) >> 20);
}

/* Writes one head of K or V into its slot. */
static void store_head(char *block, const struct kv_layout *a, int which, int kv_head, int slot, const float *head,
                       enum dtype act) {
    char *row = kv_row(block, a, which, kv_head, slot);
    if (a->dtype != DTYPE_F8_E4M3) {
        row_narrow(row, head, (size_t)a->D, act);
        return;
    }
    float max = 0;
    for (int i = 0; i < a->D; i++) max = fmaxf(max, fabsf(head[i]));
    float scale = max / 448;
    if (!(scale > 0x1p-126f)) scale = 1; /* an all-zero head */
    *kv_scale(block, a, which, kv_head, slot) = scale;
    for (int i = 0; i < a->D; i++) ((uint8_t *)row)[i] = e4m3_from_f32(head[i] / scale);
}

struct rope_store {
    struct exec *e;
    char *q;
    const struct kv_cache *kv;
    int layer, H;
    const char *qkv;
    const void *q_norm, *k_norm;
    const char *k_bias;
    const struct rope *rope;
    const struct batch *batch;
    float eps;
};

static void rope_token(const struct rope_store *o, int t, float *head) {
    const struct batch *batch = o->batch;
    const struct kv_layout *a = &o->kv->layout;
    enum dtype act = o->e->options.dtype;
    int D = a->D, K = a->K, H = o->H, p = batch->positions[t], slot = p % a->P;
    size_t head_bytes = (size_t)D * dtype_bytes(act);
    const float *cos_sin = o->rope->cos_sin + (size_t)p * D;
    const char *in = o->qkv + (size_t)t * (H + 2 * K) * head_bytes;
    char *q = o->q + (size_t)t * H * head_bytes, *block = kv_block(o->kv, o->layer, batch, batch->seq_of[t], p);
    for (int h = 0; h < H; h++, in += head_bytes, q += head_bytes) {
        prepare_head(head, in, o->q_norm, NULL, cos_sin, D, o->eps, act);
        row_narrow(q, head, (size_t)D, act);
    }
    for (int k = 0; k < K; k++, in += head_bytes) {
        const char *bias = o->k_bias ? o->k_bias + k * head_bytes : NULL;
        prepare_head(head, in, o->k_norm, bias, cos_sin, D, o->eps, act);
        store_head(block, a, 0, k, slot, head, act);
    }
    for (int k = 0; k < K; k++, in += head_bytes) {
        row_widen(head, in, (size_t)D, act);
        store_head(block, a, 1, k, slot, head, act);
    }
}

static void rope_tokens(void *arg, struct share *share) {
    const struct rope_store *o = arg;
    float *head = scratch_of(o->e, share);
    size_t D = (size_t)o->kv->layout.D;
    memset(head + D, 0, (ROW_FLOATS(D) - D) * sizeof *head);
    for (int first, last; threads_take(share, &first, &last);)
        for (int t = first; t < last; t++) rope_token(o, t, head);
}

void CPU(qk_norm_rope_store)(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                             const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                             const struct batch *batch, int H, float eps) {
    struct rope_store o = {.e = e, .q = q, .kv = kv, .layer = layer, .H = H, .qkv = qkv, .q_norm = q_norm,
                           .k_norm = k_norm, .k_bias = k_bias, .rope = rope, .batch = batch, .eps = eps};
    for (int t = 0; t < batch->T; t++) {
        CHECK_LE(0, batch->positions[t]);
        CHECK_LT(batch->positions[t], rope->max_positions);
        CHECK_LT(batch->positions[t] / kv->layout.P, batch->max_blocks);
    }
    parallel(e, batch->T, rows_per_part(2 * (H + 2 * kv->layout.K) * kv->layout.D), rope_tokens, &o);
}
