/* generation.c - a call's choices: submitted to the engine, fed by its events, ended or cancelled.
 *
 * Whole answers gather in the choices' buffers until the last one has finished. Streams are written as the events come,
 * at least --stream-interval tokens at a time; the status line goes out once the engine has all choices, so that a
 * client knows that it waits in a queue, while whatever is refused is an ordinary error answer.
 *
 * A text's vector is a choice without text, which the engine writes to the call's `vectors`. */
#include "server/server_internal.h"

#include "kernels/status.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_HEADERS "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
#define RETRY_HEADERS  "Retry-After: 1\r\n"

/* ---- submitting -------------------------------------------------------------------------------------------------- */

static void choice_init(struct call *c, int index) {
    const struct server_model *m = c->model;
    struct choice *choice = &c->choices[index];
    bool may_think = chat_template_thinks(m->info->chat_template) && c->request.chat.enable_thinking != 0 &&
                     !c->request.chat.continue_final_message;
    bool splits = c->kind == API_CHAT && m->options->split_reasoning && (may_think || c->opens_thinking);
    *choice = (struct choice){
        .call = c,
        .index = index,
        .prompt_id = index / c->request.n,
        .stop_string = -1,
        .stop_token = -1,
        .thinking = c->opens_thinking,
    };
    reasoning_begin(&choice->split, splits, c->opens_thinking);
}

void choice_deinit(struct choice *choice) {
    out_deinit(&choice->text);
    out_deinit(&choice->reasoning);
    out_deinit(&choice->token_ids);
    out_deinit(&choice->chat_logprobs);
    out_deinit(&choice->prompt_logprobs);
    completion_logprobs_deinit(&choice->logprobs);
    tool_calls_deinit(&choice->tools);
}

static int http_status_of(int status) {
    switch (status) {
    case STATUS_INVALID:
    case STATUS_TOO_LARGE:
    case STATUS_UNSUPPORTED:
        return 400;
    case STATUS_BUSY:
        return 429;
    case STATUS_CLOSED:
        return 503;
    default:
        return 500;
    }
}

/* The engine's sentences begin with the parameter's name: "top_p must be ...", "stop[0] must ...". */
static const char *param_of(const char *message, char name[API_PARAM_BYTES]) {
    size_t n = 0;
    while (n < API_PARAM_BYTES - 1 && (islower((unsigned char)message[n]) || message[n] == '_')) n++;
    memcpy(name, message, n);
    name[n] = 0;
    return strcmp(name, "the") ? name : "";
}

static int submit(struct choice *choice, char *err, size_t err_bytes) {
    struct call *c = choice->call;
    const struct ids *prompt = &c->prompts[choice->prompt_id];
    const size_t C = (size_t)c->model->info->encoder.hidden;
    struct request_params params = {
        .prompt = prompt->data,
        .n_prompt = (int)prompt->n,
        .sampling = c->request.sampling,
        .priority = c->request.priority,
        .salt = auth_salt(c->server->auth, c->tenant, c->request.cache_salt),
        .user = choice,
        .embedding = c->vectors ? c->vectors + (size_t)choice->index * C : NULL,
        .admitted = c->vectors && choice->index, /* a batch of texts may be longer than the queue */
    };
    params.sampling.seed += (uint64_t)(choice->index % c->request.n); /* n answers to one question differ */
    int status = engine_submit(c->model->engine, &params, &choice->engine_id, err, err_bytes);
    if (status) return status;
    choice->open = true;
    c->n_open++;
    call_ref(c);
    return 0;
}

/* {"id":..,"object":..,"created":..,"model":..,"system_fingerprint":..,"choices":[ */
static void out_head(const struct call *c, const char *object, struct out *out) {
    char id[CALL_ID_BYTES + 16];
    const char *own = !c->id_is_clients && c->request.request_id ? c->request.request_id : c->id;
    snprintf(id, sizeof id, "%s%s", c->api->id_prefix, own);
    out_text(out, "{\"id\":");
    json_out_cstring(out, id);
    out_format(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object, (long long)c->created);
    json_out_cstring(out, c->model_name);
    out_text(out, ",\"system_fingerprint\":\"tandem-" TANDEM_VERSION "\",\"choices\":[");
}

static void stream_begin(struct call *c) {
    char buffer[512];
    c->streaming = true;
    http_stream_begin(c->x, 200, "text/event-stream; charset=utf-8",
                      call_headers(c, STREAM_HEADERS, buffer, sizeof buffer));
}

static void observe(const struct call *c, enum metric_histogram h, double value) {
    metrics_observe(c->server->metrics, c->model->index, h, value);
}

