/* attention_prefill: a whole prompt of T tokens attends to itself, causally, over the paged KV. 4 H D FLOPs per pair,
 * of which there are T (T + 1) / 2. */
#include "benchmarks/kv_operands.h"

static const int lengths[] = {1024, 2048, 4096, 8192};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const int H = m->config.n_heads, K = m->config.n_kv_heads, D = m->config.head_dim;
    for (int fp8 = 0; fp8 < 2; fp8++)
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            const double T = lengths[i];
            const enum dtype kv = fp8 ? DTYPE_F8_E4M3 : m->act;
            const struct bench_case c = {
                .T = lengths[i],
                .n = {H, K, D, (int)kv},
                .flops = 2 * T * (T + 1) * H * D,
                .bytes = T * (kv_token_bytes(kv, K, D) + 2.0 * H * D * (double)dtype_bytes(m->act))};
            if (lengths[i] <= m->config.max_positions)
                bench_case_add(list, m, &c, "H=%d K=%d D=%d%s", H, K, D, fp8 ? " fp8" : "");
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    kv_operands_make(operands, b, c, &(struct kv_sizes){.B = 1, .n_query = c->T, .kv_len = c->T, .needs_kv = true});
}

const struct kernel_bench bench_attention_prefill = {
    .name = "attention_prefill",
    .summary = "o = softmax(q k' / sqrt D) v, causal",
    .operand_bytes = sizeof(struct kv_operands),
    .cases = cases,
    .make = make,
    .run = kv_attention,
};
