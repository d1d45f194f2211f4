/* sample.cu - from rows of logits to tokens, without sorting the vocabulary.
 *
 *     scan     some slices of a row per block: edits (allowed ids, biases, penalties), of which the workspace keeps a
 *              copy for the rest to read; the chunks' maxima. The row's last block has the row's maximum and its first
 *              id: the choice where the temperature is 0
 *     filter   a block per row: the first tokens in order (top.cuh). Where top_k and top_p end among them, the draw is
 *              made among them, too; such rows are done
 *     select   a cluster per row: where top_k and top_p end, for the other rows (select.cuh)
 *     draw     some slices of a row per block: the argmax of z + Gumbel noise (noise.h) over what is left,
 *              z = (logit - max) / temperature; min_p is a lower bound of z
 * Greedy rows need the first alone, plain draws the first and the last. What happens to a row depends on its parameters
 * in device memory; launches depend on (R, V, stages). Reads V logits for the maximum and again for the draw.
 *
 * Parameters travel through a ring of pinned buffers, so that the host may prepare steps while earlier ones wait in the
 * stream. Sums of floats have a fixed order; everything else that is put together is an integer or a maximum. */
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/select.cuh"
#include "kernels/cuda/top.cuh"
#include "kernels/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST_LIST_WORDS = 8 << 20,
    NUCLEUS = 256, /* tokens that are put in order for a top_p without a top_k: it rarely needs more */
};

/* What sample_set found that some row needs. */
enum { STAGE_GREEDY, STAGE_DRAW, STAGE_FILTER, STAGE_MASK = 3, STAGE_EDIT = 4 };

/* One row's parameters in device memory; lists are indices into the words behind the rows. */
struct row_params {
    uint64_t seed;
    int64_t position;
    const int32_t *pending; /* [n_pending] */
    float temperature, top_p, lowest; /* lowest: of z, from min_p */
    float repetition, presence, frequency;
    int top_k; /* 0: off */
    int edited;
    int n_pending;
    int allowed, n_allowed; /* ids; below 0: all */
    int biases, n_biases;   /* pairs of an id and a float */
    int counts, n_counts;   /* pairs of an id and 2 * n_output + in_prompt */
};

struct sample_args {
    int32_t *ids;
    const float *logits;
    float *views; /* [n_rows, V]: edited rows; NULL when none is, or nobody reads it */
    const struct row_params *params;
    const uint32_t *words;
    int *tickets;
    struct findings f;
    int first_row, V; /* rows first_row .. of the logits are rows 0 .. of views and findings */
    int n_ranks;
    bool with_edits;
};

/* Row i of this launch as the kernels after scan see it. */
__device__ static struct row row_of(const struct sample_args &a, const struct row_params &p,
                                    const struct row_state &state, int i) {
    const float *v = a.views && p.edited ? a.views + (size_t)i * a.V : a.logits + (size_t)(a.first_row + i) * a.V;
    return {v, a.V, state.max, p.temperature, p.lowest};
}

/* ---- scan -------------------------------------------------------------------------------------------------------- */

/* As on the CPU: products and differences rounded apart. */
__device__ static float penalised(float v, const struct row_params &p, int n_output, bool in_prompt) {
    if (v == -INFINITY) return v;
    if (n_output || in_prompt) v = v > 0 ? v / p.repetition : __fmul_rn(v, p.repetition);
    v = __fsub_rn(v, __fmul_rn(p.frequency, (float)n_output));
    if (n_output) v -= p.presence;
    return tame(v);
}

/* Where id is pending, as bits. */
__device__ static unsigned places_of(const int *pending, int id) {
    unsigned places = 0;
#pragma unroll
    for (int j = 0; j < SAMPLE_MAX_PENDING; j++)
        if (pending[j] == id) places |= 1u << j;
    return places;
}

