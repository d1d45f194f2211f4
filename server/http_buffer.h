/* http_buffer.h - a growable array of bytes: a request's head and body, a connection's queues.
 *
 * `data` is owned and always has room for one NUL more than `cap`; zero-initialise, end with http_buffer_free. Growth
 * doubles, so what a sender only announces costs nothing until it has arrived. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct http_buffer {
    char *data;   /* owned, [cap + 1]; NULL while nothing was appended */
    size_t bytes; /* in use */
    size_t cap;
};

/* Appends, and ends with a NUL that `bytes` does not count. False, with the buffer unchanged, when memory is out. */
bool http_buffer_append(struct http_buffer *b, const void *data, size_t bytes);
bool http_buffer_printf(struct http_buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void http_buffer_free(struct http_buffer *b); /* and zeroes it, so that it can be used again */
