/* cpu.h - private to kernels/cpu: the state of a CPU exec, its threads, and the ops of one instruction set.
 *
 * Every file in this folder is compiled once per instruction set, with KERNELS_ISA naming it; CPU(f) is f's symbol in
 * this copy. Work is divided among OpenMP threads by output element, so which thread computes an element, and how many
 * there are, never changes its bits. */
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#define CPU__PASTE(f, isa) cpu_##f##_##isa
#define CPU__EXPAND(f, isa) CPU__PASTE(f, isa)
#define CPU(f) CPU__EXPAND(f, KERNELS_ISA)

/* Rows of fp32 scratch are padded to whole vectors and a bit more, so that kernels may load past the end. */
#define ROW_FLOATS(n) round_up((size_t)(n) + 64, 64)

enum {
    X_ROWS = 64,          /* tokens whose inputs linear() holds in fp32 at a time */
    MIN_ELEMENTS = 16384, /* below this, an elementwise op costs less than waking the other threads */
};

struct cpu {
    size_t row_floats;    /* of max_width */
    size_t vocab_floats;  /* of the vocabulary */
    size_t kv_floats;     /* of max_kv_len */
    size_t thread_floats; /* of one thread's scratch */
    float *x;             /* [X_ROWS, row_floats] */
    float *threads;       /* [n_threads, thread_floats] */
};

static inline struct cpu *cpu_of(struct exec *e) { return e->state; }

static inline int thread_id(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* This thread's scratch, inside a parallel region of the exec. */
static inline float *thread_scratch(struct exec *e) {
    struct cpu *s = cpu_of(e);
    return s->threads + (size_t)thread_id() * s->thread_floats;
}

/* Threads for n independent pieces of work. */
static inline int threads_for(const struct exec *e, int64_t n) {
    return n < e->options.n_threads ? (n < 1 ? 1 : (int)n) : e->options.n_threads;
}

/* Threads for an elementwise op on `elements`. */
static inline int threads_if(const struct exec *e, int64_t elements) {
    return elements < MIN_ELEMENTS ? 1 : e->options.n_threads;
}

/* ---- where a token's K and V are --------------------------------------------------------------------------------- */

/* Layer `layer` of the block that holds position p of sequence b. */
static inline char *kv_block(const struct kv_cache *kv, int layer, const struct batch *batch, int b, int p) {
    int64_t granule = batch->block_table[(size_t)b * batch->max_blocks + p / kv->layout.P];
    return (char *)kv->pool + granule * kv->layout.granule_bytes + (size_t)layer * kv->layout.layer_bytes;
}

/* Within a layer of a block: K [K, P, D] | V [K, P, D] | K scales [K, P] | V scales [K, P]. `which` is 0 for K. */
static inline char *kv_row(char *block, const struct kv_layout *a, int which, int kv_head, int slot) {
    size_t row = ((size_t)which * a->K + kv_head) * a->P + slot;
    return block + row * a->D * dtype_bytes(a->dtype);
}

static inline float *kv_scale(char *block, const struct kv_layout *a, int which, int kv_head, int slot) {
    size_t row = ((size_t)which * a->K + kv_head) * a->P + slot;
    return (float *)(block + 2 * (size_t)a->K * a->P * a->D) + row;
}

/* ---- the ops of this instruction set ----------------------------------------------------------------------------- */

extern const struct kernel_ops CPU(ops);

void CPU(embed)(struct exec *e, void *x, const int32_t *tokens, const struct matrix *table, int T);
void CPU(gather_rows)(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C);
void CPU(rms_norm)(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps);
void CPU(add_rms_norm)(struct exec *e, void *out, const void *h, void *residual, const void *weight, int T, int C,
                       float eps);
void CPU(linear)(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T);
void CPU(linear_f32)(struct exec *e, float *y, const void *x, const struct matrix *w, int T);
void CPU(qk_norm_rope_store)(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                             const void *q_norm, const void *k_norm, const struct rope *rope,
                             const struct batch *batch, int H, float eps);
void CPU(attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                    const struct batch *batch, int H);
void CPU(silu_mul)(struct exec *e, void *out, const void *gate_up, int T, int F);
void CPU(add)(struct exec *e, void *residual, const void *h, int T, int C);
void CPU(sample)(struct exec *e, int32_t *ids, const float *logits, const struct sample_params *params, int R, int V);
void CPU(token_logprobs)(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                         const int32_t *targets, const int *n_top, int R, int V);

/* norm.c: out = round(x * rsqrt(mean(x^2) + eps)) * weight, in fp32; x [C] is padded with zeros to a whole vector. */
void CPU(norm_row)(float *out, const float *x, const void *weight, int C, float eps, enum dtype act);
