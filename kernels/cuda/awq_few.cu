/* awq_few.cu - y = x W' for 4-bit weights and up to eight tokens, which is the decode step of a few sequences: the
 * weights are read once, at memory speed, and the next kernel's weights are already on their way meanwhile.
 *
 *     y[t, n] = sum over k of x[t, k] w[n, k]     w = round_f16((q - zero) * scale), x [T, K] f16, T <= 8, fp32 sums
 *
 * mma.m16n8k16 with the weights as A (awq.cuh: 16 bytes of a lane are its fragments of 16 x 64 weights) and the tokens
 * as the eight columns of B.
 *
 * Work. A block, one an SM, has some strips of 16 rows (for SILU_MUL pairs of them: gate and up), over all of K. Their
 * units, a strip's 128 inputs (1 KB) each, are numbered strip by strip and divided evenly among the block's warps. Each
 * warp has a ring of DEPTH units in shared memory, filled by cp.async; x lies beside it, all of it. No sum crosses a
 * block: waiting for other blocks would cost more than the unevenness of whole strips does (5120 rows on 132 SMs: 3
 * strips where 2.4 would be even, 0.7 us of 3.6).
 *
 * Sums. A warp adds a strip's units in order of k, even and odd 16s of inputs apart, and leaves its piece in shared
 * memory; after a barrier the pieces of each strip are added in order of k. So the order of every sum depends on
 * (rows, K) and the number of SMs alone.
 *
 * PDL. A block fills its rings before it waits for x, so it had better be on its SM early; but where two blocks of such
 * kernels fit on an SM, now and then both are of one kernel, and another SM has none (measured: 112 us for the linears
 * of a layer of Qwen3-14B, and 71 where only one fits). So a block takes at least LEAST_BYTES of shared memory.
 *
 * Bytes: the matrix once, x once a block. Instructions per unit and warp: 8 words of 13 to dequantise, 8 mma, 4
 * ldmatrix, about 30 others. */
#include "kernels/cuda/awq.cuh"
#include "kernels/cuda/norm.cuh"

enum {
    WARPS = 16,
    THREADS = 32 * WARPS,
    TOKENS = 8,
    STAGE_DATA = 2 * AWQ_TILE_BYTES,
    STAGE_ZEROS = STAGE_DATA + AWQ_SCALE_BYTES,
    STAGE_BYTES = STAGE_ZEROS + AWQ_ZERO_BYTES + 16, /* a multiple of 64 */
    GROUP_BYTES = AWQ_GROUP * 2,                     /* of a row of x */
    X_PAD = 16,              /* so that the 8 rows that ldmatrix reads at once lie in different banks */
    PIECE = 32,              /* float4: a strip's sums of eight tokens as mma leaves them */
    LEAST_BYTES = 118 << 10, /* of shared memory: two blocks do not fit on an SM */
    MOST_BYTES = 225 << 10,
};
static_assert(STAGE_BYTES % 64 == 0, "stages are copied and read 16 bytes at a time");

struct few {
    const char *data, *scales, *zeros;
    const __half *x, *bias, *norm;
    void *y;
    float eps;
    enum epilogue epilogue;
    int T, rows, K;
    int n_groups, n_lots; /* lots: strips, or for SILU_MUL pairs of a gate's and an up's */
};

/* ---- loading
 * --------------------------------------------------------------------------------------------------------- */

