/* http_parse.c - see http_parse.h.
 *
 * A head is collected until the guard has seen its end, is judged here, and goes to the library in one piece, so the
 * library's callbacks give whole names and values as views into it. A body goes to the library as it arrives, a
 * chunked one without extensions and trailers. The library and the guard must agree on where the request ends. */
#include "server/http_parse.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "kernels/status.h"
#include "server/http_guard.h"

#ifdef TANDEM_LLHTTP
#include <llhttp.h>
typedef llhttp_t library_parser;
typedef llhttp_settings_t library_settings;
#else
#include <http_parser.h>
typedef http_parser library_parser;
typedef http_parser_settings library_settings;
#endif

enum phase { HEAD, BODY_BY_LENGTH, BODY_CHUNKED, COMPLETE, REFUSED };

struct http_parse {
    library_parser library;
    struct http_guard guard;
    enum phase phase;
    size_t max_head_bytes, max_body_bytes;
    uint64_t body_left; /* BODY_BY_LENGTH: bytes that have not come yet */
    struct http_request request;
    size_t fields_cap;
    uint32_t target, target_bytes; /* in request.head */
    bool library_head_done, library_done;
    int status;
    const char *message;
};

static enum http_parse_result refuse(struct http_parse *p, int status, const char *message) {
    p->phase = REFUSED;
    p->status = status;
    p->message = message;
    return HTTP_PARSE_BAD;
}

/* ---- the library ------------------------------------------------------------------------------------------------- */

static uint32_t offset_of(const struct http_parse *p, const char *at) {
    return (uint32_t)(at - p->request.head.data);
}

static int on_url(library_parser *library, const char *at, size_t bytes) {
    struct http_parse *p = library->data;
    p->target = offset_of(p, at);
    p->target_bytes = (uint32_t)bytes;
    return 0;
}

static int on_field(library_parser *library, const char *at, size_t bytes) {
    struct http_parse *p = library->data;
    struct http_request *r = &p->request;
    (void)bytes;
    if (r->n_fields == p->fields_cap) {
        size_t cap = p->fields_cap ? p->fields_cap * 2 : 16;
        struct http_field *fields = realloc(r->fields, cap * sizeof *fields);
        if (!fields) return -1;
        r->fields = fields;
        p->fields_cap = cap;
    }
    r->fields[r->n_fields++] = (struct http_field){.name = offset_of(p, at)};
    return 0;
}

static int on_head_done(library_parser *library) {
    struct http_parse *p = library->data;
    p->library_head_done = true;
    return 0;
}

static int on_body(library_parser *library, const char *at, size_t bytes) {
    struct http_parse *p = library->data;
    return http_buffer_append(&p->request.body, at, bytes) ? 0 : -1;
}

static int on_done(library_parser *library) {
    struct http_parse *p = library->data;
    p->library_done = true;
    return 0;
}

static const library_settings settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_headers_complete = on_head_done,
    .on_body = on_body,
    .on_message_complete = on_done,
};

static void library_init(struct http_parse *p) {
#ifdef TANDEM_LLHTTP
    llhttp_init(&p->library, HTTP_REQUEST, &settings);
#else
    http_parser_init(&p->library, HTTP_REQUEST);
#endif
    p->library.data = p;
}

/* NULL, or what the library has against these bytes. "Upgrade" makes both libraries stop behind the request: that is
 * its end anyway, since we ignore the offer and answer in HTTP/1.1. */
static const char *library_feed(struct http_parse *p, const char *data, size_t bytes) {
#ifdef TANDEM_LLHTTP
    llhttp_errno_t e = llhttp_execute(&p->library, data, bytes);
    if (e == HPE_OK || e == HPE_PAUSED_UPGRADE) return NULL;
    return p->library.reason && *p->library.reason ? p->library.reason : llhttp_errno_name(e);
#else
    size_t n = http_parser_execute(&p->library, &settings, data, bytes);
    enum http_errno e = HTTP_PARSER_ERRNO(&p->library);
    if (e != HPE_OK) return http_errno_description(e);
    return n == bytes ? NULL : "invalid request";
#endif
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

/* Methods that a handler may see. The rest of the registry is WebDAV and the like: 501. */
static const char *const methods[] = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"};

static const char *known_method(const char *s, size_t bytes) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (strlen(methods[i]) == bytes && memcmp(methods[i], s, bytes) == 0) return methods[i];
    return NULL;
}

