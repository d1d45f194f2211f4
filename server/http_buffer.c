#include "server/http_buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Most heads, and most events of a stream with their framing, fit the first allocation. */
#define FIRST_BYTES 512

static bool reserve(struct http_buffer *b, size_t more) {
    if (more <= b->cap - b->bytes && b->data) return true;
    if (more > SIZE_MAX / 4 - b->bytes) return false;
    size_t cap = b->cap ? b->cap : FIRST_BYTES;
    while (cap < b->bytes + more) cap *= 2;
    char *data = realloc(b->data, cap + 1);
    if (!data) return false;
    b->data = data;
    b->cap = cap;
    return true;
}

bool http_buffer_append(struct http_buffer *b, const void *data, size_t bytes) {
    if (!reserve(b, bytes)) return false;
    if (bytes) memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
    b->data[b->bytes] = '\0';
    return true;
}

bool http_buffer_printf(struct http_buffer *b, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || !reserve(b, (size_t)n)) return false;
    va_start(args, format);
    vsnprintf(b->data + b->bytes, (size_t)n + 1, format, args);
    va_end(args);
    b->bytes += (size_t)n;
    return true;
}

void http_buffer_free(struct http_buffer *b) {
    free(b->data);
    *b = (struct http_buffer){0};
}
