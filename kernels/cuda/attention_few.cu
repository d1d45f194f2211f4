/* attention_few.cu - qk_norm_rope_store and attention as one kernel, for a decode step of a few sequences. There the
 * time of a layer's attention is not that of its bytes but that of three kernels one after the other, each of which loads
 * little and waits for it; here it is one, and nothing goes through memory in between. On an H200 a step of one sequence
 * of 1k saves 5 us a layer. Each further chunk of a block costs 2 us, and two blocks on an SM gain nothing, so for longer
 * contexts and more sequences the kernels of their own are the faster ones.
 *
 *     q = rope(norm(q)), k = rope(norm(k)), as rope.cu; k and v to their block
 *     o[h] = sum over p of e^(s[p] - m) v[p] / sum over p of e^(s[p] - m),  s[p] = (q[h] . k[p]) / sqrt(D),  m = max s[p]
 *
 * qkv [T, (H + 2K) D], o [T, H D], bf16 or f16, KV in the same format, D = 128, up to 8 query heads to a KV head, each
 * sequence with one token and at most MOST_CHUNKS * CHUNK positions.
 *
 * Work. A cluster of thread blocks has one KV head of one sequence, with the G = H / K query heads that share it. A chunk
 * is 64 positions, from a multiple of 64 on; block r of the cluster takes chunks r, r + n, ... for n blocks. K and V come
 * by bulk copies, a run of a block's positions at a time, two chunks ahead. Meanwhile each block normalises and rotates
 * q itself; the one that has the newest position does so for k, too, stores k and v to the cache, and puts them in their
 * place in the chunk. Then, for each chunk, 8 warps:
 *     S = K Q'    [64, 8]    mma.m16n8k16, a warp for 16 positions        (heads beyond G are columns that nobody reads)
 *     P = e^(S - m), l       a warp for a head
 *     O' = V' P'  [128, 8]   a warp for 16 dims
 * O, m and l of a chunk stay in shared memory. At last each block adds all chunks for its share of the outputs, in order
 * of position, reading the other blocks' shared memory. So the result depends on the sequence alone, not on the size of
 * the cluster.
 *
 * P is rounded to the activation format; sums are fp32. Bytes: K and V once; qkv of the group once a block. */
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/warp.cuh"

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    HEAD = 128,      /* D */
    MOST_GROUP = 8,  /* H / K: columns of an MMA */
    CHUNK = 64,      /* positions of one softmax */
    MOST_RANKS = 8,  /* blocks of a cluster */
    MOST_OWN = 4,    /* chunks of a block */
    MOST_CHUNKS = MOST_RANKS * MOST_OWN,
    BUFFERS = 2,
    CHUNK_BYTES = CHUNK * HEAD * 2, /* of K, or of V */
    HEAD_LANES = 16,                /* that prepare a head */
};
static_assert(THREADS / HEAD_LANES >= MOST_GROUP + 2, "all heads of a group, k and v are prepared at once");

struct few {
    struct kv_cache kv;
    const void *qkv, *q_norm, *k_norm;
    void *o;
    const float *cos_sin;
    const int32_t *positions, *kv_len, *block_table;
    int max_blocks, H, layer;
    float eps;
};

template <typename A> struct smem {
    char kv[BUFFERS][2][CHUNK_BYTES]; /* chunks of K and V as they lie in the cache */
    float o[MOST_OWN][MOST_GROUP][HEAD]; /* of this block's chunks, not yet divided */
    float2 ml[MOST_OWN][MOST_GROUP];     /* their maxima (in units of log2) and sums */
    float2 all_ml[MOST_CHUNKS][MOST_GROUP];
    A q[MOST_GROUP][HEAD + 8];
    A fresh[2][HEAD]; /* k and v of this step */
    float s[MOST_GROUP][CHUNK + 4];
    A p[MOST_GROUP][CHUNK + 8];
    uint64_t full[BUFFERS];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ static inline float2 cluster_load(uint32_t remote) {
    float2 v;
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(remote) : "memory");
    return v;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

/* Row `position` of the cache: which 0 is K, 1 is V. */
__device__ static inline char *kv_row(const struct few &a, int sequence, int which, int head, int position) {
    const struct kv_layout &kv = a.kv.layout;
    const int32_t granule = __ldg(a.block_table + (size_t)sequence * a.max_blocks + position / kv.P);
    return kv_block(a.kv, a.layer, granule) + (((size_t)which * kv.K + head) * kv.P + position % kv.P) * HEAD * 2;
}

/* One warp has the n positions from `first` on of K and V brought to a buffer: runs of positions that lie one after the
 * other, as far as their block goes. */
__device__ static inline void fetch(const struct few &a, int sequence, int head, int first, int n, char (*to)[CHUNK_BYTES],
                                    uint64_t *full) {
    const int lane = threadIdx.x % 32, P = a.kv.layout.P;
    const uint32_t barrier = smem_address(full);
    if (lane == 0) mbarrier_expect(barrier, 2 * n * HEAD * 2);
    __syncwarp();
    for (int at = lane / 2; at <= n / P + 1; at += 16) {
        const int begin = max((first / P + at) * P, first), end = min((first / P + at + 1) * P, first + n), which = lane % 2;
        if (begin >= end) continue;
        const uint32_t bytes = (end - begin) * HEAD * 2, place = smem_address(to[which]) + (begin - first) * HEAD * 2;
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place),
                     "l"(kv_row(a, sequence, which, head, begin)), "r"(bytes), "r"(barrier)
                     : "memory");
    }
}