void generation_start(struct call *c) {
    struct server *s = c->server;
    char err[API_MESSAGE_BYTES] = "", name[API_PARAM_BYTES];
    int status = 0;

    if (s->ending) {
        call_fail(c, 503, NULL, "The server is shutting down.");
        return;
    }
    c->n_choices = c->n_prompts * c->request.n;
    c->choices = calloc((size_t)c->n_choices, sizeof *c->choices);
    CHECK(c->choices);
    if (c->kind == API_EMBEDDING) {
        c->vectors = malloc((size_t)c->n_choices * (size_t)c->model->info->encoder.hidden * sizeof *c->vectors);
        CHECK(c->vectors);
    }
    for (int i = 0; i < c->n_choices; i++) choice_init(c, i);
    for (int i = 0; i < c->n_choices && !status; i++) status = submit(&c->choices[i], err, sizeof err);
    if (!c->vectors) observe(c, METRIC_N, c->request.n);
    if (c->request.sampling.max_tokens) observe(c, METRIC_MAX_TOKENS, c->request.sampling.max_tokens);
    if (!status && c->request.stream) stream_begin(c);
    if (!status) return;
    generation_cancel(c);
    int http = http_status_of(status);
    call_fail_headers(c, http, http == 429 ? RETRY_HEADERS : NULL, http == 400 ? param_of(err, name) : NULL, err);
}

void generation_cancel(struct call *c) {
    for (int i = 0; i < c->n_choices; i++)
        if (c->choices[i].open) engine_cancel(c->model->engine, c->choices[i].engine_id);
}

/* ---- the pieces that all answers share --------------------------------------------------------------------------- */

struct token_style call_token_style(const struct call *c) {
    return (struct token_style){c->model->tokenizer, c->request.return_tokens_as_token_ids};
}

/* What one choice has used so far, or, with NULL, all together: a prompt that several choices share counts once. */
static void out_usage(const struct call *c, const struct choice *only, struct out *out) {
    struct response_usage u = {0};
    out_text(out, ",\"usage\":");
    for (int i = 0; i < c->n_choices; i++) {
        const struct choice *choice = &c->choices[i];
        if (only && choice != only) continue;
        u.n_output += choice->usage.n_output;
        u.n_reasoning += choice->n_reasoning;
        u.n_drafted += choice->usage.n_drafted;
        u.n_accepted += choice->usage.n_accepted;
        if (!only && i % c->request.n) continue;
        u.n_prompt += (int)c->prompts[choice->prompt_id].n;
        u.n_cached += choice->usage.n_cached;
    }
    response_usage(out, &u);
}

void chunk_begin(struct call *c, struct out *out) {
    if (!c->chunk_head.bytes) {
        out_text(&c->chunk_head, "data: ");
        out_head(c, c->api->chunk_object, &c->chunk_head);
    }
    out_bytes(out, c->chunk_head.data, c->chunk_head.bytes);
}

void chunk_end(const struct call *c, const struct choice *choice, struct out *out) {
    if (c->request.continuous_usage)
        out_usage(c, choice, out);
    else if (c->request.include_usage)
        out_text(out, ",\"usage\":null");
    out_text(out, "}\n\n");
}

void choice_out_stop_reason(const struct choice *choice, struct out *out) {
    out_text(out, ",\"stop_reason\":");
    if (choice->reason == FINISH_STOP && choice->stop_string >= 0)
        json_out_cstring(out, choice->call->request.sampling.stop[choice->stop_string]);
    else if (choice->reason == FINISH_STOP && choice->stop_token >= 0)
        json_out_int(out, choice->stop_token);
    else
        out_text(out, "null");
}

void choice_out_token_ids(struct choice *choice, struct out *out) {
    if (!choice->call->request.return_token_ids) return;
    out_text(out, ",\"token_ids\":[");
    out_bytes(out, choice->token_ids.data, choice->token_ids.bytes);
    out_char(out, ']');
    out_clear(&choice->token_ids);
}

void choice_take_tokens(struct choice *choice, const struct engine_event *event) {
    const struct call *c = choice->call;
    if (c->request.return_token_ids)
        for (int i = 0; i < event->n_tokens; i++)
            out_format(&choice->token_ids, "%s%d", choice->token_ids.bytes ? "," : "", event->tokens[i]);
    if (c->request.show_prompt_logprobs && event->prompt_logprobs)
        response_prompt_logprobs(&choice->prompt_logprobs, call_token_style(c), event->prompt_logprobs,
                                 (int)c->prompts[choice->prompt_id].n);
}

/* ---- answering --------------------------------------------------------------------------------------------------- */

