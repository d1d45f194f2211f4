#include "kernels/probe.h"
#include "kernels/ops.h"

void probe_read(struct exec *e, uint32_t *out, const void *p, size_t bytes) {
    if (e->failed || !bytes) return;
    CHECK_EQ((uintptr_t)p % 64, 0);
    CHECK_EQ(bytes % 64, 0);
    e->ops->probe_read(e, out, p, bytes);
}

const char *probe_library(const struct exec *e) {
    return e->ops->library;
}

bool probe_library_linear(struct exec *e, void *y, const void *x, const struct matrix *w, int T) {
    if (e->failed || !T || !e->ops->library_linear) return false;
    CHECK_EQ(w->format, MATRIX_DENSE);
    CHECK_LE(T, e->options.max_tokens);
    return e->ops->library_linear(e, y, x, w, T);
}