/* A slice of v, edited, as this thread's pieces; into view as well if that is not NULL. */
__device__ static struct pieces edit_slice(const struct row &v, const struct row_params &p, const uint32_t *words,
                                           int slice, float *view) {
    __shared__ float4 edited[SLICE / 4];
    __shared__ int pending[SAMPLE_MAX_PENDING];
    __shared__ unsigned counted; /* a bit for each of them */
    float *x = (float *)edited; /* of id first: x[0] */
    const int tid = (int)threadIdx.x, first = slice * SLICE;
    const uint32_t *allowed = words + p.allowed;
    const uint2 *biases = (const uint2 *)(words + p.biases), *counts = (const uint2 *)(words + p.counts);
    struct pieces y = load_pieces(v, slice);
    const float none = -INFINITY;
#pragma unroll
    for (int j = 0; j < 2 * WARP_CHUNKS; j++)
        edited[(piece_id(slice, j) - first) / 4] = p.n_allowed < 0 ? y.at[j] : make_float4(none, none, none, none);
    if (tid < SAMPLE_MAX_PENDING) pending[tid] = tid < p.n_pending ? p.pending[tid] : -1;
    if (tid == 0) counted = 0;
    __syncthreads(); /* the slice is there, and what is pending */
    for (int i = tid; i < p.n_allowed; i += SCAN_THREADS) {
        const unsigned at = allowed[i] - (unsigned)first;
        if (at < SLICE && allowed[i] < (unsigned)v.V) x[at] = tame(v.v[allowed[i]]);
    }
    __syncthreads(); /* what is allowed is there */
    for (int i = tid; i < p.n_biases; i += SCAN_THREADS) {
        const unsigned at = biases[i].x - (unsigned)first;
        if (at < SLICE) x[at] = tame(x[at] + __uint_as_float(biases[i].y));
    }
    __syncthreads(); /* biases are added */
    for (int i = tid; i < p.n_counts; i += SCAN_THREADS) {
        const uint2 count = counts[i];
        const unsigned at = count.x - (unsigned)first;
        if (at >= SLICE) continue; /* pending tokens of other slices stay uncounted here, and nobody asks */
        const unsigned same = places_of(pending, (int)count.x);
        if (same) atomicOr(&counted, same);
        x[at] = penalised(x[at], p, (int)(count.y >> 1) + __popc(same), count.y & 1);
    }
    __syncthreads(); /* counted is final */
    if (tid < SAMPLE_MAX_PENDING && (unsigned)(pending[tid] - first) < SLICE) {
        const unsigned same = places_of(pending, pending[tid]);
        const bool is_first = !(same & ((1u << tid) - 1)); /* of equal ones, which it speaks for */
        float *at = &x[pending[tid] - first];
        if (is_first && !(counted & same)) *at = penalised(*at, p, __popc(same), false);
    }
    __syncthreads(); /* the slice is edited */
#pragma unroll
    for (int j = 0; j < 2 * WARP_CHUNKS; j++) {
        const int id = piece_id(slice, j);
        y.at[j] = edited[(id - first) / 4];
        if (!view || id >= v.V) continue;
        if (v.V % 4 == 0) *(float4 *)(view + id) = y.at[j];
        else
            for (int e = 0; e < 4 && id + e < v.V; e++) view[id + e] = x[id - first + e];
    }
    __syncthreads(); /* the next slice may overwrite it */
    return y;
}

/* The first maximum of a whole row by one block; every thread gets its id. */
__device__ static int first_maximum(const struct row &r) {
    __shared__ uint64_t warp_keys[32];
    uint64_t best = 0;
    for (int i = (int)threadIdx.x; i < r.V; i += SCAN_THREADS) {
        const uint64_t key = key_of(tame(r.v[i]), i);
        if (key > best) best = key;
    }
    return id_of(block_largest(warp_keys, best));
}

/* The largest of row i's block keys, which other blocks wrote. */
__device__ static uint64_t row_key(const struct findings &f, int i) {
    __shared__ uint64_t warp_keys[32];
    uint64_t best = 0;
    for (int b = (int)threadIdx.x; b < f.n_blocks; b += SCAN_THREADS) {
        const uint64_t key = __ldcg((const unsigned long long *)&f.block_keys[(size_t)i * f.n_blocks + b]);
        if (key > best) best = key;
    }
    return block_largest(warp_keys, best);
}

