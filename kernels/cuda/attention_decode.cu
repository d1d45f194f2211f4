/* attention_decode.cu - attention of sequences that have one token in the step, over the paged KV.
 *
 *     o[h] = sum over p of e^(s[p] - m) v[p] / sum over p of e^(s[p] - m),  s[p] = (q[h] . k[p]) / sqrt(D),  m = max
 * s[p] o, q [T, H D] act; p runs over the kv_len positions of the token's sequence. Query heads that share a KV head
 * share its bytes: S' = K Q' [positions, heads] and O' = V' P' [D, heads] on mma.sync m16n8k16. K and V, row by row as
 * they lie in the cache, are the 16-row operand, and 8 of the G = H / K heads the 8 columns ("tile"; beyond 8 heads,
 * another tile reads the same K and V at the same time, out of the L2).
 *
 * A context is cut at absolute positions, so that a result depends on nothing but its own sequence:
 *     leaf       32 positions: one softmax: m, l = sum of e^(s - m), o = the sum of e^(s - m) v
 *     levels     4 leaves, 16, 64 and 256: each is 4 of the one before, folded one after the other; then
 *     row        all 256s, likewise
 * attend: each warp, on its own, takes parts of rows: a part is 1, 4 or 16 leaves, whichever gives all warps work, so
 * the choice changes no bit. As many blocks as fit at once; warp i takes parts i, i + n, ...; the copies of the next
 * part begin before this one is done. A part's (m, l, o) goes to the workspace. fold_parts: a block per row and query
 * head. A warp folds 16 parts, two levels; then threads go over what warps have. Where no row has more than one part
 * there is nothing to fold.
 *
 * A warp copies a leaf's K and V asynchronously, 16 bytes a lane, into rows whose 16-byte segments are XORed with the
 * row, so that ldmatrix meets no bank conflict. K of the next leaf comes while P V is computed, V while the next K Q'
 * is. Rows beyond kv_len hold anything: their scores become -inf, and zeros are put in their V's place.
 *
 * fp8: e4m3 is widened to f16, exactly, and so is q, times a power of two per head. K's scales multiply the scores, V's
 * the probabilities, relative to a power of two per leaf, so that P stays within f16. A 16-byte segment of K holds
 * twice as many dims as MMA wants, so a lane has 4 consecutive dims where it should have 2 and 2: q is permuted
 * likewise. k_bias: a second product, c . (cos p, sin p), with c as two f16 (kernels.h).
 *
 * Bytes: K and V once, 2 D elements a position and KV head; parts, G D floats each, twice. Accumulates in fp32; P is
 * rounded to the MMA's format. */
#include "kernels/cuda/attention_leaf.cuh"

/* ---- parts ---------------------------------------------------------------------------------------------------------
 */

/* Leaves of a part, the same for all of a launch: from the longest row, so that a bound on lengths matters little. */
__device__ static inline int part_leaves(const struct decode_args &a, int most_kv_len) {
    const int n_rows = a.n_sequences * a.K * a.tiles, leaves = (most_kv_len + LEAF - 1) / LEAF;
    if (a.one_part) return MOST_LEAVES;
    if ((int64_t)leaves * n_rows <= a.most_1) return 1;
    return (int64_t)((leaves + FANOUT - 1) / FANOUT) * n_rows <= a.most_4 ? FANOUT : MOST_LEAVES;
}

/* A part of the row of one sequence and tile of heads. Warps go over tiles first, then sequences, then parts. */
struct item {
    int tile, b, part; /* b: within the launch */
};
/* Moves on by `by`, again and again, to an item that exists. False: there is none any more. */
__device__ static inline bool next_item(struct item &i, const struct item &by, const struct decode_args &a,
                                        const int32_t *kv_len, int most_kv_len, int part_positions) {
    do {
        i.tile += by.tile, i.b += by.b, i.part += by.part;
        if (i.tile >= a.K * a.tiles) i.tile -= a.K * a.tiles, i.b++;
        if (i.b >= a.n_sequences) i.b -= a.n_sequences, i.part++;
        if (i.part * part_positions >= most_kv_len) return false;
    } while (i.part * part_positions >= kv_len[i.b]);
    return true;
}
__device__ static inline int kv_head(const struct item &i, const struct decode_args &a) {
    return a.tiles == 1 ? i.tile : i.tile / a.tiles;
}
__device__ static inline int first_head(const struct item &i, const struct decode_args &a) {
    const int k = kv_head(i, a);
    return k * a.G + (i.tile - k * a.tiles) * TILE;
}
__device__ static inline int count_heads(const struct item &i, const struct decode_args &a) {
    return min((kv_head(i, a) + 1) * a.G - first_head(i, a), (int)TILE);
}

