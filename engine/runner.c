/* runner.c - plan -> batch -> forward -> sample. In the batch, sequences with one token come first. The rows of which
 * logits are wanted are laid out with the sampled ones first, in batch order, then the prompt positions that somebody
 * asked for: so sampling reads one dense block. */
#include "engine/runner.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_GRAPHS = 512 };

static int max_blocks(const struct runner_options *o) {
    return (o->max_model_len + o->block_size - 1) / o->block_size;
}

/* The widest block table that a step can have: widths are powers of two, so that few graphs are enough. */
static int widest_table(const struct runner_options *o) {
    int n = 1;
    while (n < max_blocks(o)) n *= 2;
    return n;
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static bool open_flight(struct flight *f, struct exec *e, const struct runner_options *o, size_t batch_ints) {
    const size_t rows = (size_t)o->max_rows;
    f->batch = exec_alloc_host(e, batch_ints * sizeof *f->batch);
    f->ids = exec_alloc_host(e, rows * sizeof *f->ids);
    f->logprobs = exec_alloc_host(e, rows * (1 + (size_t)o->max_logprobs) * sizeof *f->logprobs);
    f->device_ids = exec_alloc(e, rows * sizeof *f->device_ids);
    f->n_top = malloc(rows * sizeof *f->n_top);
    f->rows = malloc(rows * sizeof *f->rows);
    f->order = malloc((size_t)o->max_seqs * sizeof *f->order);
    f->row_of_item = malloc((size_t)o->max_seqs * sizeof *f->row_of_item);
    return f->batch && f->ids && f->logprobs && f->device_ids && f->n_top && f->rows && f->order && f->row_of_item;
}

static void close_flight(struct flight *f, struct exec *e) {
    exec_free_host(e, f->batch);
    exec_free_host(e, f->ids);
    exec_free_host(e, f->logprobs);
    exec_free(e, f->device_ids);
    free(f->n_top);
    free(f->rows);
    free(f->order);
    free(f->row_of_item);
}

int runner_open(struct runner *r, const struct runner_options *o, const struct model_config *c, char *err,
                size_t err_bytes) {
    *r = (struct runner){.options = *o};
    const int QKVD = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    int widest = 2 * c->ffn;
    if (QKVD > widest) widest = QKVD;
    if (c->hidden > widest) widest = c->hidden;
    const struct exec_options exec = {
        .backend = o->backend,
        .dtype = o->dtype,
        .n_threads = o->n_threads,
        .max_tokens = o->max_tokens,
        .max_rows = o->max_rows,
        .max_width = widest,
        .max_kv_len = o->max_model_len,
        .max_heads = c->n_heads,
        .max_head_dim = c->head_dim,
        .vocab = c->vocab,
    };
    return exec_open(&r->exec, &exec, err, err_bytes);
}

int runner_load(struct runner *r, const struct checkpoint *checkpoint, const struct model_config *c, char *err,
                size_t err_bytes) {
    const struct runner_options *o = &r->options;
    int status =
        model_load(&r->model, r->exec, checkpoint, c, o->dtype, o->kv_dtype, o->max_model_len, err, err_bytes);
    if (status) return status;

    /* one granule is one block as long as one model has the pool to itself */
    struct kv_layout *layout = &r->kv.layout;
    kv_layout_init(layout, o->kv_dtype, c->n_layers, c->n_kv_heads, c->head_dim, o->block_size, 64);
    kv_layout_init(layout, o->kv_dtype, c->n_layers, c->n_kv_heads, c->head_dim, o->block_size, layout->block_bytes);

    const size_t arena_bytes = activations_layout(NULL, NULL, c, o->dtype, o->max_tokens, o->max_rows);
    const size_t batch_ints = 3 * (size_t)o->max_tokens + 2 * (size_t)o->max_seqs + 1 + (size_t)o->max_rows +
                              (size_t)o->max_seqs * (size_t)widest_table(o);
    const size_t rows = (size_t)o->max_rows;
    r->arena = exec_alloc(r->exec, arena_bytes);
    r->device_batch = exec_alloc(r->exec, batch_ints * sizeof(int32_t));
    r->device_logprobs = exec_alloc(r->exec, rows * (1 + (size_t)o->max_logprobs) * sizeof(struct token_logprob));
    r->sample = malloc(rows * sizeof *r->sample);
    r->graphs = calloc(MAX_GRAPHS, sizeof *r->graphs);
    bool complete = r->arena && r->device_batch && r->device_logprobs && r->sample && r->graphs;
    for (int i = 0; i < RUNNER_SLOTS; i++) complete &= open_flight(&r->flights[i], r->exec, o, batch_ints);
    if (!complete)
        return fail(err, err_bytes, STATUS_NO_MEMORY,
                    "no memory for the activations (%zu MB): lower --max-num-seqs or --max-num-batched-tokens",
                    arena_bytes >> 20);
    activations_layout(&r->a, r->arena, c, o->dtype, o->max_tokens, o->max_rows);
    return 0;
}

size_t runner_block_bytes(const struct runner *r) { return r->kv.layout.block_bytes; }

int runner_open_kv(struct runner *r, int n_blocks, char *err, size_t err_bytes) {
    const size_t bytes = (size_t)n_blocks * r->kv.layout.block_bytes;
    r->kv.pool = exec_alloc(r->exec, bytes);
    if (r->kv.pool) return exec_finish(r->exec, err, err_bytes);
    return fail(err, err_bytes, STATUS_NO_MEMORY,
                "no memory for the KV pool (%zu MB): lower --gpu-memory-utilization or --kv-cache-memory-bytes",
                bytes >> 20);
}

void runner_close(struct runner *r) {
    if (!r->exec) return;
    for (int i = 0; i < r->n_graphs; i++) exec_graph_close(r->exec, r->graphs[i].graph);
    for (int i = 0; i < RUNNER_SLOTS; i++) close_flight(&r->flights[i], r->exec);
    model_deinit(&r->model, r->exec);
    exec_free(r->exec, r->kv.pool);
    exec_free(r->exec, r->arena);
    exec_free(r->exec, r->device_batch);
    exec_free(r->exec, r->device_logprobs);
    free(r->sample);
    free(r->graphs);
    exec_close(r->exec);
    *r = (struct runner){0};
}

/* ---- the batch --------------------------------------------------------------------------------------------------- */

/* Fills order: items of one token first. Returns how many these are. */
static int order_items(int *order, const struct plan *plan) {
    int n = 0, n_decode;
    for (int i = 0; i < plan->n_items; i++)
        if (plan->items[i].n_tokens == 1) order[n++] = i;
    n_decode = n;
    for (int i = 0; i < plan->n_items; i++)
        if (plan->items[i].n_tokens != 1) order[n++] = i;
    return n_decode;
}

/* Token `position` of a sequence as the device is to read it: an id, or the flight before's row that samples it. */
static int32_t token_at(const struct sequence *q, int position) {
    const struct request *request = q->user;
    if (position < q->n_tokens) return q->tokens[position];
    CHECK_EQ(position, q->n_tokens);
    return -1 - request->row;
}

/* What the flight before samples; of batches and samplers that refer to it. */
static const int32_t *ids_before(const struct runner *r, int slot) {
    return r->flights[(slot + 1) % RUNNER_SLOTS].device_ids;
}

/* The plan as flat arrays: filled on the host, copied to the device in one piece. Arrays lie at offsets that depend on
 * T, B, R and the table's width alone, so a graph finds them again. */
static struct batch make_batch(struct runner *r, int slot, const struct plan *plan) {
    struct flight *f = &r->flights[slot];
    const int T = plan->n_tokens, B = plan->n_items, R = plan->n_rows;
    int stride = 1, max_query = 0, max_kv_len = 0;
    for (int b = 0; b < B; b++)
        while (stride < plan->items[b].seq->n_blocks) stride *= 2;
    CHECK_LE(T, r->options.max_tokens);
    CHECK_LE(B, r->options.max_seqs);
    CHECK_LE(R, r->options.max_rows);
    CHECK_LE(stride, widest_table(&r->options));

    int32_t *tokens = f->batch, *positions = tokens + T, *seq_of = positions + T, *query_start = seq_of + T,
            *kv_len = query_start + B + 1, *logits_rows = kv_len + B, *table = logits_rows + R,
            *end = table + (size_t)B * stride;
    int t = 0, sampled = 0, asked = 0;
    const int n_decode = order_items(f->order, plan);
    for (int b = 0; b < B; b++) asked += plan->items[b].sample; /* asked rows begin behind the sampled ones */
    f->n_sampled = asked;
    f->R = R;
    for (int b = 0; b < B; b++) {
        const struct plan_item *item = &plan->items[f->order[b]];
        const struct sequence *q = item->seq;
        query_start[b] = t;
        kv_len[b] = item->first + item->n_tokens;
        if (kv_len[b] > max_kv_len) max_kv_len = kv_len[b];
        if (item->n_tokens > max_query) max_query = item->n_tokens;
        f->row_of_item[f->order[b]] = -1;
        for (int i = 0; i < item->n_tokens; i++, t++) {
            const int position = item->first + i;
            tokens[t] = token_at(q, position);
            positions[t] = position;
            seq_of[t] = b;
            if (item->n_tokens - i > item->n_rows) continue;
            const bool last = item->sample && i == item->n_tokens - 1;
            const int row = last ? sampled++ : asked++;
            logits_rows[row] = t;
            f->rows[row] = (struct row_of){q->user, position};
            if (last) f->row_of_item[f->order[b]] = row;
        }
        memcpy(table + (size_t)b * stride, q->blocks, (size_t)q->n_blocks * sizeof(int32_t));
        memset(table + (size_t)b * stride + q->n_blocks, 0, (size_t)(stride - q->n_blocks) * sizeof(int32_t));
    }
    query_start[B] = t;
    CHECK_EQ(t, T);
    CHECK_EQ(asked, R);
    exec_upload_async(r->exec, r->device_batch, f->batch, (size_t)(end - tokens) * sizeof(int32_t));

    const int32_t *d = r->device_batch;
    return (struct batch){
        .T = T,
        .B = B,
        .n_decode = n_decode,
        .max_query = max_query,
        .max_kv_len = max_kv_len,
        .tokens = d,
        .sampled = ids_before(r, slot),
        .positions = d + (positions - tokens),
        .seq_of = d + (seq_of - tokens),
        .query_start = d + (query_start - tokens),
        .kv_len = d + (kv_len - tokens),
        .block_table = d + (table - tokens),
        .max_blocks = stride,
        .R = R,
        .logits_rows = d + (logits_rows - tokens),
    };
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* The sampler's parameters of the sampled rows; a token that only the device knows counts through `pending`. */
static unsigned set_sampler(struct runner *r, int slot, const struct plan *plan) {
    struct flight *f = &r->flights[slot];
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!item->sample) continue;
        struct request *request = item->seq->user;
        const int position = item->first + item->n_tokens;
        struct sample_params *p = &r->sample[f->row_of_item[i]];
        *p = request_sample_params(request, position);
        if (position > item->seq->n_tokens) p->pending = ids_before(r, slot) + request->row, p->n_pending = 1;
    }
    return sample_set(r->exec, r->sample, f->n_sampled, r->model.config.vocab);
}

