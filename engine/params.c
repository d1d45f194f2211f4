/* params.c - defaults and bounds of request parameters, in vLLM's terms. */
#include "engine/params.h"

#include <math.h>
#include <stdlib.h>

struct engine_options engine_default_options(void) {
    return (struct engine_options){
        .max_num_seqs = 256,
        .max_num_batched_tokens = 2048,
        .block_size = 16,
        .gpu_memory_utilization = 0.92,
        .enable_prefix_caching = true,
        .enable_chunked_prefill = true,
        .policy = POLICY_FCFS,
        .max_logprobs = 20,
    };
}

struct sampling_params sampling_default(void) {
    return (struct sampling_params){
        .temperature = 1,
        .top_p = 1,
        .repetition_penalty = 1,
        .skip_special_tokens = true,
        .logprobs = -1,
        .prompt_logprobs = -1,
    };
}

struct sampling_params sampling_from_generation_config(const struct generation_config *config) {
    struct sampling_params s = sampling_default();
    s.temperature = config->temperature;
    s.top_p = config->top_p;
    s.top_k = config->top_k;
    s.min_p = config->min_p;
    s.repetition_penalty = config->repetition_penalty;
    return s;
}

enum { MAX_STOP_STRINGS = 16, MAX_STOP_BYTES = 1024, MAX_STOP_TOKENS = 128, MAX_BIASES = 1024 };

struct bound { /* one float parameter's range */
    const char *name;
    double value, low, high;
    bool low_open;
};

static int check_floats(const struct sampling_params *s, char *err, size_t err_bytes) {
    const struct bound bounds[] = {
        {"temperature", s->temperature, 0, 100, false},
        {"top_p", s->top_p, 0, 1, true},
        {"min_p", s->min_p, 0, 1, false},
        {"presence_penalty", s->presence_penalty, -2, 2, false},
        {"frequency_penalty", s->frequency_penalty, -2, 2, false},
        {"repetition_penalty", s->repetition_penalty, 0, 100, true},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) {
        const struct bound *b = &bounds[i];
        bool inside = b->value <= b->high && (b->low_open ? b->value > b->low : b->value >= b->low);
        if (!inside) /* NaN lands here too */
            return fail(err, err_bytes, STATUS_INVALID, "%s must be in %c%g, %g], but is %g", b->name,
                        b->low_open ? '(' : '[', b->low, b->high, b->value);
    }
    return 0;
}

static int check_ids(const char *name, const int32_t *ids, int n, int vocab, char *err, size_t err_bytes) {
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return fail(err, err_bytes, STATUS_INVALID, "%s[%d] is token %d, but the vocabulary has ids 0 to %d", name,
                        i, ids[i], vocab - 1);
    return 0;
}

