/* elementwise.cu - rows picked by an index, activations, the residual add, and random tensors.
 *
 *     embed        x[t] = table[id]                      [T, C]; id = tokens[t], or sampled[-1 - tokens[t]] below 0
 *     gather_rows  out[r] = x[rows[r]]                   [R, C]
 *     embed_sum    x[t] = round((word[tokens[t]] + type) + position[positions[t]])             [T, C]
 *     silu_mul     out = round(silu(gate)) * up          gate_up [T, 2F]: gate | up, out [T, F]
 *     gelu         x = x (1 + erf(x / sqrt(2))) / 2      [T, F]
 *     add          residual = round(residual + h)        [T, C]
 *     fill_random  p[i] = mean + spread * u(seed, i)     [n]
 *
 * One thread makes one 16-byte piece of the output, or one element where rows are no whole number of pieces; a block
 * is 256 neighbours within a row (gelu, add, fill_random: within the tensor). Bytes: what the formulas read and write, once.
 * No sums, so no order to keep. */
#include "kernels/cuda/rows.cuh"
#include "kernels/noise.h"

enum { THREADS = 256 };

/* Blocks of a grid over n_rows rows of n units. */
static int blocks(int n_rows, int n) { return n_rows * div_up(n, THREADS); }

/* This thread's row, and its unit of n in it; the unit may be past the row's end. */
__device__ static int my_unit(int n, int *row) {
    const int per_row = (n + THREADS - 1) / THREADS;
    *row = (int)blockIdx.x / per_row;
    return ((int)blockIdx.x - *row * per_row) * THREADS + (int)threadIdx.x;
}

/* ---- rows by an index -------------------------------------------------------------------------------------------- */

/* The row of `from` that row t of the output is; below 0 when there is none. */
__device__ static int pick(const int32_t *rows, const int32_t *sampled, int n_rows, int t) {
    int id = rows[t];
    if (id < 0 && sampled) id = sampled[-1 - id];
    return id < n_rows ? id : -1;
}

/* A row is n units U; from has n_rows rows. */
template <typename U>
__global__ static void copy_rows(U *out, const U *from, const int32_t *rows, const int32_t *sampled, int n_rows,
                                 int n) {
    pdl_trigger();
    int t, i = my_unit(n, &t);
    pdl_wait();
    const int id = pick(rows, sampled, n_rows, t);
    if (i < n) out[(size_t)t * n + i] = id < 0 ? U{} : from[(size_t)id * n + i];
}

__global__ static void convert_rows(void *out, enum dtype act, const void *from, enum dtype dtype, const int32_t *rows,
                                    const int32_t *sampled, int n_rows, int C) {
    pdl_trigger();
    int t, i = my_unit(C, &t);
    pdl_wait();
    const int id = pick(rows, sampled, n_rows, t);
    if (i < C) store_as(out, (size_t)t * C + i, id < 0 ? 0 : load_as(from, (size_t)id * C + i, dtype), act);
}

/* Rows of C elements of the activations' format. */
static void gather(struct exec *e, void *out, const void *from, const int32_t *rows, const int32_t *sampled, int n_rows,
                   int T, int C) {
    const enum dtype act = e->options.dtype;
    const int n = (int)((size_t)C * dtype_bytes(act) / 16);
    if (in_pieces(C, act))
        cuda_launch(e, copy_rows<uint4>, blocks(T, n), THREADS, 0, (uint4 *)out, (const uint4 *)from, rows, sampled,
                    n_rows, n);
    else if (act == DTYPE_F32)
        cuda_launch(e, copy_rows<uint32_t>, blocks(T, C), THREADS, 0, (uint32_t *)out, (const uint32_t *)from, rows,
                    sampled, n_rows, C);
    else
        cuda_launch(e, copy_rows<uint16_t>, blocks(T, C), THREADS, 0, (uint16_t *)out, (const uint16_t *)from, rows,
                    sampled, n_rows, C);
}

void cuda__embed(struct exec *e, void *x, const int32_t *tokens, const int32_t *sampled, const struct matrix *table,
                 int T) {
    const int C = table->cols;
    if (table->dtype == e->options.dtype)
        gather(e, x, table->data, tokens, sampled, table->rows, T, C);
    else
        cuda_launch(e, convert_rows, blocks(T, C), THREADS, 0, x, e->options.dtype, table->data, table->dtype, tokens,
                    sampled, table->rows, C);
}