static void run(struct runner *r, int slot, const struct batch *batch, unsigned stages) {
    struct flight *f = &r->flights[slot];
    forward(r->exec, &r->model, &r->a, &r->kv, batch);
    sample(r->exec, f->device_ids, r->a.logits, stages, f->n_sampled, r->model.config.vocab);
}

static struct exec_graph *record(struct runner *r, int slot, const struct batch *batch, unsigned stages) {
    struct batch widest = *batch; /* as long as the table's width allows: it serves until the contexts outgrow that */
    widest.max_kv_len = batch->max_blocks * r->options.block_size;
    if (!exec_graph_begin(r->exec)) return NULL;
    run(r, slot, &widest, stages);
    return exec_graph_end(r->exec);
}

/* The graph of a step of decodes, recorded when such a step comes for the second time; NULL: run it op by op. */
static struct exec_graph *find_graph(struct runner *r, int slot, const struct batch *batch, unsigned stages) {
    const struct graph_key key = {.B = batch->B, .max_blocks = batch->max_blocks, .slot = slot, .stages = stages};
    int oldest = 0;
    r->clock++;
    for (int i = 0; i < r->n_graphs; i++) {
        if (!memcmp(&r->graphs[i].key, &key, sizeof key)) {
            r->graphs[i].used_at = r->clock;
            if (!r->graphs[i].graph) r->graphs[i].graph = record(r, slot, batch, stages);
            return r->graphs[i].graph;
        }
        if (r->graphs[i].used_at < r->graphs[oldest].used_at) oldest = i;
    }
    const int at = r->n_graphs < MAX_GRAPHS ? r->n_graphs++ : oldest;
    exec_graph_close(r->exec, r->graphs[at].graph);
    r->graphs[at].key = key;
    r->graphs[at].graph = NULL;
    r->graphs[at].used_at = r->clock;
    return NULL; /* the first time it is just run: what is loaded on first use must not be loaded while recording */
}

