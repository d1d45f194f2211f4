/* bench_cpu.c - every op of the CPU backend beside the limit that binds it, and the steps composed of them.
 *
 * First the machine: fp32 multiply-add peak, the bf16 matrix unit's peak where there is one, and read bandwidth over a
 * buffer as large as the step's bytes (so in the same cache level) and over one past the last-level cache. Then each op
 * at the shapes of one model, its operands rotated over as many copies as the model has layers, so that it finds the
 * caches as a step would. Then whole steps: one token, 16 tokens of 16 sequences, a prefill.
 *
 * The limit of an op is the larger of bytes / bandwidth and FLOP / peak; `share` is that limit over the median time.
 * Other work on the machine only ever adds time, so the best of the repetitions is shown beside the median. */
#include "kernels/ops.h"
#include "kernels/threads.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timing {
    double median, best; /* seconds */
};

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now(void) {
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds_per_figure = 0.3;

/* Calls run(user, i) with i = 0, 1, ... until the figure's time is used up, at least 5 times after a warm-up. */
static struct timing measure(void (*run)(void *user, int i), void *user) {
    enum { MAX_RUNS = 20000, MIN_RUNS = 5 };
    static double times[MAX_RUNS];
    int n = 0;
    run(user, 0);
    for (double start = now(); n < MAX_RUNS && (n < MIN_RUNS || now() - start < seconds_per_figure); n++) {
        double t = now();
        run(user, n + 1);
        times[n] = now() - t;
    }
    qsort(times, (size_t)n, sizeof *times, by_value);
    return (struct timing){.median = times[n / 2], .best = times[0]};
}

/* ---- the machine's limits ---------------------------------------------------------------------------------------- */

static int n_threads;
static struct threads *pool;

/* Runs body once on every thread, as far as the system lets them run at the same time. */
static void on_all_threads(threads_body *body, void *arg) { threads_run(pool, n_threads, 1, body, arg); }

struct region {
    const char *data;
    size_t bytes;
};

static volatile float sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static float read_avx512(const char *p, size_t n) {
    __m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i + 256 <= n; i += 256)
        for (int j = 0; j < 4; j++) s[j] = _mm512_add_ps(s[j], _mm512_loadu_ps(p + i + 64 * j));
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

__attribute__((target("avx512f"))) static float fma_avx512(int n) {
    __m512 a[16], m = _mm512_set1_ps(0.999f);
    for (int j = 0; j < 16; j++) a[j] = _mm512_set1_ps((float)j);
    for (int i = 0; i < n; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < 16; j++) a[j] = _mm512_fmadd_ps(a[j], m, m);
    }
    float sum = 0;
    for (int j = 0; j < 16; j++) sum += _mm512_reduce_add_ps(a[j]);
    return sum;
}

__attribute__((target("avx2,fma"))) static float fma_avx2(int n) {
    __m256 a[12], m = _mm256_set1_ps(0.999f);
    for (int j = 0; j < 12; j++) a[j] = _mm256_set1_ps((float)j);
    for (int i = 0; i < n; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++) a[j] = _mm256_fmadd_ps(a[j], m, m);
    }
    float sum = 0;
    for (int j = 0; j < 12; j++) sum += a[j][0];
    return sum;
}
#endif

typedef float v4 __attribute__((vector_size(16)));

static float read_plain(const char *p, size_t n) {
    v4 s[4] = {{0}};
    for (size_t i = 0; i + 64 <= n; i += 64)
        for (int j = 0; j < 4; j++) s[j] += *(const v4 *)(p + i + 16 * j);
    v4 sum = (s[0] + s[1]) + (s[2] + s[3]);
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static float fma_plain(int n) {
    v4 a[8], m = {0.999f, 0.999f, 0.999f, 0.999f};
    for (int j = 0; j < 8; j++) a[j] = m * (float)j;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 8; j++) a[j] = a[j] * m + m;
    float sum = 0;
    for (int j = 0; j < 8; j++) sum += a[j][0];
    return sum;
}

static int instruction_set(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return 512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 256;
#endif
    return 128;
}

