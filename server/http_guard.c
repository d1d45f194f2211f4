#include "server/http_guard.h"

#include <string.h>

/* Character classes (RFC 9110, 5.5 and 5.6.2). A target also admits what browsers send unescaped: " < > \ ^ ` { | }. */
enum { TOKEN = 1, TARGET = 2, FIELD = 4, HEX = 8 };

static int class_of(unsigned char c) {
    int class = 0;
    bool digit = c >= '0' && c <= '9';
    bool alpha = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (digit || alpha || (c && strchr("!#$%&'*+-.^_`|~", c))) class |= TOKEN;
    if (c > ' ' && c < 127) class |= TARGET;
    if (c == '\t' || (c >= ' ' && c != 127)) class |= FIELD;
    if (digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) class |= HEX;
    return class;
}

static bool is(char c, int class) {
    return (class_of((unsigned char)c) & class) != 0;
}

/* clang-format off */
enum state {
    /* the head */
    LINE_START, EMPTY_LINE_LF, METHOD, TARGET_START, TARGET_REST, VERSION, LINE_LF,
    FIELD_START, NAME, VALUE, VALUE_LF, HEAD_LF,
    /* a chunked body */
    SIZE_START, SIZE, EXT_NAME_START, EXT_NAME, EXT_VALUE_START, EXT_VALUE, EXT_QUOTED, EXT_ESCAPE, EXT_QUOTED_END,
    SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER_START, TRAILER_NAME, TRAILER_VALUE, TRAILER_LF, BODY_LF
};
/* clang-format on */

void http_guard_init(struct http_guard *g, uint64_t max_body_bytes) {
    *g = (struct http_guard){.state = LINE_START, .body_room = max_body_bytes};
}

static enum http_guard_kind bad(struct http_guard *g, int status, const char *message) {
    g->status = status;
    g->message = message;
    return HTTP_GUARD_BAD;
}

static enum http_guard_kind go(struct http_guard *g, enum state next, enum http_guard_kind kind) {
    g->state = (uint8_t)next;
    return kind;
}