__global__ static void __launch_bounds__(SCAN_THREADS, SCAN_RESIDENT)
    scan(const __grid_constant__ struct sample_args a, unsigned stage) {
    __shared__ uint64_t warp_keys[32];
    pdl_trigger();
    pdl_wait();
    const struct share mine = share_of(a.f);
    const int i = mine.i, row = a.first_row + i;
    const struct row_params &p = a.params[row];
    const struct row r = {a.logits + (size_t)row * a.V, a.V, 0, p.temperature, -FLT_MAX};
    const bool with_keys = stage == STAGE_FILTER;
    const bool with_sums = with_keys && p.temperature > 0 && p.top_p < 1 && !p.top_k;
    float *view = stage == STAGE_GREEDY || !a.views ? NULL : a.views + (size_t)i * a.V;
    uint64_t key = 0;
    for (int slice = mine.first; slice < mine.last; slice++) {
        const struct pieces x =
            a.with_edits && p.edited ? edit_slice(r, p, a.words, slice, view) : load_pieces(r, slice);
        const uint64_t warp_key = scan_chunks(a.f, x, r, i, slice, with_keys, with_sums);
        if (warp_key > key) key = warp_key;
    }
    key = block_largest(warp_keys, key);
    if (threadIdx.x == 0) a.f.block_keys[blockIdx.x] = key;
    if (!last_of(&a.tickets[i], a.f.n_blocks)) return;
    key = row_key(a.f, i);
    int id = id_of(key);
    const float max = value_of(key);
    if (max == -INFINITY) id = first_maximum(r); /* nothing is allowed */
    const bool done = max == -INFINITY || !(p.temperature > 0);
    if (threadIdx.x) return;
    if (done) a.ids[row] = id;
    a.f.states[i] = {max, id, done, {UINT32_MAX, INT32_MAX}, 0};
}

/* ---- filter ------------------------------------------------------------------------------------------------------ */

__device__ static float z_of_entry(uint64_t entry) { return -__uint_as_float(top_d(entry)); }

/* How many of the first n sorted tokens it takes to reach the target; n + 1 if they do not. total: of all n. fp64, a
 * lane's share in turn, lanes as a scan. By the first warp; every thread gets it. */
__device__ static int prefix_of_mass(const uint64_t *sorted, int n, double share, double total, bool is_all) {
    __shared__ int found;
    if (threadIdx.x < 32) {
        const int lane = (int)threadIdx.x, each = (n + 31) / 32, first = lane * each,
                  last = first + each < n ? first + each : n;
        double sum = 0;
        for (int i = first; i < last; i++) sum += (double)expf(z_of_entry(sorted[i]));
        double upto = sum;
#pragma unroll
        for (int j = 1; j < 32; j <<= 1) {
            const double other = __shfl_up_sync(0xffffffffu, upto, j);
            if (lane >= j) upto += other;
        }
        if (is_all) total = __shfl_sync(0xffffffffu, upto, 31);
        const double target = share * total;
        double run = upto - sum;
        int reached = n + 1;
        for (int i = first; i < last && reached > n; i++) {
            run += (double)expf(z_of_entry(sorted[i]));
            if (run >= target) reached = i + 1;
        }
        reached = (int)__reduce_min_sync(0xffffffffu, (unsigned)reached);
        if (lane == 0) found = reached > n && is_all ? n : reached; /* rounding may keep the last one short of all */
    }
    __syncthreads(); /* found is there */
    return found;
}

/* Block i is row i of this launch. */
__global__ static void __launch_bounds__(TOP_THREADS, 1) filter(const __grid_constant__ struct sample_args a) {
    __shared__ struct top top;
    __shared__ uint64_t warp_keys[32];
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x, row = a.first_row + i;
    const struct row_params &p = a.params[row];
    const struct row_state state = a.f.states[i];
    if (state.done || !(p.top_k || p.top_p < 1) || p.top_k > TOP_MOST) return;
    const struct row r = row_of(a, p, state, i);
    const uint32_t limit = d_of<false>(0, p.lowest);
    uint32_t bound;
    const int n = sort_top<false>(&top, a.f, r, i, p.top_k ? p.top_k : NUCLEUS, limit, &bound);
    if (n < 0) return;
    int n_kept = p.top_k && p.top_k < n ? p.top_k : n;
    if (p.top_p < 1) {
        const bool is_all = p.top_k || bound == limit; /* of what top_p takes its share from */
        if (!is_all && p.lowest > -FLT_MAX) return; /* the sums know no min_p */
        n_kept = prefix_of_mass(top.sorted, n_kept, p.top_p, is_all ? 0 : sum_chunks(a.f, r, i), is_all);
        if (n_kept > n) return;
    } else if (!p.top_k) {
        return;
    }
    uint64_t best = 0;
    for (int at = (int)threadIdx.x; at < n_kept; at += TOP_THREADS) {
        const int id = top_id(top.sorted[at]);
        const uint64_t key = key_of(z_of_entry(top.sorted[at]) + noise_gumbel(p.seed, p.position, id), id);
        if (key > best) best = key;
    }
    best = block_largest(warp_keys, best);
    if (threadIdx.x) return;
    a.ids[row] = id_of(best);
    a.f.states[i].done = 1;
}

