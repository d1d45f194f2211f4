/* model.h - a decoder-only Qwen model in memory: this struct is the document of the architecture.
 *
 * L layers, C hidden, H query heads, K KV heads, D head dim, F feed-forward, V vocabulary. "act" is the activation
 * dtype, which is also the dtype of every weight that is not quantised. All weights lie in one region of device memory,
 * owned here. */
#pragma once

#include "kernels/kernels.h"
#include "weights/weights.h"

struct layer {
    const void *attn_norm;   /* [C] act: input_layernorm */
    struct matrix w_qkv;     /* [(H+2K)*D, C]: q_proj, k_proj, v_proj, one below the other */
    const void *b_qkv;       /* [(H+2K)*D] act, or NULL (Qwen3) */
    const void *k_bias;      /* [K*D] the part of b_qkv that an fp8 cache does not hold, or NULL: see attention() */
    const void *q_norm;      /* [D] act, or NULL (Qwen2) */
    const void *k_norm;      /* [D] act, or NULL (Qwen2) */
    struct matrix w_o;       /* [C, H*D] */
    const void *ffn_norm;    /* [C] act: post_attention_layernorm */
    struct matrix w_gate_up; /* [2F, C]: gate_proj above up_proj */
    struct matrix w_down;    /* [C, F] */
};

struct model {
    struct model_config config;
    struct matrix embedding; /* [V, C] */
    struct layer *layers;    /* [L] owned */
    const void *final_norm;  /* [C] act */
    struct matrix lm_head;   /* [V, C]; the embedding itself when tied */
    struct rope rope;        /* positions 0 .. max_len-1 */
    void *memory;            /* owned device memory that everything above points into */
    size_t bytes;            /* of it that are weights */
};

/* Buffers of one step, planned once for the largest step; device memory, owned by the runner. */
struct activations {
    void *h;        /* [T, C] act: the residual stream that layers add to */
    void *x;        /* [T, C] act: scratch: a normalised input, or what a sublayer returns */
    void *qkv;      /* [T, (H+2K)*D] act */
    void *q;        /* [T, H*D] act */
    void *o;        /* [T, H*D] act */
    void *gate_up;  /* [T, 2F] act: scratch */
    void *ffn;      /* [T, F] act */
    void *last;     /* [R, C] act: rows of h whose logits are wanted */
    void *last_x;   /* [R, C] act: the same, normalised */
    float *logits;  /* [R, V] f32 */
};

/* Copies a checkpoint's weights to the exec's device, converted to `dtype` where they differ, with a RoPE table for
 * max_len positions. The checkpoint must have passed checkpoint_check; NULL: seeded random weights. kv_dtype decides
 * whether attention has to put K's bias back (layer.k_bias). */
int model_load(struct model *m, struct exec *e, const struct checkpoint *c, const struct model_config *config,
               enum dtype dtype, enum dtype kv_dtype, int max_len, char *err, size_t err_bytes);
void model_deinit(struct model *m, struct exec *e); /* accepts a half-loaded model */

/* Bytes of activations for at most T tokens and R logits rows; with a base, also lays the buffers out there. */
size_t activations_layout(struct activations *a, void *base, const struct model_config *config, enum dtype dtype, int T,
                          int R);

/* One step: tokens in, the logits of batch->logits_rows out (a->logits); K and V of its tokens go to the pool. */
void forward(struct exec *e, const struct model *m, struct activations *a, const struct kv_cache *kv,
             const struct batch *batch);
