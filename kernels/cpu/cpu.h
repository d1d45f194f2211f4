/* cpu.h - private to kernels/cpu: the state of a CPU exec, its threads, and the ops of one instruction set.
 *
 * Every file in this folder is compiled once per instruction set, with KERNELS_ISA naming it; CPU(f) is f's symbol in
 * this copy. Work is divided among threads by output element, so which thread computes an element, and how many there
 * are, never changes its bits. */
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/ops.h"
#include "kernels/threads.h"

#define CPU__PASTE(f, isa) cpu_##f##_##isa
#define CPU__EXPAND(f, isa) CPU__PASTE(f, isa)
#define CPU(f) CPU__EXPAND(f, KERNELS_ISA)

/* Rows of fp32 scratch are padded with at least 64 floats, so that kernels may work in whole vectors. */
#define ROW_FLOATS(n) round_up((size_t)(n) + 64, 64)

enum {
    X_ROWS = 64,         /* tokens whose inputs linear() holds in fp32 at a time; twice as many in bf16 */
    PART_ELEMENTS = 8192, /* of an elementwise op, a few microseconds: less is not worth another thread's attention */
    LINEAR_WIDE_FLOATS = 192 * 1024, /* of a thread's scratch, for linear_amx_wide */
};

struct cpu {
    struct threads *threads; /* owned, or borrowed from options.beside */
    size_t row_floats;     /* of max_width */
    size_t vocab_floats;   /* of the vocabulary */
    size_t scratch_floats; /* of one thread */
    float *x;              /* [X_ROWS, row_floats]: linear's input */
    float *scratch;        /* [n_threads, scratch_floats] */
    int32_t *units;        /* [max_tokens + 1]: attention's work, counted up over the sequences */
    const struct sample_params *params; /* borrowed: of the next sample() */
};

static inline struct cpu *cpu_of(struct exec *e) { return e->state; }

/* Runs body over the items 0 .. n-1, at most `grain` at a time (threads.h). */
static inline void parallel(struct exec *e, int n, int grain, threads_body *body, void *arg) {
    threads_run(cpu_of(e)->threads, n, grain, body, arg);
}

/* Rows of `width` elements that make one part of an elementwise op. */
static inline int rows_per_part(int width) { return PART_ELEMENTS / width + 1; }

/* This thread's scratch, inside a body. */
static inline float *scratch_of(struct exec *e, const struct share *share) {
    return cpu_of(e)->scratch + (size_t)threads_id(share) * cpu_of(e)->scratch_floats;
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

void CPU(embed)(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table,
                int T);
void CPU(probe_read)(struct exec *e, uint32_t *out, const void *p, size_t bytes);
void CPU(gather_rows)(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C);
void CPU(rms_norm)(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps);
void CPU(linear)(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T);
void CPU(linear_f32)(struct exec *e, float *y, const void *x, const struct matrix *w, int T);
bool CPU(norm_linear)(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                      const struct matrix *w, const void *bias, int T);
bool CPU(norm_linear_silu_mul)(struct exec *e, void *out, void *gate_up, void *x, const void *residual,
                               const void *norm, float eps, const struct matrix *w, int T);
bool CPU(linear_add)(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T);
void CPU(qk_norm_rope_store)(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                             const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                             const struct batch *batch, int H, float eps);
void CPU(attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                    const struct rope *rope, const struct batch *batch, int H);
void CPU(attention_full)(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);
void CPU(embed_sum)(struct exec *e, void *x, const struct matrix *word, const struct matrix *position, const void *type,
                    const struct ragged *texts);
void CPU(layer_norm)(struct exec *e, void *out, const void *x, const void *residual, const void *weight,
                     const void *bias, int T, int C, float eps);
void CPU(gelu)(struct exec *e, void *x, int T, int F);
void CPU(pool_texts)(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                     enum pooling pooling, bool normalize);
void CPU(silu_mul)(struct exec *e, void *out, const void *gate_up, int T, int F);
void CPU(add)(struct exec *e, void *residual, const void *h, int T, int C);
unsigned CPU(sample_set)(struct exec *e, const struct sample_params *params, int R, int V);
void CPU(sample)(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V);
void CPU(token_logprobs)(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                         const int32_t *targets, const int *n_top, int R, int V);
void CPU(fill_random)(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed);

/* awq.c: kernels.h's, and row `row` of a 4-bit matrix in fp32. */
size_t CPU(awq_bytes)(int rows, int cols, int group);
void CPU(awq_layout)(struct matrix *w, void *base);
void CPU(awq_pack)(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
                   const int32_t *qzeros, const uint16_t *scales);
void CPU(awq_row)(float *out, const struct matrix *w, int row);

/* quantize.c */
void CPU(awq_round)(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule);
void CPU(awq_quantize)(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                       const struct awq_rule *rule, const float *divisor);
void CPU(awq_clip)(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s);
void CPU(gram_add)(struct exec *e, float *gram, const void *x, int T, int C);
void CPU(column_abs_add)(struct exec *e, float *sums, const void *x, int T, int C);
void CPU(row_distance_add)(struct exec *e, float *sums, const void *a, const void *b, int T, int C);

/* linear_amx.c: linear of bf16 weights and activations; y of yt. Only where the instruction set has it. */
void CPU(linear_amx)(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w, const void *bias,
                     int T);

/* linear_bf16.c: out [T, LANES] = x [T, K] times LANES rows of w, rows of x `stride` apart; what lies `ahead` elements
 * behind each row of w is fetched meanwhile. Only where the instruction set multiplies pairs of bf16. */
void CPU(linear_bf16)(float (*out)[LANES], const uint16_t *x, size_t stride, int T, const uint16_t *const *w, int K,
                      size_t ahead);

/* linear_amx_wide.c: the same, to the bit, and faster from WIDE_TOKENS on. */
enum { WIDE_TOKENS = 64 };
void CPU(linear_amx_wide)(struct exec *e, void *y, enum dtype yt, const void *x, const struct matrix *w,
                          const void *bias, int T);

/* attention.c: floats of scratch that one thread needs for heads of so many dimensions. */
size_t CPU(attention_floats)(int max_head_dim);

/* norm.c: out = round(x * rsqrt(mean(x^2) + eps)) * weight, in fp32; x [C] is padded with zeros to a whole vector. */
void CPU(norm_row)(float *out, const float *x, const void *weight, int C, float eps, enum dtype act);
