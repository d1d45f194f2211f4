/* sample.cu - from rows of logits to tokens, and to log-probabilities, without sorting the vocabulary.
 *
 * A row [V] of logits belongs to a cluster of 8 blocks (one block before sm_90), which share their findings through their
 * shared memories (select.cuh). In one kernel:
 *     edits    where a row has allowed ids, biases or penalties, a copy of it in the workspace is what the rest reads
 *     maximum  and its first id: the choice where the temperature is 0
 *     filters  z = (logit - max) / temperature; top_k and top_p end at a (z, id) each, found by select_prefix; min_p is a
 *              lower bound of z
 *     draw     the argmax of z + Gumbel noise (noise.h) over what is left
 * What it does to a row depends on the row's parameters in device memory; there is an instance without filters, with fewer
 * registers, and one without a draw. Reads V logits for the maximum, again for the draw, and twice per filter.
 *
 * Parameters travel through a ring of pinned buffers, so that the host may prepare steps while earlier ones wait in the
 * stream; one transfer per step. Everything that is added up is an integer, so the order of atomics does not matter. */
#include "kernels/cuda/select.cuh"
#include "kernels/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_PINNED = 4, /* steps whose parameters may wait for their transfer */
    MOST_LIST_WORDS = 8 << 20,
    MOST_TOP_ROWS = 1024, /* of one launch: their n_top are arguments of the kernel */
};

/* What sample_set found that some row needs. */
enum { STAGE_GREEDY, STAGE_DRAW, STAGE_FILTER, STAGE_MASK = 3, STAGE_EDIT = 4 };

/* One row's parameters in device memory; lists are indices into the words behind the rows. */
struct row_params {
    uint64_t seed;
    int64_t position;
    const int32_t *pending;
    float temperature, top_p, lowest; /* lowest: of z, from min_p */
    float repetition, presence, frequency;
    int top_k; /* 0: off */
    int edited;
    int allowed, n_allowed; /* ids; below 0: all */
    int biases, n_biases;   /* pairs of an id and a float */
    int counts, n_counts;   /* pairs of an id and 2 * n_output + in_prompt */
};

struct cuda_sampler { /* owned by the exec */
    char *device;                  /* [max_rows] row_params, then list words */
    char *pinned[N_PINNED];        /* the same */
    cudaEvent_t sent[N_PINNED];    /* the buffer's transfer is done */
    size_t rows_bytes, list_words; /* capacity of the lists */
    int next;                      /* buffer */
    int n_ranks;                   /* blocks per row */
};

/* ---- edits --------------------------------------------------------------------------------------------------------------- */

/* As on the CPU: products and differences rounded apart. */
__device__ static float penalised(float v, const struct row_params &p, int n_output, bool in_prompt) {
    if (v == -INFINITY) return v;
    if (n_output || in_prompt) v = v > 0 ? v / p.repetition : __fmul_rn(v, p.repetition);
    v = __fsub_rn(v, __fmul_rn(p.frequency, (float)n_output));
    if (n_output) v -= p.presence;
    return tame(v);
}

/* Fills this block's slice of view from r.v, and makes it what r.v points to. */
__device__ static void edit(struct row *r, float *view, const struct row_params &p, const uint32_t *words) {
    __shared__ int pending_counted;
    const int tid = (int)threadIdx.x, first = r->first, last = r->last;
    const uint32_t *allowed = words + p.allowed, *biases = words + p.biases, *counts = words + p.counts;
    if (tid == 0) pending_counted = 0;
    for (int i = first + tid; i < last; i += SAMPLE_THREADS) view[i] = p.n_allowed < 0 ? tame(r->v[i]) : -INFINITY;
    __syncthreads(); /* the slice is filled */
    for (int i = tid; i < p.n_allowed; i += SAMPLE_THREADS) {
        const int id = (int)allowed[i];
        if (id >= first && id < last) view[id] = tame(r->v[id]);
    }
    __syncthreads(); /* what is allowed is there */
    for (int i = tid; i < p.n_biases; i += SAMPLE_THREADS) {
        const int id = (int)biases[2 * i];
        if (id >= first && id < last) view[id] = tame(view[id] + __uint_as_float(biases[2 * i + 1]));
    }
    __syncthreads(); /* biases are added */
    const int pending = p.pending ? *p.pending : -1;
    for (int i = tid; i < p.n_counts; i += SAMPLE_THREADS) {
        const int id = (int)counts[2 * i], n_output = (int)(counts[2 * i + 1] >> 1) + (id == pending);
        if (id == pending) pending_counted = 1;
        if (id >= first && id < last) view[id] = penalised(view[id], p, n_output, counts[2 * i + 1] & 1);
    }
    __syncthreads(); /* pending_counted is final */
    if (tid == 0 && pending >= first && pending < last && !pending_counted) view[pending] = penalised(view[pending], p, 1, false);
    __syncthreads(); /* the slice is edited */
    r->v = view;
}

