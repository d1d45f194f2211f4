/* test_layers.c - the layers of small decode steps as the forward pass calls them: fused steps, some layers one after the
 * other without a look in between, against the CPU's. One op at a time is what the other tests of this folder see. */
#include "tests/gpu/gpu_test.h"

enum { LAYERS = 3, P = 16, D = 128, MAX_POSITIONS = 4096, MAX_T = 9, N_ARRAYS = 6 };
#define EPS 1e-6f

struct shape {
    const char *name;
    int C, H, K, F;
    bool qwen3; /* norms of q and k; else biases */
};

struct side { /* view of one backend's half of everything */
    struct exec *exec;
    void *h, *x, *qkv, *q, *o, *gate_up, *ffn;
    const void *attn_norm, *ffn_norm, *q_norm, *k_norm, *bias;
    struct matrix w_qkv[LAYERS], w_o[LAYERS], w_gate_up[LAYERS], w_down[LAYERS];
    struct kv_cache kv;
    struct rope rope;
    struct batch batch;
};

struct model { /* owned on both sides */
    const struct shape *shape;
    struct twin w_qkv[LAYERS], w_o[LAYERS], w_gate_up[LAYERS], w_down[LAYERS], attn_norm, ffn_norm, q_norm, k_norm, bias;
    struct twin angles, pool, h, x, qkv, q, o, gate_up, ffn;
    struct twin arrays[N_ARRAYS]; /* positions, seq_of, query_start, kv_len, block_table, tokens */
};

static const void *half(const struct twin *x, bool gpu) { return gpu ? x->gpu : x->cpu; }

static struct matrix matrix(const struct twin *w, int rows, int cols, bool gpu) {
    return (struct matrix){.format = MATRIX_DENSE, .dtype = w->dtype, .rows = rows, .cols = cols, .data = half(w, gpu)};
}

static struct twin weights(struct gpu_test *t, int rows, int cols) {
    return twin_random(t, t->act, (size_t)rows * (size_t)cols, 0, sqrtf(3.0f / (float)cols));
}

static struct model model_new(struct gpu_test *t, const struct shape *s) {
    struct model m = {.shape = s};
    const int width = (s->H + 2 * s->K) * D;
    for (int l = 0; l < LAYERS; l++) {
        m.w_qkv[l] = weights(t, width, s->C);
        m.w_o[l] = weights(t, s->C, s->H * D);
        m.w_gate_up[l] = weights(t, 2 * s->F, s->C);
        m.w_down[l] = weights(t, s->C, s->F);
    }
    m.attn_norm = twin_random(t, t->act, (size_t)s->C, 1, 0.3f);
    m.ffn_norm = twin_random(t, t->act, (size_t)s->C, 1, 0.3f);
    m.q_norm = twin_random(t, t->act, D, 1, 0.3f);
    m.k_norm = twin_random(t, t->act, D, 1, 0.3f);
    m.bias = twin_random(t, t->act, (size_t)width, 0, 0.5f);
    m.angles = twin_poison(t, DTYPE_F32, (size_t)MAX_POSITIONS * D);
    rope_table(m.angles.cpu, MAX_POSITIONS, D, 1e6f, t->act);
    twin_upload(t, &m.angles);
    return m;
}

static void model_free(struct gpu_test *t, struct model *m) {
    for (int l = 0; l < LAYERS; l++) {
        struct twin *all[] = {&m->w_qkv[l], &m->w_o[l], &m->w_gate_up[l], &m->w_down[l]};
        for (int i = 0; i < 4; i++) twin_free(t, all[i]);
    }
    struct twin *all[] = {&m->attn_norm, &m->ffn_norm, &m->q_norm, &m->k_norm, &m->bias, &m->angles};
    for (int i = 0; i < N_OF(all); i++) twin_free(t, all[i]);
}

static struct twin ints(struct gpu_test *t, const int32_t *from, size_t n) {
    struct twin x = twin_poison(t, DTYPE_I32, n);
    memcpy(x.cpu, from, n * sizeof *from);
    twin_upload(t, &x);
    return x;
}

/* A step of T sequences of these lengths: the pool has random K and V at all positions but the newest, and NaN wherever
 * nobody may look. */
