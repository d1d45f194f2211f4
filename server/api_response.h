/* api_response.h - the pieces that answers are made of, written into a buffer. Pure; no request state.
 *
 * Shapes are those of OpenAI's specification with vLLM's additions. Log probabilities below -9999 are written as -9999,
 * since JSON has no minus infinity. */
#pragma once

#include "engine/engine.h"
#include "server/json_out.h"

#include <stdbool.h>

/* "BadRequestError" and so on, by HTTP status. */
const char *response_error_type(int status);
/* {"error":{"message","type","param","code"}}; param "" or NULL is null. */
void response_error(struct out *o, int status, const char *param, const char *message);

/* {"prompt_tokens":..,"total_tokens":..,"completion_tokens":..,details} */
struct response_usage {
    int n_prompt, n_cached, n_output, n_reasoning;
    int n_drafted, n_accepted; /* of speculation; known at the end */
};
void response_usage(struct out *o, const struct response_usage *usage);

/* How tokens are shown: as their text, or as "token_id:N" when as_ids. */
struct token_style {
    const struct tokenizer *tokenizer;
    bool as_ids;
};
/* A token as a JSON string. Bytes that are part of a character become U+FFFD. */
void response_token(struct out *o, struct token_style style, int32_t id);

/* Chat: one entry of logprobs.content. */
void response_chat_logprob(struct out *o, struct token_style style, const struct position_logprobs *p);

/* Completions: one position's element of each of the four parallel arrays. */
struct completion_logprobs { /* zero-initialise; each is the inside of an array */
    struct out tokens, token_logprobs, top_logprobs, text_offset;
    size_t n_chars; /* where the next token's text begins, in characters */
    bool any;
};
/* p == NULL: the first token of an echoed prompt, which has no log probability. */
void response_completion_logprob(struct completion_logprobs *l, struct token_style style, int32_t id,
                                 const struct position_logprobs *p);
/* {"tokens":[...],...}; empties the arrays, the offset goes on. */
void response_completion_logprobs(struct out *o, struct completion_logprobs *l);
void completion_logprobs_deinit(struct completion_logprobs *l);

/* [null, {"id": {"logprob","rank","decoded_token"}, ...}, ...] for positions 1 .. n_prompt - 1. */
void response_prompt_logprobs(struct out *o, struct token_style style, const struct position_logprobs *p, int n_prompt);

/* [1,2,3] */
void response_ids(struct out *o, const int32_t *ids, size_t n);

/* "stop" or "length"; NULL for the others. */
const char *response_finish_reason(enum finish_reason reason);
