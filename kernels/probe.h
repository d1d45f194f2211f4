/* probe.h - what a benchmark asks of a backend beside its ops: how fast its memory can be read at all, and the vendor
 * library's matrix product by itself, whatever linear() would choose. Nobody else calls these. */
#pragma once

#include "kernels/kernels.h"

/* Reads each of the `bytes` bytes at p once, does next to nothing with them, and writes one word at out. bytes is a
 * multiple of 64. */
void probe_read(struct exec *e, uint32_t *out, const void *p, size_t bytes);

/* "cuBLASLt", or NULL where the backend has no library to compare with. */
const char *probe_library(const struct exec *e);

/* linear() without bias, through that library alone; w is dense. False, having done nothing, where there is none or it
 * does not cover the shape. */
bool probe_library_linear(struct exec *e, void *y, const void *x, const struct matrix *w, int T);
