/* awq.c - 4-bit matrices on the CPU: layout, packing, and a row as fp32.
 *
 *     w[n, k] = round_f16((q[n, k] - zero[n, k / 128]) * scale[n, k / 128])
 *
 * Layout: data [rows, K / 128, 64] bytes, where byte i of a group has input i in its low half and input 64 + i in its
 * high half; scales [rows, K / 128] f16; zeros [rows, K / 128] u8. Rows are widened into linear's panel, from where on
 * the product is linear.c's, in its order of sums. */
#include "kernels/cpu/cpu.h"

typedef uint8_t vb __attribute__((vector_size(LANES)));

enum { GROUP = AWQ_GROUP, GROUP_BYTES = GROUP / 2 };

size_t CPU(awq_bytes)(int rows, int cols, int group) {
    size_t n = (size_t)rows * (size_t)cols, n_groups = n / (size_t)group;
    return round_up(n / 2, 64) + round_up(2 * n_groups, 64) + round_up(n_groups, 64);
}

void CPU(awq_layout)(struct matrix *w, void *base) {
    size_t n = (size_t)w->rows * (size_t)w->cols, n_groups = n / (size_t)w->group;
    uintptr_t at = (uintptr_t)base;
    w->data = (const void *)at;
    w->scales = (const void *)(at + round_up(n / 2, 64));
    w->zeros = (const void *)(at + round_up(n / 2, 64) + round_up(2 * n_groups, 64));
}

/* ---- packing ----------------------------------------------------------------------------------------------------- */

struct packing {
    const struct matrix *w;
    int first_row, n_rows;
    const uint32_t *qweight, *qzeros;
    const uint16_t *scales;
};

/* Column `column` of a checkpoint's row of words. */
static inline unsigned nibble(const uint32_t *words, int column) {
    static const uint8_t place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    return words[column / 8] >> 4 * place[column % 8] & 15;
}

static void pack_rows(void *arg, struct share *share) {
    const struct packing *p = arg;
    size_t K = (size_t)p->w->cols, n_groups = K / GROUP, n_words = (size_t)p->n_rows / 8, n_rows = (size_t)p->n_rows;
    for (int first, last; threads_take(share, &first, &last);)
        for (int n = first; n < last; n++) {
            size_t row = (size_t)(p->first_row + n);
            uint8_t *data = (uint8_t *)p->w->data + row * K / 2;
            for (size_t g = 0; g < n_groups; g++) {
                for (size_t i = 0; i < GROUP_BYTES; i++) {
                    const uint32_t *low = p->qweight + (g * GROUP + i) * n_words, *high = low + GROUP_BYTES * n_words;
                    data[g * GROUP_BYTES + i] = (uint8_t)(nibble(low, n) | nibble(high, n) << 4);
                }
                ((uint16_t *)p->w->scales)[row * n_groups + g] = p->scales[g * n_rows + (size_t)n];
                ((uint8_t *)p->w->zeros)[row * n_groups + g] = (uint8_t)nibble(p->qzeros + g * n_words, n);
            }
        }
}

void CPU(awq_pack)(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
                   const int32_t *qzeros, const uint16_t *scales) {
    struct packing p = {.w = w, .first_row = first_row, .n_rows = n_rows, .qweight = (const uint32_t *)qweight,
                        .qzeros = (const uint32_t *)qzeros, .scales = scales};
    parallel(e, n_rows, 8, pack_rows, &p); /* 8 rows are in the same words */
}

/* ---- widening ---------------------------------------------------------------------------------------------------- */

void CPU(awq_row)(float *out, const struct matrix *w, int row) {
    size_t K = (size_t)w->cols, n_groups = K / GROUP;
    const uint8_t *data = (const uint8_t *)w->data + (size_t)row * K / 2;
    const uint16_t *scales = (const uint16_t *)w->scales + (size_t)row * n_groups;
    const uint8_t *zeros = (const uint8_t *)w->zeros + (size_t)row * n_groups;
    for (size_t g = 0; g < n_groups; g++, out += GROUP, data += GROUP_BYTES) {
        vf scale = vf_set1(f32_from_f16(scales[g])), zero = vf_set1(zeros[g]);
        for (size_t i = 0; i < GROUP_BYTES; i += LANES) {
            vb q;
            memcpy(&q, data + i, sizeof q);
            vf low = __builtin_convertvector(__builtin_convertvector(q & 15, vi), vf);
            vf high = __builtin_convertvector(__builtin_convertvector(q >> 4, vi), vf);
            vf_store(out + i, vf_round((low - zero) * scale, DTYPE_F16));
            vf_store(out + GROUP_BYTES + i, vf_round((high - zero) * scale, DTYPE_F16));
        }
    }
}
