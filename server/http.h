/* http.h - an HTTP/1.1 server on one libuv loop, for small JSON requests and long event streams.
 *
 * Owns: listening, connections, parsing (llhttp, or http-parser where the distribution has only that), limits,
 * timeouts, keep-alive, pipelining, backpressure. Knows nothing of routes, JSON or models: each complete request
 * becomes an http_exchange and is handed to one handler. Everything here runs on the loop's thread.
 *
 * Life of an exchange: the handler is called once with the whole request (body included) -> the handler, then or
 * later, answers with http_respond, or with http_stream_begin / http_stream_write* / http_stream_end. After
 * http_respond or http_stream_end the layer above has no more to say: x must not be touched again except in `done`,
 * where it is seen for the last time, once its last byte was written or could not be. If the client leaves before the
 * answer is complete, on_abort is called once (loop thread), then `done`, and the exchange is gone. Answering from
 * inside on_abort does nothing.
 *
 * What counts as leaving: FIN, RST, or reading nothing for too long. A client that only shuts down its sending side
 * counts as one that closed, as with nginx and uvicorn; an answer that is complete by then is still written.
 *
 * Pipelined requests wait: at most one exchange per connection is alive. A HEAD request is answered like GET; the
 * server leaves the body out. OPTIONS (CORS preflight), Expect: 100-continue, and everything malformed are answered
 * here, without the handler. Methods that a handler sees: GET, HEAD, POST, PUT, PATCH, DELETE; any other gets 501. An
 * offer to upgrade (websocket, h2c) is ignored. What one loop iteration appends leaves together right before the loop
 * sleeps. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct http_options {
    const char *host;            /* "127.0.0.1"; a name or an IPv6 address will do; NULL: all addresses */
    int port;                    /* 0: any free one, see http_port */
    const char *uds;             /* NULL, or a Unix socket's path instead of host and port */
    size_t max_header_bytes;     /* request line and headers; above: 431. default and most: 64 KiB */
    size_t max_body_bytes;       /* above: 413. default 16 MiB */
    int max_connections;         /* above: 503 and close. default 4096 */
    int header_timeout_ms;       /* from the first byte to the end of the headers; 408. default 10 s */
    int body_timeout_ms;         /* from there to the body's end, and a second more per 64 KiB received; 408. 30 s */
    int idle_timeout_ms;         /* connection without a request: closed in silence. default 75 s */
    int write_timeout_ms;        /* a reader that takes nothing for so long is cut off. default 60 s */
    size_t max_write_buffer;     /* bytes of a stream queued for one slow reader before it is cut off. default 1 MiB */
    const char *cors_origin;     /* "*" by default; NULL: no CORS headers */
    const char *server_name;     /* "tandem/0.1.0" */
    /* The body of the server's own error answers (400, 408, 413, 431, 503 ...): writes JSON into buf, returns its
     * length (application/json). NULL: plain text. */
    size_t (*error_body)(void *user, int status, const char *message, char *buf, size_t buf_bytes);
};
struct http_options http_default_options(void);

struct http_server;
struct http_exchange;

typedef void (*http_handler)(void *user, struct http_exchange *x);

/* Binds and listens on the loop; `options` and its strings are copied. STATUS_IO with a sentence (address in use, ...),
 * STATUS_INVALID for options out of range. A Unix socket that nobody listens on any more is replaced. SIGPIPE is set to
 * be ignored if the program left it at its default. */
int http_server_open(struct http_server **out, uv_loop_t *loop, const struct http_options *options,
                     http_handler handler, void *user, char *err, size_t err_bytes);
int http_port(const struct http_server *s); /* the real one when options.port was 0; 0 for a Unix socket */
/* Stops accepting and closes idle connections; those with a live exchange close after their answer ("Connection:
 * close"). `drained` (may be NULL) is called once, from the loop, when no connection is left; http_server_close may be
 * called in it. */
void http_server_drain(struct http_server *s, void (*drained)(void *user));
/* Closes every connection now (on_abort is called for live exchanges); the handles close as the loop runs on.
 * Free with http_server_free after the loop has run out. */
void http_server_close(struct http_server *s);
void http_server_free(struct http_server *s);
/* Open connections, and bytes queued for writing in all: for tests and metrics. */
int http_n_connections(const struct http_server *s);
size_t http_queued_bytes(const struct http_server *s);

/* ---- the request: views, valid while the exchange lives ---------------------------------------------------------- */

const char *http_method(const struct http_exchange *x); /* "GET", "POST", ... */
/* Percent-decoded once, without query and fragment; starts with '/', has no control characters, may have "..". */
const char *http_path(const struct http_exchange *x);
const char *http_query(const struct http_exchange *x);  /* raw, "" when absent */
/* The first header of that name (case-insensitive), without white space around it, or NULL. Host, Content-Length and
 * Expect cannot be repeated. */
const char *http_header(const struct http_exchange *x, const char *name);
const char *http_body(const struct http_exchange *x, size_t *bytes); /* a NUL follows; "" when there is none */
const char *http_peer(const struct http_exchange *x);   /* "127.0.0.1:51234", "unix" */
/* uv_hrtime at the request's first byte; for a pipelined one, when its turn came. */
uint64_t http_started_ns(const struct http_exchange *x);

/* The handler's own state, and what to call when the client leaves before the answer is complete. */
void http_set_user(struct http_exchange *x, void *user, void (*on_abort)(void *user, struct http_exchange *x));
void *http_user(const struct http_exchange *x);

/* ---- the answer -------------------------------------------------------------------------------------------------- */

/* `headers` is NULL or "Name: value\r\n..." lines, added to the server's own (Date, Server, CORS, Content-Length or
 * Transfer-Encoding, Connection). content_type may be NULL. The body is copied, whatever its size: max_write_buffer is
 * for streams, only write_timeout_ms watches over this. */
void http_respond(struct http_exchange *x, int status, const char *content_type, const char *headers, const void *body,
                  size_t bytes);

/* An answer of unknown length: chunked (or until close for HTTP/1.0). */
void http_stream_begin(struct http_exchange *x, int status, const char *content_type, const char *headers);
/* Copies the bytes into the connection's write queue (each call one chunk; nothing for HEAD). False when the client was
 * found gone or was just cut off for reading too slowly: on_abort and `done` have been called and x is gone. */
bool http_stream_write(struct http_exchange *x, const void *data, size_t bytes);
void http_stream_end(struct http_exchange *x);
/* Called once per exchange at its very end, for logs and metrics. Also for those that the server answered itself
 * (OPTIONS, 400, 408, ...): they have no http_user, and method and path are "" when the request was not understood that
 * far. `status` is 0 when nothing was answered; bytes_sent counts heads too; `aborted`: not all was sent. Connections
 * that close without a complete request are not reported. May be NULL. */
void http_set_done(struct http_server *s, void (*done)(void *user, const struct http_exchange *x, int status,
                                                       uint64_t bytes_sent, double seconds, bool aborted));
