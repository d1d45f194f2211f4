/* exec.c - the public face of kernels.h: opens a backend, checks every call once, and hands it to the backend's table.
 *
 * A failed check is a bug of the caller and aborts. The backend "cpu" is several tables, one per instruction set; the
 * best that the processor has is picked when the exec is opened. */
#include "kernels/ops.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
extern const struct kernel_ops cpu_ops_x86_64_v2, cpu_ops_x86_64_v3, cpu_ops_x86_64_v4, cpu_ops_x86_64_bf16,
    cpu_ops_x86_64_amx;
#else
extern const struct kernel_ops cpu_ops_native;
#endif
#if defined(TANDEM_CUDA)
extern const struct kernel_ops cuda_ops;
#endif

/* ---- which table ------------------------------------------------------------------------------------------------ */

#define MAX_TABLES 8

#if defined(TANDEM_AVX512_BF16)
static bool have_avx512_bf16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#if defined(TANDEM_AMX)
/* The matrix unit needs the kernel's permission to grow each thread's saved state; it is given once per process. */
static bool have_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool amx_bf16 = d >> 22 & 1, amx_tile = d >> 24 & 1;
    return amx_bf16 && amx_tile && have_avx512_bf16() && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}
#endif

/* Fills tables with those that this processor can run, best first. */
static int usable_tables(const struct kernel_ops *tables[MAX_TABLES]) {
    int n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
#if defined(TANDEM_AMX)
    if (v4 && have_amx()) tables[n++] = &cpu_ops_x86_64_amx;
#endif
#if defined(TANDEM_AVX512_BF16)
    /* Pairs of bf16 have twice the rate of fp32 in AMD's cores and half of it in Intel's (measured: Zen 4, 236 against
     * 118 GFLOP/s a core; Emerald Rapids, 79 against 173). */
    bool pairs = v4 && have_avx512_bf16(), fast = __builtin_cpu_is("amd");
    if (pairs && fast) tables[n++] = &cpu_ops_x86_64_bf16;
    if (v4) tables[n++] = &cpu_ops_x86_64_v4;
    if (pairs && !fast) tables[n++] = &cpu_ops_x86_64_bf16;
#else
    if (v4) tables[n++] = &cpu_ops_x86_64_v4;
#endif
    if (v3) tables[n++] = &cpu_ops_x86_64_v3;
    if (__builtin_cpu_supports("sse4.2")) tables[n++] = &cpu_ops_x86_64_v2;
#else
    tables[n++] = &cpu_ops_native;
#endif
    return n;
}

int exec__cpu_tables(const char *const **names) {
    static _Thread_local const char *list[MAX_TABLES];
    const struct kernel_ops *tables[MAX_TABLES];
    int n = usable_tables(tables);
    for (int i = 0; i < n; i++) list[i] = tables[i]->name;
    *names = list;
    return n;
}

/* Cores that this process may use, not those that the machine has: containers restrict the set, or the time. */
static int usable_cores(void) {
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    FILE *quota = fopen("/sys/fs/cgroup/cpu.max", "r"); /* "max 100000", or microseconds of time in each period */
    long long time, period;
    if (!quota) return cores;
    if (fscanf(quota, "%lld %lld", &time, &period) == 2 && time > 0 && period > 0) {
        long long whole = (time + period - 1) / period;
        if (whole < cores) cores = (int)whole;
    }
    fclose(quota);
    return cores;
}

/* ---- exec ------------------------------------------------------------------------------------------------------- */

/* The GPU where it is asked for by name, or where there is one and nothing is asked for. */
static int pick_cuda(const char *backend, const struct kernel_ops **ops, char *err, size_t err_bytes) {
#if defined(TANDEM_CUDA)
    const bool named = backend && !strcmp(backend, "cuda");
    if (!named && backend) return 0;
    char why[ERR_BYTES];
    if (cuda__usable(why, sizeof why)) {
        *ops = &cuda_ops;
        return 0;
    }
    if (named) return fail(err, err_bytes, STATUS_UNSUPPORTED, "%s; the backend \"cpu\" needs no GPU", why);
    return 0;
#else
    (void)ops;
    if (backend && !strcmp(backend, "cuda"))
        return fail(err, err_bytes, STATUS_UNSUPPORTED,
                    "this build has no CUDA backend: configure with the preset \"cuda\", which needs the CUDA toolkit");
    return 0;
#endif
}

