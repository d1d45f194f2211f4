/* bert.h - a BERT encoder in memory: this struct is the document of the architecture. Private to engine/.
 *
 * L layers, C hidden, H heads, D head dim, F feed-forward, V vocabulary. "act" is the activation dtype, which is also
 * that of every weight. All weights lie in one region of device memory, owned here. */
#pragma once

#include "kernels/kernels.h"
#include "weights/weights.h"

struct layer_norm_weights {
    const void *weight, *bias; /* [C] act */
};

struct bert_layer {
    struct matrix w_qkv;                 /* [3C, C]: query, key, value, one below the other */
    const void *b_qkv;                   /* [3C] act */
    struct matrix w_o;                   /* [C, C]: attention.output.dense */
    const void *b_o;                     /* [C] act */
    struct layer_norm_weights attn_norm; /* attention.output.LayerNorm */
    struct matrix w_up;                  /* [F, C]: intermediate.dense */
    const void *b_up;                    /* [F] act */
    struct matrix w_down;                /* [C, F]: output.dense */
    const void *b_down;                  /* [C] act */
    struct layer_norm_weights ffn_norm;  /* output.LayerNorm */
};

struct bert {
    struct encoder_config config;
    struct matrix word;             /* [V, C] */
    struct matrix position;         /* [P, C] */
    const void *type;               /* [S, C] act, of which the first row is used */
    struct layer_norm_weights norm; /* embeddings.LayerNorm */
    struct bert_layer *layers;      /* [L] owned */
    void *memory;                   /* owned device memory that everything above points into */
    size_t bytes;                   /* of it */
};

/* Buffers of one step, planned once for the largest; device memory, owned by the encoder. */
struct bert_activations {
    void *h;        /* [T, C] act: what layers pass on */
    void *x;        /* [T, C] act: what a sublayer returns */
    void *qkv;      /* [T, 3C] act */
    void *o;        /* [T, C] act */
    void *ffn;      /* [T, F] act */
    float *vectors; /* [B, C] f32 */
};

/* Copies a checkpoint's weights to the exec's device, converted to its activation dtype where they differ. The
 * checkpoint must have passed encoder_check; NULL: seeded random weights. */
int bert_load(struct bert *m, struct exec *e, const struct checkpoint *c, const struct encoder_config *config,
              char *err, size_t err_bytes);
void bert_deinit(struct bert *m, struct exec *e); /* accepts a half-loaded model */
size_t bert_weight_bytes(const struct encoder_config *config, enum dtype dtype);

/* Bytes of activations for at most T tokens of B texts; with a base, also lays the buffers out there. */
size_t bert_activations_layout(struct bert_activations *a, void *base, const struct encoder_config *config,
                               enum dtype dtype, int T, int B);

/* One step: the texts' tokens in, their vectors out (a->vectors). */
void forward_bert(struct exec *e, const struct bert *m, struct bert_activations *a, const struct ragged *texts);
