/* request.c - making, freeing, and the sampler's bookkeeping of one request. */
#include "engine/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool penalised(const struct sampling_params *s) {
    return s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
}

/* Adds {id, -inf}, or overwrites the bias that id already has. */
static void forbid(struct token_bias *biases, int *n, int32_t id) {
    int i = 0;
    while (i < *n && biases[i].id != id) i++;
    if (i == *n) ++*n;
    biases[i] = (struct token_bias){.id = id, .bias = -INFINITY};
}

static int open_sampler(struct request *r, const struct request_params *p, const struct engine_info *info,
                        uint64_t default_seed) {
    const struct sampling_params *s = &p->sampling;
    const struct generation_config *g = &info->generation;
    const int n_early = s->n_logit_bias + g->n_eos + s->n_stop_token_ids;

    r->sample = (struct sample_params){
        .temperature = s->temperature,
        .top_k = s->top_k > 0 ? s->top_k : 0,
        .top_p = s->top_p,
        .min_p = s->min_p,
        .repetition = s->repetition_penalty,
        .presence = s->presence_penalty,
        .frequency = s->frequency_penalty,
        .seed = s->has_seed ? s->seed : default_seed,
    };
    r->n_biases = s->n_logit_bias;
    r->biases = malloc((size_t)(s->n_logit_bias + 1) * sizeof *r->biases);
    r->biases_early = malloc((size_t)(n_early + 1) * sizeof *r->biases_early);
    if (!r->biases || !r->biases_early) return STATUS_NO_MEMORY;
    if (s->n_logit_bias) {
        memcpy(r->biases, s->logit_bias, (size_t)s->n_logit_bias * sizeof *r->biases);
        memcpy(r->biases_early, s->logit_bias, (size_t)s->n_logit_bias * sizeof *r->biases);
    }
    r->n_biases_early = s->n_logit_bias;
    if (!s->ignore_eos)
        for (int i = 0; i < g->n_eos; i++) forbid(r->biases_early, &r->n_biases_early, g->eos[i]);
    for (int i = 0; i < s->n_stop_token_ids; i++) forbid(r->biases_early, &r->n_biases_early, s->stop_token_ids[i]);

    if (s->allowed_token_ids) {
        r->allowed = malloc((size_t)s->n_allowed_token_ids * sizeof *r->allowed);
        if (!r->allowed) return STATUS_NO_MEMORY;
        memcpy(r->allowed, s->allowed_token_ids, (size_t)s->n_allowed_token_ids * sizeof *r->allowed);
        r->sample.allowed = r->allowed;
        r->sample.n_allowed = s->n_allowed_token_ids;
    }
    if (penalised(s)) {
        uint32_t size = 16;
        while (size < 2u * (uint32_t)r->seq->max_len) size *= 2;
        r->count_mask = size - 1;
        r->counts = malloc((size_t)r->seq->max_len * sizeof *r->counts);
        r->count_index = malloc(size * sizeof *r->count_index);
        if (!r->counts || !r->count_index) return STATUS_NO_MEMORY;
        memset(r->count_index, 0xff, size * sizeof *r->count_index);
    }
    return 0;
}

