/* drafter.c - see drafter.h. The first step computes what the draft model does not have yet, of all items; step j > 0 has
 * one token of each item that wants more than j drafts. Items are ranked by falling n_drafts, so that each step's ids
 * are a prefix of one row of the target's [SPECULATION_MAX_DRAFTS, max_seqs]. */
#include "engine/drafter.h"

#include "engine/batch.h"

#include <stdlib.h>

/* Marks of the target's exec, behind the runner's: several targets may have one draft model. */
enum { BEGIN_MARK = EXEC_SLOTS - 2, END_MARK = EXEC_SLOTS - 1 };

int drafter_open(struct drafter *d, struct runner *draft, struct runner *target, int max_drafts, char *err,
                 size_t err_bytes) {
    const struct runner_options *o = &draft->options;
    const size_t n = (size_t)o->max_seqs;
    const int V = target->model.config.vocab,
              widest = batch_width((o->max_model_len + o->block_size - 1) / o->block_size);
    CHECK_LE(target->options.max_seqs, o->max_seqs);
    *d = (struct drafter){.draft = draft, .target = target, .model = draft->model, .max_drafts = max_drafts};
    if (d->model.lm_head.rows > V) d->model.lm_head.rows = d->model.config.vocab = V;
    d->batches = calloc((size_t)max_drafts, sizeof *d->batches);
    d->rank = malloc(n * sizeof *d->rank);
    d->rank_of = malloc(n * sizeof *d->rank_of);
    d->order = malloc(n * sizeof *d->order);
    bool complete = d->batches && d->rank && d->rank_of && d->order;
    for (int j = 0; complete && j < max_drafts; j++) {
        const size_t ints = batch_arrays_ints(j ? o->max_seqs : o->max_tokens, o->max_seqs, o->max_seqs, widest);
        complete = (d->batches[j] = exec_alloc_host(draft->exec, ints * sizeof **d->batches));
    }
    if (complete) return 0;
    return fail(err, err_bytes, STATUS_NO_MEMORY, "no memory for the batches of a drafting model");
}

void drafter_close(struct drafter *d) {
    for (int j = 0; d->batches && j < d->max_drafts; j++) exec_free_host(d->draft->exec, d->batches[j]);
    free(d->batches);
    free(d->rank);
    free(d->rank_of);
    free(d->order);
    *d = (struct drafter){0};
}

/* Fills rank, rank_of and order. Returns how many items have drafts: the first so many in rank. */
static int sort_items(struct drafter *d, const struct draft_item *items, int n, int *n_decode) {
    int ranked = 0, n_drafting = 0, ordered = 0;
    for (int want = d->max_drafts; want >= 0; want--) {
        for (int i = 0; i < n; i++)
            if (items[i].n_drafts == want) d->rank[d->rank_of[i] = ranked++] = i;
        if (want == 1) n_drafting = ranked;
    }
    CHECK_EQ(ranked, n);
    for (int i = 0; i < n; i++)
        if (items[i].n_tokens == 1) d->order[ordered++] = i;
    *n_decode = ordered;
    for (int i = 0; i < n; i++)
        if (items[i].n_tokens != 1) d->order[ordered++] = i;
    return n_drafting;
}

/* Forward and sample of step j: R ids behind each other. */
static void run(struct drafter *d, struct batch *batch, const struct draft_item *items, int j) {
    struct runner *r = d->draft;
    const int stride = d->target->options.max_seqs, V = d->model.config.vocab;
    int32_t *ids = d->target->device_ids + runner_drafts_at(d->target);
    batch->sampled = d->target->device_ids;
    forward(r->exec, &d->model, &r->a, &r->kv, batch);
    if (!batch->R) return;
    for (int b = 0; b < batch->R; b++) {
        const struct draft_item *item = &items[d->rank[b]];
        r->sample[b] = request_sample_params(item->request, item->first + item->n_tokens + j);
        r->sample[b].pending = ids + b;
        r->sample[b].pending_gap = stride - 1;
        r->sample[b].n_pending = j;
    }
    const unsigned stages = sample_set(r->exec, r->sample, batch->R, V);
    sample(r->exec, ids + j * stride, r->a.logits, stages, batch->R, V);
}

