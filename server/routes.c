/* routes.c - which path means what, who may ask, and the small endpoints.
 *
 * As in vLLM the operators' endpoints are open: /health, /ping, /version, /load, /metrics. Everything else needs a key
 * once there is one; an unknown path below /v1 too, so that nobody can look around there without a key. */
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

/* ---- the operators' endpoints ------------------------------------------------------------------------------------ */

static void health(struct call *c) {
    if (c->server->draining)
        call_fail(c, 503, NULL, "The server is shutting down.");
    else
        call_respond(c, 200, "text/plain", NULL, "", 0);
}

static void version(struct call *c) {
    struct out out = {0};
    out_text(&out, "{\"version\":\"" TANDEM_VERSION "\"}");
    call_respond_json(c, &out);
}

static void load(struct call *c) {
    struct out out = {0};
    out_format(&out, "{\"server_load\":%d}", c->server->n_in_flight);
    call_respond_json(c, &out);
}

static void metrics(struct call *c) {
    struct server *s = c->server;
    struct metrics_engine engines[DEPLOYMENT_MAX_MODELS];
    struct out out = {0};
    for (int i = 0; i < s->n_models; i++) {
        engines[i].info = s->models[i].info;
        engine_stats(s->models[i].engine, &engines[i].stats);
    }
    const struct metrics_gauges gauges = {
        .n_connections = http_n_connections(s->http),
        .queued_bytes = http_queued_bytes(s->http),
        .n_in_flight = s->n_in_flight,
        .start_seconds = s->ready_seconds,
    };
    metrics_write(s->metrics, engines, &gauges, &out);
    call_respond(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, out.data, out.bytes);
    out_deinit(&out);
}

/* ---- the models' endpoints --------------------------------------------------------------------------------------- */

static void ask_model(struct call *c, const struct api *api, enum api_kind kind) {
    struct server *s = c->server;
    const int bound = s->options->max_requests_in_flight;
    char message[160];
    c->api = api;
    if (s->draining) {
        call_fail_headers(c, 503, "Connection: close\r\n", NULL, "The server is shutting down.");
        return;
    }
    if (bound && s->n_in_flight >= bound) {
        snprintf(message, sizeof message, "%d requests are in flight, and no more than %d may be. Please retry.",
                 s->n_in_flight, bound);
        call_fail_headers(c, 429, "Retry-After: 1\r\n", NULL, message);
        return;
    }
    c->in_flight = true;
    s->n_in_flight++;
    call_prepare(c, kind, generation_start);
}

static void chat_completions(struct call *c) {
    ask_model(c, &api_chat, API_CHAT);
}

static void completions(struct call *c) {
    ask_model(c, &api_completions, API_COMPLETION);
}

static void embeddings(struct call *c) {
    ask_model(c, &api_embeddings, API_EMBEDDING);
}

static void tokenize(struct call *c) {
    call_prepare(c, API_TOKENIZE, call_respond_prepared);
}

static void detokenize(struct call *c) {
    call_prepare(c, API_DETOKENIZE, call_respond_prepared);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static const struct route routes[] = {
    {"/v1/chat/completions", "POST", chat_completions, .open = false},
    {"/v1/completions", "POST", completions, .open = false},
    {"/v1/embeddings", "POST", embeddings, .open = false},
    {"/v1/models", "GET", api_models, .open = false},
    {"/v1/models/{id}", "GET", api_model, .open = false},
    {"/tokenize", "POST", tokenize, .open = false},
    {"/detokenize", "POST", detokenize, .open = false},
    {"/health", "GET", health, .open = true, .quiet = true},
    {"/ping", "GET, POST", health, .open = true, .quiet = true},
    {"/version", "GET", version, .open = true},
    {"/load", "GET", load, .open = true, .quiet = true},
    {"/metrics", "GET", metrics, .open = true, .quiet = true},
};

static bool path_matches(const char *pattern, const char *path) {
    const char *brace = strchr(pattern, '{');
    if (!brace) return !strcmp(pattern, path);
    return !strncmp(pattern, path, (size_t)(brace - pattern)) && path[brace - pattern];
}

static const struct route *find_route(const char *path) {
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++)
        if (path_matches(routes[i].path, path)) return &routes[i];
    return NULL;
}

/* Whether "GET, POST" has the method. HEAD is answered like GET. */
static bool method_allowed(const char *methods, const char *method) {
    size_t n = strlen(method);
    if (!strcmp(method, "HEAD")) return method_allowed(methods, "GET");
    for (const char *m = methods; *m; m += strspn(m, ", ")) {
        size_t length = strcspn(m, ",");
        if (length == n && !memcmp(m, method, n)) return true;
        m += length;
    }
    return false;
}

void routes_handle(void *user, struct http_exchange *x) {
    struct server *s = user;
    const char *path = http_path(x);
    const struct route *route = find_route(path);
    struct call *c = call_open(s, x, route);
    char message[256], allow[64];
    bool open = route ? route->open : strncmp(path, "/v1/", 4) != 0;

    c->tenant = auth_check(s->auth, http_header(x, "authorization"));
    if (!c->tenant && !open) {
        call_fail_headers(c, 401, "WWW-Authenticate: Bearer\r\n", NULL,
                          "Unauthorized: expected a valid API key as \"Authorization: Bearer KEY\".");
        return;
    }
    if (!c->tenant) c->tenant = "";
    if (!route) {
        call_fail(c, 404, NULL, "Not Found: there is no such endpoint.");
        return;
    }
    if (!method_allowed(route->methods, http_method(x))) {
        snprintf(message, sizeof message, "Method Not Allowed: %s takes %s.", route->path, route->methods);
        snprintf(allow, sizeof allow, "Allow: %s%s\r\n", route->methods, strstr(route->methods, "GET") ? ", HEAD" : "");
        call_fail_headers(c, 405, allow, NULL, message);
        return;
    }
    route->handle(c);
}
