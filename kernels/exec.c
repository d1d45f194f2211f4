/* exec.c - the public face of kernels.h: opens a backend, checks every call once, and hands it to the backend's table.
 *
 * A failed check is a bug of the caller and aborts. The backend "cpu" is several tables, one per instruction set; the
 * best that the processor has is picked when the exec is opened. */
#include "kernels/ops.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
extern const struct kernel_ops cpu_ops_x86_64_v2, cpu_ops_x86_64_v3, cpu_ops_x86_64_v4, cpu_ops_x86_64_amx;
#else
extern const struct kernel_ops cpu_ops_native;
#endif

/* ---- which table ------------------------------------------------------------------------------------------------ */

#define MAX_TABLES 8

#if defined(TANDEM_AMX)
/* The matrix unit needs the kernel's permission to grow each thread's saved state; it is given once per process. */
static bool have_amx(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool amx_bf16 = d >> 22 & 1, amx_tile = d >> 24 & 1;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
    bool avx512_bf16 = a >> 5 & 1;
    return amx_bf16 && amx_tile && avx512_bf16 && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
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
    if (v4) tables[n++] = &cpu_ops_x86_64_v4;
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
    const struct kernel_ops *tables[MAX_TABLES], *ops = NULL;
    int n = usable_tables(tables);
    if (!n) return fail(err, err_bytes, STATUS_UNSUPPORTED, "expected a processor with SSE 4.2, found an older one");
    if (!options->backend || !strcmp(options->backend, "cpu")) ops = tables[0];
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
    if (e->options.n_threads <= 0) e->options.n_threads = usable_cores();
    int status = ops->open(e, err, err_bytes);
    if (status) {
        exec_close(e);
        return status;
    }
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

int exec_finish(struct exec *e, char *err, size_t err_bytes) {
    e->ops->finish(e);
    if (!e->failed) return 0;
    e->failed = false;
    return fail(err, err_bytes, STATUS_DEVICE, "%s", e->failure);
}

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

/* ---- the checks ------------------------------------------------------------------------------------------------- */

#define CHECK_ALIGNED(p) CHECK_EQ((uintptr_t)(p) % 64, 0)

static void check_matrix(const struct exec *e, const struct matrix *w) {
    CHECK_EQ(w->format, MATRIX_DENSE);
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

/* ---- the ops ---------------------------------------------------------------------------------------------------- */

void embed(struct exec *e, void *x, const int32_t *tokens, const struct matrix *table, int T) {
    if (e->failed || !T) return;
    check_matrix(e, table);
    CHECK_LT(0, T);
    CHECK_LE(T, e->options.max_tokens);
    CHECK_ALIGNED(x);
    e->ops->embed(e, x, tokens, table, T);
}

void rms_norm(struct exec *e, void *out, const void *h, const void *weight, int T, int C, float eps) {
    if (e->failed || !T) return;
    CHECK_LT(0, T);
    CHECK_LT(0, C);
    CHECK_LE(C, e->options.max_width);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(h);
    CHECK_ALIGNED(weight);
    e->ops->rms_norm(e, out, h, weight, T, C, eps);
}

void add_rms_norm(struct exec *e, void *out, const void *h, void *residual, const void *weight, int T, int C,
                  float eps) {
    if (e->failed || !T) return;
    CHECK_LT(0, T);
    CHECK_LT(0, C);
    CHECK_LE(C, e->options.max_width);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(h);
    CHECK_ALIGNED(residual);
    CHECK_ALIGNED(weight);
    CHECK(out != residual && h != residual);
    e->ops->add_rms_norm(e, out, h, residual, weight, T, C, eps);
}

void linear(struct exec *e, void *y, const void *x, const struct matrix *w, const void *bias, int T) {
    if (e->failed || !T) return;
    check_matrix(e, w);
    CHECK_LT(0, T);
    CHECK_LE(T, e->options.max_tokens);
    CHECK_LE(w->rows, e->options.max_width);
    CHECK_ALIGNED(y);
    CHECK_ALIGNED(x);
    CHECK_ALIGNED(bias);
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

void qk_norm_rope_store(struct exec *e, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                        const void *q_norm, const void *k_norm, const struct rope *rope, const struct batch *batch,
                        int H, float eps) {
    if (e->failed || !batch->T) return;
    check_batch(e, kv, layer, batch, H);
    CHECK_EQ(rope->D, kv->layout.D);
    CHECK_EQ(rope->D % 2, 0);
    CHECK_ALIGNED(q);
    CHECK_ALIGNED(qkv);
    CHECK_ALIGNED(q_norm);
    CHECK_ALIGNED(k_norm);
    CHECK(q != qkv);
    e->ops->qk_norm_rope_store(e, q, kv, layer, qkv, q_norm, k_norm, rope, batch, H, eps);
}

void attention(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const struct batch *batch,
               int H) {
    if (e->failed || !batch->T) return;
    check_batch(e, kv, layer, batch, H);
    CHECK_ALIGNED(o);
    CHECK_ALIGNED(q);
    CHECK(o != q);
    e->ops->attention(e, o, q, kv, layer, batch, H);
}

void silu_mul(struct exec *e, void *out, const void *gate_up, int T, int F) {
    if (e->failed || !T) return;
    CHECK_LT(0, T);
    CHECK_LT(0, F);
    CHECK_LE(F, e->options.max_width);
    CHECK_ALIGNED(out);
    CHECK_ALIGNED(gate_up);
    CHECK(out != gate_up);
    e->ops->silu_mul(e, out, gate_up, T, F);
}

void add(struct exec *e, void *residual, const void *h, int T, int C) {
    if (e->failed || !T) return;
    CHECK_LT(0, T);
    CHECK_LT(0, C);
    CHECK_LE(C, e->options.max_width);
    CHECK_ALIGNED(residual);
    CHECK_ALIGNED(h);
    CHECK(residual != h);
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

void sample(struct exec *e, int32_t *ids, const float *logits, const struct sample_params *params, int R, int V) {
    if (e->failed || !R) return;
    CHECK_LT(0, R);
    CHECK_LT(0, V);
    CHECK_LE(R, e->options.max_rows);
    CHECK_LE(V, e->options.vocab);
    CHECK_ALIGNED(logits);
    for (int r = 0; r < R; r++) {
        const struct sample_params *p = &params[r];
        CHECK(p->temperature >= 0);
        if (p->allowed)
            for (int i = 0; i < p->n_allowed; i++) CHECK_LT((uint32_t)p->allowed[i], (uint32_t)V);
        for (int i = 0; i < p->n_biases; i++) CHECK_LT((uint32_t)p->biases[i].id, (uint32_t)V);
        for (int i = 0; i < p->n_counts; i++) CHECK_LT((uint32_t)p->counts[i].id, (uint32_t)V);
    }
    e->ops->sample(e, ids, logits, params, R, V);
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
        CHECK_LT((uint32_t)targets[r], (uint32_t)V);
    }
    e->ops->token_logprobs(e, out, stride, logits, targets, n_top, R, V);
}
