/* call.c - one exchange: its memory, its answer, its line in the log. */
#include "server/server_internal.h"

#include "kernels/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* Bodies above this are parsed and tokenized on a worker: at some 20 MB/s this much takes about 3 ms, the longest that
 * other clients' streams should wait. */
#define WORKER_BODY_BYTES ((size_t)64 << 10)

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* An id that may stand in a header and in a log. */
static bool id_is_plain(const char *id) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    size_t n = strlen(id);
    return n > 0 && n <= 128 && strspn(id, allowed) == n;
}

static void make_id(struct call *c, const char *wanted) {
    unsigned char bytes[16];
    c->id_is_clients = wanted && id_is_plain(wanted);
    if (c->id_is_clients) {
        snprintf(c->id, sizeof c->id, "%s", wanted);
        return;
    }
    CHECK_EQ(getrandom(bytes, sizeof bytes, 0), sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) snprintf(c->id + 2 * i, 3, "%02x", bytes[i]);
}

struct call *call_open(struct server *s, struct http_exchange *x, const struct route *route) {
    struct call *c = calloc(1, sizeof *c);
    CHECK(c);
    c->server = s;
    c->x = x;
    c->route = route;
    c->n_refs = 1;
    c->created = (int64_t)time(NULL);
    if (s->n_models == 1) {
        c->model = s->models;
        c->model_name = s->models->names[0];
    }
    c->started_ns = http_started_ns(x);
    make_id(c, http_header(x, "x-request-id"));
    c->next = s->calls;
    if (s->calls) s->calls->prev = c;
    s->calls = c;
    http_set_user(x, c, call_aborted);
    return c;
}

void call_ref(struct call *c) {
    c->n_refs++;
}

static void free_contents(struct call *c) {
    for (int i = 0; i < c->n_choices; i++) choice_deinit(&c->choices[i]);
    free(c->choices);
    free(c->vectors);
    for (int i = 0; i < c->n_prompts; i++) ids_deinit(&c->prompts[i]);
    free(c->prompts);
    api_request_deinit(&c->request);
    out_deinit(&c->chunk_head);
    out_deinit(&c->prepared);
}

static void on_free(uv_work_t *work) {
    free_contents(work->data);
}

static void on_freed(uv_work_t *work, int status) {
    (void)status;
    free(work->data);
}

void call_unref(struct call *c) {
    struct server *s = c->server;
    if (--c->n_refs) return;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->calls = c->next;
    if (c->next) c->next->prev = c->prev;
    if (c->in_flight) s->n_in_flight--;
    if (c->body_bytes) { /* freeing the millions of nodes of a long body takes as long as parsing it */
        CHECK_EQ(uv_queue_work(&s->loop, &c->work, on_free, on_freed), 0);
        return;
    }
    free_contents(c);
    free(c);
}