int request_open(struct request **out, uint64_t id, const struct request_params *p, const struct engine_info *info,
                 const struct tokenizer *tokenizer, const struct speculative_config *speculation,
                 uint64_t default_seed) {
    const struct sampling_params *s = &p->sampling;
    struct request *r = calloc(1, sizeof *r);
    if (!r) return STATUS_NO_MEMORY;
    const struct sequence_params sequence = {
        .prompt = p->prompt,
        .n_prompt = p->n_prompt,
        .max_tokens = s->max_tokens,
        .min_tokens = s->min_tokens,
        .ignore_eos = s->ignore_eos,
        .prompt_only = s->prompt_only,
        .prompt_logits = p->logits || s->prompt_logprobs >= 0,
        .eos_ids = info->generation.eos,
        .n_eos_ids = info->generation.n_eos,
        .stop_token_ids = s->stop_token_ids,
        .n_stop_token_ids = s->n_stop_token_ids,
        .priority = p->priority,
        .salt = p->salt,
        .user = r,
        .max_model_len = info->max_model_len,
        .P = info->block_size,
        .draft_P = speculation->draft_P,
    };
    int status = sequence_open(&r->seq, &sequence);
    if (status) goto fail;
    r->id = id;
    r->news = (struct letter){.request = r};
    r->farewell = (struct letter){.request = r, .farewell = true};
    r->user = p->user;
    r->logits = p->logits;
    r->embedding = p->embedding;
    r->drafts_at = -1;
    r->n_logprobs = s->logprobs;
    r->n_prompt_logprobs = s->prompt_logprobs;
    r->include_stop = s->include_stop_str_in_output;
    r->n_seen = p->n_prompt;
    atomic_store(&r->n_ready, p->n_prompt);
    status = open_sampler(r, p, info, default_seed);
    if (status) goto fail;

    status = STATUS_NO_MEMORY;
    const size_t n_output = (size_t)(r->seq->max_len - p->n_prompt);
    if (s->logprobs >= 0 && n_output) {
        r->logprobs = malloc(n_output * (1 + (size_t)s->logprobs) * sizeof *r->logprobs);
        if (!r->logprobs) goto fail;
    }
    if (s->prompt_logprobs >= 0) {
        r->prompt_logprobs = malloc((size_t)p->n_prompt * (1 + (size_t)s->prompt_logprobs) * sizeof *r->logprobs);
        if (!r->prompt_logprobs) goto fail;
    }
    if (speculation->lookup_max &&
        ngram_open(&r->ngram, speculation->lookup_min, speculation->lookup_max, r->seq->max_len))
        goto fail;
    r->text = text_stream_open(tokenizer, &(struct text_stream_options){
                                              .skip_special = s->skip_special_tokens,
                                              .stop = s->stop,
                                              .n_stop = s->n_stop,
                                              .include_stop = s->include_stop_str_in_output,
                                          });
    if (!r->text) goto fail;
    *out = r;
    return 0;
fail:
    request_close(r);
    return status;
}

void request_close(struct request *r) {
    if (!r) return;
    sequence_close(r->seq);
    ngram_close(r->ngram);
    text_stream_close(r->text);
    free(r->biases);
    free(r->biases_early);
    free(r->allowed);
    free(r->counts);
    free(r->count_index);
    free(r->logprobs);
    free(r->prompt_logprobs);
    free(r);
}

/* The entry of one token, made if there is none. */
static struct token_count *count_of(struct request *r, int32_t id) {
    uint32_t slot = ((uint32_t)id * 0x9e3779b1u) & r->count_mask;
    while (r->count_index[slot] >= 0) {
        struct token_count *c = &r->counts[r->count_index[slot]];
        if (c->id == id) return c;
        slot = (slot + 1) & r->count_mask;
    }
    r->count_index[slot] = r->n_counts;
    r->counts[r->n_counts] = (struct token_count){.id = id};
    return &r->counts[r->n_counts++];
}

struct sample_params request_sample_params(struct request *r, int position) {
    const struct sequence *q = r->seq;
    struct sample_params p = r->sample;
    const bool early = position - q->n_prompt < q->min_tokens;
    p.biases = early ? r->biases_early : r->biases;
    p.n_biases = early ? r->n_biases_early : r->n_biases;
    if (r->counts) {
        for (; r->n_counted < q->n_tokens; r->n_counted++) {
            struct token_count *c = count_of(r, q->tokens[r->n_counted]);
            if (r->n_counted < q->n_prompt)
                c->in_prompt = 1;
            else
                c->n_output++;
        }
        p.counts = r->counts;
        p.n_counts = r->n_counts;
    }
    p.position = position;
    return p;
}
