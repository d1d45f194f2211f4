/* kernels.h - every tensor operation of Tandem, as one plain-C API.
 *
 * Letters: T tokens in this step, B sequences in it, C hidden size, H query heads, K KV heads, D head dim, F
 * feed-forward size, V vocabulary, L layers, P tokens per KV block, R rows of which logits are needed.
 *
 * Ops take an exec, then outputs, then inputs, then dims and scalars. Pointers are device memory of the exec (on the
 * CPU: any memory), row-major, 64-byte aligned unless said otherwise. "act" means the exec's activation dtype (f32,
 * bf16 or f16); ops compute in fp32 and round once when they store. Outputs alias no inputs unless a comment says so.
 *
 * Contract that the tests lean on: an output row depends only on its own inputs, never on T, B, on the other rows or
 * on the number of threads. On the CPU this holds to the bit: each output element is a sum in one fixed order.
 *
 * Errors: a wrong shape or alignment is our bug and aborts (CHECK). A device failure is latched in the exec with op,
 * file and line; later ops are no-ops and exec_finish reports it once. An exec belongs to one thread at a time. */
#pragma once

#include "kernels/dtype.h"
#include "kernels/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- exec: where ops run ---------------------------------------------------------------------------------------- */

struct exec; /* owned: backend, stream, scratch, first error */

struct exec_options {
    const char *backend; /* "cpu", "cuda" (the current device), or NULL: the best that this build and machine have */
    enum dtype dtype;    /* of activations */
    int n_threads;       /* CPU: the caller and so many less one; 0 means one per usable core */
    struct exec *beside; /* NULL, or an exec whose queue this one shares, with its backend and threads: ops of both run
                            one after the other in the order of the calls. It is closed after this one */
    /* The largest step that will ever run: scratch is planned once from these. */
    int max_tokens;      /* T */
    int max_rows;        /* R */
    int max_width;       /* the longest row that any linear() reads or writes, except logits */
    int max_kv_len;      /* tokens of context */
    int max_heads;       /* H */
    int max_head_dim;    /* D */
    int vocab;           /* V */
};

int exec_open(struct exec **out, const struct exec_options *options, char *err, size_t err_bytes);
void exec_close(struct exec *e); /* NULL is fine */
/* Waits until everything launched has run. 0, or STATUS_DEVICE and the first failure's sentence; clears the latch. */
int exec_finish(struct exec *e, char *err, size_t err_bytes);
enum dtype exec_dtype(const struct exec *e);     /* of activations */
const char *exec_backend(const struct exec *e);  /* "cpu x86-64-v4, 2 threads": for people */
int exec_n_threads(const struct exec *e);

/* Memory of the exec's device, 256-byte aligned, zeroed. NULL when there is none. */
void *exec_alloc(struct exec *e, size_t bytes);
void exec_free(struct exec *e, void *p); /* NULL is fine */
void exec_upload(struct exec *e, void *device, const void *host, size_t bytes);
void exec_download(struct exec *e, void *host, const void *device, size_t bytes); /* waits */
/* Copies many pieces (a checkpoint) as fast as the link goes, with threads of its own, and waits. Sources may be pages
 * of a mapped file. */
struct transfer {
    void *device;
    const void *host;
    size_t bytes;
};
void exec_upload_all(struct exec *e, const struct transfer *transfers, size_t n);
/* Bytes of device memory that could be had now, and in all. */
void exec_memory(const struct exec *e, size_t *free_bytes, size_t *total_bytes);
bool exec_is_gpu(const struct exec *e);

/* ---- running ahead: the host enqueues, the device follows ------------------------------------------------------- */

/* On the CPU an op has run when its call returns and all of this is trivial. On a GPU calls only enqueue: host memory
 * that a transfer reads or writes must come from exec_alloc_host and stay as it is until the device got there. */
void *exec_alloc_host(struct exec *e, size_t bytes); /* NULL when there is none */
void exec_free_host(struct exec *e, void *p);        /* NULL is fine */
void exec_upload_async(struct exec *e, void *device, const void *host, size_t bytes);
void exec_download_async(struct exec *e, void *host, const void *device, size_t bytes);
/* exec_record marks a point behind everything enqueued so far; exec_wait waits until the device has passed the last
 * mark of that slot. 0, or STATUS_DEVICE as exec_finish. */
