/* runner.c - plan -> batch -> forward -> sample. In the batch, sequences with one token come first. The rows of which
 * logits are wanted are laid out with the sampled ones first, in batch order, then the prompt positions that somebody
 * asked for: so sampling reads one dense block. */
#include "engine/runner.h"

#include "engine/batch.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_GRAPHS = 512 };

static int max_blocks(const struct runner_options *o) {
    return (o->max_model_len + o->block_size - 1) / o->block_size;
}

/* The widest block table that a step can have. */
static int widest_table(const struct runner_options *o) { return batch_width(max_blocks(o)); }

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static bool open_flight(struct flight *f, struct exec *e, const struct runner_options *o, size_t batch_ints) {
    const size_t rows = (size_t)o->max_rows;
    f->batch = exec_alloc_host(e, batch_ints * sizeof *f->batch);
    f->ids = exec_alloc_host(e, rows * sizeof *f->ids);
    f->logprobs = exec_alloc_host(e, rows * (1 + (size_t)o->max_logprobs) * sizeof *f->logprobs);
    f->n_top = malloc(rows * sizeof *f->n_top);
    f->rows = malloc(rows * sizeof *f->rows);
    f->order = malloc((size_t)o->max_seqs * sizeof *f->order);
    f->row_of_item = malloc((size_t)o->max_seqs * sizeof *f->row_of_item);
    return f->batch && f->ids && f->logprobs && f->n_top && f->rows && f->order && f->row_of_item;
}

static void close_flight(struct flight *f, struct exec *e) {
    exec_free_host(e, f->batch);
    exec_free_host(e, f->ids);
    exec_free_host(e, f->logprobs);
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
        .beside = o->beside,
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

    const size_t batch_ints = batch_arrays_ints(o->max_tokens, o->max_seqs, o->max_rows, widest_table(o));
    const size_t rows = (size_t)o->max_rows, drafted = SPECULATION_MAX_DRAFTS * (size_t)o->max_seqs;
    r->device_ids = exec_alloc(r->exec, (RUNNER_SLOTS * rows + drafted) * sizeof *r->device_ids);
    r->drafted = exec_alloc_host(r->exec, drafted * sizeof *r->drafted);
    r->device_batch = exec_alloc(r->exec, batch_ints * sizeof(int32_t));
    r->device_logprobs = exec_alloc(r->exec, rows * (1 + (size_t)o->max_logprobs) * sizeof(struct token_logprob));
    r->sample = malloc(rows * sizeof *r->sample);
    r->graphs = calloc(MAX_GRAPHS, sizeof *r->graphs);
    bool complete = r->device_ids && r->drafted && r->device_batch && r->device_logprobs && r->sample && r->graphs;
    for (int i = 0; i < RUNNER_SLOTS; i++) complete &= open_flight(&r->flights[i], r->exec, o, batch_ints);
    if (complete) return 0;
    return fail(err, err_bytes, STATUS_NO_MEMORY,
                "no memory for the buffers of a step: lower --max-num-seqs or --max-num-batched-tokens");
}

size_t runner_arena_bytes(const struct runner_options *o, const struct model_config *c) {
    return activations_layout(NULL, NULL, c, o->dtype, o->max_tokens, o->max_rows);
}

struct kv_layout runner_kv_layout(const struct runner_options *o, const struct model_config *c, size_t granule_bytes) {
    struct kv_layout layout;
    kv_layout_init(&layout, o->kv_dtype, c->n_layers, c->n_kv_heads, c->head_dim, o->block_size, granule_bytes);
    return layout;
}

void runner_place(struct runner *r, void *arena, void *pool, size_t granule_bytes) {
    const struct runner_options *o = &r->options;
    const struct model_config *c = &r->model.config;
    activations_layout(&r->a, arena, c, o->dtype, o->max_tokens, o->max_rows);
    r->kv = (struct kv_cache){.pool = pool, .layout = runner_kv_layout(o, c, granule_bytes)};
}

