#include "kernels/cuda/cuda.cuh"

void cuda__qk_norm_rope_store(struct exec *e, void *, const struct kv_cache *, int, const void *, const void *, const void *, const void *, const struct rope *, const struct batch *, int, float) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); }
