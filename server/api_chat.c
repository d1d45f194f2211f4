/* api_chat.c - /v1/chat/completions: what an answer and its chunks look like.
 *
 * Text goes through the reasoning splitter, then, where the request has tools and the server looks for calls, through
 * the tool call parser. Both hold back what may still become a tag, so a chunk never shows half of one. */
#include "server/server_internal.h"

#include "weights/json.h"

#include <string.h>

/* ---- taking in --------------------------------------------------------------------------------------------------- */

static bool looks_for_calls(const struct call *c) {
    return c->request.tools && c->model->options->parse_tool_calls;
}

/* echo: the message that the answer continues stands before it. */
static void take_echo(struct choice *choice) {
    const struct call *c = choice->call;
    const cJSON *last = c->request.messages->child->prev; /* cJSON: the first one's prev is the last */
    const cJSON *role = json_find(last, "role"), *content = json_find(last, "content");
    if (c->request.echo && cJSON_IsString(role) && !strcmp(role->valuestring, "assistant") && cJSON_IsString(content))
        out_text(&choice->text, content->valuestring);
}

static void count_reasoning(struct choice *choice, const struct engine_event *event) {
    const struct server_model *m = choice->call->model;
    for (int i = 0; i < event->n_tokens; i++) {
        if (choice->split.state == REASONING_START && event->tokens[i] == m->think_open) choice->thinking = true;
        choice->n_reasoning += choice->thinking;
        if (event->tokens[i] == m->think_close) choice->thinking = false;
    }
}