enum { EXEC_SLOTS = 8 };
void exec_record(struct exec *e, int slot);
int exec_wait(struct exec *e, int slot, char *err, size_t err_bytes);
/* Seconds of device time from one mark to a later one; both have been passed. */
double exec_elapsed(struct exec *e, int from_slot, int to_slot);

/* A graph is a recorded run of ops that one call repeats: between begin and end, ops are recorded and not run.
 * Arguments are recorded by value, so whatever changes from run to run must change in the memory that they point to.
 * exec_graph_begin is false where the backend has no graphs: then ops just run. */
struct exec_graph; /* owned */
bool exec_graph_begin(struct exec *e);
struct exec_graph *exec_graph_end(struct exec *e); /* NULL after a failure, which is latched */
void exec_graph_launch(struct exec *e, struct exec_graph *graph);
void exec_graph_close(struct exec *e, struct exec_graph *graph); /* NULL is fine; not while it runs */

/* ---- what ops read ---------------------------------------------------------------------------------------------- */

enum matrix_format {
    MATRIX_DENSE, /* data is [rows, cols] of dtype */
    MATRIX_AWQ,   /* 4 bits: w = round_f16((q - zero) * scale), one scale and zero per row and `group` inputs; the
                     activations are f16. data, scales and zeros lie as the backend likes: see awq_layout */
};

/* A weight: y = x W', so rows are outputs and cols are inputs, as Hugging Face stores it. View: owns nothing. */
struct matrix {
    enum matrix_format format;
    enum dtype dtype;  /* f32, bf16, f16; AWQ: f16 */
    int rows, cols;
    const void *data;
    const void *scales, *zeros; /* AWQ */
    int group;                  /* AWQ: AWQ_GROUP; cols % group == 0, rows % 16 == 0 */
};
enum { AWQ_GROUP = 128 }; /* inputs of a row that share a scale and a zero */

/* Device bytes of an AWQ matrix of this backend, and its layout in memory at `base` (64-byte aligned, NULL while only
 * sizes matter): sets w->data, scales and zeros from w->rows, cols and group. */
size_t awq_bytes(const struct exec *e, int rows, int cols, int group);
void awq_layout(const struct exec *e, struct matrix *w, void *base);
/* Repacks a checkpoint's AutoAWQ "gemm" tensors, which lie in device memory, into n_rows rows of w from
 * first_row on. qweight [cols, n_rows / 8] i32, qzeros [cols / group, n_rows / 8] i32, scales [cols / group, n_rows]
 * f16; nibble i of a word holds column [0, 2, 4, 6, 1, 3, 5, 7][i] of its eight. Both first_row and n_rows are
 * multiples of 16. */
void awq_pack(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
              const int32_t *qzeros, const uint16_t *scales);

/* How the KV of one model lies in a block. A block holds P tokens of all L layers:
 *     layer l at l * layer_bytes:  K [K, P, D] | V [K, P, D] | (fp8 only) K scales [K, P] f32 | V scales [K, P] f32 */
struct kv_layout {
    enum dtype dtype;      /* the activations', or DTYPE_F8_E4M3: x = scale * e4m3, one scale per token and head */
    int L, K, D, P;
    size_t layer_bytes;    /* a multiple of 64 */
    size_t block_bytes;    /* L * layer_bytes */
    size_t granule_bytes;  /* the pool's unit of address */
    int block_granules;    /* granules that one block takes: ceil(block_bytes / granule_bytes) */
};
void kv_layout_init(struct kv_layout *layout, enum dtype dtype, int L, int K, int D, int P, size_t granule_bytes);

struct kv_cache {
    void *pool;              /* base of the pool, 64-byte aligned */
    struct kv_layout layout; /* of this model */
};

/* One step's sequences, flat: the tokens of all sequences one after the other, prefill chunks and single decode tokens
 * alike. Sequence b owns tokens query_start[b] .. query_start[b+1]-1, which sit at the last positions of its kv_len[b]
 * tokens of context: positions[t] = kv_len[b] - (query_start[b+1] - t). */
