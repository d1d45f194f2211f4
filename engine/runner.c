/* runner.c - plan -> batch -> forward -> sample. The rows of which logits are wanted are laid out with the sampled
 * ones first, in item order, then the prompt positions that somebody asked for: so sampling reads one dense block. */
#include "engine/runner.h"

#include <stdlib.h>
#include <string.h>

static int max_blocks(const struct runner_options *o) {
    return (o->max_model_len + o->block_size - 1) / o->block_size;
}

int runner_open(struct runner *r, const struct runner_options *o, const struct checkpoint *checkpoint,
                const struct model_config *c, char *err, size_t err_bytes) {
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
    int status = exec_open(&r->exec, &exec, err, err_bytes);
    if (status) return status;
    status = model_load(&r->model, r->exec, checkpoint, c, o->dtype, o->max_model_len, err, err_bytes);
    if (status) goto fail;

    /* one granule is one block as long as one model has the pool to itself */
    struct kv_layout *layout = &r->kv.layout;
    kv_layout_init(layout, o->kv_dtype, c->n_layers, c->n_kv_heads, c->head_dim, o->block_size, 64);
    kv_layout_init(layout, o->kv_dtype, c->n_layers, c->n_kv_heads, c->head_dim, o->block_size, layout->block_bytes);

    const size_t arena_bytes = activations_layout(NULL, NULL, c, o->dtype, o->max_tokens, o->max_rows);
    const size_t batch_ints = 3 * (size_t)o->max_tokens + 2 * (size_t)o->max_seqs + 1 + (size_t)o->max_rows +
                              (size_t)o->max_seqs * max_blocks(o);
    const size_t kv_bytes = (size_t)o->n_blocks * layout->block_bytes, rows = (size_t)o->max_rows;
    r->kv.pool = exec_alloc(r->exec, kv_bytes);
    r->arena = exec_alloc(r->exec, arena_bytes);
    r->device_batch = exec_alloc(r->exec, batch_ints * sizeof(int32_t));
    r->host_batch = malloc(batch_ints * sizeof(int32_t));
    r->sample = malloc(rows * sizeof *r->sample);
    r->targets = malloc(rows * sizeof *r->targets);
    r->n_top = malloc(rows * sizeof *r->n_top);
    r->logprobs = malloc(rows * (1 + (size_t)o->max_logprobs) * sizeof *r->logprobs);
    r->rows = malloc(rows * sizeof *r->rows);
    if (!r->kv.pool || !r->arena || !r->device_batch || !r->host_batch || !r->sample || !r->targets || !r->n_top ||
        !r->logprobs || !r->rows) {
        status = fail(err, err_bytes, STATUS_NO_MEMORY,
                      "no memory for the KV pool (%zu MB) and the activations (%zu MB): lower --kv-cache-memory-bytes, "
                      "--max-num-seqs or --max-num-batched-tokens",
                      kv_bytes >> 20, arena_bytes >> 20);
        goto fail;
    }
    activations_layout(&r->a, r->arena, c, o->dtype, o->max_tokens, o->max_rows);
    return 0;
fail:
    runner_close(r);
    return status;
}

void runner_close(struct runner *r) {
    if (!r->exec) return;
    model_deinit(&r->model, r->exec);
    exec_free(r->exec, r->kv.pool);
    exec_free(r->exec, r->arena);
    exec_free(r->exec, r->device_batch);
    free(r->host_batch);
    free(r->sample);
    free(r->targets);
    free(r->n_top);
    free(r->logprobs);
    free(r->rows);
    exec_close(r->exec);
    *r = (struct runner){0};
}

/* The plan as flat arrays: filled on the host, copied to the device in one piece. */
static struct batch make_batch(struct runner *r, const struct plan *plan) {
    const int T = plan->n_tokens, B = plan->n_items, R = plan->n_rows;
    int stride = 1; /* of the block table: this step's longest */
    for (int b = 0; b < B; b++)
        if (plan->items[b].seq->n_blocks > stride) stride = plan->items[b].seq->n_blocks;
    CHECK_LE(T, r->options.max_tokens);
    CHECK_LE(B, r->options.max_seqs);
    CHECK_LE(R, r->options.max_rows);
    CHECK_LE(stride, max_blocks(&r->options));