static void read_parts(void *arg, struct share *share) {
    const struct region *r = arg;
    size_t part = r->bytes / (size_t)n_threads / 256 * 256;
    for (int i, last; threads_take(share, &i, &last);) {
#if defined(__x86_64__)
        if (instruction_set() == 512) {
            sink = read_avx512(r->data + (size_t)i * part, part);
            continue;
        }
#endif
        sink = read_plain(r->data + (size_t)i * part, part);
    }
}

static void read_once(void *user, int i) {
    (void)i;
    on_all_threads(read_parts, user);
}

/* Bytes per second over a buffer of so many bytes. */
static struct timing read_bandwidth(size_t bytes) {
    struct region r = {.data = aligned_alloc(4096, bytes / 4096 * 4096 + 4096), .bytes = bytes};
    if (!r.data) return (struct timing){0};
    memset((void *)r.data, 1, bytes);
    struct timing t = measure(read_once, &r);
    free((void *)r.data);
    return (struct timing){.median = (double)bytes / t.median, .best = (double)bytes / t.best};
}

enum { FMA_ROUNDS = 200000 };

static void fma_parts(void *arg, struct share *share) {
    (void)arg;
    for (int i, last; threads_take(share, &i, &last);) {
#if defined(__x86_64__)
        if (instruction_set() == 512) sink = fma_avx512(FMA_ROUNDS);
        else if (instruction_set() == 256) sink = fma_avx2(FMA_ROUNDS);
        else
#endif
            sink = fma_plain(FMA_ROUNDS);
    }
}

static void fma_once(void *user, int i) {
    (void)i;
    on_all_threads(fma_parts, user);
}

static double fma_peak(void) {
    struct timing t = measure(fma_once, NULL);
    double flop_per_round = instruction_set() == 512 ? 16 * 16 * 2 : instruction_set() == 256 ? 12 * 8 * 2 : 8 * 4 * 2;
    return flop_per_round * FMA_ROUNDS * n_threads / t.best;
}

#if defined(__x86_64__) && defined(TANDEM_AMX)
__attribute__((target("amx-tile,amx-bf16"))) static void amx_loop(int n) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) c = {.palette = 1};
    for (int i = 0; i < 8; i++) c.rows[i] = 16, c.row_bytes[i] = 64;
    __asm__ volatile("" ::: "memory"); /* the intrinsic does not say that it reads c */
    _tile_loadconfig(&c);
    for (int i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 5, 6);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

static void amx_parts(void *arg, struct share *share) {
    (void)arg;
    for (int i, last; threads_take(share, &i, &last);) amx_loop(FMA_ROUNDS);
}

static void amx_once(void *user, int i) {
    (void)i;
    on_all_threads(amx_parts, user);
}

static double amx_peak(void) {
    struct timing t = measure(amx_once, NULL);
    return 4.0 * 16 * 16 * 32 * 2 * FMA_ROUNDS * n_threads / t.best;
}
#else
static double amx_peak(void) { return 0; }
#endif

struct limits {
    double bandwidth, llc_past, fp32, matrix; /* bytes/s at the step's size and past the caches; FLOP/s */
};

/* ---- a model of random weights ----------------------------------------------------------------------------------- */

struct shape {
    const char *name;
    int C, L, H, K, D, F, V;
};

static const struct shape shapes[] = {
    {"small", 256, 6, 4, 2, 64, 640, 6144},          /* weights/sample/small, 5.7 M parameters: in the caches */
    {"large", 1024, 28, 16, 8, 128, 3072, 151936},   /* Qwen3-0.6B: 1.2 GB in bf16, past them */
};

enum { P = 16, MAX_STEP = 1024 };

struct model {
    struct shape s;
    enum dtype dtype;
    struct exec *e;
    struct matrix embedding, *qkv, *o, *gate_up, *down; /* [L] */
    void *norm, *head_norm;                             /* [C], [D]: one for all layers */
    float *cos_sin;
    struct kv_cache kv;
    int32_t *table; /* block tables of 16 sequences */
    int max_blocks, max_len;
    void *x, *h, *residual, *wide, *q; /* activations of the largest step */
    float *logits;
    size_t weight_bytes;
    int32_t ids[16];
};

