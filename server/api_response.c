/* api_response.c - the pieces that answers are made of; see api_response.h. */
#include "server/api_response.h"

#include <string.h>

#define MIN_LOGPROB -9999.0f

const char *response_error_type(int status) {
    static const struct {
        int status;
        const char *type;
    } types[] = {
        {400, "BadRequestError"},         {401, "AuthenticationError"},   {403, "PermissionDeniedError"},
        {404, "NotFoundError"},           {405, "MethodNotAllowedError"}, {408, "RequestTimeoutError"},
        {409, "ConflictError"},           {413, "RequestTooLargeError"},  {422, "UnprocessableEntityError"},
        {429, "RateLimitError"},          {431, "RequestTooLargeError"},  {501, "NotImplementedError"},
        {503, "ServiceUnavailableError"},
    };
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i].status == status) return types[i].type;
    return status < 500 ? "BadRequestError" : "InternalServerError";
}

void response_error(struct out *o, int status, const char *param, const char *message) {
    out_text(o, "{\"error\":{\"message\":");
    json_out_cstring(o, message);
    out_format(o, ",\"type\":\"%s\",\"param\":", response_error_type(status));
    json_out_cstring(o, param && *param ? param : NULL);
    out_format(o, ",\"code\":%d}}", status);
}

void response_usage(struct out *o, const struct response_usage *u) {
    out_format(
        o,
        "{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d,"
        "\"prompt_tokens_details\":{\"cached_tokens\":%d},\"completion_tokens_details\":{\"reasoning_tokens\":%d,"
        "\"accepted_prediction_tokens\":%d,\"rejected_prediction_tokens\":%d}}",
        u->n_prompt, u->n_prompt + u->n_output, u->n_output, u->n_cached, u->n_reasoning, u->n_accepted,
        u->n_drafted - u->n_accepted);
}

void response_ids(struct out *o, const int32_t *ids, size_t n) {
    out_char(o, '[');
    for (size_t i = 0; i < n; i++) {
        if (i) out_char(o, ',');
        json_out_int(o, ids[i]);
    }
    out_char(o, ']');
}

const char *response_finish_reason(enum finish_reason reason) {
    return reason == FINISH_STOP ? "stop" : reason == FINISH_LENGTH ? "length" : NULL;
}

/* ---- tokens and their log probabilities -------------------------------------------------------------------------- */

void response_token(struct out *o, struct token_style style, int32_t id) {
    size_t bytes;
    if (style.as_ids) {
        out_format(o, "\"token_id:%d\"", id);
        return;
    }
    const char *text = tokenizer_bytes(style.tokenizer, id, &bytes);
    json_out_string(o, text, bytes);
}

static void out_logprob(struct out *o, float logprob) {
    json_out_float(o, logprob < MIN_LOGPROB ? MIN_LOGPROB : logprob);
}

/* "token":..,"logprob":..,"bytes":[..] */
static void token_fields(struct out *o, struct token_style style, const struct token_logprob *t) {
    size_t bytes;
    const char *text = tokenizer_bytes(style.tokenizer, t->id, &bytes);
    out_text(o, "\"token\":");
    response_token(o, style, t->id);
    out_text(o, ",\"logprob\":");
    out_logprob(o, t->logprob);
    out_text(o, ",\"bytes\":[");
    for (size_t i = 0; i < bytes; i++) out_format(o, "%s%u", i ? "," : "", (unsigned char)text[i]);
    out_char(o, ']');
}

void response_chat_logprob(struct out *o, struct token_style style, const struct position_logprobs *p) {
    out_char(o, '{');
    token_fields(o, style, &p->entries[0]);
    out_text(o, ",\"top_logprobs\":[");
    for (int i = 1; i <= p->n_top; i++) {
        out_text(o, i > 1 ? ",{" : "{");
        token_fields(o, style, &p->entries[i]);
        out_char(o, '}');
    }
    out_text(o, "]}");
}

