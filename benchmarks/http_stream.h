/* http_stream.h - private to benchmarks/: one HTTP/1.1 request whose answer is read line by line as it comes, on a
 * socket that never blocks. Light enough that the client is not what is measured. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct http_stream { /* zero-initialise; the request is owned */
    int fd;
    char *request;
    size_t bytes, sent;
    int status; /* of the answer; 0 while unknown */
    int state;  /* private, like all that follows */
    bool chunked;
    long left; /* bytes of the chunk, or of the body; -1: until the connection ends */
    char *line, *body_line;
    size_t n_line, line_capacity, n_body_line, body_line_capacity;
};

enum http_progress { HTTP_GOING, HTTP_ENDED, HTTP_BROKEN };

/* Starts to connect and takes over `request` (malloc'ed). 0, or errno. */
int http_stream_open(struct http_stream *s, const struct sockaddr *to, socklen_t to_bytes, char *request, size_t bytes);
void http_stream_close(struct http_stream *s);
/* What to poll for. */
short http_stream_events(const struct http_stream *s);
/* Writes and reads what goes without waiting; `line` is called with each line of the body, zero-terminated, without its
 * end. */
enum http_progress http_stream_advance(struct http_stream *s, void (*line)(void *user, const char *text), void *user);