void runner_close(struct runner *r) {
    if (!r->exec) return;
    for (int i = 0; i < r->n_graphs; i++) exec_graph_close(r->exec, r->graphs[i].graph);
    for (int i = 0; i < RUNNER_SLOTS; i++) close_flight(&r->flights[i], r->exec);
    model_deinit(&r->model, r->exec);
    exec_free(r->exec, r->device_ids);
    exec_free_host(r->exec, r->drafted);
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

/* Where in device_ids the ids of a flight begin. */
static int ids_at(const struct runner *r, int slot) { return slot * r->options.max_rows; }

/* Where draft j of a sequence will be in device_ids, if the device makes it. */
static int draft_at(const struct runner *r, const struct request *request, int j) {
    return request->drafts_at + j * r->options.max_seqs;
}

/* Token `position` of an item as the device is to read it: an id, or where in device_ids it will be. */
static int32_t token_at(const struct runner *r, const struct plan_item *item, int position) {
    const struct sequence *q = item->seq;
    const struct request *request = q->user;
    const int draft = position - (item->first + item->n_tokens - item->n_drafts);
    if (draft >= 0) return request->drafts_at < 0 ? item->drafts[draft] : -1 - draft_at(r, request, draft);
    if (position < q->n_tokens) return q->tokens[position];
    CHECK_EQ(position, q->n_tokens);
    return -1 - request->sampled_at;
}

/* The plan as flat arrays: filled on the host, copied to the device in one piece. */
static struct batch make_batch(struct runner *r, int slot, const struct plan *plan) {
    struct flight *f = &r->flights[slot];
    int n_blocks = 1, max_query = 0, max_kv_len = 0, t = 0, sampled = 0, asked = 0;
    for (int b = 0; b < plan->n_items; b++)
        if (plan->items[b].seq->n_blocks > n_blocks) n_blocks = plan->items[b].seq->n_blocks;
    CHECK_LE(plan->n_tokens, r->options.max_tokens);
    CHECK_LE(plan->n_items, r->options.max_seqs);
    CHECK_LE(plan->n_rows, r->options.max_rows);
    CHECK_LE(n_blocks, widest_table(&r->options));

    struct batch_arrays a =
        batch_arrays_at(f->batch, plan->n_tokens, plan->n_items, plan->n_rows, batch_width(n_blocks));
    const int n_decode = order_items(f->order, plan);
    f->n_sampled = asked = plan->n_sampled; /* asked rows begin behind the sampled ones */
    f->R = a.R;
    for (int b = 0; b < a.B; b++) {
        const struct plan_item *item = &plan->items[f->order[b]];
        const struct sequence *q = item->seq;
        a.query_start[b] = t;
        a.kv_len[b] = item->first + item->n_tokens;
        if (a.kv_len[b] > max_kv_len) max_kv_len = a.kv_len[b];
        if (item->n_tokens > max_query) max_query = item->n_tokens;
        f->row_of_item[f->order[b]] = -1;
        for (int i = 0; i < item->n_tokens; i++, t++) {
            const int position = item->first + i;
            a.tokens[t] = token_at(r, item, position);
            a.positions[t] = position;
            a.seq_of[t] = b;
            if (item->n_tokens - i > item->n_rows) continue;
            const bool samples = item->sample && item->n_tokens - i <= 1 + item->n_drafts;
            const int row = samples ? sampled++ : asked++;
            a.logits_rows[row] = t;
            f->rows[row] = (struct row_of){q->user, position, t};
            if (samples && f->row_of_item[f->order[b]] < 0) f->row_of_item[f->order[b]] = row;
        }
        batch_set_blocks(&a, b, q->blocks, q->n_blocks);
    }
    a.query_start[a.B] = t;
    CHECK_EQ(t, a.T);
    CHECK_EQ(asked, a.R);
    struct batch batch = batch_upload(r->exec, &a, r->device_batch);
    batch.n_decode = n_decode;
    batch.max_query = max_query;
    batch.max_kv_len = max_kv_len;
    batch.sampled = r->device_ids;
    return batch;
}

/* ---- the step ---------------------------------------------------------------------------------------------------- */

/* The sampler's parameters of the sampled rows. Tokens that the host does not know yet, or that are only drafts, count
 * through `pending`: the draft of row j has the j before it. */
static unsigned set_sampler(struct runner *r, int slot, const struct plan *plan, const struct batch *batch) {
    struct flight *f = &r->flights[slot];
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        if (!item->sample) continue;
        struct request *request = item->seq->user;
        const int row = f->row_of_item[i], known = item->first + item->n_tokens - item->n_drafts;
        for (int j = 0; j <= item->n_drafts; j++) {
            struct sample_params *p = &r->sample[row + j];
            *p = request_sample_params(request, known + j);
            p->n_pending = j;
            if (known > item->seq->n_tokens) {
                p->pending = r->device_ids + request->sampled_at;
                p->n_pending = 1;
            } else if (request->drafts_at >= 0) {
                p->pending = r->device_ids + request->drafts_at;
                p->pending_gap = r->options.max_seqs - 1;
            } else if (j) {
                p->pending = batch->tokens + f->rows[row].token + 1;
            }
        }
    }
    return sample_set(r->exec, r->sample, f->n_sampled, r->model.config.vocab);
}

