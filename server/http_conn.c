/* http_conn.c - one connection: reading, handing requests up, timeouts, noticing that the client left, closing.
 *
 * Reading goes on while an exchange is alive, so that FIN and RST are seen at once. A FIN counts as leaving, as nginx
 * and uvicorn have it: a client that shuts its sending side while its answer is being made is not told apart from one
 * that closed, and generating tokens for nobody is the costlier mistake. Only an answer that is already complete is
 * still written out. When pipelined bytes fill the buffer, reading stops, and a sweep asks poll(2) instead. */
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kernels/status.h"
#include "server/http_internal.h"

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer);

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
    (void)suggested;
    struct http_conn *c = handle->data;
    *buffer = uv_buf_init(c->server->read_buffer, HTTP_READ_BYTES);
}

static void set_reading(struct http_conn *c, bool on) {
    if (c->reading == on || c->state == CONN_CLOSING) return;
    c->reading = on;
    if (!on)
        uv_read_stop(&c->h.stream);
    else if (uv_read_start(&c->h.stream, on_alloc, on_read) != 0)
        http__conn_close(c);
}

static void set_deadline(struct http_conn *c, uint64_t ms) {
    c->deadline_ms = uv_now(c->server->loop) + ms;
}

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

static bool exchange_begin(struct http_conn *c) {
    const struct http_options *o = &c->server->options;
    struct http_exchange *x = calloc(1, sizeof *x);
    struct http_parse *parse = x ? http_parse_open(o->max_header_bytes, o->max_body_bytes) : NULL;
    if (!parse) {
        free(x);
        http__conn_close(c);
        return false;
    }
    x->conn = c;
    x->parse = parse;
    x->request = http_parse_request(parse);
    x->started_ns = uv_hrtime();
    x->n_appended_before = c->n_appended;
    c->x = x;
    c->state = CONN_READING;
    set_deadline(c, (uint64_t)o->header_timeout_ms);
    return true;
}

/* Takes the exchange off its connection, reports it, frees it. One that was never handed up nor answered ends in
 * silence. The connection forgets it first: the callbacks may close the server, and with it this connection. */
static void exchange_finish(struct http_conn *c, bool aborted) {
    struct http_exchange *x = c->x;
    struct http_server *s = c->server;
    enum http_exchange_state state = x->state;
    x->state = EXCHANGE_DEAD;
    c->x = NULL;
    if (state != EXCHANGE_READING) {
        bool with_handler = state == EXCHANGE_HANDLING || state == EXCHANGE_STREAMING;
        uint64_t sent = c->n_appended - http__conn_queued(c);
        sent = sent > x->n_appended_before ? sent - x->n_appended_before : 0;
        if (aborted && with_handler && x->on_abort) x->on_abort(x->user, x);
        if (s->done) s->done(s->user, x, x->status, sent, (double)(uv_hrtime() - x->started_ns) * 1e-9, aborted);
    }
    http_parse_close(x->parse);
    free(x);
}

/* ---- closing ----------------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle) {
    struct http_conn *c = handle->data;
    struct http_server *s = c->server;
    http__link_remove(&c->all);
    http_buffer_free(&c->in);
    http_buffer_free(&c->out);
    http_buffer_free(&c->sending);
    free(c);
    http__conn_gone(s);
}

void http__conn_close(struct http_conn *c) {
    if (c->state == CONN_CLOSING) return;
    c->state = CONN_CLOSING;
    http__link_remove(&c->dirty);
    if (c->x) exchange_finish(c, true);
    uv_close(&c->h.handle, on_closed);
}

static void on_shutdown(uv_shutdown_t *shutdown, int status) {
    struct http_conn *c = shutdown->data;
    if (c->state != CONN_CLOSING && (status < 0 || c->eof)) http__conn_close(c);
}

static void linger(struct http_conn *c) {
    http_buffer_free(&c->in);
    http_buffer_free(&c->out);
    c->in_start = 0;
    c->state = CONN_LINGER;
    set_deadline(c, HTTP_LINGER_MS);
    c->shutdown.data = c;
    if (uv_shutdown(&c->shutdown, &c->h.stream, on_shutdown) != 0)
        http__conn_close(c);
    else if (!c->eof)
        set_reading(c, true);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static void become_idle(struct http_conn *c) {
    if (c->server->draining) {
        http__conn_close(c);
        return;
    }
    http_buffer_free(&c->out); /* an idle connection keeps its struct and nothing else */
    c->state = CONN_IDLE;
    set_deadline(c, (uint64_t)c->server->options.idle_timeout_ms);
}

