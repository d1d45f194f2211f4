/* api_prompt.c - from a body to token ids: parsing, the model's name, the chat template, the tokenizer, lengths.
 *
 * Runs on the loop or, for long bodies, on a worker: it reads the server's constants and writes the call's own fields.
 * Text of messages never becomes a special token; a completion's prompt is the caller's own rendering, so there special
 * tokens are recognised, as Hugging Face's tokenizer does. */
#include "server/server_internal.h"

#include "kernels/status.h"
#include "weights/json.h"

#include <stdlib.h>
#include <string.h>

static int render_chat(struct call *c) {
    const struct server_model *m = c->model;
    struct chat_prompt prompt = {0};
    char err[API_MESSAGE_BYTES];
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

static void encode_prompt(struct call *c, int i) {
    const struct api_prompt *p = &c->request.prompts[i];
    if (p->text)
        tokenizer_encode(c->model->tokenizer, p->text, p->text_bytes, true, &c->prompts[i]);
    else
        for (size_t k = 0; k < p->n_ids; k++) ids_push(&c->prompts[i], p->ids[k]);
}

/* Keeps the last tokens, as vLLM does. */
static void truncate_prompt(struct call *c, struct ids *ids) {
    const struct api_request *r = &c->request;
    size_t max = (size_t)c->model->info->max_model_len, answer = r->sampling.prompt_only ? 0 : 1;
    if (!r->truncate_prompt_tokens) return;
    if (r->sampling.max_tokens > 0) answer = (size_t)r->sampling.max_tokens;
    size_t keep = r->truncate_prompt_tokens > 0 ? (size_t)r->truncate_prompt_tokens : max > answer ? max - answer : 1;
    if (ids->n <= keep) return;
    memmove(ids->data, ids->data + (ids->n - keep), keep * sizeof *ids->data);
    ids->n = keep;
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

static int make_prompts(struct call *c) {
    const struct api_request *r = &c->request;
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
        if (!generates) continue;
        truncate_prompt(c, &c->prompts[i]);
        status = check_length(c, &c->prompts[i], r->messages ? "messages" : "prompt");
    }
    return status;
}

int api_prepare(struct call *c, const char *body, size_t bytes) {
    int status = api_request_open(&c->request, c->kind, body, bytes, &c->error);
    if (!status) status = api_model_find(c->server, c->request.model, &c->model, &c->model_name, &c->error);
    if (!status) status = api_request_read(&c->request, &c->model->defaults, &c->error);
    if (!status && c->kind != API_DETOKENIZE) status = make_prompts(c);
    if (status) return status;
    if (c->kind == API_TOKENIZE) api_tokenize_write(c, &c->prepared);
    if (c->kind == API_DETOKENIZE) api_detokenize_write(c, &c->prepared);
    return 0;
}