/* What sixteen lanes do at first: one head of q, or k or v of this step. */
struct job {
    bool mine, is_q, is_v;
    int head;                  /* in qkv */
    struct pairs norm, angles; /* of q and k */
    char *to;                  /* k, v: their place in the cache */
};
template <typename A>
__device__ static inline struct job job_of(const struct few &a, int sequence, int head, int kv_len, bool has_newest) {
    const int H = a.H, K = a.kv.layout.K, G = H / K, who = threadIdx.x / HEAD_LANES;
    struct job j = {};
    j.mine = who < G + (has_newest ? 2 : 0);
    if (!j.mine) return j;
    j.is_q = who < G, j.is_v = who > G;
    j.head = j.is_q ? head * G + who : j.is_v ? H + K + head : H + head;
    if (!j.is_q) j.to = kv_row(a, sequence, j.is_v, head, kv_len - 1);
    if (j.is_v) return j;
    const A *norm = (const A *)(j.is_q ? a.q_norm : a.k_norm);
    if (norm) j.norm = load_pairs<A, HEAD_LANES, true>(norm, HEAD);
    j.angles = load_pairs<float, HEAD_LANES, true>(a.cos_sin + (size_t)__ldg(a.positions + sequence) * HEAD, HEAD);
    return j;
}
template <typename A>
__device__ static inline void do_job(const struct few &a, int sequence, const struct job &j, struct smem<A> *s) {
    if (!j.mine) return;
    const A *qkv = (const A *)a.qkv + (size_t)sequence * (a.H + 2 * a.kv.layout.K) * HEAD;
    struct pairs x = load_pairs<A, HEAD_LANES, true>(qkv + (size_t)j.head * HEAD, HEAD);
    if (!j.is_v) {
        if (a.q_norm) norm_pairs<A, HEAD_LANES>(&x, j.norm, HEAD, a.eps);
        rotate_pairs(&x, j.angles);
    }
    store_pairs<A, HEAD_LANES, true>(j.is_q ? s->q[threadIdx.x / HEAD_LANES] : s->fresh[j.is_v], x, HEAD);
    if (j.to) store_pairs<A, HEAD_LANES, true>((A *)j.to, x, HEAD);
}

/* ---- a chunk ----------------------------------------------------------------------------------------------------- */

/* The newest position's k and v in their places, and zeros in V's rows beyond: what lies there would be multiplied by 0. */
template <typename A>
__device__ static inline void patch(struct smem<A> *s, char (*kv)[CHUNK_BYTES], int n) {
    enum { PIECES = HEAD * 2 / 16 };
    const int tid = threadIdx.x;
    if (tid < 2 * PIECES)
        ((uint4 *)(kv[tid / PIECES] + (n - 1) * HEAD * 2))[tid % PIECES] = ((const uint4 *)s->fresh[tid / PIECES])[tid % PIECES];
    for (int i = tid; i < (CHUNK - n) * PIECES; i += THREADS) ((uint4 *)(kv[1] + n * HEAD * 2))[i] = uint4{};
}

/* Scores of positions 16 tile .. + 15, in units of log2. Lane (g, c) takes 16-byte chunks of rows g and g + 8 of K and of
 * row g of q: which dims an MMA calls its i-th does not matter, so long as both operands agree. */
