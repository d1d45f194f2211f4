/* awq_tma.cuh - how TMA sees a 4-bit product: the tensor maps of x and of the arrays of awq.cuh. Shared by awq_mid.cu
 * and awq_large.cu. Host side. */
#pragma once

#include "kernels/cuda/awq.cuh"
#include "kernels/cuda/hopper.cuh"

/* x [T, K]: boxes of 64 inputs and `tokens` rows, swizzled. data, scales and zeros are [halves][strips][groups] of a
 * strip's group, halves: gate and up for SILU_MUL, else one; boxes of one group, `strips` strips and both halves. */
struct awq_maps {
    CUtensorMap x, data, scales, zeros;
};

/* False after a failure, which is latched. */
static inline bool awq_maps_init(struct exec *e, struct awq_maps *m, const struct linear_args *a, int tokens,
                                 int strips) {
    const struct matrix *w = a->w;
    const cuuint64_t halves = a->epilogue == EPILOGUE_SILU_MUL ? 2 : 1, n_strips = w->rows / AWQ_STRIP / halves;
    const cuuint64_t n_groups = w->cols / AWQ_GROUP, T = a->T, K = w->cols;
    const cuuint32_t box_strips = (cuuint32_t)strips, box_halves = (cuuint32_t)halves;
    const cuuint64_t x_dims[] = {K, T}, x_strides[] = {K * 2};
    const cuuint32_t x_box[] = {64, (cuuint32_t)tokens};
    const cuuint64_t w_dims[] = {256, n_groups * 2, n_strips, halves};
    const cuuint64_t w_strides[] = {512, n_groups * 1024, n_strips * n_groups * 1024};
    const cuuint32_t w_box[] = {256, 2, box_strips, box_halves};
    const cuuint64_t s_dims[] = {16, n_groups, n_strips, halves};
    const cuuint64_t s_strides[] = {32, n_groups * 32, n_strips * n_groups * 32};
    const cuuint64_t z_strides[] = {16, n_groups * 16, n_strips * n_groups * 16};
    const cuuint32_t s_box[] = {16, 1, box_strips, box_halves};
    return tensor_map(e, &m->x, 2, 2, a->x, x_dims, x_strides, x_box) &&
           tensor_map(e, &m->data, 2, 4, w->data, w_dims, w_strides, w_box) &&
           tensor_map(e, &m->scales, 2, 4, w->scales, s_dims, s_strides, s_box) &&
           tensor_map(e, &m->zeros, 1, 4, w->zeros, s_dims, z_strides, s_box);
}
