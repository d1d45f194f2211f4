/* api_completions.c - /v1/completions: what an answer and its chunks look like. */
#include "server/server_internal.h"

#include <stdlib.h>

/* The prompt before the text; with logprobs its tokens come before the answer's. */
static void take_echo(struct choice *choice, const struct engine_event *event) {
    const struct call *c = choice->call;
    const struct api_prompt *prompt = &c->request.prompts[choice->prompt_id];
    const struct ids *ids = &c->prompts[choice->prompt_id];
    if (!c->request.echo) return;
    if (prompt->text && !c->request.truncate_prompt_tokens)
        out_bytes(&choice->text, prompt->text, prompt->text_bytes);
    else {
        size_t bytes;
        char *text =
            tokenizer_decode(c->model->tokenizer, ids->data, ids->n, c->request.sampling.skip_special_tokens, &bytes);
        out_bytes(&choice->text, text, bytes);
        free(text);
    }
    if (c->request.sampling.logprobs < 0) return;
    for (size_t i = 0; i < ids->n; i++)
        response_completion_logprob(&choice->logprobs, call_token_style(c), ids->data[i],
                                    i && event->prompt_logprobs ? &event->prompt_logprobs[i - 1] : NULL);
}

static void take(struct choice *choice, const struct engine_event *event) {
    struct call *c = choice->call;
    if (!choice->taken) take_echo(choice, event);
    choice_take_tokens(choice, event);
    for (int i = 0; event->logprobs && i < event->n_tokens; i++)
        response_completion_logprob(&choice->logprobs, call_token_style(c), event->tokens[i], &event->logprobs[i]);
    out_bytes(&choice->text, event->text, event->text_bytes);
}

/* The choice with what has gathered: the whole of it, or a chunk. */
static void write_choice(struct choice *choice, struct out *out) {
    const struct call *c = choice->call;
    out_text(out, "{\"index\":");
    json_out_int(out, choice->index);
    out_text(out, ",\"text\":");
    json_out_string(out, choice->text.bytes ? choice->text.data : "", choice->text.bytes);
    out_clear(&choice->text);
    out_text(out, ",\"logprobs\":");
    if (c->request.sampling.logprobs >= 0)
        response_completion_logprobs(out, &choice->logprobs);
    else
        out_text(out, "null");
    out_text(out, ",\"finish_reason\":");
    json_out_cstring(out, choice->finished ? response_finish_reason(choice->reason) : NULL);
    choice_out_stop_reason(choice, out);
    if (choice->prompt_logprobs.bytes) {
        out_text(out, ",\"prompt_logprobs\":");
        out_bytes(out, choice->prompt_logprobs.data, choice->prompt_logprobs.bytes);
    }
    if (c->request.return_token_ids && !choice->began) {
        const struct ids *ids = &c->prompts[choice->prompt_id];
        out_text(out, ",\"prompt_token_ids\":");
        response_ids(out, ids->data, ids->n);
    }
    choice_out_token_ids(choice, out);
    out_char(out, '}');
}

static void write_extras(struct call *c, struct out *out) {
    (void)c;
    (void)out;
}

static void write_chunks(struct choice *choice, struct out *out) {
    if (!choice->text.bytes && !choice->logprobs.any && !choice->token_ids.bytes && !choice->finished) return;
    chunk_begin(choice->call, out);
    write_choice(choice, out);
    out_char(out, ']');
    chunk_end(choice->call, choice, out);
    choice->began = true;
}

const struct api api_completions = {
    .id_prefix = "cmpl-",
    .object = "text_completion",
    .chunk_object = "text_completion",
    .take = take,
    .write_choice = write_choice,
    .write_extras = write_extras,
    .write_chunks = write_chunks,
};