static void take(struct choice *choice, const struct engine_event *event) {
    struct call *c = choice->call;
    struct out content = {0}, *text = looks_for_calls(c) ? &content : &choice->text;

    if (!choice->taken) take_echo(choice);
    choice_take_tokens(choice, event);
    count_reasoning(choice, event);
    for (int i = 0; event->logprobs && i < event->n_tokens; i++) {
        if (choice->chat_logprobs.bytes) out_char(&choice->chat_logprobs, ',');
        response_chat_logprob(&choice->chat_logprobs, call_token_style(c), &event->logprobs[i]);
    }
    reasoning_push(&choice->split, event->text, event->text_bytes, &choice->reasoning, text);
    if (choice->finished) reasoning_finish(&choice->split, &choice->reasoning, text);
    if (!c->request.include_reasoning) out_clear(&choice->reasoning);
    if (!looks_for_calls(c)) return;
    tool_calls_push(&choice->tools, content.data, content.bytes, &choice->text);
    if (choice->finished) tool_calls_finish(&choice->tools, &choice->text);
    out_deinit(&content);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static int n_calls(const struct choice *choice) {
    int n = choice->tools.n_calls;
    return n > 1 && !choice->call->request.parallel_tool_calls ? 1 : n;
}

static const char *finish_reason(const struct choice *choice) {
    return n_calls(choice) && choice->reason == FINISH_STOP ? "tool_calls" : response_finish_reason(choice->reason);
}

static void out_string(struct out *out, const struct out *text) {
    json_out_string(out, text->bytes ? text->data : "", text->bytes);
}

/* {"id","type","function":{..}}, with its index in a stream. */
static void out_call(const struct choice *choice, int i, bool with_index, struct out *out) {
    const struct tool_call *call = &choice->tools.calls[i];
    out_char(out, '{');
    if (with_index) out_format(out, "\"index\":%d,", i);
    out_format(out, "\"id\":\"call_%s_%d_%d\",\"type\":\"function\",\"function\":{\"name\":", choice->call->id,
               choice->index, i);
    json_out_cstring(out, call->name);
    out_text(out, ",\"arguments\":");
    json_out_cstring(out, call->arguments);
    out_text(out, "}}");
}

/* ,"logprobs":..,"finish_reason":..[,"token_ids":..] - what gathered, so that each token is told of once */
static void out_tail(struct choice *choice, const char *reason, struct out *out) {
    if (choice->call->request.sampling.logprobs >= 0 &&
        (choice->chat_logprobs.bytes || !choice->call->request.stream)) {
        out_text(out, ",\"logprobs\":{\"content\":[");
        out_bytes(out, choice->chat_logprobs.data, choice->chat_logprobs.bytes);
        out_text(out, "],\"refusal\":null}");
        out_clear(&choice->chat_logprobs);
    } else
        out_text(out, ",\"logprobs\":null");
    out_text(out, ",\"finish_reason\":");
    json_out_cstring(out, reason);
    choice_out_token_ids(choice, out);
}

static void write_choice(struct choice *choice, struct out *out) {
    out_format(out, "{\"index\":%d,\"message\":{\"role\":\"assistant\",\"content\":", choice->index);
    if (choice->text.bytes || (!n_calls(choice) && !choice->reasoning.bytes))
        out_string(out, &choice->text);
    else
        out_text(out, "null");
    out_text(out, ",\"refusal\":null");
    static const char *const names[] = {"reasoning", "reasoning_content"}; /* newer and older clients */
    for (int i = 0; i < 2; i++) {
        out_format(out, ",\"%s\":", names[i]);
        if (choice->reasoning.bytes)
            out_string(out, &choice->reasoning);
        else
            out_text(out, "null");
    }
    for (int i = 0; i < n_calls(choice); i++) {
        out_text(out, i ? "," : ",\"tool_calls\":[");
        out_call(choice, i, false, out);
    }
    out_text(out, n_calls(choice) ? "]}" : "}");
    out_tail(choice, finish_reason(choice), out);
    choice_out_stop_reason(choice, out);
    out_char(out, '}');
}

static void write_extras(struct call *c, struct out *out) {
    if (c->request.show_prompt_logprobs) {
        out_text(out, ",\"prompt_logprobs\":");
        out_text(out, c->choices[0].prompt_logprobs.bytes ? c->choices[0].prompt_logprobs.data : "null");
    }
    if (c->request.return_token_ids) {
        out_text(out, ",\"prompt_token_ids\":");
        response_ids(out, c->prompts[0].data, c->prompts[0].n);
    }
}

static void begin_delta(const struct choice *choice, struct out *out) {
    chunk_begin(choice->call, out);
    out_text(out, "{\"index\":");
    json_out_int(out, choice->index);
    out_text(out, ",\"delta\":{");
}

static void end_delta(struct choice *choice, struct out *out) {
    out_char(out, '}');
    out_tail(choice, NULL, out);
    out_text(out, "}]");
    chunk_end(choice->call, choice, out);
}

static void write_first(struct choice *choice, struct out *out) {
    begin_delta(choice, out);
    out_text(out, "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]");
    if (choice->call->request.return_token_ids) {
        out_text(out, ",\"prompt_token_ids\":");
        response_ids(out, choice->call->prompts[0].data, choice->call->prompts[0].n);
    }
    chunk_end(choice->call, choice, out);
}

static void write_last(struct choice *choice, struct out *out) {
    begin_delta(choice, out);
    out_text(out, "},\"logprobs\":null,\"finish_reason\":");
    json_out_cstring(out, finish_reason(choice));
    choice_out_stop_reason(choice, out);
    out_text(out, "}]");
    chunk_end(choice->call, choice, out);
}

static void write_chunks(struct choice *choice, struct out *out) {
    if (!choice->began) write_first(choice, out);
    choice->began = true;
    if (choice->reasoning.bytes) {
        begin_delta(choice, out);
        out_text(out, "\"reasoning\":");
        out_string(out, &choice->reasoning);
        out_text(out, ",\"reasoning_content\":");
        out_string(out, &choice->reasoning);
        end_delta(choice, out);
        out_clear(&choice->reasoning);
    }
    if (choice->text.bytes) {
        begin_delta(choice, out);
        out_text(out, "\"content\":");
        out_string(out, &choice->text);
        end_delta(choice, out);
        out_clear(&choice->text);
    }
    for (; choice->n_tools_sent < n_calls(choice); choice->n_tools_sent++) {
        begin_delta(choice, out);
        out_text(out, "\"tool_calls\":[");
        out_call(choice, choice->n_tools_sent, true, out);
        out_char(out, ']');
        end_delta(choice, out);
    }
    if (choice->chat_logprobs.bytes ||
        choice->token_ids.bytes) { /* tokens without text: the end, part of a character */
        begin_delta(choice, out);
        out_text(out, "\"content\":\"\"");
        end_delta(choice, out);
    }
    if (choice->finished) write_last(choice, out);
}

const struct api api_chat = {
    .id_prefix = "chatcmpl-",
    .object = "chat.completion",
    .chunk_object = "chat.completion.chunk",
    .take = take,
    .write_choice = write_choice,
    .write_extras = write_extras,
    .write_chunks = write_chunks,
};