/* ---- the draw ------------------------------------------------------------------------------------------------------------ */

/* The draw from this block's slice, tokens up to the cut; `first` is the likeliest of the row. noise is
 * -log(-log(1 - u)) <= -log(u), so a token can only win with u <= e^(z - best so far): the few that pass this are computed
 * as noise.h says. */
template <bool CUT>
__device__ static uint64_t slice_draw(const struct row &r, const struct row_params &p, const struct cut &c, int first) {
    float best = noise_gumbel(p.seed, p.position, first);
    int best_id = first;
    for (int i = r.first + 4 * (int)threadIdx.x; i < r.last; i += BATCH * 4 * SAMPLE_THREADS) {
        float4 batch[BATCH];
        load_batch(batch, r, i);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const int at = i + b * 4 * SAMPLE_THREADS;
            float z[4] = {z_of(r, batch[b].x), z_of(r, batch[b].y), z_of(r, batch[b].z), z_of(r, batch[b].w)};
            bool any = false;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (!(z[j] >= r.lowest) || (CUT && !up_to(c, d_of<false>(0, z[j]), at + j))) z[j] = -INFINITY;
                any |= z[j] + NOISE_GUMBEL_MAX >= best;
            }
            if (!any) continue;
            uint32_t bits[4];
            noise_words(bits, p.seed, p.position, (uint32_t)at / 4);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (!((float)bits[j] * 0x1p-32f <= __expf(z[j] - best) * 1.0001f + 0x1p-32f) || z[j] == -INFINITY) continue;
                const float score = z[j] + noise_gumbel_of(bits[j]);
                if (score < best || (score == best && at + j >= best_id)) continue;
                best = score;
                best_id = at + j;
            }
        }
    }
    return key_of(best, best_id);
}

/* ---- the kernel ---------------------------------------------------------------------------------------------------------- */

/* This block's slice of a row. */
__device__ static struct row row_of(const float *v, int V, int n_ranks) {
    const int rank = (int)blockIdx.x % n_ranks, each = (V + 32 * n_ranks - 1) / (32 * n_ranks) * 32;
    struct row r = {v, V, rank, n_ranks, rank * each, rank * each + each, 0, 1, -FLT_MAX};
    if (r.first > V) r.first = V;
    if (r.last > V) r.last = V;
    return r;
}

/* Rows first_row ..; views [rows of this launch, V], or NULL when none is edited. */
template <int STAGE>
__global__ static void __launch_bounds__(SAMPLE_THREADS, STAGE == STAGE_GREEDY ? 4 : STAGE == STAGE_DRAW ? 3 : 2)
sample_rows(int32_t *ids, const float *logits, float *views, const struct row_params *params, const uint32_t *words,
            int first_row, int V, int n_ranks) {
    __shared__ struct maxima maxima;
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x / n_ranks, row = first_row + i;
    const struct row_params p = params[row];
    struct row r = row_of(logits + (size_t)row * V, V, n_ranks);
    const float *raw = r.v;
    if (views && p.edited) edit(&r, views + (size_t)i * V, p, words);
    uint64_t key = cluster_max(&maxima, 0, n_ranks, slice_max(r));
    const int likeliest = id_of(key);
    r.max = value_of(key);
    if (r.max == -INFINITY) { /* nothing is allowed */
        r.v = raw;
        key = cluster_max(&maxima, 1, n_ranks, slice_max(r));
    } else if (STAGE != STAGE_GREEDY && p.temperature > 0) {
        r.temperature = p.temperature;
        r.lowest = p.lowest;
        struct cut c = {UINT32_MAX, INT32_MAX};
        if constexpr (STAGE == STAGE_FILTER) {
            __shared__ struct selection selection;
            if (p.top_k) c = select_prefix<false>(&selection, r, c, p.top_k, 0);
            if (p.top_p < 1) c = select_prefix<false>(&selection, r, c, 1, p.top_p > 0 ? p.top_p : 0);
        }
        key = cluster_max(&maxima, 1, n_ranks, slice_draw<STAGE == STAGE_FILTER>(r, p, c, likeliest));
    }
    if (r.rank == 0 && threadIdx.x == 0) ids[row] = id_of(key);
    cluster_sync(); /* nobody reads this block's shared memory any more */
}