int exec_open(struct exec **out, const struct exec_options *options, char *err, size_t err_bytes) {
    *out = NULL;
    CHECK(options->dtype == DTYPE_F32 || options->dtype == DTYPE_BF16 || options->dtype == DTYPE_F16);
    CHECK_LT(0, options->max_tokens);
    CHECK_LT(0, options->max_rows);
    CHECK_LT(0, options->max_width);
    CHECK_LT(0, options->max_kv_len);
    CHECK_LT(0, options->max_heads);
    CHECK_LT(0, options->max_head_dim);
    CHECK_LT(0, options->vocab);
    const struct kernel_ops *tables[MAX_TABLES], *ops = options->beside ? options->beside->ops : NULL;
    int n = usable_tables(tables);
    if (!ops && pick_cuda(options->backend, &ops, err, err_bytes)) return STATUS_UNSUPPORTED;
    if (!ops && !n)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "expected a processor with SSE 4.2, found an older one");
    if (!ops && (!options->backend || !strcmp(options->backend, "cpu"))) ops = tables[0];
    for (int i = 0; !ops && i < n; i++)
        if (!strcmp(options->backend, tables[i]->name)) ops = tables[i];
    if (!ops)
        return fail(err, err_bytes, STATUS_UNSUPPORTED, "backend \"%s\" is not in this build or not on this machine; "
                    "\"cpu\" always is", options->backend);

    struct exec *e = calloc(1, sizeof *e);
    if (!e) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for an exec");
    e->ops = ops;
    e->options = *options;
    e->options.backend = ops->name;
    if (options->beside) e->options.n_threads = options->beside->options.n_threads;
    if (e->options.n_threads <= 0) e->options.n_threads = usable_cores();
    int status = ops->open(e, err, err_bytes);
    if (status) {
        exec_close(e);
        return status;
    }
    if (!ops->is_gpu) /* a GPU's backend has written the card's name */
        snprintf(e->label, sizeof e->label, "%s, %d thread%s", ops->name, e->options.n_threads,
                 e->options.n_threads == 1 ? "" : "s");
    *out = e;
    return 0;
}

void exec_close(struct exec *e) {
    if (!e) return;
    e->ops->close(e);
    free(e);
}

void exec__fail(struct exec *e, const char *op, const char *file, int line, const char *what) {
    if (e->failed) return;
    e->failed = true;
    snprintf(e->failure, sizeof e->failure, "%s (%s:%d): %s", op, file, line, what);
}

/* The latched failure, once. */
static int report(struct exec *e, char *err, size_t err_bytes) {
    if (!e->failed) return 0;
    e->failed = false;
    return fail(err, err_bytes, STATUS_DEVICE, "%s", e->failure);
}

int exec_finish(struct exec *e, char *err, size_t err_bytes) {
    e->ops->finish(e);
    return report(e, err, err_bytes);
}

enum dtype exec_dtype(const struct exec *e) { return e->options.dtype; }
const char *exec_backend(const struct exec *e) { return e->label; }
int exec_n_threads(const struct exec *e) { return e->options.n_threads; }
void *exec_alloc(struct exec *e, size_t bytes) { return e->ops->alloc(e, bytes); }

void exec_free(struct exec *e, void *p) {
    if (p) e->ops->free(e, p);
}

void exec_upload(struct exec *e, void *device, const void *host, size_t bytes) {
    if (bytes) e->ops->upload(e, device, host, bytes);
}

void exec_download(struct exec *e, void *host, const void *device, size_t bytes) {
    if (bytes) e->ops->download(e, host, device, bytes);
}

void exec_upload_all(struct exec *e, const struct transfer *transfers, size_t n) {
    if (e->failed) return;
    if (e->ops->upload_all)
        e->ops->upload_all(e, transfers, n);
    else
        for (size_t i = 0; i < n; i++) exec_upload(e, transfers[i].device, transfers[i].host, transfers[i].bytes);
}

