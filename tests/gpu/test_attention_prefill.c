/* test_attention_prefill.c - attention of prefill chunks: ragged batches of awkward lengths against the CPU twin over a
 * pool whose unused slots hold NaN; the same bits however a prompt is cut into chunks. `--time`: TFLOP/s. */
#include "gpu_test.h"
#include "gpu_time.h"

enum { LAYERS = 2, LAYER = 1, MAX_B = 16 };

struct shape {
    enum dtype kv;
    int H, K, D, P;
    int granule_bytes; /* 0: a block is one granule */
    float bias;        /* of K, as large as this; 0: none */
};

/* The cache of B sequences on both sides: blocks in random places, every slot of no token NaN. */
struct cache {
    struct kv_cache cpu, gpu;
    size_t pool_bytes;
    struct twin table;        /* [B, max_blocks] */
    struct twin bias, angles; /* [K*D] act, [max_kv_len, D] */
    struct rope rope_cpu, rope_gpu;
    int B, max_blocks;
};

static struct cache cache_new(struct gpu_test *t, const struct shape *s, int B, int max_kv_len) {
    struct cache c = {.B = B, .max_blocks = (max_kv_len + s->P - 1) / s->P + 1};
    struct kv_layout layout;
    kv_layout_init(&layout, s->kv, LAYERS, s->K, s->D, s->P, 64);
    kv_layout_init(&layout, s->kv, LAYERS, s->K, s->D, s->P,
                   s->granule_bytes ? (size_t)s->granule_bytes : layout.block_bytes);
    int n = B * c.max_blocks;
    c.cpu.layout = c.gpu.layout = layout;
    c.pool_bytes = (size_t)n * (size_t)layout.block_granules * layout.granule_bytes;
    c.cpu.pool = exec_alloc(t->cpu, c.pool_bytes);
    c.gpu.pool = exec_alloc(t->gpu, c.pool_bytes);
    memset(c.cpu.pool, 0xff, c.pool_bytes);
    c.table = twin_poison(t, DTYPE_I32, (size_t)n);
    int32_t *table = c.table.cpu;
    for (int i = 0; i < n; i++) table[i] = i * layout.block_granules;
    for (int i = n - 1; i > 0; i--) {
        int j = gpu_test_below(t, i + 1);
        int32_t swap = table[i];
        table[i] = table[j];
        table[j] = swap;
    }
    twin_upload(t, &c.table);
    c.angles = twin_poison(t, DTYPE_F32, (size_t)max_kv_len * s->D);
    rope_table(c.angles.cpu, max_kv_len, s->D, 1e6f, t->act);
    twin_upload(t, &c.angles);
    c.rope_cpu = (struct rope){.cos_sin = c.angles.cpu, .max_positions = max_kv_len, .D = s->D};
    c.rope_gpu = (struct rope){.cos_sin = c.angles.gpu, .max_positions = max_kv_len, .D = s->D};
    if (s->bias != 0) c.bias = twin_random(t, t->act, (size_t)s->K * s->D, 0, s->bias);
    return c;
}

static void attend(struct gpu_test *t, const struct cache *c, const struct batch *batch, void *o, const void *q,
                   int H) {
    attention(t->gpu, o, q, &c->gpu, LAYER, c->bias.gpu, &c->rope_gpu, batch, H);
}

static void cache_free(struct gpu_test *t, struct cache *c) {
    exec_free(t->cpu, c->cpu.pool);
    exec_free(t->gpu, c->gpu.pool);
    twin_free(t, &c->table);
    twin_free(t, &c->angles);
    twin_free(t, &c->bias);
}

struct step { /* a batch on both sides */
    struct batch cpu, gpu;
    struct twin parts[4];
};

