/* test_attention_decode.c - attention of sequences with one token each against its CPU twin: lengths around every place
 * where a context is cut, groups of 1 to 16 query heads, all formats of the KV, blocks in random places, and NaN in
 * every slot that no sequence owns. The same row must have the same bits alone and in any batch, and for any bound on
 * the lengths. With --time: microseconds, and the share of the memory's read bandwidth. */
#include "gpu_test.h"
#include "gpu_time.h"

enum { N_LAYERS = 2, LAYER = 1, P = 16, K = 2, MAX_LEN = 8193, MAX_POSITIONS = 8448 };

/* Around blocks of the cache, and around the levels of attention_decode.cu: 32, 128, 512, 2048, 8192. */
static const int lengths[] = {1, P - 1, P, P + 1, 31, 32, 33, 127, 129, 511, 512, 513, 1000, 2047, 2049, MAX_LEN};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths };
static const int groups[] = {1, 2, 4, 5, 7, 8, 16};

struct pool { /* one layer's K and V of sequences of all lengths */
    struct kv_cache cpu, gpu;
    struct rope cpu_rope, gpu_rope;
    struct twin memory, table, bias, cos_sin;
    bool has_bias;
    int max_blocks;
    int32_t *block_table; /* owned [N_LENGTHS, max_blocks] */
};

/* A batch of n decodes: sequence i is sequence of[i] of the pool, cut to len[i]. */
struct decodes {
    struct batch cpu, gpu;
    struct twin ints; /* all arrays, one after the other */
};

static struct decodes decodes_new(struct gpu_test *t, const struct pool *pool, int n, const int *of, const int *len, int bound) {
    size_t row = (size_t)pool->max_blocks, at = 0;
    struct decodes d = {.ints = twin_poison(t, DTYPE_I32, (size_t)n * (4 + row) + 1)};
    int32_t *x = d.ints.cpu;
    d.cpu = (struct batch){.T = n, .B = n, .n_decode = n, .max_query = 1, .max_kv_len = bound, .max_blocks = pool->max_blocks};
    d.gpu = d.cpu;
#define ARRAY(field, size) (d.cpu.field = x + at, d.gpu.field = (int32_t *)d.ints.gpu + at, at += (size))
    ARRAY(positions, (size_t)n);
    ARRAY(seq_of, (size_t)n);
    ARRAY(kv_len, (size_t)n);
    ARRAY(query_start, (size_t)n + 1);
    ARRAY(block_table, (size_t)n * row);
#undef ARRAY
    for (int i = 0; i < n; i++) {
        x[i] = len[i] - 1;
        x[n + i] = i;
        x[2 * n + i] = len[i];
        x[3 * n + i] = i;
        int32_t *blocks = x + (d.cpu.block_table - x) + (size_t)i * row;
        for (int j = 0; j * P < len[i]; j++) blocks[j] = pool->block_table[(size_t)of[i] * row + j];
        for (size_t j = (size_t)(len[i] + P - 1) / P; j < row; j++) blocks[j] = INT32_MAX; /* not to be followed */
    }
    x[4 * n] = n;
    twin_upload(t, &d.ints);
    return d;
}