/* Parses up to the end of one request; returns the bytes used. When the request is complete or refused, the state is
 * CONN_ANSWERING. */
static size_t parse(struct http_conn *c, const char *data, size_t bytes) {
    const struct http_options *o = &c->server->options;
    size_t total = 0;
    while (total < bytes) {
        if (!c->x && !exchange_begin(c)) return bytes;
        struct http_exchange *x = c->x;
        size_t used;
        enum http_parse_result result = http_parse_feed(x->parse, data + total, bytes - total, &used);
        total += used;
        switch (result) {
        case HTTP_PARSE_MORE:
            break;
        case HTTP_PARSE_HEAD:
            x->head_complete = true;
            set_deadline(c, (uint64_t)o->body_timeout_ms);
            if (x->request->expects_continue && total == bytes) http__continue(x);
            break;
        case HTTP_PARSE_DONE:
            x->state = EXCHANGE_HANDLING;
            c->state = CONN_ANSWERING;
            c->deadline_ms = 0;
            return total;
        case HTTP_PARSE_BAD:
            http__refuse(x, http_parse_status(x->parse), http_parse_message(x->parse));
            return bytes;
        }
    }
    if (c->state == CONN_READING && !http_parse_started(c->x->parse)) { /* nothing but empty lines */
        exchange_finish(c, false);
        become_idle(c);
    }
    return total;
}

static void dispatch(struct http_conn *c) {
    struct http_exchange *x = c->x;
    if (c->state != CONN_ANSWERING || !x || x->state != EXCHANGE_HANDLING) return; /* incomplete, or refused */
    if (strcmp(x->request->method, "OPTIONS") == 0)
        http__answer_options(x);
    else
        c->server->handler(c->server->user, x);
}

/* Keeps bytes for later; stops reading when that is enough. */
static void keep_waiting(struct http_conn *c, const char *data, size_t bytes) {
    if (c->in_start) { /* otherwise a client that always sends a little ahead would make it grow for ever */
        memmove(c->in.data, c->in.data + c->in_start, c->in.bytes - c->in_start);
        c->in.bytes -= c->in_start;
        c->in_start = 0;
    }
    if (!http_buffer_append(&c->in, data, bytes))
        http__conn_close(c);
    else if (c->in.bytes >= HTTP_PIPELINE_BYTES)
        set_reading(c, false);
}

/* Goes on with the bytes that waited. */
static void parse_waiting(struct http_conn *c) {
    c->in_start += parse(c, c->in.data + c->in_start, c->in.bytes - c->in_start);
    if (c->in_start == c->in.bytes) {
        http_buffer_free(&c->in);
        c->in_start = 0;
    }
    dispatch(c);
}

