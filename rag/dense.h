/* dense.h - exact nearest neighbours by inner product: a growing matrix of f16 on the device of an exec.
 *
 *     scores[i] = sum over k of rows[i, k] q[k]             rows [n, C] f16, q [C], scores [n] f32
 *
 * This is linear_f32 of kernels.h with the rows as its weight, so it reads the matrix once at the speed of memory, on a
 * CPU and on a GPU. Rows lie in segments of 1,024, 1,024, 2,048, ... up to 65,536: growing copies nothing and never
 * holds twice the memory. Rows are numbered 0, 1, ... as they are added. */
#pragma once

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

/* The exec that this needs: f16, and sizes for any number of rows of up to max_dim numbers. backend and n_threads as in
 * exec_options. */
int dense_exec_open(struct exec **out, const char *backend, int n_threads, int max_dim, char *err, size_t err_bytes);

struct dense; /* owned */

struct dense *dense_open(struct exec *e, int dim); /* e: borrowed, of dense_exec_open */
void dense_close(struct dense *d);                 /* NULL is fine */
/* From now on e computes: an exec of the same device, such as one of another thread. Every call above and below returns
 * when its work is done, so nothing of the old one's is under way. */
void dense_use(struct dense *d, struct exec *e);
/* Adds rows [n, dim] f32; a NULL among them is a row of zeros. STATUS_NO_MEMORY where the device has none left. */
int dense_add(struct dense *d, const float *const *rows, size_t n, char *err, size_t err_bytes);
uint32_t dense_rows(const struct dense *d);
size_t dense_bytes(const struct dense *d); /* of device memory */
/* Keeps the rows of live (bit i of word i / 64), which move up. On failure d is as it was. */
int dense_compact(struct dense *d, const uint64_t *live, char *err, size_t err_bytes);

/* scores [rows], host memory. query [dim]. */
int dense_score(struct dense *d, float *scores, const float *query, char *err, size_t err_bytes);
/* out [n, dim]: these rows. */
int dense_gather(struct dense *d, float *out, const uint32_t *rows, size_t n, char *err, size_t err_bytes);