struct batch {
    int T, B;
    int n_decode;   /* sequences 0 .. n_decode-1 have one token each, so token t is sequence t there; the others more */
    int max_query;  /* tokens of the longest sequence in this step, at most */
    int max_kv_len; /* of kv_len, at most: host-side bounds for launch sizes; results do not depend on them */
    const int32_t *tokens;      /* [T] ids; below 0: sampled[-1 - id] */
    const int32_t *sampled;     /* ids that an earlier step sampled, or NULL where no token refers to them */
    const int32_t *positions;   /* [T] */
    const int32_t *seq_of;      /* [T] b, ascending */
    const int32_t *query_start; /* [B + 1] */
    const int32_t *kv_len;      /* [B] context after this step, this step's tokens included */
    const int32_t *block_table; /* [B, max_blocks] first granule of each block; entry i: positions i*P .. i*P+P-1 */
    int max_blocks;
    int R;
    const int32_t *logits_rows; /* [R] the tokens t whose logits are wanted */
};

/* cos and sin of every position, rounded to the activation dtype as Hugging Face does: row p is cos and sin [D/2]. */
struct rope {
    const float *cos_sin; /* [max_positions, D] f32 */
    int max_positions, D;
};
/* Fills a host table [max_positions, D]; angle(p, i) = p * theta^(-2i/D) in fp32. */
void rope_table(float *cos_sin, int max_positions, int D, float theta, enum dtype act);

/* ---- the forward pass ------------------------------------------------------------------------------------------- */

/* x[t] = table[id], where id is tokens[t], or sampled[-1 - tokens[t]] below 0. Ids outside 0 .. rows-1 abort on the
 * CPU and give zeros on a GPU. x [T, C] act. */
void embed(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table, int T);

/* out = round(h * rsqrt(mean(h^2) + eps)) * weight, as Hugging Face: normalised value rounded to act before the
 * product. out, h [T, C] act; weight [C] of act dtype. out may be h. */
void rms_norm(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps);

/* y = x W' + bias. y [T, rows] act, x [T, cols] act, bias [rows] act dtype or NULL. */
void linear(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T);

/* The same with y in fp32: logits [R, V]. */
void linear_f32(struct exec *e, float *y, const void *x, const struct matrix *w, int T);

/* Steps that belong together, so that a backend may fuse them; the result is that of the ops they name, one after the
 * other. x [T, C], h [T, rows] and gate_up [T, 2F] are scratch of act dtype: their content is undefined afterwards. */

/* y = linear(rms_norm(residual)). */
void norm_linear(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                 const struct matrix *w, const void *bias, int T);
/* out [T, F] = silu_mul(linear(rms_norm(residual))), w is [2F, C]: gate above up. */
void norm_linear_silu_mul(struct exec *e, void *out, void *gate_up, void *x, const void *residual, const void *norm,
                          float eps, const struct matrix *w, int T);
/* residual [T, rows] = round(residual + linear(x)). */
void linear_add(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T);

/* Splits qkv, normalises q and k per head (weights NULL: not), rotates both (half-rotation layout), writes q out and
 * k, v into their blocks of `layer`. q [T, H*D] act; qkv [T, (H+2K)*D] act; q_norm, k_norm [D] act dtype or NULL.
 * k_bias [K*D] act dtype or NULL, only with fp8 KV and without norms: it is taken off k before rotation and rounding,
 * and attention puts it back exactly. (The biases of Qwen2.5's K are so large that fp8 would keep little else.) */
void qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                        const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                        const struct batch *batch, int H, float eps);

/* Causal, ragged, grouped-query attention over the paged KV: o[t, h] = softmax(q k' / sqrt(D)) v over positions
 * 0 .. positions[t] of t's own sequence. o, q [T, H*D] act; D <= 256. With a k_bias (NULL: rope may be, too), k at
 * position p is what the cache holds plus k_bias rotated to p: q . rotate(b, p) = c . (cos p, sin p) with c [D]
 * depending on q and b alone: for i < D/2, c_i = q_i b_i + q_{i+D/2} b_{i+D/2}, c_{i+D/2} = q_{i+D/2} b_i -
 * q_i b_{i+D/2}. */
void attention(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
               const struct rope *rope, const struct batch *batch, int H);

/* Both in one, of the steps that a backend may fuse: o = attention(rope(norm(q))). q [T, H*D] is scratch. */
void rope_attention(struct exec *e, void *o, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                    const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                    const struct batch *batch, int H, float eps);