void http__conn_settle(struct http_conn *c) {
    for (;;) {
        http__conn_flush(c);
        if (c->state != CONN_ANSWERING || c->x->state != EXCHANGE_ANSWERED || http__conn_queued(c)) return;
        bool keep_alive = c->x->keep_alive && !c->eof && !c->server->draining;
        exchange_finish(c, false);
        if (c->state == CONN_CLOSING) return; /* `done` closed the server */
        if (!keep_alive) {
            linger(c);
            return;
        }
        become_idle(c);
        if (c->in.bytes) parse_waiting(c);
        if (c->state == CONN_CLOSING) return;
        if (c->in.bytes - c->in_start < HTTP_PIPELINE_BYTES) set_reading(c, true);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buffer) {
    struct http_conn *c = stream->data;
    if (n == 0) return;
    if (n < 0) {
        bool answered = n == UV_EOF && c->state == CONN_ANSWERING && c->x->state == EXCHANGE_ANSWERED;
        if (!answered) {
            http__conn_close(c);
            return;
        }
        c->eof = true;
        set_reading(c, false);
        return;
    }
    if (c->state == CONN_LINGER) return;
    size_t bytes = (size_t)n;
    if (c->state == CONN_ANSWERING) {
        keep_waiting(c, buffer->base, bytes);
        return;
    }
    size_t used = parse(c, buffer->base, bytes);
    if (c->state == CONN_CLOSING) return;
    if (used < bytes) keep_waiting(c, buffer->base + used, bytes - used);
    dispatch(c);
}

/* ---- timeouts ---------------------------------------------------------------------------------------------------- */

static bool client_left(const struct http_conn *c) {
    struct pollfd p = {.events = POLLRDHUP};
    if (uv_fileno(&c->h.handle, &p.fd) != 0) return false;
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void deadline_passed(struct http_conn *c, uint64_t now_ms) {
    if (c->state != CONN_READING) {
        http__conn_close(c);
        return;
    }
    if (!c->x->head_complete) {
        http__refuse(c->x, 408, "the headers took too long");
        return;
    }
    uint64_t more_ms = c->x->request->body.bytes * 1000 / HTTP_BODY_BYTES_PER_SECOND;
    if (now_ms >= c->deadline_ms + more_ms) http__refuse(c->x, 408, "the body took too long");
}

/* Bytes in the kernel that the client's side has not acknowledged. Without them a slow but steady reader would look
 * stuck: a socket becomes writable again only when a third of its buffer, which may be megabytes, is free. */
static uint64_t unacknowledged(const struct http_conn *c) {
    int fd, bytes = 0;
    if (uv_fileno(&c->h.handle, &fd) != 0 || ioctl(fd, SIOCOUTQ, &bytes) != 0) return 0;
    return (uint64_t)bytes;
}

void http__conn_sweep(struct http_conn *c, uint64_t now_ms) {
    if (c->state == CONN_CLOSING) return;
    uint64_t taken = c->writing ? c->n_appended - http__conn_queued(c) - unacknowledged(c) : 0;
    if (!c->writing || taken != c->taken) {
        c->taken = taken;
        c->taken_ms = now_ms;
    } else if (now_ms - c->taken_ms >= (uint64_t)c->server->options.write_timeout_ms) {
        http__conn_close(c);
        return;
    }
    if (c->deadline_ms && now_ms >= c->deadline_ms)
        deadline_passed(c, now_ms);
    else if (c->state == CONN_ANSWERING && !c->reading && !c->eof && client_left(c))
        http__conn_close(c);
}

/* ---- accepting --------------------------------------------------------------------------------------------------- */

static void set_peer(struct http_conn *c) {
    struct sockaddr_storage a;
    int n = sizeof a;
    char host[46] = "?";
    snprintf(c->peer, sizeof c->peer, "unix");
    if (c->h.handle.type != UV_TCP || uv_tcp_getpeername(&c->h.tcp, (struct sockaddr *)&a, &n) != 0) return;
    if (a.ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&a;
        uv_ip6_name(v6, host, sizeof host);
        snprintf(c->peer, sizeof c->peer, "[%s]:%d", host, ntohs(v6->sin6_port));
    } else {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&a;
        uv_ip4_name(v4, host, sizeof host);
        snprintf(c->peer, sizeof c->peer, "%s:%d", host, ntohs(v4->sin_port));
    }
}

void http__conn_accept(struct http_server *s) {
    struct http_conn *c = calloc(1, sizeof *c);
    if (!c) {
        s->accept_later = true;
        return;
    }
    s->accept_later = false;
    c->server = s;
    http__link_init(&c->dirty);
    bool tcp = s->listener.handle.type == UV_TCP;
    if ((tcp ? uv_tcp_init(s->loop, &c->h.tcp) : uv_pipe_init(s->loop, &c->h.pipe, 0)) != 0) {
        free(c);
        return;
    }
    c->h.handle.data = c;
    http__link_append(&s->conns, &c->all);
    s->n_conns++;
    c->taken_ms = uv_now(s->loop);
    set_deadline(c, (uint64_t)s->options.idle_timeout_ms);
    int over = s->n_conns - s->options.max_connections;
    if (uv_accept(&s->listener.stream, &c->h.stream) != 0 || over > HTTP_REFUSED_MAX) {
        http__conn_close(c);
        return;
    }
    if (tcp) {
        uv_tcp_nodelay(&c->h.tcp, 1);
        uv_tcp_keepalive(&c->h.tcp, 1, 60);
        int fd, most = HTTP_UNSENT_BYTES;
        if (uv_fileno(&c->h.handle, &fd) == 0) setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &most, sizeof most);
    }
    set_peer(c);
    if (over > 0) {
        if (exchange_begin(c)) http__refuse(c->x, 503, "too many connections");
    } else {
        set_reading(c, true);
    }
}
