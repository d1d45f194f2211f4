/* api_prompt.c - from a body to token ids: parsing, the model's name, the chat template, the tokenizer, lengths.
 *
 * Runs on the loop or, for long bodies, on a worker: it reads the server's constants and writes the call's own fields.
 * Text of messages and what is to be embedded never becomes a special token; a completion's prompt is the caller's own
 * rendering, so there special tokens are recognised, as Hugging Face's tokenizer does. */
#include "server/server_internal.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

/* Of all inputs of one request for embeddings: as many as 2048 texts of 512 tokens. */
#define MAX_INPUT_TOKENS ((size_t)1 << 20)

static int check_kind(struct call *c, bool embeds) {
    return api_model_check(c->server, c->model, c->model_name, embeds, &c->error);
}

static int render_chat(struct call *c) {
    const struct server_model *m = c->model;
    struct chat_prompt prompt = {0};
    char err[API_MESSAGE_BYTES];
    if (check_kind(c, false)) return STATUS_INVALID;
    if (m->info->chat_template == CHAT_TEMPLATE_NONE)
        return api_error_set(
            &c->error, 400, "messages",
            "This checkpoint's chat template is not known to this server, so chat requests are refused. "
            "Start the server with --chat-template NAME, or use /v1/completions.");
    int status = chat_render(&prompt, m->info->chat_template, c->request.messages, c->request.tools, &c->request.chat,
                             err, sizeof err);
    if (status) return api_error_set(&c->error, 400, "messages", "%s", err);
    chat_encode(m->tokenizer, &prompt, &c->prompts[0]);
    c->opens_thinking = prompt.opens_thinking;
    chat_prompt_deinit(&prompt);
    return 0;
}

/* Of the ids after the first `from` the first `keep` stay, or the last. */
static void cut(struct ids *ids, size_t from, size_t keep, bool last) {
    if (ids->n - from <= keep) return;
    if (last) memmove(ids->data + from, ids->data + (ids->n - keep), keep * sizeof *ids->data);
    ids->n = from + keep;
}

/* Tokens that an input of embeddings is truncated to. */
static size_t input_bound(const struct call *c) {
    const int k = c->request.truncate_prompt_tokens;
    return k == 0 ? SIZE_MAX : k > 0 ? (size_t)k : (size_t)c->model->info->max_model_len;
}

/* With [CLS] and [SEP], or whatever the model has there; both stay when the text is truncated to `bound` tokens. */
static void encode_text(struct call *c, const struct api_prompt *p, size_t bound, struct ids *ids) {
    const struct api_request *r = &c->request;
    const struct tokenizer *t = c->model->tokenizer;
    struct ids suffix = {0};
    if (r->add_special_tokens && r->kind != API_COMPLETION) {
        tokenizer_prefix(t, ids);
        tokenizer_suffix(t, &suffix);
    }
    const size_t first = ids->n, n_special = first + suffix.n;
    tokenizer_encode(t, p->text, p->text_bytes, !c->model->info->is_encoder, ids);
    cut(ids, first, bound > n_special ? bound - n_special : 0, r->keep_last);
    for (size_t k = 0; k < suffix.n; k++) ids_push(ids, suffix.data[k]);
    ids_deinit(&suffix);
}

static void encode_prompt(struct call *c, int i) {
    const struct api_prompt *p = &c->request.prompts[i];
    const size_t bound = c->kind == API_EMBEDDING ? input_bound(c) : SIZE_MAX;
    if (p->text) {
        encode_text(c, p, bound, &c->prompts[i]);
        return;
    }
    for (size_t k = 0; k < p->n_ids; k++) ids_push(&c->prompts[i], p->ids[k]);
    cut(&c->prompts[i], 0, bound, c->request.keep_last);
}

/* Keeps the last tokens, as vLLM does. */
static void truncate_prompt(struct call *c, struct ids *ids) {
    const struct api_request *r = &c->request;
    size_t max = (size_t)c->model->info->max_model_len, answer = r->sampling.prompt_only ? 0 : 1;
    if (!r->truncate_prompt_tokens) return;
    if (r->sampling.max_tokens > 0) answer = (size_t)r->sampling.max_tokens;
    size_t keep = r->truncate_prompt_tokens > 0 ? (size_t)r->truncate_prompt_tokens : max > answer ? max - answer : 1;
    cut(ids, 0, keep, true);
}