template <typename A> __device__ static inline void score(struct smem<A> *s, const char *k, int n, int tile) {
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
    const char *lo = k + (tile * 16 + g) * HEAD * 2, *hi = lo + 8 * HEAD * 2;
    float d[2][4] = {};
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) {
        const int piece = i / 2 * 8 + 2 * c + i % 2;
        const uint4 a = *(const uint4 *)(lo + piece * 16), b = *(const uint4 *)(hi + piece * 16);
        const uint4 q = *(const uint4 *)(s->q[g] + piece * 8);
        mma<A>(d[0], a.x, b.x, a.y, b.y, q.x, q.y);
        mma<A>(d[1], a.z, b.z, a.w, b.w, q.z, q.w);
    }
    const float scale = 1.44269504f * rsqrtf((float)HEAD);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int position = tile * 16 + g + i / 2 * 8;
        s->s[2 * c + i % 2][position] = position < n ? (d[0][i] + d[1][i]) * scale : -INFINITY;
    }
}

/* Dims 16 tile .. + 15 of the sum over positions of p v. */
template <typename A> __device__ static inline void weigh(struct smem<A> *s, const char *v, int own, int tile) {
    const int lane = threadIdx.x % 32;
    float d[4] = {};
#pragma unroll
    for (int p = 0; p < CHUNK; p += 16) {
        uint32_t a[4];
        const char *row = v + (p + lane / 16 * 8 + lane % 8) * HEAD * 2 + (tile * 16 + lane / 8 % 2 * 8) * 2;
        load_matrices_trans(a, smem_address(row));
        const uint32_t *weights = (const uint32_t *)&s->p[lane / 4][p + lane % 4 * 2];
        mma<A>(d, a[0], a[1], a[2], a[3], weights[0], weights[4]);
    }
    float *to = &s->o[own][lane % 4 * 2][tile * 16 + lane / 4];
    to[0] = d[0], to[HEAD] = d[1], to[8] = d[2], to[HEAD + 8] = d[3];
}

/* ---- all chunks -------------------------------------------------------------------------------------------------- */

/* This block's share of the group's outputs, pairs of dims, once all blocks of the cluster have their chunks. */
template <typename A>
__device__ static inline void fold(const struct few &a, struct smem<A> *s, int sequence, int head, int n_chunks, int rank,
                                   int n_ranks) {
    const int G = a.H / a.kv.layout.K, share = G * (HEAD / 2) / n_ranks, tid = threadIdx.x;
    for (int i = tid; i < n_chunks * G; i += THREADS) {
        const int chunk = i / G, h = i % G;
        s->all_ml[chunk][h] = cluster_load(cluster_address(smem_address(&s->ml[chunk / n_ranks][h]), chunk % n_ranks));
    }
    __syncthreads(); /* all maxima and sums are there */
    for (int i = tid; i < share; i += THREADS) {
        const int h = (rank * share + i) / (HEAD / 2), d = (rank * share + i) % (HEAD / 2) * 2;
        float m = -INFINITY, l = 0;
        for (int c = 0; c < n_chunks; c++) m = fmaxf(m, s->all_ml[c][h].x);
        float2 o = {};
#pragma unroll 8
        for (int c = 0; c < n_chunks; c++) {
            const float2 part = cluster_load(cluster_address(smem_address(&s->o[c / n_ranks][h][d]), c % n_ranks));
            const float2 ml = s->all_ml[c][h];
            const float w = exp2f(ml.x - m);
            o.x = fmaf(w, part.x, o.x), o.y = fmaf(w, part.y, o.y), l = fmaf(w, ml.y, l);
        }
        typedef typename two_of<A>::type two;
        *(two *)((A *)a.o + ((size_t)sequence * a.H + head * G + h) * HEAD + d) = two_of<A>::pack(o.x / l, o.y / l);
    }
}

#endif

/* ---- the kernel -------------------------------------------------------------------------------------------------- */