/* out = round(silu(gate)) * up, where gate_up [T, 2F] act holds gate then up in each row. out [T, F] act. */
void silu_mul(struct exec *e, void *out, const void *gate_up, int T, int F);

/* residual += h (rounded). [T, C] act. */
void add(struct exec *e, void *residual, const void *h, int T, int C);

/* out[r] = x[rows[r]]. out [R, C] act. */
void gather_rows(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C);

/* ---- encoders ---------------------------------------------------------------------------------------------------- */

/* One step's texts, flat, without padding: text b is the tokens start[b] .. start[b+1]-1, at positions from 0 on. */
struct ragged {
    int T, B;
    int max_len;              /* tokens of the longest text: a host-side bound; results do not depend on it */
    const int32_t *tokens;    /* [T] ids */
    const int32_t *positions; /* [T] */
    const int32_t *seq_of;    /* [T] b, ascending */
    const int32_t *start;     /* [B + 1] */
};

/* x[t] = word[tokens[t]] + type + position[positions[t]], rounded once. x [T, C] act; word [V, C] and position [P, C]
 * of act dtype; type [C] act, the first row of the token types. Ids and positions outside their tables abort on the
 * CPU and count as zeros on a GPU. */
void embed_sum(struct exec *e, void *x, const struct matrix *word, const struct matrix *position, const void *type,
               const struct ragged *texts);

/* out = (h - mean(h)) / sqrt(mean((h - mean(h))^2) + eps) * weight + bias, rounded once, where h = round(x + residual)
 * or, with residual NULL, x. out, x, residual [T, C] act; weight, bias [C] act dtype. out may be x or residual. */
void layer_norm(struct exec *e, void *out, const void *x, const void *residual, const void *weight, const void *bias,
                int T, int C, float eps);

/* x = x (1 + erf(x / sqrt(2))) / 2, in place. [T, F] act. */
void gelu(struct exec *e, void *x, int T, int F);

/* Bidirectional attention within each text: o[t, h] = softmax(q k' / sqrt(D)) v over all tokens of t's text. o [T, H*D]
 * act; qkv [T, 3*H*D] act: each row q, k, v of all heads; D <= 256. */
void attention_full(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D);

/* A vector of each text: its first token's, or the mean of its tokens in fp32; with normalize divided by its length
 * (by 1e-12 where that is more). out [B, C] f32, x [T, C] act. */
enum pooling { POOLING_CLS, POOLING_MEAN };
void pool_texts(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                enum pooling pooling, bool normalize);

/* ---- sampling ---------------------------------------------------------------------------------------------------- */

struct token_count { /* what penalties need of one token of one sequence */
    int32_t id;
    int32_t n_output;  /* times generated */
    int32_t in_prompt; /* 0 or 1 */
};
struct token_bias {
    int32_t id;
    float bias; /* added to the logit; -INFINITY forbids the token */
};

enum { SAMPLE_MAX_PENDING = 16 };

/* One row's parameters. Order, as in vLLM: allowed ids, bias, repetition penalty (prompt and output tokens), frequency
 * and presence penalty (output tokens), then argmax if temperature is 0; else temperature, min_p, top_k, top_p, and a
 * draw. Ties go to the lower id. Ids of V and above are ignored wherever they are listed: a request may be sampled by
 * models of different vocabularies. */
struct sample_params {
    float temperature;                         /* 0: greedy */
    int top_k;                                 /* 0: off */
    float top_p, min_p;                        /* 1, 0: off */
    float repetition, presence, frequency;     /* 1, 0, 0: off */
    const int32_t *allowed;                    /* [n_allowed] ids, or NULL: all */
    int n_allowed;
    const struct token_bias *biases;           /* [n_biases] distinct ids */
    int n_biases;
    const struct token_count *counts;          /* [n_counts] distinct ids; needed only where a penalty is on */
    int n_counts;
    uint64_t seed;                             /* with position: keys the noise, so a draw depends on nothing else */
    int64_t position;                          /* index of the token that is drawn */
    const int32_t *pending;                    /* device [n_pending] output tokens that counts does not have yet */
    int n_pending;                             /* 0 .. SAMPLE_MAX_PENDING */
    int pending_gap;                           /* ids between one of them and the next; 0: they lie side by side */
};

