/* server_internal.h - what the files of server/ share; see README.md for who does what.
 *
 * One HTTP exchange is one `struct call`. A call for a model has one `struct choice` per answer, each of which is one
 * request of the engine; a text's vector is a choice without text. Everything runs on the loop's thread, but for
 * api_prepare and the writing of many vectors, which may run on a worker.
 *
 *   http.c -> routes.c -> call.c -> api_prompt.c (parse, template, tokens) -> generation.c -> engine
 *   engine -> server.c (wake, poll) -> generation.c -> api_chat.c | api_completions.c | api_embeddings.c -> http.c
 *
 * A call lives as long as somebody holds it: the exchange until its `done`, a worker, and each choice that the engine
 * has not finished. So a client may leave at any time and nothing dangles. */
#pragma once

#include "server/api_request.h"
#include "server/api_response.h"
#include "server/auth.h"
#include "server/http.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/reasoning.h"
#include "server/server.h"
#include "server/tool_calls.h"

#include <uv.h>

#define CALL_ID_BYTES 160 /* "chatcmpl-" and 128 bytes of the client's */

struct call;
struct choice;

/* One model that requests can name. Constant while requests are served. */
struct server_model {
    const struct server_model_options *options; /* borrowed */
    int index;                                  /* in the server's models, and in its metrics */
    struct engine *engine;                      /* borrowed from the deployment; NULL after the last request */
    const struct engine_info *info;
    const struct tokenizer *tokenizer;
    struct api_defaults defaults;
    int32_t think_open, think_close; /* token ids of <think> and </think>, -1 if there are none */
    const char *const *names;        /* [n_names] borrowed */
    int n_names;
};

struct server {
    const struct server_options *options; /* borrowed */
    struct deployment *deployment;        /* owned; NULL after the last request */
    struct server_model models[DEPLOYMENT_MAX_MODELS];
    int n_models;
    int64_t created; /* Unix time of the model cards */

    uv_loop_t loop;
    struct http_server *http;
    uv_async_t wake; /* an engine has events */
    uv_signal_t signals[2];
    uv_timer_t drain_timer;
    bool draining;      /* a signal came: no new requests */
    bool ending;        /* the drain timeout has passed: running requests are ended */
    bool drained;       /* no connection is left */
    bool stopped;       /* the handles are closing */
    struct out scratch; /* for the chunks of one event */

    struct auth *auth;
    struct metrics *metrics;
    struct log log;
    double ready_seconds; /* Unix time */

    struct call *calls; /* list of all */
    int n_in_flight;    /* calls for a model */
};

/* ---- routes.c: which path means what ----------------------------------------------------------------------------- */

struct route {
    const char *path;    /* a pattern: "{id}" at the end stands for the rest */
    const char *methods; /* "GET", "POST", "GET, POST": the Allow header of a 405 */
    void (*handle)(struct call *c);
    bool open;  /* needs no API key */
    bool quiet; /* a probe: logged only with --log-level debug */
};
void routes_handle(void *server, struct http_exchange *x); /* the http_handler */

/* ---- call.c: one exchange ---------------------------------------------------------------------------------------- */

/* The shape of an endpoint that asks a model. */
struct api {
    const char *id_prefix, *object, *chunk_object;
    /* choice: takes an event's text, tokens and logprobs into its buffers */
    void (*take)(struct choice *choice, const struct engine_event *event);
    /* whole answers that are no list of choices: what to do when the last choice has ended; the rest is NULL then */
    void (*answer)(struct call *c);
    /* whole answers: the choice as an element of `choices`; what stands beside `choices` */
    void (*write_choice)(struct choice *choice, struct out *out);
    void (*write_extras)(struct call *c, struct out *out);
    /* streams: the events for what has gathered since the last ones, and for the end once it is finished */
    void (*write_chunks)(struct choice *choice, struct out *out);
};

struct call {
    struct server *server;
    struct call *prev, *next;
    int n_refs;
    struct http_exchange *x;   /* NULL once the client left or has its whole answer */
    const struct route *route; /* NULL: unknown path */
    const char *tenant;        /* NULL until the key was checked */
    char id[CALL_ID_BYTES];    /* the client's X-Request-Id, or random: fit for headers and logs */
    bool id_is_clients;
    uint64_t started_ns; /* uv_hrtime at the request's first byte */
    char *body;          /* owned copy while a worker reads it */
    size_t body_bytes;   /* 0: the body was read on the loop */
    uv_work_t work;
    bool working;                   /* a worker has the call: `error` and what is prepared are the worker's then */
    void (*task)(struct call *c);   /* what the worker does, or the loop */
    void (*answer)(struct call *c); /* and what the loop does after it */

    enum api_kind kind;
    struct api_request request;
    struct api_error error; /* of the answer, when status is not 0 */
    struct ids *prompts;    /* owned [n_prompts]: what api_prepare made */
    int n_prompts;
    bool opens_thinking; /* the rendered prompt ends inside <think> */
    struct out prepared; /* the whole answer, where a worker may write it */

    const struct api *api;            /* endpoints that ask a model */
    const struct server_model *model; /* NULL until the body said which of several */
    const char *model_name;           /* the one that answers say */
    struct choice *choices;           /* owned [n_choices] */
    float *vectors;                   /* owned [n_choices, C], for embeddings: the engine writes them */
    int n_choices, n_open;            /* open: the engine has it and has not finished it */
    bool in_flight;                   /* counted in the server's n_in_flight */
    bool streaming;                   /* the status line of a stream was written */
    struct out chunk_head;            /* how every event of the stream begins */
    int64_t created;                  /* Unix time */
    double t_first;                   /* seconds from the request's first byte to the first token */
};

