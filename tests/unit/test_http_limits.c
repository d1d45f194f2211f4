/* The HTTP layer's bounds: refusals, timeouts, too many connections, slow readers. */
#include "tests/unit/http_fixture.h"

static size_t error_body(void *user, int status, const char *message, char *buf, size_t buf_bytes) {
    (void)user;
    return (size_t)snprintf(buf, buf_bytes, "{\"status\":%d,\"message\":\"%s\"}", status, message);
}

Test(http_limits, refusals_close) {
    struct http_options o = http_default_options();
    o.max_body_bytes = 10;
    o.max_header_bytes = 256;
    o.error_body = error_body;
    struct fixture f;
    start(&f, &o);
    struct client c = request(&f, "nonsense\r\n\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 400 Bad Request\r\n"));
    cr_expect(client_has(&c, "Connection: close\r\n"));
    cr_expect_eq(count(c.text, "Connection:"), 1);
    cr_expect(client_has(&c, "Content-Type: application/json\r\n"));
    cr_expect(client_has(&c, "{\"status\":400,\"message\":\""));
    c = request(&f, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n12345678901");
    cr_expect(client_has(&c, "HTTP/1.1 413 "));
    c = request(&f, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n123456\r\n5\r\n12345\r\n");
    cr_expect(client_has(&c, "HTTP/1.1 413 "));
    char text[512];
    snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: a\r\nX: %300s\r\n\r\n", "x");
    c = request(&f, text);
    cr_expect(client_has(&c, "HTTP/1.1 431 "));
    cr_expect_eq(f.n_handled, 0);
    cr_expect_eq(f.n_done, 4);
    cr_expect_eq(f.n_done_aborted, 0);
    c = request(&f, GET("/1") "BAD\r\n" GET("/2")); /* what comes before is served, what comes after is not */
    cr_expect(client_has(&c, "GET /1?"));
    cr_expect(client_has(&c, "HTTP/1.1 400 "));
    cr_expect_str_eq(f.paths, "/1 ");
    cr_expect_eq(count(c.text, "HTTP/1.1 "), 2);
    stop(&f);
}

/* A client that goes on sending its body must still get to read why it was refused. */
Test(http_limits, refusal_reaches_a_client_that_is_still_sending) {
    struct http_options o = http_default_options();
    o.max_body_bytes = 1000;
    struct fixture f;
    start(&f, &o);
    struct client c = client_open(&f);
    client_send(&f, &c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n");
    static char block[65536];
    size_t sent = 0;
    for (int i = 0; sent < 4000000 && i < 5000; i++) {
        ssize_t n = send(c.fd, block, sizeof block, MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        else
            cr_assert_eq(errno, EAGAIN, "the server reset the connection after %zu bytes", sent);
        turn(&f, 0);
    }
    cr_expect_geq(sent, 4000000u);
    TURN_UNTIL(&f, client_has(&c, "HTTP/1.1 413 "));
    close(c.fd);
    stop(&f);
}

Test(http_limits, timeouts) {
    struct http_options o = http_default_options();
    o.header_timeout_ms = 60;
    o.body_timeout_ms = 60;
    o.idle_timeout_ms = 150;
    struct fixture f;
    start(&f, &o);
    uint64_t before = uv_hrtime();
    struct client c = request(&f, "GET / HTTP/1.1\r\nHo");
    cr_expect(client_has(&c, "HTTP/1.1 408 Request Timeout\r\n"));
    cr_expect_geq(uv_hrtime() - before, 55000000u);
    c = request(&f, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab");
    cr_expect(client_has(&c, "HTTP/1.1 408 Request Timeout\r\n"));
    cr_expect_eq(f.n_done, 2);
    before = uv_hrtime();
    c = request(&f, ""); /* says nothing: nothing is answered */
    cr_expect_eq(c.bytes, 0u);
    cr_expect_geq(uv_hrtime() - before, 145000000u); /* the loop counts whole milliseconds */
    c = request(&f, "\r\n");
    cr_expect_eq(c.bytes, 0u);
    c = request(&f, GET("/x"));
    cr_expect_eq(count(c.text, "HTTP/1.1 "), 1);
    cr_expect(client_has(&c, "GET /x?"));
    cr_expect_eq(f.n_done, 3);

    c = client_open(&f); /* the handler may take as long as it likes */
    client_send(&f, &c, GET("/hold"));
    TURN_UNTIL(&f, f.held != NULL);
    turn(&f, 400);
    cr_expect_eq(f.n_aborted, 0);
    http_respond(f.held, 200, NULL, NULL, "done", 4);
    TURN_UNTIL(&f, client_has(&c, "done"));
    close(c.fd);
    stop(&f);
}

/* The body's time grows with what has come: a slow line may upload a lot, a stalled one may not stay. */
Test(http_limits, a_slow_upload_is_not_cut_off) {
    struct http_options o = http_default_options();
    o.body_timeout_ms = 100;
    struct fixture f;
    start(&f, &o);
    struct client c = client_open(&f);
    client_send(&f, &c, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 65540\r\n\r\n");
    char *block = malloc(65537);
    memset(block, 'x', 65536);
    block[65536] = '\0';
    client_send(&f, &c, block);
    free(block);
    turn(&f, 250); /* one second more is due */
    cr_expect_eq(f.n_done, 0);
    client_send(&f, &c, "last");
    TURN_UNTIL(&f, f.n_handled == 1);
    close(c.fd);
    stop(&f);
}

Test(http_limits, too_many_connections) {
    struct http_options o = http_default_options();
    o.max_connections = 2;
    struct fixture f;
    start(&f, &o);
    struct client a = client_open(&f), b = client_open(&f);
    client_send(&f, &a, GET("/a"));
    TURN_UNTIL(&f, client_has(&a, "GET /a?"));
    TURN_UNTIL(&f, http_n_connections(f.server) == 2);
    struct client c = request(&f, GET("/c"));
    cr_expect(client_has(&c, "HTTP/1.1 503 Service Unavailable\r\n"));
    cr_expect_eq(f.n_handled, 1);
    client_send(&f, &b, GET("/b"));
    TURN_UNTIL(&f, client_has(&b, "GET /b?"));
    TURN_UNTIL(&f, http_n_connections(f.server) == 2);
    close(a.fd);
    TURN_UNTIL(&f, http_n_connections(f.server) == 1);
    c = client_open(&f);
    client_send(&f, &c, GET("/c"));
    TURN_UNTIL(&f, client_has(&c, "GET /c?"));
    close(b.fd);
    close(c.fd);
    stop(&f);
}

Test(http_limits, a_slow_reader_is_cut_off) {
    struct http_options o = http_default_options();
    o.max_write_buffer = 100000;
    struct fixture f;
    start(&f, &o);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/stream"));
    TURN_UNTIL(&f, f.held != NULL);
    char event[5000];
    memset(event, 'x', sizeof event);
    size_t most = 0;
    bool alive = true;
    for (int i = 0; i < 10000 && alive; i++) {
        alive = http_stream_write(f.held, event, sizeof event);
        if (alive) turn(&f, 0);
        size_t queued = http_queued_bytes(f.server);
        if (queued > most) most = queued;
    }
    cr_expect_not(alive);
    cr_expect_eq(f.n_aborted, 1);
    cr_expect_eq(f.n_done_aborted, 1);
    cr_expect_leq(most, 100000u + 100);
    cr_expect_gt(most, 80000u);
    TURN_UNTIL(&f, http_n_connections(f.server) == 0);
    close(c.fd);
    stop(&f);
}

Test(http_limits, a_burst_inside_the_handler_is_cut_off) {
    struct fixture f;
    start(&f, NULL);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/burst") GET("/never"));
    TURN_UNTIL(&f, f.n_aborted == 1);
    TURN_UNTIL(&f, http_n_connections(f.server) == 0);
    cr_expect_eq(f.n_done_aborted, 1);
    cr_expect_str_eq(f.paths, "/burst ");
    close(c.fd);
    stop(&f);
}

Test(http_limits, one_large_event_to_a_good_reader_is_not) {
    struct http_options o = http_default_options();
    o.max_write_buffer = 1000;
    struct fixture f;
    start(&f, &o);
    struct client c = client_open(&f);
    client_send(&f, &c, GET("/stream"));
    TURN_UNTIL(&f, f.held != NULL);
    turn(&f, 1);
    char event[20000];
    memset(event, 'x', sizeof event);
    for (int i = 0; i < 3; i++) {
        cr_assert(http_stream_write(f.held, event, sizeof event));
        turn(&f, 1);
        client_receive(&c);
    }
    http_stream_end(f.held);
    TURN_UNTIL(&f, client_has(&c, "\r\n0\r\n\r\n"));
    cr_expect_gt(c.bytes, 60000u);
    close(c.fd);
    stop(&f);
    cr_expect_eq(f.n_aborted, 0);
}

Test(http_limits, write_timeout) {
    struct http_options o = http_default_options();
    o.write_timeout_ms = 500; /* long enough that d, too, is not late on a busy machine */
    struct fixture f;
    start(&f, &o);
    struct client c = client_open(&f), d = client_open(&f);
    client_send(&f, &c, GET("/large"));
    TURN_UNTIL(&f, f.n_handled == 1);
    client_send(&f, &d, GET("/large"));
    TURN_UNTIL(&f, f.n_handled == 2);
    size_t total = 0;
    for (int i = 0; i < 100; i++) { /* d reads slowly, yet it reads; c does not */
        d.bytes = 0;
        client_receive(&d);
        total += d.bytes;
        turn(&f, 10);
    }
    cr_expect_eq(f.n_done_aborted, 1);
    cr_expect_lt(f.bytes_sent, 8u << 20);
    for (int i = 0; i < 20000 && total < (8u << 20); i++) {
        d.bytes = 0;
        client_receive(&d);
        total += d.bytes;
        turn(&f, 0);
    }
    TURN_UNTIL(&f, f.n_done == 2);
    cr_expect_eq(f.n_done_aborted, 1);
    cr_expect_eq(f.n_aborted, 0); /* both answers were complete: nothing to cancel above */
    close(c.fd);
    close(d.fd);
    stop(&f);
}
