#include "kernels/cuda/cuda.cuh"
int cuda__sampler_open(struct exec *, char *, size_t) { return 0; }
void cuda__sampler_close(struct exec *) {}
unsigned cuda__sample_set(struct exec *e, const struct sample_params *, int, int) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); return 0; }
void cuda__sample(struct exec *e, int32_t *, const float *, unsigned, int, int) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); }
void cuda__token_logprobs(struct exec *e, struct token_logprob *, int, const float *, const int32_t *, const int *, int, int) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); }
