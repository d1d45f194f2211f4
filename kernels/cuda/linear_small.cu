/* linear_small.cu - y = x W' for up to 16 tokens: the weights of a decode step, read once at memory speed.
 *
 *     sum[t, n] = sum over k of x[t, k] w[n, k], then an epilogue (enum epilogue)      x [T, K], w [N, K], bf16 or f16
 *     with norm: x = round(x * rsqrt(mean(x^2) + eps)) * norm first, with the bits of a pass of its own (norm.cuh)
 *
 * One thread block per SM, whose last warp feeds a ring of stages by TMA while the others compute: a stage holds R rows
 * of w (SILU_MUL: R of gate and R of up) and KB lines of 64 k, box [KB, R, 64], swizzled. The ring is filled before
 * pdl_wait(), as only weights go in: memory works while the predecessor drains. x lies in shared memory as
 * [K / 64, T, 64] in the same swizzle, or travels in the ring where it is too large.
 *
 * Warp w of the eight computes lines w, w + 8, ... of k for all rows. w is the operand A of mma.m16n8k16 (16 rows), the
 * tokens are its columns. Lane (g, c) takes chunks 2c and 2c + 1 (16 bytes, 8 k) of row g's line and of token g's:
 * which k an MMA calls its i-th does not matter, so long as both operands agree.
 *
 * Blocks of R rows: one per SM where that is all, else SMs that are through with theirs claim the next by a counter;
 * SMs do not get equal shares of the bandwidth, so equal work would wait for the slowest. Who computes a row changes no
 * bit.
 *
 * Order: fp32; within a warp by line, chunks 2c and 2c + 1 in two sums; then warps in turn. It depends on K alone, so a
 * row has the same bits whatever T <= 16 is. Bytes: w once, x once per block of rows (from the L2). */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/warp.cuh"

enum {
    WARPS = 8, /* that compute */
    CONSUMERS = 32 * WARPS,
    THREADS = CONSUMERS + 32,
    MAX_TOKENS = 16,
    NORM_TOKENS = 2, /* up to here the norm in every block beats a pass of its own */
    MAX_STAGES = 16,
    LINE = 128, /* bytes of a swizzled line */
    LINE_K = LINE / 2,
    NARROW_ROWS = 64,            /* rows per SM up to which each has one block of them */
    RING_BYTES = 224 << 10,      /* of shared memory, all in all */
    ALONE_BYTES = 117 << 10,     /* so much that no two blocks share an SM */
    X_BYTES = 24 << 10,          /* of x that stays in shared memory */
    N_CLAIMS = CUDA_CLAIMS / 2,  /* kernels in flight overlap, so each has its own counter for a while */
};

struct control { /* at the end of shared memory */
    uint64_t full[MAX_STAGES], empty[MAX_STAGES];
    int ids[MAX_STAGES]; /* the block of rows that a stage belongs to; -1: there is no more */
    float sums[NORM_TOKENS * NORM_WARPS];
};