/* Stores random k and v through the CPU's op, one sequence after the other, and copies the pool. */
static struct pool pool_new(struct gpu_test *t, enum dtype kv_dtype, int D, float bias) {
    struct pool p = {.max_blocks = MAX_LEN / P + 2, .has_bias = bias > 0};
    kv_layout_init(&p.cpu.layout, kv_dtype, N_LAYERS, K, D, P, 512);
    int granules = p.cpu.layout.block_granules, n = 1; /* granule 0 is nobody's */
    p.block_table = malloc(sizeof(int32_t) * N_LENGTHS * (size_t)p.max_blocks);
    for (int b = 0; b < N_LENGTHS; b++)
        for (int i = 0; i * P < lengths[b]; i++) p.block_table[b * p.max_blocks + i] = 1 + granules * (n++ - 1);
    for (int i = N_LENGTHS * p.max_blocks - 1; i > 0; i--) {
        int j = gpu_test_below(t, i + 1), b = i / p.max_blocks, c = j / p.max_blocks;
        if (i % p.max_blocks * P >= lengths[b] || j % p.max_blocks * P >= lengths[c]) continue;
        int32_t swap = p.block_table[i];
        p.block_table[i] = p.block_table[j];
        p.block_table[j] = swap;
    }
    p.memory = twin_poison(t, DTYPE_BF16, ((size_t)n * (size_t)granules + 1) * 512 / 2);
    p.cpu.pool = p.memory.cpu;
    p.gpu = p.cpu;
    p.gpu.pool = p.memory.gpu;
    p.bias = twin_random(t, t->act, K * (size_t)D, 0, bias);
    p.cos_sin = twin_poison(t, DTYPE_F32, (size_t)MAX_POSITIONS * (size_t)D);
    rope_table(p.cos_sin.cpu, MAX_POSITIONS, D, 1e6f, t->act);
    twin_upload(t, &p.cos_sin);
    p.cpu_rope = (struct rope){.cos_sin = p.cos_sin.cpu, .max_positions = MAX_POSITIONS, .D = D};
    p.gpu_rope = p.cpu_rope;
    p.gpu_rope.cos_sin = p.cos_sin.gpu;
    for (int b = 0; b < N_LENGTHS; b++) {
        int T = lengths[b];
        if (t->quick && T > 1000) continue; /* nobody reads them */
        struct twin qkv = twin_random(t, t->act, (size_t)T * 3 * K * (size_t)D, 0, 2);
        struct twin q = twin_poison(t, t->act, (size_t)T * K * (size_t)D), ints = twin_poison(t, DTYPE_I32, (size_t)T * 2);
        int32_t *positions = ints.cpu, *seq_of = positions + T, query_start[2] = {0, T}, kv_len[1] = {T};
        for (int i = 0; i < T; i++) positions[i] = i, seq_of[i] = 0;
        /* The K head's bias is part of k: what is stored is k without it. */
        for (int i = 0; p.has_bias && i < T; i++)
            for (int j = 0; j < K * D; j++) {
                size_t at = (size_t)i * 3 * K * (size_t)D + (size_t)(K * D + j);
                twin_set(&qkv, at, twin_get(t->act, qkv.cpu, at) + twin_get(t->act, p.bias.cpu, (size_t)j));
            }
        struct batch batch = {.T = T, .B = 1, .max_query = T, .max_kv_len = T, .positions = positions, .seq_of = seq_of,
                              .query_start = query_start, .kv_len = kv_len,
                              .block_table = p.block_table + b * p.max_blocks, .max_blocks = p.max_blocks};
        qk_norm_rope_store(t->cpu, q.cpu, &p.cpu, LAYER, qkv.cpu, NULL, NULL, p.has_bias ? p.bias.cpu : NULL, &p.cpu_rope,
                           &batch, K, 1e-6f);
        twin_free(t, &qkv);
        twin_free(t, &q);
        twin_free(t, &ints);
    }
    twin_upload(t, &p.memory);
    return p;
}

static void pool_free(struct gpu_test *t, struct pool *p) {
    struct twin *all[] = {&p->memory, &p->bias, &p->cos_sin};
    for (int i = 0; i < 3; i++) twin_free(t, all[i]);
    free(p->block_table);
}

static void attend_gpu(struct gpu_test *t, const struct pool *p, const struct decodes *d, void *o, const void *q, int H) {
    attention(t->gpu, o, q, &p->gpu, LAYER, p->has_bias ? p->bias.gpu : NULL, &p->gpu_rope, &d->gpu, H);
}

/* o [n, H*D] of the GPU, which must be `want` to the bit. */
static void compare_bits(struct gpu_test *t, const char *name, const void *gpu, const void *want, size_t bytes) {
    char err[ERR_BYTES];
    char *found = malloc(bytes);
    if (exec_finish(t->gpu, err, sizeof err)) {
        gpu_test_verdict(t, false, name, err);
        free(found);
        return;
    }
    exec_download(t->gpu, found, gpu, bytes);
    size_t at = 0;
    while (at < bytes && found[at] == ((const char *)want)[at]) at++;
    snprintf(err, sizeof err, at == bytes ? "the same bits" : "other bits from byte %zu on", at);
    gpu_test_verdict(t, at == bytes, name, err);
    free(found);
}