static void step_new(struct gpu_test *t, struct model *m, struct kv_layout *layout, const int32_t *kv_len, int T,
                     int max_blocks) {
    const struct shape *s = m->shape;
    kv_layout_init(layout, t->act, LAYERS, s->K, D, P, 64);
    int32_t positions[MAX_T], seq_of[MAX_T], query_start[MAX_T + 1], tokens[MAX_T] = {0};
    int32_t *table = malloc((size_t)(T * max_blocks) * sizeof *table);
    for (int b = 0; b < T; b++) positions[b] = kv_len[b] - 1, seq_of[b] = query_start[b] = b;
    query_start[T] = T;
    for (int i = 0; i < T * max_blocks; i++) table[i] = i;
    for (int i = T * max_blocks - 1; i > 0; i--) { /* shuffled */
        const int j = gpu_test_below(t, i + 1);
        const int32_t swap = table[i];
        table[i] = table[j], table[j] = swap;
    }
    for (int i = 0; i < T * max_blocks; i++) table[i] *= layout->block_granules;
    const int32_t *from[N_ARRAYS] = {positions, seq_of, query_start, kv_len, table, tokens};
    const size_t counts[N_ARRAYS] = {(size_t)T, (size_t)T, (size_t)T + 1, (size_t)T, (size_t)(T * max_blocks), (size_t)T};
    for (int i = 0; i < N_ARRAYS; i++) m->arrays[i] = ints(t, from[i], counts[i]);

    m->pool = twin_poison(t, t->act, (size_t)(T * max_blocks) * (size_t)layout->block_granules * 64 / 2);
    for (int b = 0; b < T; b++)
        for (int p = 0; p + 1 < kv_len[b]; p++)
            for (int l = 0; l < LAYERS; l++)
                for (int row = 0; row < 2 * s->K; row++) {
                    const size_t at = (size_t)table[b * max_blocks + p / P] * 64 + (size_t)l * layout->layer_bytes;
                    for (int d = 0; d < D; d++)
                        twin_set(&m->pool, at / 2 + ((size_t)row * P + (size_t)(p % P)) * D + (size_t)d, gpu_test_value(t));
                }
    twin_upload(t, &m->pool);
    free(table);
    const size_t n = (size_t)T;
    m->h = twin_random(t, t->act, n * (size_t)s->C, 0, 2);
    m->x = twin_poison(t, t->act, n * (size_t)s->C);
    m->qkv = twin_poison(t, t->act, n * (size_t)((s->H + 2 * s->K) * D));
    m->q = twin_poison(t, t->act, n * (size_t)(s->H * D));
    m->o = twin_poison(t, t->act, n * (size_t)(s->H * D));
    m->gate_up = twin_poison(t, t->act, n * (size_t)(2 * s->F));
    m->ffn = twin_poison(t, t->act, n * (size_t)s->F);
}

static void step_free(struct gpu_test *t, struct model *m) {
    struct twin *all[] = {&m->pool, &m->h, &m->x, &m->qkv, &m->q, &m->o, &m->gate_up, &m->ffn};
    for (int i = 0; i < N_OF(all); i++) twin_free(t, all[i]);
    for (int i = 0; i < N_ARRAYS; i++) twin_free(t, &m->arrays[i]);
}

static struct side side_of(struct gpu_test *t, const struct model *m, const struct kv_layout *layout, int T, int max_blocks,
                           bool gpu) {
    const struct shape *s = m->shape;
    struct side d = {.exec = gpu ? t->gpu : t->cpu};
    void **to[] = {&d.h, &d.x, &d.qkv, &d.q, &d.o, &d.gate_up, &d.ffn};
    const struct twin *from[] = {&m->h, &m->x, &m->qkv, &m->q, &m->o, &m->gate_up, &m->ffn};
    for (int i = 0; i < 7; i++) *to[i] = gpu ? from[i]->gpu : from[i]->cpu;
    d.attn_norm = half(&m->attn_norm, gpu), d.ffn_norm = half(&m->ffn_norm, gpu);
    if (s->qwen3) d.q_norm = half(&m->q_norm, gpu), d.k_norm = half(&m->k_norm, gpu);
    else d.bias = half(&m->bias, gpu);
    for (int l = 0; l < LAYERS; l++) {
        d.w_qkv[l] = matrix(&m->w_qkv[l], (s->H + 2 * s->K) * D, s->C, gpu);
        d.w_o[l] = matrix(&m->w_o[l], s->C, s->H * D, gpu);
        d.w_gate_up[l] = matrix(&m->w_gate_up[l], 2 * s->F, s->C, gpu);
        d.w_down[l] = matrix(&m->w_down[l], s->C, s->F, gpu);
    }
    d.kv = (struct kv_cache){.pool = gpu ? m->pool.gpu : m->pool.cpu, .layout = *layout};
    d.rope = (struct rope){.cos_sin = half(&m->angles, gpu), .max_positions = MAX_POSITIONS, .D = D};
    d.batch = (struct batch){.T = T, .B = T, .n_decode = T, .max_query = 1, .max_kv_len = max_blocks * P,
                             .max_blocks = max_blocks};
    const int32_t **ints_to[N_ARRAYS] = {&d.batch.positions,   &d.batch.seq_of,      &d.batch.query_start,
                                         &d.batch.kv_len,      &d.batch.block_table, &d.batch.tokens};
    for (int i = 0; i < N_ARRAYS; i++) *ints_to[i] = half(&m->arrays[i], gpu);
    return d;
}