static struct step step_new(struct gpu_test *t, const struct cache *c, int B, const int *kv_len, const int *n_query) {
    struct step s = {0};
    struct batch batch = {.B = B, .max_blocks = c->max_blocks};
    for (int b = 0; b < B; b++) {
        batch.T += n_query[b];
        if (b == batch.n_decode && n_query[b] == 1) batch.n_decode++;
        if (n_query[b] > batch.max_query) batch.max_query = n_query[b];
        if (kv_len[b] > batch.max_kv_len) batch.max_kv_len = kv_len[b];
    }
    const size_t n[4] = {(size_t)batch.T, (size_t)batch.T, (size_t)B + 1, (size_t)B};
    for (int i = 0; i < 4; i++) s.parts[i] = twin_poison(t, DTYPE_I32, n[i]);
    int32_t *positions = s.parts[0].cpu, *seq_of = s.parts[1].cpu, *start = s.parts[2].cpu, *lengths = s.parts[3].cpu;
    start[0] = 0;
    for (int b = 0; b < B; b++) {
        start[b + 1] = start[b] + n_query[b];
        lengths[b] = kv_len[b];
        for (int i = 0; i < n_query[b]; i++) {
            positions[start[b] + i] = kv_len[b] - n_query[b] + i;
            seq_of[start[b] + i] = b;
        }
    }
    for (int i = 0; i < 4; i++) twin_upload(t, &s.parts[i]);
    s.cpu = s.gpu = batch;
    s.cpu.positions = positions, s.gpu.positions = s.parts[0].gpu;
    s.cpu.seq_of = seq_of, s.gpu.seq_of = s.parts[1].gpu;
    s.cpu.query_start = start, s.gpu.query_start = s.parts[2].gpu;
    s.cpu.kv_len = lengths, s.gpu.kv_len = s.parts[3].gpu;
    s.cpu.block_table = c->table.cpu, s.gpu.block_table = c->table.gpu;
    return s;
}

static void step_free(struct gpu_test *t, struct step *s) {
    for (int i = 0; i < 4; i++) twin_free(t, &s->parts[i]);
}

/* Fills positions 0 .. kv_len[b] - 1 with random keys and values through the op of the CPU, and copies the pool. */
static void cache_fill(struct gpu_test *t, struct cache *c, const struct shape *s, const int *kv_len, float spread) {
    for (int b = 0; b < c->B; b++) { /* one sequence a step: steps have bounded sizes */
        struct step step = step_new(t, c, 1, &kv_len[b], &kv_len[b]);
        step.cpu.block_table += b * c->max_blocks;
        size_t row = (size_t)(s->H + 2 * s->K) * s->D, T = (size_t)kv_len[b];
        struct twin qkv = twin_random(t, t->act, T * row, 0, spread), q = twin_poison(t, t->act, T * s->H * s->D);
        qk_norm_rope_store(t->cpu, q.cpu, &c->cpu, LAYER, qkv.cpu, NULL, NULL, c->bias.cpu, &c->rope_cpu, &step.cpu,
                           s->H, 1e-6f);
        twin_free(t, &qkv);
        twin_free(t, &q);
        step_free(t, &step);
    }
    exec_upload(t->gpu, c->gpu.pool, c->cpu.pool, c->pool_bytes);
}

/* ---- against the CPU --------------------------------------------------------------------------------------------- */

static void check(struct gpu_test *t, const struct shape *s, int B, const int *context, const int *n_query,
                  float spread, const char *what) {
    int kv_len[MAX_B], longest = 0;
    for (int b = 0; b < B; b++) {
        kv_len[b] = context[b] + n_query[b];
        if (kv_len[b] > longest) longest = kv_len[b];
    }
    struct cache c = cache_new(t, s, B, longest);
    cache_fill(t, &c, s, kv_len, 1);
    struct step step = step_new(t, &c, B, kv_len, n_query);
    size_t n = (size_t)step.cpu.T * s->H * s->D;
    struct twin q = twin_random(t, t->act, n, 0, spread), o = twin_poison(t, t->act, n);
    attention(t->cpu, o.cpu, q.cpu, &c.cpu, LAYER, c.bias.cpu, &c.rope_cpu, &step.cpu, s->H);
    attend(t, &c, &step.gpu, o.gpu, q.gpu, s->H);
    char name[160];
    snprintf(name, sizeof name, "%s KV %s H %d K %d D %d P %d granule %d bias %g B %d T %d q +-%g: %s",
             dtype_name(t->act), dtype_name(s->kv), s->H, s->K, s->D, s->P, s->granule_bytes, (double)s->bias, B,
             step.cpu.T, (double)spread, what);
    /* Probabilities are rounded to act; so are keys with their bias put back, as a cache of act dtype would hold them:
     * in a score that is an error in proportion to the bias. */
    const double bound = (t->act == DTYPE_F16 ? 2e-3 : 1e-2) * (1 + 0.3 * (double)s->bias);
    twin_compare(t, name, &o, bound, bound, bound);
    twin_free(t, &q);
    twin_free(t, &o);
    step_free(t, &step);
    cache_free(t, &c);
}

