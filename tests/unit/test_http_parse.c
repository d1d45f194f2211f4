/* Requests as bytes: what is accepted and as what, what is refused and with which status. Every one of them is fed
 * whole, byte by byte, and in random pieces, and must come out the same. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/http_guard.h"
#include "server/http_parse.h"

#define MAX_HEAD 2048
#define MAX_BODY 1000
#define HOST     "Host: a\r\n"
#define GET      "GET / HTTP/1.1\r\n" HOST
#define POST     "POST / HTTP/1.1\r\n" HOST
#define CHUNKED  POST "Transfer-Encoding: chunked\r\n\r\n"

struct outcome {
    enum http_parse_result result;
    int status;
    size_t used; /* bytes up to the result */
    bool saw_head;
    struct http_parse *parse; /* owned */
};

enum splitting { WHOLE, BYTES, RANDOM };

static struct outcome feed(const char *data, size_t bytes, enum splitting splitting, unsigned seed) {
    struct outcome o = {.result = HTTP_PARSE_MORE, .parse = http_parse_open(MAX_HEAD, MAX_BODY)};
    cr_assert(o.parse);
    while (o.used < bytes) {
        size_t piece = bytes - o.used;
        if (splitting == BYTES) piece = 1;
        if (splitting == RANDOM) piece = 1 + (size_t)rand_r(&seed) % piece;
        char *copy = malloc(piece); /* exactly sized, so that the address sanitizer sees a read past it */
        memcpy(copy, data + o.used, piece);
        size_t used;
        o.result = http_parse_feed(o.parse, copy, piece, &used);
        free(copy);
        cr_assert_leq(used, piece);
        o.used += used;
        if (o.result == HTTP_PARSE_HEAD)
            o.saw_head = true;
        else if (o.result == HTTP_PARSE_MORE)
            cr_assert_eq(used, piece);
        else
            break;
    }
    o.status = o.result == HTTP_PARSE_BAD ? http_parse_status(o.parse) : 0;
    if (o.result == HTTP_PARSE_BAD) cr_assert(http_parse_message(o.parse) && *http_parse_message(o.parse));
    return o;
}

/* Feeds in all ways and returns the whole feed's outcome after comparing the others with it. */
static struct outcome feed_all(const char *data, size_t bytes) {
    struct outcome whole = feed(data, bytes, WHOLE, 0);
    for (unsigned i = 0; i < 12; i++) {
        struct outcome other = feed(data, bytes, i ? RANDOM : BYTES, i);
        cr_assert_eq(other.status, whole.status, "%d against %d in pieces: %s", whole.status, other.status, data);
        bool done = whole.result == HTTP_PARSE_DONE;
        cr_assert_eq(other.result == HTTP_PARSE_DONE, done, "%s", data);
        if (done) {
            const struct http_request *a = http_parse_request(whole.parse), *b = http_parse_request(other.parse);
            cr_assert_eq(other.used, whole.used);
            cr_assert_str_eq(a->path, b->path);
            cr_assert_str_eq(a->query, b->query);
            cr_assert_eq(a->body.bytes, b->body.bytes);
            if (a->body.bytes) cr_assert_arr_eq(a->body.data, b->body.data, a->body.bytes);
        }
        http_parse_close(other.parse);
    }
    return whole;
}

static void refused(const char *text, size_t bytes, int status) {
    struct outcome o = feed_all(text, bytes);
    cr_expect_eq(o.status, status, "expected %d, found %d (%s): %s", status, o.status,
                 o.status ? http_parse_message(o.parse) : "accepted", text);
    http_parse_close(o.parse);
}
#define REFUSED(status, text) refused(text, sizeof(text) - 1, status)