/* Random numbers of about unit variance over `cols` inputs, so that activations stay in range. */
static struct matrix random_matrix(struct model *m, int rows, int cols) {
    size_t n = (size_t)rows * (size_t)cols, bytes = dtype_bytes(m->dtype);
    void *data = exec_alloc(m->e, n * bytes);
    if (!data) {
        fprintf(stderr, "bench_cpu: no memory for the weights of shape %s\n", m->s.name);
        exit(1);
    }
    float scale = sqrtf(3.0f / (float)cols);
    uint32_t state = 12345;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        float v = ((float)(state >> 8) * 0x1p-23f - 1) * scale;
        if (m->dtype == DTYPE_F32) ((float *)data)[i] = v;
        else ((uint16_t *)data)[i] = m->dtype == DTYPE_BF16 ? bf16_from_f32(v) : f16_from_f32(v);
    }
    m->weight_bytes += n * bytes;
    return (struct matrix){.dtype = m->dtype, .rows = rows, .cols = cols, .data = data};
}

static void *ones(struct model *m, int n) {
    void *p = exec_alloc(m->e, (size_t)n * 4);
    for (int i = 0; i < n; i++)
        if (m->dtype == DTYPE_F32) ((float *)p)[i] = 1;
        else ((uint16_t *)p)[i] = m->dtype == DTYPE_BF16 ? bf16_from_f32(1) : f16_from_f32(1);
    return p;
}

static void model_open(struct model *m, const struct shape *s, enum dtype dtype, const char *backend, int max_len) {
    *m = (struct model){.s = *s, .dtype = dtype, .max_len = max_len};
    int width = s->V > 2 * s->F ? 2 * s->F : s->V, qkv_width = (s->H + 2 * s->K) * s->D;
    if (width < qkv_width) width = qkv_width;
    struct exec_options o = {.backend = backend, .dtype = dtype, .n_threads = n_threads, .max_tokens = MAX_STEP,
                             .max_rows = 16, .max_width = width, .max_kv_len = max_len + P, .max_heads = s->H,
                             .max_head_dim = s->D, .vocab = s->V};
    char err[ERR_BYTES];
    if (exec_open(&m->e, &o, err, sizeof err)) {
        fprintf(stderr, "bench_cpu: %s\n", err);
        exit(1);
    }
    m->embedding = random_matrix(m, s->V, s->C);
    struct matrix *all = calloc((size_t)s->L * 4, sizeof *all);
    m->qkv = all, m->o = all + s->L, m->gate_up = all + 2 * s->L, m->down = all + 3 * s->L;
    for (int l = 0; l < s->L; l++) {
        m->qkv[l] = random_matrix(m, qkv_width, s->C);
        m->o[l] = random_matrix(m, s->C, s->H * s->D);
        m->gate_up[l] = random_matrix(m, 2 * s->F, s->C);
        m->down[l] = random_matrix(m, s->C, s->F);
    }
    m->norm = ones(m, s->C);
    m->head_norm = ones(m, s->D);
    m->cos_sin = exec_alloc(m->e, sizeof(float) * (size_t)(max_len + P) * (size_t)s->D);
    rope_table(m->cos_sin, max_len + P, s->D, 1e6f, dtype);
    kv_layout_init(&m->kv.layout, dtype, s->L, s->K, s->D, P, 4096);
    m->max_blocks = (max_len + P) / P;
    m->kv.pool = exec_alloc(m->e, 16 * (size_t)m->max_blocks * (size_t)m->kv.layout.block_granules * 4096);
    m->table = calloc(16 * (size_t)m->max_blocks, sizeof *m->table);
    if (!m->kv.pool || !m->table) {
        fprintf(stderr, "bench_cpu: no memory for the KV of 16 sequences of %d tokens\n", max_len);
        exit(1);
    }
    for (int i = 0; i < 16 * m->max_blocks; i++) m->table[i] = i * m->kv.layout.block_granules;
    size_t row = (size_t)MAX_STEP * 4;
    m->x = exec_alloc(m->e, row * (size_t)width);
    m->h = exec_alloc(m->e, row * (size_t)width);
    m->residual = exec_alloc(m->e, row * (size_t)s->C);
    m->wide = exec_alloc(m->e, row * (size_t)width);
    m->q = exec_alloc(m->e, row * (size_t)(s->H * s->D));
    m->logits = exec_alloc(m->e, sizeof(float) * 16 * (size_t)s->V);
}