double call_seconds(const struct call *c) {
    return (double)(uv_hrtime() - c->started_ns) * 1e-9;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

const char *call_headers(const struct call *c, const char *headers, char *buffer, size_t buffer_bytes) {
    if (!c->server->options->request_id_headers) return headers;
    snprintf(buffer, buffer_bytes, "%sX-Request-Id: %s\r\n", headers ? headers : "", c->id);
    return buffer;
}

void call_respond(struct call *c, int status, const char *content_type, const char *headers, const void *body,
                  size_t bytes) {
    char buffer[512];
    if (!c->x) return;
    http_respond(c->x, status, content_type, call_headers(c, headers, buffer, sizeof buffer), body, bytes);
    c->x = NULL;
}

void call_respond_json(struct call *c, struct out *body) {
    call_respond(c, 200, "application/json", NULL, body->data, body->bytes);
    out_deinit(body);
}

void call_respond_prepared(struct call *c) {
    call_respond_json(c, &c->prepared);
}

void call_fail_headers(struct call *c, int status, const char *headers, const char *param, const char *message) {
    struct out body = {0};
    if (message != c->error.message) api_error_set(&c->error, status, param, "%s", message);
    response_error(&body, status, param, c->error.message);
    call_respond(c, status, "application/json", headers, body.data, body.bytes);
    out_deinit(&body);
}

void call_fail(struct call *c, int status, const char *param, const char *message) {
    call_fail_headers(c, status, NULL, param, message);
}

/* ---- workers, the body ------------------------------------------------------------------------------------------- */

/* On the loop, after the task. */
static void worked(struct call *c) {
    if (!c->x) return; /* the client left meanwhile */
    if (c->error.status)
        call_fail(c, c->error.status, c->error.param, c->error.message);
    else
        c->answer(c);
}

static void on_work(uv_work_t *work) {
    struct call *c = work->data;
    c->task(c);
}

static void on_worked(uv_work_t *work, int status) {
    struct call *c = work->data;
    struct server *s = c->server;
    (void)status; /* never cancelled */
    c->working = false;
    free(c->body);
    c->body = NULL;
    worked(c);
    call_unref(c);
    server_check_drained(s);
}

void call_work(struct call *c, bool on_worker, void (*task)(struct call *c), void (*answer)(struct call *c)) {
    c->task = task;
    c->answer = answer;
    if (!on_worker) {
        task(c);
        worked(c);
        return;
    }
    c->working = true;
    c->work.data = c;
    call_ref(c);
    CHECK_EQ(uv_queue_work(&c->server->loop, &c->work, on_work, on_worked), 0);
}

static void prepare_copy(struct call *c) {
    api_prepare(c, c->body, c->body_bytes);
}

static void prepare_here(struct call *c) {
    size_t bytes;
    const char *body = http_body(c->x, &bytes);
    api_prepare(c, body, bytes);
}

void call_prepare(struct call *c, enum api_kind kind, void (*answer)(struct call *c)) {
    size_t bytes;
    const char *body = http_body(c->x, &bytes);
    c->kind = kind;
    if (bytes <= WORKER_BODY_BYTES) {
        call_work(c, false, prepare_here, answer);
        return;
    }
    c->body = malloc(bytes); /* the exchange may end before the worker does */
    CHECK(c->body);
    memcpy(c->body, body, bytes);
    c->body_bytes = bytes;
    call_work(c, true, prepare_copy, answer);
}

/* ---- http.h's callbacks ------------------------------------------------------------------------------------------ */

void call_aborted(void *user, struct http_exchange *x) {
    struct call *c = user;
    (void)x;
    c->x = NULL;
    generation_cancel(c);
}

/* The sums over a call's choices; a prompt that several choices share counts once. */
static void log_tokens(const struct call *c, struct log_request *r) {
    for (int i = 0; i < c->n_choices; i++) {
        const struct request_usage *u = &c->choices[i].usage;
        r->n_output += u->n_output;
        if (i % c->request.n) continue;
        r->n_prompt += (int)c->prompts[c->choices[i].prompt_id].n;
        r->n_cached += u->n_cached;
    }
}

void call_done(void *server, const struct http_exchange *x, int status, uint64_t bytes_sent, double seconds,
               bool aborted) {
    struct server *s = server;
    struct call *c = http_user(x);
    const char *method = http_method(x), *path = http_path(x);
    struct log_request line = {
        .id = c ? c->id : "-",
        .method = method && *method ? method : "-",
        .path = path && *path ? path : "-",
        .peer = http_peer(x),
        .status = status,
        .aborted = aborted,
        .seconds = seconds,
        .bytes = bytes_sent,
    };
    if (c) {
        line.tenant = c->tenant;
        line.ttft_seconds = c->t_first;
        line.quiet = c->route && c->route->quiet;
    }
    if (c && !c->working) { /* else a worker is writing these */
        line.error = c->error.status ? c->error.message : NULL;
        line.model = c->api ? c->model_name : NULL;
        log_tokens(c, &line);
    }
    metrics_http(s->metrics, c && c->route ? c->route->path : "none", line.method, status, seconds);
    log_request(&s->log, &line);
    if (!c) return;
    c->x = NULL;
    call_unref(c);
}

size_t call_error_body(void *user, int status, const char *message, char *buffer, size_t buffer_bytes) {
    struct out body = {0};
    (void)user;
    response_error(&body, status, NULL, message);
    size_t bytes = body.bytes < buffer_bytes ? body.bytes : 0;
    memcpy(buffer, body.data, bytes);
    out_deinit(&body);
    return bytes;
}