static void accepted(const char *text, size_t bytes, const char *path, const char *query, const char *body) {
    struct outcome o = feed_all(text, bytes);
    cr_expect_eq(o.result, HTTP_PARSE_DONE, "not complete: status %d (%s): %s", o.status,
                 o.status ? http_parse_message(o.parse) : "", text);
    if (o.result == HTTP_PARSE_DONE) {
        const struct http_request *r = http_parse_request(o.parse);
        cr_expect_str_eq(r->path, path);
        cr_expect_str_eq(r->query, query);
        cr_expect_eq(r->body.bytes, strlen(body), "%s", text);
        if (r->body.bytes) cr_expect_arr_eq(r->body.data, body, strlen(body));
        if (*body) cr_expect(o.saw_head, "%s", text);
    }
    http_parse_close(o.parse);
}
#define ACCEPTED(path, query, body, text) accepted(text, sizeof(text) - 1, path, query, body)

Test(http_parse, plain) {
    ACCEPTED("/", "", "", GET "\r\n");
    ACCEPTED("/", "", "", "\r\n\r\n" GET "\r\n");
    ACCEPTED("/", "", "", "GET / HTTP/1.0\r\n\r\n");
    ACCEPTED("/", "", "", "GET / HTTP/1.1\r\nHost:\r\n\r\n");
    ACCEPTED("/v1/models", "", "", "GET /v1/models HTTP/1.1\r\nhOSt:\t a:80 \t\r\n\r\n");
    ACCEPTED("/", "", "hello", POST "Content-Length: 5\r\n\r\nhello");
    ACCEPTED("/", "", "", POST "Content-Length: 0\r\n\r\n");
    ACCEPTED("/", "", "abc", POST "Content-Length:  003 \r\n\r\nabc");
    ACCEPTED("/", "", "abc", POST "Content-Length:\t3\t \r\n\r\nabc");
    ACCEPTED("/", "", "abc", "GET / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
    ACCEPTED("/", "", "", GET "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    ACCEPTED("/", "", "abc", POST "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc");
    ACCEPTED("/", "", "", GET "X: caf\xc3\xa9 \xff\r\n\r\n");
}

Test(http_parse, chunked) {
    ACCEPTED("/", "", "", CHUNKED "0\r\n\r\n" /* no body, but one was announced */);
    ACCEPTED("/", "", "hello world", CHUNKED "5\r\nhello\r\n006\r\n world\r\n000\r\n\r\n");
    ACCEPTED("/", "", "0123456789", CHUNKED "A\r\n0123456789\r\n0\r\n\r\n");
    ACCEPTED("/", "", "hello", CHUNKED "5;a;b=c;d=\"e \\\" ;\"\r\nhello\r\n0;x\r\n\r\n");
    ACCEPTED("/", "", "hello", CHUNKED "5\r\nhello\r\n0\r\nContent-Length: 99\r\nHost: b\r\nX:\r\n\r\n");
    REFUSED(400, CHUNKED "\r\n");
    REFUSED(400, CHUNKED "g\r\n");
    REFUSED(400, CHUNKED "-1\r\n");
    REFUSED(400, CHUNKED "0x5\r\nhello\r\n");
    REFUSED(400, CHUNKED "5 \r\nhello\r\n");
    REFUSED(400, CHUNKED "5\nhello\r\n");
    REFUSED(400, CHUNKED "5\r\r\nhello\r\n");
    REFUSED(400, CHUNKED "5\r\nhelloXX0\r\n\r\n");
    REFUSED(400, CHUNKED "5\r\nhello\n0\r\n\r\n");
    REFUSED(400, CHUNKED "5\r\nhelloX\n0\r\n\r\n");
    REFUSED(400, CHUNKED "5\r\nhello\rX0\r\n\r\n");
    REFUSED(400, CHUNKED "5\r\nhello0\r\n\r\n");
    REFUSED(400, CHUNKED "5;\r\nhello\r\n0\r\n\r\n");
    REFUSED(400, CHUNKED "5;a=\r\nhello\r\n0\r\n\r\n");
    REFUSED(400, CHUNKED "5;a=\"b\r\nhello\r\n0\r\n\r\n");
    REFUSED(400, CHUNKED "5;a\nhello\r\n0\r\n\r\n");
    REFUSED(400, CHUNKED "0\r\nX : y\r\n\r\n");
    REFUSED(400, CHUNKED "0\r\nX: y\n\r\n");
    REFUSED(400, CHUNKED "0\r\n X: y\r\n\r\n");
    REFUSED(400, CHUNKED "0\r\n\rX");
    REFUSED(400, CHUNKED "0000000000000000000000005\r\nhello\r\n0\r\n\r\n");
    REFUSED(413, CHUNKED "fffffffffffffff\r\n");
    REFUSED(413, CHUNKED "3e9\r\n"); /* 1001 */
}

Test(http_parse, body_limit) {
    char text[4096];
    int n = snprintf(text, sizeof text, POST "Content-Length: %d\r\n\r\n%*s", MAX_BODY, MAX_BODY, "x");
    struct outcome o = feed_all(text, (size_t)n);
    cr_expect_eq(o.result, HTTP_PARSE_DONE);
    http_parse_close(o.parse);
    n = snprintf(text, sizeof text, CHUNKED "3e8\r\n%*s\r\n0\r\n\r\n", MAX_BODY, "x");
    o = feed_all(text, (size_t)n);
    cr_expect_eq(o.result, HTTP_PARSE_DONE);
    http_parse_close(o.parse);
    n = snprintf(text, sizeof text, CHUNKED "3e8\r\n%*s\r\n1\r\n", MAX_BODY, "x");
    refused(text, (size_t)n, 413);
    REFUSED(413, POST "Content-Length: 1001\r\n\r\n");
    REFUSED(413, POST "Content-Length: 1152921504606846976\r\n\r\n");
}

Test(http_parse, head_limit) {
    static char text[MAX_HEAD + 64];
    int n = snprintf(text, sizeof text, GET "X: ");
    memset(text + n, 'x', sizeof text - (size_t)n);
    memcpy(text + MAX_HEAD - 4, "\r\n\r\n", 4);
    struct outcome o = feed_all(text, MAX_HEAD);
    cr_expect_eq(o.result, HTTP_PARSE_DONE);
    http_parse_close(o.parse);
    memcpy(text + MAX_HEAD - 4, "xxxxx\r\n\r\n", 9);
    refused(text, MAX_HEAD + 5, 431);
    refused(text, MAX_HEAD + 1, 431); /* long before an end comes */

    char many[MAX_HEAD];
    n = snprintf(many, sizeof many, GET);
    for (int i = 0; i < HTTP_FIELDS_MAX - 1; i++) n += snprintf(many + n, sizeof many - (size_t)n, "a:\r\n");
    int end = n + snprintf(many + n, sizeof many - (size_t)n, "\r\n");
    o = feed_all(many, (size_t)end);
    cr_expect_eq(o.result, HTTP_PARSE_DONE);
    http_parse_close(o.parse);
    end = n + snprintf(many + n, sizeof many - (size_t)n, "a:\r\n\r\n");
    refused(many, (size_t)end, 431);
}

Test(http_parse, skipped_limit) {
    size_t cap = HTTP_GUARD_SKIPPED_MAX + 1024;
    char *text = malloc(cap);
    int n = snprintf(text, cap, CHUNKED "1;");
    memset(text + n, 'x', cap - (size_t)n);
    struct outcome o = feed(text, cap, WHOLE, 0);
    cr_expect_eq(o.status, 431);
    http_parse_close(o.parse);
    n = snprintf(text, cap, CHUNKED "0\r\nX: ");
    memset(text + n, 'x', cap - (size_t)n);
    o = feed(text, cap, RANDOM, 1);
    cr_expect_eq(o.status, 431);
    http_parse_close(o.parse);
    free(text);
}

Test(http_parse, request_line) {
    REFUSED(400, " GET / HTTP/1.1\r\n");
    REFUSED(400, "\nGET / HTTP/1.1\r\n");
    REFUSED(400, "\rGET / HTTP/1.1\r\n");
    REFUSED(400, "\x16\x03\x01\x02"); /* a TLS client */
    REFUSED(400, "G\0T / HTTP/1.1\r\n");
    REFUSED(400, "GET\t/ HTTP/1.1\r\n");
    REFUSED(400, "GET  / HTTP/1.1\r\n");
    REFUSED(400, "GET /  HTTP/1.1\r\n");
    REFUSED(400, "GET / HTTP/1.1 \r\n");
    REFUSED(400, "GET / HTTP/1.1\n");
    REFUSED(400, "GET / HTTP/1.1\rX");
    REFUSED(400, "GET /\r\n"); /* HTTP/0.9 */
    REFUSED(400, "GET / \r\n");
    REFUSED(400, "GET / http/1.1\r\n");
    REFUSED(400, "GET / HTTP/11\r\n");
    REFUSED(400, "GET / HTTP/1.10\r\n");
    REFUSED(400, "GET / ICE/1.0\r\n");
    REFUSED(400, "GET /a b HTTP/1.1\r\n");
    REFUSED(400, "GET /\x01 HTTP/1.1\r\n");
    REFUSED(400, "GET /\x7f HTTP/1.1\r\n");
    REFUSED(400, "GET /\xce\xb4 HTTP/1.1\r\n");
    REFUSED(505, "GET / HTTP/1.2\r\n");
    REFUSED(505, "GET / HTTP/0.9\r\n");
    REFUSED(505, "GET / HTTP/2.0\r\n");
    REFUSED(505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"); /* the HTTP/2 preface */
    REFUSED(501, "PRI * HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(501, "get / HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(501, "CONNECT a:443 HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(501, "TRACE / HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(501, "GETX / HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(501, "GE / HTTP/1.1\r\n" HOST "\r\n");
}

Test(http_parse, targets) {
    ACCEPTED("/a b/c", "x=%20&y=1?2", "", "GET /a%20b/%63?x=%20&y=1?2 HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/a", "q", "", "GET /a?q#fragment?no HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/a", "", "", "GET /a# HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/", "", "", "GET http://example.com HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/", "hail=all", "", "GET http://hypnotoad.org:1234?hail=all HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/x y", "", "", "GET https://[::1]:8000/x%20y HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/\"<>\\^`{|}", "|", "", "GET /\"<>\\^`{|}?| HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("//a//b", "", "", "GET //a//b HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("/\xce\xb4", "", "", "GET /%ce%B4 HTTP/1.1\r\n" HOST "\r\n");
    ACCEPTED("*", "", "", "OPTIONS * HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET * HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET ?a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET #a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET ftp://a/ HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET http:/a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET http:///a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET http://user@a/ HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET http://a:b/ HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%00 HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%0d%0a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%7f HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /% HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%2 HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%2?a HTTP/1.1\r\n" HOST "\r\n");
    REFUSED(400, "GET /%zz HTTP/1.1\r\n" HOST "\r\n");
}

Test(http_parse, header_lines) {
    REFUSED(400, "GET / HTTP/1.1\r\n Host: a\r\n\r\n");
    REFUSED(400, GET "X: y\r\n z\r\n\r\n"); /* folded */
    REFUSED(400, GET "X: y\r\n\tz\r\n\r\n");
    REFUSED(400, GET "X : y\r\n\r\n");
    REFUSED(400, GET "X\t: y\r\n\r\n");
    REFUSED(400, GET ": y\r\n\r\n");
    REFUSED(400, GET "X\r\n\r\n");
    REFUSED(400, GET "X@: y\r\n\r\n");
    REFUSED(400, GET "X\xc3: y\r\n\r\n");
    REFUSED(400, GET "X: y\n\r\n");
    REFUSED(400, GET "X: y\rZ: a\r\n\r\n");
    REFUSED(400, GET "X: y\r\r\n\r\n");
    REFUSED(400, GET "X: a\0b\r\n\r\n");
    REFUSED(400, GET "X: a\x01"
                     "b\r\n\r\n");
    REFUSED(400, GET "X: a\x0c"
                     "b\r\n\r\n");
    REFUSED(400, GET "X: a\x7f"
                     "b\r\n\r\n");
    REFUSED(400, GET "\rX");
    REFUSED(400, GET "\n");
}

Test(http_parse, framing_headers) {
    REFUSED(400, "GET / HTTP/1.1\r\n\r\n"); /* no Host */
    REFUSED(400, GET HOST "\r\n");          /* two */
    REFUSED(400, "GET / HTTP/1.0\r\n" HOST HOST "\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: a:port\r\n\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n");
    REFUSED(400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n");
    REFUSED(400, POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n");
    REFUSED(400, POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc");
    REFUSED(400, POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc");
    REFUSED(400, POST "Content-Length: 3, 3\r\n\r\nabc");
    REFUSED(400, POST "Content-Length:\r\n\r\n");
    REFUSED(400, POST "Content-Length: +3\r\n\r\nabc");
    REFUSED(400, POST "Content-Length: -3\r\n\r\nabc");
    REFUSED(400, POST "Content-Length: 0x3\r\n\r\nabc");
    REFUSED(400, POST "Content-Length: 4 2\r\n\r\n");
    REFUSED(400, POST "Content-Length: 1000000000000000000000\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding:\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: pigeons\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: identity\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunkedchunked\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunked, deflate\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: deflate\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: chunked, chunked\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: \"chunked\"\r\n\r\n");
    REFUSED(400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    REFUSED(501, POST "Transfer-Encoding: gzip, chunked\r\n\r\n");
    REFUSED(417, POST "Expect: 200-ok\r\nContent-Length: 1\r\n\r\n");
    REFUSED(417, POST "Expect: 100-continue, x\r\nContent-Length: 1\r\n\r\n");
    ACCEPTED("/", "", "a", POST "Transfer-Encoding: Chunked \r\n\r\n1\r\na\r\n0\r\n\r\n");
    REFUSED(400, POST "Transfer-Encoding: , chunked ,\r\n\r\n1\r\na\r\n0\r\n\r\n");
}

/* What the rest of the server reads off a request. */
static const struct http_request *request_of(const char *text, struct http_parse **p) {
    struct outcome o = feed(text, strlen(text), RANDOM, 7);
    cr_assert(o.result == HTTP_PARSE_DONE || o.saw_head || o.result == HTTP_PARSE_HEAD, "status %d: %s", o.status,
              text);
    *p = o.parse;
    return http_parse_request(o.parse);
}

Test(http_parse, views) {
    struct http_parse *p;
    const struct http_request *r = request_of(
        "DELETE /x HTTP/1.1\r\nHost: a\r\nx-empty:\r\nAuthorization: \t Bearer k:1 \t\r\nX: 1\r\nx: 2\r\n\r\n", &p);
    cr_expect_str_eq(r->method, "DELETE");
    cr_expect_eq(r->n_fields, 5u);
    cr_expect_str_eq(http_request_header(r, "authorization"), "Bearer k:1");
    cr_expect_str_eq(http_request_header(r, "X-EMPTY"), "");
    cr_expect_str_eq(http_request_header(r, "X"), "1");
    cr_expect_null(http_request_header(r, "x-emp"));
    cr_expect_null(http_request_header(r, ""));
    http_parse_close(p);
}

static bool keep_alive(const char *text) {
    struct http_parse *p;
    bool yes = request_of(text, &p)->keep_alive;
    http_parse_close(p);
    return yes;
}

Test(http_parse, keep_alive) {
    cr_expect(keep_alive(GET "\r\n"));
    cr_expect(keep_alive(GET "Connection: keep-alive\r\n\r\n"));
    cr_expect(keep_alive(GET "Connection: closed, x\r\n\r\n"));
    cr_expect_not(keep_alive(GET "Connection: Close\r\n\r\n"));
    cr_expect_not(keep_alive(GET "Connection: close\t\r\n\r\n"));
    cr_expect_not(keep_alive(GET "Connection: keep-alive\r\nConnection: x ,close\r\n\r\n"));
    cr_expect_not(keep_alive("GET / HTTP/1.0\r\n\r\n"));
    cr_expect(keep_alive("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    cr_expect_not(keep_alive("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
}

static bool expects(const char *text) {
    struct http_parse *p;
    bool yes = request_of(text, &p)->expects_continue;
    http_parse_close(p);
    return yes;
}

Test(http_parse, expects_continue) {
    cr_expect(expects(POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n"));
    cr_expect(expects(POST "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"));
    cr_expect_not(expects(POST "Expect: 100-continue\r\nContent-Length: 0\r\n\r\n"));
    cr_expect_not(expects(GET "Expect: 100-continue\r\n\r\n"));
    cr_expect_not(expects("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx"));
}

Test(http_parse, bytes_behind_are_left) {
    static const char two[] = POST "Content-Length: 3\r\n\r\nabcGET";
    struct outcome o = feed(two, sizeof two - 1, WHOLE, 0);
    size_t used = 0;
    enum http_parse_result result = HTTP_PARSE_MORE;
    cr_expect_eq(o.result, HTTP_PARSE_DONE);
    cr_expect_eq(o.used, sizeof two - 4);
    http_parse_close(o.parse);

    static const char chunked[] = CHUNKED "1\r\na\r\n0\r\n\r\nGET";
    o = feed(chunked, sizeof chunked - 1, WHOLE, 0);
    cr_expect_eq(o.used, sizeof chunked - 4);
    http_parse_close(o.parse);

    struct http_parse *p = http_parse_open(MAX_HEAD, MAX_BODY);
    cr_expect_not(http_parse_started(p));
    result = http_parse_feed(p, "\r\n\r\n\r", 5, &used);
    cr_expect_eq(result, HTTP_PARSE_MORE);
    cr_expect(http_parse_started(p)); /* half an empty line must not be forgotten */
    result = http_parse_feed(p, "\n", 1, &used);
    cr_expect_not(http_parse_started(p));
    result = http_parse_feed(p, "G", 1, &used);
    cr_expect_eq(result, HTTP_PARSE_MORE);
    cr_expect(http_parse_started(p));
    http_parse_close(p);
}

/* Whatever stands in place of one byte, pieces and whole agree, and nothing is read out of bounds. */
Test(http_parse, every_byte_everywhere) {
    static const char good[] =
        "POST /a%20b?c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: x\r\n\r\n"
        "2;e=\"f\"\r\nhi\r\n0\r\nT: u\r\n\r\n";
    int n_done = 0, n_bad = 0;
    for (size_t at = 0; at < sizeof good - 1; at++) {
        for (int c = 0; c < 256; c++) {
            char text[sizeof good];
            memcpy(text, good, sizeof good);
            text[at] = (char)c;
            struct outcome whole = feed(text, sizeof good - 1, WHOLE, 0);
            struct outcome bytes = feed(text, sizeof good - 1, BYTES, 0);
            cr_assert_eq(whole.status, bytes.status, "byte %zu = %d: %d against %d", at, c, whole.status, bytes.status);
            cr_assert_eq(whole.result == HTTP_PARSE_DONE, bytes.result == HTTP_PARSE_DONE);
            n_done += whole.result == HTTP_PARSE_DONE;
            n_bad += whole.result == HTTP_PARSE_BAD;
            http_parse_close(whole.parse);
            http_parse_close(bytes.parse);
        }
    }
    cr_expect_gt(n_done, 1000);
    cr_expect_gt(n_bad, 10000);
}