/* "HTTP/1.0" or "HTTP/1.1", then CR. */
static enum http_guard_kind version_step(struct http_guard *g, char c) {
    static const char name[] = "HTTP/";
    bool digit = c >= '0' && c <= '9';
    switch (g->n_seen) {
    case 5:
        if (!digit) break;
        if (c != '1') return bad(g, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        g->n_seen++;
        return HTTP_GUARD_MORE;
    case 6:
        if (c != '.') break;
        g->n_seen++;
        return HTTP_GUARD_MORE;
    case 7:
        if (!digit) break;
        if (c > '1') return bad(g, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
        g->n_seen++;
        return HTTP_GUARD_MORE;
    case 8:
        if (c != '\r') break;
        return go(g, LINE_LF, HTTP_GUARD_MORE);
    default:
        if (c != name[g->n_seen]) break;
        g->n_seen++;
        return HTTP_GUARD_MORE;
    }
    return bad(g, 400, "the request line does not end in HTTP/1.0 or HTTP/1.1 and CRLF");
}

static enum http_guard_kind head_step(struct http_guard *g, char c) {
    switch ((enum state)g->state) {
    case LINE_START:
        g->started = true;
        if (c == '\r') return go(g, EMPTY_LINE_LF, HTTP_GUARD_SKIP);
        if (!is(c, TOKEN)) return bad(g, 400, "the request does not begin with a method");
        return go(g, METHOD, HTTP_GUARD_MORE);
    case EMPTY_LINE_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        g->started = false;
        return go(g, LINE_START, HTTP_GUARD_SKIP);
    case METHOD:
        if (c == ' ') return go(g, TARGET_START, HTTP_GUARD_MORE);
        if (!is(c, TOKEN)) return bad(g, 400, "invalid character in the method");
        return HTTP_GUARD_MORE;
    case TARGET_START:
        if (!is(c, TARGET)) return bad(g, 400, "the method is not followed by one space and a target");
        return go(g, TARGET_REST, HTTP_GUARD_MORE);
    case TARGET_REST:
        if (c == ' ') return go(g, VERSION, HTTP_GUARD_MORE);
        if (!is(c, TARGET)) return bad(g, 400, "invalid character in the target, or no HTTP version");
        return HTTP_GUARD_MORE;
    case VERSION:
        return version_step(g, c);
    case LINE_LF:
    case VALUE_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        return go(g, FIELD_START, HTTP_GUARD_MORE);
    case FIELD_START:
        if (c == '\r') return go(g, HEAD_LF, HTTP_GUARD_MORE);
        if (c == ' ' || c == '\t') return bad(g, 400, "folded header lines are not accepted");
        if (!is(c, TOKEN)) return bad(g, 400, "invalid character in a header's name");
        return go(g, NAME, HTTP_GUARD_MORE);
    case NAME:
        if (c == ':') return go(g, VALUE, HTTP_GUARD_MORE);
        if (!is(c, TOKEN)) return bad(g, 400, "invalid character in a header's name");
        return HTTP_GUARD_MORE;
    case VALUE:
        if (c == '\r') return go(g, VALUE_LF, HTTP_GUARD_MORE);
        if (!is(c, FIELD)) return bad(g, 400, "invalid character in a header's value");
        return HTTP_GUARD_MORE;
    case HEAD_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        return go(g, SIZE_START, HTTP_GUARD_END);
    default:
        return bad(g, 400, "the head has ended");
    }
}

size_t http_guard_head(struct http_guard *g, const char *data, size_t bytes, enum http_guard_kind *kind) {
    *kind = HTTP_GUARD_MORE;
    for (size_t i = 0; i < bytes; i++) {
        bool skipping = g->state == LINE_START || g->state == EMPTY_LINE_LF;
        enum http_guard_kind k = head_step(g, data[i]);
        if (k == HTTP_GUARD_BAD || k == HTTP_GUARD_END) {
            *kind = k;
            return k == HTTP_GUARD_END ? i + 1 : i;
        }
        if (k == HTTP_GUARD_SKIP)
            *kind = HTTP_GUARD_SKIP;
        else if (skipping && *kind == HTTP_GUARD_SKIP) {
            /* The request's first byte ends the prefix: it has been seen, and comes again with the next call. */
            g->state = LINE_START;
            return i;
        }
    }
    return bytes;
}

static int hex_value(char c) {
    return c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
}

/* The end of a chunk's size or of an extension: another extension or the line's end. */
static enum http_guard_kind extension_end(struct http_guard *g, char c, const char *message) {
    if (c == ';') return go(g, EXT_NAME_START, HTTP_GUARD_SKIP);
    if (c == '\r') return go(g, SIZE_LF, HTTP_GUARD_KEEP);
    return bad(g, 400, message);
}

static enum http_guard_kind extension_step(struct http_guard *g, char c) {
    static const char message[] = "invalid chunk extension";
    switch ((enum state)g->state) {
    case EXT_NAME_START:
        if (is(c, TOKEN)) return go(g, EXT_NAME, HTTP_GUARD_SKIP);
        return bad(g, 400, message);
    case EXT_NAME:
        if (is(c, TOKEN)) return HTTP_GUARD_SKIP;
        if (c == '=') return go(g, EXT_VALUE_START, HTTP_GUARD_SKIP);
        return extension_end(g, c, message);
    case EXT_VALUE_START:
        if (c == '"') return go(g, EXT_QUOTED, HTTP_GUARD_SKIP);
        if (is(c, TOKEN)) return go(g, EXT_VALUE, HTTP_GUARD_SKIP);
        return bad(g, 400, message);
    case EXT_VALUE:
        if (is(c, TOKEN)) return HTTP_GUARD_SKIP;
        return extension_end(g, c, message);
    case EXT_QUOTED:
        if (c == '"') return go(g, EXT_QUOTED_END, HTTP_GUARD_SKIP);
        if (!is(c, FIELD)) return bad(g, 400, message);
        return go(g, c == '\\' ? EXT_ESCAPE : EXT_QUOTED, HTTP_GUARD_SKIP);
    case EXT_ESCAPE:
        if (!is(c, FIELD)) return bad(g, 400, message);
        return go(g, EXT_QUOTED, HTTP_GUARD_SKIP);
    default: /* EXT_QUOTED_END */
        return extension_end(g, c, message);
    }
}

static enum http_guard_kind trailer_step(struct http_guard *g, char c) {
    static const char message[] = "invalid character in a trailer";
    switch ((enum state)g->state) {
    case TRAILER_START:
        if (c == '\r') return go(g, BODY_LF, HTTP_GUARD_KEEP);
        if (!is(c, TOKEN)) return bad(g, 400, message);
        return go(g, TRAILER_NAME, HTTP_GUARD_SKIP);
    case TRAILER_NAME:
        if (c == ':') return go(g, TRAILER_VALUE, HTTP_GUARD_SKIP);
        if (!is(c, TOKEN)) return bad(g, 400, message);
        return HTTP_GUARD_SKIP;
    case TRAILER_VALUE:
        if (c == '\r') return go(g, TRAILER_LF, HTTP_GUARD_SKIP);
        if (!is(c, FIELD)) return bad(g, 400, message);
        return HTTP_GUARD_SKIP;
    default: /* TRAILER_LF */
        if (c != '\n') return bad(g, 400, "CR without LF");
        return go(g, TRAILER_START, HTTP_GUARD_SKIP);
    }
}

static enum http_guard_kind fits(struct http_guard *g) {
    return g->chunk_left > g->body_room ? bad(g, 413, "the body is too large") : HTTP_GUARD_KEEP;
}

static enum http_guard_kind chunked_step(struct http_guard *g, char c) {
    switch ((enum state)g->state) {
    case SIZE_START:
        if (!is(c, HEX)) return bad(g, 400, "a chunk does not begin with its size");
        g->chunk_left = (uint64_t)hex_value(c);
        g->n_seen = 1;
        g->state = SIZE;
        return fits(g);
    case SIZE:
        if (!is(c, HEX)) return extension_end(g, c, "invalid character in a chunk's size");
        if (++g->n_seen > 15) return bad(g, 400, "a chunk's size has too many digits"); /* stays below 2^60 */
        g->chunk_left = g->chunk_left * 16 + (uint64_t)hex_value(c);
        return fits(g);
    case SIZE_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        return go(g, g->chunk_left ? DATA : TRAILER_START, HTTP_GUARD_KEEP);
    case DATA_CR:
        if (c != '\r') return bad(g, 400, "a chunk is longer than its size");
        return go(g, DATA_LF, HTTP_GUARD_KEEP);
    case DATA_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        return go(g, SIZE_START, HTTP_GUARD_KEEP);
    case BODY_LF:
        if (c != '\n') return bad(g, 400, "CR without LF");
        return HTTP_GUARD_END;
    default:
        return g->state >= TRAILER_START ? trailer_step(g, c) : extension_step(g, c);
    }
}

size_t http_guard_chunked(struct http_guard *g, const char *data, size_t bytes, enum http_guard_kind *kind) {
    size_t taken = 0;
    *kind = HTTP_GUARD_KEEP;
    while (taken < bytes) {
        if (g->state == DATA) {
            if (*kind == HTTP_GUARD_SKIP) return taken;
            size_t run = bytes - taken < g->chunk_left ? bytes - taken : (size_t)g->chunk_left;
            taken += run;
            g->chunk_left -= run;
            g->body_room -= run;
            if (!g->chunk_left) g->state = DATA_CR;
            continue;
        }
        struct http_guard before = *g;
        enum http_guard_kind k = chunked_step(g, data[taken]);
        if (k == HTTP_GUARD_BAD) {
            *kind = k;
            return taken;
        }
        if (taken && (k == HTTP_GUARD_SKIP) != (*kind == HTTP_GUARD_SKIP)) {
            *g = before; /* the next piece is of another kind: it comes with the next call */
            return taken;
        }
        *kind = k;
        taken++;
        if (k == HTTP_GUARD_END) return taken;
        if (k == HTTP_GUARD_SKIP && ++g->skipped_bytes > HTTP_GUARD_SKIPPED_MAX) {
            *kind = bad(g, 431, "too many bytes of chunk extensions and trailers");
            return taken - 1;
        }
    }
    return taken;
}