const char *http_request_header(const struct http_request *r, const char *name) {
    for (size_t i = 0; i < r->n_fields; i++)
        if (strcasecmp(r->head.data + r->fields[i].name, name) == 0) return r->head.data + r->fields[i].value;
    return NULL;
}

static size_t count_header(const struct http_request *r, const char *name) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_fields; i++) n += strcasecmp(r->head.data + r->fields[i].name, name) == 0;
    return n;
}

/* Gives the next element of a comma-separated list, without the white space around it; false at the end. */
static bool next_element(const char **list, const char **element, size_t *bytes) {
    const char *s = *list;
    s += strspn(s, " \t,");
    if (!*s) return false;
    size_t n = strcspn(s, ",");
    *list = s + n;
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
    *element = s;
    *bytes = n;
    return true;
}

static bool equals(const char *s, size_t bytes, const char *word) {
    return bytes == strlen(word) && strncasecmp(s, word, bytes) == 0;
}

/* Whether a header with this name, repeated or not, lists the word. */
static bool header_lists(const struct http_request *r, const char *name, const char *word) {
    for (size_t i = 0; i < r->n_fields; i++) {
        if (strcasecmp(r->head.data + r->fields[i].name, name) != 0) continue;
        const char *list = r->head.data + r->fields[i].value, *element;
        size_t bytes;
        while (next_element(&list, &element, &bytes))
            if (equals(element, bytes, word)) return true;
    }
    return false;
}

/* Terminates names and values, cuts white space around the values. The bytes written over (":", white space, CR) have
 * been read by the library before. */
static void terminate_strings(struct http_request *r) {
    for (size_t i = 0; i < r->n_fields; i++) {
        char *name = r->head.data + r->fields[i].name;
        char *colon = name + strcspn(name, ":");
        char *value = colon + 1 + strspn(colon + 1, " \t");
        char *end = value + strcspn(value, "\r");
        while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
        *colon = '\0';
        *end = '\0';
        r->fields[i].value = (uint32_t)(value - r->head.data);
    }
}

/* Content-Length: digits only, once. 18 digits are below 2^60; a longer one is too large for any limit. */
static enum http_parse_result check_length(struct http_parse *p, const char *value) {
    size_t n = strspn(value, "0123456789");
    if (!n || value[n]) return refuse(p, 400, "Content-Length is not a number");
    if (strlen(value) > 18) return refuse(p, 413, "the body is too large");
    p->body_left = strtoull(value, NULL, 10);
    if (p->body_left > p->max_body_bytes) return refuse(p, 413, "the body is too large");
    if (p->body_left) p->phase = BODY_BY_LENGTH;
    return HTTP_PARSE_MORE;
}

/* Transfer-Encoding: the last coding must be "chunked", otherwise nobody knows where the body ends; other codings
 * before it are legal, and not implemented. */
static enum http_parse_result check_codings(struct http_parse *p) {
    struct http_request *r = &p->request;
    if (r->http_1_0) return refuse(p, 400, "Transfer-Encoding does not belong to HTTP/1.0");
    size_t n_codings = 0, n_chunked = 0;
    bool last_chunked = false;
    for (size_t i = 0; i < r->n_fields; i++) {
        if (strcasecmp(r->head.data + r->fields[i].name, "Transfer-Encoding") != 0) continue;
        const char *list = r->head.data + r->fields[i].value, *element;
        size_t bytes;
        while (next_element(&list, &element, &bytes)) {
            last_chunked = equals(element, bytes, "chunked");
            n_chunked += last_chunked;
            n_codings++;
        }
    }
    if (!last_chunked || n_chunked != 1) return refuse(p, 400, "Transfer-Encoding does not end in one chunked");
    if (n_codings > 1) return refuse(p, 501, "no transfer coding but chunked is implemented");
    p->phase = BODY_CHUNKED;
    return HTTP_PARSE_MORE;
}