/* Chooses ids[r] from logits[r] [R, V] f32 (unchanged). min_p keeps tokens at least min_p times as likely as the best;
 * top_k the first k in the order (logit, lower id); top_p the shortest prefix of that order with at least that share of
 * the probability still left, never none. Sampling adds Gumbel noise from a counter-based generator keyed by
 * (seed, position, token id) over the kept set (noise.h): no vocabulary-wide sort. NaN counts as -INFINITY. When
 * nothing is allowed, the argmax of the raw logits.
 *
 * Two calls, so that the second can be part of a graph: sample_set hands over the parameters of the next sample() (host
 * memory [R]; they and what they point to stay as they are until sample() or the launch of its graph has returned) and
 * says which stages they need; equal stages and R may share a graph. ids [R] is device memory. */
unsigned sample_set(struct exec *e, const struct sample_params *params, int R, int V);
void sample(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V);

struct token_logprob {
    int32_t id;
    float logprob; /* natural log of the softmax of the raw logits */
    int32_t rank;  /* 1 is the most likely; ties count as better by lower id */
};

/* Of each row: targets[r]'s logprob and rank in out[r * stride], then the n_top[r] most likely tokens in order.
 * out [R, stride] and targets [R]: device memory; stride >= 1 + max n_top. n_top [R]: host memory; below 0 the row is
 * skipped. Not for graphs. */
void token_logprobs(struct exec *e, struct token_logprob *out, int stride, const float *logits, const int32_t *targets,
                    const int *n_top, int R, int V);

/* ---- making 4-bit weights ---------------------------------------------------------------------------------------- */

/* How a dense matrix w [rows, cols] of act dtype becomes 4 bits, with cols % AWQ_GROUP == 0 and rows % 8 == 0. Of row n
 * and each group g of its inputs k:
 *     v[k] = w[n, k] * s[k], kept within -limit[n, g] .. limit[n, g];     lo = min(v, 0), hi = max(v, 0)
 *     scale = round_f16(max(hi - lo, 1e-5) / 15)
 *     zero = round(-lo / scale), q[k] = round(v[k] / scale) + zero, each kept within 0 .. 15
 * That is AutoAWQ's rule (whose lo and hi lack the 0, so that it loses groups of one sign). Ties round to even, all of it
 * in fp32: the same bits on every backend. w is finite; s is positive and finite. */
struct awq_rule {
    const float *s;     /* device [cols] f32, or NULL: ones */
    const float *limit; /* device [rows, cols / AWQ_GROUP] f32, or NULL: none */
};

/* out[n, k] = round((q - zero) * scale / s[k]): the weights that inputs see which nobody has scaled. out [rows, cols] act;
 * it may be w->data. */
void awq_round(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule);
/* The same as AutoAWQ's "gemm" tensors, as awq_pack takes them; the scales of row n are divided by divisor[n] before they
 * are rounded (divisor [rows] f32, or NULL: ones). */
void awq_quantize(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                  const struct awq_rule *rule, const float *divisor);

/* gram [C / AWQ_GROUP, AWQ_GROUP, AWQ_GROUP] f32: gram[g] += x_g' x_g over the T rows, x_g [T, AWQ_GROUP] being group g
 * of x [T, C] act. d' gram[g] d is then what an error d in a row of weights does to the squared error of its outputs. */
void gram_add(struct exec *e, float *gram, const void *x, int T, int C);
/* limit [rows, cols / AWQ_GROUP] f32: of the limits (1 - i / 20) max |v|, i = 0 .. AWQ_CLIPS - 1, the one of the least
 * d' gram[g] d with d = (what awq_round would give before it rounds) - w; of equals the largest. */
enum { AWQ_CLIPS = 10 };
void awq_clip(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s);

/* sums[c] += the sum of |x[t, c]| over the T rows. x [T, C] act, sums [C] f32. */
void column_abs_add(struct exec *e, float *sums, const void *x, int T, int C);
/* sums[t] += |a[t] - b[t]|^2. a, b [T, C] act, b NULL: zeros; sums [T] f32. */
void row_distance_add(struct exec *e, float *sums, const void *a, const void *b, int T, int C);

/* ---- weights without a checkpoint -------------------------------------------------------------------------------- */

/* n elements of dtype f32, bf16 or f16, uniform in [mean - spread, mean + spread], or i32 with random bits; the i-th
 * depends on (seed, i) alone and is the same on every backend (noise.h). */
void fill_random(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed);
