/* attention_decode: one token of each of B = T sequences over its context, in the activations' dtype and in fp8. Reads
 * K and V once; 4 H D FLOPs per position. */
#include "benchmarks/kv_operands.h"

static const struct { int B, context; } sizes[] = {{1, 4096}, {1, 32768}, {16, 1024}, {32, 4096}, {64, 1024}};

static void cases(struct bench_list *list, const struct bench_model *m) {
    const int H = m->config.n_heads, K = m->config.n_kv_heads, D = m->config.head_dim;
    for (int fp8 = 0; fp8 < 2; fp8++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const int B = sizes[i].B, context = sizes[i].context;
            const enum dtype kv = fp8 ? DTYPE_F8_E4M3 : m->act;
            const double positions = (double)B * context;
            const struct bench_case c = {.T = B,
                                         .n = {H, K, D, (int)kv, context},
                                         .flops = 4 * positions * H * D,
                                         .bytes = positions * kv_token_bytes(kv, K, D) +
                                                  2.0 * B * H * D * (double)dtype_bytes(m->act)};
            if (context <= m->config.max_positions)
                bench_case_add(list, m, &c, "%dk GQA %d D=%d%s", context >> 10, H / K, D, fp8 ? " fp8" : "");
        }
}

static void make(struct bench *b, const struct bench_case *c, void *operands) {
    kv_operands_make(operands, b, c, &(struct kv_sizes){.B = c->T, .n_query = 1, .kv_len = c->n[4], .needs_kv = true});
}

const struct kernel_bench bench_attention_decode = {
    .name = "attention_decode",
    .summary = "o = softmax(q k' / sqrt D) v, one token a sequence",
    .operand_bytes = sizeof(struct kv_operands),
    .cases = cases,
    .make = make,
    .run = kv_attention,
};