/* A part's result, straight to o where it is the only one of its row. */
template <typename A, int D, bool F8>
__device__ static inline void store_part(const struct decode_args &a, const struct item &item,
                                         const struct state<D> &s) {
    const int lane = threadIdx.x % 32, head = first_head(item, a), n_heads = count_heads(item, a);
    const size_t row = (size_t)(a.first + item.b) * a.H + head;
    const size_t part = ((size_t)item.part * a.n_sequences + item.b) * a.H + head;
    for (int i = 0; i < 2; i++) {
        const int h = lane % 4 * 2 + i;
        if (h >= n_heads) continue;
        A *out = (A *)a.o + (row + h) * D;
        float *o = a.part_o + (part + h) * D;
        const float inverse = 1.0f / s.l[i];
        if (!a.one_part && lane < 4) a.part_ml[part + h] = make_float2(s.m[i], s.l[i]);
#pragma unroll
        for (int t = 0; t < D / 16; t++) { /* rows lane / 4 and 8 + lane / 4 of a tile; see multiply_values */
            const float x = s.o[t][i], y = s.o[t][2 + i];
            const int d = 16 * t + (F8 ? lane / 4 * 2 : lane / 4);
            if (a.one_part) {
                out[d] = to_act<A>(finished(x, inverse));
                out[d + (F8 ? 1 : 8)] = to_act<A>(finished(y, inverse));
            } else if (F8) {
                *(float2 *)(o + d) = make_float2(x, y);
            } else {
                o[d] = x;
                o[d + 8] = y;
            }
        }
    }
}

/* ---- the kernels ---------------------------------------------------------------------------------------------------
 */