static void model_close(struct model *m) {
    exec_free(m->e, (void *)m->embedding.data);
    for (int i = 0; i < 4 * m->s.L; i++) exec_free(m->e, (void *)m->qkv[i].data);
    free(m->qkv);
    void *all[] = {m->norm, m->head_norm, m->cos_sin, m->kv.pool, m->x, m->h, m->residual, m->wide, m->q, m->logits};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) exec_free(m->e, all[i]);
    free(m->table);
    exec_close(m->e);
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */

struct step {
    struct model *m;
    struct batch batch;
    int32_t tokens[MAX_STEP], positions[MAX_STEP], seq_of[MAX_STEP], query_start[17], kv_len[16], rows[16];
};

/* B sequences that each advance by n tokens to `len` tokens of context; logits of the last token of each. */
static void step_init(struct step *s, struct model *m, int B, int n, int len) {
    s->m = m;
    for (int b = 0, t = 0; b < B; b++) {
        s->query_start[b] = t;
        s->kv_len[b] = len;
        for (int i = 0; i < n; i++, t++) {
            s->tokens[t] = (t * 7919 + 13) % m->s.V;
            s->positions[t] = len - n + i;
            s->seq_of[t] = b;
        }
        s->query_start[b + 1] = t;
        s->rows[b] = t - 1;
    }
    s->batch = (struct batch){.T = B * n, .B = B, .tokens = s->tokens, .positions = s->positions, .seq_of = s->seq_of,
                              .query_start = s->query_start, .kv_len = s->kv_len, .block_table = m->table,
                              .max_blocks = m->max_blocks, .R = B, .logits_rows = s->rows};
}

