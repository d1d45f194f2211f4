/* The HTTP layer over real sockets: answers, pipelining, streams, clients that leave, drain and close. */
#include "tests/unit/http_fixture.h"

Test(http, answers) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, "POST /a%20b?q=1 HTTP/1.1\r\nHost: a\r\nX-TEST:  v \r\nContent-Length: 3\r\n\r\nabc");
    TURN_UNTIL(&f, client_has(&c, "POST /a b?q=1 [v] {abc}"));
    cr_expect(client_has(&c, "HTTP/1.1 200 OK\r\nDate: "));
    cr_expect(client_has(&c, " GMT\r\nServer: tandem/"));
    cr_expect(client_has(&c, "\r\nContent-Type: text/plain\r\nContent-Length: 23\r\nX-Extra: yes\r\n\r\n"));
    cr_expect(client_has(&c, "\r\nAccess-Control-Allow-Origin: *\r\n"));
    cr_expect_not(client_has(&c, "Connection:"));
    TURN_UNTIL(&f, f.n_done == 1);
    cr_expect_eq(f.bytes_sent, c.bytes);
    cr_expect_eq(f.status, 200);
    cr_expect_eq(f.n_handled, 1);
    cr_expect_eq(f.n_done_aborted, 0);
    cr_expect_eq(http_n_connections(f.server), 1); /* kept alive */
    close(c.fd);
    TURN_UNTIL(&f, http_n_connections(f.server) == 0);
    cr_expect_eq(f.n_done, 1);
    cr_expect_eq(f.n_aborted, 0);
    stop(&f);
}

Test(http, head_empty_and_old_clients) {
    struct fixture f;
    start(&f, NULL);
    struct client c = request(&f, "HEAD /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    cr_expect(client_has(&c, "Content-Length: 15\r\n")); /* of "HEAD /x? [-] {}" */
    cr_expect(client_has(&c, "Connection: close\r\n"));
    cr_expect_str_eq(c.text + c.bytes - 4, "\r\n\r\n");
    c = request(&f, "GET /empty HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 204 No Content\r\n"));
    cr_expect_not(client_has(&c, "Content-Length"));
    c = request(&f, "GET /x HTTP/1.0\r\n\r\n");
    cr_expect(client_has(&c, "Connection: close\r\n"));
    cr_expect(client_has(&c, "GET /x?"));
    c = client_open(&f);
    client_send(&f, &c, "GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    TURN_UNTIL(&f, client_has(&c, "GET /x?"));
    cr_expect(client_has(&c, "Connection: keep-alive\r\n"));
    client_send(&f, &c, "GET /y HTTP/1.0\r\n\r\n");
    TURN_UNTIL(&f, client_at_end(&c));
    cr_expect(client_has(&c, "GET /y?"));
    close(c.fd);
    stop(&f);
}

Test(http, pipelining_keeps_the_order) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/1") GET("/hold") "\r\n" GET("/2") GET("/3"));
    TURN_UNTIL(&f, f.held != NULL);
    turn(&f, 5);
    cr_expect_str_eq(f.paths, "/1 /hold "); /* one at a time */
    struct http_exchange *x = f.held;
    f.held = NULL;
    http_respond(x, 200, NULL, NULL, "held", 4);
    cr_expect_str_eq(f.paths, "/1 /hold "); /* the handler is not re-entered from http_respond */
    TURN_UNTIL(&f, f.n_done == 4);
    TURN_UNTIL(&f, client_has(&c, "GET /3?"));
    cr_expect_str_eq(f.paths, "/1 /hold /2 /3 ");
    char *one = strstr(c.text, "GET /1?"), *held = strstr(c.text, "held"), *two = strstr(c.text, "GET /2?");
    cr_expect(one && held && two && one < held && held < two);
    close(c.fd);
    stop(&f);
    cr_expect_eq(f.n_aborted, 0);
}

Test(http, many_pipelined_at_once) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    enum { N = 3000 };
    char *text = malloc(N * 64);
    size_t bytes = 0;
    for (int i = 0; i < N; i++) bytes += (size_t)sprintf(text + bytes, "%s", GET("/empty"));
    int n_answers = 0;
    size_t sent = 0;
    for (int tries = 0; n_answers < N && tries < 20000; tries++) {
        ssize_t n = send(c.fd, text + sent, bytes - sent, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        turn(&f, 0);
        client_receive(&c);
        char *end;
        while ((end = strstr(c.text, "\r\n\r\n"))) { /* count and drop */
            n_answers++;
            c.bytes -= (size_t)(end + 4 - c.text);
            memmove(c.text, end + 4, c.bytes + 1);
        }
    }
    free(text);
    cr_expect_eq(n_answers, N);
    cr_expect_eq(f.n_handled, N);
    close(c.fd);
    stop(&f);
    cr_expect_eq(f.n_done, N);
}