static void answer_whole(struct call *c) {
    struct out out = {0};
    if (c->api->answer) {
        c->api->answer(c);
        return;
    }
    out_head(c, c->api->object, &out);
    for (int i = 0; i < c->n_choices; i++) {
        if (i) out_char(&out, ',');
        c->api->write_choice(&c->choices[i], &out);
    }
    out_char(&out, ']');
    out_usage(c, NULL, &out);
    c->api->write_extras(c, &out);
    out_char(&out, '}');
    call_respond_json(c, &out);
}

/* The client may be gone after it. */
static void stream_write(struct call *c, const struct out *out, bool ends) {
    if (!http_stream_write(c->x, out->data, out->bytes) || !ends) return;
    http_stream_end(c->x);
    c->x = NULL;
}

static void answer_part(struct choice *choice) {
    struct call *c = choice->call;
    struct out *out = &c->server->scratch;
    bool ends = c->n_open == 0;
    if (!choice->finished && choice->began && choice->n_unsent < c->server->options->stream_interval) return;
    out_clear(out);
    c->api->write_chunks(choice, out);
    choice->n_unsent = 0;
    if (ends && c->request.include_usage) {
        chunk_begin(c, out);
        out_char(out, ']');
        out_usage(c, NULL, out);
        out_text(out, "}\n\n");
    }
    if (ends) out_text(out, "data: [DONE]\n\n");
    if (out->bytes) stream_write(c, out, ends);
}

void generation_fail(struct call *c, int status, const char *message) {
    generation_cancel(c);
    if (!c->x || !c->streaming) {
        call_fail(c, status, NULL, message);
        return;
    }
    struct out out = {0};
    api_error_set(&c->error, status, NULL, "%s", message);
    out_text(&out, "data: ");
    response_error(&out, status, NULL, c->error.message);
    out_text(&out, "\n\ndata: [DONE]\n\n");
    stream_write(c, &out, true);
    out_deinit(&out);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void observe_end(struct choice *choice, enum finish_reason reason) {
    const struct call *c = choice->call;
    const struct request_usage *u = &choice->usage;
    metrics_finished(c->server->metrics, c->model->index, reason);
    if (reason != FINISH_STOP && reason != FINISH_LENGTH) return;
    observe(c, METRIC_E2E, call_seconds(c));
    observe(c, METRIC_QUEUE, u->t_start - u->t_submit);
    observe(c, METRIC_INFERENCE, u->t_finish - u->t_start);
    observe(c, METRIC_PROMPT, u->n_prompt);
    if (c->vectors) return; /* there are no tokens of an answer */
    observe(c, METRIC_GENERATION, u->n_output);
    if (u->t_first <= 0) return;
    observe(c, METRIC_PREFILL, u->t_first - u->t_start);
    observe(c, METRIC_DECODE, u->t_finish - u->t_first);
    if (u->n_output > 1) observe(c, METRIC_TPOT, (u->t_finish - u->t_first) / (u->n_output - 1));
}

/* Tokens that came together count with equal gaps: the loop may take several steps' tokens at once. */
static void observe_tokens(struct choice *choice, int n) {
    struct call *c = choice->call;
    double now = call_seconds(c);
    if (choice->t_last <= 0) {
        choice->t_last = choice->usage.t_first - (double)c->started_ns * 1e-9; /* both CLOCK_MONOTONIC */
        if (c->t_first <= 0) c->t_first = choice->t_last;
        observe(c, METRIC_TTFT, choice->t_last);
        n--;
    }
    for (int i = 0; i < n; i++) observe(c, METRIC_ITL, (now - choice->t_last) / n);
    if (n) choice->t_last = now;
}

static void observe_event(struct choice *choice, const struct engine_event *event) {
    choice->usage = event->usage;
    choice->n_unsent += event->n_tokens;
    if (event->n_tokens) observe_tokens(choice, event->n_tokens);
    if (event->kind == EVENT_FINISHED) observe_end(choice, event->reason);
}

void generation_event(const struct engine_event *event) {
    struct choice *choice = event->user;
    struct call *c = choice->call;

    call_ref(c);
    observe_event(choice, event);
    if (event->kind == EVENT_FINISHED) {
        choice->finished = true;
        choice->open = false;
        choice->reason = event->reason;
        choice->stop_string = event->stop_string;
        choice->stop_token = event->stop_token;
        c->n_open--;
        call_unref(c);
    }
    if (c->x) {
        if (event->kind == EVENT_FINISHED && event->reason == FINISH_ERROR)
            generation_fail(c, 500, event->error);
        else if (event->kind == EVENT_FINISHED && event->reason == FINISH_CANCELLED)
            generation_fail(c, 503, "The server ended this request.");
        else {
            c->api->take(choice, event);
            choice->taken = true;
            if (c->request.stream)
                answer_part(choice);
            else if (c->n_open == 0)
                answer_whole(c);
        }
    }
    call_unref(c);
}