/* ---- log-probabilities --------------------------------------------------------------------------------------------------- */

struct top_counts {
    int16_t n[MOST_TOP_ROWS]; /* n_top; below 0: the row is skipped */
};

struct logprobs_smem {
    struct maxima maxima;
    double sum, warp_sums[SAMPLE_WARPS]; /* of e^(v - max) */
    uint32_t n_better, warp_better[SAMPLE_WARPS];
    uint32_t n_kept, kept_d[LISTED], kept_id[LISTED];
    struct selection selection;
};

/* Of this block: the sum of e^(v - max), and how many tokens come before the target. fp32 within a thread, fp64 over
 * threads: as a tree over warps, then in turn. */
__device__ static void slice_sums(struct logprobs_smem *s, const struct row &r, float target, int target_id) {
    float sum = 0;
    uint32_t better = 0;
    for (int i = r.first + 4 * (int)threadIdx.x; i < r.last; i += 4 * SAMPLE_THREADS) {
        const float4 four = load_four(r, i);
        const float v[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (i + j >= r.last) continue;
            sum += expf(v[j] - r.max);
            better += v[j] > target || (v[j] == target && i + j < target_id);
        }
    }
    double wide = sum;
#pragma unroll
    for (int i = 16; i; i >>= 1) wide += __shfl_xor_sync(0xffffffffu, wide, i), better += __shfl_xor_sync(0xffffffffu, better, i);
    if (threadIdx.x % 32 == 0) s->warp_sums[threadIdx.x / 32] = wide, s->warp_better[threadIdx.x / 32] = better;
    __syncthreads(); /* the warps' sums are there */
    if (threadIdx.x) return;
    for (int i = 1; i < SAMPLE_WARPS; i++) wide += s->warp_sums[i], better += s->warp_better[i];
    s->sum = wide;
    s->n_better = better;
}

/* The first n tokens of the row in order, from out[1] on; lse is the log of the sum of e^v. */
__device__ static void write_top(struct logprobs_smem *s, struct token_logprob *out, const struct row &r, int n, double lse) {
    const struct cut all = {UINT32_MAX, INT32_MAX}, c = select_prefix<true>(&s->selection, r, all, n, 0);
    for (int i = r.first + (int)threadIdx.x; i < r.last; i += SAMPLE_THREADS) {
        const uint32_t d = d_of<true>(tame(r.v[i]), 0);
        if (!up_to(c, d, i)) continue;
        const uint32_t at = atomicAdd(&s->n_kept, 1); /* below n <= LISTED */
        s->kept_d[at] = d, s->kept_id[at] = (uint32_t)i;
    }
    cluster_sync(); /* the ranks' lists are there */
    for (uint32_t i = threadIdx.x; i < s->n_kept; i += SAMPLE_THREADS) {
        const struct cut mine = {s->kept_d[i], (int)s->kept_id[i]};
        int rank = 0; /* tokens up to it, itself included */
        for (int from = 0; from < r.n_ranks; from++) {
            const uint32_t n_from = remote(&s->n_kept, from);
            for (uint32_t j = 0; j < n_from; j++)
                rank += up_to(mine, remote(&s->kept_d[j], from), (int)remote(&s->kept_id[j], from));
        }
        const double v = tame(r.v[mine.id]);
        out[rank] = {mine.id, (float)(v - lse), rank};
    }
}

__global__ static void __launch_bounds__(SAMPLE_THREADS, 2)
logprob_rows(struct token_logprob *out, int stride, const float *logits, const int32_t *targets,
             const __grid_constant__ struct top_counts n_top, int first_row, int V, int n_ranks) {
    __shared__ struct logprobs_smem s;
    pdl_trigger();
    pdl_wait();
    const int i = (int)blockIdx.x / n_ranks, row = first_row + i;
    if (n_top.n[i] < 0) return; /* all ranks of the row */
    out += (size_t)row * stride;
    struct row r = row_of(logits + (size_t)row * V, V, n_ranks);
    if (threadIdx.x == 0) s.n_kept = 0;
    r.max = value_of(cluster_max(&s.maxima, 0, n_ranks, slice_max(r)));
    const int target = targets[row];
    const float value = tame(r.v[target]);
    slice_sums(&s, r, value, target);
    cluster_sync(); /* the ranks' sums are there */
    double sum = 0;
    uint32_t better = 0;
    for (int from = 0; from < n_ranks; from++) {
        sum += __longlong_as_double((long long)remote((const uint64_t *)&s.sum, from));
        better += remote(&s.n_better, from);
    }
    const double lse = r.max == -INFINITY ? -INFINITY : (double)r.max + log(sum);
    if (r.rank == 0 && threadIdx.x == 0) out[0] = {target, (float)((double)value - lse), 1 + (int)better};
    if (n_top.n[i] > 0) write_top(&s, out, r, n_top.n[i], lse);
    cluster_sync(); /* nobody reads this block's shared memory any more */
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

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
    CUDA_TRY(e, cudaFuncGetAttributes(&attributes, sample_rows<STAGE_FILTER>));
    /* Code that was compiled for an older chip knows of no clusters, wherever it runs. */
    s->n_ranks = cuda_of(e)->arch >= 90 && attributes.ptxVersion >= 90 ? SAMPLE_RANKS : 1;
    CUDA_TRY(e, cudaMalloc(&s->device, bytes));
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
    for (int i = 0; i < N_PINNED; i++) {
        cudaFreeHost(s->pinned[i]);
        if (s->sent[i]) cudaEventDestroy(s->sent[i]);
    }
    free(s);
    cuda_of(e)->sampler = NULL;
}

