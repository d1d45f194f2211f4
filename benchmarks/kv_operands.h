/* kv_operands.h - private to benchmarks/: a paged KV pool with B sequences in it, for the kernels that read or write
 * it.
 *
 * Block tables are shuffled, as they are after a while of serving. Each set of operands is a layer of its own in one
 * pool, so that reads jump from block to block as they do in a step. The pool is filled through the store op itself, so
 * fp8 values and scales are what they would be. */
#pragma once

#include "benchmarks/kernel_bench.h"

/* The pool is filled by so many tokens a call, whatever the case: the exec must allow it. */
enum { KV_FILL_TOKENS = 2048 };

struct kv_operands {
    struct kv_cache kv;
    int layer;
    struct rope rope;
    struct batch batch;    /* arrays on the device */
    void *q, *o, *qkv;     /* [T, H*D], [T, H*D], [T, (H+2K)*D] */
    void *q_norm, *k_norm; /* [D] or NULL */
    int n_layers;
};

struct kv_sizes {
    int B, n_query, kv_len;            /* each of B sequences advances by n_query to kv_len tokens */
    bool qk_norm, needs_qkv, needs_kv; /* the last: content in the pool */
};

/* Makes set b->copy. The case's n begins with H, K, D and the dtype of K and V. */
void kv_operands_make(struct kv_operands *o, struct bench *b, const struct bench_case *c, const struct kv_sizes *s);
/* kernel_bench.run of attention(). */
bool kv_attention(struct exec *e, const struct bench_case *c, void *operands);
/* Bytes of K and V of one token in one layer, with the scales that fp8 has. */
double kv_token_bytes(enum dtype kv_dtype, int K, int D);