static int check_length(struct call *c, const struct ids *ids, const char *param) {
    const struct sampling_params *s = &c->request.sampling;
    size_t max = (size_t)c->model->info->max_model_len, answer = s->prompt_only      ? 0
                                                                  : s->max_tokens > 0 ? (size_t)s->max_tokens
                                                                                      : 1;
    if (!ids->n) return api_error_set(&c->error, 400, param, "%s: expected at least one token, found none", param);
    if (ids->n + answer <= max) return 0;
    if (ids->n + (answer > 0) > max)
        return api_error_set(&c->error, 400, param,
                             "This model's maximum context length is %zu tokens, but there are %zu tokens in the %s, "
                             "and at least one is needed for the answer. Please shorten the %s.",
                             max, ids->n, param, param);
    return api_error_set(&c->error, 400, "max_tokens",
                         "This model's maximum context length is %zu tokens, but %zu were requested: %zu in the %s and "
                         "max_tokens = %zu. Please shorten either.",
                         max, ids->n + answer, ids->n, param, answer);
}

/* One input of embeddings; *total: the tokens of those up to it. */
static int check_input(struct call *c, int i, size_t *total) {
    const size_t n = c->prompts[i].n, max = (size_t)c->model->info->max_model_len, bound = input_bound(c);
    *total += n;
    if (!n) return api_error_set(&c->error, 400, "input", "input[%d]: expected at least one token, found none", i);
    if (bound != SIZE_MAX && bound > max)
        return api_error_set(&c->error, 400, "truncate_prompt_tokens",
                             "truncate_prompt_tokens: expected at most this model's maximum context length, %zu "
                             "tokens, found %zu",
                             max, bound);
    if (n > bound)
        return api_error_set(&c->error, 400, "truncate_prompt_tokens",
                             "truncate_prompt_tokens: expected at least %zu, the special tokens that every text gets, "
                             "found %zu",
                             n, bound);
    if (n > max)
        return api_error_set(&c->error, 400, "input",
                             "This model's maximum context length is %zu tokens, but there are %zu tokens in "
                             "input[%d]. Please shorten it, or truncate it with truncate_prompt_tokens = -1.",
                             max, n, i);
    if (*total > MAX_INPUT_TOKENS)
        return api_error_set(&c->error, 400, "input",
                             "input: expected at most %zu tokens in one request, found more: %zu in the first %d of %d "
                             "inputs. Please send fewer at a time.",
                             MAX_INPUT_TOKENS, *total, i + 1, c->n_prompts);
    return 0;
}

static int make_prompts(struct call *c) {
    const struct api_request *r = &c->request;
    size_t total = 0;
    bool generates = r->kind == API_CHAT || r->kind == API_COMPLETION;
    int n = r->messages ? 1 : r->n_prompts, status = 0;
    c->prompts = calloc((size_t)n, sizeof *c->prompts);
    CHECK(c->prompts);
    c->n_prompts = n;
    if (r->messages) {
        status = render_chat(c);
        if (status) return status;
    }
    for (int i = 0; i < n && !status; i++) {
        if (!r->messages) encode_prompt(c, i);
        if (r->kind == API_EMBEDDING) status = check_input(c, i, &total);
        if (!generates) continue;
        truncate_prompt(c, &c->prompts[i]);
        status = check_length(c, &c->prompts[i], r->messages ? "messages" : "prompt");
    }
    return status;
}

int api_prepare(struct call *c, const char *body, size_t bytes) {
    int status = api_request_open(&c->request, c->kind, body, bytes, &c->error);
    if (!status) status = api_model_find(c->server, c->request.model, &c->model, &c->model_name, &c->error);
    if (!status && c->kind != API_TOKENIZE && c->kind != API_DETOKENIZE)
        status = check_kind(c, c->kind == API_EMBEDDING);
    if (!status) status = api_request_read(&c->request, &c->model->defaults, &c->error);
    if (!status && c->kind != API_DETOKENIZE) status = make_prompts(c);
    if (status) return status;
    if (c->kind == API_TOKENIZE) api_tokenize_write(c, &c->prepared);
    if (c->kind == API_DETOKENIZE) api_detokenize_write(c, &c->prepared);
    return 0;
}
