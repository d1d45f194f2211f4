#include "kernels/cuda/cuda.cuh"

bool cuda__attention_decode(struct exec *, void *, const void *, const struct kv_cache *, int, const void *, const struct rope *, const struct batch *, int) { return false; }
