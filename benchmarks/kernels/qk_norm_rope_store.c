/* qk_norm_rope_store: norm per head (Qwen3), rotation, and K and V into their blocks, in the activations' dtype and in
 * fp8. Reads (H+2K) D a token, writes H D and K's and V's bytes. Up to 64 tokens are that many sequences, more one. */
#include "benchmarks/kv_operands.h"

enum { MOST_SEQUENCES = 64, CONTEXT = 1024 };

static void cases(struct bench_list *list, const struct bench_model *m) {
    const int H = m->config.n_heads, K = m->config.n_kv_heads, D = m->config.head_dim;
    int n;
    const int *tokens = bench_tokens(list, &n);
    for (int fp8 = 0; fp8 < 2; fp8++)
        for (int i = 0; i < n; i++) {
            const enum dtype kv = fp8 ? DTYPE_F8_E4M3 : m->act;
            const double act_bytes = (double)(2 * H + 2 * K) * D * (double)dtype_bytes(m->act);
            const struct bench_case c = {.T = tokens[i],
                                         .n = {H, K, D, (int)kv, m->config.qk_norm},
                                         .bytes = tokens[i] * (act_bytes + kv_token_bytes(kv, K, D))};
            bench_case_add(list, m, &c, "H=%d K=%d D=%d%s", H, K, D, fp8 ? " fp8" : "");
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    const bool decode = c->T <= MOST_SEQUENCES;
    const struct kv_sizes s = {.B = decode ? c->T : 1,
                               .n_query = decode ? 1 : c->T,
                               .kv_len = decode ? CONTEXT : c->T,
                               .qk_norm = c->n[4],
                               .needs_qkv = true};
    kv_operands_make(operands, b, c, &s);
}

static bool run(struct exec *e, const struct bench_case *c, void *operands) {
    const struct kv_operands *o = operands;
    qk_norm_rope_store(e, o->q, &o->kv, o->layer, o->qkv, o->q_norm, o->k_norm, NULL, &o->rope, &o->batch, c->n[0],
                       1e-6f);
    return true;
}

const struct kernel_bench bench_qk_norm_rope_store = {
    .name = "qk_norm_rope_store",
    .summary = "q, k = rotate(norm(q, k)); k, v to their blocks",
    .operand_bytes = sizeof(struct kv_operands),
    .cases = cases,
    .make = make,
    .run = run,
};
