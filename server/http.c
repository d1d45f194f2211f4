/* http.c - the server: options, listening, accepting, the two hooks in the loop, drain, close. See http_internal.h. */
#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernels/status.h"
#include "server/http_internal.h"

#define LISTEN_BACKLOG 1024

struct http_options http_default_options(void) {
    return (struct http_options){
        .host = "127.0.0.1",
        .max_header_bytes = HTTP_HEAD_BYTES_MAX,
        .max_body_bytes = 16 << 20,
        .max_connections = 4096,
        .header_timeout_ms = 10000,
        .body_timeout_ms = 30000,
        .idle_timeout_ms = 75000,
        .write_timeout_ms = 60000,
        .max_write_buffer = 1 << 20,
        .cors_origin = "*",
        .server_name = "tandem/" TANDEM_VERSION,
    };
}

/* ---- hooks in the loop ------------------------------------------------------------------------------------------- */

/* Right before the loop sleeps: what this iteration's callbacks left to write leaves now. */
static void on_prepare(uv_prepare_t *prepare) {
    struct http_server *s = prepare->data;
    while (!http__link_empty(&s->dirty)) {
        struct http_conn *c = HTTP_CONN_OF(s->dirty.next, dirty);
        http__link_remove(&c->dirty);
        http__conn_settle(c);
    }
}

/* One timer for all timeouts: a connection holds no timer, and a request re-arms none. */
static void on_sweep(uv_timer_t *timer) {
    struct http_server *s = timer->data;
    uint64_t now_ms = uv_now(s->loop);
    if (s->accept_later && s->listening && !s->draining) http__conn_accept(s);
    for (struct http_link *l = s->conns.next; l != &s->conns; l = l->next) /* unlinked only in close callbacks */
        http__conn_sweep(HTTP_CONN_OF(l, all), now_ms);
}

static void on_connection(uv_stream_t *listener, int status) {
    struct http_server *s = listener->data;
    if (status < 0) return;
    if (!uv_is_active((uv_handle_t *)&s->sweep)) uv_timer_start(&s->sweep, on_sweep, s->sweep_ms, s->sweep_ms);
    http__conn_accept(s);
}

/* A quarter of the shortest timeout, so that each is met within a quarter; 250 ms also bounds how long a client that
 * left behind a full pipeline goes unnoticed. */
static uint64_t sweep_interval(const struct http_options *o) {
    int least = o->header_timeout_ms;
    if (o->body_timeout_ms < least) least = o->body_timeout_ms;
    if (o->idle_timeout_ms < least) least = o->idle_timeout_ms;
    if (o->write_timeout_ms < least) least = o->write_timeout_ms;
    least /= 4;
    return least < 10 ? 10 : least > 250 ? 250 : (uint64_t)least;
}

/* ---- listening --------------------------------------------------------------------------------------------------- */

static int listen_tcp(struct http_server *s, char *err, size_t err_bytes) {
    const struct http_options *o = &s->options;
    char port[16];
    snprintf(port, sizeof port, "%d", o->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list = NULL;
    int e = getaddrinfo(o->host, port, &hints, &list);
    const char *host = o->host ? o->host : "any address";
    if (e)
        return fail(err, err_bytes, STATUS_IO, "cannot listen on %s: %s; give an address of this machine, or 0.0.0.0",
                    host, gai_strerror(e));
    const struct addrinfo *a = list; /* a name like localhost means its IPv4 address, which every client tries */
    while (a && a->ai_family != AF_INET) a = a->ai_next;
    e = uv_tcp_bind(&s->listener.tcp, a ? a->ai_addr : list->ai_addr, 0);
    freeaddrinfo(list);
    if (!e) e = uv_listen(&s->listener.stream, LISTEN_BACKLOG, on_connection);
    if (e == UV_EADDRINUSE)
        return fail(err, err_bytes, STATUS_IO,
                    "cannot listen on %s:%d: the port is in use; stop the other server or choose another --port", host,
                    o->port);
    if (e) return fail(err, err_bytes, STATUS_IO, "cannot listen on %s:%d: %s", host, o->port, uv_strerror(e));
    struct sockaddr_storage bound;
    int n = sizeof bound;
    if (uv_tcp_getsockname(&s->listener.tcp, (struct sockaddr *)&bound, &n) == 0)
        s->port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                                    : ((struct sockaddr_in *)&bound)->sin_port);
    return STATUS_OK;
}