static int compare_ids(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int check_biases(const struct sampling_params *s, int vocab, char *err, size_t err_bytes) {
    if (s->n_logit_bias > MAX_BIASES)
        return fail(err, err_bytes, STATUS_INVALID, "logit_bias may have at most %d entries, but has %d", MAX_BIASES,
                    s->n_logit_bias);
    int32_t ids[MAX_BIASES];
    for (int i = 0; i < s->n_logit_bias; i++) {
        ids[i] = s->logit_bias[i].id;
        if (isnan(s->logit_bias[i].bias))
            return fail(err, err_bytes, STATUS_INVALID, "logit_bias of token %d is not a number", ids[i]);
    }
    int status = check_ids("logit_bias", ids, s->n_logit_bias, vocab, err, err_bytes);
    if (status) return status;
    qsort(ids, s->n_logit_bias, sizeof *ids, compare_ids);
    for (int i = 1; i < s->n_logit_bias; i++)
        if (ids[i] == ids[i - 1])
            return fail(err, err_bytes, STATUS_INVALID, "logit_bias names token %d twice", ids[i]);
    return 0;
}

static int check_stops(const struct sampling_params *s, int vocab, char *err, size_t err_bytes) {
    if (s->n_stop > MAX_STOP_STRINGS)
        return fail(err, err_bytes, STATUS_INVALID, "stop may have at most %d strings, but has %d", MAX_STOP_STRINGS,
                    s->n_stop);
    for (int i = 0; i < s->n_stop; i++) {
        size_t n = 0;
        while (n <= MAX_STOP_BYTES && s->stop[i][n]) n++;
        if (n == 0 || n > MAX_STOP_BYTES)
            return fail(err, err_bytes, STATUS_INVALID, "stop[%d] must have 1 to %d bytes, but is %s", i,
                        MAX_STOP_BYTES, n ? "longer" : "empty");
    }
    if (s->n_stop_token_ids > MAX_STOP_TOKENS)
        return fail(err, err_bytes, STATUS_INVALID, "stop_token_ids may have at most %d ids, but has %d",
                    MAX_STOP_TOKENS, s->n_stop_token_ids);
    return check_ids("stop_token_ids", s->stop_token_ids, s->n_stop_token_ids, vocab, err, err_bytes);
}

static int check_logprobs(const char *name, int k, const struct engine_info *info, char *err, size_t err_bytes) {
    int high = info->max_logprobs < info->model.vocab ? info->max_logprobs : info->model.vocab;
    if (k >= -1 && k <= high) return 0;
    return fail(err, err_bytes, STATUS_INVALID, "%s must be from 0 to %d (--max-logprobs), but is %d", name, high, k);
}

int request_params_check(const struct request_params *p, const struct engine_info *info, char *err, size_t err_bytes) {
    const struct sampling_params *s = &p->sampling;
    const int vocab = info->model.vocab;
    const int longest = s->prompt_only ? info->max_model_len : info->max_model_len - 1;
    int status;

    if (info->is_encoder != (p->embedding != NULL) || (info->is_encoder && !s->prompt_only))
        return fail(err, err_bytes, STATUS_INVALID,
                    info->is_encoder ? "this model turns texts into vectors; it does not generate text"
                                     : "this model generates text; it does not turn texts into vectors");
    if (p->n_prompt < 1) return fail(err, err_bytes, STATUS_INVALID, "the prompt must have at least one token");
    if (p->n_prompt > longest)
        return fail(err, err_bytes, STATUS_INVALID,
                    "the prompt has %d tokens, but this model's maximum context length is %d tokens, one of which is "
                    "for the answer; please shorten the prompt",
                    p->n_prompt, info->max_model_len);
    if ((status = check_ids("prompt", p->prompt, p->n_prompt, vocab, err, err_bytes))) return status;
    if ((status = check_floats(s, err, err_bytes))) return status;
    if (s->top_k < -1) return fail(err, err_bytes, STATUS_INVALID, "top_k must be -1, 0 or more, but is %d", s->top_k);
    if (s->max_tokens < 0)
        return fail(err, err_bytes, STATUS_INVALID, "max_tokens must be at least 1, but is %d", s->max_tokens);
    if (s->max_tokens > info->max_model_len - p->n_prompt)
        return fail(err, err_bytes, STATUS_INVALID,
                    "the prompt has %d tokens and max_tokens is %d, but this model's maximum context length is %d "
                    "tokens; please reduce one of them",
                    p->n_prompt, s->max_tokens, info->max_model_len);
    int most = s->max_tokens ? s->max_tokens : info->max_model_len - p->n_prompt;
    if (s->min_tokens < 0 || s->min_tokens > most)
        return fail(err, err_bytes, STATUS_INVALID, "min_tokens must be from 0 to max_tokens (%d), but is %d", most,
                    s->min_tokens);
    if ((status = check_stops(s, vocab, err, err_bytes))) return status;
    if ((status = check_biases(s, vocab, err, err_bytes))) return status;
    if (s->allowed_token_ids && s->n_allowed_token_ids < 1)
        return fail(err, err_bytes, STATUS_INVALID, "allowed_token_ids must not be empty");
    status = check_ids("allowed_token_ids", s->allowed_token_ids, s->n_allowed_token_ids, vocab, err, err_bytes);
    if (status) return status;
    if ((status = check_logprobs("logprobs", s->logprobs, info, err, err_bytes))) return status;
    return check_logprobs("prompt_logprobs", s->prompt_logprobs, info, err, err_bytes);
}