/* ---- select ------------------------------------------------------------------------------------------------------ */

/* Cluster i is row i of this launch. */
__global__ static void __launch_bounds__(SELECT_THREADS, 2) select_ends(const __grid_constant__ struct sample_args a) {
    __shared__ struct selection s;
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x / a.n_ranks;
    const struct row_params &p = a.params[a.first_row + i];
    const struct row_state state = a.f.states[i];
    if (state.done || !(p.top_k || p.top_p < 1)) return; /* all ranks of the row */
    const struct part part = part_of(row_of(a, p, state, i), a.n_ranks);
    struct cut c = state.cut;
    if (p.top_k) c = select_prefix<false>(&s, part, c, p.top_k, 0);
    if (p.top_p < 1) c = select_prefix<false>(&s, part, c, 1, p.top_p > 0 ? p.top_p : 0);
    if (part.rank == 0 && threadIdx.x == 0) a.f.states[i].cut = c;
    cluster_sync(); /* nobody reads this block's shared memory any more */
}

/* ---- draw -------------------------------------------------------------------------------------------------------- */

/* noise is -log(-log(1 - u)) <= -log(u), so a token can only win with u <= e^(z - best so far). That is tested first,
 * from above: with u cut to 23 bits, z by a multiplication, and some slack; the few that pass are computed as noise.h
 * says. */
__global__ static void __launch_bounds__(SCAN_THREADS, SCAN_RESIDENT)
    draw(const __grid_constant__ struct sample_args a) {
    __shared__ uint64_t warp_keys[32];
    pdl_trigger();
    pdl_wait();
    const struct share mine = share_of(a.f);
    const int i = mine.i, row = a.first_row + i;
    const struct row_params &p = a.params[row];
    const struct row_state state = a.f.states[i];
    if (state.done) return;
    const struct row r = row_of(a, p, state, i);
    const uint64_t seed = p.seed;
    const int64_t position = p.position;
    const float log2_e = 1.44269504f, slope = log2_e / r.temperature;
    int best_id = state.likeliest; /* always kept; its z is 0 */
    float best = noise_gumbel(seed, position, best_id);
    for (int slice = mine.first; slice < mine.last; slice++) {
        const struct pieces x = load_pieces(r, slice);
#pragma unroll
        for (int j = 0; j < 2 * WARP_CHUNKS; j++) {
            const int at = piece_id(slice, j);
            const float v[4] = {x.at[j].x, x.at[j].y, x.at[j].z, x.at[j].w};
            const float largest = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
            if ((largest - r.max) * slope < (best - NOISE_GUMBEL_MAX - 1) * log2_e) continue; /* whatever u is */
            uint32_t bits[4];
            noise_words(bits, seed, position, (uint32_t)at / 4);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float u = __uint_as_float(bits[e] >> 9 | 0x3f800000u); /* 1 + u */
                if (u > 1.0000003f + 1.001f * exp2f(fmaf(v[e] - r.max, slope, -best * log2_e))) continue;
                const float z = z_of(r, v[e]);
                if (!(z >= r.lowest) || !up_to(state.cut, d_of<false>(0, z), at + e)) continue;
                const float score = z + noise_gumbel_of(bits[e]);
                if (score < best || (score == best && at + e >= best_id)) continue;
                best = score;
                best_id = at + e;
            }
        }
    }
    const uint64_t key = block_largest(warp_keys, key_of(best, best_id));
    if (threadIdx.x == 0) a.f.block_keys[blockIdx.x] = key;
    if (!last_of(&a.tickets[i], a.f.n_blocks)) return;
    const int id = id_of(row_key(a.f, i));
    if (threadIdx.x == 0) a.ids[row] = id;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

