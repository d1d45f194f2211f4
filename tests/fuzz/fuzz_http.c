/* Any bytes as a client's stream: the first byte seeds how the rest is split. Requests are parsed one after the other,
 * as a connection does, split and whole, and both must give the same requests; what is accepted must keep the promises
 * of http_parse.h. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "kernels/status.h"
#include "server/http_parse.h"

#define MAX_HEAD 4096
#define MAX_BODY 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void check_text(const char *s) {
    for (; *s; s++) CHECK((unsigned char)*s >= ' ' && *s != 127);
}

static void check_request(const struct http_request *r) {
    CHECK(*r->method);
    CHECK(r->path[0] == '/' || (strcmp(r->path, "*") == 0 && strcmp(r->method, "OPTIONS") == 0));
    check_text(r->path);
    check_text(r->query);
    CHECK_LE(r->body.bytes, MAX_BODY);
    CHECK_LE(r->head.bytes, MAX_HEAD);
    CHECK_LE(r->n_fields, HTTP_FIELDS_MAX);
    int n_hosts = 0, n_framing = 0;
    for (size_t i = 0; i < r->n_fields; i++) {
        const char *name = r->head.data + r->fields[i].name, *value = r->head.data + r->fields[i].value;
        CHECK(*name && !strpbrk(name, " :"));
        check_text(name);
        check_text(value);
        CHECK(http_request_header(r, name));
        n_hosts += strcasecmp(name, "Host") == 0;
        n_framing += strcasecmp(name, "Content-Length") == 0;
    }
    n_framing += http_request_header(r, "Transfer-Encoding") != NULL;
    CHECK(n_hosts == 1 || (n_hosts == 0 && r->http_1_0));
    CHECK_LE(n_framing, 1);
    if (!n_framing) CHECK_EQ(r->body.bytes, 0);
}

struct source {
    const uint8_t *data;
    size_t bytes, at;
    unsigned seed; /* 0: whole */
};

/* Parses one request; the pieces are exactly sized copies, so that reading past one is seen. */
static enum http_parse_result next_request(struct source *s, struct http_parse *p) {
    enum http_parse_result result = HTTP_PARSE_MORE;
    while (s->at < s->bytes) {
        size_t piece = s->bytes - s->at, used;
        if (s->seed) piece = 1 + (size_t)rand_r(&s->seed) % (rand_r(&s->seed) % 4 ? (piece < 8 ? piece : 8) : piece);
        char *copy = malloc(piece);
        memcpy(copy, s->data + s->at, piece);
        result = http_parse_feed(p, copy, piece, &used);
        free(copy);
        CHECK_LE(used, piece);
        s->at += used;
        if (result == HTTP_PARSE_DONE || result == HTTP_PARSE_BAD) return result;
        if (result == HTTP_PARSE_MORE) CHECK_EQ(used, piece);
    }
    return HTTP_PARSE_MORE;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    if (bytes < 2) return 0;
    struct source whole = {.data = data + 1, .bytes = bytes - 1};
    struct source split = {.data = data + 1, .bytes = bytes - 1, .seed = data[0] + 1u};
    enum http_parse_result result;
    do {
        struct http_parse *a = http_parse_open(MAX_HEAD, MAX_BODY), *b = http_parse_open(MAX_HEAD, MAX_BODY);
        result = next_request(&whole, a);
        CHECK_EQ(next_request(&split, b), result);
        const struct http_request *ra = http_parse_request(a), *rb = http_parse_request(b);
        if (result == HTTP_PARSE_DONE) {
            check_request(ra);
            CHECK_EQ(whole.at, split.at);
            CHECK_EQ(ra->keep_alive, rb->keep_alive);
            CHECK_EQ(ra->expects_continue, rb->expects_continue);
            CHECK_EQ(ra->head.bytes, rb->head.bytes);
            CHECK_EQ(ra->body.bytes, rb->body.bytes);
            CHECK(memcmp(ra->head.data, rb->head.data, ra->head.bytes) == 0);
            CHECK(!ra->body.bytes || memcmp(ra->body.data, rb->body.data, ra->body.bytes) == 0);
        } else if (result == HTTP_PARSE_BAD) {
            CHECK_EQ(http_parse_status(a), http_parse_status(b));
            CHECK(http_parse_status(a) >= 400 && *http_parse_message(a));
        }
        http_parse_close(a);
        http_parse_close(b);
    } while (result == HTTP_PARSE_DONE);
    return 0;
}