struct dense {
    CUtensorMap w_map, x_map;
    void *y;
    const void *x, *bias, *norm;
    float eps;
    int T, rows, cols;
    enum epilogue epilogue;
    int n_outputs;           /* rows of y: F for SILU_MUL */
    int n_boxes, box_rows;   /* of a block: 2 for SILU_MUL, R */
    int n_blocks;
    bool x_in_ring;
    int n_red;               /* buffers of sums */
    int n_stages, stage_bytes, x_at, red_at, control_at; /* of shared memory */
    int32_t *claims;         /* [2] next block beyond the first of each SM, SMs that are through; NULL: no claims */
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ static inline void copy_wait(void) { asm volatile("cp.async.wait_all;" ::: "memory"); }
__device__ static inline uint4 load_16(const char *p) { return *(const uint4 *)p; }

/* Where TMA's 128-byte swizzle puts 16-byte chunk `chunk` of line `line`. */
__device__ static inline int swizzled(int line, int chunk) { return line * LINE + ((chunk ^ (line & 7)) << 4); }

/* x of stage `stage`, which holds k from line kc * KB on. */
template <int KB> __device__ static void feed_x(const struct dense &d, char *smem, uint64_t *full, int stage, int kc) {
    const uint32_t to = smem_address(smem) + stage * d.stage_bytes + d.n_boxes * d.box_rows * KB * LINE;
    mbarrier_expect(smem_address(full + stage), d.T * KB * LINE);
    tma_load_3d(to, &d.x_map, smem_address(full + stage), 0, 0, kc * KB);
}

/* Weights before pdl_wait(), as far as the ring goes; x after it. A stage that holds both has two arrivals. */
template <int KB> __device__ static void feed(const struct dense &d, char *smem, struct control *control) {
    const int n_kc = (d.cols / LINE_K + KB - 1) / KB, box_bytes = d.box_rows * KB * LINE;
    bool waited = false;
    int stage = 0, item = 0, id = blockIdx.x;
    uint32_t parity = 1; /* of empty: the first round passes */
    while (id < d.n_blocks) {
        const int next = gridDim.x + (d.claims ? atomicAdd(d.claims, 1) : id);
        for (int kc = 0; kc < n_kc; kc++) {
            if (!waited && item == d.n_stages) {
                pdl_wait();
                waited = true;
                for (int i = 0; d.x_in_ring && i < item; i++) feed_x<KB>(d, smem, control->full, i, i % n_kc);
            }
            const uint32_t to = smem_address(smem) + stage * d.stage_bytes, full = smem_address(control->full + stage);
            mbarrier_wait(smem_address(control->empty + stage), parity);
            control->ids[stage] = id;
            mbarrier_expect(full, d.n_boxes * box_bytes);
            tma_load_3d(to, &d.w_map, full, 0, id * d.box_rows, kc * KB);
            if (d.n_boxes == 2) tma_load_3d(to + box_bytes, &d.w_map, full, 0, d.n_outputs + id * d.box_rows, kc * KB);
            if (waited && d.x_in_ring) feed_x<KB>(d, smem, control->full, stage, kc);
            if (++stage == d.n_stages) stage = 0, parity ^= 1;
            item++;
        }
        id = next;
    }
    if (!waited) {
        pdl_wait();
        for (int i = 0; d.x_in_ring && i < item; i++) feed_x<KB>(d, smem, control->full, i, i % n_kc);
    }
    mbarrier_wait(smem_address(control->empty + stage), parity);
    control->ids[stage] = -1;
    for (int i = 0; i < 1 + d.x_in_ring; i++) mbarrier_arrive(smem_address(control->full + stage));
    /* The last to count has seen everybody claim for the last time: zeros for the next kernel. */
    if (d.claims && atomicAdd(d.claims + 1, 1) == (int)gridDim.x - 1) d.claims[0] = d.claims[1] = 0;
}

/* Copies x [T, K] into shared memory and normalises it there. */
template <typename A> __device__ static void load_x(const struct dense &d, char *xs, float *sums) {
    const int tid = (int)threadIdx.x, n_pieces = d.cols / 8;
    for (int t = 0; t < d.T; t++)
        for (int i = tid; i < n_pieces; i += CONSUMERS)
            copy_16(smem_address(xs + swizzled(i / 8 * d.T + t, i % 8)), (const A *)d.x + (size_t)t * d.cols + i * 8);
    copy_wait();
    if (d.norm) { /* each thread sums and scales the pieces that it has copied: i, i + 256, ... */
        const char *norm = xs + (size_t)d.T * d.cols * sizeof(A);
        for (int t = 0; t < d.T; t++) {
            float sum = 0;
            for (int i = tid; i < n_pieces; i += CONSUMERS)
                sum = norm_squares<A>(load_16(xs + swizzled(i / 8 * d.T + t, i % 8)), sum);
            sum = warp_sum(sum);
            if (tid % 32 == 0) sums[t * NORM_WARPS + tid / 32] = sum;
        }
        named_barrier_sync(1, CONSUMERS); /* sums are written */
        for (int t = 0; t < d.T; t++) {
            const float scale = norm_scale(sums + t * NORM_WARPS, d.cols, d.eps);
            for (int i = tid; i < n_pieces; i += CONSUMERS) {
                char *at = xs + swizzled(i / 8 * d.T + t, i % 8);
                *(uint4 *)at = norm_apply<A>(load_16(at), load_16(norm + i * 16), scale);
            }
        }
    }
    named_barrier_sync(1, CONSUMERS); /* x is whole */
}

/* The sum over warps of a row of one token: from [WARPS, stride]. */
__device__ static inline float fold(const float *from, int stride) {
    float sum = from[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++) sum += from[w * stride];
    return sum;
}

#endif

/* Grid: SMs, at most one per block of rows. NT: groups of 8 tokens; KB: lines of a stage; TILES of 16 rows: a block. */
template <typename A, int NT, int KB, int TILES, int BLOCKS_PER_SM>
__global__ static void __launch_bounds__(THREADS, BLOCKS_PER_SM) dense_small(const __grid_constant__ struct dense d) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    static_assert(NORM_LANES == CONSUMERS && KB % WARPS == 0, "");
    enum {
        ROWS = 16 * TILES,
        STRIDE = ROWS + 4, /* of the sums of a warp: no bank conflicts when they are stored */
        AT_ONCE = CONSUMERS / ROWS, /* tokens that the threads can store at once */
        N_OUT = AT_ONCE > 8 ? 1 : 8 / AT_ONCE,
    };
    extern __shared__ __align__(1024) char smem[];
    struct control *const control = (struct control *)(smem + d.control_at);
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    pdl_trigger();
    if (threadIdx.x == 0) {
        for (int s = 0; s < d.n_stages; s++) {
            mbarrier_init(smem_address(control->full + s), 1 + d.x_in_ring);
            mbarrier_init(smem_address(control->empty + s), WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads(); /* the barriers exist */
    if (warp == WARPS) {
        if (lane == 0) feed<KB>(d, smem, control);
        return;
    }

    char *const xs = smem + d.x_at;
    const int tid = (int)threadIdx.x, g = lane / 4, c = lane % 4, R = d.box_rows;
    if (d.norm)
        for (int i = tid; i < d.cols / 8; i += CONSUMERS)
            copy_16(smem_address(xs + (size_t)d.T * d.cols * sizeof(A) + i * 16), (const A *)d.norm + i * 8);
    pdl_wait();
    if (!d.x_in_ring) load_x<A>(d, xs, control->sums);

    const int n_lines = d.cols / LINE_K, n_kc = (n_lines + KB - 1) / KB;
    const int box_bytes = R * KB * LINE, n_halves = d.n_boxes * R / 8;
    /* This lane's row of each half tile of 8 rows, in this warp's first line; past the last, that one. */
    int half_at[2 * TILES];
#pragma unroll
    for (int m = 0; m < 2 * TILES; m++) {
        const int half = min(m, n_halves - 1), box = half >= R / 8;
        half_at[m] = box * box_bytes + (warp * R + (half - box * (R / 8)) * 8 + g) * LINE;
    }
    const int chunk0 = (2 * c ^ g) << 4, chunk1 = ((2 * c + 1) ^ g) << 4;
    int token[NT];
#pragma unroll
    for (int n = 0; n < NT; n++) token[n] = min(n * 8 + g, d.T - 1);
    float *const reds = (float *)(smem + d.red_at); /* [n_red] [T, WARPS, STRIDE] */
    const int red_floats = min(d.T, 8) * WARPS * STRIDE;
    int stage = 0, round = 0;
    uint32_t parity = 0;
    for (int block = 0;; block++) {
        mbarrier_wait(smem_address(control->full + stage), parity);
        /* Read by the lane that will tell of it: racecheck sees no order between the others' reads and the next write. */
        const int id = __shfl_sync(0xffffffffu, lane ? 0 : control->ids[stage], 0);
        if (id < 0) break;
        const int first = id * R, n_out = min(R, d.n_outputs - first);
        const int e_tid = (tid + 32 * block) % CONSUMERS; /* warps take turns at storing */
        const int out_row = e_tid % ROWS, out_t = e_tid / ROWS;
        A old[NT * N_OUT]; /* the residual, on its way while the sums are made */
        if (d.epilogue == EPILOGUE_ADD) {
#pragma unroll
            for (int i = 0; i < NT * N_OUT; i++)
                if (out_row < n_out && i * AT_ONCE + out_t < d.T)
                    old[i] = ((const A *)d.y)[(size_t)(i * AT_ONCE + out_t) * d.rows + first + out_row];
        }
        float acc[TILES][NT][2][4] = {};
        for (int kc = 0; kc < n_kc; kc++) {
            if (kc) mbarrier_wait(smem_address(control->full + stage), parity);
            const char *at = smem + stage * d.stage_bytes;
            const char *x_at = d.x_in_ring ? at + d.n_boxes * box_bytes : xs + (size_t)kc * KB * d.T * LINE;
            /* Past the last line weights are zeros, and x must be numbers. */
            const int last_line = d.x_in_ring ? KB - 1 : n_lines - 1 - kc * KB;
            uint4 b[KB / WARPS][NT][2], a[KB / WARPS][TILES][4];
#pragma unroll
            for (int h = 0; h < KB / WARPS; h++) {
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const int line = min(h * WARPS + warp, last_line) * d.T + token[n];
                    b[h][n][0] = load_16(x_at + swizzled(line, 2 * c));
                    b[h][n][1] = load_16(x_at + swizzled(line, 2 * c + 1));
                }
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    const char *lo = at + half_at[2 * m] + h * WARPS * R * LINE;
                    const char *hi = at + half_at[2 * m + 1] + h * WARPS * R * LINE;
                    a[h][m][0] = load_16(lo + chunk0), a[h][m][1] = load_16(hi + chunk0);
                    a[h][m][2] = load_16(lo + chunk1), a[h][m][3] = load_16(hi + chunk1);
                }
            }
#pragma unroll
            for (int h = 0; h < KB / WARPS; h++)
#pragma unroll
                for (int s = 0; s < 2; s++)
#pragma unroll
                    for (int m = 0; m < TILES; m++)
#pragma unroll
                        for (int n = 0; n < NT; n++)
#pragma unroll
                            for (int j = 0; j < 2; j++) {
                                const uint4 lo = a[h][m][2 * j], hi = a[h][m][2 * j + 1], x = b[h][n][j];
                                if (s == 0) mma<A>(acc[m][n][j], lo.x, hi.x, lo.y, hi.y, x.x, x.y);
                                else mma<A>(acc[m][n][j], lo.z, hi.z, lo.w, hi.w, x.z, x.w);
                            }
            __syncwarp();
            if (lane == 0) mbarrier_arrive(smem_address(control->empty + stage));
            if (++stage == d.n_stages) stage = 0, parity ^= 1;
        }
#pragma unroll
        for (int n = 0; n < NT; n++, round++) {
            float *red = reds + (d.n_red == 2 ? round & 1 : 0) * red_floats;
            if (d.n_red == 1 && round) named_barrier_sync(1, CONSUMERS); /* the last sums have been read */
#pragma unroll
            for (int m = 0; m < TILES; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int t = 2 * c + i % 2;
                    if (n * 8 + t < d.T)
                        red[(t * WARPS + warp) * STRIDE + m * 16 + i / 2 * 8 + g] = acc[m][n][0][i] + acc[m][n][1][i];
                }
            named_barrier_sync(1, CONSUMERS); /* the sums are written; of two buffers, the other has been read */
#pragma unroll
            for (int i = 0; i < N_OUT; i++) {
                const int t8 = i * AT_ONCE + out_t, t = n * 8 + t8, row = first + out_row;
                if (out_row >= n_out || t8 >= 8 || t >= d.T) continue;
                const float *from = red + t8 * WARPS * STRIDE + out_row;
                const float sum = fold(from, STRIDE);
                A *y = (A *)d.y + (size_t)t * d.n_outputs + row;
                const float bias = d.bias ? to_float(((const A *)d.bias)[row]) : 0;
                if (d.epilogue == EPILOGUE_STORE) *y = to_act<A>(sum + bias);
                else if (d.epilogue == EPILOGUE_F32) ((float *)d.y)[(size_t)t * d.n_outputs + row] = sum;
                else if (d.epilogue == EPILOGUE_ADD) *y = to_act<A>(to_float(old[n * N_OUT + i]) + round_to<A>(sum));
                else *y = to_act<A>(round_to<A>(silu<A>(round_to<A>(sum))) * round_to<A>(fold(from + R, STRIDE)));
            }
        }
    }
#endif
}

static int round_up(int x, int m) { return div_up(x, m) * m; }

template <typename A> static bool launch(struct exec *e, const struct linear_args *l) {
    struct cuda_state *s = cuda_of(e);
    const struct matrix *w = l->w;
    struct dense d = {};
    d.y = l->y, d.x = l->x, d.bias = l->bias, d.norm = l->norm, d.eps = l->eps;
    d.T = l->T, d.rows = w->rows, d.cols = w->cols, d.epilogue = l->epilogue;
    d.n_boxes = l->epilogue == EPILOGUE_SILU_MUL ? 2 : 1;
    d.n_outputs = w->rows / d.n_boxes;

    const int rows_per_sm = div_up(w->rows, s->n_sms);
    const bool narrow = rows_per_sm <= NARROW_ROWS;
    const int rows = narrow ? round_up(rows_per_sm, 8 * d.n_boxes) : l->T <= 4 ? 32 : 64;
    const bool wide = rows > 32 || l->T > 4; /* then stages have half the lines */
    const int KB = wide ? 8 : 16, tile_rows = wide ? 64 : rows > 16 ? 32 : 16;
    d.box_rows = rows / d.n_boxes;
    d.n_blocks = div_up(d.n_outputs, d.box_rows);
    const int grid = d.n_blocks < s->n_sms ? d.n_blocks : s->n_sms;

    /* Shared memory: stages | x, norm | sums | control. */
    int x_bytes = (l->T + !!l->norm) * w->cols * (int)sizeof(A);
    d.x_in_ring = !l->norm && x_bytes > X_BYTES;
    x_bytes = d.x_in_ring ? 0 : round_up(x_bytes, 128);
    d.n_red = l->T <= 4 ? 2 : 1;
    const int red_bytes = d.n_red * (l->T < 8 ? l->T : 8) * WARPS * (tile_rows + 4) * (int)sizeof(float);
    d.stage_bytes = (rows + (d.x_in_ring ? l->T : 0)) * KB * LINE;
    const int rest = x_bytes + red_bytes + (int)sizeof(struct control);
    const int n_items = div_up(d.n_blocks, grid) * div_up(w->cols / LINE_K, KB);
    d.n_stages = (RING_BYTES - rest) / d.stage_bytes;
    if (d.n_stages < 2) return false;
    if (d.n_stages > MAX_STAGES) d.n_stages = MAX_STAGES;
    const bool all = d.n_stages > n_items; /* the ring holds all that an SM reads: little, and it may share the SM */
    if (all) d.n_stages = n_items + 1;
    d.x_at = d.n_stages * d.stage_bytes;
    d.red_at = d.x_at + x_bytes;
    d.control_at = d.red_at + red_bytes;
    int smem = d.control_at + (int)sizeof(struct control);
    if (!all && smem < ALONE_BYTES) smem = ALONE_BYTES;
    if (d.n_blocks > grid) d.claims = s->claims + s->n_claims++ % N_CLAIMS * 2;

    const cuuint64_t pitch = (cuuint64_t)w->cols * sizeof(A), n_lines = (cuuint64_t)w->cols / LINE_K;
    const cuuint64_t w_dims[] = {LINE_K, (cuuint64_t)w->rows, n_lines}, x_dims[] = {LINE_K, (cuuint64_t)l->T, n_lines};
    const cuuint64_t strides[] = {pitch, LINE};
    const cuuint32_t w_box[] = {LINE_K, (cuuint32_t)d.box_rows, (cuuint32_t)KB};
    const cuuint32_t x_box[] = {LINE_K, (cuuint32_t)l->T, (cuuint32_t)KB};
    if (!tensor_map(e, &d.w_map, sizeof(A), 3, w->data, w_dims, strides, w_box)) return true; /* it is latched */
    if (!tensor_map(e, &d.x_map, sizeof(A), 3, l->x, x_dims, strides, x_box)) return true;
#define LAUNCH(...)                                                                                                    \
    do {                                                                                                               \
        cuda_allow_smem(e, (dense_small<A, __VA_ARGS__>), RING_BYTES);                                                 \
        cuda_launch(e, (dense_small<A, __VA_ARGS__>), grid, THREADS, smem, d);                                         \
    } while (0)
    if (l->T > 8) LAUNCH(2, 8, 4, 1);
    else if (wide) LAUNCH(1, 8, 4, 1);
    else if (rows > 16) LAUNCH(1, 16, 2, 2);
    else LAUNCH(1, 16, 1, 2);
#undef LAUNCH
    return true;
}

bool cuda__dense_small(struct exec *e, const struct linear_args *a) {
    const struct matrix *w = a->w;
    if (!cuda_of(e)->hopper || w->format != MATRIX_DENSE || w->dtype != e->options.dtype) return false;
    if (w->cols % LINE_K) return false;
    if (a->T > (a->norm ? NORM_TOKENS : MAX_TOKENS)) return false;
    if (w->dtype == DTYPE_BF16) return launch<__nv_bfloat16>(e, a);
    if (w->dtype == DTYPE_F16) return launch<__half>(e, a);
    return false;
}