int cuda__sampler_open(struct exec *e, char *err, size_t err_bytes) {
    struct cuda_sampler *s = (struct cuda_sampler *)calloc(1, sizeof *s);
    if (!s) return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for a sampler");
    cuda_of(e)->sampler = s;
    /* Each row may have some thousand ids in its lists, or a few rows all of the vocabulary. */
    const size_t V = (size_t)e->options.vocab, each = 2 * (V < 8192 ? V : 8192);
    s->list_words = 8 * V + (size_t)e->options.max_rows * each;
    if (s->list_words > MOST_LIST_WORDS) s->list_words = MOST_LIST_WORDS;
    s->rows_bytes = (size_t)e->options.max_rows * sizeof(struct row_params);
    const size_t bytes = s->rows_bytes + 4 * s->list_words;
    struct cudaFuncAttributes attributes = {};
    CUDA_TRY(e, cudaFuncGetAttributes(&attributes, select_ends));
    /* Code that was compiled for an older chip knows of no clusters, wherever it runs. */
    s->n_ranks = cuda_of(e)->arch >= 90 && attributes.ptxVersion >= 90 ? SELECT_RANKS : 1;
    CUDA_TRY(e, cudaMalloc(&s->device, bytes));
    CUDA_TRY(e, cudaMalloc(&s->tickets, (size_t)e->options.max_rows * sizeof *s->tickets));
    if (!e->failed) CUDA_TRY(e, cudaMemset(s->tickets, 0, (size_t)e->options.max_rows * sizeof *s->tickets));
    for (int i = 0; i < N_PINNED; i++) {
        CUDA_TRY(e, cudaHostAlloc((void **)&s->pinned[i], bytes, cudaHostAllocDefault));
        CUDA_TRY(e, cudaEventCreateWithFlags(&s->sent[i], cudaEventDisableTiming));
    }
    if (!e->failed) return 0;
    e->failed = false;
    return fail(err, err_bytes, STATUS_DEVICE, "no memory for the sampler: %s", e->failure);
}