void cuda__gather_rows(struct exec *e, void *out, const void *x, const int32_t *rows, int R, int C) {
    gather(e, out, x, rows, NULL, e->options.max_tokens, R, C);
}

/* ---- the embeddings of an encoder -------------------------------------------------------------------------------- */

/* Element i of the table's row `id`, 0 where it has no such row. */
template <typename A> __device__ static float row_element(const A *table, int id, int n_rows, int C, int i) {
    return (unsigned)id < (unsigned)n_rows ? to_float(table[(size_t)id * C + i]) : 0;
}

template <typename A>
__global__ static void sum_rows(A *x, const A *word, const A *position, const A *type, const int32_t *tokens,
                                const int32_t *positions, int n_words, int n_positions, int C) {
    pdl_trigger();
    int t, i = my_unit(C, &t);
    pdl_wait();
    if (i >= C) return;
    const float sum = row_element(word, tokens[t], n_words, C, i) + to_float(type[i]);
    x[(size_t)t * C + i] = to_act<A>(sum + row_element(position, positions[t], n_positions, C, i));
}

/* An element a thread: it runs once in a step of a hundred kernels. */
void cuda__embed_sum(struct exec *e, void *x, const struct matrix *word, const struct matrix *position,
                     const void *type, const struct ragged *texts) {
    const int T = texts->T, C = word->cols;
    WITH_ACT(e->options.dtype,
             cuda_launch(e, sum_rows<A>, blocks(T, C), THREADS, 0, (A *)x, (const A *)word->data,
                         (const A *)position->data, (const A *)type, texts->tokens, texts->positions, word->rows,
                         position->rows, C));
}

/* ---- gelu -------------------------------------------------------------------------------------------------------- */