/* In completions a token stands for itself as a member's name, so no two may look the same: part of a character is
 * written as OpenAI does, "bytes:\xe4\xbd", and an id of the vocabulary's empty tail by its number. */
static void completion_token(struct out *o, struct token_style style, int32_t id) {
    size_t bytes;
    const char *text = tokenizer_bytes(style.tokenizer, id, &bytes);
    if (style.as_ids || utf8_valid(text, bytes)) {
        style.as_ids |= bytes == 0;
        response_token(o, style, id);
        return;
    }
    out_text(o, "\"bytes:");
    for (size_t i = 0; i < bytes; i++) out_format(o, "\\\\x%02x", (unsigned char)text[i]);
    out_char(o, '"');
}

static bool in_top(const struct position_logprobs *p) {
    for (int i = 1; i <= p->n_top; i++)
        if (p->entries[i].id == p->entries[0].id) return true;
    return false;
}

void response_completion_logprob(struct completion_logprobs *l, struct token_style style, int32_t id,
                                 const struct position_logprobs *p) {
    const char *comma = l->any ? "," : "";
    size_t bytes;
    const char *text = tokenizer_bytes(style.tokenizer, id, &bytes);
    l->any = true;
    out_text(&l->tokens, comma);
    completion_token(&l->tokens, style, id);
    out_format(&l->text_offset, "%s%zu", comma, l->n_chars);
    for (size_t i = 0; i < bytes; i++) l->n_chars += ((unsigned char)text[i] & 0xc0) != 0x80;
    out_text(&l->token_logprobs, comma);
    out_text(&l->top_logprobs, comma);
    if (!p) {
        out_text(&l->token_logprobs, "null");
        out_text(&l->top_logprobs, "null");
        return;
    }
    out_logprob(&l->token_logprobs, p->entries[0].logprob);
    out_char(&l->top_logprobs, '{');
    for (int i = in_top(p) ? 1 : 0, first = i; i <= p->n_top; i++) { /* the chosen token is always among them */
        if (i > first) out_char(&l->top_logprobs, ',');
        completion_token(&l->top_logprobs, style, p->entries[i].id);
        out_char(&l->top_logprobs, ':');
        out_logprob(&l->top_logprobs, p->entries[i].logprob);
    }
    out_char(&l->top_logprobs, '}');
}

void response_completion_logprobs(struct out *o, struct completion_logprobs *l) {
    struct {
        const char *name;
        struct out *array;
    } arrays[] = {{"text_offset", &l->text_offset},
                  {"token_logprobs", &l->token_logprobs},
                  {"tokens", &l->tokens},
                  {"top_logprobs", &l->top_logprobs}};
    for (int i = 0; i < 4; i++) {
        out_format(o, "%s\"%s\":[", i ? "," : "{", arrays[i].name);
        out_bytes(o, arrays[i].array->data, arrays[i].array->bytes);
        out_char(o, ']');
        out_clear(arrays[i].array);
    }
    out_char(o, '}');
    l->any = false;
}

void completion_logprobs_deinit(struct completion_logprobs *l) {
    out_deinit(&l->tokens);
    out_deinit(&l->token_logprobs);
    out_deinit(&l->top_logprobs);
    out_deinit(&l->text_offset);
}

void response_prompt_logprobs(struct out *o, struct token_style style, const struct position_logprobs *p,
                              int n_prompt) {
    out_text(o, "[null");
    for (int i = 0; i < n_prompt - 1; i++) {
        out_text(o, ",{");
        for (int k = in_top(&p[i]) ? 1 : 0, first = k; k <= p[i].n_top; k++) {
            const struct token_logprob *t = &p[i].entries[k];
            out_format(o, "%s\"%d\":{\"logprob\":", k > first ? "," : "", t->id);
            out_logprob(o, t->logprob);
            out_format(o, ",\"rank\":%d,\"decoded_token\":", t->rank);
            response_token(o, style, t->id);
            out_char(o, '}');
        }
        out_char(o, '}');
    }
    out_char(o, ']');
}
