/* attention.cu - which kernel a step's attention runs on. Sequences with one token come first in a batch, so each
 * kernel gets a run of tokens: the decode kernel the first n_decode, the prefill kernel the rest. What neither covers
 * (fp32, odd head dims, older chips) goes to the simple kernel, which covers everything. */
#include "kernels/cuda/cuda.cuh"

void cuda__attention(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer, const void *k_bias,
                     const struct rope *rope, const struct batch *batch, int H) {
    const int n_decode = batch->n_decode, n_rest = batch->T - n_decode;
    if (n_decode && !cuda__attention_decode(e, o, q, kv, layer, k_bias, rope, batch, H))
        cuda__attention_simple(e, o, q, kv, layer, k_bias, rope, batch, H, 0, n_decode);
    if (n_rest && !cuda__attention_prefill(e, o, q, kv, layer, k_bias, rope, batch, H))
        cuda__attention_simple(e, o, q, kv, layer, k_bias, rope, batch, H, n_decode, n_rest);
}