/* The bounds are those of the formats: P of bf16 alone moves an output by 2^-9 of a V. */
static void compare_twin(struct gpu_test *t, const struct pool *p, const char *name, const struct twin *o) {
    bool bf16 = t->act == DTYPE_BF16;
    twin_compare(t, name, o, bf16 ? 4e-3 : p->has_bias ? 2e-3 : 6e-4, bf16 ? 8e-3 : 2e-3, bf16 ? 1.6e-2 : 4e-3);
}

/* Sequence i alone, for every `step`-th; then `other` is `want` again. */
static void check_alone(struct gpu_test *t, const struct pool *p, const char *name, const struct twin *q, struct twin *other,
                        const void *want, int n, const int *of, const int *len, int H, int step) {
    size_t row_bytes = (size_t)H * (size_t)p->cpu.layout.D * dtype_bytes(t->act);
    char label[160];
    memcpy(other->cpu, want, (size_t)n * row_bytes);
    for (int i = 0; i < n; i += step) memset((char *)other->cpu + (size_t)i * row_bytes, 0xff, row_bytes);
    twin_upload(t, other);
    for (int i = 0; i < n; i += step) {
        struct decodes one = decodes_new(t, p, 1, &of[i], &len[i], len[i]);
        attend_gpu(t, p, &one, (char *)other->gpu + (size_t)i * row_bytes, (char *)q->gpu + (size_t)i * row_bytes, H);
        twin_free(t, &one.ints);
    }
    snprintf(label, sizeof label, "%s, each alone", name);
    compare_bits(t, label, other->gpu, want, (size_t)n * row_bytes);
}

/* Sequences first .. first + n - 1 as a batch. */
static void check_slice(struct gpu_test *t, const struct pool *p, const char *name, const struct twin *q, struct twin *other,
                        const char *want, int first, int n, const int *of, const int *len, int H, int bound) {
    size_t row_bytes = (size_t)H * (size_t)p->cpu.layout.D * dtype_bytes(t->act), at = (size_t)first * row_bytes;
    char label[160];
    struct decodes d = decodes_new(t, p, n, of + first, len + first, bound);
    memset(other->cpu, 0xff, (size_t)(first + n) * row_bytes);
    twin_upload(t, other);
    attend_gpu(t, p, &d, (char *)other->gpu + at, (char *)q->gpu + at, H);
    snprintf(label, sizeof label, "%s, %d sequences from %d on, bound %d", name, n, first, bound);
    compare_bits(t, label, (char *)other->gpu + at, want + at, (size_t)n * row_bytes);
    twin_free(t, &d.ints);
}

/* n sequences against the CPU. Then the last half of them by themselves, some alone, and all with a bound for far longer
 * contexts: rows are cut into larger and smaller parts, and the workspace takes several rounds. */
static void check(struct gpu_test *t, const struct pool *p, const char *name, int n, const int *of, const int *len, int bound,
                  int G, int step) {
    int H = G * K;
    size_t elements = (size_t)n * (size_t)H * (size_t)p->cpu.layout.D, bytes = elements * dtype_bytes(t->act);
    struct twin q = twin_random(t, t->act, elements, 0, 2), o = twin_poison(t, t->act, elements);
    struct twin other = twin_poison(t, t->act, elements);
    struct decodes d = decodes_new(t, p, n, of, len, bound);
    attention(t->cpu, o.cpu, q.cpu, &p->cpu, LAYER, p->has_bias ? p->bias.cpu : NULL, &p->cpu_rope, &d.cpu, H);
    attend_gpu(t, p, &d, o.gpu, q.gpu, H);
    compare_twin(t, p, name, &o);
    char *want = malloc(bytes);
    exec_download(t->gpu, want, o.gpu, bytes);
    check_alone(t, p, name, &q, &other, want, n, of, len, H, step);
    check_slice(t, p, name, &q, &other, want, n / 2, n - n / 2, of, len, H, MAX_LEN);
    check_slice(t, p, name, &q, &other, want, 0, n, of, len, H, 100000);
    free(want);
    struct twin *all[] = {&q, &o, &other, &d.ints};
    for (int i = 0; i < 4; i++) twin_free(t, all[i]);
}