static enum http_parse_result check_host(struct http_parse *p) {
    const struct http_request *r = &p->request;
    size_t n = count_header(r, "Host");
    if (n > 1 || (n == 0 && !r->http_1_0)) return refuse(p, 400, "exactly one Host header is expected");
    const char *host = http_request_header(r, "Host");
    if (host && !http_authority_ok(host, strlen(host))) return refuse(p, 400, "invalid Host header");
    return HTTP_PARSE_MORE;
}

/* Judges a head that the library has read and sets the phase to what follows. */
static enum http_parse_result judge_head(struct http_parse *p) {
    struct http_request *r = &p->request;
    size_t n_length = count_header(r, "Content-Length"), n_coding = count_header(r, "Transfer-Encoding");
    if (check_host(p) == HTTP_PARSE_BAD) return HTTP_PARSE_BAD;
    if (n_length && n_coding) return refuse(p, 400, "Content-Length and Transfer-Encoding exclude each other");
    if (n_length > 1) return refuse(p, 400, "Content-Length is repeated");
    p->phase = COMPLETE;
    if (n_length && check_length(p, http_request_header(r, "Content-Length")) == HTTP_PARSE_BAD) return HTTP_PARSE_BAD;
    if (n_coding && check_codings(p) == HTTP_PARSE_BAD) return HTTP_PARSE_BAD;

    r->keep_alive =
        !header_lists(r, "Connection", "close") && (!r->http_1_0 || header_lists(r, "Connection", "keep-alive"));
    const char *expect = http_request_header(r, "Expect");
    if (expect && !r->http_1_0) {
        if (count_header(r, "Expect") > 1 || strcasecmp(expect, "100-continue") != 0)
            return refuse(p, 417, "the only expectation met here is 100-continue");
        r->expects_continue = p->phase != COMPLETE;
    }
    return HTTP_PARSE_MORE;
}

/* The guard has found the head's end. */
static enum http_parse_result finish_head(struct http_parse *p) {
    struct http_request *r = &p->request;
    char *head = r->head.data;
    size_t method_bytes = strcspn(head, " "); /* the guard has seen both spaces and the version */
    r->method = known_method(head, method_bytes);
    if (!r->method) {
        r->method = "";
        return refuse(p, 501, "the method is not implemented");
    }
    const char *version = strchr(head + method_bytes + 1, ' ') + 1;
    r->http_1_0 = version[strlen("HTTP/1.")] == '0';

    /* Only values have tabs. http-parser stumbles over them beside a number; nobody means more by one than a space. */
    for (size_t i = 0; i < r->head.bytes; i++)
        if (head[i] == '\t') head[i] = ' ';
    library_init(p);
    const char *wrong = library_feed(p, head, r->head.bytes);
    if (wrong) return refuse(p, 400, wrong);
    if (!p->library_head_done || !p->target_bytes) return refuse(p, 400, "invalid request");
    if (r->n_fields > HTTP_FIELDS_MAX) return refuse(p, 431, "too many headers");
    terminate_strings(r);
    head[p->target + p->target_bytes] = '\0';
    wrong = http_target_split(head + p->target, strcmp(r->method, "OPTIONS") == 0, &r->path, &r->query);
    if (wrong) {
        r->path = r->query = "";
        return refuse(p, 400, wrong);
    }
    if (judge_head(p) == HTTP_PARSE_BAD) return HTTP_PARSE_BAD;
    if ((p->phase == COMPLETE) != p->library_done) return refuse(p, 400, "invalid request");
    return p->phase == COMPLETE ? HTTP_PARSE_DONE : HTTP_PARSE_HEAD;
}

