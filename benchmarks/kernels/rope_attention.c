/* rope_attention: qk_norm_rope_store and attention in one, as a decode step calls it. One token of each of B = T
 * sequences over its context, K and V in the activations' dtype. Reads K, V and qkv once; 4 H D FLOPs per position. */
#include "benchmarks/kv_operands.h"

static const struct { int B, context; } sizes[] = {{1, 1024}, {1, 4096}, {4, 1024}, {8, 1024}, {32, 1024}};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const int H = m->config.n_heads, K = m->config.n_kv_heads, D = m->config.head_dim;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int B = sizes[i].B, context = sizes[i].context;
        const double positions = (double)B * context;
        const struct bench_case c = {.T = B,
                                     .n = {H, K, D, (int)m->act, context, m->config.qk_norm},
                                     .flops = 4 * positions * H * D,
                                     .bytes = positions * kv_token_bytes(m->act, K, D) +
                                              2.0 * B * (H + K) * D * (double)dtype_bytes(m->act)};
        if (context <= m->config.max_positions)
            bench_case_add(list, m, &c, "%dk GQA %d D=%d", context >> 10, H / K, D);
    }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    const struct kv_sizes s = {.B = c->T,
                               .n_query = 1,
                               .kv_len = c->n[4],
                               .qk_norm = c->n[5],
                               .needs_qkv = true,
                               .needs_kv = true};
    kv_operands_make(operands, b, c, &s);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct kv_operands *o = operands;
    rope_attention(e, o->o, o->q, &o->kv, o->layer, o->qkv, o->q_norm, o->k_norm, NULL, &o->rope, &o->batch, c->n[0],
                   1e-6f);
    return true;
}

const struct kernel_bench bench_rope_attention = {
    .name = "rope_attention",
    .summary = "q, k = rotate(norm(q, k)); k, v to their blocks; o = softmax(q k' / sqrt D) v, one token a sequence",
    .operand_bytes = sizeof(struct kv_operands),
    .cases = cases,
    .make = make,
    .run = run,
};