static void attend(const struct side *d, const struct shape *s, int l) {
    rope_attention(d->exec, d->o, d->q, &d->kv, l, d->qkv, d->q_norm, d->k_norm, NULL, &d->rope, &d->batch, s->H, EPS);
}

static void layers(const struct side *d, const struct shape *s, int n) {
    const int T = d->batch.T;
    for (int l = 0; l < n; l++) {
        norm_linear(d->exec, d->qkv, d->x, d->h, d->attn_norm, EPS, &d->w_qkv[l], d->bias, T);
        attend(d, s, l);
        linear_add(d->exec, d->h, d->x, d->o, &d->w_o[l], T);
        norm_linear_silu_mul(d->exec, d->ffn, d->gate_up, d->x, d->h, d->ffn_norm, EPS, &d->w_gate_up[l], T);
        linear_add(d->exec, d->h, d->x, d->ffn, &d->w_down[l], T);
    }
}

static void check(struct gpu_test *t, struct model *m, const int32_t *kv_len, int T) {
    const struct shape *s = m->shape;
    const double unit = t->act == DTYPE_BF16 ? 0x1p-8 : 0x1p-11; /* of a rounding */
    char name[160];
    int longest = 0;
    for (int b = 0; b < T; b++) longest = kv_len[b] > longest ? kv_len[b] : longest;
    const int max_blocks = (longest + P - 1) / P + 1;
    for (int n = 0; n <= LAYERS; n += n ? 2 : 1) { /* rope and attention alone, then 1 and 3 layers */
        struct kv_layout layout;
        step_new(t, m, &layout, kv_len, T, max_blocks);
        if (n == 0) {
            twin_free(t, &m->qkv);
            m->qkv = twin_random(t, t->act, (size_t)(T * (s->H + 2 * s->K) * D), 0, 2);
        }
        const struct side cpu = side_of(t, m, &layout, T, max_blocks, false), gpu = side_of(t, m, &layout, T, max_blocks, true);
        if (n == 0) {
            attend(&cpu, s, 0), attend(&gpu, s, 0);
            attend(&cpu, s, 1), attend(&gpu, s, 1);
        } else {
            layers(&cpu, s, n), layers(&gpu, s, n);
        }
        snprintf(name, sizeof name, "%s %s T=%d longest %d: %s of %d layers", s->name, dtype_name(t->act), T, longest,
                 n ? "residual" : "attention", n);
        if (n == 0) twin_compare(t, name, &m->o, 2 * unit, 4 * unit, 8 * unit);
        else twin_compare(t, name, &m->h, 2 * unit, 40 * unit, 20 * unit);
        step_free(t, m);
    }
}

int main(int argc, char **argv) {
    struct gpu_test t = gpu_test_begin(argc, argv);
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16};
    static const struct shape shapes[] = {{"five heads to one", 1024, 10, 2, 1536, true},
                                          {"eight heads to one", 512, 16, 2, 11008, false},
                                          {"one head to one", 320, 3, 3, 448, true}};
    static const int32_t lengths[][MAX_T] = {{1},
                                             {17, 64},
                                             {65, 63, 1},
                                             {1000},
                                             {300, 128, 129, 2, 511},
                                             {31, 32, 33, 48, 100, 191, 192, 193},
                                             {7, 80, 64, 65, 1, 2, 300, 40, 90},
                                             {2500},
                                             {1500, 4000}};
    static const int n_tokens[] = {1, 2, 3, 1, 5, 8, 9, 1, 2};
    for (int i = 0; i < 2; i++) {
        gpu_test_open(&t, dtypes[i], (struct exec_options){0});
        for (int j = 0; j < (t.quick ? 1 : N_OF(shapes)); j++) {
            struct model m = model_new(&t, &shapes[j]);
            for (int k = 0; k < (t.quick ? 4 : N_OF(n_tokens)); k++) check(&t, &m, lengths[k], n_tokens[k]);
            model_free(&t, &m);
        }
        gpu_test_close(&t);
    }
    return gpu_test_end(&t);
}