Test(http, pipelined_bytes_are_bounded_and_leaving_is_still_noticed) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/hold"));
    TURN_UNTIL(&f, f.held != NULL);
    static char junk[65536];
    for (size_t sent = 0; sent < 80000;) { /* more than the server takes, less than the kernel keeps for it */
        ssize_t n = send(c.fd, junk, 10000, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        turn(&f, 1);
    }
    turn(&f, 300); /* a sweep passes: a client that is there is not taken for one that left */
    cr_expect_eq(f.n_aborted, 0);
    close(c.fd);
    TURN_UNTIL(&f, f.n_aborted == 1);
    TURN_UNTIL(&f, http_n_connections(f.server) == 0);
    cr_expect_eq(f.n_done_aborted, 1);
    cr_expect_eq(f.status, 0);

    c = client_open(&f);
    client_send(&f, &c, GET("/hold"));
    TURN_UNTIL(&f, f.held != NULL);
    size_t sent = 0;
    for (int i = 0; i < 500; i++) {
        ssize_t n = send(c.fd, junk, sizeof junk, MSG_NOSIGNAL);
        if (n > 0) sent += (size_t)n;
        turn(&f, 0);
    }
    cr_expect_lt(sent, 500 * sizeof junk); /* it stopped reading */
    stop(&f);
    cr_expect_eq(f.n_aborted, 2);
    close(c.fd);
}

Test(http, streams_are_chunked_and_coalesced) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/stream"));
    TURN_UNTIL(&f, client_has(&c, "\r\n\r\n"));
    cr_expect(client_has(&c, "Transfer-Encoding: chunked\r\n"));
    cr_expect(client_has(&c, "X-Extra: yes\r\n"));
    cr_expect_not(client_has(&c, "Content-Length"));
    size_t head_bytes = c.bytes;
    cr_expect(http_stream_write(f.held, "one", 3));
    cr_expect(http_stream_write(f.held, "", 0)); /* must not look like the end */
    cr_expect(http_stream_write(f.held, "twotwotwotwotwotwo", 18));
    client_receive(&c);
    cr_expect_eq(c.bytes, head_bytes); /* nothing leaves inside the call, */
    cr_expect_gt(http_queued_bytes(f.server), 21u);
    turn(&f, 0);
    client_receive(&c); /* all of it right before the loop sleeps */
    cr_expect_str_eq(c.text + head_bytes, "3\r\none\r\n12\r\ntwotwotwotwotwotwo\r\n");
    cr_expect_eq(http_queued_bytes(f.server), 0u);
    struct http_exchange *x = f.held;
    f.held = NULL;
    http_stream_end(x);
    TURN_UNTIL(&f, client_has(&c, "\r\n0\r\n\r\n"));
    TURN_UNTIL(&f, f.n_done == 1);
    cr_expect_eq(f.bytes_sent, c.bytes);
    client_send(&f, &c, GET("/next")); /* the connection lives on */
    TURN_UNTIL(&f, client_has(&c, "GET /next?"));
    close(c.fd);
    stop(&f);
    cr_expect_eq(f.n_aborted, 0);
}

Test(http, stream_to_an_old_client_ends_with_the_connection) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    TURN_UNTIL(&f, f.held != NULL);
    cr_expect(http_stream_write(f.held, "plain", 5));
    http_stream_end(f.held);
    TURN_UNTIL(&f, client_at_end(&c));
    cr_expect(client_has(&c, "Connection: close\r\n"));
    cr_expect_not(client_has(&c, "chunked"));
    cr_expect_str_eq(c.text + c.bytes - 9, "\r\n\r\nplain");
    close(c.fd);
    stop(&f);
}

Test(http, stream_for_head_has_no_body) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, "HEAD /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    TURN_UNTIL(&f, f.held != NULL);
    cr_expect(http_stream_write(f.held, "body", 4));
    http_stream_end(f.held);
    TURN_UNTIL(&f, client_at_end(&c));
    cr_expect_not(client_has(&c, "body"));
    cr_expect_str_eq(c.text + c.bytes - 4, "\r\n\r\n");
    close(c.fd);
    stop(&f);
}

