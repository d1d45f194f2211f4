#include "kernels/cuda/cuda.cuh"

void cuda__rms_norm(struct exec *e, void *, const void *, const void *, int, int, float) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); }
void cuda__add_rms_norm(struct exec *e, void *, const void *, void *, const void *, int, int, float) { exec__fail(e, __func__, __FILE__, __LINE__, "not in this build"); }
