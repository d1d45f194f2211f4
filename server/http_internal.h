/* http_internal.h - the HTTP layer's own types, for http.c, http_conn.c, http_write.c.
 *
 * http.c        the server: listening, accepting, the hooks in the loop, drain, close
 * http_conn.c   a connection's reading side and its states, timeouts, closing
 * http_write.c  an exchange's answer and the connection's write queue
 *
 * A connection's life:  IDLE -> READING -> ANSWERING -> (IDLE | LINGER) -> closed.
 * Nothing is written, finished or parsed further inside a call from above: http_respond and its kin append to `out` and
 * put the connection on the server's dirty list; the prepare hook, which runs right before the loop sleeps, settles
 * those. So several writes of one loop iteration leave as one, and the layer above is never re-entered by its own
 * calls - but for http_stream_write, which flushes early when much has gathered, and may cut a slow reader off. */
#pragma once

#include "server/http.h"
#include "server/http_buffer.h"
#include "server/http_parse.h"

/* Unparsed bytes kept for pipelined requests while an exchange is alive; then reading stops. One read may overshoot. */
#define HTTP_PIPELINE_BYTES 16384
/* One read's size; the buffer is the server's, since a read is consumed before the next one. */
#define HTTP_READ_BYTES 65536
/* Gathered bytes that are written at once instead of at the end of the loop's iteration. */
#define HTTP_FLUSH_BYTES 32768
/* Unsent bytes that the kernel takes for one connection. Left alone it takes up to 4 MiB from a stream whose client
 * does not read, which max_write_buffer never gets to see. */
#define HTTP_UNSENT_BYTES 131072
/* After the last answer the connection discards what still comes, so that closing with unread bytes does not make the
 * kernel send RST and destroy the answer on its way. */
#define HTTP_LINGER_MS 2000
/* A body may take body_timeout_ms, and a second more for each 64 KiB that has come: large uploads on slow lines. */
#define HTTP_BODY_BYTES_PER_SECOND 65536
/* Connections above max_connections that are told 503; those above that are closed without a word. */
#define HTTP_REFUSED_MAX 64

struct http_link {
    struct http_link *prev, *next; /* ring; a link that is in no ring points to itself */
};

static inline void http__link_init(struct http_link *l) { l->prev = l->next = l; }
static inline bool http__link_empty(const struct http_link *l) { return l->next == l; }
static inline void http__link_remove(struct http_link *l) {
    l->prev->next = l->next;
    l->next->prev = l->prev;
    http__link_init(l);
}
static inline void http__link_append(struct http_link *ring, struct http_link *l) {
    l->prev = ring->prev;
    l->next = ring;
    ring->prev->next = l;
    ring->prev = l;
}
#define HTTP_CONN_OF(link, member) ((struct http_conn *)((char *)(link)-offsetof(struct http_conn, member)))

union http_handle {
    uv_handle_t handle;
    uv_stream_t stream;
    uv_tcp_t tcp;
    uv_pipe_t pipe;
};

struct http_server {
    uv_loop_t *loop;             /* borrowed */
    struct http_options options; /* strings are owned copies */
    http_handler handler;
    void *user;
    void (*done)(void *user, const struct http_exchange *x, int status, uint64_t bytes_sent, double seconds,
                 bool aborted);
    void (*drained)(void *user);
    bool draining, closing;
    int port;

    union http_handle listener;
    uv_timer_t sweep;            /* timeouts; runs while there are connections */
    uint64_t sweep_ms;
    uv_prepare_t prepare;        /* settles the dirty connections */
    int n_handles;               /* of the three above, not yet closed */
    bool accept_later;           /* memory was out; the sweep tries again */
    bool listening;

    struct http_link conns, dirty;
    int n_conns;
    int64_t date_second;
    char date[32];               /* "Tue, 15 Nov 1994 08:12:31 GMT" of date_second */
    char read_buffer[HTTP_READ_BYTES];
};

enum http_conn_state {
    CONN_IDLE,      /* no request; x is NULL */
    CONN_READING,   /* x's request is coming */
    CONN_ANSWERING, /* x is with the handler, or its answer is being written */
    CONN_LINGER,    /* our side is shut down; discards until the client closes */
    CONN_CLOSING    /* uv_close was called */
};

struct http_conn {
    union http_handle h;
    struct http_server *server;
    struct http_link all, dirty;
    enum http_conn_state state;
    bool reading;                /* uv_read_start is on */
    bool eof;                    /* the client sent FIN after its last answer was complete */
    bool failed;                 /* memory was out while appending: closes at the next flush */
    bool writing;                /* `write` is in flight with the bytes of `sending` */
    struct http_exchange *x;     /* owned */
    struct http_buffer in;       /* unparsed bytes of pipelined requests, from in_start on */
    size_t in_start;
    struct http_buffer out;      /* bytes that libuv does not have yet */
    struct http_buffer sending;
    uint64_t n_appended;         /* bytes ever put into `out` */
    uint64_t deadline_ms;        /* uv_now; 0: none. What happens then depends on the state */
    uint64_t taken, taken_ms;    /* bytes that the client had taken at the last sweep, and when that last changed */
    uv_write_t write;
    uv_shutdown_t shutdown;
    char peer[56];
};

enum http_exchange_state {
    EXCHANGE_READING,   /* the request is coming */
    EXCHANGE_HANDLING,  /* the handler has it, nothing was answered */
    EXCHANGE_STREAMING, /* http_stream_begin was called */
    EXCHANGE_ANSWERED,  /* complete, perhaps not yet written; the layer above has no more to say */
    EXCHANGE_DEAD       /* the client left; answers are ignored */
};

struct http_exchange {
    struct http_conn *conn;
    struct http_parse *parse;    /* owned */
    const struct http_request *request; /* view of parse's */
    enum http_exchange_state state;
    bool must_close;             /* refused: nothing behind this request can be understood */
    bool keep_alive;             /* decided with the answer's head */
    bool chunked, without_body;  /* of the answer */
    bool head_complete;          /* of the request: the body's timeout runs */
    int status;
    uint64_t started_ns;
    uint64_t n_appended_before;  /* conn's, at the start */
    void *user;
    void (*on_abort)(void *user, struct http_exchange *x);
};

/* http_conn.c */
void http__conn_accept(struct http_server *s);
void http__conn_close(struct http_conn *c);     /* at once; a live exchange is aborted */
void http__conn_settle(struct http_conn *c);    /* flushes, finishes, goes on with pipelined requests */
void http__conn_sweep(struct http_conn *c, uint64_t now_ms);
size_t http__conn_queued(const struct http_conn *c);

/* http_write.c */
/* Answers from the server itself; x is ANSWERED after it and its connection closes. */
void http__refuse(struct http_exchange *x, int status, const char *message);
void http__answer_options(struct http_exchange *x);
void http__continue(struct http_exchange *x);   /* "100 Continue" */
/* Writes what can be written now. May close the connection (and abort its exchange) when the client is gone. */
void http__conn_flush(struct http_conn *c);
void http__conn_dirty(struct http_conn *c);

/* http.c */
void http__conn_gone(struct http_server *s);    /* a connection's memory was freed */
