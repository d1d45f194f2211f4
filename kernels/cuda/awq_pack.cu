/* awq_pack.cu - 4-bit matrices: their size and layout, packing from a checkpoint's tensors, and unpacking to f16.
 *
 * Packing: one block per 128 rows (of the part) and 64 inputs. The 64 x 16 words of AutoAWQ's qweight go through shared
 * memory, so that reads are of 64 contiguous bytes and every thread writes the 16 bytes of one lane (awq.cuh). Blocks of
 * even 64s write scales and zeros as well. Unpacking: one warp per 16 x 64 tile, turned in shared memory so that rows
 * are written in 128 contiguous bytes. Bytes: half a byte per weight each way; no arithmetic but the dequantisation. */
#include "kernels/cuda/awq.cuh"

enum { PACK_ROWS = 128, PACK_THREADS = 256, UNPACK_WARPS = 4 };
static_assert(PACK_ROWS / AWQ_STRIP * 32 == PACK_THREADS, "one thread per lane of a tile");

/* ---- layout ---------------------------------------------------------------------------------------------------------- */

static size_t up256(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t cuda__awq_bytes(int rows, int cols, int group) {
    size_t n = (size_t)rows * cols, n_groups = n / group;
    return up256(n / 2) + up256(2 * n_groups) + up256(n_groups);
}

void cuda__awq_layout(struct matrix *w, void *base) {
    size_t n = (size_t)w->rows * w->cols, n_groups = n / w->group;
    uintptr_t at = (uintptr_t)base;
    w->data = (const void *)at;
    w->scales = (const void *)(at + up256(n / 2));
    w->zeros = (const void *)(at + up256(n / 2) + up256(2 * n_groups));
}

/* ---- packing --------------------------------------------------------------------------------------------------------- */

/* The bit where column `column` of AutoAWQ's eight begins in its word. */
__device__ static inline int checkpoint_shift(int column) { return 4 * (column / 2 + column % 2 * 4); }

/* Block (x, y): rows 128 x .. of the part, inputs 64 y .. data, scales and zeros are the matrix's; K = cols. */
__global__ static void __launch_bounds__(PACK_THREADS)
    pack(uint4 *data, uint16_t *scales, uint8_t *zeros, const uint32_t *qweight, const uint32_t *qzeros,
         const uint16_t *checkpoint_scales, int first_row, int n_rows, int K) {
    __shared__ uint32_t words[AWQ_TILE_K][PACK_ROWS / 8 + 1];
    pdl_wait(); /* and no pdl_trigger: whoever comes next may read weights without waiting */
    const int row0 = blockIdx.x * PACK_ROWS, k0 = blockIdx.y * AWQ_TILE_K, n_words = n_rows / 8;
    for (int i = threadIdx.x; i < AWQ_TILE_K * (PACK_ROWS / 8); i += PACK_THREADS) {
        int k = i / (PACK_ROWS / 8), word = i % (PACK_ROWS / 8);
        if (row0 / 8 + word < n_words) words[k][word] = qweight[(size_t)(k0 + k) * n_words + row0 / 8 + word];
    }
    __syncthreads();

    const int strip = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
    const int first_strip = (first_row + row0) / AWQ_STRIP;
    if (row0 + strip * AWQ_STRIP < n_rows) {
        uint32_t out[4];
        for (int i = 0; i < 4; i++) {
            out[i] = 0;
            for (int p = 0; p < 4; p++) {
                int k = 16 * i + 2 * j + p / 2 * 8, word = 2 * strip + p % 2, shift = checkpoint_shift(g);
                out[i] |= (words[k][word] >> shift & 15) << 4 * p | (words[k + 1][word] >> shift & 15) << (16 + 4 * p);
            }
        }
        size_t tile = (size_t)(first_strip + strip) * (K / AWQ_TILE_K) + blockIdx.y;
        data[tile * 32 + lane] = make_uint4(out[0], out[1], out[2], out[3]);
    }
    const int row = threadIdx.x; /* of the block's */
    if (blockIdx.y % 2 == 0 && row < PACK_ROWS && row0 + row < n_rows) {
        int group = blockIdx.y / 2, r = row % AWQ_STRIP, column = row0 + row;
        size_t entry = ((size_t)(first_strip + row / AWQ_STRIP) * (K / AWQ_GROUP) + group) * AWQ_STRIP + r % 8 * 2 + r / 8;
        scales[entry] = checkpoint_scales[(size_t)group * n_rows + column];
        zeros[entry] = qzeros[(size_t)group * n_words + column / 8] >> checkpoint_shift(column % 8) & 15;
    }
}

void cuda__awq_pack(struct exec *e, const struct matrix *w, int first_row, int n_rows, const int32_t *qweight,
                    const int32_t *qzeros, const uint16_t *scales) {
    dim3 grid(div_up(n_rows, PACK_ROWS), w->cols / AWQ_TILE_K);
    cuda_launch(e, pack, grid, PACK_THREADS, 0, (uint4 *)w->data, (uint16_t *)w->scales, (uint8_t *)w->zeros,
                (const uint32_t *)qweight, (const uint32_t *)qzeros, scales, first_row, n_rows, w->cols);
}

/* ---- unpacking ------------------------------------------------------------------------------------------------------- */

/* Warp y of block (x, y): 64 inputs, strip x of the wanted rows. dense [n_rows, K]. */
__global__ static void __launch_bounds__(32 * UNPACK_WARPS)
    unpack(uint4 *dense, const uint4 *data, const uint32_t *scales, const uint16_t *zeros, int first_strip, int K) {
    __shared__ uint32_t turned[UNPACK_WARPS][AWQ_STRIP][AWQ_TILE_K / 2 + 4];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, j = lane % 4;
    const int tile = blockIdx.y * UNPACK_WARPS + warp;
    pdl_trigger();
    pdl_wait();
    if (tile >= K / AWQ_TILE_K) return;
    const size_t strip = first_strip + blockIdx.x, group = strip * (K / AWQ_GROUP) + tile / 2;
    struct awq_scale s = awq_scale_of(scales[group * 8 + g], zeros[group * 8 + g]);
    uint4 packed = data[(strip * (K / AWQ_TILE_K) + tile) * 32 + lane];
    uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t a[4];
        awq_dequantise(a, words[i], s);
#pragma unroll
        for (int p = 0; p < 4; p++) turned[warp][g + p % 2 * 8][8 * i + j + p / 2 * 4] = a[p];
    }
    __syncwarp();
    for (int i = lane; i < AWQ_STRIP * 8; i += 32) { /* 8 times 16 bytes a row */
        int row = i / 8, at = i % 8;
        dense[((size_t)(blockIdx.x * AWQ_STRIP + row) * K + tile * AWQ_TILE_K) / 8 + at] =
            *(const uint4 *)&turned[warp][row][4 * at];
    }
}

void cuda__awq_unpack(struct exec *e, void *dense, const struct matrix *w, int first_row, int n_rows) {
    dim3 grid(n_rows / AWQ_STRIP, div_up(w->cols / AWQ_TILE_K, UNPACK_WARPS));
    cuda_launch(e, unpack, grid, 32 * UNPACK_WARPS, 0, (uint4 *)dense, (const uint4 *)w->data, (const uint32_t *)w->scales,
                (const uint16_t *)w->zeros, first_row / AWQ_STRIP, w->cols);
}
