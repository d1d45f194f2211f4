/* load_client - a closed-loop HTTP client that is light enough not to be what is measured.
 *
 *     load_client PORT PATH CONCURRENCY < bodies
 *
 * Each line of standard input is the JSON body of one POST to http://127.0.0.1:PORT/PATH; CONCURRENCY of them are under
 * way at a time, each on a connection of its own, all in one poll loop. While every answer has begun it reads once a
 * millisecond: being woken for each token would take the cores that the server runs on, and whoever has many clients
 * has them on other machines. Prints one JSON object per request, in the input's order, and one of the whole run:
 *
 *     {"status":200,"start":0.000113,"first":0.004021,"end":0.193311,"events":65,"tokens":64}
 *     {"requests":16,"failed":0,"seconds":0.201,"tokens":1024}
 *
 * Times are seconds since the start of the run, "end" up to a millisecond late; "first" is the first byte of the first
 * "data: {" event (of the answer's body where nothing is streamed); "tokens" is usage.completion_tokens, so ask for it
 * with stream_options. Exit code 1 when a request failed, 2 for wrong usage. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 65536 };

struct request {
    char *head;    /* owned: the request's bytes */
    size_t bytes, sent;
    char *answer;  /* owned, zero-terminated */
    size_t n, capacity;
    double start, first, end;
    int status, events;
    long tokens;
    int fd; /* -1: not open */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "load_client: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0) die("socket");
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* What arrived is searched once: for the end of the headers, then for the first event. */
static void look_for_first(struct request *r, double t) {
    if (r->first) return;
    const char *body = strstr(r->answer, "\r\n\r\n");
    if (!body) return;
    bool streamed = strcasestr(r->answer, "text/event-stream") != NULL;
    if (!streamed ? body[4] != 0 : strstr(body, "data: {") != NULL) r->first = t;
}

static void finish(struct request *r, double t) {
    close(r->fd);
    r->fd = -1;
    r->end = t;
    if (r->n) {
        sscanf(r->answer, "HTTP/1.%*d %d", &r->status);
        for (const char *p = r->answer; (p = strstr(p, "data: {")); p++) r->events++;
        const char *usage = strstr(r->answer, "\"completion_tokens\":");
        for (const char *p = usage; p && (p = strstr(p + 1, "\"completion_tokens\":"));) usage = p;
        if (usage) r->tokens = strtol(usage + strlen("\"completion_tokens\":"), NULL, 10);
    }
    free(r->answer);
    r->answer = NULL;
}

/* Writes what the socket takes, reads what it has; true when the answer is complete. */
static bool advance(struct request *r, short events, double t0) {
    if (r->sent < r->bytes) {
        ssize_t n = send(r->fd, r->head + r->sent, r->bytes - r->sent, MSG_NOSIGNAL);
        if (n > 0) r->sent += (size_t)n;
        else if (n < 0 && errno != EAGAIN && errno != EINTR) return finish(r, now() - t0), true;
    }
    if (!(events & (POLLIN | POLLHUP | POLLERR))) return false;
    if (r->n + READ_BYTES >= r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 1 << 18;
        r->answer = realloc(r->answer, r->capacity);
        if (!r->answer) die("realloc");
    }
    /* Once: whatever is left, poll tells of it again, and mostly there is nothing left. */
    ssize_t n = recv(r->fd, r->answer + r->n, READ_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    double t = now() - t0;
    if (n <= 0) return finish(r, t), true;
    r->n += (size_t)n;
    r->answer[r->n] = 0;
    look_for_first(r, t);
    return false;
}

int main(int argc, char **argv) {
    int port = argc == 4 ? atoi(argv[1]) : 0, concurrency = argc == 4 ? atoi(argv[3]) : 0;
    if (port <= 0 || port > 65535 || concurrency <= 0) {
        fprintf(stderr, "usage: load_client PORT PATH CONCURRENCY < bodies\n");
        return 2;
    }
    struct request *requests = NULL;
    size_t n = 0, capacity = 0, line_bytes = 0;
    char *line = NULL;
    for (ssize_t k; (k = getline(&line, &line_bytes, stdin)) > 0;) {
        if (line[k - 1] == '\n') k--;
        if (n == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            requests = realloc(requests, capacity * sizeof *requests);
            if (!requests) die("realloc");
        }
        struct request r = {.fd = -1};
        r.head = malloc((size_t)k + strlen(argv[2]) + 200);
        if (!r.head) die("malloc");
        int head = sprintf(r.head,
                           "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
                           "Content-Type: application/json\r\nContent-Length: %zd\r\n\r\n",
                           argv[2], k);
        memcpy(r.head + head, line, (size_t)k);
        r.bytes = (size_t)head + (size_t)k;
        requests[n++] = r;
    }
    free(line);

    struct pollfd *fds = calloc((size_t)concurrency, sizeof *fds);
    size_t *owner = calloc((size_t)concurrency, sizeof *owner);
    if (!fds || !owner) die("calloc");
    double t0 = now();
    size_t next = 0, done = 0;
    int n_open = 0;
    while (done < n) {
        while (n_open < concurrency && next < n) {
            struct request *r = &requests[next];
            r->start = now() - t0;
            r->fd = dial(port);
            owner[n_open++] = next++;
        }
        bool all_began = true;
        for (int i = 0; i < n_open; i++) {
            struct request *r = &requests[owner[i]];
            all_began = all_began && r->first;
            fds[i] = (struct pollfd){.fd = r->fd, .events = (short)(POLLIN | (r->sent < r->bytes ? POLLOUT : 0))};
        }
        if (all_began) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        if (poll(fds, (nfds_t)n_open, 120000) == 0) {
            errno = ETIMEDOUT;
            die("no answer");
        }
        for (int i = n_open; i-- > 0;)
            if (fds[i].revents && advance(&requests[owner[i]], fds[i].revents, t0)) {
                done++;
                owner[i] = owner[--n_open];
                fds[i] = fds[n_open];
            }
    }
    double seconds = now() - t0;
    long tokens = 0;
    int failed = 0;
    for (size_t i = 0; i < n; i++) {
        struct request *r = &requests[i];
        printf("{\"status\":%d,\"start\":%.6f,\"first\":%.6f,\"end\":%.6f,\"events\":%d,\"tokens\":%ld}\n", r->status,
               r->start, r->first, r->end, r->events, r->tokens);
        tokens += r->tokens;
        failed += r->status != 200;
        free(r->head);
    }
    printf("{\"requests\":%zu,\"failed\":%d,\"seconds\":%.6f,\"tokens\":%ld}\n", n, failed, seconds, tokens);
    free(requests);
    free(fds);
    free(owner);
    return failed != 0;
}