__device__ static float gelu_one(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

/* The tensor as one row of n elements; the last thread of pieces has what makes no whole one. */
template <typename A> __global__ static void gelu_pieces(A *x, size_t n) {
    pdl_trigger();
    pdl_wait();
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * piece<A>::N;
    if (first + piece<A>::N <= n) {
        piece<A> y;
        y.bits = *(const uint4 *)(x + first);
#pragma unroll
        for (int j = 0; j < piece<A>::N; j++) y.at[j] = to_act<A>(gelu_one(to_float(y.at[j])));
        *(uint4 *)(x + first) = y.bits;
        return;
    }
    for (size_t i = first; i < n; i++) x[i] = to_act<A>(gelu_one(to_float(x[i])));
}

void cuda__gelu(struct exec *e, void *x, int T, int F) {
    const size_t n = (size_t)T * F;
    WITH_ACT(e->options.dtype, const size_t unit = (size_t)THREADS * piece<A>::N; cuda_launch(
                 e, gelu_pieces<A>, (unsigned)((n + unit - 1) / unit), THREADS, 0, (A *)x, n));
}

/* ---- silu_mul ---------------------------------------------------------------------------------------------------- */

template <typename A> __device__ static A silu_mul_one(A gate, A up) {
    return to_act<A>(round_to<A>(silu<A>(to_float(gate))) * to_float(up));
}

template <typename A> __global__ static void silu_mul_pieces(piece<A> *out, const piece<A> *gate_up, int n) {
    pdl_trigger();
    int t, i = my_unit(n, &t);
    pdl_wait();
    if (i >= n) return;
    const piece<A> *gate = gate_up + 2 * (size_t)t * n + i;
    piece<A> g, u, y;
    g.bits = gate[0].bits;
    u.bits = gate[n].bits;
#pragma unroll
    for (int j = 0; j < piece<A>::N; j++) y.at[j] = silu_mul_one(g.at[j], u.at[j]);
    out[(size_t)t * n + i].bits = y.bits;
}

template <typename A> __global__ static void silu_mul_elements(A *out, const A *gate_up, int F) {
    pdl_trigger();
    int t, i = my_unit(F, &t);
    pdl_wait();
    const A *gate = gate_up + 2 * (size_t)t * F + i;
    if (i < F) out[(size_t)t * F + i] = silu_mul_one(gate[0], gate[F]);
}

void cuda__silu_mul(struct exec *e, void *out, const void *gate_up, int T, int F) {
    const enum dtype act = e->options.dtype;
    const int n = (int)((size_t)F * dtype_bytes(act) / 16);
    WITH_ACT(act, if (in_pieces(F, act)) cuda_launch(e, silu_mul_pieces<A>, blocks(T, n), THREADS, 0, (piece<A> *)out,
                                                     (const piece<A> *)gate_up, n);
             else cuda_launch(e, silu_mul_elements<A>, blocks(T, F), THREADS, 0, (A *)out, (const A *)gate_up, F));
}

/* ---- add --------------------------------------------------------------------------------------------------------- */

/* The tensor as one row of n elements; the last thread of pieces has what makes no whole one. */
template <typename A> __global__ static void add_pieces(A *residual, const A *h, size_t n) {
    pdl_trigger();
    pdl_wait();
    const size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * piece<A>::N;
    if (first + piece<A>::N <= n) {
        piece<A> r, x;
        r.bits = *(const uint4 *)(residual + first);
        x.bits = *(const uint4 *)(h + first);
#pragma unroll
        for (int j = 0; j < piece<A>::N; j++) r.at[j] = to_act<A>(to_float(r.at[j]) + to_float(x.at[j]));
        *(uint4 *)(residual + first) = r.bits;
        return;
    }
    for (size_t i = first; i < n; i++) residual[i] = to_act<A>(to_float(residual[i]) + to_float(h[i]));
}

void cuda__add(struct exec *e, void *residual, const void *h, int T, int C) {
    const size_t n = (size_t)T * C;
    WITH_ACT(e->options.dtype, const size_t unit = (size_t)THREADS * piece<A>::N; cuda_launch(
                 e, add_pieces<A>, (unsigned)((n + unit - 1) / unit), THREADS, 0, (A *)residual, (const A *)h, n));
}

/* ---- fill_random ------------------------------------------------------------------------------------------------- */

template <typename E> __device__ static E random_element(uint32_t bits, float mean, float spread) {
    /* No fused multiply-add: the CPU twin rounds twice. */
    return to_act<E>(__fadd_rn(mean, __fmul_rn(spread, noise_symmetric(bits))));
}
template <> __device__ int32_t random_element<int32_t>(uint32_t bits, float, float) { return (int32_t)bits; }

/* Threads take pieces in turn: the grid need not cover the tensor. */
template <typename E> __global__ static void fill(E *p, size_t n, float mean, float spread, uint64_t seed) {
    pdl_wait(); /* and no pdl_trigger: p may be weights, which whoever comes next reads without waiting */
    const size_t step = (size_t)gridDim.x * THREADS * piece<E>::N;
    for (size_t first = ((size_t)blockIdx.x * THREADS + threadIdx.x) * piece<E>::N; first < n; first += step) {
        piece<E> y;
#pragma unroll
        for (int j = 0; j < piece<E>::N; j += 4) {
            uint32_t bits[4];
            noise_elements(bits, seed, (first + j) / 4);
#pragma unroll
            for (int k = 0; k < 4; k++) y.at[j + k] = random_element<E>(bits[k], mean, spread);
        }
        if (first + piece<E>::N <= n)
            *(uint4 *)(p + first) = y.bits;
        else
            for (int j = 0; first + j < n; j++) p[first + j] = y.at[j];
    }
}

void cuda__fill_random(struct exec *e, void *p, enum dtype dtype, size_t n, float mean, float spread, uint64_t seed) {
    const size_t whole = (n * dtype_bytes(dtype) + 16 * THREADS - 1) / (16 * THREADS);
    const int most = cuda_of(e)->n_sms * 64, grid = whole < (size_t)most ? (int)whole : most;
    if (dtype == DTYPE_I32)
        cuda_launch(e, fill<int32_t>, grid, THREADS, 0, (int32_t *)p, n, mean, spread, seed);
    else
        WITH_ACT(dtype, cuda_launch(e, fill<A>, grid, THREADS, 0, (A *)p, n, mean, spread, seed));
}
