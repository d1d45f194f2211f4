#include "benchmarks/http_stream.h"
#include "kernels/status.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum state { STATE_STATUS, STATE_HEADERS, STATE_BODY, STATE_CHUNK_SIZE, STATE_CHUNK_END, STATE_TRAILERS, STATE_DONE };
enum { MAX_LINE = 1 << 24 };

int http_stream_open(struct http_stream *s, const struct sockaddr *to, socklen_t to_bytes, char *request,
                     size_t bytes) {
    *s = (struct http_stream){.request = request, .bytes = bytes, .left = -1};
    s->fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0) return errno;
    const int one = 1;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return connect(s->fd, to, to_bytes) && errno != EINPROGRESS ? errno : 0;
}

void http_stream_close(struct http_stream *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
    free(s->request);
    free(s->line);
    free(s->body_line);
    s->request = s->line = s->body_line = NULL;
}

short http_stream_events(const struct http_stream *s) {
    return (short)(POLLIN | (s->sent < s->bytes ? POLLOUT : 0));
}

/* Appends up to the end of a line; true when the line is complete (zero-terminated, its end cut off). */
static bool take_line(char **line, size_t *n, size_t *capacity, const char **p, const char *end) {
    const char *stop = memchr(*p, '\n', (size_t)(end - *p));
    const size_t more = (size_t)((stop ? stop : end) - *p);
    if (*n + more + 1 > *capacity) {
        *capacity = 2 * (*n + more + 1);
        *line = realloc(*line, *capacity);
        CHECK(*line);
    }
    memcpy(*line + *n, *p, more);
    *n += more;
    *p = stop ? stop + 1 : end;
    if (!stop) return false;
    if (*n && (*line)[*n - 1] == '\r') --*n;
    (*line)[*n] = 0;
    *n = 0;
    return true;
}

static void take_header(struct http_stream *s) {
    if (!*s->line) {
        s->state = s->chunked ? STATE_CHUNK_SIZE : STATE_BODY;
        if (!s->chunked && s->left == 0) s->state = STATE_DONE;
    } else if (!strncasecmp(s->line, "transfer-encoding:", 18)) {
        s->chunked = strcasestr(s->line, "chunked") != NULL;
    } else if (!strncasecmp(s->line, "content-length:", 15)) {
        s->left = strtol(s->line + 15, NULL, 10);
    }
}

/* One complete line of what is not body. */
static bool take_meta(struct http_stream *s) {
    switch (s->state) {
    case STATE_STATUS:
        if (sscanf(s->line, "HTTP/1.%*d %d", &s->status) != 1) return false;
        s->state = STATE_HEADERS;
        return true;
    case STATE_HEADERS:
        take_header(s);
        return true;
    case STATE_CHUNK_SIZE:
        s->left = strtol(s->line, NULL, 16);
        s->state = s->left > 0 ? STATE_BODY : STATE_TRAILERS;
        return s->left >= 0;
    case STATE_CHUNK_END:
        s->state = STATE_CHUNK_SIZE;
        return true;
    default:
        if (!*s->line) s->state = STATE_DONE;
        return true;
    }
}

static bool take(struct http_stream *s, const char *p, const char *end, void (*line)(void *user, const char *text),
                 void *user) {
    while (p < end && s->state != STATE_DONE) {
        if (s->state != STATE_BODY) {
            if (take_line(&s->line, &s->n_line, &s->line_capacity, &p, end) && !take_meta(s)) return false;
            if (s->n_line > MAX_LINE) return false;
            continue;
        }
        const char *stop = s->left >= 0 && s->left < end - p ? p + s->left : end;
        if (s->left >= 0) s->left -= stop - p;
        while (p < stop)
            if (take_line(&s->body_line, &s->n_body_line, &s->body_line_capacity, &p, stop)) line(user, s->body_line);
        if (s->n_body_line > MAX_LINE) return false;
        if (s->left == 0) s->state = s->chunked ? STATE_CHUNK_END : STATE_DONE;
    }
    return true;
}

/* The last line of a body need not end in one. */
static enum http_progress ended(struct http_stream *s, void (*line)(void *user, const char *text), void *user) {
    if (s->n_body_line) {
        s->body_line[s->n_body_line] = 0;
        line(user, s->body_line);
    }
    const bool whole = s->state == STATE_DONE || (s->state == STATE_BODY && !s->chunked && s->left <= 0);
    return whole ? HTTP_ENDED : HTTP_BROKEN;
}

enum http_progress http_stream_advance(struct http_stream *s, void (*line)(void *user, const char *text), void *user) {
    char buffer[65536];
    while (s->sent < s->bytes) {
        const ssize_t n = send(s->fd, s->request + s->sent, s->bytes - s->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN || errno == EINTR)) break;
        if (n < 0) return HTTP_BROKEN;
        s->sent += (size_t)n;
    }
    for (;;) {
        const ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN || errno == EINTR)) return HTTP_GOING;
        if (n < 0) return HTTP_BROKEN;
        if (n == 0) return ended(s, line, user);
        if (!take(s, buffer, buffer + n, line, user)) return HTTP_BROKEN;
        if (s->state == STATE_DONE) return ended(s, line, user);
    }
}
