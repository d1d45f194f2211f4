/* forward_bert.c - the forward pass of BERT's encoder (Devlin et al., arXiv 1810.04805), as BertModel runs it.
 *
 * Post-LN: a sublayer's result is added to its input and then normalised. Texts lie one after the other, without
 * padding; only attention and the pooling look at where one ends. */
#include "engine/bert.h"

void forward_bert(struct exec *e, const struct bert *m, struct bert_activations *a, const struct ragged *texts) {
    const struct encoder_config *c = &m->config;
    const int T = texts->T, C = c->hidden, F = c->ffn, H = c->n_heads, D = c->head_dim;
    const float eps = c->norm_eps;

    embed_sum(e, a->h, &m->word, &m->position, m->type, texts);               /* h = E[token] + P[i] + S[0]  [T, C]  */
    layer_norm(e, a->h, a->h, NULL, m->norm.weight, m->norm.bias, T, C, eps);
    for (int l = 0; l < c->n_layers; l++) {
        const struct bert_layer *w = &m->layers[l];
        const struct layer_norm_weights *attn = &w->attn_norm, *ffn = &w->ffn_norm;
        linear(e, a->qkv, a->h, &w->w_qkv, w->b_qkv, T);                      /* q, k, v = h W + b           [T, 3C] */
        attention_full(e, a->o, a->qkv, texts, H, D);                         /* o = softmax(q k' / sqrt D) v        */
        linear(e, a->x, a->o, &w->w_o, w->b_o, T);
        layer_norm(e, a->h, a->x, a->h, attn->weight, attn->bias, T, C, eps); /* h = norm(h + o Wo + b)      [T, C]  */
        linear(e, a->ffn, a->h, &w->w_up, w->b_up, T);
        gelu(e, a->ffn, T, F);                                                /* gelu(h Wup + b)             [T, F]  */
        linear(e, a->x, a->ffn, &w->w_down, w->b_down, T);
        layer_norm(e, a->h, a->x, a->h, ffn->weight, ffn->bias, T, C, eps);   /* h = norm(h + ffn Wdown + b)         */
    }
    pool_texts(e, a->vectors, a->h, texts, C, c->pooling, c->normalize);      /* a vector of each text    [B, C] f32 */
}
