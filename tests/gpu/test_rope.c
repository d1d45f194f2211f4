/* test_rope.c - qk_norm_rope_store against its CPU twin, pool contents included, and the simple attention against sums
 * in double precision over what the pool holds. With --time: microseconds at the shapes of a 14B model. */
#include "gpu_test.h"
#include "gpu_time.h"

static const enum dtype acts[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* attention.cu prefers faster kernels, so this one is called by its name in the object file. */
void attention_simple(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                      const struct rope *rope, const struct batch *batch, int H, int first_token, int n_tokens)
    __asm__("_Z22cuda__attention_simpleP4execPvPKvPK8kv_cacheiS3_PK4ropePK5batchiii");

struct shape {
    int H, K, D, P;
    enum dtype kv; /* DTYPE_I32: as the activations */
    bool norm, bias;
};

/* ---- a batch on both sides --------------------------------------------------------------------------------------- */

enum { L = 3, LAYER = 1, MAX_POSITIONS = 4096, N_ARRAYS = 5 };

struct setup { /* owned on both sides */
    struct twin arrays[N_ARRAYS]; /* positions, seq_of, query_start, kv_len, block_table */
    struct twin angles, pool;
    struct batch cpu, gpu;
    struct rope rope_cpu, rope_gpu;
    struct kv_cache kv_cpu, kv_gpu;
};

static struct twin ints(struct gpu_test *t, const int32_t *from, size_t n) {
    struct twin x = twin_poison(t, DTYPE_I32, n);
    memcpy(x.cpu, from, n * sizeof *from);
    twin_upload(t, &x);
    return x;
}

static void point(struct batch *b, const struct twin *arrays, bool gpu) {
    const int32_t **to[N_ARRAYS] = {&b->positions, &b->seq_of, &b->query_start, &b->kv_len, &b->block_table};
    for (int i = 0; i < N_ARRAYS; i++) *to[i] = gpu ? arrays[i].gpu : arrays[i].cpu;
}

/* B sequences: the first half have one token, the others up to max_query; contexts up to max_kv. Blocks are scattered
 * over the pool, which is poisoned. */
static struct setup setup_new(struct gpu_test *t, const struct shape *s, int B, int max_query, int max_kv) {
    struct setup u = {0};
    const enum dtype kv = s->kv == DTYPE_I32 ? t->act : s->kv;
    struct kv_layout layout;
    kv_layout_init(&layout, kv, L, s->K, s->D, s->P, 64);
    int max_blocks = (max_kv + s->P - 1) / s->P, n_blocks = B * max_blocks, T = 0;
    int32_t *positions = calloc((size_t)B * max_query, 4), *seq_of = calloc((size_t)B * max_query, 4);
    int32_t *query_start = calloc((size_t)B + 1, 4), *kv_len = calloc((size_t)B, 4),
            *table = calloc((size_t)n_blocks, 4);
    for (int b = 0; b < B; b++) {
        int n = b < (B + 1) / 2 || max_query < 2 ? 1 : 2 + gpu_test_below(t, max_query - 1);
        kv_len[b] = n + (max_kv > n ? gpu_test_below(t, max_kv - n + 1) : 0);
        if (b == 0)
            kv_len[b] = s->P < max_kv ? s->P : max_kv; /* the last slot of a block, then the first of the next */
        if (b == 1 && s->P + n <= max_kv) kv_len[b] = s->P + n;
        for (int i = 0; i < n; i++, T++) positions[T] = kv_len[b] - n + i, seq_of[T] = b;
        query_start[b + 1] = T;
    }
    for (int i = 0; i < n_blocks; i++) table[i] = i;
    for (int i = n_blocks - 1; i > 0; i--) { /* shuffled */
        int j = gpu_test_below(t, i + 1);
        int32_t swap = table[i];
        table[i] = table[j], table[j] = swap;
    }
    for (int i = 0; i < n_blocks; i++) table[i] *= layout.block_granules;
    const int32_t *from[N_ARRAYS] = {positions, seq_of, query_start, kv_len, table};
    const size_t counts[N_ARRAYS] = {(size_t)T, (size_t)T, (size_t)B + 1, (size_t)B, (size_t)n_blocks};
    for (int i = 0; i < N_ARRAYS; i++) u.arrays[i] = ints(t, from[i], counts[i]);
    u.cpu = (struct batch){.T = T, .B = B, .n_decode = max_query < 2 ? B : (B + 1) / 2, .max_query = max_query,
                           .max_kv_len = max_kv, .max_blocks = max_blocks};
    u.gpu = u.cpu;
    point(&u.cpu, u.arrays, false);
    point(&u.gpu, u.arrays, true);
    u.angles = twin_poison(t, DTYPE_F32, (size_t)MAX_POSITIONS * s->D);
    rope_table(u.angles.cpu, MAX_POSITIONS, s->D, 1e6f, t->act);
    twin_upload(t, &u.angles);
    u.rope_cpu = (struct rope){.cos_sin = u.angles.cpu, .max_positions = MAX_POSITIONS, .D = s->D};
    u.rope_gpu = (struct rope){.cos_sin = u.angles.gpu, .max_positions = MAX_POSITIONS, .D = s->D};
    u.pool = twin_poison(t, DTYPE_I32, (size_t)n_blocks * layout.block_granules * 64 / 4);
    u.kv_cpu = (struct kv_cache){.pool = u.pool.cpu, .layout = layout};
    u.kv_gpu = (struct kv_cache){.pool = u.pool.gpu, .layout = layout};
    for (int i = 0; i < N_ARRAYS; i++) free((void *)from[i]);
    return u;
}

static void setup_free(struct gpu_test *t, struct setup *u) {
    for (int i = 0; i < N_ARRAYS; i++) twin_free(t, &u->arrays[i]);
    twin_free(t, &u->angles);
    twin_free(t, &u->pool);
}

/* ---- reading a pool ---------------------------------------------------------------------------------------------- */

static float e4m3_value(uint8_t h) {
    int exponent = h >> 3 & 15, mantissa = h & 7;
    float x = (h & 0x7f) == 0x7f ? NAN
              : exponent         ? ldexpf((float)(8 + mantissa), exponent - 10)
                                 : ldexpf((float)mantissa, -9);
    return h & 0x80 ? -x : x;
}

/* Element d of K (which 0) or V (which 1) at position p of sequence b, as attention sees it. */
static float pool_value(const char *pool, const struct setup *u, int b, int p, int which, int k, int d) {
    const struct kv_layout *a = &u->kv_cpu.layout;
    const char *block =
        pool + (size_t)u->cpu.block_table[b * u->cpu.max_blocks + p / a->P] * 64 + LAYER * a->layer_bytes;
    const size_t row = ((size_t)which * a->K + k) * a->P + p % a->P;
    if (a->dtype != DTYPE_F8_E4M3) return twin_get(a->dtype, block, row * a->D + d);
    return ((const float *)(block + 2 * (size_t)a->K * a->P * a->D))[row] *
           e4m3_value(((const uint8_t *)block)[row * a->D + d]);
}

/* ---- qk_norm_rope_store ------------------------------------------------------------------------------------------ */

/* The norm may round a value to its neighbour: one step of the format at 4, near the largest that go into the
 * rotation. */
static double one_step(enum dtype t) { return t == DTYPE_F32 ? 2e-5 : t == DTYPE_BF16 ? 0x1p-4 : 0x1p-7; }

/* What the tokens of the batch wrote, and that nothing else was written. */
static void compare_pools(struct gpu_test *t, const char *name, const struct setup *u) {
    const struct kv_layout *a = &u->kv_cpu.layout;
    const bool fp8 = a->dtype == DTYPE_F8_E4M3;
    char *found = malloc(u->pool.n * 4), detail[256];
    exec_download(t->gpu, found, u->pool.gpu, u->pool.n * 4);
    double square = 0, distance = 0;
    int n_off = 0;
    for (int i = 0; i < u->cpu.T; i++)
        for (int which = 0; which < 2; which++)
            for (int k = 0; k < a->K; k++) {
                double max = 0;
                for (int d = 0; d < a->D; d++)
                    max =
                        fmax(max, fabs(pool_value(u->pool.cpu, u, u->cpu.seq_of[i], u->cpu.positions[i], which, k, d)));
                for (int d = 0; d < a->D; d++) {
                    double want = pool_value(u->pool.cpu, u, u->cpu.seq_of[i], u->cpu.positions[i], which, k, d);
                    double got = pool_value(found, u, u->cpu.seq_of[i], u->cpu.positions[i], which, k, d);
                    square += want * want;
                    distance += (got - want) * (got - want);
                    /* One more step of e4m3: an eighth, or 2^-9 of the scale. */
                    double step = one_step(t->act) + (fp8 ? 0.13 * fabs(want) + max * 0x1p-17 : 0);
                    n_off += !(fabs(got - want) <= step);
                }
            }
    /* Bytes that the CPU left poisoned, the GPU must have left so. */
    size_t n_stray = 0;
    for (size_t i = 0; i < u->pool.n * 4; i++)
        n_stray += ((uint8_t *)u->pool.cpu)[i] == 0xff && (uint8_t)found[i] != 0xff &&
                   (i < 4 || ((uint8_t *)u->pool.cpu)[i - 1] == 0xff) &&
                   (i + 1 == u->pool.n * 4 || ((uint8_t *)u->pool.cpu)[i + 1] == 0xff) && a->dtype != DTYPE_F32;
    double rms = sqrt(distance / square), bound = fp8 ? 2e-3 : t->act == DTYPE_F32 ? 2e-6 : 5e-4;
    snprintf(detail, sizeof detail, "rms error %.2e (bound %.0e), %d elements off, %zu bytes written beside", rms,
             bound, n_off, n_stray);
    gpu_test_verdict(t, rms <= bound && !n_off && !n_stray, name, detail);
    free(found);
}

static void test_rope(struct gpu_test *t, const struct shape *s, int B, int max_query, int max_kv) {
    char name[200], pool_name[220];
    struct setup u = setup_new(t, s, B, max_query, max_kv);
    const int T = u.cpu.T, width = (s->H + 2 * s->K) * s->D;
    snprintf(name, sizeof name, "qk_norm_rope_store %s, KV %s, T %d, H %d, K %d, D %d, P %d%s%s", dtype_name(t->act),
             dtype_name(u.kv_cpu.layout.dtype), T, s->H, s->K, s->D, s->P, s->norm ? ", norms" : "",
             s->bias ? ", k_bias" : "");
    struct twin qkv = twin_random(t, t->act, (size_t)T * width, 0, 3),
                q = twin_poison(t, t->act, (size_t)T * s->H * s->D);
    struct twin q_norm = twin_random(t, t->act, (size_t)s->D, 1, 0.5f),
                k_norm = twin_random(t, t->act, (size_t)s->D, 1, 0.5f);
    struct twin bias = twin_random(t, t->act, (size_t)s->K * s->D, 0, 100);
    for (int i = 0; s->bias && i < T; i++) /* as a projection with this bias gives them */
        for (int j = 0; j < s->K * s->D; j++) {
            size_t at = (size_t)i * width + (size_t)s->H * s->D + j;
            twin_set(&qkv, at, twin_get(t->act, qkv.cpu, at) + twin_get(t->act, bias.cpu, (size_t)j));
        }
    for (int d = 0; d < s->D; d++)
        twin_set(&qkv, (size_t)(s->H + s->K) * s->D + d, 0); /* a head of zeros: a scale of 1 */
    twin_upload(t, &qkv);
    qk_norm_rope_store(t->cpu, q.cpu, &u.kv_cpu, LAYER, qkv.cpu, s->norm ? q_norm.cpu : NULL,
                       s->norm ? k_norm.cpu : NULL, s->bias ? bias.cpu : NULL, &u.rope_cpu, &u.cpu, s->H, 1e-6f);
    qk_norm_rope_store(t->gpu, q.gpu, &u.kv_gpu, LAYER, qkv.gpu, s->norm ? q_norm.gpu : NULL,
                       s->norm ? k_norm.gpu : NULL, s->bias ? bias.gpu : NULL, &u.rope_gpu, &u.gpu, s->H, 1e-6f);
    twin_compare(t, name, &q, t->act == DTYPE_F32 ? 2e-6 : 5e-4, one_step(t->act), 0);
    snprintf(pool_name, sizeof pool_name, "%s: pool", name);
    compare_pools(t, pool_name, &u);
    twin_free(t, &qkv), twin_free(t, &q), twin_free(t, &q_norm), twin_free(t, &k_norm), twin_free(t, &bias);
    setup_free(t, &u);
}

/* A token's q is the same to the bit, alone or among many. */
static void test_alone(struct gpu_test *t) {
    const struct shape s = {.H = 40, .K = 8, .D = 128, .P = 16, .kv = DTYPE_I32, .norm = true};
    struct setup u = setup_new(t, &s, 64, 40, 100);
    const int T = u.cpu.T, width = (s.H + 2 * s.K) * s.D, n = s.H * s.D;
    const size_t b = dtype_bytes(t->act);
    struct twin qkv = twin_random(t, t->act, (size_t)T * width, 0, 3), q = twin_poison(t, t->act, (size_t)T * n);
    struct twin one = twin_poison(t, t->act, (size_t)n), w = twin_random(t, t->act, (size_t)s.D, 1, 0.5f);
    char *all = malloc((size_t)T * n * b), *alone = malloc((size_t)n * b);
    qk_norm_rope_store(t->gpu, q.gpu, &u.kv_gpu, LAYER, qkv.gpu, w.gpu, w.gpu, NULL, &u.rope_gpu, &u.gpu, s.H, 1e-6f);
    exec_download(t->gpu, all, q.gpu, (size_t)T * n * b);
    int n_off = 0;
    for (int i = 0; i < T; i += 37) {
        if (i * (size_t)width * b % 64) continue;
        struct batch single = u.gpu;
        single.T = single.B = single.n_decode = 1;
        single.positions += i, single.seq_of += i;
        qk_norm_rope_store(t->gpu, one.gpu, &u.kv_gpu, LAYER, (char *)qkv.gpu + i * (size_t)width * b, w.gpu, w.gpu,
                           NULL, &u.rope_gpu, &single, s.H, 1e-6f);
        exec_download(t->gpu, alone, one.gpu, (size_t)n * b);
        n_off += memcmp(alone, all + (size_t)i * n * b, (size_t)n * b) != 0;
    }
    char name[100];
    snprintf(name, sizeof name, "qk_norm_rope_store %s: a token alone and among %d", dtype_name(t->act), T);
    gpu_test_verdict(t, !n_off, name, n_off ? "bits differ" : "the same bits");
    free(all), free(alone);
    twin_free(t, &qkv), twin_free(t, &q), twin_free(t, &one), twin_free(t, &w);
    setup_free(t, &u);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* One row of o in double precision; the pool's K plus the rotated bias. */
static void reference(double *o, const struct setup *u, const struct twin *q, const struct twin *bias,
                      const struct shape *s, int i, int h) {
    const int b = u->cpu.seq_of[i], n = u->cpu.positions[i] + 1, k = h / (s->H / s->K), half = s->D / 2;
    double *score = malloc((size_t)n * sizeof *score), max = -INFINITY, sum = 0;
    for (int p = 0; p < n; p++) {
        const float *angle = u->rope_cpu.cos_sin + (size_t)p * s->D;
        double dot = 0;
        for (int d = 0; d < s->D; d++) {
            double x = pool_value(u->pool.cpu, u, b, p, 0, k, d);
            if (s->bias) {
                const int j = d % half;
                double lo = twin_get(q->dtype, bias->cpu, (size_t)k * s->D + j);
                double hi = twin_get(q->dtype, bias->cpu, (size_t)k * s->D + half + j);
                x += d < half ? lo * angle[j] - hi * angle[half + j] : hi * angle[j] + lo * angle[half + j];
            }
            dot += x * twin_get(q->dtype, q->cpu, ((size_t)i * s->H + h) * s->D + d);
        }
        score[p] = dot / sqrt(s->D);
        max = fmax(max, score[p]);
    }
    for (int d = 0; d < s->D; d++) o[d] = 0;
    for (int p = 0; p < n; p++) {
        double w = exp(score[p] - max);
        sum += w;
        for (int d = 0; d < s->D; d++) o[d] += w * pool_value(u->pool.cpu, u, b, p, 1, k, d);
    }
    for (int d = 0; d < s->D; d++) o[d] /= sum;
    free(score);
}

static void test_attention(struct gpu_test *t, const struct shape *s, int B, int max_query, int max_kv) {
    char name[200];
    struct setup u = setup_new(t, s, B, max_query, max_kv);
    const struct kv_layout *a = &u.kv_cpu.layout;
    const int T = u.cpu.T;
    snprintf(name, sizeof name, "attention_simple %s, KV %s, T %d, context %d, H %d, K %d, D %d, P %d%s",
             dtype_name(t->act), dtype_name(a->dtype), T, max_kv, s->H, s->K, s->D, s->P, s->bias ? ", k_bias" : "");
    /* Random content of the pool: values of the format; in fp8 scales between 1/512 and 1/256. */
    for (int i = 0; i < u.cpu.B * u.cpu.max_blocks; i++) {
        char *block = (char *)u.pool.cpu + (size_t)i * a->block_granules * 64 + LAYER * a->layer_bytes;
        const size_t n = 2 * (size_t)a->K * a->P * a->D;
        struct twin values = {.dtype = a->dtype, .n = n, .cpu = block};
        for (size_t j = 0; j < n; j++) {
            if (a->dtype != DTYPE_F8_E4M3) twin_set(&values, j, gpu_test_value(t));
            else if ((((uint8_t *)block)[j] = (uint8_t)gpu_test_u32(t), block[j] & 0x7f) == 0x7f) block[j] = 0;
        }
        for (int j = 0; a->dtype == DTYPE_F8_E4M3 && j < 2 * a->K * a->P; j++)
            ((float *)(block + n))[j] = (3 + gpu_test_value(t)) / 1024;
    }
    twin_upload(t, &u.pool);
    struct twin q = twin_random(t, t->act, (size_t)T * s->H * s->D, 0, 2),
                o = twin_poison(t, t->act, (size_t)T * s->H * s->D);
    struct twin bias = twin_random(t, t->act, (size_t)s->K * s->D, 0, 2);
    double row[256];
    for (int i = 0; i < T; i++)
        for (int h = 0; h < s->H; h++) {
            reference(row, &u, &q, &bias, s, i, h);
            for (int d = 0; d < s->D; d++) twin_set(&o, ((size_t)i * s->H + h) * s->D + d, (float)row[d]);
        }
    const int split = gpu_test_below(t, T + 1); /* two calls: a range of tokens each */
    attention_simple(t->gpu, o.gpu, q.gpu, &u.kv_gpu, LAYER, s->bias ? bias.gpu : NULL, &u.rope_gpu, &u.gpu, s->H, 0,
                     split);
    attention_simple(t->gpu, o.gpu, q.gpu, &u.kv_gpu, LAYER, s->bias ? bias.gpu : NULL, &u.rope_gpu, &u.gpu, s->H,
                     split, T - split);
    twin_compare(t, name, &o,
                 t->act == DTYPE_F32    ? 1e-5
                 : t->act == DTYPE_BF16 ? 1e-3
                                        : 2e-4,
                 t->act == DTYPE_F32 ? 1e-5 : 1e-4,
                 t->act == DTYPE_F32    ? 1e-4
                 : t->act == DTYPE_BF16 ? 0x1p-6
                                        : 0x1p-9);
    twin_free(t, &q), twin_free(t, &o), twin_free(t, &bias);
    setup_free(t, &u);
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static void test_act(struct gpu_test *t) {
    static const struct shape shapes[] = {
        {.H = 40, .K = 8, .D = 128, .P = 16, .kv = DTYPE_I32, .norm = true},
        {.H = 16, .K = 2, .D = 128, .P = 16, .kv = DTYPE_F8_E4M3, .bias = true},
        {.H = 16, .K = 2, .D = 128, .P = 16, .kv = DTYPE_F8_E4M3},
        {.H = 5, .K = 5, .D = 64, .P = 1, .kv = DTYPE_I32, .norm = true},
        {.H = 7, .K = 1, .D = 64, .P = 32, .kv = DTYPE_F8_E4M3, .norm = true},
        {.H = 3, .K = 1, .D = 10, .P = 7, .kv = DTYPE_I32, .norm = true},
        {.H = 6, .K = 2, .D = 2, .P = 3, .kv = DTYPE_I32},
        {.H = 6, .K = 3, .D = 36, .P = 5, .kv = DTYPE_F8_E4M3, .bias = true},
        {.H = 4, .K = 2, .D = 256, .P = 16, .kv = DTYPE_I32, .norm = true},
        {.H = 4, .K = 2, .D = 200, .P = 64, .kv = DTYPE_F8_E4M3, .bias = true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *s = &shapes[i];
        test_rope(t, s, 2, 1, s->P + 1);
        test_attention(t, s, 3, 4, s->P + 6);
        if (t->quick) continue;
        test_rope(t, s, 1, 1, 1);
        test_rope(t, s, 7, 1 + gpu_test_below(t, 40), 3 * s->P + 50);
        test_rope(t, s, 9, 120, 300);
        test_attention(t, s, 1, 1, 1);
        test_attention(t, s, 5, 9, 33 + gpu_test_below(t, 300));
    }
    if (!t->quick) test_alone(t);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timed {
    struct exec *e;
    char *qkv, *q, *pool;
    size_t stride;
    int copies;
    struct setup u;
    struct shape s;
    void *norm, *bias;
};

static void time_rope(void *arg, int i) {
    struct timed *o = arg;
    char *qkv = o->qkv + (size_t)(i % o->copies) * o->stride, *q = o->q + (size_t)(i % o->copies) * o->stride;
    qk_norm_rope_store(o->e, q, &o->u.kv_gpu, i % L, qkv, o->s.norm ? o->norm : NULL, o->s.norm ? o->norm : NULL,
                       o->s.bias ? o->bias : NULL, &o->u.rope_gpu, &o->u.gpu, o->s.H, 1e-6f);
}

static void time_all(void) {
    static const struct shape shapes[] = {{.H = 40, .K = 8, .D = 128, .P = 16, .kv = DTYPE_I32, .norm = true},
                                          {.H = 40, .K = 8, .D = 128, .P = 16, .kv = DTYPE_F8_E4M3, .norm = true},
                                          {.H = 40, .K = 8, .D = 128, .P = 16, .kv = DTYPE_F8_E4M3, .bias = true}};
    static const char *const names[] = {"rope_store, norms", "rope_store, norms, fp8", "rope_store, k_bias, fp8"};
    static const int tokens[] = {1, 16, 64, 2048};
    const size_t bytes = (size_t)512 << 20;
    struct gpu_test t = {0};
    gpu_test_open(&t, DTYPE_BF16, (struct exec_options){0});
    struct timed o = {.e = t.gpu, .qkv = exec_alloc(t.gpu, bytes), .q = exec_alloc(t.gpu, bytes),
                      .norm = exec_alloc(t.gpu, 256), .bias = exec_alloc(t.gpu, 8 * 128 * 2)};
    fill_random(t.gpu, o.qkv, DTYPE_BF16, bytes / 2, 0, 1, 1);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 4; j++) {
            const int T = tokens[j];
            o.s = shapes[i];
            o.u = setup_new(&t, &o.s, T < 2048 ? T : 1, 1, 1000);
            int32_t *positions = calloc((size_t)T, 4), *seq_of = calloc((size_t)T, 4);
            for (int k = 0; T >= 2048 && k < T; k++) positions[k] = k; /* one sequence in one chunk */
            struct twin long_positions = {0}, long_seq_of = {0}, long_table = {0};
            if (T >= 2048) {
                int32_t table[129];
                setup_free(&t, &o.u);
                o.u = setup_new(&t, &o.s, 1, 1, 2064);
                for (int k = 0; k < 129; k++) table[k] = k * o.u.kv_cpu.layout.block_granules;
                long_positions = ints(&t, positions, (size_t)T), long_seq_of = ints(&t, seq_of, (size_t)T);
                long_table = ints(&t, table, 129);
                o.u.gpu.T = T;
                o.u.gpu.positions = long_positions.gpu, o.u.gpu.seq_of = long_seq_of.gpu,
                o.u.gpu.block_table = long_table.gpu;
            }
            const double row = 56 * 128 * 2;
            o.stride = (size_t)(T * row);
            o.copies = (int)(bytes / o.stride) < 100 ? (int)(bytes / o.stride) : 100;
            gpu_time_print(names[i], T, gpu_time(t.gpu, time_rope, &o, T < 2048 ? 100 : 20),
                           T * (row + 40 * 256 + 16 * 128 * (i ? 1 : 2)));
            if (T >= 2048) twin_free(&t, &long_positions), twin_free(&t, &long_seq_of), twin_free(&t, &long_table);
            setup_free(&t, &o.u);
            free(positions), free(seq_of);
        }
    gpu_test_close(&t);
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    if (gpu_test_is_mode(&t, "--time")) {
        time_all();
        return 0;
    }
    for (int i = 0; i < 3; i++) {
        gpu_test_open(&t, acts[i], (struct exec_options){0});
        test_act(&t);
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