/* What the draft model has to catch up with, and the first draft. */
static void run_first(struct drafter *d, const struct draft_item *items, int n, int n_drafting, int n_decode) {
    int T = 0, n_blocks = 1, t = 0, max_query = 0, max_kv_len = 0;
    for (int i = 0; i < n; i++) {
        CHECK_LT(0, items[i].n_tokens);
        T += items[i].n_tokens;
        if (items[i].n_blocks > n_blocks) n_blocks = items[i].n_blocks;
    }
    CHECK_LE(T, d->draft->options.max_tokens);
    CHECK_LE(n, d->target->options.max_seqs);
    CHECK_LE(n_drafting, d->draft->options.max_rows);
    struct batch_arrays a = batch_arrays_at(d->batches[0], T, n, n_drafting, batch_width(n_blocks));
    for (int b = 0; b < n; b++) {
        const struct draft_item *item = &items[d->order[b]];
        a.query_start[b] = t;
        a.kv_len[b] = item->first + item->n_tokens;
        if (a.kv_len[b] > max_kv_len) max_kv_len = a.kv_len[b];
        if (item->n_tokens > max_query) max_query = item->n_tokens;
        for (int i = 0; i < item->n_tokens; i++, t++) {
            a.tokens[t] = item->tokens[item->first + i];
            a.positions[t] = item->first + i;
            a.seq_of[t] = b;
        }
        batch_set_blocks(&a, b, item->blocks, item->n_blocks);
        if (item->n_drafts) a.logits_rows[d->rank_of[d->order[b]]] = t - 1;
    }
    a.query_start[n] = t;
    struct batch batch = batch_upload(d->draft->exec, &a, d->draft->device_batch);
    batch.n_decode = n_decode;
    batch.max_query = max_query;
    batch.max_kv_len = max_kv_len;
    run(d, &batch, items, 0);
}

/* Draft j of those that want more than j. */
static void run_next(struct drafter *d, const struct draft_item *items, int n, int j) {
    int n_blocks = 1, max_kv_len = 0;
    for (int b = 0; b < n; b++)
        if (items[d->rank[b]].n_blocks > n_blocks) n_blocks = items[d->rank[b]].n_blocks;
    struct batch_arrays a = batch_arrays_at(d->batches[j], n, n, n, batch_width(n_blocks));
    for (int b = 0; b < n; b++) {
        const struct draft_item *item = &items[d->rank[b]];
        const int position = item->first + item->n_tokens + j - 1;
        a.query_start[b] = b;
        a.kv_len[b] = position + 1;
        if (position + 1 > max_kv_len) max_kv_len = position + 1;
        a.tokens[b] = -1 - (runner_drafts_at(d->target) + (j - 1) * d->target->options.max_seqs + b);
        a.positions[b] = position;
        a.seq_of[b] = a.logits_rows[b] = b;
        batch_set_blocks(&a, b, item->blocks, item->n_blocks);
    }
    a.query_start[n] = n;
    struct batch batch = batch_upload(d->draft->exec, &a, d->draft->device_batch);
    batch.n_decode = n;
    batch.max_query = 1;
    batch.max_kv_len = max_kv_len;
    run(d, &batch, items, j);
}

void drafter_launch(struct drafter *d, const struct draft_item *items, int n) {
    int n_decode, n_drafting = sort_items(d, items, n, &n_decode);
    exec_record(d->target->exec, BEGIN_MARK);
    run_first(d, items, n, n_drafting, n_decode);
    for (int b = 0; b < n; b++)
        items[d->rank[b]].request->drafts_at = b < n_drafting ? runner_drafts_at(d->target) + b : -1;
    for (int j = 1; n_drafting; j++) {
        while (n_drafting && items[d->rank[n_drafting - 1]].n_drafts <= j) n_drafting--;
        if (n_drafting) run_next(d, items, n_drafting, j);
    }
    exec_record(d->target->exec, END_MARK);
}

double drafter_seconds(struct drafter *d) { return exec_elapsed(d->target->exec, BEGIN_MARK, END_MARK); }
