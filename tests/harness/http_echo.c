/* http_echo - a small server on the HTTP layer alone, for the Python tests.
 *
 *   http_echo [--port N] [--uds PATH] [--NAME VALUE ...]     NAME: an integer of struct http_options, e.g.
 * idle_timeout_ms
 *
 * Prints "listening on PORT" and serves until SIGTERM, which drains, or SIGINT, which closes at once.
 *   GET  /stats                          JSON: connections, queued bytes, resident bytes, counters of callbacks
 *   GET  /slow?count=N&ms=M&bytes=B      a stream of N events, one each M ms, of B bytes each
 *   GET  /flood?count=N&bytes=B          the same without pauses: one event per loop iteration
 *   GET  /large?bytes=B                  one answer of B bytes
 *   GET  /hold                           no answer at all, until the client leaves
 *   any other                            "METHOD path query\n" and the request's body, with the header X-Echo: 1 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/status.h"
#include "server/http.h"

struct echo {
    struct http_server *server;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    long n_handled, n_live, n_aborts, n_done, n_done_aborted, n_events;
};

struct stream { /* one /slow, /flood or /hold; owned by its exchange until answered or aborted */
    struct echo *echo;
    struct http_exchange *x; /* NULL once that is over */
    long count, bytes;
    uv_timer_t timer;
};

static long parameter(const struct http_exchange *x, const char *name, long otherwise) {
    const char *s = http_query(x);
    size_t n = strlen(name);
    while (s && *s) {
        if (strncmp(s, name, n) == 0 && s[n] == '=') return strtol(s + n + 1, NULL, 10);
        s = strchr(s, '&');
        if (s) s++;
    }
    return otherwise;
}

static void on_timer_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void stream_over(struct stream *t) {
    t->x = NULL;
    t->echo->n_live--;
    uv_close((uv_handle_t *)&t->timer, on_timer_closed);
}

static void on_abort(void *user, struct http_exchange *x) {
    struct stream *t = user;
    CHECK(t->x == x);
    t->echo->n_aborts++;
    stream_over(t);
}

static void on_timer(uv_timer_t *timer) {
    struct stream *t = timer->data;
    if (!t->x) return;
    if (t->count-- == 0) {
        struct http_exchange *x = t->x;
        stream_over(t);
        http_stream_end(x);
        return;
    }
    char *event = malloc((size_t)t->bytes + 16);
    CHECK(event);
    int n = sprintf(event, "data: ");
    memset(event + n, 'x', (size_t)t->bytes);
    memcpy(event + n + t->bytes, "\n\n", 2);
    t->echo->n_events++;
    http_stream_write(t->x, event, (size_t)n + (size_t)t->bytes + 2); /* false: on_abort has ended the stream */
    free(event);
}

static void stream_start(struct echo *e, struct http_exchange *x, long ms, bool hold) {
    struct stream *t = calloc(1, sizeof *t);
    CHECK(t);
    *t = (struct stream){.echo = e, .x = x, .count = parameter(x, "count", 10), .bytes = parameter(x, "bytes", 16)};
    e->n_live++;
    uv_timer_init(&e->loop, &t->timer);
    t->timer.data = t;
    http_set_user(x, t, on_abort);
    if (hold) return;
    http_stream_begin(x, 200, "text/event-stream", "Cache-Control: no-store\r\n");
    uv_timer_start(&t->timer, on_timer, (uint64_t)ms, ms ? (uint64_t)ms : 1);
}

static void on_flood(uv_timer_t *timer) {
    struct stream *t = timer->data;
    for (int i = 0; i < 64 && t->x; i++) on_timer(timer);
}

static long resident_bytes(void) {
    malloc_trim(0); /* what is free goes back first: how much of it the allocator keeps is a matter of chance */
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*s %ld", &pages) != 1) pages = 0;
    if (f) fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
}

static void respond_stats(struct echo *e, struct http_exchange *x) {
    char text[512];
    int n = snprintf(text, sizeof text,
                     "{\"connections\": %d, \"queued_bytes\": %zu, \"resident_bytes\": %ld, \"handled\": %ld, "
                     "\"live\": %ld, \"aborts\": %ld, \"done\": %ld, \"done_aborted\": %ld, \"events\": %ld}\n",
                     http_n_connections(e->server), http_queued_bytes(e->server), resident_bytes(), e->n_handled,
                     e->n_live, e->n_aborts, e->n_done, e->n_done_aborted, e->n_events);
    http_respond(x, 200, "application/json", NULL, text, (size_t)n);
}