/* A socket that a dead server left behind is removed; one that answers is not. */
static bool stale_socket(const char *path) {
    struct stat st;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (lstat(path, &st) != 0 || !S_ISSOCK(st.st_mode)) return false;
    memcpy(a.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool stale = connect(fd, (struct sockaddr *)&a, sizeof a) != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static int listen_unix(struct http_server *s, char *err, size_t err_bytes) {
    const char *path = s->options.uds;
    if (strlen(path) >= sizeof((struct sockaddr_un *)0)->sun_path)
        return fail(err, err_bytes, STATUS_IO, "cannot listen on %s: a Unix socket's path has at most %zu bytes", path,
                    sizeof((struct sockaddr_un *)0)->sun_path - 1);
    if (stale_socket(path)) unlink(path);
    int e = uv_pipe_bind(&s->listener.pipe, path);
    if (!e) e = uv_listen(&s->listener.stream, LISTEN_BACKLOG, on_connection);
    if (e == UV_EADDRINUSE)
        return fail(err, err_bytes, STATUS_IO,
                    "cannot listen on %s: the path exists; stop the other server or choose another --uds", path);
    if (e) return fail(err, err_bytes, STATUS_IO, "cannot listen on %s: %s", path, uv_strerror(e));
    return STATUS_OK;
}

static char *copy_of(const char *s) {
    return s ? strdup(s) : NULL;
}

static void server_free(struct http_server *s) {
    free((char *)s->options.host);
    free((char *)s->options.uds);
    free((char *)s->options.cors_origin);
    free((char *)s->options.server_name);
    free(s);
}

static void on_handle_closed(uv_handle_t *handle) {
    struct http_server *s = handle->data;
    s->n_handles--;
}

/* The handles of a server that could not listen outlive http_server_open; the last one to close frees it. */
static void on_failed_closed(uv_handle_t *handle) {
    struct http_server *s = handle->data;
    if (--s->n_handles == 0) server_free(s);
}

int http_server_open(struct http_server **out, uv_loop_t *loop, const struct http_options *options,
                     http_handler handler, void *user, char *err, size_t err_bytes) {
    *out = NULL;
    if (options->max_header_bytes > HTTP_HEAD_BYTES_MAX || options->max_header_bytes < 256)
        return fail(err, err_bytes, STATUS_INVALID, "max_header_bytes: expected 256 to %d, found %zu",
                    HTTP_HEAD_BYTES_MAX, options->max_header_bytes);
    if (options->max_connections < 1 || options->port < 0 || options->port > 65535)
        return fail(err, err_bytes, STATUS_INVALID,
                    "expected at least 1 connection and a port from 0 to 65535, found %d and %d",
                    options->max_connections, options->port);
    struct http_server *s = calloc(1, sizeof *s);
    if (!s) return fail(err, err_bytes, STATUS_NO_MEMORY, "%s", status_text(STATUS_NO_MEMORY));
    s->loop = loop;
    s->options = *options;
    s->options.host = copy_of(options->host);
    s->options.uds = copy_of(options->uds);
    s->options.cors_origin = copy_of(options->cors_origin);
    s->options.server_name = copy_of(options->server_name);
    s->handler = handler;
    s->user = user;
    s->sweep_ms = sweep_interval(options);
    http__link_init(&s->conns);
    http__link_init(&s->dirty);

    /* A write to a client that left must be an error code, not a signal; libuv leaves that to the program. */
    struct sigaction current;
    if (sigaction(SIGPIPE, NULL, &current) == 0 && current.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);

    uv_timer_init(loop, &s->sweep);
    uv_prepare_init(loop, &s->prepare);
    if (s->options.uds)
        uv_pipe_init(loop, &s->listener.pipe, 0);
    else
        uv_tcp_init(loop, &s->listener.tcp);
    s->sweep.data = s->prepare.data = s->listener.handle.data = s;
    s->n_handles = 3;
    int status = s->options.uds ? listen_unix(s, err, err_bytes) : listen_tcp(s, err, err_bytes);
    if (status) {
        uv_close((uv_handle_t *)&s->sweep, on_failed_closed);
        uv_close((uv_handle_t *)&s->prepare, on_failed_closed);
        uv_close(&s->listener.handle, on_failed_closed);
        return status;
    }
    s->listening = true;
    uv_prepare_start(&s->prepare, on_prepare);
    uv_unref((uv_handle_t *)&s->prepare);
    *out = s;
    return STATUS_OK;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void report_drained(struct http_server *s) {
    void (*drained)(void *) = s->drained;
    if (!drained || s->n_conns || s->listening) return;
    s->drained = NULL;
    drained(s->user);
}

static void on_listener_closed(uv_handle_t *handle) {
    struct http_server *s = handle->data;
    s->n_handles--;
    s->listening = false;
    report_drained(s);
}

void http__conn_gone(struct http_server *s) {
    if (--s->n_conns > 0) return;
    if (!s->closing && !s->accept_later) uv_timer_stop(&s->sweep);
    report_drained(s);
}

void http_server_drain(struct http_server *s, void (*drained)(void *user)) {
    s->drained = drained;
    if (s->draining) return;
    s->draining = true;
    uv_close(&s->listener.handle, on_listener_closed);
    for (struct http_link *l = s->conns.next; l != &s->conns; l = l->next)
        if (HTTP_CONN_OF(l, all)->state == CONN_IDLE) http__conn_close(HTTP_CONN_OF(l, all));
}

void http_server_close(struct http_server *s) {
    if (s->closing) return;
    s->closing = true;
    if (!s->draining) uv_close(&s->listener.handle, on_listener_closed);
    s->draining = true;
    uv_close((uv_handle_t *)&s->sweep, on_handle_closed);
    uv_close((uv_handle_t *)&s->prepare, on_handle_closed);
    for (struct http_link *l = s->conns.next; l != &s->conns; l = l->next) http__conn_close(HTTP_CONN_OF(l, all));
}

void http_server_free(struct http_server *s) {
    if (!s) return;
    CHECK_EQ(s->n_conns, 0); /* the loop has run since http_server_close */
    CHECK_EQ(s->n_handles, 0);
    server_free(s);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

int http_port(const struct http_server *s) {
    return s->port;
}
int http_n_connections(const struct http_server *s) {
    return s->n_conns;
}

size_t http_queued_bytes(const struct http_server *s) {
    size_t sum = 0;
    for (const struct http_link *l = s->conns.next; l != &s->conns; l = l->next)
        sum += http__conn_queued(HTTP_CONN_OF(l, all));
    return sum;
}

void http_set_done(struct http_server *s, void (*done)(void *user, const struct http_exchange *x, int status,
                                                       uint64_t bytes_sent, double seconds, bool aborted)) {
    s->done = done;
}

const char *http_method(const struct http_exchange *x) {
    return x->request->method;
}
const char *http_path(const struct http_exchange *x) {
    return x->request->path;
}
const char *http_query(const struct http_exchange *x) {
    return x->request->query;
}
const char *http_header(const struct http_exchange *x, const char *name) {
    return http_request_header(x->request, name);
}
const char *http_body(const struct http_exchange *x, size_t *bytes) {
    const struct http_buffer *body = &x->request->body;
    if (bytes) *bytes = body->bytes;
    return body->data ? body->data : "";
}
const char *http_peer(const struct http_exchange *x) {
    return x->conn->peer;
}
uint64_t http_started_ns(const struct http_exchange *x) {
    return x->started_ns;
}

void http_set_user(struct http_exchange *x, void *user, void (*on_abort)(void *user, struct http_exchange *x)) {
    x->user = user;
    x->on_abort = on_abort;
}
void *http_user(const struct http_exchange *x) {
    return x->user;
}
