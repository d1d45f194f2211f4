#include "benchmarks/kv_operands.h"

#include <stdlib.h>

enum { BLOCK = 16, GRANULE = 4096, THETA = 1000000 };

double kv_token_bytes(enum dtype kv_dtype, int K, int D) {
    return 2.0 * K * (D * (double)dtype_bytes(kv_dtype) + (kv_dtype == DTYPE_F8_E4M3 ? 4 : 0));
}

/* The blocks of all sequences in an order that a fixed generator shuffles. */
static const int32_t *shuffled_table(struct bench *b, int n_blocks, int block_granules) {
    int32_t *table = malloc((size_t)n_blocks * sizeof *table);
    CHECK(table);
    uint32_t state = 12345;
    for (int i = 0; i < n_blocks; i++) {
        state = state * 1664525u + 1013904223u;
        const int j = (int)((uint64_t)state * (uint64_t)(i + 1) >> 32);
        table[i] = table[j];
        table[j] = i * block_granules;
    }
    const int32_t *p = bench_upload(b, table, (size_t)n_blocks * sizeof *table);
    free(table);
    return p;
}

/* B sequences that advance by n tokens to len. */
static struct batch make_batch(struct bench *b, int B, int n, int len, const int32_t *block_table, int max_blocks) {
    const size_t T = (size_t)B * (size_t)n;
    int32_t *host = malloc((2 * T + 2 * (size_t)B + 1) * sizeof *host);
    CHECK(host);
    int32_t *positions = host, *seq_of = host + T, *start = host + 2 * T, *kv_len = start + B + 1;
    for (int i = 0; i < B; i++) {
        start[i] = i * n;
        kv_len[i] = len;
        for (int j = 0; j < n; j++) positions[i * n + j] = len - n + j, seq_of[i * n + j] = i;
    }
    start[B] = (int32_t)T;
    struct batch batch = {.T = (int)T,
                          .B = B,
                          .n_decode = n == 1 ? B : 0,
                          .max_query = n,
                          .max_kv_len = len,
                          .block_table = block_table,
                          .max_blocks = max_blocks};
    batch.positions = bench_upload(b, positions, T * sizeof *host);
    batch.seq_of = bench_upload(b, seq_of, T * sizeof *host);
    batch.query_start = bench_upload(b, start, (size_t)(B + 1) * sizeof *host);
    batch.kv_len = bench_upload(b, kv_len, (size_t)B * sizeof *host);
    free(host);
    return batch;
}

static const float *make_rope(struct bench *b, int n, int D, enum dtype act) {
    float *host = malloc((size_t)n * (size_t)D * sizeof *host);
    CHECK(host);
    rope_table(host, n, D, THETA, act);
    const float *p = bench_upload(b, host, (size_t)n * (size_t)D * sizeof *host);
    free(host);
    return p;
}

/* Writes random K and V to every position of the set's layer, a chunk of each sequence at a time. */
static void fill_layer(struct bench *b, const struct kv_operands *o, enum dtype act, const struct kv_sizes *s) {
    const size_t mark = b->arena_used;
    const int n = s->kv_len < KV_FILL_TOKENS ? s->kv_len : KV_FILL_TOKENS, K = o->kv.layout.K;
    const size_t width = (size_t)(K * o->kv.layout.D);
    void *qkv = bench_random(b, act, (size_t)n * 3 * width, 0, 1);
    void *q = bench_memory(b, (size_t)n * width * dtype_bytes(act));
    for (int i = 0; i < s->B; i++)
        for (int first = 0; first < s->kv_len && !b->is_full; first += n) {
            const size_t inner = b->arena_used;
            const int m = s->kv_len - first < n ? s->kv_len - first : n;
            const struct batch chunk =
                make_batch(b, 1, m, first + m, o->batch.block_table + (size_t)i * (size_t)o->batch.max_blocks,
                           o->batch.max_blocks);
            if (!b->is_full)
                qk_norm_rope_store(b->e, q, &o->kv, o->layer, qkv, o->q_norm, o->k_norm, NULL, &o->rope, &chunk, K,
                                   1e-6f);
            exec_finish(b->e, NULL, 0);
            b->arena_used = inner;
        }
    b->arena_used = mark;
}

/* What all sets share: the pool, the tables, the batch. */
static void make_shared(struct kv_operands *o, struct bench *b, const struct bench_case *c, const struct kv_sizes *s) {
    const int max_blocks = (s->kv_len + BLOCK - 1) / BLOCK, n_blocks = s->B * max_blocks, K = c->n[1], D = c->n[2];
    for (o->n_layers = b->n_copies;; o->n_layers--) { /* as many layers as half the arena holds */
        kv_layout_init(&o->kv.layout, (enum dtype)c->n[3], o->n_layers, K, D, BLOCK, GRANULE);
        const size_t bytes = (size_t)n_blocks * (size_t)o->kv.layout.block_granules * GRANULE;
        if (bytes > b->arena_bytes / 2 && o->n_layers > 1) continue;
        o->kv.pool = bench_memory(b, bytes);
        break;
    }
    const int32_t *table = shuffled_table(b, n_blocks, o->kv.layout.block_granules);
    o->batch = make_batch(b, s->B, s->n_query, s->kv_len, table, max_blocks);
    o->rope = (struct rope){.cos_sin = make_rope(b, s->kv_len, D, c->act), .max_positions = s->kv_len, .D = D};
    if (s->qk_norm) {
        o->q_norm = bench_random(b, c->act, (size_t)D, 1, 0.1f);
        o->k_norm = bench_random(b, c->act, (size_t)D, 1, 0.1f);
    }
}

void kv_operands_make(struct kv_operands *o, struct bench *b, const struct bench_case *c, const struct kv_sizes *s) {
    const struct kv_operands *first = b->first;
    const int H = c->n[0], K = c->n[1], D = c->n[2];
    const size_t T = (size_t)s->B * (size_t)s->n_query;
    if (b->copy)
        *o = *first;
    else
        make_shared(o, b, c, s);
    if (b->copy == o->n_layers) b->is_full = true; /* no further layer */
    if (b->is_full) return;
    o->layer = b->copy;
    if (s->needs_kv) fill_layer(b, o, c->act, s);
    o->q = bench_random(b, c->act, T * (size_t)(H * D), 0, 1);
    o->o = bench_memory(b, T * (size_t)(H * D) * dtype_bytes(c->act));
    if (s->needs_qkv) o->qkv = bench_random(b, c->act, T * (size_t)((H + 2 * K) * D), 0, 1);
}

bool kv_attention(struct exec *e, const struct bench_case *c, void *operands) {
    const struct kv_operands *o = operands;
    attention(e, o->o, o->q, &o->kv, o->layer, NULL, &o->rope, &o->batch, c->n[0]);
    return true;
}
