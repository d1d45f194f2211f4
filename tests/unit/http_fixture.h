/* http_fixture.h - what test_http*.c share: one loop with a server on a loopback port, and plain sockets as clients,
 * all in one thread. The loop turns while a client waits. Every callback is counted. */
#pragma once

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernels/status.h"
#include "server/http.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: a\r\n\r\n"

struct fixture {
    uv_loop_t loop;
    struct http_server *server;
    struct http_exchange *held; /* of the last /hold or /stream */
    bool close_in_done;
    int n_handled, n_aborted, n_done, n_done_aborted, n_drained;
    int status; /* of the last `done` */
    uint64_t bytes_sent;
    char paths[1024]; /* of all handled requests, each followed by a space */
    char done_paths[1024];
};

static void on_abort(void *user, struct http_exchange *x) {
    struct fixture *f = user;
    cr_assert_eq(f->held, x);
    f->n_aborted++;
    f->held = NULL;
    http_respond(x, 200, NULL, NULL, "late", 4); /* too late, and harmless */
    http_stream_begin(x, 200, NULL, NULL);
    cr_assert_not(http_stream_write(x, "late", 4));
    http_stream_end(x);
}

static void on_done(void *user, const struct http_exchange *x, int status, uint64_t bytes_sent, double seconds,
                    bool aborted) {
    struct fixture *f = user;
    cr_assert_geq(seconds, 0);
    cr_assert(http_peer(x) && *http_peer(x));
    f->n_done++;
    f->n_done_aborted += aborted;
    if (f->close_in_done) http_server_close(f->server);
    f->status = status;
    f->bytes_sent = bytes_sent;
    snprintf(f->done_paths + strlen(f->done_paths), sizeof f->done_paths - strlen(f->done_paths), "%s%s ",
             http_method(x), http_path(x));
}

__attribute__((unused)) static void on_drained(void *user) {
    ((struct fixture *)user)->n_drained++;
}

static void hold(struct fixture *f, struct http_exchange *x) {
    f->held = x;
    http_set_user(x, f, on_abort);
}

static void handle(void *user, struct http_exchange *x) {
    struct fixture *f = user;
    const char *path = http_path(x);
    f->n_handled++;
    snprintf(f->paths + strlen(f->paths), sizeof f->paths - strlen(f->paths), "%s ", path);
    size_t bytes;
    const char *body = http_body(x, &bytes);
    cr_assert_eq(body[bytes], '\0');
    if (strcmp(path, "/hold") == 0) {
        hold(f, x);
    } else if (strcmp(path, "/stream") == 0) {
        hold(f, x);
        http_stream_begin(x, 200, "text/event-stream", "X-Extra: yes\r\n");
    } else if (strcmp(path, "/large") == 0) {
        char *large = calloc(1, 8 << 20);
        http_respond(x, 200, "application/octet-stream", NULL, large, 8 << 20);
        free(large);
    } else if (strcmp(path, "/close") == 0) {
        hold(f, x);
        http_server_close(f->server);         /* aborts x */
    } else if (strcmp(path, "/burst") == 0) { /* never returns to the loop before the client is cut off */
        static char block[10000];
        hold(f, x);
        http_stream_begin(x, 200, NULL, NULL);
        while (http_stream_write(x, block, sizeof block)) {
        }
    } else if (strcmp(path, "/empty") == 0) {
        http_respond(x, 204, NULL, NULL, NULL, 0);
    } else {
        char text[512];
        const char *header = http_header(x, "x-test");
        int n = snprintf(text, sizeof text, "%s %s?%s [%s] {%.100s}", http_method(x), path, http_query(x),
                         header ? header : "-", body);
        http_respond(x, 200, "text/plain", "X-Extra: yes", text, (size_t)n);
    }
}

static void start(struct fixture *f, const struct http_options *options) {
    struct http_options o = options ? *options : http_default_options();
    char err[ERR_BYTES] = "";
    *f = (struct fixture){0};
    cr_assert_eq(uv_loop_init(&f->loop), 0);
    cr_assert_eq(http_server_open(&f->server, &f->loop, &o, handle, f, err, sizeof err), 0, "%s", err);
    http_set_done(f->server, on_done);
}

/* Closes and lets the loop run out: a handle that leaks makes this hang or uv_loop_close fail. */
static void stop(struct fixture *f) {
    http_server_close(f->server);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    cr_expect_eq(http_n_connections(f->server), 0);
    http_server_free(f->server);
    cr_expect_eq(uv_loop_close(&f->loop), 0);
}

static void turn(struct fixture *f, int ms) {
    for (uint64_t end = uv_hrtime() + (uint64_t)ms * 1000000;;) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
        if (uv_hrtime() >= end) return;
        poll(NULL, 0, 1);
    }
}

/* Turns the loop until the condition holds, for at most 5 seconds. */
#define TURN_UNTIL(f, condition)                                                                                       \
    do {                                                                                                               \
        for (int turns_ = 0; !(condition) && turns_ < 5000; turns_++) turn(f, 1);                                      \
        cr_assert(condition);                                                                                          \
    } while (0)

/* ---- clients ----------------------------------------------------------------------------------------------------- */

struct client {
    int fd;
    bool eof;
    size_t bytes;
    char text[65536];
};

static struct client client_open(struct fixture *f) {
    struct client c = {.fd = socket(AF_INET, SOCK_STREAM, 0)};
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)http_port(f->server))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_assert_eq(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    return c;
}

static void client_send(struct fixture *f, struct client *c, const char *text) {
    size_t bytes = strlen(text);
    for (int tries = 0; bytes && tries < 5000; tries++) {
        ssize_t n = send(c->fd, text, bytes, MSG_NOSIGNAL);
        if (n > 0) {
            text += n;
            bytes -= (size_t)n;
        } else {
            turn(f, 1);
        }
    }
    cr_assert_eq(bytes, 0u);
}

static void client_receive(struct client *c) { /* what is there now */
    while (c->bytes < sizeof c->text - 1) {
        ssize_t n = recv(c->fd, c->text + c->bytes, sizeof c->text - 1 - c->bytes, 0);
        if (n == 0) c->eof = true;
        if (n <= 0) break;
        c->bytes += (size_t)n;
    }
    c->text[c->bytes] = '\0';
}

static bool client_has(struct client *c, const char *text) {
    client_receive(c);
    return strstr(c->text, text) != NULL;
}

static bool client_at_end(struct client *c) {
    client_receive(c);
    return c->eof;
}

__attribute__((unused)) static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *s = text; (s = strstr(s, what)); s += strlen(what)) n++;
    return n;
}

/* One request on its own connection; returns all that comes until the server closes. */
__attribute__((unused)) static struct client request(struct fixture *f, const char *text) {
    struct client c = client_open(f);
    client_send(f, &c, text);
    TURN_UNTIL(f, client_at_end(&c));
    close(c.fd);
    return c;
}
