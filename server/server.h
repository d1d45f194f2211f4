/* server.h - the folder's only door: OpenAI's API over HTTP in front of one engine.
 *
 *     struct server_options o = server_default_options();
 *     char err[ERR_BYTES];
 *     o.engine.model = "weights/sample/small";
 *     if (server_run(&o, err, sizeof err)) { fprintf(stderr, "%s\n", err); return 1; }
 *
 * server_run loads the model, listens, serves until SIGINT or SIGTERM, lets running requests finish, and returns. A
 * second signal ends the process at once. The calling thread becomes the loop's thread. */
#pragma once

#include "engine/engine.h"
#include "server/http.h"
#include "server/log.h"

#include <stdbool.h>
#include <stddef.h>

struct server_options { /* all pointers are borrowed for the duration of server_run */
    struct http_options http;
    struct engine_options engine;
    const char *const *served_names; /* the model's names; the first is what answers say. None: engine.model as given */
    int n_served_names;
    const char *const *api_keys; /* plain; see auth.h */
    size_t n_api_keys;
    const char *api_key_file;     /* NULL: none */
    const char *chat_template;    /* NULL: the checkpoint's; else a name that chat_template_by_name knows */
    int enable_thinking;          /* default of chat_template_kwargs.enable_thinking: -1 unset, 0, 1 */
    bool checkpoint_sampling;     /* defaults come from generation_config.json, not from OpenAI */
    bool split_reasoning;         /* <think> goes to `reasoning` */
    bool parse_tool_calls;        /* <tool_call> goes to `tool_calls` where a request has tools */
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