/* FIN, a half-close and RST while the answer is being made: on_abort and `done` once each, at once. */
Test(http, clients_that_leave) {
    struct fixture f;
    start(&f, NULL);
    const char *const requests[] = {GET("/hold"), GET("/stream")};
    for (int how = 0; how < 6; how++) {
        struct client c = client_open(&f);
        client_send(&f, &c, requests[how % 2]);
        TURN_UNTIL(&f, f.held != NULL);
        turn(&f, 2);
        cr_expect_eq(f.n_aborted, how);
        struct linger reset = {.l_onoff = 1, .l_linger = 0};
        if (how >= 4) setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        if (how >= 2)
            close(c.fd);
        else
            shutdown(c.fd, SHUT_WR);
        for (int i = 0; i < 50 && f.held; i++) turn(&f, 1);
        cr_expect_null(f.held, "way of leaving %d was not noticed within 50 ms", how);
        cr_expect_eq(f.n_aborted, how + 1);
        cr_expect_eq(f.n_done_aborted, how + 1);
        TURN_UNTIL(&f, http_n_connections(f.server) == 0);
        if (how < 2) close(c.fd);
    }
    cr_expect_eq(f.n_done, 6);
    stop(&f);
    cr_expect_eq(f.n_aborted, 6);
}

Test(http, a_complete_answer_survives_a_half_close) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/large"));
    TURN_UNTIL(&f, f.n_handled == 1);
    turn(&f, 5);
    cr_expect_eq(f.n_done, 0); /* 8 MiB do not fit the kernel's buffers */
    shutdown(c.fd, SHUT_WR);
    size_t total = 0;
    for (int i = 0; i < 20000 && !c.eof; i++) {
        client_receive(&c);
        total += c.bytes;
        c.bytes = 0;
        turn(&f, 0);
    }
    cr_expect_gt(total, 8u << 20);
    TURN_UNTIL(&f, http_n_connections(f.server) == 0);
    cr_expect_eq(f.n_done, 1);
    cr_expect_eq(f.n_done_aborted, 0);
    cr_expect_eq(f.bytes_sent, total);
    close(c.fd);
    stop(&f);
}

Test(http, options_and_cors) {
    struct fixture f;
    start(&f, NULL);
    struct client c = request(&f, "OPTIONS /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                                  "Access-Control-Request-Headers: authorization,x-y\r\n\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 204 No Content\r\n"));
    cr_expect(client_has(&c, "Access-Control-Allow-Origin: *\r\n"));
    cr_expect(client_has(&c, "Access-Control-Allow-Headers: authorization,x-y\r\n"));
    cr_expect(client_has(&c, "Access-Control-Allow-Methods: GET, "));
    c = request(&f, "OPTIONS * HTTP/1.0\r\n\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 204 No Content\r\n"));
    cr_expect_eq(f.n_handled, 0);
    cr_expect_eq(f.n_done, 2);
    stop(&f);
    struct http_options o = http_default_options();
    o.cors_origin = NULL;
    o.server_name = NULL;
    start(&f, &o);
    c = request(&f, "OPTIONS / HTTP/1.0\r\n\r\n");
    cr_expect_not(client_has(&c, "Access-Control"));
    cr_expect_not(client_has(&c, "Server:"));
    cr_expect(client_has(&c, "Allow: GET, "));
    stop(&f);
}

Test(http, expect_continue) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    TURN_UNTIL(&f, client_has(&c, "HTTP/1.1 100 Continue\r\n\r\n"));
    cr_expect_eq(f.n_handled, 0);
    client_send(&f, &c, "abc");
    TURN_UNTIL(&f, client_has(&c, "{abc}"));
    client_send(&f, &c, "POST /y HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc");
    TURN_UNTIL(&f, client_has(&c, "POST /y?"));
    cr_expect_eq(count(c.text, "100 Continue"), 1); /* the body was there already */
    close(c.fd);
    c = request(&f, "POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 413 Content Too Large\r\n"));
    cr_expect_not(client_has(&c, "100 Continue"));
    stop(&f);
}