template <typename A, int D, bool F8>
__global__ static void __launch_bounds__(THREADS, WARPS_PER_SM / WARPS)
    attend(const __grid_constant__ struct decode_args a) {
    extern __shared__ __align__(128) char smem[];
    constexpr bool BF16 = IS_BF16<A> && !F8;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    struct warp_smem<D, F8> *mine = (struct warp_smem<D, F8> *)smem + warp;
    struct block_smem *s = (struct block_smem *)((struct warp_smem<D, F8> *)smem + WARPS);
    uint2 *c = (uint2 *)(s + 1) + warp * BIAS_PAIRS<D>;
    const A *queries = (const A *)a.q + (size_t)a.first * a.H * D;

    /* `ahead` is the item after the one that is computed: meanwhile its q and its first K are on their way. For the
     * first item, all that it may need is asked for at once. */
    const int n_tiles = a.K * a.tiles, n_rows = n_tiles * a.n_sequences;
    const int n_warps = gridDim.x * WARPS, w = blockIdx.x * WARPS + warp;
    const struct item by = {n_warps % n_tiles, n_warps / n_tiles % a.n_sequences, n_warps / n_rows};
    struct item ahead = {w % n_tiles, w / n_tiles % a.n_sequences, w / n_rows};
    uint32_t q[D / 16][2];
    int32_t granules[3];
    pdl_trigger();
    pdl_wait();
    int most = 0;
    for (int i = threadIdx.x; i < a.n_sequences; i += THREADS) {
        const int n = load_now(a.kv_len + a.first + i);
        s->kv_len[i] = n;
        most = max(most, n);
    }
    for (int i = 0, leaves = 1; i < 3; i++, leaves *= FANOUT)
        granules[i] =
            table_entry(a, a.first + ahead.b, ahead.part * leaves * LEAF_GROUPS + lane % (leaves * LEAF_GROUPS));
    load_queries<A, D, F8>(q, queries + ((size_t)ahead.b * a.H + first_head(ahead, a)) * D, count_heads(ahead, a));
    most = __reduce_max_sync(~0u, most);
    if (lane == 0) s->most[warp] = most;
    __syncthreads(); /* kv_len, most */
    for (int i = 0; i < WARPS; i++) most = max(most, s->most[i]);
    const int leaves = part_leaves(a, most), groups = leaves * LEAF_GROUPS, part_positions = leaves * LEAF;
    int32_t granule = leaves == 1 ? granules[0] : leaves == FANOUT ? granules[1] : granules[2];
    if (ahead.part * part_positions >= most) return;
    if (ahead.part * part_positions >= s->kv_len[ahead.b]) {
        if (!next_item(ahead, by, a, s->kv_len, most, part_positions)) return;
        granule = table_entry(a, a.first + ahead.b, ahead.part * groups + lane % groups);
        load_queries<A, D, F8>(q, queries + ((size_t)ahead.b * a.H + first_head(ahead, a)) * D, count_heads(ahead, a));
    }
    struct places next = place(a, granule, ahead.part * groups + lane % groups, kv_head(ahead, a), s->kv_len[ahead.b]);
    copy_keys<D, F8>(mine, next, 0, a);
    copies_commit();

    for (bool more = true; more;) {
        const struct item item = ahead;
        const struct places places = next;
        const int first = item.part * part_positions, kv_len = s->kv_len[item.b];
        const int n_leaves = min((kv_len - first + LEAF - 1) / LEAF, leaves);
        copy_values<D, F8>(mine, places, 0, a);
        copies_commit();
        more = next_item(ahead, by, a, s->kv_len, most, part_positions);
        if (more) granule = table_entry(a, a.first + ahead.b, ahead.part * groups + lane % groups);
        const A *bias = a.k_bias ? (const A *)a.k_bias + kv_head(item, a) * D : NULL;
        const struct factors factors = prepare_queries<A, D, F8>(q, bias, c);

        struct state<D> all, run; /* the part so far, but for the run of 4 leaves that is being folded */
        clear(all);
        clear(run);
#pragma unroll 1
        for (int leaf = 0; leaf < n_leaves; leaf++) {
            const int leaf_first = first + leaf * LEAF, n_valid = kv_len - leaf_first;
            const bool last = leaf + 1 == n_leaves;
            struct leaf_scores scores;
            struct weights weights[2];
            uint32_t p[LEAF / 16][2];
            copies_wait_warp(); /* K */
            score_leaf<BF16, D, F8>(scores, q, factors, mine, n_valid);
            __syncwarp(); /* K and the scales are no longer read */
            if (last && more) {
                const int group = ahead.part * groups + lane % groups;
                next = place(a, granule, group, kv_head(ahead, a), s->kv_len[ahead.b]);
                load_queries<A, D, F8>(q, queries + ((size_t)ahead.b * a.H + first_head(ahead, a)) * D,
                                       count_heads(ahead, a));
            }
            const struct places from = {last ? next.block : places.block, last ? next.row : places.row};
            if (!last || more) copy_keys<D, F8>(mine, from, last ? 0 : leaf + 1, a);
            copies_commit();
            if (F8 && bias) add_bias<D>(scores, factors, c, a.cos_sin, leaf_first, n_valid);
            softmax_leaf<BF16, D, F8>(p, weights, run, scores, n_valid);
            copies_wait_warp(); /* V */
            output_leaf<BF16, D, F8>(run, p, weights, mine, n_valid);
            __syncwarp(); /* V is no longer read */
            if (!last) copy_values<D, F8>(mine, places, leaf + 1, a);
            copies_commit();
            if (last || leaf % FANOUT == FANOUT - 1) {
                fold_state(all, run);
                clear(run);
            }
        }
        store_part<A, D, F8>(a, item, all);
    }
}

/* N dims of some positions. */
template <int N> struct partial { float m, l, o[N]; };
template <int N> __device__ static inline void clear(struct partial<N> &x) {
    x.m = -INFINITY, x.l = 0;
    for (int i = 0; i < N; i++) x.o[i] = 0;
}
template <int N> __device__ static inline void fold_partial(struct partial<N> &x, const struct partial<N> &y) {
    const struct weights w = fold(x.m, x.l, y.m, y.l);
    for (int i = 0; i < N; i++) x.o[i] = folded(x.o[i], y.o[i], w.keep, w.take);
}