static enum http_parse_result feed_head(struct http_parse *p, const char *data, size_t bytes, size_t *used) {
    struct http_buffer *head = &p->request.head;
    while (*used < bytes) {
        enum http_guard_kind kind;
        size_t n = http_guard_head(&p->guard, data + *used, bytes - *used, &kind);
        if (kind == HTTP_GUARD_BAD) return refuse(p, p->guard.status, p->guard.message);
        if (kind != HTTP_GUARD_SKIP) {
            if (n > p->max_head_bytes - head->bytes) return refuse(p, 431, "the headers are too large");
            if (!http_buffer_append(head, data + *used, n)) return refuse(p, 503, status_text(STATUS_NO_MEMORY));
        }
        *used += n;
        if (kind == HTTP_GUARD_END) return finish_head(p);
    }
    return HTTP_PARSE_MORE;
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static enum http_parse_result feed_body(struct http_parse *p, const char *data, size_t bytes, size_t *used) {
    size_t n = bytes < p->body_left ? bytes : (size_t)p->body_left;
    const char *wrong = library_feed(p, data, n);
    if (wrong) return refuse(p, 400, wrong);
    *used = n;
    p->body_left -= n;
    if ((p->body_left == 0) != p->library_done) return refuse(p, 400, "invalid request");
    if (p->body_left) return HTTP_PARSE_MORE;
    p->phase = COMPLETE;
    return HTTP_PARSE_DONE;
}

static enum http_parse_result feed_chunked(struct http_parse *p, const char *data, size_t bytes, size_t *used) {
    while (*used < bytes) {
        enum http_guard_kind kind;
        size_t n = http_guard_chunked(&p->guard, data + *used, bytes - *used, &kind);
        if (kind == HTTP_GUARD_BAD) return refuse(p, p->guard.status, p->guard.message);
        if (kind != HTTP_GUARD_SKIP) {
            const char *wrong = library_feed(p, data + *used, n);
            if (wrong) return refuse(p, 400, wrong);
        }
        *used += n;
        if ((kind == HTTP_GUARD_END) != p->library_done) return refuse(p, 400, "invalid request");
        if (kind == HTTP_GUARD_END) {
            p->phase = COMPLETE;
            return HTTP_PARSE_DONE;
        }
    }
    return HTTP_PARSE_MORE;
}

/* ---- the interface ----------------------------------------------------------------------------------------------- */

struct http_parse *http_parse_open(size_t max_head_bytes, size_t max_body_bytes) {
    CHECK_LE(max_head_bytes, HTTP_HEAD_BYTES_MAX);
    struct http_parse *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->max_head_bytes = max_head_bytes;
    p->max_body_bytes = max_body_bytes;
    p->request.method = p->request.path = p->request.query = "";
    http_guard_init(&p->guard, max_body_bytes);
    return p;
}

void http_parse_close(struct http_parse *p) {
    if (!p) return;
    http_buffer_free(&p->request.head);
    http_buffer_free(&p->request.body);
    free(p->request.fields);
    free(p);
}

enum http_parse_result http_parse_feed(struct http_parse *p, const char *data, size_t bytes, size_t *used) {
    *used = 0;
    if (!bytes) return HTTP_PARSE_MORE;
    switch (p->phase) {
    case HEAD:
        return feed_head(p, data, bytes, used);
    case BODY_BY_LENGTH:
        return feed_body(p, data, bytes, used);
    case BODY_CHUNKED:
        return feed_chunked(p, data, bytes, used);
    default:
        CHECK(!"a request is fed after its end");
        return HTTP_PARSE_BAD;
    }
}

bool http_parse_started(const struct http_parse *p) {
    return p->guard.started;
}
const struct http_request *http_parse_request(const struct http_parse *p) {
    return &p->request;
}
int http_parse_status(const struct http_parse *p) {
    return p->status;
}
const char *http_parse_message(const struct http_parse *p) {
    return p->message;
}