/* Whether any row has someone who wants more of it than a sampled token; decides each row's n_top. */
static bool set_wishes(struct runner *r, struct flight *f) {
    bool wishes = false;
    int widest = -1;
    for (int i = 0; i < f->R; i++) {
        const struct request *q = f->rows[i].request;
        const bool sampled = i < f->n_sampled, in_prompt = f->rows[i].position + 1 < q->seq->n_prompt;
        f->n_top[i] = sampled ? q->n_logprobs : in_prompt ? q->n_prompt_logprobs : -1;
        if (f->n_top[i] > widest) widest = f->n_top[i];
        wishes |= f->n_top[i] >= 0 || (q->logits && f->rows[i].position < q->seq->n_prompt);
    }
    f->stride = 1 + widest;
    CHECK_LE(f->stride, 1 + r->options.max_logprobs);
    return wishes;
}

/* Logprobs of sampled rows and of prompt rows on their way to the host, and whole logits to those who asked. */
static void fetch_wishes(struct runner *r, struct flight *f) {
    const int V = r->model.config.vocab;
    if (f->stride) {
        for (int i = f->n_sampled; i < f->R; i++) {
            const struct sequence *q = f->rows[i].request->seq;
            const int next = f->rows[i].position + 1;
            f->ids[i] = next < q->n_prompt ? q->tokens[next] : 0;
        }
        exec_upload_async(r->exec, f->device_ids + f->n_sampled, f->ids + f->n_sampled,
                          (size_t)(f->R - f->n_sampled) * sizeof *f->ids);
        token_logprobs(r->exec, r->device_logprobs, f->stride, r->a.logits, f->device_ids, f->n_top, f->R, V);
        exec_download_async(r->exec, f->logprobs, r->device_logprobs,
                            (size_t)f->R * (size_t)f->stride * sizeof *f->logprobs);
    }
    for (int i = 0; i < f->R; i++) {
        const struct request *q = f->rows[i].request;
        const int position = f->rows[i].position;
        if (q->logits && position < q->seq->n_prompt)
            exec_download(r->exec, q->logits + (size_t)position * V, r->a.logits + (size_t)i * V,
                          (size_t)V * sizeof(float));
    }
}

