/* http_write.c - the answer: status line and headers, one piece or chunked, and the connection's write queue.
 *
 * Bytes gather in `out`. A flush first tries to write them right away; what the kernel does not take moves to `sending`
 * and is given to uv_write, and `out` gathers anew until its callback. So a reader that keeps up costs one system call
 * per loop iteration and no queue. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/status.h"
#include "server/http_internal.h"

/* clang-format off */
static const struct {
    int status;
    const char *phrase;
} reasons[] = {
    {100, "Continue"}, {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"},
    {206, "Partial Content"}, {301, "Moved Permanently"}, {302, "Found"}, {303, "See Other"}, {304, "Not Modified"},
    {307, "Temporary Redirect"}, {308, "Permanent Redirect"}, {400, "Bad Request"}, {401, "Unauthorized"},
    {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"}, {406, "Not Acceptable"},
    {408, "Request Timeout"}, {409, "Conflict"}, {410, "Gone"}, {411, "Length Required"},
    {412, "Precondition Failed"}, {413, "Content Too Large"}, {415, "Unsupported Media Type"},
    {416, "Range Not Satisfiable"}, {417, "Expectation Failed"}, {422, "Unprocessable Content"},
    {424, "Failed Dependency"}, {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"},
    {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"},
};
/* clang-format on */

static const char *reason_phrase(int status) {
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status) return reasons[i].phrase;
    return status < 400 ? "OK" : "Error";
}

/* ---- the write queue --------------------------------------------------------------------------------------------- */

void http__conn_dirty(struct http_conn *c) {
    if (c->state != CONN_CLOSING && http__link_empty(&c->dirty)) http__link_append(&c->server->dirty, &c->dirty);
}

size_t http__conn_queued(const struct http_conn *c) {
    return c->out.bytes + uv_stream_get_write_queue_size(&c->h.stream);
}

static void on_written(uv_write_t *write, int status) {
    struct http_conn *c = write->data;
    c->writing = false;
    http_buffer_free(&c->sending);
    if (c->state == CONN_CLOSING) return;
    if (status < 0)
        http__conn_close(c);
    else
        http__conn_dirty(c);
}

void http__conn_flush(struct http_conn *c) {
    if (c->failed) http__conn_close(c);
    if (c->writing || !c->out.bytes || c->state == CONN_CLOSING) return;
    uv_buf_t all = uv_buf_init(c->out.data, (unsigned)c->out.bytes);
    int n = uv_try_write(&c->h.stream, &all, 1);
    if (n < 0 && n != UV_EAGAIN) {
        http__conn_close(c);
        return;
    }
    size_t written = n < 0 ? 0 : (size_t)n;
    if (written == c->out.bytes) {
        if (c->out.cap > HTTP_FLUSH_BYTES * 2) http_buffer_free(&c->out); /* a large answer's; small ones stay */
        c->out.bytes = 0;
        return;
    }
    c->sending = c->out;
    c->out = (struct http_buffer){0};
    uv_buf_t rest = uv_buf_init(c->sending.data + written, (unsigned)(c->sending.bytes - written));
    c->write.data = c;
    if (uv_write(&c->write, &c->h.stream, &rest, 1, on_written) != 0) {
        http__conn_close(c);
        return;
    }
    c->writing = true;
    c->taken_ms = uv_now(c->server->loop); /* the write timeout starts here */
}

/* Appends to the connection's queue. Without memory the connection ends with the next flush, not here, since the caller
 * still holds the exchange: half an answer must not look like a whole one. */
static void append(struct http_conn *c, const void *data, size_t bytes) {
    if (c->failed || !http_buffer_append(&c->out, data, bytes))
        c->failed = true;
    else
        c->n_appended += bytes;
    http__conn_dirty(c);
}

/* ---- heads ------------------------------------------------------------------------------------------------------- */

/* RFC 9110's date, made once a second; strftime would follow the locale. */
static const char *date_now(struct http_server *s) {
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    if (now != s->date_second || !s->date[0]) {
        struct tm t;
        gmtime_r(&now, &t);
        s->date_second = now;
        snprintf(s->date, sizeof s->date, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + t.tm_wday * 3, t.tm_mday,
                 months + t.tm_mon * 3, (t.tm_year + 1900) % 10000, t.tm_hour, t.tm_min, t.tm_sec);
    }
    return s->date;
}

/* `bytes` < 0: a stream. */
static void append_head(struct http_exchange *x, int status, const char *content_type, const char *headers,
                        int64_t bytes) {
    struct http_conn *c = x->conn;
    struct http_server *s = c->server;
    const struct http_request *r = x->request;
    bool no_content = status == 204 || status == 304 || (status >= 100 && status < 200);
    x->status = status;
    x->without_body = no_content || strcmp(r->method, "HEAD") == 0;
    x->chunked = bytes < 0 && !r->http_1_0 && !no_content;
    x->keep_alive = r->keep_alive && !x->must_close && !s->draining && !(bytes < 0 && r->http_1_0 && !x->without_body);
    size_t before = c->out.bytes;
    struct http_buffer *b = &c->out;
    bool ok = http_buffer_printf(b, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason_phrase(status), date_now(s));
    if (s->options.server_name) ok = ok && http_buffer_printf(b, "Server: %s\r\n", s->options.server_name);
    if (s->options.cors_origin) {
        ok = ok && http_buffer_printf(b, "Access-Control-Allow-Origin: %s\r\n", s->options.cors_origin);
        if (strcmp(s->options.cors_origin, "*") != 0) ok = ok && http_buffer_printf(b, "Vary: Origin\r\n");
    }
    if (content_type) ok = ok && http_buffer_printf(b, "Content-Type: %s\r\n", content_type);
    if (x->chunked)
        ok = ok && http_buffer_printf(b, "Transfer-Encoding: chunked\r\n");
    else if (bytes >= 0 && !no_content)
        ok = ok && http_buffer_printf(b, "Content-Length: %lld\r\n", (long long)bytes);
    if (!x->keep_alive)
        ok = ok && http_buffer_printf(b, "Connection: close\r\n");
    else if (r->http_1_0)
        ok = ok && http_buffer_printf(b, "Connection: keep-alive\r\n");
    if (headers && *headers) {
        size_t n = strlen(headers);
        bool ended = n >= 2 && memcmp(headers + n - 2, "\r\n", 2) == 0;
        ok = ok && http_buffer_printf(b, "%s%s", headers, ended ? "" : "\r\n");
    }
    ok = ok && http_buffer_append(b, "\r\n", 2);
    c->n_appended += b->bytes - before;
    if (!ok) c->failed = true;
    http__conn_dirty(c);
}

static void answer(struct http_exchange *x, int status, const char *content_type, const char *headers, const void *body,
                   size_t bytes) {
    append_head(x, status, content_type, headers, (int64_t)bytes);
    if (bytes && !x->without_body) append(x->conn, body, bytes);
    x->state = EXCHANGE_ANSWERED;
}

/* ---- answers of the server itself -------------------------------------------------------------------------------- */

void http__continue(struct http_exchange *x) {
    static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
    append(x->conn, line, sizeof line - 1);
}

void http__refuse(struct http_exchange *x, int status, const char *message) {
    struct http_conn *c = x->conn;
    const struct http_options *o = &c->server->options;
    char text[1024];
    size_t bytes;
    if (o->error_body)
        bytes = o->error_body(c->server->user, status, message, text, sizeof text);
    else
        bytes = (size_t)snprintf(text, sizeof text, "%s\n", message);
    if (bytes > sizeof text) bytes = sizeof text;
    x->must_close = true;
    c->state = CONN_ANSWERING;
    c->deadline_ms = 0;
    answer(x, status, o->error_body ? "application/json" : "text/plain; charset=utf-8", NULL, text, bytes);
}

void http__answer_options(struct http_exchange *x) {
    static const char methods[] = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    char headers[1024];
    if (!x->conn->server->options.cors_origin) {
        snprintf(headers, sizeof headers, "Allow: %s\r\n", methods);
    } else {
        /* "*" would not cover Authorization (Fetch standard): repeat what the browser asks for. */
        const char *asked = http_request_header(x->request, "Access-Control-Request-Headers");
        if (!asked || !*asked || strlen(asked) > 512) asked = "Authorization, Content-Type";
        snprintf(headers, sizeof headers,
                 "Allow: %s\r\nAccess-Control-Allow-Methods: %s\r\nAccess-Control-Allow-Headers: %s\r\n"
                 "Access-Control-Max-Age: 7200\r\n",
                 methods, methods, asked);
    }
    answer(x, 204, NULL, headers, NULL, 0);
}

/* ---- answers of the layer above ---------------------------------------------------------------------------------- */

void http_respond(struct http_exchange *x, int status, const char *content_type, const char *headers, const void *body,
                  size_t bytes) {
    if (x->state == EXCHANGE_DEAD) return;
    CHECK_EQ(x->state, EXCHANGE_HANDLING);
    answer(x, status, content_type, headers, body, bytes);
}

void http_stream_begin(struct http_exchange *x, int status, const char *content_type, const char *headers) {
    if (x->state == EXCHANGE_DEAD) return;
    CHECK_EQ(x->state, EXCHANGE_HANDLING);
    x->state = EXCHANGE_STREAMING;
    append_head(x, status, content_type, headers, -1);
}

/* A chunk's size line. By hand: it comes with every token of every stream. */
static void append_size_line(struct http_conn *c, size_t bytes) {
    char line[24], *p = line + sizeof line;
    *--p = '\n';
    *--p = '\r';
    do *--p = "0123456789abcdef"[bytes % 16];
    while (bytes /= 16);
    append(c, p, (size_t)(line + sizeof line - p));
}

bool http_stream_write(struct http_exchange *x, const void *data, size_t bytes) {
    if (x->state == EXCHANGE_DEAD) return false;
    CHECK_EQ(x->state, EXCHANGE_STREAMING);
    if (!bytes || x->without_body) return true;
    struct http_conn *c = x->conn;
    size_t max = c->server->options.max_write_buffer;
    if (c->out.bytes + bytes > (max < HTTP_FLUSH_BYTES ? max : HTTP_FLUSH_BYTES)) {
        http__conn_flush(c);
        if (c->state == CONN_CLOSING) return false;
        size_t queued = http__conn_queued(c);
        if (queued && (queued > max || bytes > max - queued)) {
            http__conn_close(c);
            return false;
        }
    }
    if (x->chunked) append_size_line(c, bytes);
    append(c, data, bytes);
    if (x->chunked) append(c, "\r\n", 2);
    return true;
}

void http_stream_end(struct http_exchange *x) {
    if (x->state == EXCHANGE_DEAD) return;
    CHECK_EQ(x->state, EXCHANGE_STREAMING);
    if (x->chunked && !x->without_body) append(x->conn, "0\r\n\r\n", 5);
    x->state = EXCHANGE_ANSWERED;
    http__conn_dirty(x->conn);
}