static void check_groups(struct gpu_test *t, const struct pool *p, const char *format) {
    int of[N_LENGTHS];
    char name[128];
    for (int i = 0; i < N_LENGTHS; i++) of[i] = i;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
        snprintf(name, sizeof name, "%s, D %d, G %d", format, p->cpu.layout.D, groups[g]);
        check(t, p, name, N_LENGTHS, of, lengths, MAX_LEN, groups[g], 1);
    }
}

/* Sequences of one part and of several. */
static void check_few(struct gpu_test *t, const struct pool *p, const char *format) {
    static const int of[] = {0, 2, 6, 12}, len[] = {1, 16, 33, 700};
    char name[128];
    snprintf(name, sizeof name, "%s, D %d, G 5, few", format, p->cpu.layout.D);
    check(t, p, name, 4, of, len, 700, 5, 3);
}

/* Many sequences, which share blocks; and many short ones, each of which is one part. */
static void check_crowd(struct gpu_test *t, const struct pool *p, const char *format, int most) {
    enum { N = 300 };
    int of[N], len[N];
    char name[128];
    for (int i = 0; i < N; i++) {
        of[i] = i % 3 ? N_LENGTHS - 1 : gpu_test_below(t, N_LENGTHS);
        len[i] = i % 3 ? 1 + gpu_test_below(t, i % 50 ? 500 : MAX_LEN) : lengths[of[i]];
        if (len[i] > most) len[i] = most;
    }
    snprintf(name, sizeof name, "%s, D %d, G 7, %d sequences up to %d", format, p->cpu.layout.D, N, most);
    check(t, p, name, N, of, len, most, 7, 7);
}

static void check_formats(struct gpu_test *t, int D) {
    const struct { enum dtype dtype; float bias; } kinds[] = {{t->act, 0}, {DTYPE_F8_E4M3, 0}, {DTYPE_F8_E4M3, 50}};
    char format[64];
    for (int i = 0; i < 3; i++) { /* a bias as large as those of Qwen2.5 */
        struct pool pool = pool_new(t, kinds[i].dtype, D, kinds[i].bias);
        snprintf(format, sizeof format, "%s, %s KV%s", dtype_name(t->act), dtype_name(kinds[i].dtype),
                 pool.has_bias ? " with a bias" : "");
        if (t->quick) {
            check_few(t, &pool, format);
        } else {
            check_groups(t, &pool, format);
            check_crowd(t, &pool, format, MAX_LEN);
            check_crowd(t, &pool, format, 512);
        }
        pool_free(t, &pool);
    }
}

/* ---- timing --------------------------------------------------------------------------------------------------------- */

struct timed {
    struct exec *e;
    struct batch batch;
    struct kv_cache kv;
    char *pools; /* [n_pools] */
    size_t pool_bytes;
    int n_pools, H;
    void *o, *q;
};
static void attend_once(void *arg, int i) {
    struct timed *x = arg;
    x->kv.pool = x->pools + (size_t)(i % x->n_pools) * x->pool_bytes;
    attention(x->e, x->o, x->q, &x->kv, 0, NULL, NULL, &x->batch, x->H);
}