/* Marks of a slot: where its step begins and ends. */
static int begin_mark(int slot) { return 2 * slot; }
static int end_mark(int slot) { return 2 * slot + 1; }

void runner_launch(struct runner *r, int slot, const struct plan *plan) {
    struct flight *f = &r->flights[slot];
    exec_record(r->exec, begin_mark(slot));
    const struct batch batch = make_batch(r, slot, plan);
    const unsigned stages = set_sampler(r, slot, plan);
    const bool wishes = set_wishes(r, f), decodes = batch.n_decode == batch.B && f->n_sampled == batch.B;
    struct exec_graph *graph =
        r->options.use_graphs && decodes && !wishes ? find_graph(r, slot, &batch, stages) : NULL;
    if (graph)
        exec_graph_launch(r->exec, graph);
    else
        run(r, slot, &batch, stages);
    exec_download_async(r->exec, f->ids, f->device_ids, (size_t)f->n_sampled * sizeof *f->ids);
    if (wishes) fetch_wishes(r, f);
    exec_record(r->exec, end_mark(slot));
    for (int i = 0; i < plan->n_items; i++) {
        struct request *request = plan->items[i].seq->user;
        if (plan->items[i].sample) request->row = f->row_of_item[i];
    }
}

int runner_land(struct runner *r, int slot, const struct plan *plan, int32_t *sampled, double *device_seconds,
                char *err, size_t err_bytes) {
    struct flight *f = &r->flights[slot];
    int status = exec_wait(r->exec, end_mark(slot), err, err_bytes);
    if (status) return status;
    *device_seconds = exec_elapsed(r->exec, begin_mark(slot), end_mark(slot));
    for (int i = 0; i < plan->n_items; i++)
        if (plan->items[i].sample) *sampled++ = f->ids[f->row_of_item[i]];
    for (int i = 0; i < f->R && f->stride; i++) {
        struct request *q = f->rows[i].request;
        const int position = f->rows[i].position, n = 1 + f->n_top[i];
        if (n <= 0 || position + 1 >= q->seq->max_len) continue;
        struct token_logprob *to = i < f->n_sampled ? q->logprobs + (size_t)(position + 1 - q->seq->n_prompt) * n
                                                    : q->prompt_logprobs + (size_t)position * n;
        memcpy(to, f->logprobs + (size_t)i * f->stride, (size_t)n * sizeof *to);
    }
    return 0;
}
