/* ops.h - private to kernels/: the table of operations that a backend fills in, and the exec that points to it.
 *
 * exec.c owns the public functions of kernels.h: they check shapes and alignment once and call the table. A backend
 * is one such table: the CPU has one per instruction set (kernels/cpu, compiled several times), a GPU has its own.
 * Table functions may assume that everything exec.c checks holds and that no count is zero. */
#pragma once

#include "kernels/kernels.h"

struct kernel_ops {
    const char *name; /* "cpu x86-64-v4": for people */
    bool is_gpu;

    int (*open)(struct exec *e, char *err, size_t err_bytes); /* fills e->state from e->options */
    void (*close)(struct exec *e);                            /* accepts a half-opened exec */
    void (*finish)(struct exec *e);                           /* waits; may latch with exec__fail */
    void *(*alloc)(struct exec *e, size_t bytes);
    void (*free)(struct exec *e, void *p);
    void (*upload)(struct exec *e, void *device, const void *host, size_t bytes);
    void (*download)(struct exec *e, void *host, const void *device, size_t bytes);
    void (*upload_all)(struct exec *e, const struct transfer *transfers, size_t n); /* NULL: upload, one by one */
    void (*memory)(const struct exec *e, size_t *free_bytes, size_t *total_bytes);

    /* Running ahead. All NULL on the CPU, where exec.c does the obvious. */
    void *(*alloc_host)(struct exec *e, size_t bytes);
    void (*free_host)(struct exec *e, void *p);
    void (*upload_async)(struct exec *e, void *device, const void *host, size_t bytes);
    void (*download_async)(struct exec *e, void *host, const void *device, size_t bytes);
    void (*record)(struct exec *e, int slot);
    void (*wait)(struct exec *e, int slot); /* may latch */
    double (*elapsed)(struct exec *e, int from_slot, int to_slot);
    bool (*graph_begin)(struct exec *e);
    struct exec_graph *(*graph_end)(struct exec *e);
    void (*graph_launch)(struct exec *e, struct exec_graph *graph);
    void (*graph_close)(struct exec *e, struct exec_graph *graph);

    void (*embed)(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table,
                  int T);
    void (*rms_norm)(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps);
    void (*linear)(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T);
    void (*linear_f32)(struct exec *e, float *y, const void *x, const struct matrix *w, int T);
    void (*qk_norm_rope_store)(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                               const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                               const struct batch *batch, int H, float eps);
    void (*attention)(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                      const struct rope *rope, const struct batch *batch, int H);
    void (*silu_mul)(struct exec *e, void *out, const void *gate_up, int T, int F);
    void (*add)(struct exec *e, void *residual, const void *h, int T, int C);
    void (*gather_rows)(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C);
    void (*embed_sum)(struct exec *e, void *x, const struct matrix *word, const struct matrix *position,
                      const void *type, const struct ragged *texts);
    void (*layer_norm)(struct exec *e, void *out, const void *x, const void *residual, const void *weight,
                       const void *bias, int T, int C, float eps);
    void (*gelu)(struct exec *e, void *x, int T, int F);
    void (*attention_full)(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);
    void (*pool_texts)(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                       enum pooling pooling, bool normalize);
    unsigned (*sample_set)(struct exec *e, const struct sample_params *params, int R, int V);
    void (*sample)(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V);
    void (*token_logprobs)(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                           const int32_t *targets, const int *n_top, int R, int V);
    size_t (*awq_bytes)(int rows, int cols, int group);
    void (*awq_layout)(struct matrix *w, void *base);
    void (*awq_pack)(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
                     const int32_t *qzeros, const uint16_t *scales);
    void (*awq_round)(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule);
    void (*awq_quantize)(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                         const struct awq_rule *rule, const float *divisor);
    void (*awq_clip)(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s);
    void (*gram_add)(struct exec *e, float *gram, const void *x, int T, int C);
    void (*column_abs_add)(struct exec *e, float *sums, const void *x, int T, int C);
    void (*row_distance_add)(struct exec *e, float *sums, const void *a, const void *b, int T, int C);
    void (*fill_random)(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed);

    /* For benchmarks (probe.h). library and library_linear are NULL where the backend uses no vendor's library. */
    void (*probe_read)(struct exec *e, uint32_t *out, const void *p, size_t bytes);
    const char *library;
    bool (*library_linear)(struct exec *e, void *y, const void *x, const struct matrix *w, int T);

    /* Fused steps; NULL where the backend has none of its own: exec.c then calls the ops they are made of. False: not
     * for these sizes, likewise. */
    bool (*norm_linear)(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                        const struct matrix *w, const void *bias, int T);
    bool (*norm_linear_silu_mul)(struct exec *e, void *out, void *gate_up, void *x, const void *residual,
                                 const void *norm, float eps, const struct matrix *w, int T);
    bool (*linear_add)(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T);
    bool (*rope_attention)(struct exec *e, void *o, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                           const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                           const struct batch *batch, int H, float eps);
};

struct exec {
    const struct kernel_ops *ops;
    struct exec_options options; /* n_threads resolved */
    void *state;                 /* owned by the backend */
    char label[64];
    double marks[EXEC_SLOTS];    /* CPU: exec_record's clock */
    bool failed;                 /* the latch: ops are no-ops until exec_finish has reported it */
    char failure[ERR_BYTES];
};

/* Latches the first failure: op, file and line of the launcher, and what went wrong. */
void exec__fail(struct exec *e, const char *op, const char *file, int line, const char *what);

/* For tests and benchmarks: the CPU tables that this machine can run, best first. Opening an exec with `backend` set
 * to one of these names forces that table. Returns how many there are. */
int exec__cpu_tables(const char *const **names);

#if defined(TANDEM_CUDA)
/* Whether this machine has a GPU that this build has code for; if not, `why` is a sentence. */
bool cuda__usable(char *why, size_t why_bytes);
#endif