static void respond_echo(struct http_exchange *x) {
    size_t body_bytes;
    const char *body = http_body(x, &body_bytes);
    size_t cap = strlen(http_method(x)) + strlen(http_path(x)) + strlen(http_query(x)) + 4 + body_bytes;
    char *text = malloc(cap);
    CHECK(text);
    int n = snprintf(text, cap, "%s %s %s\n", http_method(x), http_path(x), http_query(x));
    memcpy(text + n, body, body_bytes);
    http_respond(x, 200, "application/octet-stream", "X-Echo: 1\r\n", text, (size_t)n + body_bytes);
    free(text);
}

static void handle(void *user, struct http_exchange *x) {
    struct echo *e = user;
    e->n_handled++;
    const char *path = http_path(x);
    if (strcmp(path, "/stats") == 0) {
        respond_stats(e, x);
    } else if (strcmp(path, "/slow") == 0) {
        stream_start(e, x, parameter(x, "ms", 10), false);
    } else if (strcmp(path, "/hold") == 0) {
        stream_start(e, x, 0, true);
    } else if (strcmp(path, "/flood") == 0) {
        stream_start(e, x, 0, false);
        struct stream *t = http_user(x);
        uv_timer_start(&t->timer, on_flood, 0, 1);
    } else if (strcmp(path, "/large") == 0) {
        size_t bytes = (size_t)parameter(x, "bytes", 1 << 20);
        char *body = calloc(1, bytes + 1);
        CHECK(body);
        http_respond(x, 200, "application/octet-stream", NULL, body, bytes);
        free(body);
    } else {
        respond_echo(x);
    }
}

static void on_done(void *user, const struct http_exchange *x, int status, uint64_t bytes_sent, double seconds,
                    bool aborted) {
    struct echo *e = user;
    (void)x, (void)status, (void)bytes_sent;
    CHECK(seconds >= 0);
    e->n_done++;
    e->n_done_aborted += aborted;
}

static void on_drained(void *user) {
    struct echo *e = user;
    http_server_close(e->server);
    uv_close((uv_handle_t *)&e->term, NULL);
    uv_close((uv_handle_t *)&e->interrupt, NULL);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct echo *e = handle->data;
    http_server_drain(e->server, on_drained);
    if (number == SIGINT) http_server_close(e->server);
}

static void set_option(struct http_options *o, const char *name, const char *value) {
    long n = strtol(value, NULL, 10);
    if (strcmp(name, "port") == 0)
        o->port = (int)n;
    else if (strcmp(name, "uds") == 0)
        o->uds = value;
    else if (strcmp(name, "max_header_bytes") == 0)
        o->max_header_bytes = (size_t)n;
    else if (strcmp(name, "max_body_bytes") == 0)
        o->max_body_bytes = (size_t)n;
    else if (strcmp(name, "max_connections") == 0)
        o->max_connections = (int)n;
    else if (strcmp(name, "header_timeout_ms") == 0)
        o->header_timeout_ms = (int)n;
    else if (strcmp(name, "body_timeout_ms") == 0)
        o->body_timeout_ms = (int)n;
    else if (strcmp(name, "idle_timeout_ms") == 0)
        o->idle_timeout_ms = (int)n;
    else if (strcmp(name, "write_timeout_ms") == 0)
        o->write_timeout_ms = (int)n;
    else if (strcmp(name, "max_write_buffer") == 0)
        o->max_write_buffer = (size_t)n;
    else {
        fprintf(stderr, "http_echo: unknown option --%s\n", name);
        exit(2);
    }
}

int main(int argc, char **argv) {
    struct http_options options = http_default_options();
    for (int i = 1; i + 1 < argc; i += 2) set_option(&options, argv[i] + strspn(argv[i], "-"), argv[i + 1]);
    struct echo e = {0};
    char err[ERR_BYTES];
    uv_loop_init(&e.loop);
    if (http_server_open(&e.server, &e.loop, &options, handle, &e, err, sizeof err)) {
        fprintf(stderr, "http_echo: %s\n", err);
        return 1;
    }
    http_set_done(e.server, on_done);
    uv_signal_init(&e.loop, &e.term);
    uv_signal_init(&e.loop, &e.interrupt);
    e.term.data = e.interrupt.data = &e;
    uv_signal_start(&e.term, on_signal, SIGTERM);
    uv_signal_start(&e.interrupt, on_signal, SIGINT);
    printf("listening on %d\n", http_port(e.server));
    fflush(stdout);
    uv_run(&e.loop, UV_RUN_DEFAULT);
    http_server_free(e.server);
    CHECK_EQ(uv_loop_close(&e.loop), 0);
    CHECK_EQ(e.n_live, 0);
    return 0;
}