void cuda__sampler_close(struct exec *e) {
    struct cuda_sampler *s = cuda_of(e)->sampler;
    if (!s) return;
    cudaFree(s->device);
    cudaFree(s->tickets);
    for (int i = 0; i < N_PINNED; i++) {
        cudaFreeHost(s->pinned[i]);
        if (s->sent[i]) cudaEventDestroy(s->sent[i]);
    }
    free(s);
    cuda_of(e)->sampler = NULL;
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

/* The words that are written so far, and where the capacity ends. */
struct list {
    uint32_t *words;
    size_t n, capacity;
};

/* Room for n more words; their index, or -1. */
static int64_t take(struct list *l, size_t n) {
    if (n > l->capacity - l->n) return -1;
    const size_t at = l->n;
    l->n += n;
    return (int64_t)at;
}

static bool has_penalties(const struct sample_params *p) {
    return p->repetition != 1 || p->presence != 0 || p->frequency != 0;
}

/* One row and its lists; false when there is no room for them. */
static bool pack_row(struct row_params *out, struct list *l, const struct sample_params *p, int V) {
    const bool penalties = has_penalties(p);
    struct row_params r = {};
    r.seed = p->seed;
    r.position = p->position;
    r.temperature = p->temperature;
    r.top_p = p->top_p;
    r.lowest = p->min_p > 0 ? fminf(logf(p->min_p), 0) : -FLT_MAX;
    r.repetition = p->repetition;
    r.presence = p->presence;
    r.frequency = p->frequency;
    r.top_k = p->top_k > 0 && p->top_k < V ? p->top_k : 0;
    r.pending = p->pending;
    r.n_pending = penalties ? p->n_pending : 0;
    r.n_allowed = p->allowed ? p->n_allowed : -1;
    r.n_biases = p->n_biases;
    r.n_counts = penalties ? p->n_counts : 0;
    r.edited = p->allowed || r.n_biases || r.n_counts || r.n_pending;
    const int64_t allowed =
        take(l, p->allowed ? ((size_t)p->n_allowed + 1) / 2 * 2 : 0); /* pairs begin at even words */
    const int64_t biases = take(l, 2 * (size_t)r.n_biases), counts = take(l, 2 * (size_t)r.n_counts);
    if (allowed < 0 || biases < 0 || counts < 0) return false;
    r.allowed = (int)allowed, r.biases = (int)biases, r.counts = (int)counts;
    if (r.n_allowed > 0) memcpy(l->words + allowed, p->allowed, 4 * (size_t)r.n_allowed);
    if (r.n_biases) memcpy(l->words + biases, p->biases, 8 * (size_t)r.n_biases);
    for (int i = 0; i < r.n_counts; i++) {
        const struct token_count *c = &p->counts[i];
        l->words[counts + 2 * i] = (uint32_t)c->id;
        l->words[counts + 2 * i + 1] = 2 * (uint32_t)c->n_output + (c->in_prompt != 0);
    }
    *out = r;
    return true;
}

unsigned cuda__sample_set(struct exec *e, const struct sample_params *params, int R, int V) {
    struct cuda_sampler *s = cuda_of(e)->sampler;
    char *buffer = s->pinned[s->next];
    CUDA_TRY(e, cudaEventSynchronize(s->sent[s->next])); /* its last transfer, steps ago */
    struct row_params *rows = (struct row_params *)buffer;
    struct list l = {(uint32_t *)(buffer + s->rows_bytes), 0, s->list_words};
    unsigned stage = STAGE_GREEDY, edit = 0;
    for (int r = 0; r < R; r++) {
        if (!pack_row(&rows[r], &l, &params[r], V)) {
            exec__fail(e, __func__, __FILE__, __LINE__,
                       "the rows' allowed ids, biases and counts are too many together");
            return 0;
        }
        const bool filters = rows[r].top_k || rows[r].top_p < 1;
        const unsigned needs = !(rows[r].temperature > 0) ? STAGE_GREEDY : filters ? STAGE_FILTER : STAGE_DRAW;
        if (needs > stage) stage = needs;
        if (rows[r].edited) edit = STAGE_EDIT;
    }
    cudaStream_t stream = cuda_of(e)->stream;
    if (l.n && R < e->options.max_rows) { /* two pieces: what lies between them is not worth sending */
        CUDA_TRY(e, cudaMemcpyAsync(s->device, buffer, (size_t)R * sizeof *rows, cudaMemcpyHostToDevice, stream));
        CUDA_TRY(e, cudaMemcpyAsync(s->device + s->rows_bytes, l.words, 4 * l.n, cudaMemcpyHostToDevice, stream));
    } else {
        const size_t bytes = l.n ? s->rows_bytes + 4 * l.n : (size_t)R * sizeof *rows;
        CUDA_TRY(e, cudaMemcpyAsync(s->device, buffer, bytes, cudaMemcpyHostToDevice, stream));
    }
    CUDA_TRY(e, cudaEventRecord(s->sent[s->next], stream));
    s->next = (s->next + 1) % N_PINNED;
    return stage | edit;
}

/* ---- launching --------------------------------------------------------------------------------------------------- */

void cuda__sample(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V) {
    struct cuda_state *state = cuda_of(e);
    struct cuda_sampler *s = state->sampler;
    struct sample_args a = {};
    a.ids = ids, a.logits = logits, a.tickets = s->tickets, a.V = V, a.n_ranks = s->n_ranks;
    a.params = (const struct row_params *)s->device;
    a.words = (const uint32_t *)(s->device + s->rows_bytes);
    a.with_edits = stages & STAGE_EDIT;
    const unsigned stage = stages & STAGE_MASK;
    const bool views = a.with_edits && stage != STAGE_GREEDY;
    const size_t row = findings_at(&a.f, NULL, 1, V, 1) + (views ? 4 * (size_t)V : 0);
    const size_t room = state->workspace_bytes / row; /* rows at a time */
    if (!room) {
        exec__fail(e, __func__, __FILE__, __LINE__, "a row of logits does not fit into the workspace");
        return;
    }
    for (a.first_row = 0; a.first_row < R; a.first_row += (int)room) {
        const int n = (size_t)(R - a.first_row) < room ? R - a.first_row : (int)room;
        const size_t used = findings_at(&a.f, state->workspace, n, V, scan_blocks(e));
        a.views = views ? (float *)((char *)state->workspace + used) : NULL;
        cuda_launch(e, scan, n * a.f.n_blocks, SCAN_THREADS, 0, a, stage);
        if (stage == STAGE_FILTER) {
            cuda_launch(e, filter, n, TOP_THREADS, 0, a);
            launch_clusters(e, select_ends, n * s->n_ranks, SELECT_THREADS, s->n_ranks, a);
        }
        if (stage != STAGE_GREEDY) cuda_launch(e, draw, n * a.f.n_blocks, SCAN_THREADS, 0, a);
    }
}