static void run(struct runner *r, int slot, const struct batch *batch, unsigned stages) {
    const struct flight *f = &r->flights[slot];
    forward(r->exec, &r->model, &r->a, &r->kv, batch);
    sample(r->exec, r->device_ids + ids_at(r, slot), r->a.logits, stages, f->n_sampled, r->model.config.vocab);
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
static void fetch_wishes(struct runner *r, int slot) {
    struct flight *f = &r->flights[slot];
    int32_t *device_ids = r->device_ids + ids_at(r, slot);
    const int V = r->model.config.vocab;
    if (f->stride) {
        for (int i = f->n_sampled; i < f->R; i++) {
            const struct sequence *q = f->rows[i].request->seq;
            const int next = f->rows[i].position + 1;
            f->ids[i] = next < q->n_prompt ? q->tokens[next] : 0;
        }
        exec_upload_async(r->exec, device_ids + f->n_sampled, f->ids + f->n_sampled,
                          (size_t)(f->R - f->n_sampled) * sizeof *f->ids);
        token_logprobs(r->exec, r->device_logprobs, f->stride, r->a.logits, device_ids, f->n_top, f->R, V);
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

/* Drafts of the item that has the most of those that the device makes. */
static int most_drafted(const struct plan *plan) {
    int most = 0;
    for (int i = 0; i < plan->n_items; i++) {
        const struct request *request = plan->items[i].seq->user;
        if (request->drafts_at >= 0 && plan->items[i].n_drafts > most) most = plan->items[i].n_drafts;
    }
    return most;
}

void runner_launch(struct runner *r, int slot, const struct plan *plan) {
    struct flight *f = &r->flights[slot];
    exec_record(r->exec, begin_mark(slot));
    const struct batch batch = make_batch(r, slot, plan);
    const unsigned stages = set_sampler(r, slot, plan, &batch);
    const bool wishes = set_wishes(r, f), decodes = batch.n_decode == batch.B && f->n_sampled == batch.B;
    struct exec_graph *graph =
        r->options.use_graphs && decodes && !wishes ? find_graph(r, slot, &batch, stages) : NULL;
    if (graph)
        exec_graph_launch(r->exec, graph);
    else
        run(r, slot, &batch, stages);
    exec_download_async(r->exec, f->ids, r->device_ids + ids_at(r, slot), (size_t)f->n_sampled * sizeof *f->ids);
    const int n_drafted = most_drafted(plan) * r->options.max_seqs;
    if (n_drafted)
        exec_download_async(r->exec, r->drafted, r->device_ids + runner_drafts_at(r),
                            (size_t)n_drafted * sizeof *r->drafted);
    if (wishes) fetch_wishes(r, slot);
    exec_record(r->exec, end_mark(slot));
    for (int i = 0; i < plan->n_items; i++) {
        struct request *request = plan->items[i].seq->user;
        if (plan->items[i].sample) request->sampled_at = ids_at(r, slot) + f->row_of_item[i];
    }
}

int runner_land(struct runner *r, int slot, const struct plan *plan, int32_t *sampled, double *device_seconds,
                char *err, size_t err_bytes) {
    struct flight *f = &r->flights[slot];
    int status = exec_wait(r->exec, end_mark(slot), err, err_bytes);
    if (status) return status;
    *device_seconds = exec_elapsed(r->exec, begin_mark(slot), end_mark(slot));
    for (int i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct request *request = item->seq->user;
        if (!item->sample) continue;
        memcpy(sampled, f->ids + f->row_of_item[i], (size_t)(1 + item->n_drafts) * sizeof *sampled);
        for (int j = 0; j < item->n_drafts && request->drafts_at >= 0; j++)
            item->drafts[j] = r->drafted[draft_at(r, request, j) - runner_drafts_at(r)];
        sampled += 1 + item->n_drafts;
    }
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