Test(http, drain) {
    struct fixture f;
    start(&f, NULL);
    struct client idle = client_open(&f), live = client_open(&f);
    client_send(&f, &idle, GET("/x"));
    TURN_UNTIL(&f, client_has(&idle, "GET /x?"));
    client_send(&f, &live, GET("/hold") GET("/never"));
    TURN_UNTIL(&f, f.held != NULL);
    int port = http_port(f.server);
    http_server_drain(f.server, on_drained);
    TURN_UNTIL(&f, client_at_end(&idle));
    turn(&f, 10);
    cr_expect_eq(f.n_drained, 0);
    cr_expect_eq(http_n_connections(f.server), 1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    cr_expect_neq(connect(fd, (struct sockaddr *)&a, sizeof a), 0); /* nobody listens */
    close(fd);
    http_respond(f.held, 200, NULL, NULL, "finished", 8);
    TURN_UNTIL(&f, client_at_end(&live));
    cr_expect(client_has(&live, "Connection: close\r\n"));
    cr_expect(client_has(&live, "finished"));
    close(live.fd);
    close(idle.fd);
    TURN_UNTIL(&f, f.n_drained == 1);
    cr_expect_str_eq(f.paths, "/x /hold ");
    stop(&f);
    cr_expect_eq(f.n_drained, 1);
    cr_expect_eq(f.n_aborted, 0);
}

static void on_drained_close(void *user) {
    struct fixture *f = user;
    f->n_drained++;
    http_server_close(f->server);
}

Test(http, drain_without_connections_and_close_inside) {
    struct fixture f;
    start(&f, NULL);
    http_server_drain(f.server, on_drained_close);
    cr_expect_eq(f.n_drained, 0); /* from the loop, not from the call */
    uv_run(&f.loop, UV_RUN_DEFAULT);
    cr_expect_eq(f.n_drained, 1);
    http_server_free(f.server);
    cr_expect_eq(uv_loop_close(&f.loop), 0);
}

Test(http, close_aborts_what_lives) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f), d = client_open(&f), e = client_open(&f);
    client_send(&f, &c, GET("/stream"));
    client_send(&f, &d, "POST /partial HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    client_send(&f, &e, GET("/large"));
    TURN_UNTIL(&f, f.n_handled == 2);
    TURN_UNTIL(&f, http_n_connections(f.server) == 3);
    stop(&f);
    cr_expect_eq(f.n_aborted, 1);
    cr_expect_eq(f.n_done, 2); /* the stream and the large answer; the half request never was one */
    cr_expect_eq(f.n_done_aborted, 2);
    close(c.fd);
    close(d.fd);
    close(e.fd);
}

Test(http, close_inside_the_handler) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/close") GET("/never"));
    TURN_UNTIL(&f, f.n_handled == 1);
    stop(&f);
    cr_expect_eq(f.n_handled, 1);
    cr_expect_eq(f.n_aborted, 1);
    cr_expect_eq(f.n_done, 1);
    close(c.fd);
}

Test(http, close_inside_done) {
    for (int how = 0; how < 2; how++) { /* with a finished exchange, and with an aborted one */
        struct fixture f;
        start(&f, NULL);
        f.close_in_done = true;
        struct client c = client_open(&f);
        client_send(&f, &c, how ? GET("/hold") : GET("/x") GET("/never"));
        TURN_UNTIL(&f, f.n_handled == 1);
        if (how) close(c.fd);
        TURN_UNTIL(&f, http_n_connections(f.server) == 0);
        stop(&f);
        cr_expect_eq(f.n_handled, 1);
        cr_expect_eq(f.n_done, 1);
        cr_expect_eq(f.n_aborted, how);
        if (!how) close(c.fd);
    }
}

Test(http, addresses) {
    const char *const hosts[] = {"localhost", "::1", NULL, "0.0.0.0"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct http_options o = http_default_options();
        o.host = hosts[i];
        struct fixture f;
        start(&f, &o);
        cr_expect_gt(http_port(f.server), 0);
        if (i != 1) {
            struct client c = client_open(&f);
            client_send(&f, &c, GET("/x"));
            TURN_UNTIL(&f, client_has(&c, "GET /x?"));
            close(c.fd);
        }
        stop(&f);
    }
}

Test(http, opening_fails_with_a_sentence) {
    struct fixture f;
    start(&f, NULL);
    struct http_options o = http_default_options();
    struct http_server *second = (void *)1;
    char err[ERR_BYTES];
    o.port = http_port(f.server);
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_IO);
    cr_expect_null(second);
    cr_expect(strstr(err, "in use"), "%s", err);
    o.host = "no such host";
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_IO);
    o = http_default_options();
    o.max_header_bytes = 1 << 20;
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_INVALID);
    o = http_default_options();
    o.uds = "/no/such/folder/socket";
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_IO);
    char path[200];
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    o.uds = path;
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_IO);
    cr_expect(strstr(err, "at most"), "%s", err);
    stop(&f);
}

Test(http, unix_socket) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/test_http.%d", (int)getpid());
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    unlink(path);
    cr_assert_eq(bind(stale, (struct sockaddr *)&a, sizeof a), 0);
    close(stale); /* leaves the file behind, as a killed server does */

    struct http_options o = http_default_options();
    o.uds = path;
    struct fixture f;
    start(&f, &o);
    cr_expect_eq(http_port(f.server), 0);
    struct http_server *second;
    char err[ERR_BYTES];
    cr_expect_eq(http_server_open(&second, &f.loop, &o, handle, &f, err, sizeof err), STATUS_IO);
    struct client c = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
    cr_assert_eq(connect(c.fd, (struct sockaddr *)&a, sizeof a), 0);
    fcntl(c.fd, F_SETFL, O_NONBLOCK);
    client_send(&f, &c, GET("/x"));
    TURN_UNTIL(&f, client_has(&c, "GET /x?"));
    close(c.fd);
    stop(&f);
    cr_expect_neq(access(path, F_OK), 0);
}