/* Every instance of the kernel: head sizes, formats of the cache, biases. */
static void check_few(struct gpu_test *t) {
    const enum dtype e4m3 = DTYPE_F8_E4M3;
    const struct shape shapes[] = {
        {t->act, 8, 2, 128, 16, 0, 0}, {t->act, 5, 1, 64, 20, 4096, 0}, {e4m3, 10, 2, 128, 16, 0, 0},
        {e4m3, 3, 3, 64, 7, 64, 0},    {e4m3, 4, 2, 128, 16, 0, 10},    {e4m3, 2, 1, 64, 16, 0, 10},
    };
    static const int context[] = {0, 100, 17, 40}, query[] = {1, 65, 2, 129};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(t, &shapes[i], 4, context, query, 2, "ragged");
}

static void check_shapes(struct gpu_test *t) {
    static const int queries[] = {2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300}, contexts[] = {0, 1, 16, 100, 1000};
    enum { N = sizeof queries / sizeof *queries };
    const enum dtype act = t->act, e4m3 = DTYPE_F8_E4M3;
    const struct shape shapes[] = {
        {act, 2, 2, 128, 16, 0, 0},   {act, 8, 2, 128, 16, 0, 0},    {act, 10, 2, 128, 16, 4096, 0},
        {act, 16, 2, 128, 32, 0, 0},  {act, 10, 2, 64, 16, 0, 0},    {act, 4, 1, 64, 64, 2048, 0},
        {act, 4, 2, 128, 8, 0, 0},    {act, 4, 2, 128, 128, 0, 0},   {act, 2, 1, 128, 256, 0, 0},
        {act, 6, 3, 128, 48, 0, 0},   {act, 2, 1, 128, 20, 0, 0},    {e4m3, 10, 2, 128, 16, 0, 0},
        {e4m3, 8, 2, 128, 32, 64, 0}, {e4m3, 4, 1, 64, 16, 4096, 0}, {e4m3, 3, 3, 128, 7, 0, 0},
        {e4m3, 2, 1, 128, 256, 0, 0}, {e4m3, 4, 2, 128, 16, 0, 10},  {e4m3, 2, 1, 64, 16, 0, 10},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        int context[N];
        for (int b = 0; b < N; b++) context[b] = contexts[(b + i) % 5];
        check(t, &shapes[i], N, context, queries, i % 2 ? 8 : 2, "ragged");
    }
    for (int i = 0; i < 5; i++) check(t, &shapes[0], 1, &contexts[i], &queries[N - 1 - i], 2, "alone");
    static const int decode_context[] = {40, 7, 33, 500}, decode_query[] = {1, 1, 70, 200};
    check(t, &shapes[2], 4, decode_context, decode_query, 2, "behind decoding sequences");
    check(t, &shapes[11], 4, decode_context, decode_query, 2, "behind decoding sequences");
}

/* ---- bits -------------------------------------------------------------------------------------------------------- */

