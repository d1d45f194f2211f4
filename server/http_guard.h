/* http_guard.h - which byte may stand where in a request: the strict framing in front of the parser library.
 *
 * http-parser, as distributions build it, takes a bare LF for a line's end, spaces in header names, folded lines, and
 * any two bytes after a chunk: each a way to make two servers in a row see different requests. llhttp refuses most of
 * it. So that both behave the same, every byte of a head and of a chunked body passes this automaton first; it knows
 * RFC 9112's grammar and no meanings (those are http_parse.c's and the library's). What it lets through has one
 * reading only. It never looks back, so any splitting of the input gives the same verdict.
 *
 *   head     *CRLF method SP target SP HTTP/1.x CRLF *(name ":" value CRLF) CRLF
 *   chunked  *(hex *(";" name ["=" value]) CRLF data CRLF) *"0" CRLF *(trailer CRLF) CRLF                           */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct http_guard {
    uint8_t state;
    uint8_t n_seen;        /* characters of the version, or digits of the chunk size, so far */
    bool started;          /* more than whole empty lines before the request line has come */
    uint32_t skipped_bytes; /* chunk extensions and trailers, which nobody reads */
    uint64_t chunk_left;   /* bytes of the current chunk that have not come yet */
    uint64_t body_room;    /* bytes that a chunked body may still have; above: 413 */
    int status;            /* of a refusal: 400, 413, 431, 505 */
    const char *message;   /* static */
};

enum http_guard_kind {
    HTTP_GUARD_MORE,  /* head: all bytes taken, the end is not among them */
    HTTP_GUARD_KEEP,  /* chunked: bytes for the library */
    HTTP_GUARD_SKIP,  /* an empty line before the request; extensions, trailers */
    HTTP_GUARD_END,   /* bytes to keep, and the last of them ends the head or the body */
    HTTP_GUARD_BAD    /* the byte after those taken may not stand there: see status, message */
};

/* Bytes that may be spent on extensions and trailers of one body. */
#define HTTP_GUARD_SKIPPED_MAX 16384

void http_guard_init(struct http_guard *g, uint64_t max_body_bytes);
/* Takes a longest prefix of one kind and returns its length; 0 only with BAD or bytes == 0. */
size_t http_guard_head(struct http_guard *g, const char *data, size_t bytes, enum http_guard_kind *kind);
/* The same for a chunked body, after the head has ended. */
size_t http_guard_chunked(struct http_guard *g, const char *data, size_t bytes, enum http_guard_kind *kind);