/* Grid: (blocks of a cluster, K, sequences). */
template <typename A> __global__ static void __launch_bounds__(THREADS) attention_few(const __grid_constant__ struct few a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(128) char memory[];
    struct smem<A> *const s = (struct smem<A> *)memory;
    pdl_trigger();
    const int rank = blockIdx.x, n_ranks = gridDim.x, head = blockIdx.y, sequence = blockIdx.z;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, G = a.H / a.kv.layout.K;
    /* kv_len and the tables are from before the step. */
    const int kv_len = __ldg(a.kv_len + sequence), n_chunks = (kv_len + CHUNK - 1) / CHUNK, last = n_chunks - 1;
    const struct job job = job_of<A>(a, sequence, head, kv_len, last % n_ranks == rank);
    if (threadIdx.x == 0) {
        for (int i = 0; i < BUFFERS; i++) mbarrier_init(smem_address(s->full + i), 1);
        mbarrier_init_fence();
    }
    __syncthreads(); /* the barriers exist */
    pdl_wait();
    /* Of the last chunk without the newest position. */
    if (warp == WARPS - 1)
        for (int own = 0; own < BUFFERS; own++) {
            const int chunk = rank + own * n_ranks;
            if (chunk < n_chunks)
                fetch(a, sequence, head, chunk * CHUNK, chunk == last ? kv_len - 1 - chunk * CHUNK : CHUNK, s->kv[own],
                      s->full + own);
        }
    do_job<A>(a, sequence, job, s);
    __syncthreads(); /* q, and k and v of this step, are there */
    for (int own = 0, chunk = rank; chunk < n_chunks; own++, chunk += n_ranks) {
        const int n = chunk == last ? kv_len - chunk * CHUNK : CHUNK, buffer = own % BUFFERS;
        mbarrier_wait(smem_address(s->full + buffer), own / BUFFERS & 1);
        if (chunk == last) {
            patch<A>(s, s->kv[buffer], n);
            __syncthreads(); /* the chunk is whole */
        }
        if (warp < CHUNK / 16) score<A>(s, s->kv[buffer][0], n, warp);
        __syncthreads(); /* scores are there */
        if (warp < G) {
            const float s0 = s->s[warp][lane], s1 = s->s[warp][lane + 32];
            const float m = warp_max(fmaxf(s0, s1)), p0 = exp2f(s0 - m), p1 = exp2f(s1 - m), l = warp_sum(p0 + p1);
            s->p[warp][lane] = to_act<A>(p0), s->p[warp][lane + 32] = to_act<A>(p1);
            if (lane == 0) s->ml[own][warp] = make_float2(m, l);
        }
        __syncthreads(); /* probabilities are there */
        weigh<A>(s, s->kv[buffer][1], own, warp);
        const int next = chunk + BUFFERS * n_ranks;
        if (next >= n_chunks) continue;
        __syncthreads(); /* the buffer has been read */
        if (warp == WARPS - 1)
            fetch(a, sequence, head, next * CHUNK, next == last ? kv_len - 1 - next * CHUNK : CHUNK, s->kv[buffer],
                  s->full + buffer);
    }
    cluster_sync(); /* all blocks have their chunks */
    fold<A>(a, s, sequence, head, n_chunks, rank, n_ranks);
    cluster_sync(); /* nobody reads this block's shared memory any more */
#endif
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

template <typename A> static void launch(struct exec *e, const struct few &a, dim3 grid) {
    cuda_allow_smem(e, attention_few<A>, sizeof(struct smem<A>));
    cuda_launch_clusters(e, attention_few<A>, grid, grid.x, THREADS, sizeof(struct smem<A>), a);
}

bool cuda__rope_attention(struct exec *e, void *o, void *q, const struct kv_cache *kv, int layer, const void *qkv,
                          const void *q_norm, const void *k_norm, const void *k_bias, const struct rope *rope,
                          const struct batch *batch, int H, float eps) {
    const struct kv_layout *l = &kv->layout;
    const enum dtype act = e->options.dtype;
    (void)q;
    if (!cuda_of(e)->hopper || k_bias || batch->n_decode != batch->T || batch->T != batch->B) return false;
    if (act == DTYPE_F32 || l->dtype != act || l->D != HEAD || H / l->K > MOST_GROUP) return false;
    const int n = div_up(batch->max_kv_len, CHUNK);
    int ranks = 2; /* compute-sanitizer takes reads through a cluster of one for errors */
    while (ranks < n && ranks < MOST_RANKS) ranks *= 2;
    if (n > MOST_CHUNKS || batch->T * l->K * ranks > cuda_of(e)->n_sms) return false;
    const struct few a = {.kv = *kv, .qkv = qkv, .q_norm = q_norm, .k_norm = k_norm, .o = o, .cos_sin = rope->cos_sin,
                          .positions = batch->positions, .kv_len = batch->kv_len, .block_table = batch->block_table,
                          .max_blocks = batch->max_blocks, .H = H, .layer = layer, .eps = eps};
    const dim3 grid(ranks, l->K, batch->T);
    if (act == DTYPE_BF16) launch<__nv_bfloat16>(e, a, grid);
    else launch<__half>(e, a, grid);
    return true;
}