/* ---- parameters ---------------------------------------------------------------------------------------------------------- */

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
    r.pending = penalties ? p->pending : NULL;
    r.n_allowed = p->allowed ? p->n_allowed : -1;
    r.n_biases = p->n_biases;
    r.n_counts = penalties ? p->n_counts : 0;
    r.edited = p->allowed || r.n_biases || r.n_counts || r.pending;
    const int64_t allowed = take(l, p->allowed ? (size_t)p->n_allowed : 0);
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
            exec__fail(e, __func__, __FILE__, __LINE__, "the rows' allowed ids, biases and counts are too many together");
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

/* ---- launching ----------------------------------------------------------------------------------------------------------- */

/* As cuda_launch, for n rows of n_ranks blocks each: a row's are a cluster. */
template <typename... P, typename... A>
static void launch_rows(struct exec *e, const char *op, int line, void (*kernel)(P...), int n, A... args) {
    struct cuda_state *s = cuda_of(e);
    const int n_ranks = s->sampler->n_ranks;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)n_ranks;
    attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n * n_ranks));
    config.blockDim = dim3(SAMPLE_THREADS);
    config.stream = s->stream;
    config.attrs = attributes;
    config.numAttrs = n_ranks > 1 ? 2 : 0;
    cudaError_t status = cudaLaunchKernelEx(&config, kernel, args..., n_ranks);
    if (status != cudaSuccess) exec__fail(e, op, __FILE__, line, cudaGetErrorString(status));
}

void cuda__sample(struct exec *e, int32_t *ids, const float *logits, unsigned stages, int R, int V) {
    struct cuda_sampler *s = cuda_of(e)->sampler;
    const struct row_params *params = (const struct row_params *)s->device;
    const uint32_t *words = (const uint32_t *)(s->device + s->rows_bytes);
    float *views = stages & STAGE_EDIT ? (float *)cuda_of(e)->workspace : NULL;
    const int stage = (int)(stages & STAGE_MASK), room = (int)(cuda_of(e)->workspace_bytes / (4 * (size_t)V));
    const int most = views && room < R ? room : R; /* rows at a time */
    if (!most) {
        exec__fail(e, __func__, __FILE__, __LINE__, "a row of logits does not fit into the workspace");
        return;
    }
    for (int row = 0; row < R; row += most) {
        const int n = R - row < most ? R - row : most;
        launch_rows(e, __func__, __LINE__,
                    stage == STAGE_FILTER ? sample_rows<STAGE_FILTER>
                    : stage == STAGE_DRAW ? sample_rows<STAGE_DRAW>
                                          : sample_rows<STAGE_GREEDY>,
                    n, ids, logits, views, params, words, row, V);
    }
}

void cuda__token_logprobs(struct exec *e, struct token_logprob *out, int stride, const float *logits,
                          const int32_t *targets, const int *n_top, int R, int V) {
    for (int row = 0; row < R; row += MOST_TOP_ROWS) {
        const int n = R - row < MOST_TOP_ROWS ? R - row : MOST_TOP_ROWS;
        struct top_counts counts;
        for (int i = 0; i < n; i++) {
            if (n_top[row + i] > LISTED) {
                exec__fail(e, __func__, __FILE__, __LINE__, "more than 1024 top tokens of a row");
                return;
            }
            counts.n[i] = (int16_t)n_top[row + i];
        }
        launch_rows(e, __func__, __LINE__, logprob_rows, n, out, stride, logits, targets, counts, row, V);
    }
}