    int32_t *tokens = r->host_batch, *positions = tokens + T, *seq_of = positions + T, *query_start = seq_of + T,
            *kv_len = query_start + B + 1, *logits_rows = kv_len + B, *table = logits_rows + R,
            *end = table + (size_t)B * stride;
    int t = 0, sampled = 0, asked = 0;
    for (int b = 0; b < B; b++) asked += plan->items[b].sample; /* asked rows begin behind the sampled ones */
    for (int b = 0; b < B; b++) {
        const struct plan_item *item = &plan->items[b];
        const struct sequence *q = item->seq;
        query_start[b] = t;
        kv_len[b] = item->first + item->n_tokens;
        for (int i = 0; i < item->n_tokens; i++, t++) {
            const int position = item->first + i;
            tokens[t] = q->tokens[position];
            positions[t] = position;
            seq_of[t] = b;
            if (item->n_tokens - i > item->n_rows) continue;
            int row = item->sample && i == item->n_tokens - 1 ? sampled++ : asked++;
            logits_rows[row] = t;
            r->rows[row] = (struct row_of){q->user, position};
        }
        memcpy(table + (size_t)b * stride, q->blocks, (size_t)q->n_blocks * sizeof(int32_t));
        memset(table + (size_t)b * stride + q->n_blocks, 0, (size_t)(stride - q->n_blocks) * sizeof(int32_t));
    }
    query_start[B] = t;
    CHECK_EQ(t, T);
    CHECK_EQ(asked, R);
    exec_upload(r->exec, r->device_batch, r->host_batch, (size_t)(end - tokens) * sizeof(int32_t));

    const int32_t *d = r->device_batch;
    return (struct batch){
        .T = T,
        .B = B,
        .tokens = d,
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

/* Logprobs of sampled rows and of prompt rows, and whole logits, to the buffers of those who asked. */
static void deliver_rows(struct runner *r, int n_sampled, int R, const int32_t *ids) {
    const int V = r->model.config.vocab;
    int widest = -1;
    for (int i = 0; i < R; i++) {
        const struct request *q = r->rows[i].request;
        const int next = r->rows[i].position + 1;
        const bool sampled = i < n_sampled, in_prompt = next < q->seq->n_prompt;
        r->targets[i] = sampled ? ids[i] : in_prompt ? q->seq->tokens[next] : 0;
        r->n_top[i] = sampled ? q->n_logprobs : in_prompt ? q->n_prompt_logprobs : -1;
        if (r->n_top[i] > widest) widest = r->n_top[i];
    }
    const int stride = 1 + widest;
    if (widest >= 0) token_logprobs(r->exec, r->logprobs, stride, r->a.logits, r->targets, r->n_top, R, V);
    for (int i = 0; i < R; i++) {
        struct request *q = r->rows[i].request;
        const int position = r->rows[i].position, n = 1 + r->n_top[i];
        if (n > 0) {
            struct token_logprob *to = i < n_sampled ? q->logprobs + (size_t)(position + 1 - q->seq->n_prompt) * n
                                                     : q->prompt_logprobs + (size_t)position * n;
            memcpy(to, r->logprobs + (size_t)i * stride, (size_t)n * sizeof *to);
        }
        if (q->logits && position < q->seq->n_prompt)
            exec_download(r->exec, q->logits + (size_t)position * V, r->a.logits + (size_t)i * V, V * sizeof(float));
    }
}

int runner_step(struct runner *r, const struct plan *plan, int32_t *sampled, char *err, size_t err_bytes) {
    const struct batch batch = make_batch(r, plan);
    forward(r->exec, &r->model, &r->a, &r->kv, &batch);

    int n_sampled = 0;
    for (int b = 0; b < plan->n_items; b++)
        if (plan->items[b].sample) r->sample[n_sampled++] = request_sample_params(plan->items[b].seq->user);
    int32_t *ids = r->targets; /* dense over the sampling items; spread over all items below */
    if (n_sampled)
        sample(r->exec, ids, r->a.logits, sample_set(r->exec, r->sample, n_sampled, r->model.config.vocab), n_sampled,
               r->model.config.vocab);
    int status = exec_finish(r->exec, err, err_bytes);
    if (status) return status;
    for (int b = 0, i = 0; b < plan->n_items; b++) sampled[b] = plan->items[b].sample ? ids[i++] : -1;
    deliver_rows(r, n_sampled, plan->n_rows, ids);
    return exec_finish(r->exec, err, err_bytes);
}