template <int N> __device__ static inline void load_vector(float *x, const float *from) {
    if constexpr (N == 4) {
        const float4 v = *(const float4 *)from;
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else {
        const float2 v = *(const float2 *)from;
        x[0] = v.x, x[1] = v.y;
    }
}
/* o / l. */
template <typename A, int N> __device__ static inline void store_vector(A *out, const float *o, float inverse_l) {
    uint32_t words[N / 2];
    for (int i = 0; i < N / 2; i++)
        words[i] = pack<IS_BF16<A>>(finished(o[2 * i], inverse_l), finished(o[2 * i + 1], inverse_l));
    if constexpr (N == 4)
        *(uint2 *)out = make_uint2(words[0], words[1]);
    else
        *(uint32_t *)out = words[0];
}

/* Grid (H, sequences); up to FOLD_WARPS warps, of which the first finishes. */
template <typename A, int D>
__global__ static void __launch_bounds__(FOLD_WARPS * 32) fold_parts(const __grid_constant__ struct decode_args a) {
    constexpr int N = D / 32; /* dims of a lane */
    __shared__ struct partial<N> folds[FOLD_WARPS][32];
    __shared__ int shared_most[FOLD_WARPS];
    const int n_warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.x,
              b = blockIdx.y;
    const size_t row = (size_t)b * a.H + h, stride = (size_t)a.n_sequences * a.H;
    pdl_trigger();
    pdl_wait();
    const int kv_len = load_now(a.kv_len + a.first + b);
    int most = 0;
    for (int i = threadIdx.x; i < a.n_sequences; i += blockDim.x) most = max(most, load_now(a.kv_len + a.first + i));
    most = __reduce_max_sync(~0u, most);
    if (lane == 0) shared_most[warp] = most;
    __syncthreads(); /* most */
    for (int i = 0; i < n_warps; i++) most = max(most, shared_most[i]);
    const int leaves = part_leaves(a, most), n_parts = (kv_len + leaves * LEAF - 1) / (leaves * LEAF);
    const int n_folds = (n_parts + FOLD_PARTS - 1) / FOLD_PARTS;

    struct partial<N> level_64, level_256, all; /* leaves */
    clear(level_64);
    clear(level_256);
    clear(all);
    for (int first = 0; first < n_folds; first += n_warps) {
        const int n = min(n_parts - (first + warp) * FOLD_PARTS, (int)FOLD_PARTS);
        if (n > 0) {
            struct partial<N> parts[FOLD_PARTS], four, sixteen;
#pragma unroll
            for (int i = 0; i < FOLD_PARTS; i++)
                if (i < n) {
                    const size_t at = (size_t)((first + warp) * FOLD_PARTS + i) * stride + row;
                    const float2 ml = a.part_ml[at];
                    parts[i].m = ml.x, parts[i].l = ml.y;
                    load_vector<N>(parts[i].o, a.part_o + at * D + lane * N);
                }
            clear(sixteen);
#pragma unroll
            for (int i = 0; i < FOLD_PARTS; i += FANOUT) {
                if (i >= n) continue;
                clear(four);
#pragma unroll
                for (int j = i; j < i + FANOUT; j++)
                    if (j < n) fold_partial(four, parts[j]);
                fold_partial(sixteen, four);
            }
            folds[warp][lane] = sixteen;
        }
        __syncthreads(); /* the warps' folds */
        for (int i = first; i < min(first + n_warps, n_folds) && warp == 0; i++) {
            struct partial<N> x = folds[i - first][lane];
            int at = i; /* of x, on its level */
            const bool last = i + 1 == n_folds;
            if (leaves == 1) {
                fold_partial(level_64, x);
                if (!last && at % FANOUT != FANOUT - 1) continue;
                x = level_64, at /= FANOUT;
                clear(level_64);
            }
            if (leaves <= FANOUT) {
                fold_partial(level_256, x);
                if (!last && at % FANOUT != FANOUT - 1) continue;
                x = level_256;
                clear(level_256);
            }
            fold_partial(all, x);
        }
        __syncthreads(); /* they are no longer read */
    }
    if (warp == 0) store_vector<A, N>((A *)a.o + ((size_t)a.first * a.H + row) * D + lane * N, all.o, 1.0f / all.l);
}

/* ---- launching -----------------------------------------------------------------------------------------------------
 */

template <typename A, int D, bool F8>
static void launch(struct exec *e, const struct decode_args *a, int n_blocks, int fold_warps) {
    const size_t smem = smem_bytes<D, F8>(a->k_bias != NULL);
    cuda_allow_smem(e, attend<A, D, F8>, smem);
    cuda_launch(e, (attend<A, D, F8>), (unsigned)n_blocks, THREADS, smem, *a);
    if (!a->one_part) cuda_launch(e, (fold_parts<A, D>), dim3(a->H, a->n_sequences), fold_warps * 32, 0, *a);
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

bool cuda__attention_decode(struct exec *e, void *o, const void *q, const struct kv_cache *kv, int layer,
                            const void *k_bias, const struct rope *rope, const struct batch *batch, int H) {
    const struct cuda_state *s = cuda_of(e);
    const struct kv_layout *v = &kv->layout;
    const enum dtype act = e->options.dtype;
    const bool f8 = v->dtype == DTYPE_F8_E4M3, bf16 = act == DTYPE_BF16;
    const int K = v->K, G = H / K, D = v->D, tiles = div_up(G, TILE);
    if (s->arch < 80 || (act != DTYPE_BF16 && act != DTYPE_F16) || (!f8 && v->dtype != act)) return false;
    if ((D != 64 && D != 128) || v->P % GROUP || G > 2 * TILE) return false;

    const int n_warps = WARPS_PER_SM * s->n_sms, n_leaves = div_up(batch->max_kv_len, LEAF);
    struct decode_args a = {};
    a.o = o, a.q = q;
    a.pool = (const char *)kv->pool + (size_t)layer * v->layer_bytes;
    a.granule_bytes = v->granule_bytes;
    a.kv_len = batch->kv_len, a.block_table = batch->block_table, a.max_blocks = batch->max_blocks;
    a.k_bias = k_bias, a.cos_sin = k_bias ? rope->cos_sin : NULL;
    a.P = v->P, a.H = H, a.K = K, a.G = G, a.tiles = tiles;
    a.v_offset = (uint32_t)((size_t)K * v->P * D * dtype_bytes(v->dtype));
    a.scale_offset = 2 * a.v_offset;
    a.v_scale_offset = (uint32_t)((size_t)K * v->P * sizeof(float));

    /* A part is a leaf as long as each warp gets one at most; 16 leaves as soon as a third of the warps get one. */
    a.most_1 = n_warps;
    a.most_4 = n_warps / 3 * FANOUT;
    a.one_part = n_leaves <= MOST_LEAVES && batch->n_decode * K * tiles >= n_warps / 3;

    /* As many sequences as have room for their parts: one launch, but for very many long contexts. */
    const size_t n_slots = s->workspace_bytes / ((D + 2) * sizeof(float)) / 64 * 64;
    const size_t n_sequences = smaller(MOST_SEQUENCES, n_slots / ((size_t)H * div_up(n_leaves, MOST_LEAVES)));
    if (!n_sequences || n_slots < (size_t)(a.most_4 > a.most_1 ? a.most_4 : a.most_1) * TILE) return false;
    a.part_o = (float *)s->workspace;
    a.part_ml = (float2 *)(a.part_o + n_slots * D);
    for (; a.first < batch->n_decode; a.first += a.n_sequences) {
        a.n_sequences = (int)smaller(n_sequences, (size_t)(batch->n_decode - a.first));
        const int n_rows = a.n_sequences * K * tiles;
        const int blocks = (int)smaller(div_up(n_rows, WARPS) * (size_t)n_leaves, (size_t)n_warps / WARPS);
        /* The most parts that a row may have come to be, whatever a part turns out to be. */
        const int at_1 = (int)smaller(n_leaves, a.most_1 / n_rows),
                  at_4 = (int)smaller(div_up(n_leaves, FANOUT), a.most_4 / n_rows);
        const int at_16 = div_up(n_leaves, MOST_LEAVES),
                  n_parts = at_1 > at_4 ? (at_1 > at_16 ? at_1 : at_16) : (at_4 > at_16 ? at_4 : at_16);
        const int folds = (int)smaller(div_up(n_parts, FOLD_PARTS), FOLD_WARPS);
        if (D == 128 && bf16)
            (f8 ? launch<__nv_bfloat16, 128, true> : launch<__nv_bfloat16, 128, false>)(e, &a, blocks, folds);
        else if (D == 128)
            (f8 ? launch<__half, 128, true> : launch<__half, 128, false>)(e, &a, blocks, folds);
        else if (bf16)
            (f8 ? launch<__nv_bfloat16, 64, true> : launch<__nv_bfloat16, 64, false>)(e, &a, blocks, folds);
        else
            (f8 ? launch<__half, 64, true> : launch<__half, 64, false>)(e, &a, blocks, folds);
    }
    return true;
}