struct call *call_open(struct server *s, struct http_exchange *x, const struct route *route);
void call_ref(struct call *c);
void call_unref(struct call *c);

/* Ends the exchange with a whole answer. All take a call whose client may have left. */
void call_respond(struct call *c, int status, const char *content_type, const char *headers, const void *body,
                  size_t bytes);
void call_respond_json(struct call *c, struct out *body); /* 200; frees the body */
void call_respond_prepared(struct call *c);               /* 200 with what was prepared */
void call_fail(struct call *c, int status, const char *param, const char *message);
void call_fail_headers(struct call *c, int status, const char *headers, const char *param, const char *message);
/* `headers` and those that every answer of the call carries, for http.h; NULL if there are none. */
const char *call_headers(const struct call *c, const char *headers, char *buffer, size_t buffer_bytes);

/* Reads the body (api_prepare, on a worker when it is long), then calls answer(c) on the loop. */
void call_prepare(struct call *c, enum api_kind kind, void (*answer)(struct call *c));
/* Does task(c), on a worker if so said, and then, on the loop, answers with c->error if there is one, or calls
 * answer(c). Whoever runs on a worker reads the server's constants, and writes only what the loop leaves alone. */
void call_work(struct call *c, bool on_worker, void (*task)(struct call *c), void (*answer)(struct call *c));
/* Seconds since the request's first byte. */
double call_seconds(const struct call *c);

/* http.h's callbacks. */
void call_aborted(void *user, struct http_exchange *x);
void call_done(void *server, const struct http_exchange *x, int status, uint64_t bytes_sent, double seconds,
               bool aborted);
size_t call_error_body(void *user, int status, const char *message, char *buffer, size_t buffer_bytes);

/* ---- api_models.c: which names there are ------------------------------------------------------------------------- */

/* The model of that name, and in *own the server's copy of it; with NULL the only model. 0, or *error is filled: with
 * the names that there are. Any thread. */
int api_model_find(const struct server *s, const char *name, const struct server_model **model, const char **own,
                   struct api_error *error);

/* Whether the model does what is asked: turning texts into vectors, or generating text. 0, or *error is filled: with
 * the models that do. `name`: the one that the request gave. Any thread. */
int api_model_check(const struct server *s, const struct server_model *model, const char *name, bool embeds,
                    struct api_error *error);

/* ---- api_prompt.c: from the body to token ids. Pure but for the call's own fields -------------------------------- */

/* 0, or c->error is filled. Makes the prompts, or the whole answer of /tokenize and /detokenize. */
int api_prepare(struct call *c, const char *body, size_t bytes);

/* ---- generation.c: choices --------------------------------------------------------------------------------------- */

struct choice {
    struct call *call;
    int index; /* in the answer */
    int prompt_id;
    uint64_t engine_id;
    bool open; /* the engine has it */
    bool finished;
    enum finish_reason reason;
    int stop_string;
    int32_t stop_token;
    struct request_usage usage;
    double t_last; /* when tokens came last, in the call's seconds; 0: none yet */
    int n_unsent;  /* tokens since the last chunk */

    bool taken;                 /* its first event was taken in */
    bool began;                 /* its first chunk was written */
    struct out text, reasoning; /* whole, or not yet sent */
    struct out token_ids;       /* the inside of an array */
    struct out chat_logprobs;   /* likewise */
    struct completion_logprobs logprobs;
    struct out prompt_logprobs; /* JSON, or empty */
    struct reasoning split;
    struct tool_calls tools;
    int n_tools_sent;
    bool thinking; /* the next token is counted as reasoning */
    int n_reasoning;
};

/* `answer` of the endpoints that ask a model: submits all choices. */
void generation_start(struct call *c);
/* One event of the engine. */
void generation_event(const struct engine_event *event);
/* Ends what the engine still does for the call. */
void generation_cancel(struct call *c);
/* Tells the client that its answer ends here with an error, and cancels. */
void generation_fail(struct call *c, int status, const char *message);
void choice_deinit(struct choice *choice);

/* Shared by the writers. */
struct token_style call_token_style(const struct call *c);
/* One event of a stream: chunk_begin writes up to "choices":[ and the caller the rest up to and with the ]; chunk_end
 * adds usage as the request wants it, and closes. */
void chunk_begin(struct call *c, struct out *out);
void chunk_end(const struct call *c, const struct choice *choice, struct out *out);
/* ,"stop_reason":.. : the stop string or token that ended an answer, or null. */
void choice_out_stop_reason(const struct choice *choice, struct out *out);
/* ,"token_ids":[..] if they are wanted: what has gathered since the last time. */
void choice_out_token_ids(struct choice *choice, struct out *out);
/* Takes in an event's token ids and, once, its prompt_logprobs, where they are wanted. */
void choice_take_tokens(struct choice *choice, const struct engine_event *event);

/* ---- the endpoints ----------------------------------------------------------------------------------------------- */

extern const struct api api_chat;        /* api_chat.c */
extern const struct api api_completions; /* api_completions.c */
extern const struct api api_embeddings;  /* api_embeddings.c */

void api_tokenize_write(const struct call *c, struct out *out); /* api_tokenize.c: may run on a worker */
void api_detokenize_write(const struct call *c, struct out *out);
void api_models(struct call *c); /* api_models.c: route handlers */
void api_model(struct call *c);

/* ---- server.c ---------------------------------------------------------------------------------------------------- */

/* Goes on with the shutdown if the last call has ended. */
void server_check_drained(struct server *s);