static void run_step(void *user, int i) {
    struct step *s = user;
    struct model *m = s->m;
    const struct shape *a = &m->s;
    struct rope rope = {.cos_sin = m->cos_sin, .max_positions = m->max_len + P, .D = a->D};
    int T = s->batch.T;
    (void)i;
    embed(m->e, m->residual, s->tokens, NULL, &m->embedding, T);
    for (int l = 0; l < a->L; l++) {
        norm_linear(m->e, m->wide, m->x, m->residual, m->norm, 1e-6f, &m->qkv[l], NULL, T);
        qk_norm_rope_store(m->e, m->q, &m->kv, l, m->wide, m->head_norm, m->head_norm, NULL, &rope, &s->batch, a->H,
                           1e-6f);
        attention(m->e, m->h, m->q, &m->kv, l, NULL, &rope, &s->batch, a->H);
        linear_add(m->e, m->residual, m->x, m->h, &m->o[l], T);
        norm_linear_silu_mul(m->e, m->h, m->wide, m->x, m->residual, m->norm, 1e-6f, &m->gate_up[l], T);
        linear_add(m->e, m->residual, m->x, m->h, &m->down[l], T);
    }
    gather_rows(m->e, m->h, m->residual, s->rows, s->batch.R, a->C);
    rms_norm(m->e, m->x, m->h, m->norm, s->batch.R, a->C, 1e-6f);
    linear_f32(m->e, m->logits, m->x, &m->embedding, s->batch.R);
    struct sample_params greedy[16];
    for (int r = 0; r < s->batch.R; r++) greedy[r] = (struct sample_params){.repetition = 1, .top_p = 1};
    sample(m->e, m->ids, m->logits, sample_set(m->e, greedy, s->batch.R, a->V), s->batch.R, a->V);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static bool json;
static bool first_row = true;

static const char *human(char *out, size_t n, double v, const char *unit) {
    static const char *const prefix[] = {"", "k", "M", "G", "T"};
    int i = 0;
    for (; v >= 1000 && i < 4; i++) v /= 1000;
    snprintf(out, n, v < 10 ? "%.2f %s%s" : "%.1f %s%s", v, prefix[i], unit);
    return out;
}

/* The least time that so much work takes. matrix_unit: the arithmetic can run there. */
static double least_seconds(const struct limits *limits, double bytes, double flop, bool matrix_unit) {
    return fmax(bytes / limits->bandwidth, flop / (matrix_unit && limits->matrix ? limits->matrix : limits->fp32));
}

static void row(const struct limits *limits, const char *name, int T, struct timing t, double bytes, double flop,
                bool matrix_unit) {
    double least = least_seconds(limits, bytes, flop, matrix_unit);
    const char *bound = bytes / limits->bandwidth >= least ? "bandwidth" : "arithmetic";
    double share = least / t.median, best_share = least / t.best;
    if (json) {
        printf("%s\n    {\"op\": \"%s\", \"T\": %d, \"median_s\": %.4g, \"best_s\": %.4g, \"bytes\": %.0f, "
               "\"flop\": %.0f, \"bound\": \"%s\", \"share\": %.3f, \"best_share\": %.3f}",
               first_row ? "" : ",", name, T, t.median, t.best, bytes, flop, bound, share, best_share);
        first_row = false;
        return;
    }
    char gb[32], gf[32];
    printf("  %-22s %5d %11.1f %11.1f %12s %14s  %-10s %4.0f %% %4.0f %%\n", name, T, t.median * 1e6, t.best * 1e6,
           human(gb, sizeof gb, bytes / t.median, "B/s"), human(gf, sizeof gf, flop / t.median, "FLOP/s"), bound,
           share * 100, best_share * 100);
}

enum op { OP_EMBED, OP_QKV, OP_ROPE, OP_ATTENTION, OP_O, OP_GATE_UP, OP_DOWN, OP_NORM, OP_LOGITS, OP_GREEDY, OP_SAMPLE,
          OP_LOGPROBS, OP_COUNT };
static const char *const op_names[OP_COUNT] = {"embed", "norm_linear qkv", "qk_norm_rope_store", "attention",
                                               "linear_add o", "norm_linear_silu_mul", "linear_add down", "rms_norm",
                                               "linear logits", "sample greedy", "sample top-p 0.9",
                                               "token_logprobs 20"};

struct op_run {
    struct step *step;
    enum op op;
};

static void run_op(void *user, int i) {
    const struct op_run *r = user;
    struct step *s = r->step;
    struct model *m = s->m;
    const struct shape *a = &m->s;
    struct rope rope = {.cos_sin = m->cos_sin, .max_positions = m->max_len + P, .D = a->D};
    int T = s->batch.T, R = s->batch.R, l = i % a->L;
    switch (r->op) {
    case OP_EMBED: embed(m->e, m->x, s->tokens, NULL, &m->embedding, T); break;
    case OP_QKV: norm_linear(m->e, m->wide, m->x, m->residual, m->norm, 1e-6f, &m->qkv[l], NULL, T); break;
    case OP_ROPE:
        qk_norm_rope_store(m->e, m->q, &m->kv, l, m->wide, m->head_norm, m->head_norm, NULL, &rope, &s->batch, a->H,
                           1e-6f);
        break;
    case OP_ATTENTION: attention(m->e, m->h, m->q, &m->kv, l, NULL, &rope, &s->batch, a->H); break;
    case OP_O: linear_add(m->e, m->residual, m->x, m->h, &m->o[l], T); break;
    case OP_GATE_UP:
        norm_linear_silu_mul(m->e, m->h, m->wide, m->x, m->residual, m->norm, 1e-6f, &m->gate_up[l], T);
        break;
    case OP_DOWN: linear_add(m->e, m->residual, m->x, m->h, &m->down[l], T); break;
    case OP_NORM: rms_norm(m->e, m->x, m->residual, m->norm, R, a->C, 1e-6f); break;
    case OP_LOGITS: linear_f32(m->e, m->logits, m->x, &m->embedding, R); break;
    case OP_GREEDY:
    case OP_SAMPLE: {
        struct sample_params p[16];
        for (int b = 0; b < R; b++)
            p[b] = (struct sample_params){.repetition = 1, .top_p = 1, .seed = 1, .position = i};
        if (r->op == OP_SAMPLE)
            for (int b = 0; b < R; b++) p[b].temperature = 0.8f, p[b].top_p = 0.9f;
        sample(m->e, m->ids, m->logits, sample_set(m->e, p, R, a->V), R, a->V);
        break;
    }
    case OP_LOGPROBS: {
        struct token_logprob out[16 * 21];
        int32_t targets[16] = {0};
        int n_top[16];
        for (int b = 0; b < R; b++) n_top[b] = 20;
        token_logprobs(m->e, out, 21, m->logits, targets, n_top, R, a->V);
        break;
    }
    default: break;
    }
}

static void matrix_cost(const struct matrix *w, int T, double *bytes, double *flop) {
    *bytes = (double)w->rows * w->cols * (double)dtype_bytes(w->dtype);
    *flop = 2.0 * w->rows * w->cols * T;
}

/* Sum over the step's tokens of the positions that each attends to. */
static double attended(const struct step *s) {
    double n = 0;
    for (int t = 0; t < s->batch.T; t++) n += s->positions[t] + 1;
    return n;
}

static void op_cost(const struct step *s, enum op op, double *bytes, double *flop) {
    const struct model *m = s->m;
    const struct shape *a = &m->s;
    double T = s->batch.T, R = s->batch.R, size = (double)dtype_bytes(m->dtype), kv = 0;
    for (int b = 0; b < s->batch.B; b++) kv += s->kv_len[b];
    *bytes = *flop = 0;
    switch (op) {
    case OP_EMBED: *bytes = 2 * T * a->C * size; break;
    case OP_NORM: *bytes = 3 * R * a->C * size, *flop = 5 * R * a->C; break;
    case OP_QKV: matrix_cost(&m->qkv[0], s->batch.T, bytes, flop); break;
    case OP_ROPE: *bytes = 2 * T * (a->H + 2 * a->K) * a->D * size, *flop = 10 * T * (a->H + a->K) * a->D; break;
    case OP_ATTENTION: *bytes = 2 * kv * a->K * a->D * size, *flop = 4 * attended(s) * a->H * a->D; break;
    case OP_O: matrix_cost(&m->o[0], s->batch.T, bytes, flop); break;
    case OP_GATE_UP: matrix_cost(&m->gate_up[0], s->batch.T, bytes, flop); break;
    case OP_DOWN: matrix_cost(&m->down[0], s->batch.T, bytes, flop); break;
    case OP_LOGITS: matrix_cost(&m->embedding, s->batch.R, bytes, flop); break;
    default: *bytes = 4 * R * a->V; break;
    }
}

/* Reads weights or KV. */
static bool is_product(enum op op) {
    return op == OP_QKV || op == OP_ATTENTION || op == OP_O || op == OP_GATE_UP || op == OP_DOWN || op == OP_LOGITS;
}

/* Every op at the step's sizes, then the step. Returns the step's timing; *least is what the limits allow. */
static struct timing bench_step(const struct limits *limits, struct step *s, const char *name, bool ops,
                                double *least) {
    const struct shape *a = &s->m->s;
    double bytes, flop, all_bytes = 0, all_flop = 0;
    for (int op = 0; op < OP_COUNT; op++) {
        op_cost(s, op, &bytes, &flop);
        double times = op == OP_EMBED || op >= OP_NORM ? 1 : a->L;
        /* What a step must read is weights and KV; activations stay in the caches. */
        if (is_product(op))
            all_bytes += bytes * times, all_flop += flop * times;
        if (!ops) continue;
        struct op_run r = {.step = s, .op = op};
        row(limits, op_names[op], op >= OP_NORM ? s->batch.R : s->batch.T, measure(run_op, &r), bytes, flop,
            s->m->dtype == DTYPE_BF16 && is_product(op));
    }
    struct timing t = measure(run_step, s);
    row(limits, name, s->batch.T, t, all_bytes, all_flop, s->m->dtype == DTYPE_BF16);
    *least = least_seconds(limits, all_bytes, all_flop, s->m->dtype == DTYPE_BF16);
    return t;
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static const char help[] =
    "usage: bench_cpu [--shape small|large|all] [--dtype bf16|f16|f32] [--threads N] [--backend NAME]\n"
    "                 [--context N] [--seconds S] [--no-ops] [--cpu-time] [--json]\n"
    "\n"
    "Times every op of the CPU backend, and whole steps made of them, beside the machine's measured limits.\n"
    "\n"
    "  --shape    small (weights/sample/small: 6 M parameters, in the caches), large (0.6 B, past them), all  [small]\n"
    "  --dtype    of weights and activations  [bf16]\n"
    "  --threads  0: one per usable core  [0]\n"
    "  --backend  cpu, or one table of it: cpu x86_64_v3  [cpu]\n"
    "  --context  tokens of context when decoding  [512]\n"
    "  --seconds  spent on each figure  [0.3]\n"
    "  --no-ops   whole steps only\n"
    "  --cpu-time the processor time of the one thread (so with --threads 1), for a machine that others use too\n"
    "  --json     figures for programs\n"
    "\n"
    "example: bench_cpu --shape small --dtype bf16 --no-ops\n";

static void bench_shape(const struct shape *shape, enum dtype dtype, const char *backend, int context, bool ops,
                        double fp32, double matrix) {
    struct model m;
    model_open(&m, shape, dtype, backend, context > MAX_STEP ? context : MAX_STEP);
    bool amx = strstr(exec_backend(m.e), "amx");
    struct limits limits = {.fp32 = fp32, .matrix = amx ? matrix : 0};
    size_t past = 512u << 20;
    struct timing here = read_bandwidth(m.weight_bytes), outside = read_bandwidth(past);
    limits.bandwidth = here.best, limits.llc_past = outside.best;
    if (json) {
        printf("%s{\"shape\": \"%s\", \"dtype\": \"%s\", \"backend\": \"%s\", \"weight_bytes\": %zu, "
               "\"read_bytes_per_s\": %.4g, \"read_past_caches_bytes_per_s\": %.4g, \"fp32_flop_per_s\": %.4g, "
               "\"matrix_flop_per_s\": %.4g, \"rows\": [", shape == shapes ? "" : ", ", shape->name, dtype_name(dtype),
               exec_backend(m.e), m.weight_bytes, limits.bandwidth, limits.llc_past, fp32, limits.matrix);
        first_row = true;
    } else {
        char a[32], b[32], c[32], d[32];
        printf("%s: C %d, L %d, H %d, K %d, D %d, F %d, V %d, %s, %.1f MB of weights; %s\n", shape->name, shape->C,
               shape->L, shape->H, shape->K, shape->D, shape->F, shape->V, dtype_name(dtype),
               (double)m.weight_bytes / 1e6, exec_backend(m.e));
        printf("  read bandwidth over %.1f MB %s (median %s), over %.0f MB %s; fp32 %s", (double)m.weight_bytes / 1e6,
               human(a, sizeof a, here.best, "B/s"), human(d, sizeof d, here.median, "B/s"), (double)past / 1e6,
               human(b, sizeof b, outside.best, "B/s"), human(c, sizeof c, fp32, "FLOP/s"));
        if (limits.matrix) printf(", bf16 matrix unit %s", human(a, sizeof a, limits.matrix, "FLOP/s"));
        printf("\n\n  %-22s %5s %11s %11s %12s %14s  %-10s %6s %6s\n", "op", "T", "median us", "best us", "bytes",
               "arithmetic", "bound by", "share", "best");
    }
    static struct step step;
    step_init(&step, &m, 1, 1, context);
    double least_one, least_sixteen, unused;
    struct timing one = bench_step(&limits, &step, "STEP: 1 sequence", ops, &least_one);
    step_init(&step, &m, 16, 1, context);
    struct timing sixteen = bench_step(&limits, &step, "STEP: 16 sequences", ops, &least_sixteen);
    step_init(&step, &m, 1, 1000, 1000);
    struct timing prefill = bench_step(&limits, &step, "STEP: prefill 1000", ops, &unused);
    if (json)
        printf("\n  ], \"decode_tokens_per_s\": %.1f, \"decode_16_tokens_per_s\": %.1f, \"batch_gain\": %.2f, "
               "\"prefill_tokens_per_s\": %.0f}", 1 / one.median, 16 / sixteen.median, 16 * one.median / sixteen.median,
               1000 / prefill.median);
    else
        printf("\n  decode: %.0f tokens/s alone, %.0f with 16 sequences (%.1f times; at the limits %.1f times); "
               "prefill: %.0f tokens/s\n\n",
               1 / one.median, 16 / sixteen.median, 16 * one.median / sixteen.median, 16 * least_one / least_sixteen,
               1000 / prefill.median);
    model_close(&m);
}

static int usage_error(const char *what) {
    fprintf(stderr, "bench_cpu: %s\n%s", what, help);
    return 2;
}

int main(int argc, char **argv) {
    static const struct option options[] = {
        {"shape", 1, NULL, 's'},   {"dtype", 1, NULL, 'd'},   {"threads", 1, NULL, 't'},
        {"backend", 1, NULL, 'b'}, {"context", 1, NULL, 'c'}, {"seconds", 1, NULL, 'S'},
        {"no-ops", 0, NULL, 'n'},  {"cpu-time", 0, NULL, 'C'}, {"json", 0, NULL, 'j'},    {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    const char *shape = "small", *backend = "cpu", *dtype_text = "bf16";
    int context = 512;
    bool ops = true;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 's': shape = optarg; break;
        case 'd': dtype_text = optarg; break;
        case 't': n_threads = atoi(optarg); break;
        case 'b': backend = optarg; break;
        case 'c': context = atoi(optarg); break;
        case 'S': seconds_per_figure = atof(optarg); break;
        case 'n': ops = false; break;
        case 'C': clock_used = CLOCK_THREAD_CPUTIME_ID; break;
        case 'j': json = true; break;
        case 'h': fputs(help, stdout); return 0;
        default: fputs(help, stderr); return 2;
        }
    }
    if (optind < argc) return usage_error("it takes no operands");
    enum dtype dtype = !strcmp(dtype_text, "bf16") ? DTYPE_BF16 : !strcmp(dtype_text, "f16") ? DTYPE_F16 : DTYPE_F32;
    if (dtype == DTYPE_F32 && strcmp(dtype_text, "f32")) return usage_error("--dtype is bf16, f16 or f32");
    if (context < 1 || context > 1 << 20) return usage_error("--context is 1 to 1048576");
    if (!(seconds_per_figure > 0 && seconds_per_figure < 1000)) return usage_error("--seconds is up to 1000");
    if (n_threads < 0 || n_threads > 1024) return usage_error("--threads is 0 to 1024");

    struct exec *e; /* resolves the number of threads, and asks for the matrix unit */
    struct exec_options probe = {.backend = backend, .n_threads = n_threads, .max_tokens = 1, .max_rows = 1,
                                 .max_width = 1, .max_kv_len = 1, .max_heads = 1, .max_head_dim = 1, .vocab = 1};
    char err[ERR_BYTES];
    if (exec_open(&e, &probe, err, sizeof err)) return usage_error(err);
    n_threads = exec_n_threads(e);
    if (clock_used != CLOCK_MONOTONIC && n_threads > 1) return usage_error("--cpu-time needs --threads 1");
    bool amx = strstr(exec_backend(e), "amx");
    exec_close(e);
    pool = threads_open(n_threads);
    if (!pool) return usage_error("the system gave no threads");
    double fp32 = fma_peak(), matrix = amx ? amx_peak() : 0;
    bool found = false;
    if (json) printf("[");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(shape, "all") && strcmp(shape, shapes[i].name)) continue;
        found = true;
        bench_shape(&shapes[i], dtype, backend, context, ops, fp32, matrix);
    }
    if (json) printf("]\n");
    threads_close(pool);
    return found ? 0 : usage_error("--shape is small, large or all");
}