__device__ static inline uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ static inline void copy_16(uint32_t to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ static inline void copies_commit(void) {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int PENDING> __device__ static inline void copies_wait(void) {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* A warp's way through its units, ahead of the one that multiplies. */
struct loader {
    const char *data, *extra; /* this lane's 16 bytes of the unit; of its scales (lanes 0, 1) or zeros (lane 2) */
    uint32_t ring;            /* shared address of the warp's ring */
    int at, left;             /* where in the ring; units to come */
    int local, group;         /* the unit: which strip of the block, which inputs */
};

__device__ static inline void loader_seek(struct loader &l, const struct few &a, int first_lot, int lane) {
    const bool silu = a.epilogue == EPILOGUE_SILU_MUL;
    const size_t strip = silu ? first_lot + l.local / 2 + (l.local % 2 ? a.n_lots : 0) : first_lot + l.local;
    const size_t unit = strip * a.n_groups + l.group;
    l.data = a.data + unit * STAGE_DATA + lane * 16;
    l.extra = lane < 2 ? a.scales + unit * AWQ_SCALE_BYTES + lane * 16 : a.zeros + unit * AWQ_ZERO_BYTES;
}

/* Loads the next unit, if there is one, as a group of copies of its own. */
template <int DEPTH>
__device__ static inline void load_unit(struct loader &l, const struct few &a, int first_lot, int lane) {
    if (l.left > 0) {
        const uint32_t to = l.ring + l.at;
        copy_16(to + lane * 16, l.data);
        copy_16(to + AWQ_TILE_BYTES + lane * 16, l.data + AWQ_TILE_BYTES);
        if (lane < 3) copy_16(to + STAGE_DATA + lane * 16, l.extra);
        l.at = l.at == (DEPTH - 1) * STAGE_BYTES ? 0 : l.at + STAGE_BYTES;
        l.data += STAGE_DATA;
        l.extra += lane < 2 ? AWQ_SCALE_BYTES : AWQ_ZERO_BYTES;
        l.left--;
        if (++l.group == a.n_groups) {
            l.group = 0;
            l.local++;
            if (l.left > 0) loader_seek(l, a, first_lot, lane);
        }
    }
    copies_commit();
}

/* x, normalised if there is a norm, by all threads: row t at t * stride bytes. */
__device__ static inline void load_x(char *to, int stride, const struct few &a, const float *scales) {
    for (int c = threadIdx.x; c < a.K / 8; c += THREADS) {
        uint4 w = {};
        if (a.norm) w = __ldg((const uint4 *)a.norm + c);
#pragma unroll 4
        for (int t = 0; t < a.T; t++) {
            const uint4 v = __ldcg((const uint4 *)(a.x + (size_t)t * a.K) + c);
            *(uint4 *)(to + t * stride + c * 16) = a.norm ? norm_apply<__half>(v, w, scales[t]) : v;
        }
    }
}

/* ---- multiplying
 * ----------------------------------------------------------------------------------------------------- */

__device__ static inline void load_matrices(uint32_t b[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
}

__device__ static inline void multiply(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* sums [even or odd 16s][4] += a unit times x; x is what this lane gives ldmatrix at the unit's first input. */
__device__ static inline void multiply_unit(float sums[2][4], const uint4 low, const uint4 high,
                                            const struct awq_scale &scale, uint32_t x) {
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int k = 0; k < 8; k += 2) { /* of 16 inputs */
        uint32_t b[4], f[2][4];
        load_matrices(b, x + k * 32);
        awq_dequantise(f[0], words[k], scale);
        awq_dequantise(f[1], words[k + 1], scale);
        multiply(sums[0], f[0], b[0], b[1]);
        multiply(sums[1], f[1], b[2], b[3]);
    }
}

/* ---- the end
 * --------------------------------------------------------------------------------------------------------- */

/* The sum over the warps that have units of a strip, in order of k. Warp w's piece of strip `local` is number local +
 * w: along a block's units one of the two grows at a time, so no two share a number. */
__device__ static inline float4 add_pieces(const float4 *pieces, int local, int n_units, int n_groups, int lane) {
    const int begin = local * n_groups, end = begin + n_groups;
    int w = (int)((unsigned)begin * WARPS / (unsigned)n_units);
    while (n_units * (w + 1) / WARPS <= begin) w++;
    float4 sum = pieces[(local + w) * PIECE + lane];
    for (w++; w < WARPS && n_units * w / WARPS < end; w++) {
        const float4 p = pieces[(local + w) * PIECE + lane];
        sum.x += p.x, sum.y += p.y, sum.z += p.z, sum.w += p.w;
    }
    return sum;
}

/* Four sums of a lane as mma leaves them: with g = lane / 4, j = lane % 4, elements 0 and 1 are row g of the lot and
 * tokens 2j, 2j + 1; 2 and 3 row g + 8. */
__device__ static inline void store(const struct few &a, int lot, int lane, float4 sum, float4 up) {
    const float s[4] = {sum.x, sum.y, sum.z, sum.w}, u[4] = {up.x, up.y, up.z, up.w};
    const bool silu = a.epilogue == EPILOGUE_SILU_MUL;
    const int n_out = silu ? a.rows / 2 : a.rows;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int t = lane % 4 * 2 + i % 2, row = lot * AWQ_STRIP + lane / 4 + i / 2 * 8;
        if (t >= a.T) continue;
        const size_t at = (size_t)t * n_out + row;
        __half *y = (__half *)a.y + at;
        if (silu) {
            const float gate = round_to<__half>(s[i]), act = round_to<__half>(gate / (1.0f + __expf(-gate)));
            *y = to_act<__half>(act * round_to<__half>(u[i]));
        } else if (a.epilogue == EPILOGUE_F32) {
            ((float *)a.y)[at] = s[i];
        } else if (a.epilogue == EPILOGUE_ADD) {
            *y = to_act<__half>(to_float(*y) + round_to<__half>(s[i]));
        } else {
            *y = to_act<__half>(a.bias ? s[i] + to_float(a.bias[row]) : s[i]);
        }
    }
}

/* ---- the kernel
 * ------------------------------------------------------------------------------------------------------ */

/* Grid: blocks. Dynamic shared memory: rings [WARPS][DEPTH][STAGE_BYTES], pieces [strips + WARPS][PIECE], x
 * [T][stride]. */
template <int DEPTH> __global__ static void __launch_bounds__(THREADS, 2) awq_few(const struct few a) {
    extern __shared__ __align__(128) char shared[];
    __shared__ float norm_sums[TOKENS * NORM_WARPS], norm_of[TOKENS];
    pdl_trigger();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool silu = a.epilogue == EPILOGUE_SILU_MUL;
    const int first_lot = (int)((unsigned)a.n_lots * blockIdx.x / gridDim.x);
    const int n_own = (int)((unsigned)a.n_lots * (blockIdx.x + 1) / gridDim.x) - first_lot,
              n_local = silu ? 2 * n_own : n_own;
    const int n_units = n_local * a.n_groups;
    const int begin = n_units * warp / WARPS, end = n_units * (warp + 1) / WARPS;
    char *const ring = shared + warp * DEPTH * STAGE_BYTES;
    float4 *const pieces = (float4 *)(shared + WARPS * DEPTH * STAGE_BYTES);
    char *const x = (char *)(pieces + (n_local + WARPS) * PIECE);
    const int x_stride = a.K * 2 + X_PAD;

    struct loader loader = {
        .ring = shared_address(ring), .left = end - begin, .local = begin / a.n_groups, .group = begin % a.n_groups};
    loader_seek(loader, a, first_lot, lane);
#pragma unroll 1
    for (int i = 0; i < DEPTH; i++) load_unit<DEPTH>(loader, a, first_lot, lane);
    pdl_wait();
    if (a.norm) norm_scales<__half, THREADS>(norm_of, norm_sums, a.x, a.T, a.K, a.eps);
    load_x(x, x_stride, a, norm_of);
    __syncthreads(); /* x is there */
    /* Tokens that do not exist are the last one again: what they give is not stored. */
    const uint32_t x_lane = shared_address(x) + min(lane % 8, a.T - 1) * x_stride + lane / 8 * 16;

    float sums[2][4] = {};
    int local = begin / a.n_groups, group = begin % a.n_groups, at = 0;
    for (int unit = begin; unit < end; unit++) {
        copies_wait<DEPTH - 1>();
        __syncwarp(); /* all lanes' copies are there */
        const char *stage = ring + at;
        const uint4 low = *(const uint4 *)(stage + lane * 16),
                    high = *(const uint4 *)(stage + AWQ_TILE_BYTES + lane * 16);
        const struct awq_scale scale = awq_scale_of(*(const uint32_t *)(stage + STAGE_DATA + lane / 4 * 4),
                                                    *(const uint16_t *)(stage + STAGE_ZEROS + lane / 4 * 2));
        __syncwarp(); /* all lanes have read */
        load_unit<DEPTH>(loader, a, first_lot, lane);
        at = at == (DEPTH - 1) * STAGE_BYTES ? 0 : at + STAGE_BYTES;
        multiply_unit(sums, low, high, scale, x_lane + group * GROUP_BYTES);
        if (++group < a.n_groups && unit + 1 < end) continue;
        pieces[(local + warp) * PIECE + lane] = make_float4(sums[0][0] + sums[1][0], sums[0][1] + sums[1][1],
                                                            sums[0][2] + sums[1][2], sums[0][3] + sums[1][3]);
#pragma unroll
        for (int i = 0; i < 4; i++) sums[0][i] = sums[1][i] = 0;
        group = 0;
        local++;
    }
    __syncthreads(); /* pieces are written */
    for (int q = threadIdx.x; q < n_own * PIECE; q += THREADS) {
        const int own = q / PIECE, first = silu ? 2 * own : own;
        const float4 sum = add_pieces(pieces, first, n_units, a.n_groups, lane);
        store(a, first_lot + own, lane, sum, silu ? add_pieces(pieces, first + 1, n_units, a.n_groups, lane) : sum);
    }
}

/* ---- launching
 * ------------------------------------------------------------------------------------------------------- */

template <int DEPTH> static void launch(struct exec *e, const struct few &a, int grid, size_t smem) {
    cuda_allow_smem(e, awq_few<DEPTH>, smem);
    cuda_launch(e, awq_few<DEPTH>, grid, THREADS, smem, a);
}

bool cuda__awq_few(struct exec *e, const struct linear_args *l) {
    struct cuda_state *s = cuda_of(e);
    const struct matrix *w = l->w;
    const bool silu = l->epilogue == EPILOGUE_SILU_MUL;
    const struct few a = {.data = (const char *)w->data,
                          .scales = (const char *)w->scales,
                          .zeros = (const char *)w->zeros,
                          .x = (const __half *)l->x,
                          .bias = (const __half *)l->bias,
                          .norm = (const __half *)l->norm,
                          .y = l->y,
                          .eps = l->eps,
                          .epilogue = l->epilogue,
                          .T = l->T,
                          .rows = w->rows,
                          .K = w->cols,
                          .n_groups = w->cols / AWQ_GROUP,
                          .n_lots = w->rows / AWQ_STRIP / (silu ? 2 : 1)};
    if (l->T > TOKENS || s->arch < 90 || (silu && w->rows % (2 * AWQ_STRIP))) return false;
    if (a.n_groups * (silu ? 2 : 1) < WARPS) return false; /* a warp would have nothing to do */
    const int grid = s->n_sms < a.n_lots ? s->n_sms : a.n_lots, n_local = div_up(a.n_lots, grid) * (silu ? 2 : 1);
    const size_t fixed = (size_t)(n_local + WARPS) * PIECE * sizeof(float4) + (size_t)l->T * (a.K * 2 + X_PAD);

    static const int depths[] = {6, 5, 4, 3, 2}; /* as deep as there is room */
    size_t smem = 0;
    int depth = 0;
    for (int i = 0; i < 5 && !depth; i++) {
        smem = (size_t)WARPS * depths[i] * STAGE_BYTES + fixed;
        if (smem <= (size_t)MOST_BYTES) depth = depths[i];
    }
    if (!depth) return false;
    if (smem < LEAST_BYTES) smem = LEAST_BYTES;
    if (depth == 6)
        launch<6>(e, a, grid, smem);
    else if (depth == 5)
        launch<5>(e, a, grid, smem);
    else if (depth == 4)
        launch<4>(e, a, grid, smem);
    else if (depth == 3)
        launch<3>(e, a, grid, smem);
    else
        launch<2>(e, a, grid, smem);
    return true;
}
