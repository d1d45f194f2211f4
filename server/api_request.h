/* api_request.h - request bodies to parameters. Pure: bytes in, a struct or an error out; no engine, no HTTP, any
 * thread.
 *
 * Fields are OpenAI's and vLLM's. Unknown fields are ignored; a known field of the wrong type or out of range is an
 * error that names the field. What would silently give another answer than the one asked for (a grammar, a tool that
 * must be called, a suffix) is refused; what only steers a service that is not here (user, metadata, store,
 * service_tier, ...) is ignored. */
#pragma once

#include "engine/engine.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define API_PARAM_BYTES   64
#define API_MESSAGE_BYTES 512
#define API_MAX_CHOICES   2048 /* prompts times n in one request; inputs of one request for embeddings */
#define API_MAX_MEMBERS   1024 /* of the body's object; look-ups are linear */
#define API_MAX_DEPTH     128

enum api_kind { API_CHAT, API_COMPLETION, API_TOKENIZE, API_DETOKENIZE, API_EMBEDDING };

/* One refused request. */
struct api_error {
    int status;                      /* HTTP */
    char param[API_PARAM_BYTES];     /* the field at fault; "" if none */
    char message[API_MESSAGE_BYTES]; /* a sentence */
};
/* Fills *error and returns STATUS_INVALID. param may be NULL. */
int api_error_set(struct api_error *error, int http_status, const char *param, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* What a request that says nothing gets, and the bounds that the model sets. */
struct api_defaults {
    struct sampling_params sampling;
    int max_logprobs, vocab;
    int enable_thinking;      /* --default-chat-template-kwargs: -1 unset, 0, 1 */
    bool force_include_usage; /* every stream ends with usage */
    int dimensions;           /* of the vectors, where the model makes vectors */
    bool normalized;          /* and whether their length is 1 */
};

struct api_prompt {   /* text, or ids when text is NULL */
    const char *text; /* view of the tree */
    size_t text_bytes;
    int32_t *ids; /* owned */
    size_t n_ids;
};

struct api_request {
    enum api_kind kind;
    cJSON *tree;                         /* owned; the views below point into it */
    const char *model;                   /* NULL if absent */
    const char *cache_salt, *request_id; /* NULL if absent */
    struct sampling_params sampling;     /* its arrays are owned by the request; seed is the first choice's */
    int n;                               /* choices per prompt */
    int priority;
    int truncate_prompt_tokens; /* 0: off; -1: to what the model takes; k: to k tokens, the last ones (embeddings: the
                                   first ones, but with keep_last) */
    bool stream, include_usage, continuous_usage;
    bool echo;                 /* completions: the prompt before the text; chat: the message continued */
    bool show_prompt_logprobs; /* asked for by name, not only through echo and logprobs */
    bool return_token_ids, return_tokens_as_token_ids;
    bool include_reasoning, return_token_strs, add_special_tokens;
    /* chat, tokenize */
    const cJSON *messages, *tools; /* views; tools only where the model may call them */
    bool parallel_tool_calls;
    struct chat_options chat;
    /* embeddings */
    bool keep_last; /* of an input that is truncated */
    bool as_base64;
    int dimensions; /* 0: not said */
    /* completions, embeddings, tokenize (one), detokenize (one, ids) */
    struct api_prompt *prompts; /* owned */
    int n_prompts;
};

/* Reading a body takes two calls, since what a request may say depends on the model that it names. Both: 0, or
 * STATUS_INVALID with *error filled and the request as after api_request_deinit. */
/* The body's syntax, and who asks for what: model, cache_salt, request_id. */
int api_request_open(struct api_request *out, enum api_kind kind, const char *body, size_t bytes,
                     struct api_error *error);
/* Everything else. */
int api_request_read(struct api_request *r, const struct api_defaults *defaults, struct api_error *error);
void api_request_deinit(struct api_request *r);
