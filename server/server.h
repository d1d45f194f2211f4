/* server.h - the folder's only door: OpenAI's API over HTTP in front of one engine or several.
 *
 *     struct server_model_options model = server_default_model();
 *     struct server_options o = server_default_options();
 *     char err[ERR_BYTES];
 *     model.engine.model = "weights/sample/small";
 *     o.models = &model;
 *     o.n_models = 1;
 *     if (server_run(&o, err, sizeof err)) { fprintf(stderr, "%s\n", err); return 1; }
 *
 * server_run loads the models, listens, serves until SIGINT or SIGTERM, lets running requests finish, and returns. A
 * second signal ends the process at once. The calling thread becomes the loop's thread. */
#pragma once

#include "engine/engine.h"
#include "server/http.h"
#include "server/log.h"

#include <stdbool.h>
#include <stddef.h>

/* What a model is there for: bits. */
enum server_role {
    ROLE_LARGE = 1 << 0,    /* answers what is hard */
    ROLE_SMALL = 1 << 1,    /* answers what is quick */
    ROLE_DRAFT = 1 << 2,    /* is to draft for the large one; so far it answers by its name, like any other */
    ROLE_EMBEDDER = 1 << 3, /* turns texts into vectors */
};
extern const char *const server_role_names[]; /* "large", ...: entry i is bit i; ends with NULL */

struct server_model_options {        /* all pointers are borrowed for the duration of server_run */
    struct engine_options engine;    /* what concerns the device is read from the first model's (deployment_open) */
    const char *const *served_names; /* the model's names; the first is what answers say. None: engine.model as given.
                                        No two models have one in common */
    int n_served_names;
    unsigned roles;            /* of enum server_role */
    const char *chat_template; /* NULL: the checkpoint's; a name that chat_template_by_name knows; or a file */
    int enable_thinking;       /* default of chat_template_kwargs.enable_thinking: -1 unset, 0, 1 */
    bool checkpoint_sampling;  /* defaults come from generation_config.json, not from OpenAI */
    bool split_reasoning;      /* <think> goes to `reasoning` */
    bool parse_tool_calls;     /* <tool_call> goes to `tool_calls` where a request has tools */
};
struct server_model_options server_default_model(void);

struct server_options { /* likewise */
    struct http_options http;
    const struct server_model_options *models; /* [n_models] */
    int n_models;                              /* 1 .. DEPLOYMENT_MAX_MODELS */
    const char *const *api_keys;               /* plain; see auth.h */
    size_t n_api_keys;
    const char *api_key_file;     /* NULL: none */
    bool request_id_headers;      /* X-Request-Id in answers */
    bool force_include_usage;     /* usage at the end of every stream */
    int stream_interval;          /* tokens per chunk, at least */
    int max_requests_in_flight;   /* more are answered 429; 0: unbounded */
    double drain_timeout_seconds; /* after a signal; then running requests are ended */
    bool log_json, log_requests;
    enum log_level log_level;
};
struct server_options server_default_options(void);

/* 0 after a drained shutdown; STATUS_* and a sentence when the server could not start. */
int server_run(const struct server_options *options, char *err, size_t err_bytes);