/* A prompt of `length` tokens whole, and in chunks beside another sequence. */
static void check_bits(struct gpu_test *t, const struct shape *s, int length) {
    static const int sizes[] = {64, 200, 2, 129, 128, 33, 17};
    const int kv_len[2] = {length, 90};
    size_t row = (size_t)s->H * s->D, n = (size_t)length * row, bytes = n * dtype_bytes(t->act);
    struct cache c = cache_new(t, s, 2, length);
    cache_fill(t, &c, s, kv_len, 1);
    struct twin q = twin_random(t, t->act, n, 0, 2);
    char *o = exec_alloc(t->gpu, bytes), *whole = malloc(bytes), *chunked = malloc(bytes);
    struct step step = step_new(t, &c, 1, kv_len, kv_len);
    attend(t, &c, &step.gpu, o, q.gpu, s->H);
    exec_download(t->gpu, whole, o, bytes);
    step_free(t, &step);
    for (int first = 0, i = 0; first < length; i++) {
        int size = sizes[i % 7];
        if (size > length - first - 2) size = length - first;
        int lengths[2] = {first + size, 90}, queries[2] = {size, 45};
        step = step_new(t, &c, 2, lengths, queries);
        size_t chunk = (size_t)size * row * dtype_bytes(t->act), at = (size_t)first * row * dtype_bytes(t->act);
        size_t both = (size_t)(size + 45) * row;
        struct twin q_chunk = twin_random(t, t->act, both, 0, 2), o_chunk = twin_poison(t, t->act, both);
        memcpy(q_chunk.cpu, (char *)q.cpu + at, chunk);
        twin_upload(t, &q_chunk);
        attend(t, &c, &step.gpu, o_chunk.gpu, q_chunk.gpu, s->H);
        exec_download(t->gpu, chunked + at, o_chunk.gpu, chunk);
        twin_free(t, &q_chunk);
        twin_free(t, &o_chunk);
        step_free(t, &step);
        first += size;
    }
    size_t n_different = 0;
    for (size_t i = 0; i < n; i++) n_different += memcmp(whole + 2 * i, chunked + 2 * i, 2) != 0;
    char name[160], detail[ERR_BYTES + 64], err[ERR_BYTES];
    snprintf(name, sizeof name, "%s KV %s H %d K %d D %d P %d: %d tokens whole and in chunks", dtype_name(t->act),
             dtype_name(s->kv), s->H, s->K, s->D, s->P, length);
    snprintf(detail, sizeof detail, "%zu of %zu elements differ", n_different, n);
    if (exec_finish(t->gpu, err, sizeof err)) snprintf(detail, sizeof detail, "%s", err), n_different = 1;
    gpu_test_verdict(t, !n_different, name, detail);
    exec_free(t->gpu, o);
    free(whole);
    free(chunked);
    twin_free(t, &q);
    cache_free(t, &c);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

struct timed {
    struct gpu_test *t;
    const struct cache *c;
    const struct step *step;
    const void *q, *bias;
    struct rope rope;
    void *o;
    int H;
};

static void run_layer(void *arg, int layer) {
    const struct timed *x = arg;
    attention(x->t->gpu, x->o, x->q, &x->c->gpu, layer, x->bias, x->bias ? &x->rope : NULL, &x->step->gpu, x->H);
}

/* Every block of a pool of e4m3: random values below 2, scales of one. */
static void fill_blocks(struct gpu_test *t, const struct cache *c) {
    const struct kv_layout *a = &c->gpu.layout;
    const size_t values = 2 * (size_t)a->K * a->P * a->D, n_scales = 2 * (size_t)a->K * a->P;
    char *block = calloc(1, a->block_bytes);
    for (int l = 0; l < a->L; l++) {
        float *scales = (float *)(block + l * a->layer_bytes + values);
        for (size_t i = 0; i < values; i++) block[l * a->layer_bytes + i] = (char)(gpu_test_u32(t) & 0xbf);
        for (size_t i = 0; i < n_scales; i++) scales[i] = 1;
    }
    for (size_t at = 0; at < c->pool_bytes; at += a->block_bytes)
        exec_upload(t->gpu, (char *)c->gpu.pool + at, block, a->block_bytes);
    free(block);
}

/* Layers enough that each finds its K and V outside the L2. */
static void time_case(struct gpu_test *t, const struct shape *s, int B, int context, int n_query, bool bias,
                      const char *what) {
    const int kv_len = context + n_query, max_blocks = (kv_len + s->P - 1) / s->P, T = B * n_query;
    struct kv_layout layout;
    kv_layout_init(&layout, s->kv, 1, s->K, s->D, s->P, 64);
    const int n_layers = 4 + (int)(200e6 / ((double)layout.block_bytes * max_blocks * B));
    const int L = n_layers < 60 ? n_layers : 60;
    kv_layout_init(&layout, s->kv, L, s->K, s->D, s->P, 64);
    kv_layout_init(&layout, s->kv, L, s->K, s->D, s->P, layout.block_bytes);
    struct cache c = {.B = B, .max_blocks = max_blocks, .pool_bytes = (size_t)B * max_blocks * layout.block_bytes};
    c.gpu = (struct kv_cache){.pool = exec_alloc(t->gpu, c.pool_bytes), .layout = layout};
    c.table = twin_poison(t, DTYPE_I32, (size_t)B * max_blocks);
    for (int i = 0; i < B * max_blocks; i++) ((int32_t *)c.table.cpu)[i] = (int)((int64_t)i * 7919 % (B * max_blocks));
    twin_upload(t, &c.table);
    int lengths[MAX_B], queries[MAX_B];
    for (int b = 0; b < B; b++) lengths[b] = kv_len, queries[b] = n_query;
    struct step step = step_new(t, &c, B, lengths, queries);
    size_t n = (size_t)T * s->H * s->D;
    void *q = exec_alloc(t->gpu, n * 2), *o = exec_alloc(t->gpu, n * 2);
    fill_random(t->gpu, q, t->act, n, 0, 2, 1);
    fill_random(t->gpu, c.gpu.pool, t->act, c.pool_bytes / 2, 0, 1, 2);
    if (s->kv == DTYPE_F8_E4M3) fill_blocks(t, &c);
    /* Any finite bias and angles do. */
    struct rope rope = {.max_positions = kv_len, .D = s->D};
    void *k_bias = bias ? exec_alloc(t->gpu, (size_t)s->K * s->D * 2) : NULL;
    void *angles = bias ? exec_alloc(t->gpu, (size_t)kv_len * s->D * sizeof(float)) : NULL;
    rope.cos_sin = angles;
    struct timed timed = {t, &c, &step, q, k_bias, rope, o, s->H};
    double us = gpu_time(t->gpu, run_layer, &timed, L);
    double flop = 4.0 * s->D * s->H * B * ((double)n_query * context + 0.5 * n_query * n_query);
    printf("%-24s %s KV %s%s D %d: %8.1f us, %6.1f TFLOP/s\n", what, dtype_name(t->act), dtype_name(s->kv),
           bias ? " + bias" : "", s->D, us, flop / us * 1e-6);
    fflush(stdout);
    exec_free(t->gpu, k_bias);
    exec_free(t->gpu, angles);
    exec_free(t->gpu, q);
    exec_free(t->gpu, o);
    exec_free(t->gpu, c.gpu.pool);
    twin_free(t, &c.table);
    step_free(t, &step);
}

static void time_all(struct gpu_test *t) {
    const struct shape s = {t->act, 40, 8, 128, 16, 0, 0}, s64 = {t->act, 40, 8, 64, 16, 0, 0};
    const struct shape s8 = {DTYPE_F8_E4M3, 40, 8, 128, 16, 0, 0};
    time_case(t, &s, 1, 0, 8192, false, "8k tokens");
    time_case(t, &s, 1, 0, 4096, false, "4k tokens");
    time_case(t, &s, 1, 0, 2048, false, "2k tokens");
    time_case(t, &s, 1, 0, 1024, false, "1k tokens");
    time_case(t, &s, 4, 0, 2048, false, "4 times 2k tokens");
    time_case(t, &s, 1, 8192, 2048, false, "2k tokens behind 8k");
    time_case(t, &s, 1, 8000, 16, false, "16 tokens behind 8000");
    time_case(t, &s, 1, 0, 16384, false, "16k tokens");
    time_case(t, &s64, 1, 0, 8192, false, "8k tokens");
    time_case(t, &s8, 1, 0, 8192, false, "8k tokens");
    time_case(t, &s8, 1, 0, 2048, false, "2k tokens");
    time_case(t, &s8, 1, 0, 8192, true, "8k tokens");
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    const bool only_time = gpu_test_is_mode(&t, "--time");
    const enum dtype acts[] = {DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 2; i++) {
        gpu_test_open(&t, acts[i], (struct exec_options){.max_tokens = 1 << 14});
        if (only_time) {
            time_all(&t);
        } else if (t.quick) {
            check_few(&t);
        } else {
            check_shapes(&t);
            const struct shape bits[] = {{t.act, 10, 2, 128, 16, 0, 0},
                                         {t.act, 4, 2, 64, 32, 0, 0},
                                         {DTYPE_F8_E4M3, 4, 2, 128, 16, 0, 0},
                                         {DTYPE_F8_E4M3, 4, 2, 128, 16, 0, 10}};
            for (int j = 0; j < 4; j++) check_bits(&t, &bits[j], 1000);
        }
        gpu_test_close(&t);
    }
    return only_time ? 0 : gpu_test_end(&t);
}
