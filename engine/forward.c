/* forward.c - the forward pass of Qwen2, Qwen2.5 and Qwen3 dense models.
 *
 * One ragged path for prefill, decode and verification: the T tokens of all sequences lie one after the other, and
 * only attention looks at lengths. Qwen2: biases on q, k, v. Qwen3: RMSNorm on each head of q and k before RoPE.
 * Papers: Qwen2.5 (arXiv 2412.15115), Qwen3 (arXiv 2505.09388). */
#include "engine/model.h"

void forward(struct exec *e, const struct model *m, struct activations *a, const struct kv_cache *kv,
             const struct batch *batch) {
    const struct model_config *c = &m->config;
    const int T = batch->T, C = c->hidden, H = c->n_heads, F = c->ffn, L = c->n_layers;
    const float eps = c->rms_eps;

    embed(e, a->residual, batch->tokens, &m->embedding, T);                      /* residual = E[tokens]  [T, C]        */
    rms_norm(e, a->x, a->residual, m->layers[0].attn_norm, T, C, eps);           /* x = norm(residual)                  */
    for (int l = 0; l < L; l++) {
        const struct layer *w = &m->layers[l];
        const void *next_norm = l + 1 < L ? m->layers[l + 1].attn_norm : m->final_norm;

        linear(e, a->qkv, a->x, &w->w_qkv, w->b_qkv, T);                         /*                   [T, (H+2K)*D]     */
        qk_norm_rope_store(e, a->q, kv, l, a->qkv, w->q_norm, w->k_norm,         /* k, v go to their blocks             */
                           &m->rope, batch, H, eps);
        attention(e, a->o, a->q, kv, l, batch, H);                               /* softmax(q k' / sqrt D) v  [T, H*D]  */
        linear(e, a->h, a->o, &w->w_o, NULL, T);                                 /*                           [T, C]    */
        add_rms_norm(e, a->x, a->h, a->residual, w->ffn_norm, T, C, eps);        /* x = norm(residual += h)             */
        linear(e, a->gate_up, a->x, &w->w_gate_up, NULL, T);                     /*                           [T, 2F]   */
        silu_mul(e, a->ffn, a->gate_up, T, F);                                   /* silu(gate) * up           [T, F]    */
        linear(e, a->h, a->ffn, &w->w_down, NULL, T);
        add_rms_norm(e, a->x, a->h, a->residual, next_norm, T, C, eps);
    }
    if (batch->R == 0) return;
    gather_rows(e, a->last, a->x, batch->logits_rows, batch->R, C);
    linear_f32(e, a->logits, a->last, &m->lm_head, batch->R);                    /* logits            [R, V] f32        */
}