bool exec_is_gpu(const struct exec *e) { return e->ops->is_gpu; }
void exec_memory(const struct exec *e, size_t *free_bytes, size_t *total_bytes) {
    e->ops->memory(e, free_bytes, total_bytes);
}

/* ---- running ahead ---------------------------------------------------------------------------------------------- */

void *exec_alloc_host(struct exec *e, size_t bytes) {
    return e->ops->alloc_host ? e->ops->alloc_host(e, bytes) : calloc(1, bytes ? bytes : 1);
}

void exec_free_host(struct exec *e, void *p) {
    if (!p) return;
    if (e->ops->free_host)
        e->ops->free_host(e, p);
    else
        free(p);
}

void exec_upload_async(struct exec *e, void *device, const void *host, size_t bytes) {
    if (!bytes || e->failed) return;
    (e->ops->upload_async ? e->ops->upload_async : e->ops->upload)(e, device, host, bytes);
}

void exec_download_async(struct exec *e, void *host, const void *device, size_t bytes) {
    if (!bytes || e->failed) return;
    (e->ops->download_async ? e->ops->download_async : e->ops->download)(e, host, device, bytes);
}

void exec_record(struct exec *e, int slot) {
    CHECK_LT((unsigned)slot, EXEC_SLOTS);
    if (e->failed) return;
    if (e->ops->record) {
        e->ops->record(e, slot);
    } else {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        e->marks[slot] = (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
}

double exec_elapsed(struct exec *e, int from_slot, int to_slot) {
    CHECK_LT((unsigned)from_slot, EXEC_SLOTS);
    CHECK_LT((unsigned)to_slot, EXEC_SLOTS);
    return e->ops->elapsed ? e->ops->elapsed(e, from_slot, to_slot) : e->marks[to_slot] - e->marks[from_slot];
}

int exec_wait(struct exec *e, int slot, char *err, size_t err_bytes) {
    CHECK_LT((unsigned)slot, EXEC_SLOTS);
    if (e->ops->wait && !e->failed) e->ops->wait(e, slot);
    return report(e, err, err_bytes);
}

bool exec_graph_begin(struct exec *e) { return e->ops->graph_begin && !e->failed && e->ops->graph_begin(e); }
struct exec_graph *exec_graph_end(struct exec *e) { return e->ops->graph_end(e); }

void exec_graph_launch(struct exec *e, struct exec_graph *graph) {
    if (!e->failed) e->ops->graph_launch(e, graph);
}

void exec_graph_close(struct exec *e, struct exec_graph *graph) {
    if (graph) e->ops->graph_close(e, graph);
}

/* ---- the checks ------------------------------------------------------------------------------------------------- */

#define CHECK_ALIGNED(p) CHECK_EQ((uintptr_t)(p) % 64, 0)

static void check_awq(int rows, int cols, int group) {
    CHECK_LT(0, rows);
    CHECK_LT(0, cols);
    CHECK_EQ(group, AWQ_GROUP);
    CHECK_EQ(rows % 16, 0);
    CHECK_EQ(cols % group, 0);
}

static void check_matrix(const struct exec *e, const struct matrix *w) {
    CHECK(w->format == MATRIX_DENSE || w->format == MATRIX_AWQ);
    if (w->format == MATRIX_AWQ) {
        check_awq(w->rows, w->cols, w->group);
        CHECK_EQ(e->options.dtype, DTYPE_F16);
        CHECK_EQ(w->dtype, DTYPE_F16);
        CHECK_ALIGNED(w->scales);
        CHECK_ALIGNED(w->zeros);
    }
    CHECK(w->dtype == DTYPE_F32 || w->dtype == DTYPE_BF16 || w->dtype == DTYPE_F16);
    CHECK_LT(0, w->rows);
    CHECK_LT(0, w->cols);
    CHECK_LE(w->cols, e->options.max_width);
    CHECK_ALIGNED(w->data);
}

static void check_batch(const struct exec *e, const struct kv_cache *kv, int layer, const struct batch *batch, int H) {
    const struct kv_layout *a = &kv->layout;
    CHECK_LT(0, batch->B);
    CHECK_LE(batch->B, batch->T);
    CHECK_LE(batch->T, e->options.max_tokens);
    CHECK_LE(batch->n_decode, batch->B);
    CHECK_LE(0, layer);
    CHECK_LT(layer, a->L);
    CHECK_LE(H, e->options.max_heads);
    CHECK_LE(a->D, e->options.max_head_dim);
    CHECK_EQ(H % a->K, 0);
    CHECK(a->dtype == e->options.dtype || a->dtype == DTYPE_F8_E4M3);
    CHECK_EQ(a->layer_bytes % 64, 0);
    CHECK_EQ(a->granule_bytes % 64, 0);
    CHECK_ALIGNED(kv->pool);
}

static void check_rope(const struct kv_cache *kv, const void *k_bias, const struct rope *rope) {
    CHECK_EQ(rope->D, kv->layout.D);
    CHECK_EQ(rope->D % 2, 0);
    CHECK_EQ((uintptr_t)k_bias % 16, 0); /* it may begin inside the bias of q, k and v */
    CHECK(!k_bias || kv->layout.dtype == DTYPE_F8_E4M3);
}

static void check_rows(const struct exec *e, int T, int width) {
    CHECK_LT(0, T);
    CHECK_LT(0, width);
    CHECK_LE(width, e->options.max_width);
}

static void check_norm(const struct exec *e, const void *out, const void *h, const void *weight, int T, int C) {
    check_rows(e, T, C);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(h);
    CHECK_ALIGNED(weight);
}

static void check_linear(const struct exec *e, const void *y, const void *x, const struct matrix *w, const void *bias,
                         int T) {
    check_matrix(e, w);
    CHECK_LT(0, T);
    CHECK_LE(T, e->options.max_tokens);
    CHECK_LE(w->rows, e->options.max_width);
    CHECK_ALIGNED(y);
    CHECK_ALIGNED(x);
    CHECK_ALIGNED(bias);
}

static void check_silu_mul(const struct exec *e, const void *out, const void *gate_up, int T, int F) {
    check_rows(e, T, F);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(gate_up);
    CHECK(out != gate_up);
}

static void check_add(const struct exec *e, const void *residual, const void *h, int T, int C) {
    check_rows(e, T, C);
    CHECK_ALIGNED(residual);
    CHECK_ALIGNED(h);
    CHECK(residual != h);
}

/* ---- the ops ---------------------------------------------------------------------------------------------------- */

void embed(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table, int T) {
    if (e->failed || !T) return;
    check_matrix(e, table);
    CHECK_LT(0, T);
    CHECK_LE(T, e->options.max_tokens);
    CHECK_ALIGNED(x);
    CHECK_EQ(table->format, MATRIX_DENSE);
    e->ops->embed(e, x, tokens, sampled, table, T);
}

void rms_norm(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps) {
    if (e->failed || !T) return;
    check_norm(e, out, h, weight, T, C);
    e->ops->rms_norm(e, out, h, weight, T, C, eps);
}

void linear(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T) {
    if (e->failed || !T) return;
    check_linear(e, y, x, w, bias, T);
    CHECK(y != x);
    e->ops->linear(e, y, x, w, bias, T);
}

void linear_f32(struct exec *e, float *y, const void *x, const struct matrix *w, int T) {
    if (e->failed || !T) return;
    check_matrix(e, w);
    CHECK_LT(0, T);
    CHECK_LE(T, e->options.max_tokens);
    CHECK_ALIGNED(y);
    CHECK_ALIGNED(x);
    CHECK((const void *)y != x);
    e->ops->linear_f32(e, y, x, w, T);
}

void norm_linear(struct exec *e, void *y, void *x, const void *residual, const void *norm, float eps,
                 const struct matrix *w, const void *bias, int T) {
    if (e->failed || !T) return;
    check_norm(e, x, residual, norm, T, w->cols);
    check_linear(e, y, x, w, bias, T);
    if (e->ops->norm_linear && e->ops->norm_linear(e, y, x, residual, norm, eps, w, bias, T)) return;
    rms_norm(e, x, residual, norm, T, w->cols, eps);
    linear(e, y, x, w, bias, T);
}

void norm_linear_silu_mul(struct exec *e, void *out, void *gate_up, void *x, const void *residual, const void *norm,
                          float eps, const struct matrix *w, int T) {
    if (e->failed || !T) return;
    CHECK_EQ(w->rows % 2, 0);
    check_norm(e, x, residual, norm, T, w->cols);
    check_linear(e, gate_up, x, w, NULL, T);
    check_silu_mul(e, out, gate_up, T, w->rows / 2);
    if (e->ops->norm_linear_silu_mul &&
        e->ops->norm_linear_silu_mul(e, out, gate_up, x, residual, norm, eps, w, T))
        return;
    rms_norm(e, x, residual, norm, T, w->cols, eps);
    linear(e, gate_up, x, w, NULL, T);
    silu_mul(e, out, gate_up, T, w->rows / 2);
}

void linear_add(struct exec *e, void *residual, void *h, const void *x, const struct matrix *w, int T) {
    if (e->failed || !T) return;
    check_linear(e, h, x, w, NULL, T);
    check_add(e, residual, h, T, w->rows);
    if (e->ops->linear_add && e->ops->linear_add(e, residual, h, x, w, T)) return;
    linear(e, h, x, w, NULL, T);
    add(e, residual, h, T, w->rows);
}

static void check_qk_norm_rope_store(const struct exec *e, const void *q, const struct kv_cache *kv, int layer,
                                     const void *qkv, const void *q_norm, const void *k_norm, const void *k_bias,
                                     const struct rope *rope, const struct batch *batch, int H) {
    check_batch(e, kv, layer, batch, H);
    check_rope(kv, k_bias, rope);
    CHECK_ALIGNED(q);
    CHECK_ALIGNED(qkv);
    CHECK_ALIGNED(q_norm);
    CHECK_ALIGNED(k_norm);
    CHECK(q != qkv);
    CHECK(!k_bias || !k_norm);
}

void qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                        const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                        const struct batch *batch, int H, float eps) {
    if (e->failed || !batch->T) return;
    check_qk_norm_rope_store(e, q, kv, layer, qkv, q_norm, k_norm, k_bias, rope, batch, H);
    e->ops->qk_norm_rope_store(e, q, kv, layer, qkv, q_norm, k_norm, k_bias, rope, batch, H, eps);
}

void attention(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
               const struct rope *rope, const struct batch *batch, int H) {
    if (e->failed || !batch->T) return;
    check_batch(e, kv, layer, batch, H);
    if (k_bias) check_rope(kv, k_bias, rope);
    CHECK_ALIGNED(o);
    CHECK_ALIGNED(q);
    CHECK(o != q);
    e->ops->attention(e, o, q, kv, layer, k_bias, rope, batch, H);
}

void rope_attention(struct exec *e, void *o, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                    const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                    const struct batch *batch, int H, float eps) {
    if (e->failed || !batch->T) return;
    check_qk_norm_rope_store(e, q, kv, layer, qkv, q_norm, k_norm, k_bias, rope, batch, H);
    CHECK_ALIGNED(o);
    CHECK(o != q && o != qkv);
    if (e->ops->rope_attention &&
        e->ops->rope_attention(e, o, q, kv, layer, qkv, q_norm, k_norm, k_bias, rope, batch, H, eps))
        return;
    qk_norm_rope_store(e, q, kv, layer, qkv, q_norm, k_norm, k_bias, rope, batch, H, eps);
    attention(e, o, q, kv, layer, k_bias, rope, batch, H);
}

void silu_mul(struct exec *e, void *out, const void *gate_up, int T, int F) {
    if (e->failed || !T) return;
    check_silu_mul(e, out, gate_up, T, F);
    e->ops->silu_mul(e, out, gate_up, T, F);
}

void add(struct exec *e, void *residual, const void *h, int T, int C) {
    if (e->failed || !T) return;
    check_add(e, residual, h, T, C);
    e->ops->add(e, residual, h, T, C);
}

void gather_rows(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C) {
    if (e->failed || !R) return;
    CHECK_LT(0, R);
    CHECK_LT(0, C);
    CHECK_LE(R, e->options.max_tokens);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(x);
    CHECK(out != x);
    e->ops->gather_rows(e, out, x, rows, R, C);
}

static void check_ragged(const struct exec *e, const struct ragged *texts) {
    CHECK_LT(0, texts->B);
    CHECK_LE(texts->B, texts->T);
    CHECK_LE(texts->T, e->options.max_tokens);
    CHECK_LT(0, texts->max_len);
}

void embed_sum(struct exec *e, void *x, const struct matrix *word, const struct matrix *position, const void *type,
               const struct ragged *texts) {
    if (e->failed || !texts->T) return;
    check_ragged(e, texts);
    check_matrix(e, word);
    check_matrix(e, position);
    CHECK_EQ(word->format, MATRIX_DENSE);
    CHECK_EQ(position->format, MATRIX_DENSE);
    CHECK_EQ(word->dtype, e->options.dtype);
    CHECK_EQ(position->dtype, e->options.dtype);
    CHECK_EQ(word->cols, position->cols);
    CHECK_LE(texts->max_len, position->rows);
    CHECK_ALIGNED(x);
    CHECK_ALIGNED(type);
    e->ops->embed_sum(e, x, word, position, type, texts);
}

void layer_norm(struct exec *e, void *out, const void *x, const void *residual, const void *weight, const void *bias,
                int T, int C, float eps) {
    if (e->failed || !T) return;
    check_norm(e, out, x, weight, T, C);
    CHECK_ALIGNED(residual);
    CHECK_ALIGNED(bias);
    e->ops->layer_norm(e, out, x, residual, weight, bias, T, C, eps);
}

void gelu(struct exec *e, void *x, int T, int F) {
    if (e->failed || !T) return;
    check_rows(e, T, F);
    CHECK_ALIGNED(x);
    e->ops->gelu(e, x, T, F);
}

void attention_full(struct exec *e, void *o, const void *qkv, const struct ragged *texts, int H, int D) {
    if (e->failed || !texts->T) return;
    check_ragged(e, texts);
    CHECK_LE(H, e->options.max_heads);
    CHECK_LE(D, e->options.max_head_dim);
    CHECK_LE(D, 256);
    CHECK_LE(texts->max_len, e->options.max_kv_len);
    CHECK_ALIGNED(o);
    CHECK_ALIGNED(qkv);
    CHECK(o != qkv);
    e->ops->attention_full(e, o, qkv, texts, H, D);
}

void pool_texts(struct exec *e, float *out, const void *x, const struct ragged *texts, int C,
                enum pooling pooling, bool normalize) {
    if (e->failed || !texts->T) return;
    check_ragged(e, texts);
    check_rows(e, texts->T, C);
    CHECK(pooling == POOLING_CLS || pooling == POOLING_MEAN);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(x);
    e->ops->pool_texts(e, out, x, texts, C, pooling, normalize);
}

unsigned sample_set(struct exec *e, const struct sample_params *params, int R, int V) {
    if (e->failed || !R) return 0;
    CHECK_LT(0, R);
    CHECK_LT(0, V);
    CHECK_LE(R, e->options.max_rows);
    CHECK_LE(V, e->options.vocab);
    for (int r = 0; r < R; r++) {
        const struct sample_params *p = &params[r];
        CHECK(p->temperature >= 0);
        if (p->allowed)
            for (int i = 0; i < p->n_allowed; i++) CHECK_LE(0, p->allowed[i]);
        for (int i = 0; i < p->n_biases; i++) CHECK_LE(0, p->biases[i].id);
        for (int i = 0; i < p->n_counts; i++) CHECK_LE(0, p->counts[i].id);
        CHECK(p->n_pending >= 0 && p->n_pending <= SAMPLE_MAX_PENDING);
    }
    return e->ops->sample_set(e, params, R, V);
}

void sample(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V) {
    if (e->failed || !R) return;
    CHECK_LT(0, R);
    CHECK_LE(R, e->options.max_rows);
    CHECK_LE(V, e->options.vocab);
    CHECK_ALIGNED(logits);
    e->ops->sample(e, ids, logits, stages, R, V);
}

void token_logprobs(struct exec *e, struct token_logprob *out, int stride, const float *logits, const int32_t *targets,
                    const int *n_top, int R, int V) {
    if (e->failed || !R) return;
    CHECK_LT(0, R);
    CHECK_LT(0, V);
    CHECK_LE(R, e->options.max_rows);
    CHECK_LE(V, e->options.vocab);
    CHECK_ALIGNED(logits);
    for (int r = 0; r < R; r++) {
        if (n_top[r] < 0) continue;
        CHECK_LT(n_top[r], stride);
        CHECK_LE(n_top[r], V);
    }
    e->ops->token_logprobs(e, out, stride, logits, targets, n_top, R, V);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

size_t awq_bytes(const struct exec *e, int rows, int cols, int group) {
    check_awq(rows, cols, group);
    return e->ops->awq_bytes(rows, cols, group);
}

void awq_layout(const struct exec *e, struct matrix *w, void *base) {
    check_awq(w->rows, w->cols, w->group);
    CHECK_ALIGNED(base);
    e->ops->awq_layout(w, base);
}

void awq_pack(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
              const int32_t *qzeros, const uint16_t *scales) {
    if (e->failed) return;
    check_matrix(e, w);
    CHECK_EQ(w->format, MATRIX_AWQ);
    CHECK_LE(0, first_row);
    CHECK_LT(0, n_rows);
    CHECK_LE(first_row + n_rows, w->rows);
    CHECK_EQ(first_row % 16, 0);
    CHECK_EQ(n_rows % 16, 0);
    e->ops->awq_pack(e, w, first_row, n_rows, qweight, qzeros, scales);
}

/* ---- making 4-bit weights ---------------------------------------------------------------------------------------- */

static void check_unrounded(const struct exec *e, const struct matrix *w) {
    check_matrix(e, w);
    CHECK_EQ(w->format, MATRIX_DENSE);
    CHECK_EQ(w->dtype, e->options.dtype);
    CHECK_EQ(w->cols % AWQ_GROUP, 0);
    CHECK_EQ(w->rows % 8, 0);
}

void awq_round(struct exec *e, void *out, const struct matrix *w, const struct awq_rule *rule) {
    if (e->failed) return;
    check_unrounded(e, w);
    CHECK_ALIGNED(out);
    e->ops->awq_round(e, out, w, rule);
}

void awq_quantize(struct exec *e, int32_t *qweight, int32_t *qzeros, uint16_t *scales, const struct matrix *w,
                  const struct awq_rule *rule, const float *divisor) {
    if (e->failed) return;
    check_unrounded(e, w);
    e->ops->awq_quantize(e, qweight, qzeros, scales, w, rule, divisor);
}

void awq_clip(struct exec *e, float *limit, const float *gram, const struct matrix *w, const float *s) {
    if (e->failed) return;
    check_unrounded(e, w);
    CHECK_ALIGNED(gram);
    e->ops->awq_clip(e, limit, gram, w, s);
}

void gram_add(struct exec *e, float *gram, const void *x, int T, int C) {
    if (e->failed || !T) return;
    check_rows(e, T, C);
    CHECK_EQ(C % AWQ_GROUP, 0);
    CHECK_ALIGNED(gram);
    CHECK_ALIGNED(x);
    e->ops->gram_add(e, gram, x, T, C);
}

void column_abs_add(struct exec *e, float *sums, const void *x, int T, int C) {
    if (e->failed || !T) return;
    check_rows(e, T, C);
    e->ops->column_abs_add(e, sums, x, T, C);
}

void row_distance_add(struct exec *e, float *sums, const void *a, const void *b, int T, int C) {
    if (e->failed || !T) return;
    check_rows(e, T, C);
    CHECK_ALIGNED(a);
    CHECK_ALIGNED(b);
    e->ops->row_distance_add(e, sums, a, b, T, C);
}

/* ---- weights without a checkpoint -------------------------------------------------------------------------------- */

void fill_random(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed) {
    if (e->failed || !n) return;
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16 || dtype == DTYPE_I32);
    e->ops->fill_random(e, p, dtype, n, mean, spread, seed);
}
