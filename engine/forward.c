/* forward.c - the forward pass of Qwen2, Qwen2.5 and Qwen3 dense models.
 *
 * One ragged path for prefill, decode and verification: the T tokens of all sequences lie one after the other, and
 * only attention looks at lengths. Qwen2: biases on q, k, v. Qwen3: RMSNorm on each head of q and k before RoPE.
 * Papers: Qwen2.5 (arXiv 2412.15115), Qwen3 (arXiv 2505.09388). */
#include "engine/model.h"

void forward(struct exec *e, const struct model *m, struct activations *a, const struct kv_cache *kv,
             const struct batch *batch) {
    const struct model_config *c = &m->config;
    const int T = batch->T, C = c->hidden, H = c->n_heads, L = c->n_layers;
    const float eps = c->rms_eps;

    embed(e, a->h, batch->tokens, batch->sampled, &m->embedding, T);          /* h = E[tokens]            [T, C]     */
    for (int l = 0; l < L; l++) {
        const struct layer *w = &m->layers[l];
        norm_linear(e, a->qkv, a->x, a->h, w->attn_norm, eps, &w->w_qkv, w->b_qkv, T);   /* norm(h) Wqkv + b         */
        qk_norm_rope_store(e, a->q, kv, l, a->qkv, w->q_norm, w->k_norm, w->k_bias, &m->rope, batch, H, eps);
        attention(e, a->o, a->q, kv, l, w->k_bias, &m->rope, batch, H);       /* softmax(q k' / sqrt D) v [T, H D]   */
        linear_add(e, a->h, a->x, a->o, &w->w_o, T);                          /* h += o Wo                           */
        norm_linear_silu_mul(e, a->ffn, a->gate_up, a->x, a->h, w->ffn_norm, eps, &w->w_gate_up, T); /* silu(g) u    */
        linear_add(e, a->h, a->x, a->ffn, &w->w_down, T);                     /* h += ffn Wdown                      */
    }
    if (batch->R == 0) return;
    gather_rows(e, a->last, a->h, batch->logits_rows, batch->R, C);
    rms_norm(e, a->last_x, a->last, m->final_norm, batch->R, C, eps);
    linear_f32(e, a->logits, a->last_x, &m->lm_head, batch->R);               /* logits                   [R, V] f32 */
}
