/* http_parse.h - bytes in, one checked request out: the adapter over the parser library, without any socket.
 *
 * The library (llhttp with TANDEM_LLHTTP, http-parser otherwise) is seen by http_parse.c alone. The guard has checked
 * the framing before the library sees a byte; the adapter collects the head and the body, decides on Host,
 * Content-Length, Transfer-Encoding, Connection and Expect, and splits the target. One parser serves one request: bytes
 * behind it are left to the caller (pipelining). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "server/http_buffer.h"

/* The parser library counts a head's bytes itself and gives up at 80 KiB; we must be the first to refuse. */
#define HTTP_HEAD_BYTES_MAX 65536
/* Header lines of one request; above: 431. Keeps the linear look-up short. */
#define HTTP_FIELDS_MAX 256

struct http_field {
    uint32_t name, value; /* offsets in head.data of NUL-terminated strings */
};

/* A request under assembly; complete after HTTP_PARSE_DONE. All strings are views into `head`. */
struct http_request {
    const char *method;         /* static; "" before the head is complete */
    const char *path;           /* percent-decoded, starts with '/'; "*" for OPTIONS * */
    const char *query;          /* raw, "" when absent */
    bool http_1_0;
    bool keep_alive;            /* what the client wants */
    bool expects_continue;      /* waits for 100 before it sends the body */
    struct http_field *fields;  /* owned, [n_fields] */
    size_t n_fields;
    struct http_buffer head;    /* request line and headers; the adapter writes NULs into it */
    struct http_buffer body;
};

enum http_parse_result {
    HTTP_PARSE_MORE, /* all bytes taken, the request is not complete */
    HTTP_PARSE_HEAD, /* the head is complete and a body follows (returned once) */
    HTTP_PARSE_DONE, /* the request is complete */
    HTTP_PARSE_BAD   /* refused: see http_parse_status, http_parse_message; the connection cannot go on */
};

struct http_parse;

/* NULL when memory is out. */
struct http_parse *http_parse_open(size_t max_head_bytes, size_t max_body_bytes);
void http_parse_close(struct http_parse *p); /* and its request; p may be NULL */
/* Takes bytes up to the next result; *used says how many. Nothing may be fed after DONE or BAD. */
enum http_parse_result http_parse_feed(struct http_parse *p, const char *data, size_t bytes, size_t *used);
/* Whether anything has come but whole empty lines, which may stand before a request. */
bool http_parse_started(const struct http_parse *p);
const struct http_request *http_parse_request(const struct http_parse *p);
int http_parse_status(const struct http_parse *p);
const char *http_parse_message(const struct http_parse *p);

/* The first header of that name (ASCII case-insensitive), or NULL. */
const char *http_request_header(const struct http_request *r, const char *name);

/* http_target.c. Splits the target at `target` (NUL-terminated, visible ASCII; changed in place) into path and query.
 * Origin form, absolute form with http or https, and "*" when `asterisk`. A fragment is cut off. Returns NULL, or what
 * is wrong with it. */
const char *http_target_split(char *target, bool asterisk, const char **path, const char **query);
/* Whether `s` is host[:port], "[v6]:port" or empty, as in a Host header. */
bool http_authority_ok(const char *s, size_t bytes);