/* B sequences of `len` tokens; as many pools as it takes to pass the L2 three times. */
static void time_case(struct gpu_test *t, double peak, enum dtype kv_dtype, int B, int len, int H, int n_kv, int D) {
    struct kv_cache kv;
    int max_blocks = (len + P - 1) / P, n_blocks = B * max_blocks;
    kv_layout_init(&kv.layout, kv_dtype, 1, n_kv, D, P, 1024);
    double bytes = (double)B * len * n_kv * (kv_dtype == DTYPE_F8_E4M3 ? 2 * D + 8 : 4 * D);
    int n_pools = (int)(200e6 / bytes) + 2, n_launches = n_pools;
    while (n_launches * bytes < 6e9 && n_launches < 400) n_launches += n_pools;
    size_t pool_bytes = (size_t)n_blocks * (size_t)kv.layout.block_granules * 1024, all_bytes = (size_t)n_pools * pool_bytes;
    kv.pool = exec_alloc(t->gpu, all_bytes);
    /* Bytes of 1.0f are finite as e4m3 and as scales. */
    if (kv_dtype == DTYPE_F8_E4M3) fill_random(t->gpu, kv.pool, DTYPE_F32, all_bytes / 4, 1, 0, 1);
    else fill_random(t->gpu, kv.pool, kv_dtype, all_bytes / 2, 0, 1, 1);
    size_t n = (size_t)n_blocks;
    int32_t *blocks = malloc(n * sizeof *blocks), *kv_len = malloc((size_t)B * sizeof *kv_len);
    for (size_t i = 0; i < n; i++) blocks[i] = (int32_t)i * kv.layout.block_granules;
    for (size_t i = n - 1; i > 0; i--) {
        size_t j = (size_t)gpu_test_below(t, (int)i + 1);
        int32_t swap = blocks[i];
        blocks[i] = blocks[j];
        blocks[j] = swap;
    }
    for (int i = 0; i < B; i++) kv_len[i] = len;
    int32_t *gpu_blocks = exec_alloc(t->gpu, n * sizeof *blocks), *gpu_len = exec_alloc(t->gpu, (size_t)B * sizeof *kv_len);
    exec_upload(t->gpu, gpu_blocks, blocks, n * sizeof *blocks);
    exec_upload(t->gpu, gpu_len, kv_len, (size_t)B * sizeof *kv_len);
    size_t row = (size_t)H * (size_t)D;
    struct twin q = twin_random(t, t->act, (size_t)B * row, 0, 1), o = twin_poison(t, t->act, (size_t)B * row);
    struct timed x = {.e = t->gpu, .kv = kv, .pools = kv.pool, .pool_bytes = pool_bytes, .n_pools = n_pools, .H = H, .o = o.gpu, .q = q.gpu};
    x.batch = (struct batch){.T = B, .B = B, .n_decode = B, .max_query = 1, .max_kv_len = len, .kv_len = gpu_len,
                             .block_table = gpu_blocks, .max_blocks = max_blocks};
    double seconds = gpu_time(t->gpu, attend_once, &x, n_launches) * 1e-6;
    printf("%-4s KV  B %3d  len %6d  H %2d  K %2d  D %3d  %8.1f MB  %8.2f us  %6.0f GB/s  %5.1f%%\n", dtype_name(kv_dtype), B, len,
           H, n_kv, D, bytes / 1e6, seconds * 1e6, bytes / seconds / 1e9, 100 * bytes / seconds / peak);
    fflush(stdout);
    twin_free(t, &q);
    twin_free(t, &o);
    exec_free(t->gpu, kv.pool);
    exec_free(t->gpu, gpu_blocks);
    exec_free(t->gpu, gpu_len);
    free(blocks);
    free(kv_len);
}

static void time_all(struct gpu_test *t) {
    static const struct { int B, len, H, K, D; } cases[] = {
        {32, 4096, 32, 4, 128}, {32, 4096, 64, 8, 128}, {32, 4096, 40, 8, 128}, {64, 2048, 40, 8, 128},
        {8, 4096, 40, 8, 128},  {128, 1024, 16, 2, 128}, {32, 4096, 14, 2, 64}, {1, 128, 40, 8, 128},
        {1, 1024, 40, 8, 128},  {1, 1024, 16, 2, 128},  {1, 4096, 40, 8, 128},  {1, 4096, 16, 2, 128},
        {1, 16384, 40, 8, 128}, {1, 131072, 40, 8, 128}, {2, 4096, 40, 8, 128}, {4, 1024, 40, 8, 128},
        {4, 4096, 40, 8, 128},  {16, 1024, 40, 8, 128},
    };
    double peak = 1e6 * gpu_time_read_bandwidth(t->gpu); /* bytes per second */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        time_case(t, peak, t->act, cases[i].B, cases[i].len, cases[i].H, cases[i].K, cases[i].D);
        time_case(t, peak, DTYPE_F8_E4M3, cases[i].B, cases[i].len, cases[i].H, cases[i].K, cases[i].D);
    }
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    const struct exec_options sizes = {.max_tokens = MAX_POSITIONS, .max_width = 1 << 14, .max_head_dim = 128};
    if (gpu_test_is_mode(&t, "--time")) {
        gpu_test_open(&t, DTYPE_BF16, sizes);
        time_all(&t);
        gpu_test_close(&t);
        return 0;
    }
    const enum dtype acts[] = {DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 2; i++) {
        gpu_test_open(&t, acts[i], sizes);
        check_formats(&t, 128);
        check_formats(&t, 64);
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
